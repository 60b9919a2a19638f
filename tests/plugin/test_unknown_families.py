"""Models whose family has no description: their encoder's linear layers are quantized, and what stays float is said."""

import re

import pytest
from torch import nn
from transformers import CONFIG_MAPPING

import hf_mpq
from hf_mpq import MPQConfig
from hf_mpq.nn import MPQLinear
from tests.plugin.models import close, differ, mixed_assignment, read_tensors, reload
from tests.tiny import HEADS, VOCABULARY, outputs, tiny_model

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
LARGEST = ["embeddings.word_embeddings", "classifier.dense"]
FLOAT = {"convbert": [*LARGEST, "encoder.layer.*.attention.self.key_conv_attn_layer.pointwise"]}
"""What is largest of that which stays float in a classifier."""
SHARES = re.compile(
    r"(\d+)% of the parameters stay float, about (\d+)% of a file with the others at 8 bits, (\d+)% at 4: (.+)"
)


def unknown_model(kind: str, head: str = "sequence", **changes):
    sizes = {**SIZES, **UNKNOWN.get(kind, {}), **changes}
    model = HEADS[head].from_config(CONFIG_MAPPING[kind](**sizes)).eval()
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


@pytest.mark.parametrize("kind", UNKNOWN)
def test_what_stays_float_is_named_with_its_share(kind, caplog):
    """The largest first, layers merged; a matrix that rules leave out is among them."""
    model = unknown_model(kind)
    whole = sum(parameter.numel() for parameter in model.parameters())
    hf_mpq.quantize(model, MPQConfig(bits=4, rules={"intermediate": {"bits": None}}))
    inside = [module for module in model.modules() if isinstance(module, MPQLinear)]
    part = sum(layer.weight.numel() + layer.bias.numel() for layer in inside)
    share, _, _, names = SHARES.search(caplog.text).groups()
    assert int(share) == round(100 * (1 - part / whole))
    named, more = re.fullmatch(r"(.+) and (\d+) more", names).groups()
    assert named.startswith("encoder.layer.*.intermediate.dense, embeddings.word_embeddings, ")
    assert len(named.split(", ")) == 4 and int(more) > 2


@pytest.mark.parametrize("kind", UNKNOWN)
def test_shares_are_those_of_the_file(kind, tmp_path, caplog):
    model = unknown_model(kind, hidden_size=128, intermediate_size=256, vocab_size=1000)
    hf_mpq.quantize(model, MPQConfig(bits=8, groups=1))
    _, share, less, names = SHARES.search(caplog.text).groups()
    largest = FLOAT.get(kind, LARGEST)
    assert names.split(", ")[: len(largest)] == largest
    hf_mpq.pack(model).save_pretrained(tmp_path)
    tensors = read_tensors(tmp_path)
    inside = {name for name, module in model.named_modules() if isinstance(module, hf_mpq.nn.PackedLinear)}
    sizes = {name: tensor.nbytes for name, tensor in tensors.items()}
    stay = sum(size for name, size in sizes.items() if not any(name.startswith(f"{one}.") for one in inside))
    assert int(share) == pytest.approx(100 * stay / sum(sizes.values()), abs=2)
    assert int(less) > int(share)


def test_a_family_of_its_own_is_not_warned_of(caplog):
    hf_mpq.quantize(tiny_model("bert"), MPQConfig(bits=4))
    assert "stay float" not in caplog.text


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
