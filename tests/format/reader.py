"""A reader of packed matrices that knows `docs/format.md` and numpy only."""

import json
from itertools import combinations
from math import ceil, comb, log2

import numpy as np
from safetensors.numpy import load_file

FLOATS = {"float16": np.float16, "float32": np.float32}


def read(folder) -> dict[str, np.ndarray]:
    """Name to weight `(out, in)` float32 of every packed matrix."""
    table = json.loads((folder / "config.json").read_text())["quantization_config"]["packed"]["matrices"]
    tensors = load_file(folder / "model.safetensors")
    return {name: matrix(entry, parts_of(tensors, name)) for name, entry in table.items()}


def parts_of(tensors, name):
    return {
        full.rpartition(".")[2]: t for full, t in tensors.items() if f".{full}".rpartition(".")[0].endswith(f".{name}")
    }


def flags(octets, count):
    return np.unpackbits(octets)[:count]


def numbers(octets, bits, lines, length):
    """Bit planes of `lines` lines, most significant first."""
    width = ceil(length / 8)
    planes = np.unpackbits(octets.reshape(bits, lines, width), axis=2)[:, :, :length]
    return sum(
        (plane.astype(np.int64) << (bits - 1 - i) for i, plane in enumerate(planes)), np.zeros((lines, length), int)
    )


def group_sizes(layout, lines):
    shards = layout.get("shards", 1)
    each = lines // shards
    count = min(layout["groups"], each)
    return [each // count + (i < each % count) for i in range(count)] * shards


def kept(encoding, octets, count):
    """Which of `count` weights have a code."""
    if encoding == "flags":
        return flags(octets, count).astype(bool)
    if encoding == "runs":
        keep, place = np.zeros(count, bool), 0
        for nibble in np.stack([octets >> 4, octets & 15], 1).flatten():
            place += int(nibble)
            if nibble < 15:
                keep[place] = True
                place += 1
        return keep
    n, m = encoding.get("kept", 2), encoding.get("block", 4)
    patterns = sorted(tuple(int(i in places) for i in range(m)) for places in combinations(range(m), n))
    index = numbers(octets, ceil(log2(comb(m, n))), 1, count // m)[0]
    return np.array(patterns, bool)[index].flatten()


def values(encoding, codes, floats, bits):
    """`floats` `(lines, floats)` for codes `(lines, length)`."""
    codes, one = codes.astype(np.float32), floats.astype(np.float32)
    if encoding == "affine":
        return codes * one[:, :1] + one[:, 1:]
    half = bits == 1 or (bits == 2 and encoding == "scaled-half")
    assert encoding in ("scaled", "scaled-half")
    return (codes - np.float32(2 ** (bits - 1) - (0.5 if half else 0))) * one


def matrix(entry, parts):
    layout, length, table = entry["layout"], entry["length"], {int(b): n for b, n in entry["precisions"].items()}
    (rows, columns), axis = layout["shape"], layout.get("axis", 0)
    lines, line_length = (columns, rows) if axis else (rows, columns)
    sizes = group_sizes(layout, lines)
    known = ([0] if sum(n[0] for n in table.values()) < len(sizes) else []) + list(table)
    bits_of = [known[0]] * len(sizes)
    if "map" in parts:
        bits_of = [known[i] for i in numbers(parts["map"], ceil(log2(len(known))), 1, len(sizes))[0]]
    group_of = np.repeat(np.arange(len(sizes)), sizes)
    scales = parts["scales"].tobytes()
    scales = np.frombuffer(scales, FLOATS[entry.get("scale_dtype", "float16")]) if scales else None
    full, codes_at, mask_at, scale_at = np.zeros((lines, length), np.float32), 0, 0, 0
    for bits, (groups, count, floats, *masked) in table.items():
        chosen = [line for line in range(lines) if bits_of[group_of[line]] == bits]
        found = scales[scale_at : scale_at + groups * floats].reshape(groups, floats)
        order = {g: i for i, g in enumerate(g for g, b in enumerate(bits_of) if b == bits)}
        of_line = found[[order[group_of[line]] for line in chosen]]
        stored = (1, masked[0]) if masked else (count, length)
        size = bits * stored[0] * ceil(stored[1] / 8)
        codes = numbers(parts["codes"][codes_at : codes_at + size], bits, *stored)
        codes_at, scale_at = codes_at + size, scale_at + groups * floats
        keep = np.ones((count, length), bool)
        if masked:
            octets = masked[1] if len(masked) > 1 else ceil(count * length / 8)
            mask = parts["mask"][mask_at : mask_at + octets]
            keep = kept(entry.get("mask_encoding", "flags"), mask, count * length).reshape(count, length)
            mask_at, spread = mask_at + octets, np.zeros((count, length), int)
            spread[keep] = codes[0]
            codes = spread
        full[chosen] = values(entry["encoding"], codes, of_line, bits) * keep
    if length < line_length:
        all_columns = np.zeros((lines, line_length), np.float32)
        all_columns[:, flags(parts["live_columns"], line_length).astype(bool)] = full
        full = all_columns
    return full.T if axis else full
