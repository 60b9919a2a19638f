"""What loading a folder does no more than once, and not at all where nothing needs it."""

import shutil
import sys
from inspect import signature
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedModel,
)

import hf_mpq
from hf_mpq.format import PackedFormatError
from hf_mpq.nn.packed import PackedMatrix
from hf_mpq.plugin import names, quantizer
from tests.plugin.models import read_metadata, read_tensors, write_tensors
from tests.tiny import FAMILIES, head_class, outputs, tiny_batch, tiny_model

WITH_CHOICE = pytest.mark.skipif(
    "disable_mmap" not in signature(PreTrainedModel.from_pretrained).parameters, reason="this transformers always maps"
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A packed and a trainable folder, by storage."""
    root = tmp_path_factory.mktemp("folders")
    model = hf_mpq.quantize(tiny_model("bert"), hf_mpq.MPQConfig(bits=4))
    model.save_pretrained(root / "trainable")
    hf_mpq.pack(model).save_pretrained(root / "packed")
    return root


@pytest.fixture
def asked(monkeypatch):
    """Models whose former names were asked for."""
    found, conversions = [], names._conversions

    def noted(model, *args):
        found.append(type(model).__name__)
        return conversions(model, *args)

    monkeypatch.setattr(names, "_conversions", noted)
    return found


@pytest.mark.parametrize("storage", ["packed", "trainable"])
@pytest.mark.parametrize("kind", [AutoModelForSequenceClassification, AutoModel])
def test_former_names_are_not_asked_for_where_every_tensor_has_its_own(folders, storage, kind, asked):
    model = kind.from_pretrained(folders / storage)
    assert not asked
    model(**tiny_batch())


def test_former_names_are_asked_for_where_something_is_missing(folders, asked, tmp_path):
    AutoModel.from_pretrained(folders / "packed").save_pretrained(tmp_path)
    asked.clear()
    AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert asked


def test_former_names_are_asked_for_where_the_user_gives_some(folders, asked):
    AutoModel.from_pretrained(folders / "packed", key_mapping={"^never": "there"})
    assert asked


@pytest.mark.parametrize(
    "family", [pytest.param(one, marks=[] if one == "bert" else pytest.mark.full) for one in FAMILIES]
)
def test_every_family_is_loaded_by_its_own_names(family, asked, tmp_path):
    model = hf_mpq.pack(hf_mpq.quantize(tiny_model(family), hf_mpq.MPQConfig(bits=4)))
    model.save_pretrained(tmp_path)
    asked.clear()
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert not asked
    assert torch.equal(loaded(**tiny_batch()).logits, model.eval()(**tiny_batch()).logits)


@pytest.mark.parametrize(
    ("family", "head"),
    [
        ("bert", "sequence"),
        ("deberta-v2", "sequence"),
        *(("modernbert", head) for head in ("bare", "sequence", "masked")),
    ],
)
def test_nothing_is_decoded_or_drawn_for_layers_that_the_file_holds(family, head, tmp_path, monkeypatch):
    """ModernBERT would draw for them; another head gets its first values all the same."""
    model = hf_mpq.pack(hf_mpq.quantize(tiny_model(family, head), hf_mpq.MPQConfig(bits=4)))
    model.save_pretrained(tmp_path)
    monkeypatch.setattr(PackedMatrix, "decode", lambda self: pytest.fail("a matrix was decoded"))
    loaded = head_class(family, head).from_pretrained(tmp_path)
    other = AutoModelForTokenClassification.from_pretrained(tmp_path)
    monkeypatch.undo()
    for mine, theirs in zip(outputs(model), outputs(loaded), strict=True):
        torch.testing.assert_close(mine, theirs)
    assert 0 < float(other.classifier.weight.detach().std()) < 1


def test_the_config_is_signed_once(folders, monkeypatch):
    made, sign = [], quantizer.signature
    for module in (quantizer, quantizer.check_folder.__globals__):
        put = monkeypatch.setitem if isinstance(module, dict) else monkeypatch.setattr
        put(module, "signature", lambda config: made.append(1) or sign(config))
    AutoModel.from_pretrained(folders / "packed")
    assert len(made) == 1


@pytest.mark.parametrize("bits", [4, 0])
def test_rows_of_one_precision_are_found_as_those_of_several(bits):
    """What has no map is read by shortcuts."""
    model = hf_mpq.quantize(tiny_model("bert"), hf_mpq.MPQConfig(bits=bits, groups=5))
    for matrix in (one for one in hf_mpq.pack(model).modules() if isinstance(one, PackedMatrix)):
        assert not matrix.stored.map_bits
        all_lines = {value: lines.tolist() for value, lines in matrix.lines_by_precision().items()}
        precisions = matrix.stored.layout.expand(matrix.group_bits())
        assert all_lines == {value: (precisions == value).nonzero().flatten().tolist() for value in matrix.stored.lines}
        assert torch.equal(matrix.line_floats(), matrix.stored.layout.index())
        assert matrix.contradiction() is None
        counts = {value: 2 * lines for value, lines in matrix.stored.lines.items()} or {4: 1}
        matrix.stored = matrix.stored.with_changes(lines=counts)
        assert "sub-groups and lines" in matrix.contradiction()


@pytest.mark.parametrize("options", [{}, {"dtype": torch.bfloat16}], ids=["float32", "bfloat16"])
def test_what_was_checked_is_what_is_loaded(folders, tmp_path, monkeypatch, options):
    """A file that is exchanged between the check of its digests and the reading of its codes is not read again."""
    shutil.copytree(folders / "packed", tmp_path, dirs_exist_ok=True)
    expected = AutoModel.from_pretrained(tmp_path, **options)(**tiny_batch()).last_hidden_state
    check = quantizer.check_folder

    def checked(config, files, *rest):
        found = check(config, files, *rest)
        tensors, metadata = read_tensors(tmp_path), read_metadata(tmp_path)
        (tmp_path / "model.safetensors").unlink()  # the mapped file stays as it is
        changed = {name: one ^ 1 if name.endswith("codes") else one for name, one in tensors.items()}
        write_tensors(tmp_path, changed, metadata)
        return found

    monkeypatch.setattr(quantizer, "check_folder", checked)
    assert torch.equal(AutoModel.from_pretrained(tmp_path, **options)(**tiny_batch()).last_hidden_state, expected)
    with pytest.raises(PackedFormatError):
        AutoModel.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "options", [{}, pytest.param({"disable_mmap": True}, marks=WITH_CHOICE), {"device_map": {"": "cpu"}}], ids=str
)
def test_tensors_are_ordinary_ones_once_they_are_loaded(folders, tmp_path, options):
    model = AutoModelForSequenceClassification.from_pretrained(folders / "packed", **options)
    assert dict(model.named_non_persistent_buffers()).keys() == {
        f"bert.embeddings.{name}" for name in ("position_ids", "token_type_ids")
    }
    model.save_pretrained(tmp_path)
    saved, written = read_tensors(tmp_path), read_tensors(folders / "packed")
    assert saved.keys() == written.keys()
    assert all(torch.equal(one, written[name]) for name, one in saved.items())
    if sys.platform == "linux":
        assert all(map(_is_mapped, model.bert.pooler.dense.buffers())) == ("disable_mmap" not in options)


def _is_mapped(tensor: torch.Tensor) -> bool:
    """Whether it lies in a mapped safetensors file."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        start, end = (int(address, 16) for address in line.split()[0].split("-"))
        if start <= tensor.data_ptr() < end:
            return line.endswith("model.safetensors")
    return False
