import pytest

from hf_mpq.core import Budget, BudgetError


@pytest.mark.parametrize("text, budget", [
    ("12MB", Budget(12e6, "bytes")),
    ("12 mb", Budget(12e6, "bytes")),
    ("11MiB", Budget(11 * 2**20, "bytes")),
    (".5GiB", Budget(2**29, "bytes")),
    ("300kB", Budget(3e5, "bytes")),
    ("1000b", Budget(1000, "bytes")),
    ("encoder:25MiB", Budget(25 * 2**20, "bytes", "encoder")),
    ("embedding: 8MB", Budget(8e6, "bytes", "embedding")),
    ("2.5bits", Budget(2.5, "bits", "encoder")),
    ("encoder:2.5bits", Budget(2.5, "bits", "encoder")),
    ("0.25x", Budget(0.25, "ratio")),
    ("encoder:.1x", Budget(0.1, "ratio", "encoder")),
    ("8ms", Budget(8, "latency")),
    ("120uJ", Budget(120, "energy")),
])  # fmt: skip
def test_good_budgets(text, budget):
    assert Budget.parse(text) == budget
    assert Budget.parse(budget) is budget


@pytest.mark.parametrize("text", ["", "12", "MB", "-5MB", "12 parsecs", "1e6MB", "1,5MB", 0.25, None, "a b:5MB"])
def test_unreadable_budgets_show_examples(text):
    with pytest.raises(BudgetError, match=r"cannot read.*'11MiB'"):
        Budget.parse(text)


@pytest.mark.parametrize("text, message", [
    ("0MB", "above zero"),
    ("decoder:5MB", "unknown scope 'decoder'.*model, encoder, embedding"),
    ("model:2bits", "encoder weights only"),
])  # fmt: skip
def test_impossible_budgets_say_why(text, message):
    with pytest.raises(BudgetError, match=message):
        Budget.parse(text)
