# ruff: noqa: E402
"""Digests of what tiny models become: the same seeds give the same packed tensors in every version of the code.

`python -m tests.contracts.stored_results [name ...]` prints them; with `--write` all are kept as what is expected.
Products are done in the one way that all x86 processors share, so that a digest does not depend on the machine.
"""

import os

FIXED = {
    "ATEN_CPU_CAPABILITY": "default",
    "MKL_CBWR": "COMPATIBLE",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "CUDA_VISIBLE_DEVICES": "",
}
"""What the process must be started with."""
if __name__ == "__main__" and any(os.environ.get(name) != value for name, value in FIXED.items()):
    import sys

    os.execvpe(
        sys.executable, [sys.executable, "-m", "tests.contracts.stored_results", *sys.argv[1:]], {**os.environ, **FIXED}
    )

import hashlib
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import transformers
from transformers import BertConfig, BertForSequenceClassification

import hf_mpq

FILE = Path(__file__).with_suffix(".json")
VERSIONS = {"torch": torch.__version__.split("+")[0], "transformers": transformers.__version__}


def model(seed: int = 0) -> BertForSequenceClassification:
    """A tiny classifier with weights from numpy, whose numbers stay the same."""
    config = BertConfig(
        vocab_size=97,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=56,
        max_position_embeddings=40,
    )
    random, found = np.random.default_rng(seed), BertForSequenceClassification(config).eval()
    with torch.no_grad():
        for name, parameter in sorted(found.named_parameters()):
            draw = torch.from_numpy(random.standard_normal(tuple(parameter.shape)).astype(np.float32))
            parameter.copy_(1 + 0.1 * draw if "LayerNorm.weight" in name else 0.15 * draw)
    return found


def rows(count: int = 24) -> list[dict]:
    random = np.random.default_rng(1)
    return [
        {"input_ids": random.integers(3, 97, 12).tolist(), "attention_mask": [1] * 12, "labels": n % 2}
        for n in range(count)
    ]


def digest(packed: torch.nn.Module) -> str:
    """Of all tensors by name."""
    found = hashlib.sha256()
    for name, tensor in sorted(packed.state_dict().items()):
        found.update(name.encode() + tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:16]


def compressed() -> str:
    """`compress` as it comes: Fisher scores, the Lagrangian's assignment, AutoRound."""
    small = hf_mpq.compress(model(), "3bits", rows(), progress=False)
    return digest(hf_mpq.pack(small))


def trained(method: str, budget: str | None) -> str:
    """A short run of a method in stages."""
    quantized = hf_mpq.quantize(model(), hf_mpq.MPQConfig(method=method, budget=budget, groups=8))
    with tempfile.TemporaryDirectory() as folder:
        arguments = hf_mpq.MPQTrainingArguments(
            folder,
            max_steps=12,
            per_device_train_batch_size=4,
            learning_rate=1e-3,
            use_cpu=True,
            report_to=[],
            disable_tqdm=True,
            save_strategy="no",
            selection_examples=4,
            calibration_examples=8,
        )
        trainer = hf_mpq.MPQTrainer(quantized, arguments, train_dataset=rows())
        trainer.train()
        return digest(hf_mpq.pack(trainer.model.cpu()))


RUNS = {
    "mpq": "2.5bits",
    "aq-bert": "2.5bits",
    "uniform": None,
    "vertical": None,
    "fdq": "3bits",
    "weight-coupling": "2.5bits",
}
NAMES = ("compress", *RUNS)


def results(names: Sequence[str] = NAMES) -> dict[str, str]:
    torch.backends.mkldnn.enabled = False
    torch.use_deterministic_algorithms(True)
    return {name: trained(name, RUNS[name]) if name in RUNS else compressed() for name in names}


if __name__ == "__main__":
    named = [word for word in sys.argv[1:] if word != "--write"]
    content = json.dumps({"versions": VERSIONS, "digests": results(named or NAMES)}, indent=1)
    if "--write" in sys.argv:
        FILE.write_text(content + "\n")
    print(content)
