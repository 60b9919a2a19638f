"""What a user may say in an `MPQConfig`, what it becomes, and what is refused."""

import json

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoModelForSequenceClassification
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING, AUTO_QUANTIZER_MAPPING

import hf_mpq
from hf_mpq import Assignment, MPQConfig
from hf_mpq.core import MatrixAssignment
from hf_mpq.format import PackedFormatError
from tests.plugin.models import close, mixed_assignment
from tests.processes import run_python
from tests.tiny import MOST, outputs, tiny_model

REFUSED = {
    "bits-range": ({"bits": 9}, "bits must be whole numbers from 0 .* to 8, got 9"),
    "bits-negative": ({"bits": -1}, "bits must be whole numbers"),
    "bits-fraction": ({"bits": (2, 2.5)}, "bits must be whole numbers"),
    "bits-bool": ({"bits": (True, 4)}, "bits must be whole numbers"),
    "bits-empty": ({"bits": ()}, "bits must be whole numbers"),
    "activations": ({"activation_bits": 1}, "activation_bits must be 2 to 8, or None for float; got 1"),
    "attention": ({"attention_bits": 16}, "attention_bits must be 2 to 8"),
    "embeddings": ({"embedding_bits": 0}, "embedding_bits must be 1 to 8, or None for float; got 0"),
    "projections": ({"projection_bits": "8"}, "projection_bits must be 1 to 8"),
    "scales": ({"scale_dtype": "bfloat16"}, "scale_dtype must be 'float16' or 'float32', got 'bfloat16'"),
    "floats": ({"float_dtype": "int8"}, "float_dtype must be 'float16' or 'float32'"),
    "storage": ({"storage": "zip"}, r"storage must be one of \('trainable', 'packed'\), got 'zip'"),
    "storage-by-hand": ({"storage": "packed"}, r"needs its table of tensors, which hf_mpq.pack\(model\) writes"),
    "nested": ({"nested": True, "bits": 4}, r"several precisions, for example bits=\(2, 4, 8\)"),
    "rule": ({"rules": {"query": {"bit": 2}}}, r"rule 'query' has unknown options \['bit'\]; the known ones are"),
    "budget": ({"budget": "12 bananas"}, "12 bananas"),
    "assignment": ({"assignment": {"query": 4}}, "not an assignment: it has no 'matrices'"),
    "assignment-type": ({"assignment": 4}, "assignment must be an Assignment, a file or a dictionary, got int"),
    "version": ({"format_version": 99}, "upgrade"),
    "bits-float": ({"bits": 4.0}, "bits must be whole numbers .* got 4.0"),
    "bits-text": ({"bits": "4"}, "bits must be whole numbers .* got '4'"),
    "projections-bool": ({"projection_bits": True}, "projection_bits must be 1 to 8"),
    "groups": ({"groups": "row"}, "unknown groups 'row'; use a count, 'channel', 'head', 'matrix' or 'columns:"),
    "groups-zero": ({"groups": 0}, "groups must be a count"),
    "method": ({"method": "qbert"}, "unknown method 'qbert'; did you mean 'q-bert'"),
    "quantizer": ({"quantizer": "lsq+"}, "weight quantizer 'lsq\\+'; did you mean 'lsq'.* known ones are: .*lsq, m"),
    "gate": ({"gate": "open"}, "unknown gate 'open'; the known ones are: .*softmax"),
    "source": ({"source": "water"}, "unknown .*source 'water'; the known ones are: .*float-master"),
    "mask": ({"mask": "iron"}, "unknown .*mask 'iron'; the known ones are: .*element"),
    "activation": ({"activation": "slow"}, "unknown activation quantizer 'slow'; the known ones are: .*dynamic-token"),
    "quantizer-option": ({"quantizer_options": {"two_bit": "ternary"}}, "'two_bit'; did you mean 'two_bits'"),
    "gate-option": ({"gate": "gumbel", "bits": (2, 4), "gate_options": {"heat": 1}}, "'heat'; the known ones are: te"),
    "mask-option": (
        {"mask": "n:m", "mask_options": {"keep": 1}},
        "'keep'; did you mean 'kept'.* are: block, encoding, kept",
    ),
    "activation-option": ({"activation_options": {"bits": 4}}, "'bits'; the known ones are: symmetric"),
    "rules": ({"rules": ["query"]}, "rules must be a mapping of patterns to options"),
    "rule-value": ({"rules": {"query": 4}}, "rule 'query' must be a mapping of options, such as {'bits': 8}; got 4"),
    "rule-pattern": ({"rules": {"layer.(0": {"bits": 8}}}, r"rule 'layer.\(0' is no regular expression"),
    "rule-name": ({"rules": {"query": {"quantizer": "minmx"}}}, "quantizer 'minmx'; did you mean 'minmax'"),
    "rule-groups": ({"rules": {"query": {"groups": "rows"}}}, "unknown groups 'rows'; use a count"),
    "affine-pattern": ({"input_affine": {"(": ["scale"]}}, "input_affine's pattern '\\(' is no regular expression"),
    "names": ({"modules_to_not_convert": [4]}, "modules_to_not_convert must be a list of names"),
    "budget-unit": ({"budget": 4}, "the budget 4 has no unit"),
}
REFUSED_FOR_A_MODEL = {
    "head": ({"groups": "head"}, "groups='head' needs a weight with attention heads"),
    "nothing": ({"modules_to_not_convert": ["encoder", "embeddings", "pooler"]}, "nothing to quantize in this Bert"),
    "tie": ({"rules": {"(query)": {"tie": r"\2"}}}, r"tie '\\\\2' of rule '\(query\)' is no template of its match"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    """Wrong values are refused at once, with what is allowed."""
    fields, text = REFUSED[case]
    with pytest.raises(ValueError, match=text):
        MPQConfig(**fields)


@pytest.mark.parametrize("case", REFUSED_FOR_A_MODEL)
def test_refused_for_a_model(case):
    """What only a model can tell, which is then left as it was."""
    fields, text = REFUSED_FOR_A_MODEL[case]
    model = tiny_model("bert")
    before = outputs(model)
    with pytest.raises(ValueError, match=text):
        hf_mpq.quantize(model, MPQConfig(**fields))
    close(before, outputs(model), 0)
    assert not getattr(model, "is_quantized", False)


def test_words_are_taken_as_they_are_registered():
    rules = {"query": {"quantizer": "MinMax", "groups": "Channel"}}
    config = MPQConfig(
        method="Q-BERT",
        quantizer="LSQ",
        bits=(2, 4),
        gate="Softmax",
        mask="N:M",
        groups="MATRIX",
        activation="Static",
        rules=rules,
        budget=0.25,
    )
    assert (config.method, config.quantizer, config.gate, config.mask, config.groups) == (
        "q-bert",
        "lsq",
        "softmax",
        "n:m",
        "matrix",
    )
    assert config.rules == {"query": {"quantizer": "minmax", "groups": "channel"}} and config.activation == "static"
    assert hf_mpq.Budget.parse(config.budget) == hf_mpq.Budget(0.25, "ratio")


def test_numbers_of_numpy_are_numbers():
    assert MPQConfig(bits=np.int64(3)).bits == 3 and MPQConfig(bits=np.array([4, 2])).bits == (2, 4)


def test_what_overrides_a_saved_config_is_checked_too():
    assert MPQConfig.from_dict({"bits": 4}, bits=[4, 2]).bits == (2, 4)
    with pytest.raises(ValueError, match="bits must be whole numbers"):
        MPQConfig.from_dict({"bits": 4}, bits=99)


ROUND_TRIPS = [
    {},
    {"bits": (0, 2, 4), "groups": "channel", "activation_bits": None, "embedding_bits": None, "projection_bits": None},
    {"bits": 3, "attention_bits": 8, "quantizer": "minmax", "scale_dtype": "float32", "float_dtype": "float32"},
    {"rules": {"query": {"bits": None}, r"layer\.0": {"bits": 2}}, "modules_to_not_convert": ["pooler"]},
    {"bits": (2, 4, 8), "nested": True, "switchable_norms": True, "budget": "0.25x"},
    {"assignment": Assignment({"pooler.dense": MatrixAssignment((4, 0))}, {"pooler.dense": 8})},
    {"quantizer_options": {"two_bits": "ternary"}, "mask": "n:m", "mask_options": {"kept": 2, "block": 4}},
]


@pytest.mark.parametrize("number", range(len(ROUND_TRIPS)))
def test_json_round_trip(number):
    """What is written to config.json reads back as the same config, whichever fields are None."""
    config = MPQConfig(**ROUND_TRIPS[number])
    text = json.dumps(config.to_dict())
    again = MPQConfig.from_dict(json.loads(text))
    assert vars(again) == vars(config)
    assert json.loads(json.dumps(again.to_dict())) == json.loads(text)
    assert json.loads(config.to_json_string(use_diff=False)) == json.loads(text)


def test_unknown_fields_of_a_newer_version(caplog):
    """They are left out, and named in a warning."""
    config = MPQConfig.from_dict({**MPQConfig(bits=3).to_dict(), "lattice": "E8", "note": "text"})
    assert config.bits == 3 and not hasattr(config, "lattice")
    assert "does not know ['lattice']" in caplog.text


def test_unused_arguments_come_back():
    """As transformers expects of `from_dict`."""
    config, rest = MPQConfig.from_dict({"bits": 4}, return_unused_kwargs=True, groups=7, revision="main")
    assert (config.groups, rest) == (7, {"revision": "main"})


def bits_of(model) -> dict[str, set[int]]:
    return {name: set(matrix.bits) for name, matrix in hf_mpq.assignment_of(model).matrices.items()}


def test_bits_per_role():
    """Encoder, embeddings and projections each have their own bits; None leaves a role float."""
    found = bits_of(hf_mpq.quantize(tiny_model("bert"), MPQConfig(bits=3, embedding_bits=6, projection_bits=5)))
    assert found["encoder.layer.0.output.dense"] == {3} and found["pooler.dense"] == {5}
    assert found["embeddings.word_embeddings"] == found["embeddings.token_type_embeddings"] == {6}
    model = hf_mpq.quantize(tiny_model("bert"), MPQConfig(embedding_bits=None, projection_bits=None))
    assert all(name.startswith("encoder.") for name in bits_of(model))
    assert type(model.bert.pooler.dense) is nn.Linear and type(model.classifier) is nn.Linear
    assert type(model.bert.embeddings.word_embeddings) is nn.Embedding


def test_rules():
    """Patterns are searched in relative names; later ones win; `bits=None` leaves a matrix float."""
    rules = {
        "query": {"bits": 2},
        r"layer\.1.*query": {"bits": 6, "groups": 4},
        r"layer\.0.*value$": {"bits": None},
        "word_emb": {"bits": 4},
        "output": {"activation_bits": None},
    }
    config = MPQConfig(bits=3, groups=10, rules=rules)
    space = config.resolve(tiny_model("bert"))
    spec = space.weights["encoder.layer.1.attention.self.query"]
    assert (spec.bits, spec.layout.count) == ((6,) * 4, 4)
    assert space.weights["encoder.layer.0.attention.self.query"].bits == (2,) * 10
    assert "encoder.layer.0.attention.self.value" not in space.weights
    assert set(space.weights["embeddings.word_embeddings"].bits) == {4}
    assert space.weights["encoder.layer.0.output.dense"].activation is None
    assert space.weights["encoder.layer.0.intermediate.dense"].activation.bits == 8
    reversed_rules = dict(reversed(rules.items()))
    again = MPQConfig(bits=3, groups=10, rules=reversed_rules).resolve(tiny_model("bert"))
    assert set(again.weights["encoder.layer.1.attention.self.query"].bits) == {2}


def test_rule_that_opens_a_search():
    """A rule with several precisions gives that matrix a gate of its own."""
    model = hf_mpq.quantize(tiny_model("bert"), MPQConfig(bits=4, rules={r"layer\.0.*query": {"bits": [2, 4]}}))
    layers = dict(hf_mpq.nn.walk.matrices(model))
    searching = [name for name, layer in layers.items() if layer.program.gate.searching]
    assert searching == ["encoder.layer.0.attention.self.query"]


@pytest.mark.parametrize("word", ["encoder.layer.0", "attention", "attention.self.query", "LayerNorm", "pooler.dense"])
def test_modules_to_not_convert(word):
    """Whole names, or parts of names between dots; never a part of a word."""
    plain = {name: type(module) for name, module in tiny_model("bert").named_modules()}
    model = hf_mpq.quantize(tiny_model("bert"), MPQConfig(modules_to_not_convert=[word]))
    modules = {name: type(module) for name, module in model.named_modules()}
    inside = {name for name in plain if f".{word}." in f"{name}."}
    assert inside and all(modules[name] is plain[name] for name in inside)
    changed = {name for name in plain if modules[name] is not plain[name]}
    everything = hf_mpq.quantize(tiny_model("bert"), MPQConfig())
    assert changed == {n for n, m in everything.named_modules() if n in plain and type(m) is not plain[n]} - inside
    with pytest.raises(ValueError, match="nothing"):
        hf_mpq.quantize(tiny_model("bert"), MPQConfig(modules_to_not_convert=["encoder", "embeddings", "pooler"]))
    hf_mpq.quantize(tiny_model("bert"), MPQConfig(modules_to_not_convert=["encod", "quer"]))


@pytest.mark.parametrize(
    ("groups", "count"), [(10, 10), ("10", 10), ("channel", 32), ("matrix", 1), ("columns:5", 5), (4096, 32)], ids=str
)
def test_groups(groups, count):
    """Counts and words; more sub-groups than rows means one row each."""
    model = hf_mpq.quantize(tiny_model("bert"), MPQConfig(bits=4, groups=groups))
    found = hf_mpq.assignment_of(model).matrices["encoder.layer.0.attention.self.query"].bits
    assert len(found) == count
    trained = outputs(model)
    close(trained, outputs(hf_mpq.pack(model)))


def test_groups_by_head():
    """Heads are a rule for the projections that have them."""
    rules = {r"self\.(query|key|value)": {"groups": "head"}}
    model = hf_mpq.quantize(tiny_model("bert"), MPQConfig(groups=10, rules=rules))
    found = hf_mpq.assignment_of(model).matrices
    assert len(found["encoder.layer.0.attention.self.key"].bits) == 4
    assert len(found["encoder.layer.0.output.dense"].bits) == 10


@pytest.mark.parametrize("kind", ["assignment", "file", "path", "dictionary"])
def test_assignment_of_another_model(kind, tmp_path):
    """An assignment goes over as it is, as a file, or as a dictionary, also to another head."""
    first = tiny_model("bert", "token")
    chosen = mixed_assignment(first, MPQConfig(groups=10))
    chosen.save(tmp_path / "assignment.json")
    given = {
        "assignment": chosen,
        "file": str(tmp_path / "assignment.json"),
        "path": tmp_path / "assignment.json",
        "dictionary": chosen.to_dict(),
    }[kind]
    model = hf_mpq.quantize(tiny_model("bert", "token"), MPQConfig(groups=10, assignment=given))
    assert hf_mpq.assignment_of(model).matrices == chosen.matrices
    taken = MPQConfig(groups=10, assignment=hf_mpq.assignment_of(hf_mpq.pack(model)))
    other = hf_mpq.quantize(tiny_model("bert", "sequence"), taken)
    assert hf_mpq.assignment_of(other).matrices == chosen.matrices


def test_assignments_that_do_not_fit(caplog):
    """Another number of sub-groups is an error; matrices that it does not name stay float, with a warning."""
    chosen = mixed_assignment(tiny_model("bert"), MPQConfig(groups=10))
    with pytest.raises(ValueError, match=r"the assignment has 10 sub-groups, groups=7 gives 7; use the groups"):
        hf_mpq.quantize(tiny_model("bert"), MPQConfig(groups=7, assignment=chosen))
    some = Assignment({name: matrix for name, matrix in chosen.matrices.items() if "pooler" not in name})
    model = hf_mpq.quantize(tiny_model("bert"), MPQConfig(groups=10, assignment=some))
    assert "pooler.dense is in scope but not in the assignment; it stays float" in caplog.text
    assert type(model.bert.pooler.dense) is nn.Linear
    with pytest.raises(ValueError, match=r"names \d+ matrices that this DistilBert.* does not have, first 'emb"):
        hf_mpq.quantize(tiny_model("distilbert"), MPQConfig(groups=10, assignment=chosen))


def test_assignment_of_a_deeper_model_is_refused():
    """Its extra layers would be dropped in silence."""
    chosen = mixed_assignment(tiny_model("bert", num_hidden_layers=3), MPQConfig(groups=10))
    with pytest.raises(ValueError, match=r"encoder\.layer\.2"):
        hf_mpq.quantize(tiny_model("bert"), MPQConfig(groups=10, assignment=chosen))


@pytest.mark.parametrize("family", MOST)
def test_resolve_is_deterministic(family):
    """The same table from the model, from its twin, from the config's JSON, and from a meta skeleton."""
    config = MPQConfig(bits=(0, 2, 4), groups=10, rules={"0": {"bits": 8}})
    first = config.resolve(tiny_model(family))
    with torch.device("meta"):
        skeleton = type(tiny_model(family))(tiny_model(family).config)
    again = MPQConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert first == config.resolve(tiny_model(family)) == config.resolve(skeleton)
    assert list(first.weights) == list(again.resolve(tiny_model(family)).weights)
    assert first.links == again.resolve(skeleton).links and first.norms == again.resolve(skeleton).norms


def test_frozen_parameters_stay_frozen():
    """Conversion takes over the parameters, with their `requires_grad`."""
    model = tiny_model("bert")
    frozen = [p for name, p in model.named_parameters() if "embeddings" in name or "layer.0" in name]
    for parameter in frozen:
        parameter.requires_grad_(False)
    flags = {name: p.requires_grad for name, p in model.named_parameters()}
    hf_mpq.quantize(model, MPQConfig())
    assert {name: model.get_parameter(name).requires_grad for name in flags} == flags
    assert False in flags.values() and True in flags.values()


def test_quantizing_twice_is_refused(tmp_path):
    """Whichever way it was quantized first; by the same config there is nothing to do."""
    model = hf_mpq.quantize(tiny_model("bert"), MPQConfig())
    model.save_pretrained(tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    for again in (model, loaded, loaded.base_model):
        state = {name: value.clone() for name, value in again.state_dict().items()}
        assert hf_mpq.quantize(again, MPQConfig()) is again
        assert all(torch.equal(again.state_dict()[name], value) for name, value in state.items())
    packed = hf_mpq.pack(AutoModelForSequenceClassification.from_pretrained(tmp_path))
    for again, config in ((model, MPQConfig(bits=2)), (loaded, MPQConfig(groups=4)), (packed, MPQConfig())):
        with pytest.raises(ValueError, match=r"quantized already; call model.dequantize\(\) or hf_mpq.unpack"):
            hf_mpq.quantize(again, config)
    hf_mpq.quantize(model.dequantize(), MPQConfig(bits=2))


def test_packing_twice_is_refused():
    """And so is unpacking what is not packed, and either on a float model."""
    model = hf_mpq.quantize(tiny_model("bert"), MPQConfig())
    with pytest.raises(ValueError, match="not packed"):
        hf_mpq.unpack(model)
    with pytest.raises(ValueError, match="packed already; save it with"):
        hf_mpq.pack(hf_mpq.pack(model))
    for verb in (hf_mpq.pack, hf_mpq.unpack, hf_mpq.assignment_of):
        with pytest.raises(ValueError, match=r"not quantized by hf_mpq; call hf_mpq.quantize\(model"):
            verb(tiny_model("bert"))


def test_quantize_leaves_the_config_alone():
    """One config may serve many models."""
    config = MPQConfig(bits=(0, 2, 4), groups=10)
    before = json.dumps(config.to_dict())
    model = hf_mpq.quantize(tiny_model("bert"), config)
    assert model.config.quantization_config is not config
    hf_mpq.pack(model)
    assert json.dumps(config.to_dict()) == before


def test_config_of_the_checkpoint_wins(tmp_path, caplog):
    """Transformers keeps what the checkpoint says when another config is given, and says so."""
    hf_mpq.quantize(tiny_model("bert"), MPQConfig(bits=2, groups=10)).save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="already has a `quantization_config`"):
        model = AutoModelForSequenceClassification.from_pretrained(tmp_path, quantization_config=MPQConfig(bits=8))
    assert bits_of(model)["encoder.layer.0.output.dense"] == {2}


def test_import_again():
    """Notebooks import and reload: registration happens once and does not raise."""
    script = """
import importlib, sys, hf_mpq
hf_mpq.MPQConfig
for name in ("plugin.config", "plugin.quantizer", "plugin", "nn.attention", "nn"):
    importlib.reload(sys.modules[f"hf_mpq.{name}"])
importlib.reload(hf_mpq)
for name in [name for name in sys.modules if name.startswith("hf_mpq")]:
    del sys.modules[name]
import hf_mpq
print(hf_mpq.MPQConfig(bits=2).to_dict()["bits"])
"""
    result = run_python(["-c", script])
    assert result.returncode == 0 and result.stdout.strip() == "2", result.stderr
    assert AUTO_QUANTIZATION_CONFIG_MAPPING["mpq"] is MPQConfig and "mpq" in AUTO_QUANTIZER_MAPPING


def test_error_of_the_format_is_a_value_error():
    """So that one `except ValueError` catches what a user may do wrong."""
    assert issubclass(PackedFormatError, ValueError)


def test_a_given_field_wins_over_the_method_even_at_its_usual_default():
    config = MPQConfig(method="uniform", bits=4, groups=128)
    assert config.bits == 4 and MPQConfig(method="uniform").bits == 2
    again = MPQConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert vars(again) == vars(config)


@pytest.mark.parametrize("how", ["in memory", "while loading"])
def test_a_config_that_was_changed_is_checked_again(how, tmp_path):
    config, model = MPQConfig(bits=4, method="q8"), tiny_model("bert")
    config.bits = 99
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"bits must be whole numbers .* got 99"):
        if how == "in memory":
            hf_mpq.quantize(model, config)
        else:
            type(model).from_pretrained(tmp_path, quantization_config=config)
    config.bits = 6
    assert hf_mpq.quantize(model, config).config.quantization_config.bits == 6
