"""One member of a batch: an integration like any other."""

from __future__ import annotations

from typing import Any

from jaxtyping import PyTree

from gradflow.integration import Prepared, course_of, prepare
from gradflow.risks.base import AbstractRisk

#: Arguments that say which flow it is; the others say how it is integrated.
_COURSE = ("t0", "clock", "chart", "metric")


def prepare_member(risk: AbstractRisk, start: PyTree, options: dict[str, Any]) -> Prepared:
    """Check the arguments of one member.

    Raises
    ------
    ValueError
        Bad input.
    """
    course = course_of(risk, start, *(options[name] for name in _COURSE))
    numerics = {name: value for name, value in options.items() if name not in _COURSE}
    return prepare(risk, course.params, course, numerics)


__all__ = ["prepare_member"]
