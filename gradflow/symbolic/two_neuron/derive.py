"""The entrance to the two-neuron derivations: check the options, build, and combine the regimes."""

from __future__ import annotations

import sympy as sp

from gradflow.symbolic.derivation import Derivation
from gradflow.symbolic.notation import alpha
from gradflow.symbolic.two_neuron import regimes
from gradflow.symbolic.two_neuron.generic import generic
from gradflow.validation import check_choice, fail

REGIMES = ("generic", "symmetric", "decoupled", "leaky")


def check_slope(slope: float | str | sp.Expr | None) -> sp.Expr | None:
    """The slope alpha as an exact sympy number (0.3 is 3/10) or expression."""
    if slope is None or isinstance(slope, sp.Expr):
        value = slope
    elif isinstance(slope, bool) or not isinstance(slope, (int, float)):
        try:
            value = sp.Rational(str(float(slope)))
        except (TypeError, ValueError):
            raise fail("slope", slope, "is not a number", "pass 0 <= slope <= 1") from None
    else:
        try:
            value = sp.Rational(str(slope))
        except (TypeError, ValueError):
            raise fail("slope", slope, "is not finite", "pass 0 <= slope <= 1") from None
    if value is not None and value.is_number and not (0 <= value <= 1):
        raise fail("slope", slope, "is outside [0, 1]", "pass 0 <= slope <= 1")
    return value


def derive_two_neuron(
    regime: str | None = None, outer: str = "fixed", slope: float | str | sp.Expr | None = None
) -> Derivation:
    """Derive the two-neuron flow and its regimes. See ``gradflow.symbolic.derive``."""
    if regime is not None:
        check_choice("regime", regime, REGIMES)
    check_choice("outer", outer, ("fixed", "trained"))
    value = check_slope(slope)
    if regime == "decoupled" and value not in (None, 0):
        raise fail("slope", slope, "neurons decouple for ReLU only", "pass slope=0")
    if regime == "leaky" and value in (sp.S.Zero, sp.S.One):
        raise fail("slope", slope, "is not leaky", "pass 0 < slope < 1")
    if regime == "leaky" and outer == "trained":
        raise fail("outer", outer, "is not derived in the leaky regime", "pass outer='fixed'")
    if regime == "decoupled":
        value = sp.S.Zero
    base = generic(alpha if value is None else value, outer)
    if regime == "generic":
        return base
    builders = {
        "symmetric": regimes.symmetric,
        "decoupled": regimes.decoupled,
        "leaky": regimes.leaky,
    }
    if regime is not None:
        return builders[regime](base, value, outer)
    parts = ["symmetric"]
    if value is None or value == 0:
        parts.append("decoupled")
    if value not in (sp.S.Zero, sp.S.One) and outer == "fixed":
        parts.append("leaky")
    chosen = {name: builders[name](base, value, outer) for name in parts}
    return regimes.combine(base, chosen)
