import pytest

from hf_mpq.core import Budget, BudgetError


@pytest.mark.parametrize(
    "text, budget",
    [
        ("12MB", Budget(12e6, "bytes")),
        ("12 MB", Budget(12e6, "bytes")),
        ("11MiB", Budget(11 * 2**20, "bytes")),
        (".5GiB", Budget(2**29, "bytes")),
        ("300kB", Budget(3e5, "bytes")),
        ("300KB", Budget(3e5, "bytes")),
        ("1000bytes", Budget(1000, "bytes")),
        ("encoder:25MiB", Budget(25 * 2**20, "bytes", "encoder")),
        ("embedding: 8MB", Budget(8e6, "bytes", "embedding")),
        ("2.5bits", Budget(2.5, "bits", "encoder")),
        ("3bit", Budget(3, "bits", "encoder")),
        ("3 bits", Budget(3, "bits", "encoder")),
        ("encoder:2.5bits", Budget(2.5, "bits", "encoder")),
        ("0.25x", Budget(0.25, "ratio")),
        ("25%", Budget(0.25, "ratio")),
        ("Encoder: 12.5 %", Budget(0.125, "ratio", "encoder")),
        (0.25, Budget(0.25, "ratio")),
        ("0.25", Budget(0.25, "ratio")),
        (1e-4, Budget(1e-4, "ratio")),
        ("encoder:.1x", Budget(0.1, "ratio", "encoder")),
        ("8ms", Budget(8, "latency")),
        ("120uJ", Budget(120, "energy")),
        ("40GBOPs", Budget(40e9, "operations")),
        (".5TBOPs", Budget(5e11, "operations")),
        ("0.001234GBOPs", Budget(1234e3, "operations")),
    ],
)
def test_good_budgets(text, budget):
    assert Budget.parse(text) == budget
    assert Budget.parse(budget) is budget and Budget.parse(str(budget)) == budget


UNREADABLE = ["", "MB", "-5MB", -0.5, "12 parsecs", "1e6MB", "1,5MB", True, None, float("nan"), "a b:5MB", "2.5b", "9B"]


@pytest.mark.parametrize("text", UNREADABLE)
def test_unreadable_budgets_show_examples(text):
    with pytest.raises(BudgetError, match=r"cannot read.*'11MiB'"):
        Budget.parse(text)


@pytest.mark.parametrize("number", [4, 4.0, 1.0, "25", "4"])
def test_a_number_needs_a_unit(number):
    words = f"{float(number):g}"
    with pytest.raises(BudgetError, match=f"has no unit: write '{words}MB' .*'{words}bits' .*'{words}%'"):
        Budget.parse(number)


@pytest.mark.parametrize(
    "text, meant",
    [
        ("12Mb", "12MB"),
        ("12mb", "12MB"),
        ("300kb", "300kB"),
        ("11mib", "11MiB"),
        ("8MS", "8ms"),
        ("120uj", "120uJ"),
        ("40gbops", "40GBOPs"),
        ("0.25X", "0.25x"),
        ("2.5Bits", "2.5bits"),
        ("2.5bitts", "2.5bits"),
    ],
)
def test_a_unit_that_is_spelt_otherwise_is_not_taken_for_it(text, meant):
    """Megabits are no megabytes."""
    with pytest.raises(BudgetError, match=f"cannot read the budget '{text}'; did you mean '{meant}'"):
        Budget.parse(text)


@pytest.mark.parametrize(
    "text, message",
    [
        ("0MB", "above zero"),
        (0, "above zero"),
        (0.0, "above zero"),
        ("decoder:5MB", "unknown scope 'decoder'.*model, encoder, embedding"),
        ("model:2bits", "encoder weights only"),
    ],
)
def test_impossible_budgets_say_why(text, message):
    with pytest.raises(BudgetError, match=message):
        Budget.parse(text)
