"""What is reported is what is on disk, by three roads: the file, the report, and the cost model."""

import json
from dataclasses import replace
from itertools import cycle

import pytest
import torch
from safetensors import safe_open

import hf_mpq
from hf_mpq import Budget, MPQConfig
from hf_mpq.cost import COSTS, AverageBits
from hf_mpq.nn import Family
from hf_mpq.search import allocate
from hf_mpq.weights import ACTIVATIONS, MASKS
from tests.contracts.test_families import mixed_config
from tests.contracts.test_folding import pruned_assignment
from tests.tiny import MOST, tiny_batch, tiny_model


def bytes_on_disk(folder) -> int:
    with safe_open(folder / "model.safetensors", "pt") as file:
        tensors = [file.get_tensor(name) for name in file.keys()]  # noqa: SIM118
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@pytest.mark.parametrize("head", ["sequence", "masked"])
@pytest.mark.parametrize("family", MOST)
def test_cost_report_and_file_agree(family, head, tmp_path):
    model = tiny_model(family, head)
    config = mixed_config(model)
    space = config.resolve(model)
    model = hf_mpq.quantize(model, config)
    assignment = hf_mpq.assignment_of(model)
    hf_mpq.pack(model).save_pretrained(tmp_path)
    report = hf_mpq.size_report(model)
    assert COSTS["size"](space).of(assignment) == report.total_bytes == bytes_on_disk(tmp_path)
    assert COSTS["size"](space, scope="encoder").of(assignment) == report.encoder_bytes
    assert COSTS["paper"](space).of(assignment) == pytest.approx(report.paper_mib)
    assert report.total_bytes == report.encoder_bytes + report.embedding_bytes + report.head_bytes


@pytest.mark.parametrize("mask", [None, *MASKS])
def test_reported_bits_are_those_of_the_budget(mask):
    model = hf_mpq.quantize(tiny_model("bert"), MPQConfig(bits=(2, 4), groups=8, mask=mask))
    space = model.config.quantization_config.resolve(model)
    cost = AverageBits(space).of(hf_mpq.assignment_of(hf_mpq.fix(model)))
    assert hf_mpq.size_report(model).average_bits == pytest.approx(cost)
    assert hf_mpq.size_report(hf_mpq.pack(model)).average_bits == pytest.approx(cost)


@pytest.mark.parametrize("family", MOST)
def test_folded_columns_cost_nothing_in_all_three(family, tmp_path):
    model = tiny_model(family)
    config = MPQConfig(groups="channel")
    space = config.resolve(model)
    assignment = pruned_assignment(model, config, {"pointwise", "value", "scores", "heads"})
    config.assignment = assignment.to_dict()
    hf_mpq.pack(hf_mpq.quantize(model, config)).save_pretrained(tmp_path)
    candidates = MPQConfig(groups="channel", bits=(0, 8)).resolve(tiny_model(family))
    assert COSTS["size"](candidates).of(assignment) == hf_mpq.size_report(model).total_bytes == bytes_on_disk(tmp_path)
    assert COSTS["size"](space).of(assignment) == bytes_on_disk(tmp_path)


@pytest.mark.parametrize("budget", ["20kB", "0.25x", "encoder:9KiB", "2.7bits"])
def test_a_budget_is_hit_by_the_packed_model(budget, tmp_path):
    """Any scores will do; here, how far a sub-group moves."""
    model = tiny_model("bert")
    config = MPQConfig(bits=(0, 2, 3, 4, 8), groups=12)
    space = config.resolve(model)
    scores = {}
    for name, spec in space.weights.items():
        weight = model.get_submodule(hf_mpq.nn.absolute_name(model, name)).weight
        squares = spec.layout.reduce(weight.detach().square(), "sum").unsqueeze(1)
        scores[name] = squares * torch.tensor([4.0**-bits for bits in spec.candidates])
    parsed = Budget.parse(budget)
    assignment = allocate(space, COSTS["size"](space), parsed, scores)
    hf_mpq.pack(hf_mpq.quantize(model, MPQConfig(groups=12, assignment=assignment)))
    report = hf_mpq.size_report(model)
    floats = 4 * sum(parameter.numel() for parameter in tiny_model("bert").parameters())
    got = {
        "bytes": report.encoder_bytes if parsed.scope == "encoder" else report.total_bytes,
        "bits": report.average_bits,
        "ratio": report.total_bytes / floats,
    }[parsed.kind]
    assert 0.93 * parsed.amount < got <= parsed.amount


def test_report_of_a_float_model_and_of_a_folder(tmp_path):
    model = tiny_model("bert", "masked")
    report = hf_mpq.size_report(model)
    assert report.ratio == 1.0 and report.average_bits == 32.0
    assert report.total_bytes == report.stored_bytes == 4 * sum(p.numel() for p in model.parameters())
    hf_mpq.pack(hf_mpq.quantize(model, MPQConfig(bits=3)))
    packed = hf_mpq.size_report(model)
    model.save_pretrained(tmp_path)
    again = hf_mpq.size_report(tmp_path)
    assert again == packed and packed.total_bytes == packed.stored_bytes
    assert packed.average_bits == 3.0
    for word in ("embeddings", "encoder", "head", "total", "3.00 bits"):
        assert word in str(packed)


def test_trainable_models_report_what_packing_writes():
    model = hf_mpq.quantize(tiny_model("modernbert"), MPQConfig(bits=(0, 2, 4)))
    before = hf_mpq.size_report(hf_mpq.fix(model))
    assert before.stored_bytes > before.total_bytes
    assert hf_mpq.size_report(hf_mpq.pack(model)).total_bytes == before.total_bytes


@pytest.mark.parametrize("options", [{}, {"kept": 1, "block": 8}], ids=["2:4", "1:8"])
def test_masked_weights_count_alike_in_reports_and_budgets(options, tmp_path):
    model = tiny_model("bert")
    config = MPQConfig(bits=4, groups=8, mask="n:m", mask_options=options)
    space = config.resolve(model)
    assignment = hf_mpq.assignment_of(hf_mpq.quantize(model, config))
    for stored in (model, hf_mpq.pack(model)):
        report = hf_mpq.size_report(stored)
        assert report.average_bits == COSTS["bits"](space).of(assignment) == (0.5 if options else 2.0)
        assert report.total_bytes == COSTS["size"](space).of(assignment)
    model.save_pretrained(tmp_path)
    assert report.total_bytes == bytes_on_disk(tmp_path) and hf_mpq.size_report(tmp_path) == report


def test_chosen_patterns_count_alike_in_budgets_reports_and_files(tmp_path):
    """Each matrix another one, dense ones among them: without a mask."""
    words = ("dense", "2:4", "1:4")
    model = hf_mpq.quantize(tiny_model("bert"), MPQConfig(bits=(2, 4), groups=8, patterns=words))
    space, found = model.hf_quantizer.space, hf_mpq.assignment_of(model)
    patterns = cycle(space.weights["encoder.layer.0.output.dense"].patterns)
    chosen = {
        name: replace(one, keep_of=next(patterns)) if one.keep_of else one for name, one in found.matrices.items()
    }
    given = replace(found, matrices=chosen)
    cost = {name: COSTS[name](space).of(given) for name in ("size", "bits")}
    decided = hf_mpq.fix(model, given).hf_quantizer.space
    assert cost == {name: COSTS[name](decided).of(given) for name in cost}
    report = hf_mpq.size_report(hf_mpq.pack(model))
    model.save_pretrained(tmp_path)
    assert cost["size"] == report.total_bytes == bytes_on_disk(tmp_path)
    assert cost["bits"] == pytest.approx(report.average_bits)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        named = [name for name in file.keys() if name.endswith(".mask")]  # noqa: SIM118
    assert len(named) == sum(one.keep_of not in (None, (1, 1)) for one in given.matrices.values())


@pytest.mark.parametrize("density", [0.3, 0.75])
def test_element_masks_count_alike_in_reports_and_budgets(density):
    """To the weight that a share of a row is rounded to."""
    model = tiny_model("bert")
    config = MPQConfig(bits=8, groups=8, mask="element", mask_options={"density": density})
    space = config.resolve(model)
    report = hf_mpq.size_report(hf_mpq.quantize(model, config))
    assert report.average_bits == pytest.approx(8 * density, rel=2e-3)
    assert report.average_bits == pytest.approx(COSTS["bits"](space).of(hf_mpq.assignment_of(model)), rel=2e-3)


@pytest.mark.parametrize("attention", [None, 8])
@pytest.mark.parametrize(
    "activation", sorted(name for name in ACTIVATIONS if name != "probabilities" and not ACTIVATIONS[name].packed_form)
)
def test_stored_ranges_of_activations_count_alike(activation, attention):
    model = tiny_model("bert")
    config = MPQConfig(bits=4, activation=activation, attention_bits=attention)
    space = config.resolve(model)
    hf_mpq.nn.calibrate_activations(hf_mpq.quantize(model, config), [tiny_batch()])
    report = hf_mpq.size_report(hf_mpq.pack(model))
    assert report.total_bytes == COSTS["size"](space).of(hf_mpq.assignment_of(model))


def test_the_work_does_not_grow_with_the_square_of_the_layers(monkeypatch):
    """The layers of a model are looked for as often in one of six as in one of two."""
    looked, look = [], Family.layer_prefixes
    monkeypatch.setattr(Family, "layer_prefixes", lambda *given: looked.append(1) or look(*given))

    def searches(layers):
        looked.clear()
        model = hf_mpq.quantize(tiny_model("bert", num_hidden_layers=layers), MPQConfig(bits=4, attention_bits=8))
        hf_mpq.size_report(hf_mpq.pack(model))
        return len(looked)

    assert searches(6) == searches(2)


def test_a_class_that_transformers_lacks_is_named_with_the_way_out(tmp_path):
    model = tiny_model("bert")
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "architectures": ["TicketModel"]}))
    for look in (hf_mpq.size_report, hf_mpq.report.bit_map, hf_mpq.report.summarize):
        with pytest.raises(OSError, match=r"needs the class TicketModel.*give the model instead of the folder"):
            look(tmp_path)
