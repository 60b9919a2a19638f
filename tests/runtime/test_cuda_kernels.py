"""The Triton kernels against torch's operators: on a GPU, elsewhere by Triton's interpreter where it is installed."""

import os
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec

import pytest
import torch
from torch.testing import assert_close

import hf_mpq
from hf_mpq.core import SubgroupLayout
from hf_mpq.nn import PackedLinear
from hf_mpq.nn.packing import pack_matrix
from hf_mpq.runtime import CompactLinear
from hf_mpq.runtime.cuda import PlanesProduct, TensorCoreProduct, kernels_for
from hf_mpq.runtime.cuda.codes import fixed_grid, plain_codes
from hf_mpq.runtime.cuda.planes import PlaneTable
from tests.nn.cases import LAYOUTS, linear_of
from tests.nn.test_packed_layers import with_dead
from tests.runtime.test_cuda import GRIDS, MIXING, on, prepared, quantized, with_rank
from tests.tiny import tiny_batch, tiny_model

TRITON, GPU = find_spec("triton") is not None, torch.cuda.is_available()
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = torch.device("cuda" if GPU else "cpu")
FEW_BITS = (0, 2, 3, 4)
TALL = SubgroupLayout((40, 300), 11)
runs = pytest.mark.skipif(
    not TRITON or not (GPU or INTERPRETED),
    reason="triton is not installed" if not TRITON else "no GPU; TRITON_INTERPRET=1 interprets them",
)


@pytest.mark.skipif(not TRITON, reason="triton is not installed: pip install triton")
@pytest.mark.skipif(GPU or INTERPRETED, reason="the kernels run in this process")
def test_the_interpreter_agrees():
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-x", __file__]
    found = subprocess.run(command, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout[-3000:]


TYPES = {
    "x": "*fp16",
    "y": "*fp16",
    "levels": "*i8",
    "codes": "*u8",
    "sums": "*i32",
    "steps": "*fp32",
    "zeros": "*i32",
    "fixed_step": "*fp32",
    "fixed_zero": "*i32",
    "column_sum": "*i32",
    "scale": "*fp32",
    "offset": "*fp32",
    "bias": "*fp32",
}
TABLES = {"tiles": "*i64", "starts": "*i64", "rows": "*i64", "columns": "*i64"}
TILE = {"OFFSETS": True, "PER_TOKEN": True, "TOKENS": 16}
UNPACK = TILE | {"GATHERED": True, "PLANES": 4, "LINES": 16, "BYTES": 16}
GRID = {"PER_TOKEN": True, "SYMMETRIC": False, "TOP": 255, "SHIFT": 128, "INVERSE": True, "BLOCK": 1024}
COMPILED = {
    "quantize": ("_quantize", TYPES, GRID),
    "finish": ("_finish", TYPES, TILE | {"ROWS": 128}),
    "unpack, int8": ("_unpack", TYPES | TABLES | {"x": "*i8"}, UNPACK | {"INTEGER": True}),
    "unpack, float16": ("_unpack", TYPES | TABLES, UNPACK | {"INTEGER": False}),
}


@pytest.mark.skipif(not TRITON or INTERPRETED, reason="interpreted" if INTERPRETED else "triton is not installed")
@pytest.mark.parametrize("name", COMPILED)
def test_the_kernels_compile_for_a_gpu_that_is_not_here(name):
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    function, types, constants = COMPILED[name]
    kernel = getattr(import_module(f"hf_mpq.runtime.cuda.kernels.{name.split(',')[0]}"), function)
    signature = {one: "constexpr" if one in constants else types.get(one, "i32") for one in kernel.arg_names}
    values = {(kernel.arg_names.index(one),): value for one, value in constants.items()}
    text = compile(ASTSource(kernel, signature, values), target=GPUTarget("cuda", 80, 32)).asm["ptx"]
    assert ("mma.sync" in text) == (function == "_unpack")  # the tensor cores' instruction


@pytest.fixture
def kernels():
    return kernels_for(DEVICE)


def inputs(*shape, dtype=torch.float32):
    return (torch.randn(shape) + 0.3).to(DEVICE, dtype)


@runs
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("activation", GRIDS.values(), ids=GRIDS)
def test_levels_are_equal(activation, dtype, kernels):
    x = inputs(9, 11, dtype=dtype)
    x[1], x[2], x[3], x[4, 3], x[5] = 0, -x[2].abs(), x[3].abs(), 3e4, torch.arange(11) / 2
    quantizer = quantized(linear_of(LAYOUTS["channel"]), activation, x[:, :].float() / 2).input_quantizer
    want = plain_codes(quantizer, x, 16, 32)
    got = kernels.input_codes(quantizer, fixed_grid(quantizer, DEVICE), x, 16, 32)
    assert torch.equal(got.levels[:9], want.levels[:9]) and got.levels.shape == (32, 16)
    assert torch.equal(got.step, want.step) and torch.equal(got.zero, want.zero)


@runs
@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("activation", ["per token", "per token, symmetric", "static", "static, symmetric"])
def test_a_token_that_is_no_number_stays_none(activation, number, kernels):
    x = inputs(3, 11)
    x[1, 4] = number
    layer = quantized(linear_of(LAYOUTS["channel"]), GRIDS[activation], inputs(2, 11))
    found = TensorCoreProduct(layer, kernels)(x).isfinite()
    assert not found[1].any() and found[[0, 2]].all()


def assert_alike(layer, x, kernels):
    fused, plain = TensorCoreProduct(layer, kernels), TensorCoreProduct(layer)
    assert_close(fused(x), plain(x), rtol=1e-6, atol=1e-6)
    return fused


@runs
@pytest.mark.parametrize("tokens", [1, 5, 16, 17, 32, 33, 70])
@pytest.mark.parametrize("activation", ["per token", "static, symmetric", "static"])
@pytest.mark.parametrize("candidates", [FEW_BITS, (8,)], ids=str)
def test_outputs_are_those_of_plain_operators(candidates, activation, tokens, kernels):
    x = inputs(tokens, 300)
    layer = quantized(linear_of(TALL, candidates, quantizer="minmax"), GRIDS[activation], x)
    assert (assert_alike(layer, x, kernels).table is None) == (candidates == (8,))


@runs
@pytest.mark.parametrize("candidates", [(1,), (2,), (3,), (4,), (0,), (1, 2, 3, 8), FEW_BITS], ids=str)
@pytest.mark.parametrize("name", MIXING)
def test_planes_of_every_kind(name, candidates, kernels):
    layer = quantized(linear_of(TALL, candidates, quantizer=name), GRIDS["per token"], inputs(3, 300))
    assert (assert_alike(layer, inputs(7, 300), kernels).table is None) == (candidates == (0,))


@runs
def test_codes_may_lie_anywhere_in_their_storage(kernels):
    layer = quantized(linear_of(TALL, FEW_BITS), GRIDS["per token"], inputs(3, 300))
    codes = layer.codes
    layer._buffers["codes"] = torch.cat([codes.new_zeros(24), codes])[24:]
    assert assert_alike(layer, inputs(7, 300), kernels).table is not None


@runs
@pytest.mark.parametrize("dead", [[], [0, 3, 4, 10], list(range(11))], ids=str)
@pytest.mark.parametrize("rank", [0, 3])
@pytest.mark.parametrize("name", ["minmax", "symmetric"])
def test_dead_columns_corrections_and_removed_rows(name, rank, dead, kernels):
    layer = with_dead(linear_of(LAYOUTS["uneven rows"], FEW_BITS, quantizer=name, rank=rank), dead, [2, 9])
    layer = quantized(with_rank(layer) if rank else layer, GRIDS["per token"], inputs(3, 11))
    assert (assert_alike(layer, inputs(7, 11), kernels).table is None) == (len(dead) == 11)
    rows, columns = torch.arange(13) % 4 != 1, torch.ones(11, dtype=torch.bool)
    columns[dead[1:]] = False
    small = CompactLinear.of(layer, rows.to(DEVICE), columns.to(DEVICE))
    product, x = assert_alike(small, inputs(7, len(small.kept_columns)), kernels), inputs(7, len(small.kept_columns))
    assert_close(product(x), small(x), rtol=1e-4, atol=1e-5)


@runs
@pytest.mark.parametrize(
    "dtype",
    [
        torch.float32,
        torch.float16,
        pytest.param(
            torch.bfloat16,
            marks=pytest.mark.skipif(
                not GPU, reason="no GPU; Triton's interpreter multiplies the bits of bfloat16 as integers"
            ),
        ),
    ],
)
@pytest.mark.parametrize("name", MIXING)
def test_float_inputs(name, dtype, kernels):
    layer = with_dead(linear_of(TALL, FEW_BITS, quantizer=name, rank=2), [0, 7, 8, 299])
    layer.set_low_rank(0.05 * torch.randn(40, 2), 0.05 * torch.randn(2, 300))
    layer = pack_matrix(layer).eval().to(DEVICE, dtype)
    x, decoded = inputs(2, 3, 300, dtype=dtype), torch.nn.functional.linear
    want = decoded(x.double(), layer.full_weight().double(), layer.bias.double())
    product = PlanesProduct.of(layer, kernels, layer.forward)
    assert isinstance(product, PlanesProduct)
    tolerance = {torch.float32: 1e-5, torch.float16: 3e-3, torch.bfloat16: 2e-2}[dtype] * float(want.abs().max())
    assert_close(product(x).double(), want, rtol=0, atol=tolerance)
    many = inputs(40, 300, dtype=dtype)
    assert torch.equal(product(many), layer(many))


@runs
def test_eight_bits_are_not_worth_unpacking(kernels):
    layer = pack_matrix(linear_of(TALL, (8,))).to(DEVICE)
    assert PlaneTable.of(layer) is None and PlanesProduct.of(layer, kernels, layer.forward) == layer.forward


@runs
@pytest.mark.parametrize("rows, tokens", [(1, 5), (3, 11)])
@pytest.mark.parametrize("activation_bits", [8, None])
def test_whole_models(activation_bits, rows, tokens):
    config = hf_mpq.MPQConfig(bits=4, activation_bits=activation_bits)
    model = hf_mpq.pack(hf_mpq.quantize(tiny_model("bert"), config)).eval().to(DEVICE)
    batch = on(DEVICE, tiny_batch(rows, tokens))
    with torch.no_grad():
        want = model(**batch).logits
        got = prepared(model)(**batch).logits
    assert_close(got, want, rtol=0, atol=(1e-4 if activation_bits is None else 0.1) * float(want.abs().max()))
    planes = [layer.prepared["cuda"] for layer in model.modules() if isinstance(layer, PackedLinear)]
    assert any(isinstance(one, PlanesProduct) or getattr(one, "table", None) is not None for one in planes)
