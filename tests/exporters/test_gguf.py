"""GGUF files, read by `gguf` and run by llama.cpp."""

import json
import math
import re
import sys
from pathlib import Path
from subprocess import run

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
from transformers import CONFIG_MAPPING, BertTokenizerFast, PreTrainedTokenizerFast

import hf_mpq
from hf_mpq.exporters.base import unmet
from hf_mpq.exporters.gguf_blocks import TYPES, block_type, packed_rows
from hf_mpq.exporters.gguf_tokens import PATTERNS
from tests.exporters import llama_cpp
from tests.tiny import VOCABULARY, tiny_model

if unmet("gguf"):
    pytest.skip(unmet("gguf"), allow_module_level=True)
import gguf

LETTERS = "abcdefghijklmnopqrstuvwxyz"
LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}
IDS = [[5, 6, 7, 8, 9, 10], [20, 21, 33, 41]]


def word_pieces(small: bool = True) -> BertTokenizerFast:
    """As many tokens as tiny models have rows."""
    pieces = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *LETTERS,
        *(f"##{one}" for one in LETTERS),
        "list",
        "A",
        "é",
    ]
    pieces += [f"word{number}" for number in range(VOCABULARY - len(pieces))]
    return BertTokenizerFast(vocab={piece: number for number, piece in enumerate(pieces)}, do_lower_case=small)


def packed(family="bert", head="bare", changes=None, **fields):
    config = hf_mpq.MPQConfig(**{"bits": 4, "activation_bits": None, **fields})
    return hf_mpq.pack(hf_mpq.quantize(tiny_model(family, head, **(changes or {})), config)).eval()


def tensors(folder: Path) -> dict:
    return {one.name: one for one in gguf.GGUFReader(folder / "model.gguf").tensors}


def answers(folder: Path, given: list) -> list[torch.Tensor]:
    """What llama.cpp makes of token ids or texts."""
    pytest.importorskip("xllamacpp", reason="pip install xllamacpp")
    command = [sys.executable, llama_cpp.__file__, str(folder / "model.gguf")]
    done = run(command, input=json.dumps(given), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    flat = (one[0] if isinstance(one[0], list) else one for one in found)
    return [torch.tensor([math.nan if value is None else value for value in one]) for one in flat]


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: f"{kind.name}-{kind.low}")
def test_every_block_type_holds_its_levels(kind):
    random = np.random.default_rng(0)
    levels = random.integers(kind.low, kind.high + 1, (3, 2 * kind.block))
    if kind.step == 2:
        levels = levels // 2 * 2 + 1
    levels[:, :2] = kind.low, kind.high
    scale = random.uniform(0.001, 0.1, 3).astype(np.float16).astype(np.float32)
    offset = (scale * random.integers(-9, 9, 3)).astype(np.float32) if kind.offset else None
    levels = levels.astype(np.int8)
    assert block_type(levels, offset) is kind
    found = gguf.quants.dequantize(packed_rows(kind, levels, scale, offset), gguf.GGMLQuantizationType[kind.name])
    want = levels * scale[:, None] + (0 if offset is None else offset[:, None])
    assert_allclose(found, want, rtol=0, atol=2e-3 * np.abs(want).max() if kind.offset else 1e-7)


def test_what_no_type_holds():
    assert block_type(np.zeros((2, 31), np.int8), None) is None
    assert block_type(np.array([[-128, *[127] * 31]], np.int8), np.ones(1, np.float32)) is None


@pytest.mark.parametrize(
    "fields, names",
    [
        ({"bits": 8}, "F16 Q8_0"),
        ({"bits": 2, "rules": {"intermediate": {"bits": 4}}}, "F16 Q4_0"),
        ({"bits": 4, "quantizer": "minmax"}, "F16 Q4_1"),
        ({"bits": 4, "groups": "columns:4"}, "F16 Q8_0"),
        pytest.param({"bits": 4, "low_rank": 2}, "F16 Q8_0", marks=pytest.mark.full),
    ],
    ids=str,
)
def test_weights_are_the_packed_ones(fields, names, tmp_path):
    model = packed(head="sequence", **fields)
    found = tensors(hf_mpq.export(model, "gguf", tmp_path))
    weights = {
        name: module.weight for name, module in model.named_modules() if isinstance(module, hf_mpq.nn.PackedLinear)
    }
    for here, there in (("query", "attn_q"), ("intermediate.dense", "ffn_up")):
        want = next(
            value for name, value in weights.items() if f"layer.1.{'attention.self.' * (here == 'query')}{here}" in name
        )
        got = found[f"blk.1.{there}.weight"]
        values = gguf.quants.dequantize(got.data, got.tensor_type)
        assert_allclose(values, want.numpy(), rtol=0, atol=0.005 * float(want.abs().max()))
    kinds = {
        one.tensor_type.name
        for name, one in found.items()
        if re.search(r"(attn_[qkv]|attn_output|ffn_\w+)\.weight", name)
    }
    assert kinds == {*names.split()}
    assert len(found) == 2 * 16 + 5 + 4


LONGER = [*IDS, list(range(5, 36))]
"""The last is longer than the windows of the tiny ModernBERT."""


@pytest.mark.parametrize(
    "family, head, changes",
    [
        ("bert", "bare", {}),
        pytest.param("roberta", "bare", {}, marks=pytest.mark.full),
        pytest.param("distilbert", "bare", {}, marks=pytest.mark.full),
        ("modernbert", "bare", {"num_hidden_layers": 4}),
        ("nomic_bert", "bare", {}),
        ("eurobert", "bare", {}),
        pytest.param("bert", "sequence", {}, marks=pytest.mark.full),
        ("roberta", "sequence", {}),
        ("modernbert", "sequence", {"classifier_pooling": "cls"}),
        pytest.param("modernbert", "sequence", {"classifier_pooling": "mean"}, marks=pytest.mark.full),
        pytest.param("modernbert", "bare", {"hidden_activation": "silu"}, marks=pytest.mark.full),
    ],
    ids=str,
)
def test_llama_cpp_answers_as_the_model(family, head, changes, tmp_path):
    if family not in CONFIG_MAPPING:
        pytest.skip(f"this transformers has no {family}")
    classified = head == "sequence"
    model = packed(family, head, changes | ({"num_labels": 3} if classified else {}), bits=8)
    folder = hf_mpq.export(
        model, "gguf", tmp_path / "out", tokenizer=word_pieces(), pooling=None if classified else "mean"
    )
    for ids, found in zip(LONGER, answers(folder, LONGER)):
        with torch.no_grad():
            output = model(input_ids=torch.tensor([ids]))
        want = output.logits[0] if classified else output.last_hidden_state[0].mean(0)
        found = found[: len(want)]
        assert float((found - want).abs().max()) < 0.05 * max(float(want.abs().max()), 0.5)
        assert classified or torch.cosine_similarity(found, want, dim=0) > 0.999


@pytest.mark.parametrize("small", [True, False])
def test_texts_are_cut_as_by_the_tokenizer(small, tmp_path):
    model, tokenizer = packed(changes={"num_hidden_layers": 1}), word_pieces(small)
    folder = hf_mpq.export(model, "gguf", tmp_path, tokenizer=tokenizer, pooling="cls")
    texts = ["a list, of Lists", "word1 xyz A bé"]
    ids = [tokenizer(text)["input_ids"] for text in texts]
    found = answers(folder, [*texts, *ids])
    for text, given in zip(found[:2], found[2:]):
        assert torch.equal(text, given)


NAMES = {"bos": "<s>", "pad": "<pad>", "eos": "</s>", "unk": "<unk>", "mask": "<mask>", "cls": "<s>", "sep": "</s>"}


def finished(backend: Tokenizer, around: str = "<s> $A </s>") -> PreTrainedTokenizerFast:
    special = [(one, backend.token_to_id(one)) for one in ("<s>", "</s>")]
    backend.post_processor = processors.TemplateProcessing(single=around, special_tokens=special)
    names = {f"{name}_token": token for name, token in NAMES.items() if backend.token_to_id(token) is not None}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **names)


def byte_pairs(cut=None, around: str = "<s> $A </s>", spaced: bool = False) -> PreTrainedTokenizerFast:
    pieces = [*LETTERS, *"0123456789", "Ġ", ".", "li", "Ġli", "12", "34", "1234"]
    vocabulary = {piece: number for number, piece in enumerate(["<s>", "<pad>", "</s>", "<unk>", "<mask>", *pieces])}
    backend = Tokenizer(models.BPE(vocabulary, [("l", "i"), ("Ġ", "li"), ("1", "2"), ("3", "4"), ("12", "34")]))
    levels = pre_tokenizers.ByteLevel(add_prefix_space=spaced, use_regex=cut is None)
    split = [] if cut is None else [pre_tokenizers.Split(Regex(cut), "isolated")]
    backend.pre_tokenizer = pre_tokenizers.Sequence([*split, levels])
    return finished(backend, around)


def as_llama_3() -> PreTrainedTokenizerFast:
    """As EuroBERT: numbers are cut after three digits, and texts have no first token."""
    return byte_pairs(next(iter(PATTERNS)), "$A </s>")


def unigrams() -> PreTrainedTokenizerFast:
    pieces = [
        ("<s>", 0.0),
        ("<pad>", 0.0),
        ("</s>", 0.0),
        ("<unk>", 0.0),
        ("▁", -2.0),
        *((one, -3.0) for one in LETTERS),
        ("▁li", -2.5),
    ]
    backend = Tokenizer(models.Unigram(pieces, unk_id=3))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    return finished(backend)


@pytest.mark.parametrize("made", [byte_pairs, as_llama_3, unigrams])
def test_other_vocabularies(made, tmp_path):
    model, tokenizer = packed("roberta", changes={"num_hidden_layers": 1}), made()
    folder = hf_mpq.export(model, "gguf", tmp_path, tokenizer=tokenizer, pooling="mean")
    text = "a list of lists" if made is unigrams else "a list of 1234 lists"
    found = answers(folder, [text, tokenizer(text)["input_ids"]])
    assert torch.equal(*found)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"cut": r"\p{L}+"}, "a way of cutting texts that llama.cpp does not know: give none, and token ids"),
        ({"spaced": True}, "a space before texts that llama.cpp does not know"),
        ({"around": "<s> <s> $A </s>"}, r"at most one token before and one after a text, this tokenizer \(\[0, 0"),
    ],
    ids=["cut", "space", "around"],
)
def test_a_tokenizer_that_llama_cpp_does_not_have_is_refused(changes, words, tmp_path):
    model = packed("roberta", changes={"num_hidden_layers": 1})
    with pytest.raises(ValueError, match=words):
        hf_mpq.export(model, "gguf", tmp_path / "out", tokenizer=byte_pairs(**changes))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "family, head, changes, words",
    [
        ("deberta-v2", "sequence", {}, "gguf is written for bert, .*this is 'deberta-v2': export it as 'onnx'"),
        ("bert", "token", {}, "no head for BertForTokenClassification.*export it as 'onnx'.*its encoder alone"),
        ("distilbert", "sequence", {}, "llama.cpp has tanh in classifiers, this model has relu: export it as"),
        ("bert", "sequence", {"hidden_act": "relu"}, "with gelu only, this model has 'relu': export it as"),
        ("modernbert", "token", {}, "no head for ModernBertForTokenClassification, only classifiers of texts"),
        ("modernbert", "sequence", {"classifier_bias": True}, "no bias in the first layer of classifiers"),
        ("modernbert", "bare", {"hidden_activation": "relu"}, "with gelu or silu only, this model has 'relu'"),
        ("modernbert", "bare", {"mlp_bias": True}, "'modern-bert' has no biases, as this model has: export"),
        ("modernbert", "bare", {"layer_types": ["sliding_attention"] * 2}, "has no such pattern of windows"),
        ("nomic_bert", "sequence", {}, "nor any other for this family"),
        ("nomic_bert", "bare", {"head_dim": 16}, "'nomic-bert' has no heads of such a size"),
        ("eurobert", "bare", {"rope_parameters": LINEAR}, "no positions of the kind 'linear', as this model has"),
    ],
)
def test_what_llama_cpp_does_not_run_is_refused(family, head, changes, words, tmp_path):
    if family not in CONFIG_MAPPING:
        pytest.skip(f"this transformers has no {family}")
    with pytest.raises(ValueError, match=words):
        hf_mpq.export(packed(family, head, changes), "gguf", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_tokenizer_of_another_model_is_refused(tmp_path, tokenizer):
    with pytest.raises(ValueError, match="2000 tokens and the word table 97 rows: give the model's own"):
        hf_mpq.export(packed(), "gguf", tmp_path / "out", tokenizer=tokenizer)
