"""Bigger & Faster: a super-model in passes of many shapes, a search, and the sub-net as a model of its own."""

import pytest
import torch
from transformers import AutoModelForSequenceClassification, TrainerCallback

from hf_mpq.core import METHODS, BudgetError, ModelShape, PrecisionSpace, read_json
from hf_mpq.cost.shape_latency import ShapeLatencies
from hf_mpq.nn.reshape import sizes_of
from hf_mpq.runs.files import SHAPE_LATENCIES
from hf_mpq.search.strategies import STRATEGIES, Pass, Progress
from hf_mpq.training.objectives import OBJECTIVES
from hf_mpq.training.run.subnets import StageSubNets
from hf_mpq.training.stage.module import StageModule
from tests.tiny import outputs, tiny_batch, tiny_model
from tests.training.runs import quantized, sentences, trainer

CHOICES = {"layers": [1, 2], "hidden": [16, 24, 32], "rows": [24, 40, 56]}
QUICK = {**CHOICES, "draws": 1, "first": 2, "population": 1, "generations": 1, "window": 0.0, "target": 0.6}


def grid():
    """Times that a machine could have."""
    return ShapeLatencies(
        tuple(
            (layers, hidden, rows, 0.5 + layers * (0.2 + 1e-4 * hidden * (hidden + rows)))
            for layers in (1, 2)
            for hidden in (16, 32)
            for rows in (24, 56)
        )
    )


@pytest.fixture
def timed(monkeypatch):
    """Without a measurement, which other tests make."""
    monkeypatch.setattr(StageSubNets, "_measured", lambda *given: grid())


def run(folder, model=None, teacher=None, **more):
    stages = {"supernet": {"strategy_options": QUICK}, **more.pop("stages", {})}
    options = {
        "max_steps": 3,
        "save_steps": 2,
        "calibration_examples": 8,
        "train_dataset": sentences(32),
        "stages": stages,
        **more,
    }
    return trainer(model or quantized("bigger-faster", layers=2, groups="channel"), folder, **options)


class Stop(TrainerCallback):
    def __init__(self, stage, step):
        self.stage, self.step = stage, step

    def on_step_end(self, args, state, control, **kwargs):
        if args.output_dir.endswith(self.stage) and state.global_step == self.step:
            raise KeyboardInterrupt


def test_a_run_gives_a_smaller_ordinary_model_within_the_target(tmp_path, timed):
    model = quantized("bigger-faster", layers=2, groups="channel")
    one = run(tmp_path / "run", model)
    one.train()
    sizes, latencies = sizes_of(model), grid()
    whole = latencies.milliseconds(2, 32, 56)
    assert latencies.milliseconds(sizes.layers, sizes.hidden, sizes.rows) <= 0.6 * whole
    shape = one._record(True).assignment().shape
    assert (len(shape.layers), shape.hidden, shape.rows[0]) == (sizes.layers, sizes.hidden, sizes.rows)
    expected = outputs(model)[0]
    one.save_packed(tmp_path / "packed")
    packed = AutoModelForSequenceClassification.from_pretrained(tmp_path / "packed")
    torch.testing.assert_close(outputs(packed)[0], expected, atol=1e-5, rtol=0)
    assert sizes_of(packed) == sizes and "shapes" not in packed.config.quantization_config.to_dict()
    model.save_pretrained(tmp_path / "saved")
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved")
    assert torch.equal(outputs(again)[0], expected)
    model.dequantize().save_pretrained(tmp_path / "float")
    _, info = AutoModelForSequenceClassification.from_pretrained(tmp_path / "float", output_loading_info=True)
    assert not any(info.values())


@pytest.mark.parametrize("stage, step", [("1-supernet", 1), pytest.param("2-distil", 1, marks=pytest.mark.full)])
def test_an_interrupted_run_ends_as_the_uninterrupted_one(stage, step, tmp_path, timed):
    whole = run(tmp_path / "whole")
    whole.train()
    part = run(tmp_path / "part", callbacks=[Stop(stage, step)], save_steps=1)
    with pytest.raises(KeyboardInterrupt):
        part.train()
    again = run(tmp_path / "part", save_steps=1)
    again.train(resume_from_checkpoint=True)
    assert sizes_of(again.model) == sizes_of(whole.model)
    for (name, one), two in zip(whole.model.named_parameters(), again.model.parameters()):
        assert torch.equal(one, two), name


def test_passes_are_the_whole_the_smallest_and_drawn_ones():
    strategy = STRATEGIES.make("elastic", PrecisionSpace({}), (), options=QUICK)
    model = quantized("bigger-faster", layers=2, groups="channel")
    strategy.take_subnets(StageSubNets(model, ".", lambda function: function(), 1, 8))
    passes = [strategy.passes(Progress(step, 50, 10)) for step in range(50)]
    for whole, smallest, drawn in passes:
        assert whole.shape is None and whole.teacher is None
        assert (smallest.shape.layers, smallest.shape.hidden, smallest.shape.rows) == ((0,), 16, (24,))
        assert smallest.teacher == drawn.teacher == "whole"
    assert len({one[2].shape for one in passes}) > 12  # of 18
    assert passes[7] == strategy.passes(Progress(7, 50, 10))
    assert passes[7] != strategy.passes(Progress(7, 50, 10, seed=1))


def test_the_super_model_begins_as_its_teacher(tmp_path, timed):
    strategy = STRATEGIES.make("elastic", PrecisionSpace({}), (), options=QUICK)
    model = quantized("bigger-faster", layers=2, groups="channel", activation_bits=None)
    expected = outputs(model)[0]
    strategy.take_subnets(StageSubNets(model, tmp_path, lambda function: function(), 1, 8))
    strategy.prepare(model)
    torch.testing.assert_close(outputs(model)[0], expected, atol=1e-4, rtol=1e-4)
    worth = model.bert.encoder.layer[0].output.dense.weight.norm(dim=0)
    worth = worth * model.bert.encoder.layer[0].intermediate.dense.weight.norm(dim=1)
    assert (worth.diff() <= 1e-5).all()


def test_features_of_a_sub_net_are_those_of_the_model_that_it_is(tmp_path):
    model = quantized("bigger-faster", layers=2, groups="channel", activation_bits=None)
    subnets = StageSubNets(model, tmp_path, lambda function: function(), 1, 8)
    terms = {"hidden-states": OBJECTIVES["hidden-states"](model, tiny_model("bert"))}
    module = StageModule(model.eval(), terms, tiny_model("bert"), elastic=subnets.elastic)
    shape = ModelShape((1,), 16, None, (24,))
    try:
        found = module._subnet(Pass("small", shape=shape), tiny_batch())
    finally:
        module.close()
    small = subnets.elastic.extract(shape)
    with torch.no_grad():
        expected = small(**tiny_batch(), output_hidden_states=True).hidden_states
    assert found.part and len(found.features["hidden"]) == len(expected) == 2
    for one, other in zip(found.features["hidden"], expected):
        torch.testing.assert_close(one, other)
    assert not any(module._forward_hooks for module in subnets.elastic.skeleton(shape).modules())


@pytest.fixture
def quick_clock(tmp_path, monkeypatch):
    """What is measured takes no time, and is kept in the test's own folder."""
    monkeypatch.setenv("HF_MPQ_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("hf_mpq.runtime.timing.SECONDS", 0.02)
    monkeypatch.setattr("hf_mpq.runtime.timing.LEAST_SECONDS", 0.001)
    monkeypatch.setattr("hf_mpq.runtime.timing.SHARES", (0.5,))


TIMED = {**QUICK, "tokens": 8, "measured": 4, "held_out": 2}


def test_times_of_float_models_are_measured_and_kept(tmp_path, quick_clock, monkeypatch):
    """By the models that plain PyTorch runs, and not those that are packed."""
    monkeypatch.setattr("hf_mpq.training.run.subnets.pack", None)
    strategy = STRATEGIES.make("elastic", PrecisionSpace({}), (), options={**TIMED, "backend": "float"})
    model = quantized("bigger-faster", layers=2, groups="channel")
    strategy.take_subnets(StageSubNets(model, tmp_path, lambda function: function(), 1, 8, strategy.backend))
    found = strategy._latencies()
    assert len(found.points) == 5 and found.points[0][:3] == (2, 32, 56) and len(found.held_out) == 2
    monkeypatch.setattr("hf_mpq.runtime.shape_timing.in_turn", None)
    (tmp_path / "other").mkdir()
    strategy.take_subnets(StageSubNets(model, tmp_path / "other", lambda function: function(), 1, 8, "float"))
    assert strategy._latencies() == found
    strategy.take_subnets(StageSubNets(model, tmp_path / "unknown", lambda function: function(), 1, 8, "cpu-int7"))
    with pytest.raises(ValueError, match="cpu-int7"):
        strategy._latencies()


def test_times_are_measured_on_this_machine_and_kept(tmp_path, quick_clock, monkeypatch, capsys):
    strategy = STRATEGIES.make("elastic", PrecisionSpace({}), (), options=TIMED)
    model = quantized("bigger-faster", layers=2, groups="channel")
    before = outputs(model)[0]
    strategy.take_subnets(StageSubNets(model, tmp_path, lambda function: function(), 1, 8))
    found = strategy._latencies()
    assert "on 2 others the prediction is off by" in capsys.readouterr().err
    assert {one[:3] for one in found.points} >= {(2, 32, 56), (2, 32, 28), (1, 16, 24)}
    assert len(found.held_out) == 2 and all(one[3] > 0 for one in found.points)
    assert read_json(tmp_path / SHAPE_LATENCIES, "") == found.to_dict()
    monkeypatch.setattr("hf_mpq.runtime.shape_timing.in_turn", None)  # not measured again, in another run either
    other = StageSubNets(model, tmp_path / "other", lambda function: function(), 1, 8)
    (tmp_path / "other").mkdir()
    strategy.take_subnets(other)
    assert strategy._latencies() == found
    assert torch.equal(outputs(model)[0], before)


def test_what_cannot_be_searched_is_said(tmp_path, timed):
    with pytest.raises(BudgetError, match="or another target"):
        run(tmp_path / "a", stages={"supernet": {"strategy_options": {**QUICK, "target": 0.01}}}).train()
    for options, words in {
        "layers": ([3], "at most 2"),
        "hidden": ([20], "multiple of 8"),
        "rows": ([40, 24], "ascending"),
    }.items():
        with pytest.raises(ValueError, match=words[1] if isinstance(words, tuple) else words):
            changed = {**QUICK, options: words[0]}
            run(tmp_path / options, stages={"supernet": {"strategy_options": changed}}).train()
    with pytest.raises(ValueError, match="'value-relations' takes features of the whole model alone"):
        objectives = {"soft-labels": {}, "value-relations": {}}
        stages = {"supernet": {"strategy_options": QUICK, "objectives": objectives}}
        run(tmp_path / "features", stages=stages).train()


def test_the_method_trains_where_nothing_else_is_open():
    assert [stage.name for stage in METHODS["bigger-faster"].stages] == ["supernet", "distil"]
    assert tiny_model("bert").config.num_hidden_layers == 2
