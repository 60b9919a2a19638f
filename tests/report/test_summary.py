"""Everything that is measured of a model."""

import copy
import json
import math
from importlib.util import find_spec

import pytest
import torch

import hf_mpq
from hf_mpq.cost import COSTS
from hf_mpq.report import loyalty, summarize
from hf_mpq.report.measures.carbon import measure_carbon
from hf_mpq.report.measures.likeness import embedding_similarity
from hf_mpq.report.measures.loyalty import jensen_shannon
from hf_mpq.report.measures.memory import PeakMemory
from hf_mpq.report.measures.model_space import space_of
from tests.report.pictures import mixed
from tests.tiny import MOST, tiny_batch, tiny_model

QUICK = {"tokens": 16, "batch": 4, "seconds": 0.02, "backend": "cpu-float"}


@pytest.mark.parametrize("packed", [False, True], ids=["trainable", "packed"])
@pytest.mark.parametrize("family", MOST)
def test_the_space_of_a_model_is_found_in_both_storages(family, packed):
    model = mixed(family, packed=packed)
    space, assignment = space_of(model)
    assert COSTS["size"](space).of(assignment) == hf_mpq.size_report(model).total_bytes


def test_a_summary_has_every_metric_of_a_folder(tmp_path):
    model, teacher = mixed("bert", packed=True), tiny_model("bert")
    model.save_pretrained(tmp_path)
    found = summarize(tmp_path, teacher, [tiny_batch()], scores={"accuracy": 0.91}, **QUICK)
    assert found.disk_bytes == (tmp_path / "model.safetensors").stat().st_size > hf_mpq.size_report(model).total_bytes
    assert found.float_bytes == 4 * sum(one.numel() for one in teacher.parameters())
    report = hf_mpq.size_report(model)
    assert (found.average_bits, found.paper_mib) == (report.average_bits, report.paper_mib)
    assert 0 < found.bops < found.float_bops == 32 * 32 * found.macs and "simple" in found.bops_form
    assert found.energy > 0 and "MPIC" in found.energy_model
    assert found.latency.low <= found.latency.milliseconds <= found.latency.high
    assert (found.latency.batch, found.throughput.batch, found.latency.backend) == (1, 4, "cpu-float")
    assert found.float_latency.backend == "torch" and found.threads == 1 and found.device
    assert found.speed_up == pytest.approx(found.float_latency.milliseconds / found.latency.milliseconds)
    assert 0 < found.loyalty.probabilities < 1 and found.loyalty.predictions == 3
    content = json.loads(found.to_json())
    assert content["latency"]["milliseconds"] == found.latency.milliseconds and content["scores"] == {"accuracy": 0.91}
    shown = str(found)
    for word in ("bits per encoder weight", "BOPs, 16 tokens", "latency, 1 x 16", "label loyalty", "accuracy", "MPIC"):
        assert word in shown


def test_a_trainable_model_is_left_as_it_was_and_measured_like_its_packed_twin():
    model = mixed("distilbert")
    before = copy.deepcopy(model.state_dict())
    found = summarize(model, **QUICK)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.config.quantization_config.storage == "trainable"
    packed = summarize(hf_mpq.pack(model), measure=False, tokens=16)
    for name in ("disk_bytes", "average_bits", "pruned", "bops", "energy"):
        assert getattr(found, name) == getattr(packed, name)
    assert found.latency is not None and packed.latency is None and packed.peak_memory is None


def test_what_cannot_be_told_comes_with_its_reason():
    float_scores = tiny_model("bert", num_labels=1)
    found = summarize(mixed("bert", activation_bits=None), float_scores, [tiny_batch()], **QUICK)
    assert found.energy is None and "quantized activations" in found.left_out["energy"]
    assert found.loyalty is None and "no class scores" in found.left_out["loyalty"]
    assert found.carbon is None and found.left_out["carbon"]
    plain = summarize(tiny_model("bert"), measure=False)
    assert plain.average_bits == 32 and plain.ratio == 1 and "not quantized" in plain.left_out["bops"]
    assert "teacher=" in plain.left_out["loyalty"] and "not quantized" in str(plain)


@pytest.mark.skipif(find_spec("codecarbon") is None, reason="codecarbon is not installed")
def test_a_folder_that_is_not_there_is_named():
    for measure in (hf_mpq.size_report, summarize):
        with pytest.raises(OSError, match="'my-pakced-bert' is no folder here, and the Hub does not give a model of"):
            measure("my-pakced-bert")


def test_carbon_is_estimated_for_a_country(monkeypatch):
    monkeypatch.setattr(measure_carbon, "__defaults__", (1.0,))
    found = summarize(mixed("bert"), carbon_country="DEU", **QUICK)
    assert found.carbon.grams > 0 and found.carbon.country == "DEU" and "codecarbon" in str(found)


def test_without_codecarbon_the_reason_names_what_to_install(monkeypatch):
    monkeypatch.setattr("hf_mpq._extras.find_spec", lambda name: None if name == "codecarbon" else find_spec(name))
    found = summarize(mixed("bert"), carbon_country="DEU", **QUICK)
    assert "pip install 'hf_mpq[carbon]'" in found.left_out["carbon"] and "hf_mpq[carbon]" in str(found)


@pytest.mark.parametrize(("head", "predictions"), [("sequence", 3), ("token", 30), ("question", 6), ("masked", 30)])
def test_a_model_is_wholly_loyal_to_itself_and_less_so_when_it_changes(head, predictions):
    teacher = tiny_model("bert", head)
    same = loyalty(teacher, teacher, [tiny_batch()])
    assert (same.labels, same.predictions) == (1.0, predictions) and same.probabilities == pytest.approx(1, abs=1e-6)
    student = mixed("bert", head, bits=(2,), embedding_bits=2)
    other = loyalty(student, teacher, [tiny_batch()])
    assert 0 < other.probabilities < 0.999 and other.labels <= 1


def several_labels(turned: tuple[int, ...] = ()):
    """The first label is always on; the classifier's other rows may be turned to their contrary."""
    model = tiny_model("bert", num_labels=4, problem_type="multi_label_classification")
    with torch.no_grad():
        model.classifier.weight[0], model.classifier.bias[0] = 0, 9.0
        for label in turned:
            model.classifier.weight[label].neg_()
            model.classifier.bias[label].neg_()
    return model


def test_several_labels_are_loyal_where_all_of_them_are():
    teacher, other = several_labels(), several_labels(turned=(2,))
    assert loyalty(teacher, teacher, [tiny_batch()]).labels == 1.0
    found = loyalty(other, teacher, [tiny_batch()])
    with torch.no_grad():
        chances = torch.stack([model(**tiny_batch()).logits.double().sigmoid() for model in (other, teacher)])
    assert found.labels == float(((chances[0] > 0.5) == (chances[1] > 0.5)).all(1).double().mean()) == 0.0
    pairs = torch.stack([chances, 1 - chances], -1)[:, :, 2]  # the only label that differs
    assert found.probabilities == pytest.approx(float((1 - jensen_shannon(*pairs).sqrt()).mean()), rel=1e-6)
    assert found.predictions == 3


@pytest.mark.parametrize("make", [several_labels, lambda: tiny_model("bert")], ids=["several labels", "classes"])
def test_what_is_no_number_is_loyal_to_nothing(make):
    broken = make()
    broken.classifier.bias.data.fill_(torch.nan)
    for pair in ((broken, make()), (make(), broken), (broken, broken)):
        found = loyalty(*pair, [tiny_batch()])
        assert found.labels == 0 and math.isnan(found.probabilities)


def test_embedders_are_compared_by_their_embeddings():
    teacher, student = tiny_model("bert", "bare"), mixed("bert", "bare")
    assert embedding_similarity(teacher, teacher, [tiny_batch()]) == pytest.approx(1)
    found = summarize(student, teacher, [tiny_batch()], measure=False)
    assert 0.3 < found.similarity < 0.9999 and found.loyalty is None and "mean cosine" in str(found)
    pooled = []
    for model in (student, teacher):
        with torch.no_grad():
            hidden, mask = model(**tiny_batch()).last_hidden_state, tiny_batch()["attention_mask"].unsqueeze(-1)
        pooled.append((hidden * mask).sum(1) / mask.sum(1))
    assert found.similarity == pytest.approx(float(torch.cosine_similarity(*pooled).mean()), abs=1e-5)


def test_rows_and_batches_give_the_same_loyalty():
    teacher, student, batch = tiny_model("bert"), mixed("bert"), tiny_batch()
    rows = [{"input_ids": ids[mask.bool()].tolist()} for ids, mask in zip(batch["input_ids"], batch["attention_mask"])]
    first, second = loyalty(student, teacher, rows), loyalty(student, teacher, [batch])
    assert first.labels == second.labels and first.probabilities == pytest.approx(second.probabilities, rel=1e-4)


def test_models_that_cannot_be_compared_are_refused():
    with pytest.raises(ValueError, match="needs some inputs"):
        loyalty(tiny_model("bert"), tiny_model("bert"), [])
    with pytest.raises(ValueError, match="no class scores"):
        loyalty(*[tiny_model("bert", num_labels=1)] * 2, [tiny_batch()])
    with pytest.raises(ValueError, match="2 classes apart and the model 3"):
        loyalty(tiny_model("bert", num_labels=3), tiny_model("bert"), [tiny_batch()])
    with pytest.raises(ValueError, match="2 classes apart and the model 2 labels"):
        loyalty(tiny_model("bert", problem_type="multi_label_classification"), tiny_model("bert"), [tiny_batch()])


def test_divergence_is_in_bits():
    sure = torch.tensor([[1.0, 0.0], [0.5, 0.5], [1.0, 0.0]])
    other = torch.tensor([[0.0, 1.0], [0.5, 0.5], [0.5, 0.5]])
    entropy = -(0.75 * math.log2(0.75) + 0.25 * math.log2(0.25))
    torch.testing.assert_close(jensen_shannon(sure, other), torch.tensor([1.0, 0.0, entropy - 0.5]))


def test_peak_memory_counts_what_is_freed_again():
    try:
        memory = PeakMemory(torch.device("cpu"))
    except OSError as error:
        pytest.skip(str(error))
    megabytes = memory.of(lambda: torch.ones(64, 1024, 256).sum()) / 2**20
    assert 60 < megabytes < 100
