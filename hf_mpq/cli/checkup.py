"""The examination behind `hf-mpq doctor`."""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from .embedder import encoder_of
from .embedder_checkup import embedder_findings
from .errors import MISTAKES, UserError, one_line
from .findings import BROKEN, NOTE, OK, Finding
from .kernel_checkup import kernel_finding
from .models import ASKING, Untrusted, has_tokenizer, load_packed

AGAIN = "copy or download it again"
PLAIN_LOADING = """
import json, sys, transformers
transformers.logging.set_verbosity_error()
name = json.load(open(sys.argv[1] + "/config.json"))["architectures"][0]
options = {"output_loading_info": True, "trust_remote_code": False}
model, info = getattr(transformers, name).from_pretrained(sys.argv[1], **options)
print(json.dumps([len(info["missing_keys"]), len(model.state_dict())]))
"""


def examine(whole: Path, quick: bool = False, trust: bool = False) -> Iterator[Finding]:
    """Everything from the config to what happens without the import; what cannot go on stops there.

    Whatever error a damaged file leads to is a finding. Code beside the model is run only where `trust` says so.
    """
    try:
        folder = Path(encoder_of(whole))
        config = _config(folder)
        yield Finding("config", OK, f"{config['architectures'][0]}, quantized by hf_mpq, packed")
        files = _files(folder)
        yield Finding("files", OK, ", ".join(f"{file.name} ({file.stat().st_size / 1e6:.2f} MB)" for file in files))
    except Exception as error:
        yield Finding("folder", BROKEN, _told(error))
        return
    yield from _safely("versions", lambda: [_versions(config)])
    yield from _safely("contents", lambda: _contents(folder, files, trust))
    yield from _safely("tokenizer", lambda: [_tokenizer(folder, config, trust)])
    yield from _safely("embedder", lambda: embedder_findings(whole, config))
    yield from _safely("card", lambda: [_card(whole)])
    if not quick:
        yield from _safely("without hf_mpq", lambda: [_without_import(folder)])


def _safely(check: str, look: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
    """What was found, up to the first error, which is a finding too."""
    try:
        yield from look()
    except Untrusted as error:
        yield Finding(check, NOTE, f"not looked at: {one_line(error)}")
    except Exception as error:
        yield Finding(check, BROKEN, _told(error))


def _told(error: Exception) -> str:
    """What an error says; of one that is nobody's advice, also its kind and what to do."""
    if isinstance(error, MISTAKES):
        return one_line(error)
    return (
        f"{type(error).__name__}: {one_line(error)}; config.json, or a file that it describes, is damaged: copy or "
        f"download the folder again"
    )


def _config(folder: Path) -> dict:
    """The content of config.json.

    Raises:
        UserError: it is not there, not JSON, not that of a packed model, or names no class.
    """
    file = folder / "config.json"
    if not file.is_file():
        raise UserError("there is no config.json: copy or download the folder again")
    try:
        config = json.loads(file.read_text())
    except ValueError as error:
        raise UserError(f"config.json is damaged ({one_line(error)}): {AGAIN}") from error
    if not isinstance(config, dict):
        raise UserError(f"config.json is damaged (it holds no fields): {AGAIN}")
    described = config.get("quantization_config")
    if not isinstance(described, dict) or described.get("quant_method") != "mpq":
        raise UserError(
            "config.json says nothing of hf_mpq, so this is a float model or another library's: "
            "`hf-mpq compress` packs float models"
        )
    if described.get("storage") == "unfinished":
        raise UserError("a save into this folder was interrupted, so its files are of two models: save it again")
    if described.get("storage") != "packed":
        raise UserError("this is a checkpoint for training: hf_mpq.pack(model).save_pretrained(...) packs it")
    if not _is_list_of_words(config.get("architectures")):
        raise UserError(f"config.json is damaged (its `architectures` name no class): {AGAIN}")
    return config


def _is_list_of_words(value: object) -> bool:
    return isinstance(value, list) and value != [] and all(isinstance(word, str) for word in value)


def _files(folder: Path) -> list[Path]:
    """The files of the weights.

    Raises:
        UserError: one is missing, or the index does not say which there are.
    """
    index = folder / "model.safetensors.index.json"
    names = _names_in(index) if index.is_file() else ["model.safetensors"]
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise UserError(f"{', '.join(missing)} is missing: copy or download the folder again")
    return [folder / name for name in names]


def _names_in(index: Path) -> list[str]:
    try:
        names = list(json.loads(index.read_text())["weight_map"].values())
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{index.name} is damaged ({one_line(error)}): {AGAIN}") from error
    if not _is_list_of_words(names):
        raise UserError(f"{index.name} is damaged (it names no files): {AGAIN}")
    return sorted(set(names))


def _versions(config: dict) -> Finding:
    from importlib.metadata import version

    described = config["quantization_config"]
    origin = described.get("origin", {})
    versions = origin.get("versions", {}) if isinstance(origin, dict) else None
    if not isinstance(versions, dict):
        return Finding("versions", BROKEN, f"config.json is damaged (`origin` does not hold what packed it): {AGAIN}")
    written = {"transformers": config.get("transformers_version", "unknown"), **versions}
    here = {name: version(name) for name in ("hf_mpq", "transformers", "torch")}
    return Finding(
        "versions",
        OK,
        f"packed format {described.get('format_version', 'unknown')}, written by "
        f"{_listed(written)}; here {_listed(here)}",
    )


def _listed(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {number}" for name, number in versions.items())


def _contents(folder: Path, files: list[Path], trust: bool) -> Iterator[Finding]:
    """Loading compares names, shapes and types with the config, and every packed tensor with its digest."""
    import torch

    from .. import size_report
    from ..format import read_headers, read_metadata
    from ..runtime.timing import example

    model = load_packed(folder, trust)
    yield Finding(
        "contents",
        OK,
        f"{len(read_headers(files))} tensors as config.json says; {len(read_metadata(files))} digests agree",
    )
    stored, report = sum(file.stat().st_size for file in files), size_report(model)
    header = stored - report.total_bytes
    yield Finding(
        "size",
        OK,
        f"{report.total_bytes} bytes of tensors and {header} of header; {report.ratio:.3f} of "
        f"float32, {report.average_bits:.2f} bits per encoder weight",
    )
    yield from _precisions(model)
    with torch.inference_mode():
        values = [value for value in model(**example(model, 1, 8)).values() if isinstance(value, torch.Tensor)]
    finite = all(bool(value.isfinite().all()) for value in values)
    yield Finding(
        "answers",
        OK if finite else BROKEN,
        "a forward pass gives finite numbers"
        if finite
        else "a forward pass gives infinite numbers or NaN: pack the model again",
    )
    yield kernel_finding(model)


def _precisions(model) -> Iterator[Finding]:
    """What nested codes serve, and at what they are used."""
    from ..nn.precision import nested_matrices

    layers = nested_matrices(model).values()
    words = ", ".join(
        f"{count} matrices serve {'/'.join(map(str, served))} bits and are used at {used}"
        + (f" ({served[-1]} of {planes} bit planes are here)" if served[-1] != planes else "")
        for (served, used, planes), count in Counter(
            (layer.nested, layer.used_precision, layer.stored.nested[-1]) for layer in layers
        ).items()
    )
    if words:
        yield Finding("precisions", OK, words)


def _tokenizer(folder: Path, config: dict, trust: bool) -> Finding:
    from transformers import AutoTokenizer

    if not has_tokenizer(folder):
        return Finding(
            "tokenizer",
            NOTE,
            "none in the folder: pipelines need tokenizer=...; save it there with tokenizer.save_pretrained(folder)",
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust)
    except Exception as error:
        if ASKING in str(error):
            raise Untrusted(folder, "tokenizer") from error
        return Finding("tokenizer", BROKEN, f"it cannot be read ({one_line(error)}): save it again")
    size = config.get("vocab_size")
    if isinstance(size, int) and len(tokenizer) > size:
        return Finding(
            "tokenizer",
            BROKEN,
            f"it has {len(tokenizer)} tokens and the model {size}: put the model's own tokenizer there",
        )
    return Finding("tokenizer", OK, f"{type(tokenizer).__name__} with {len(tokenizer)} tokens")


def _card(folder: Path) -> Finding:
    card = folder / "README.md"
    if not card.is_file():
        return Finding("card", NOTE, "no README.md: `hf-mpq push` writes one that tells readers to import hf_mpq")
    if "import hf_mpq" not in card.read_text(errors="replace"):
        return Finding("card", NOTE, "README.md does not tell readers to `import hf_mpq` before loading: add it")
    return Finding("card", OK, "README.md tells readers to `import hf_mpq` before loading")


def _without_import(folder: Path) -> Finding:
    """What transformers does with the folder when nobody imported hf_mpq, by trying it in a process of its own."""
    command = [sys.executable, "-c", PLAIN_LOADING, str(folder)]
    result = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    cure = "so say `import hf_mpq` first, or ship an export (`hf-mpq export`), which needs no hf_mpq"
    if result.returncode:
        reason = result.stderr.strip().splitlines()[-1] if result.stderr.strip() else "no reason given"
        return Finding("without hf_mpq", NOTE, f"transformers refuses the folder ({reason}), {cure}")
    missing, count = json.loads(result.stdout.splitlines()[-1])
    return Finding(
        "without hf_mpq",
        NOTE,
        f"transformers loads the folder, but makes up {missing} of {count} tensors "
        f"at random with a mere warning, {cure}",
    )
