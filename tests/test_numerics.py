"""The float-safe building blocks, at the ends of the floats, at zero and on nothing."""

from __future__ import annotations

import os
import stat

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

from gradflow.numerics import logs, traced, vectors
from gradflow.numerics.files import replace_file, write_text
from gradflow.numerics.format import number
from gradflow.numerics.rows import map_rows

SCALES = [1e-300, 1e-200, 1.0, 1e200, 1e300]


@pytest.mark.parametrize("scale", SCALES)
def test_lengths_and_directions_do_not_know_the_scale(scale):
    x = scale * np.array([[3.0, 4.0, 0.0], [0.0, 0.0, -1.0]])
    assert vectors.length(x[0]) == pytest.approx(5 * scale, rel=1e-15)
    np.testing.assert_allclose(vectors.lengths(x), [5 * scale, scale], rtol=1e-15)
    np.testing.assert_allclose(vectors.directions(x), [[0.6, 0.8, 0], [0, 0, -1]], rtol=1e-15)
    np.testing.assert_allclose(traced.length(jnp.asarray(x)), vectors.lengths(x), rtol=1e-15)
    norms, units = traced.polar(jnp.asarray(x))
    np.testing.assert_allclose(norms, vectors.lengths(x), rtol=1e-15)
    np.testing.assert_allclose(units, vectors.directions(x), rtol=1e-15)
    np.testing.assert_allclose(traced.row_norms(jnp.asarray(x)), vectors.lengths(x), rtol=1e-15)
    found = traced.direction(jnp.asarray(x[0]), jnp.eye(3)[0])
    np.testing.assert_allclose(found, [0.6, 0.8, 0], rtol=1e-15)


@pytest.mark.parametrize("scale", [1e-320, 1e-300, 1e-4, 1.0, 1.2e308])
def test_logarithms_of_lengths_reach_beyond_the_floats(scale):
    x = scale * np.array([[1.0, 1.0, 1.0], [0.3, -0.7, 0.2]])
    exact = [float(mpmath.log(mpmath.norm([mpmath.mpf(float(e)) for e in row]))) for row in x]
    np.testing.assert_allclose(vectors.log_lengths(x), exact, rtol=2e-16, atol=2e-16)


def test_zero_and_nothing():
    assert vectors.length(np.zeros(3)) == vectors.length(np.zeros((0, 3))) == 0
    np.testing.assert_array_equal(vectors.lengths(np.zeros((2, 0))), [0, 0])
    assert vectors.lengths(np.zeros((0, 3))).shape == (0,)
    np.testing.assert_array_equal(vectors.log_lengths(np.zeros((2, 3))), [-np.inf, -np.inf])
    np.testing.assert_array_equal(vectors.scaled(np.zeros((2, 3))), np.zeros((2, 3)))
    assert np.isnan(vectors.directions(np.zeros(2))).all()
    np.testing.assert_array_equal(traced.direction(jnp.zeros(2), jnp.eye(2)[1]), [0, 1])
    np.testing.assert_array_equal(traced.polar(jnp.zeros((1, 2)))[1], [[0, 0]])


@pytest.mark.parametrize(
    "norm", [lambda x: traced.length(x)[0], lambda x: traced.row_norms(x)[0]], ids=["any", "rows"]
)
def test_derivatives_of_norms(norm):
    gradient = jax.grad(norm)
    np.testing.assert_array_equal(gradient(jnp.zeros((1, 2))), [[0, 0]])
    np.testing.assert_allclose(gradient(1e-200 * jnp.array([[3.0, 4.0]])), [[0.6, 0.8]], rtol=1e-14)


@pytest.mark.parametrize("scale", [1e-290, 1.0, 1e300])  # (JAX has no subnormal numbers)
def test_rejection_leaves_nothing_along_the_axis(scale):
    axis = np.array([0.6, 0.8, 0.0])
    across = 1e-9 * np.array([0.0, 0.0, 1.0])
    found = vectors.rejection(scale * (axis + across), axis)
    assert abs(found @ axis) <= 1e-32 * scale + 5e-324
    np.testing.assert_allclose(found[2], 1e-9 * scale, rtol=1e-15)
    np.testing.assert_allclose(
        traced.rejection(jnp.asarray(scale * (axis + across)), jnp.asarray(axis)),
        found, rtol=1e-15, atol=1e-15 * scale,
    )  # fmt: skip


@pytest.mark.parametrize("theta", [1e-300, 1e-12, 0.3, np.pi / 2, np.pi - 1e-7])
def test_log_tan_half(theta):
    along, across = np.cos(theta), np.sin(theta)
    with mpmath.workdps(400):
        vector = mpmath.mpf(float(along)), mpmath.mpf(float(across))
        exact = float(mpmath.log(vector[1] / (mpmath.hypot(*vector) + vector[0])))
    for scale in (1e-5, 1.0, 1e300):
        rounding = 3e-16 * (1 + abs(np.log(scale)))  # of the two logarithms
        found = vectors.log_tan_half(scale * along, scale * across)
        assert found == pytest.approx(exact, rel=1e-14, abs=rounding)
        other = traced.log_tan_half(jnp.asarray(scale * along), jnp.asarray(scale * across))
        assert other == pytest.approx(exact, rel=1e-14, abs=rounding)


def test_log_tan_half_at_its_ends():
    found = vectors.log_tan_half([1.0, -1.0, 0.0], [0.0, 0.0, 0.0])
    np.testing.assert_array_equal(found, [-np.inf, np.inf, np.nan])


@pytest.mark.parametrize("gap", [1e-150, 1e-8, 1.0, np.pi - 1e-9])
def test_angle_neither_cancels_near_0_nor_near_pi(gap):
    u, e = np.array([1.0, 0.0]), np.array([np.cos(gap), np.sin(gap)])
    assert vectors.angle(u, e) == pytest.approx(gap, rel=1e-15)


U = np.array([0.0, 5e-324, 1e-300, 1e-9, 1e-8, 0.3, 1.0, 1e300])
V = np.array([-700.0, -1.0, -1e-9, 0.0, 1e-300, 1e-8, 1e-3, 700.0])


@pytest.mark.parametrize("xp", [np, jnp], ids=["numpy", "jax"])
def test_ratios(xp):
    with mpmath.workdps(40):
        wanted = [float(mpmath.log1p(mpmath.mpf(u)) / mpmath.mpf(u)) if u else 1.0 for u in U]
        np.testing.assert_allclose(logs.log1p_ratio(xp.asarray(U), xp), wanted, rtol=4e-16)
        wanted = [float(mpmath.expm1(mpmath.mpf(v)) / mpmath.mpf(v)) if v else 1.0 for v in V]
        np.testing.assert_allclose(logs.expm1_ratio(xp.asarray(V), xp), wanted, rtol=4e-16)


def test_times_and_their_logarithms_go_both_ways():
    log_t = np.array([-600.0, -1.0, 0.0, 1.0, 700.0, 1e6])
    np.testing.assert_allclose(logs.log_expm1(logs.log1p_exp(log_t)), log_t, rtol=1e-14)
    assert logs.log_expm1(0.0) == -np.inf
    assert logs.log_expm1(np.inf) == np.inf
    assert logs.log_subtract(1000.0 + np.log(2), 1000.0) == pytest.approx(1000, rel=1e-15)


@pytest.mark.parametrize("level", [-1e6, 0.0, 1e6])
def test_log_sum_exp(level):
    terms = jnp.log(jnp.array([1.0, 2.0, 5.0])) + level
    assert logs.log_sum_exp(terms) == pytest.approx(np.log(8) + level, rel=1e-15)
    np.testing.assert_allclose(jax.grad(logs.log_sum_exp)(terms), [1 / 8, 2 / 8, 5 / 8], rtol=1e-9)
    assert logs.log_sum_exp(jnp.full(3, -jnp.inf)) == -jnp.inf


def _scaled_sum(scale, row):
    return scale * jnp.sum(row["x"])


@pytest.mark.parametrize("rows", [0, 1, 16, 17])
def test_rows_are_mapped_as_if_alone(rows):
    x = np.random.default_rng(0).normal(size=(rows, 3))
    found = map_rows(_scaled_sum, jnp.asarray(2.0), {"x": x})
    alone = [float(_scaled_sum(2.0, {"x": jnp.asarray(row)})) for row in x]
    np.testing.assert_allclose(found, np.reshape(alone, (rows,)), rtol=1e-14)


@pytest.mark.parametrize("umask", [0o022, 0o077], ids=["open", "private"])
def test_files_have_the_mode_the_umask_leaves(tmp_path, umask):
    before = os.umask(umask)
    try:
        write_text(tmp_path / "new.txt", "text")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "new.txt").stat().st_mode) == 0o666 & ~umask


def test_a_replaced_file_keeps_its_mode(tmp_path):
    path = tmp_path / "old.txt"
    path.write_text("old")
    path.chmod(0o640)
    write_text(path, "new")
    assert (path.read_text(), stat.S_IMODE(path.stat().st_mode)) == ("new", 0o640)


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def dies(name):
        with open(name, "w") as file:
            file.write("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        replace_file(path, dies)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(ValueError, match="no existing folder"):
        write_text(tmp_path / "no" / "a.txt", "text")


def test_numbers_as_text():
    assert [number(1 / 3, 3), number(np.nan), number(np.inf, missing="-")] == ["0.333", "–", "-"]
