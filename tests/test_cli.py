"""The command line, on a toy registry: output, files and exit codes."""

from __future__ import annotations

import html.parser
import json
import os
import re
import subprocess
import sys
import time

import numpy as np
import pytest
from typer.testing import CliRunner

from gradflow import cli
from gradflow.claims import (
    Bound,
    Control,
    Equality,
    Hypothesis,
    Measurement,
    Outcome,
    Qualitative,
    Registry,
    registry,
)
from gradflow.numerics.files import write_text

T = np.linspace(0, 1, 5)
COMMON = {"title": "a toy [brackets] & <tags>", "provenance": "corrected", "statement": "x < 2"}


def toy_claims():
    yield Equality(
        **COMMON,
        id="lin2021faster/number",
        predict=lambda lab: 2.0,
        measure=lambda lab: Measurement(2.0, 1e-12),
        tolerance=1e-8,
        control=Control.perturbed(),
        quick=True,
    )
    yield Bound(
        **COMMON,
        id="lin2021faster/a-bound-with-quite-a-long-name-as-bounds-have",
        measure=lambda lab: Measurement(1 + 1.5 * T, 1e-9 * T),
        bound=lambda lab, factor: 1 + factor * T,
        sharp=lambda lab: 1.5,
        control=Control.replacing("as printed", bound=lambda lab, factor: 1 + 2 * factor * T),
    )
    yield Qualitative(
        **COMMON,
        id="lin2021directional/monotone",
        measure=lambda lab: [Outcome("grows", 1.0)],
        control=Control.replacing("opposite", hypotheses=[Hypothesis("no", lambda lab: False)]),
    )


def wrong_claim(measured=3.0):
    return Equality(
        **COMMON,
        id="toy/wrong",
        predict=lambda lab: 2.0,
        measure=lambda lab: Measurement(measured, 1e-12),
        tolerance=1e-8,
        control=Control.perturbed(),
    )


@pytest.fixture
def toys(monkeypatch, tmp_path):
    toys = Registry()
    toys.register(toy_claims)
    monkeypatch.setattr(registry, "discover", lambda: toys)
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("COLUMNS", raising=False)
    return toys


def run(*arguments):
    # One process: the toy registry exists in this one only.
    extra = ["--workers", "1"] if "verify" in arguments and "--workers" not in arguments else []
    return CliRunner().invoke(cli.app, [*arguments, *extra])


def test_verify_prints_a_readable_plain_table(toys):
    result = run("verify")
    assert result.exit_code == 0, result.output
    assert result.output.startswith("gradflow verify")
    assert "\x1b" not in result.output
    assert max(map(len, result.output.splitlines())) <= 100
    for text in ("3/3", "number", "monotone", "corrected", "3 SUPPORTED", "control", "never prove"):
        assert text in result.output
    assert "control: as printed: VIOLATED" in result.output
    # Numerics support; the words of the output never claim a proof.
    assert re.findall(r"(\S+)\s+(?:prove|proves|proved|proof)\b", result.output) == ["never"]


@pytest.mark.parametrize("measured", [3.0, float("nan")])
def test_exit_code_1_for_violated_and_error(toys, measured):
    toys.register(wrong_claim(measured))
    assert run("verify").exit_code == 1
    assert run("verify", "lin2021*").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["verify", "lin2021fast"], "did you mean"),
        (["verify", "--perturb", "1"], "perturb"),
        (["verify", "--perturb", "-2"], "perturb"),
        (["verify", "--perturb", "much"], "perturb"),
        (["verify", "--workers", "-1"], "workers"),
        (["verify", "--no-such-option"], "no-such-option"),
        (["verify", "lin2021directional", "--quick"], "quick"),
        (["verify", "--json", "/no/such/folder/x.json"], "folder"),
        (["cite", "nobody1900"], "citation key"),
        (["derive", "nothing"], "nothing"),
        (["derive", "linear", "-o", "loss"], "KEY=VALUE"),
        (["no-such-command"], "no-such-command"),
    ],
)
def test_exit_code_2_for_bad_usage(toys, arguments, words):
    result = run(*arguments)
    assert result.exit_code == 2
    assert words in result.output + result.stderr


@pytest.mark.parametrize("factor", ["1.05", "0.95"])
def test_perturb_leaves_nothing_supported(toys, factor):
    result = run("verify", "--perturb", factor)
    assert result.exit_code == 1
    assert "no claim survived" in result.output
    assert "2 VIOLATED, 1 NOT_APPLICABLE" in result.output


def test_list_runs_nothing(toys):
    toys.register(wrong_claim())
    result = run("verify", "--list", "lin*", "toy")
    assert result.exit_code == 0
    assert "4 claims" in result.output
    assert "toy/wrong  (equality, corrected)" in result.output
    assert "lin2021faster/number  (equality, corrected, quick)" in result.output


def test_quick(toys):
    result = run("verify", "--quick")
    assert "1/1" in result.output


class Checker(html.parser.HTMLParser):
    """Balanced tags, and nothing fetched from elsewhere."""

    def __init__(self):
        super().__init__()
        self.open, self.fetched = [], []

    def handle_starttag(self, tag, attrs):
        self.fetched += [v for k, v in attrs if k in ("src", "href")]
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_files(toys, tmp_path):
    toys.register(wrong_claim(float("nan")))
    data, page = tmp_path / "v.json", tmp_path / "v.html"
    result = run("verify", "--json", str(data), "--report", str(page))
    assert result.exit_code == 1
    verdicts = json.loads(data.read_text())["verdicts"]
    assert [v["id"] for v in verdicts][:1] == ["lin2021faster/number"]
    keys = {"id", "source", "provenance", "status", "predicted", "measured", "error", "tolerance"}
    assert keys | {"seconds", "kind", "control", "citation"} <= set(verdicts[0])
    assert verdicts[0]["control"]["as_expected"] is True
    assert verdicts[3]["measured"] is None
    text = page.read_text()
    checker = Checker()
    checker.feed(text)
    assert checker.open == []
    assert checker.fetched == []
    assert "&lt;tags&gt;" in text
    assert "<tags>" not in text
    assert "as printed" in text
    assert text.count("<th>component</th>") == 1  # of the bound; the others compare one number
    assert not list(tmp_path.glob("*.part"))


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(TypeError):
        write_text(path, None)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_cite_prints_bibtex():
    result = run("cite", "lin2021faster")
    assert result.exit_code == 0
    assert "Lin, Dachao and Sun, Ruoyu and Zhang, Zhihua" in result.output
    assert run("cite").output.count("@") >= 10


def test_derive_prints_what_the_derivation_says(monkeypatch):
    from gradflow import symbolic

    class Fake:
        def __init__(self, options):
            self.options = options

        def text(self):
            return f"R' = [h(R)] {self.options}"

        def latex(self):
            return r"\dot R"

    monkeypatch.setattr(symbolic, "derive", lambda name, **options: Fake(options))
    plain = run("derive", "linear", "-o", "depth=3", "-o", "loss=hinge", "-o", "slope=0.5")
    assert plain.output == "R' = [h(R)] {'depth': 3, 'loss': 'hinge', 'slope': 0.5}\n"
    assert run("derive", "linear", "--latex").output == "\\dot R\n"


def test_the_command_line_imports_nothing_heavy():
    code = (
        "import sys, gradflow.cli; "
        "print([m for m in ('jax', 'numpy', 'scipy', 'sympy', 'matplotlib') if m in sys.modules])"
    )
    start = time.perf_counter()
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
    assert time.perf_counter() - start < 5


def test_compilation_cache_settings_do_not_import_jax(tmp_path):
    code = (
        "import sys, os; from gradflow._cache import enable_compilation_cache as f; print(f()); "
        "assert 'jax' not in sys.modules; print(os.environ['JAX_COMPILATION_CACHE_DIR'])"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
    environment["XDG_CACHE_HOME"] = environment["HOME"] = str(tmp_path)
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    first, second = found.stdout.splitlines()
    assert first == second
    assert first.startswith(str(tmp_path))
    own = dict(environment, JAX_COMPILATION_CACHE_DIR=str(tmp_path / "own"))
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=own
    )
    assert set(found.stdout.splitlines()) == {str(tmp_path / "own")}
