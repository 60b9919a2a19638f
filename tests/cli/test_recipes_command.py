"""`hf-mpq recipes`: what is listed is what comes with the package, and what is copied runs beside its modules."""

import ast
from pathlib import Path

from tests.cli.conftest import RECIPES


def test_every_recipe_is_listed_a_script_with_what_it_does(run):
    listed = dict(line.partition("\t")[::2] for line in run("recipes", "ls").stdout.splitlines())
    found = {path for pattern in ("*.py", "methods/*", "tasks/*") for path in RECIPES.glob(pattern)}
    assert {str(path.relative_to(RECIPES)) for path in found} | {"README.md"} == set(listed)
    assert all(words for name, words in listed.items() if name.endswith(".py"))


def modules_beside(script: Path) -> set[str]:
    tree = ast.parse(script.read_text())
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and not node.level}
    return {f"{module}.py" for module in modules} & {path.name for path in RECIPES.glob("*.py")}


def test_a_copied_script_brings_what_it_imports(tmp_path, monkeypatch, run):
    monkeypatch.chdir(tmp_path)
    run("recipes", "cp", "run_glue.py", "methods/mpq.yaml", "--to", "mine")
    copied = {str(path.relative_to("mine")) for path in Path("mine").rglob("*") if path.is_file()}
    assert copied == {"run_glue.py", "methods/mpq.yaml", *modules_beside(RECIPES / "run_glue.py")} != {"run_glue.py"}
    assert all(Path("mine", name).read_bytes() == (RECIPES / name).read_bytes() for name in copied)


def test_all_are_copied_and_every_module_is_there(tmp_path, monkeypatch, run):
    monkeypatch.chdir(tmp_path)
    run("recipes", "cp", "all", "--to", "mine")
    for script in Path("mine").glob("*.py"):
        assert modules_beside(script) <= {path.name for path in Path("mine").glob("*.py")}


def test_what_is_there_stays_unless_it_may_be_replaced(tmp_path, monkeypatch, run):
    monkeypatch.chdir(tmp_path)
    run("recipes", "cp", "methods/mpq.yaml", "--to", "mine")
    Path("mine/methods/mpq.yaml").write_text("bits: 3")
    result = run("recipes", "cp", "methods/mpq.yaml", "methods/q8.yaml", "--to", "mine", code=2)
    assert "--overwrite" in result.stderr and Path("mine/methods/mpq.yaml").read_text() == "bits: 3"
    assert not Path("mine/methods/q8.yaml").exists()
    run("recipes", "cp", "methods/mpq.yaml", "--to", "mine", "--overwrite")
    assert Path("mine/methods/mpq.yaml").read_bytes() == (RECIPES / "methods/mpq.yaml").read_bytes()


def test_an_unknown_recipe_is_named(tmp_path, monkeypatch, run):
    monkeypatch.chdir(tmp_path)
    assert (
        "'run_glu.py'" in run("recipes", "cp", "run_glu.py", code=2).stderr and not Path("recipes/run_glu.py").exists()
    )
