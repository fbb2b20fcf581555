"""What a scheme keeps beside what a `State` has: a part of the key of its states.

A user's scheme may have attributes of its own, on itself, on the data of an address space, or on bonds. They are told
apart by their values, where an object of the model is known by its name. Of pasidlab's own, hybrid under a quota counts
pairs that a `State` does not show: one whose driver's handle is gone, and whose bond a normal bind still shares.

Not modelled: what a scheme keeps on its class or in its module, which no snapshot brings back.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterator
from typing import Any

from pasidlab.errors import InputError
from pasidlab.linux.kernel import Kernel
from pasidlab.linux.mm import MmStruct
from pasidlab.linux.structs import Device, IommuDomain, IommuGroup
from pasidlab.linux.sva import IommuMmData, IommuSva
from pasidlab.machine import Machine
from pasidlab.pasid import PasidSpace
from pasidlab.schemes import SCHEMES, Mainline, Scheme
from pasidlab.schemes.hybrid import HybridMmData

_PACKAGE = __name__.partition(".")[0]


class OwnState:
    """Tells states of one machine apart where `State` does not; what is as it was at the start counts as nothing."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        scheme = machine.scheme
        self._is_asked = type(scheme) not in SCHEMES.values() or bool(scheme.options.quota_user)
        self._at_start = self._private() if self._is_asked else b""

    def key(self) -> tuple[tuple[int, ...], bytes] | None:
        """Return the numbers that are held in the global space, and what the scheme keeps; None for nothing ever."""
        if not self._is_asked:
            return None
        private = self._private()
        held = tuple(self._machine.kernel.iommu_global_pasid_ida)
        return held, b"" if private == self._at_start else private

    def _private(self) -> bytes:
        written = io.BytesIO()
        try:
            _Naming(written, pickle.HIGHEST_PROTOCOL).dump(list(self._attributes()))
        except (pickle.PicklingError, TypeError, AttributeError) as error:
            raise InputError(
                f"scheme {type(self._machine.scheme).__name__}: its state cannot be compared: {error}"
            ) from error
        return written.getvalue()

    def _attributes(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield who has attributes of the scheme's own, and which."""
        scheme = self._machine.scheme
        known = vars(Mainline(scheme.options))
        yield "scheme", {name: value for name, value in vars(scheme).items() if name not in known}
        groups = {endpoint.dev.iommu_group: None for endpoint in self._machine.endpoints.values()}
        holders: list[Any] = [mm.iommu_mm for mm in self._machine.kernel.mms]
        holders += [slot for group in groups if group is not None for slot in group.pasid_array.values()]
        for holder in holders:
            own = _own_attributes(holder) if isinstance(holder, (IommuMmData, IommuSva)) else {}
            if isinstance(holder, HybridMmData) and scheme.options.quota_user:
                own["pairs"] = sorted((bond.dev.name, bond.pasid) for bond in holder.local)
            if own:
                yield _name(holder), own


class _Naming(pickle.Pickler):
    """Writes objects of the model as their names."""

    def persistent_id(self, obj: Any) -> object:
        """Return the name of an object of the model; None for anything else."""
        if isinstance(obj, PasidSpace):
            return "numbers", *obj
        return _name(obj) or None


def _name(one: Any) -> str:
    """Return the name of an object of the model, empty for anything else."""
    if isinstance(one, (MmStruct, Device, IommuGroup)):
        return f"{type(one).__name__} {one.name}"
    if isinstance(one, (IommuMmData, IommuDomain)):
        return f"{type(one).__name__} {'' if one.mm is None else one.mm.name}"
    if isinstance(one, IommuSva):
        return f"IommuSva {one.mm.name} {one.dev.name} {one.pasid}"
    return type(one).__name__ if isinstance(one, (Kernel, Scheme)) else ""


def _own_attributes(holder: Any) -> dict[str, Any]:
    """Return the attributes that no class of pasidlab declares."""
    state = holder.__getstate__()
    parts = state if isinstance(state, tuple) else (state,)
    known: set[str] = set()
    for kind in type(holder).__mro__:
        if kind.__module__.partition(".")[0] == _PACKAGE:
            known.update(vars(kind).get("__annotations__", ()))
    return {name: value for part in parts if part for name, value in part.items() if name not in known}
