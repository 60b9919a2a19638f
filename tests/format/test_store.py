"""Damage, changes and newer versions are found at loading, each with one clear error."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from hf_mpq.format import (
    FORMAT_VERSION,
    PackedFormatError,
    check_digests,
    check_version,
    digest,
    digests_to_metadata,
    read_headers,
    read_metadata,
)


@pytest.fixture
def tensors():
    return {
        "layer.codes": torch.randint(0, 256, (40,), dtype=torch.uint8),
        "layer.scales": torch.randint(0, 256, (8,), dtype=torch.uint8),
    }


@pytest.fixture
def file(tensors, tmp_path):
    """A saved file with digests."""
    path = tmp_path / "model.safetensors"
    save_file(tensors, path, metadata=digests_to_metadata(tensors) | {"format": "pt"})
    return path


def test_what_was_saved_is_accepted(file, tensors):
    expected = read_metadata([file])
    assert expected.keys() == tensors.keys()
    check_digests(load_file(file), expected)


def test_metadata_of_several_files_is_joined(tensors, tmp_path):
    paths = []
    for name, tensor in tensors.items():
        paths.append(tmp_path / f"{name}.safetensors")
        save_file({name: tensor}, paths[-1], metadata=digests_to_metadata({name: tensor}))
    check_digests(tensors, read_metadata(paths))
    assert read_headers(paths) == {"layer.codes": ("U8", (40,)), "layer.scales": ("U8", (8,))}


def test_a_file_without_metadata_has_no_digests(tensors, tmp_path):
    save_file(tensors, tmp_path / "plain.safetensors")
    assert read_metadata([tmp_path / "plain.safetensors"]) == {}


@pytest.mark.parametrize("read", [read_metadata, read_headers])
@pytest.mark.parametrize("size", [0, 4, 60, -1])
def test_a_truncated_file_is_refused(file, size, read):
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(PackedFormatError, match=r"model\.safetensors is truncated or not a safetensors file"):
        read([file])


def test_a_pointer_in_place_of_a_file_is_refused(file):
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n")
    with pytest.raises(PackedFormatError, match="truncated or not a safetensors file"):
        read_metadata([file])


def test_one_changed_bit_is_found(file):
    content = bytearray(file.read_bytes())
    content[-1] ^= 1  # the last byte of the last tensor
    file.write_bytes(bytes(content))
    with pytest.raises(PackedFormatError, match="1 packed tensors differ from what was saved, first 'layer"):
        check_digests(load_file(file), read_metadata([file]))


def test_tensors_without_a_digest_are_refused(file, tensors):
    expected = read_metadata([file])
    del expected["layer.scales"]
    with pytest.raises(PackedFormatError, match=r"no digest for 1 packed tensors, first 'layer\.scales'"):
        check_digests(tensors, expected)


def test_only_what_is_loaded_is_checked(file, tensors):
    check_digests({"layer.codes": tensors["layer.codes"]}, read_metadata([file]))


@pytest.mark.parametrize("version", [1, FORMAT_VERSION])
def test_known_versions_are_read(version):
    check_version(version)


def test_a_newer_version_asks_for_an_upgrade():
    newer = FORMAT_VERSION + 1
    with pytest.raises(PackedFormatError, match=rf"packed format {newer} .* reads up to {FORMAT_VERSION}: upgrade"):
        check_version(newer)


def test_a_format_error_is_a_value_error():
    assert issubclass(PackedFormatError, ValueError)


def test_a_digest_is_of_the_bytes():
    octets = torch.arange(32, dtype=torch.uint8)
    assert len(digest(octets)) == 16 and int(digest(octets), 16) >= 0
    assert digest(octets) == digest(octets.clone()) == digest(octets.view(torch.float32))
    assert digest(octets) == digest(octets.repeat_interleave(2)[::2])
    assert digest(octets) != digest(octets.flip(0))


def test_digests_are_json_in_one_metadata_field(tensors):
    (text,) = digests_to_metadata(tensors).values()
    assert json.loads(text) == {name: digest(tensor) for name, tensor in tensors.items()}
