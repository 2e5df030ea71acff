"""``gradflow derive NAME``: equations and rates from the definition of a risk."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from gradflow.cli.terminal import usage_error


def derive(
    name: Annotated[str, typer.Argument(help="two-neuron, linear or deep-linear")],
    latex: Annotated[bool, typer.Option("--latex", help="Print LaTeX.")] = False,
    options: Annotated[
        list[str] | None,
        typer.Option("--option", "-o", help="An option of the derivation.", metavar="KEY=VALUE"),
    ] = None,
) -> None:
    """Derive a reduced flow and its rates from the definition of the risk."""
    from gradflow import symbolic

    try:
        derivation = symbolic.derive(name, **_parse_options(options or []))
    except ValueError as error:
        usage_error(str(error))
    text = derivation.latex() if latex else derivation.text()
    # Not through rich: formulas hold brackets, and LaTeX must not be wrapped.
    typer.echo(text)


def _parse_options(pairs: list[str]) -> dict[str, Any]:
    """``depth=3 loss=hinge`` as keyword arguments: ints and floats where they read as such."""
    parsed: dict[str, Any] = {}
    for pair in pairs:
        key, sign, text = pair.partition("=")
        if not sign or not key.isidentifier() or not text:
            raise ValueError(f"option={pair!r}: is not KEY=VALUE; pass for example depth=3")
        value: Any = text
        for kind in (int, float):
            try:
                value = kind(text)
                break
            except ValueError:
                continue
        parsed[key] = value
    return parsed


__all__ = ["derive"]
