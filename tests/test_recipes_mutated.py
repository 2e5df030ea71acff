"""Recipes changed at random: no traceback, no hang, no unknown key accepted."""

from __future__ import annotations

import importlib.util
import itertools
import sys
import tomllib
from collections import Counter
from pathlib import Path

import pytest

import gradflow as gf
from gradflow.recipes.reading import read_text

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "toml_mutations.py"


def script():
    spec = importlib.util.spec_from_file_location("toml_mutations", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # (annotations of its classes are looked up there)
    spec.loader.exec_module(module)
    return module


MUTATIONS = script()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("mutants")
    MUTATIONS.prepare(place)
    return place


@pytest.mark.parametrize("name", MUTATIONS.BASES)
def test_what_is_mutated_is_valid(name, folder):
    """Else everything would be refused, and nothing said by it."""
    file = folder / "valid.toml"
    file.write_text(MUTATIONS.BASES[name])
    gf.recipe(file).check()
    assert not MUTATIONS.unknown_keys(tomllib.loads(MUTATIONS.BASES[name]))


def test_no_mutant_ends_in_a_traceback_or_slips_through(folder):
    counts, flawed = MUTATIONS.trial(200, seed=20261201, folder=folder)
    assert not flawed, [(verdict.flaw, verdict.message, mutant.text) for mutant, verdict in flawed]
    assert counts["accepted"] >= 10
    assert counts["refused"] >= 100
    assert not counts["unforeseen"], counts


def test_the_judge_is_no_rubber_stamp(folder):
    """What accepts everything, or refuses in silence, is found out."""
    some = list(itertools.islice(MUTATIONS.mutants(3), 60))
    lenient = Counter(MUTATIONS.judge(m, folder, lambda file: None).flaw for m in some)
    assert lenient["an unknown key was accepted"] > 5
    assert lenient["what is no TOML was accepted"] > 5

    def silent(file: Path) -> None:
        raise gf.RecipeError((), "is wrong")

    mute = Counter(MUTATIONS.judge(m, folder, silent).flaw for m in some)
    assert mute["a refusal that does not name the unknown key"] > 5

    def breaks(file: Path) -> None:
        raise ZeroDivisionError

    assert {MUTATIONS.judge(m, folder, breaks).outcome for m in some} == {"traceback"}


def places(tree: object, path: tuple = ()):
    entries = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, value in entries:
        yield (*path, key)
        if isinstance(value, (dict, list)):
            yield from places(value, (*path, key))


def test_every_key_of_every_mutant_has_its_line():
    """The scanner of lines and the library's reader see the same keys."""
    seen = 0
    for mutant in itertools.islice(MUTATIONS.mutants(11), 1500):
        if len(mutant.text) > 20_000:
            continue
        try:
            read = read_text(mutant.text.decode())
        except (UnicodeDecodeError, gf.RecipeError):
            continue
        assert set(read.lines) == set(places(read.table)), read.text
        last = read.text.count("\n") + 1
        assert all(1 <= line <= last for line in read.lines.values())
        seen += 1
    assert seen > 700
