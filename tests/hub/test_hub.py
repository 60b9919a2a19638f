"""Pushing to a Hub that is a real server on this machine, and loading from it by name as readers do."""

import json
import socket
from dataclasses import dataclass
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from safetensors.torch import load
from torch.testing import assert_close

from tests.hub.hub_client import FLOAT, FROM_FOLDER, FROM_MODEL, FROM_TRAINER, run_client, run_online
from tests.hub.hub_server import TOKEN, HubServer

PUSHED = (FROM_MODEL, FROM_TRAINER, FROM_FOLDER)


@dataclass
class Pushed:
    """The server after all pushes, the client's folder, and what each push gave: address and logits."""

    server: HubServer
    folder: Path
    results: dict

    def text(self, name: str, file: str = "README.md", revision: str = "main") -> str:
        return self.server.repositories[name].files(revision)[file].decode()


@pytest.fixture(scope="module")
def pushed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub")
    with HubServer() as server:
        yield Pushed(server, folder, run_client("push", folder, folder / "home", server.address, TOKEN))


@pytest.mark.parametrize("name", PUSHED)
def test_every_way_writes_the_same_card(name, pushed):
    files = pushed.server.repositories[name].files()
    assert {"README.md", "bits.png", "config.json", "model.safetensors"} <= set(files)
    assert files["bits.png"].startswith(b"\x89PNG")
    data = ModelCard(pushed.text(name)).data
    assert data.library_name == "transformers" and data.pipeline_tag == "text-classification"
    assert data.base_model == FLOAT and data.base_model_relation == "quantized"
    assert {"hf-mpq", "quantized"} <= set(data.tags)
    assert pushed.text(name).split("```python\n")[1].startswith("import hf_mpq")
    assert name in pushed.text(name).split("```python\n")[1].split("```")[0]
    assert "\npython -m tests.hub.hub_client ...\n" in pushed.text(name)
    assert "](bits.png)" in pushed.text(name) and "| total |" in pushed.text(name)
    for file in ("README.md", "config.json"):
        assert str(pushed.folder.parent) not in pushed.text(name, file), "a path of this machine"
    repository, told = pushed.server.repositories[name], pushed.results
    address = told["in the background"] if name == FROM_TRAINER else told[name][0]
    assert address == f"{pushed.server.address}/{name}/commit/{repository.branches['main']}"


def test_what_each_push_said(pushed):
    repositories = pushed.server.repositories
    assert repositories[FROM_FOLDER].private and not repositories[FROM_MODEL].private
    assert repositories[FROM_FOLDER].messages[-1] == "three bits"
    assert repositories[FROM_TRAINER].messages[-1] == "End of training"
    first, second = (
        repositories[FROM_TRAINER].commits[address.rsplit("/", 1)[1]]
        for address in (pushed.results[FROM_TRAINER][0], pushed.results["in the background"])
    )
    changed = [name for name in second if second[name] != first.get(name)]
    assert changed in ([], ["model.safetensors"]), "the order of a file's metadata is random"
    assert_close(load(first["model.safetensors"]), load(second["model.safetensors"]), rtol=0, atol=0)
    model = ModelCard(pushed.text(FROM_MODEL)).data
    assert "demo" in model.tags and model.license == "mit" and model.eval_results is None


def test_scores_are_in_the_metadata_and_in_the_table(pushed):
    (given,) = ModelCard(pushed.text(FROM_FOLDER)).data.eval_results
    assert (given.dataset_type, given.metric_type, given.metric_value) == ("nyu-mll/glue", "accuracy", 0.8)
    assert "| accuracy | 0.9000 | 0.8000 | -0.1000 |" in pushed.text(FROM_FOLDER)
    stages = json.loads((pushed.folder / "from-trainer" / "stages.json").read_text())["finished"]
    accuracy = list(stages.values())[-1]["eval_accuracy"]
    (measured,) = ModelCard(pushed.text(FROM_TRAINER)).data.eval_results
    assert (measured.metric_type, measured.metric_value) == ("accuracy", accuracy)
    assert f"| accuracy | {accuracy:.4f} |" in pushed.text(FROM_TRAINER)


def test_readers_load_what_was_pushed(pushed, tmp_path):
    found = run_client("load", tmp_path, tmp_path / "home", pushed.server.address, TOKEN)
    for name in PUSHED:
        assert found[name] == pushed.results[name][1]
    assert found["pipeline"][0]["label"] in ("LABEL_0", "LABEL_1")
    large = [path for method, path in pushed.server.seen if method == "GET" and path.startswith("/store/")]
    assert len(large) >= len(PUSHED), "weights did not come over the wire"


def test_words_on_the_hub_stay_and_branches_are_made(pushed, tmp_path):
    """The folder's card has no words of its user, so those on the Hub are kept around the new section."""
    repository = pushed.server.repositories[FROM_MODEL]
    card = pushed.text(FROM_MODEL).replace("# from-model", "# from-model\n\nWritten by hand.") + "\nAt the end."
    repository.commit("main", {**repository.files(), "README.md": card.encode()}, "by hand")
    before = pushed.text(FROM_FOLDER)
    found = run_client("again", pushed.folder, tmp_path, pushed.server.address, TOKEN)
    text = pushed.text(FROM_MODEL)
    assert "4.00 bits" in card and "3.00 bits" in text and "4.00 bits" not in text
    assert "# from-model\n\nWritten by hand.\n" in text and text.rstrip().endswith("At the end.")
    assert ModelCard(text).data.license == "mit"
    assert found["branch"].endswith(pushed.server.repositories[FROM_FOLDER].branches["next"])
    assert pushed.text(FROM_FOLDER) == before and pushed.text(FROM_FOLDER, revision="next")


def test_errors_of_tokens_and_names(pushed, tmp_path):
    before = {name: dict(one.branches) for name, one in pushed.server.repositories.items()}
    found = run_client("in-vain", pushed.folder, tmp_path, pushed.server.address, None)
    assert {case: kind for case, (kind, _) in found.items()} == {
        "no token": "PermissionError",
        "wrong token": "PermissionError",
        "reader": "PermissionError",
        "other owner": "PermissionError",
        "name": "ValueError",
    }
    for (_, message), words in zip(
        found.values(),
        ("hf auth login", "refuses the token", "may not write", "may not write", "owner/name"),
        strict=True,
    ):
        assert words in message and "\n" not in message
    assert {name: dict(one.branches) for name, one in pushed.server.repositories.items()} == before


def test_the_command_line_says_in_one_line_that_nobody_answers(pushed, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{free.getsockname()[1]}"
    words = ["hf_mpq.cli.main", "push", str(pushed.folder / "packed"), FROM_FOLDER]
    result = run_online(words, tmp_path, endpoint, TOKEN)
    assert result.returncode == 2
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert f"{endpoint} cannot be reached" in line and "Traceback" not in result.stderr


@pytest.mark.full
def test_the_command_line_pushes(pushed, tmp_path):
    words = ["hf_mpq.cli.main", "push", str(pushed.folder / "packed"), "from-shell", "--json"]
    result = run_online(words, tmp_path, pushed.server.address, TOKEN)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["url"].startswith(f"{pushed.server.address}/someone/from-shell/commit/")
    assert ModelCard(pushed.text("someone/from-shell")).data.base_model == FLOAT
