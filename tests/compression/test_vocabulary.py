"""Unused tokens leave the word table and the tokenizer, texts of the corpus do not notice, and all of it is undone."""

import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

import hf_mpq
from hf_mpq import MPQConfig
from hf_mpq.compression.vocabulary import PrunedVocabulary, prune_vocabulary, restore_vocabulary
from tests.tiny import tiny_model

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
UNSEEN = ["Zebras quickly juxtapose; 1984!", "q"]


def byte_pairs(texts):
    """A byte-level tokenizer with pairs of a token and its id in the post-processor, like RoBERTa's."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=1500,
        special_tokens=SPECIAL,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return tokenizer


def unigrams(texts):
    """Like XLM-RoBERTa's and DeBERTa-v3's."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=600, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    special = [("<s>", 0), ("</s>", 2)]
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=special)
    return tokenizer


@pytest.fixture(scope="module", params=["WordPiece", "BPE", "Unigram"])
def texts_and_tokenizer(request, tokenizer, docstrings):
    texts = list(docstrings["train"]["text"][:400])
    if request.param == "WordPiece":
        return texts, tokenizer
    build = {"BPE": byte_pairs, "Unigram": unigrams}[request.param]
    names = dict(zip(("bos_token", "pad_token", "eos_token", "unk_token", "mask_token"), SPECIAL))
    return texts, PreTrainedTokenizerFast(tokenizer_object=build(texts), **names, cls_token="<s>", sep_token="</s>")


def model_for(tokenizer, head="bare", family="bert"):
    ids = {"pad_token_id": tokenizer.pad_token_id, "bos_token_id": None, "eos_token_id": None}
    return tiny_model(family, head, vocab_size=len(tokenizer) + 3, **ids)


@torch.no_grad()
def answers(model, tokenizer, texts):
    return model(**tokenizer(texts, return_tensors="pt", padding=True, truncation=True, max_length=32))[0]


def test_the_corpus_is_read_as_before(texts_and_tokenizer):
    texts, tokenizer = texts_and_tokenizer
    corpus, model = texts[:40], model_for(tokenizer)
    before, ids = answers(model, tokenizer, corpus[:4]), tokenizer(corpus)["input_ids"]
    full = tokenizer.backend_tokenizer.to_str()
    model, smaller, pruned = prune_vocabulary(model, tokenizer, corpus)
    rows = model.get_input_embeddings().num_embeddings
    assert rows == len(smaller) == len(pruned.kept) == model.config.vocab_size < 0.9 * len(tokenizer)
    assert [[pruned.kept[one] for one in row] for row in smaller(corpus)["input_ids"]] == ids
    torch.testing.assert_close(answers(model, smaller, corpus[:4]), before, atol=1e-6, rtol=0)
    assert model.config.pad_token_id == smaller.pad_token_id and model.get_input_embeddings().padding_idx is not None
    assert tokenizer.backend_tokenizer.to_str() == full, "the tokenizer that was given is as it was"


def test_every_text_can_still_be_tokenized(texts_and_tokenizer):
    texts, tokenizer = texts_and_tokenizer
    _, smaller, _ = prune_vocabulary(model_for(tokenizer), tokenizer, texts[:3])
    for text in [*texts[3:200], *UNSEEN]:
        unknown = tokenizer(text)["input_ids"].count(tokenizer.unk_token_id)
        found = smaller(text)["input_ids"]
        assert found.count(smaller.unk_token_id) == unknown, text
        assert spelled(smaller, found) == spelled(tokenizer, tokenizer(text)["input_ids"])


def spelled(tokenizer, ids):
    return "".join(token.removeprefix("##") for token in tokenizer.convert_ids_to_tokens(ids))


def test_it_is_undone_after_saving(texts_and_tokenizer, tmp_path):
    texts, tokenizer = texts_and_tokenizer
    model = model_for(tokenizer, "masked")
    before, table = answers(model, tokenizer, texts[:4]), model.get_input_embeddings().weight.detach().clone()
    config = {key: value for key, value in model.config.to_dict().items() if key.endswith("_token_id")}
    model, smaller, pruned = prune_vocabulary(model, tokenizer, texts[:40])
    torch.testing.assert_close(answers(model, smaller, texts[:4]), before[..., list(pruned.kept)], atol=1e-5, rtol=0)
    pruned.save(tmp_path)
    smaller.save_pretrained(tmp_path)
    again = type(smaller).from_pretrained(tmp_path)
    assert again(texts[:40])["input_ids"] == smaller(texts[:40])["input_ids"]
    loaded = PrunedVocabulary.load(tmp_path)
    restored, full = restore_vocabulary(model, loaded, table)
    assert full(texts[100:120])["input_ids"] == tokenizer(texts[100:120])["input_ids"]
    kept = list(pruned.kept)
    torch.testing.assert_close(answers(restored, full, texts[:4])[..., kept], before[..., kept], atol=1e-5, rtol=0)
    assert torch.equal(restored.get_input_embeddings().weight, table)
    assert {key: value for key, value in restored.config.to_dict().items() if key.endswith("_token_id")} == config


def test_dropped_rows_come_back_as_zeros_of_a_packed_model(texts_and_tokenizer):
    texts, tokenizer = texts_and_tokenizer
    model, smaller, pruned = prune_vocabulary(model_for(tokenizer), tokenizer, texts[:40])
    hf_mpq.pack(hf_mpq.quantize(model, MPQConfig(bits=4, groups=10, activation_bits=None)))
    answer = answers(model, smaller, texts[:4])
    with pytest.raises(ValueError, match=r"call model.dequantize\(\) first"):
        restore_vocabulary(model, pruned)
    restored, full = restore_vocabulary(model.dequantize(), pruned)
    torch.testing.assert_close(answers(restored, full, texts[:4]), answer, atol=1e-5, rtol=0)
    dropped = torch.ones(pruned.size, dtype=torch.bool).index_fill(0, torch.tensor(pruned.kept), False)
    table = restored.get_input_embeddings().weight
    assert len(table) == pruned.size and dropped.sum() > 10 and not table[dropped].any()


def test_refusals(tokenizer):
    quantized = hf_mpq.quantize(model_for(tokenizer), MPQConfig(bits=4))
    with pytest.raises(ValueError, match="prune the float model, then quantize it"):
        prune_vocabulary(quantized, tokenizer, ["a"])
    words = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, "[UNK]")))
    with pytest.raises(ValueError, match="WordLevel tokenizer cannot be pruned"):
        prune_vocabulary(model_for(words), words, ["a"])
    _, _, pruned = prune_vocabulary(model_for(tokenizer), tokenizer, ["a"])
    with pytest.raises(ValueError, match="belongs to another model"):
        restore_vocabulary(model_for(tokenizer), pruned)
