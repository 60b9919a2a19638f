"""Budgets in milliseconds."""

import json

import pytest
import torch
from torch.testing import assert_close

import hf_mpq
from hf_mpq.core import Assignment, BudgetError, MatrixAssignment, Usage
from hf_mpq.cost import Latency, LatencyTable
from hf_mpq.integrations import latency
from hf_mpq.nn import family_of
from hf_mpq.search import ALLOCATORS
from tests.tiny import tiny_batch, tiny_model
from tests.training.runs import collate, sentences

TABLE = LatencyTable(10.0, ((1.0, 6.0), (28.0, 7.0), (56.0, 10.0)), ((1.0, 7.0), (4.0, 10.0)), 2)
HEADS = {rf"(.*)\.attention\.self\.{name}$": {"bits": [0, 8], "groups": "head", "tie": r"\1"}
         for name in ("query", "key", "value")}  # fmt: skip
RULES = {**HEADS, r"\.intermediate\.dense$": {"bits": [0, 4, 8]}}


@pytest.fixture(autouse=True)
def _quick(monkeypatch, tmp_path):
    """A cache of its own for each test, and short measurements."""
    monkeypatch.setenv("HF_MPQ_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(latency, "ROUNDS", 3)
    monkeypatch.setattr(latency, "LEAST_SECONDS", 0.001)
    latency._known.cache_clear()


def space_of(family="bert", **fields):
    return hf_mpq.MPQConfig(**{"bits": 8, "rules": RULES, **fields}).resolve(tiny_model(family))


def assignment(space, rows=56, heads=4):
    """So many rows and heads of every layer left."""
    matrices = {}
    for name, spec in space.weights.items():
        left = heads if name.endswith(("query", "key", "value")) else rows if "intermediate" in name else None
        count = spec.layout.count
        matrices[name] = MatrixAssignment(spec.bits or (8,) * left + (0,) * (count - left))
    return Assignment(matrices)


def test_measured_points_are_hit_and_what_lies_between_is_between():
    space = space_of()
    cost = Latency(space, table=TABLE)
    assert cost.of(assignment(space)) == pytest.approx(10.0)
    assert cost.of(assignment(space, rows=28)) == pytest.approx(7.0)
    assert cost.of(assignment(space, rows=42)) == pytest.approx(8.5)
    assert cost.of(assignment(space, heads=1)) == pytest.approx(7.0)
    assert cost.of(assignment(space, rows=28, heads=2)) == pytest.approx(10 - 3 - 2)


def test_only_whole_heads_save_time():
    space = space_of()
    whole = assignment(space)
    query = "encoder.layer.0.attention.self.query"
    without = {**whole.matrices, query: MatrixAssignment((0, 8, 8, 8))}
    assert Latency(space, table=TABLE).of(Assignment(without)) == pytest.approx(10.0)


@pytest.mark.parametrize("rows, heads", [(56, 4), (28, 4), (13, 3), (1, 1)])
def test_expectation_of_a_choice_is_its_cost(rows, heads):
    space = space_of()
    cost, chosen = Latency(space, table=TABLE), assignment(space, rows, heads)
    usages = {}
    for name, spec in space.weights.items():
        if spec.bits is None:
            bits = torch.tensor(chosen.matrices[name].bits)
            shares = torch.stack([(bits == one).double() for one in spec.candidates], dim=1)
            usages[name] = Usage(bits.double(), (bits > 0).double(), probabilities=shares)
    assert float(cost.expected(usages)) == pytest.approx(cost.of(chosen))


def test_gates_feel_it():
    space = space_of()
    keeps = {name: torch.full((spec.layout.count,), 0.8, dtype=torch.float64, requires_grad=True)
             for name, spec in space.weights.items() if spec.bits is None}  # fmt: skip
    usages = {name: Usage(8 * keep, keep) for name, keep in keeps.items()}
    total = Latency(space, table=TABLE).expected(usages)
    total.backward()
    assert 6 < float(total.detach()) < 10
    assert all((keep.grad > 0).all() for name, keep in keeps.items() if "intermediate" in name)
    assert sum(float(keep.grad.sum()) for name, keep in keeps.items() if "self" in name) > 0


@pytest.mark.parametrize("allocator", ["lagrangian", "greedy", "milp"])
def test_allocations_meet_it(allocator):
    space = space_of()
    scores = {name: torch.rand(spec.layout.count, len(spec.candidates), dtype=torch.float64).sort(1, True).values
              for name, spec in space.weights.items()}  # fmt: skip
    cost = Latency(space, table=TABLE)
    found = ALLOCATORS[allocator](space, cost, 7.5, scores)
    assert cost.of(found) <= 7.5
    with pytest.raises(BudgetError, match=r"smallest possible is .* ms"):
        ALLOCATORS[allocator](space, cost, 0.5, scores)


def test_a_machine_is_measured_once(monkeypatch, tmp_path):
    calls, measure = [], latency.measure_latencies
    monkeypatch.setattr(latency, "measure_latencies", lambda *given: calls.append(given) or measure(*given))
    architecture = tiny_model("bert").config.to_dict()
    first = latency.latency_table(architecture, 1, 8)
    assert latency.latency_table(architecture, 1, 8) is first
    latency._known.cache_clear()
    assert latency.latency_table({**architecture, "id2label": {0: "other"}}, 1, 8) == first
    assert len(calls) == 1
    latency.latency_table(architecture, 2, 8)
    assert len(calls) == 2
    files = sorted((tmp_path / "cache").iterdir())
    assert len(files) == 2 and json.loads(files[0].read_text())["threads"] == torch.get_num_threads()
    for file in files:
        file.write_text("{")
    latency._known.cache_clear()
    latency.latency_table(architecture, 1, 8)
    assert len(calls) == 3
    monkeypatch.setattr(latency, "fingerprint", lambda: "another CPU")
    latency._known.cache_clear()
    latency.latency_table(architecture, 1, 8)
    assert len(calls) == 4


@pytest.mark.parametrize("family", ["bert", "albert", "distilbert", "modernbert", "mpnet", "deberta-v2"])
def test_every_family_can_be_measured(family):
    model = tiny_model(family)
    table = latency.measure_latencies(model.config.to_dict(), 1, 8)
    assert table.whole > 0 and table.rows[-1][0] == 56
    assert table.layers == 2
    assert len(table.heads) == (4 if family_of(model).removable_heads else 2)


def test_compress_takes_milliseconds(monkeypatch):
    monkeypatch.setattr(hf_mpq.cost.latency, "_measure", [lambda *given: TABLE])
    model = tiny_model("bert")
    small = hf_mpq.compress(model, "7ms", [tiny_batch()], rounding="nearest")
    cost = Latency(small.config.quantization_config.resolve(small), table=TABLE)
    assert cost.of(hf_mpq.assignment_of(small)) <= 7.0
    packed = hf_mpq.runtime.compact(hf_mpq.pack(small))
    left = [layer.intermediate.dense.out_features for layer in packed.bert.encoder.layer]
    assert min(left) < 56
    with pytest.raises(BudgetError, match="smallest possible"):
        hf_mpq.compress(model, "1ms", [tiny_batch()])


def test_training_takes_milliseconds(monkeypatch, tmp_path):
    monkeypatch.setattr(hf_mpq.cost.latency, "_measure", [lambda *given: TABLE])
    config = hf_mpq.MPQConfig(method="mpq", bits=8, rules=RULES, budget="8ms@2x16")
    model = hf_mpq.quantize(tiny_model("bert"), config)
    arguments = hf_mpq.MPQTrainingArguments(str(tmp_path), max_steps=8, use_cpu=True, report_to="none",
                                            per_device_train_batch_size=8, disable_tqdm=True)  # fmt: skip
    trainer = hf_mpq.MPQTrainer(model, arguments, train_dataset=sentences(32), data_collator=collate)
    trainer.train()
    space = trainer.model.config.quantization_config.resolve(trainer.model)
    assert Latency(space, table=TABLE).of(hf_mpq.assignment_of(trainer.model)) <= 8.0


def test_budgets_name_their_shape():
    assert hf_mpq.Budget.parse("8ms") == hf_mpq.Budget(8.0, "latency")
    assert hf_mpq.Budget.parse("40ms@8x64") == hf_mpq.Budget(40.0, "latency", "model", 8, 64)
    for wrong in ("12MB@1x8", "8ms@0x8"):
        with pytest.raises(BudgetError, match="8ms@1x128"):
            hf_mpq.Budget.parse(wrong)


def test_an_interpolation_is_straight():
    x = torch.tensor([1.0, 14.5, 28.0, 42.0, 56.0], dtype=torch.float64)
    assert_close(TABLE.row_milliseconds(x) * 2 + 10, torch.tensor([6.0, 6.5, 7.0, 8.5, 10.0], dtype=torch.float64))
