"""What VT-d's debugfs says: what each unit is, the mode that it is in, and entries that it would refuse.

Source: Intel VT-d 4.1, 9.1 to 9.6, by the checks of `hw.vtd.legality`, which carry the fault reasons.

Decided here: an entry is held against the unit's CAP and ECAP where `iommu_regset` is given too; without, the unit is
taken for one that has everything, so that only what no unit takes is found. Addresses are held against 52 bits, since
no register tells the host's. Bits 8:5 of a scalable context entry, which units after 4.1 use, are not held against it.
A root entry is told of once a half, a context entry once a function.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from pasidlab.hw.vtd.features import Features
from pasidlab.hw.vtd.legality import (
    PASID_BEYOND,
    Check,
    context_fault,
    legacy_context_fault,
    legacy_root_fault,
    pasid_fault,
    reserved_in_pasid_entry,
    root_fault,
)
from pasidlab.hw.vtd.registers import Cap, Ecap, Ttm
from pasidlab.hw.vtd.structures import (
    PASID_TABLE_BITS,
    SMALLEST_DIRECTORY,
    ContextEntry,
    PasidEntry,
    RootEntry,
    ScalableContextEntry,
)
from pasidlab.platforms.debugfs.vtd import Row, UnitRegisters, UnitTables, VtdRegisters, VtdTables
from pasidlab.platforms.origins import inside
from pasidlab.platforms.registers_say import cap_says, ecap_says
from pasidlab.platforms.said import Iommu, Said
from pasidlab.rules import Finding, Level, Rule
from pasidlab.words import Word

MOST_REFUSED = 200
"""How many entries that a unit refuses are told of, a unit."""
MEMORY_TYPES = PasidEntry.mask("cd", "emte", "emt", "pwt", "pcd", "pat")
"""Fields that are reserved only in a unit without ECAP.MTS."""
NEWER_CONTEXT_BITS = 0x1E0
"""Bits of a scalable context entry that 4.1 reserves, and later revisions use."""
_UPPER = 128
"""Device and function from which on the upper half of a scalable root entry counts."""
READ = "drivers/iommu/intel/debugfs.c"

REFUSED = Rule(
    "vtd-debugfs.refused",
    f"dmar_translation_struct ({READ})",
    "an entry fails a check of chapter 9",
    "{file}, line {line}: {why} ({device}, {what} {raw}{bits}): {unit} answers with fault reason {reason:#x}",
    source="Intel VT-d 4.1, 7.1.3, 9.1 to 9.6",
    remedy="what wrote this is at fault, driver, hypervisor or memory: report it with this dump",
    level=Level.ERROR,
)
TRANSLATION_OFF = Rule(
    "vtd-debugfs.translation-off",
    f"dmar_translation_struct, iommu_regset ({READ})",
    "!(GSTS & TES)",
    "{file}, line {line}: {unit} does not translate: no device behind it has PASIDs",
    source="Intel VT-d 4.1, 11.4.4.2",
    remedy="boot with intel_iommu=on, and without iommu=off or intel_iommu=igfx_off",
    level=Level.ERROR,
)
LEGACY_MODE = Rule(
    "vtd-debugfs.legacy-mode",
    f"dmar_translation_struct, iommu_regset ({READ})",
    "RTADDR.TTM == 00",
    "{file}, line {line}: {unit} translates in legacy mode, in which every request with a PASID is blocked",
    source="Intel VT-d 4.1, 11.4.5",
    remedy="if the unit has scalable mode, boot with intel_iommu=on,sm_on",
    level=Level.ERROR,
)


def vtd_registers_say(registers: VtdRegisters) -> Said:
    """Return what `iommu_regset` says of a machine."""
    said = Said(registers.file, remarks=list(registers.remarks))
    for unit in registers.units:
        origin = f"{registers.file}, line {unit.line}"
        iommu = Iommu(unit.name, "intel-vtd", origin, unit.base)
        said.iommus.append(iommu)
        facts = {"file": registers.file, "line": unit.line, "unit": unit.name}
        if unit.gsts is not None and not unit.gsts.tes:
            said.found([TRANSLATION_OFF.finding(**facts)])
        elif unit.rtaddr is not None and unit.rtaddr.ttm is Ttm.LEGACY:
            said.found([LEGACY_MODE.finding(**facts)])
            iommu.say("scalable", False, f"{origin}, RTADDR {int(unit.rtaddr):#x}, bits 11:10 (TTM)")
        if unit.cap is not None:
            cap_says(iommu, unit.cap, inside(f"{origin}, CAP {unit.cap:#x}"))
        if unit.ecap is not None:
            ecap_says(iommu, unit.ecap, inside(f"{origin}, ECAP {unit.ecap:#x}"))
    return said


def vtd_tables_say(tables: VtdTables, registers: VtdRegisters | None = None) -> Said:
    """Return what `dmar_translation_struct` says of a machine; `registers` of the same machine make it stricter."""
    said = Said(tables.file, remarks=list(tables.remarks))
    for unit in tables.units:
        known = None if registers is None else registers.unit(unit.name)
        place = f"{tables.file}, line {unit.line}"
        iommu = Iommu(unit.name, "intel-vtd", place, None if known is None else known.base)
        said.iommus.append(iommu)
        facts = {"file": tables.file, "line": unit.line, "unit": unit.name}
        if unit.root_table is None:
            said.found([TRANSLATION_OFF.finding(**facts)])
        if unit.legacy:
            said.found([LEGACY_MODE.finding(**facts)])
            iommu.say("scalable", False, f"{place}: entries of legacy mode")
        said.remarks += _in_use(unit)
        _judge(said, tables.file, unit, known)
    return said


def _in_use(unit: UnitTables) -> list[str]:
    """Tell how many PASIDs have an entry."""
    pasids = {row.pasid for row in unit.rows if row.pasid}
    if not pasids:
        return []
    devices = len({row.source for row in unit.rows if row.pasid})
    return [
        f"{unit.name}: PASIDs with an entry: {len(pasids)}, the largest {max(pasids)}; devices with such: {devices}"
    ]


# --- what a unit would refuse --------------------------------------------------------------------------------------


def features_of(cap: Cap | None, ecap: Ecap | None) -> Features:
    """Return the features that registers tell; what no register tells is there."""
    cap = Features(snoop_control=True).cap() if cap is None else cap
    ecap = Features(snoop_control=True).ecap() if ecap is None else ecap
    return Features(
        pasid_bits=min(ecap.pss + 1, 20) if ecap.pasid else 0,
        scalable=ecap.smts,
        first_stage=ecap.fsts,
        second_stage=ecap.ssts,
        nested=ecap.nest,
        pass_through=ecap.pt,
        five_level=cap.fs5lp,
        second_levels=frozenset(levels for levels in (3, 4, 5) if cap.sagaw >> levels - 2 & 1),
        device_tlb=ecap.dt,
        page_requests=ecap.prs and ecap.dt,
        execute_requests=ecap.ers,
        supervisor_requests=ecap.srs,
        extended_accessed=ecap.eafs,
        second_ad=ecap.ssads,
        coherent=ecap.smpwcs,
        snoop_control=ecap.sc,
    )


def _judge(said: Said, file: str, unit: UnitTables, known: UnitRegisters | None) -> None:
    """Find the entries that a unit would refuse."""
    judge = Judge(unit.name, *((None, None) if known is None else (known.cap, known.ecap)))
    count = 0
    for finding in judge.findings(file, unit.rows):
        count += 1
        if count <= MOST_REFUSED:
            said.findings.append(finding)
    if count > MOST_REFUSED:
        said.remarks.append(f"{file}: {unit.name} would refuse {count - MOST_REFUSED} more entries")


class Judged(NamedTuple):
    """An entry: what it is and whose, its value, the reserved bits in it, and the check that it fails."""

    what: str
    owner: int
    word: Word
    reserved: int
    check: Check | None
    pasid: int | None = None


@dataclass(slots=True)
class Judge:
    """What a unit makes of entries; registers that are None are those of a unit that has everything."""

    name: str
    cap: Cap | None = None
    ecap: Ecap | None = None
    features: Features = field(init=False)
    reserved: int = field(init=False)

    def __post_init__(self) -> None:
        self.features = features_of(self.cap, self.ecap)
        self.reserved = reserved_in_pasid_entry(self.features)
        if self.ecap is None or self.ecap.mts:
            self.reserved &= ~MEMORY_TYPES

    def findings(self, file: str, rows: list[Row]) -> Iterator[Finding]:
        """Yield what is wrong with entries, each told of once."""
        seen: set[tuple[str, int, int | None]] = set()
        for row in rows:
            for one in self.judged(row):
                key = (one.what, one.owner, one.pasid)
                if one.check is not None and key not in seen:
                    seen.add(key)
                    yield self.finding(file, row, one, one.check)

    def finding(self, file: str, row: Row, one: Judged, check: Check) -> Finding:
        """Return the finding of an entry that fails a check."""
        pasid = "" if row.pasid is None else f"PASID {row.pasid}"
        why = check.rule.sentence({"source": row.source, "entry": pasid})
        bits = f", reserved bits {one.reserved:#x}" if one.reserved else ""
        facts = {"why": why, "what": one.what, "raw": f"{int(one.word):#x}", "bits": bits, "reason": int(check.reason)}
        return REFUSED.finding(file=file, line=row.line, unit=self.name, device=row.name, **facts)

    def judged(self, row: Row) -> Iterator[Judged]:
        """Yield each entry of a line with the check that it fails."""
        if isinstance(row.context, ContextEntry):
            root, context = RootEntry(row.root), row.context
            yield Judged("root entry", row.source >> 8, root, root.reserved, legacy_root_fault(root, self.features))
            check = legacy_context_fault(context, self.features)
            yield Judged("context entry", row.source, context, context.reserved, check)
            return
        upper = row.source & 0xFF >= _UPPER
        half = RootEntry(row.root.words[1 if upper else 0])
        what = f"{'upper' if upper else 'lower'} half of the root entry"
        yield Judged(what, row.source >> 8, half, half.reserved, root_fault(half, self.features))
        scalable = ScalableContextEntry(row.context & ~NEWER_CONTEXT_BITS)
        check = context_fault(scalable, self.features)
        yield Judged("context entry", row.source, row.context, scalable.reserved, check)
        if row.entry is not None and row.pasid is not None:
            yield self.pasid_entry(row.source, scalable, row.pasid, row.entry)

    def pasid_entry(self, source: int, context: ScalableContextEntry, pasid: int, entry: PasidEntry) -> Judged:
        """Judge a PASID and its entry."""
        beyond = self.beyond(context, pasid)
        check = PASID_BEYOND if beyond else pasid_fault(entry, self.features, self.reserved)
        return Judged("PASID entry", source, entry, entry & self.reserved, check, pasid)

    def beyond(self, context: ScalableContextEntry, pasid: int) -> bool:
        """Whether a PASID is wider than the directory, or than the unit's PASIDs, and not that of requests without."""
        bits = min(context.pdts + SMALLEST_DIRECTORY + PASID_TABLE_BITS, self.features.pasid_bits)
        return bool(pasid >> bits) and pasid != context.rid_pasid
