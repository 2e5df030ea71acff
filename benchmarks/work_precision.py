"""Publish a table of solvers: the picture, and its part of README.md, from JSON.

    gradflow bench --json table.json
    python benchmarks/work_precision.py table.json [more.json ...]

Rows of a later file take the place of those of the same problem, solver and setting: a solver can
be measured again alone. Writes ``figures/work_precision.png``, ``figures/work_precision.json`` and
``work_precision.md`` (all rows) beside this script, and what stands between the marks of
``README.md``.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from gradflow.benchmarking import Outcome, WorkPrecision
from gradflow.benchmarking.table import error_text

HERE = Path(__file__).parent
BEGIN, END = "<!-- work-precision: written by work_precision.py -->", "<!-- /work-precision -->"


def merged(tables: list[WorkPrecision]) -> WorkPrecision:
    """The first table, with rows of later ones in place of its own."""
    rows = {(row.problem, row.solver, row.setting): row for table in tables for row in table}
    return replace(tables[0], rows=tuple(rows.values()))


def text(table: WorkPrecision, others: int) -> str:
    """What the README says."""
    about = table.about
    load = f"{about['load_before']} to {about['load_after']}"
    counts = {o: sum(row.outcome == o for row in table) for o in Outcome}
    tally = ", ".join(f"{n} {o}" for o, n in counts.items() if n)
    again = f" ({others} part(s) measured again after it)" if others else ""
    parts = [
        BEGIN,
        f"Measured {about['date']} on {about['cores']} cores of a shared machine, load {load} "
        f"({busy(table)}), in {about['seconds']:.0f} s{again}. One solver at a time, on one "
        f"thread; CPU seconds, the median of the calls after the first; at most "
        f"{about['time_limit']:g} CPU s a call (nosnoc four times as long; compiled loops look "
        f"at the time now and then only). {len(table)} rows: "
        f"{tally}. All of them: [work_precision.md](work_precision.md).",
        "![Error against CPU seconds and right-hand sides, a pair of panels a problem]"
        "(figures/work_precision.png)",
        "### Which solver for my flow",
        "The fastest that reached the error on every problem of the kind, without a false claim on "
        "any of them (`gradflow bench --advise --from figures/work_precision.json`). Where the "
        "fastest of the package is left open, no other of its integrators reached the error on all "
        "of them:",
        table.advise().markdown(),
        *disagreements(table),
        "### Claims of success that are not so",
        liars(table),
        END,
    ]
    return "\n\n".join(parts)


def busy(table: WorkPrecision) -> str:
    """Whether other work ran beside it."""
    about = table.about
    load = max(float(str(about[key])) for key in ("load_before", "load_after"))
    # (the measurement itself is a load of one)
    over = load > float(str(about["cores"]))
    return "**busy with other work**: more than its cores" if over else "no more than its cores"


def disagreements(table: WorkPrecision) -> list[str]:
    """Where auto is not the package's best."""
    found = table.advise().disagreements()
    head = '`integrator="auto"` is within 1.3 times the fastest of the package'
    if not found:
        return [f"{head} on every problem."]
    return [f"{head}, but for:", "\n".join(f"- {line}" for line in found)]


def liars(table: WorkPrecision) -> str:
    """Every dishonest row: who, where, asked what, got what."""
    lines = ["| problem | solver | asked | error | reference (its own error) |", "|---" * 5 + "|"]
    lines += [
        f"| {row.problem} | {row.solver} | {row.setting} | **{error_text(row)}** | "
        f"{row.reference} ({row.reference_error:.0e}) |"
        for row in table.dishonest
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("files", nargs="+", type=Path)
    files = parser.parse_args().files
    table = merged([WorkPrecision.load(file) for file in files])
    figures = HERE / "figures"
    figures.mkdir(exist_ok=True)
    table.plot().savefig(figures / "work_precision.png", dpi=68)
    table.save(figures / "work_precision.json")
    tables = "# All rows of the table of solvers\n\n" + table.markdown() + "\n"
    (HERE / "work_precision.md").write_text(tables, encoding="utf-8")
    readme = HERE / "README.md"
    content = readme.read_text(encoding="utf-8")
    before, _, rest = content.partition(BEGIN)
    after = rest.partition(END)[2]
    readme.write_text(before + text(table, len(files) - 1) + after, encoding="utf-8")


if __name__ == "__main__":
    main()
