"""Rows of a comparison become committed ones."""

import json
import shlex

import numpy as np
import pytest

from hf_mpq.report.board.intervals import pairs_of
from hf_mpq.report.board.sources import read_sources
from tests.report.test_board import row, whole


def test_rows_are_kept_without_places_and_with_their_intervals(tmp_path):
    from keep_rows import main

    out, rows = tmp_path / "out", tmp_path / "rows"
    (out / "kl").mkdir(parents=True)
    command = [
        "python",
        "x.py",
        "--data_dir",
        "/my data",
        "--models",
        "a/b",
        "--out",
        str(out),
        "--config",
        '{"bits": [2]}',
    ]
    settings = {"data_dir": "/my data", "models": "a/b", "epochs": 2.0}
    found = [whole(), *(row(name, command=shlex.join(command), settings=settings) for name in ("mpq", "uniform"))]
    (out / "results.jsonl").write_text("".join(json.dumps(one) + "\n" for one in found))
    for name, shift in (("mpq", 0.0), ("uniform", 0.25)):
        np.save(out / "kl" / f"mrpc-{name}-2bits-0.npy", np.arange(9.0) + shift)
    main(["mine", str(out), str(out), "--rows", str(rows)])
    (source,) = read_sources(rows)
    assert [one["method"] for one in source.rows] == ["float", "mpq", "uniform"], "the same rows once"
    assert source.rows[1]["settings"] == {"data_dir": "DATA", "models": "FLOAT", "epochs": 2.0}
    words = shlex.split(source.rows[1]["command"])
    assert words == ["python", "x.py", "--data_dir", "DATA", "--models", "FLOAT", "--out", "OUT", *command[-2:]]
    (pair,) = pairs_of([source])
    assert (pair.source, pair.method, pair.mean, pair.seeds, pair.rows) == ("mine", "uniform", 0.25, 1, 9)
    more = tmp_path / "more"
    (more / "kl").mkdir(parents=True)
    (more / "results.jsonl").write_text("".join(json.dumps({**one, "seed": 1}) + "\n" for one in found[1:]))
    for name, shift in (("mpq", 0.0), ("uniform", 0.75)):
        np.save(more / "kl" / f"mrpc-{name}-2bits-1.npy", np.arange(9.0) + shift)
    main(["mine", str(out), str(more), "--rows", str(rows)])
    (source,) = read_sources(rows)
    (pair,) = pairs_of([source])
    assert len(source.rows) == 5 and (pair.mean, pair.seeds) == (0.5, 2), "seeds of several folders"
    with pytest.raises(SystemExit, match=r"has no results\.jsonl"):
        main(["mine", str(tmp_path), "--rows", str(rows)])
    (more / "results.jsonl").write_text(json.dumps(row(model="mpnet")) + "\n")
    with pytest.raises(SystemExit, match="rows of all-MiniLM-L6-v2 and mpnet: keep those of each model"):
        main(["mine", str(out), str(more), "--rows", str(rows)])
