"""Compiled code is kept where it can be, and works where it cannot."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import numba
import numpy as np
import pytest
from numba.core import caching

from gradflow.integrators.steppers.cells import compiled as compiling
from gradflow.integrators.steppers.cells.compiled import kernel, stamp

SOURCE = "def double(x):\n    return 2.0 * x.sum()\n"


@pytest.fixture
def function(tmp_path):
    """A function in a file of its own, in a folder ``source``."""
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "of_test.py").write_text(SOURCE)
    spec = importlib.util.spec_from_file_location("of_test", folder / "of_test.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.double


def kept(folder):
    return sorted(path.suffix for path in folder.rglob("*.nb*"))


def test_beside_the_source(function, tmp_path):
    assert kernel(function)(np.ones(3)) == 6.0
    assert kept(tmp_path / "source") == [".nbc", ".nbi"]


def test_in_the_folder_that_is_named(function, tmp_path, monkeypatch):
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "named"))
    assert kernel(function)(np.ones(3)) == 6.0
    assert kept(tmp_path / "named") == [".nbc", ".nbi"]
    assert kept(tmp_path / "source") == []


def test_nowhere(function, tmp_path, monkeypatch):
    monkeypatch.setattr(caching.CacheImpl, "_locator_classes", [])
    with pytest.warns(RuntimeWarning, match="NUMBA_CACHE_DIR"):
        compiled = kernel(function)
    assert compiled(np.ones(3)) == 6.0
    assert kept(tmp_path) == []


@pytest.mark.parametrize(
    ("room", "counts"),
    [("cells/field.py", True), ("cells/system.py", True), ("late/lu.py", True),
     ("cells/host.py", False), ("late/events.py", False)],
)  # fmt: skip
def test_versions_are_told_apart_by_all_compiled_sources(room, counts, tmp_path):
    """Compiled code is made again where it, or a constant that it reads, has changed."""
    steppers = tmp_path / "steppers"
    shutil.copytree(Path(compiling.__file__).parents[1], steppers)
    before = stamp(steppers)
    (steppers / room).write_text((steppers / room).read_text() + "# changed\n")
    assert (stamp(steppers) != before) == counts
