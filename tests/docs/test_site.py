"""The site is whole: every page is reached, every link arrives, every public name is in the reference, every command is
one that the command line takes. `mkdocs build --strict` itself is for the full run."""

import ast
import importlib.util
import re
import shlex
from importlib import import_module
from inspect import getdoc, isclass, isroutine

import pytest
import typer
import yaml

import hf_mpq
from hf_mpq.cli.main import app
from hf_mpq.core import METHODS
from tests.docs.pages import DOCS, OTHERS, PAGES, ROOT, anchors, commands, links, name_of

SITE = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
NO_REFERENCE = {"integrations", "methods"}
"""Old names, and what has a page each."""
GROUP = typer.main.get_command(app)
SCRIPTS = re.compile(r"(?<![\w/])((?:recipes|benchmarks)/[\w+/.-]+\.(?:py|yaml))")


@pytest.fixture(scope="module")
def hooks():
    spec = importlib.util.spec_from_file_location("site_hooks", DOCS / "site_hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def in_nav(entry) -> list[str]:
    """Pages of an entry of the navigation, and of those below it."""
    values = entry if isinstance(entry, list) else entry.values() if isinstance(entry, dict) else [entry]
    return [entry] if isinstance(entry, str) else [page for value in values for page in in_nav(value)]


def test_every_page_is_reached_once(hooks):
    found = in_nav(SITE["nav"])
    own = {name_of(page).removeprefix("docs/") for page in DOCS.glob("**/*.md") if page.parent != DOCS / "methods"}
    assert sorted(found) == sorted({*own, *hooks.ELSEWHERE, hooks.PARTS, hooks.METHODS})


@pytest.mark.parametrize("page", [*PAGES, *OTHERS], ids=name_of)
def test_links_arrive(page, hooks):
    made = {f"docs/{hooks.PARTS}"}
    for path, anchor in links(page):
        assert path in made or (ROOT / path).exists(), f"{path} is not there"
        if anchor:
            assert anchor in anchors(ROOT / path), f"{path} has no heading #{anchor}"


def test_links_to_pages_from_elsewhere_are_those_of_the_site(hooks):
    text = "[a](../../recipes/README.md#x), [b](budgets.md), [c](../../hf_mpq/cost/base.py), [d](../../README.md)"
    site = "[a](../recipes/README.md#x), [b](budgets.md), c, [d](../index.md)"
    assert hooks.for_site(text, "docs/guides/train.md") == site
    assert hooks.for_site("[m](../docs/methods/README.md)", "recipes/README.md") == "[m](../methods/README.md)"
    assert hooks.for_site("```\n[b](nowhere.py)\n```\n", "docs/index.md") == "```\n[b](nowhere.py)\n```\n"


def test_the_reference_has_every_room_and_all_there_is_documented(hooks):
    pages = "\n".join(page.read_text() for page in (DOCS / "reference").glob("*.md"))
    modules = hooks.MODULE.findall(pages)
    assert len(set(modules)) == len(modules)
    assert {f"hf_mpq.{room}" for room in set(hf_mpq._ROOMS) - NO_REFERENCE} | {"hf_mpq"} <= set(modules)
    for name in modules:
        module, text = import_module(name), hooks.documented(name)
        assert getdoc(module)
        for one in hooks.public(module):
            assert f'<a id="{name}.{one}"></a>' in text or f"`{one}`" in text.rpartition("Also in")[2]
            item = getattr(module, one)
            assert getdoc(item) or not (isclass(item) or isroutine(item)), f"no docstring: {name}.{one}"
    top = hooks.documented("hf_mpq")
    assert all(f'<a id="hf_mpq.{one}"></a>' in top for one in hf_mpq.__all__)


def test_everything_that_is_registered_is_on_the_page_of_parts(hooks):
    found = hooks.registries()
    assert len(found) >= 20
    text = hooks.parts()
    for name in [name for table in found if table.kind not in hooks.NOT_HERE for name in table]:
        assert re.search(rf"^\| `{re.escape(name)}` \| \S", text, flags=re.MULTILINE), name


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)], ids=name_of)
def test_commands_are_taken_by_the_command_line(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for line in commands(page):
        command, words = GROUP, shlex.split(line)[1:]
        while hasattr(command, "commands"):
            command, words = command.commands[words[0]], words[1:]
        command.make_context(line, words)


def test_a_wrong_command_would_be_seen():
    with pytest.raises(Exception, match="--budgets"):
        GROUP.commands["compress"].make_context("hf-mpq compress", ["model", "--out", "packed", "--budgets", "25%"])


MESSAGE = re.compile(r"\*\*`([^`]+)`\*\*")


def said(node: ast.AST) -> str:
    """A text of the sources, with `…` for what it is filled in with."""
    if isinstance(node, ast.JoinedStr):
        return "".join(map(said, node.values))
    if isinstance(node, ast.BinOp):
        return said(node.left) + said(node.right)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else "…"


def test_error_messages_are_those_of_the_package():
    trees = [ast.parse(path.read_text()) for path in (ROOT / "hf_mpq").glob("**/*.py")]
    kinds = (ast.Constant, ast.JoinedStr, ast.BinOp)
    texts = "\n".join(said(node) for tree in trees for node in ast.walk(tree) if isinstance(node, kinds))
    messages = MESSAGE.findall((DOCS / "troubleshooting.md").read_text())
    assert len(messages) >= 40
    for message in messages:
        for part in re.split(r"\s*…\s*", message):
            assert part in texts, f"{message}: nothing says {part!r}"


def test_cells_of_the_page_of_parts_are_whole(hooks):
    rows = [line for line in hooks.parts().splitlines() if line.startswith("|")]
    cells = [re.sub(r"`[^`]*`|\\.", "", row).count("|") for row in rows]
    assert rows and set(cells) == {4}


def test_what_the_readme_says_is_missing_is_not_there():
    section = (ROOT / "README.md").read_text().partition("## What is not there yet")[2].lower()
    assert section
    for name in METHODS:
        assert not re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", section), f"{name} is there: take it out"


def test_scripts_that_are_named_are_there():
    for page in PAGES:
        for path in SCRIPTS.findall(page.read_text()):
            assert (ROOT / path).is_file(), f"{name_of(page)}: {path}"


@pytest.mark.full
@pytest.mark.skipif(importlib.util.find_spec("mkdocs") is None, reason="pip install -e '.[docs]'")
def test_the_site_is_built_without_a_warning(tmp_path, monkeypatch):
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    monkeypatch.chdir(ROOT)
    build(load_config("mkdocs.yml", strict=True, site_dir=str(tmp_path / "site")))
    page = (tmp_path / "site" / "reference" / "index.html").read_text()
    assert all(f'id="hf_mpq.{name}"' in page for name in hf_mpq.__all__)
    loaded = re.findall(r'(?:src|stylesheet" href)="([^"]+)"', page)
    assert loaded and not [one for one in loaded if "//" in one], "the site is read without a network"
