"""Fewer planes out of one file: `hf_mpq.extract`, and `from_pretrained(folder, bits=...)`."""

import json
import os
import shutil

import pytest
import safetensors
import torch
from safetensors import safe_open
from transformers import AutoTokenizer, pipeline

import hf_mpq
from hf_mpq import MPQConfig
from hf_mpq.format import Digests, PackedFormatError, verify
from hf_mpq.nn.packed import PackedMatrix
from hf_mpq.nn.precision import used_precisions
from hf_mpq.nn.walk import matrices
from hf_mpq.plugin.folder import weight_files
from hf_mpq.plugin.space import space_of
from tests.plugin.models import (
    as_version_1,
    read_config,
    read_metadata,
    read_tensors,
    reload,
    signed_anew,
    write_tensors,
)
from tests.plugin.test_precisions import MIXED, nested_model, same
from tests.tiny import HEADS, MOST, outputs, tiny_model

ASKED = {"8": 8, "4": 4, "2": 2, "mixed": MIXED, "bits": "3bits", "bytes": "19kB", "share": "0.18x"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A nested folder with all planes; no test changes it."""
    folder = tmp_path_factory.mktemp("whole")
    nested_model().save_pretrained(folder)
    return folder


@pytest.fixture
def folder(whole, tmp_path):
    """A copy of it, to be changed."""
    return shutil.copytree(whole, tmp_path / "copy")


def codes(model) -> int:
    return sum(layer.codes.numel() for _, layer in matrices(model, PackedMatrix) if layer.nested)


def same_state(first, second) -> bool:
    one, other = first.state_dict(), second.state_dict()
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


@pytest.mark.parametrize("asked", ASKED.values(), ids=ASKED)
def test_an_extract_and_a_partial_load_are_the_whole_at_that_precision(asked, whole, tmp_path):
    expected = hf_mpq.set_precision(reload(whole), asked)
    assert hf_mpq.extract(whole, asked, tmp_path / "out") == tmp_path / "out"
    extracted, partial = reload(tmp_path / "out"), reload(whole, bits=asked)
    assert same(extracted, expected) and same(partial, expected)
    assert same_state(extracted, partial)
    assert used_precisions(extracted) == used_precisions(partial) == used_precisions(expected)
    partial.save_pretrained(tmp_path / "saved")
    ours, theirs = (Digests.of(weight_files(tmp_path / name)) for name in ("out", "saved"))
    assert ours == theirs and read_config(tmp_path / "out") == read_config(tmp_path / "saved")
    if asked not in (8, 4, 2, MIXED):
        limit = {"3bits": None, "19kB": 19_000, "0.18x": 0.18 * 89_288}[asked]
        report = hf_mpq.size_report(extracted)
        assert report.average_bits <= 3 if limit is None else report.total_bytes <= limit


def test_bytes_by_formula(whole, tmp_path):
    """Nested codes are those of 8 bits and two more scales a sub-group; half the planes are exactly half the bytes."""
    config = MPQConfig(bits=8, groups=5)
    plain = hf_mpq.size_report(hf_mpq.pack(hf_mpq.quantize(tiny_model("bert"), config)))
    nested = hf_mpq.size_report(nested_model(switchable_norms=False))
    groups = sum(part.stored.layout.count for part in nested.parts if part.stored and part.stored.nested)
    assert groups == 12 * 5 and nested.total_bytes == plain.total_bytes + 2 * 2 * groups
    hf_mpq.extract(whole, 4, tmp_path / "4")
    hf_mpq.extract(whole, 2, tmp_path / "2")
    before, four, two = (read_tensors(place) for place in (whole, tmp_path / "4", tmp_path / "2"))
    for name, tensor in before.items():
        if "encoder.layer" in name and name.endswith(".codes"):
            assert four[name].numel() == tensor.numel() // 2 and two[name].numel() == tensor.numel() // 4
            assert torch.equal(four[name], tensor[: tensor.numel() // 2])
        if "encoder.layer" in name and name.endswith(".scales"):
            assert four[name].numel() == tensor.numel() // 3 * 2 and two[name].numel() == tensor.numel() // 3
    assert codes(reload(tmp_path / "4")) == codes(reload(whole)) // 2
    report = hf_mpq.size_report(tmp_path / "4")
    assert (
        report.total_bytes
        == report.stored_bytes
        == sum(tensor.numel() * tensor.element_size() for tensor in four.values())
    )
    assert report.average_bits == 4
    assert (
        hf_mpq.cost.StoredSize(space_of(model := reload(tmp_path / "4"))).of(hf_mpq.assignment_of(model))
        == report.total_bytes
    )


def test_down_and_not_up_again(whole, tmp_path):
    hf_mpq.extract(whole, 4, tmp_path / "4")
    hf_mpq.extract(tmp_path / "4", 2, tmp_path / "2")
    hf_mpq.extract(whole, 2, tmp_path / "direct")
    assert same_state(reload(tmp_path / "2"), reload(tmp_path / "direct"))
    assert read_config(tmp_path / "2") == read_config(tmp_path / "direct")
    fix = "only 4 of its 8 bit planes here.*load the whole folder again, without bits=, or extract from that"
    for way in (
        lambda: hf_mpq.extract(tmp_path / "4", 8, tmp_path / "up"),
        lambda: reload(tmp_path / "4", bits=8),
        lambda: hf_mpq.set_precision(reload(tmp_path / "4"), 8),
        lambda: hf_mpq.set_precision(reload(whole, bits=4), 8),
    ):
        with pytest.raises(ValueError, match=fix):
            way()
    assert not (tmp_path / "up").exists()
    with pytest.raises(ValueError, match="unpack the whole model, or make this one float"):
        hf_mpq.unpack(reload(tmp_path / "4"))
    lowered = hf_mpq.set_precision(reload(tmp_path / "4"), 2)
    assert same(lowered, reload(tmp_path / "2"))
    assert same(hf_mpq.set_precision(lowered, 4), reload(tmp_path / "4"))


def test_matrices_that_no_pattern_finds_keep_everything(whole, folder, tmp_path):
    model = hf_mpq.set_precision(reload(whole), {r"layer\.1": 2})
    model.save_pretrained(folder)
    hf_mpq.extract(folder, {r"layer\.0": 4}, tmp_path / "out")
    extracted = reload(tmp_path / "out")
    expected = hf_mpq.set_precision(reload(folder), {r"layer\.0": 4})
    assert same(extracted, expected) and used_precisions(extracted) == used_precisions(expected)
    assert all(
        ("layer.0" in name) == (one.stored.served[-1] == 4)
        for name, one in matrices(extracted, PackedMatrix)
        if one.nested
    )
    hf_mpq.set_precision(extracted, {r"layer\.1": 8})
    with pytest.raises(ValueError, match="only 4 of its 8"):
        hf_mpq.set_precision(extracted, 8)


@pytest.mark.parametrize("family", MOST)
def test_every_family_and_head(family, tmp_path):
    nested_model(family).save_pretrained(tmp_path / "whole")
    hf_mpq.extract(tmp_path / "whole", MIXED if family == "bert" else 4, tmp_path / "out")
    for head in ("sequence", "bare"):
        expected = reload(tmp_path / "whole", head)
        hf_mpq.set_precision(expected, MIXED if family == "bert" else 4)
        extracted = reload(tmp_path / "out", head)
        partial = reload(tmp_path / "whole", head, bits=MIXED if family == "bert" else 4)
        for model in (extracted, partial):  # a pooler may be new
            assert torch.equal(outputs(model)[0], outputs(expected)[0])


CODES = {
    "masked": {"mask": "element", "mask_options": {"density": 0.7}},
    "n:m": {"mask": "n:m", "mask_options": {"kept": 2, "block": 4}},
    "columns": {"groups": "columns:4"},
    "float32": {"scale_dtype": "float32", "float_dtype": "float32"},
    "low rank": {"low_rank": 2},
    "others": {
        "rules": {
            r"layer\.1\.": {"bits": 3},
            r"layer\.0\..*key": {"bits": (2, 5)},
            "word": {"bits": (2, 4), "quantizer": "nested", "gate": "switch"},
        }
    },
    "inputs": {"activation_bits": 8, "attention_bits": 8, "switchable_norms": False},
}


@pytest.mark.parametrize("name", CODES)
def test_every_kind_of_code(name, tmp_path):
    nested_model(**CODES[name]).save_pretrained(tmp_path / "whole")
    for asked in ({"": 2, "query": 4}, "3.5bits"):
        expected = hf_mpq.set_precision(reload(tmp_path / "whole"), asked)
        hf_mpq.extract(tmp_path / "whole", asked, tmp_path / "out")
        assert same(reload(tmp_path / "out"), expected)
        assert same_state(reload(tmp_path / "out"), reload(tmp_path / "whole", bits=asked))


def test_shards_stay_shards(tmp_path):
    nested_model().save_pretrained(tmp_path / "whole", max_shard_size="9KB")
    hf_mpq.extract(tmp_path / "whole", 2, tmp_path / "out")
    assert len(weight_files(tmp_path / "out")) == len(weight_files(tmp_path / "whole")) > 2
    verify(weight_files(tmp_path / "out"))
    assert same(reload(tmp_path / "out"), reload(tmp_path / "whole", bits=2))
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == hf_mpq.size_report(tmp_path / "out").total_bytes


@pytest.fixture
def asked_bytes(monkeypatch):
    """Name to the furthest byte of each tensor that is asked of safetensors."""
    found: dict[str, int] = {}

    class Slice:
        def __init__(self, name, inner):
            self.name, self.inner = name, inner

        def __getattr__(self, attribute):
            return getattr(self.inner, attribute)

        def __getitem__(self, key):
            tensor = self.inner[key]
            found[self.name] = max(found.get(self.name, 0), tensor.numel() * tensor.element_size())
            return tensor

    class File:
        def __init__(self, *args, **options):
            self.inner = safe_open(*args, **options)

        def __enter__(self):
            return self

        def __exit__(self, *error):
            return self.inner.__exit__(*error)

        def __getattr__(self, attribute):
            return getattr(self.inner, attribute)

        def get_slice(self, name):
            return Slice(name, self.inner.get_slice(name))

        def get_tensor(self, name):
            tensor = self.inner.get_tensor(name)
            found[name] = max(found.get(name, 0), tensor.numel() * tensor.element_size())
            return tensor

    for place in ("transformers.modeling_utils", "hf_mpq.format.store", "safetensors"):
        monkeypatch.setattr(f"{place}.safe_open", File)
    assert safetensors.safe_open is File
    return found


@pytest.mark.parametrize("way", ["load", "extract"])
def test_only_the_planes_that_are_asked_for_are_read(way, whole, tmp_path, asked_bytes):
    if way == "load":
        reload(whole, bits=4)
    else:
        hf_mpq.extract(whole, 4, tmp_path)
    sizes = {name: tensor.numel() * tensor.element_size() for name, tensor in read_tensors(whole).items()}
    planes = [name for name in sizes if name.endswith(".codes") and "encoder.layer" in name]
    assert len(planes) == 12 and asked_bytes.keys() == sizes.keys()
    for name, size in sizes.items():
        assert asked_bytes[name] == (size // 2 if name in planes else size)


def flipped(folder, name, place) -> None:
    """One bit of a byte of a tensor."""
    tensors = read_tensors(folder)
    octets = tensors[name].clone()
    octets[place] ^= 1
    write_tensors(folder, tensors | {name: octets})


NAME = "bert.encoder.layer.1.output.dense"


def test_damage_in_what_is_read_is_said(folder, tmp_path):
    size = read_tensors(folder)[f"{NAME}.codes"].numel()
    flipped(folder, f"{NAME}.codes", size // 2 - 1)
    for way in (
        lambda: reload(folder, bits=4),
        lambda: hf_mpq.extract(folder, 4, tmp_path / "out"),
        lambda: reload(folder),
    ):
        with pytest.raises(PackedFormatError, match=f"1 tensors differ from what was saved, first '{NAME}.codes'"):
            way()
    assert not (tmp_path / "out").exists()
    assert same(reload(folder, bits=2), reload(folder, bits=2)), "the planes above are not read"
    flipped(folder, f"{NAME}.scales", -1)
    with pytest.raises(PackedFormatError, match=f"'{NAME}.scales'"):
        reload(folder, bits=2)


def test_damage_in_what_is_left_out_is_the_whole_models(folder, whole, tmp_path):
    flipped(folder, f"{NAME}.codes", -1)
    assert same(reload(folder, bits=4), reload(whole, bits=4))
    hf_mpq.extract(folder, 4, tmp_path / "out")
    verify(weight_files(tmp_path / "out"))
    with pytest.raises(PackedFormatError, match="differ"):
        reload(folder)
    with pytest.raises(PackedFormatError, match="differ"):
        reload(folder, bits="3bits")  # a budget looks at all of it


def test_a_file_without_digests_of_planes_is_checked_whole(folder, whole, asked_bytes):
    tensors, metadata = read_tensors(folder), read_metadata(folder)
    del metadata["mpq_planes"]
    write_tensors(folder, tensors, metadata)
    asked_bytes.clear()
    assert same(reload(folder, bits=4), reload(whole, bits=4))
    assert asked_bytes[f"{NAME}.codes"] == tensors[f"{NAME}.codes"].numel()
    flipped(folder, f"{NAME}.codes", -1)
    with pytest.raises(PackedFormatError, match="differ"):
        reload(folder, bits=4)


def test_what_is_written_otherwise_is_refused(folder, tmp_path):
    content = read_config(folder)
    changed = json.loads(json.dumps(content))
    changed["quantization_config"]["activation_bits"] = 4
    (folder / "config.json").write_text(json.dumps(changed))
    for way in (lambda: reload(folder, bits=4), lambda: hf_mpq.extract(folder, 4, tmp_path / "out")):
        with pytest.raises(PackedFormatError, match=r"activation_bits is 4, and was 8"):
            way()
    (folder / "config.json").write_text(json.dumps(content | {"layer_norm_eps": 0.5}))
    hf_mpq.extract(folder, 4, tmp_path / "out")
    with pytest.raises(PackedFormatError, match="layer_norm_eps"):  # the signature goes along
        reload(tmp_path / "out")
    (folder / "config.json").write_text(json.dumps(content))
    tensors = read_tensors(folder)
    tensors[f"{NAME}.codes"] = tensors[f"{NAME}.codes"][:-8]
    write_tensors(folder, tensors, signed_anew(folder, tensors))
    for way in (lambda: reload(folder, bits=4), lambda: hf_mpq.extract(folder, 4, tmp_path / "other")):
        with pytest.raises(PackedFormatError, match=r"output\.dense\.codes is not as config\.json says"):
            way()


def test_other_folders_are_refused(folder, tmp_path):
    with pytest.raises(ValueError, match="is the folder that is read"):
        hf_mpq.extract(folder, 4, folder / ".." / folder.name)
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*snapshot_download"):
        hf_mpq.extract(tmp_path / "nowhere", 4, tmp_path / "out")
    for asked in (3, {"nowhere": 4}, "1kB"):
        with pytest.raises(ValueError, match=r"3 bits are not among|found in no nested|smallest possible"):
            hf_mpq.extract(folder, asked, tmp_path / "out")
        with pytest.raises(ValueError, match=r"3 bits are not among|found in no nested|smallest possible"):
            reload(folder, bits=asked)
    tiny_model("bert").save_pretrained(tmp_path / "float")
    with pytest.raises(TypeError, match=r"float is none: to quantize a float model give quantization_config"):
        reload(tmp_path / "float", bits=4)
    with pytest.raises(ValueError, match="holds no model packed by hf_mpq"):
        hf_mpq.extract(tmp_path / "float", 4, tmp_path / "out")
    with pytest.raises(TypeError, match="bits"):  # which another library may take
        reload(tmp_path / "float", bits=4)
    nested_model(storage="trainable").save_pretrained(tmp_path / "trainable")
    with pytest.raises(ValueError, match="checkpoint for training"):
        hf_mpq.extract(tmp_path / "trainable", 4, tmp_path / "out")
    assert set(used_precisions(reload(tmp_path / "trainable", bits=4)).values()) == {4}
    hf_mpq.pack(hf_mpq.quantize(tiny_model("bert"), MPQConfig(bits=4))).save_pretrained(tmp_path / "plain")
    for way in (
        lambda: hf_mpq.extract(tmp_path / "plain", 4, tmp_path / "out"),
        lambda: reload(tmp_path / "plain", bits=4),
    ):
        with pytest.raises(ValueError, match="no nested precisions"):
            way()
    as_version_1(folder)
    for way in (lambda: hf_mpq.extract(folder, 4, tmp_path / "out"), lambda: reload(folder, bits=4)):
        with pytest.raises(PackedFormatError, match="format 1"):
            way()
    assert not (tmp_path / "out").exists()


def test_what_lies_beside_goes_along_but_for_the_card_and_other_weights(folder, tokenizer, tmp_path):
    tokenizer.save_pretrained(folder)
    for name in ("README.md", "bits.png", "LICENSE", "model.onnx", ".hf_mpq.json"):
        (folder / name).write_text("x")
    (folder / "modules.json").write_text(json.dumps([{"path": ""}, {"path": "1_Pooling"}]))
    for place in ("1_Pooling", "onnx"):
        (folder / place).mkdir()
        (folder / place / "config.json").write_text("{}")
    hf_mpq.extract(folder, 4, tmp_path / "out")
    names = {file.name for file in (tmp_path / "out").iterdir()}
    assert {"LICENSE", "modules.json", "1_Pooling", "config.json", "model.safetensors", "tokenizer.json"} <= names
    assert not names & {"README.md", "bits.png", "model.onnx", "onnx", ".hf_mpq.json"}
    assert len(AutoTokenizer.from_pretrained(tmp_path / "out")) == len(tokenizer)
    (folder / "modules.json").write_text(json.dumps([{"path": ""}, {"path": "../float"}]))
    with pytest.raises(ValueError, match="outside its folder"):
        hf_mpq.extract(folder, 4, tmp_path / "out")


def test_an_encoder_that_lies_apart(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "embedder" / "0_Transformer")
    (tmp_path / "embedder" / "modules.json").write_text(json.dumps([{"path": "0_Transformer"}]))
    hf_mpq.extract(tmp_path / "embedder", 4, tmp_path / "out")
    assert same(reload(tmp_path / "out" / "0_Transformer"), reload(whole, bits=4))
    assert (tmp_path / "out" / "modules.json").is_file()


def test_a_model_in_the_new_folder_is_replaced_whole(whole, tmp_path, monkeypatch):
    hf_mpq.extract(whole, 2, tmp_path / "out")
    before = reload(tmp_path / "out")
    with monkeypatch.context() as patched:
        patched.setattr(
            "hf_mpq.plugin.extraction.save_file", lambda *_: (_ for _ in ()).throw(OSError(28, "No space", "f"))
        )
        with pytest.raises(OSError, match="No space"):
            hf_mpq.extract(whole, 4, tmp_path / "out")
    assert same_state(reload(tmp_path / "out"), before) and sorted(os.listdir(tmp_path / "out")) == [
        "config.json",
        "model.safetensors",
    ]
    hf_mpq.extract(whole, 4, tmp_path / "out")
    assert set(used_precisions(reload(tmp_path / "out")).values()) == {4}


def test_no_model_is_made(whole, tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.PreTrainedModel.__init__", lambda *_, **__: pytest.fail("a model was made"))
    hf_mpq.extract(whole, "3bits", tmp_path)


def test_ways_to_load(whole, folder, tokenizer, tmp_path):
    """The model's own class, types, pipelines, a config of the user's own; and nothing is left for the next load."""
    want = reload(whole, bits=4)
    kind = type(want)
    assert same(kind.from_pretrained(whole, bits=4).eval(), want)
    assert reload(whole, bits=4, dtype=torch.float16).dtype == torch.float16
    assert same(kind.from_pretrained(whole, config=want.config_class.from_pretrained(whole), bits=4).eval(), want)
    model, info = HEADS["sequence"].from_pretrained(whole, bits=4, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    assert not any(module._non_persistent_buffers_set for _, module in matrices(model, PackedMatrix))
    places = {"bert.embeddings": "cpu", "bert.encoder": "disk", "bert.pooler": "cpu", "classifier": "cpu"}
    for device_map in ({"": "cpu"}, places):
        assert same(reload(whole, bits=4, device_map=device_map, offload_folder=tmp_path / "offloaded"), want)
    tokenizer.save_pretrained(folder)
    pipe = pipeline("text-classification", model=str(folder), model_kwargs={"bits": 2}, device="cpu")
    assert set(used_precisions(pipe.model).values()) == {2}
    assert set(used_precisions(reload(whole)).values()) == {8}
    assert same(reload(whole, bits=None), reload(whole))
    kept = hf_mpq.set_precision(reload(whole), 2)
    kept.save_pretrained(tmp_path / "kept")
    assert set(used_precisions(reload(tmp_path / "kept", bits=8)).values()) == {8}
    assert outputs(reload(tmp_path / "kept"))[0].equal(outputs(reload(whole, bits=2))[0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("asked", [4, "3bits"])
def test_a_partial_load_in_another_type_chooses_the_same(asked, dtype, whole):
    found = reload(whole, bits=asked, dtype=dtype)
    assert used_precisions(found) == used_precisions(reload(whole, bits=asked))
    assert same(found, hf_mpq.set_precision(reload(whole, dtype=dtype), asked))
