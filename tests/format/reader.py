"""A reader of packed folders made from `docs/format.md` alone: numpy, JSON and a hash."""

import json
import re
from itertools import combinations
from math import ceil, comb, log2

import numpy as np
from xxhash import xxh3_64_hexdigest

FLOATS, NONE = {"float16": "<f2", "float32": "<f4"}, np.zeros(0, np.uint8)


def read(folder) -> dict[str, dict]:
    """`matrices` and `norms` by name, each a dictionary of float32 arrays; the bytes of `others`, by full name."""
    config = json.loads((folder / "config.json").read_text())
    about = config["quantization_config"]
    require(about["storage"] == "packed" and about["format_version"] in (1, 2), "its storage or version is not known")
    index, files = folder / "model.safetensors.index.json", {"model.safetensors"}
    if index.exists():
        files = {*json.loads(index.read_text())["weight_map"].values()}
    tensors, metadata = {}, {}
    for file in files:
        tensors |= safetensors((folder / file).read_bytes(), metadata)
    check(tensors, metadata, config)
    matrices, norms = about["packed"]["matrices"], about["packed"]["norms"]
    parts, others = by_layer(tensors, {*matrices, *norms})
    used = {name: max(map(int, one["precisions"])) for name, one in matrices.items() if "nested" in one}
    used |= {name: bits for name, bits in about.get("precision", {}).items() if name in used}
    sizes = {name: np.prod(matrices[name]["layout"]["shape"]) for name in used}
    return {
        "matrices": {name: matrix(one, parts[name], used.get(name)) for name, one in matrices.items()},
        "norms": {name: norm(name, *one, parts[name], used, sizes) for name, one in norms.items()},
        "others": others,
    }


def require(holds, problem):
    if not holds:
        raise ValueError(problem)


def safetensors(content, metadata):
    """Name to bytes of one file, whose digests are added to those of the others."""
    start = 8 + int.from_bytes(content[:8], "little")
    header, octets = json.loads(content[8:start]), np.frombuffer(content, np.uint8, offset=start)
    for key, text in header.pop("__metadata__").items():
        if key.startswith("mpq_"):
            metadata.setdefault(key, {}).update(json.loads(text))
    return {name: octets[slice(*one["data_offsets"])] for name, one in header.items()}


def check(tensors, metadata, config):
    digests, signed = metadata["mpq_digests"], metadata.get("mpq_config", {})
    if config["quantization_config"]["format_version"] > 1:
        require(digests.keys() == tensors.keys() and signed, "a tensor is missing, or something has no digest")
    for name, digest in digests.items():
        full = name if name in tensors else next(one for one in tensors if one.endswith(f".{name}"))
        require(xxh3_64_hexdigest(tensors[full]) == digest, f"{name} was changed")
    for name, planes in metadata.get("mpq_planes", {}).items():
        octets = tensors[name].reshape(len(planes) // 16, -1)
        require("".join(map(xxh3_64_hexdigest, octets)) == planes, f"planes of {name} were changed")
    now = dict(fields(config))
    ours = {name for name in now if name.startswith("quantization_config.")} if signed else set()
    ours -= {f"quantization_config.{name}" for name in ("note", "origin", "resolved")}
    for name in ours | {name for name in signed if name in now or name.startswith("quantization_config.")}:
        require(now.get(name) == signed.get(name), f"{name} of config.json was changed")


def fields(content, prefix=""):
    for name, value in content.items():
        text, opened = json.dumps(value, sort_keys=True), ("quantization_config", "packed", "matrices", "norms")
        if isinstance(value, dict) and (name in opened or "model_type" in value):
            yield from fields(value, f"{prefix}{name}.")
        else:
            yield prefix + name, text if len(text) <= 60 else f"xxh3:{xxh3_64_hexdigest(text.encode())}"


def by_layer(tensors, names):
    """Layer to part to bytes, and what belongs to none."""
    layers, others = {name: {} for name in names}, {}
    for full, octets in tensors.items():
        owner, part = re.fullmatch(r"(.*?)\.((?:\w+_quantizer\.)?\w+)", f".{full}").groups()
        name = max((one for one in names if owner.endswith(f".{one}")), key=len, default=None)
        (others if name is None else layers[name])[full if name is None else part] = octets
    return layers, others


def floats(octets, kind):
    return octets.view(FLOATS[kind]).astype(np.float32)


def flags(octets, count):
    return np.ones(count, bool) if octets is None else np.unpackbits(octets)[:count].astype(bool)


def numbers(octets, planes, lines, length):
    bits = np.unpackbits(octets.reshape(planes, lines, ceil(length / 8)), axis=2)[:, :, :length].astype(int)
    return (bits << np.arange(planes)[::-1, None, None]).sum(0)


def kept(encoding, octets, count):
    """Which of `count` weights have a code."""
    encoding = {"name": encoding} if isinstance(encoding, str) else encoding
    if encoding["name"] == "flags":
        return flags(octets, count)
    if encoding["name"] == "runs":
        nibbles, keep = np.stack([octets >> 4, octets & 15], 1).flatten().astype(int), np.zeros(count, bool)
        keep[(np.cumsum(nibbles + (nibbles < 15)) - 1)[nibbles < 15]] = True
        return keep
    require(encoding["name"] == "n:m", f"mask_encoding {encoding} is not known")
    n, m = encoding.get("kept", 2), encoding.get("block", 4)
    patterns = sorted([i in places for i in range(m)] for places in combinations(range(m), n))
    return np.array(patterns)[numbers(octets, ceil(log2(comb(m, n))), 1, count // m)[0]].flatten()


def values(entry, codes, stored, bits):
    """Of codes `(lines, length)` and the floats of each line, `(lines, floats)`."""
    encoding, scale, z = entry["encoding"], stored[:, :1], 2 ** (bits - 1)
    if encoding == "affine":
        return codes.astype(np.float32) * scale + stored[:, 1:]
    if encoding == "basis":
        return sum((2 * (codes >> bits - 1 - j & 1) - 1) * stored[:, 1 + j, None] for j in range(bits)) * scale
    require(encoding in ("scaled", "scaled-half", "nested"), f"encoding {encoding} is not known")
    if encoding == "nested":
        z += 2.0 ** (bits - entry["nested"][-1] - 1) - 0.5
        scale = stored[:, entry["nested"].index(bits), None]
    elif bits == 1 or (bits == 2 and encoding == "scaled-half"):
        z -= 0.5
    return (codes - z).astype(np.float32) * scale


def groups_of(entry, parts, lines):
    """Sub-group of each line, and precision of each sub-group."""
    layout, shards = entry["layout"], entry["layout"].get("shards", 1)
    each, count = lines // shards, min(layout["groups"], lines // shards)
    sizes = [each // count + (i < each % count) for i in range(count)] * shards
    pruned = sum(n[0] for n in entry["precisions"].values()) < len(sizes)
    known = np.array([0] * pruned + [int(bits) for bits in entry["precisions"]])
    places = numbers(parts.get("map", NONE), ceil(log2(len(known))), 1, len(sizes))[0]
    return np.repeat(np.arange(len(sizes)), sizes), known[places]


def stored_lines(entry, parts, group, bits_of, used):
    """`(lines, length)`, of nested codes at the precision that is used."""
    length, kind, at = entry["length"], entry.get("scale_dtype", "float16"), {}
    full = np.zeros((len(group), length), np.float32)

    def take(part, size):
        at[part] = at.get(part, 0) + size
        return parts.get(part, NONE)[at[part] - size : at[part]]

    for bits, (groups, count, stored, *masked) in ((int(bits), n) for bits, n in entry["precisions"].items()):
        of_group = np.zeros((len(bits_of), stored), np.float32)
        size = groups * stored * np.dtype(FLOATS[kind]).itemsize
        of_group[bits_of == bits] = floats(take("scales", size), kind).reshape(groups, stored)
        keep, shape = np.ones((count, length), bool), (count, length)
        if masked:
            octets = take("mask", masked[1] if len(masked) > 1 else ceil(keep.size / 8))
            keep, shape = kept(entry.get("mask_encoding", "flags"), octets, keep.size).reshape(shape), (1, masked[0])
        planes = take("codes", bits * shape[0] * ceil(shape[1] / 8)).reshape(bits, -1)[:used]
        codes = np.zeros((count, length), int)
        codes[keep] = numbers(planes, len(planes), *shape).flatten()
        chosen = bits_of[group] == bits
        full[chosen] = values(entry, codes, of_group[group[chosen]], len(planes)) * keep
    return full


def spread(stored, where, rest=0.0):
    """What is stored at the places where something is, and the rest elsewhere."""
    full = np.full((len(where), *stored.shape[1:]), rest, np.float32)
    full[where] = stored
    return full


def matrix(entry, parts, used=None) -> dict[str, np.ndarray]:
    """`weight` `(out, in)` as it is multiplied with, and what it was made of."""
    (rows, columns), axis, rank = entry["layout"]["shape"], entry["layout"].get("axis", 0), entry.get("rank", 0)
    group, bits_of = groups_of(entry, parts, columns if axis else rows)
    live = flags(parts.get("live_columns"), rows if axis else columns)
    lines = spread(stored_lines(entry, parts, group, bits_of, used).T, live).T
    found = {"coded": lines.T if axis else lines, "weight": lines.T if axis else lines}
    channels, kept_rows = (np.ones(columns, bool), np.ones(rows, bool)) if axis else (live, bits_of[group] > 0)
    table = {
        part: floats(octets, entry.get("float_dtype", "float16"))
        for part, octets in parts.items()
        if re.search("_values|low_rank", part)
    }
    if entry["bias"] is not None:
        found["bias"] = spread(table.get("bias_values", NONE), flags(parts.get("live_rows"), rows))
    for name, rest in (("scale", 1.0), ("shift", 0.0)):
        if name in entry.get("affine", ()):
            found[name] = spread(table.get(f"input_{name}_values", NONE), channels, rest)
    if rank:
        found["rows"] = spread(table.get("low_rank_rows", NONE).reshape(-1, rank), kept_rows)
        found["columns"] = spread(table.get("low_rank_columns", NONE).reshape(rank, -1).T, channels).T
        found["weight"] = found["coded"] + found["rows"] @ found["columns"]
    grids = {part: floats(octets, "float32") for part, octets in parts.items() if part.endswith("grid_bytes")}
    return found | {part.partition("_")[0] + "_grid": grid for part, grid in grids.items()}


def norm(name, kind, precisions, parts, used, sizes) -> dict[str, np.ndarray]:
    """`weight` and `bias`, at the precisions that are used."""
    position = 0
    if precisions:
        layer = re.match(r".*?\.\d+\.", name)
        near = [one for one in used if layer and one.startswith(layer[0])] or [*used]
        share = {bits: sum(sizes[one] for one in near if used[one] >= bits) for bits in precisions}
        position = max(sum(2 * size >= sum(sizes[one] for one in near) for size in share.values()) - 1, 0)
    sets = {part[:-7]: floats(octets, kind).reshape(len(precisions) or 1, -1) for part, octets in parts.items()}
    return {part: one[position] for part, one in sets.items()}


def on_levels(x, activation, grid=None):
    """`x` `(..., features)` float32 at the levels of an activation `[name, bits, options]`."""
    name, bits, options = activation
    symmetric, axis = options.get("symmetric", False), None if name == "dynamic-tensor" else -1
    least, most = (1 - 2 ** (bits - 1), 2 ** (bits - 1) - 1) if symmetric else (0, 2**bits - 1)
    if name in ("dynamic-token", "dynamic-tensor", "probabilities"):
        low, high = np.minimum(x.min(axis, keepdims=True), 0), np.maximum(x.max(axis, keepdims=True), 0)
        step = np.maximum(-low, high) / most if symmetric else (high - low) / most
        zero = 0 if symmetric else np.round(-low / np.where(step == 0, np.float32(1), step))
    else:
        require(name in ("fixed", "fixed-basis"), f"activation {name} is not known")
        step, zero, parts = grid[0], grid[1], grid[1 : 1 + bits]
    steps = x / np.where(step == 0, np.float32(1), step)
    if name == "fixed-basis" and bits <= 4:
        levels = np.sort(sum(np.meshgrid(*([0, n] for n in parts))).flatten()).astype(np.float32)
        return levels[np.searchsorted((levels[1:] + levels[:-1]) / 2, steps)] * step
    if name == "fixed-basis":
        zero = -parts[parts < 0].sum()
    return (np.clip(np.round(steps) + zero, least, most) - zero) * step
