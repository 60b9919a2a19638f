"""Old import paths, for one release: `hf_mpq.integrations` has moved."""

from typing import Any

from .._moved import moved

_NAMES = {
    "MPQConfig": "hf_mpq.plugin:MPQConfig",
    "MPQHfQuantizer": "hf_mpq.plugin:MPQHfQuantizer",
    "assignment_of": "hf_mpq.plugin:assignment_of",
    "compress": "hf_mpq.compression:compress",
    "export": "hf_mpq.exporters:export",
    "fix": "hf_mpq.plugin:fix",
    "latency_table": "hf_mpq.runtime.latency:latency_table",
    "pack": "hf_mpq.plugin:pack",
    "quantize": "hf_mpq.plugin:quantize",
    "set_precision": "hf_mpq.plugin:set_precision",
    "unpack": "hf_mpq.plugin:unpack",
}


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return moved(f"hf_mpq.integrations.{name}", _NAMES[name])
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
