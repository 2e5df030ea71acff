"""The notebooks run from the first cell to the last, and are stored without outputs or paths."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
named = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)


def read(path):
    nbformat = pytest.importorskip("nbformat")
    return nbformat.read(path, as_version=4)


def test_there_are_notebooks():
    assert NOTEBOOKS


@named
def test_stored_clean(path):
    notebook = read(path)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None
    text = path.read_text()
    assert len(text) < 1_000_000
    assert not re.search(r"/(work|tmp|home|root|Users)/|C:\\\\", text)


@pytest.mark.slow
@named
# zmq and its event loops leave sockets to the garbage collector; that is not ours to fix.
@pytest.mark.filterwarnings("default")
def test_runs(path, tmp_path):
    nbclient = pytest.importorskip("nbclient")
    # (not imported: from then on this process would pass for a notebook, in other tests too)
    if importlib.util.find_spec("ipykernel") is None:
        pytest.skip("no ipykernel")
    notebook = read(path)
    client = nbclient.NotebookClient(
        notebook,
        timeout=300,
        kernel_name="python3",
        resources={"metadata": {"path": str(tmp_path)}},
    )
    client.execute()  # raises CellExecutionError with the traceback
    outputs = [out for cell in notebook.cells for out in cell.get("outputs", [])]
    assert not [out for out in outputs if out.output_type == "error"]
    said = "".join(out.text for out in outputs if out.get("name") == "stderr")
    # Long integrations show a line of progress, which they take away again.
    lines = [line.strip() for line in said.split("\r")]
    assert not [line for line in lines if line and not line.startswith("ln t = ")], said
    assert lines[-1] == ""
    assert any("image/png" in out.get("data", {}) for out in outputs)
    assert list(tmp_path.iterdir()) == []
