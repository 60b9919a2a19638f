"""Model classes of one's own: further arguments of `__init__`, encoders under another name, encoders inside others."""

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel, BertPreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

import hf_mpq
from hf_mpq import MPQConfig
from hf_mpq.integrations.latency import unpruned
from hf_mpq.nn import PackedLinear
from hf_mpq.nn.walk import matrices
from tests.tiny import outputs, tiny_batch, tiny_config, tiny_model

from .models import close

ROWS = [{"input_ids": row.tolist()} for row in tiny_batch(8)["input_ids"]]


class Tagger(BertPreTrainedModel):
    """Needs more than a config."""

    def __init__(self, config: BertConfig, num_tags: int):
        super().__init__(config)
        self.bert, self.out = BertModel(config), nn.Linear(config.hidden_size, num_tags)
        self.post_init()

    def forward(self, input_ids=None, attention_mask=None, labels=None, inputs_embeds=None):
        hidden = self.bert(input_ids, attention_mask=attention_mask, inputs_embeds=inputs_embeds).last_hidden_state
        logits = self.out(hidden[:, 0])
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)


class Scaled(BertModel):
    """An encoder that needs more than a config."""

    def __init__(self, config: BertConfig, scale: float):
        super().__init__(config)
        self.scale = scale


def tagger(**changes) -> Tagger:
    torch.manual_seed(0)
    model = Tagger(tiny_config("bert", **changes), 3).eval()
    for parameter in model.parameters():
        if parameter.dim() == 2:
            nn.init.normal_(parameter, std=0.15)
    return model


def trained(folder, model, **options):
    rows = [{**{key: value[0] for key, value in tiny_batch().items()}, "labels": n % 2} for n in range(8)]
    arguments = hf_mpq.MPQTrainingArguments(str(folder), max_steps=4, per_device_train_batch_size=2, use_cpu=True,
                                            report_to=[], disable_tqdm=True, **options)  # fmt: skip
    trainer = hf_mpq.MPQTrainer(model, arguments, train_dataset=rows)
    trainer.train()
    return trainer.model.eval()


WAYS = {
    "quantize": lambda folder: hf_mpq.quantize(tagger(), MPQConfig(bits=4, groups=10)),
    "compress": lambda folder: hf_mpq.compress(tagger(), "3bits", ROWS, rounding="nearest", progress=False),
    "train": lambda folder: trained(folder, hf_mpq.quantize(tagger(), MPQConfig(bits=4, groups=10))),
    "search": lambda folder: trained(folder, hf_mpq.quantize(tagger(), MPQConfig(method="aq-bert", groups=10))),
}


@pytest.mark.parametrize("way", WAYS)
def test_further_arguments(way, tmp_path):
    """Everything that the model goes through; then packed, saved, and loaded with the argument."""
    model = WAYS[way](tmp_path / "run")
    assert model.config.quantization_config.shapes == {}
    before = outputs(model)
    model.save_pretrained(tmp_path / "trainable")
    close(before, outputs(Tagger.from_pretrained(tmp_path / "trainable", num_tags=3)), 1e-6)
    hf_mpq.pack(model).save_pretrained(tmp_path / "packed")
    packed = Tagger.from_pretrained(tmp_path / "packed", num_tags=3)
    close(before, outputs(packed))
    assert hf_mpq.size_report(packed).total_bytes < 40_000
    close(before, outputs(hf_mpq.unpack(packed)))


def test_what_budgets_in_milliseconds_time():
    """The encoder without the head: only the user knows how to make that."""
    timed = unpruned(MPQConfig(bits=(0, 4), groups=4).resolve(tagger()), 1, 16)
    assert type(timed) is BertModel and len(dict(matrices(timed, PackedLinear))) == 13


def test_changed_shapes_with_further_arguments(tmp_path):
    """The shapes of the encoder's own class tell which were changed; without one, all are written."""
    model, encoder = tagger(), Scaled(tiny_config("bert"), 2.0).eval()
    for layer in (model.bert.encoder.layer[1], encoder.encoder.layer[1]):
        layer.intermediate.dense, layer.output.dense = nn.Linear(32, 40), nn.Linear(40, 32)
    hf_mpq.quantize(model, MPQConfig(bits=4))
    changed = {"encoder.layer.1.intermediate.dense": [40, 32], "encoder.layer.1.output.dense": [32, 40]}
    assert model.config.quantization_config.shapes == changed
    hf_mpq.quantize(encoder, MPQConfig(bits=4))
    assert changed.items() <= encoder.config.quantization_config.shapes.items()
    for one, arguments in ((model, {"num_tags": 3}), (encoder, {"scale": 2.0})):
        one.save_pretrained(tmp_path)
        close(outputs(one), outputs(type(one).from_pretrained(tmp_path, **arguments)), 1e-6)


def test_stages_from_new_weights_are_refused_before_anything_is_trained(tmp_path):
    model = hf_mpq.quantize(tagger(), MPQConfig(method="aq-bert"))
    with pytest.raises(ValueError, match="starts from new weights, and Tagger cannot be made from its config"):
        trained(tmp_path, model, reinit="random")
    assert not list(tmp_path.iterdir())
    trained(tmp_path, hf_mpq.quantize(tiny_model("bert"), MPQConfig(method="aq-bert", groups=4)), reinit="random")
