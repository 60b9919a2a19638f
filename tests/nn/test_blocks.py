"""Encoder layers as blocks, in every family."""

import pytest
import torch
from transformers import AutoModel, GPT2Config

import hf_mpq
from hf_mpq import MPQConfig
from hf_mpq.nn import BlockRecord, are_chained, encoder_blocks, record_blocks
from hf_mpq.nn.blocks import evaluating, real_tokens
from tests.tiny import FAMILIES, HEADS, MOST, tiny_batch, tiny_model

BATCHES = [tiny_batch(), tiny_batch(2, 7)]


def chained(model) -> bool:
    return are_chained(list(record_blocks(model, BATCHES).values()), len(BATCHES))


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_blocks(family, head):
    blocks = encoder_blocks(tiny_model(family, head))
    assert len(blocks) == (1 if family == "albert" else 2)
    assert list(blocks) == list(encoder_blocks(tiny_model(family, "bare"))), "names do not depend on the head"


@pytest.mark.parametrize("quantized", [False, True], ids=["float", "quantized"])
@pytest.mark.parametrize("family", MOST)
def test_blocks_give_the_same_when_run_alone(family, quantized):
    model = tiny_model(family)
    if quantized:
        hf_mpq.quantize(model, MPQConfig(bits=4, attention_bits=8))
    blocks = encoder_blocks(model)
    with torch.no_grad():
        for name, record in record_blocks(model, BATCHES).items():
            assert len(record) == len(record.hidden) == len(record.outputs) == len(BATCHES) * 2 / len(blocks)
            for call in range(len(record)):
                assert torch.equal(record.run(blocks[name], call), record.outputs[call])
                assert torch.equal(record.run(blocks[name], call, record.hidden[call]), record.outputs[call])


@pytest.mark.parametrize("family", FAMILIES)
def test_blocks_are_chained_but_for_shared_ones(family):
    assert chained(tiny_model(family)) == (family != "albert")


def test_what_stands_between_blocks_breaks_the_chain():
    assert not chained(tiny_model("deberta-v2", "bare", conv_kernel_size=3, conv_act="gelu", num_hidden_layers=3))
    assert not chained(tiny_model("albert", "bare", num_hidden_groups=2, num_hidden_layers=4))


@pytest.mark.parametrize("family", MOST)
def test_only_the_first_hidden_states_are_kept_if_wanted(family):
    model = tiny_model(family)
    records, full = record_blocks(model, BATCHES, first_only=True), record_blocks(model, BATCHES)
    first, *rest = records.values()
    assert all(torch.equal(a, b) for a, b in zip(first.hidden, next(iter(full.values())).hidden))
    assert all(len(record) == len(BATCHES) and not record.hidden and not record.outputs for record in rest)
    for record, whole in zip(rest, list(full.values())[1:]):
        assert [list(kwargs) for _, kwargs in record.others] == [list(kwargs) for _, kwargs in whole.others]
        assert all(mask is None or torch.equal(mask, other) for mask, other in zip(record.masks, whole.masks))


def test_blocks_behind_the_first_are_not_run_where_only_the_first_is_recorded():
    model, runs = tiny_model("bert"), []
    later = list(encoder_blocks(model).values())[1]
    later.intermediate.register_forward_hook(lambda *_: runs.append(1))
    record_blocks(model, BATCHES, first_only=True)
    assert not runs and "forward" not in vars(later)
    record_blocks(model, BATCHES)
    assert len(runs) == len(BATCHES)


def test_some_blocks_can_be_recorded_alone():
    model = tiny_model("bert")
    name = list(encoder_blocks(model))[1]
    records = record_blocks(model, BATCHES, names=[name])
    assert list(records) == [name] and len(records[name].outputs) == len(BATCHES)


def test_masks_and_labels():
    model = tiny_model("bert")
    plain = {"input_ids": tiny_batch()["input_ids"], "labels": torch.zeros(3, dtype=torch.long)}
    record = next(iter(record_blocks(model, [tiny_batch(), plain]).values()))
    assert torch.equal(record.masks[0], tiny_batch()["attention_mask"].bool()) and record.masks[1] is None
    for hidden in (-1e4, torch.finfo(torch.float32).min, -torch.inf):
        added = torch.tensor([0.0, 1.0, -0.5, hidden]).expand(3, 1, 4, 4)
        assert real_tokens({"attention_mask": added}).tolist() == [[True, True, True, False]] * 3


def test_models_are_left_as_they_were():
    model = tiny_model("bert").train()
    model.bert.embeddings.eval()
    record_blocks(model, BATCHES)
    assert model.training and not model.bert.embeddings.training and model.bert.encoder.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    with pytest.raises(RuntimeError), evaluating(model):
        assert not model.training
        raise RuntimeError
    assert model.training and not model.bert.embeddings.training


def test_unknown_families_have_numbered_modules():
    config = GPT2Config(vocab_size=97, n_embd=32, n_layer=2, n_head=4, n_positions=40)
    assert encoder_blocks(AutoModel.from_config(config)) == {}, "convolutions are no linear layers"
    model = tiny_model("bert")
    model.config.model_type = "unknown"
    assert list(encoder_blocks(model)) == ["encoder.layer.0", "encoder.layer.1"]


def test_hidden_states_may_be_given_by_name():
    model = tiny_model("bert")
    block = model.bert.encoder.layer[0]
    forward = model.bert.encoder.forward
    hidden = {}

    def by_name(states, *args, **kwargs):
        hidden["given"] = block(hidden_states=states)
        return forward(states, *args, **kwargs)

    model.bert.encoder.forward = by_name
    record: BlockRecord = next(iter(record_blocks(model, BATCHES[:1]).values()))
    assert len(record) == 2 and torch.equal(record.hidden[0], record.hidden[1])
    with torch.no_grad():
        assert torch.equal(record.run(block, 0), hidden["given"])
