"""`gf.sweep`: points of a grid become a table, whoever computes them, whatever they return."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import threading
import time
import warnings

import numpy as np
import pytest
import xarray as xr

import gradflow as gf
from gradflow.sweeps import room

QUICK = {"workers": 1, "progress": False}


def walk(seed: int, scale: float) -> dict[str, object]:
    """Results of every kind."""
    values = scale * np.cumsum(np.random.default_rng(seed).normal(size=5))
    return {"end": values[-1], "up": values[-1] > 0, "steps": 5, "name": f"walk {seed}",
            "path": values}  # fmt: skip


def square(x: float) -> dict[str, float]:
    return {"y": x * x}


class Power:
    """A function that describes itself."""

    def __init__(self, exponent: int) -> None:
        self.exponent = exponent

    def describe(self) -> dict[str, object]:
        return {"exponent": self.exponent}

    def __call__(self, x: float) -> dict[str, float]:
        return {"y": float(x) ** self.exponent}


# ---------------------------------------------------------------------------------- the table
def test_dimensions_are_the_parameters():
    table = gf.sweep(walk, seed=range(3), scale=[0.1, 1.0], dims={"path": ["step"]}, **QUICK)
    assert table.end.dims == ("seed", "scale")
    assert table.path.dims == ("seed", "scale", "step")
    assert table.seed.dtype == np.int64
    for seed in range(3):
        for scale in (0.1, 1.0):
            here, wanted = table.sel(seed=seed, scale=scale), walk(seed, scale)
            assert {n: here[n].dtype.kind for n in wanted} == {
                "end": "f", "up": "b", "steps": "i", "name": "U", "path": "f"
            }  # fmt: skip
            for name, value in wanted.items():
                np.testing.assert_array_equal(here[name].values, value)
    assert not table.error.values.any()
    seconds = table.encoding["seconds"]
    assert seconds.dims == ("seed", "scale")
    assert (seconds > 0).all()


def test_a_table_can_be_written_to_netcdf(tmp_path):
    table = gf.sweep(walk, seed=range(3), scale=[0.1], **QUICK)
    table.to_netcdf(tmp_path / "table.nc", engine="scipy")
    with xr.open_dataset(tmp_path / "table.nc", engine="scipy") as read:
        np.testing.assert_array_equal(read.path, table.path)


@pytest.mark.parametrize(
    ("given", "coordinate", "labels"),
    [
        (range(2), [0, 1], None),
        (np.array([0.5, 1.5]), [0.5, 1.5], None),
        ([1, 2.5], [1.0, 2.5], None),
        (("a", "b"), ["a", "b"], None),
        ([False, True], [False, True], None),
        ([np.sin, np.cos], [0, 1], ["sin", "cos"]),
        ([[1, 2], [3]], [0, 1], ["[1, 2]", "[3]"]),
        ([2**70, 1], [0, 1], [str(2**70), "1"]),
        ([None, 1], [0, 1], ["None", "1"]),
    ],
    ids=["range", "array", "mixed", "strings", "bools", "functions", "lists", "big",
         "none"],
)  # fmt: skip
def test_coordinates_are_values_or_labels(given, coordinate, labels):
    table = gf.sweep(lambda x: {"y": 1.0}, x=given, **QUICK)
    assert table.x.values.tolist() == coordinate
    assert ("x_label" in table.coords) == (labels is not None)
    for label, part in zip(
        table.coords.get("x_label", []), labels or [], strict=labels is not None
    ):
        assert part in label.item()


def test_objects_get_labels():
    table = gf.sweep(lambda x: {"y": 1.0}, x=[gf.leaky_relu(0.1), gf.tanh], **QUICK)
    assert table.x.values.tolist() == [0, 1]
    assert ["leaky_relu" in label for label in table.x_label.values.tolist()] == [True, False]


def test_one_value_needs_no_dimension():
    table = gf.sweep(lambda x, kind, on: {"y": x if on else kind}, x=[1, 2], kind="a", on=True,
                     **QUICK)  # fmt: skip
    assert table.y.dims == ("x",)
    assert table.kind.item() == "a"
    assert gf.sweep(square, x=3.0, **QUICK).y.item() == 9.0


def test_points_instead_of_a_grid():
    points = [{"x": 1.0, "kind": "a"}, {"x": 2.0, "kind": "b"}]
    table = gf.sweep(lambda x, kind, c: {"y": f"{x}{kind}{c}"}, points=points, c=7, **QUICK)
    assert table.y.dims == ("point",)
    assert table.y.values.tolist() == ["1.0a7", "2.0b7"]
    assert table.kind.values.tolist() == ["a", "b"]
    assert table.c.item() == 7


def test_numbers_come_as_python_has_them():
    kinds = gf.sweep(lambda a, b: {"kinds": f"{type(a).__name__} {type(b).__name__}"},
                     a=np.arange(2), b=np.array([0.5]), **QUICK)  # fmt: skip
    assert kinds.kinds.values.tolist() == [["int float"]] * 2


def test_data_arrays_keep_their_dimensions_and_shared_coordinates():
    def series(x):
        t = np.array([0.0, 1.0, 2.0])
        own = xr.DataArray(t, dims=["u"], coords={"u": x + t})
        return {"loss": xr.DataArray(x * t, dims=["t"], coords={"t": t}), "own": own}

    table = gf.sweep(series, x=[1.0, 2.0], **QUICK)
    assert table.loss.dims == ("x", "t")
    assert table.loss.sel(x=2.0, t=2.0) == 4.0
    np.testing.assert_array_equal(table.own_u.sel(x=2.0), [2.0, 3.0, 4.0])


# ---------------------------------------------------------------------------------- failures
def test_a_point_that_fails_is_a_row_and_the_others_go_on():
    def fails(x):
        if x == 1:
            raise ZeroDivisionError("one is\nbad")
        if x == 2:
            raise SystemExit(3)
        return {
            "f": 1.0, "i": 3, "b": True, "s": "text", "t": np.datetime64("2026-12-01"),
            "big": 2**60 + 1, "a": np.ones(2), "c": 1j,
        }  # fmt: skip

    with pytest.warns(gf.SweepWarning, match="2 of 4 points failed"):
        table = gf.sweep(fails, x=range(4), **QUICK)
    assert table.error.values.tolist() == [
        "", "ZeroDivisionError: one is bad", "SystemExit: 3", "",
    ]  # fmt: skip
    row = table.isel(x=1)
    assert np.isnan(row.f)
    assert np.isnan(row.i)
    assert np.isnan(row.b)
    assert row.s.item() == ""
    assert np.isnat(row.t.values)
    assert np.isnan(row.big.item())
    assert np.isnan(row.a).all()
    assert np.isnan(row.c)
    assert table.big.values[0] == 2**60 + 1
    assert table.i.values[0] == 3
    assert table.b.values[0] == 1.0


@pytest.mark.parametrize(
    ("odd", "said"),
    [
        ({"z": 1.0}, r"names \['z'\], and not \['y'\] as at the point x=0"),
        ({"y": 1.0, "z": 2.0}, r"names \['y', 'z'\]"),
        ({"y": np.ones(2)}, r"'y' of kind number and shape \(2,\), and not 'y' of kind number"),
        ({"y": "text"}, "'y' of kind text"),
    ],
    ids=["other", "more", "shape", "kind"],
)
def test_a_point_that_returns_something_else_than_the_others_is_a_row(odd, said):
    with pytest.warns(gf.SweepWarning, match=said):
        table = gf.sweep(lambda x: odd if x == 2 else {"y": 1.0}, x=range(4), **QUICK)
    assert (table.error != "").values.tolist() == [False, False, True, False]
    assert np.isnan(table.y.values[2])
    assert list(table.data_vars) == ["y", "error"]


@pytest.mark.parametrize(
    ("result", "said"),
    [
        (1.0, "not a mapping"),
        (None, "not a mapping"),
        ({1: 2.0}, "names are strings"),
        ({"error": 1.0}, "rename it"),
        ({"x": 1.0}, "which is a parameter"),
        ({"y": object()}, "return numbers"),
        ({"y": [[1.0], [1.0, 2.0]]}, "no array of one shape"),
        ({"y": 10**400}, "return numbers"),
        ({"y": xr.DataArray([1.0], dims=["x"])}, "dimension 'x', which is a parameter"),
    ],
    ids=["number", "none", "name", "reserved", "parameter", "object", "ragged", "huge", "dim"],
)
def test_a_result_that_is_none_is_told(result, said):
    with pytest.warns(gf.SweepWarning, match=said):
        gf.sweep(lambda x: result, x=[1], **QUICK)


def test_none_is_a_missing_value():
    table = gf.sweep(lambda x: {"y": None if x else 1.5, "s": "a" if x else None}, x=range(2),
                     **QUICK)  # fmt: skip
    assert np.isnan(table.y.values[1])
    assert table.s.values.tolist() == ["", "a"]


def test_what_points_warn_of_is_told_once():
    def warns(x):
        warnings.warn("the same", RuntimeWarning, stacklevel=1)
        return {"y": x}

    with pytest.warns(RuntimeWarning, match=r"the same \(3 of 3 points warned, as x=0\)") as caught:
        table = gf.sweep(warns, x=range(3), **QUICK)
    assert len(caught) == 1
    assert not table.error.values.any()


# ---------------------------------------------------------------------------------- processes
def test_any_number_of_processes_gives_the_same_bits():
    factor = 3.0
    fn = lambda seed, scale: {**walk(seed, scale), "blas": _blas(seed), "closure": factor * scale}
    grid = {"seed": range(6), "scale": [0.1, 1.0]}
    alone = gf.sweep(fn, **grid, **QUICK)
    assert gf.sweep(fn, workers=2, progress=False, **grid).identical(alone)


def _blas(seed: int) -> np.ndarray:
    A = np.random.default_rng(seed).normal(size=(300, 300))
    return np.linalg.solve(A @ A.T, A[0])[:4]


def test_a_point_that_kills_its_process_three_times_is_a_row():
    def kills(x):
        if x == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.01)
        return {"y": x}

    with pytest.warns(gf.SweepWarning, match="x=3: its process died 3 times"):
        table = gf.sweep(kills, x=range(12), workers=2, progress=False)
    assert table.y.isnull().values.tolist() == [x == 3 for x in range(12)]


def test_a_function_that_cannot_be_sent():
    lock = threading.Lock()
    fn = lambda x: {"y": x, "free": not lock.locked()}
    assert gf.sweep(fn, x=range(3), progress=False).y.values.tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="cannot be sent to other processes"):
        gf.sweep(fn, x=range(3), workers=2)


def test_the_workers_need_no_jax():
    code = (
        "import sys, gradflow as gf\n"
        "t = gf.sweep(lambda x: {'jax': 'jax' in sys.modules}, x=range(4), workers=2)\n"
        "assert not t.jax.values.any() and 'jax' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


# ---------------------------------------------------------------------------------- its end
def test_an_end_in_time_keeps_what_is_done():
    def slow(x):
        time.sleep(0.05)
        return {"y": x}

    with pytest.warns(gf.SweepWarning, match=r"ended \(max_seconds\).*not computed; call it again"):
        table = gf.sweep(slow, x=range(100), max_seconds=0.2, **QUICK)
    done = (table.error == "").values
    assert 0 < done.sum() < 100
    assert set(table.error.values[~done]) == {"not computed"}
    assert np.isnan(table.y.values[~done]).all()


def test_progress_is_told_and_may_end_the_sweep():
    told = []

    def listen(news):
        told.append(news)
        return news["done"] < 3

    def slow(x):
        time.sleep(0.15)
        return {"y": x}

    with pytest.warns(gf.SweepWarning, match="interrupted"):
        table = gf.sweep(slow, x=range(100), workers=1, progress=listen)
    assert (table.error == "").sum() < 10
    assert set(told[0]) == {"done", "total", "failed", "seconds", "per_second", "seconds_left"}


@pytest.mark.parametrize("workers", [1, 2])
def test_ctrl_c_keeps_what_is_done_and_no_half_point(workers):
    def slow(x):
        if x > 1:
            time.sleep(30)
        return {"y": x}

    gf.sweep(square, x=range(4), workers=workers, progress=False)  # (processes start)
    threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT)).start()
    began = time.monotonic()
    with pytest.warns(gf.SweepWarning, match="interrupted"):
        table = gf.sweep(slow, x=range(10), workers=workers, progress=False)
    assert time.monotonic() - began < 20
    assert table.error.values.tolist() == ["", ""] + ["not computed"] * 8


def test_a_line_tells_rate_and_time_left(capsys, monkeypatch):
    monkeypatch.setattr("gradflow.sweeps.board._FIRST", 0.0)
    # (as soon as another test has imported ipykernel, this process passes for a notebook)
    monkeypatch.setattr("gradflow.sweeps.board.is_read", lambda stream: False)

    def slow(x):
        if x == 0:
            raise ValueError("no")
        time.sleep(0.2)
        return {"y": x}

    with pytest.warns(gf.SweepWarning, match="failed"):
        gf.sweep(slow, x=range(6), workers=1)
    lines = capsys.readouterr().err.splitlines()
    assert any("of 6 points, " in line or "of 6 points, 1 failed" in line for line in lines)
    assert all("/s, " in line and line.endswith(" left") for line in lines)


# ---------------------------------------------------------------------------------- bad input
@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"z": [1]}, "fn='square': takes"),
        ({"x": [1], "z": [2]}, r"takes \(x: 'float'\).*not \(x, z\)"),
        ({}, "names no parameter"),
        ({"x": []}, "x=.*is empty"),
        ({"x": {1, 2}}, "has no order; pass sorted"),
        ({"x": iter([1])}, "can be read only once"),
        ({"x": [1, 2, 1]}, "holds 1 twice"),
        ({"x": range(10**12)}, "make 1000000000000 points"),
        ({"points": []}, "points=.*is empty"),
        ({"points": [{"x": 1}, {"y": 1}]}, "point 1 has the names"),
        ({"points": [{"x": 1}, {"x": 1}]}, "is there twice"),
        ({"points": [{"x": 1}], "x": 2}, "outside of the points too"),
        ({"points": [{"x": 1}], "z": [2, 3]}, "several values beside points="),
        ({"x": [1], "workers": 0}, "workers=0"),
        ({"x": [1], "max_seconds": -1}, "max_seconds=-1"),
        ({"x": [1], "workers": 2, "client": "a"}, "given beside client="),
        ({"x": [1], "client": 3}, "is no Dask client"),
        ({"x": [1], "store": 3}, "store=3: is no path"),
    ],
    ids=lambda value: str(value)[:30] if isinstance(value, dict) else "",
)  # fmt: skip
def test_bad_input_is_told_at_the_door(given, said):
    with pytest.raises(ValueError, match=said):
        gf.sweep(square, **given)


def test_what_is_no_function_is_refused():
    with pytest.raises(ValueError, match="fn=3: cannot be called"):
        gf.sweep(3, x=[1])


def test_results_that_do_not_fit_into_memory_are_refused_early(monkeypatch):
    monkeypatch.setattr(room, "available", lambda: 2**28)
    calls = []

    def large(x):
        calls.append(x)
        return {"y": np.full(2**17, float(x))}

    with pytest.raises(gf.SweepError, match=r"0.977 GiB .* pass store=") as caught:
        gf.sweep(large, x=range(1000), **QUICK)
    assert 0 < len(calls) < 100
    assert caught.value.table.y.sel(x=0).notnull().all()


def test_a_path_needs_a_store(problem):
    with pytest.raises(gf.SweepError, match="pass store="):
        gf.sweep(problem, until=[1.0, 2.0], **QUICK)


@pytest.fixture(scope="module")
def problem():
    risk = gf.EmpiricalRisk(gf.LinearPredictor(1), gf.squared, np.ones((2, 1)), np.ones(2))
    return functools.partial(_flow, risk)


def _flow(risk: gf.EmpiricalRisk, until: float) -> dict[str, object]:
    path = gf.integrate(risk, np.ones(1) / 2, until=until)
    return {"loss": path.observe("loss")[-1], "path": path}


def test_paths_are_kept_as_files(problem, tmp_path):
    table = gf.sweep(problem, until=[1.0, 2.0], store=tmp_path / "s", **QUICK)
    path = gf.load(table.path.sel(until=2.0).item())
    assert path.t[-1] == pytest.approx(2.0, rel=1e-12)
    assert path.observe("loss")[-1] == table.loss.sel(until=2.0)
    assert gf.sweep(problem, until=[1.0, 2.0], store=tmp_path / "s", **QUICK).identical(table)


def test_a_described_function():
    assert gf.sweep(Power(3), x=[1, 2], **QUICK).y.values.tolist() == [1.0, 8.0]
