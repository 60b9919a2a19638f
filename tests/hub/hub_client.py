"""What users do with the Hub, run in a process of its own with its own environment: `python -m ... <what> <folder>`.

The last line of the output is JSON.
"""

import json
import os
import sys
from pathlib import Path
from subprocess import CompletedProcess

import torch
from transformers import AutoModelForSequenceClassification, pipeline

from tests.processes import run_python

FLOAT, FROM_MODEL, FROM_TRAINER, FROM_FOLDER = (
    "someone/float-bert",
    "someone/from-model",
    "someone/from-trainer",
    "someone/from-folder",
)
TEXT = "a c b"


def run_online(words: list[str], home: Path, endpoint: str, token: str | None) -> CompletedProcess:
    """`python -m words` with a cache in `home`; no variable of the tests keeps it off line."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    settings = {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": "127.0.0.1,localhost",
    }
    settings |= {"HF_TOKEN": token} if token else {}
    return run_python(["-m", *words], {**kept, **settings})


def run_client(what: str, folder: Path, home: Path, endpoint: str, token: str | None) -> dict:
    """The JSON that one of the functions below gives."""
    result = run_online(["tests.hub.hub_client", what, str(folder)], home, endpoint, token)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


@torch.no_grad()
def logits(model) -> list:
    from tests.tiny import tiny_batch

    return model.eval()(**tiny_batch()).logits.tolist()


def push_all(folder: Path) -> dict:
    """A float model by transformers; then from memory, from a trainer and from a folder, compressed from that one."""
    import hf_mpq
    from hf_mpq import hub
    from tests.plugin.test_users import save_tokenizer
    from tests.tiny import tiny_model
    from tests.training.runs import arguments, collate, sentences

    def compressed(bits: int, **options):
        config = hf_mpq.MPQConfig(bits=bits, groups=10, **options)
        return AutoModelForSequenceClassification.from_pretrained(FLOAT, quantization_config=config)

    tiny_model("bert").push_to_hub(FLOAT)
    found = {}
    model = hf_mpq.pack(compressed(4))
    found[FROM_MODEL] = [str(model.push_to_hub(FROM_MODEL, tags=["demo"], license="mit")), logits(model)]
    model = hf_mpq.pack(compressed(3))
    model.save_pretrained(folder / "packed")
    save_tokenizer(folder / "packed")
    address = hub.push(
        folder / "packed",
        FROM_FOLDER,
        private=True,
        commit_message="three bits",
        metrics={"accuracy": 0.8},
        float_metrics={"accuracy": 0.9},
        dataset="nyu-mll/glue",
    )
    found[FROM_FOLDER] = [str(address), logits(model)]
    accuracy = lambda result: {"accuracy": float((result.predictions.argmax(-1) == result.label_ids).mean())}  # noqa: E731
    run = hf_mpq.MPQTrainer(
        compressed(2, method="uniform"),
        arguments(folder / "from-trainer", max_steps=2),
        train_dataset=sentences(32),
        eval_dataset=sentences(16),
        data_collator=collate,
        compute_metrics=accuracy,
    )
    run.train()
    found[FROM_TRAINER] = [str(run.push_to_hub()), logits(run.model)]
    return {**found, "in the background": str(run.push_to_hub(blocking=False).result())}


def push_again(folder: Path) -> dict:
    """Three bits to a branch, and to where four bits are."""
    from hf_mpq import hub

    return {
        "branch": str(hub.push(folder / "packed", FROM_FOLDER, revision="next")),
        "main": str(hub.push(folder / "packed", FROM_MODEL)),
    }


def load_all(folder: Path) -> dict:
    """By name, as readers do."""
    import hf_mpq  # noqa: F401

    found = {
        name: logits(AutoModelForSequenceClassification.from_pretrained(name))
        for name in (FROM_MODEL, FROM_TRAINER, FROM_FOLDER)
    }
    return {**found, "pipeline": pipeline("text-classification", FROM_FOLDER)(TEXT)}


def push_in_vain(folder: Path) -> dict:
    """The errors of tokens and names."""
    from hf_mpq import hub

    def error(name: str, **options) -> list[str]:
        try:
            return ["none", str(hub.push(folder / "packed", name, **options))]
        except (OSError, ValueError) as error:
            return [type(error).__name__, str(error)]

    return {
        "no token": error(FROM_FOLDER),
        "wrong token": error(FROM_FOLDER, token="hf_wrong"),
        "reader": error(FROM_FOLDER, token="hf_reader"),
        "other owner": error("else/it", token="hf_writer"),
        "name": error("a/b/c", token="hf_writer"),
    }


if __name__ == "__main__":
    actions = {"push": push_all, "again": push_again, "load": load_all, "in-vain": push_in_vain}
    print(json.dumps(actions[sys.argv[1]](Path(sys.argv[2]))))
