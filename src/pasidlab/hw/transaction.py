"""What devices' transactions have in common, whichever IOMMU they meet.

Source: PCI Express Base Specification, address types of requests and status of completions.
"""

from __future__ import annotations

from enum import Enum, StrEnum
from typing import NamedTuple, Protocol

from pasidlab.hw.pagetable.contract import Rights, WalkFault
from pasidlab.memory import PAGE_SIZE, Memory
from pasidlab.rules import Rule


class Operation(StrEnum):
    """What a transaction does to memory."""

    READ = "read"
    WRITE = "write"


class Ats(Enum):
    """How a transaction relates to PCIe ATS."""

    UNTRANSLATED = "untranslated"
    TRANSLATION_REQUEST = "translation request"
    TRANSLATED = "translated"


class AtsStatus(Enum):
    """Completion status of an ATS translation request."""

    SUCCESS = "Success"
    UNSUPPORTED_REQUEST = "UR"
    COMPLETER_ABORT = "CA"


class Translated(NamedTuple):
    """The transaction goes on to `address`; the 2**`lg2` bytes around it are translated alike, with `rights`."""

    address: int
    lg2: int
    rights: Rights
    rule: Rule


class Transferred(NamedTuple):
    """A transaction that reached memory: where, and the bytes that were read or written."""

    address: int
    data: bytes


class Addressed(Protocol):
    """What every request of a device has."""

    @property
    def address(self) -> int:
        """Where to."""

    @property
    def ats(self) -> Ats:
        """How it relates to ATS."""


def check_access(request: Addressed, size: int) -> None:
    """Raise ValueError for an access of `size` bytes that no bus carries.

    That is one that crosses a multiple of 4 KiB, or asks for a translation.
    """
    if request.ats is Ats.TRANSLATION_REQUEST or request.address % PAGE_SIZE + size > PAGE_SIZE:
        raise ValueError(f"{request}: {size} bytes are no access within {PAGE_SIZE} bytes")


def move(memory: Memory, address: int, size: int, data: bytes | None) -> Transferred | None:
    """Write `data`, or read `size` bytes (None), at a translated address; None where memory does not answer."""
    if data is not None:
        return Transferred(address, data) if memory.store(address, data) else None
    loaded = memory.load(address, size)
    return None if loaded is None else Transferred(address, loaded)


def place_of(request: Addressed, fault: WalkFault | None) -> dict[str, object]:
    """Return `address`, `stage` and `level` for a rule's sentence: where a walk failed, if that is what ended it."""
    if fault is None:
        return {"address": request.address, "stage": 0, "level": 0}
    return {"address": fault.address, "stage": fault.stage, "level": fault.level}
