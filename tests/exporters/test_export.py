"""Exports, run by the runtimes they are for."""

import re
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

import hf_mpq
from hf_mpq.exporters import base
from hf_mpq.nn import MPQLinear
from hf_mpq.runtime.int8.product import unsupported
from tests.processes import run_python
from tests.tiny import FAMILIES, HEADS, MOST, tiny_batch, tiny_model

pytest.importorskip("compressed_tensors", reason="pip install 'hf_mpq[interop]'")  # first: openvino's telemetry forks
onnx = pytest.importorskip("onnx", reason="pip install 'hf_mpq[onnx]'")
runtime = pytest.importorskip("onnxruntime", reason="pip install onnxruntime")
openvino = pytest.importorskip("openvino", reason="pip install 'hf_mpq[openvino]'")
pytestmark = pytest.mark.filterwarnings("ignore")
traced = pytest.mark.skipif(bool(base.unmet("onnx")), reason=str(base.unmet("onnx")))

CLOSE = 0.05
"""Of the largest output: one range for each tensor instead of each token, and levels that round the other way."""


def packed(family="bert", head="sequence", changes=None, pruned=False, **fields):
    """A tiny packed model; `pruned` has some feed-forward rows and one whole head of every layer at 0 bits."""
    model = hf_mpq.quantize(tiny_model(family, head, **(changes or {})), hf_mpq.MPQConfig(**{"bits": 4, **fields}))
    if pruned:
        _prune(model)
    return hf_mpq.pack(model).eval()


def _prune(model):
    for name, layer in model.named_modules():
        if isinstance(layer, MPQLinear) and layer.program.gate.searching:
            logits, rows = layer.program.gate.logits.data, layer.program.gate.logits.shape[0]
            logits.zero_()[:, 1] = 5.0
            if name.endswith(("query", "key", "value")):
                logits[: rows // 4, 0] = 9.0
            elif name.endswith("intermediate.dense"):
                logits[::3, 0] = 9.0


@torch.no_grad()
def wanted(model, batch):
    return [value for value in model(**batch).values() if isinstance(value, torch.Tensor)]


def run_onnx(folder: Path, batch, exactly=False):
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1  # others wait by running, which takes the time of what is tested beside this
    options.add_session_config_entry("session.x64quantprecision", "1")  # without VNNI, sums would be clipped
    if exactly:  # where weights alone are integers, the runtime rounds activations too unless it is told not to
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = runtime.InferenceSession(str(folder / "model.onnx"), options)
    return [torch.from_numpy(one) for one in session.run(None, _feed(batch, [i.name for i in session.get_inputs()]))]


def run_openvino(folder: Path, batch, exactly=False):
    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    if exactly:  # it rounds activations too, as above
        options["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = 0
    model = openvino.compile_model(folder / "openvino_model.xml", "CPU", options)
    found = model(_feed(batch, [one.any_name for one in model.inputs]))
    return [torch.from_numpy(found[number]) for number in range(len(found))]


def _feed(batch, names):
    empty = torch.zeros_like(batch["input_ids"])
    return {name: batch.get(name, empty).numpy() for name in names}


def assert_alike(found, expected, close=CLOSE):
    assert len(found) == len(expected)
    for got, want in zip(found, expected):
        assert_close(got, want, rtol=0, atol=close * float(want.abs().max()))


@pytest.mark.parametrize("activations", ["dynamic", "static", "float"])
@pytest.mark.parametrize("family", MOST)
@traced
def test_onnx(family, activations, tmp_path):
    model, batch = packed(family), tiny_batch()
    folder = hf_mpq.export(model, "onnx", tmp_path, activations=activations, calibration=[batch])
    assert_alike(run_onnx(folder, batch), wanted(model, batch))


@pytest.mark.parametrize("activations", ["trained", "dynamic"])
@traced
def test_shared_layers_at_8_bits(activations, tmp_path):
    """The same levels are read by several operators."""
    model, batch = packed("albert", bits=8), tiny_batch()
    folder = hf_mpq.export(model, "onnx", tmp_path, activations=activations)
    assert_alike(run_onnx(folder, batch), wanted(model, batch))
    stored = onnx.load(str(folder / "model.onnx")).graph.initializer
    assert sorted(list(one.dims) for one in stored if 56 in one.dims and len(one.dims) == 2) == [[32, 56], [56, 32]]


PER_TOKEN = (
    {},
    {"activation_options": {"symmetric": True}},
    {"activation_bits": 5, "rules": {"query|intermediate": {"activation_bits": 3}}},
    {"bits": (0, 4), "pruned": True},
)


@pytest.mark.parametrize(
    "family, fields",
    [
        case
        if "bert" in case or case in (("deberta-v2", PER_TOKEN[0]), ("distilbert", PER_TOKEN[-1]))
        else pytest.param(*case, marks=pytest.mark.full)
        for case in product(("bert", "distilbert", "deberta-v2"), PER_TOKEN)
    ],
    ids=str,
)
@traced
def test_a_range_for_each_token_as_trained(family, fields, tmp_path):
    model = packed(family, **fields)
    folder = hf_mpq.export(model, "onnx", tmp_path, activations="trained")
    for batch in (tiny_batch(), tiny_batch(rows=1, tokens=5)):
        assert_alike(run_onnx(folder, batch), wanted(model, batch), 0.01)


SOON = [("bert", "static"), ("bert", "float"), ("deberta-v2", "static"), ("modernbert", "float"), ("albert", "static")]


@pytest.mark.parametrize(
    "family, activations",
    [
        case if case in SOON else pytest.param(*case, marks=pytest.mark.full)
        for case in product(FAMILIES, ("static", "float"))
    ],
)
@traced
def test_openvino(family, activations, tmp_path):
    if activations == "static" and unsupported() is not None:
        pytest.skip("OpenVINO's sums of 8-bit products are clipped on this CPU")
    model, batch = packed(family), tiny_batch()
    folder = hf_mpq.export(model, "openvino", tmp_path, activations=activations, calibration=[batch])
    assert_alike(run_openvino(folder, batch), wanted(model, batch))
    assert sorted(file.name for file in folder.iterdir()) == ["config.json", "openvino_model.bin", "openvino_model.xml"]


@pytest.mark.parametrize("head", HEADS)
@traced
def test_onnx_has_the_outputs_of_every_head(head, tmp_path):
    model, batch = packed(head=head), tiny_batch()
    folder = hf_mpq.export(model, "onnx", tmp_path, activations="float")
    session = runtime.InferenceSession(str(folder / "model.onnx"))
    assert [one.name for one in session.get_outputs()] == list(model(**batch).keys())
    assert_alike(run_onnx(folder, batch), wanted(model, batch))


@pytest.mark.parametrize(
    "family, types, asked",
    [
        ("bert", 2, True),
        ("bert", 1, False),
        ("deberta-v2", 2, True),
        ("roberta", 2, False),
        ("xlm-roberta", 2, False),
        ("xlm-roberta", 1, False),
    ],
)
@traced
def test_inputs_are_those_that_the_tokenizer_gives(family, types, asked, tmp_path, tokenizer):
    model, batch = packed(family, changes={"type_vocab_size": types}), tiny_batch()
    names = ["input_ids", "attention_mask", *["token_type_ids"][:asked]]
    folder = hf_mpq.export(model, "onnx", tmp_path / "without", activations="float")
    assert [one.name for one in runtime.InferenceSession(str(folder / "model.onnx")).get_inputs()] == names
    assert_alike(run_onnx(folder, batch), wanted(model, batch))
    if types > 1:
        folder = hf_mpq.export(model, "onnx", tmp_path / "with", activations="float", tokenizer=tokenizer)
        names = [one.name for one in runtime.InferenceSession(str(folder / "model.onnx")).get_inputs()]
        assert set(names) == set(tokenizer.model_input_names)


@pytest.mark.parametrize(
    "head, labels, axes",
    [("sequence", 9, ["batch", 9]), ("sequence", 10, ["batch", 10]), ("token", 9, ["batch", "tokens", 9])],
)
@traced
def test_labels_are_not_taken_for_tokens(head, labels, axes, tmp_path):
    folder = hf_mpq.export(packed(head=head, changes={"num_labels": labels}), "onnx", tmp_path, activations="float")
    (output,) = onnx.load(str(folder / "model.onnx")).graph.output
    assert [one.dim_param or one.dim_value for one in output.type.tensor_type.shape.dim] == axes


@pytest.mark.parametrize("format", ["onnx", "openvino", "dense", "compressed-tensors"])
@pytest.mark.parametrize("family", ["bert", pytest.param("deberta-v2", marks=pytest.mark.full)])
@traced
def test_attention_that_becomes_float_is_told(family, format, tmp_path):
    model, batch = packed(family, bits=8, attention_bits=8), tiny_batch()
    with pytest.warns(UserWarning, match="attention_bits are left out") as told:
        folder = hf_mpq.export(model, format, tmp_path, activations="float")
    assert told[-1].filename == __file__
    if format == "onnx":
        assert_alike(run_onnx(folder, batch, exactly=True), wanted(model, batch), 0.08)


@pytest.mark.parametrize(
    "fields",
    [
        {"quantizer": "minmax"},
        {"activation_bits": 5},
        {"activation_options": {"symmetric": True}},
        {"bits": 8},
        {"groups": "columns:4"},
        {"bits": (2, 4, 8), "nested": True},
        {"bits": 2},
        {"activation_bits": None},
        {"embedding_bits": None},
        {"changes": {"type_vocab_size": 1}},
    ],
    ids=str,
)
@traced
def test_onnx_of_every_kind_of_code(fields, tmp_path):
    model, batch = packed(**fields), tiny_batch()
    folder = hf_mpq.export(model, "onnx", tmp_path, calibration=[batch])
    assert_alike(run_onnx(folder, batch), wanted(model, batch), 0.08 if "activation_bits" in fields else CLOSE)
    nodes = [node for node in onnx.load(folder / "model.onnx").graph.node if node.op_type == "DequantizeLinear"]
    assert nodes and all(len(node.input) == 3 for node in nodes), "zero points, without which no session can be exact"


@traced
def test_float_activations_leave_only_exact_weights(tmp_path):
    model, batch = packed(activation_bits=None), tiny_batch()
    folder = hf_mpq.export(model, "onnx", tmp_path)
    assert_alike(run_onnx(folder, batch, exactly=True), wanted(model, batch), 1e-5)


@traced
def test_ranges_of_training_are_kept(tmp_path):
    model = hf_mpq.quantize(tiny_model("bert"), hf_mpq.MPQConfig(bits=8, activation="static"))
    hf_mpq.nn.calibrate_activations(model, [tiny_batch()])
    model = hf_mpq.pack(model).eval()
    folder = hf_mpq.export(model, "onnx", tmp_path)
    steps = {tuple(numbers.shape) for numbers in _initializers(folder) if numbers.dtype == np.uint8}
    assert steps == {()}
    assert_alike(run_onnx(folder, tiny_batch()), wanted(model, tiny_batch()), 0.01)


@pytest.mark.full
@pytest.mark.parametrize("format, run", [("onnx", run_onnx), ("openvino", run_openvino)])
@traced
def test_a_learned_basis_of_inputs_is_exact(format, run, tmp_path):
    config = hf_mpq.MPQConfig(bits=4, quantizer="basis", activation="basis", activation_bits=4)
    model = hf_mpq.quantize(tiny_model("bert", num_hidden_layers=1), config)
    hf_mpq.nn.calibrate_activations(model, [tiny_batch()])
    hf_mpq.pack(model)
    folder = hf_mpq.export(model, format, tmp_path)
    assert_alike(run(folder, tiny_batch()), wanted(model, tiny_batch()), 1e-5)


@pytest.mark.parametrize("format, run", [("onnx", run_onnx), ("openvino", run_openvino)])
@traced
def test_any_batch_and_length(format, run, tmp_path):
    model = packed()
    folder = hf_mpq.export(model, format, tmp_path, activations="float")
    for rows, tokens in [(1, 5), (4, 17), (2, 33)]:
        batch = tiny_batch(rows, tokens)
        assert_alike(run(folder, batch), wanted(model, batch))


def _initializers(folder):
    return [onnx.numpy_helper.to_array(one) for one in onnx.load(str(folder / "model.onnx")).graph.initializer]


@traced
def test_what_is_pruned_is_gone(tmp_path):
    model, batch = packed(bits=(0, 4), pruned=True), tiny_batch()
    folder = hf_mpq.export(model, "onnx", tmp_path / "onnx", calibration=[batch])
    assert_alike(run_onnx(folder, batch), wanted(model, batch))
    shapes = {values.shape for values in _initializers(folder)}
    assert (32, 24) in shapes and (24, 32) in shapes, "three heads of four"
    assert (32, 56) not in shapes
    files = [
        hf_mpq.export(one, "dense", tmp_path / name) / "model.safetensors"
        for name, one in (("pruned", model), ("whole", packed()))
    ]
    assert files[0].stat().st_size < files[1].stat().st_size


@pytest.mark.parametrize("bits", [4, 8])
@traced
def test_files_are_as_small_as_reported(bits, tmp_path):
    changes = {"vocab_size": 3000, "hidden_size": 128, "intermediate_size": 512}
    model = packed(bits=bits, embedding_bits=bits, changes=changes)
    batch, reported = tiny_batch(), hf_mpq.size_report(model).total_bytes
    for format, file in (("onnx", "model.onnx"), ("openvino", "openvino_model.bin")):
        folder = hf_mpq.export(model, format, tmp_path / format, calibration=[batch])
        run = run_onnx if format == "onnx" else run_openvino
        if format == "onnx" or unsupported() is None:  # sums of 8-bit products are clipped without VNNI
            assert_alike(run(folder, batch), wanted(model, batch))
        assert (folder / file).stat().st_size < 1.05 * reported + 100_000, "a graph of some 80 kB"


LOADER = """
import sys, torch
from transformers import AutoModelForSequenceClassification
batch = torch.load(sys.argv[1])
for folder in sys.argv[2:]:
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        torch.save(model(**batch).logits, folder + "/logits.pt")
assert "hf_mpq" not in sys.modules
"""


def test_plain_transformers_loads_checkpoints(tmp_path):
    torch.save(tiny_batch(), tmp_path / "batch.pt")
    cases = {"bert": {}, "albert": {}, "deberta-v2": {"bits": 8}, "distilbert": {"quantizer": "minmax"}}
    models = {family: packed(family, **fields) for family, fields in cases.items()}
    folders = [
        hf_mpq.export(model, format, tmp_path / f"{family}-{format}")
        for family, model in models.items()
        for format in ("dense", "compressed-tensors", "w8a8")
    ]
    models["modernbert"] = packed("modernbert", activation_bits=None)
    folders.append(hf_mpq.export(models["modernbert"], "dense", tmp_path / "modernbert-dense"))
    done = run_python(["-c", LOADER, tmp_path / "batch.pt", *folders])
    assert done.returncode == 0, done.stderr[-2000:]
    assert "MISSING" not in done.stderr and "UNEXPECTED" not in done.stderr
    for folder in folders:
        model = models[re.sub("-(dense|compressed-tensors|w8a8)$", "", folder.name)]
        assert_alike([torch.load(folder / "logits.pt")], wanted(model, tiny_batch()))
    sizes = [sum(file.stat().st_size for file in folder.glob("*.safetensors")) for folder in folders]
    for large, small, octets in zip(sizes[::3], sizes[1::3], sizes[2::3]):
        assert small < 0.6 * large and octets < 0.65 * large


@traced
def test_the_model_stays_as_it_is_and_the_tokenizer_comes_along(tmp_path, tokenizer):
    model, batch = packed(), tiny_batch()
    before = wanted(model, batch)
    for format in ("onnx", "dense", "compressed-tensors"):
        hf_mpq.export(model, format, tmp_path / format, tokenizer=tokenizer)
        assert (tmp_path / format / "tokenizer.json").exists() and (tmp_path / format / "config.json").exists()
        assert "mpq" not in (tmp_path / format / "config.json").read_text()
    assert all(torch.equal(got, want) for got, want in zip(wanted(model, batch), before))


@traced
def test_what_cannot_be_exported_says_why(tmp_path, monkeypatch):
    with pytest.raises(
        ValueError, match="compressed-tensors, ctranslate2, dense, executorch, gguf, onnx, onnx-nbits, openvino"
    ):
        hf_mpq.export(packed(), "coreml", tmp_path)
    with pytest.raises(ValueError, match=r"hf_mpq\.pack"):
        hf_mpq.export(tiny_model("bert"), "onnx", tmp_path)
    with pytest.raises(ValueError, match="calibration="):
        hf_mpq.export(packed(), "onnx", tmp_path, activations="static")
    with pytest.raises(ValueError, match="calibration="):
        hf_mpq.export(packed(), "openvino", tmp_path)
    with pytest.raises(ValueError, match="fixed activation ranges"):
        hf_mpq.export(packed(), "openvino", tmp_path, activations="trained")
    with pytest.raises(ValueError, match="dense"):
        hf_mpq.export(packed("modernbert"), "compressed-tensors", tmp_path)
    with pytest.raises(ValueError, match="static, dynamic, trained, float"):
        hf_mpq.export(packed(), "onnx", tmp_path, activations="int4")
    monkeypatch.setattr("hf_mpq._extras.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'hf_mpq\[openvino\]'"):
        hf_mpq.export(packed(), "openvino", tmp_path)


@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_an_old_transformers_is_named(format, tmp_path, monkeypatch):
    monkeypatch.setattr(base.transformers, "__version__", "5.8.1")
    with pytest.raises(ImportError, match=r"needs transformers 5\.9 or newer, this is 5\.8\.1: pip install -U trans"):
        hf_mpq.export(packed(), format, tmp_path / "out")
    assert not (tmp_path / "out").exists()
