"""`hf-mpq inspect`: the map says what the model has."""

import io
import re

import numpy as np
import pytest
from rich.console import Console

import hf_mpq
from hf_mpq.cli.bitmap import layer_map, strip, style_of
from hf_mpq.cli.models import load_quantized
from tests.plugin.models import mixed_assignment, stored_model
from tests.tiny import FAMILIES, tiny_model


@pytest.fixture
def folder(tmp_path):
    """Precisions in turn, every fifth sub-group pruned."""
    stored_model("packed").save_pretrained(tmp_path / "mixed")
    return tmp_path / "mixed"


def strips(page: str, layer: int) -> list[str]:
    """The cells of an encoder layer's row."""
    row = next(line for line in page.splitlines() if re.match(rf"│ {layer} ", line))
    return [cell.strip() for cell in row.strip("│").split("│")][1:]


def test_every_matrix_in_order(folder, run):
    """Ten sub-groups of 3 or 4 rows fit 28 characters; the commonest bits of each share are named."""
    page, assignment = run("inspect", folder).stdout, hf_mpq.assignment_of(load_quantized(folder))
    names = (
        "attention.self.query",
        "attention.self.key",
        "attention.self.value",
        "attention.output.dense",
        "intermediate.dense",
        "output.dense",
    )
    for layer in (0, 1):
        for cell, name in zip(strips(page, layer), names, strict=True):
            bits = assignment.matrices[f"encoder.layer.{layer}.{name}"].bits
            shown = re.sub(r"(.)\1+", r"\1", cell)
            assert shown == "".join("·" if one == 0 else str(one) for one in bits)


def test_shares_and_what_is_pruned(folder, run, run_json):
    page, found = run("inspect", folder).stdout, run_json("inspect", folder)
    assert re.search(r"· {2}pruned \d+\.\d%", page) and "of all weights" in page
    layer = found["pruned"][0]
    bits = found["bits"]["encoder.layer.0.intermediate.dense"]
    sizes = load_quantized(folder).bert.encoder.layer[0].intermediate.dense.stored.layout.sizes
    gone = sum(size for one, size in zip(bits, sizes) if one == 0)
    assert layer["rows"] == [gone, 56] and f"{gone} of 56" in page
    assert layer["heads"] == [0, 4] and 0.15 < layer["weights"] < 0.25


def test_heads_that_are_gone(tmp_path, run_json):
    model = tiny_model("bert")
    config = hf_mpq.MPQConfig(groups=8, rules={r"layer\.0\.attention\.self": {"groups": "head"}})
    bits = mixed_assignment(model, config, (8,)).to_dict()
    for part in ("query", "key", "value"):
        bits["matrices"][f"encoder.layer.0.attention.self.{part}"]["bits"] = (0, 8, 8, 0)
    config.assignment = bits
    hf_mpq.pack(hf_mpq.quantize(model, config)).save_pretrained(tmp_path)
    assert [part["heads"] for part in run_json("inspect", tmp_path)["pruned"]] == [[2, 4]]


def test_json_has_every_sub_group_and_the_sizes(folder, run_json):
    found, report = run_json("inspect", folder), hf_mpq.size_report(folder)
    assert found["size"]["total_bytes"] == report.total_bytes and found["storage"] == "packed"
    kept = {name: list(one.bits) for name, one in hf_mpq.assignment_of(load_quantized(folder)).matrices.items()}
    assert found["bits"] == kept and set(found["activation_bits"].values()) == {8}


def test_a_line_for_each_matrix(folder, run):
    page = run("inspect", folder, "--matrices").stdout
    assert re.search(r"encoder\.layer\.1\.output\.dense +│ 32 x 56 +│ 10 +│ 3\.\d\d +│ 2 at 0 {2}2 at 2.*│ 8 +│", page)


def test_nothing_pruned_and_narrow_terminals(here, run):
    assert "nothing is pruned" in run("inspect", "packed").stdout
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(layer_map(load_quantized("packed"), 80))
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 80 and "…" not in text


def test_characters_stand_for_the_commonest():
    assert strip(np.array([8, 8, 2, 0, 0, 0]), 2).plain == "8·"
    assert strip(np.array([32, 4]), 9).plain == "f4"


def test_every_precision_has_its_colour():
    colours = [style_of(bits).bgcolor.name for bits in (0, 1, 2, 3, 4, 5, 6, 7, 8, 32)]
    assert len(set(colours)) == len(colours)


@pytest.mark.parametrize(
    "family", [pytest.param(name, marks=[] if name == "modernbert" else pytest.mark.full) for name in FAMILIES]
)
def test_every_family(family, tmp_path, run):
    stored_model("packed", family).save_pretrained(tmp_path)
    assert "value" in run("inspect", tmp_path).stdout


def test_a_model_in_training(tmp_path, run_json):
    stored_model("trainable").save_pretrained(tmp_path)
    assert run_json("inspect", tmp_path)["storage"] == "trainable"


def test_pictures(here, tmp_path, run):
    run("inspect", "packed", "--picture", tmp_path / "bits.png", "--dark")
    assert (tmp_path / "bits.png").read_bytes()[:4] == b"\x89PNG"
    run("inspect", "packed", "--html", tmp_path / "report.html")
    assert "<html" in (tmp_path / "report.html").read_text()


def test_mistakes(here, refused):
    assert "make it small with `hf-mpq compress" in refused("inspect", "my-fine-tuned-bert")
    assert "data has no config.json" in refused("inspect", "data")
    assert "say where with --html FILE.html" in refused("inspect", "packed", "--measure")
