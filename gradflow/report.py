"""Verdicts as files: JSON for programs, one self-contained HTML page for people."""

from __future__ import annotations

import html
import json
import math
import platform
from collections.abc import Mapping
from importlib import metadata

from gradflow.bibliography import SOURCES
from gradflow.claims.evidence import ControlVerdict, Table, Verdict, Verdicts
from gradflow.numerics.format import number

WORDS = "Numerics support a statement; they never prove it."
#: Components of the evidence on the page; the JSON has all.
SHOWN = 12


def environment() -> dict[str, str]:
    """What the numbers depend on besides the code: versions and machine."""
    found = {"python": platform.python_version(), "machine": platform.platform()}
    for name in ("gradflow-ode", "jax", "jaxlib", "diffrax", "numpy", "scipy", "sympy"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def to_json(verdicts: Verdicts, run: Mapping[str, object] | None = None) -> str:
    """All verdicts, the tally and the environment as JSON text."""
    return json.dumps(
        {
            "note": WORDS,
            "run": dict(run or {}),
            "environment": environment(),
            "counts": verdicts.counts(),
            "verdicts": [v.to_dict() for v in verdicts],
        },
        indent=2,
        allow_nan=False,
    )


_CSS = """
:root { --ink:#1c2430; --soft:#5b6675; --line:#dde3ea; --paper:#fff; --tint:#f6f8fa;
  --good:#17683b; --good-bg:#e2f4e8; --bad:#a3211b; --bad-bg:#fce6e4; --mid:#7a5200;
  --mid-bg:#fdf0d2; }
@media (prefers-color-scheme: dark) { :root { --ink:#e4e8ee; --soft:#9aa6b4; --line:#303a46;
  --paper:#14191f; --tint:#1b2229; --good:#7fd8a0; --good-bg:#12341f; --bad:#ff9d96;
  --bad-bg:#431715; --mid:#f0c66b; --mid-bg:#3b2c08; } }
* { box-sizing:border-box } body { margin:0; background:var(--paper); color:var(--ink);
  font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif }
main { max-width:1080px; margin:0 auto; padding:2.5rem 1.25rem 4rem }
h1 { font-size:1.6rem; margin:0 0 .25rem } h2 { font-size:1.1rem; margin:2.2rem 0 .2rem }
p.soft, .soft { color:var(--soft) } p { margin:.3rem 0 }
.tally { display:flex; flex-wrap:wrap; gap:.5rem; margin:1rem 0 }
.badge { display:inline-block; padding:.1rem .55rem; border-radius:1rem; font-size:.78rem;
  font-weight:600; white-space:nowrap; background:var(--mid-bg); color:var(--mid) }
.SUPPORTED { background:var(--good-bg); color:var(--good) }
.VIOLATED, .ERROR { background:var(--bad-bg); color:var(--bad) }
.wide { overflow-x:auto } table { border-collapse:collapse; width:100%; margin-top:.6rem }
th { text-align:left; font-size:.78rem; color:var(--soft); font-weight:600;
  border-bottom:2px solid var(--line); padding:.35rem .5rem }
td { border-bottom:1px solid var(--line); padding:.45rem .5rem; vertical-align:top }
td.num, th.num { text-align:right; font-variant-numeric:tabular-nums; white-space:nowrap }
summary { cursor:pointer } details > div { background:var(--tint); border-radius:.4rem;
  padding:.6rem .8rem; margin:.5rem 0; font-size:.9rem }
dt { color:var(--soft); font-size:.78rem } dd { margin:0 0 .4rem } dl { margin:0 }
code { font-size:.88em }
"""


def to_html(verdicts: Verdicts, run: Mapping[str, object] | None = None) -> str:
    """One page without scripts, fonts or links to load; opens anywhere, prints well."""
    out = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width,initial-scale=1'>",
        f"<title>gradflow verify</title><style>{_CSS}</style></head><body><main>",
        "<h1>gradflow verify</h1>",
        f"<p class='soft'>{_esc(WORDS)} Every claim was held against a measurement with its "
        "numerical error, and against a negative control that must fail.</p><div class='tally'>",
    ]
    out += [
        f"<span class='badge {name}'>{n} {name}</span>" for name, n in verdicts.counts().items()
    ]
    out.append("</div>")
    if run:
        facts = " · ".join(f"{_esc(k)}: {_esc(v)}" for k, v in run.items())
        out.append(f"<p class='soft'>{facts}</p>")
    for source in dict.fromkeys(v.source for v in verdicts):
        out.append(f"<h2>{_esc(source)}</h2>")
        if source in SOURCES:
            out.append(f"<p class='soft'>{_esc(SOURCES[source].text())}</p>")
        out.append(
            "<div class='wide'><table><thead><tr><th>claim</th><th class='num'>predicted</th>"
            "<th class='num'>measured</th><th class='num'>error</th><th class='num'>tolerance</th>"
            "<th>provenance</th><th>status</th><th>control</th><th class='num'>seconds</th>"
            "</tr></thead><tbody>"
        )
        out += [_row(v) for v in verdicts if v.source == source]
        out.append("</tbody></table></div>")
    versions = " · ".join(f"{_esc(k)} {_esc(v)}" for k, v in environment().items())
    out.append(f"<h2>Environment</h2><p class='soft'>{versions}</p></main></body></html>")
    return "".join(out)


def _row(v: Verdict) -> str:
    facts = [("statement", v.statement), ("verdict", v.message), ("kind", v.kind)]
    if v.hypotheses:
        facts.append(("hypotheses checked", "; ".join(v.hypotheses)))
    if v.control is not None:
        facts.append(("negative control", _control(v.control)))
    if v.perturb is not None:
        facts.append(("perturbed by", f"{v.perturb:g}"))
    facts.append(("citation", v.citation))
    body = "".join(f"<dt>{_esc(k)}</dt><dd>{_esc(t)}</dd>" for k, t in facts if t)
    evidence = _evidence(v.evidence.table)
    name = v.id.partition("/")[2] or v.id
    cells = "".join(
        f"<td class='num'>{_esc(number(x, digits))}</td>"
        for x, digits in ((v.predicted, 8), (v.measured, 8), (v.error, 2), (v.tolerance, 2))
    )
    control = ""
    if v.control is not None:
        good = "SUPPORTED" if v.control.as_expected else "VIOLATED"
        word = "fails, as it must" if v.control.as_expected else f"{v.control.status}!"
        control = f"<span class='badge {good}'>{_esc(word)}</span>"
    return (
        f"<tr><td><details><summary><code>{_esc(name)}</code> {_esc(v.title)}</summary>"
        f"<div><dl>{body}</dl>{evidence}</div></details></td>{cells}<td>{_esc(v.provenance)}</td>"
        f"<td><span class='badge {v.status}'>{v.status}</span></td><td>{control}</td>"
        f"<td class='num'>{v.seconds:.2f}</td></tr>"
    )


def _evidence(table: Table) -> str:
    """The first components that were compared, where there are several."""
    if len(table) < 2:
        return ""
    rows = "".join(
        f"<tr><td>{_esc(row.label)}</td>"
        + "".join(f"<td class='num'>{_esc(number(x))}</td>" for x in row[1:])
        + "</tr>"
        for row in table[:SHOWN]
    )
    more = f"<p class='soft'>and {len(table) - SHOWN} more</p>" if len(table) > SHOWN else ""
    heads = "".join(f"<th class='num'>{name}</th>" for name in ("predicted", "measured", "error"))
    return f"<table><tr><th>component</th>{heads}</tr>{rows}</table>{more}"


def _control(control: ControlVerdict) -> str:
    word = "as it must" if control.as_expected else "but should have failed"
    numbers = ""
    if math.isfinite(control.predicted) and math.isfinite(control.measured):
        numbers = f" (predicted {control.predicted:.8g}, measured {control.measured:.8g})"
    return f"{control.description}: {control.status}, {word}{numbers}. {control.message}"


def _esc(value: object) -> str:
    return html.escape(str(value))
