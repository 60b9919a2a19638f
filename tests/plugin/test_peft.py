"""LoRA on packed layers: attached, trained, saved, and taken into the file."""

import shutil

import pytest
import torch
from peft import (
    AutoPeftModelForSequenceClassification,
    IA3Config,
    LoraConfig,
    PeftConfig,
    PeftModel,
    PromptTuningConfig,
    get_peft_model,
)
from transformers import Trainer, TrainingArguments

import hf_mpq
from hf_mpq import MPQConfig
from hf_mpq.exporters import EXPORTERS
from hf_mpq.format import PackedFormatError
from hf_mpq.nn import MPQLinear, PackedLinear
from hf_mpq.nn.walk import matrices
from hf_mpq.plugin.lora import PackedLora, for_packed, load_adapter, merge_adapters
from tests.plugin.models import close, differ, read_tensors, reload, stored_model
from tests.plugin.test_training_traps import Examples
from tests.tiny import outputs, tiny_batch, tiny_model

LABELS = torch.tensor([0, 1, 0])
TARGETS = {"bert": ["query", "dense"], "deberta-v2": ["query_proj", "dense"], "modernbert": ["Wqkv", "Wo"]}


def adapted(family="bert", model=None, **options):
    model = stored_model("packed", family) if model is None else model
    config = LoraConfig(r=4, target_modules=TARGETS[family], task_type="SEQ_CLS", **options)
    return get_peft_model(model, for_packed(config))


def train(model) -> None:
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    for _ in range(3):
        optimizer.zero_grad()
        model.train()(**tiny_batch(), labels=LABELS).loss.backward()
        optimizer.step()
    model.eval()


@pytest.mark.parametrize("family", TARGETS)
def test_trained_saved_loaded_merged(family, tmp_path):
    packed = stored_model("packed", family)
    before, codes = outputs(packed), {n: m.stored for n, m in matrices(packed, PackedLinear)}
    model = adapted(family, packed)
    layers = [m for m in model.modules() if isinstance(m, PackedLora)]
    assert len(layers) >= 6 and all(m.rows.any() for m in layers)
    close(before, outputs(model), 1e-6)
    train(model)
    assert all(m.lora_B["default"].weight.grad.abs().sum() > 0 for m in layers if m.rows.any())
    after = outputs(model)
    assert differ(before, after, 0.05)

    model.save_pretrained(tmp_path / "adapter")
    config = for_packed(PeftConfig.from_pretrained(tmp_path / "adapter"))
    again = PeftModel.from_pretrained(stored_model("packed", family), tmp_path / "adapter", config=config)
    close(after, outputs(again))
    with again.disable_adapter(), torch.no_grad():
        row = torch.ones(1, layers[0].in_features)
        layer = next(m for m in again.modules() if isinstance(m, PackedLora))
        assert torch.equal(layer(row), layer.base_layer(row))

    plain = merge_adapters(model)
    merged = outputs(plain)
    close(after, merged, 0.02)  # factors are stored in float16, and an activation may go to the next level
    assert not isinstance(plain, PeftModel) and not any(isinstance(m, PackedLora) for m in plain.modules())
    ranks = {name: layer.stored.rank for name, layer in matrices(plain, PackedLinear)}
    assert set(ranks.values()) == {0, 4} and sum(ranks.values()) == 4 * len(layers)
    assert all(m.stored.with_changes(rank=0) == codes[n] for n, m in matrices(plain, PackedLinear))
    plain.save_pretrained(tmp_path / "merged")
    again = reload(tmp_path / "merged")
    close(merged, outputs(again), 0)
    on_disk = sum(t.numel() * t.element_size() for t in read_tensors(tmp_path / "merged").values())
    assert hf_mpq.size_report(again).total_bytes == on_disk
    close(merged, outputs(hf_mpq.prepare(reload(tmp_path / "merged"), "cpu-float")))
    hf_mpq.unpack(again)
    close(merged, outputs(again))
    hf_mpq.pack(again).save_pretrained(tmp_path / "again")
    for name, value in read_tensors(tmp_path / "merged").items():
        assert torch.equal(value, read_tensors(tmp_path / "again")[name]), name


def test_float_activations_merge_to_the_rounding_of_the_factors():
    model = stored_model("packed", activation_bits=None)
    model = adapted(model=model)
    train(model)
    after, layer = outputs(model), next(m for m in model.modules() if isinstance(m, PackedLora))
    weight = layer.base_layer.weight + layer.get_delta_weight("default")
    torch.testing.assert_close(layer.corrected().weight, weight, atol=2e-3, rtol=0)
    close(after, outputs(merge_adapters(model)), 0.01)


def test_pruned_rows_and_dead_columns_stay_away():
    model = adapted()
    for layer in (m for m in model.modules() if isinstance(m, PackedLora)):
        torch.nn.init.normal_(layer.lora_B["default"].weight)
        delta = layer.get_delta_weight("default")
        assert not delta[~layer.rows].any() and not delta[:, ~layer.columns].any() and delta.any()
    assert sum(int((~m.rows).sum()) for m in model.modules() if isinstance(m, PackedLora)) > 20


def test_the_stock_trainer_takes_it(tmp_path):
    """Which refuses a packed model alone; only adapters and the head move."""
    model = adapted()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    arguments = TrainingArguments(
        str(tmp_path),
        max_steps=2,
        per_device_train_batch_size=4,
        learning_rate=0.05,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        label_names=["labels"],
    )
    Trainer(model, arguments, train_dataset=Examples()).train()
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved and all("lora_" in name or "modules_to_save" in name for name in moved)


def test_merging_on_other_layers_is_pefts_own():
    """On trainable layers into the float master, which is rounded as ever."""
    model = hf_mpq.quantize(tiny_model("bert"), MPQConfig(bits=8, groups=10, activation_bits=None))
    model = adapted(model=model)
    train(model)
    after = outputs(model)
    merged = merge_adapters(model)
    assert isinstance(merged.bert.encoder.layer[0].attention.self.query, MPQLinear)
    close(after, outputs(merged), 0.3)
    close(outputs(merged), outputs(hf_mpq.pack(merged)))


@pytest.mark.parametrize("options", [{"use_dora": True}, {"init_lora_weights": "pissa"}, {"lora_bias": True}], ids=str)
def test_variants_that_change_the_weight_are_refused(options):
    with pytest.raises(ValueError, match="packed weights cannot be changed"):
        adapted(**options)


def test_what_is_not_exact_says_what_is():
    model = adapted()
    with pytest.raises(ValueError, match=r"rounding them again. To keep the function, call hf_mpq.*merge_adapters"):
        model.merge_and_unload()
    with pytest.raises(ValueError, match="add adapters before"):
        adapted(model=hf_mpq.prepare(stored_model("packed"), "cpu-float"))
    with pytest.raises(ValueError, match="leave attention_bits unset"):
        adapted("deberta-v2", hf_mpq.pack(hf_mpq.quantize(tiny_model("deberta-v2"), MPQConfig(attention_bits=8))))


ADAPTER_DAMAGES = {
    "no JSON": ("adapter_config.json", lambda text: b"{", "adapter_config.json is damaged"),
    "a list": ("adapter_config.json", lambda text: b"[]", "adapter_config.json holds a list"),
    "type": ("adapter_config.json", lambda text: text.replace(b'"r": 4', b'"r": "x"'), "does not load"),
    "rank": ("adapter_config.json", lambda text: text.replace(b'"r": 4', b'"r": 2'), "does not load"),
    "layers": ("adapter_config.json", lambda text: text.replace(b'"query"', b'"key"'), "tensors are not in both"),
    "cut": ("adapter_model.safetensors", lambda content: content[:-1], "adapter_model.safetensors is truncated"),
    "nan": ("adapter_model.safetensors", lambda content: content[:-4] + b"\0\0\xc0\x7f", "holds NaN or infinity"),
}


@pytest.fixture(scope="module")
def whole_adapter(tmp_path_factory):
    """A folder, which loads as PEFT loads it."""
    folder = tmp_path_factory.mktemp("adapter")
    adapted().save_pretrained(folder)
    close(outputs(adapted()), outputs(load_adapter(stored_model("packed"), folder)), 1e-5)
    return folder


@pytest.mark.parametrize("case", ADAPTER_DAMAGES)
def test_damaged_adapters(case, whole_adapter, tmp_path):
    """One error, with the file's name."""
    shutil.copytree(whole_adapter, tmp_path, dirs_exist_ok=True)
    name, damage, words = ADAPTER_DAMAGES[case]
    (tmp_path / name).write_bytes(damage((tmp_path / name).read_bytes()))
    with pytest.raises(PackedFormatError, match=words):
        load_adapter(stored_model("packed"), tmp_path)


@pytest.mark.parametrize("family", TARGETS)
def test_peft_asks_by_itself(family, tmp_path):
    """Configs as they come, "all-linear", and adapters that are loaded without a word about packing."""
    model = get_peft_model(stored_model("packed", family), LoraConfig(target_modules="all-linear", task_type="SEQ_CLS"))
    layers = {name for name, _ in matrices(stored_model("packed", family), PackedLinear)}
    assert sum(isinstance(module, PackedLora) for module in model.modules()) == len(layers)
    train(model)
    stored_model("packed", family).save_pretrained(tmp_path / "base")
    model.peft_config["default"].base_model_name_or_path = str(tmp_path / "base")
    model.save_pretrained(tmp_path / "adapter")
    again = PeftModel.from_pretrained(stored_model("packed", family), tmp_path / "adapter")
    close(outputs(model), outputs(again))
    close(outputs(model), outputs(AutoPeftModelForSequenceClassification.from_pretrained(tmp_path / "adapter")))


REFUSED = {
    "biases": (lambda: LoraConfig(target_modules=["query"], bias="all"), "packed biases cannot be trained: leave"),
    "modules": (lambda: LoraConfig(target_modules=["query"], modules_to_save=["pooler"]), "names bert.pooler, whose"),
    "others": (lambda: IA3Config(target_modules=["query"], feedforward_modules=[]), "packed layers take LoRA only"),
    "prompts": (lambda: PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=3), "prompts cannot be learned bef"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_packed_layers_cannot_do_is_one_sentence(case):
    config, text = REFUSED[case]
    with pytest.raises(ValueError, match=text):
        get_peft_model(stored_model("packed"), config())
    if case != "others":
        get_peft_model(tiny_model("bert"), config())


def test_each_row_of_a_batch_has_its_adapter():
    model = adapted(init_lora_weights=False)
    model.add_adapter("other", for_packed(LoraConfig(r=2, target_modules=["key"], init_lora_weights=False)))
    found, batch = {}, tiny_batch()
    for name in ("default", "other"):
        model.set_adapter(name)
        found[name] = model.eval()(**batch).logits
    with model.disable_adapter():
        found["__base__"] = model(**batch).logits
    for names in (["default", "other", "__base__"], ["other", "other", "default"]):
        mixed = model(**batch, adapter_names=names).logits
        torch.testing.assert_close(mixed, torch.stack([found[name][row] for row, name in enumerate(names)]))
    assert differ([found["default"]], [found["other"]], 0.01)


def test_layers_without_the_active_adapter_are_merged_as_they_are(tmp_path):
    model = adapted(init_lora_weights=False)
    model.add_adapter("other", for_packed(LoraConfig(r=2, target_modules=["key"], init_lora_weights=False)))
    model.set_adapter("other")
    before = outputs(model)
    merged = merge_adapters(model)
    close(before, outputs(merged), 0.02)
    merged.save_pretrained(tmp_path)
    close(outputs(merged), outputs(reload(tmp_path)), 1e-6)


VERBS = {
    "save": lambda model, folder: model.save_pretrained(folder),
    "pack": lambda model, folder: hf_mpq.pack(model),
    "unpack": lambda model, folder: hf_mpq.unpack(model),
    "fix": lambda model, folder: hf_mpq.fix(model),
    "dequantize": lambda model, folder: model.dequantize(),
    "quantize": lambda model, folder: hf_mpq.quantize(model, MPQConfig()),
    "compress": lambda model, folder: hf_mpq.compress(model, config=MPQConfig(bits=4)),
    "train": lambda model, folder: hf_mpq.MPQTrainer(model, hf_mpq.MPQTrainingArguments(str(folder / "run"))),
    **{f"export to {name}": lambda model, folder, n=name: hf_mpq.export(model, n, folder / n) for name in EXPORTERS},
}


@pytest.mark.parametrize("storage", ["packed", "trainable"])
@pytest.mark.parametrize("verb", VERBS)
def test_a_model_with_adapters_goes_into_no_other_form(verb, storage, tmp_path):
    """What was saved before stands, and the model works on."""
    model = stored_model(storage)
    model.save_pretrained(tmp_path / "good")
    expected = outputs(model)
    adapter = adapted(model=model, init_lora_weights=False)
    with_it = outputs(adapter)
    for one in (model, adapter) if verb != "save" else (model,):
        with pytest.raises(ValueError, match=r"has an adapter of PEFT, which would be lost.*merge_adapters"):
            VERBS[verb](one, tmp_path / "good")
    close(with_it, outputs(adapter), 1e-6)
    close(expected, outputs(reload(tmp_path / "good")), 1e-6)
    assert {file.name for file in tmp_path.iterdir()} == {"good"}
