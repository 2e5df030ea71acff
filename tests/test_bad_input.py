"""Bad input at every public door: a ``ValueError`` that names the argument, its value and the fix.

Each case is one call; the message must read ``argument=value: problem; fix`` and come from
gradflow, not from JAX or NumPy.
"""

from __future__ import annotations

import re
import traceback
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow as gf

NAN = float("nan")
KEY = jax.random.key(0)
TEACHER = gf.LinearTeacher([0.0, 0.0, 1.0])
LAW = gf.Gaussian(3)
END = gf.until.time(1.0)
LINEAR = gf.LinearPredictor(3)
TWO = gf.TwoLayer(dim=3, width=2, activation=gf.relu, outer="fixed")
DEEP = gf.DeepLinear(3, 3)
RISK = gf.PopulationRisk(LINEAR, gf.logistic, LAW, teacher=TEACHER)
TWO_RISK = gf.PopulationRisk(TWO, gf.logistic, LAW, teacher=TEACHER)
START = LINEAR.params([0.6, 0.0, -0.8])
TWO_START = TWO.params(inner=[[0.6, 0.1, -0.8], [0.5, -0.3, 0.4]], outer=[1.0, -1.0])
X = np.array([[1.0, 0.5, 0.2], [-0.3, 0.8, -1.0]])
Y = np.array([1.0, -1.0])


def flow(**change):
    asked = {"risk": RISK, "params": START, "until": END, **change}
    return gf.integrate(asked.pop("risk"), asked.pop("params"), **asked)


def untraceable(p):
    return np.sum(np.asarray(p) ** 2)


def branching(p):
    return jnp.sum(p**2) if p[0] > 0 else jnp.sum(p)


#: argument named -> call
CASES = {
    "teacher zero": ("direction", lambda: gf.LinearTeacher([0.0, 0.0])),
    "teacher long": ("direction", lambda: gf.LinearTeacher([0.0, 2.0])),
    "teacher float32": ("direction", lambda: gf.LinearTeacher(np.array([0, 1], np.float32))),
    "teacher d=1": ("direction", lambda: gf.LinearTeacher([1.0])),
    "law d=1": ("dim", lambda: gf.UniformSphere(1)),
    "law d=0": ("dim", lambda: gf.Gaussian(0)),
    "law heavy": ("nu", lambda: gf.StudentT(3, 1.0)),
    "net outer array": ("outer", lambda: gf.TwoLayer(2, 2, gf.relu, outer=np.ones(2))),  # type: ignore[arg-type]
    "net activation": ("activation", lambda: gf.TwoLayer(2, 2, "relu")),  # type: ignore[arg-type]
    "inner zero": ("inner", lambda: TWO.params(np.zeros((2, 3)), np.ones(2))),
    "inner float32": ("inner", lambda: TWO.params(np.ones((2, 3), np.float32), np.ones(2))),
    "inner NaN": ("inner", lambda: TWO.params(np.full((2, 3), NAN), np.ones(2))),
    "deep zero": ("end_to_end_vector", lambda: DEEP.balanced(np.zeros(3))),
    "dims differ": ("dim", lambda: gf.PopulationRisk(TWO, gf.logistic, gf.Gaussian(2), TEACHER)),
    "labels": ("y", lambda: gf.EmpiricalRisk(TWO, gf.logistic, X, np.array([0.0, 1.0]))),
    "risk None": ("risk", lambda: flow(risk=None)),
    "risk function": ("risk", lambda: flow(risk=lambda p: 0.0)),
    "risk net": ("risk", lambda: flow(risk=LINEAR)),
    "params other net": ("params", lambda: flow(risk=TWO_RISK)),
    "params zero": ("weight", lambda: flow(params=np.zeros(3))),
    "angle pi": ("params", lambda: flow(params=LINEAR.params([0.0, 0.0, -1.0]))),
    "angle pi to rounding": ("params", lambda: flow(params=np.array([1e-40, 0.0, -1.0]))),
    "until beyond the log clock": ("until", lambda: flow(until=gf.until.log_time(800.0))),
    "until number": ("until", lambda: flow(until=-1e6)),
    "until negative": ("t", lambda: gf.until.time(-1.0)),
    "until infinite": ("t", lambda: gf.until.time(np.inf)),
    "clock": ("clock", lambda: flow(clock="wall")),
    "clock array": ("clock", lambda: flow(clock=np.array(["log", "log"]))),
    "clock list": ("clock", lambda: flow(clock=["log"])),
    "chart": ("chart", lambda: flow(chart="polar")),
    "integrator": ("integrator", lambda: flow(integrator="RK45")),
    "rtol 0": ("rtol", lambda: flow(rtol=0.0)),
    "rtol tiny": ("rtol", lambda: flow(rtol=1e-17)),
    "atol 0": ("atol", lambda: flow(atol=0.0)),
    "save unsorted": ("save_at", lambda: flow(save_at=[0.5, 0.1])),
    "save negative": ("save_at", lambda: flow(save_at=[-1.0])),
    "save beyond": ("save_at", lambda: flow(save_at=[0.5, 2.0])),
    "save beyond, loss clock": ("save_at", lambda: flow(save_at=[0.5, 2.0], clock="loss")),
    "save ragged": ("save_at", lambda: flow(save_at=[[1.0], [0.1, 0.2]])),
    "save text": ("save_at", lambda: flow(save_at="all")),
    "max_steps": ("max_steps", lambda: flow(max_steps=1e3)),
    "throw": ("throw", lambda: flow(throw="yes")),
    "function NumPy": (
        "fn",
        lambda: flow(risk=gf.FunctionRisk(untraceable), params=np.ones(2)),
    ),
    "function branch": ("fn", lambda: gf.FunctionRisk(branching).gradient(np.ones(2))),
    "function shape": ("fn", lambda: gf.FunctionRisk(lambda p: p)(np.ones(2))),
    "sample key": ("key", lambda: RISK.sample(0, 5)),  # type: ignore[arg-type]
    "load None": ("path", lambda: gf.load(None)),  # type: ignore[arg-type]
    "load missing": ("path", lambda: gf.load("no-such-file.nc")),
    "descend step": ("step_size", lambda: gf.descend(RISK, START, step_size=0.0, steps=1)),
    "derive": ("name", lambda: gf.derive("three-neuron")),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_named_with_its_value_and_the_fix(case):
    argument, call = CASES[case]
    with pytest.raises(ValueError, match=rf"^{re.escape(argument)}[^;]*=") as caught:
        call()
    assert re.search(r": .+; .+", str(caught.value), re.DOTALL), caught.value
    raised_in = Path(traceback.extract_tb(caught.value.__traceback__)[-1].filename)
    assert "gradflow" in raised_in.parts


@pytest.fixture(scope="module")
def path():
    return flow()


@pytest.mark.parametrize(
    ("argument", "call"),
    [
        ("name", lambda path: path.observe("speed")),
        ("name", lambda path: path.observe("margin")),
        ("bar", lambda path: path.observe("loss", bar=1)),
        ("path", lambda path: path.save(None)),
        ("path", lambda path: path.save("no-such-folder/path.nc")),
    ],
)
def test_a_path_is_asked_only_for_what_it_has(path, argument, call):
    with pytest.raises(ValueError, match=rf"^{argument}=.*: .*; "):
        call(path)
