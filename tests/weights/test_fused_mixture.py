"""The hand-written backward against autograd of a plain float64 implementation, and against the papers' equations."""

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from hf_mpq.core import SubgroupLayout
from hf_mpq.weights import QUANTIZERS, Choice
from hf_mpq.weights import fused as fused_module
from hf_mpq.weights.compilation import SMALLEST, compiled_when_large, compiler_present, run_as_written
from hf_mpq.weights.fused import LineGrid, Mixture, mixture_backward, mixture_forward
from tests.weights.cases import quantizer_of, weight_of

LINES, LENGTH = 5, 40
GRIDS = [(-4, 3, 0.0), (-2, 1, 0.5), (0, 15, 0.0), (-1, 0, 0.5)]  # 3 bits, half-step, unsigned, sign
LAYOUTS = {"rows": SubgroupLayout((11, 10), 4), "columns": SubgroupLayout((10, 11), 4, axis=1)}
CANDIDATES = [(2,), (0, 4), (0, 2, 4), (0, 1, 2, 8), (1, 2, 3, 4)]


def passed_through(value, rounded):
    """`rounded` with the gradient of `value`."""
    return value + (rounded - value).detach()


def candidate(weight, step, offset, low, high, half, clips=True):
    """One quantized candidate, from the papers' formula, everything left to autograd."""
    ratio = (weight - offset) / step
    clipped = torch.clamp(ratio, low, high + 2 * half) if clips else ratio
    level = torch.clamp(torch.round(clipped - half), low, high) + half
    return passed_through(clipped, level) * step + offset


def line_grid(clips):
    table = [[*grid, grid[0] - grid[2], grid[1] + grid[2]] for grid in GRIDS]
    rows = torch.tensor(table, dtype=torch.float64).T.unsqueeze(1)
    low, high, half, clip_low, clip_high = rows
    endless = torch.full_like(low, torch.inf)
    return LineGrid(low, high, half, *((clip_low, clip_high) if clips else (-endless, endless)))


def mixture_inputs(count):
    weight = torch.randn(LINES, LENGTH, dtype=torch.float64)
    probabilities = torch.softmax(torch.randn(LINES, count, dtype=torch.float64), 1)
    step = torch.rand(LINES, count, dtype=torch.float64) * 0.4 + 0.2
    offset = torch.randn(LINES, count, dtype=torch.float64) * 0.3
    return [tensor.requires_grad_() for tensor in (weight, probabilities, step, offset)]


@pytest.mark.parametrize("clips", [True, False], ids=["clipped", "endless"])
@pytest.mark.parametrize("with_offset", [True, False], ids=["offset", "around zero"])
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_every_gradient_equals_autograd(count, with_offset, clips):
    inputs = mixture_inputs(count) if with_offset else [*mixture_inputs(count)[:3], None]
    grid = LineGrid(*(row[:, :count] for row in line_grid(clips)))
    weight, probabilities, step, offset = inputs
    total = sum(
        probabilities[:, k : k + 1]
        * candidate(weight, step[:, k : k + 1], offset[:, k : k + 1] if with_offset else 0.0, *GRIDS[k], clips)
        for k in range(count)
    )
    value = Mixture.apply(*inputs, grid)
    torch.testing.assert_close(value, total)
    upstream, wanted = torch.randn_like(total), [tensor for tensor in inputs if tensor is not None]
    if not clips:  # then a value beyond the levels would still move the step: the papers have none
        wanted = wanted[:2]
    expected = torch.autograd.grad(total, wanted, upstream)
    for ours, theirs in zip(torch.autograd.grad(value, wanted, upstream), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("count", [1, 4])
def test_probabilities_pass_finite_differences(count):
    weight, probabilities, step, offset = mixture_inputs(count)
    grid = LineGrid(*(row[:, :count] for row in line_grid(True)))
    function = lambda p: Mixture.apply(weight.detach(), p, step.detach(), offset.detach(), grid)  # noqa: E731
    assert torch.autograd.gradcheck(function, (probabilities,))


def test_the_step_gradient_is_equation_3_of_lsq():
    step, ratios = 0.5, [-9.0, -4.0, -2.7, 0.2, 1.5, 2.9, 3.0, 7.0]
    weight = torch.tensor([[ratio * step for ratio in ratios]])
    layout = SubgroupLayout(weight.shape)
    for position, expected in enumerate([-4, 0, -0.3, -0.2, 0.5, 0.1, 0, 3]):
        quantizer = QUANTIZERS["lsq"](layout, (3,))
        quantizer.restore(3, torch.tensor([0]), torch.tensor([[step]]))
        quantizer.candidate(weight, 3)[0, position].backward()
        assert quantizer.step.grad.item() == pytest.approx(expected / (8 * 3) ** 0.5, abs=1e-6)


@pytest.mark.parametrize("candidates", CANDIDATES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("fixed", [False, True], ids=["mixture", "one each"])
def test_learned_steps_end_to_end(layout, candidates, fixed):
    weight = weight_of(layout).double()
    quantizer = quantizer_of("lsq", layout, candidates, weight).double()
    with torch.no_grad():
        quantizer.step *= 0.7  # so that something is clipped
    index = torch.arange(layout.count) % len(candidates)
    probabilities = torch.softmax(torch.randn(layout.count, len(candidates), dtype=torch.float64), 1)
    if fixed:
        probabilities = torch.nn.functional.one_hot(index, len(candidates)).double()
    weight.requires_grad_()
    value = quantizer(weight, Choice(index=index) if fixed else Choice(probabilities=probabilities))
    upstream = torch.randn_like(value)
    value.backward(upstream)

    source, steps = weight.detach().clone().requires_grad_(), quantizer.step.detach().clone().requires_grad_()
    stored, parts = passed_through(steps, steps.half().double()), []
    for group, part in enumerate(layout.split(source)):
        total = torch.zeros_like(part)
        for k, bits in enumerate(quantizer.precisions):
            half = 0.5 if bits <= 2 else 0.0
            grid = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1, half)
            share = probabilities[group, candidates.index(bits)]
            total = total + share * candidate(part, stored[group, k], 0.0, *grid)
        parts.append(total)
    total = layout.merge(parts)
    total.backward(upstream)
    torch.testing.assert_close(value, total)
    torch.testing.assert_close(weight.grad, source.grad, rtol=1e-10, atol=1e-10)
    highest = torch.tensor([max(2 ** (bits - 1) - 1, 1) for bits in quantizer.precisions])
    factor = (torch.tensor(layout.numel).unsqueeze(1) * highest).double().rsqrt()
    torch.testing.assert_close(quantizer.step.grad, steps.grad * factor, rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize("candidates", CANDIDATES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_the_gradients_of_aq_bert(layout, candidates):
    weight = weight_of(layout).double().requires_grad_()
    quantizer = QUANTIZERS["minmax"](layout, candidates, scale_dtype=torch.float64)
    probabilities = torch.softmax(torch.randn(layout.count, len(candidates), dtype=torch.float64), 1).requires_grad_()
    upstream = torch.randn(layout.shape, dtype=torch.float64)
    quantizer(weight, Choice(probabilities=probabilities)).backward(upstream)
    kept = torch.tensor([bits > 0 for bits in candidates])
    shares = probabilities.detach()[:, kept].sum(1)
    parts = zip(layout.split(weight.detach()), layout.split(upstream), layout.split(weight.grad))
    for group, (part, above, received) in enumerate(parts):
        torch.testing.assert_close(received, shares[group] * above)
        for k, bits in enumerate(candidates):
            q = (2**bits - 1) / (part.max() - part.min())
            value = torch.round(q * (part - part.min())) / q + part.min() if bits else torch.zeros_like(part)
            torch.testing.assert_close(probabilities.grad[group, k], (above * value).sum())


@pytest.mark.parametrize("bits", range(1, 9))
def test_minmax_is_equations_7_and_8_of_aq_bert(bits):
    layout = SubgroupLayout((4, 600), 2)
    levels = torch.randint(0, 2**bits, (4, 600)).float()
    levels[:, 0], levels[:, 1] = 0, 2**bits - 1
    shift = (torch.rand(4, 600) - 0.5) * 0.98 * (torch.arange(600) > 1)
    low = torch.tensor([-1.5, -1.5, 0.25, 0.25]).unsqueeze(1)
    exact = levels / 64 + low  # a range for which every operation is exact in float32
    weight = (exact + shift / 64).clamp(low, low + (2**bits - 1) / 64)
    quantizer = QUANTIZERS["minmax"](layout, (bits,), scale_dtype=torch.float32)
    assert torch.equal(quantizer.candidate(weight, bits), exact)
    assert torch.equal(quantizer.encode(weight, bits)[0], levels.to(torch.uint8))


@pytest.mark.parametrize("name", ["lsq", "minmax"])
def test_backward_keeps_the_weight_alone(name):
    layout = SubgroupLayout((64, 64), 4)
    weight = weight_of(layout).requires_grad_()
    quantizer = quantizer_of(name, layout, (1, 2, 4, 8), weight.detach())
    probabilities, kept = torch.full((4, 4), 0.25, requires_grad=True), []
    with saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        quantizer(weight, Choice(probabilities=probabilities))
    large = [tensor for tensor in kept if tensor.numel() >= weight.numel()]
    assert [tensor.data_ptr() for tensor in large] == [weight.data_ptr()]


def test_the_kept_weight_must_not_be_changed_before_backward():
    weight = weight_of(LAYOUTS["rows"]).requires_grad_()
    value = quantizer_of("lsq", LAYOUTS["rows"], (4,), weight.detach()).candidate(weight, 4)
    with torch.no_grad():
        weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        value.sum().backward()


def test_grid_gradients_are_computed_only_where_learned(monkeypatch):
    asked = []
    plain = mixture_backward.eager
    monkeypatch.setattr(fused_module, "mixture_backward", lambda *rest: asked.append(rest[6]) or plain(*rest))
    for name in ("minmax", "symmetric", "lsq"):
        weight = weight_of(LAYOUTS["rows"]).requires_grad_()
        quantizer_of(name, LAYOUTS["rows"], (4,), weight.detach()).candidate(weight, 4).sum().backward()
    assert asked == [False, False, True]


@pytest.mark.full
def test_compiled_equals_eager():
    if not compiler_present():
        pytest.skip("no C++ compiler")
    lines = int(SMALLEST**0.5) + 3
    layout = SubgroupLayout((lines, lines), 7)
    weight, candidates = weight_of(layout), (0, 1, 2, 4, 8)
    for name in ("lsq", "minmax"):
        quantizer = quantizer_of(name, layout, candidates, weight)
        probabilities = torch.softmax(torch.randn(layout.count, 5), dim=1)
        inputs = [
            t.detach() if t is not None else None
            for t in quantizer.line_parameters(weight, Choice(probabilities=probabilities))[:3]
        ]
        grid = quantizer.line_parameters(weight, Choice(probabilities=probabilities))[3]
        assert torch.equal(mixture_forward(weight, *inputs, grid), mixture_forward.eager(weight, *inputs, grid))
        upstream = torch.randn_like(weight)
        learned = (weight, upstream, *inputs, grid, name == "lsq")
        for ours, theirs in zip(mixture_backward(*learned), mixture_backward.eager(*learned), strict=True):
            if theirs is not None:
                torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-3)


@pytest.fixture
def compilations(monkeypatch):
    """Counts calls of compiled functions instead of compiling."""
    calls = []
    monkeypatch.setattr(torch, "compile", lambda function, **_: lambda *a: calls.append(function) or function(*a))
    monkeypatch.setattr("hf_mpq.weights.compilation.compiler_present", lambda device: True)
    return calls


def test_only_large_tensors_are_compiled(compilations):
    double = compiled_when_large(lambda x: x * 2)
    assert double(torch.ones(SMALLEST - 1)).sum() == 2 * (SMALLEST - 1) and not compilations
    assert double(torch.ones(SMALLEST)).sum() == 2 * SMALLEST and len(compilations) == 1


def test_what_runs_a_few_times_is_not_compiled(compilations):
    double = compiled_when_large(lambda x: x * 2)
    with run_as_written():
        assert double(torch.ones(SMALLEST)).sum() == 2 * SMALLEST
    assert not compilations


def test_square_matrices_and_others_share_what_was_compiled(monkeypatch):
    graphs, compile_ = [], torch.compile
    backend = lambda graph, _: graphs.append(graph) or graph.forward  # noqa: E731
    monkeypatch.setattr(torch, "compile", lambda function, **options: compile_(function, backend=backend, **options))
    monkeypatch.setattr("hf_mpq.weights.compilation.compiler_present", lambda device: True)
    double = compiled_when_large(lambda x, scale: x * 2 * scale)
    for shape in ((300, 300), (300, 400), (500, 300)):
        assert double(torch.ones(shape), torch.ones(shape[0], 1)).sum() == 2 * shape[0] * shape[1]
    assert len(graphs) == 1


def test_a_compiler_that_fails_is_not_asked_again(compilations, monkeypatch):
    asked = []

    def broken(function, **_):
        def call(*rest):
            asked.append(rest)
            raise torch._dynamo.exc.InternalTorchDynamoError("broken")

        return call

    monkeypatch.setattr(torch, "compile", broken)
    double = compiled_when_large(lambda x: x * 2)
    for _ in range(3):
        assert double(torch.ones(SMALLEST)).sum() == 2 * SMALLEST
    assert len(asked) == 1


def test_compiling_can_be_switched_off(monkeypatch):
    monkeypatch.setenv("HF_MPQ_COMPILE", "0")
    compiler_present.cache_clear()
    assert not compiler_present()
    monkeypatch.undo()
    compiler_present.cache_clear()


def test_other_devices_than_the_cpu_need_triton(monkeypatch):
    monkeypatch.setattr("hf_mpq.weights.compilation.find_spec", lambda name: None)
    compiler_present.cache_clear()
    assert not compiler_present("cuda")
    compiler_present.cache_clear()
