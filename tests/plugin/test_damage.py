"""A damaged, mixed-up or incomplete packed folder gives one clear error, and never a model."""

import json
import shutil

import pytest
import torch

from hf_mpq import MPQConfig
from hf_mpq.format import PackedFormatError
from tests.plugin.models import (
    mixed_model,
    read_config,
    read_metadata,
    read_tensors,
    reload,
    signed_anew,
    stored_model,
    write_tensors,
)
from tests.tiny import HEADS, tiny_batch, tiny_model

QUERY = "bert.encoder.layer.{}.attention.self.query.{}"
CODES, SCALES, MAP, BIAS = (QUERY.format(0, part) for part in ("codes", "scales", "map", "bias_values"))
NORM = "bert.encoder.layer.0.output.LayerNorm.weight_values"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A sound packed folder; two matrices have equal shapes so that their tensors can be exchanged."""
    folder = tmp_path_factory.mktemp("whole")
    stored_model("packed", cycle=(8, 4)).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(whole, tmp_path):
    """A copy of it, to be damaged."""
    return shutil.copytree(whole, tmp_path / "folder")


def refuse(folder, pattern: str, **options) -> None:
    """Loading raises our error, with a message that says what to do, and no other error on the way."""
    with pytest.raises(PackedFormatError, match=pattern) as caught:
        reload(folder, **options)
    assert caught.value.__context__ is None or caught.value.__context__ is caught.value.__cause__


def test_sound_folder_loads(folder):
    """Guards the guards."""
    assert reload(folder)(**tiny_batch()).logits.isfinite().all()
    write_tensors(folder, read_tensors(folder))
    reload(folder)


@pytest.mark.parametrize("keep", [0, 4, 100, 0.5, -1], ids=str)
def test_truncated_file(folder, keep):
    """The header says more bytes than there are, or cannot be read."""
    path = folder / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content)) if isinstance(keep, float) else keep])
    refuse(folder, "model.safetensors is truncated or not a safetensors file .* download it again")


@pytest.mark.parametrize("name", [CODES, SCALES, MAP, BIAS, NORM], ids=lambda name: ".".join(name.split(".")[-2:]))
@pytest.mark.parametrize("place", [0, -1], ids=["first", "last"])
@pytest.mark.parametrize("flip", [1, 128], ids=["low", "high"])
def test_flipped_bit(folder, name, place, flip):
    """One bit of any part of a packed layer."""
    tensors = read_tensors(folder)
    tensors[name][place] ^= flip
    write_tensors(folder, tensors)
    refuse(folder, f"1 tensors differ.*{name}.*download it again")


@pytest.mark.parametrize("part", ["codes", "scales"])
def test_exchanged_tensors(folder, part):
    """Same names, shapes and types, other contents."""
    tensors, first, second = read_tensors(folder), QUERY.format(0, part), QUERY.format(1, part)
    assert tensors[first].shape == tensors[second].shape
    tensors[first], tensors[second] = tensors[second], tensors[first]
    write_tensors(folder, tensors)
    refuse(folder, "2 tensors differ")


CHANGES = {
    "shape": (lambda tensors: tensors | {CODES: tensors[CODES][:-1].clone()}, r"query\.codes has shape .* instead of"),
    "rank": (lambda tensors: tensors | {CODES: tensors[CODES].view(1, -1)}, r"query\.codes has shape .* instead of"),
    "signed": (lambda tensors: tensors | {CODES: tensors[CODES].to(torch.int8)}, "has type I8 instead of uint8"),
    "float": (lambda tensors: tensors | {SCALES: tensors[SCALES].float()}, "has type float32 instead of uint8"),
    "missing": (lambda tensors: _without(tensors, CODES), r"query\.codes is missing"),
    "renamed": (
        lambda tensors: _without(tensors, CODES) | {f"{CODES}_": tensors[CODES]},
        r"in 2 places: .*query\.codes is missing; .*query\.codes_ is in the file but not in the model",
    ),
    "extra": (
        lambda tensors: tensors | {QUERY.format(0, "weight"): torch.zeros(32, 32)},
        r"query\.weight is in the file but not in the model",
    ),
}


def _without(tensors: dict, name: str) -> dict:
    return {other: value for other, value in tensors.items() if other != name}


@pytest.mark.parametrize("change", CHANGES)
def test_tensors_that_do_not_fit(folder, change):
    """Names, shapes and types of quantized layers are compared with what config.json says, digests or not."""
    apply, pattern = CHANGES[change]
    changed = apply(read_tensors(folder))
    write_tensors(folder, changed, signed_anew(folder, changed))
    refuse(folder, f"does not fit its config.json.*{pattern}.*saved together")


def test_float_head_of_another_shape(folder):
    """Transformers refuses before us, and names the tensor in its report; older versions let it pass to our check."""
    changed = read_tensors(folder) | {"classifier.weight": torch.zeros(2, 31)}
    write_tensors(folder, changed, signed_anew(folder, changed))
    with pytest.raises((RuntimeError, PackedFormatError), match=r"mismatch|classifier\.weight has shape"):
        reload(folder)


def test_float_checkpoint_of_another_shape(tmp_path):
    """The same when a float checkpoint is quantized while it is loaded."""
    tiny_model("bert").save_pretrained(tmp_path)
    for config in ({"intermediate_size": 48}, {"num_labels": 3}):
        with pytest.raises((RuntimeError, PackedFormatError), match=r"mismatch|weight has shape"):
            reload(tmp_path, quantization_config=MPQConfig(), **config)


def test_digests_stripped(folder):
    """Rewritten by a tool that keeps tensors and drops metadata."""
    write_tensors(folder, read_tensors(folder), {"format": "pt"})
    refuse(folder, "no digest for .* rewritten by another tool; save it again")


def test_digests_of_some_tensors_stripped(folder):
    """One digest less is found too."""
    metadata = read_metadata(folder)
    digests = json.loads(metadata["mpq_digests"])
    digests.pop(CODES)
    write_tensors(folder, read_tensors(folder), metadata | {"mpq_digests": json.dumps(digests)})
    refuse(folder, r"no digest for 1 tensors, first 'bert.encoder.layer.0.attention.self.query.codes'")


def _edit_config(folder, edit) -> None:
    config = read_config(folder)
    edit(config)
    (folder / "config.json").write_text(json.dumps(config))


def test_newer_format(folder):
    """A later version's layout is refused before anything is built."""
    _edit_config(folder, lambda config: config["quantization_config"].update(format_version=3))
    refuse(folder, r"packed format 3 .* reads up to 2: upgrade")


def test_config_of_a_deeper_model(folder):
    """More layers in the config than in the file."""
    _edit_config(folder, lambda config: config.update(num_hidden_layers=3))
    refuse(folder, r"num_hidden_layers is 3, and was 2 when the weights were saved. Set it back")


def test_config_of_a_shallower_model(folder):
    """Fewer layers in the config: the file's last layer is not dropped in silence."""
    _edit_config(folder, lambda config: config.update(num_hidden_layers=1))
    refuse(folder, r"num_hidden_layers is 1, and was 2 when")


def test_config_of_a_wider_model(folder):
    """Another width of the feed-forward layer in the float part of the config."""
    _edit_config(folder, lambda config: config.update(hidden_size=48))
    refuse(folder, "hidden_size is 48, and was 32 when")


def test_config_of_another_quantization(folder, tmp_path):
    """The same architecture packed with other bits."""
    stored_model("packed", cycle=(4, 2)).save_pretrained(tmp_path / "other")
    shutil.copy(tmp_path / "other" / "config.json", folder)
    refuse(folder, r"quantization_config\.packed\.matrices\.\S+ is not what it was when")


def test_config_without_its_table(folder):
    """The packed table was edited away."""
    _edit_config(folder, lambda config: config["quantization_config"].pop("packed"))
    refuse(folder, "packed storage needs its table of tensors")


def test_config_that_says_trainable(folder):
    """The storage was edited: the float masters are not there."""
    _edit_config(folder, lambda config: config["quantization_config"].update(storage="trainable"))
    refuse(folder, r"storage is \"trainable\", and was \"packed\" when")


def test_trainable_checkpoint_without_its_scales(tmp_path):
    """Trainable storage is checked as well: a float file under a quantized config is no checkpoint of it."""
    model = mixed_model(quantizer="lsq")
    model.save_pretrained(tmp_path)
    kept = {name: v for name, v in read_tensors(tmp_path).items() if "program" not in name}
    write_tensors(tmp_path, kept)
    refuse(tmp_path, r"\d+ tensors that were saved are missing, first '.*program\.")
    write_tensors(tmp_path, kept, signed_anew(tmp_path, kept))
    refuse(tmp_path, r"program\..* is missing")


def test_other_weight_formats(folder):
    """A pickle beside the config has no header that could be compared."""
    torch.save(read_tensors(folder), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    refuse(folder, "safetensors")


def test_damage_is_found_under_every_head(folder):
    """Also when the checkpoint is read as another head."""
    tensors = read_tensors(folder)
    tensors[CODES][0] ^= 4
    write_tensors(folder, tensors)
    for head in HEADS:
        refuse(folder, "1 tensors differ", head=head)
