"""Stationary points near the end of a path: polished where L is smooth, judged in scaled terms.

A risk is smooth here, or smooth in an activation cell and along its surfaces; both hand a `Landing`
to the judge, which knows neither nets nor data."""

from __future__ import annotations

from gradflow.certificates.stationary.find import stationary_point as stationary_point
from gradflow.certificates.stationary.judge import Stationary as Stationary
