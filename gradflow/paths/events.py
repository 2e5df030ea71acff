"""What happened on a path: :class:`Event`, and the sequence of them that filters and counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, SupportsIndex, overload

import numpy as np

from gradflow.validation import check_choice

if TYPE_CHECKING:
    import xarray as xr

#: The kinds an event may have; a file holds their places in this list.
KINDS = (
    "stop", "stage", "crossing", "slide-in", "slide-out", "death", "branch", "origin",
    "support-in", "support-out", "margin", "margin-in", "margin-out",
)  # fmt: skip


@dataclass(frozen=True)
class Event:
    """Something that happened on the way.

    Attributes
    ----------
    t, log_t, clock : float
        When: physical time, its logarithm, value of the clock.
    kind : str
        ``"stop"``; ``"stage"`` (the chart was changed); where kinks are located: ``"crossing"``,
        ``"slide-in"``, ``"slide-out"``, ``"death"`` (no datum moves the neuron any more),
        ``"branch"`` (the flow goes on in more than one way; one was taken), ``"origin"`` (the
        neuron's weights vanish); in the late phase also ``"support-in"``, ``"support-out"``; for
        the hinge loss ``"margin"`` (a datum passes y f = 1), ``"margin-in"``, ``"margin-out"`` (it
        is held there from now on, no longer).
    label : str
    neuron, datum : int or None
        Where a kink was met; of data that share a surface, the first.
    """

    t: float
    log_t: float
    clock: float
    kind: str
    label: str = ""
    neuron: int | None = None
    datum: int | None = None


class Events(tuple[Event, ...]):
    """Events in the order of time: a tuple that also filters, counts and makes a table.

    >>> path.events.kind("crossing")[:3]
    >>> path.events.surface.counts()
    """

    __slots__ = ()

    def kind(self, *kinds: str) -> Events:
        """Only the events of these kinds (see :class:`Event`)."""
        for asked in kinds:
            check_choice("kind", asked, KINDS)
        return Events(event for event in self if event.kind in kinds)

    @property
    def stops(self) -> Events:
        """Where a condition of the user's was met."""
        return self.kind("stop")

    @property
    def stages(self) -> Events:
        """Where one stage of the integration followed another."""
        return self.kind("stage")

    @property
    def surface(self) -> Events:
        """What happened at the kinks: neither stops nor stages."""
        return Events(event for event in self if event.kind not in ("stop", "stage"))

    def counts(self) -> dict[str, int]:
        """Number of events by kind, in the order in which the kinds appear."""
        return dict(Counter(event.kind for event in self))

    @overload
    def __getitem__(self, index: SupportsIndex) -> Event: ...
    @overload
    def __getitem__(self, index: slice) -> Events: ...
    def __getitem__(self, index: SupportsIndex | slice) -> Event | Events:
        if isinstance(index, slice):
            return Events(super().__getitem__(index))
        return super().__getitem__(index)

    def columns(self) -> dict[str, np.ndarray]:
        """The events as arrays of one length; -1 stands for no neuron and for no datum."""
        absent = lambda number: -1 if number is None else number
        return {
            "t": np.array([event.t for event in self], np.float64),
            "log_t": np.array([event.log_t for event in self], np.float64),
            "clock": np.array([event.clock for event in self], np.float64),
            "kind": np.array([event.kind for event in self], np.str_),
            "label": np.array([event.label for event in self], np.str_),
            "neuron": np.array([absent(event.neuron) for event in self], np.int32),
            "datum": np.array([absent(event.datum) for event in self], np.int32),
        }

    @classmethod
    def of_columns(cls, columns: Mapping[str, Iterable]) -> Events:
        """Inverse of :meth:`columns`."""
        rows = zip(*(columns[name] for name in Event.__dataclass_fields__), strict=True)
        return cls(
            Event(
                float(t), float(log_t), float(clock), str(kind), str(label),
                None if neuron < 0 else int(neuron), None if datum < 0 else int(datum),
            )
            for t, log_t, clock, kind, label, neuron, datum in rows
        )  # fmt: skip

    def to_xarray(self) -> xr.Dataset:
        """View as a table over ``event``; -1 stands for no neuron and for no datum."""
        import xarray as xr

        return xr.Dataset({name: (("event",), array) for name, array in self.columns().items()})


NO_EVENTS = Events()

__all__ = ["KINDS", "NO_EVENTS", "Event", "Events"]
