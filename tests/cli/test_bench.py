"""`hf-mpq bench`: every backend beside the float model."""

import pytest
import torch

from hf_mpq.cli.commands.bench import short
from hf_mpq.cli.loading import load_and_run
from hf_mpq.cli.timing import summary

SMALL = ("--rounds", "3", "--shapes", "1x8,2x16")


@pytest.fixture
def chosen():
    """Backends that need no compiler."""
    return "--backend", "reference", "--backend", "cpu-float"


def test_backends_and_float_side_by_side(here, run, run_json, chosen):
    before = torch.get_num_threads()
    found = run_json(
        "bench", "packed", "--teacher", "my-fine-tuned-bert", "--threads", "1", "--no-loading", *SMALL, *chosen
    )
    assert set(found["latency"]) == {"1x8", "2x16"} and found["threads"] == 1 and found["device"]
    for latencies in found["latency"].values():
        assert list(latencies) == ["float32", "reference", "cpu-float"]
        for one in latencies.values():
            assert 0 < one["quartile_1_ms"] <= one["median_ms"] <= one["quartile_3_ms"]
    one = found["latency"]["2x16"]["cpu-float"]
    assert one["sequences_per_second"] == pytest.approx(2000 / one["median_ms"])
    assert torch.get_num_threads() == before


def test_quartiles_of_few_rounds_are_between_them():
    """Not beyond the fastest, where milliseconds might be negative."""
    found = summary([1.0, 101.0], batch=4)
    assert (found["quartile_1_ms"], found["median_ms"], found["quartile_3_ms"]) == (26, 51, 76)


@pytest.mark.parametrize(("number", "said"), [(0.92531, "0.925"), (999.4, "999"), (999.6, "1,000"), (6351.2, "6,351")])
def test_milliseconds_are_read_easily(number, said):
    assert short(number) == said


def test_cost_of_loading(here):
    found = load_and_run("packed")
    assert found["seconds"] > 0 and found["peak_bytes"] > 0


@pytest.mark.full
def test_cost_of_loading_in_a_process_of_its_own(here, run_json):
    found = run_json("bench", "packed", "--rounds", "2", "--shapes", "1x8", "--backend", "reference")["model"]["packed"]
    assert found["disk_bytes"] == (here / "packed" / "model.safetensors").stat().st_size
    assert found["seconds"] > 0 and found["peak_bytes"] > found["disk_bytes"]


def test_table(here, run, chosen):
    result = run("bench", "packed", "--no-loading", *SMALL, *chosen)
    assert "1x8" in result.stdout and "cpu-float" in result.stdout and "--teacher" in result.stderr


@pytest.mark.full
def test_every_backend_that_runs_here(here, run_json):
    from hf_mpq.cli.models import load_packed
    from hf_mpq.runtime.backends import BACKENDS

    able = [name for name in BACKENDS if BACKENDS[name].unavailable(load_packed("packed")) is None]
    assert list(run_json("bench", "packed", "--no-loading", *SMALL)["latency"]["1x8"]) == able


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--shapes", "128"), "write batch x tokens, such as 1x128,8x128"),
        (("--device", "tpu"), "there is no device 'tpu' here: give cpu"),
        (("--shapes", "1x64"), "64 tokens are more than the 40 positions of this model"),
        (("--backend", "gpu", *SMALL), "unknown backend 'gpu'; the known ones are: cpu-float, cpu-int8"),
    ],
)
def test_mistakes(arguments, words, here, refused):
    assert words in refused("bench", "packed", "--no-loading", *arguments)
