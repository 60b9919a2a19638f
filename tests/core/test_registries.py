import ast
import re
from importlib import import_module
from pathlib import Path

import pytest

import hf_mpq
from hf_mpq.core import Registry, unknown
from hf_mpq.core.registry import options_of

PACKAGE = Path(hf_mpq.__file__).parent
REGISTRIES = {
    "hf_mpq.nn.widening": ("RESHAPES",),
    "hf_mpq.weights": ("ACTIVATIONS", "ENCODINGS", "GATES", "MASKS", "QUANTIZERS", "SOURCES"),
    "hf_mpq.core": ("METHODS",),
    "hf_mpq.cost": ("COSTS",),
    "hf_mpq.search": ("ALLOCATORS", "SCORERS"),
    "hf_mpq.rounding": ("ROUNDERS",),
    "hf_mpq.search.strategies": ("STRATEGIES",),
    "hf_mpq.search.strategies.penalties": ("PENALTIES",),
    "hf_mpq.search.strategies.start": ("GATE_STARTS",),
    "hf_mpq.outliers": ("OUTLIERS",),
    "hf_mpq.runtime": ("BACKENDS",),
    "hf_mpq.exporters": ("EXPORTERS",),
    "hf_mpq.training.objectives": ("OBJECTIVES",),
}


@pytest.fixture
def shapes():
    registry = Registry("shape")

    @registry.register("circle")
    class Circle:
        pass

    @registry.register("box")
    class Box:
        pass

    return registry


def test_it_lists_names_in_order(shapes):
    assert list(shapes) == ["box", "circle"]
    assert "box" in shapes and "line" not in shapes
    assert shapes["box"].__name__ == "Box"


def test_an_unknown_name_is_answered_with_the_known_ones(shapes):
    with pytest.raises(ValueError, match="unknown shape 'line'; the known ones are: box, circle"):
        shapes["line"]


def test_a_taken_name_is_refused(shapes):
    with pytest.raises(ValueError, match="shape 'box' is already registered"):

        @shapes.register("box")
        class Other:
            pass


def test_the_same_object_may_come_again(shapes):
    assert shapes.register("box")(shapes["box"]) is shapes["box"]


def test_case_does_not_matter(shapes):
    assert shapes["BOX"] is shapes["box"] and "Circle" in shapes and shapes.name_of("CIRCLE") == "circle"
    with pytest.raises(ValueError, match="shape 'BOX' is already registered"):

        @shapes.register("BOX")
        class Other:
            pass


def test_a_near_miss_is_suggested(shapes):
    with pytest.raises(ValueError, match=r"unknown shape 'Cirle'; did you mean 'circle'\? the known ones are: box"):
        shapes["Cirle"]


def test_options_are_checked_by_name():
    registry = Registry("shape", passed=("progress",))

    class Base:
        def __init__(self, size, width: int = 1, **more):
            pass

    @registry.register("box")
    class Box(Base):
        def __init__(self, size, height: int = 2, progress: bool = False, **more):
            super().__init__(size, **more)

    @registry.register("any")
    def anything(size, **options):
        return options

    assert isinstance(registry.make("Box", 3, options={"height": 1}, progress=True), Box)
    assert registry.make("any", 3, options={"odd": 1}) == {"odd": 1}
    for wrong in ("heigth", "progress", "size"):
        with pytest.raises(ValueError, match=rf"option of shape 'box': '{wrong}'; .*the known ones are: height.*"):
            registry.make("box", 3, options={wrong: 1})


@pytest.mark.parametrize(("module", "name"), [(module, name) for module, names in REGISTRIES.items() for name in names])
def test_every_registry_is_filled_and_suggests(module, name):
    registry = getattr(import_module(module), name)
    assert isinstance(registry, Registry) and list(registry)
    for known in registry:
        assert registry[known.upper()] is registry[known]
        with pytest.raises(ValueError, match=f"unknown {registry.kind} .*the known ones are: "):
            registry[known + "?"]
        assert f"did you mean {known!r}" in unknown(registry.kind, known + "?", registry)


OPTIONS = [
    ("weights", "QUANTIZERS"),
    ("weights", "GATES"),
    ("weights", "SOURCES"),
    ("weights", "MASKS"),
    ("weights", "ACTIVATIONS"),
    ("search", "SCORERS"),
    ("search", "ALLOCATORS"),
    ("rounding", "ROUNDERS"),
    ("outliers", "OUTLIERS"),
    ("search.strategies", "STRATEGIES"),
    ("search.strategies.penalties", "PENALTIES"),
    ("training.objectives", "OBJECTIVES"),
    ("nn.widening", "RESHAPES"),
]


@pytest.mark.parametrize(("room", "name"), OPTIONS)
def test_a_misspelt_option_is_answered_with_the_known_ones(room, name):
    """Every option that is known is taken, and none that the package gives itself."""
    registry = getattr(import_module(f"hf_mpq.{room}"), name)
    for one in registry:
        with pytest.raises(ValueError, match=f"unknown option of {registry.kind} '{re.escape(one)}': 'magic'; the kno"):
            registry.check_options(one, {"magic": 1})
        known = set(options_of(registry[one])) - set(registry._passed)
        registry.check_options(one, dict.fromkeys(known))
        assert not known & {"progress", "scale_dtype", "scores", "evaluate", "teacher", "bits"} - (
            {"bits"} if name == "ALLOCATORS" else set()
        )


def test_the_name_of_a_registry_has_one_meaning():
    """No module defines a constant that is called as another's registry."""
    modules = {path: ast.parse(path.read_text()).body for path in PACKAGE.rglob("*.py")}
    defined = [
        (path, name.id)
        for path, body in modules.items()
        for node in body
        if isinstance(node, ast.Assign | ast.AnnAssign)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        for name in ast.walk(target)
        if isinstance(name, ast.Name)
    ]
    registries = {name for names in REGISTRIES.values() for name in names} | {"SCHEDULES", "STRATEGIES", "TRANSFORMS"}
    places = {name: [path for path, other in defined if other == name] for name in registries}
    assert {name: found for name, found in places.items() if len(found) != 1} == {}
