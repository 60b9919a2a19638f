"""Damages folders at random, loads them, and counts what came of it.

    python -m tests.fuzz.run 200000             # so many
    python -m tests.fuzz.run 10m                # so long (s, m, h)
    python -m tests.fuzz.run 1000 --seed 5000   # from the case 5000 on: progress says where to go on

Each case is made by its own number, so any can be repeated alone: `--seed NUMBER` with a count of 1.
"""

import argparse
import json
import resource
import signal
import sys
import time
import traceback
from collections import Counter
from logging import getLogger
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import torch
from transformers.utils import logging

from hf_mpq.format import PackedFormatError
from tests.fuzz.bases import answer, base, names
from tests.fuzz.mutations import mutate
from tests.tiny import HEADS

OUTCOMES = (
    "refused",
    "refused by others",
    "same outputs",
    "signed anew",
    "another library's",
    "silent",
    "other error",
    "does not end",
)
FAULTS = OUTCOMES[-3:]
_OWN = f"{Path(__file__).parents[2] / 'hf_mpq'}/"
_AROUND = "_partly"
"""Our function around `from_pretrained`, which every error passes."""


class _TooLong(BaseException):
    pass


def case(number: int, folder: Path, bases: list[str], seconds: int = 20) -> tuple[str, str]:
    """Outcome and description of one case; `folder` is used for its files."""
    random = Random(number)
    sound = base(random.choice(bases))
    files, said, signed = mutate(sound.files, random)
    for file in folder.iterdir():
        file.unlink()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    signal.signal(signal.SIGALRM, _stop)
    signal.alarm(seconds)
    try:
        outcome, detail = _outcome(folder, sound.outputs, signed)
        if outcome == "silent" and not _is_ours(files):
            outcome = "another library's"
    except _TooLong:
        outcome, detail = "does not end", f"more than {seconds} s"
    finally:
        signal.alarm(0)
    return outcome, f"case {number}, {sound.name}, {said}: {detail}"


def _stop(*_) -> None:
    raise _TooLong


def _is_ours(files: dict[str, bytes]) -> bool:
    """Whether config.json still says so: without, transformers builds a float model and says what it makes up."""
    described = json.loads(files["config.json"]).get("quantization_config")
    return isinstance(described, dict) and described.get("quant_method") == "mpq"


def _outcome(folder: Path, expected: torch.Tensor, signed: bool) -> tuple[str, str]:
    try:
        model = HEADS["sequence"].from_pretrained(folder)
        found = answer(model)
    except PackedFormatError as error:
        return "refused", str(error)
    except Exception as error:
        frames = (one for one in traceback.extract_tb(error.__traceback__) if one.name != _AROUND)
        own = any(frame.filename.startswith(_OWN) for frame in frames)
        return "other error" if own else "refused by others", f"{type(error).__name__}: {error}"
    if found.shape == expected.shape and torch.allclose(found, expected, atol=1e-6):
        return "same outputs", ""
    known = signed and all(one.isfinite().all() for one in model.state_dict().values() if one.is_floating_point())
    return ("signed anew" if known else "silent"), f"{(found - expected).abs().max()}"


def fuzz(first: int, bases: list[str], more, report=None) -> tuple[Counter, list[str]]:
    """Cases from `first` on while `more(done)`: how many of each outcome, and the descriptions of the faults."""
    counts, faults = Counter(), []
    with TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        while more(done := sum(counts.values())):
            outcome, detail = case(first + done, Path(folder), bases)
            counts[outcome] += 1
            if outcome in FAULTS:
                faults.append(f"{outcome}: {detail}")
            if report:
                report(first + done + 1, counts, outcome, detail)
    return counts, faults


def _reporter(counted: int):
    def report(following: int, counts: Counter, outcome: str, detail: str) -> None:
        if outcome in FAULTS:
            print(f"{outcome}: {detail}", file=sys.stderr, flush=True)
        if sum(counts.values()) % counted == 0:
            said = f"{sum(counts.values())} done, go on with --seed {following}: {dict(counts)}"
            print(said, file=sys.stderr, flush=True)

    return report


def _wish(text: str):
    """What decides whether to go on, from a count or a duration."""
    if text.isdigit():
        return lambda done: done < int(text)
    until = time.monotonic() + float(text[:-1]) * {"s": 1, "m": 60, "h": 3600}[text[-1]]
    return lambda done: time.monotonic() < until


def main() -> int:
    """0 when no case was a fault."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("amount", nargs="?", default="200000", help="a count, or a duration such as 10m")
    parser.add_argument("--seed", type=int, default=0, help="number of the first case")
    args = parser.parse_args()
    torch.set_num_threads(1)
    logging.set_verbosity(logging.CRITICAL)
    getLogger("hf_mpq").setLevel(logging.CRITICAL)
    logging.disable_progress_bar()
    resource.setrlimit(resource.RLIMIT_AS, (16 * 2**30, resource.RLIM_INFINITY))
    counts, faults = fuzz(args.seed, names(), _wish(args.amount), _reporter(1000))
    for outcome in OUTCOMES:
        print(f"{outcome:18} {counts[outcome]}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
