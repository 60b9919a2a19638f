"""Traps of plugging into transformers that were found by falling into them: loading, saving, and names."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

import hf_mpq
from hf_mpq import MPQConfig
from hf_mpq.format import PackedFormatError
from hf_mpq.nn import convert
from hf_mpq.nn.matrix import QuantizedMatrix
from hf_mpq.nn.packed import PackedMatrix, PackedTiedLinear
from hf_mpq.nn.walk import matrices
from hf_mpq.plugin import MPQHfQuantizer
from hf_mpq.plugin.skeleton import build_packed
from hf_mpq.weights import ACTIVATIONS, GATES, QUANTIZERS
from tests.plugin.models import (
    close,
    differ,
    mixed_model,
    read_config,
    read_metadata,
    read_tensors,
    reload,
    signed_anew,
    stored_model,
    write_tensors,
)
from tests.processes import run_python
from tests.tiny import HEADS, MOST, VOCABULARY, outputs, tiny_batch, tiny_config, tiny_model
from tests.weights.cases import going_with

STORAGES = ("trainable", "packed")
WITHOUT_THE_IMPORT = """
import json, sys, torch
from transformers import AutoModelForSequenceClassification
model, info = AutoModelForSequenceClassification.from_pretrained(sys.argv[1], output_loading_info=True)
assert "hf_mpq" not in sys.modules
with torch.no_grad():
    logits = model.eval()(torch.tensor(json.loads(sys.argv[2]))).logits
print(json.dumps({"missing": sorted(info["missing_keys"]), "logits": logits.tolist()}))
"""


def test_without_the_import_trainable_storage_is_the_float_model(tmp_path):
    """Without `import hf_mpq` transformers skips the quantization: float masters then load under their usual names."""
    model, ids = tiny_model("bert"), tiny_batch()["input_ids"]
    with torch.no_grad():
        expected = model(ids).logits
    hf_mpq.quantize(model, MPQConfig(bits=4, groups=10)).save_pretrained(tmp_path / "saved")
    result = run_python(["-c", WITHOUT_THE_IMPORT, tmp_path / "saved", json.dumps(ids.tolist())], cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout.splitlines()[-1])
    assert found["missing"] == []
    close([torch.tensor(found["logits"])], [expected])


def test_packed_config_warns_about_the_missing_import(tmp_path):
    """A packed checkpoint read without the import has random weights, so its config.json says what to import."""
    stored_model("packed").save_pretrained(tmp_path / "packed")
    stored_model("trainable").save_pretrained(tmp_path / "trainable")
    assert "import hf_mpq" in read_config(tmp_path / "packed")["quantization_config"]["note"]
    assert "note" not in read_config(tmp_path / "trainable")["quantization_config"]
    reload(tmp_path / "packed").save_pretrained(tmp_path / "again")
    assert read_config(tmp_path / "again") == read_config(tmp_path / "packed")


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("family", MOST)
def test_one_checkpoint_fits_every_head(family, storage, tmp_path):
    """Names are keyed relative to the base model, so that a checkpoint of one head loads under another."""
    for saved, other in (
        ("sequence", "bare"),
        ("token", "bare"),
        ("bare", "sequence"),
        ("masked", "sequence"),
        ("bare", "masked"),
    ):
        model = stored_model(storage, family, saved)
        model.save_pretrained(tmp_path / saved)
        again = reload(tmp_path / saved, other)
        close([model.base_model(**tiny_batch())[0]], [again.base_model(**tiny_batch())[0]], 0)
        assert all(value.isfinite().all() for value in outputs(again))


@pytest.mark.parametrize("family", MOST)
def test_new_decoder_of_a_packed_body_has_a_zero_bias(family, tmp_path, monkeypatch):
    """Transformers initialises new plain layers only: the bias of a new packed decoder is not what was in memory."""
    empty_like = torch.empty_like

    def dirty(like, **options):
        return empty_like(like, **options).fill_(7) if like.is_floating_point() else empty_like(like, **options)

    monkeypatch.setattr(torch, "empty_like", dirty)
    stored_model("packed", family, "bare").save_pretrained(tmp_path)
    decoder = reload(tmp_path, "masked").get_output_embeddings()
    assert isinstance(decoder, PackedTiedLinear)
    assert torch.equal(decoder.bias, torch.zeros(VOCABULARY))


@pytest.mark.parametrize("family", MOST)
def test_packed_layers_expose_their_weight(family):
    """ModernBERT's `_init_weights` reads `.weight` of the children: packed layers decode it, and nothing is drawn."""
    model = stored_model("packed", family, "masked")
    octets = {name: value.clone() for name, value in model.state_dict().items() if value.dtype == torch.uint8}
    layers = [layer for _, layer in matrices(model, PackedMatrix)]
    assert len(layers) > 8
    for layer in layers:
        assert layer.weight.shape == layer.stored.layout.shape and layer.weight.dtype == torch.float32
    model.apply(model._init_weights)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in octets.items())


@pytest.mark.parametrize("storage", STORAGES)
def test_no_attribute_that_peft_takes_for_another_library(storage):
    """PEFT takes `qweight` for GPTQ's and `W_q` for HQQ's, and then reads their devices."""
    for module in stored_model(storage, head="masked").modules():
        assert not {"qweight", "W_q"} & set(dir(module)), type(module).__name__


@pytest.mark.parametrize("family", MOST)
def test_layers_are_built_on_meta(family):
    """Skeletons live on the meta device: no layer may read a value while it is built."""
    table = stored_model("packed", family, "masked").config.quantization_config.packed
    with torch.device("meta"):
        trainable = HEADS["masked"].from_config(tiny_config(family))
        convert(trainable, MPQConfig(bits=(0, 2, 4), attention_bits=8).resolve(trainable))
        packed = HEADS["masked"].from_config(tiny_config(family))
        build_packed(packed, table, torch.float32)
    for model in (trainable, packed):
        assert all(tensor.is_meta for tensor in model.state_dict().values())
        assert all(parameter.is_meta for parameter in model.parameters() if parameter.numel())


@pytest.mark.parametrize(
    "options",
    [{"quantizer": name} for name in QUANTIZERS if name != "nested"]
    + [{"gate": name, **going_with(name)} for name in GATES if name not in ("fixed", "switch")]
    + [{"activation": name} for name in ACTIVATIONS if name != "probabilities"]
    + [{"nested": True, "switchable_norms": True}, {"mask": "element"}],
    ids=lambda options: "-".join(map(str, options.values())),
)
def test_every_registered_part_is_built_on_meta(options):
    """The same for whatever is registered."""
    with torch.device("meta"):
        model = HEADS["sequence"].from_config(tiny_config("bert"))
        convert(model, MPQConfig(**{"bits": (2, 4), "attention_bits": 8, **options}).resolve(model))
    assert sum(isinstance(module, QuantizedMatrix) for module in model.modules()) > 8
    assert all(tensor.is_meta for tensor in model.state_dict().values())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("family", MOST)
def test_half_precision_reload_keeps_the_bytes(family, dtype, tmp_path):
    """Scales are bytes, so no `dtype=` changes them; layers compute in the type that was asked for, on a CPU too."""
    stored_model("packed", family).save_pretrained(tmp_path)
    assert read_config(tmp_path)["dtype"] == "float32"
    exact, half = reload(tmp_path), reload(tmp_path, dtype=dtype)
    assert (exact.dtype, exact.config.dtype, half.dtype, half.config.dtype) == (*[torch.float32] * 2, *[dtype] * 2)
    exact_bytes, half_bytes = exact.state_dict(), half.state_dict()
    packed = [name for name, value in exact_bytes.items() if value.dtype == torch.uint8]
    assert len(packed) > 30 and all(torch.equal(exact_bytes[name], half_bytes[name]) for name in packed)
    for (name, layer), (_, twin) in zip(matrices(exact, PackedMatrix), matrices(half, PackedMatrix), strict=True):
        assert torch.equal(layer.weight.to(dtype), twin.weight), name
    assert outputs(half)[0].dtype == dtype
    assert 0 < (outputs(exact)[0] - outputs(half)[0].float()).abs().max() < 0.06
    half.save_pretrained(tmp_path / "half")
    assert read_tensors(tmp_path).keys() == read_tensors(tmp_path / "half").keys() == exact_bytes.keys()
    assert not [name for name in exact_bytes if "anchor" in name]
    assert read_config(tmp_path / "half")["dtype"] == str(dtype).removeprefix("torch.")
    assert all(torch.equal(read_tensors(tmp_path)[name], read_tensors(tmp_path / "half")[name]) for name in packed)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_packed_models_change_type_in_memory(dtype, tmp_path):
    """`.to(dtype)` changes what is computed, not what is stored, and float32 comes back."""
    model = stored_model("packed")
    before = outputs(model)
    octets = {name: value.clone() for name, value in model.state_dict().items() if value.dtype == torch.uint8}
    assert outputs(model.to(dtype))[0].dtype == dtype
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in octets.items())
    classifier = model.classifier.weight.clone()
    assert differ(before, [value.float() for value in outputs(model)], 0)
    assert outputs(model.to(torch.float32))[0].dtype == torch.float32 and classifier.dtype == dtype


@pytest.mark.parametrize("storage", STORAGES)
def test_save_writes_the_state_dict_of_its_caller(storage, tmp_path):
    """`save_pretrained` replaces its caller's state dict (gathered by FSDP, say) by the quantizer's answer."""
    model = stored_model(storage)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    bias = state["classifier.bias"].add_(5).clone()
    with model.hf_quantizer.saving(state):
        model.save_pretrained(tmp_path / "given", state_dict=state)  # which empties it
    assert torch.equal(read_tensors(tmp_path / "given")["classifier.bias"], bias)
    model.save_pretrained(tmp_path / "own")
    assert torch.equal(read_tensors(tmp_path / "own")["classifier.bias"], model.classifier.bias)
    reload(tmp_path / "given")


@pytest.mark.parametrize("storage", STORAGES)
def test_no_tensor_of_the_body_can_be_missing(storage, tmp_path, monkeypatch):
    """Missing tensors would be drawn at random and the hooks do not hear of it: headers are compared before loading."""
    stored_model(storage).save_pretrained(tmp_path)
    monkeypatch.setattr(MPQHfQuantizer, "_process_model_after_weight_loading", lambda *_, **__: pytest.fail("loaded"))
    whole = read_tensors(tmp_path)
    chosen = [name for name in whole if name.startswith("bert.") and ("layer.1" in name or "embeddings" in name)]
    assert len(chosen) > 20
    for name in chosen:
        rest = {other: value for other, value in whole.items() if other != name}
        write_tensors(tmp_path, rest, signed_anew(tmp_path, rest))
        with pytest.raises(PackedFormatError, match=f"{name.removeprefix('bert.')} is missing"):
            reload(tmp_path)


@pytest.mark.parametrize("storage", STORAGES)
def test_sharded_checkpoints(storage, tmp_path):
    """Headers and digests are read from every shard, and a missing shard is an error."""
    model = stored_model(storage)
    model.save_pretrained(tmp_path, max_shard_size="5KB")
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 2
    close(outputs(model), outputs(reload(tmp_path)), 0)
    shards[1].unlink()
    with pytest.raises((OSError, PackedFormatError), match=shards[1].name):
        reload(tmp_path)


def test_damage_in_any_shard_is_found(tmp_path):
    """Each shard carries the digests of all tensors, so that none is left unchecked."""
    stored_model("packed").save_pretrained(tmp_path, max_shard_size="5KB")
    for shard in sorted(tmp_path.glob("model-*.safetensors")):
        with safe_open(shard, "pt") as file:
            packed = [name for name in file.keys() if file.get_slice(name).get_dtype() == "U8"]  # noqa: SIM118
        if packed:
            _flip_last_byte(shard)
            with pytest.raises(PackedFormatError):
                reload(tmp_path)
            _flip_last_byte(shard)
    reload(tmp_path)


def _flip_last_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 255
    path.write_bytes(content)


@pytest.mark.parametrize("family", MOST)
def test_config_stays_small(family, tmp_path):
    """A map in config.json would grow with the sub-groups and exist twice: it is a tensor only."""
    sizes = {}
    for groups in (10, "channel"):
        stored_model("packed", family, groups=groups).save_pretrained(tmp_path / str(groups))
        config = read_config(tmp_path / str(groups))["quantization_config"]
        assert len(config.pop("resolved")) <= 20, "one line for all layers alike"
        assert max(map(len, _number_lists(config))) <= 4
        sizes[groups] = (tmp_path / str(groups) / "config.json").stat().st_size
        assert len(json.dumps(config["packed"])) < 400 * len(config["packed"]["matrices"])
    assert abs(sizes[10] - sizes["channel"]) < 1000
    assert "assignment" not in config
    maps = [name for name in read_tensors(tmp_path / "10") if name.endswith(".map")]
    again = reload(tmp_path / "10")
    assert len(maps) == sum(spec.stored.map_bits > 0 for _, spec in matrices(again, PackedMatrix)) > 0
    assert set(json.loads(read_metadata(tmp_path / "10")["mpq_digests"]).values()) == set(_digests(again))


def _number_lists(content) -> list[list]:
    if isinstance(content, dict):
        return [found for value in content.values() for found in _number_lists(value)]
    if isinstance(content, list):
        numbers = [item for item in content if isinstance(item, int)]
        return [numbers, *(found for value in content for found in _number_lists(value))]
    return []


def _digests(model) -> list[str]:
    _, metadata = model.hf_quantizer.get_state_dict_and_metadata(model)
    return list(json.loads(metadata["mpq_digests"]).values())


def test_trainable_reload_of_a_mixed_model_keeps_gates_and_scales(tmp_path):
    """Resuming reads gates, scales and folds as they were, not as a new calibration would set them."""
    model = mixed_model(quantizer="lsq")
    with torch.no_grad():
        for _, layer in matrices(model):
            layer.program.quantizer.step *= 1.37
    model.save_pretrained(tmp_path)
    close(outputs(model), outputs(reload(tmp_path)), 0)
