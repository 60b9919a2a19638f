"""One damage at a time to the files of a folder: bytes, tensors, digests and whatever JSON says."""

import json
from collections.abc import Callable
from random import Random
from typing import Any

import torch
from safetensors.torch import load, save

from hf_mpq.format import digests_to_metadata

Files = dict[str, bytes]
CONFIG, INDEX = "config.json", "model.safetensors.index.json"
_VALUES = (
    None,
    True,
    False,
    0,
    1,
    2,
    3,
    4,
    8,
    -1,
    9,
    16,
    1.5,
    -0.0,
    1e300,
    2**31,
    2**63,
    10**10,
    10**30,
    "",
    "x",
    "gelu",
    "relu",
    "packed",
    "trainable",
    "float32",
    "/dev/zero",
    "(.|..)+(?<=z)$",
    [],
    {},
    [1],
    ["x"],
    [[]],
    {"x": 1},
    {"bits": 9},
    [4, 4, 1],
    "9" * 40,
)
_LATER = {"quant_method"}
"""Without it the folder is another library's, and nothing of ours is asked."""
_TRANSFORMERS = {
    "num_labels",
    "id2label",
    "label2id",
    "architectures",
    "auto_map",
    "dtype",
    "torch_dtype",
    "model_type",
}
"""What the classes of transformers alone read, before any of ours."""


def mutate(files: Files, random: Random) -> tuple[Files, str, bool]:
    """A damaged copy, what was done, and whether it was signed anew: then other outputs are its writer's wish."""
    kind = random.choice(list(_KINDS))
    damaged = dict(files)
    said = _KINDS[kind](damaged, random)
    return damaged, f"{kind}: {said}", kind.startswith("signed")


def _shard(files: Files, random: Random) -> str:
    return random.choice(sorted(name for name in files if name.endswith(".safetensors")))


def _bytes(files: Files, random: Random) -> str:
    name = random.choice(sorted(files))
    content = bytearray(files[name])
    place, size = random.randrange(len(content)), random.choice((1, 1, 1, 8, 64))
    how = random.choice(("flip", "zero", "cut", "append", "noise"))
    if how == "flip":
        content[place] ^= 1 << random.randrange(8)
    elif how == "cut":
        del content[place:]
    elif how == "append":
        content += bytes(size)
    else:
        content[place : place + size] = bytes(size) if how == "zero" else random.randbytes(size)
    files[name] = bytes(content)
    return f"{how} at {place} of {name}"


def _parts(content: bytes) -> tuple[dict, dict]:
    """Tensors and metadata of a safetensors file."""
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return load(content), header.get("__metadata__", {})


def _tensors(files: Files, random: Random, sign: bool = False) -> str:
    name = _shard(files, random)
    tensors, metadata = _parts(files[name])
    chosen = random.choice(sorted(tensors))
    how = random.choice(("bit", "nan", "inf", "drop", "rename", "cast", "shape", "swap", "add"))
    value = tensors.pop(chosen)
    octets = value.clone().reshape(-1).view(torch.uint8)
    if how == "bit" and len(octets):
        octets[random.randrange(len(octets))] ^= 1 << random.randrange(8)
        value = octets.view(value.dtype).view(value.shape)
    elif how in ("nan", "inf") and len(octets) > 1:
        kind = random.choice((torch.float16, torch.float32))
        width = kind.itemsize
        place = random.randrange(max(len(octets) // width, 1)) * width
        octets[place : place + width] = torch.tensor([float(how)], dtype=kind).view(torch.uint8)[: len(octets) - place]
        value = octets.view(value.dtype).view(value.shape)
    elif how == "cast":
        value = value.to(random.choice((torch.float16, torch.float32, torch.int8, torch.uint8)))
    elif how == "shape":
        value = value.reshape(-1)[random.choice((0, 1)) :].clone()
    if how == "swap" and tensors:
        alike = sorted(n for n, t in tensors.items() if t.shape == value.shape and t.dtype == value.dtype)
        partner = random.choice(alike or sorted(tensors))
        tensors[chosen], tensors[partner] = tensors[partner].clone(), value
    elif how == "rename":
        tensors[chosen + "_"] = value
    elif how == "add":
        tensors |= {chosen: value, random.choice(("x", f"{chosen}.x")): torch.zeros(3)}
    elif how != "drop":
        tensors[chosen] = value
    if sign:
        known = json.loads(metadata["mpq_digests"]) | json.loads(digests_to_metadata(tensors)["mpq_digests"])
        gone = {chosen} - set(tensors)
        metadata["mpq_digests"] = json.dumps({n: d for n, d in known.items() if n not in gone})
    files[name] = save(tensors, metadata)
    return f"{how} {chosen}"


def _signed_tensors(files: Files, random: Random) -> str:
    return _tensors(files, random, sign=True)


def _metadata(files: Files, random: Random) -> str:
    name = _shard(files, random)
    tensors, metadata = _parts(files[name])
    key = random.choice(("mpq_digests", "mpq_config"))
    how = random.choice(("drop", "edit", "value"))
    if how == "drop":
        metadata.pop(key)
    elif how == "value":
        metadata[key] = json.dumps(random.choice(_VALUES))
    else:
        table = json.loads(metadata[key])
        table[random.choice(sorted(table))] = random.choice(("x", 3, None))
        metadata[key] = json.dumps(table)
    files[name] = save(tensors, metadata)
    return f"{how} {key} of {name}"


def _places(content: Any, path: tuple = ()) -> list[tuple]:
    """Paths to everything in some JSON."""
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    return [place for key, value in items for place in ((*path, key), *_places(value, (*path, key)))]


def _edit(content: dict, random: Random, under: tuple = ()) -> str:
    places = [
        place
        for place in _places(content)
        if place[: len(under)] == under and place[-1] not in _LATER and place[0] not in _TRANSFORMERS
    ]
    place = random.choice(places)
    parent = content
    for key in place[:-1]:
        parent = parent[key]
    how = random.choice(("value", "value", "number", "drop", "add"))
    old = parent[place[-1]]
    if how == "number" and isinstance(old, int):
        parent[place[-1]] = random.choice((old + 1, old - 1, old * 2, -old, old * 10**9, old == 0))
    elif how == "drop":
        del parent[place[-1]]
    elif how == "add" and isinstance(parent, dict):
        parent[random.choice(("is_decoder", "add_cross_attention", "tie", "x", "4", "3", "groups", "rank"))] = old
    else:
        parent[place[-1]] = random.choice(_VALUES)
    return f"{how} {'.'.join(str(key) for key in place)} of {content.get('model_type')}"


def _config(files: Files, random: Random) -> str:
    content = json.loads(files[CONFIG])
    under = random.choice(((), (), ("quantization_config",), ("quantization_config", "packed")))
    if len(under) > 1 and not content["quantization_config"].get("packed"):
        under = ("quantization_config",)
    said = _edit(content, random, under)
    files[CONFIG] = json.dumps(content).encode()
    return said


def _first_format(files: Files, random: Random) -> str:
    """A config that is not signed: that of a folder of the first format."""
    for name in [name for name in files if name.endswith(".safetensors")]:
        tensors, metadata = _parts(files[name])
        metadata.pop("mpq_config")
        octets = {
            n.partition(".")[2] if n.partition(".")[0] in _PREFIXES else n: t
            for n, t in tensors.items()
            if t.dtype == torch.uint8
        }
        files[name] = save(tensors, metadata | digests_to_metadata(octets))
    content = json.loads(files[CONFIG])
    content["quantization_config"]["format_version"] = 1
    said = _edit(content, random, ("quantization_config",))
    files[CONFIG] = json.dumps(content).encode()
    return said


_PREFIXES = {"bert", "roberta", "distilbert", "albert", "electra", "deberta", "mpnet", "model"}


def _json(files: Files, random: Random) -> str:
    name = random.choice(sorted(name for name in files if name.endswith(".json")))
    elsewhere = b'{"weight_map": {"x": "../y.safetensors"}}'
    what = random.choice((b"", b"[]", b"{}", b"null", b"[" * 100_000, elsewhere, b"\xff"))
    files[name] = what
    return f"{name} is {what[:50]!r}"


def _missing(files: Files, random: Random) -> str:
    name = random.choice(sorted(files))
    del files[name]
    return f"no {name}"


_KINDS: dict[str, Callable[[Files, Random], str]] = {
    "bytes": _bytes,
    "tensor": _tensors,
    "signed tensor": _signed_tensors,
    "metadata": _metadata,
    "config": _config,
    "more config": _config,
    "signed config": _first_format,
    "json": _json,
    "file": _missing,
}
