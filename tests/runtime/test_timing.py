"""Tables measured on this machine: what is timed, and what is kept."""

import copy
import json
from itertools import accumulate, count, pairwise
from random import Random
from types import SimpleNamespace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import hf_mpq
from hf_mpq.cost import LatencyTable
from hf_mpq.nn import PackedLinear
from hf_mpq.runtime import compact, machine, timing
from hf_mpq.runtime.latency import unpruned
from hf_mpq.runtime.machine import remembered
from hf_mpq.runtime.shrinking import dense_shape, shrunk
from hf_mpq.runtime.timing import clock, measure_latencies, undisturbed
from tests.plugin.models import mixed_assignment
from tests.tiny import MOST, outputs, tiny_batch, tiny_model

TABLE = LatencyTable(10.0, 8.0, ((1.0, 6.0), (56.0, 10.0)), ((1.0, 7.0), (4.0, 10.0)), 2)


@pytest.fixture(autouse=True)
def _quick(monkeypatch, tmp_path):
    """A cache of its own for each test, and short measurements."""
    monkeypatch.setenv("HF_MPQ_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(timing, "SECONDS", 0.02)
    monkeypatch.setattr(timing, "LEAST_SECONDS", 0.002)


def packed(family="bert", **fields):
    config = hf_mpq.MPQConfig(**{"bits": 8, **fields})
    return hf_mpq.pack(hf_mpq.quantize(tiny_model(family), config)).eval()


def shapes(model):
    return {
        name: (layer.out_features, layer.in_features)
        for name, layer in model.named_modules()
        if isinstance(layer, PackedLinear)
    }


@pytest.mark.parametrize("family", MOST)
def test_copies_have_the_shapes_that_pruning_leaves(family):
    """The same model with the last rows and heads pruned, folded and compacted."""
    model, config = tiny_model(family), hf_mpq.MPQConfig(groups="channel")
    space = config.resolve(model)
    assignment = mixed_assignment(model, config, (8,)).to_dict()
    for link in space.links:
        left = 3 * link.blocks[0].count // link.heads if link.kind in ("value", "scores") else 20
        for block in link.blocks:
            bits = list(assignment["matrices"][block.name]["bits"])
            bits[block.start + left : block.start + block.count] = [0] * (block.count - left)
            assignment["matrices"][block.name]["bits"] = bits
    config.assignment = assignment
    pruned = compact(hf_mpq.pack(hf_mpq.quantize(model, config)))
    whole = packed(family)
    assert shapes(shrunk(whole, rows=20, heads=3)) == shapes(pruned)
    assert shapes(shrunk(whole)) == shapes(whole)


def check(table):
    """What holds of every table, however a machine was disturbed."""
    assert 0 < table.encoder < table.whole
    for points in (table.rows, table.heads):
        assert all(low[0] < high[0] and low[1] <= high[1] for low, high in pairwise(points))
        assert points[0][1] > 0 and points[-1][1] == table.whole


@pytest.mark.parametrize(
    "family, backend",
    [
        ("bert", "auto"),
        ("bert", "cpu-float"),
        ("bert", "reference"),
        ("albert", "auto"),
        ("modernbert", "auto"),
        ("mpnet", "cpu-float"),
    ],
)
def test_a_model_is_measured(family, backend):
    model = packed(family)
    before = outputs(model)
    table = measure_latencies(model, 2, 9, backend)
    rows, heads = dense_shape(model)
    assert (rows, heads) == (56, 0 if family == "mpnet" else 4)
    assert table.rows[0][0] == 1 and table.rows[-1][0] == rows and table.layers == 2
    assert table.heads[-1][0] == heads and len(table.heads) == (1 if family == "mpnet" else 4)
    check(table)
    assert all(torch.equal(one, other) for one, other in zip(outputs(model), before)), "the model is left as it was"


def test_larger_layers_take_longer(monkeypatch):
    """By a clock that counts multiplications."""
    monkeypatch.setattr(timing, "FEWEST_ROUNDS", 2)
    model = tiny_model("bert", hidden_size=128, intermediate_size=2048)
    model = hf_mpq.pack(hf_mpq.quantize(model, hf_mpq.MPQConfig(bits=8))).eval()
    with FlopCounterMode(display=False) as counted:
        monkeypatch.setattr(timing, "clock", lambda: counted.get_total_flops() / 1e9)
        table = measure_latencies(model, 4, 32, "cpu-float")
    check(table)
    (few, low), (all_rows, high) = table.rows[0], table.rows[-1]
    assert low < 0.3 * high and table.heads[0][1] < table.heads[-1][1]
    for rows, milliseconds in table.rows:
        assert milliseconds == pytest.approx(low + (high - low) * (rows - few) / (all_rows - few))


@pytest.mark.parametrize("seed", range(4))
def test_a_disturbed_measurement_makes_a_table(seed, monkeypatch):
    """Whatever the clock says."""
    random = Random(seed)
    monkeypatch.setattr(timing, "clock", iter(accumulate(random.lognormvariate(-7, 1) for _ in count())).__next__)
    check(measure_latencies(packed(), 2, 9))


def test_other_processes_do_not_count(monkeypatch):
    clocks = SimpleNamespace(thread_time=lambda: 1.0, perf_counter=lambda: 2.0)
    monkeypatch.setattr(timing, "time", clocks)
    threads = torch.get_num_threads()
    assert clock() == 1, "what one thread works, not what it waits"
    torch.set_num_threads(2)
    try:
        assert clock() == 2
        assert undisturbed([10.0] * 5 + [30.0, 50.0, 90.0] * 5) == 10
        assert undisturbed([1.0, 101.0]) == 11, "between those measured, however few they are"
    finally:
        torch.set_num_threads(threads)


def test_what_is_measured_is_the_model_of_the_space():
    model = tiny_model("bert", "masked")
    config = hf_mpq.MPQConfig(bits=(0, 2, 4), activation="static", rules={"output.dense": {"activation_bits": None}})
    state = torch.get_rng_state()
    with torch.random.fork_rng(devices=[]):
        made = unpruned(config.resolve(model), 2, 9)
    assert torch.equal(torch.get_rng_state(), state)
    config.assignment = mixed_assignment(model, config, (4,)).to_dict()
    twin = hf_mpq.quantize(copy.deepcopy(model), config)
    hf_mpq.nn.calibrate_activations(twin, [tiny_batch()])
    twin = hf_mpq.pack(twin)
    assert type(made) is type(twin) and shapes(made) == shapes(twin)
    inputs = (
        {
            name: layer.input_quantizer and layer.input_quantizer.spec
            for name, layer in one.named_modules()
            if isinstance(layer, PackedLinear)
        }
        for one in (made, twin)
    )
    assert next(inputs) == next(inputs)
    assert hf_mpq.size_report(made).total_bytes > 0


def count_measures(measured, times=1):
    calls = []
    for _ in range(times):
        assert remembered(measured, lambda: calls.append(1) or TABLE) == TABLE
    return len(calls)


def test_a_machine_is_measured_once(tmp_path):
    assert count_measures({"tokens": 8}, 3) == 1
    assert count_measures({"tokens": 16}, 2) == 1
    assert count_measures({"tokens": 8}) == 0
    files = list((tmp_path / "cache").glob("*.json"))
    content = json.loads(files[0].read_text())
    assert len(files) == 2 and content["machine"]["threads"] == torch.get_num_threads()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"table": {"whole": 1}}'])
def test_a_damaged_file_is_measured_anew(tmp_path, text):
    assert count_measures({"tokens": 8}) == 1
    (file,) = (tmp_path / "cache").glob("*.json")
    good = file.read_text()
    file.write_text(text)
    assert count_measures({"tokens": 8}, 2) == 1
    assert file.read_text() == good


def test_another_machine_is_measured_anew(monkeypatch):
    assert count_measures({}) == 1
    monkeypatch.setattr(machine, "_cpu_name", lambda: "another CPU")
    assert count_measures({}, 2) == 1
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert count_measures({}, 2) == 1
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize(
    "place, other",
    [
        ("hf_mpq.runtime.machine.transformers.__version__", "5.0.0"),
        ("hf_mpq.runtime.machine.state", lambda: "another"),
        ("os.sched_getaffinity", lambda pid: {7, 3}),
    ],
)
def test_what_changes_speed_is_measured_anew(place, other, monkeypatch):
    assert count_measures({}, 2) == 1
    monkeypatch.setattr(place, other, raising=False)
    assert count_measures({}, 2) == 1


def test_a_kernel_that_a_measurement_builds_is_not_another_machine(monkeypatch, tmp_path):
    built = []
    monkeypatch.setattr(machine, "state", lambda: "built" if built else "not built")
    for _ in range(3):
        assert remembered({}, lambda: built.append(1) or TABLE) == TABLE
    (file,) = (tmp_path / "cache").glob("*.json")
    assert len(built) == 1 and json.loads(file.read_text())["machine"]["kernel"] == "built"


def _no_home(patch, folder):
    """A user without an entry, and no HOME."""
    patch.delenv("HF_MPQ_CACHE")
    patch.delenv("HOME")
    patch.setattr("pwd.getpwuid", {}.__getitem__)


def _no_folder(patch, folder):
    (folder / "file").touch()
    patch.setenv("HF_MPQ_CACHE", str(folder / "file" / "cache"))


def _full(patch, folder):
    error = OSError(28, "No space left on device", "latency.json")
    patch.setattr(machine, "write_text", lambda *args: (_ for _ in ()).throw(error))


@pytest.mark.parametrize(
    "damage, reason",
    [(_no_home, "home directory"), (_no_folder, "file/cache"), (_full, "No space left on device: 'latency.json'")],
)
def test_a_cache_that_cannot_be_written(damage, reason, monkeypatch, tmp_path):
    damage(monkeypatch, tmp_path)
    with pytest.warns(UserWarning, match=rf"measured anew each time \(.*{reason}.*\): set HF_MPQ_CACHE"):
        assert count_measures({}, 2) == 2


def test_what_was_measured_is_read_without_writing(monkeypatch):
    assert count_measures({}) == 1
    monkeypatch.setattr(machine, "FileLock", None)
    assert count_measures({}) == 0


def test_a_measurement_that_fails_leaves_nothing_behind(tmp_path):
    def fail():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        remembered({}, fail)
    assert not list((tmp_path / "cache").glob("*.json"))
    assert count_measures({}) == 1
