"""Whole encoders in one call: a text's vectors are its own, bit for bit."""

import pytest
import torch

import hf_mpq
from hf_mpq.nn import encoder_blocks
from hf_mpq.nn.packed import PackedLinear
from hf_mpq.runtime.native import runs_natively
from tests.runtime.test_int8 import packed_model
from tests.runtime.test_native_memory import REASON
from tests.runtime.test_steady_answers import vectors
from tests.tiny import VOCABULARY

FAMILIES = ("bert", "modernbert", "roberta", "distilbert", "albert", "electra", "mpnet", "deberta-v2")
KINDS = {
    "mixed": {"bits": (0, 2, 4, 8), "groups": 8},
    "4 bits": {"bits": 4},
    "8 bits, fixed ranges": {"bits": 8, "activation": "static"},
}
LENGTHS = (11, 3, 7, 1, 16, 5)
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))


@pytest.mark.parametrize("fields", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize(
    "family", [one if one == "bert" else pytest.param(one, marks=pytest.mark.full) for one in FAMILIES]
)
def test_vectors_depend_on_no_batch_padding_or_thread(family, fields):
    model = hf_mpq.prepare(packed_model(family, changes={"head": "bare"}, **fields), "cpu-native")
    assert runs_natively(model)
    bits = set(
        torch.cat(
            [
                one.group_bits()
                for block in encoder_blocks(model).values()
                for one in block.modules()
                if isinstance(one, PackedLinear)
            ]
        ).tolist()
    )
    assert bits == ({0, 2, 4, 8} if isinstance(fields["bits"], tuple) else {fields["bits"]})
    ids = torch.randint(3, VOCABULARY, (len(LENGTHS), 24), generator=torch.Generator().manual_seed(2))
    alone = [vectors(model, row[None, :length], [length])[0] for row, length in zip(ids, LENGTHS)]
    found = [vectors(model, ids[:, : max(LENGTHS)], LENGTHS), vectors(model, ids, LENGTHS)]
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        found += [vectors(model, ids, LENGTHS), vectors(model, ids.flip(0), LENGTHS[::-1])[::-1]]
    finally:
        torch.set_num_threads(before)
    for several in found:
        for one, other in zip(alone, several):
            assert torch.equal(one, other)
    assert alone[0].std() > 0.1
