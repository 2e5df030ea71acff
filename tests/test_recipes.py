"""Recipes: what a file says is what is integrated; what is wrong is told with key and line."""

from __future__ import annotations

import inspect
import json
import pickle
import re
import tomllib
from pathlib import Path

import jax
import numpy as np
import pytest
import xarray as xr

import gradflow as gf
from gradflow.integrators import until
from gradflow.recipes import numerics
from gradflow.recipes.lines import lines_of
from gradflow.recipes.schema import Integrate

RECIPES = Path(__file__).parent.parent / "notebooks" / "recipes"

SMALL = """\
observe = ["loss", "neuron_norms"]
[data]
X = [[1.0, 0.5], [-0.5, 1.0], [0.3, -1.2]]
y = [1, -1, 1]
[net]
kind = "two_layer"
width = 3
activation = "tanh"
[risk]
loss = "squared"
[start]
seed = 1
scale = 0.5
[until]
time = 2.0
[integrate]
rtol = 1e-7
save_at = [0.5, 1.0, 2.0]
"""
X, Y = np.array([[1.0, 0.5], [-0.5, 1.0], [0.3, -1.2]]), np.array([1.0, -1.0, 1.0])


def written(folder: Path, text: str) -> Path:
    file = folder / "recipe.toml"
    file.write_text(text)
    return file


def risk_and_start():
    risk = gf.EmpiricalRisk(gf.TwoLayer(2, 3, gf.tanh), gf.squared, X, Y)
    return risk, risk.net.init(jax.random.key(1), 0.5)


# --- what a file says is what is integrated -----------------------------------------------------


def test_a_recipe_is_the_script_that_says_the_same(tmp_path):
    path = gf.recipe(written(tmp_path, SMALL)).run(progress=False)
    risk, start = risk_and_start()
    same = gf.integrate(risk, start, until=2.0, rtol=1e-7, save_at=[0.5, 1.0, 2.0])
    assert np.array_equal(path.params.inner, same.params.inner)
    assert np.array_equal(path.t, [0.5, 1.0, 2.0])
    assert path.stats["steps"] == same.stats["steps"]


def test_a_mapping_is_a_recipe_too():
    made = gf.recipe(tomllib.loads(SMALL)).make()
    risk, start = risk_and_start()
    assert made.risk == risk
    assert np.array_equal(made.start.inner, start.inner)


@pytest.mark.parametrize("kind", ["npz", "csv", "nc4", "nc3"])
def test_data_of_a_file(tmp_path, kind):
    X, y = np.array([[1.0, 0.5], [-0.5, 1.0], [0.3, -1.2]]), np.array([1.0, -1.0, 1.0])
    w, names = np.array([1.0, 2.0, 0.5]), {"X": '"inputs"', "y": '"labels"', "weights": '"w"'}
    file = f"data.{kind[:3] if kind != 'nc4' and kind != 'nc3' else 'nc'}"
    if kind == "npz":
        np.savez(tmp_path / file, inputs=X, labels=y, w=w)
    elif kind == "csv":
        names["X"] = '["a", "b"]'
        rows = np.column_stack([X, y, w])
        np.savetxt(tmp_path / file, rows, delimiter=",", header="a, b, labels, w", comments="")
    else:
        data = xr.Dataset({"inputs": (("n", "d"), X), "labels": ("n", y), "w": ("n", w)})
        engine = "h5netcdf" if kind == "nc4" else "scipy"
        data.to_netcdf(tmp_path / file, engine=engine)
    keys = "".join(f"{key} = {name}\n" for key, name in names.items())
    text = SMALL.replace(
        SMALL[SMALL.index("X =") : SMALL.index("[net]")], f'file = "{file}"\n{keys}'
    )
    risk = gf.recipe(written(tmp_path, text)).make().risk
    np.testing.assert_array_equal(risk.X, X)
    np.testing.assert_array_equal(risk.y, y)
    np.testing.assert_array_equal(risk.weights, w)


def test_a_start_of_a_file_and_one_written_out(tmp_path):
    inner, outer = np.arange(1.0, 7.0).reshape(3, 2), np.array([1.0, -2.0, 0.5])
    np.savez(tmp_path / "start.npz", W=inner, outer=outer)
    drawn = "seed = 1\nscale = 0.5\n"
    named = SMALL.replace(drawn, 'file = "start.npz"\ninner = "W"\nouter = "outer"\n')
    inline = SMALL.replace(drawn, f"inner = {inner.tolist()}\nouter = {outer.tolist()}\n")
    for text in (named, inline):
        start = gf.recipe(written(tmp_path, text)).make().start
        np.testing.assert_array_equal(start.inner, inner)
        np.testing.assert_array_equal(start.outer, outer)


@pytest.mark.parametrize(
    ("net", "expected"),
    [
        ('kind = "linear_predictor"', gf.LinearPredictor(2)),
        ('kind = "deep_linear"\ndepth = 3\nwidth = 4', gf.DeepLinear(2, 3, 4)),
        (
            'kind = "two_layer"\nwidth = 3\nactivation = {kind = "piecewise_linear", '
            'breakpoints = [-1, 1], slopes = [0, 1, 0]}\nouter = "fixed"\nbias = true',
            gf.TwoLayer(2, 3, gf.piecewise_linear([-1, 1], [0, 1, 0]), outer="fixed", bias=True),
        ),
        (
            'kind = "two_layer"\nwidth = 3\nactivation = "probit_erf"\nscaling = "mean-field"',
            gf.TwoLayer(2, 3, gf.probit_erf, scaling="mean-field"),
        ),
        (
            'kind = "random_features"\nseed = 4\nwidth = 5\nactivation = "relu"\nlaw = "sphere"',
            gf.RandomFeatures.draw(jax.random.key(4), 2, 5, gf.relu, "sphere"),
        ),
    ],
    ids=["linear", "deep", "piecewise", "scaled", "features"],
)
def test_networks(net, expected):
    old = 'kind = "two_layer"\nwidth = 3\nactivation = "tanh"'
    text = SMALL.replace(old, net).replace(', "neuron_norms"', "")
    recipe = gf.recipe(tomllib.loads(text))
    assert recipe.check().risk.net.describe() == expected.describe()


def test_population_risks_and_teachers(tmp_path):
    made = gf.recipe(RECIPES / "two_neurons.toml").make()
    net = gf.TwoLayer(3, 2, gf.relu, outer="fixed")
    same = gf.PopulationRisk(net, gf.logistic, gf.Gaussian(3), gf.LinearTeacher([0.0, 0.0, 1.0]))
    assert made.risk.describe() == same.describe()
    taught = {
        "data": {"law": "gaussian", "dim": 2},
        "teacher": {
            "net": {"kind": "two_layer", "width": 1, "activation": "relu"},
            "params": {"inner": [[1.0, 0.0]], "outer": [1.0]},
        },
        "net": {"kind": "two_layer", "width": 2, "activation": "relu"},
        "risk": {"loss": "squared", "tv": 0.1, "l2": 0.01}, "start": {"seed": 0, "scale": 1.0},
        "until": {"time": 1.0},
    }  # fmt: skip
    risk = gf.recipe(taught).check().risk
    teacher = gf.NetworkTeacher(
        gf.TwoLayer(2, 1, gf.relu), {"inner": np.array([[1.0, 0.0]]), "outer": np.ones(1)}
    )
    net = gf.TwoLayer(2, 2, gf.relu)
    bare = gf.PopulationRisk(net, gf.squared, gf.Gaussian(2), teacher)
    assert risk.describe() == gf.Regularised(bare, 0.1, l2=0.01).describe()


def test_any_of_several_stops(tmp_path):
    text = SMALL.replace("time = 2.0", "time = 2.0\nloss = 0.3\nsteps = 500")
    made = gf.recipe(written(tmp_path, text)).make()
    assert repr(made.until) == "time(2.0) | loss(0.3) | steps(500)"


def test_keys_stay_in_step_with_the_functions_they_are_of():
    taken = set(inspect.signature(gf.integrate).parameters)
    assert set(Integrate.__struct_fields__) == taken - {
        "risk", "params", "until", "throw", "progress",
    }  # fmt: skip
    assert set(numerics.stops().__struct_fields__) == set(until.__all__) - {"when"}


@pytest.mark.parametrize("file", sorted(RECIPES.glob("*.toml")), ids=lambda file: file.stem)
def test_examples_are_checked(file):
    """Those that are swept, also at the other values."""
    recipe = gf.recipe(file)
    recipe.check()
    assert recipe.title
    assert recipe.observe


def test_the_readme_has_a_recipe_that_runs(tmp_path):
    readme = (RECIPES.parent.parent / "README.md").read_text()
    (block,) = re.findall(r"```toml\n(.*?)```", readme, re.DOTALL)
    assert gf.recipe(written(tmp_path, block)).check().risk.n == 12
    (grid,) = re.findall(r"`(grid = \{.*?\})`", readme)
    assert gf.recipe(written(tmp_path, block + grid)).parameters["width"] == [10, 30]


# --- sweeps -------------------------------------------------------------------------------------

GRID = SMALL + '[grid]\n"start.seed" = {range = 3}\nintegrate.rtol = [1e-6, 1e-7]\n'


def test_a_point_is_the_run_with_its_values():
    recipe = gf.recipe(tomllib.loads(GRID))
    assert recipe.parameters == {"seed": [0, 1, 2], "rtol": [1e-6, 1e-7]}
    found = pickle.loads(pickle.dumps(recipe))(seed=1, rtol=1e-7)
    risk, start = risk_and_start()
    path = gf.integrate(risk, start, until=2.0, rtol=1e-7)
    assert found["result"] == "reached"
    assert found["log_t_final"] == pytest.approx(np.log(2.0), rel=1e-15)
    assert float(found["loss"]) == path.observe("loss")[-1]
    assert found["neuron_norms"].dims == ("neuron",)
    with pytest.raises(gf.RecipeError, match="did you mean 'seed'"):
        recipe(sed=1)


def test_series_are_over_common_times_and_end_where_a_path_ends():
    at_one = gf.recipe(tomllib.loads(SMALL)).run(progress=False).observe("loss")[1]
    text = "series = true\n" + GRID.replace("time = 2.0", f"time = 2.0\nloss = {0.99 * at_one}")
    found = gf.recipe(tomllib.loads(text))(seed=1, rtol=1e-7)
    assert found["result"] == "event"
    series = found["neuron_norms"]
    assert series.dims == ("log_t", "neuron")
    np.testing.assert_allclose(series.log_t, np.log([0.5, 1.0, 2.0]))
    known = np.isfinite(series.values).all(axis=1)
    assert known.tolist() == [t <= found["t_final"] for t in (0.5, 1.0, 2.0)]
    assert known.tolist() == [True, True, False]


def test_names_of_dimensions():
    text = SMALL + '[grid]\n"start.seed" = [1]\n"data.offset" = [1]\n"risk.loss" = ["squared"]\n'
    text += '"integrate.max_seconds" = [5.0]\nnet.width = [3]\n'
    names = list(gf.recipe(tomllib.loads(text)).parameters)
    assert names == ["seed", "offset", "risk_loss", "integrate_max_seconds", "width"]
    twice = SMALL + "[grid]\nstart.scale = [1.0]\nnet.activation.scale = [1.0]\n"
    twice = twice.replace('"tanh"', '{kind = "erf", scale = 1.0}')
    assert list(gf.recipe(tomllib.loads(twice)).parameters) == [
        "start_scale", "net_activation_scale",
    ]  # fmt: skip


def test_a_swept_table_has_every_run(tmp_path):
    recipe = gf.recipe(written(tmp_path, GRID))
    table = recipe.sweep(store=tmp_path / "store", workers=1, progress=False)
    assert dict(table.sizes) == {"seed": 3, "rtol": 2, "neuron": 3}
    assert (table.error == "").all()
    one = recipe(seed=2, rtol=1e-6)
    assert float(table.loss.sel(seed=2, rtol=1e-6)) == float(one["loss"])
    larger = gf.recipe(written(tmp_path, GRID.replace("range = 3", "range = 4")))
    assert larger.sweep(store=tmp_path / "store", workers=1, progress=False).sizes["seed"] == 4
    other = gf.recipe(written(tmp_path, GRID.replace("scale = 0.5", "scale = 0.6")))
    with pytest.raises(gf.SweepError, match=r"scale.*0\.5 in the store, 0\.6 now"):
        other.sweep(store=tmp_path / "store", workers=1, progress=False)


def test_a_description_tells_the_data_apart(tmp_path):
    text = SMALL[: SMALL.index("X =")] + 'file = "d.npz"\nX = "X"\ny = "y"\n'
    text += SMALL[SMALL.index("[net]") :]
    digests = []
    for shift in (0.0, 0.1):
        np.savez(tmp_path / "d.npz", X=X + shift, y=Y)
        told = json.loads(json.dumps(gf.recipe(written(tmp_path, text)).describe()))
        digests.append(told["files"]["d.npz"])
    assert digests[0] != digests[1]


# --- what is wrong is told ----------------------------------------------------------------------

WRONG = {
    "unknown key": ("scale = 0.5", "scal = 0.5", "13: start.scal: is no known key; did you mean"),
    "unknown table": ("[until]", "[untl]", "untl: is no known key; did you mean 'until'"),
    "type": ("width = 3", 'width = "3"', "7: net.width: is a string, '3'; write an integer"),
    "float for int": ("seed = 1", "seed = 1.0", "12: start.seed: is a number, 1.0; write an int"),
    "range": ("width = 3", "width = -3", "7: net.width: width=-3: is too small; pass an int >= 1"),
    "activation": ('"tanh"', '"tanhh"', "8: net.activation.kind: tanhh is none; did you"),
    "activation's key": ('"tanh"', '{kind = "erf", scal = 2}', "8: net.activation.scal: is no"),
    "missing": ("seed = 1\n", "", "start.seed: is missing"),
    "loss": ('"squared"', '"squard"', "10: risk.loss.kind: squard is none; did you mean 'squared'"),
    "observable": ('"loss", ', '"los", ', "1: observe.0: los is none; did you mean 'loss'"),
    "meaningless": ('"loss", ', '"margin", "log_tan_half_angle", ', "1: observe.1: .*teacher"),
    "nan": ("scale = 0.5", "scale = nan", "13: start.scale: scale=.*nan.*is not finite"),
    "tolerance": ("rtol = 1e-7", "rtol = 1e-17", "17: integrate.rtol: rtol=1e-17: is below what"),
    "save_at": ("[0.5, 1.0, 2.0]", "[0.5, 3.0]", "18: integrate.save_at: .*lies beyond the end"),
    "until": ("time = 2.0", "time = -2.0", "15: until.time: t=-2.0: must be positive"),
    "never": ("time = 2.0", "loss = 1e-3", None),
    "huge": ("width = 3", "width = 1_000_000_000", "7: net.width: asks for 2e\\+09 numbers"),
    "depth": ("time = 2.0", f"time = {'[' * 200}{']' * 200}", "more than 24 tables"),
    "ragged": ("[0.3, -1.2]]", "[0.3]]", "3: data.X: is no rectangular array of numbers"),
    "booleans": ("y = [1, -1, 1]", "y = [1, -1, true]", "4: data.y: is no rectangular array"),
    "infinite": ("[0.3, -1.2]]", "[0.3, inf]]", r"3: data.X: holds NaN or infinity at \[2, 1\]"),
    "lengths": ("y = [1, -1, 1]", "y = [1, -1]", "4: data.y: .*has length 2, but X has 3 rows"),
    "no file": (SMALL[SMALL.index("X =") : SMALL.index("[net]")],
                'file = "none.npz"\nX = "X"\ny = "y"\n', "3: data.file: none.npz is no file in"),
    "syntax": ("width = 3", "width = = 3", "7: is not TOML: Invalid value"),
    "twice": ("seed = 1", "seed = 1\nseed = 2", "13: is not TOML: Cannot overwrite a value"),
    "no code": ('"tanh"', '"jax.numpy.tanh"', "net.activation.kind: jax.numpy.tanh is none"),
    "series": ("observe", "series = true\nobserve", None),
    "grid": ("[until]", '[grid]\n"start.sed" = [1]\n[until]', "15: start.sed: is no known key"),
    "grid's table": ("[until]", '[grid]\n"strt.seed" = [1]\n[until]', "did you mean 'start'"),
    "grid's size": ("[until]", '[grid]\n"start.seed" = {range = 1_000_000_000_000}\n[until]',
                    "15: grid.start.seed.range: holds 1000000000000 values"),
    "grid's product": ("[until]", "[grid]\nstart.seed = {range = 10000}\n"
                       "net.width = {range = [1, 10001]}\n[until]", "has 100000000 points"),
    "grid of nothing": ("[until]", '[grid]\n"start.seed" = []\n[until]', "holds no value"),
    "grid's value": ("[until]", '[grid]\n"start.scale" = [1.0, -1.0]\n[until]',
                     "15: start.scale: scale=.*-1.0.*must be positive"),
    "grid's shape": ("[until]", '[grid]\n"net.width" = [3, 4]\n[until]',
                     "1: observe.1: 'neuron_norms' has another shape for another width"),
}  # fmt: skip


@pytest.mark.parametrize("what", [name for name, case in WRONG.items() if case[2]])
def test_what_is_wrong_is_told_with_key_and_line(tmp_path, what):
    old, new, said = WRONG[what]
    assert old in SMALL
    file = written(tmp_path, SMALL.replace(old, new))
    with pytest.raises(gf.RecipeError, match=said) as caught:
        gf.recipe(file).check()
    assert str(file) in str(caught.value)
    assert caught.value.foreseen


def test_a_series_needs_times_that_all_points_share(tmp_path):
    text = "series = true\n" + SMALL.replace("save_at = [0.5, 1.0, 2.0]", "")
    with pytest.raises(gf.RecipeError, match="1: series: is of times that are not fixed"):
        gf.recipe(written(tmp_path, text)).check()


def test_files_of_data_that_cannot_be_read_are_named(tmp_path):
    base = SMALL[: SMALL.index("X =")] + 'file = "FILE"\nX = "X"\ny = "y"\n'
    base += SMALL[SMALL.index("[net]") :]
    (tmp_path / "bad.npz").write_bytes(b"no zip")
    (tmp_path / "bad.nc").write_bytes(b"\x89HDF no")
    (tmp_path / "bad.csv").write_text("X,y\n1,one\n")
    (tmp_path / "text.txt").write_text("X")
    np.savez(tmp_path / "other.npz", x=X, y=Y)
    np.savez(tmp_path / "objects.npz", X=np.array([{}], dtype=object), y=Y)
    said = {
        "bad.npz": "cannot be read as .npz", "bad.nc": "cannot be read as .nc",
        "bad.csv": "cannot be read as .csv", "text.txt": "of no kind that is read",
        "other.npz": "data.X: X is not in other.npz; choose one of x, y",
        "objects.npz": "cannot be read as .npz: Object arrays",
    }  # fmt: skip
    for file, words in said.items():
        with pytest.raises(gf.RecipeError, match=words):
            gf.recipe(written(tmp_path, base.replace("FILE", file))).make()


def test_lines_are_found_whatever_the_layout():
    text = (
        '# a comment with [brackets]\ntitle = """a\n[not.a.table]\n"""\n\n[net]\n'
        'activation = {kind = "erf",\tscale = 1.0}\n"quoted key" = \'a # b\'\n[data]\nX = [\n'
        "  [1.0, 2.0], # ]\n  [3.0,\n   4.0],\n]\n[grid.start]\nseed = [1, 2]\n"
        "[[t]]\na = 1\n[[t]]\na = 1979-05-27 07:32:00\n"
    )
    lines = lines_of(text)
    expected = {
        ("title",): 2, ("net",): 6, ("net", "activation", "scale"): 7, ("net", "quoted key"): 8,
        ("data", "X"): 10, ("data", "X", 1): 12, ("data", "X", 1, 1): 13, ("grid",): 15,
        ("grid", "start", "seed"): 16, ("t", 0, "a"): 18, ("t", 1, "a"): 20,
    }  # fmt: skip
    assert {key: lines[key] for key in expected} == expected
