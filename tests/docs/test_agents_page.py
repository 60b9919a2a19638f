"""The page for coding agents is a skill, and names what there is. Its commands and code run with those of all pages."""

import inspect
import re

import typer
import yaml

from hf_mpq._extras import EXTRAS
from hf_mpq.cli import errors
from hf_mpq.cli.commands.compress import METHOD_WORDS
from hf_mpq.cli.main import app
from hf_mpq.core import Budget
from hf_mpq.exporters import EXPORTERS
from hf_mpq.runtime import BACKENDS
from tests.docs.pages import DOCS, commands

PAGE = DOCS / "agents.md"
_, HEAD, TEXT = PAGE.read_text().split("---\n", 2)
COMMANDS = typer.main.get_command(app).commands


def words(row: str) -> set[str]:
    """What is in code in a row of a table, after its first cell."""
    (line,) = re.findall(rf"^\| {re.escape(row)} \| (.*)\|$", TEXT, flags=re.MULTILINE)
    return set(re.findall(r"`([^`]+)`", line))


def test_it_is_a_skill():
    """Its head is what agents look for, short enough to be read whole."""
    said = yaml.safe_load(HEAD)
    assert set(said) == {"name", "description"} and re.fullmatch(r"[a-z0-9-]{1,64}", said["name"])
    assert 100 < len(said["description"]) <= 1024 and "Use it when" in said["description"]
    assert len(TEXT.splitlines()) < 150


def test_names_are_those_that_are_registered():
    assert words("export `FORMAT`") == set(EXPORTERS)
    assert words("`prepare(model, backend=...)`") == {"auto", *BACKENDS}
    assert words("`--method` without training") == set(re.split(r", | or ", METHOD_WORDS))
    known = {*EXTRAS, "all"}
    assert known - {"report", "tasks", "carbon", "ray"} <= words("extras of `pip install`") <= known


def test_options_and_commands_anywhere_on_it_are_there():
    """Also those in tables and sentences, which are no whole command lines."""
    assert {line.split()[1] for line in re.findall(r"`(hf-mpq [a-z]+)", TEXT)} <= set(COMMANDS)
    assert len(commands(PAGE)) >= 7
    options = {option for one in COMMANDS.values() for part in one.params for option in part.opts}
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", TEXT)) - {"--help"} <= options


def test_budgets_can_be_read():
    (line,) = re.findall(r"^Budgets: (.*)$", TEXT, flags=re.MULTILINE)
    found = [text for text in re.findall(r"`([^`]+)`", line) if not text.startswith("--")]
    assert len(found) == 6 and all(Budget.parse(text) for text in found)


def test_exit_codes_are_those_of_the_command():
    codes = [int(code) for code in re.findall(r"^\| (\d) \|", TEXT, flags=re.MULTILINE)]
    assert codes == [0, errors.NO, errors.MISTAKE, errors.BUG]


def test_the_first_rule_is_true():
    """The words by which the page is found are those of transformers and of our files."""
    from transformers.quantizers import auto

    source = inspect.getsource(auto)
    assert "Unknown quantization type, got" in source and '"quant_method": "mpq"' in HEAD
