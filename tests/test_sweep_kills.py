"""Sweeps killed with SIGKILL at random moments end with the bits of one that was left alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "benchmarks/sweep_kills.py"


@pytest.mark.parametrize(("workers", "kills"), [("1", 4), ("2", 2)], ids=["alone", "two"])
def test_a_kill_loses_and_tears_nothing(tmp_path, workers, kills):
    out = tmp_path / "told.json"
    given = ["--kills", str(kills), "--workers", workers, "--seed", "3", "--json", str(out)]
    subprocess.run([sys.executable, str(SCRIPT), *given], check=True, timeout=300)
    told = json.loads(out.read_text())
    assert told["kills"] >= kills
    assert told["sweeps"] >= 1
    assert (told["lost"], told["torn"], told["differing"]) == (0, 0, 0)
