"""`set_precision`: one precision, precisions by pattern, and budgets, in both storages, kept in files."""

import copy

import pytest
import torch

import hf_mpq
from hf_mpq import MPQConfig
from hf_mpq.core import BudgetError, MatrixStorage, SubgroupLayout
from hf_mpq.core.precisions import norm_precision
from hf_mpq.format import PackedFormatError
from hf_mpq.nn.precision import used_precisions
from hf_mpq.plugin.precision import budget_precisions
from hf_mpq.plugin.space import space_of
from tests.plugin.models import close, read_config, reload
from tests.tiny import MOST, outputs, tiny_model

NESTED = {"bits": (2, 4, 8), "nested": True, "switchable_norms": True, "groups": 5}
MIXED = {"": 4, r"layer\.0\.": 2, r"\.query$": 8}


def nested_model(family="bert", storage="packed", **options):
    """A nested model whose norms differ at each precision."""
    model = hf_mpq.quantize(tiny_model(family), MPQConfig(**{**NESTED, **options}))
    with torch.no_grad():
        for number, (name, parameter) in enumerate(model.named_parameters()):
            if "lower_" in name:
                parameter += 0.05 * (number % 5)
    return hf_mpq.pack(model) if storage == "packed" else model


def same(first, second) -> bool:
    return all(torch.equal(a, b) for a, b in zip(outputs(first), outputs(second), strict=True))


@pytest.mark.parametrize("storage", ["packed", "trainable"])
def test_patterns_are_searched_and_later_ones_win(storage):
    model = nested_model(storage=storage)
    assert hf_mpq.set_precision(model, MIXED) is model
    used = used_precisions(model)
    for name, bits in used.items():
        assert bits == (8 if name.endswith("query") else 2 if "layer.0" in name else 4)
    hf_mpq.set_precision(model, {r"\.key$": 8})
    assert used_precisions(model) == used | {name: 8 for name in used if name.endswith("key")}


@pytest.mark.parametrize("storage", ["packed", "trainable"])
def test_a_mixed_setting_is_kept_in_files_and_in_either_storage(storage, tmp_path):
    model = hf_mpq.set_precision(nested_model(storage=storage), MIXED)
    used, before = used_precisions(model), outputs(model)
    model.save_pretrained(tmp_path)
    told = read_config(tmp_path)["quantization_config"]["precision"]
    assert told == {name: bits for name, bits in used.items() if bits != 8}
    again = reload(tmp_path)
    assert used_precisions(again) == used and same(model, again)
    other = (hf_mpq.unpack if storage == "packed" else hf_mpq.pack)(again)
    assert used_precisions(other) == used
    close(outputs(other), before)
    hf_mpq.set_precision(other, 8)
    assert other.config.quantization_config.precision == {} and not used_precisions(other).keys() & told.values()
    twin = copy.deepcopy(model)
    hf_mpq.set_precision(twin, 2)
    assert used_precisions(model) == used and model.config.quantization_config.precision == told


def test_both_storages_choose_the_same_within_a_budget():
    model = nested_model(storage="trainable")
    packed, mixed = hf_mpq.pack(copy.deepcopy(model)), 0
    for budget in (
        "3bits",
        "5.5bits",
        "0.2x",
        "encoder:0.15x",
        "17kB",
        0.19,
        hf_mpq.Budget.parse("20kB"),
        "17kB + 4bits",
    ):
        chosen = budget_precisions(packed, budget)
        assert chosen == budget_precisions(model, budget) == budget_precisions(packed, budget)
        mixed += len(set(chosen.values())) > 1
        assert used_precisions(hf_mpq.set_precision(packed, budget)) == chosen
    assert mixed >= 4
    assert set(budget_precisions(packed, "1GB").values()) == {8}


def test_within_a_budget_the_weights_change_less_than_by_chance():
    model = nested_model()
    squares = {}
    for name, layer in hf_mpq.nn.precision.nested_matrices(model).items():
        squares[name] = dict(zip(layer.nested, hf_mpq.plugin.precision.weight_changes(layer), strict=True))
    sizes = {name: layer.stored.code_bits for name, layer in hf_mpq.nn.precision.nested_matrices(model).items()}
    chosen = budget_precisions(model, "3bits")
    bits = sum(sizes[name] / 8 * one for name, one in chosen.items()) / (sum(sizes.values()) / 8)
    assert 2.7 < bits <= 3
    found = sum(squares[name][one] for name, one in chosen.items())
    raised = len([one for one in chosen.values() if one == 4])
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        names = [list(chosen)[i] for i in torch.randperm(len(chosen), generator=generator)[: max(raised - 2, 1)]]
        assert found <= sum(squares[name][4 if name in names else 2] for name in chosen)


@pytest.mark.parametrize("served", [(2, 4, 8), (2, 3, 4, 8)])
def test_more_bytes_never_change_the_weights_more(served):
    """No room is held for normalisation parameters of precisions that are not used."""
    model = nested_model(bits=served)
    layers = hf_mpq.nn.precision.nested_matrices(model)
    squares = {
        name: dict(zip(layer.nested, hf_mpq.plugin.precision.weight_changes(layer), strict=True))
        for name, layer in layers.items()
    }
    found = []
    for size in range(12_400, 14_000, 100):
        chosen = budget_precisions(model, f"{size / 1000}kB")
        found.append(sum(squares[name][bits] for name, bits in chosen.items()))
    assert found == sorted(found, reverse=True)


def test_what_cannot_be_is_said_and_changes_nothing():
    model = hf_mpq.set_precision(nested_model(rules={r"layer\.1\.output": {"bits": (2, 4)}}), {r"layer\.0\.": 4})
    before = used_precisions(model)
    for bits, error, words in (
        (3, ValueError, "3 bits are not among the nested precisions"),
        (8, ValueError, r"encoder\.layer\.1\.output\.dense: 8 bits are not among the nested precisions \(2, 4\)"),
        ({"": 2, "nowhere": 4}, ValueError, "'nowhere' is found in no nested matrix; the first is 'encoder"),
        ({"word_embeddings": 4}, ValueError, "embeddings.word_embeddings, which .* has codes of one precision"),
        ({"(": 4}, ValueError, "no regular expression"),
        ({0: 4}, ValueError, "a pattern is text, such as 'query'; got 0"),
        ({"": "4"}, ValueError, "whole number of bits"),
        ("4", BudgetError, "'4bits' for the mean precision"),
        (
            "8ms",
            BudgetError,
            "chosen by the size of the model or of its encoder, which 'model:8ms@1x128' does not limit",
        ),
        ("embedding:4MB", BudgetError, "chosen by the size"),
        ("1kB", BudgetError, "the smallest possible is"),
        ("1bits", BudgetError, "the smallest possible is 2 bits"),
    ):
        with pytest.raises(error, match=words):
            hf_mpq.set_precision(model, bits)
        assert used_precisions(model) == before
    plain = hf_mpq.pack(hf_mpq.quantize(tiny_model("bert"), MPQConfig(bits=4)))
    for bits in (4, {"": 4}, "3bits"):
        with pytest.raises(ValueError, match="no nested precisions; quantize it with"):
            hf_mpq.set_precision(plain, bits)
    with pytest.raises(ValueError, match="no nested precisions"):
        hf_mpq.set_precision(tiny_model("bert"), 4)


def test_norms_follow_half_of_the_weights_of_their_layer():
    stored = MatrixStorage.of(SubgroupLayout((8, 8)), (8,), {8: 3}, encoding="nested", nested=(2, 4, 8))
    nested = {f"layer.{layer}.{name}": stored for layer in (0, 1) for name in "abcd"}
    chosen = dict(zip(nested, (8, 4, 2, 2, 8, 8, 8, 2)))
    served = (2, 4, 8)
    assert norm_precision("layer.0.norm", served, chosen, nested) == 4
    assert norm_precision("layer.1.norm", served, chosen, nested) == 8
    assert norm_precision("embeddings.norm", served, chosen, nested) == 8
    assert norm_precision("layer.1.norm", (2, 4), chosen, nested) == 4
    assert norm_precision("layer.0.norm", (8,), chosen, nested) == 8
    lower = {name: min(bits, 4) for name, bits in chosen.items()}
    for name in ("layer.0.norm", "layer.1.norm", "embeddings.norm"):
        assert norm_precision(name, served, lower, nested) <= norm_precision(name, served, chosen, nested)


def test_norms_of_a_mixed_model_use_their_set():
    model = hf_mpq.set_precision(nested_model(), {"": 8, r"layer\.0\.": 2})
    positions = {name: norm.position for name, norm in hf_mpq.nn.walk.matrices(model, hf_mpq.nn.PackedLayerNorm)}
    assert all(position == (0 if "layer.0." in name else 2) for name, position in positions.items())


@pytest.mark.parametrize("family", MOST)
def test_every_family(family, tmp_path):
    model = nested_model(family)
    hf_mpq.set_precision(model, "3bits")
    assert len(set(used_precisions(model).values())) > 1
    model.save_pretrained(tmp_path)
    assert same(model, reload(tmp_path))
    assert space_of(model).norm_parameters == space_of(reload(tmp_path)).norm_parameters


def test_an_encoder_that_was_quantized_alone(tmp_path):
    model = tiny_model("bert")
    hf_mpq.quantize(model.bert, MPQConfig(**NESTED))
    hf_mpq.set_precision(model, MIXED)
    model.save_pretrained(tmp_path)
    again = reload(tmp_path)
    assert used_precisions(again) == used_precisions(model)
    close(outputs(again), outputs(model))
    wrapper = torch.nn.ModuleDict({"inside": again})
    hf_mpq.set_precision(wrapper, 2)
    assert set(used_precisions(again).values()) == {2} and again.config.quantization_config.precision


def test_a_setting_in_config_json_that_cannot_be(tmp_path):
    """Signed like all of it; where somebody signs it anew it is still one error."""
    model = nested_model(storage="trainable")
    model.config.quantization_config.precision = {"encoder.layer.0.output.dense": 3}
    model.save_pretrained(tmp_path)
    with pytest.raises(PackedFormatError, match=r"precision in config\.json cannot be used"):
        reload(tmp_path)
    with pytest.raises(ValueError, match="precision of x must be 1 to 8"):
        MPQConfig(bits=4, precision={"x": 9})


def test_nested_codes_beside_a_table_whose_bits_are_open():
    model = nested_model(embedding_bits=(2, 8))
    assert set(used_precisions(model).values()) == {8}
    assert hf_mpq.assignment_of(model).matrices["embeddings.word_embeddings"].bits[0] in (2, 8)


@pytest.mark.parametrize("storage", ["packed", "trainable"])
def test_the_smallest_budget_is_what_the_lowest_precisions_take(storage, tmp_path):
    """Normalisation parameters of precisions that nothing uses are left out of it, as `extract` does."""
    model = nested_model(storage=storage)
    packed = hf_mpq.pack(copy.deepcopy(model)) if storage == "trainable" else model
    packed.save_pretrained(tmp_path / "whole")
    for bits in (2, 4, 8):
        least = hf_mpq.size_report(hf_mpq.extract(tmp_path / "whole", bits, tmp_path / str(bits))).total_bytes
        found = hf_mpq.extract(tmp_path / "whole", f"{least}bytes", tmp_path / f"within{bits}")
        assert hf_mpq.size_report(found).total_bytes <= least
        hf_mpq.set_precision(model, f"{least}bytes")
        assert used_precisions(model) == used_precisions(reload(found))
        if bits == 2:
            assert set(used_precisions(model).values()) == {2}
            with pytest.raises(BudgetError, match=r"smallest possible is .*, 1 bytes more"):
                hf_mpq.set_precision(model, f"{least - 1}bytes")


@pytest.mark.parametrize("method", ["mpq", "sdq", "weight-coupling"])
def test_methods_that_choose_precisions_take_no_nested_ones(method):
    with pytest.raises(ValueError, match="leave out nested=True, or take method='vertical'"):
        MPQConfig(method=method, bits=(2, 4, 8), nested=True).check()
