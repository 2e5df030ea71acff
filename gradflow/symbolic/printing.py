"""Derivations as text for a terminal and as LaTeX."""

# sympy's own annotations are too narrow to check against.
# pyright: reportArgumentType=false, reportCallIssue=false, reportOperatorIssue=false
# pyright: reportAttributeAccessIssue=false, reportReturnType=false, reportIndexIssue=false

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import sympy as sp
from sympy.printing.pretty.pretty_symbology import line_width

if TYPE_CHECKING:
    from gradflow.symbolic.derivation import Derivation, Rate

_INDENT = 4


def _pretty(expression: sp.Basic) -> str:
    """Unicode rendering, never wrapped by sympy (its wrapping cuts fractions in two)."""
    return sp.pretty(expression, use_unicode=True, wrap_line=False)


def columns(block: str) -> int:
    """Width of the widest line, combining characters not counted."""
    return max((line_width(line) for line in block.splitlines()), default=0)


def _indent(block: str, by: int = _INDENT) -> str:
    return textwrap.indent("\n".join(line.rstrip() for line in block.splitlines()), " " * by)


def _groups(equation: sp.Eq, room: int) -> list[str]:
    """The equation cut at top-level signs into blocks that fit ``room`` columns."""
    is_sum = isinstance(equation.rhs, sp.Add)
    terms = equation.rhs.as_ordered_terms() if is_sum else [equation.rhs]
    groups: list[list[sp.Expr]] = []

    def shown(chosen: list[sp.Expr], first: bool) -> str:
        if first:
            total = sp.Add(*chosen, evaluate=False) if len(chosen) > 1 else chosen[0]
            return _pretty(sp.Eq(equation.lhs, total, evaluate=False))
        # A later block starts with its sign, taken out of its first term.
        sign = "- " if chosen[0].could_extract_minus_sign() else "+ "
        chosen = [-term for term in chosen] if sign == "- " else chosen
        total = sp.Add(*chosen, evaluate=False) if len(chosen) > 1 else chosen[0]
        return _prefixed(_pretty(total), sign)

    for term in terms:
        alone = bool(groups) and len(groups) > 1 and groups[-1][0].could_extract_minus_sign()
        fits = groups and columns(shown([*groups[-1], term], len(groups) == 1)) <= room
        # A block led by a minus sign holds one term: the sign must not seem to cover more.
        if groups and fits and not alone:
            groups[-1].append(term)
        else:
            groups.append([term])
    return [shown(group, i == 0) for i, group in enumerate(groups)]


def equation_text(equation: sp.Basic, width: int) -> str:
    """One equation within ``width`` columns, cut between terms where it is wider."""
    room = width - _INDENT
    block = _pretty(equation)
    if columns(block) <= room:
        return _indent(block)
    if isinstance(equation, sp.Eq):
        blocks = _groups(equation, room - 4)
        if all(columns(one) <= room - 2 for one in blocks):
            return "\n".join(
                [_indent(blocks[0]), *(_indent(one, _INDENT + 2) for one in blocks[1:])]
            )
    flat = sp.sstr(equation.rhs) if isinstance(equation, sp.Eq) else sp.sstr(equation)
    head = f"{sp.sstr(equation.lhs)} = " if isinstance(equation, sp.Eq) else ""
    return textwrap.fill(
        head + flat, width, initial_indent=" " * _INDENT, subsequent_indent=" " * (_INDENT + 4)
    )


def _prefixed(block: str, sign: str) -> str:
    """Put a sign before the line that a multi-line block is centred on."""
    lines = block.splitlines()
    middle = len(lines) // 2
    return "\n".join((sign if i == middle else "  ") + line for i, line in enumerate(lines))


def _paragraph(sentence: str, width: int, first: str, rest: str) -> str:
    return textwrap.fill(sentence, width, initial_indent=first, subsequent_indent=rest)


def correction_words(rate: Rate) -> str:
    """The correction orders in words, for example ``t^(-2/3), t^(-1)``."""
    parts = []
    for power, log_power in rate.corrections:
        v = str(rate.variable)
        log = (
            "" if not log_power else f"ln({v})" + ("" if log_power == 1 else f"^{log_power}") + " "
        )
        parts.append(f"{log}{v}^({sp.sstr(power).replace('**', '^')})")
    return ", ".join(parts)


def _rate_text(rate: Rate, width: int) -> list[str]:
    lines = [_paragraph(f"{rate.name}: {rate.note}", width, "  * ", "    ")]
    lines.append(equation_text(rate.leading, width).replace(" = ", " ~ "))
    if rate.corrections:
        words = f"corrections, relative to it: {correction_words(rate)}"
        lines.append(_paragraph(words, width, " " * _INDENT, " " * (_INDENT + 2)))
        (power, log_power), coefficient = rate.corrections[0], rate.coefficients[0]
        v = rate.variable
        first = sp.Mul(coefficient, v**power * sp.log(v) ** log_power)
        lines.append(_indent("the first of them:"))
        lines.append(equation_text(first, width))
    return lines


def as_text(derivation: Derivation, width: int = 100) -> str:
    """See ``Derivation.text``."""
    lines = [derivation.title, "=" * min(width, len(derivation.title)), "", "Assumptions"]
    lines += [_paragraph(a, width, "  - ", "    ") for a in derivation.assumptions]
    lines += ["", "Derivation"]
    for number, (explanation, equation) in enumerate(derivation.steps, start=1):
        head = f"{number:3d}. "
        lines += ["", _paragraph(explanation, width, head, " " * 5), ""]
        lines.append(equation_text(equation, width))
    lines += ["", "Reduced flow and its constants"]
    for equation in derivation.equations.values():
        lines += ["", equation_text(equation, width)]
    if derivation.rates:
        lines += ["", "Rates"]
        for rate in derivation.rates.values():
            lines += ["", *_rate_text(rate, width)]
    return "\n".join(lines) + "\n"


# -- LaTeX ------------------------------------------------------------------------------------

_MATHS = {
    "->": r"\to", "s̄": r"\bar s", "h̄": r"\bar h", "k̄": r"\bar k", "ŵ": r"\hat w", "∞": r"\infty",
    "∝": r"\propto", "≥": r"\ge", "≤": r"\le", "≪": r"\ll", "≠": r"\ne", "²": "^2", "α": r"\alpha",
    "γ": r"\gamma", "Δ": r"\Delta", "θ": r"\theta", "κ": r"\kappa", "λ": r"\lambda", "ξ": r"\xi",
    "π": r"\pi", "ρ": r"\rho", "σ": r"\sigma", "τ": r"\tau", "φ": r"\varphi", "Φ": r"\Phi",
    "ψ": r"\psi", "Ψ": r"\Psi",
}  # fmt: skip
_ESCAPES = {"%": r"\%", "&": r"\&", "#": r"\#", "_": r"\_", "^": r"\^{}", "~": r"\textasciitilde{}"}
_LATEX_LIMIT = 110


def _words(sentence: str) -> str:
    """Running text with its special characters escaped and its Greek letters in math mode."""
    escaped = "".join(_ESCAPES.get(character, character) for character in sentence)
    for plain, command in _MATHS.items():
        escaped = escaped.replace(plain, f"${command}$")
    return escaped.replace("$$", "")


def equation_latex(equation: sp.Basic, relation: str = "=") -> str:
    """One displayed equation; a long right-hand side is set over several lines."""
    settings: dict[str, bool] = {"ln_notation": True}
    if not isinstance(equation, sp.Eq):
        return f"\\[ {sp.latex(equation, **settings)} \\]"
    left, right = sp.latex(equation.lhs, **settings), sp.latex(equation.rhs, **settings)
    if len(right) <= _LATEX_LIMIT or not isinstance(equation.rhs, sp.Add):
        return f"\\[ {left} {relation} {right} \\]"
    rows, row = [], ""
    for term in equation.rhs.as_ordered_terms():
        piece = sp.latex(term, **settings)
        piece = piece if piece.startswith("-") or not (row or rows) else f"+ {piece}"
        if row and len(row) + len(piece) > _LATEX_LIMIT:
            rows.append(row)
            row = ""
        row = f"{row} {piece}".strip()
    rows.append(row)
    body = " \\\\\n  &\\quad ".join(rows)
    return f"\\begin{{align*}}\n  {left} {relation} {{}}& {body}\n\\end{{align*}}"


def as_latex(derivation: Derivation) -> str:
    """See ``Derivation.latex``."""
    lines = [
        "% needs \\usepackage{amsmath,amssymb}",
        f"\\section*{{{_words(derivation.title)}}}",
        "\\subsection*{Assumptions}",
        "\\begin{itemize}",
        *(f"  \\item {_words(a)}" for a in derivation.assumptions),
        "\\end{itemize}",
        "\\subsection*{Derivation}",
        "\\begin{enumerate}",
    ]
    for explanation, equation in derivation.steps:
        lines += [f"  \\item {_words(explanation)}", equation_latex(equation)]
    lines += ["\\end{enumerate}", "\\subsection*{Reduced flow}"]
    lines += [equation_latex(equation) for equation in derivation.equations.values()]
    if derivation.rates:
        lines += ["\\subsection*{Rates}", "\\begin{itemize}"]
        for rate in derivation.rates.values():
            lines.append(f"  \\item {_words(rate.name)}: {_words(rate.note)}")
            lines.append(equation_latex(rate.leading, r"\sim"))
            if rate.corrections:
                v = rate.variable
                orders = ", ".join(
                    f"${sp.latex(v**p * sp.log(v) ** k, ln_notation=True)}$"
                    for p, k in rate.corrections
                )
                lines.append(f"  relative corrections of order {orders}.")
        lines.append("\\end{itemize}")
    return "\n".join(lines) + "\n"
