"""Thousands of tokens in one text: local and global attention of ModernBERT, in the kernel and in transformers."""

import pytest
import torch

import hf_mpq
from hf_mpq import MPQConfig
from hf_mpq.report.measures.memory import STATUS, PeakMemory
from hf_mpq.runtime.native import runs_natively
from tests.runtime.test_native_memory import REASON
from tests.tiny import VOCABULARY, tiny_model

pytestmark = [pytest.mark.full, pytest.mark.skipif(REASON is not None, reason=str(REASON))]
TOKENS = 8192


def packed_modernbert():
    model = tiny_model("modernbert", "bare", max_position_embeddings=TOKENS, local_attention=128)
    return hf_mpq.pack(hf_mpq.quantize(model, MPQConfig(bits=8)))


@torch.inference_mode()
def test_the_kernel_answers_as_the_packed_model():
    """Each token, also where its window ends, with padding behind them."""
    ids = torch.randint(3, VOCABULARY, (1, TOKENS), generator=torch.Generator().manual_seed(0))
    mask = (torch.arange(TOKENS) < TOKENS - 100).long().unsqueeze(0)
    model = packed_modernbert()
    expected = model(input_ids=ids, attention_mask=mask).last_hidden_state[0, :-100]
    native = hf_mpq.prepare(model, "cpu-native")
    assert runs_natively(native)
    found = native(input_ids=ids, attention_mask=mask).last_hidden_state[0, :-100]
    gaps = (found - expected).abs().amax(-1) / expected.abs().amax(-1)
    assert gaps.median() < 0.02 and gaps.max() < 0.2
    assert gaps[-200:].median() < 0.02 and gaps[:200].median() < 0.02


@pytest.mark.skipif(not STATUS.exists(), reason="peak memory can be read on Linux only")
@torch.inference_mode()
def test_memory_grows_with_the_length_and_not_with_its_square():
    """A matrix of attention scores of one head alone would be 256 MB."""
    native = hf_mpq.prepare(packed_modernbert(), "cpu-native")
    ids = torch.randint(3, VOCABULARY, (1, TOKENS), generator=torch.Generator().manual_seed(0))
    native(input_ids=ids[:, :64])
    assert PeakMemory(torch.device("cpu")).of(lambda: native(input_ids=ids)) < 64e6
