r"""Observables of the neurons: sizes, directions, angles, and how far they have clustered.

Every norm is taken after scaling, so that weights of 1e-200 or 1e150 read as well as others.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from gradflow.numerics import vectors as vec
from gradflow.numerics.vectors import lengths, log_tan_half, rejection, scaled
from gradflow.observables.paths import (
    has_data,
    leaf_of,
    neuron_vectors,
    outer_signs,
    outer_sizes,
    outer_weights,
    teacher_sides,
)
from gradflow.observables.registry import observable, observe
from gradflow.paths.path import AbstractPath
from gradflow.validation import check_array, check_bool, fail

_NEURONS = ("time", "neuron")


@observable("neuron_norms", unit="weight", long_name="norm of each neuron", dims=_NEURONS)
def neuron_norms(path: AbstractPath) -> np.ndarray:
    """|w_k(t)|, shape (time, K)."""
    return lengths(neuron_vectors(path))


@observable(
    "neuron_directions", long_name="direction of each neuron", dims=("time", "neuron", "input")
)
def neuron_directions(path: AbstractPath, bias: bool = False) -> np.ndarray:
    """w_k/|w_k|, shape (time, K, d); NaN where w_k = 0, which has no direction.

    Parameters
    ----------
    bias : bool
        Count the bias as one more entry: (w_k, b_k)/|(w_k, b_k)|, shape (time, K, d + 1).
    """
    return vec.directions(neuron_vectors(path, bias=check_bool("bias", bias)))


@observable("neuron_masses", unit="weight^2", long_name="mass of each neuron", dims=_NEURONS)
def neuron_masses(path: AbstractPath) -> np.ndarray:
    """|a_k| |w_k|, shape (time, K), a bias inside |w_k|; their sum is the variation norm."""
    return outer_sizes(path) * _full_norms(path)


@observable("signed_masses", unit="weight^2", long_name="signed mass of neurons", dims=_NEURONS)
def signed_masses(path: AbstractPath) -> np.ndarray:
    """a_k |w_k|, shape (time, K), a bias inside |w_k|."""
    return outer_weights(path) * _full_norms(path)


@observable("log_neuron_masses", long_name="logarithm of neurons' masses", dims=_NEURONS)
def log_neuron_masses(path: AbstractPath) -> np.ndarray:
    """ln |a_k| + ln |w_k|, shape (time, K): also of small starts, whose products underflow."""
    with np.errstate(divide="ignore"):
        return np.log(outer_sizes(path)) + np.log(_full_norms(path))


def _full_norms(path: AbstractPath) -> np.ndarray:
    """|(w_k, b_k)|; the chart's own |w_k| where it has one."""
    sizes, bias = observe(path, "neuron_norms"), leaf_of(path, "bias")
    return sizes if bias is None else np.hypot(sizes, np.asarray(bias))


@observable(
    "variation_norm", unit="weight", long_name="variation norm", source="chizat2020implicit"
)
def variation_norm(path: AbstractPath) -> np.ndarray:
    """sum_k |a_k| |w_k| for two layers (bias inside |w_k|); |w| for linear nets."""
    return np.sum(neuron_masses(path), axis=1)


@observable("log_tan_half_angle", long_name="ln tan(theta_k/2) to the own target", dims=_NEURONS)
def log_tan_half_angle(path: AbstractPath) -> np.ndarray:
    r"""ln tan(theta_k/2), theta_k the angle of neuron k to its own target sign(a_k) v.

    From cartesian parameters: :math:`\ln|w_\perp| - \ln(|w| + w\cdot v)`; below angles of about
    1e-16 only a log-angle chart knows it.
    """
    # Scaled, or 1e-200 would underflow in what follows; no angle depends on it.
    vectors = scaled(neuron_vectors(path))
    target = teacher_sides(path, "log_tan_half_angle")
    along = np.sum(vectors * target, axis=-1)
    return log_tan_half(along, lengths(rejection(vectors, target)))


@observable("cos_angle", long_name="cosine of the angle to the own target", dims=_NEURONS)
def cos_angle(path: AbstractPath) -> np.ndarray:
    """cos theta_k = -tanh(ln tan(theta_k/2)), shape (time, K)."""
    return -np.tanh(observe(path, "log_tan_half_angle"))


@observable("angle", unit="rad", long_name="angle to the own target", dims=_NEURONS)
def angle(path: AbstractPath) -> np.ndarray:
    """theta_k = 2 arctan(e^lambda), lambda = ln tan(theta_k/2), shape (time, K)."""
    with np.errstate(over="ignore", under="ignore"):
        return 2 * np.arctan(np.exp(observe(path, "log_tan_half_angle")))


@observable(
    "angles_to", unit="rad", long_name="angle of neurons to directions",
    dims=("time", "neuron", "direction"),
)  # fmt: skip
def angles_to(path: AbstractPath, directions: ArrayLike | None = None) -> np.ndarray:
    r"""Angle of every neuron to every given direction, shape (time, K, p).

    With unit vectors u of w_k and e of direction j it is
    :math:`2\,\mathrm{atan2}(|u-e|, |u+e|)`, which cancels neither near 0 nor near pi; NaN where
    w_k = 0.

    Parameters
    ----------
    directions : (p, d) array
        Nonzero rows of any length; (p, d + 1) counts the bias as one more entry of w_k.
    """
    name, bias = "directions", leaf_of(path, "bias") is not None
    if directions is None:
        raise fail(name, None, "is missing", "pass an array of shape (p, d), one direction a row")
    vectors = neuron_vectors(path)
    if bias and np.ndim(directions) == 2 and np.shape(directions)[1] == vectors.shape[-1] + 1:
        vectors = neuron_vectors(path, bias=True)
    rows = check_array(name, directions, (None, vectors.shape[-1]))
    if not np.all(np.any(rows, axis=1)):
        raise fail(name, rows, "holds a zero row, which is no direction", "drop it")
    units = vec.directions(vectors)
    # One direction after the other: no array of (time, K, p, d).
    return np.stack([vec.angle(units, row) for row in vec.directions(rows)], axis=-1)


@observable(
    "cluster_spread", long_name="spread of like neurons over their mean", dims=("time", "sign"),
    source="sarussi2021linear",
)  # fmt: skip
def cluster_spread(path: AbstractPath, bias: bool = False) -> np.ndarray:
    r"""Largest :math:`|w_j-\bar w|/|\bar w|` among living neurons of one outer sign, (time, 2).

    Column 0 is the neurons with a_k >= 0, column 1 those with a_k < 0, each about the mean of its
    own; NaN for a sign without living neurons. It goes to 0 where neurons of one sign become one
    cluster. The dead (``dead``), which stay where they died, are left out, of the means too;
    without finite data all neurons of some mass count.

    Parameters
    ----------
    bias : bool
        Count the bias as one more entry of w_k.
    """
    vectors, means, signs, living = _groups(path, check_bool("bias", bias))
    out = np.full((vectors.shape[0], 2), np.nan)
    for column, sign in enumerate((1.0, -1.0)):
        mean = means[:, column]
        away = np.where(living & (signs == sign), lengths(vectors - mean[:, None]), 0.0)
        with np.errstate(divide="ignore", invalid="ignore"):
            out[:, column] = np.max(away, axis=1) / lengths(mean)
    return out


@observable(
    "log_tan_half_angle_to_mean", long_name="ln tan(theta_k/2) to the mean of the own sign",
    dims=_NEURONS, source="sarussi2021linear",
)  # fmt: skip
def log_tan_half_angle_to_mean(path: AbstractPath, bias: bool = False) -> np.ndarray:
    r"""ln tan(theta_k/2), theta_k the angle of neuron k to the mean of the living of its sign.

    :math:`\ln|u-e|-\ln|u+e|` with u and e the unit vectors of w_k and of the mean; NaN where one of
    them is zero. Angles below about 1e-16 are rounding in the parameters.

    Parameters
    ----------
    bias : bool
        Count the bias as one more entry of w_k.
    """
    vectors, means, signs, _ = _groups(path, check_bool("bias", bias))
    own = np.where((signs == 1.0)[..., None], means[:, :1], means[:, 1:])
    units, targets = vec.directions(vectors), vec.directions(own)
    with np.errstate(divide="ignore"):
        return np.log(lengths(units - targets)) - np.log(lengths(units + targets))


def _groups(path: AbstractPath, bias: bool) -> tuple[np.ndarray, ...]:
    """Neurons scaled at each time, the living's means (time, 2, d) by sign, signs, who lives."""
    vectors = scaled(neuron_vectors(path, bias=bias), axis=(1, 2))
    signs, living = np.broadcast_to(outer_signs(path), vectors.shape[:2]), _living(path)
    means = np.full((vectors.shape[0], 2, vectors.shape[2]), np.nan)
    for column, sign in enumerate((1.0, -1.0)):
        member = (living & (signs == sign))[..., None]
        count = np.sum(member, axis=1)
        with np.errstate(invalid="ignore"):
            means[:, column] = np.sum(np.where(member, vectors, 0.0), axis=1) / count
    return vectors, means, signs, living


def _living(path: AbstractPath) -> np.ndarray:
    if has_data(path):
        return observe(path, "alive")
    return (lengths(neuron_vectors(path, bias=True)) > 0) & (outer_sizes(path) != 0)


@observable("stable_rank", long_name="stable rank of inner weights")
def stable_rank(path: AbstractPath) -> np.ndarray:
    r""":math:`\|W\|_F^2/\|W\|_2^2` of the matrix W of inner weights, in [1, min(m, d)].

    A bias is left out; NaN where W = 0. Linear nets have one row, so 1.
    """
    W = scaled(neuron_vectors(path), axis=(1, 2))
    with np.errstate(invalid="ignore", divide="ignore"):
        values = np.linalg.svd(W, compute_uv=False)
        return np.sum(values**2, axis=1) / values[:, 0] ** 2
