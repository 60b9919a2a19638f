"""What a config says for one matrix: its role's defaults, and the rules that match on top."""

import regex

from ..core import search
from ..weights import GATES, QUANTIZERS
from .fields import ConfigFields


def layer_options(config: ConfigFields, name: str, role: str) -> dict:
    """The config's fields for a role, with the rules that match on top."""
    chosen = {
        "groups": config.groups,
        "activation_bits": config.activation_bits,
        "quantizer": config.weight_quantizer,
        "quantizer_options": config.quantizer_options,
        "gate": config.gate_name,
        "gate_options": config.gate_options,
        "source": config.source,
        "source_options": config.source_options,
        "mask": config.mask,
        "mask_options": config.mask_options,
        "patterns": config.patterns,
        "transforms": config.transforms,
        "bits": config.bits,
        "tie": None,
        "low_rank": config.low_rank,
    }
    if role != "encoder":
        bits = config.table_bits if role == "embedding" else config.projection_bits
        chosen |= {
            "bits": bits,
            "gate": "softmax" if isinstance(bits, tuple) else "fixed",
            "gate_options": {},
            "source": "float-master",
            "source_options": {},
            "mask": None,
            "patterns": (),
            "transforms": {},
            "low_rank": 0,
        }
        if isinstance(config.activation_bits, tuple):
            chosen["activation_bits"] = config.activation_bits[-1]
        own_grid = config.nested or GATES[config.gate_name].sets_grid
        if own_grid or _beyond(config.weight_quantizer, bits):
            chosen |= {"quantizer": "symmetric", "quantizer_options": {}}
    if role == "embedding":
        chosen |= {"groups": "channel", "activation_bits": None}
    for pattern, options in config.rules.items():
        match = search(pattern, name)
        if match:
            chosen |= {**_consequences(options, chosen), **_one_mask(options), **options}
            if options.get("tie") is not None:
                chosen["tie"] = _tie(pattern, match, options["tie"])
    return chosen


def _beyond(quantizer: str, bits: int | tuple[int, ...] | None) -> bool:
    """Whether bits are more than a quantizer is for."""
    return max(bits if isinstance(bits, tuple) else (bits or 0,)) > QUANTIZERS[quantizer].most_bits


def _tie(pattern: str, match: regex.Match, template: str) -> str:
    try:
        return match.expand(template)
    except (regex.error, IndexError) as error:
        raise ValueError(
            f"tie {template!r} of rule {pattern!r} is no template of its match ({error}); "
            r"write '\1' for what its first group in parentheses matched"
        ) from error


def _one_mask(options: dict) -> dict:
    """A rule with a mask takes patterns away, and one with patterns a mask."""
    if options.get("patterns"):
        return {"mask": None, "mask_options": {}}
    return {"patterns": ()} if options.get("mask") else {}


def _consequences(options: dict, chosen: dict) -> dict:
    """What a rule's bits mean for the gate, and for nested codes, where the rule does not say."""
    if "bits" not in options:
        return {}
    if options["bits"] is None or isinstance(options["bits"], int):
        plain = {"quantizer": "symmetric", "quantizer_options": {}} if chosen["quantizer"] == "nested" else {}
        return {"gate": "fixed", "gate_options": {}, **plain}
    return {"gate": "softmax", "gate_options": {}} if chosen["gate"] == "fixed" else {}
