"""Traps in training quantized models by other people's means: adapters, the stock Trainer, second derivatives."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.utils.data import Dataset
from transformers import AutoModelForSequenceClassification, Trainer, TrainingArguments

import hf_mpq
from hf_mpq import MPQConfig
from hf_mpq.nn import MPQLinear
from hf_mpq.nn.walk import matrices
from tests.plugin.models import close, differ, mixed_model, read_tensors, reload
from tests.tiny import VOCABULARY, outputs, tiny_batch, tiny_model

LABELS = torch.tensor([0, 1, 0])


def test_stock_lora_trains_and_merges_into_the_master():
    """A trainable layer is an `nn.Linear`, so that PEFT attaches its stock LoRA and merges into the float master."""
    model = hf_mpq.quantize(tiny_model("bert"), MPQConfig(bits=4, groups=10, activation_bits=None))
    before, quantized = model.bert.encoder.layer[0].attention.self.query.weight.clone(), outputs(model)
    adapted = get_peft_model(model, LoraConfig(target_modules=["query", "value"], r=4))
    close(quantized, outputs(adapted), 1e-6)
    _one_step(adapted, [p for p in adapted.parameters() if p.requires_grad])
    query = adapted.base_model.model.bert.encoder.layer[0].attention.self.query
    delta = query.get_delta_weight("default").detach()
    trained = outputs(adapted)
    assert delta.abs().max() > 1e-3 and differ(quantized, trained)
    merged = adapted.merge_and_unload()
    layer = merged.bert.encoder.layer[0].attention.self.query
    assert isinstance(layer, MPQLinear) and merged is model
    torch.testing.assert_close(layer.weight, before + delta)
    close(outputs(merged), outputs(hf_mpq.pack(merged)))


def _one_step(model, parameters) -> None:
    optimizer = torch.optim.SGD(parameters, lr=2.0)
    for _ in range(3):
        optimizer.zero_grad()
        model(**tiny_batch(), labels=LABELS).loss.backward()
        optimizer.step()


@pytest.mark.parametrize("family", ["bert", "deberta-v2", "modernbert"])
def test_training_does_not_revive_what_is_folded_away(family, tmp_path):
    """Optimizers move every parameter they are given; dead rows and columns stay zero all the same."""
    model = mixed_model(family).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    trained = outputs(model)
    for _, layer in matrices(model):
        assert not layer.quantized_weight()[:, ~layer.program.live_columns].any()
        assert layer.bias is None or not layer.stored_bias()[~layer.live_rows].any()
    hf_mpq.pack(model).save_pretrained(tmp_path)
    close(trained, outputs(reload(tmp_path)))


class Examples(Dataset):
    """Sixteen rows of random ids, the label being whether the first is even."""

    def __len__(self):
        return 16

    def __getitem__(self, index):
        ids = torch.randint(3, VOCABULARY, (9,), generator=torch.Generator().manual_seed(index))
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids[0] % 2}


def _trainer(folder, steps: int) -> Trainer:
    model = hf_mpq.quantize(tiny_model("bert"), MPQConfig(bits=4, groups=10, quantizer="lsq"))
    arguments = TrainingArguments(
        str(folder),
        max_steps=steps,
        save_steps=2,
        per_device_train_batch_size=4,
        learning_rate=0.02,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        seed=5,
        lr_scheduler_type="constant",
    )
    return Trainer(model, arguments, train_dataset=Examples())


def test_resumed_training_equals_uninterrupted_training(tmp_path):
    """LayerNorms were once saved as `gamma` and `beta` and silently dropped when a run was resumed."""
    start = {name: p.clone() for name, p in _trainer(tmp_path, 4).model.named_parameters()}
    whole = _trainer(tmp_path / "whole", 4)
    whole.train()
    _trainer(tmp_path / "parts", 2).train()
    names = read_tensors(tmp_path / "parts" / "checkpoint-2")
    assert "bert.embeddings.LayerNorm.weight" in names and not [n for n in names if "gamma" in n or "beta" in n]
    resumed = _trainer(tmp_path / "parts", 4)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 4
    found, expected = dict(resumed.model.named_parameters()), dict(whole.model.named_parameters())
    assert sum("LayerNorm" in name and not torch.equal(p, start[name]) for name, p in expected.items()) == 10
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-6, rtol=0, msg=name)


def test_trainer_checkpoint_loads_with_from_pretrained(tmp_path):
    """What the stock Trainer writes is the trainable storage."""
    trainer = _trainer(tmp_path, 2)
    trainer.train()
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "checkpoint-2")
    close(outputs(trainer.model), outputs(again), 0)


@pytest.mark.parametrize(
    "options", [{"bits": 4}, {"bits": (0, 2, 4)}, {"bits": 4, "quantizer": "lsq", "attention_bits": 8}], ids=str
)
@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_accumulated_gradients_are_those_of_the_batch(family, options):
    """The mean over micro-batches gives the gradient of the whole batch: no layer depends on what shares its batch."""
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0} if family == "bert" else {}
    model = hf_mpq.quantize(tiny_model(family, **dropout), MPQConfig(groups=10, **options)).train()
    ids = torch.randint(3, VOCABULARY, (8, 7), generator=torch.Generator().manual_seed(2))
    labels, found = torch.arange(8) % 2, {}
    for parts in (1, 2, 4):
        model.zero_grad()
        for rows, targets in zip(ids.chunk(parts), labels.chunk(parts)):
            (model(input_ids=rows, labels=targets).loss / parts).backward()
        found[parts] = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    assert any("program" in name for name in found[1]) == (options != {"bits": 4})
    for parts in (2, 4):
        assert found[parts].keys() == found[1].keys()
        for name, gradient in found[1].items():
            torch.testing.assert_close(found[parts][name], gradient, atol=1e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize("family", ["bert", "distilbert", "deberta-v2", "modernbert"])
def test_hessian_vector_products(family):
    """Second derivatives need eager attention; through 8-bit weights they are close to those of the float model."""
    model = tiny_model(family, attn_implementation="eager")
    names = [name for name, p in model.named_parameters() if p.dim() == 2 and "mbeddings" not in name]
    generator = torch.Generator().manual_seed(4)
    vectors = [torch.randn(model.get_parameter(name).shape, generator=generator) for name in names]
    plain = _hessian_vector(model, names, vectors)
    exact = hf_mpq.quantize(model, MPQConfig(bits=8, activation_bits=None, groups="channel", embedding_bits=None))
    quantized = _hessian_vector(exact, names, vectors)
    assert torch.cosine_similarity(plain, quantized, dim=0) > 0.97


def _hessian_vector(model, names: list[str], vectors: list[torch.Tensor]) -> torch.Tensor:
    weights = [model.get_parameter(name) for name in names]
    loss = model(**tiny_batch(), labels=LABELS).loss
    gradients = torch.autograd.grad(loss, weights, create_graph=True)
    return torch.cat([part.flatten() for part in torch.autograd.grad(gradients, weights, vectors)])


def test_hessian_vector_products_while_searching():
    """The same through a mixture of candidates, to the gates too."""
    model = hf_mpq.quantize(tiny_model("bert", attn_implementation="eager"), MPQConfig(bits=(0, 2, 4), groups=10))
    gates = [p for _, layer in matrices(model) for p in layer.program.gate.parameters()]
    loss = model(**tiny_batch(), labels=LABELS).loss
    gradients = torch.autograd.grad(loss, gates, create_graph=True)
    torch.manual_seed(5)  # not ones: gates do not feel what all their candidates share
    products = torch.autograd.grad(gradients, gates, [torch.randn_like(g) for g in gradients])
    assert len(gates) == 12 and all(p.isfinite().all() and p.abs().sum() > 1e-7 for p in products)
