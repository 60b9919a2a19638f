"""Where the data come from: a data set of the Hub, or a folder of parquet or JSON lines files."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset, load_dataset

logger = logging.getLogger(__name__)

PARTS = ("", "_subset", "_recast")
READERS = {".parquet": "parquet", ".jsonl": "json"}


@dataclass(frozen=True)
class HubDataset:
    """A data set of the Hub: its repository, the configuration in it and the revision."""

    path: str
    config: str | None = None
    revision: str | None = None


def load_hub(hub: HubDataset, splits: Mapping[str, str]) -> dict[str, Dataset]:
    """The splits of a data set of the Hub; `splits` maps the name wanted to the name on the Hub.

    Raises:
        ConnectionError: the Hub cannot be reached and the data set is not in the local cache.
    """
    try:
        return {
            name: load_dataset(hub.path, hub.config, split=split, revision=hub.revision)
            for name, split in splits.items()
        }
    except ConnectionError as error:
        raise ConnectionError(
            f"Could not load {hub.path!r} from the Hub: {error}. Without a network, give data_dir= a "
            f"folder with the files of the task."
        ) from error


def load_folder(folder: Path, splits: Mapping[str, str]) -> dict[str, Dataset]:
    """The splits found in `folder`; `splits` maps the name wanted to the stem of the file.

    Raises:
        FileNotFoundError: the folder, or the file of a split, is missing.
    """
    return {name: load_file(split_file(folder, stem), name) for name, stem in splits.items()}


def load_file(file: Path, split: str) -> Dataset:
    """The rows of a parquet or JSON lines file as a data set whose split is called `split`."""
    return load_dataset(READERS[file.suffix], data_files={split: str(file)}, split=split)


def split_file(folder: Path, stem: str) -> Path:
    """The file of the split `stem`: the whole split if it is there, else the part of it or the recast that is.

    Raises:
        FileNotFoundError: the folder, or a file for the split, is missing.
    """
    if not folder.is_dir():
        raise FileNotFoundError(
            f"No folder {str(folder)!r}. data_dir= takes the folder that holds one folder for each "
            f"task, and this task's is called {folder.name!r}; leave it out to load from the Hub."
        )
    names = [f"{stem}{part}{suffix}" for part in PARTS for suffix in READERS]
    file = next((folder / name for name in names if (folder / name).is_file()), None)
    if file is None:
        raise FileNotFoundError(
            f"No file for the split {stem!r} in {str(folder)!r}; looked for {', '.join(names)}. "
            f"Put one of them there, or leave out data_dir= to load from the Hub."
        )
    if file.stem != stem:
        logger.warning("%s is not the official split; say so wherever a number from it is reported.", file)
    return file
