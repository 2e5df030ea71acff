"""Losses ℓ, with logarithms that stay exact where the loss itself underflows.

A margin loss is a function ℓ(z) of the margin ``z = y f(x)``, y = ±1. Late in a gradient flow z is
large and ℓ(z) is below the smallest float64; ``log_of_margin`` and ``log_neg_derivative`` still
give ln ℓ(z) and ln(−ℓ'(z)) to rounding for every z in [−1e300, 1e300].

Any JAX function is a loss (`loss`). A new loss is one class, registered (`gf.register`)
where files are to hold it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import jax

from gradflow.losses.abstract import AbstractLoss as AbstractLoss
from gradflow.losses.abstract import AbstractMarginLoss as AbstractMarginLoss
from gradflow.losses.abstract import SumOverOutputs as SumOverOutputs
from gradflow.losses.abstract import labels_fix as labels_fix
from gradflow.losses.cross_entropy import CrossEntropy as CrossEntropy
from gradflow.losses.function import FunctionLoss as FunctionLoss
from gradflow.losses.function import FunctionMarginLoss as FunctionMarginLoss
from gradflow.losses.function import loss as loss
from gradflow.losses.margin import Exponential as Exponential
from gradflow.losses.margin import Hinge as Hinge
from gradflow.losses.margin import Logistic as Logistic
from gradflow.losses.margin import SoftLogistic as SoftLogistic
from gradflow.losses.regression import Squared as Squared
from gradflow.registry import register
from gradflow.validation import fail


def as_loss(argument: str, value: Any) -> AbstractLoss:
    """Return a loss as it is and a JAX function ℓ(f, y) as one; refuse the rest."""
    if isinstance(value, AbstractLoss):
        return value
    if not callable(value) or isinstance(value, type):
        raise fail(
            argument, value, "is not a loss",
            "pass gf.logistic or another, or a JAX function (f, y) -> loss",
        )  # fmt: skip
    return loss(cast(Callable[..., jax.Array], value))


#: ln(1 + e^{−yf}).
logistic = Logistic()
#: e^{−yf}.
exponential = Exponential()
#: max(0, 1 − yf).
hinge = Hinge()
#: ½(f − y)².
squared = Squared()

#: −Σ_j p_j ln softmax(f)_j, for nets of several outputs.
cross_entropy = CrossEntropy()
#: p ln(1 + e^{−f}) + (1 − p) ln(1 + e^f), p in [0, 1].
soft_logistic = SoftLogistic()

for _class in (Logistic, SoftLogistic, Exponential, Hinge, Squared, CrossEntropy):
    register(_class.name, _class)
register("function_loss", FunctionLoss)
register("function_margin_loss", FunctionMarginLoss)
register("sum_over_outputs", SumOverOutputs)
