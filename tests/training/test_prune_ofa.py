"""Prune Once for All: zeros that are made once, and are still the same ones in every model that comes of it."""

import json

import pytest
import torch

import hf_mpq
from hf_mpq import MPQConfig
from hf_mpq.cost import COSTS
from hf_mpq.nn.walk import matrices
from hf_mpq.plugin.float_copy import float_copy
from hf_mpq.plugin.space import space_of
from tests.contracts.test_sizes import bytes_on_disk
from tests.tiny import HEADS, tiny_model
from tests.training.runs import quantized, sentences, trainer

LAYER = "encoder.layer.0.output.dense"


def encoder(model):
    """Name to weight of each encoder matrix."""
    weights = {name: getattr(layer, "weight", None) for name, layer in model.base_model.named_modules()}
    inside = {name: one for name, one in weights.items() if name.startswith("encoder") and one is not None}
    return {name: one for name, one in inside.items() if one.dim() == 2}


def patterns(model):
    """Where each is not zero."""
    return {name: weight != 0 for name, weight in encoder(model).items()}


@pytest.fixture(scope="module")
def sparse(tmp_path_factory):
    """A masked language model that was pruned, its folder, and the learning rates on the way."""
    folder = tmp_path_factory.mktemp("pretrained")
    run = trainer(
        quantized("prune-ofa-pretrain", head="masked"),
        folder,
        train_dataset=sentences(80, "masked"),
        warmup_steps=2,
        logging_steps=1,
        save_strategy="no",
    )
    run.train()
    run.save_float(folder / "sparse")
    logs = [line for line in run.state.log_history if "loss" in line]
    return folder / "sparse", run.model, logs


def test_what_was_pruned_is_a_plain_float_checkpoint(sparse):
    folder, trained, logs = sparse
    plain = HEADS["masked"].from_pretrained(folder)
    assert not hasattr(plain.config, "quantization_config")
    assert not any(type(module).__module__.startswith("hf_mpq") for module in plain.modules())
    assert plain.cls.predictions.decoder.weight is plain.bert.embeddings.word_embeddings.weight
    for name, layer in matrices(trained):
        weight = plain.bert.get_submodule(name).weight
        assert torch.equal(weight, layer.float_weight()) and layer.weight.dtype == weight.dtype
        assert int((weight != 0).sum()) == int(layer.program.mask.keep.sum()) == round(0.1 * weight.numel())
    assert len(patterns(plain)) == 6 and logs[-1]["density"] == pytest.approx(0.1, abs=1e-3)


def test_the_optimizer_follows_the_rewound_rate(sparse):
    rates, outside, warmup = [line["learning_rate"] / 1e-3 for line in sparse[2]], 10, 2
    assert rates[:2] == [0.0, 0.5] and len(rates) == 20
    assert rates[2:10] == [pytest.approx(outside / (outside - warmup))] * 8, "a choice at each step"
    assert rates[10:] == [pytest.approx((20 - step) / (outside - warmup)) for step in range(10, 20)]


def test_a_model_without_zeros_is_said_to_have_none(sparse, tmp_path, caplog):
    tiny_model("bert").save_pretrained(tmp_path)
    HEADS["sequence"].from_pretrained(tmp_path, quantization_config=MPQConfig(method="prune-ofa"))
    hf_mpq.quantize(tiny_model("bert"), MPQConfig(method="prune-ofa"))
    assert caplog.text.count("keeps the zeros of a model that was pruned before, and this one has none") == 2
    caplog.clear()
    HEADS["masked"].from_pretrained(sparse[0], quantization_config=MPQConfig(method="prune-ofa"))
    hf_mpq.quantize(tiny_model("bert"), MPQConfig(method="prune-ofa-pretrain"))
    assert "keeps the zeros" not in caplog.text


def test_zeros_stay_where_they_are_to_the_last_file(sparse, tmp_path):
    """Transfer, 8 bits, packed, loaded again, taken apart, exported."""
    folder, *_ = sparse
    pattern = patterns(HEADS["masked"].from_pretrained(folder))
    model = HEADS["sequence"].from_pretrained(folder, quantization_config=MPQConfig(method="prune-ofa"))
    run = trainer(model, tmp_path, train_dataset=sentences(48), num_train_epochs=1, save_strategy="no")
    before = {name: layer.weight.detach().clone() for name, layer in matrices(run.model)}
    run.train()
    for stage, held in (("1-transfer", float_copy(run.model)), ("2-qat", float_copy(run.model, masked=True))):
        assert (tmp_path / stage).is_dir()
        assert all(not weight[~pattern[name]].any() for name, weight in encoder(held).items())
    assert not torch.equal(before[LAYER], dict(matrices(run.model))[LAYER].weight)
    run.save_packed(tmp_path / "packed")
    packed = HEADS["sequence"].from_pretrained(tmp_path / "packed")
    for name, keep in pattern.items():
        layer = packed.bert.get_submodule(name)
        assert torch.equal(layer.kept_weights(), keep) and not layer.weight[~keep].any()
        assert layer.stored.mask.encoding.name == "runs"
    size = COSTS["size"](space_of(packed)).of(hf_mpq.assignment_of(packed))
    assert bytes_on_disk(tmp_path / "packed") == hf_mpq.size_report(packed).total_bytes
    for found in (size, COSTS["size"](space_of(run.model)).of(hf_mpq.assignment_of(run.model))):
        assert found == pytest.approx(bytes_on_disk(tmp_path / "packed"), rel=0.01)
    hf_mpq.export(packed, "dense", tmp_path / "dense")
    dense = encoder(HEADS["sequence"].from_pretrained(tmp_path / "dense"))
    assert all(not dense[name][~keep].any() for name, keep in pattern.items())
    hf_mpq.unpack(packed)
    assert all(
        torch.equal(layer.program.mask.keep, pattern[name]) for name, layer in matrices(packed) if name in pattern
    )


def test_the_bytes_of_a_sparse_8_bit_matrix_to_the_byte():
    """Eight planes of codes, two gaps or escapes a byte, one scale."""
    weight = torch.randn(64, 96)
    weight[torch.rand(64, 96) > 0.1] = 0
    plain = tiny_model("bert", num_hidden_layers=1, hidden_size=96, intermediate_size=64)
    plain.bert.encoder.layer[0].intermediate.dense.weight.data.copy_(weight)
    packed = hf_mpq.pack(hf_mpq.quantize(plain, MPQConfig(method="prune-ofa", activation_bits=None)))
    stored = packed.bert.encoder.layer[0].intermediate.dense.stored
    places = (weight != 0).flatten().nonzero().flatten().tolist()
    gaps = [after - before - 1 for before, after in zip([-1, *places], places)]
    nibbles = sum(1 + gap // 15 for gap in gaps)
    planes = 8 * ((len(places) + 7) // 8)
    assert stored.buffers() == {"codes": planes, "scales": 2, "mask": (nibbles + 1) // 2, "bias_values": 128}
    assert packed.bert.encoder.layer[0].output.dense.stored.mask is None, "where nothing is zero"


def test_what_is_held_gets_no_gradient_and_moves_by_momentum_alone():
    model = quantized("prune-ofa-pretrain")
    hf_mpq.nn.walk.set_rounding(model, False)
    layer = dict(matrices(model))[LAYER]
    layer.program.revisit_mask(layer.weight, 0.0)
    optimizer, held = torch.optim.AdamW([layer.weight], lr=0.01, weight_decay=0.0), torch.tensor([])
    for step in range(3):
        optimizer.zero_grad()
        (layer.quantized_weight() * torch.sign(layer.weight.detach())).sum().neg().backward()  # all grow
        assert not step or not layer.weight.grad[held].any()
        optimizer.step()
        if not step:
            layer.program.revisit_mask(layer.weight, 1.0)
            held, before = ~layer.program.mask.keep, layer.weight.detach().clone()
    assert ((layer.weight - before)[held].abs() > 0.005).all(), "and so may come back"


def test_a_model_without_a_head_is_pruned_from_hidden_states(tmp_path):
    objectives = {"hidden-states": {}, "value-relations": {}}
    run = trainer(
        quantized("prune-ofa-pretrain", head="bare"),
        tmp_path,
        train_dataset=sentences(32).remove_columns("labels"),
        stages={"prune": {"objectives": objectives}},
        save_strategy="no",
        num_train_epochs=1,
    )
    run.train()
    run.save_float(tmp_path / "sparse")
    weight = HEADS["bare"].from_pretrained(tmp_path / "sparse").get_submodule(LAYER).weight
    assert int((weight != 0).sum()) == round(0.1 * weight.numel())


def test_a_float_stage_is_scored_without_rounding(tmp_path):
    run = trainer(
        quantized("prune-ofa-pretrain", head="masked", bits=2),
        tmp_path,
        train_dataset=sentences(16, "masked"),
        eval_dataset=sentences(8, "masked"),
        max_steps=2,
        save_strategy="no",
    )
    run.train()
    said = json.loads((tmp_path / "stages.json").read_text())["finished"]["prune"]["eval_loss"]
    rounded = run.evaluate()["eval_loss"]
    hf_mpq.nn.walk.set_rounding(run.model, False)
    assert run.evaluate()["eval_loss"] == pytest.approx(said, rel=1e-6) != pytest.approx(rounded, rel=1e-6)
