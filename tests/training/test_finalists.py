"""The allocator's best assignments are trained for a short while, and the best of them goes on."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

import hf_mpq
from hf_mpq import Assignment
from hf_mpq.core import METHODS, MethodSpec
from hf_mpq.cost import AverageBits
from hf_mpq.nn.walk import matrices
from hf_mpq.plugin.space import space_of
from hf_mpq.runs.record import RunRecord
from hf_mpq.training.run.preferences import Preferences
from tests.plugin.models import close, reload
from tests.tiny import outputs
from tests.training.runs import quantized, sentences, trainer
from tests.training.test_resume import Interrupted, killed_after

FEW_TIES = {r"\.\d+\.(attention|intermediate|output)": {"tie": r"\1"}}
BUDGET = "3bits"


@pytest.fixture(autouse=True)
def three(monkeypatch):
    """The method with three finalists."""
    spec = replace(METHODS["nxmiformer"], name="three", finalists=3)
    monkeypatch.setitem(METHODS._items, "three", spec)


def run_of(folder, **options):
    model = quantized("three", budget=BUDGET, rules=FEW_TIES)
    return trainer(model, folder, train_dataset=sentences(64), num_train_epochs=1, selection_steps=1, **options)


def result(folder):
    selection = json.loads((folder / "stages.json").read_text())["selection"]
    weights = [load_file(folder / stage / "model/model.safetensors") for stage in ("1-admm", "2-finetune")]
    return selection, Assignment.load(folder / "assignment.json"), weights


@pytest.fixture
def whole(made_once):
    return made_once("finalists", lambda folder: run_of(folder).train())


def test_the_best_of_them_is_trained_and_kept(whole):
    selection, assignment, _ = result(whole)
    assert list(selection["finalists"]) == list(selection["divergence"]) == ["1", "2", "3"]
    assert selection["chosen"] == min(selection["divergence"], key=selection["divergence"].get)
    assert assignment == Assignment.from_dict(selection["finalists"][selection["chosen"]])
    space = space_of(quantized("three", rules=FEW_TIES))
    every = [Assignment.from_dict(one) for one in selection["finalists"].values()]
    assert all(AverageBits(space).of(one) <= 3 for one in every) and every[0] != every[1] != every[2]
    assert any(one.keep_of == (2, 4) for one in assignment.matrices.values())


def test_the_result_keeps_its_patterns_when_it_is_packed_and_loaded(whole, tmp_path):
    _, assignment, _ = result(whole)
    model = reload(whole / "2-finetune/model")
    assert hf_mpq.assignment_of(model) == assignment
    for name, layer in matrices(model):
        pattern = assignment.matrices[name].keep_of
        assert (layer.program.mask is None) == (pattern in (None, (1, 1)))
        if layer.program.mask is not None:
            kept, block = pattern
            assert ((layer.float_weight() != 0).unflatten(1, (-1, block)).sum(-1) == kept).all()
    before = outputs(model)
    hf_mpq.pack(model).save_pretrained(tmp_path)
    packed = reload(tmp_path)
    assert hf_mpq.assignment_of(packed) == assignment
    close(before, outputs(packed))
    close(outputs(packed), outputs(hf_mpq.prepare(packed, backend="cpu-float")), 1e-4)


@pytest.mark.parametrize(
    ("name", "number"),
    [
        pytest.param("select", 1, marks=pytest.mark.full),  # the finalists are known
        ("select", 3),  # two of three have been tried
        pytest.param("decide", 1, marks=pytest.mark.full),  # before the best is named
    ],
)
def test_a_comparison_that_was_interrupted_goes_on(name, number, whole, tmp_path, monkeypatch):
    with pytest.MonkeyPatch.context() as once, pytest.raises(Interrupted):
        killed_after(once, RunRecord, name, number)
        run_of(tmp_path).train()
    asked = []
    monkeypatch.setattr(Preferences, "finalists", lambda self, count: asked.append(count))
    run_of(tmp_path).train(resume_from_checkpoint=True)
    (selection, assignment, weights), (theirs, expected, masters) = result(tmp_path), result(whole)
    assert selection == theirs and assignment == expected and not asked
    for ours, other in zip(weights, masters):
        assert ours.keys() == other.keys() and all(torch.equal(ours[key], other[key]) for key in ours)


def test_without_rows_to_compare_on_the_first_is_taken(whole, tmp_path):
    run = run_of(tmp_path, selection_examples=0, max_steps=2)
    run.train()
    content = json.loads((tmp_path / "stages.json").read_text())
    assert content["selection"] is None and content["compared_examples"] == 0
    assert Assignment.load(tmp_path / "assignment.json").matrices


def test_a_search_has_no_finalists():
    with pytest.raises(ValueError, match="finalists are 1 or more"):
        MethodSpec("one", "paper", selects=True, finalists=2)
