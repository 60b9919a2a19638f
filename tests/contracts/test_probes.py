"""Six methods that stretch the slots: each trains, saves, resumes, packs and reloads through unchanged layers.

None is a published system; each is the one thing about some system that a narrow design would not let in.
"""

import copy

import pytest
import torch
from torch import nn

import hf_mpq
from hf_mpq import MPQConfig
from hf_mpq.nn.walk import matrices, update_quantizers
from hf_mpq.weights import ENCODINGS, QUANTIZERS, SOURCES, Encoding, Source, WeightQuantizer
from tests.contracts.gloo import run_two_processes
from tests.tiny import HEADS, outputs, tiny_batch, tiny_model


def loss_of(model) -> torch.Tensor:
    return model(**tiny_batch(), labels=torch.tensor([0, 1, 0])).loss


def plain_step(model, rate=0.05):
    """One step of gradient descent, with whatever the quantizers do after it."""
    model.eval()  # no dropout
    loss_of(model).backward()
    apply_gradients(model, rate)


def apply_gradients(model, rate=0.05):
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter -= rate * parameter.grad
                parameter.grad = None
    update_quantizers(model)


def check_life(model, tmp_path, step=plain_step):
    """Train two steps, resume the second from a checkpoint, pack, reload: nothing changes on the way."""
    start = copy.deepcopy(model.state_dict())
    step(model)
    model.save_pretrained(tmp_path / "checkpoint")
    step(model)
    assert any(not torch.equal(value, start[name]) for name, value in model.state_dict().items())

    resumed = HEADS["sequence"].from_pretrained(tmp_path / "checkpoint")
    step(resumed)
    for name, value in model.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name

    trained = outputs(model)
    report = hf_mpq.size_report(model)
    hf_mpq.pack(model).save_pretrained(tmp_path / "packed")
    torch.testing.assert_close(outputs(model)[0], trained[0], atol=1e-5, rtol=0)
    again = HEADS["sequence"].from_pretrained(tmp_path / "packed")
    assert torch.equal(outputs(again)[0], outputs(model)[0])
    assert hf_mpq.size_report(again).total_bytes == report.total_bytes
    return again


class Planes(Source):
    """Eight learned planes and a sign: w = scale * sign * sum of sigmoid(plane) * 2^bit / 255."""

    owns_weight = True

    def __init__(self, shape):
        super().__init__(shape)
        self.planes = nn.Parameter(torch.zeros(8, *shape))
        self.register_buffer("sign", torch.ones(shape))
        self.register_buffer("scale", torch.ones(()))

    def forward(self, weight):
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
    model = hf_mpq.quantize(tiny_model("bert"), MPQConfig(bits=4, source="probe-planes", embedding_bits=None))
    layer = model.bert.encoder.layer[0].output.dense
    assert not layer.weight.requires_grad
    check_life(model, tmp_path)
    saved = HEADS["sequence"].from_pretrained(tmp_path / "checkpoint").bert.encoder.layer[0].output.dense
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
    model = hf_mpq.quantize(tiny_model("bert"), MPQConfig(bits=3, quantizer="probe-basis"))
    before = model.bert.encoder.layer[0].output.dense.program.quantizer.basis.clone()
    check_life(model, tmp_path)
    checkpoint = HEADS["sequence"].from_pretrained(tmp_path / "checkpoint")
    assert not torch.equal(checkpoint.bert.encoder.layer[0].output.dense.program.quantizer.basis, before)


def test_objective_with_its_own_parameters(tmp_path):
    run_two_processes(_objective_process, tmp_path)
    first, second = (torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2))
    assert all(torch.equal(value, second[name]) for name, value in first.items()), "processes must agree"
    assert any(name.startswith("objective.") for name in first)
    model = HEADS["sequence"].from_pretrained(tmp_path / "checkpoint")
    assert not any("objective" in name for name in model.state_dict()), "an objective is never shipped"
    check_life(hf_mpq.fix(model), tmp_path)


class Matching(nn.Module):
    """A projection of the last hidden state to a narrower teacher's."""

    def __init__(self):
        super().__init__()
        self.projection = nn.Linear(32, 16)

    def forward(self, hidden, target):
        return (self.projection(hidden) - target).square().mean()


class WithObjective(nn.Module):
    """What is wrapped for several processes: the model and what its loss needs."""

    def __init__(self, model, objective):
        super().__init__()
        self.model, self.objective = model, objective

    def forward(self, batch, labels, target):
        output = self.model(**batch, labels=labels, output_hidden_states=True)
        return output.loss + self.objective(output.hidden_states[-1], target)


def _objective_process(rank, tmp_path):
    torch.manual_seed(0)
    model = hf_mpq.quantize(tiny_model("bert"), MPQConfig(bits=(0, 2, 4), quantizer="lsq"))
    both = WithObjective(model, Matching())
    parallel = nn.parallel.DistributedDataParallel(both, find_unused_parameters=True)
    optimizer = torch.optim.Adam(parallel.parameters(), lr=1e-2)
    for step in range(2):
        batch = {name: rows[rank : rank + 2] for name, rows in tiny_batch().items()}
        target = torch.randn(2, 11, 16, generator=torch.Generator().manual_seed(10 * step + rank))
        parallel(batch, torch.tensor([rank, 1]), target).backward()
        optimizer.step()
        optimizer.zero_grad()
        update_quantizers(model)
    torch.save(both.state_dict(), tmp_path / f"rank{rank}.pt")
    if rank == 0:
        model.save_pretrained(tmp_path / "checkpoint")


def min_norm_step(model):
    """Gradients of two precisions, merged into the shortest vector of their convex hull."""
    gradients = []
    for bits in (8, 2):
        hf_mpq.set_precision(model.eval(), bits)
        loss_of(model).backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
        for parameter in model.parameters():
            parameter.grad = None
    shared = sorted(set(gradients[0]) & set(gradients[1]))
    first, second = (torch.cat([part[name].flatten() for name in shared]) for part in gradients)
    share = (second @ (second - first) / (first - second).square().sum()).clamp(0, 1)
    for name, parameter in model.named_parameters():
        parts = [weight * part[name] for weight, part in zip((share, 1 - share), gradients) if name in part]
        parameter.grad = sum(parts) if parts else None
    apply_gradients(model, 0.005)
    hf_mpq.set_precision(model, 8)


def test_two_passes_merged_by_min_norm(tmp_path):
    model = hf_mpq.quantize(tiny_model("bert"), MPQConfig(bits=(2, 8), nested=True))
    check_life(model, tmp_path, min_norm_step)


def test_feed_forward_wider_than_the_config(tmp_path):
    model = tiny_model("bert")
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
    again = check_life(hf_mpq.quantize(model, MPQConfig(bits=4)), tmp_path)
    assert again.config.intermediate_size == 56
    assert again.bert.encoder.layer[0].intermediate.dense.weight.shape == (70, 32)


def nested_step(model):
    """One step at each precision."""
    for bits in (2, 4, 8):
        hf_mpq.set_precision(model, bits)
        plain_step(model, 0.01)


@pytest.mark.parametrize("switchable", [False, True])
def test_nested_precisions_with_their_own_norms(switchable, tmp_path):
    config = MPQConfig(bits=(2, 4, 8), nested=True, switchable_norms=switchable)
    model = hf_mpq.quantize(tiny_model("bert"), config)
    again = check_life(model, tmp_path, nested_step)
    trained = HEADS["sequence"].from_pretrained(tmp_path / "checkpoint")
    nested_step(trained)
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
