"""What users do with a quantized model: pipelines, the Hub, copies, threads, compiling, going back to float."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import PreTrainedTokenizerFast, pipeline

import hf_mpq
from hf_mpq import MPQConfig
from hf_mpq.nn import MPQLinear, PackedLinear
from hf_mpq.nn.matrix import QuantizedMatrix
from hf_mpq.nn.packed import PackedModule
from tests.plugin.models import close, differ, read_config, read_metadata, read_tensors, reload, stored_model
from tests.tiny import MOST, outputs, tiny_batch, tiny_model

STORAGES = ("trainable", "packed")
TEXTS = ["the cat sat", "on the mat mat mat", "sat"]


def save_tokenizer(folder) -> None:
    words = ["[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]", "the", "cat", "sat", "on", "mat"]
    core = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="[PAD]", unk_token="[UNK]", model_input_names=["input_ids", "attention_mask"]
    )
    tokenizer.save_pretrained(folder)


def scores(classify) -> torch.Tensor:
    """Score of the first label for each text, asked one at a time and as a batch."""
    one = [next(part["score"] for part in classify(text, top_k=None) if part["label"] == "LABEL_0") for text in TEXTS]
    many = [
        next(part["score"] for part in parts if part["label"] == "LABEL_0")
        for parts in classify(TEXTS, top_k=None, batch_size=3)
    ]
    torch.testing.assert_close(torch.tensor(one), torch.tensor(many), atol=1e-5, rtol=0)
    return torch.tensor(one)


def test_pipeline_from_a_packed_folder(tmp_path):
    """A path is all that it takes."""
    model = stored_model("packed")
    model.save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    classify = pipeline("text-classification", model=str(tmp_path), device="cpu")
    assert isinstance(classify.model.bert.pooler.dense, PackedLinear)
    with torch.no_grad():
        inputs = classify.tokenizer(TEXTS[:1], return_tensors="pt")
        expected = model(**inputs).logits.softmax(-1)[0, 0]
    torch.testing.assert_close(scores(classify)[0], expected, atol=1e-5, rtol=0)


def test_pipeline_that_quantizes_while_loading(tmp_path):
    """`model_kwargs` passes a config to `from_pretrained`."""
    tiny_model("bert").save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    plain = pipeline("text-classification", model=str(tmp_path), device="cpu")
    options = {"quantization_config": MPQConfig(bits=2, groups=10)}
    quantized = pipeline("text-classification", model=str(tmp_path), device="cpu", model_kwargs=options)
    assert isinstance(quantized.model.bert.pooler.dense, MPQLinear)
    assert differ([scores(plain)], [scores(quantized)], 0)
    torch.testing.assert_close(
        scores(quantized), scores(pipeline("text-classification", model=quantized.model, tokenizer=quantized.tokenizer))
    )


@pytest.mark.full
@pytest.mark.parametrize("storage", STORAGES)
def test_compiled_model(storage):
    """`torch.compile` gives what the model gives."""
    model = hf_mpq.quantize(tiny_model("bert", num_hidden_layers=1), MPQConfig(bits=4, groups=10))
    model = hf_mpq.pack(model) if storage == "packed" else model
    expected = outputs(model)
    with torch.no_grad():
        found = torch.compile(model, backend="aot_eager")(**tiny_batch()).logits
    close(expected, [found])


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("family", MOST)
def test_back_to_float(family, storage, tmp_path):
    """`dequantize` gives a plain model with the quantized values, which saves, loads and trains as any other."""
    model = stored_model(storage, family, "masked", activation_bits=None)
    model.save_pretrained(tmp_path / "quantized")
    expected = outputs(model)
    plain = reload(tmp_path / "quantized", "masked").dequantize()
    assert not any(isinstance(module, QuantizedMatrix | PackedModule) for module in plain.modules())
    plain.save_pretrained(tmp_path / "plain")
    assert "quantization_config" not in read_config(tmp_path / "plain")
    again = reload(tmp_path / "plain", "masked")
    close(expected, outputs(plain))
    close(expected, outputs(again))
    assert again.get_output_embeddings().weight is again.get_input_embeddings().weight
    again(**tiny_batch()).logits.sum().backward()
    assert type(again.get_input_embeddings()) is nn.Embedding


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_back_to_half_precision(dtype):
    """`dequantize(dtype=)` gives every layer that type."""
    plain = stored_model("packed").to(dtype).dequantize(dtype=dtype)
    assert {parameter.dtype for parameter in plain.parameters()} == {dtype}
    assert outputs(plain)[0].isfinite().all()


def by_pickle(model):
    return pickle.loads(pickle.dumps(model))


@pytest.mark.parametrize("duplicate", [copy.deepcopy, by_pickle], ids=["deepcopy", "pickle"])
@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("family", ["bert", "albert", "deberta-v2", "modernbert"])
def test_copies(family, storage, duplicate, tmp_path):
    """Copies compute and save the same, and share nothing with the original, ties included."""
    model = stored_model(storage, family, "masked", attention_bits=8)
    expected, other = outputs(model), duplicate(model)
    decoder = other.get_output_embeddings()
    assert decoder.embedding is other.get_input_embeddings() is not model.get_input_embeddings()
    for tensor in model.state_dict().values():
        tensor.zero_()
    close(expected, outputs(other), 0)
    other.save_pretrained(tmp_path)
    close(expected, outputs(reload(tmp_path, "masked")), 0)
    if storage == "trainable":
        close(expected, outputs(hf_mpq.pack(other)))


def test_copy_trains_alone():
    """A teacher is a copy: training one leaves the other."""
    model = stored_model("trainable", quantizer="lsq")
    teacher = copy.deepcopy(model)
    expected = outputs(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    model(**tiny_batch(), labels=torch.tensor([0, 1, 0])).loss.backward()
    optimizer.step()
    assert differ(expected, outputs(model))
    close(expected, outputs(teacher), 0)


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("head", ["sequence", "masked"])
def test_saving_twice(storage, head, tmp_path):
    """Saving changes nothing: into the same folder, into another, and after loading."""
    model = stored_model(storage, head=head)
    model.save_pretrained(tmp_path / "first")
    saved = [(read_config(tmp_path / "first"), read_metadata(tmp_path / "first"), read_tensors(tmp_path / "first"))]
    for name in ("first", "second"):
        model.save_pretrained(tmp_path / name)
    reload(tmp_path / "second", head).save_pretrained(tmp_path / "third")
    for name in ("first", "second", "third"):
        saved.append((read_config(tmp_path / name), read_metadata(tmp_path / name), read_tensors(tmp_path / name)))
    for config, metadata, tensors in saved[1:]:
        assert (config, metadata, tensors.keys()) == (*saved[0][:2], saved[0][2].keys())
        assert all(torch.equal(value, saved[0][2][name]) for name, value in tensors.items())


def test_packing_a_loaded_checkpoint_over_itself(tmp_path):
    """Load, pack and save into the folder that was loaded from."""
    model = stored_model("trainable")
    model.save_pretrained(tmp_path)
    before = (tmp_path / "model.safetensors").stat().st_size
    hf_mpq.pack(reload(tmp_path)).save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").stat().st_size < before / 2
    close(outputs(model), outputs(reload(tmp_path)))


@pytest.mark.parametrize("storage", STORAGES)
def test_two_threads(storage):
    """Layers keep nothing between calls, so that threads may share a model."""
    model = stored_model(storage, attention_bits=8)
    batches = [{name: value.roll(shift, 0) for name, value in tiny_batch(8, 30).items()} for shift in range(8)]

    def forward(batch):
        with torch.no_grad():
            return model(**batch).logits

    expected = [forward(batch) for batch in batches]
    with ThreadPoolExecutor(2) as pool:
        for _ in range(4):
            close(expected, list(pool.map(forward, batches)), 0)
