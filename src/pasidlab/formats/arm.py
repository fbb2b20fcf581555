"""The words of the Arm SMMUv3, and of VMSAv8-64 page tables."""

from __future__ import annotations

from dataclasses import replace

from pasidlab.formats.form import Objection, WordFormat, form_of
from pasidlab.hw.pagetable.descriptors import Stage1Leaf, Stage2Leaf, TableDescriptor
from pasidlab.hw.smmuv3.commands import Command, Opcode, command_of
from pasidlab.hw.smmuv3.features import Features
from pasidlab.hw.smmuv3.legality import cd_fault, ste_fault
from pasidlab.hw.smmuv3.records import Event, EventCode, PriRecord, event_of
from pasidlab.hw.smmuv3.registers import REGISTERS
from pasidlab.hw.smmuv3.structures import Cd, L1Cd, L1Std, Ste
from pasidlab.words import Word

_FEATURES = Features()
_SMMU = (
    f"an SMMU with {_FEATURES.ssid_bits} SubstreamID bits, {_FEATURES.oas_bits}-bit addresses, every granule, "
    "stall and terminate, and no hardware updates of tables"
)


def _ste_refused(word: Word) -> Objection | None:
    rule = ste_fault(Ste(word), _FEATURES)
    return None if rule is None else Objection(rule, EventCode.C_BAD_STE.name)


def _cd_refused(word: Word) -> Objection | None:
    rule = cd_fault(Cd(word), Ste(), _FEATURES)
    return None if rule is None else Objection(rule, EventCode.C_BAD_CD.name)


def _event_name(word: Word) -> str:
    code = word & 0xFF
    return EventCode(code).name if code in set(EventCode) else ""


def _command_name(word: Word) -> str:
    code = word & 0xFF
    return Opcode(code).name if code in set(Opcode) else ""


ARM = (
    replace(form_of("smmuv3.ste", Ste), judge=_ste_refused, judged_by=_SMMU, fills=True),
    replace(form_of("smmuv3.cd", Cd), judge=_cd_refused, judged_by=_SMMU, fills=True),
    form_of("smmuv3.l1std", L1Std),
    form_of("smmuv3.l1cd", L1Cd),
    WordFormat(name="smmuv3.event", summary="Event record (7.3)", bits=Event.SIZE, read=event_of, named=_event_name),
    WordFormat(name="smmuv3.cmd", summary="Command (4)", bits=Command.SIZE, read=command_of, named=_command_name),
    form_of("smmuv3.pri", PriRecord),
    form_of("vmsa.pte", Stage1Leaf, "VMSAv8-64 stage 1 page or block"),
    form_of("vmsa.table", TableDescriptor, "VMSAv8-64 table, stage 1 or 2"),
    form_of("vmsa.stage2", Stage2Leaf, "VMSAv8-64 stage 2 page or block"),
    *(
        form_of(f"smmuv3.{offset.name.lower()}", word, f"Register {offset.name} at {offset:#x}")
        for offset, word in REGISTERS.items()
    ),
)
"""The formats of Arm."""
