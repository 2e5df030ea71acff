"""The kernel's arrays by reference: compiled functions hand on one pointer, not forty arrays.

Compiling calls that carry their arrays one by one takes minutes.
"""

from __future__ import annotations

from typing import Any

from numba import types
from numba.experimental import structref

from gradflow.integrators.steppers.cells.compiled import kernel
from gradflow.integrators.steppers.cells.system import Cell, System, Work


class _Struct(types.StructRef):
    def preprocess_fields(self, fields: Any) -> Any:
        return tuple((name, types.unliteral(kind)) for name, kind in fields)


@structref.register
class _SystemType(_Struct):
    pass


@structref.register
class _CellType(_Struct):
    pass


@structref.register
class _WorkType(_Struct):
    pass


class SystemRef(structref.StructRefProxy):
    """A :class:`~.system.System`."""


class CellRef(structref.StructRefProxy):
    """A :class:`~.system.Cell`."""


class WorkRef(structref.StructRefProxy):
    """A :class:`~.system.Work`."""


structref.define_proxy(SystemRef, _SystemType, list(System._fields))
structref.define_proxy(CellRef, _CellType, list(Cell._fields))
structref.define_proxy(WorkRef, _WorkType, list(Work._fields))


@kernel
def packed_system(system: System) -> System:
    """A system by reference."""
    return SystemRef(  # pyright: ignore[reportReturnType]
        system.X, system.XT, system.N, system.NT,
        system.level, system.size, system.start, system.datum,
        system.piece, system.way, system.slopes, system.icepts,
        system.y, system.logw, system.offset, system.loss,
        system.own, system.gain, system.l2w, system.l2a,
        system.tv, system.clock, system.trained, system.atol,
        system.atol_tau, system.rtol, system.noise, system.hush,
        system.length,
    )  # fmt: skip


@kernel
def packed_cell(cell: Cell) -> Cell:
    """A cell by reference."""
    return CellRef(  # pyright: ignore[reportReturnType]
        cell.S, cell.T, cell.side, cell.fresh,
        cell.Q, cell.rank, cell.held, cell.ray_neuron,
        cell.ray, cell.ray_start, cell.ray_datum, cell.ray_slope,
        cell.act, cell.kept, cell.slack,
    )  # fmt: skip


@kernel
def packed_work(work: Work) -> Work:
    """A work by reference."""
    return WorkRef(  # pyright: ignore[reportReturnType]
        work.Z, work.A, work.M, work.U,
        work.V, work.DW, work.DA, work.f,
        work.r, work.logs,
    )  # fmt: skip


def by_reference(system: System, cell: Cell, work: Work) -> tuple[System, Cell, Work]:
    """Return all three by reference, as compiled functions take them."""
    return packed_system(system), packed_cell(cell), packed_work(work)
