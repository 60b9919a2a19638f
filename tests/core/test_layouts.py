import pytest
import torch

from hf_mpq.core import SubgroupLayout, spread

LAYOUTS = [
    SubgroupLayout((12, 8), 4),
    SubgroupLayout((10, 8), 4),
    SubgroupLayout((3, 8), 128),
    SubgroupLayout((12, 5), 1),
    SubgroupLayout((30, 4), 4, shards=3),
    SubgroupLayout((6, 10), 4, axis=1),
    SubgroupLayout((6, 8), 2, axis=1),
]


def ids(layout):
    return f"{layout.shape}-{layout.groups}-axis{layout.axis}-shards{layout.shards}"


@pytest.mark.parametrize(
    "total, parts, sizes",
    [
        (10, 4, (3, 3, 2, 2)),
        (12, 4, (3, 3, 3, 3)),
        (3, 128, (1, 1, 1)),
        (7, 1, (7,)),
    ],
)
def test_spread_drops_nothing(total, parts, sizes):
    assert spread(total, parts) == sizes


@pytest.mark.parametrize("layout", LAYOUTS, ids=ids)
def test_every_weight_is_in_one_sub_group(layout):
    assert sum(layout.sizes) == layout.shape[layout.axis]
    assert sum(layout.numel) == layout.shape[0] * layout.shape[1]
    assert layout.count == len(layout.sizes) == len(layout.numel)
    assert torch.bincount(layout.index()).tolist() == list(layout.sizes)


def test_counts_are_per_shard_and_shards_never_mix():
    assert SubgroupLayout((30, 4), 4, shards=3).sizes == (3, 3, 2, 2) * 3


@pytest.mark.parametrize("layout", LAYOUTS, ids=ids)
def test_split_and_merge_are_inverse(layout):
    weight = torch.randn(layout.shape)
    parts = layout.split(weight)
    assert [part.numel() for part in parts] == list(layout.numel)
    assert torch.equal(layout.merge(parts), weight)


@pytest.mark.parametrize("layout", LAYOUTS, ids=ids)
@pytest.mark.parametrize("how", ["amin", "amax", "sum"])
def test_reduce_agrees_with_each_sub_group_alone(layout, how):
    weight = torch.randn(layout.shape, dtype=torch.float64)
    alone = torch.stack([getattr(part, how)() for part in layout.split(weight)])
    torch.testing.assert_close(layout.reduce(weight, how), alone)


@pytest.mark.parametrize("layout", LAYOUTS, ids=ids)
def test_reduce_lines_keeps_trailing_axes(layout):
    values = torch.randn(layout.shape[layout.axis], 3)
    alone = torch.stack([part.amax(0) for part in values.split(layout.sizes)])
    torch.testing.assert_close(layout.reduce_lines(values, "amax"), alone)


@pytest.mark.parametrize("layout", LAYOUTS, ids=ids)
def test_expand_repeats_a_value_for_each_line(layout):
    values = torch.arange(layout.count).float()
    expanded = layout.expand(torch.stack([values, -values], dim=1))
    assert expanded.shape == (layout.shape[layout.axis], 2)
    assert torch.equal(layout.reduce_lines(expanded[:, 0], "amin"), values)
    assert torch.equal(layout.reduce_lines(-expanded[:, 1], "amax"), values)


@pytest.mark.parametrize(
    "kind, count, axis",
    [
        (4, 12, 0),
        ("channel", 24, 0),
        ("matrix", 3, 0),
        ("head", 6, 0),
        ("columns:5", 5, 1),
    ],
)
def test_of_reads_config_words(kind, count, axis):
    layout = SubgroupLayout.of(kind, (24, 10), shards=3, heads=2)
    assert (layout.count, layout.axis) == (count, axis)


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: SubgroupLayout((4, 4), 0), "at least one"),
        (lambda: SubgroupLayout((4, 4), 1, axis=2), "axis"),
        (lambda: SubgroupLayout((4, 4), 1, shards=3), "equal shards"),
        (lambda: SubgroupLayout.of("rows", (4, 4)), "unknown groups"),
        (lambda: SubgroupLayout.of("columns:x", (4, 4)), "unknown groups"),
        (lambda: SubgroupLayout.of("head", (4, 4)), "heads"),
    ],
)
def test_bad_layouts_say_what_is_wrong(build, message):
    with pytest.raises(ValueError, match=message):
        build()
