"""What `make test` leaves to `make test-full` leaves no registry's entry without a case; and no file hides another."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from transformers import CONFIG_MAPPING

from hf_mpq.core import METHODS
from hf_mpq.cost import COSTS
from hf_mpq.exporters import EXPORTERS
from hf_mpq.format.masks import MASK_ENCODINGS
from hf_mpq.nn.families import FAMILIES
from hf_mpq.outliers import OUTLIERS
from hf_mpq.rounding import ROUNDERS
from hf_mpq.search import ALLOCATORS, SCORERS
from hf_mpq.search.schedules import SCHEDULES
from hf_mpq.search.strategies import STRATEGIES
from hf_mpq.search.strategies.penalties import PENALTIES
from hf_mpq.training.gradients import COMBINERS
from hf_mpq.training.objectives import OBJECTIVES
from hf_mpq.weights import ACTIVATIONS, ENCODINGS, GATES, MASKS, QUANTIZERS, SOURCES, TRANSFORMS
from hf_mpq.weights.rounding_gradients import ROUNDING_GRADIENTS

TESTS = Path(__file__).parents[1]
CONTRACTS = {
    "activation quantizers": (ACTIVATIONS, "weights/test_activations.py"),
    "allocators": (ALLOCATORS, "search/test_allocators.py"),
    "combiners": (COMBINERS, "training/test_passes.py"),
    "costs": (COSTS, "search/test_allocation_quality.py"),
    "encodings": (ENCODINGS, "runtime/test_uneven_codes.py"),
    "export formats": (EXPORTERS, "contracts/test_crash_safety.py"),
    "families": (
        [name for name in FAMILIES if name in CONFIG_MAPPING],
        "contracts/test_families.py",
        "contracts/test_more_families.py",
    ),
    "gates": (GATES, "training/test_roles.py"),
    "mask encodings": (MASK_ENCODINGS, "format/test_masks.py"),
    "masks": (MASKS, "contracts/test_sizes.py"),
    "methods": (METHODS, "methods/test_methods.py"),
    "methods that train": ([name for name in METHODS if METHODS[name].stages], "contracts/test_methods_train.py"),
    "objectives": (OBJECTIVES, "contracts/test_parts.py"),
    "penalties": (PENALTIES, "search/strategies/test_penalties.py"),
    "quantizers": (QUANTIZERS, "weights/test_weight_contract.py", "weights/test_nested_codes.py"),
    "quantizers in backends": (QUANTIZERS, "contracts/test_quantizers_in_backends.py"),
    "rounders": (ROUNDERS, "rounding/test_rounder_contract.py"),
    "rounding gradients": (ROUNDING_GRADIENTS, "weights/test_rounding_gradients.py"),
    "rules against outliers": (OUTLIERS, "outliers/test_rules.py"),
    "schedules": (SCHEDULES, "search/schedules/test_schedules.py"),
    "scorers": (SCORERS, "search/test_scorers.py"),
    "strategies": (STRATEGIES, "contracts/test_parts.py"),
    "weight sources": (SOURCES, "training/test_roles.py"),
    "weight transforms": (TRANSFORMS, "weights/test_weight_transforms.py"),
}
"""Entries, and the files over them: each entry is a parameter of a case there."""


def within(value) -> Iterator:
    """A parameter, or what is in it."""
    yield value
    for one in value if isinstance(value, tuple | list) else ():
        yield from within(one)


@pytest.mark.parametrize("kind", CONTRACTS)
def test_every_entry_has_a_case_that_always_runs(kind, request):
    entries, *files = CONTRACTS[kind]
    cases = [item for item in request.session.items if item.path.relative_to(TESTS).as_posix() in files]
    if request.config.option.keyword or {item.path.relative_to(TESTS).as_posix() for item in cases} != set(files):
        pytest.skip(f"this run leaves out some of {', '.join(files)}")
    given = [one for item in cases if hasattr(item, "callspec") for one in within([*item.callspec.params.values()])]
    kinds = {} if isinstance(entries, list | dict) else {name: entries[name] for name in entries}
    assert [name for name in entries if not any(one == name or one is kinds.get(name, name) for one in given)] == []


def test_names_of_test_files_are_unique():
    names = Counter(path.name for path in TESTS.rglob("test_*.py"))
    assert [name for name, count in names.items() if count > 1] == []
