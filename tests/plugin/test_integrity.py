"""Whatever a model's outputs depend on is signed when it is saved: all tensors, and what config.json says of them."""

import json
import os
from dataclasses import asdict

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig
from transformers.quantizers import HfQuantizer

from hf_mpq import MPQConfig, pack, quantize
from hf_mpq.format import PackedFormatError
from hf_mpq.nn import calibrate_activations
from hf_mpq.plugin.signed import signature
from tests.plugin.models import (
    as_version_1,
    close,
    differ,
    mixed_model,
    read_config,
    read_metadata,
    read_tensors,
    reload,
    signed_anew,
    stored_model,
    write_tensors,
)
from tests.tiny import HEADS, MOST, outputs, tiny_batch, tiny_model

STORAGES = ("packed", "trainable")
EARLY = "update_attn_implementation" in vars(HfQuantizer)
"""Whether transformers asks a quantizer before it builds a model."""


@pytest.fixture(scope="module", params=STORAGES)
def saved(request, tmp_path_factory):
    """A sound folder in each storage, with its outputs; tests put back what they change."""
    folder = tmp_path_factory.mktemp(request.param)
    model = stored_model(request.param, activation_bits=4)
    model.save_pretrained(folder)
    return folder, outputs(model)


@pytest.fixture
def folder(saved):
    before = {file: file.read_bytes() for file in saved[0].iterdir()}
    yield saved[0]
    for file, content in before.items():
        file.write_bytes(content)


def edit(folder, **fields) -> None:
    content = read_config(folder)
    (folder / "config.json").write_text(json.dumps(content | fields))


def test_one_bit_of_any_tensor(folder):
    """Floats, states of quantizers and codes alike."""
    whole = read_tensors(folder)
    for name, tensor in whole.items():
        octets = tensor.clone().reshape(-1).view(torch.uint8)
        octets[-1] ^= 1
        write_tensors(folder, whole | {name: octets.view(tensor.dtype).view(tensor.shape)})
        with pytest.raises(PackedFormatError, match=f"1 tensors differ from what was saved, first '{name}'"):
            reload(folder)


def test_numbers_that_are_none(folder):
    """Also where someone wrote new digests, and in a folder of the first format."""
    whole = read_tensors(folder)
    floats = [name for name, tensor in whole.items() if tensor.is_floating_point()]
    for number, name in enumerate(floats):
        tensor = whole[name].clone()
        tensor.view(-1)[0] = (torch.nan, torch.inf, -torch.inf)[number % 3]
        changed = whole | {name: tensor}
        write_tensors(folder, changed, signed_anew(folder, changed))
        if number == len(floats) - 1:
            as_version_1(folder)
        with pytest.raises(PackedFormatError, match=f"{name} holds NaN or infinity: copy or download it again"):
            reload(folder)


def test_bytes_that_are_no_numbers(tmp_path):
    """What packed layers keep as bytes is looked at too."""
    model = mixed_model(activation="static", low_rank=2)
    calibrate_activations(model, [tiny_batch()])
    pack(model).save_pretrained(tmp_path)
    whole = read_tensors(tmp_path)
    kinds = {name.rpartition(".")[2]: name for name in whole}
    for kind in ("scales", "bias_values", "weight_values", "low_rank_rows", "grid_bytes"):
        octets = whole[kinds[kind]].clone()
        octets.view(torch.float32 if kind == "grid_bytes" else torch.float16)[-1] = torch.nan
        changed = whole | {kinds[kind]: octets}
        write_tensors(tmp_path, changed, signed_anew(tmp_path, changed))
        with pytest.raises(PackedFormatError, match=rf"{kinds[kind].removeprefix('bert.')} holds NaN or infinity"):
            reload(tmp_path)


def other(value):
    """Something else of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value * 2 or 1
    if isinstance(value, str):
        return "relu" if value == "gelu" else "silu"
    return None


@pytest.mark.parametrize("family", MOST)
def test_fields_that_give_the_function(family, tmp_path):
    """Every field that is written and not free to be changed: none is another one unnoticed."""
    quantize(tiny_model(family, is_decoder=False), MPQConfig(bits=4, groups=4)).save_pretrained(tmp_path)
    content = read_config(tmp_path)
    signed = set(json.loads(read_metadata(tmp_path)["mpq_config"]))
    assert {"pad_token_id", "vocab_size", "quantization_config.groups"} <= signed
    for name in signed & set(content):
        if name == "model_type" or other(content[name]) is None:
            continue
        edit(tmp_path, **{name: other(content[name])})
        with pytest.raises((PackedFormatError, StrictDataclassError), match=name):  # transformers may look before us
            reload(tmp_path)
        (tmp_path / "config.json").write_text(json.dumps(content))
    reload(tmp_path)


@pytest.mark.parametrize("written", ["p2c", "P2C|c2p|x", ["c2p"]])
def test_fields_that_a_class_reads_in_another_form_than_they_are_written(written, tmp_path):
    quantize(tiny_model("deberta-v2"), MPQConfig(bits=4, groups=4)).save_pretrained(tmp_path)
    edit(tmp_path, pos_att_type=written)
    with pytest.raises(PackedFormatError, match="pos_att_type"):
        reload(tmp_path)


@pytest.mark.parametrize("fields", [{"is_decoder": True}, {"scale_attn": 3}, {"layer_norm_eps": 0.1}], ids=str)
def test_fields_that_were_not_written(folder, fields):
    """A field that appears, known or not, is a change like any other."""
    edit(folder, **fields)
    with pytest.raises(PackedFormatError, match=r"config\.json was changed: .*to change it on purpose, pass \w+="):
        reload(folder)


def test_a_field_that_was_removed(folder):
    content = read_config(folder)
    del content["num_attention_heads"]
    (folder / "config.json").write_text(json.dumps(content))
    with pytest.raises(PackedFormatError, match="num_attention_heads is 12, and was 4"):
        reload(folder)


def test_quantization_fields(folder):
    content = read_config(folder)
    described = content["quantization_config"]
    default = asdict(MPQConfig())
    changed = {name for name, value in described.items() if value != default.get(name, value)}
    assert changed
    for name in changed - {"origin", "resolved"}:
        edit(folder, quantization_config={key: v for key, v in described.items() if key != name})
        with pytest.raises(PackedFormatError, match=r"download the folder again|writes"):
            reload(folder)
    edit(folder, quantization_config={**described, "activation_bits": 8})
    with pytest.raises(PackedFormatError, match=r"quantization_config\.activation_bits is 8, and was 4"):
        reload(folder)


def test_what_the_user_changes_is_said(saved, caplog):
    """As a keyword it is his own doing, and the model is another one."""
    folder, before = saved
    model = reload(folder, layer_norm_eps=0.5)
    assert "layer_norm_eps is 0.5 as you gave it, and was 1e-12 when the weights were saved" in caplog.text
    assert differ(before, outputs(model))
    caplog.clear()
    reload(folder, num_labels=2, hidden_dropout_prob=0.3, output_attentions=True, attn_implementation="eager")
    assert "as you gave it" not in caplog.text


def test_what_anyone_may_change(folder, saved):
    """Labels, names, dropout and types in config.json; and a newer transformers that writes more fields."""
    edit(
        folder,
        id2label={"0": "no", "1": "yes"},
        label2id={"no": 0, "yes": 1},
        attention_probs_dropout_prob=0.5,
        transformers_version="9.0",
        problem_type="single_label_classification",
        use_cache=False,
    )
    close(saved[1], outputs(reload(folder)), 1e-5)
    config = AutoConfig.from_pretrained(folder)
    content = json.loads(config.to_json_string(use_diff=False))
    (folder / "config.json").write_text(json.dumps(content))
    close(saved[1], outputs(reload(folder)), 1e-5)
    model = reload(folder)
    model.config.save_pretrained(folder)
    close(saved[1], outputs(reload(folder)), 1e-5)


def test_heads_and_types(saved, tmp_path):
    """Digests are of the file: another head, another type, and what is saved from there."""
    folder, _ = saved
    for head in HEADS:
        reload(folder, head)
    for dtype in (torch.float16, torch.bfloat16):
        model = reload(folder, dtype=dtype)
        model.save_pretrained(tmp_path)
        assert reload(tmp_path).dtype == dtype


@pytest.mark.parametrize("storage", ["trainable", "packed"])
@pytest.mark.parametrize(
    "family", ["bert", *(pytest.param(name, marks=pytest.mark.full) for name in ("albert", "electra", "mpnet"))]
)
def test_a_model_read_as_another_head_is_read_again_as_it_was_saved(family, storage, tmp_path):
    """A pooler that the first head did not have is new, and stays float in every later file."""
    for first, second in (("masked", "sequence"), ("sequence", "masked"), ("token", "sequence")):
        stored_model(storage, family, first).save_pretrained(tmp_path / "first")
        model = reload(tmp_path / "first", second)
        model.save_pretrained(tmp_path / "second")
        close(outputs(model), outputs(reload(tmp_path / "second", second)), 1e-6)
        packed = pack(model) if storage == "trainable" else model
        packed.save_pretrained(tmp_path / "third")
        close(outputs(packed), outputs(reload(tmp_path / "third", second)), 1e-6)


def test_weights_of_other_precisions_are_not_taken():
    """`load_state_dict` would mix codes of one model with the candidates of another."""
    weights = quantize(tiny_model("bert"), MPQConfig(bits=4)).state_dict()
    words = r"query\.program\.gate\.bits has precisions \[4\], and this model offers \(8,\)"
    with pytest.raises(RuntimeError, match=words):
        quantize(tiny_model("bert"), MPQConfig(bits=8)).load_state_dict(weights)
    quantize(tiny_model("bert"), MPQConfig(bits=4)).load_state_dict(weights)


def test_the_first_format_is_read(folder, saved):
    """Without the new digests, and written anew with them."""
    as_version_1(folder)
    model = reload(folder)
    close(saved[1], outputs(model), 1e-5)
    assert model.config.quantization_config.format_version == 1
    model.save_pretrained(folder)
    assert read_config(folder)["quantization_config"]["format_version"] == 2
    assert set(json.loads(read_metadata(folder)["mpq_config"])) == set(signature(model.config))


def test_a_pipe_in_place_of_a_shard(tmp_path):
    """It is not opened: reading would never end."""
    stored_model("packed").save_pretrained(tmp_path, max_shard_size="5KB")
    shard = sorted(tmp_path.glob("model-*.safetensors"))[0]
    shard.unlink()
    os.mkfifo(shard)
    with pytest.raises(PackedFormatError, match=f"{shard.name} is not a regular file"):
        reload(tmp_path)


@pytest.mark.skipif(not EARLY, reason="this transformers asks a quantizer first when the layers are built")
def test_more_layers_than_tensors(folder):
    """Refused before they are built, in the first format too."""
    as_version_1(folder)
    edit(folder, num_hidden_layers=10**9)
    with pytest.raises(PackedFormatError, match=r"num_hidden_layers in config.json is 1000000000, the file holds \d+"):
        reload(folder)


def test_mixture_of_two_saves(folder, tmp_path):
    """The weights of one model under the config of another that differs in nothing but the config."""
    storage = read_config(folder)["quantization_config"]["storage"]
    stored_model(storage, activation_bits=6).save_pretrained(tmp_path)
    (folder / "config.json").write_bytes((tmp_path / "config.json").read_bytes())
    with pytest.raises(PackedFormatError, match=r"activation_bits is 6, and was 4|is not what it was"):
        reload(folder)


PLACES = [
    "bert.embeddings.word_embeddings.weight",
    "bert.encoder.layer.1.output.dense.bias",
    "bert.encoder.layer.0.output.LayerNorm.weight",
    "classifier.weight",
]


@pytest.mark.parametrize("name", PLACES)
def test_what_is_not_finite_is_refused(name, tmp_path):
    """By quantize, pack and save, with its name, and nothing is changed."""
    for number, value in enumerate((torch.nan, torch.inf)):
        model = tiny_model("bert")
        model.get_parameter(name).data.view(-1)[3] = value
        with pytest.raises(ValueError, match=f"{name} holds NaN or infinity"):
            quantize(model, MPQConfig(bits=4))
        assert not getattr(model, "is_quantized", False)
        model.save_pretrained(tmp_path / f"{number}")
        with pytest.raises(ValueError, match=f"{name} holds NaN or infinity"):
            reload(tmp_path / f"{number}", quantization_config=MPQConfig(bits=4))
        model = mixed_model()
        model.get_parameter(name).data.view(-1)[3] = value
        with pytest.raises(ValueError, match=f"{name} holds NaN or infinity"):
            model.save_pretrained(tmp_path / "trainable")
        with pytest.raises(ValueError, match=f"{name} holds NaN or infinity"):
            pack(model)
        assert model.config.quantization_config.storage == "trainable"


def test_what_has_no_value_yet_is_not_looked_at(tmp_path, monkeypatch):
    """Gates and scales of a float file that is quantized while it is loaded: whatever the memory held."""
    empty = torch.empty_like
    monkeypatch.setattr(torch, "empty_like", lambda t, *a, **o: _no_numbers(empty(t, *a, **o)))
    tiny_model("bert").save_pretrained(tmp_path)
    for options in ({"bits": (2, 4)}, {"bits": 4, "quantizer": "lsq", "activation": "learned"}):
        model = reload(tmp_path, quantization_config=MPQConfig(**options))
        assert all(bool(p.isfinite().all()) for p in model.parameters())


def _no_numbers(tensor):
    return tensor.fill_(torch.nan) if tensor.is_floating_point() and not tensor.is_meta else tensor


def test_what_saturates_is_said(caplog):
    """Float16 holds up to 65504: what is beyond is stored as that, and the way out is named."""
    model = quantize(tiny_model("bert"), MPQConfig(bits=4))
    model.bert.encoder.layer[0].output.dense.bias.data[0] = 1e6
    pack(model)
    assert "encoder.layer.0.output.dense" in caplog.text and "float_dtype='float32'" in caplog.text
    caplog.clear()
    model = quantize(tiny_model("bert"), MPQConfig(bits=4, float_dtype="float32", scale_dtype="float32"))
    model.bert.encoder.layer[0].output.dense.bias.data[0] = 1e6
    pack(model)
    assert "float32" not in caplog.text


HOSTILE = {
    "device": ({"assignment": "/dev/zero"}, "assignment"),
    "file": ({"assignment": "assignment.json"}, "assignment"),
    "pattern": ({"rules": {"(.|..)+(?<=z)$": {"bits": 2}}}, r"does not end on '.*write it without repetitions"),
    "affine": ({"input_affine": {"(.|..)+(?<=z)$": ["scale"]}}, r"does not end on '.*write it without repetitions"),
    "no pattern": ({"rules": {"(": {"bits": 2}}}, "no regular expression"),
    "type": ({"groups": [3]}, "Field 'groups' with value"),
    "options": ({"rules": {"query": {"quantizer_options": {"two_bits": []}}}}, "download the folder again"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_fields_of_a_trainable_config(case, tmp_path, monkeypatch):
    """Nothing is opened, nothing runs for ever; also in a folder of the first format, where no field is signed."""
    monkeypatch.setattr("hf_mpq.core.patterns.SECONDS", 0.05)
    quantize(tiny_model("bert"), MPQConfig(bits=4, groups=4)).save_pretrained(tmp_path)
    as_version_1(tmp_path)
    fields, words = HOSTILE[case]
    described = read_config(tmp_path)["quantization_config"]
    edit(tmp_path, quantization_config=described | fields)
    with pytest.raises(PackedFormatError, match=words):
        reload(tmp_path)


TABLES = {
    "groups": (lambda t: t["layout"].update(shape=[10**10, 32], groups=10**10), "layout.shape is not"),
    "only groups": (lambda t: t["layout"].update(groups=10**15), "map has shape"),
    "shards": (lambda t: t["layout"].update(shards=0), "shards"),
    "axis": (lambda t: t["layout"].update(axis=2), "axis"),
    "length": (lambda t: t.update(length=10**12), "longer than a line"),
    "negative": (lambda t: t.update(length=-1), "longer than a line"),
    "precision": (lambda t: t.update(precisions={"9": [1, 1, 1]}), "1 to 8"),
    "counts": (lambda t: t.update(precisions={"4": [10**9, 10**9, 1]}), "more sub-groups"),
    "short": (lambda t: t.update(precisions={"4": []}), "IndexError|list index"),
    "floats": (lambda t: t["precisions"].update({"8": [2, 8, 99]}), "other floats"),
    "encoding": (lambda t: t.update(encoding="zip"), "unknown encoding 'zip'"),
    "rank": (lambda t: t.update(rank=10**9), "rank"),
    "bias": (lambda t: t.update(bias=10**9), "more entries"),
    "no bias": (lambda t: t.update(bias=None), "bias is there"),
    "activation": (lambda t: t.update(activation=["dynamic-token", 99, {}]), "2 to 8 bits"),
    "activation name": (lambda t: t.update(activation=["x", 8, {}]), "unknown activation quantizer 'x'"),
    "activation list": (lambda t: t.update(activation="abc"), "activation"),
    "type": (lambda t: t.update(length="32"), "Field 'length' expected int"),
    "gone": (lambda t: t.pop("layout"), "layout' is missing"),
}


@pytest.mark.parametrize("case", TABLES)
def test_damaged_tables(case, tmp_path_factory, tmp_path):
    """Each number is compared with the layer before anything is made: in the first format none is signed."""
    hf = tmp_path_factory.getbasetemp() / "table"
    if not hf.exists():
        stored_model("packed").save_pretrained(hf)
        as_version_1(hf)
    for file in hf.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    described = read_config(tmp_path)["quantization_config"]
    change, words = TABLES[case]
    change(described["packed"]["matrices"]["encoder.layer.0.attention.self.query"])
    edit(tmp_path, quantization_config=described)
    with pytest.raises(PackedFormatError, match=rf"encoder\.layer\.0\.attention\.self\.query.*({words})"):
        reload(tmp_path)


@pytest.mark.parametrize("above", ["float", "packed"])
def test_a_folder_in_a_folder_that_holds_another_model(above, tmp_path):
    """As what a trainer packed lies in its output folder: only what is loaded is looked at."""
    outer, inner = tiny_model("bert"), stored_model("packed")
    if above == "packed":
        pack(quantize(outer, MPQConfig(bits=3, groups=8)))
    outer.save_pretrained(tmp_path)
    inner.save_pretrained(tmp_path / "packed")
    close(outputs(HEADS["sequence"].from_pretrained(tmp_path, subfolder="packed")), outputs(inner))
    edit(tmp_path / "packed", layer_norm_eps=0.5)
    with pytest.raises(PackedFormatError, match="layer_norm_eps"):
        HEADS["sequence"].from_pretrained(tmp_path, subfolder="packed")
