import json
from math import ceil

import pytest

from hf_mpq.core import MaskStorage, MatrixStorage, Part, SubgroupLayout

ROWS = SubgroupLayout((10, 20), 4)  # sizes 3, 3, 2, 2
FLOATS = {2: 1, 4: 2, 8: 3}
STORAGES = [
    MatrixStorage.of(ROWS, (2, 4, 2, 8), FLOATS, encoding="half-step"),
    MatrixStorage.of(ROWS, (0, 0, 0, 0), FLOATS, encoding="half-step", bias=0),
    MatrixStorage.of(ROWS, (0, 4, 4, 0), FLOATS, encoding="half-step", length=13, bias=6),
    MatrixStorage.of(ROWS, (8, 8, 8, 0), FLOATS, encoding="nested", nested=(2, 4, 8), bias=10),
    MatrixStorage.of(
        ROWS,
        (2, 4, 0, 0),
        FLOATS,
        encoding="half-step",
        mask=MaskStorage.flags({2: 30, 4: 29}, {2: 3, 4: 3}, 20),
        scale_dtype="float32",
    ),
    MatrixStorage.of(
        ROWS,
        (2, 4, 0, 0),
        FLOATS,
        encoding="half-step",
        mask=MaskStorage({2: 30, 4: 30}, {2: 6, 4: 6}, Part("n:m", kept=1, block=2)),
    ),
    MatrixStorage.of(
        SubgroupLayout((6, 10), 3, axis=1), (2, 0, 4), FLOATS, encoding="half-step", float_dtype="float32"
    ),
    MatrixStorage.of(SubgroupLayout((6, 10), 2, shards=3), (2, 4) * 3, FLOATS, encoding="half-step"),
]


@pytest.mark.parametrize("storage", STORAGES)
def test_json_round_trip(storage):
    assert MatrixStorage.from_dict(json.loads(json.dumps(storage.to_dict()))) == storage


def test_each_part_is_counted():
    assert STORAGES[2].buffers() == {
        "codes": 4 * 5 * ceil(13 / 8),
        "scales": 2 * 2 * 2,
        "map": 1,
        "live_columns": ceil(20 / 8),
        "bias_values": 6 * 2,
        "live_rows": ceil(10 / 8),
    }
    assert STORAGES[2].total_bytes == 40 + 8 + 1 + 3 + 12 + 2


def test_a_mask_stores_kept_codes_and_one_bit_per_weight():
    buffers = STORAGES[4].buffers()
    assert buffers["codes"] == 2 * ceil(30 / 8) + 4 * ceil(29 / 8)
    assert buffers["mask"] == ceil(3 * 20 / 8) + ceil(3 * 20 / 8)


@pytest.mark.parametrize(
    "bits, precisions, map_bits",
    [
        ((2, 2, 2, 2), (2,), 0),
        ((0, 0, 0, 0), (0,), 0),
        ((0, 2, 2, 2), (0, 2), 1),
        ((0, 2, 4, 2), (0, 2, 4), 2),
        ((0, 2, 4, 8), (0, 2, 4, 8), 2),
    ],
)
def test_the_map_needs_only_the_used_precisions(bits, precisions, map_bits):
    storage = MatrixStorage.of(ROWS, bits, FLOATS, encoding="half-step")
    assert (storage.precisions, storage.map_bits) == (precisions, map_bits)
    assert storage.buffers().get("map", 0) == map_bits


def test_a_pruned_matrix_without_bias_takes_nothing():
    assert STORAGES[1].with_changes(bias=None).total_bytes == 0
