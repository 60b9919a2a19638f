"""Six methods that stretch the slots: each runs through the trainer and resumes, packs, reloads, is prepared for every
backend and exported, through unchanged layers.

None is a published system; each is the one thing about some system that a narrow design would not let in.
"""

import copy
import os

import pytest
import torch
from torch import nn
from transformers import TrainerCallback

import hf_mpq
from hf_mpq import MPQConfig
from hf_mpq.exporters.base import EXPORTERS, unmet
from hf_mpq.nn.walk import matrices
from hf_mpq.search.strategies import STRATEGIES, Pass, SearchStrategy
from hf_mpq.training import TrainingStopped
from hf_mpq.training.objectives import OBJECTIVES, Objective
from hf_mpq.weights import ENCODINGS, QUANTIZERS, SOURCES, Encoding, Source, WeightQuantizer
from hf_mpq.weights.roles import WEIGHTS
from tests.contracts.gloo import run_two_processes
from tests.contracts.test_quantizers_in_backends import check_backends, check_exports
from tests.tiny import HEADS, outputs, tiny_model
from tests.training.runs import sentences, trainer
from tests.training.test_stage_parts import StopAfter


def quantized(model=None, **fields):
    return hf_mpq.quantize(model or tiny_model("bert", num_hidden_layers=1), MPQConfig(**{"groups": 8, **fields}))


def run_of(model, folder, **options):
    """A trainer of two steps, with a checkpoint after each."""
    given = {"max_steps": 2, "save_steps": 1, "learning_rate": 1e-2, "train_dataset": sentences(16)}
    return trainer(model, folder, **{**given, **options})


def check_life(make, tmp_path, **options):
    """Train, resume the second step, pack, reload, prepare, export: nothing changes on the way."""
    start = {name: value.clone() for name, value in make().state_dict().items()}
    run = run_of(make(), tmp_path / "run", **options)
    run.train()
    model = run.model
    assert any(not torch.equal(value, start[name]) for name, value in model.state_dict().items() if name in start)

    with pytest.raises(TrainingStopped):
        run_of(make(), tmp_path / "resumed", callbacks=[StopAfter(1)], **options).train()
    resumed = run_of(make(), tmp_path / "resumed", **options)
    resumed.train(resume_from_checkpoint=True)
    for name, value in model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name

    model.save_pretrained(tmp_path / "trained")
    trained, report = outputs(model), hf_mpq.size_report(model)
    hf_mpq.pack(model).save_pretrained(tmp_path / "packed")
    torch.testing.assert_close(outputs(model)[0], trained[0], atol=1e-5, rtol=0)
    again = HEADS["sequence"].from_pretrained(tmp_path / "packed")
    assert torch.equal(outputs(again)[0], outputs(model)[0])
    assert hf_mpq.size_report(again).total_bytes == report.total_bytes
    check_backends(again)
    plain = copy.deepcopy(again)
    for _, layer in matrices(plain, hf_mpq.nn.PackedLinear):
        layer.input_quantizer = None  # dense files have float inputs
    check_exports(plain, tmp_path, ["dense"])
    return again


class Planes(Source):
    """Eight learned planes and a sign: w = scale * sign * sum of sigmoid(plane) * 2^bit / 255."""

    owns_weight = True
    roles = {"planes": WEIGHTS}  # noqa: RUF012

    def __init__(self, layout, candidates, scale_dtype=torch.float16):
        super().__init__(layout, candidates, scale_dtype)
        self.planes = nn.Parameter(torch.zeros(8, *layout.shape))
        self.register_buffer("sign", torch.ones(layout.shape))
        self.register_buffer("scale", torch.ones(()))

    def forward(self, weight, choice=None):
        powers = (2.0 ** torch.arange(8) / 255).view(8, 1, 1)
        return self.scale * self.sign * (torch.sigmoid(self.planes) * powers).sum(0)

    def initialise(self, weight):
        self.sign.copy_(torch.where(weight < 0, -1.0, 1.0))
        self.scale.copy_(weight.abs().max())
        codes = torch.round(weight.abs() / self.scale * 255).long()
        bits = codes >> torch.arange(8).view(8, 1, 1) & 1
        self.planes.copy_(8.0 * bits - 4.0)


def test_bit_planes_without_a_float_master(tmp_path, monkeypatch):
    monkeypatch.setitem(SOURCES._items, "probe-planes", Planes)
    make = lambda: quantized(bits=4, source="probe-planes", embedding_bits=None)  # noqa: E731
    assert not make().bert.encoder.layer[0].output.dense.weight.requires_grad
    check_life(make, tmp_path)
    saved = HEADS["sequence"].from_pretrained(tmp_path / "trained").bert.encoder.layer[0].output.dense
    assert saved.program.source.planes.abs().sub(4).abs().max() > 5e-3, "planes are what learns"
    assert torch.equal(saved.weight, saved.program.source(None)), "the file has the float weight beside the planes"


class BasisEncoding(Encoding):
    """Bit i of a code adds or subtracts float i of the sub-group."""

    @classmethod
    def floats(cls, bits, nested=()):
        return bits

    @classmethod
    def decode(cls, codes, floats, bits, nested=()):
        signs = (codes.unsqueeze(-1) >> torch.arange(bits) & 1) * 2.0 - 1
        return (signs * floats.unsqueeze(1)).sum(-1)


class Basis(WeightQuantizer):
    """The nearest sum of signed basis floats; the basis follows the largest weight, outside autograd."""

    encoding = "probe-basis"

    def __init__(self, layout, candidates, scale_dtype=torch.float16):
        super().__init__(layout, candidates, scale_dtype)
        self.register_buffer("basis", torch.ones(layout.count, max(candidates)))

    def encode(self, weight, bits):
        floats = self.basis[:, :bits].to(self.scale_dtype).float()
        codes = torch.arange(2**bits, dtype=torch.uint8).expand(self.layout.count, -1)
        levels = self.layout.expand(BasisEncoding.decode(codes, floats, bits))
        return (weight.unsqueeze(-1) - levels.unsqueeze(1)).abs().argmin(-1).to(torch.uint8), floats

    def candidate(self, weight, bits):
        codes, floats = self.encode(weight.detach(), bits)
        value = BasisEncoding.decode(codes, self.layout.expand(floats), bits)
        return hf_mpq.core.replace_forward(weight, value)

    def calibrate(self, weight, live=None):
        self.basis.copy_(self._start(weight))

    def update(self, weight):
        self.basis.lerp_(self._start(weight), 0.1)

    def _start(self, weight):
        largest = self.layout.reduce(weight.abs(), "amax").unsqueeze(1)
        return largest / 2.0 ** torch.arange(1, self.basis.shape[1] + 1)


def test_basis_updated_outside_autograd(tmp_path, monkeypatch):
    monkeypatch.setitem(ENCODINGS._items, "probe-basis", BasisEncoding)
    monkeypatch.setitem(QUANTIZERS._items, "probe-basis", Basis)
    make = lambda: quantized(bits=3, quantizer="probe-basis")  # noqa: E731
    before = make().bert.encoder.layer[0].output.dense.program.quantizer.basis.clone()
    check_life(make, tmp_path)
    trained = HEADS["sequence"].from_pretrained(tmp_path / "trained")
    assert not torch.equal(trained.bert.encoder.layer[0].output.dense.program.quantizer.basis, before)


class Matching(Objective):
    """A projection of the last hidden state to a narrower teacher's."""

    needs_teacher, features = True, ("hidden",)

    def __init__(self, student, teacher, weight=1.0):
        super().__init__(student, teacher, weight)
        self.projection = nn.Linear(student.config.hidden_size, teacher.config.hidden_size)

    def forward(self, student, teacher, batch):
        ours, theirs = student.features["hidden"][-1], teacher.features["hidden"][-1]
        return (self.projection(ours) - theirs).square().mean()


MATCHING = {"qat": {"objectives": {"task": {}, "probe-matching": {"weight": 0.5}}}}


def narrow():
    return tiny_model("bert", hidden_size=16, num_hidden_layers=1)


def learned_steps():
    return quantized(bits=4, quantizer="lsq", method="uniform")


def test_objective_with_its_own_parameters(tmp_path, monkeypatch):
    monkeypatch.setitem(OBJECTIVES._items, "probe-matching", Matching)
    check_life(learned_steps, tmp_path, teacher=narrow(), stages=MATCHING)
    model = HEADS["sequence"].from_pretrained(tmp_path / "trained")
    assert not any("objective" in name for name in model.state_dict()), "an objective is never shipped"


class Learned(TrainerCallback):
    """All that the optimizer moves, after the last step."""

    def on_step_end(self, args, state, control, optimizer=None, **kwargs):
        self.found = [one.detach().clone() for group in optimizer.param_groups for one in group["params"]]


@pytest.mark.full
def test_two_processes_agree_on_an_objective(tmp_path):
    run_two_processes(_objective_process, tmp_path)
    first, second = (torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2))
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    start = Matching(tiny_model("bert"), narrow()).projection.weight
    assert any(one.shape == start.shape for one in first), "the projection is among them"


def _objective_process(rank, folder):
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2")
    OBJECTIVES._items["probe-matching"] = Matching
    learned = Learned()
    options = {"teacher": narrow(), "stages": MATCHING, "per_device_train_batch_size": 4, "callbacks": [learned]}
    run_of(learned_steps(), folder / "run", **options).train()
    torch.save(learned.found, folder / f"rank{rank}.pt")


class TwoPasses(SearchStrategy):
    """Gradients of two precisions, merged into the shortest vector of their convex hull."""

    searches, combine = False, "min-norm"

    def passes(self, progress):
        return tuple(Pass(f"{bits} bits", precision=bits) for bits in (2, 8))


def test_two_passes_merged_by_min_norm(tmp_path, monkeypatch):
    monkeypatch.setitem(STRATEGIES._items, "probe-two-passes", TwoPasses)
    check_life(lambda: quantized(bits=(2, 8), nested=True), tmp_path, stages={"once": {"strategy": "probe-two-passes"}})


def widened():
    model = tiny_model("bert", num_hidden_layers=1)
    expected = outputs(model)
    for layer in model.bert.encoder.layer:
        up, down = layer.intermediate.dense, layer.output.dense
        wide_up, wide_down = nn.Linear(32, 70), nn.Linear(70, 32)
        with torch.no_grad():
            wide_up.weight.copy_(torch.cat([up.weight, up.weight[:14]]))
            wide_up.bias.copy_(torch.cat([up.bias, up.bias[:14]]))
            halved = down.weight.clone()
            halved[:, :14] /= 2
            wide_down.weight.copy_(torch.cat([halved, halved[:, :14]], dim=1))
            wide_down.bias.copy_(down.bias)
        layer.intermediate.dense, layer.output.dense = wide_up, wide_down
    torch.testing.assert_close(outputs(model)[0], expected[0], atol=1e-5, rtol=0)
    return quantized(model, bits=4)


def test_feed_forward_wider_than_the_config(tmp_path):
    again = check_life(widened, tmp_path)
    assert again.config.intermediate_size == 56
    for format in (name for name in EXPORTERS if EXPORTERS[name].standard and not unmet(name)):
        with pytest.raises(ValueError, match=r"has the shape \(70, 32\), which its configuration does not give"):
            hf_mpq.export(again, format, tmp_path / format)
    assert again.bert.encoder.layer[0].intermediate.dense.weight.shape == (70, 32)


@pytest.mark.parametrize("switchable", [False, True])
def test_nested_precisions_with_their_own_norms(switchable, tmp_path):
    again = check_life(lambda: quantized(bits=(2, 4, 8), nested=True, switchable_norms=switchable), tmp_path)
    trained = HEADS["sequence"].from_pretrained(tmp_path / "trained")
    found = [outputs(hf_mpq.set_precision(again, bits))[0] for bits in (2, 4, 8)]
    for bits, values in zip((2, 4, 8), found):
        torch.testing.assert_close(outputs(hf_mpq.set_precision(trained, bits))[0], values, atol=1e-5, rtol=0)
    assert not torch.equal(found[0], found[1]) and not torch.equal(found[1], found[2])
    norm = dict(again.named_modules())["bert.encoder.layer.0.output.LayerNorm"]
    assert norm.weight_values.numel() == 2 * 32 * (3 if switchable else 1)
    for _, layer in matrices(again, hf_mpq.nn.PackedLinear):
        assert not layer.stored.nested or set(layer.stored.groups) == {8}
    with pytest.raises(ValueError, match="nested precisions"):
        hf_mpq.set_precision(again, 3)


@pytest.mark.full
@pytest.mark.parametrize("fields", [{"bits": 3, "quantizer": "probe-basis"}, {"bits": (2, 8), "nested": True}])
def test_every_export_takes_a_probe_or_says_why_not(fields, tmp_path, monkeypatch):
    monkeypatch.setitem(ENCODINGS._items, "probe-basis", BasisEncoding)
    monkeypatch.setitem(QUANTIZERS._items, "probe-basis", Basis)
    check_exports(hf_mpq.pack(quantized(**fields)).eval(), tmp_path, list(EXPORTERS))
