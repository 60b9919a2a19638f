import pytest

from hf_mpq.core import Registry


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
