"""Derivations in sympy: from the definition of the risk to reduced flows and their exact rates.

``derive(name, **options)`` is the only entrance.  sympy is loaded on the first call, so that
importing the package stays light.
"""

from __future__ import annotations

from functools import lru_cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

from gradflow.validation import check_choice, fail

if TYPE_CHECKING:
    from gradflow.symbolic.derivation import Derivation, Rate, Step

__all__ = ["Derivation", "Rate", "Step", "derive"]

#: The options each derivation understands.
OPTIONS = {
    "linear": ("loss",),
    "deep-linear": ("depth",),
    "two-neuron": ("regime", "outer", "slope"),
}


def derive(name: str, **options: object) -> Derivation:
    """Derive a reduced gradient flow and its rates from the definition of the risk.

    Parameters
    ----------
    name : {"linear", "deep-linear", "two-neuron"}
        The network: f = w.x;  f = W_N ... W_1 x with balanced layers;  f = phi(w1.x) - phi(w2.x)
        with phi(z) = max(z, alpha z).
    loss : {"logistic", "exponential", "hinge"}
        For ``"linear"`` only.
    depth : int or None
        For ``"deep-linear"`` only; None keeps the depth N a symbol.
    regime : {"generic", "symmetric", "decoupled", "leaky"} or None
        For ``"two-neuron"`` only; None tells all of them, one after the other.
    outer : {"fixed", "trained"}
        For ``"two-neuron"`` only.
    slope : number in [0, 1], sympy expression, or None
        For ``"two-neuron"`` only; None keeps alpha a symbol (0 in the decoupled regime).

    Returns
    -------
    Derivation
        Steps, reduced equations, rates, ``.text()``, ``.latex()``, ``.vector_field(law)``.

    Raises
    ------
    ValueError
        For an unknown name or option, naming the choices.

    References
    ----------
    lin2021directional, lin2021faster
    """
    check_choice("name", name, OPTIONS)
    for option, value in options.items():
        if option not in OPTIONS[name]:
            raise fail(
                option,
                value,
                f"is not an option of derive({name!r})",
                "choose one of " + ", ".join(OPTIONS[name]),
            )
    # The type belongs to the key: 2 == 2.0 == True would otherwise share a cache entry.
    key = tuple((option, type(value), value) for option, value in sorted(options.items()))
    try:
        return _derive(name, key)
    except TypeError:
        # lru_cache needs hashable options; the builders below name the offending argument.
        return _derive.__wrapped__(name, key)


@lru_cache(maxsize=64)
def _derive(name: str, options: tuple[tuple[str, type, object], ...]) -> Derivation:
    """Build one derivation (cached: the result is immutable)."""
    from gradflow.symbolic import deep_linear, linear
    from gradflow.symbolic.two_neuron.derive import derive_two_neuron

    builders = {
        "linear": linear.derive_linear,
        "deep-linear": deep_linear.derive_deep_linear,
        "two-neuron": derive_two_neuron,
    }
    return builders[name](**{option: value for option, _, value in options})


def __getattr__(attribute: str) -> Any:
    """Load the result types, and `orthonormal_teachers`, on first use (they need sympy)."""
    if attribute == "orthonormal_teachers":
        return import_module("gradflow.symbolic.orthonormal_teachers")
    if attribute in ("Derivation", "Rate", "Step"):
        from gradflow.symbolic import derivation

        return getattr(derivation, attribute)
    raise AttributeError(f"module {__name__!r} has no attribute {attribute!r}")
