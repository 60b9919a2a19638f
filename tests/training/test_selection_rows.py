"""Assignments are compared on rows that nothing was trained on."""

import pytest
from datasets import IterableDataset as TableStream
from torch.utils.data import DataLoader, IterableDataset

from hf_mpq.training.run import selection as rule
from hf_mpq.training.run import stages as run_stages
from hf_mpq.training.run.preferences import Preferences
from hf_mpq.training.run.selection_rows import keep_rows
from hf_mpq.training.stage.module import StageModule
from tests.training.runs import quantized, sentences, trainer


@pytest.mark.parametrize(("method", "count"), [("mpq", 64), ("mpq", 20), ("channelwise", 64)])
def test_neither_search_nor_scores_nor_short_trainings_see_the_compared_rows(method, count, tmp_path, monkeypatch):
    rows, seen = sentences(count), {"trained": set(), "scored": set(), "compared": set()}
    place = {tuple(row["input_ids"]): k for k, row in enumerate(rows)}
    assert len(place) == count

    def places(batch):
        return {
            place[tuple(row[mask.bool()].tolist())] for row, mask in zip(batch["input_ids"], batch["attention_mask"])
        }

    forward, init, divergence = StageModule.forward, Preferences.__init__, rule.mean_divergence
    stages = []

    def trained(self, the_pass=None, progress=None, outputs=False, **batch):
        if the_pass is not None and stages[-1] != "last":
            seen["trained"] |= places(batch)
        return forward(self, the_pass, progress, outputs, **batch)

    def scored(self, folder, model, config, method, batches, *args):
        seen["scored"] |= {one for batch in batches for one in places(batch)}
        init(self, folder, model, config, method, batches, *args)

    def compared(teacher, student, batches, *kept):
        seen["compared"] |= {one for batch in batches for one in places(batch)}
        return divergence(teacher, student, batches, *kept)

    made = run_stages.StageTrainer

    def stage(module, args, strategy, *others, **options):
        stages.append("last" if strategy is None and args.save_strategy != "no" else "before")
        return made(module, args, strategy, *others, **options)

    monkeypatch.setattr(StageModule, "forward", trained)
    monkeypatch.setattr(Preferences, "__init__", scored)
    monkeypatch.setattr(rule, "mean_divergence", compared)
    monkeypatch.setattr(run_stages, "StageTrainer", stage)
    options = {"groups": "channel"} if method == "channelwise" else {}
    run = trainer(
        quantized(method, budget="3bits", **options),
        tmp_path,
        train_dataset=rows,
        save_steps=100,
        per_device_train_batch_size=4,
        selection_steps=4,
    )
    run.train()
    kept = {place[tuple(row["input_ids"])] for row in run._compared_rows}
    if method == "mpq":
        assert len(kept) == min(16, count // 4) and stages[-1] == "last"
        assert seen["compared"] <= kept and not kept & seen["trained"]
        assert seen["scored"] and not kept & seen["scored"]
        assert seen["trained"]
    else:  # which compares nothing, and keeps nothing
        assert not kept


def test_a_set_that_is_too_small_to_share_is_searched_whole(tmp_path):
    run = trainer(quantized("mpq", budget="3bits"), tmp_path, train_dataset=sentences(16), save_strategy="no")
    run.train()
    assert not len(run._compared_rows) and len(run._learned_rows) == 16


class Stream(IterableDataset):
    def __iter__(self):
        return iter(range(20))


@pytest.mark.parametrize("workers", [0, 2])
def test_the_rest_of_a_stream_begins_after_what_is_kept(workers):
    rest, kept = keep_rows(Stream(), 5, 0, least=8)
    assert kept == [0, 1, 2, 3, 4]
    for _ in range(2):
        assert not set(kept) & {int(row) for row in DataLoader(rest, batch_size=None, num_workers=workers)}
    table = TableStream.from_generator(lambda: ({"row": k} for k in range(20)))
    rest, kept = keep_rows(table, 5, 0, least=8)
    assert isinstance(rest, TableStream)
    assert [row["row"] for row in kept] == list(range(5)) and [row["row"] for row in rest] == list(range(5, 20))
