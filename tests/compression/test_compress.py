"""Training-free compression in one call."""

import dataclasses
import itertools
import re
import sys
from functools import partial

import pytest
import torch
from datasets import Dataset

import hf_mpq
from hf_mpq import MPQConfig, compress
from hf_mpq.compression.choices import DEFAULT
from hf_mpq.compression.engine import TrainingFree
from hf_mpq.core import BudgetError
from hf_mpq.core.progress import readable
from hf_mpq.cost import AverageBits, Energy
from hf_mpq.rounding import ROUNDERS
from hf_mpq.search import ALLOCATORS, SCORERS
from hf_mpq.search.scorers import mean_divergence as divergence
from tests.tiny import outputs, tiny_batch
from tests.tiny import tiny_model as tiny_of

pytestmark = pytest.mark.usefixtures("few_iterations")
CONFIG = MPQConfig(bits=(0, 2, 3, 4, 8), groups=8)
quiet = partial(compress, progress=False)


def tiny_model(family: str, head: str = "sequence", layers: int = 1):
    """Of one layer: what is compressed in one call is compressed often here."""
    return tiny_of(family, head, num_hidden_layers=layers)


def rows() -> Dataset:
    """Unpadded rows of different lengths, as a tokenizer gives them."""
    ids = [[3 + (7 * row + token) % 90 for token in range(4 + row)] for row in range(6)]
    return Dataset.from_dict({"input_ids": ids, "attention_mask": [[1] * len(row) for row in ids]})


def test_a_list_of_budgets_gives_smaller_and_smaller_models():
    model = tiny_model("bert")
    before = outputs(model)
    models = quiet(model, ["6bits", "4bits", "2.5bits"], rows(), config=CONFIG)
    found = [hf_mpq.size_report(one).average_bits for one in models]
    assert all(0.9 * limit < bits <= limit for bits, limit in zip(found, (6, 4, 2.5)))
    assert torch.equal(outputs(model)[0], before[0]), "the float model is left as it was"
    errors = [(outputs(one)[0] - before[0]).abs().mean() for one in models]
    assert errors[0] < errors[2]


def test_the_result_trains_on_and_packs(tmp_path):
    model = quiet(tiny_model("bert"), "0.3x", [tiny_batch()], config=CONFIG)
    model.train()(**tiny_batch(), labels=torch.tensor([0, 1, 0])).loss.backward()
    assert hf_mpq.size_report(model).ratio <= 0.3
    expected = outputs(model)
    hf_mpq.pack(model).save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    torch.testing.assert_close(outputs(again)[0], expected[0], atol=1e-5, rtol=0)


def test_largest_drop_instead_of_a_budget():
    model = tiny_model("bert")
    before = outputs(model)[0]
    closeness = lambda one: -float((outputs(one)[0] - before).abs().max())  # noqa: E731
    loose, tight = (
        quiet(model, calibration=[tiny_batch()], config=CONFIG, max_drop=drop, evaluate=closeness)
        for drop in (0.5, 0.1)
    )
    assert closeness(loose) >= -0.5 and closeness(tight) >= -0.1
    assert hf_mpq.size_report(loose).total_bytes < hf_mpq.size_report(tight).total_bytes
    with pytest.raises(ValueError, match="even the highest precisions drop"):
        quiet(model, calibration=[tiny_batch()], config=CONFIG, max_drop=1e-9, evaluate=closeness)


def test_a_ratio_budget_opens_the_word_table_and_a_budget_in_bits_does_not():
    model = tiny_model("bert")
    config = MPQConfig(bits=(0, 2, 3, 4, 8), groups=8)
    bits = lambda one: hf_mpq.assignment_of(one).matrices["embeddings.word_embeddings"].bits  # noqa: E731
    assert len(set(bits(quiet(model, "0.2x", [tiny_batch()], config=config)))) > 1
    assert set(bits(quiet(model, "3bits", [tiny_batch()], config=config))) == {8}
    held = MPQConfig(bits=(0, 2, 3, 4, 8), groups=8, embedding_bits=8)
    assert set(bits(quiet(model, "0.2x", [tiny_batch()], config=held))) == {8}
    table = hf_mpq.assignment_of(quiet(model, "0.2x", [tiny_batch()])).matrices
    assert set(table["embeddings.position_embeddings"].bits) == {8}, "the small tables keep their bits"


def test_words_that_are_read_often_get_more_bits():
    model, batch = tiny_model("bert", layers=2), tiny_batch(rows=8)
    batch["input_ids"] = batch["input_ids"] % 40 + 3  # words above 43 never occur
    config = MPQConfig(bits=4, embedding_bits=(2, 4, 8))
    small = quiet(model, "embedding:3kB", [batch], config=config)
    bits = torch.tensor(hf_mpq.assignment_of(small).matrices["embeddings.word_embeddings"].bits).float()
    assert bits[3:43].mean() > bits[43:].mean() + 0.5


def test_nested_codes_need_no_budget_and_serve_several():
    config = MPQConfig(bits=(2, 4, 8), nested=True, groups=8)
    model = compress(tiny_model("bert"), config=config, progress=False)
    found = [outputs(hf_mpq.set_precision(model, bits))[0] for bits in (2, 4, 8)]
    distances = [float((one - outputs(tiny_model("bert"))[0]).square().sum()) for one in found]
    assert distances == sorted(distances, reverse=True)
    with pytest.raises(ValueError, match=r"make it without a budget, and call hf_mpq\.set_precision"):
        compress(tiny_model("bert"), "3bits", config=config, progress=False)


def test_fixed_bits_need_no_budget():
    model = tiny_model("bert")
    plain = quiet(model, config=MPQConfig(bits=3, groups=8))
    assert torch.equal(outputs(plain)[0], outputs(hf_mpq.quantize(tiny_model("bert"), MPQConfig(bits=3, groups=8)))[0])
    with pytest.raises(ValueError, match="nothing to choose for a budget"):
        quiet(model, "2bits", [tiny_batch()], config=MPQConfig(bits=3))


@pytest.mark.parametrize("rounding", sorted(set(ROUNDERS) - {"nearest"}))
def test_rounding_with_data_comes_closer_to_the_float_model(rounding):
    model, batches = tiny_model("bert", "bare"), [tiny_batch(rows=16, tokens=20)]
    options = {"autoround": {"iterations": 60}, "lkd": {"lr": 1e-3, "steps": 60}}.get(rounding, {})
    config = MPQConfig(bits=3, groups=8, activation_bits=None, embedding_bits=8)
    error = lambda name, **more: divergence(  # noqa: E731
        model,
        quiet(model, calibration=batches, config=config, rounding={"name": name, **more}, bias_correction=False),
        batches,
    )
    assert error(rounding, **options) < 0.9 * error("nearest")


def test_the_estimate_and_the_parts_are_printed(capsys):
    compress(tiny_model("bert"), "3bits", [tiny_batch()], config=CONFIG)
    printed = " ".join(capsys.readouterr().err.split())
    assert printed.index("compress: about") < printed.index(", gap ") < printed.rindex("scoring")
    assert "fisher" in printed


def test_bars_are_not_among_results(monkeypatch, capsys):
    """On a terminal, where they are drawn, stdout stays what a program reads."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    quick = {"name": "autoround", "iterations": 1}
    compress(tiny_model("bert"), "3bits", [tiny_batch()], config=CONFIG, rounding=quick)
    said = capsys.readouterr()
    assert said.out == "" and all(bar in said.err for bar in ("scales", "gradients", "rounding"))


def test_what_would_be_quicker_is_said_before_it_takes_long(monkeypatch, capsys):
    monkeypatch.setattr(TrainingFree, "_forward_seconds", lambda engine: 1.0)
    quick = {"name": "autoround", "iterations": 30}
    compress(tiny_model("bert", layers=2), "3bits", [tiny_batch()], config=CONFIG, rounding=quick)
    said = " ".join(capsys.readouterr().err.split())
    assert "about 104 s for 1 model(s) from 3 examples: scoring 5.5 s, rounding 98 s" in said
    assert "rounding 'nearest' would be quicker, about 5.5 s in all" in said
    compress(tiny_model("bert", layers=2), "3bits", [tiny_batch()], config=CONFIG, rounding="nearest")
    assert "quicker" not in capsys.readouterr().err


def test_the_rest_is_said_anew_where_scoring_took_another_time(monkeypatch, capsys):
    monkeypatch.setattr(TrainingFree, "_forward_seconds", lambda engine: 1.0)
    clock = itertools.count(0, 22)
    monkeypatch.setattr("hf_mpq.core.stopwatch.perf_counter", lambda: next(clock))
    engine = TrainingFree(tiny_model("bert"), CONFIG, DEFAULT, [tiny_batch()], progress=True)
    engine.announce(1)
    engine.scores()
    phases = engine.phases()
    left = (phases["quantization"] + phases["rounding"]) * 22 / phases["scoring"]
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == f"compress: scoring took 22 s: about {readable(left)} more"


def test_the_estimate_takes_the_mean_of_several_passes(monkeypatch):
    clock = itertools.count(0, 0.3)
    monkeypatch.setattr("hf_mpq.core.stopwatch.perf_counter", lambda: next(clock))
    engine = TrainingFree(tiny_model("bert"), CONFIG, DEFAULT, [tiny_batch()])
    passes = []
    engine.model.register_forward_hook(lambda *_: passes.append(1))
    assert engine._forward_seconds() == pytest.approx(1.5 / 4) and len(passes) == 1 + 4


@pytest.mark.parametrize("allocator", list(ALLOCATORS))
def test_budgets_that_cannot_be_met_are_said_before_it_begins(allocator, capsys):
    """The last of several, too: nothing was scored or built in vain."""
    with pytest.raises(BudgetError, match="the budget of 1,000 bytes cannot be met; the smallest possible is "):
        compress(tiny_model("bert"), ["50kB", "1kB"], [tiny_batch()], CONFIG, allocator=allocator)
    assert capsys.readouterr().err == ""


def test_the_smallest_possible_budget_can_be_met():
    config = MPQConfig(bits=(2, 4), groups=8)
    with pytest.raises(BudgetError) as raised:
        quiet(tiny_model("bert"), "1kB", [tiny_batch()], config, rounding="nearest")
    least = re.findall(r"([\d,]+) bytes", str(raised.value))[-2].replace(",", "")
    small = quiet(tiny_model("bert"), f"{least}bytes", [tiny_batch()], config, rounding="nearest")
    assert hf_mpq.size_report(small).total_bytes <= int(least)


def test_the_estimate_counts_the_scan_of_scales_where_it_is_done():
    """Once: what can be chosen to score, everything else, or all where nothing is scored, to quantize."""
    engine = TrainingFree(tiny_model("bert"), CONFIG, dataclasses.replace(DEFAULT, scorer="distance"), [])
    phases = engine.phases()
    assert phases["scoring"] > 0 and phases["quantization"] > 0
    engine.choose(dataclasses.replace(engine.choice, allocator="uniform"))
    alone = engine.phases()
    assert alone["scoring"] == 0
    assert alone["quantization"] == pytest.approx(phases["scoring"] + phases["quantization"])


def test_a_pattern_that_matches_nothing_is_said_once(caplog):
    config = MPQConfig(bits=(2, 4), groups=8, rules={"qeury": {"bits": 8}}, modules_to_not_convert=["poler"])
    quiet(tiny_model("bert"), "3bits", [tiny_batch()], config=config, rounding="nearest")
    assert caplog.text.count("match no layer in scope of this BertForSequenceClassification: ['qeury', 'poler']") == 1


@pytest.mark.parametrize(("allocator", "evaluations"), [("lagrangian", 0), ("threshold", 40), ("ranked", 32)])
def test_the_estimate_counts_every_model_that_is_built_or_measured(monkeypatch, allocator, evaluations):
    choice = dataclasses.replace(DEFAULT, allocator=allocator, rounding="nearest", scorer="gradient")
    engine = TrainingFree(tiny_model("bert"), CONFIG, choice, [tiny_batch(), tiny_batch()])
    monkeypatch.setattr(engine, "_forward_seconds", lambda: 1000.0)
    twice = engine.estimate(2) - engine.estimate(1)
    assert twice == pytest.approx(evaluations * 2 * 1000)
    assert engine.estimate(1, judged=3) - engine.estimate(1) == pytest.approx((3 + (not evaluations)) * 2 * 1000)
    judged = TrainingFree(tiny_model("bert"), CONFIG, choice, [tiny_batch()], evaluate=lambda model: 1.0)
    clock = iter(range(0, 1000, 50))
    monkeypatch.setattr("hf_mpq.core.stopwatch.perf_counter", lambda: next(clock))
    monkeypatch.setattr(judged, "_forward_seconds", lambda: 0.0)
    assert judged.estimate(1, judged=3) - judged.estimate(1) == pytest.approx(3 * 50)


def test_a_drop_is_announced_with_all_models_that_are_tried(capsys):
    compress(
        tiny_model("bert"), None, [tiny_batch()], CONFIG, rounding="nearest", max_drop=1.0, evaluate=lambda one: 1.0
    )
    assert "for 7 model(s)" in " ".join(capsys.readouterr().err.split())


def test_several_budgets_are_scored_once(monkeypatch):
    asked, score = [], SCORERS["gradient"].score
    monkeypatch.setattr(SCORERS["gradient"], "score", lambda *given: asked.append(1) or score(*given))
    quiet(tiny_model("bert"), ["3bits", "2.5bits"], [tiny_batch()], CONFIG, scorer="gradient", rounding="nearest")
    assert len(asked) == 1


def test_errors_say_what_to_do():
    model = tiny_model("bert")
    with pytest.raises(ValueError, match="either a budget"):
        quiet(model, calibration=[tiny_batch()])
    with pytest.raises(ValueError, match="needs evaluate"):
        quiet(model, calibration=[tiny_batch()], max_drop=0.1)
    with pytest.raises(ValueError, match="no calibration examples were given, and 'fisher' need"):
        quiet(model, "4bits")
    with pytest.raises(ValueError, match="'gptq' need"):
        quiet(model, config=MPQConfig(bits=4), rounding="gptq")
    with pytest.raises(ValueError, match=r"need input_ids, these have .*'text'.*tokenize"):
        quiet(model, "4bits", [{"text": "hello"}])
    with pytest.raises(ValueError, match="not both"):
        quiet(model, "4bits", [tiny_batch()], max_drop=0.1, evaluate=len)
    with pytest.raises(ValueError, match=r"a mapping with 'name' and options"):
        quiet(model, "4bits", [tiny_batch()], scorer={"draws": 2})
    with pytest.raises(ValueError, match=r"in ms and others .* two calls"):
        quiet(model, ["0.25x", "8ms"], [tiny_batch()])
    with pytest.raises(ValueError, match="unknown rounding"):
        quiet(model, "4bits", [tiny_batch()], rounding="guess")
    with pytest.raises(hf_mpq.core.BudgetError, match="smallest"):
        quiet(model, "1kB", [tiny_batch()])
    with pytest.raises(ValueError, match="unknown scorer"):
        quiet(model, "4bits", [tiny_batch()], scorer="guess")


def with_outliers():
    """A bare model in which two channels of a normalisation are far from the others."""
    model = tiny_model("bert", "bare")
    with torch.no_grad():
        model.encoder.layer[0].attention.output.LayerNorm.weight[3] = 20.0
        model.encoder.layer[0].attention.output.LayerNorm.bias[5] = 40.0
    return model


def test_a_quantized_model_is_refused_before_any_work():
    quantized = quiet(tiny_model("bert"), config=MPQConfig(bits=4), rounding="nearest", bias_correction=False)
    with pytest.raises(ValueError, match="quantized already; compress starts from the float model"):
        quiet(quantized, "0.25x", rows())


def test_low_activations_get_shift_and_scale_by_default():
    model, batches = with_outliers(), [tiny_batch(rows=6, tokens=20)]
    config = MPQConfig(bits=8, groups=8, activation_bits=4)
    chosen = {rule: quiet(model, calibration=batches, config=config, outliers=rule) for rule in ("none", "os+", None)}
    errors = {rule: divergence(model, one, batches) for rule, one in chosen.items()}
    assert errors[None] == errors["os+"] < 0.8 * errors["none"]


@pytest.mark.parametrize("rule", ["none", "gamma", "os+"])
def test_what_outliers_cost_is_inside_the_budget(rule):
    model, batches = with_outliers(), [tiny_batch(rows=6, tokens=20)]
    config = MPQConfig(bits=(2, 3, 4, 8), groups=8, activation_bits=4)
    small = quiet(model, "0.3x", batches, config=config, outliers=rule)
    assert 0.25 < hf_mpq.size_report(small).ratio <= 0.3


def test_a_low_rank_correction_is_inside_the_budget():
    model, batches = tiny_model("bert", "bare", layers=2), [tiny_batch(rows=16, tokens=20)]
    plain, corrected = (
        quiet(model, "encoder:9kB", batches, config=MPQConfig(bits=(2, 3, 4, 8), groups=8, low_rank=rank))
        for rank in (0, 2)
    )
    sizes = [hf_mpq.size_report(one) for one in (plain, corrected)]
    assert all(8500 < report.encoder_bytes <= 9000 for report in sizes)
    assert sizes[1].average_bits < sizes[0].average_bits
    factors = corrected.encoder.layer[0].intermediate.dense.factors()
    assert all(part.abs().max() > 0 for part in factors)


@pytest.mark.parametrize("bits", [(2, 4, 8), (0, 4)])
@pytest.mark.parametrize("head", ["sequence", "bare"])
def test_damage_on_the_live_prototype_is_that_of_a_fixed_copy(head, bits, monkeypatch):
    """Nothing is copied, but where rows are folded away; and the models that are built are the same afterwards."""
    config = MPQConfig(bits=bits, groups=4, activation="static", embedding_bits=8)
    made = [TrainingFree(tiny_model("bert", head), config, DEFAULT, [tiny_batch()]) for _ in range(2)]
    engine, plain = made
    copies, fixed = [], TrainingFree.quantized
    monkeypatch.setattr(TrainingFree, "quantized", lambda *args: copies.append(args) or fixed(*args))
    for chosen in (engine.everywhere(bits[-1]), engine.everywhere(bits[0])):
        found = engine.damage(chosen)
        assert bool(copies) == (0 in bits and chosen == engine.everywhere(0))
        assert found == divergence(plain.model, fixed(plain, chosen), plain.batches) and found > 0
    chosen = engine.everywhere(4)
    before, after = (outputs(fixed(one, chosen)) for one in (plain, engine))
    assert all(torch.equal(one, other) for one, other in zip(before, after))


@pytest.mark.parametrize("most", [2**28, 0])
def test_the_float_model_gives_its_outputs_once(most, monkeypatch):
    """Where they are not too many to be kept."""
    monkeypatch.setattr(sys.modules[divergence.__module__], "KEPT_BYTES", most)
    engine = TrainingFree(tiny_model("bert"), CONFIG, DEFAULT, [tiny_batch(), tiny_batch(3)])
    passes = []
    engine.model.register_forward_hook(lambda one, *args: passes.append(1) if one is engine.model else None)
    for bits in (2, 4):
        expected = divergence(engine.model, engine.quantized(engine.everywhere(bits)), engine.batches)
        passes.clear()
        assert engine.damage(engine.everywhere(bits)) == expected
        assert len(passes) == (2 if bits == 2 or not most else 0)


def test_inputs_get_their_bits_where_the_budget_counts_them():
    """Of energy; one in bits leaves them at their highest."""
    config = MPQConfig(bits=(2, 4, 8), groups=4, activation_bits=(2, 4, 8))
    parts = {"config": config, "rounding": "nearest", "outliers": "none", "progress": False}
    for budget, cost in (("17uJ", Energy), ("5bits", AverageBits)):
        model = compress(tiny_model("bert", layers=2), budget, [tiny_batch()], **parts)
        found = hf_mpq.assignment_of(model)
        assert cost(model.hf_quantizer.space).of(found) <= float(budget.removesuffix("uJ").removesuffix("bits"))
        assert (set(found.activation_bits.values()) == {8}) == (budget == "5bits")
        before = outputs(model)[0]
        torch.testing.assert_close(outputs(hf_mpq.prepare(hf_mpq.pack(model), "cpu-float"))[0], before)
