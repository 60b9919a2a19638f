"""Model classes of one's own: further arguments of `__init__`, encoders under another name, encoders inside others."""

from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertModel,
    BertPreTrainedModel,
    EncoderDecoderConfig,
    EncoderDecoderModel,
    PreTrainedModel,
)
from transformers.modeling_outputs import SequenceClassifierOutput

import hf_mpq
from hf_mpq import MPQConfig
from hf_mpq.format import PackedFormatError
from hf_mpq.nn import PackedLinear
from hf_mpq.nn.walk import matrices
from hf_mpq.plugin.skeleton import build_packed
from hf_mpq.runtime.latency import unpruned
from tests.plugin.models import close, reload
from tests.tiny import FAMILIES, outputs, tiny_batch, tiny_config, tiny_model

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
    arguments = hf_mpq.MPQTrainingArguments(
        str(folder),
        max_steps=4,
        per_device_train_batch_size=2,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        **options,
    )
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


class Reader(BertPreTrainedModel):
    """Keeps its encoder under another name than `base_model_prefix`."""

    def __init__(self, config: BertConfig):
        super().__init__(config)
        self.backbone, self.head = self.encoder_of(config), nn.Linear(config.hidden_size, 3)
        self.post_init()

    @staticmethod
    def encoder_of(config: BertConfig) -> nn.Module:
        return BertModel(config)

    def forward(self, input_ids=None, attention_mask=None):
        encoder = getattr(self.backbone, "text", self.backbone)
        hidden = encoder(input_ids, attention_mask=attention_mask).last_hidden_state
        return SequenceClassifierOutput(logits=self.head(hidden[:, 0]))


class Nested(Reader):
    """Keeps it in a container."""

    @staticmethod
    def encoder_of(config: BertConfig) -> nn.Module:
        return nn.ModuleDict({"text": BertModel(config)})


class Pair(BertPreTrainedModel):
    """Has two encoders."""

    def __init__(self, config: BertConfig):
        super().__init__(config)
        self.query, self.passage = BertModel(config), BertModel(config)
        self.post_init()

    def forward(self, input_ids=None, attention_mask=None):
        states = [one(input_ids, attention_mask=attention_mask).pooler_output for one in (self.query, self.passage)]
        return SequenceClassifierOutput(logits=torch.stack(states))


def wide(model: nn.Module) -> nn.Module:
    for parameter in model.parameters():
        if parameter.dim() == 2:
            nn.init.normal_(parameter, std=0.15)
    return model.eval()


def encoder_decoder() -> EncoderDecoderModel:
    config = EncoderDecoderConfig.from_encoder_decoder_configs(tiny_config("bert"), tiny_config("bert"))
    return wide(EncoderDecoderModel(config=config))


def of(model: nn.Module) -> torch.Tensor:
    ids = tiny_batch()["input_ids"]
    extra = {"decoder_input_ids": ids} if isinstance(model, EncoderDecoderModel) else {}
    with torch.no_grad():
        return model.eval()(ids, **extra).logits


@pytest.mark.parametrize("storage", ["trainable", "packed"])
@pytest.mark.parametrize("kind", [Reader, Nested, Pair, EncoderDecoderModel])
def test_the_whole_is_quantized_and_round_trips(kind, storage, tmp_path):
    """The encoder inside is found, embeddings and all; of two, or inside another family, its numbered layers."""
    model = encoder_decoder() if kind is EncoderDecoderModel else wide(kind(tiny_config("bert")))
    config = MPQConfig(bits=4, groups=10)
    hf_mpq.quantize(model, config)
    names = set(hf_mpq.assignment_of(model).matrices)
    if kind in (Reader, Nested):
        assert names == set(hf_mpq.assignment_of(hf_mpq.quantize(tiny_model("bert", "bare"), config)).matrices)
    before = of(model)
    if storage == "packed":
        hf_mpq.pack(model)
    model.save_pretrained(tmp_path)
    again = kind.from_pretrained(tmp_path)
    torch.testing.assert_close(of(again), before, atol=1e-5, rtol=0)
    assert set(hf_mpq.assignment_of(again).matrices) == names
    from_file = kind.from_pretrained(tmp_path).dequantize()
    torch.testing.assert_close(of(from_file), before, atol=0.3, rtol=0)


def around(family: str) -> nn.Module:
    """A model of one's own around an encoder, which it does not keep under `base_model_prefix`."""
    body = type(tiny_model(family, "bare"))

    def init(self, config):
        super(kind, self).__init__(config)
        self.inner, self.head = body(config), nn.Linear(config.hidden_size, 3)
        self.post_init()

    def forward(self, input_ids=None, attention_mask=None):
        states = self.inner(input_ids, attention_mask=attention_mask).last_hidden_state
        return SequenceClassifierOutput(logits=self.head(states[:, 0]))

    kind = type("Around", (body.__mro__[1],), {"__init__": init, "forward": forward})
    return wide(kind(tiny_config(family)))


def wholes() -> dict[str, tuple]:
    """Of each kind a model, and the part that is quantized alone."""
    return {
        **{family: (partial(around, family), "inner") for family in FAMILIES},
        "reader": (lambda: wide(Reader(tiny_config("bert"))), "backbone"),
        "head": (lambda: tiny_model("roberta"), "roberta"),
        "pair": (lambda: wide(Pair(tiny_config("bert"))), "query"),
        "encoder": (encoder_decoder, "encoder"),
        "decoder": (encoder_decoder, "decoder"),
    }


@pytest.mark.parametrize(
    ("kind", "storage"),
    [
        (kind, storage)
        for place, kind in enumerate(wholes())
        for at, storage in enumerate(("trainable", "packed"))
        if kind not in FAMILIES or place % 2 == at
    ],
)
def test_a_part_quantized_alone_is_saved_with_the_whole(kind, storage, tmp_path):
    """Its tables and attention too; the rest stays float. Whichever end of the loaded model is then worked on."""
    make, part = wholes()[kind]
    model = make()
    options = {} if kind in ("pair", "decoder", "encoder") else {"attention_bits": 8}
    inside = hf_mpq.quantize(model.get_submodule(part), MPQConfig(bits=4, groups=10, **options))
    names = set(hf_mpq.assignment_of(inside).matrices)
    if storage == "packed":
        hf_mpq.pack(inside)
    before = of(model)
    model.save_pretrained(tmp_path / "whole")
    again = type(model).from_pretrained(tmp_path / "whole")
    assert torch.equal(of(again), before)
    assert set(hf_mpq.assignment_of(again).matrices) == names
    assert (tmp_path / "whole" / "config.json").read_text().count('"quant_method"') == 1
    again.get_submodule(part).save_pretrained(tmp_path / "part")
    alone = type(inside).from_pretrained(tmp_path / "part")
    assert set(hf_mpq.assignment_of(alone).matrices) == names
    assert all(torch.equal(alone.state_dict()[name], value) for name, value in inside.state_dict().items())
    turned = hf_mpq.unpack if storage == "packed" else hf_mpq.pack
    for one in (again, again.get_submodule(part)):
        turned(one)
        again.save_pretrained(tmp_path / "turned")
        torch.testing.assert_close(of(type(model).from_pretrained(tmp_path / "turned")), before, atol=1e-5, rtol=0)
        turned = {hf_mpq.unpack: hf_mpq.pack, hf_mpq.pack: hf_mpq.unpack}[turned]
    again.get_submodule(part).dequantize()
    again.save_pretrained(tmp_path / "float")
    assert "quant" not in (tmp_path / "float" / "config.json").read_text()
    torch.testing.assert_close(of(type(model).from_pretrained(tmp_path / "float")), of(again))


def test_what_no_config_can_say_is_not_saved(tmp_path):
    """Before anything is written, with the way out: two parts quantized alone, and a part packed alone."""
    pair = wide(Pair(tiny_config("bert")))
    hf_mpq.quantize(pair.query, MPQConfig(bits=8))
    with pytest.raises(ValueError, match=r"query of this .* quantized already; call model.query.dequantize"):
        hf_mpq.quantize(pair, MPQConfig(bits=8))
    pair.passage = hf_mpq.quantize(wide(BertModel(tiny_config("bert"))), MPQConfig(bits=4))
    with pytest.raises(ValueError, match=r"^query.* of this .* would be loaded without knowing: dequantize that part"):
        pair.save_pretrained(tmp_path)
    tied = encoder_decoder()
    tied.all_tied_weights_keys = {
        **tied.all_tied_weights_keys,
        "decoder.bert.embeddings.word_embeddings.weight": "encoder.embeddings.word_embeddings.weight",
    }
    hf_mpq.quantize(tied.encoder, MPQConfig(bits=4))
    with pytest.raises(ValueError, match=r"^encoder of this EncoderDecoderModel is quantized, and the model around"):
        tied.save_pretrained(tmp_path)
    head = hf_mpq.quantize(tiny_model("roberta"), MPQConfig(bits=4))
    hf_mpq.pack(head.roberta)
    with pytest.raises(ValueError, match=r"^classifier.dense is trainable and the rest .* call hf_mpq.pack on the who"):
        head.save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("storage", ["trainable", "packed"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_encoder_of_a_quantized_model_is_saved_alone(family, storage, tmp_path):
    """As `AutoModel.from_pretrained` of the whole folder would load it; made in memory, or loaded."""
    model = hf_mpq.quantize(tiny_model(family), MPQConfig(bits=4, groups=10))
    if storage == "packed":
        hf_mpq.pack(model)
    model.save_pretrained(tmp_path / "whole")
    for one in (model, reload(tmp_path / "whole")):
        one.base_model.save_pretrained(tmp_path / "body")
        close(outputs(model.base_model)[:1], outputs(reload(tmp_path / "body", "bare"))[:1], 1e-5)
    plain = model.dequantize()
    assert plain.base_model.save_pretrained.__func__ is type(model.base_model).save_pretrained
    plain.base_model.save_pretrained(tmp_path / "float")
    assert not getattr(reload(tmp_path / "float", "bare"), "is_quantized", False)


def test_what_is_no_model_of_transformers():
    """Its state dict and its encoder are saved apart."""
    whole = nn.ModuleDict({"encoder": BertModel(tiny_config("bert")), "head": nn.Linear(32, 2)})
    with pytest.raises(ValueError, match=r"is no PreTrainedModel.* quantize model\.encoder, and save that with"):
        hf_mpq.quantize(whole, MPQConfig())
    hf_mpq.pack(hf_mpq.quantize(whole["encoder"], MPQConfig(bits=4)))
    state = {name: value.clone() for name, value in whole.state_dict().items()}
    whole.load_state_dict(state)


VERBS = {
    "quantize": lambda given: hf_mpq.quantize(given, MPQConfig(bits=4)),
    "compress": lambda given: hf_mpq.compress(given, "50%", rounding="nearest", scorer="distance"),
    "export": lambda given: hf_mpq.export(given, "dense", "exported"),
    "fix": hf_mpq.fix,
    "pack": hf_mpq.pack,
    "unpack": hf_mpq.unpack,
    "assignment_of": hf_mpq.assignment_of,
    "prepare": hf_mpq.prepare,
}
WRONG = {
    "folder": ("my-bert", r"'my-bert' is no model: load it first, .*from_pretrained\('my-bert'\)"),
    "path": (Path("my-bert"), r"'my-bert' is no model: load it first"),
    "list": ([nn.Linear(2, 2)], "a list is no model: give its models one by one"),
    "holder": (SimpleNamespace(model=nn.Linear(2, 2)), "a SimpleNamespace is no model: give its .model"),
    "class": (BertModel, "a type is no model: give what from_pretrained returns"),
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("verb", VERBS)
def test_what_is_no_model_at_all(verb, wrong):
    """A folder, what `compress` returns for several budgets, a pipeline or a trainer, a class."""
    given, message = WRONG[wrong]
    with pytest.raises(ValueError, match=message):
        VERBS[verb](given)


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb != "prepare"])
def test_what_holds_a_model_of_transformers(verb):
    """As sentence-transformers does, in numbered parts; what is inside is named as Python writes it."""
    inside = tiny_model("bert", "bare")
    if verb not in ("quantize", "compress"):
        hf_mpq.pack(hf_mpq.quantize(inside, MPQConfig(bits=4)))
    whole = nn.Sequential(nn.ModuleDict({"encoder": inside}))
    with pytest.raises(ValueError, match=r"Sequential is no PreTrainedModel.* model\[0\]\.encoder"):
        VERBS[verb](whole)


@pytest.mark.parametrize("given", [4, {"bits": 4}, "q8"])
def test_what_is_no_config(given):
    for verb in (hf_mpq.quantize, lambda model, config: hf_mpq.compress(model, config=config)):
        with pytest.raises(ValueError, match=r"the config must be an MPQConfig, .*\(bits=4\)"):
            verb(tiny_model("bert"), given)


def test_a_folder_of_another_class_is_refused():
    """No table finds a place: never random weights."""
    packed = hf_mpq.pack(hf_mpq.quantize(tiny_model("distilbert"), MPQConfig(bits=4))).config.quantization_config.packed
    table = {**packed, "matrices": {name: one for name, one in packed["matrices"].items() if "layer" in name}}
    with pytest.raises(PackedFormatError, match="this BertModel has none of the packed matrices: load the"):
        build_packed(tiny_model("bert", "bare"), table, torch.float32)


@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_models_made_from_one_config_are_quantized_apart(family, tmp_path):
    """A teacher beside its student: neither is saved with what was done to the other."""
    shared = tiny_config(family)
    first, second, third = (AutoModelForSequenceClassification.from_config(shared).eval() for _ in range(3))
    hf_mpq.quantize(first, MPQConfig(bits=4, groups=8))
    hf_mpq.pack(hf_mpq.quantize(second, MPQConfig(bits=3, groups=8)))
    assert not hasattr(shared, "quantization_config")
    for number, model in enumerate((first, second, third)):
        assert all(part.config is model.config for part in model.modules() if isinstance(part, PreTrainedModel))
        model.save_pretrained(tmp_path / str(number))
        close(outputs(reload(tmp_path / str(number))), outputs(model))
