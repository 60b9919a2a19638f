"""Folders of sentence-transformers: an encoder, and the modules that make embeddings of what it gives."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from .console import say
from .errors import UserError, one_line

MODULES = "modules.json"
WHOLE = (MODULES, "config_sentence_transformers.json", "*.py")
"""What belongs to the whole folder; code of modules of one's own is part of it."""
ENCODER = ("sentence_*_config.json",)
"""What belongs to the encoder beside transformers' own files: its longest text, whether letters are made small."""
POOLINGS = {
    "cls": "cls",
    "cls_token": "cls",
    "mean": "mean",
    "mean_tokens": "mean",
    "mean_sqrt_len_tokens": "mean",
    "lasttoken": "last",
}
"""Names in a pooling's config to ours; of unit length, a sum over another power of the length is the mean."""
ROUTER = "router_config.json"
"""Of a first module that has routes, such as one for queries and one for documents, each of modules of its own."""
HUB_FILES = (*WHOLE, *ENCODER, "config.json", "*/*")


@dataclass(frozen=True)
class Embedder:
    """A folder of sentence-transformers, here.

    Attributes:
        folder: of the whole.
        modules: of modules.json, the encoder first.
    """

    folder: Path
    modules: tuple[Mapping, ...]

    @classmethod
    def of(cls, source: str | Path) -> "Embedder | None":
        """Of a folder, or of a name on the Hub, of which all but the weights of the encoder is fetched; None of what is
        not of sentence-transformers.

        Raises:
            UserError: its modules.json is damaged, or its first module is no encoder of transformers.
        """
        folder = Path(source) if Path(source).is_dir() else _fetched(str(source))
        if folder is None or not (folder / MODULES).is_file():
            return None
        found = cls(folder, _modules(folder / MODULES))
        if not (found.encoder / "config.json").is_file():
            raise UserError(
                f"the first module of {source} is {found.modules[0]['type']}, which is no encoder with a "
                f"config.json, nor has one: give the folder of an encoder in it, or compress it in Python"
            )
        return found

    def place_of_encoder(self, source: str | Path) -> str | Path:
        """Where the encoder is loaded from: what was given, unless it is kept apart."""
        return self.encoder if self.path else source

    @cached_property
    def path(self) -> str:
        """Where the encoder is in the folder: mostly empty, for the folder itself."""
        first = self.modules[0]["path"]
        encoders = [name for name, kind in self.routed.items() if str(kind).endswith("Transformer")]
        return f"{first}/{encoders[0]}".lstrip("/") if len(encoders) == 1 else first

    @cached_property
    def routed(self) -> Mapping:
        """Folder of each module that a router has, to its class; none where the first module is no router."""
        file = self.folder / self.modules[0]["path"] / ROUTER
        found = read_json(file).get("types") if file.is_file() else {}
        return found if isinstance(found, dict) else {}

    @property
    def encoder(self) -> Path:
        """The folder of the encoder, which is mostly that of the whole."""
        return self.folder / self.path

    def encoder_in(self, whole: Path) -> Path:
        """Where the encoder is in another whole folder; made if it is not there."""
        place = whole / self.path
        place.mkdir(parents=True, exist_ok=True)
        return place

    @property
    def pooling(self) -> str | None:
        """How hidden states become one vector; None, and a word about it, where that is not known here."""
        places = [self.folder / one["path"] for one in self.modules if one["type"].endswith(".Pooling")]
        if not places:
            return None
        given = poolings(read_json(places[0] / "config.json"))
        known = {POOLINGS.get(name) for name in given}
        if len(known) == 1 and None not in known:
            return known.pop()
        say(
            f"the pooling {' and '.join(sorted(given))} of {self.folder} is not known here: scores are about the "
            f"hidden states of all tokens; --pooling mean, cls or last makes them about embeddings"
        )
        return None

    def complete(self, whole: Path) -> None:
        """Copy all but the encoder into another whole folder, in which its encoder is already."""
        encoder, first = self.encoder_in(whole), self.modules[0]["path"]
        others = [module["path"] for module in self.modules[1:]] + [
            f"{first}/{name}".lstrip("/") for name in self.routed
        ]
        for path in others:
            source = self.folder / path
            if source.is_dir() and source not in (self.folder, self.encoder):
                shutil.copytree(source, whole / path, dirs_exist_ok=True)
        router = ((ROUTER,), self.folder / first, whole / first)
        for patterns, place, target in ((WHOLE, self.folder, whole), (ENCODER, self.encoder, encoder), router):
            for file in (file for pattern in patterns for file in place.glob(pattern)):
                if not (target / file.name).exists():
                    shutil.copy2(file, target / file.name)


def encoder_of(source: str | Path) -> str | Path:
    """The folder of the encoder where sentence-transformers keeps it apart (`0_Transformer`); else what was given."""
    folder = Path(source)
    if not (folder / MODULES).is_file() or (folder / "config.json").is_file():
        return source
    found = Embedder.of(folder)
    return source if found is None else found.encoder


def poolings(config: Mapping) -> set[str]:
    """What the config of a pooling says, in either of its forms: a name or several, or a mark for each that is used."""
    named = config.get("pooling_mode")
    if named is not None:
        return {named} if isinstance(named, str) else set(map(str, named))
    return {
        name.removeprefix("pooling_mode_")
        for name, value in config.items()
        if name.startswith("pooling_mode_") and value
    }


def read_json(file: Path) -> dict:
    """The fields of a file.

    Raises:
        UserError: it is not there, or holds none.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read ({one_line(error)}): copy or download the folder again") from error
    if not isinstance(content, dict):
        raise UserError(f"{file} is damaged (it holds no fields): copy or download the folder again")
    return content


def _modules(file: Path) -> tuple[Mapping, ...]:
    """What modules.json says, with paths that stay in the folder."""
    try:
        modules = tuple(json.loads(file.read_text(encoding="utf-8")))
        places = [(file.parent / module["path"]).resolve() for module in modules]
        sound = all(isinstance(module["type"], str) for module in modules) and modules != ()
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{file} is damaged ({one_line(error)}): copy or download the folder again") from error
    if not sound or not all(place.is_relative_to(file.parent.resolve()) for place in places):
        raise UserError(f"{file} is damaged (it names no modules in its folder): copy or download the folder again")
    return modules


def _fetched(name: str) -> Path | None:
    """The files of a name on the Hub but the weights of its encoder; None where it has no modules.json."""
    from huggingface_hub import hf_hub_download, snapshot_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        hf_hub_download(name, MODULES)
        return Path(snapshot_download(name, allow_patterns=list(HUB_FILES), ignore_patterns=["onnx/*", "openvino/*"]))
    except LocalEntryNotFoundError as error:
        if isinstance(try_to_load_from_cache(name, "config.json"), str):  # else it is not here at all
            say(
                f"{name} is taken for a plain model of transformers: whether it has a {MODULES} could not be looked up "
                f"({one_line(error)})"
            )
    except (EntryNotFoundError, OSError, ValueError):  # what else is wrong with the name, loading the model says
        pass
    return None
