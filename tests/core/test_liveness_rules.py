import pytest
import torch

from hf_mpq.core import Link, RowBlock, SubgroupLayout
from hf_mpq.core.liveness import dead_rows, liveness

ROWS = SubgroupLayout((4, 6), 4)
CONSUMER = SubgroupLayout((3, 4), 3)


def follow(link, bits, layouts=None):
    layouts = layouts or {name: CONSUMER if name == "out" else ROWS for name in bits}
    return liveness([link], layouts, bits)


def dead(mask):
    return (~mask).nonzero().flatten().tolist()


@pytest.mark.parametrize("kind", ["pointwise", "value"])
def test_a_pruned_row_and_its_column_go(kind):
    alive = follow(Link(kind, (RowBlock("a", 0, 4),), "out"), {"a": (0, 2, 0, 4), "out": (0, 2, 4)})
    assert dead(alive["a"].rows) == [0, 2]
    assert dead(alive["out"].columns) == [0, 2]
    assert dead(alive["a"].columns) == dead(alive["out"].rows) == []


def test_a_gated_pair_goes_together():
    fused = SubgroupLayout((8, 6), 4, shards=2)
    link = Link("gated", (RowBlock("a", 0, 4), RowBlock("a", 4, 4)), "out")
    alive = follow(link, {"a": (0, 0, 2, 2, 0, 2, 0, 2), "out": (2, 2, 2)}, {"a": fused, "out": CONSUMER})
    assert dead(alive["a"].rows) == [0, 4]
    assert dead(alive["out"].columns) == [0]


@pytest.mark.parametrize(
    "options, query_rows, key_rows",
    [
        ({}, [0], [0, 2]),
        ({"paired": True}, [0], [0]),
        ({"heads": 1, "rotary": True}, [], []),
    ],
)
def test_a_query_row_never_goes_without_its_key(options, query_rows, key_rows):
    link = Link("scores", (RowBlock("q", 0, 4), RowBlock("k", 0, 4)), **options)
    alive = follow(link, {"q": (0, 0, 2, 2), "k": (0, 2, 0, 2)})
    assert dead(alive["q"].rows) == query_rows
    assert dead(alive["k"].rows) == key_rows


def test_rotary_rows_go_in_pairs_within_their_head():
    link = Link("scores", (RowBlock("q", 0, 8), RowBlock("k", 0, 8)), heads=2, rotary=True)
    layouts = dict.fromkeys("qk", SubgroupLayout((8, 6), 8))
    alive = follow(link, {"q": (0, 2, 0, 2, 0, 0, 2, 2), "k": (0, 2, 0, 2, 0, 0, 2, 2)}, layouts)
    assert dead(alive["q"].rows) == dead(alive["k"].rows) == [0, 2]


def test_links_outside_the_space_and_into_column_groups_fold_nothing():
    link = Link("pointwise", (RowBlock("a", 0, 4),), "out")
    assert dead(follow(link, {"a": (0, 0, 0, 0)})["a"].rows) == []
    layouts = {"a": ROWS, "out": SubgroupLayout((3, 4), 2, axis=1)}
    assert dead(follow(link, {"a": (0, 0, 0, 0), "out": (2, 2)}, layouts)["a"].rows) == []


def test_pruned_column_blocks_keep_their_rows():
    layouts = {"a": SubgroupLayout((4, 6), 2, axis=1), "out": CONSUMER}
    alive = follow(Link("pointwise", (RowBlock("a", 0, 4),), "out"), {"a": (0, 0), "out": (2, 2, 2)}, layouts)
    assert dead(alive["a"].rows) == []


@pytest.mark.parametrize("options", [{}, {"paired": True}, {"heads": 2, "rotary": True}])
def test_the_rule_for_probabilities_is_the_rule_for_bools(options):
    link = Link("scores", (RowBlock("q", 0, 8), RowBlock("k", 0, 8)), **options)
    pruned = [torch.rand(8) < 0.6 for _ in range(2)]
    for exact, expected in zip(dead_rows(link, pruned), dead_rows(link, [p.float() for p in pruned])):
        assert torch.equal(exact.float(), expected)
