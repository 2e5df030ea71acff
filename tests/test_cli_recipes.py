"""``gradflow run`` and ``gradflow sweep``: files, words and exit codes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import xarray as xr
from typer.testing import CliRunner

import gradflow as gf
from gradflow import cli

RUN = """\
observe = ["loss", "neuron_norms"]
certificate = true
[data]
X = [[1.0, 0.5], [-0.5, 1.0], [0.3, -1.2]]
y = [1, -1, 1]
[net]
kind = "two_layer"
width = 3
activation = "tanh"
[risk]
loss = "squared"
[start]
seed = 1
scale = 0.5
[until]
time = 2.0
[integrate]
rtol = 1e-7
"""
GRID = RUN + '[grid]\n"start.seed" = {range = 2}\n'


@pytest.fixture
def call(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def call(*words: str, text: str = RUN):
        (tmp_path / "flow.toml").write_text(text)
        return CliRunner().invoke(cli.app, list(words))

    return call


def test_run_writes_the_path_the_observables_and_the_recipe(call, tmp_path):
    done = call("run", "flow.toml", "--out", "made/here", "--plot")
    assert done.exit_code == 0, done.output
    assert done.output.startswith("gradflow run flow.toml: loading\n")
    for words in ("reached", "ln t = 0.6931471806", "loss = ", "certificate (stationary point)"):
        assert words in done.output
    folder = tmp_path / "made" / "here"
    path = gf.load(folder / "flow.nc")
    assert path.t_final == pytest.approx(2.0, rel=1e-14)
    with xr.open_dataset(folder / "flow.nc", engine="scipy", decode_times=False) as data:
        np.testing.assert_array_equal(data["loss"], path.observe("loss"))
        assert data["neuron_norms"].dims == ("log_t", "neuron")
        assert data.attrs["recipe"] == RUN
    assert (folder / "flow.png").read_bytes()[:4] == b"\x89PNG"
    assert sorted(os.listdir(folder)) == ["flow.nc", "flow.png"]


def test_run_and_only_check_write_nothing(call, tmp_path):
    for command, text in (("run", RUN), ("sweep", GRID)):
        done = call(command, "flow.toml", "--check", text=text)
        assert done.exit_code == 0, done.output
        assert sorted(os.listdir(tmp_path)) == ["flow.toml"]
    assert call("run", "flow.toml", "--check", "--quiet").output == ""


def test_a_failed_run_keeps_its_part_and_says_so(call, tmp_path):
    done = call("run", "flow.toml", text=RUN.replace("rtol = 1e-7", "rtol = 1e-7\nmax_steps = 3"))
    assert done.exit_code == 1
    assert "error: max_steps" in done.stderr
    assert "Traceback" not in done.output
    assert 0 < gf.load(tmp_path / "flow.nc").t_final < 2.0


def test_a_path_that_cannot_be_written_is_not_lost(call, tmp_path, monkeypatch):
    """A full disk, found out after the integration."""
    from gradflow.paths import saving

    whole = saving.replace_file

    def full(where, write):
        if os.fspath(where).startswith("made"):
            raise OSError(28, "No space left on device")
        whole(where, write)

    monkeypatch.setattr(saving, "replace_file", full)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    done = call("run", "flow.toml", "--out", "made")
    assert done.exit_code == 2
    said = "cannot write made/flow.nc: No space left on device; the path is in "
    assert said in done.stderr
    kept = done.stderr.partition(said)[2].strip()
    assert gf.load(kept).t_final == pytest.approx(2.0, rel=1e-14)


def test_an_interrupted_run_keeps_its_part(tmp_path):
    """Ctrl-C, sent once the flow is being followed."""
    slow = RUN.replace("time = 2.0", "time = 1e12").replace(
        "rtol = 1e-7", 'rtol = 1e-13\nintegrator = "heun"\nmax_steps = 100_000_000\nsave_at = [1.0]'
    )
    (tmp_path / "flow.toml").write_text(slow.replace("certificate = true", ""))
    command = [sys.executable, "-u", "-m", "gradflow.cli", "run", "flow.toml"]
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "until" in line:
                break
        time.sleep(3)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 1, said
    assert "error: interrupted" in said
    assert "Traceback" not in said
    assert gf.load(tmp_path / "flow.nc").result.name == "interrupted"


@pytest.mark.parametrize(
    ("words", "text", "said"),
    [
        (("run", "none.toml"), RUN, "none.toml: cannot be read: No such file"),
        (("run", "."), RUN, ".: cannot be read: Is a directory"),
        (("run", "flow.toml"), RUN.replace("scale", "scal"), "flow.toml:14: start.scal: is no"),
        (("run", "flow.toml"), RUN.replace("0.5\n[u", "inf\n[u"), "flow.toml:14: start.scale"),
        (("run", "flow.toml"), "=", "flow.toml:1: is not TOML"),
        (("run", "flow.toml"), GRID, "flow.toml:19: grid: is for a sweep"),
        (("run", "flow.toml", "--out", "flow.toml/x"), RUN, "pass another --out"),
        (("sweep", "flow.toml", "--store", "s"), RUN, "has no [grid]"),
        (("sweep", "flow.toml"), GRID, "nothing would keep the results"),
        (("sweep", "flow.toml", "--store", "s", "--workers", "0"), GRID, "workers=0"),
    ],
)  # fmt: skip
def test_bad_usage_is_told_in_a_line(call, words, text, said):
    done = call(*words, text=text)
    assert done.exit_code == 2, done.output
    assert said in done.stderr
    assert "Traceback" not in done.output
    assert done.stderr.count("\n") == 1


def test_sweep_goes_on_and_tells_of_failed_points(call, tmp_path):
    words = ("sweep", "flow.toml", "--store", "kept", "--out", "t.nc", "--workers", "1")
    text = GRID.replace(
        '"start.seed" = {range = 2}', '"start.seed" = {range = 2}\nstart.scale = [1]'
    )
    for _ in range(2):
        done = call(*words, text=text)
        assert done.exit_code == 0, done.output
        assert "2 of 2 points computed: 2 reached" in done.output
    with xr.open_dataset(tmp_path / "t.nc", engine="h5netcdf") as table:
        assert dict(table.sizes) == {"seed": 2, "scale": 1, "neuron": 3}
        assert table.attrs["recipe"] == text
        assert table["certified"].dtype == bool
        kept = float(table["loss"].sel(seed=1, scale=1))
    recipe = gf.recipe(tmp_path / "flow.toml")
    assert float(recipe(seed=1, scale=1)["loss"]) == kept
    other = call(*words, text=text.replace("time = 2.0", "time = 3.0"))
    assert other.exit_code == 1
    assert "2.0 in the store, 3.0 now" in other.stderr
    assert "Traceback" not in other.output


def test_the_first_line_comes_before_what_is_heavy(tmp_path):
    """Imports that a command needs are made after it has said what it does."""
    (tmp_path / "flow.toml").write_text(RUN)
    code = (
        "import sys, typer; from gradflow import cli\n"
        "said = typer.echo\n"
        "def echo(text, **how):\n"
        "    said(f\"{text} {sorted({'jax', 'scipy', 'xarray'} & set(sys.modules))}\")\n"
        "    raise SystemExit\n"
        "typer.echo = echo; sys.argv = ['gradflow', 'run', 'flow.toml']; cli.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "gradflow run flow.toml: loading []\n", done.stderr
