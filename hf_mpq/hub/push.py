"""The upload: every way to the Hub ends in `push`, so every model gets the same card."""

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from huggingface_hub import CommitInfo, HfApi, get_token
from huggingface_hub.errors import RemoteEntryNotFoundError
from torch import nn

from ..core import read_json
from ..plugin.config import MPQConfig
from ..plugin.origin import command_line
from .card import write_card
from .errors import missing_token, plain_errors
from .facts import CardFacts

CHECKPOINT = ("trainer_state.json", "optimizer.*", "scheduler.pt", "strategy.pt", "rng_state*.pth")
"""Files by which the checkpoint of a trainer is known."""
IGNORED = ("checkpoint-*", "*.partial", ".*", "*/.*", "*training_args.bin", *(f"*/{name}" for name in CHECKPOINT))
"""Of a folder, what is not uploaded: checkpoints, hidden files, and `training_args.bin`, where a token may be."""


def push(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool | None = False,
    token: str | bool | None = None,
    revision: str | None = None,
    commit_message: str | None = None,
    **facts: Any,
) -> CommitInfo:
    """Upload the folder of a model, after its README.md and bits.png are written or brought up to date.

    What a user wrote in the README.md, here or on the Hub, stays; only the metadata and the section between the marks
    of hf_mpq are renewed.

    Args:
        folder: what `save_pretrained` or `save_packed` wrote.
        repo_id: `"owner/name"`; without an owner it is the token's. Made if it is not there.
        private: whether a repository that is made is private; None is the owner's default.
        token: of the Hub, with the right to write; None is that of `hf auth login` or HF_TOKEN.
        revision: branch; made if it is not there.
        commit_message: of the one commit.
        facts: what `CardFacts` has: `base_model`, `metrics`, `float_metrics`, `dataset`, `command`, `license`, ...

    Returns:
        Address of the commit, a string.

    Raises:
        ValueError: when the folder holds no model of hf_mpq or the checkpoint of a run, or `repo_id` cannot be a name.
        PermissionError: without a token, or with one that may not write there.
        ConnectionError: when the Hub cannot be reached, or fails.
    """
    return _push(Path(folder), repo_id, None, CardFacts(**facts), private, token, revision, commit_message)


def push_model(
    model: nn.Module,
    repo_id: str,
    *,
    commit_message: str | None = None,
    commit_description: str | None = None,
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    max_shard_size: int | str = "50GB",
    tags: list[str] | None = None,
    **facts: Any,
) -> CommitInfo:
    """`model.push_to_hub` of a quantized model: as that of transformers, with our card.

    Args:
        commit_message, commit_description, private, token, revision, create_pr, max_shard_size, tags: as in
            `PreTrainedModel.push_to_hub`.
        facts: as in `push`.

    Raises:
        ValueError, PermissionError, ConnectionError: as `push`.
    """
    config = getattr(model.config, "quantization_config", None)
    options = {"commit_description": commit_description, "create_pr": create_pr}
    if not isinstance(config, MPQConfig):  # made float again
        return type(model).push_to_hub(
            model,
            repo_id,
            commit_message=commit_message,
            private=private,
            token=token,
            revision=revision,
            max_shard_size=max_shard_size,
            tags=tags,
            **options,
        )
    told = CardFacts(**facts, tags=[*(tags or ()), *(model.model_tags or ())])
    if "command" not in config.origin:
        told = told.over(CardFacts(command=command_line()))
    with TemporaryDirectory() as folder:
        model.save_pretrained(folder, max_shard_size=max_shard_size)
        return _push(Path(folder), repo_id, model, told, private, token, revision, commit_message, **options)


def _push(
    folder: Path,
    repo_id: str,
    model: nn.Module | None,
    facts: CardFacts,
    private: bool | None,
    token: str | bool | None,
    revision: str | None,
    message: str | None,
    **options: Any,
) -> CommitInfo:
    _check_folder(folder)
    if not (token if isinstance(token, str) else token is not False and get_token()):
        raise missing_token(repo_id)
    api = HfApi(token=token)
    with plain_errors(repo_id):
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        text = _remote_card(api, repo_id, revision)
    write_card(folder, CardFacts(repo_id=repo_id).over(facts), model=model, text=text)
    with plain_errors(repo_id):
        if revision is not None and not revision.startswith("refs/"):
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        return api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            revision=revision,
            commit_message=message or "Upload model compressed by hf_mpq",
            ignore_patterns=list(IGNORED),
            **options,
        )


def _check_folder(folder: Path) -> None:
    found = [file.name for kind in CHECKPOINT for file in folder.glob(kind)]
    if found:
        raise ValueError(
            f"{folder} is a checkpoint of a run (it holds {found[0]}), whose files keep tokens and paths: "
            "push what trainer.save_packed or save_pretrained wrote"
        )
    file = folder / "config.json"
    described = read_json(file, "save the model again").get("quantization_config") if file.exists() else None
    if not isinstance(described, Mapping) or described.get("quant_method") != "mpq":
        raise ValueError(
            f"{folder} holds no model of hf_mpq: give the folder that hf_mpq.pack(model).save_pretrained "
            "or trainer.save_packed wrote"
        )


def _remote_card(api: HfApi, repo_id: str, revision: str | None) -> str | None:
    """The README.md on the Hub; None where there is none, or no such branch yet."""
    try:
        if revision is not None and not api.revision_exists(repo_id, revision):
            revision = None
        return Path(api.hf_hub_download(repo_id, "README.md", revision=revision)).read_text(encoding="utf-8")
    except RemoteEntryNotFoundError:
        return None
