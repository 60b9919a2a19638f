"""A step of a search launches not many more operators than one of fine-tuning: on a GPU each costs the same time."""

import torch

BOUNDS = {"mpq": 1.55, "aq-bert": 1.55, "aq-bert+kd": 1.55, "uniform": 1.45}
"""Over a plain step, with a teacher's pass where the method has one."""


def test_a_step_runs_few_operators_more_than_a_plain_one():
    import bench_search_step as bench

    batch = {
        "input_ids": torch.randint(1, 500, (2, 8)),
        "attention_mask": torch.ones(2, 8, dtype=torch.long),
        "labels": torch.tensor([0, 1]),
    }
    for name, (count, ratio) in bench.operator_ratios(batch).items():
        assert count > 500
        assert ratio <= BOUNDS.get(name.partition(":")[0], 1.0), name
