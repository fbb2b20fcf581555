"""PCI Express messages that carry PASIDs, as exact bytes: memory accesses, translations, invalidations, page requests.

Usable alone: `parse` reads a TLP, `Tlp.pack` writes one, and the words name every field. The IOMMU models do without
these bytes; they exchange what the bytes mean.
"""

from pasidlab.hw.pcie.headers import (
    AddressType,
    Completion,
    CompletionStatus,
    Cpl,
    CplD,
    Fmt,
    InvalidateCompletion,
    InvalidateRequest,
    Memory32,
    Memory64,
    MemoryRead32,
    MemoryRead64,
    MemoryWrite32,
    MemoryWrite64,
    PageRequest,
    PasidPrefix,
    PrgResponse,
    ResponseCode,
    TranslationRequest32,
    TranslationRequest64,
)
from pasidlab.hw.pcie.payloads import InvalidateRange, TranslationEntry
from pasidlab.hw.pcie.tlp import Tlp, TlpError, parse, stop_marker

__all__ = [
    "AddressType",
    "Completion",
    "CompletionStatus",
    "Cpl",
    "CplD",
    "Fmt",
    "InvalidateCompletion",
    "InvalidateRange",
    "InvalidateRequest",
    "Memory32",
    "Memory64",
    "MemoryRead32",
    "MemoryRead64",
    "MemoryWrite32",
    "MemoryWrite64",
    "PageRequest",
    "PasidPrefix",
    "PrgResponse",
    "ResponseCode",
    "Tlp",
    "TlpError",
    "TranslationEntry",
    "TranslationRequest32",
    "TranslationRequest64",
    "parse",
    "stop_marker",
]
