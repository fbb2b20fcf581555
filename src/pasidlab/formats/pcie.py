"""The messages of PCI Express that carry PASIDs, and those of ATS and PRI."""

from __future__ import annotations

from pasidlab.formats.form import form_of
from pasidlab.hw.pcie.headers import (
    Completion,
    InvalidateCompletion,
    InvalidateRequest,
    Memory32,
    Memory64,
    PageRequest,
    PasidPrefix,
    PrgResponse,
    TranslationRequest32,
    TranslationRequest64,
)
from pasidlab.hw.pcie.payloads import InvalidateRange, TranslationEntry

PCIE = (
    form_of("pcie.pasid_prefix", PasidPrefix),
    form_of("pcie.memory_32", Memory32),
    form_of("pcie.memory", Memory64),
    form_of("pcie.ats_request_32", TranslationRequest32),
    form_of("pcie.ats_request", TranslationRequest64),
    form_of("pcie.ats_completion", Completion),
    form_of("pcie.ats_entry", TranslationEntry),
    form_of("pcie.invalidate", InvalidateRequest),
    form_of("pcie.invalidate_range", InvalidateRange),
    form_of("pcie.invalidate_cpl", InvalidateCompletion),
    form_of("pcie.page_request", PageRequest),
    form_of("pcie.prg_response", PrgResponse),
)
"""The formats of PCI Express."""
