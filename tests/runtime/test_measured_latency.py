"""Budgets in milliseconds, from the words of a config to a model."""

import json

import pytest
import torch

import hf_mpq
from hf_mpq import MPQConfig
from hf_mpq.core import Assignment, BudgetError, MatrixAssignment
from hf_mpq.cost import Latency, LatencyTable
from hf_mpq.cost.latency import HERE, MEASURES
from hf_mpq.runtime import latency, timing
from hf_mpq.runtime.latency import latency_table
from tests.tiny import tiny_batch, tiny_model
from tests.training.runs import quantized, trainer

TABLE = LatencyTable(10.0, 8.0, ((1.0, 6.0), (28.0, 7.0), (56.0, 10.0)), ((1.0, 7.0), (4.0, 10.0)), 2)
BITS = (0, 4, 8)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _quick(monkeypatch, cache):
    """One cache for these tests, and short measurements."""
    monkeypatch.setenv("HF_MPQ_CACHE", str(cache))
    monkeypatch.setattr(timing, "SECONDS", 0.02)
    monkeypatch.setattr(timing, "LEAST_SECONDS", 0.002)


@pytest.fixture
def measured(monkeypatch):
    """What is asked to be measured, and answered by `TABLE`."""
    asked = []
    monkeypatch.setitem(MEASURES._items, HERE, lambda *given: asked.append(given[1:]) or TABLE)
    return asked


def cost_of(model, table=TABLE):
    return Latency(model.config.quantization_config.resolve(model), table=table).of(hf_mpq.assignment_of(model))


def compressed(budget, config=None, **options):
    return hf_mpq.compress(
        tiny_model("bert"), budget, [tiny_batch()], config, rounding="nearest", progress=False, **options
    )


@pytest.mark.parametrize("config", [None, MPQConfig(bits=BITS), MPQConfig(bits=BITS, groups=8)], ids=str)
def test_compress_takes_milliseconds(measured, config):
    small = compressed("7ms@2x16", config)
    assert measured == [(2, 16)]
    assert 6 < cost_of(small) <= 7
    left = hf_mpq.prepare(hf_mpq.pack(small), "cpu-float").bert.encoder.layer
    assert min(layer.intermediate.dense.out_features for layer in left) < 56
    assert all(layer.attention.self.query.out_features % 8 == 0 for layer in left)


def test_heads_are_one_choice_where_they_can_go(measured):
    found = hf_mpq.assignment_of(compressed("6ms", MPQConfig(bits=BITS)))
    bits = {name: one.bits for name, one in found.matrices.items()}
    for layer in (0, 1):
        parts = [bits[f"encoder.layer.{layer}.attention.self.{part}"] for part in ("query", "key", "value")]
        assert len(parts[0]) == 4 and parts[0] == parts[1] == parts[2]
    assert any(0 in bits[f"encoder.layer.{layer}.attention.self.query"] for layer in (0, 1))
    other = compressed("6ms", MPQConfig(bits=BITS, rules={"self": {"groups": 2}}))
    assert len(hf_mpq.assignment_of(other).matrices["encoder.layer.0.attention.self.query"].bits) == 2, "rules win"
    assert not quantized(None, bits=(2, 4), budget="20ms").config.quantization_config.rules


def test_heads_are_one_choice_in_loaded_models_too(tmp_path):
    tiny_model("bert").save_pretrained(tmp_path / "float")
    kind, config = type(tiny_model("bert")), MPQConfig(bits=BITS, budget="9ms", method="mpq")
    model = kind.from_pretrained(tmp_path / "float", quantization_config=config)
    assert model.bert.encoder.layer[0].attention.self.key.program.layout.count == 4
    model.save_pretrained(tmp_path / "trainable")
    again = kind.from_pretrained(tmp_path / "trainable")
    assert again.config.quantization_config.rules == model.config.quantization_config.rules
    assert len(again.config.quantization_config.rules) == 3


def test_what_cannot_be_met_says_why(measured):
    with pytest.raises(BudgetError, match=r"smallest possible is 3 ms"):
        compressed("1ms", MPQConfig(bits=BITS))
    with pytest.raises(BudgetError, match=r"takes 10 ms.*put 0 among the bits"):
        compressed("8ms", MPQConfig(bits=(2, 4, 8)))


def test_budgets_of_several_kinds_share_their_scores(measured):
    fast, small = compressed(["8ms", "0.3x"], MPQConfig(bits=BITS, groups=8))
    assert cost_of(fast) <= 8 and hf_mpq.size_report(small).ratio <= 0.3


@pytest.mark.parametrize("family, longest", [("bert", 40), ("roberta", 38), ("distilbert", 40)])
def test_a_model_may_read_less_than_128_tokens(family, longest):
    space = MPQConfig(bits=BITS).resolve(tiny_model(family))
    with pytest.raises(BudgetError, match=rf"at most {longest} tokens.*8ms@1x{longest}"):
        latency_table(space, 1, longest + 1)
    assert latency_table(space, 1, longest).whole > 0


def test_a_family_must_be_known():
    with pytest.raises(BudgetError, match="known family"):
        Latency(MPQConfig(bits=BITS).resolve(_unknown()))


def _unknown():
    model = tiny_model("bert")
    model.config.model_type = "something-else"
    return model


def test_what_runs_is_what_is_measured(monkeypatch):
    """Inputs, head and shapes are the model's own; what may be chosen makes no difference."""
    made = []
    monkeypatch.setattr(latency, "measure_latencies", lambda model, *given: made.append(model) or TABLE)

    def measure(head="sequence", tokens=11, **fields):
        latency_table(MPQConfig(**{"bits": BITS, **fields}).resolve(tiny_model("bert", head)), 1, tokens)
        return len(made)

    assert measure() == 1
    assert measure(bits=(2, 8), groups=8, budget="8ms") == 1
    assert measure(head="masked") == 2 and type(made[-1]).__name__ == "BertForMaskedLM"
    assert measure(activation_bits=None) == 3 and made[-1].bert.pooler.dense.input_quantizer is None
    assert measure(activation="static") == 4
    assert measure(tokens=12) == 5


def test_training_takes_milliseconds(measured, tmp_path):
    model = quantized("mpq", layers=2, bits=BITS, budget="8ms@2x16")
    run = trainer(model, tmp_path, num_train_epochs=1, selection_examples=0)
    run.train()
    assert cost_of(run.model) <= 8
    run.save_packed(tmp_path / "packed")
    packed = type(model).from_pretrained(tmp_path / "packed")
    assert hf_mpq.prepare(packed)(**tiny_batch()).logits.shape == (3, 2)


def test_a_run_keeps_its_table(measured, tmp_path):
    """A resumed run, or another process of it, is measured by the table that the run began with."""
    options = {"num_train_epochs": 1, "selection_examples": 0}
    trainer(quantized("mpq", layers=2, bits=BITS, budget="8ms@2x16"), tmp_path, **options).train()
    assert LatencyTable.from_dict(json.loads((tmp_path / "latencies.json").read_text())) == TABLE
    again = trainer(quantized("mpq", layers=2, bits=BITS, budget="8ms@2x16"), tmp_path, **options)
    again.train(resume_from_checkpoint=True)
    assert measured == [(2, 16)] and cost_of(again.model) <= 8


def ends(space, table):
    """What a model takes with everything pruned, and with nothing."""
    cost = Latency(space, table=table)
    return [
        cost.of(
            Assignment({name: MatrixAssignment((bits,) * spec.layout.count) for name, spec in space.weights.items()})
        )
        for bits in (0, 8)
    ]


@pytest.mark.parametrize("mode", ["without training", "trained"])
def test_a_real_table_leads_to_a_model(mode, tmp_path):
    """Whatever was measured: where noise hides what pruning saves, the budget is what the whole model takes."""
    config = MPQConfig(bits=BITS, method="mpq" if mode == "trained" else None)
    space = config.resolve(tiny_model("bert"))
    table = latency_table(space, 4, 32)
    least, most = ends(space, table)
    assert least <= most == pytest.approx(table.whole)
    limit = (least + most) / 2
    budget = f"{limit!r}ms@4x32"
    if mode == "trained":
        run = trainer(quantized("mpq", layers=2, bits=BITS, budget=budget), tmp_path, num_train_epochs=1)
        run.train()
        model = run.model
    else:
        model = compressed(budget, config)
    assert least <= cost_of(model, table) <= limit
    assert hf_mpq.prepare(hf_mpq.pack(model.cpu()))(**tiny_batch()).logits.isfinite().all()


def test_open_gates_are_fixed_within_it(measured):
    model = quantized(None, layers=2, bits=BITS, budget="7ms")
    for _, layer in hf_mpq.nn.walk.matrices(model):
        if layer.program.gate.searching:
            torch.nn.init.normal_(layer.program.gate.logits)
    assert cost_of(hf_mpq.fix(model)) <= 7
    assert measured == [(1, 128)]
