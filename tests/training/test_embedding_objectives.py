"""Embeddings of the teacher as targets, and scores about embeddings."""

import pytest
import torch
from torch.nn.functional import cosine_similarity

import hf_mpq
from hf_mpq import MPQConfig
from hf_mpq.compression.choices import DEFAULT
from hf_mpq.compression.engine import TrainingFree
from hf_mpq.core import budgets_of
from hf_mpq.nn.batches import batches_of
from hf_mpq.nn.pooling import embed, embedding_outputs
from hf_mpq.search.scorers import mean_divergence
from hf_mpq.training.objectives import OBJECTIVES, Signals
from tests.tiny import tiny_batch, tiny_model
from tests.training.runs import sentences, trainer

BATCH = tiny_batch()
MASK = BATCH["attention_mask"].bool()


@pytest.fixture
def models():
    student, teacher = tiny_model("bert", "bare"), tiny_model("bert", "bare")
    hf_mpq.quantize(student, MPQConfig(bits=2, groups=10))
    return student, teacher


def sides(*models):
    return [Signals(model(**BATCH), {}, MASK) for model in models]


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_terms_are_what_they_say(models, pooling):
    student, teacher = models
    ours, theirs = sides(student, teacher)
    first, second = (_by_hand(side.outputs.last_hidden_state, pooling) for side in (ours, theirs))
    cosine = OBJECTIVES["embedding-cosine"](student, teacher, pooling=pooling)(ours, theirs, BATCH)
    assert float(cosine) == pytest.approx(float((1 - cosine_similarity(first, second)).mean()), rel=1e-4)
    relations = OBJECTIVES["embedding-relations"](student, teacher, pooling=pooling)
    pairs = [(i, j) for i in range(3) for j in range(3) if i != j]
    wanted = [
        (cosine_similarity(first[i], first[j], 0) - cosine_similarity(second[i], second[j], 0)) ** 2 for i, j in pairs
    ]
    assert relations.units(BATCH) == len(pairs) == 6
    assert float(relations(ours, theirs, BATCH)) == pytest.approx(float(sum(wanted)) / 6, rel=1e-4)
    assert float(cosine) > 1e-4 < float(relations(ours, theirs, BATCH))


def _by_hand(hidden, pooling):
    rows = [one[0] if pooling == "cls" else one[mask].mean(0) for one, mask in zip(hidden, MASK)]
    return torch.stack(rows)


def test_padding_has_no_part():
    """Nor has a batch of one text any relation."""
    hidden = torch.randn(3, 11, 8)
    changed = hidden.masked_fill(~MASK.unsqueeze(-1), 100.0)
    torch.testing.assert_close(embed(hidden, MASK, "mean"), embed(changed, MASK, "mean"))
    model = tiny_model("bert", "bare")
    one = {key: value[:1] for key, value in BATCH.items()}
    signals = Signals(model(**one), {}, MASK[:1])
    assert OBJECTIVES["embedding-relations"](model, model)(signals, signals, one) == 0


def test_refusals():
    model, head = tiny_model("bert", "bare"), tiny_model("bert")
    with pytest.raises(ValueError, match="unknown pooling 'max'"):
        OBJECTIVES["embedding-cosine"](model, model, pooling="max")
    with pytest.raises(ValueError, match="'embedding-relations' instead"):
        OBJECTIVES["embedding-cosine"](model, tiny_model("bert", "bare", hidden_size=16))
    with pytest.raises(ValueError, match="load student and teacher with AutoModel"):
        OBJECTIVES["embedding-cosine"](head, head)(*sides(head, head), BATCH)
    with embedding_outputs(head, "mean"), pytest.raises(ValueError, match="has a head"):
        head(**BATCH)


def test_divergence_of_embeddings_is_their_cosine_distance(models):
    student, teacher = models
    first, second = (_by_hand(side.outputs.last_hidden_state, "mean") for side in sides(student, teacher))
    with embedding_outputs(student, "mean"), embedding_outputs(teacher, "mean"):
        found = mean_divergence(teacher, student, [BATCH])
    assert found == pytest.approx(float((1 - cosine_similarity(first, second)).mean()), rel=1e-4)
    assert "last_hidden_state" in student(**BATCH), "the model answers as before"


def test_scores_about_embeddings_keep_embeddings():
    """At the same bits, what they choose leaves embeddings nearer to the float ones than their opposite does."""
    model = tiny_model("bert", "bare")
    rows = [{"input_ids": row[: 5 + k % 8].tolist()} for k, row in enumerate(torch.randint(3, 97, (48, 12)))]
    config = MPQConfig(bits=(2, 4, 8), groups=10)
    engine = TrainingFree(model, config, DEFAULT, batches_of(rows, model, 16, 64), pooling="cls")
    last = engine.scores()["encoder.layer.1.output.dense"]
    plain = TrainingFree(model, config, DEFAULT, batches_of(rows, model, 16, 64)).scores()
    assert (last[:, 0] > 0).all() and not torch.allclose(last, plain["encoder.layer.1.output.dense"])
    good = engine.damage(engine.assignment(budgets_of("4bits")))
    engine.keep_scores({name: -table for name, table in engine.scores().items()})
    assert good < engine.damage(engine.assignment(budgets_of("4bits")))


def test_a_run_distils_embeddings(tmp_path):
    """On the trainer, from a float teacher, without labels: the student's embeddings come nearer."""
    teacher = tiny_model("bert", "bare")
    student = hf_mpq.quantize(tiny_model("bert", "bare"), MPQConfig(bits=2, groups=10, quantizer="lsq"))
    objectives = {"embedding-cosine": {}, "embedding-relations": {"weight": 10.0}}
    rows = sentences(32).remove_columns(["labels", "idle"])
    run = trainer(
        student,
        tmp_path,
        teacher=teacher,
        train_dataset=rows,
        num_train_epochs=6,
        learning_rate=5e-3,
        stages={"qat": {"objectives": objectives}},
    )
    before = _distance(student, teacher)
    run.train()
    assert _distance(run.model, teacher) < 0.7 * before
    assert sum("loss_embedding-relations" in line for line in run.state.log_history) == 4


@torch.no_grad()
def _distance(student, teacher) -> float:
    with embedding_outputs(student, "mean"), embedding_outputs(teacher, "mean"):
        return mean_divergence(teacher, student, [BATCH])
