"""Sweeps on a Dask cluster: the same bits, also where workers are killed."""

from __future__ import annotations

import os
import signal
import threading
import time

import numpy as np
import pytest
from distributed import Client, LocalCluster

import gradflow as gf

# (sockets of a cluster that has ended are closed by the garbage collector)
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning",
                                        "ignore::ResourceWarning")  # fmt: skip


@pytest.fixture(scope="module")
def cluster():
    with LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None, silence_logs=50
    ) as made:
        yield made


@pytest.fixture(scope="module")
def client(cluster):
    with Client(cluster, set_as_default=False) as made:
        yield made


def walk():
    """A point that is pickled by value: workers need not have this file."""

    def fn(seed, scale):
        if seed == 4:
            raise ValueError("four")
        last = time.perf_counter() + 0.01
        while time.perf_counter() < last:
            pass
        return {"path": scale * np.cumsum(np.random.default_rng(seed).normal(size=9))}

    return fn


GRID = {"seed": range(30), "scale": [0.1, 1.0], "progress": False}


def test_killed_workers_leave_no_trace(cluster, client, tmp_path):
    with pytest.warns(gf.SweepWarning, match="2 of 60 points failed"):
        wanted = gf.sweep(walk(), workers=1, **GRID)
    doomed = next(iter(client.run(os.getpid).values()))
    threading.Timer(0.15, os.kill, (doomed, signal.SIGKILL)).start()
    with pytest.warns(gf.SweepWarning, match="2 of 60 points failed"):
        table = gf.sweep(walk(), client=client, store=tmp_path / "s", **GRID)
    assert table.identical(wanted)
    with pytest.warns(gf.SweepWarning, match="2 of 60 points failed"):
        again = gf.sweep(walk(), client=cluster.scheduler_address, store=tmp_path / "s", **GRID)
    assert again.identical(wanted)


def test_a_worker_with_another_version_is_refused(client, monkeypatch):
    monkeypatch.setattr(gf, "__version__", "9.9.9")
    with pytest.raises(
        gf.SweepError, match=r"a worker has gradflow 0\.\S+, and here it is 9\.9\.9"
    ):
        gf.sweep(walk(), client=client, **GRID)


def test_a_scheduler_that_does_not_answer():
    began = time.monotonic()
    with pytest.raises(ValueError, match=r"client='tcp://127.0.0.1:9': no scheduler answers"):
        gf.sweep(walk(), client="tcp://127.0.0.1:9", **GRID)
    assert time.monotonic() - began < 30


def test_without_the_package(monkeypatch):
    monkeypatch.setattr("gradflow.sweeps.cluster.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"needs the package distributed; .*gradflow-ode\[dask\]"):
        gf.sweep(walk(), client="tcp://127.0.0.1:9", **GRID)
