"""What is registered is there for whoever looks, whatever was imported before."""

import json

from tests.processes import run_python

CODE = """
import gc, importlib, json, pkgutil
import hf_mpq
from hf_mpq.core import Registry

for room in hf_mpq._ROOMS:
    importlib.import_module(f"hf_mpq.{room}")
at_once = {one.kind: sorted(one) for one in gc.get_objects() if isinstance(one, Registry)}
for module in pkgutil.walk_packages(hf_mpq.__path__, "hf_mpq."):
    if not any(part in module.name for part in ("__main__", "_kernel", "cuda.kernels")):
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as error:  # of an extra that is not installed, and says so
            assert "pip install 'hf_mpq[" in str(error), error
everything = {one.kind: sorted(one) for one in gc.get_objects() if isinstance(one, Registry)}
print(json.dumps([at_once, everything]))
"""


def test_no_registry_waits_for_somebody_to_import_its_parts():
    done = run_python(["-c", CODE])
    assert done.returncode == 0, done.stderr
    at_once, everything = json.loads(done.stdout.splitlines()[-1])
    assert all(at_once.get(kind, everything[kind]) == names for kind, names in everything.items())
    assert everything["measure of latencies"] == ["here"]


def test_a_budget_in_milliseconds_measures_without_another_import():
    code = "import hf_mpq.cost.latency as latency; print(latency.MEASURES[latency.HERE].__name__)"
    assert run_python(["-c", code]).stdout.split() == ["latency_table"]
