"""Names of tensors in files: transformers renames, joins and splits weights on their way from and to a float file."""

import pytest
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import CONFIG_MAPPING

import hf_mpq
from hf_mpq import MPQConfig
from hf_mpq.format import PackedFormatError
from tests.plugin.models import as_version_1, close, differ, read_metadata, read_tensors, reload, write_tensors
from tests.plugin.test_unknown_families import SIZES
from tests.tiny import FAMILIES, HEADS, outputs, tiny_batch, tiny_model

RENAMED = {
    "nomic_bert": {},
    "gte": {},
    "jina_embeddings_v3": {},
    "ultrabert": {},
    "esm": {"position_embedding_type": "rotary", "mask_token_id": 3},
}
"""Families whose weights have other names in the file than in the model."""
UNEVEN = MPQConfig(bits=4, groups=4, rules={"(query|key|q_proj|k_proj)": {"bits": 3}})


def renamed_model(kind: str, head: str):
    if kind not in CONFIG_MAPPING:
        pytest.skip(f"this version of transformers has no {kind}")
    model = HEADS[head].from_config(CONFIG_MAPPING[kind](**SIZES, **RENAMED[kind])).eval()
    for parameter in model.parameters():
        if parameter.dim() == 2:
            nn.init.normal_(parameter, std=0.15)
    return model


def in_storage(model, storage: str):
    return hf_mpq.pack(model) if storage == "packed" else model


@pytest.mark.parametrize("storage", ["trainable", "packed"])
@pytest.mark.parametrize("head", ["bare", "masked"])
@pytest.mark.parametrize("kind", RENAMED)
def test_both_storages_keep_the_names_of_the_model(kind, head, storage, tmp_path):
    """Loaded from a float file or made in memory; saved, loaded, and saved again."""
    float_model = renamed_model(kind, head)
    float_model.save_pretrained(tmp_path / "float")
    in_memory = hf_mpq.quantize(float_model, UNEVEN)
    from_file = reload(tmp_path / "float", head, quantization_config=UNEVEN)
    for model in (from_file, in_memory):
        model = in_storage(model, storage)
        before = outputs(model)
        model.save_pretrained(tmp_path / "first")
        again = reload(tmp_path / "first", head)
        close(before, outputs(again), 0 if storage == "trainable" else 1e-5)
        again.save_pretrained(tmp_path / "second")
        close(before, outputs(reload(tmp_path / "second", head)), 0 if storage == "trainable" else 1e-5)
        assert set(read_tensors(tmp_path / "second")) <= set(model.state_dict())


@pytest.mark.parametrize("kind", RENAMED)
def test_a_float_model_of_it_goes_back_to_the_names_of_the_file(kind, tmp_path):
    """After `dequantize`, and by the dense export: what other libraries read."""
    model = renamed_model(kind, "bare")
    model.save_pretrained(tmp_path / "float")
    packed = hf_mpq.pack(reload(tmp_path / "float", "bare", quantization_config=MPQConfig(bits=8)))
    packed.save_pretrained(tmp_path / "packed")
    before = outputs(packed)
    hf_mpq.export(packed, "dense", tmp_path / "dense")
    packed.dequantize().save_pretrained(tmp_path / "plain")
    for folder in ("dense", "plain"):
        assert set(read_tensors(tmp_path / folder)) == set(read_tensors(tmp_path / "float"))
        assert not differ(before, outputs(reload(tmp_path / folder, "bare")), 0.3)


def old_names(folder) -> int:
    """Give a file the names that early checkpoints have for normalisations; how many it changed."""
    tensors, metadata = read_tensors(folder), read_metadata(folder)
    new = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
        for name, value in tensors.items()
    }
    write_tensors(folder, new, metadata)
    return len(set(new) - set(tensors))


@pytest.mark.parametrize("family", FAMILIES)
def test_gamma_and_beta(family, tmp_path):
    """bert-base-uncased's own names, and those of whatever was fine-tuned from it; also where a norm stays float."""
    tiny_model(family).save_pretrained(tmp_path / "float")
    if not old_names(tmp_path / "float"):
        pytest.skip("its normalisations are not called LayerNorm")
    for storage, options in (("trainable", {}), ("packed", {}), ("packed", {"modules_to_not_convert": ["LayerNorm"]})):
        config = MPQConfig(bits=4, groups=10, **options)
        model = in_storage(reload(tmp_path / "float", quantization_config=config), storage)
        model.save_pretrained(tmp_path / "saved")
        close(outputs(model), outputs(reload(tmp_path / "saved")), 1e-5)


def test_folders_with_old_names_load(tmp_path):
    """Trainable folders that were written with `gamma` and `beta`."""
    model = hf_mpq.quantize(tiny_model("bert"), MPQConfig(bits=4, modules_to_not_convert=["LayerNorm"]))
    for storage in ("trainable", "packed"):
        in_storage(model, storage).save_pretrained(tmp_path)
        as_version_1(tmp_path)
        assert old_names(tmp_path) == 10
        close(outputs(model), outputs(reload(tmp_path)), 1e-5)


def test_training_goes_on_from_stage_to_stage(tmp_path):
    """From a file with old names, and from a checkpoint within a stage."""
    tiny_model("bert").save_pretrained(tmp_path / "float")
    old_names(tmp_path / "float")
    rows = [{**{key: value[0] for key, value in tiny_batch().items()}, "labels": n % 2} for n in range(8)]
    model = reload(tmp_path / "float", quantization_config=MPQConfig(bits=(2, 4), groups=4, method="aq-bert"))
    arguments = hf_mpq.MPQTrainingArguments(
        str(tmp_path / "run"),
        max_steps=4,
        per_device_train_batch_size=4,
        save_steps=1,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
    )
    hf_mpq.MPQTrainer(model, arguments, train_dataset=rows).train()
    for folder in (tmp_path / "run").glob("*/checkpoint-*"):
        assert not any("gamma" in name for name in load_file(folder / "model.safetensors"))
        reload(folder)


def test_what_was_saved_under_other_names_is_told_so(tmp_path):
    hf_mpq.pack(hf_mpq.quantize(tiny_model("bert"), MPQConfig(bits=4))).save_pretrained(tmp_path)
    tensors = {name.replace("attention.self", "attn"): value for name, value in read_tensors(tmp_path).items()}
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    as_version_1(tmp_path)
    with pytest.raises(PackedFormatError, match="under the original checkpoint's names, save it anew"):
        reload(tmp_path)
