"""The messages of PCI Express that carry PASIDs, and those of ATS and PRI."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from pasidlab.formats.form import Objection, WordFormat, form_of
from pasidlab.hw.pcie.headers import (
    Completion,
    Header3,
    Header4,
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
from pasidlab.rules import Rule
from pasidlab.words import Word

OTHER_KIND = Rule(
    "pcie.other-kind",
    "PCI Express Base Specification, 2.2",
    "fmt, type, at or message code are those of another kind",
    "the bytes are a TLP of another kind",
    source="PCI Express Base Specification",
)


def _of_kind(name: str, word: type[Header3 | Header4 | PasidPrefix]) -> WordFormat:
    """Return the format of one kind of TLP, which says when a word is of another kind."""
    kind: Mapping[str, int] = word.KIND

    def judge(read: Word) -> Objection | None:
        same = all(getattr(read, field) == value for field, value in kind.items())
        return None if same else Objection(OTHER_KIND, "malformed TLP")

    return replace(form_of(name, word), judge=judge, judged_by="a receiver of such TLPs")


PCIE = (
    _of_kind("pcie.pasid_prefix", PasidPrefix),
    _of_kind("pcie.memory_32", Memory32),
    _of_kind("pcie.memory", Memory64),
    _of_kind("pcie.ats_request_32", TranslationRequest32),
    _of_kind("pcie.ats_request", TranslationRequest64),
    _of_kind("pcie.ats_completion", Completion),
    form_of("pcie.ats_entry", TranslationEntry),
    _of_kind("pcie.invalidate", InvalidateRequest),
    form_of("pcie.invalidate_range", InvalidateRange),
    _of_kind("pcie.invalidate_cpl", InvalidateCompletion),
    _of_kind("pcie.page_request", PageRequest),
    _of_kind("pcie.prg_response", PrgResponse),
)
"""The formats of PCI Express."""
