"""The pooler in the encoder's one call."""

import pytest
import torch
from torch import nn

import hf_mpq
from hf_mpq.nn import body_of
from hf_mpq.runtime.native import runs_natively
from tests.runtime.test_int8 import packed_model
from tests.runtime.test_native_memory import REASON
from tests.tiny import VOCABULARY

pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))
FAMILIES = ("bert", "roberta", "albert", "mpnet")


def prepared(family: str, change=None, **fields):
    model = packed_model(family, changes={"head": "bare"}, **fields)
    if change is not None:
        change(model)
    return hf_mpq.prepare(model, "cpu-native")


def ids_of(rows: int, tokens: int) -> torch.Tensor:
    return torch.randint(3, VOCABULARY, (rows, tokens), generator=torch.Generator().manual_seed(4))


def pooled_by_torch(model: nn.Module, hidden: torch.Tensor) -> torch.Tensor:
    body = body_of(model)
    return body.native.plan.form.pool(body, hidden)


@pytest.mark.parametrize("activation", ["dynamic-token", "static"])
@pytest.mark.parametrize("family", FAMILIES)
def test_it_gives_what_the_pooler_gives(family, activation):
    model = prepared(family, activation=activation)
    assert runs_natively(model) and body_of(model).native.plan.pooled
    ids = ids_of(37, 9)
    mask = torch.ones_like(ids)
    mask[1, 4:] = 0
    with torch.inference_mode():
        found = model(input_ids=ids, attention_mask=mask)
        assert found.pooler_output.shape == (37, body_of(model).config.hidden_size)
        assert found.pooler_output.std() > 0.01
        assert torch.allclose(found.pooler_output, pooled_by_torch(model, found.last_hidden_state), atol=1e-6)
        few = model(input_ids=ids[5:8], attention_mask=mask[5:8])
    assert torch.equal(few.pooler_output, found.pooler_output[5:8])


def test_a_first_token_that_is_masked_is_read_as_it_is_given():
    model = prepared("bert")
    ids = ids_of(3, 6)
    mask = torch.ones_like(ids)
    mask[0, :2] = 0
    with torch.inference_mode():
        found = model(input_ids=ids, attention_mask=mask)
        assert torch.allclose(found.pooler_output, pooled_by_torch(model, found.last_hidden_state), atol=1e-6)


@pytest.mark.parametrize("bits", [2, 4])
def test_it_reads_planes(bits):
    model = prepared("bert", bits=bits)
    with torch.inference_mode():
        found = model(input_ids=ids_of(2, 6))
        assert torch.allclose(found.pooler_output, pooled_by_torch(model, found.last_hidden_state), atol=1e-6)


def test_another_activation_is_left_to_torch():
    def change(model: nn.Module) -> None:
        body_of(model).pooler.activation = nn.ReLU()

    model = prepared("bert", change)
    assert runs_natively(model) and not body_of(model).native.plan.pooled
    with torch.inference_mode():
        found = model(input_ids=ids_of(2, 6))
    assert found.pooler_output.min() == 0 < found.pooler_output.max()


def test_a_hook_of_the_pooler_is_called():
    model, seen = prepared("bert"), []
    ids = ids_of(2, 6)
    with torch.inference_mode():
        plain = model(input_ids=ids).pooler_output
        body_of(model).pooler.register_forward_hook(lambda module, given, output: seen.append(output))
        hooked = model(input_ids=ids).pooler_output
    assert len(seen) == 1 and torch.equal(seen[0], hooked)
    assert torch.allclose(plain, hooked, atol=0.1)


def test_a_pooler_that_is_taken_away_is_gone():
    model = prepared("bert")
    ids = ids_of(2, 6)
    with torch.inference_mode():
        assert model(input_ids=ids).pooler_output is not None
        body_of(model).pooler = None
        assert model(input_ids=ids).pooler_output is None
