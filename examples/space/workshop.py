"""What the Space does: compress a model, and ask it and the float model the same question."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import mkdtemp

import torch
import transformers
from transformers import AutoConfig, AutoModel, AutoTokenizer, pipeline

import hf_mpq  # noqa: F401  before loading: without it transformers would make random weights
from hf_mpq.hub import CardFacts, write_card

MOST_PARAMETERS = int(os.environ.get("MOST_PARAMETERS", 400_000_000))
"""Of a model that is taken; `compress` needs about 16 bytes for each."""
LONGEST_ANSWER = 30
"""Tokens of the context that may be an answer to a question."""
WITHOUT_TEXTS = ("--scorer", "distribution", "--rounding", "nearest")
"""Parts of `hf-mpq compress` that look at weights only."""
SHARED = "SPACE_ID" in os.environ
"""Whether this runs on the Hub, for everybody: then only models of the Hub are taken, no folders."""


class Refused(ValueError):
    """What was typed cannot be done; the message says how to put it right."""


@dataclass(frozen=True)
class Made:
    """A compressed model, and where it came from.

    Attributes:
        source: folder or Hub name of the float model.
        folder: of the packed model, with tokenizer, card and picture.
        archive: the folder as a zip file.
        report: what `hf-mpq compress --json` printed: bytes, and bits per weight.
    """

    source: str
    folder: Path
    archive: Path
    report: dict

    @property
    def picture(self) -> Path:
        """The map of bits that is also on the card."""
        return self.folder / "bits.png"

    def sizes(self) -> list[list[str]]:
        """Rows of a table: where, MB before (of the whole), MB after."""
        before, after = self.report["total_bytes"] / self.report["ratio"], self.report["total_bytes"]
        parts = {"encoder": "encoder_bytes", "embeddings": "embedding_bytes", "head": "head_bytes"}
        rows = [[part, "", _megabytes(self.report[key])] for part, key in parts.items()]
        return [["whole model", _megabytes(before), _megabytes(after)], *rows]

    @cached_property
    def both(self) -> "tuple[Reader, Reader]":
        """The float model and the small one, loaded once."""
        return Reader(self.source), Reader(str(self.folder))

    def answers(self, text: str, other: str = "") -> tuple[dict[str, float], dict[str, float]]:
        """What the float model and the small one say of the same input.

        Raises:
            Refused: the input is not what the model's head takes.
        """
        if not text.strip():
            raise Refused("write a text first")
        return tuple(reader.answer(text, other) for reader in self.both)

    def forget(self) -> None:
        """Delete the files."""
        shutil.rmtree(self.folder.parent, ignore_errors=True)


def compress(source: str, budget: str, texts: str = "") -> Made:
    """Compress a float model by `hf-mpq compress`, in a process of its own.

    Args:
        source: a folder, or a name on the Hub.
        budget: such as `25%`, `12MB` or `2.5bits`.
        texts: inputs to calibrate on, one a line; none: bits and rounding are found from the weights alone.

    Raises:
        Refused: the command's own line where it cannot.
    """
    source, budget, lines = source.strip(), budget.strip(), [line for line in texts.splitlines() if line.strip()]
    _check(source, budget)
    scratch = Path(mkdtemp(prefix="small-"))
    try:
        folder, rows = scratch / "packed", scratch / "rows.txt"
        rows.write_text("\n".join(lines), encoding="utf-8")
        calibration = ("--data", str(rows)) if lines else WITHOUT_TEXTS
        words = ("compress", source, "--out", str(folder), f"--budget={budget}", "--json", *calibration)
        report = json.loads(run(*words))
        write_card(folder, CardFacts(base_model=None if Path(source).exists() else source))
        archive = shutil.make_archive(str(scratch / f"{Path(source).name}-small"), "zip", folder)
        return Made(source, folder, Path(archive), report)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise


def run(*words: str) -> str:
    """What `hf-mpq` prints.

    Raises:
        Refused: it fails; with its line.
    """
    done = subprocess.run([sys.executable, "-m", "hf_mpq.cli.main", *words], capture_output=True, text=True)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")] or done.stderr.splitlines()[
            -1:
        ]
        raise Refused(lines[-1].removeprefix("error: ") if lines else f"hf-mpq ended with {done.returncode}")
    return done.stdout


def _check(source: str, budget: str) -> None:
    if not source or source.startswith("-"):
        raise Refused("name a model: a folder here, or one on the Hub such as owner/name")
    if not budget:
        raise Refused("say how small: 25%, 12MB or 2.5bits")
    if SHARED and (Path(source).exists() or source.startswith((".", "/", "~"))):
        raise Refused("here only models on the Hub are taken, such as owner/name; run the app at home for a folder")
    try:
        config = AutoConfig.from_pretrained(source)
        with torch.device("meta"):
            count = sum(one.numel() for one in AutoModel.from_config(config).parameters())
    except (OSError, ValueError) as error:
        raise Refused(f"transformers finds no model in {source}: {str(error).splitlines()[0]}") from error
    if count > MOST_PARAMETERS:
        raise Refused(
            f"{source} has {count / 1e6:.0f} million parameters, and here at most {MOST_PARAMETERS / 1e6:.0f}"
        )


def _megabytes(count: float) -> str:
    return f"{count / 1e6:.2f} MB"


class Reader:
    """A model of a folder or of the Hub, and what it says of a text.

    Args:
        source: of the model and its tokenizer.
    """

    def __init__(self, source: str):
        name = AutoConfig.from_pretrained(source).architectures[0]
        self.model = getattr(transformers, name).from_pretrained(source).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(source)
        kinds = ("SequenceClassification", "TokenClassification", "QuestionAnswering", "MaskedLM")
        self.kind = next((kind for kind in kinds if name.endswith(f"For{kind}")), None)

    def answer(self, text: str, other: str) -> dict[str, float]:
        """Labels, words or spans to their probability; of an encoder without a head how alike the two texts are."""
        answer = {
            "SequenceClassification": self._labels,
            "TokenClassification": self._tags,
            "QuestionAnswering": self._spans,
            "MaskedLM": self._words,
        }
        with torch.inference_mode():
            return answer.get(self.kind, self._likeness)(text, other)

    def _labels(self, text: str, other: str) -> dict[str, float]:
        found = self._pipeline("text-classification")(
            {"text": text, **({"text_pair": other} if other else {})}, top_k=None
        )
        return {one["label"]: one["score"] for one in found}

    def _tags(self, text: str, other: str) -> dict[str, float]:
        found = self._pipeline("token-classification")(text, aggregation_strategy="simple")
        return {f"{one['word']} ({one['entity_group']})": float(one["score"]) for one in found} or {
            "nothing is tagged": 1.0
        }

    def _words(self, text: str, other: str) -> dict[str, float]:
        if text.count(self.tokenizer.mask_token) != 1:
            raise Refused(f"put one {self.tokenizer.mask_token} where the word is to be guessed")
        return {one["token_str"]: one["score"] for one in self._pipeline("fill-mask")(text)}

    def _spans(self, text: str, other: str) -> dict[str, float]:
        """The three likeliest spans of the context; transformers 5 has no pipeline for it."""
        if not other.strip():
            raise Refused("write the question first, and the text that has the answer in the second field")
        inputs = self.tokenizer(text, other, truncation="only_second", return_tensors="pt", return_offsets_mapping=True)
        places, parts = inputs.pop("offset_mapping")[0].tolist(), inputs.sequence_ids(0)
        found = self.model(**inputs)
        inside = torch.tensor([part == 1 for part in parts])
        logits = (found.start_logits[0], found.end_logits[0])
        start, end = (one.masked_fill(~inside, -torch.inf).log_softmax(-1) for one in logits)
        short = torch.ones(len(parts), len(parts)).triu().tril(LONGEST_ANSWER - 1).bool()
        spans = (start[:, None] + end).masked_fill(~short, -torch.inf)
        best = spans.flatten().topk(min(3, spans.numel()))
        pairs = [divmod(one, len(parts)) for one in best.indices.tolist()]
        scores = best.values.exp().tolist()
        return {other[places[a][0] : places[b][1]]: score for (a, b), score in reversed([*zip(pairs, scores)])}

    def _likeness(self, text: str, other: str) -> dict[str, float]:
        if not other.strip():
            raise Refused("this model makes vectors: write a second text, to see how alike it finds the two")
        inputs = self.tokenizer([text, other], padding=True, truncation=True, return_tensors="pt")
        hidden, mask = self.model(**inputs)[0], inputs["attention_mask"][:, :, None]
        means = (hidden * mask).sum(1) / mask.sum(1)
        return {"cosine of the means": float(torch.cosine_similarity(means[0], means[1], dim=0))}

    def _pipeline(self, task: str):
        return pipeline(task, model=self.model, tokenizer=self.tokenizer)
