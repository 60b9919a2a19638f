"""ONNX files whose matrices stay at few bits, and the folder of transformers.js, run by ONNX Runtime."""

import json

import pytest
import torch
from torch.testing import assert_close

import hf_mpq
from hf_mpq.exporters.base import unmet
from hf_mpq.exporters.onnx_blocks import BlockLinear
from hf_mpq.nn import PackedLinear
from tests.tiny import tiny_batch, tiny_model

onnx = pytest.importorskip("onnx", reason="pip install 'hf_mpq[onnx]'")
runtime = pytest.importorskip("onnxruntime", reason="pip install onnxruntime")
pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(bool(unmet("onnx-nbits")), reason=str(unmet("onnx-nbits"))),
]

KINDS = (
    {"bits": 2},
    {"bits": 2, "quantizer": "minmax"},
    {"bits": 4},
    {"bits": 4, "quantizer": "minmax"},
    {"bits": 8},
    {"bits": 4, "groups": "columns:4"},
    {"bits": (2, 4, 8), "nested": True},
)


def packed(family="bert", changes=None, **fields):
    config = hf_mpq.MPQConfig(**{"activation_bits": None, **fields})
    return hf_mpq.pack(hf_mpq.quantize(tiny_model(family, **(changes or {})), config)).eval()


def run_onnx(file, batch):
    options = runtime.SessionOptions()
    options.add_session_config_entry(
        "session.x64quantprecision", "1"
    )  # without VNNI, sums of 8-bit products would be clipped
    session = runtime.InferenceSession(str(file), options)
    empty = torch.zeros_like(batch["input_ids"])
    feed = {one.name: batch.get(one.name, empty).numpy() for one in session.get_inputs()}
    return torch.from_numpy(session.run(None, feed)[0])


def widths(file) -> set[int]:
    """Bits of the products in a file."""
    products = [node for node in onnx.load(str(file)).graph.node if node.op_type == "MatMulNBits"]
    return {one.i for node in products for one in node.attribute if one.name == "bits"}


@pytest.mark.parametrize("fields", KINDS, ids=str)
def test_blocks_have_the_weights_of_the_layer(fields):
    for module in packed(changes={"num_hidden_layers": 1}, **fields).modules():
        if isinstance(module, PackedLinear):
            close = 0.005 if "groups" in fields else 1e-6
            want = module.full_weight()
            assert_close(BlockLinear(module, 1).weight, want, rtol=0, atol=close * float(want.abs().max()))


CASES = [("bert", one) for one in KINDS] + [("deberta-v2", KINDS[2])]


@pytest.mark.parametrize(
    "family, fields",
    [case if case[1] in (KINDS[0], KINDS[3]) else pytest.param(*case, marks=pytest.mark.full) for case in CASES],
    ids=str,
)
def test_onnx_runtime_answers_as_the_model(family, fields, tmp_path):
    model, batch = packed(family, **fields), tiny_batch()
    folder = hf_mpq.export(model, "onnx-nbits", tmp_path, activations="float")
    with torch.no_grad():
        want = model(**batch).logits
    close = 0.02 if "groups" in fields else 1e-3
    assert_close(run_onnx(folder / "model.onnx", batch), want, rtol=0, atol=close * float(want.abs().max()))
    if fields == {"bits": 2}:
        assert 2 in widths(folder / "model.onnx")


def test_each_matrix_has_the_bits_that_it_needs_and_inputs_are_rounded(tmp_path, capfd):
    model = packed(bits=2, activation_bits=8, rules={"query": {"bits": 4}, "output.dense": {"bits": 8}})
    batch = tiny_batch()
    folder = hf_mpq.export(model, "onnx-nbits", tmp_path)
    assert "shape inference" not in capfd.readouterr().err
    assert widths(folder / "model.onnx") == {2, 4, 8}
    with torch.no_grad():
        want = model(**batch).logits
    assert_close(run_onnx(folder / "model.onnx", batch), want, rtol=0, atol=0.05 * float(want.abs().max()))


def test_the_folder_of_transformers_js(tmp_path, tokenizer):
    model, batch = packed(bits=4, activation_bits=8), tiny_batch()
    folder = hf_mpq.export(model, "transformers.js", tmp_path, tokenizer=tokenizer)
    found = {str(one.relative_to(folder)) for one in folder.rglob("*") if one.is_file()}
    assert found >= {"config.json", "onnx/model_quantized.onnx", "tokenizer.json", "tokenizer_config.json"}
    assert "quantization_config" not in json.loads((folder / "config.json").read_text())
    with torch.no_grad():
        want = model(**batch).logits
    assert_close(
        run_onnx(folder / "onnx" / "model_quantized.onnx", batch), want, rtol=0, atol=0.05 * float(want.abs().max())
    )


def test_dynamic_ranges_become_one_operator(tmp_path):
    """ONNX Runtime fuses what is written into its own `DynamicQuantizeMatMul`."""
    folder = hf_mpq.export(packed(bits=4, activation_bits=8), "onnx", tmp_path, activations="dynamic")
    options = runtime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    runtime.InferenceSession(str(folder / "model.onnx"), options)
    kinds = {node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node}
    assert kinds & {"DynamicQuantizeMatMul", "MatMulIntegerToFloat"}, kinds
