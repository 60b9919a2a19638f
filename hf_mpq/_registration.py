"""Makes transformers know the quantization method: now where it can load models already, else once it can."""

import sys
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

AUTO_QUANTIZERS = "transformers.quantizers.auto"
WATCHED = ("transformers.modeling_utils", "transformers.quantizers", AUTO_QUANTIZERS)


def register() -> None:
    """Register `"mpq"`; while transformers' own quantizers are not imported, that waits until they are."""
    if AUTO_QUANTIZERS in sys.modules:
        import_module("hf_mpq.plugin")
    elif not any(isinstance(finder, _Afterwards) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Afterwards())


class _Afterwards(MetaPathFinder):
    """Finds modules as Python does, and registers when the outermost import of those that need one another ends."""

    def __init__(self):
        self.depth = 0

    def find_spec(self, name: str, path=None, target: ModuleType | None = None) -> ModuleSpec | None:
        watched = name in WATCHED or name.startswith("hf_mpq.")
        spec = PathFinder.find_spec(name, path, target) if watched else None
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module
            spec.loader.exec_module = lambda module: self._run(run, module)
        return spec

    def _run(self, run, module: ModuleType) -> None:
        self.depth += 1
        try:
            run(module)
        finally:
            self.depth -= 1
        if not self.depth and AUTO_QUANTIZERS in sys.modules and self in sys.meta_path:
            sys.meta_path.remove(self)
            register()
