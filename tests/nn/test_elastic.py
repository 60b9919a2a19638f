"""Sub-nets by prefix are the models that are cut out, in every family, and training them trains the super-model."""

import copy

import pytest
import torch
from torch.nn import functional as F

from hf_mpq import MPQConfig, quantize
from hf_mpq.core import ModelShape
from hf_mpq.nn.elastic import Elastic
from hf_mpq.nn.importance import put_in_order
from hf_mpq.nn.reshape import reduced, shape_of, sizes_of
from tests.tiny import FAMILIES, MOST, outputs, tiny_batch, tiny_model

DEPTH, WIDTH = ModelShape(layers=(0,), rows=(40,)), ModelShape(hidden=16, rows=(24, 24))
NARROW_HEADS = ModelShape(hidden=16, heads=(4, 4))
SHAPES = [DEPTH, WIDTH, NARROW_HEADS]
BITS = {"bits": 8, "quantizer": "minmax", "groups": "channel", "embedding_bits": None, "projection_bits": None}

FEW = [name if name in ("bert", "modernbert") else pytest.param(name, marks=pytest.mark.full) for name in FAMILIES]


def quantized(model):
    return quantize(model, MPQConfig(**BITS))


@torch.no_grad()
def logits(model):
    return model.eval()(**tiny_batch()).logits


@pytest.mark.parametrize("family", MOST)
def test_sub_net_is_the_extracted_model(family):
    model = tiny_model(family)
    elastic = Elastic(model)
    for shape in SHAPES:
        alone = reduced(model, shape)
        assert sizes_of(alone).rows == (shape.rows or (56,))[0] and sizes_of(alone).hidden == (shape.hidden or 32)
        with torch.no_grad():
            found = elastic(shape, **tiny_batch()).logits
        assert torch.equal(found, logits(alone))
        assert torch.equal(found, logits(elastic.extract(shape)))


@pytest.mark.parametrize("family", FEW)
def test_quantized_sub_net_is_the_model_quantized_alone(family):
    model = tiny_model(family)
    elastic = Elastic(quantized(copy.deepcopy(model)), quantized)
    with torch.no_grad():
        found = elastic(WIDTH, **tiny_batch()).logits
    assert torch.equal(found, logits(quantized(reduced(model, WIDTH))))


@pytest.mark.parametrize("family", MOST)
def test_whole_shape_is_the_super_model(family):
    model = tiny_model(family, "masked")  # whose decoder is its table
    with torch.no_grad():
        found = Elastic(model)(shape_of(model), **tiny_batch()).logits
    assert torch.equal(found, logits(model))


@pytest.mark.parametrize("family", MOST)
@pytest.mark.parametrize("bits", [None, pytest.param(8, marks=pytest.mark.full)])
def test_gradients_are_those_of_the_part(family, bits):
    model = tiny_model(family)
    alone = reduced(model, WIDTH)
    if bits:
        model, alone = quantized(model), quantized(alone)
    Elastic(model, quantized if bits else None)(WIDTH, **tiny_batch()).logits.square().sum().backward()
    alone(**tiny_batch()).logits.square().sum().backward()
    own = {name: one.grad for name, one in model.named_parameters() if one.grad is not None}
    for name, one in alone.named_parameters():
        if one.grad is not None:
            assert torch.allclose(own[name].norm(), one.grad.norm(), rtol=1e-5), name
            assert own[name].count_nonzero() == one.grad.count_nonzero()
    word = next(name for name in own if name.endswith(("word_embeddings.weight", "tok_embeddings.weight")))
    axis = own[word].shape[1] * 16 // 32 if own[word].shape[1] == 32 else own[word].shape[1]
    assert own[word][:, axis:].count_nonzero() == 0  # what the sub-net does not have


@pytest.mark.parametrize("family", MOST)
@pytest.mark.parametrize("head", ["sequence", "masked"])
def test_order_of_importance_changes_no_output(family, head):
    model = tiny_model(family, head)
    before = outputs(model)
    names = {name: one.clone() for name, one in model.named_parameters()}
    put_in_order(model, rows=True, heads=True, hidden=True)
    moved = [name for name, one in model.named_parameters() if not torch.equal(one, names[name])]
    assert len(moved) > len(names) // 2
    for found, expected in zip(outputs(model), before):
        assert torch.allclose(found, expected, atol=2e-4 * expected.abs().max().item())


def test_the_largest_come_first():
    model = tiny_model("bert")
    layer = model.bert.encoder.layer[1]
    with torch.no_grad():
        layer.intermediate.dense.weight[37] *= 50
        layer.attention.self.value.weight[16:24] *= 50
        model.bert.embeddings.word_embeddings.weight[:, 5] += 100
    row, head = layer.intermediate.dense.weight[37].clone(), layer.attention.self.value.weight[16:24].clone()
    column = model.bert.embeddings.word_embeddings.weight[:, 5].clone()
    put_in_order(model, rows=True, heads=True)
    assert torch.equal(layer.intermediate.dense.weight[0], row)
    assert torch.equal(layer.attention.self.value.weight[:8], head)
    put_in_order(model, hidden=True)
    assert torch.equal(model.bert.embeddings.word_embeddings.weight[:, 0], column)


def test_heads_are_cut_whole_or_each_to_its_first_dimensions():
    model = tiny_model("bert")
    query, output = (
        model.bert.encoder.layer[0].attention.self.query,
        model.bert.encoder.layer[0].attention.output.dense,
    )
    half = reduced(model, ModelShape(hidden=16)).bert.encoder.layer[0].attention
    assert torch.equal(half.self.query.weight, query.weight[:16, :16])
    narrow = reduced(model, NARROW_HEADS).bert.encoder.layer[0].attention
    dimensions = [8 * head + one for head in range(4) for one in range(4)]
    assert torch.equal(narrow.self.query.weight, query.weight[dimensions, :16])
    assert torch.equal(narrow.output.dense.weight, output.weight[:16, dimensions])


def test_fused_matrices_are_cut_one_by_one():
    model = tiny_model("modernbert")
    layer, small = model.model.layers[0], reduced(model, WIDTH).model.layers[0]
    assert torch.equal(small.attn.Wqkv.weight[16:32], layer.attn.Wqkv.weight[32:48, :16])
    assert torch.equal(small.mlp.Wi.weight[24:], layer.mlp.Wi.weight[56:80, :16])


def test_a_kept_layer_is_the_one_that_was_named():
    model = tiny_model("bert", num_hidden_layers=4)
    small = reduced(model, ModelShape(layers=(0, 3)))
    assert torch.equal(small.bert.encoder.layer[1].output.dense.weight, model.bert.encoder.layer[3].output.dense.weight)


def test_modernbert_keeps_its_first_layer_and_the_kinds_of_the_others():
    model = tiny_model("modernbert", num_hidden_layers=4)
    small = reduced(model, ModelShape(layers=(0, 3)))
    assert small.config.layer_types == [model.config.layer_types[0], model.config.layer_types[3]]
    with pytest.raises(ValueError, match="keep layer 0"):
        reduced(model, ModelShape(layers=(1, 3)))


def test_skeletons_leave_random_numbers_alone():
    model = tiny_model("bert")
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    Elastic(model)(WIDTH, **tiny_batch())
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    "shape, words",
    [
        (ModelShape(layers=(0, 2)), "2 layers"),
        (ModelShape(hidden=64), "hidden 32"),
        (ModelShape(rows=(57, 57)), "rows 56"),
        (ModelShape(rows=(40, 41)), "same rows"),
        (ModelShape(rows=(40,)), "one entry for each of the 2"),
        (ModelShape(hidden=20), "multiple of 8"),
        (ModelShape(hidden=20, heads=(3, 3)), "multiple of the heads"),
        (ModelShape(hidden=32, heads=(2, 2)), "at most 8"),
    ],
)
def test_shapes_that_do_not_fit(shape, words):
    with pytest.raises(ValueError, match=words):
        reduced(tiny_model("bert"), shape)


def test_training_a_sub_net_trains_the_super_model():
    model = tiny_model("bert").train()
    elastic, optimizer = Elastic(model), torch.optim.SGD(model.parameters(), 0.05)
    labels = torch.tensor([0, 1, 1])
    losses = []
    for _ in range(8):
        loss = F.cross_entropy(elastic(DEPTH, **tiny_batch()).logits, labels)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < losses[0]
