"""Compiled code is kept where it can be, and works where it cannot."""

from __future__ import annotations

import importlib.util

import numba
import numpy as np
import pytest
from numba.core import caching

from gradflow.integrators.steppers.cells.compiled import kernel

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
