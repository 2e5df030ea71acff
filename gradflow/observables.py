r"""Named observables of a trajectory: what to read, in which units, by which formula.

An observable reads a *path*: anything with ``params`` (a pytree whose arrays carry time first) and
``risk``. A :class:`~gradflow.trajectory.Trajectory` also offers quantities that its chart knows
more exactly than cartesian parameters can say (angles of e^{-10000}); these are read first.

A new observable is one decorated function.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradflow.integrators.compiled import compile_once
from gradflow.validation import check_choice, fail


@dataclass(frozen=True)
class Observable:
    """A documented function of a path.

    Attributes
    ----------
    name, unit, long_name : str
        ``unit`` is ``"1"`` for pure numbers.
    dims : tuple of str
        Dimensions of the result, ``"time"`` first.
    function : callable
        ``function(path, **options) -> ndarray``.
    """

    name: str
    unit: str
    long_name: str
    dims: tuple[str, ...]
    function: Callable[..., np.ndarray]

    @property
    def doc(self) -> str:
        """What it is and by which formula."""
        return (self.function.__doc__ or "").strip()


_REGISTRY: dict[str, Observable] = {}


def observable(
    name: str, *, unit: str = "1", long_name: str, dims: tuple[str, ...] = ("time",)
) -> Callable[[Callable[..., np.ndarray]], Callable[..., np.ndarray]]:
    """Register a function of a path under ``name``."""

    def register(function: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
        if name in _REGISTRY:
            raise ValueError(f"name={name!r}: an observable of this name exists; choose another")
        _REGISTRY[name] = Observable(name, unit, long_name, dims, function)
        return function

    return register


def names() -> list[str]:
    """Names of all observables, sorted."""
    return sorted(_REGISTRY)


def get(name: str) -> Observable:
    """The observable called ``name``."""
    check_choice("name", name, _REGISTRY)
    return _REGISTRY[name]


def observe(path: Any, name: str, **options: Any) -> np.ndarray:
    """Value of an observable along ``path``, time first.

    Parameters
    ----------
    path : object with ``params`` and ``risk``
    name : str
        A registered name, or a quantity the path's chart offers (``path.exact``).
    **options
        Passed to the observable; with options the chart's value is not used.

    Raises
    ------
    ValueError
        Unknown name; an observable the risk or the network has no meaning for.
    """
    exact = getattr(path, "exact", {})
    if name in exact and not options:
        return np.asarray(exact[name])
    check_choice("name", name, {*_REGISTRY, *exact})
    if name not in _REGISTRY:
        raise fail(
            "options", options, f"are not taken by {name!r}, which the chart knows exactly",
            "leave them out",
        )  # fmt: skip
    known = list(inspect.signature(_REGISTRY[name].function).parameters)[1:]
    for option, value in options.items():
        if option not in known:
            fix = "choose one of " + ", ".join(known) if known else "it takes none: leave it out"
            raise fail(option, value, f"is not an option of observe({name!r})", fix)
    return np.asarray(_REGISTRY[name].function(path, **options))


# ---------------------------------------------------------------------------------------------
# Helpers


def map_rows(fn: Callable[..., Any], risk: Any, params: Any) -> np.ndarray:
    """``fn(risk, row)`` for every time, compiled once per structure.

    Rows are taken one after the other (as much memory as one evaluation, and the same bits as one
    alone) and padded to a power of two, so that few lengths are compiled.
    """
    rows = jax.tree.leaves(params)[0].shape[0]
    size = max(16, 1 << (rows - 1).bit_length()) if rows else 16
    if rows == 0:
        return np.zeros(0)

    def pad(leaf: Any) -> np.ndarray:
        leaf = np.asarray(leaf)
        return np.concatenate([leaf, np.repeat(leaf[-1:], size - rows, axis=0)])

    program, arrays, _ = compile_once(
        _mapped, ("rows", fn), (_Static(fn), risk, jax.tree.map(pad, params))
    )
    return np.asarray(program(*arrays))[:rows]


@jax.tree_util.register_static
@dataclass(frozen=True)
class _Static:
    value: Any


def _mapped(fn: _Static, risk: Any, params: Any) -> Any:
    return jax.lax.map(lambda row: fn.value(risk, row), params)


def _risk_value(risk: Any, params: Any) -> Any:
    return jnp.asarray(risk(params))


def _risk_log(risk: Any, params: Any) -> Any:
    return jnp.asarray(risk.log(params))


def _gradient_norm(risk: Any, params: Any) -> Any:
    return jnp.sqrt(sum(jnp.sum(g**2) for g in jax.tree.leaves(risk.gradient(params))))


def _margins(risk: Any, params: Any) -> Any:
    return jnp.min(risk.y * risk.net(params, risk.X))


def _balancedness(risk: Any, params: Any) -> Any:
    return risk.net.balancedness(params)


def _from_chart(path: Any, name: str) -> np.ndarray | None:
    reader = getattr(path, "chart_value", None)
    return None if reader is None else reader(name)


def _leaf(path: Any, name: str) -> Any:
    return getattr(path.params, name, None)


def neuron_vectors(path: Any) -> np.ndarray:
    """Vectors that play the part of neurons, shape (time, K, d).

    The inner weights of a two-layer net; the weight of a linear predictor and the end-to-end vector
    of a deep linear net count as one neuron.
    """
    inner, weight, layers = (_leaf(path, n) for n in ("inner", "weight", "layers"))
    if inner is not None:
        return np.asarray(inner)
    if weight is not None:
        return np.asarray(weight)[:, None, :]
    if layers is not None:
        product = np.asarray(layers[0])
        for layer in layers[1:]:
            product = np.asarray(layer) @ product
        return product
    raise fail(
        "params", type(path.params).__name__, "parameters of this risk have no neurons",
        "use a risk built on LinearPredictor, DeepLinear or TwoLayer",
    )  # fmt: skip


def _teacher_sides(path: Any, name: str) -> np.ndarray:
    """Own target of each neuron: sign(a_k) v, shape (time or 1, K, d)."""
    teacher = getattr(path.risk, "teacher", None)
    if teacher is None:
        raise fail(
            "name", name, "needs a teacher direction and this risk has none",
            "use a PopulationRisk, or read the parameters",
        )  # fmt: skip
    v = np.asarray(teacher.direction)
    outer = _leaf(path, "outer")
    if outer is None:
        return v[None, None, :]
    return np.where(np.asarray(outer) >= 0, 1.0, -1.0)[..., None] * v


def _finite_data(path: Any, name: str) -> Any:
    risk = path.risk
    if getattr(risk, "X", None) is None or getattr(risk, "y", None) is None:
        raise fail(
            "name", name, "needs finite data and this risk has none",
            "use an EmpiricalRisk; on population risks the margin has no minimum",
        )  # fmt: skip
    if not np.all(np.abs(np.asarray(risk.y)) == 1):
        raise fail(
            "name", name, "needs labels -1 and +1 and this risk has other targets",
            "read 'loss' instead",
        )  # fmt: skip
    return risk


# ---------------------------------------------------------------------------------------------
# The observables


@observable("log_loss", long_name="logarithm of the risk")
def log_loss(path: Any) -> np.ndarray:
    """ln L(theta(t)), where L itself may underflow."""
    exact = _from_chart(path, "log_loss")
    return map_rows(_risk_log, path.risk, path.params) if exact is None else exact


@observable("loss", long_name="risk")
def loss(path: Any) -> np.ndarray:
    """L(theta(t))."""
    # One source for both, also after a round trip through a file.
    if "log_loss" in getattr(path, "exact", {}) or _from_chart(path, "log_loss") is not None:
        logarithm = observe(path, "log_loss")
        # (a function of the user's may be negative, where it has no logarithm)
        if not np.any(np.isnan(logarithm)):
            return np.exp(logarithm)
    return map_rows(_risk_value, path.risk, path.params)


@observable("gradient_norm", unit="1/time^0.5", long_name="norm of the risk's gradient")
def gradient_norm(path: Any) -> np.ndarray:
    """|grad L(theta(t))| over the trained entries, the speed of the flow."""
    exact = _from_chart(path, "gradient_norm")
    return map_rows(_gradient_norm, path.risk, path.params) if exact is None else exact


@observable("norm", unit="weight", long_name="norm of the parameters")
def norm(path: Any) -> np.ndarray:
    """|theta(t)|, the Euclidean norm of all parameters (fixed ones included)."""
    return _tree_norm(path.params)


def _tree_norm(tree: Any) -> np.ndarray:
    parts = [np.asarray(leaf).reshape(np.shape(leaf)[0], -1) for leaf in jax.tree.leaves(tree)]
    flat = np.concatenate(parts, axis=1)
    # Scaled: squares of 1e-200 would underflow.
    top = np.maximum(np.max(np.abs(flat), axis=1, initial=0.0), 1e-300)
    return top * np.sqrt(np.sum((flat / top[:, None]) ** 2, axis=1))


@observable("neuron_norms", unit="weight", long_name="norm of each neuron", dims=("time", "neuron"))
def neuron_norms(path: Any) -> np.ndarray:
    """|w_k(t)|, shape (time, K)."""
    vectors = neuron_vectors(path)
    return np.stack([_tree_norm(vectors[:, k]) for k in range(vectors.shape[1])], axis=1)


@observable(
    "log_tan_half_angle", long_name="ln tan(theta_k/2) to the own target", dims=("time", "neuron")
)
def log_tan_half_angle(path: Any) -> np.ndarray:
    r"""ln tan(theta_k/2), theta_k the angle of neuron k to its own target sign(a_k) v.

    From cartesian parameters: :math:`\ln|w_\perp| - \ln(|w| + w\cdot v)`; below angles of about
    1e-16 only a log-angle chart knows it.
    """
    vectors = neuron_vectors(path)
    target = _teacher_sides(path, "log_tan_half_angle")
    along = np.sum(vectors * target, axis=-1)
    across = vectors - along[..., None] * target
    # A second pass removes what rounding left along v.
    across = across - np.sum(across * target, axis=-1)[..., None] * target
    size = np.linalg.norm(across, axis=-1)
    length = np.linalg.norm(vectors, axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        # |w| + w.v cancels behind the target; there it is size^2 / (|w| - w.v).
        ahead = np.log(size) - np.log(length + along)
        behind = np.log(length - along) - np.log(size)
    return np.where(along >= 0, ahead, behind)


@observable("cos_angle", long_name="cosine of the angle to the own target", dims=("time", "neuron"))
def cos_angle(path: Any) -> np.ndarray:
    """cos theta_k = -tanh(ln tan(theta_k/2)), shape (time, K)."""
    return -np.tanh(observe(path, "log_tan_half_angle"))


@observable("angle", unit="rad", long_name="angle to the own target", dims=("time", "neuron"))
def angle(path: Any) -> np.ndarray:
    """theta_k = 2 arctan(e^lambda), lambda = ln tan(theta_k/2), shape (time, K)."""
    with np.errstate(over="ignore", under="ignore"):
        return 2 * np.arctan(np.exp(observe(path, "log_tan_half_angle")))


@observable("margin", long_name="smallest margin over the data")
def margin(path: Any) -> np.ndarray:
    """min_i y_i f(x_i; theta(t)) (finite data with labels -1 and +1 only)."""
    return map_rows(_margins, _finite_data(path, "margin"), path.params)


@observable("normalised_margin", long_name="smallest margin over |theta|^degree")
def normalised_margin(path: Any) -> np.ndarray:
    """min_i y_i f(x_i; theta) / |theta|^D, D the net's degree in its trained weights theta."""
    risk = _finite_data(path, "normalised_margin")
    if risk.net.degree is None:
        raise fail(
            "name", "normalised_margin", "the net is not homogeneous",
            "read 'margin' instead, or use a homogeneous activation",
        )  # fmt: skip
    trained = risk.net.freeze(path.params)
    return observe(path, "margin") / _tree_norm(trained) ** risk.net.degree


@observable(
    "balancedness", unit="weight^2", long_name="conserved balance", dims=("time", "layer_or_neuron")
)
def balancedness(path: Any) -> np.ndarray:
    """What the flow conserves, by the network's definition (a_k^2 - |w_k|^2 for two layers)."""
    net = path.risk.net
    row = jax.tree.map(lambda leaf: leaf[0], path.params)
    if net is None or net.balancedness(row) is None:
        raise fail(
            "name", "balancedness", "this risk's flow conserves no such quantity",
            "use TwoLayer with outer='trained' or DeepLinear",
        )  # fmt: skip
    return map_rows(_balancedness, path.risk, path.params)


@observable("variation_norm", unit="weight", long_name="variation norm")
def variation_norm(path: Any) -> np.ndarray:
    """sum_k |a_k| |w_k| for two layers (bias inside |w_k|); |w| for linear nets."""
    sizes = observe(path, "neuron_norms")
    outer, bias = _leaf(path, "outer"), _leaf(path, "bias")
    if outer is None:
        return sizes[:, 0]
    if bias is not None:
        sizes = np.hypot(sizes, np.asarray(bias))
    return np.sum(np.abs(np.asarray(outer)) * sizes, axis=1)


@observable("energy_defect", long_name="relative energy defect")
def energy_defect(path: Any) -> np.ndarray:
    r""":math:`|L(0)-L(t)-\int_0^t\|\dot\theta\|^2| / |L(0)|`, zero on the exact flow
    (not divided where L(0) = 0).

    A free monitor of the integration error; it sees errors of the energy integral too.
    """
    energy = getattr(path, "energy", None)
    initial = getattr(path, "initial", None)
    if energy is None or initial is None:
        raise fail("name", "energy_defect", "this path carries no energy", "use gf.integrate")
    first = float(np.asarray(path.risk(initial)))
    defect = np.abs(first - observe(path, "loss") - energy)
    return defect / abs(first) if first != 0 else defect
