"""The claims framework on toy claims: what may be SUPPORTED, and what never may."""

from __future__ import annotations

import importlib
import json
import math
import subprocess
import sys
import threading

import numpy as np
import pytest

import gradflow as gf
from gradflow.claims import (
    SOURCES,
    Bound,
    Claim,
    Control,
    Equality,
    Hypothesis,
    Lab,
    Measurement,
    Outcome,
    Qualitative,
    Registry,
    Status,
    cite,
    claims,
    statements,
    weigh,
)
from gradflow.claims.verification import Helpers


def equality(predicted=2.0, measured=2.0, error=1e-12, *, tolerance=1e-6, **changes):
    return Equality(
        **{
            "id": "toy/equality",
            "title": "a number",
            "statement": "x = 2",
            "provenance": "derived",
            "predict": lambda lab: predicted,
            "measure": lambda lab: Measurement(measured, error),
            "tolerance": tolerance,
            "control": Control.perturbed(1.05),
            "quick": True,
            **changes,
        }
    )


TIMES = np.linspace(0.0, 5.0, 40)


def bound(slope=1.0, error=1e-9, **changes):
    """Quantity 1 + slope t >= 1 + factor t, sharp at the factor ``slope``."""
    return Bound(
        **{
            "id": "toy/bound",
            "title": "growth",
            "statement": "q(t) >= 1 + t",
            "provenance": "corrected",
            "measure": lambda lab: Measurement(1 + slope * TIMES, np.where(TIMES > 0, error, 0)),
            "bound": lambda lab, factor: 1 + factor * TIMES,
            "sharp": lambda lab: slope,
            "control": Control.replacing(
                "as printed: 1 + 2t", bound=lambda lab, factor: 1 + 2 * factor * TIMES
            ),
            **changes,
        }
    )


def qualitative(*outcomes, **changes):
    outcomes = outcomes or (Outcome("grows", 0.3, 1e-6), Outcome.exact("stops in time", True))
    return Qualitative(
        **{
            "id": "toy/qualitative",
            "title": "it grows",
            "statement": "dr/dt > 0",
            "provenance": "published",
            "measure": lambda lab: outcomes,
            "control": Control.replacing(
                "started opposite", hypotheses=[Hypothesis("start not opposite", lambda lab: False)]
            ),
            **changes,
        }
    )


def status(claim, perturb=None):
    return weigh(claim, Lab(), perturb).status


# --- equality ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("measured", "error", "expected"),
    [
        (2.0, 1e-12, "SUPPORTED"),
        (2.0 * (1 + 5e-7), 1e-12, "SUPPORTED"),
        (2.0 * (1 + 9.9e-7), 1e-7, "INCONCLUSIVE"),  # at the tolerance, within the error
        (2.0 * (1 + 1.1e-6), 1e-12, "VIOLATED"),
        (2.0 * (1 + 1.1e-6), 1e-6, "INCONCLUSIVE"),
        (2.0, 1e-6, "INCONCLUSIVE"),  # no gap, but the error is too large to say so
        (2.1, 1.0, "INCONCLUSIVE"),
        (math.nan, 1e-12, "ERROR"),
        (math.inf, 1e-12, "ERROR"),
        (2.0, math.nan, "ERROR"),
        (2.0, math.inf, "ERROR"),
        (2.0, -1e-12, "ERROR"),
    ],
)
def test_equality_decision(measured, error, expected):
    verdict = weigh(equality(measured=measured, error=error), Lab())
    assert verdict.status == expected
    assert verdict.message


def test_equality_is_relative_or_absolute_as_stated():
    loose = {"predicted": 1000.0, "measured": 1000.0005, "error": 1e-9}
    assert status(equality(**loose)) is Status.SUPPORTED
    assert status(equality(**loose, relative=False)) is Status.VIOLATED


@pytest.mark.parametrize("bad", [0, 1, 2])
def test_the_worst_component_decides(bad):
    values = np.array([1.0, -2.0, 1e-9])
    off = values.copy()
    off[bad] *= 1 + 1e-3
    claim = equality(
        predict=lambda lab: values,
        measure=lambda lab: Measurement(off, 1e-12 * np.abs(values), labels=["a", "b", "c"]),
    )
    verdict = weigh(claim, Lab())
    assert verdict.status is Status.VIOLATED
    assert verdict.details["component"] == "abc"[bad]
    assert verdict.predicted == values[bad]
    assert verdict.measured == off[bad]


def test_a_violated_component_outweighs_an_inconclusive_one():
    claim = equality(
        predict=lambda lab: np.ones(2),
        measure=lambda lab: Measurement(np.array([1.0, 1.1]), np.array([1.0, 1e-9])),
    )
    assert status(claim) is Status.VIOLATED


@pytest.mark.parametrize(
    "claim",
    [
        equality(predicted=np.ones(2), measured=np.ones(3)),
        equality(predicted=0.0, measured=0.0),
        equality(predicted=math.nan),
        equality(measure=lambda lab: 2.0),
        equality(measure=lambda lab: Measurement(np.array([]), 0.0)),
        equality(measure=lambda lab: 1 / 0),
        equality(hypotheses=[Hypothesis("broken check", lambda lab: 1 / 0)]),
        equality(measure=lambda lab: Measurement(2.0, 0.0, labels=["a", "b"])),
    ],
)
def test_what_cannot_be_computed_is_an_error(claim):
    verdict = weigh(claim, Lab())
    assert verdict.status is Status.ERROR
    assert "Error" in verdict.message
    json.dumps(verdict.to_dict(), allow_nan=False)


def test_a_prediction_that_no_factor_alters_is_never_supported():
    claim = equality(predicted=0.0, measured=0.0, relative=False)
    assert status(claim) is Status.INCONCLUSIVE
    assert status(claim, 1.05) is not Status.SUPPORTED
    assert "5 %" in weigh(equality(tolerance=0.2), Lab()).message


def test_a_failed_hypothesis_is_not_applicable_with_its_reason_and_measures_nothing():
    claim = equality(
        measured=99.0,
        measure=lambda lab: pytest.fail("measured"),
        hypotheses=[
            Hypothesis("finite", lambda lab: True),
            Hypothesis("balanced", lambda lab: (False, "defect 0.3")),
        ],
    )
    verdict = weigh(claim, Lab())
    assert verdict.status is Status.NOT_APPLICABLE
    assert "balanced (defect 0.3)" in verdict.message
    assert verdict.control is None
    assert status(claim, 1.05) is Status.NOT_APPLICABLE


# --- bounds ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("slope", "error", "expected"),
    [
        (1.5, 1e-9, "SUPPORTED"),
        (1.0 + 1e-12, 1e-9, "INCONCLUSIVE"),  # the slack is below the error
        (1.0 - 1e-12, 1e-9, "INCONCLUSIVE"),
        (0.9, 1e-9, "VIOLATED"),
        (1.5, 10.0, "INCONCLUSIVE"),
        (0.5, 10.0, "INCONCLUSIVE"),
        (1.5, math.nan, "ERROR"),
    ],
)
def test_bound_decision(slope, error, expected):
    assert status(bound(slope, error)) == expected


def test_the_room_of_a_bound_is_ten_times_its_error():
    wide = weigh(bound(1.5, 1e-9), Lab())
    assert wide.status is Status.SUPPORTED
    assert 0 < wide.error <= wide.tolerance / 10
    slack = 0.5 * TIMES[1]
    assert status(bound(1.5, 0.099 * slack)) is Status.SUPPORTED
    assert status(bound(1.5, 0.101 * slack)) is Status.INCONCLUSIVE


def test_a_bound_that_is_attained_needs_a_stated_tolerance():
    assert status(bound(1.0, 1e-12)) is Status.INCONCLUSIVE
    assert status(bound(1.0, 1e-12, tolerance=1e-9)) is Status.SUPPORTED
    assert status(bound(1.0, 1e-9, tolerance=1e-9)) is Status.INCONCLUSIVE
    # The tolerance does not hide a violation.
    assert status(bound(1.0 - 1e-6, 1e-12, tolerance=1e-9)) is Status.VIOLATED


def test_the_shown_sample_is_the_tightest_that_is_not_merely_attained():
    verdict = weigh(bound(1.5, 1e-12, tolerance=1e-9), Lab())
    assert verdict.details["component"] == 1
    assert verdict.details["slack"] == pytest.approx(0.5 * TIMES[1])


@pytest.mark.parametrize("factor", [1.05, 0.95])
@pytest.mark.parametrize("sharp", [1.0, 1.7, 1e3])
def test_a_tightened_bound_is_violated_however_loose_it_was(factor, sharp):
    claim = bound(sharp, 1e-9, tolerance=1e-8)
    assert status(claim, factor) is Status.VIOLATED
    verdict = weigh(claim, Lab(), factor)
    assert verdict.details["factor"] == pytest.approx(1.05 * sharp)


@pytest.mark.parametrize("factor", [1.05, 0.95])
def test_upper_bounds_and_bounds_that_a_smaller_factor_tightens(factor):
    upper = bound(
        0.6,
        side="upper",
        control=Control.replacing("half", bound=lambda lab, factor: 1 + 0.5 * factor * TIMES),
    )
    assert status(upper) is Status.SUPPORTED
    assert weigh(upper, Lab()).control.as_expected
    assert status(upper, factor) is Status.VIOLATED
    # r >= exp(-factor t): a lower bound that a smaller rate tightens.
    decaying = bound(
        measure=lambda lab: Measurement(np.exp(-0.5 * TIMES), 1e-9 * (TIMES > 0)),
        bound=lambda lab, rate: np.exp(-rate * TIMES),
        sharp=lambda lab: 0.5,
        tighten="down",
        control=Control.replacing("slower", bound=lambda lab, f: np.exp(-0.3 * f * TIMES)),
    )
    assert status(decaying) is Status.SUPPORTED
    assert status(decaying, factor) is Status.VIOLATED


def test_a_bound_may_carry_an_error_of_its_own():
    exact = bound(1.5, 1e-9)
    blurred = bound(1.5, 1e-9, bound=lambda lab, f: Measurement(1 + f * TIMES, 10.0))
    assert status(exact) is Status.SUPPORTED
    assert status(blurred) is Status.INCONCLUSIVE


# --- qualitative -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [
        ([Outcome("a", 1.0, 0.1)], "SUPPORTED"),
        ([Outcome("a", 1.0, 0.1), Outcome("b", 0.05, 0.1)], "INCONCLUSIVE"),
        ([Outcome("a", 1.0, 0.1), Outcome("b", 0.0, 0.0)], "INCONCLUSIVE"),
        ([Outcome("a", -1.0, 0.1), Outcome("b", 0.05, 0.1)], "VIOLATED"),
        ([Outcome.exact("a", False)], "VIOLATED"),
        ([Outcome("a", math.nan, 0.1)], "ERROR"),
        ([Outcome("a", 1.0, math.inf)], "ERROR"),
    ],
)
def test_qualitative_decision(outcomes, expected):
    verdict = weigh(qualitative(*outcomes), Lab())
    assert verdict.status == expected
    assert math.isnan(verdict.predicted)


@pytest.mark.parametrize("factor", [1.05, 0.95])
def test_a_perturbed_qualitative_claim_has_a_broken_hypothesis(factor):
    assert status(qualitative(), factor) is Status.NOT_APPLICABLE
    variant = Control.replacing("other start", measure=lambda lab: [Outcome("grows", -1.0)])
    assert status(qualitative(broken=variant), factor) is Status.VIOLATED


# --- controls ----------------------------------------------------------------------------------


@pytest.mark.parametrize("claim", [equality(), bound(1.5), qualitative()])
def test_the_control_is_run_and_must_fail(claim):
    verdict = weigh(claim, Lab())
    assert verdict.status is Status.SUPPORTED
    assert verdict.control.as_expected
    assert verdict.control.status in ("VIOLATED", "NOT_APPLICABLE")


@pytest.mark.parametrize(
    "control",
    [
        Control.replacing("harmless", predict=lambda lab: 2.0),
        Control.replacing("too blurred", measure=lambda lab: Measurement(2.0, 10.0)),
        Control.replacing("raises", measure=lambda lab: 1 / 0),
        Control.replacing("no such field", prediction=lambda lab: 1.0),
        Control.replacing(
            "fails otherwise than it must",
            predict=lambda lab: 3.0,
            expected=(Status.NOT_APPLICABLE,),
        ),
    ],
)
def test_a_claim_whose_control_does_not_fail_is_inconclusive(control):
    verdict = weigh(equality(control=control), Lab())
    assert verdict.status is Status.INCONCLUSIVE
    assert not verdict.control.as_expected
    assert control.description in verdict.message


def test_a_violated_claim_stays_violated_whatever_its_control_does():
    control = Control.replacing("harmless", predict=lambda lab: 2.5)
    verdict = weigh(equality(measured=2.5, control=control), Lab())
    assert verdict.status is Status.VIOLATED


@pytest.mark.parametrize("factor", [1.05, 0.95, 1.5, 0.5])
def test_nothing_survives_a_perturbation(factor):
    for claim in (equality(), bound(1.5), qualitative()):
        verdict = weigh(claim, Lab(), factor)
        assert verdict.status in ("VIOLATED", "NOT_APPLICABLE")
        assert verdict.control is None
        assert verdict.perturb == factor


def test_a_control_reuses_the_measurement_of_its_claim():
    calls = []
    claim = equality(measure=lambda lab: calls.append(1) or Measurement(2.0, 1e-12))
    assert status(claim) is Status.SUPPORTED
    assert len(calls) == 1


def test_two_solves_give_the_error():
    measurement = Measurement.from_solves(np.array([1.0, 2.0]), np.array([1.0, 2.001]), extra=1e-9)
    assert measurement.value[1] == 2.001
    assert measurement.error == pytest.approx([1e-9, 0.001 + 1e-9])
    assert np.all(Measurement.from_solves(3.0, 3.0).error > 0)


# --- construction ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "names"),
    [
        (lambda: equality(id="no-slash"), "id="),
        (lambda: equality(id="a/b c"), "id="),
        (lambda: equality(provenance="hearsay"), "provenance="),
        (lambda: equality(tolerance=0.0), "tolerance="),
        (lambda: equality(tolerance=math.nan), "tolerance="),
        (lambda: bound(side="left"), "side="),
        (lambda: bound(tolerance=-1.0), "tolerance="),
        (lambda: qualitative(control=Control.perturbed(1.05)), "control="),
        (lambda: Control("nothing altered"), "changes"),
        (lambda: Control("x", {"a": 1}, expected=(Status.SUPPORTED,)), "expected"),
        (lambda: weigh(equality(), Lab(), 1.0) and Registry().register(3), "iter"),
    ],
)
def test_bad_construction(build, names):
    with pytest.raises((ValueError, TypeError), match=names):
        build()


# --- evidence ------------------------------------------------------------------------------------


@pytest.mark.parametrize("claim", [equality(), bound(1.5), qualitative()])
def test_the_evidence_holds_every_component_and_the_verdict_shows_the_deciding_one(claim):
    verdict = weigh(claim, Lab())
    table, evidence = verdict.evidence.table, verdict.evidence
    assert len(table) == verdict.details.get("components", 1)
    row = table[evidence.deciding]
    np.testing.assert_array_equal(row[1:], (verdict.predicted, verdict.measured, verdict.error))
    assert verdict.id == verdict.claim.id == claim.id
    assert verdict.claim == claim.about
    assert "predicted" in str(table)
    assert table.to_xarray().sizes == {"component": len(table)}
    shown = verdict.to_dict()["evidence"]
    assert shown["measured"] == [row.measured for row in table]


def test_labels_name_the_rows_of_the_evidence():
    claim = equality(
        predict=lambda lab: np.array([1.0, 2.0]),
        measure=lambda lab: Measurement([1.0, 2.0], [1e-9, 0.0], labels=["a", "b"]),
    )
    table = weigh(claim, Lab()).evidence.table
    assert [row.label for row in table] == ["a", "b"]
    assert table[:1].labels == ("a",)
    assert table[0].error == pytest.approx(1e-9)


def test_a_claim_is_abstract():
    with pytest.raises(TypeError, match="abstract"):
        Claim(id="a/b", title="", statement="", provenance="derived", control=None)


# --- lab ---------------------------------------------------------------------------------------


def test_the_lab_builds_once_also_across_threads_and_remembers_failures():
    lab, calls = Lab(), []

    def build():
        calls.append(1)
        return object()

    found = []
    threads = [
        threading.Thread(target=lambda: found.append(lab.get("flow", build))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1
    assert len(set(map(id, found))) == 1

    def fail():
        calls.append(1)
        raise ArithmeticError("no flow")

    for _ in range(2):
        with pytest.raises(ArithmeticError):
            lab.get("bad", fail)
    assert len(calls) == 2
    assert lab.get("outer", lambda: lab.get("flow", build)) is found[0]


# --- registry ----------------------------------------------------------------------------------


@pytest.fixture
def registry():
    registry = Registry()
    registry.register([equality(), bound(1.5)])

    @registry.register
    def more():
        yield qualitative(id="other/qualitative")
        yield equality(id="other/wrong", measured=3.0)

    return registry


@pytest.mark.parametrize(
    ("patterns", "ids"),
    [
        ("*", ["toy/equality", "toy/bound", "other/qualitative", "other/wrong"]),
        ("toy", ["toy/equality", "toy/bound"]),
        ("t*", ["toy/equality", "toy/bound"]),
        (["other/q*", "*/equality"], ["toy/equality", "other/qualitative"]),
        ("toy/bound", ["toy/bound"]),
    ],
)
def test_patterns(registry, patterns, ids):
    assert [c.id for c in registry.claims(patterns)] == ids


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        ("toy/equalty", "did you mean toy/equality"),
        ("otter*", "other"),
        ("zzz", "sources are other, toy"),
        ([], "empty"),
        ([3], "not a string"),
        (["toy*", "zzz"], "zzz"),
    ],
)
def test_an_unknown_pattern_lists_close_names(registry, patterns, message):
    with pytest.raises(ValueError, match=message):
        registry.claims(patterns)


def test_quick_selects_the_quick_claims(registry):
    assert [c.id for c in registry.claims(quick=True)] == ["toy/equality", "other/wrong"]
    with pytest.raises(ValueError, match="quick"):
        registry.claims("toy/bound", quick=True)


@pytest.mark.parametrize("count", [None, 0])
def test_verify_reports_in_order_with_progress(registry, count):
    seen = []
    verdicts = registry.verify(
        progress=lambda claim, verdict: seen.append((claim.id, verdict)),
        helpers=None if count is None else Helpers(count),
    )
    assert [str(v.status) for v in verdicts] == ["SUPPORTED"] * 3 + ["VIOLATED"]
    assert [v.id for v in verdicts] == [c.id for c in registry.claims()]
    assert sum(v is None for _, v in seen) == 4
    assert sum(v is not None for _, v in seen) == 4
    assert all(v.seconds >= 0 for v in verdicts)
    json.dumps([v.to_dict() for v in verdicts], allow_nan=False)


def test_patterns_must_be_strings(registry):
    for patterns in (3, [3], []):
        with pytest.raises(ValueError, match="patterns"):
            registry.claims(patterns)


@pytest.mark.slow
def test_helper_processes_come_to_the_same_verdicts():
    pattern = "lin2021directional/[gd]*"
    seen = []
    shared = gf.verify(
        pattern, workers=2, progress=lambda claim, verdict: seen.append((claim.id, verdict))
    )
    alone = gf.verify(pattern)
    # (as text: a NaN differs from itself)
    assert [(v.id, v.status, repr(v.predicted)) for v in shared] == [
        (v.id, v.status, repr(v.predicted)) for v in alone
    ]
    assert sum(verdict is not None for _, verdict in seen) == len(shared)


@pytest.mark.parametrize("perturb", [1.0, 0.0, -1.0, math.nan, "1.05"])
def test_a_senseless_perturbation_is_refused(registry, perturb):
    with pytest.raises(ValueError, match="perturb"):
        registry.verify(perturb=perturb)


def test_claims_share_trajectories_through_the_lab():
    calls, registry = [], Registry()

    def flow():
        calls.append(1)
        return 2.0

    for name in ("a", "b"):
        registry.register(
            equality(
                id=f"toy/{name}",
                measure=lambda lab: Measurement(lab.get("flow", flow), 1e-12),
            )
        )
    registry.verify()
    assert len(calls) == 1
    registry.verify()
    assert len(calls) == 2


def test_registration_refuses_duplicates_strangers_and_claims_without_a_control(registry):
    with pytest.raises(ValueError, match="already"):
        registry.register(equality())
    with pytest.raises(ValueError, match="no negative control"):
        registry.register(equality(id="toy/blind", control=None))
    with pytest.raises(ValueError, match="not a Claim"):
        registry.register(["claim"])


# --- verdicts ----------------------------------------------------------------------------------


def test_verdicts_print_as_a_table_and_filter(registry):
    found = registry.verify()
    text = repr(found)
    assert all(v.id in text for v in found)
    assert text.endswith("3 SUPPORTED, 1 VIOLATED")
    assert [v.id for v in found.status("VIOLATED")] == ["other/wrong"]
    assert len(found.status("VIOLATED", "SUPPORTED")) == len(found) == 4
    assert found.counts() == {"SUPPORTED": 3, "VIOLATED": 1}
    assert found["toy/bound"] is found[1]
    assert [v.id for v in found[2:]] == ["other/qualitative", "other/wrong"]
    assert found.to_xarray()["status"].sel(claim="other/wrong") == "VIOLATED"
    assert repr(found.status("ERROR")).endswith("no verdicts")
    with pytest.raises(KeyError):
        found["nobody/said-so"]
    for bad in (("WRONG",), ()):
        with pytest.raises(ValueError, match=r"status|names"):
            found.status(*bad)


# --- papers ------------------------------------------------------------------------------------


def test_listing_claims_imports_nothing_heavy_and_builds_none():
    code = (
        "import sys; from gradflow.claims.registry import statements; print(len(statements()));"
        "print([m for m in ('jax', 'scipy', 'sympy', 'xarray', 'diffrax') if m in sys.modules]);"
        "print([m for m in sys.modules if m.startswith('gradflow.claims.papers.') "
        "and m.count('.') > 3])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    count, heavy, files = found.stdout.splitlines()
    assert int(count) >= 138
    assert (heavy, files) == ("[]", "[]")


@pytest.mark.slow
def test_every_statement_builds_a_claim_in_its_own_words():
    for about in statements():
        assert claims(about.id)[0].about == about
        assert about.citation in SOURCES


@pytest.mark.parametrize("key", ["lin2021directional", "lin2021faster", "lyu2021margin"])
def test_a_paper_says_what_it_covers_and_what_it_does_not(key):
    paper = importlib.import_module(f"gradflow.claims.papers.{key}").PAPER
    assert paper.key == key
    assert {s.source for s in paper.statements} == {key}
    assert paper.uncovered
    words = paper.words("norm-constant", "mine/norm") if key == "lin2021directional" else {}
    assert words.get("id", "mine/norm") == "mine/norm"


# --- sources -----------------------------------------------------------------------------------


def test_bibliography():
    assert {"lin2021directional", "lin2021faster", "du2018balanced"} <= set(SOURCES)
    for key, source in SOURCES.items():
        entry = source.bibtex()
        assert entry.startswith(f"@{source.kind}{{{key},")
        assert entry.count("{") == entry.count("}")
        assert source.title in source.text()
    assert "Du, Simon S. and Hu, Wei" in cite("du2018balanced").bibtex()
    with pytest.raises(ValueError, match="citation key"):
        cite("nobody1900")
