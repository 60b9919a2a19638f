"""One run at every precision that it serves, beside its negative control."""

import json

import pytest
import torch

import hf_mpq
from tests.recipes.test_comparison import small as small
from tests.tiny import tiny_model
from tests.training.runs import collate, quantized, sentences, trainer
from tests.training.test_gradients import still


@torch.no_grad()
def distance(model, reference, batch):
    """Relative squared error of the logits."""
    ours, theirs = model.eval()(**batch).logits, reference(**batch).logits
    return float((ours - theirs).square().sum() / theirs.sub(theirs.mean(0)).square().sum())


def test_an_8_bit_model_that_is_cut_down_is_far_behind_one_that_was_trained_for_it(tmp_path):
    from served import cut_down

    reference, batch = tiny_model("bert").eval(), collate(list(sentences(32)))
    found = {}
    for name, method, config in (("cut", "uniform", {"bits": 8}), ("trained", "vertical", {"bits": (2, 8)})):
        run = trainer(
            still(quantized(method, layers=2, **config)),
            tmp_path / name,
            max_steps=40,
            learning_rate=2e-4,
            train_dataset=sentences(32),
            save_strategy="no",
        )
        run.train()
        found[name] = run.model
    nested = quantized(None, layers=2, bits=(2, 8), nested=True)
    models = {"cut": cut_down(found["cut"], nested), "trained": found["trained"]}
    of = {
        (name, bits): distance(hf_mpq.set_precision(one, bits), reference, batch)
        for name, one in models.items()
        for bits in (8, 2)
    }
    assert of["cut", 8] < 0.01 and of["trained", 8] < 0.01
    assert of["trained", 2] < 0.4 < 1 < of["cut", 2]


def test_one_run_of_vertical_is_a_row_at_each_precision_and_so_is_what_is_cut_down(small, tmp_path):
    from compare_methods import main

    config = ["--config", '{"groups": 4, "bits": [2, 8]}']
    call = [*small, *config, "--methods", "vertical", "cut", "uniform", "--budgets", "8bits", "2bits"]
    main([*call, "--against", "uniform (two)"])
    out = tmp_path / "out"
    rows = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()][1:]
    found = {(row["method"], row["budget"]): row for row in rows}
    assert len(found) == 6 and not list((out / "runs").iterdir())
    for budget, bits in (("8bits", 8), ("2bits", 2)):
        for method in ("vertical", "cut", "uniform"):
            assert found[method, budget]["code_bits"] == bits
    assert found["vertical", "2bits"]["megabytes"] < found["vertical", "8bits"]["megabytes"]
    assert found["cut", "8bits"]["unseen_kl"] == pytest.approx(
        found["uniform", "8bits"]["unseen_kl"], rel=0.5, abs=1e-5
    )
    report = (out / "report.md").read_text()
    assert "KL of vertical (two) minus that of uniform (two)" in report and "2bits: KL of cut (two)" in report
    with pytest.raises(SystemExit, match="serve 2bits, 8bits, and not 3bits"):
        main([*small, *config, "--methods", "vertical", "--budgets", "3bits"])


def test_one_width_as_a_number_is_no_list_of_precisions():
    import served

    served.check_budgets(["uniform"], ["2bits"], {"bits": 8})
    served.check_budgets(["vertical"], ["8bits"], {"bits": 8})
    with pytest.raises(SystemExit, match="vertical serve 8bits, and not 2bits"):
        served.check_budgets(["vertical"], ["2bits"], {"bits": 8})
