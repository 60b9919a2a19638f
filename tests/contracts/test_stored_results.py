"""Moving code changes no result: the same seeds give the packed tensors that were stored before."""

import json
import os
import platform
import subprocess
import sys

import pytest

from tests.contracts.stored_results import FILE, FIXED, NAMES, VERSIONS

QUICK = ("compress", "mpq")


@pytest.mark.parametrize(
    "names",
    [QUICK, pytest.param(tuple(name for name in NAMES if name not in QUICK), marks=pytest.mark.full)],
    ids=["quick", "others"],
)
def test_the_same_seeds_give_the_stored_tensors(names):
    stored = json.loads(FILE.read_text())
    if stored["versions"] != VERSIONS or platform.machine() != "x86_64":
        pytest.skip(f"stored for x86-64 and {stored['versions']}; this is {platform.machine()} and {VERSIONS}")
    assert tuple(stored["digests"]) == NAMES
    command = [sys.executable, "-W", "ignore", "-m", "tests.contracts.stored_results", *names]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **FIXED})
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout[done.stdout.index("{\n") :])["digests"]
    assert found == {name: stored["digests"][name] for name in names}
