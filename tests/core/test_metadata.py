"""What the package says of itself: complete, and the same in every place."""

import email
import importlib.util
import re
import subprocess
import sys
import tomllib

import pytest
import yaml

import hf_mpq
from tests.core.test_wheel import ROOT, call, sources
from tests.docs.pages import links

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
WORKFLOW = ROOT / ".github" / "workflows" / "wheels.yml"
ADDRESS = "https://host.example/owner/hf_mpq"
DESCRIBE = (
    "import os; os.chdir(r'{}'); from setuptools import build_meta as made; made.prepare_metadata_for_build_wheel('..')"
)


@pytest.fixture(scope="module")
def described(tmp_path_factory):
    """What an index is told, of a package that knows where its repository can be read."""
    folder = tmp_path_factory.mktemp("metadata")
    call(sys.executable, "-c", DESCRIBE.format(sources(folder / "source")), HF_MPQ_ADDRESS=ADDRESS)
    return email.message_from_string(next(folder.glob("*.dist-info/METADATA")).read_text())


def test_an_index_is_told_everything(described):
    assert described["Name"] == "hf_mpq" and described["Version"] == hf_mpq.__version__
    assert described["Summary"] == PROJECT["project"]["description"]
    assert described["License-Expression"] == "Apache-2.0" and described.get_all("License-File") == ["LICENSE"]
    assert described["Requires-Python"] == ">=3.11" and described["Author"]
    assert "quantization" in described["Keywords"] and "BERT" in described["Keywords"]
    assert {"Intended Audience :: Developers", "Typing :: Typed"} <= set(described.get_all("Classifier"))
    assert set(PROJECT["project"]["optional-dependencies"]) == set(described.get_all("Provides-Extra"))
    pages = dict(line.split(", ") for line in described.get_all("Project-URL"))
    assert {"Source", "Documentation", "Changelog"} == set(pages)
    for page in pages.values():
        assert (ROOT / page.removeprefix(ADDRESS).removeprefix("/blob/HEAD").lstrip("/")).exists()


def test_the_readme_can_be_read_on_an_index(described):
    """Its links and pictures arrive from there; the words are those of the repository."""
    assert described["Description-Content-Type"].startswith("text/markdown")
    text = described.get_payload()
    found = re.findall(r"(!?)\[[^\]]*\]\(([^)\s]+)\)", text)
    files = [re.sub(rf"^{ADDRESS}/(blob|raw)/HEAD/|#.*", "", to) for _, to in found]
    assert len(files) >= len(links(ROOT / "README.md")) > 20
    assert all(to.startswith(f"{ADDRESS}/{'raw' if picture else 'blob'}/HEAD/") for picture, to in found)
    assert all((ROOT / file).exists() for file in files)
    assert re.sub(rf"{ADDRESS}/(blob|raw)/HEAD/", "", text).strip() == (ROOT / "README.md").read_text().strip()


def test_there_is_one_version():
    assert "version" in PROJECT["project"]["dynamic"]
    assert PROJECT["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "hf_mpq.__version__"}
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == hf_mpq.__version__
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["license"] == PROJECT["project"]["license"]
    changes = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert changes[0] in ("Unreleased", hf_mpq.__version__)


def test_the_workflow_builds_what_the_readme_promises():
    """Every file that it names is here, and a wheel without the kernel is an error."""
    found = yaml.safe_load(WORKFLOW.read_text())
    jobs = found["jobs"]
    assert set(found[True]) == {"workflow_dispatch", "release", "pull_request"}  # YAML reads `on` as true
    for name, job in jobs.items():
        needs = job.get("needs", [])
        assert set([needs] if isinstance(needs, str) else needs) <= set(jobs), name
        assert all(("uses" in step) != ("run" in step) for step in job["steps"]), name
    machines = {one["machine"] for one in jobs["wheels"]["strategy"]["matrix"]["include"]}
    images = {f"manylinux-{machine}-image": "manylinux_2_28" for machine in machines}
    building = PROJECT["tool"]["cibuildwheel"]
    assert machines == {"x86_64", "aarch64"} and images.items() <= building.items()
    assert building["environment"] == {"HF_MPQ_KERNEL": "required"}
    script = "\n".join(step.get("run", "") for step in jobs["journey"]["steps"])
    assert all((ROOT / path).is_file() for path in re.findall(r"tests/\S+\.py", script)) and "tests/" in script


@pytest.mark.full
@pytest.mark.skipif(importlib.util.find_spec("check_jsonschema") is None, reason="pip install check-jsonschema")
def test_the_workflow_is_one():
    schema = ("-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows")
    done = subprocess.run([sys.executable, *schema, WORKFLOW], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
