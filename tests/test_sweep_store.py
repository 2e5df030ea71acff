"""The store of a sweep: whole or not at all, resumed, extended, refused, damaged, full."""

from __future__ import annotations

import errno
import json
import os
import resource
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import gradflow as gf
from gradflow.cli import app
from gradflow.sweeps import segments, table
from gradflow.sweeps.lock import Lock
from gradflow.sweeps.segments import scan
from gradflow.sweeps.status import status_of
from gradflow.sweeps.store import segments_of

QUICK = {"workers": 1, "progress": False}
CALLS: list[int] = []
FACTOR = 2.0


def point(x: int) -> dict[str, object]:
    CALLS.append(x)
    values = FACTOR * np.arange(4.0) * x
    return {"y": values[-1], "name": f"point {x}", "up": x > 1, "values": values}


def run(store: Path, n: int = 6, fn=point, **options: object) -> xr.Dataset:
    return gf.sweep(fn, x=range(n), store=store, **QUICK, **options)


@pytest.fixture
def calls() -> list[int]:
    CALLS.clear()
    return CALLS


@pytest.fixture(scope="module")
def wanted() -> xr.Dataset:
    return gf.sweep(point, x=range(6), **QUICK)


# ---------------------------------------------------------------------------------- resuming
def test_what_is_there_is_not_computed_again(tmp_path, calls, wanted):
    assert run(tmp_path / "s").identical(wanted)
    assert run(tmp_path / "s").identical(wanted)
    assert calls == [0, 1, 2, 3, 4, 5]


def test_a_larger_grid_computes_what_is_new(tmp_path, calls, wanted):
    run(tmp_path / "s", 2)
    assert run(tmp_path / "s", 6).identical(wanted)
    assert run(tmp_path / "s", 3).identical(wanted.isel(x=slice(3)))
    assert calls == [0, 1, 2, 3, 4, 5]
    assert status_of(tmp_path / "s").others == 3


def test_an_ended_sweep_goes_on(tmp_path, calls, wanted):
    grid = {"x": range(6), "store": tmp_path / "s", "workers": 1}
    with pytest.warns(gf.SweepWarning, match="call it again with store="):
        ended = gf.sweep(point, progress=lambda news: False, **grid)
    assert 0 < (ended.error == "").sum() < 6
    assert run(tmp_path / "s").identical(wanted)
    assert calls == [0, 1, 2, 3, 4, 5]


def test_failures_are_kept_until_they_are_tried_again(tmp_path, calls):
    bad = [True]

    def fails(x):
        CALLS.append(x)
        if bad and x == 1:
            raise RuntimeError("now and then")
        return {"y": x}

    for _ in range(2):
        with pytest.warns(gf.SweepWarning, match="now and then"):
            run(tmp_path / "s", 3, fails)
    bad.clear()
    again = run(tmp_path / "s", 3, fails, retry=True)
    assert again.y.values.tolist() == [0, 1, 2]
    assert run(tmp_path / "s", 3, fails).identical(again)
    assert calls == [0, 1, 2, 1]


# ---------------------------------------------------------------------------------- configuration
def test_another_function_is_refused_with_the_difference(tmp_path):
    run(tmp_path / "s")

    def other(x):
        return {"y": x}

    other.__qualname__ = "point"
    with pytest.raises(gf.SweepError, match=r"function\.code: .* in the store, .* now") as caught:
        run(tmp_path / "s", fn=other)
    assert "choose another store" in str(caught.value)


def made(factor: float, offset: float = 0.0, doc: str = "a"):
    def fn(x, power=2):
        return {"y": factor * x**power + offset}

    fn.__doc__ = doc
    return fn


def test_what_a_function_reads_counts_and_its_docstring_does_not(tmp_path, monkeypatch):
    run(tmp_path / "s", fn=made(1.0))
    run(tmp_path / "s", fn=made(1.0, doc="another"))
    with pytest.raises(gf.SweepError, match=r"reads factor: 1\.0 in the store, 2\.0 now"):
        run(tmp_path / "s", fn=made(2.0))
    run(tmp_path / "g")
    monkeypatch.setitem(point.__globals__, "FACTOR", 3.0)
    with pytest.raises(gf.SweepError, match=r"reads FACTOR: 2\.0 in the store, 3\.0 now"):
        run(tmp_path / "g")


def test_other_parameters_and_versions_are_refused(tmp_path, monkeypatch):
    run(tmp_path / "s", fn=made(1.0))
    with pytest.raises(gf.SweepError, match=r"parameters: \['x'\] in the store, \['power', 'x'\]"):
        run(tmp_path / "s", fn=made(1.0), power=3)
    monkeypatch.setattr(gf, "__version__", "9.9.9")
    with pytest.raises(gf.SweepError, match=r"gradflow: 0\.\S+ in the store, 9\.9\.9 now"):
        run(tmp_path / "s", fn=made(1.0))


class Recipe:
    def __init__(self, told: dict[str, object]) -> None:
        self.told = told

    def describe(self) -> dict[str, object]:
        return self.told

    def __call__(self, x: int) -> dict[str, int]:
        return {"y": x}


def test_a_described_function_is_compared_by_what_it_says(tmp_path):
    run(tmp_path / "s", fn=Recipe({"net": {"width": 3}, "seed": 0}))
    run(tmp_path / "s", fn=Recipe({"seed": 0, "net": {"width": 3}}))
    with pytest.raises(gf.SweepError, match=r"describe\.net\.width: 3 in the store, 4 now"):
        run(tmp_path / "s", fn=Recipe({"net": {"width": 4}, "seed": 0}))


def test_other_packages_are_told(tmp_path):
    run(tmp_path / "s")
    header = json.loads((tmp_path / "s/sweep.json").read_text())
    header["beside"]["numpy"] = "1.0"
    (tmp_path / "s/sweep.json").write_text(json.dumps(header))
    with pytest.warns(gf.SweepWarning, match=r"made with numpy 1\.0, now 2"):
        run(tmp_path / "s")


def test_a_value_without_a_name_is_refused_by_a_store_only(tmp_path):
    thing = object()
    assert gf.sweep(lambda x: {"y": 1}, x=[thing], **QUICK).y.item() == 1
    with pytest.raises(ValueError, match=r"x=.*cannot be known again"):
        gf.sweep(lambda x: {"y": 1}, x=[thing], store=tmp_path / "s", **QUICK)


# ---------------------------------------------------------------------------------- two at once
def test_two_sweeps_at_once(tmp_path, calls, wanted):
    (tmp_path / "s").mkdir()
    lock = Lock(tmp_path / "s")
    with pytest.raises(gf.SweepError, match=f"another sweep .*process {os.getpid()} on "):
        run(tmp_path / "s")
    threading.Timer(0.3, lock.close).start()
    began = time.monotonic()
    assert run(tmp_path / "s", wait=True).identical(wanted)
    assert time.monotonic() - began > 0.2


# ---------------------------------------------------------------------------------- no room
@contextmanager
def files_of_at_most(size: int):
    """The kernel refuses to let files grow: some bytes of a write arrive, and then none."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_takes_no_more(tmp_path, calls, wanted):
    run(tmp_path / "s", 1)
    size = segments_of(tmp_path / "s")[0].stat().st_size
    with files_of_at_most(int(2.5 * size)), pytest.raises(gf.SweepError) as caught:
        run(tmp_path / "s")
    assert "the 3 points in it are whole: make room and call gf.sweep again" in str(caught.value)
    # (what the disk did not take is not lost either)
    assert (caught.value.table.error == "").sum() == 4
    assert caught.value.table.isel(x=slice(4)).identical(wanted.isel(x=slice(4)))
    assert not status_of(tmp_path / "s").flaws
    assert run(tmp_path / "s").identical(wanted)
    assert calls == [0, 1, 2, 3, 3, 4, 5]


def test_a_full_disk_says_so(tmp_path, monkeypatch, wanted):
    write = os.write

    def full(descriptor: int, data: bytes) -> int:
        if len(CALLS) > 2:
            write(descriptor, bytes(data)[: len(data) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, data)

    CALLS.clear()
    monkeypatch.setattr(segments.os, "write", full)
    with pytest.raises(gf.SweepError, match=r"disk is full .*; the 2 points in it are whole"):
        run(tmp_path / "s")
    monkeypatch.undo()
    assert not status_of(tmp_path / "s").flaws
    assert run(tmp_path / "s").identical(wanted)


@pytest.mark.parametrize("where", ["file", "file/store", "/proc/store", "strange"])
def test_a_folder_that_cannot_be_a_store(tmp_path, where):
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "strange").mkdir()
    (tmp_path / "strange/thesis.tex").write_text("x")
    with pytest.raises(ValueError, match=r"store=.*(cannot be written|holds 'thesis.tex')"):
        run(tmp_path / where)


# ---------------------------------------------------------------------------------- damage
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_damage_is_named_and_computed_again(tmp_path_factory, data, wanted):
    store = tmp_path_factory.mktemp("damage") / "s"
    run(store, 3)
    run(store)
    file = segments_of(store)[data.draw(st.integers(0, 1))]
    whole = file.read_bytes()
    # (entries tell seconds, so their lengths are not always the same)
    begin = int(data.draw(st.floats(0, 1, exclude_max=True)) * len(whole))
    end = min(len(whole), begin + data.draw(st.integers(1, 200)))
    filler = data.draw(st.sampled_from([b"", b"zeros", segments.MAGIC, b"junk"]))
    filler = bytes(end - begin) if filler == b"zeros" else filler
    damaged = whole[:begin] + filler + whole[end:]
    file.write_bytes(damaged)
    CALLS.clear()
    with warnings_of_damage() as said:
        again = run(store)
    assert again.identical(wanted)
    if CALLS and end < len(whole):
        assert said
    elif damaged == whole:
        assert not CALLS
    CALLS.clear()
    with warnings_of_damage() as said:
        assert run(store).identical(wanted)
    assert not CALLS
    assert not said
    assert not status_of(store).flaws


@contextmanager
def warnings_of_damage():
    import warnings

    said: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield said
    said += [str(w.message) for w in caught]
    assert all("computed again" in text or "more entries" in text for text in said)


def test_a_damaged_entry_is_named_by_its_point(tmp_path, calls):
    run(tmp_path / "s")
    file = segments_of(tmp_path / "s")[0]
    entry = list(scan(file))[3]
    data = bytearray(file.read_bytes())
    data[entry.end - 1] ^= 1
    file.write_bytes(data)
    flaw = status_of(tmp_path / "s").flaws[0]
    assert "x=3 (000001.seg at byte" in str(flaw)
    assert "damaged in values" in str(flaw)
    calls.clear()
    with pytest.warns(gf.SweepWarning, match="x=3 .*damaged in values"):
        run(tmp_path / "s")
    assert calls == [3]
    assert (tmp_path / "s/damaged/000002.seg").read_bytes() == bytes(data)


def test_a_foreign_entry_is_named_and_not_used(tmp_path, calls, wanted):
    run(tmp_path / "s", 3)
    run(tmp_path / "other", fn=made(1.0))
    stray = segments_of(tmp_path / "other")[0].read_bytes()
    (tmp_path / "s/points/000009.seg").write_bytes(stray)
    with pytest.warns(gf.SweepWarning, match="configuration.: not used|1 more"):
        assert run(tmp_path / "s").identical(wanted)
    assert calls == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("harm", [Path.unlink, lambda path: path.write_text("{")])
def test_a_lost_header_is_written_again(tmp_path, calls, wanted, harm):
    run(tmp_path / "s")
    harm(tmp_path / "s/sweep.json")
    with pytest.raises(gf.SweepError, match="points are of another configuration"):
        run(tmp_path / "s", fn=made(1.0))
    with pytest.warns(gf.SweepWarning, match=r"the header \(sweep.json: missing or damaged"):
        assert run(tmp_path / "s").identical(wanted)
    assert run(tmp_path / "s").identical(wanted)
    assert len(calls) == 6


# ---------------------------------------------------------------------------------- on disk
def test_columns_that_do_not_fit_are_read_when_asked_for(tmp_path, monkeypatch):
    def large(x, z):
        if x == 2:
            raise ValueError("no")
        return {"a": x + np.arange(600.0).reshape(2, 300) * z, "n": x}

    grid = {"x": range(4), "z": [1.0, 2.0], "store": tmp_path / "s", **QUICK}
    with pytest.warns(gf.SweepWarning, match="failed"):
        wanted = gf.sweep(large, **grid)
    monkeypatch.setattr(table, "fits", lambda size: size < 1000)
    with pytest.warns(gf.SweepWarning, match="failed"):
        lazy = gf.sweep(large, **grid)
    assert not lazy.a.variable._in_memory
    assert lazy.n.variable._in_memory
    for choose in (
        lambda t: t.a.isel(x=1), lambda t: t.a.sel(z=2.0), lambda t: t.a[1:3, :, 0, ::7],
        lambda t: t.a[:, 1, 1, 5], lambda t: t.a[[3, 0], 0, :, [1, 2, 9]],
        lambda t: t.a[::-1, 1, ::-1, -3:], lambda t: t.a.isel(x=[0, 1], z=[1]), lambda t: t.a,
        lambda t: t.a.isel(x=xr.DataArray([0, 1], dims="p"), z=xr.DataArray([1, 0], dims="p")),
    ):  # fmt: skip
        xr.testing.assert_identical(choose(lazy).load(), choose(wanted))
    fresh = lambda: gf.sweep(large, **grid)
    with pytest.warns(gf.SweepWarning, match="failed"):
        broken = fresh()
    file = segments_of(tmp_path / "s")[0]
    file.write_bytes(file.read_bytes().replace(np.float64(301.0).tobytes(), b"damaged!"))
    with pytest.raises(gf.SweepError, match="has been damaged since"):
        broken.a.load()


# ---------------------------------------------------------------------------------- status
def test_status_says_how_far(tmp_path):
    def fails(x):
        if x % 2:
            raise ValueError(f"{x} is odd")
        return {"y": x}

    with pytest.warns(gf.SweepWarning, match="failed"):
        run(tmp_path / "s", 4, fails)
    called = CliRunner().invoke(app, ["status", str(tmp_path / "s")])
    assert called.exit_code == 0
    assert "fails, gradflow " in called.output
    assert "4 of 4 points done (2 failed), 0 left\nnot running" in called.output
    assert "failed: x=3: ValueError: 3 is odd" in called.output
    lock = Lock(tmp_path / "s")
    assert f"running: process {os.getpid()}" in status_of(tmp_path / "s").text()
    lock.close()


def test_status_of_what_is_no_store(tmp_path):
    called = CliRunner().invoke(app, ["status", str(tmp_path)])
    assert called.exit_code == 2
    assert "is no store of a sweep" in called.output


def test_an_unfinished_entry_is_dropped(tmp_path, calls, wanted):
    run(tmp_path / "s")
    file = segments_of(tmp_path / "s")[0]
    os.truncate(file, list(scan(file))[-1].end - 5)
    assert "5 of 6 points done, 1 left" in status_of(tmp_path / "s").text()
    with pytest.warns(gf.SweepWarning, match="x=5 .*unfinished"):
        assert run(tmp_path / "s").identical(wanted)
    assert calls == [0, 1, 2, 3, 4, 5, 5]
