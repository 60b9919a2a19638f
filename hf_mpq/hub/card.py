"""The model card: a README.md whose section between two marks is ours, and whose other words are its user's."""

import re
from pathlib import Path

import jinja2
from huggingface_hub import ModelCard
from torch import nn
from yaml import YAMLError

from ..core.folders import together
from ..plugin.origin import hub_name
from ..report.figures.bit_map import bit_map
from ..report.measures.loading import loaded
from ..report.measures.markdown import block, code, words
from .card_memory import END, SECTION, begin, fingerprint, remembered
from .card_metadata import fill_metadata
from .card_words import section_words, words_of
from .facts import CardFacts

CARD, PICTURE = "README.md", "bits.png"
_ENVIRONMENT = jinja2.Environment(
    loader=jinja2.PackageLoader("hf_mpq.hub"), trim_blocks=True, undefined=jinja2.StrictUndefined, autoescape=False
)
_ENVIRONMENT.filters |= {"words": words, "code": code, "block": block}


def write_card(
    folder: str | Path, facts: CardFacts | None = None, *, model: nn.Module | None = None, text: str | None = None
) -> Path:
    """Write README.md and bits.png of a folder with a quantized model, or bring them up to date.

    Words outside of our section stay as they are, and so do metadata that we do not know better. Facts that are not
    given are those of the card that is there, as long as it is about the same weights.

    Args:
        folder: that the model was saved in.
        facts: what the model itself does not show.
        model: the folder's, where it is in memory.
        text: of a README.md to start from where the folder has none with words of its user's.

    Returns:
        Path of the README.md.

    Raises:
        ValueError: when the metadata of the README.md are not YAML.
        OSError: when the folder holds no model.
    """
    folder, model = Path(folder), loaded(folder if model is None else model)
    card, weights = _start(folder, text), fingerprint(folder)
    before = remembered(card.text, weights)
    origin = words_of(model.config.quantization_config.origin)
    known = CardFacts(folder.resolve().name, hub_name(origin.get("base_model")), origin.get("command"))
    facts = (facts or CardFacts()).over(before.facts).over(known)
    fill_metadata(card.data, model, facts, before, folder)
    facts = CardFacts(base_model=hub_name(_first(card.data.base_model))).over(facts)
    content = section_words(folder, model, facts, PICTURE)
    section = begin(facts, weights) + _ENVIRONMENT.get_template("card.md.j2").render(content) + END
    card.text = _with_section(card.text, section, facts.repo_id.split("/")[-1])
    with together(folder) as new:
        bit_map(model).savefig(new / PICTURE, dpi=110)
        card.save(new / CARD)
    return folder / CARD


def _start(folder: Path, text: str | None) -> ModelCard:
    """The folder's card, or the one of `text` where the folder's has no words but ours, or a new one."""
    file = folder / CARD
    own = file.read_text(encoding="utf-8") if file.exists() else None
    if own is None or (text is not None and not _written(own)):
        own = text if text is not None else own
    try:
        return ModelCard(own or "---\n{}\n---\n")
    except (YAMLError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"the metadata at the top of {file} cannot be read ({reason}): correct them") from error


def _with_section(text: str, section: str, title: str) -> str:
    """The card's text with our section in the place of the old one; without other words under a title."""
    if not _written(text):
        return f"\n# {words(title)}\n\n{section}\n"
    if SECTION.search(text):
        return SECTION.sub(lambda _: section, text, count=1)
    return f"{text.rstrip()}\n\n{section}\n"


def _written(text: str) -> bool:
    """Whether somebody wrote more than a title outside of our section."""
    body = re.sub(r"\A\s*---\n.*?\n---\n", "", SECTION.sub("", text), flags=re.DOTALL)
    return bool(re.sub(r"\A\s*# .*", "", body).strip())


def _first(names: str | list[str] | None) -> str | None:
    return names[0] if isinstance(names, list) and names else names or None
