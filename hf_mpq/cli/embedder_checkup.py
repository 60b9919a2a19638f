"""Whether a folder of sentence-transformers has all that its modules.json names, and whether its parts fit."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from .embedder import Embedder, poolings, read_json
from .findings import BROKEN, NOTE, OK, Finding

WEIGHTS = ("model.safetensors", "pytorch_model.bin")


def embedder_findings(folder: Path, config: Mapping) -> Iterator[Finding]:
    """Nothing for a folder of transformers alone.

    Raises:
        UserError: modules.json, or the config of a module, is damaged.
    """
    found = Embedder.of(folder)
    if found is None:
        if (folder / "config_sentence_transformers.json").is_file():
            yield Finding(
                "embedder",
                BROKEN,
                "config_sentence_transformers.json is there and modules.json is not, so "
                "pooling is lost: copy the folder again",
            )
        return
    missing = [module["path"] for module in found.modules[1:] if not _is_there(folder, module)]
    if missing:
        yield Finding(
            "embedder", BROKEN, f"modules.json names {', '.join(missing)}, which is missing: copy the folder again"
        )
        return
    width = config.get("hidden_size", config.get("dim"))
    for module in found.modules[1:]:
        taken, given = _widths(folder, module, width)
        if None not in (taken, width) and taken != width:
            yield Finding(
                "embedder",
                BROKEN,
                f"{module['path']} takes {taken} features, and what comes before gives "
                f"{width}: put the module of this model there",
            )
            return
        width = given
    yield Finding("embedder", OK, "sentence-transformers: " + ", ".join(_kind(module) for module in found.modules))
    if not (folder / "config_sentence_transformers.json").is_file():
        yield Finding("embedder", NOTE, "no config_sentence_transformers.json: prompts and similarity are the defaults")


def _kind(module: Mapping) -> str:
    return module["type"].rpartition(".")[2]


def _is_there(folder: Path, module: Mapping) -> bool:
    """A normalisation has nothing to keep; a dense layer has weights."""
    place = folder / module["path"]
    if _kind(module) == "Normalize":
        return True
    return place.is_dir() and (_kind(module) != "Dense" or any((place / name).is_file() for name in WEIGHTS))


def _widths(folder: Path, module: Mapping, width: int | None) -> tuple[int | None, int | None]:
    """How many features a module takes, and how many it gives; None where that is not known."""
    if _kind(module) == "Normalize":
        return width, width
    if _kind(module) not in ("Pooling", "Dense"):
        return None, None
    content = read_json(folder / module["path"] / "config.json")
    if _kind(module) == "Dense":
        return content.get("in_features"), content.get("out_features")
    taken = content.get("embedding_dimension", content.get("word_embedding_dimension"))
    return taken, taken if len(poolings(content)) == 1 else None
