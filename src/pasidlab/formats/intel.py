"""The words of Intel VT-d, and of the page tables that it walks: those of x86-64, and those of its second stage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from pasidlab.formats.form import Objection, WordFormat, form_of, named_by
from pasidlab.hw.pagetable.paging_entries import (
    LargePageEntry,
    PageEntry,
    PagingTable,
    SecondStageLeaf,
    SecondStageTable,
)
from pasidlab.hw.vtd.descriptors import Descriptor, descriptor_of
from pasidlab.hw.vtd.features import FAULT_RECORDING_OFFSET, IOTLB_OFFSET, Features
from pasidlab.hw.vtd.invalidation import illegal
from pasidlab.hw.vtd.legality import (
    ROOT_NOT_PRESENT,
    Check,
    context_fault,
    directory_fault,
    legacy_context_fault,
    legacy_root_fault,
    pasid_fault,
    reserved_in_pasid_entry,
    root_fault,
)
from pasidlab.hw.vtd.records import FaultRecord, PageRequest
from pasidlab.hw.vtd.registers import REGISTERS, Iotlb, Iva
from pasidlab.hw.vtd.structures import (
    ContextEntry,
    PasidDirectoryEntry,
    PasidEntry,
    RootEntry,
    ScalableContextEntry,
    ScalableRootEntry,
)
from pasidlab.words import Word

W = TypeVar("W", bound=Word)

_FEATURES = Features(snoop_control=True)
_UNIT = (
    f"a unit with {_FEATURES.pasid_bits} PASID bits, {_FEATURES.host_bits}-bit addresses, every translation type and "
    "width, with snoop control and without memory types"
)


# --- table entries -----------------------------------------------------------------------------------------------


def _root_fault(entry: ScalableRootEntry, features: Features) -> Check | None:
    """Return what is wrong with the halves that say anything."""
    halves = [RootEntry(half) for half in entry.words if half]
    found = (root_fault(half, features) for half in halves)
    return next((check for check in found if check is not None), None) if halves else ROOT_NOT_PRESENT


def _pasid_fault(entry: PasidEntry, features: Features) -> Check | None:
    return pasid_fault(entry, features, reserved_in_pasid_entry(features))


def _entry(name: str, word: type[W], fault: Callable[[W, Features], Check | None], summary: str = "") -> WordFormat:
    """Return the format of a table entry, which the default unit judges."""

    def judge(value: Word) -> Objection | None:
        check = fault(word(value), _FEATURES)
        return None if check is None else Objection(check.rule, check.reason.name)

    return replace(form_of(name, word, summary), judge=judge, judged_by=_UNIT, fills=True)


# --- descriptors and records -------------------------------------------------------------------------------------


def _qi_refused(word: Word) -> Objection | None:
    failure = illegal(descriptor_of(word), _FEATURES)
    return None if failure is None else Objection(failure.rule, f"IQE {failure.error.name}")


_QI = WordFormat(
    name="vtd.qi",
    summary="Invalidation descriptor (6.5.2)",
    bits=Descriptor.SIZE,
    read=descriptor_of,
    named=named_by("type"),
    judge=_qi_refused,
    judged_by=_UNIT,
    fills=True,
)

INTEL = (
    _entry("vtd.root", ScalableRootEntry, _root_fault, "Root entry of scalable mode (9.2)"),
    _entry("vtd.context", ScalableContextEntry, context_fault),
    _entry("vtd.pasid_dir", PasidDirectoryEntry, directory_fault, "PASID directory entry (9.5)"),
    _entry("vtd.pasid", PasidEntry, _pasid_fault),
    _entry("vtd.legacy_root", RootEntry, legacy_root_fault),
    _entry("vtd.legacy_context", ContextEntry, legacy_context_fault),
    _QI,
    replace(
        form_of("vtd.fault", FaultRecord, f"Fault record (11.4.7.6), here from {FAULT_RECORDING_OFFSET:#x}"),
        named=named_by("fr"),
    ),
    replace(form_of("vtd.prq", PageRequest), named=named_by("type"), fills=True),
    form_of("vtd.second", SecondStageLeaf, "VT-d second-stage page (9.8)"),
    form_of("vtd.second_table", SecondStageTable, "VT-d second-stage table (9.8)"),
    form_of("x86.pte", PageEntry, "x86-64 page of 4 KiB, first stage of VT-d (9.7)"),
    form_of("x86.large", LargePageEntry, "x86-64 page of 2 MiB or 1 GiB, first stage of VT-d (9.7)"),
    form_of("x86.table", PagingTable, "x86-64 table, first stage of VT-d (9.7)"),
    *(
        form_of(f"vtd.{offset.name.lower()}", word, f"Register {offset.name} at {offset:#x}")
        for offset, word in REGISTERS.items()
    ),
    form_of("vtd.iva", Iva, f"Register IVA, here at {IOTLB_OFFSET:#x}"),
    form_of("vtd.iotlb", Iotlb, f"Register IOTLB, here at {IOTLB_OFFSET + 8:#x}"),
)
"""The formats of VT-d. `vtd.root` and `vtd.context` are those of scalable mode."""
