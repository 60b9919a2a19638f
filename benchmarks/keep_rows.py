"""Put rows of a benchmark or of `hf-mpq sweep` where the results are made of, without places of this machine.

    python benchmarks/keep_rows.py NAME out/compare-methods [another output folder ...]
    make pages

Writes `results.jsonl` and `intervals.jsonl` (paired differences) in `benchmarks/rows/NAME`, both anew: seeds that
were run in several folders belong together. `about.yaml` there stays.
"""

import argparse
import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from hf_mpq.report.board.intervals import AGAINST, KEYS, arrays_of, pair_arrays
from hf_mpq.report.board.lines import model_of
from hf_mpq.report.board.sources import ABOUT, RESULTS, Source, read_sources

ROWS = Path(__file__).parent / "rows"
TIMED = ("run", "engine", "shape")
"""What tells rows of bench_inference.py apart."""
PLACES = {"data_dir": "DATA", "models": "FLOAT", "out": "OUT", "student": "SPARSE"}
"""Argument that is a place to what stands for it."""


def main(argv: Sequence[str] | None = None) -> None:
    """Write both files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="of the folder below benchmarks/rows")
    parser.add_argument("outputs", nargs="+", type=Path, help="folders with results.jsonl and kl/")
    parser.add_argument("--rows", type=Path, default=ROWS, help="where the folders are")
    args = parser.parse_args(argv)
    folder = args.rows / args.name
    about = yaml.safe_load((folder / ABOUT).read_text()) if (folder / ABOUT).exists() else {}
    rows, arrays, sources = {}, {}, list(map(_source, args.outputs))
    models = sorted({model_of(row) for source in sources for row in source.rows if "engine" not in row})
    if len(models) > 1:
        raise SystemExit(f"these are rows of {' and '.join(models)}: keep those of each model under a NAME of its own")
    for source in sources:
        for row in source.rows:
            rows.setdefault(tuple(str(row.get(name)) for name in (*KEYS, *TIMED)), json.dumps(without_places(row)))
        for cell, seeds in arrays_of(source).items():
            arrays.setdefault(cell, {}).update(seeds)
    pairs = [json.dumps(asdict(pair)) for pair in pair_arrays(args.name, arrays, about.get("against", AGAINST))]
    folder.mkdir(parents=True, exist_ok=True)
    for name, lines in ((RESULTS, rows.values()), ("intervals.jsonl", pairs)):
        (folder / name).write_text("".join(f"{line}\n" for line in lines))
    print(f"{len(rows)} rows and {len(pairs)} intervals in {folder}; now `make pages`")


def _source(output: Path) -> Source:
    if not (output / RESULTS).exists():
        raise SystemExit(f"{output} has no {RESULTS}: give an output folder of compare_methods.py or of a sweep")
    return read_sources(output)[0]


def without_places(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row with words for the folders that its settings and its command name."""
    kept = dict(row)
    if row.get("settings"):
        kept["settings"] = {name: _word(name, value) for name, value in row["settings"].items()}
    if row.get("command"):
        kept["command"] = shlex.join(_words(shlex.split(row["command"])))
    return kept


def _words(command: Sequence[str]) -> Iterable[str]:
    before = ""
    for word in command:
        yield _word(before.removeprefix("--").replace("-", "_"), word) if before.startswith("--") else word
        before = word


def _word(name: str, value: Any) -> Any:
    """In place of an argument: of a model's folder the end, which says what it is."""
    if name == "model" and isinstance(value, str) and value.startswith((".", "/", "~")):
        return Path(value).name
    return PLACES.get(name, value) if value is not None else None


if __name__ == "__main__":
    main()
