"""Runs the notebooks as a reader would, each in a fresh kernel; as a program it renews the outputs in the repository.

python -m tests.notebooks.execute [part of a name ...]
"""

import os
import re
import shutil
import sys
import sysconfig
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

HOME = Path(__file__).resolve().parents[2] / "notebooks"
NOTEBOOKS = sorted(HOME.glob("*.ipynb"))
TIMEOUT = 3000
"""Seconds for one cell."""
ESCAPE = re.compile(r"\x1b\[[0-9;]*m")


def execute(file: Path, folder: Path, parameters: str | None = None) -> NotebookNode:
    """Run a notebook in a folder and return it with its outputs; what it writes stays there.

    Args:
        file: of the notebook.
        folder: its working folder.
        parameters: takes the place of the cell tagged `parameters`.

    Raises:
        CellExecutionError: a cell failed.
    """
    shutil.copy(HOME / "classifier.py", folder)
    notebook = nbformat.read(file, as_version=4)
    for cell in notebook.cells:
        if parameters is not None and "parameters" in cell.metadata.get("tags", []):
            cell.source = parameters
    scripts = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")])
    quiet = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1", "PATH": scripts}
    client = NotebookClient(notebook, timeout=TIMEOUT, resources={"metadata": {"path": str(folder)}})
    return client.execute(env={**os.environ, **quiet})


def cleaned(notebook: NotebookNode) -> NotebookNode:
    """Without warnings and colours, each text in one piece, and without when cells were run."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.metadata.pop("execution", None)
            cell.outputs = joined([one for one in cell.outputs if one.get("name") != "stderr"])
    notebook.metadata.language_info = {"name": "python"}
    return notebook


def joined(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """What was printed in a row becomes one output, without the codes of a terminal."""
    found = []
    for output in outputs:
        if found and "text" in output and "text" in found[-1]:
            found[-1].text += output.text
        else:
            found.append(output)
    for output in found:
        if "text" in output:
            output.text = ESCAPE.sub("", output.text)
    return found


def main(words: list[str]) -> None:
    """Execute the notebooks whose name has one of the words, in order and in one folder; all without words."""
    with TemporaryDirectory() as folder:
        for file in NOTEBOOKS:
            if not words or any(word in file.name for word in words):
                nbformat.write(cleaned(execute(file, Path(folder))), file)
                print(file.name, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
