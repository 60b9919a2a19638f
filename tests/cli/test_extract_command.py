"""`hf-mpq extract`, and `--bits` of the commands that load a nested model."""

import pytest

import hf_mpq
from hf_mpq.cli.errors import UserError
from hf_mpq.cli.typed import checked_precisions


def test_what_is_kept_is_a_folder_like_any_other(here, run, run_json, refused, tmp_path):
    found = run_json("extract", "nested", "--bits", "4", tmp_path / "4")
    assert found["folder"] == str(tmp_path / "4") and found["bytes"] < found["whole_bytes"]
    checks = {one["check"]: one for one in run_json("doctor", tmp_path / "4", "--quick")["findings"]}
    assert checks["contents"]["state"] == checks["tokenizer"]["state"] == "ok"
    assert checks["precisions"]["detail"] == "12 matrices serve 2/4 bits and are used at 4 (4 of 8 bit planes are here)"
    assert "refuse" not in run("inspect", tmp_path / "4").stdout
    told = run_json("inspect", tmp_path / "4")
    assert told["size"]["average_bits"] == told["size"]["used_bits"] == 4
    again = run("extract", tmp_path / "4", "--bits", "2", tmp_path / "2")
    assert f"wrote {tmp_path / '2'}" in again.stderr
    assert "only 4 of its 8 bit planes" in refused("extract", tmp_path / "4", "--bits", "8", tmp_path / "8")
    assert not (tmp_path / "8").exists()


def test_what_is_there_stays(here, run, refused, tmp_path):
    run("extract", "nested", "--bits", "4", tmp_path / "out")
    before = hf_mpq.size_report(tmp_path / "out").total_bytes
    assert "is not empty: give another OUT, or --overwrite" in refused(
        "extract", "nested", "--bits", 2, tmp_path / "out"
    )
    assert hf_mpq.size_report(tmp_path / "out").total_bytes == before
    (tmp_path / "out" / "mine.txt").write_text("mine")
    run("extract", "nested", "--bits", "2", tmp_path / "out", "--overwrite")
    assert hf_mpq.size_report(tmp_path / "out").total_bytes < before
    assert (tmp_path / "out" / "mine.txt").read_text() == "mine"
    assert "which is read" in refused("extract", "nested", "--bits", "4", "nested", "--overwrite")


def test_mistakes(here, refused, tmp_path):
    out = tmp_path / "out"
    assert "3 bits are not among the nested precisions (2, 4, 8)" in refused("extract", "nested", "--bits", "3", out)
    assert "no nested precisions" in refused("extract", "packed", "--bits", "4", out)
    assert "found in no nested matrix" in refused("extract", "nested", "--bits", "nowhere=4", out)
    assert "smallest possible" in refused("extract", "nested", "--bits", "1kB", out)
    assert "two limits of one kind" in refused("extract", "nested", "--bits", "3bits + 2bits", out)
    assert not out.exists()


@pytest.mark.parametrize(
    "command",
    [
        ("inspect", "nested"),
        ("export", "nested", "dense", "--out", "dense"),
        ("verify", "nested", "--teacher", "my-fine-tuned-bert", "--data", "rows.csv", "--max-drop", "100"),
        ("bench", "nested", "--rounds", "2", "--no-loading", "--shapes", "1x8", "--backend", "reference"),
    ],
    ids=lambda command: command[0],
)
def test_commands_that_load_a_model_take_bits(command, here, run_json, refused, tmp_path, monkeypatch):
    arguments = [
        str(tmp_path / "dense") if one == "dense" and number > 2 else one for number, one in enumerate(command)
    ]
    loaded, plain = [], hf_mpq.plugin.quantizer.take_up
    take_up = lambda model, config: loaded.append(model) or plain(model, config)  # noqa: E731
    monkeypatch.setattr("hf_mpq.plugin.quantizer.take_up", take_up)
    found = run_json(*arguments, "--bits", "query=4,layer.0=2")
    used = hf_mpq.nn.precision.used_precisions(loaded[0])
    assert all(bits == (2 if "layer.0" in name else 4 if "query" in name else 8) for name, bits in used.items())
    if command[0] == "inspect":
        assert {name: one["used"] for name, one in found["nested"].items()} == used
    assert "not among the nested precisions" in refused(*arguments, "--bits", "3")


def test_words():
    assert checked_precisions(None) is None and checked_precisions("4") == 4
    assert checked_precisions("query=8, layer.0=2") == {"query": 8, "layer.0": 2}
    assert checked_precisions('{"a{1,2}=": 8}') == {"a{1,2}=": 8}
    assert checked_precisions("3bits") == "3bits"
    for text in ("query=x", "{query: 8}", '{"query": "8"}', "3,4"):
        with pytest.raises((UserError, ValueError), match=r"not understood|no JSON|no object|cannot read"):
            checked_precisions(text)
