"""What a card remembers from one writing to the next, in a comment at the start of its section."""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open

from ..format.store import digest
from .facts import CardFacts

END = "<!-- end of hf_mpq -->"
SECTION = re.compile(r"<!-- hf_mpq ([^\n]*) -->\n.*?" + re.escape(END), re.DOTALL)
_OF_WEIGHTS = ("command", "metrics", "float_metrics", "dataset", "dataset_config", "dataset_split")


@dataclass(frozen=True)
class Memory:
    """What the card said before.

    Attributes:
        facts: that still hold.
        stale: scores that it listed and that are not known to hold: name to value.
    """

    facts: CardFacts
    stale: dict[str, float]


def fingerprint(folder: Path) -> str:
    """Changes when the tensors do; the bytes of a file also change with the order of its metadata, which is random."""
    found = hashlib.sha256()
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(str(file), framework="pt") as content:
            for name in sorted(content.keys()):
                found.update(f"{name} {digest(content.get_tensor(name).reshape(-1))}\n".encode())
    return found.hexdigest()[:16]


def begin(facts: CardFacts, weights: str) -> str:
    """The mark at the start of the section."""
    content = {name: value for name, value in facts.to_dict().items() if name in _OF_WEIGHTS and value is not None}
    text = json.dumps({"weights": weights, **content}, default=float).replace(">", "\\u003e")
    return f"<!-- hf_mpq {text} -->\n"


def remembered(text: str, weights: str) -> Memory:
    """What a card says of itself; its scores and its command hold as long as the weights are the same."""
    found = SECTION.search(text)
    try:
        content = json.loads(found[1]) if found else {}
    except ValueError:
        content = {}
    content = content if isinstance(content, dict) else {}
    facts = {name: value for name, value in content.items() if name in _OF_WEIGHTS}
    scores, same = facts.get("metrics"), content.get("weights") == weights
    return Memory(CardFacts(**facts) if same else CardFacts(), scores if isinstance(scores, dict) else {})
