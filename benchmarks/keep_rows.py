"""Put rows of compare_methods.py where the results are made of: without places of this machine, with paired intervals.

    python benchmarks/keep_rows.py NAME out/compare-methods [another output folder ...]
    make pages

Writes `benchmarks/rows/NAME/results.jsonl` and `intervals.jsonl`, both anew; `about.yaml` beside them stays.
"""

import argparse
import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import yaml

from hf_mpq.report.board.intervals import pairs_of
from hf_mpq.report.board.sources import ABOUT, RESULTS, Source, read_sources

ROWS = Path(__file__).parent / "rows"
PLACES = {"data_dir": "DATA", "models": "FLOAT", "out": "OUT", "runs": "RUNS"}
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
    sources = [replace(source, about=about) for output in args.outputs for source in _source(output)]
    rows = list({json.dumps(without_places(row)): None for source in sources for row in source.rows})
    pairs = list({json.dumps({**asdict(pair), "source": args.name}): None for pair in pairs_of(sources)})
    folder.mkdir(parents=True, exist_ok=True)
    for name, lines in ((RESULTS, rows), ("intervals.jsonl", pairs)):
        (folder / name).write_text("".join(f"{line}\n" for line in lines))
    print(f"{len(rows)} rows and {len(pairs)} intervals in {folder}; now `make pages`")


def _source(output: Path) -> list[Source]:
    if not (output / RESULTS).exists():
        raise SystemExit(f"{output} has no {RESULTS}: give an output folder of compare_methods.py")
    return read_sources(output)


def without_places(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row with words for the folders that its settings and its command name."""
    kept = dict(row)
    if row.get("settings"):
        kept["settings"] = {name: PLACES.get(name, value) for name, value in row["settings"].items()}
    if row.get("command"):
        kept["command"] = shlex.join(_words(shlex.split(row["command"])))
    return kept


def _words(command: Sequence[str]) -> Iterable[str]:
    before = ""
    for word in command:
        yield PLACES.get(before.removeprefix("--").replace("-", "_"), word) if before.startswith("--") else word
        before = word


if __name__ == "__main__":
    main()
