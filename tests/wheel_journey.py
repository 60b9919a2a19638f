"""What an installed wheel must do: compress a model, pack it, load it, and answer by the kernel that came with it.

Run by itself, where hf_mpq is installed and nothing else of the repository is: `python wheel_journey.py`.
"""

import json
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

import hf_mpq
from hf_mpq.nn import body_of
from hf_mpq.runtime.native import NativeEncoder, paths

WORDS = ("call", "returns", "raises", "error", "when", "file", "gone", "list", "names", "nothing", "else", "value")
TEXTS = [" ".join(WORDS[number % 7 : number % 7 + 4 + number % 5]) for number in range(32)]


def journey(folder: Path) -> dict:
    """Where the package lies, what ran, and how far its answers are from those of the packed model that decodes.

    Raises:
        AssertionError: a compiler is there, or something else than the kernel ran.
    """
    assert not any(map(shutil.which, ("c++", "g++", "cc", "gcc", "clang"))), "this is about machines without a compiler"
    torch.manual_seed(0)
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *dict.fromkeys(WORDS)]
    tokenizer = BertTokenizerFast(vocab={piece: number for number, piece in enumerate(pieces)})
    config = BertConfig(
        vocab_size=len(pieces), hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=128
    )
    model = BertForSequenceClassification(config).eval()
    small = hf_mpq.compress(model, "40%", TEXTS, tokenizer=tokenizer, rounding="nearest", progress=False)
    hf_mpq.pack(small).save_pretrained(folder)
    packed = BertForSequenceClassification.from_pretrained(folder).eval()
    inputs = tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.inference_mode():
        expected = packed(**inputs).logits
        hf_mpq.prepare(packed, backend="cpu-native")
        found = packed(**inputs).logits
    assert isinstance(body_of(packed), NativeEncoder), f"{type(body_of(packed)).__name__} ran in place of the kernel"
    return {
        "package": hf_mpq.__file__,
        "instructions": paths(),
        "bytes": (folder / "model.safetensors").stat().st_size,
        "distance": float((found - expected).norm() / expected.norm()),
    }


if __name__ == "__main__":
    with TemporaryDirectory() as scratch:
        result = journey(Path(scratch))
    assert result["distance"] < 0.02, result
    print(json.dumps(result))
