"""Mutations of valid recipes: none may end in a traceback or hang, and no unknown key may pass.

    python benchmarks/toml_mutations.py [COUNT] [SEED]

Each of five recipes that run is changed at random: in its bytes, its keys, the types and the values
of its entries, its structure. What comes out is checked as ``gradflow run --check`` does (all is
built, nothing is integrated), under a watchdog. A recipe is refused with a message that names a key
or a line, or accepted; of those accepted, every key is held against a list written by hand. An
unknown key that was put in on purpose must be refused by its name, with a suggestion, and where the
text was changed in place, at its line.
"""

from __future__ import annotations

import contextlib
import copy
import math
import random
import resource
import signal
import string
import sys
import time
import tomllib
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

#: Seconds after which a check counts as hanging.
LIMIT = 20

BASES = {
    "data set": """\
title = "separable data"  # free text
observe = ["loss", "normalised_margin"]
certificate = true

[data]
dataset = "separable_gaussians"
n = 12
dim = 3
seed = 0

[net]
kind = "two_layer"
width = 4
activation = {kind = "leaky_relu", slope = 0.1}
outer = "trained"

[risk]
loss = "logistic"
reduction = "mean"
l2 = 1e-4

[start]
seed = 0
scale = 1e-2
scheme = "balanced"

[until]
time = 100.0
loss = 1e-3

[integrate]
rtol = 1e-8
max_steps = 1000
save_at = {logspace = [0, 2, 5]}
metric = {inner = 1.0, outer = 2.0}
""",
    "file": """\
observe = ["loss", "accuracy"]

[data]
file = "data.csv"
X = ["x1", "x2"]
y = "label"
weights = "w"

[net]
kind = "two_layer"
width = 3
activation = "tanh"
scaling = "ntk"
bias = true

[risk]
loss = "squared"

[start]
file = "start.npz"

[until]
gradient = 1e-4
log_time = 5

[integrate]
integrator = "tsit5"
clock = "log"
atol = 1e-10
save_at = [0.5, 1.0, 10.0]
""",
    "arrays": """\
observe = ["loss"]

[data]
X = [[1.0, 0.5],
     [-0.5, 1.0],  # a comment, with ] in it
     [0.3, -1.2]]
y = [1, -1, 1]
offset = [0.0, 0.1, 0.0]

[net]
kind = "linear_predictor"

[risk]
loss = {kind = "squared"}

[start]
weight = [0.1, 0.2]

[until]
steps = 10
time = 5
""",
    "law": '''\
title = """
two neurons
"""
observe = ["loss", "log_tan_half_angle"]

[data]
law = "student_t"
dim = 3
nu = 5.0

[teacher]
direction = [0.0, 0.0, 1.0]

[net]
kind = "two_layer"
width = 2
activation = "relu"
outer = "fixed"

[risk]
loss = "logistic"

[start]
inner = [[0.6, 0.1, -0.8], [0.5, -0.3, 0.4]]
outer = [1.0, -1.0]

[until]
time = 1e10

[integrate]
clock = "log"
rtol = 1e-9
''',
    "grid": """\
observe = ["loss"]
series = true

[data]
dataset = "two_balls"
n = 8

[net]
kind = "two_layer"
width = 2
activation = "relu"

[risk]
loss = "logistic"

[start]
seed = 0
scale = 0.1

[until]
time = 10

[integrate]
save_at = [1.0, 5.0]

[grid]
"start.seed" = {range = 3}
"net.width" = [2, 3]
start.scale = {logspace = [-2, -1, 2]}
data.centre = [0.5, 0.6]
""",
}

#: Every key that a recipe may have, by table, written by hand: an oracle for what is accepted.
KNOWN: dict[str, set[str]] = {
    "": {
        "title", "observe", "certificate", "series", "data", "net", "risk", "start", "until",
        "integrate", "teacher", "grid",
    },
    "data": {
        "file", "X", "y", "weights", "offset", "dataset", "law", "n", "dim", "seed", "centre",
        "radius", "std", "margin", "half_angle", "radii", "spread", "H", "K", "eps", "direction",
        "pairs", "nu", "scale",
    },
    "data.radius": {"distribution", "args"},
    "net": {
        "kind", "dim", "width", "activation", "outer", "bias", "scaling", "outputs", "depth",
        "inner", "seed", "law",
    },
    "activation": {
        "kind", "slope", "shift", "breakpoints", "slopes", "value_at_first", "scale", "beta",
        "power",
    },
    "risk": {"loss", "reduction", "tv", "l2"},
    "loss": {"kind", "loss", "outputs"},
    "start": {
        "seed", "scale", "scheme", "file", "inner", "outer", "bias", "weight", "layers",
    },
    "teacher": {"direction", "net", "params"},
    "until": {"time", "log_time", "clock", "loss", "gradient", "direction", "steps"},
    "integrate": {
        "integrator", "rtol", "atol", "clock", "chart", "metric", "t0", "save_at", "max_steps",
        "max_seconds", "safety",
    },
    "metric": {"inner", "outer", "bias", "weight", "layers"},
    "save_at": {"times", "log_times", "clock", "range", "linspace", "logspace"},
    "list": {"range", "linspace", "logspace"},
}  # fmt: skip


class Mutant(NamedTuple):
    """A changed recipe.

    Attributes
    ----------
    text : bytes
    kind : str
        What was done to it.
    unknown : str
        A key that no recipe has and that was put in; "" if there is none.
    line : int
        Where it stands; 0 where that was not kept.
    """

    text: bytes
    kind: str
    unknown: str = ""
    line: int = 0


def prepare(folder: Path) -> None:
    """Write the files that the recipes name."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(9, 2))
    rows = np.column_stack([X, np.sign(X[:, 0]), rng.uniform(0.5, 1.5, 9)])
    lines = [",".join(f"{value:.17g}" for value in row) for row in rows]
    (folder / "data.csv").write_text("\n".join(["x1,x2,label,w", *lines]) + "\n")
    np.savez(
        folder / "start.npz", inner=rng.normal(size=(3, 2)), outer=rng.normal(size=3),
        bias=rng.normal(size=3),
    )  # fmt: skip


# --- what is done to a recipe ------------------------------------------------------------------

HOSTILE: tuple[Any, ...] = (
    0, 1, -1, 2, 3, 7, 10**9, 10**12, 2**31, 2**63 - 1, 2**63, 2**64, -(2**63), 10**30, 10**400,
    0.0, -0.0, 1e-320, 1e-300, 1e300, -1e300, math.nan, math.inf, -math.inf, 0.5, 1e-17, 1e16,
    True, False, "", "relu", "logistic", "squared", "x", "é", "\u202e\U0001f600", "a" * 70_000,
    "../data.csv", "/etc/passwd", "/dev/zero", "data.csv", "start.npz", "nul\x00", "__import__",
    "auto", "log", "loss", "physical", "conic", "piecewise", "radau", "kvaerno5", "hinge",
    "cross_entropy", "gaussian", "uniform_ball", "radial", "erf", "deep_linear", "hexagon",
    [], [[]], [1, "a"], [1.0, 2.0], [[1.0, 2.0], [3.0]], [[[1.0]]], [math.nan], [0, 0],
    [[0.0, 0.0]],
    [True, False], ["x1", "x2"], ["loss", "norm"], {}, {"kind": "relu"}, {"kind": "tanh"},
    {"range": 10**12}, {"range": -5}, {"range": [0, 10, 0]}, {"linspace": [0, 1, 10**9]},
    {"logspace": [0, 400, 3]}, {"range": 3, "linspace": [0, 1, 2]},
    {"kind": "monomial", "power": 9},
    {"a": {"b": {"c": 1}}}, {"kind": ["x"]}, [{"kind": "relu"}],
)  # fmt: skip


def _hostile(rng: random.Random) -> Any:
    """A value of the list, of one's own: it may be changed in its turn."""
    return copy.deepcopy(rng.choice(HOSTILE))


def mutants(seed: int) -> Iterator[Mutant]:
    """Changed recipes, without end."""
    rng = random.Random(seed)
    ways = (_bytes, _slices, _typo, _typo, _extra_key, _value, _value, _value, _drop, _move, _deep,
            _lines, _several)  # fmt: skip
    while True:
        base = rng.choice(list(BASES.values()))
        yield rng.choice(ways)(base, rng)


def _bytes(base: str, rng: random.Random) -> Mutant:
    raw = bytearray(base.encode())
    for _ in range(rng.choice((1, 1, 2, 5, 30))):
        at = rng.randrange(len(raw))
        what = rng.randrange(3)
        if what == 0:
            raw[at] = rng.choice((rng.randrange(256), rng.choice(b'"[]{}=.,#\n\\0e-')))
        elif what == 1:
            raw.insert(at, rng.choice((rng.randrange(256), rng.choice(b'"[]{}=.,#\n\\0e-'))))
        else:
            del raw[at]
    return Mutant(bytes(raw), "bytes")


def _slices(base: str, rng: random.Random) -> Mutant:
    raw = base.encode()
    a, b = sorted(rng.randrange(len(raw)) for _ in range(2))
    choice = rng.randrange(5)
    new = (
        raw[:a],
        raw[:a] + raw[b:],
        raw[:b] + raw[a:],
        b"\xef\xbb\xbf" + raw,
        raw.replace(b"\n", rng.choice((b"\r\n", b"\r", b"\x00", b"\n\n"))),
    )[choice]
    return Mutant(new, "slices")


def _name(rng: random.Random) -> str:
    return "".join(rng.choice(string.ascii_lowercase) for _ in range(rng.randint(3, 9)))


def _every_name() -> set[str]:
    return set().union(*KNOWN.values())


def _misspelt(name: str, rng: random.Random) -> str:
    at, letter = rng.randrange(len(name)), rng.choice(string.ascii_letters + "_")
    before, after = name[:at], name[at + 1 :]
    return rng.choice(
        (before + letter + name[at:], before + after, before + letter + after, name.upper(),
         name + "s", name[::-1])
    )  # fmt: skip


def _typo(base: str, rng: random.Random) -> Mutant:
    """A key of one line, misspelt in place."""
    lines = base.split("\n")
    places = [
        k for k, line in enumerate(lines)
        if " = " in line and line[0].isalpha() and line.split(" = ")[0].isidentifier()
    ]  # fmt: skip
    at = rng.choice(places)
    key, _, value = lines[at].partition(" = ")
    wrong = _misspelt(key, rng)
    if not wrong.isidentifier() or not wrong.isascii() or wrong in _every_name():
        return _value(base, rng)
    lines[at] = f"{wrong} = {value}"
    return Mutant("\n".join(lines).encode(), "typo", wrong, at + 1)


def _extra_key(base: str, rng: random.Random) -> Mutant:
    """A key of no recipe, with any value, in some table."""
    lines = base.split("\n")
    heads = [0, *(k + 1 for k, line in enumerate(lines) if line.startswith("["))]
    heads = [k for k in heads if k == 0 or lines[k - 1] != "[grid]"]
    at = rng.choice(heads)
    name = _name(rng)
    if name in _every_name():
        return _value(base, rng)
    value = _hostile(rng)
    if value == 10**400:
        value = 1  # (in its line, the size of an integer is of no interest here)
    lines.insert(at, f"{name} = {written(value)}")
    return Mutant("\n".join(lines).encode(), "extra key", name, at + 1)


def _places(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    entries = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, value in entries:
        yield (*path, key)
        if isinstance(value, (dict, list)):
            yield from _places(value, (*path, key))


def _inside(tree: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        tree = tree[key]
    return tree


def _value(base: str, rng: random.Random) -> Mutant:
    """Another value: of another type, out of its range, or absurd."""
    tree = tomllib.loads(base)
    path = rng.choice(list(_places(tree)))
    _inside(tree, path[:-1])[path[-1]] = _hostile(rng)
    return Mutant(toml(tree).encode(), "value")


def _drop(base: str, rng: random.Random) -> Mutant:
    tree = tomllib.loads(base)
    path = rng.choice(list(_places(tree)))
    del _inside(tree, path[:-1])[path[-1]]
    return Mutant(toml(tree).encode(), "drop")


def _move(base: str, rng: random.Random) -> Mutant:
    """An entry, or a table, put elsewhere, or one of another recipe put in."""
    tree = tomllib.loads(base)
    other = tomllib.loads(rng.choice(list(BASES.values()))) if rng.random() < 0.5 else tree
    path = rng.choice(list(_places(other)))
    value = copy.deepcopy(_inside(other, path))
    tables = [(), *(p for p in _places(tree) if isinstance(_inside(tree, p), dict))]
    where = _inside(tree, rng.choice(tables))
    if isinstance(path[-1], str):
        where[path[-1]] = value
    return Mutant(toml(tree).encode(), "move")


def _deep(base: str, rng: random.Random) -> Mutant:
    """Nesting, long keys, long lines and large files."""
    depth = rng.choice((5, 30, 200, 3000))
    head = base.split("\n[")[0]
    rest = base[len(head) :]
    made = rng.choice((
        f"observe = {'[' * depth}{']' * depth}\n{rest}",
        f"{base}\n[risk.{'.'.join('a' * depth)}]\nx = 1\n",
        f"{head}\n{'.'.join('b' * depth)} = 1\n{rest}",
        f"{head}\nzz = {'{a = ' * min(depth, 200)}1{'}' * min(depth, 200)}\n{rest}",
        f"{head}\n# {'x' * depth * 1000}\n{rest}",
        base + "\n".join(f"[[extra{k}]]" for k in range(depth)),
        base.replace("[start]", f"[start]\nweight = [{'1.0, ' * depth * 10}1.0]"),
    ))  # fmt: skip
    return Mutant(made.encode(), "deep")


def _lines(base: str, rng: random.Random) -> Mutant:
    """Lines twice, in another order, or gone."""
    lines = base.split("\n")
    for _ in range(rng.choice((1, 1, 3))):
        at, to = rng.randrange(len(lines)), rng.randrange(len(lines))
        what = rng.randrange(3)
        if what == 0:
            lines.insert(to, lines[at])
        elif what == 1:
            lines[at], lines[to] = lines[to], lines[at]
        elif len(lines) > 1:
            del lines[at]
    return Mutant("\n".join(lines).encode(), "lines")


def _several(base: str, rng: random.Random) -> Mutant:
    tree = tomllib.loads(base)
    for _ in range(rng.randint(2, 6)):
        path = rng.choice(list(_places(tree)))
        try:
            _inside(tree, path[:-1])[path[-1]] = _hostile(rng)
        except (KeyError, TypeError, IndexError):
            continue
    return Mutant(toml(tree).encode(), "several values")


def toml(tree: dict[str, Any]) -> str:
    """A tree as TOML text, with headers for tables."""
    plain = {k: v for k, v in tree.items() if not isinstance(v, dict)}
    parts = ["".join(f"{_key(k)} = {written(v)}\n" for k, v in plain.items())]
    for name, table in tree.items():
        if isinstance(table, dict):
            parts.append(f"[{_key(name)}]\n")
            parts.append("".join(f"{_key(k)} = {written(v)}\n" for k, v in table.items()))
    return "\n".join(parts)


def _key(name: str) -> str:
    bare = name and all(c.isascii() and (c.isalnum() or c in "_-") for c in name)
    return name if bare else written(name)


def written(value: Any) -> str:
    """A value as TOML writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return f"0x{value:x}" if value > 10**300 else str(value)
    if isinstance(value, float):
        return repr(value)  # (inf and nan as TOML has them)
    if isinstance(value, str):
        escaped = "".join(
            c if c.isprintable() and c not in '"\\' else f"\\U{ord(c):08x}" for c in value
        )
        return f'"{escaped}"'
    if isinstance(value, list):
        return "[" + ", ".join(map(written, value)) + "]"
    return "{" + ", ".join(f"{_key(k)} = {written(v)}" for k, v in value.items()) + "}"


# --- what becomes of it ------------------------------------------------------------------------


class Verdict(NamedTuple):
    """What became of a mutant.

    Attributes
    ----------
    outcome : {"refused", "accepted", "traceback", "hang"}
    foreseen : bool
        Whether a refusal came in words of the package.
    flaw : str
        What is wrong with the outcome; "" if nothing is.
    message : str
    seconds : float
    """

    outcome: str
    foreseen: bool
    flaw: str
    message: str
    seconds: float


class Hang(BaseException):
    """The watchdog's."""


@contextlib.contextmanager
def watchdog(seconds: float) -> Iterator[None]:
    """Raise `Hang` after so many seconds."""

    def bark(*_: object) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, bark)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def judge(mutant: Mutant, folder: Path, check: Callable[[Path], object]) -> Verdict:
    """Check a mutant as the command line does, without integrating."""
    from gradflow.recipes.errors import RecipeError

    file = folder / "mutant.toml"
    file.write_bytes(mutant.text)
    tick = time.perf_counter()
    foreseen, message, flaw = True, "", ""
    try:
        with watchdog(LIMIT), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            check(file)
        outcome = "accepted"
        flaw = _flaw_of_accepted(mutant)
    except RecipeError as error:
        outcome, foreseen, message = "refused", error.foreseen, str(error)
        flaw = _flaw_of_refusal(mutant, error.line, message)
    except Hang:
        outcome = flaw = "hang"
    except BaseException as error:
        outcome, message = "traceback", f"{type(error).__name__}: {error}"
        flaw = "traceback"
    return Verdict(outcome, foreseen, flaw, message, time.perf_counter() - tick)


def _flaw_of_refusal(mutant: Mutant, line: int | None, message: str) -> str:
    if not message or "\n" in message or len(message) > 1500:
        return "a message that is empty or no single line"
    if not mutant.unknown:
        return ""
    if mutant.unknown not in message:
        return "a refusal that does not name the unknown key"
    if "did you mean" not in message and "choose one of" not in message:
        return "a refusal without a suggestion"
    return "" if mutant.line in (0, line) else f"line {line} told, line {mutant.line} meant"


def _flaw_of_accepted(mutant: Mutant) -> str:
    if mutant.unknown:
        return "an unknown key was accepted"
    try:
        tree = tomllib.loads(mutant.text.decode())
    except (ValueError, RecursionError):
        return "what is no TOML was accepted"
    strange = unknown_keys(tree)
    return f"accepted with the keys {strange}" if strange else ""


def unknown_keys(tree: dict[str, Any]) -> list[str]:
    """Keys that the list written by hand has not."""
    found = [name for name in tree if name not in KNOWN[""]]
    for name in set(tree) & KNOWN[""]:
        if isinstance(tree[name], dict):
            found += _unknown_in(tree[name], name)
    return found


def _unknown_in(table: dict[str, Any], where: str) -> list[str]:
    if where == "grid":
        return _unknown_in_grid(table)
    found = [f"{where}.{name}" for name in table if name not in KNOWN[where]]
    inner = {
        "net.activation": "activation", "risk.loss": "loss", "integrate.metric": "metric",
        "integrate.save_at": "save_at", "teacher.net": "net", "teacher.params": "start",
        "data.radius": "data.radius", "save_at.times": "list", "save_at.log_times": "list",
        "save_at.clock": "list", "loss.loss": "loss",
    }  # fmt: skip
    for name, value in table.items():
        if isinstance(value, dict):
            place = inner.get(f"{where}.{name}")
            found += [f"{where}.{name}: a table"] if place is None else _unknown_in(value, place)
    return found


def _unknown_in_grid(table: dict[str, Any], before: tuple[str, ...] = ()) -> list[str]:
    found: list[str] = []
    for name, value in table.items():
        parts = (*before, *name.split("."))
        if isinstance(value, dict) and not set(value) & KNOWN["list"]:
            found += _unknown_in_grid(value, parts)
            continue
        if isinstance(value, dict):
            found += [f"grid: {key}" for key in value if key not in KNOWN["list"]]
        place = parts[0] if len(parts) == 2 else parts[-2]
        if parts[-1] not in KNOWN.get(place, set()):
            found.append("grid: " + ".".join(parts))
    return found


def trial(count: int, seed: int, folder: Path) -> tuple[Counter[str], list[tuple[Mutant, Verdict]]]:
    """Judge so many mutants.

    Returns
    -------
    Counter
        Outcomes, by kind of mutation and in all; "unforeseen" refusals; the slowest in ms.
    list
        Those with a flaw.
    """
    import gradflow as gf

    prepare(folder)
    counts: Counter[str] = Counter()
    flawed: list[tuple[Mutant, Verdict]] = []
    slowest, text = 0.0, b""
    for mutant, _ in zip(mutants(seed), range(count), strict=False):
        verdict = judge(mutant, folder, lambda file: gf.recipe(file).check())
        counts[verdict.outcome] += 1
        counts[f"{mutant.kind}: {verdict.outcome}"] += 1
        if not verdict.foreseen:
            counts["unforeseen"] += 1
            counts[f"unforeseen: {verdict.message[-110:]}"] += 1
        if verdict.flaw:
            flawed.append((mutant, verdict))
        if verdict.seconds > slowest:
            slowest, text = verdict.seconds, mutant.text
    counts["slowest, ms"] = round(1000 * slowest)
    (folder / "slowest.toml").write_bytes(text)
    return counts, flawed


def main() -> None:
    import tempfile

    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    tick = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        counts, flawed = trial(count, seed, Path(folder))
    for name in sorted(counts):
        print(f"{counts[name]:8d}  {name}")
    print(f"{count} mutants (seed {seed}) in {time.perf_counter() - tick:.0f} s, at most "
          f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.1f} GB")  # fmt: skip
    print(f"{len(flawed)} with a flaw")
    for mutant, verdict in flawed[:20]:
        print(f"--- {verdict.flaw} ({mutant.kind}): {verdict.message[:300]}")
        print(mutant.text[:3000].decode(errors="replace"))
    sys.exit(bool(flawed))


if __name__ == "__main__":
    main()
