"""A model answers the same whatever else is asked, beside it, before it and on other threads."""

import resource
from random import Random

import pytest
import torch
from torch.testing import assert_close

import hf_mpq
from hf_mpq.runtime.int8 import unsupported
from tests.runtime.test_int8 import mixed
from tests.runtime.threads import wrong_answers
from tests.tiny import MOST, VOCABULARY, tiny_batch, tiny_model

pytestmark = pytest.mark.skipif(unsupported() is not None, reason=str(unsupported()))
CPU = ("reference", "cpu-float", "cpu-int8", "auto")
LENGTHS = (11, 3, 7, 1, 16, 5)


def prepared(backend: str, family: str = "bert"):
    config = hf_mpq.MPQConfig(bits=(0, 2, 4, 8), groups=8, activation_bits=8)
    return hf_mpq.prepare(hf_mpq.pack(mixed(hf_mpq.quantize(tiny_model(family, "bare"), config))).eval(), backend)


@torch.no_grad()
def vectors(model, ids: torch.Tensor, lengths) -> list[torch.Tensor]:
    """Of each row, those of its own tokens; all behind them is padding."""
    mask = (torch.arange(ids.shape[1]) < torch.tensor(lengths).unsqueeze(1)).long()
    hidden = model(input_ids=ids.masked_fill(mask == 0, 1), attention_mask=mask)[0]
    return [row[:length] for row, length in zip(hidden, lengths)]


@pytest.mark.parametrize("backend", CPU)
@pytest.mark.parametrize("family", MOST)
def test_vectors_do_not_depend_on_batch_padding_or_threads(family, backend):
    model = prepared(backend, family)
    ids = torch.randint(3, VOCABULARY, (len(LENGTHS), 24), generator=torch.Generator().manual_seed(2))
    alone = [vectors(model, row[None, :length], [length])[0] for row, length in zip(ids, LENGTHS)]
    found = [vectors(model, ids[:, : max(LENGTHS)], LENGTHS), vectors(model, ids, LENGTHS)]
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        found.append(vectors(model, ids, LENGTHS))
    finally:
        torch.set_num_threads(before)
    for several in found:
        for one, other in zip(alone, several):
            assert_close(other, one, rtol=0, atol=1e-4 * float(one.abs().max()))


@pytest.mark.parametrize(("count", "rounds"), [(4, 5), pytest.param(16, 60, marks=pytest.mark.full)])
@pytest.mark.parametrize("backend", CPU)
def test_many_threads_ask_one_model(backend, count, rounds):
    model = prepared(backend)
    batches = [tiny_batch(1 + number % 5, 4 + 2 * number) for number in range(count)]
    with torch.no_grad():
        for _ in range(2):  # where the first pass at a shape measures, the second is what it chose
            wanted = [model(**batch).last_hidden_state for batch in batches]
    alike = lambda one, other: torch.allclose(one, other, rtol=0, atol=1e-4 * float(other.abs().max()))  # noqa: E731
    assert not wrong_answers(model, batches, wanted, alike, rounds, "last_hidden_state")


@pytest.mark.full
@pytest.mark.parametrize("backend", ["cpu-int8", "auto"])
def test_memory_stays_flat_over_thousands_of_requests(backend):
    model, random = prepared(backend), Random(0)

    def ask(times: int) -> int:
        """Largest memory of this process so far, in kB."""
        with torch.no_grad():
            for _ in range(times):
                model(**tiny_batch(random.randint(1, 16), random.randint(4, 40)))
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    first = ask(1500)
    assert ask(4500) - first < 50_000
