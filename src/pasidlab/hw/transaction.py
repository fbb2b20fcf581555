"""What devices' transactions have in common, whichever IOMMU they meet.

Source: PCI Express Base Specification, address types of requests and status of completions.
"""

from __future__ import annotations

from enum import Enum, StrEnum
from typing import NamedTuple

from pasidlab.hw.pagetable.contract import Rights
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
