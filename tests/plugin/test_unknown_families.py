"""Models whose family has no description: their encoder's linear layers are quantized, and that is said."""

import pytest
from torch import nn
from transformers import CONFIG_MAPPING

import hf_mpq
from hf_mpq import MPQConfig
from hf_mpq.nn import MPQLinear
from tests.plugin.models import close, differ, mixed_assignment, reload
from tests.tiny import HEADS, VOCABULARY, outputs

SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 56,
    "max_position_embeddings": 40,
    "pad_token_id": 1,
}
UNKNOWN = {"mra": {}, "convbert": {"embedding_size": 32}, "nystromformer": {}, "roformer": {}}
WARNING = "only linear layers inside numbered encoder layers are quantized, no embeddings"


def unknown_model(kind: str, head: str = "sequence"):
    model = HEADS[head].from_config(CONFIG_MAPPING[kind](**SIZES, **UNKNOWN.get(kind, {}))).eval()
    for parameter in model.parameters():
        if parameter.dim() == 2:
            nn.init.normal_(parameter, std=0.15)
    return model


@pytest.mark.parametrize("head", ["bare", "sequence", "masked"])
@pytest.mark.parametrize("kind", UNKNOWN)
def test_encoder_layers_are_quantized(kind, head, tmp_path, caplog):
    """Packed, saved and loaded like any other, with its embeddings and head as they were."""
    model = unknown_model(kind, head)
    plain = outputs(model)
    config = MPQConfig(groups=10)
    config.assignment = mixed_assignment(model, config).to_dict()
    hf_mpq.quantize(model, config)
    assert f"{kind!r} is not a known family: {WARNING}" in caplog.text
    converted = {name for name, module in model.named_modules() if isinstance(module, MPQLinear)}
    assert len(converted) >= 12 and all(".layer.0." in name or ".layer.1." in name for name in converted)
    assert type(model.get_input_embeddings()) is nn.Embedding
    trained = outputs(model)
    assert differ(plain, trained)
    model.save_pretrained(tmp_path / "trainable")
    close(trained, outputs(reload(tmp_path / "trainable", head)), 0)
    hf_mpq.pack(model).save_pretrained(tmp_path / "packed")
    close(trained, outputs(reload(tmp_path / "packed", head)))


def test_pruned_rows_are_not_folded():
    """Nobody knows what reads them, so that their biases stay and no column of a consumer dies."""
    model = unknown_model("nystromformer")
    config = MPQConfig(groups="channel", rules={"intermediate": {"bits": 0}})
    for _, layer in hf_mpq.nn.walk.matrices(hf_mpq.quantize(model, config)):
        assert layer.live_rows.all() and layer.program.live_columns.all()


def test_attention_cannot_be_quantized():
    """It cannot be reached; the error comes before anything is changed."""
    model = unknown_model("nystromformer")
    before = outputs(model)
    with pytest.raises(ValueError, match="attention of 'nystromformer' models cannot be quantized; leave att"):
        hf_mpq.quantize(model, MPQConfig(attention_bits=8))
    close(before, outputs(model), 0)


def test_nothing_to_quantize():
    """SqueezeBERT's projections are convolutions."""
    with pytest.raises(ValueError, match="nothing to quantize in this SqueezeBertModel: no layer is in scope"):
        model = HEADS["bare"].from_config(CONFIG_MAPPING["squeezebert"](**SIZES, embedding_size=32))
        hf_mpq.quantize(model, MPQConfig())
