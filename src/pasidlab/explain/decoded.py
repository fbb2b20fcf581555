"""Numbers in lines of a log, taken apart with the words of the specifications.

Source: the lines that drivers/iommu/intel/dmar.c, prq.c, drivers/iommu/arm/arm-smmu-v3, drivers/iommu/amd/iommu.c and
drivers/dma/idxd/irq.c print (6.12 and 7.3, read); the words are those of `pasidlab.hw` and `pasidlab.devices.idxd`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from pasidlab.devices.idxd.descriptors import FAULT_ON_WRITE, Opcode, status_name
from pasidlab.devices.idxd.portals import error_name
from pasidlab.devices.idxd.registers import Swerr
from pasidlab.hw.requester import rid_text
from pasidlab.hw.smmuv3.records import EVENTS, Event, EventCode, event_of
from pasidlab.hw.vtd import legality
from pasidlab.hw.vtd.reasons import LEGACY, STAGES
from pasidlab.hw.vtd.records import PageRequest, Reason
from pasidlab.hw.vtd.registers import Cap, Ecap
from pasidlab.rules import RULES

_CHECKS = [check for check in vars(legality).values() if isinstance(check, legality.Check)]
_WORD = re.compile(r"0x[0-9a-fA-F]+")
_FIVE_LEVELS, _FOUR_LEVELS = 5, 4


def rules_of_reason(code: int) -> tuple[str, ...]:
    """Return the rules whose failure VT-d records with a fault reason."""
    checks = [check.rule.id for check in _CHECKS if check.reason == code]
    stages = [rule.id for table in (STAGES, LEGACY) for rule, reason in table.items() if reason == code]
    return tuple(dict.fromkeys(checks + stages))


def reason_text(code: int) -> str:
    """Say what a fault reason means: its name, and the check that it stands for."""
    if code not in Reason._value2member_map_:
        return f"fault reason {code:#04x}: reserved"
    name = Reason(code).name.lower().replace("_", " ")
    rules = rules_of_reason(code)
    checks = f": {RULES[rules[0]].check}" if rules else ""
    return f"fault reason {code:#04x}, {name}{checks}"


def pasid_text(pasid: int | None) -> str:
    """Say under which PASID an access came."""
    return "without PASID" if pasid is None else f"under PASID {pasid}"


def dmar_fault(found: re.Match[str]) -> Iterator[str]:
    """Take a DMAR fault line apart, in the form of kernels before and after 5.15."""
    groups = found.groupdict()
    text = groups["pasid"] or groups["old_pasid"]
    pasid = None if text is None or int(text, 16) == 0xFFFF_FFFF else int(text, 16)
    yield f"{groups['kind']} by {groups['device']} {pasid_text(pasid)} at {int(groups['addr'], 16):#x}"
    yield reason_text(int(groups["reason"], 16))


def dmar_rules(found: re.Match[str]) -> tuple[str, ...]:
    """Return the rules of the fault reason in a DMAR line."""
    return rules_of_reason(int(found["reason"], 16))


def page_request(found: re.Match[str]) -> Iterator[str]:
    """Take the two quadwords of an invalid page request apart."""
    request = PageRequest.from_words(int(found["low"], 16), int(found["high"], 16))
    wanted = [name for name, bit in (("read", request.rd), ("write", request.wr), ("execute", request.exe)) if bit]
    pasid = request.pasid if request.pp else None
    last = "the last of its group" if request.lpig else "not the last of its group"
    what = f"asks {pasid_text(pasid)} for {request.addr:#x} to {' and '.join(wanted) or 'nothing'}"
    yield f"{rid_text(request.rid)} {what}, group {request.prgi}, {last}"


def unit(found: re.Match[str]) -> Iterator[str]:
    """Say what the capability registers of a remapping unit mean for PASIDs."""
    cap, ecap = Cap(int(found["cap"], 16)), Ecap(int(found["ecap"], 16))
    pasids = f"PASIDs of {ecap.pss + 1} bits (PSS)" if ecap.pasid else f"no PASIDs (ECAP bit 40 is 0, PSS {ecap.pss})"
    yield f"{found['unit']}: scalable mode {_has(ecap.smts)}, {pasids}, page requests {_has(ecap.prs)} (PRS)"
    levels = _FIVE_LEVELS if cap.fs5lp else _FOUR_LEVELS
    yield (
        f"{found['unit']}: first stage {_has(ecap.fsts)}, of up to {levels} levels, 1 GiB pages {_has(cap.fs1gp)},"
        f" page-walk snoop {_has(ecap.smpwcs)}, device TLBs {_has(ecap.dt)}"
    )


def unit_rules(found: re.Match[str]) -> tuple[str, ...]:
    """Return what keeps a unit from SVA, in the order of intel_svm_check()."""
    cap, ecap = Cap(int(found["cap"], 16)), Ecap(int(found["ecap"], 16))
    checks = (
        (ecap.smts and ecap.pasid, "intel.svm-no-pasid"),
        (ecap.smpwcs, "intel.svm-not-coherent"),
        (cap.fs1gp, "intel.svm-no-1g-pages"),
        (cap.fs5lp, "intel.svm-no-5-level"),
    )
    return tuple(rule for capable, rule in checks if not capable)


def _has(bit: bool) -> str:
    return "yes" if bit else "no"


def smmu_raw(found: re.Match[str]) -> Iterator[str]:
    """Take the four words of an event record apart."""
    words = [int(word, 16) for word in _WORD.findall(found["words"] or "")]
    if not words:
        yield event_name(int(found["code"], 16))
        return
    event = event_of(sum(word << 64 * index for index, word in enumerate(words)))
    shown = (f"{value.field.name} {value.meaning or hex(value.value)}" for value in event.values() if value.value)
    yield f"{event_name(event.code)}: stream {event.sid:#x}, {pasid_text(event.ssid if event.ssv else None)}"
    yield ", ".join(shown)


def event_name(code: int) -> str:
    """Name an SMMU's event and say what it means."""
    name = Event.FIELDS["code"].names.get(code, f"event {code:#04x}")
    kind = EVENTS.get(code)
    meaning = (kind.__doc__ or "").split("\n")[0].rstrip(".") if kind else ""
    return f"{name} ({meaning.lower()})" if meaning else name


_EVENT_RULES = {
    EventCode.C_BAD_STREAMID: ("smmu.sid-range", "smmu.l1std-span"),
    EventCode.C_BAD_STE: ("smmu.ste-invalid",),
    EventCode.F_STREAM_DISABLED: ("smmu.s1dss-terminate", "smmu.s1dss-ssid0"),
    EventCode.C_BAD_SUBSTREAMID: ("smmu.ssid-range", "smmu.ssid-without-table", "smmu.ssid-without-stage-1"),
    EventCode.C_BAD_CD: ("smmu.cd-invalid", "smmu.l1cd-invalid"),
    EventCode.F_TRANSLATION: ("vmsa.epd", "vmsa.invalid", "vmsa.range"),
    EventCode.F_ADDR_SIZE: ("vmsa.output-size",),
    EventCode.F_ACCESS: ("vmsa.access-flag",),
    EventCode.F_PERMISSION: ("vmsa.ap-read-only", "vmsa.ap-user", "vmsa.uxn"),
    EventCode.F_TRANSL_FORBIDDEN: ("smmu.translated-forbidden",),
    EventCode.F_BAD_ATS_TREQ: ("smmu.ats-disabled", "smmu.ats-absent"),
}


def smmu_rules(found: re.Match[str]) -> tuple[str, ...]:
    """Return what an SMMU's event can stand for."""
    groups = found.groupdict()
    code = int(groups["code"], 16) if groups.get("code") else _code_of(groups["name"])
    return _EVENT_RULES.get(EventCode(code), ()) if code in EventCode._value2member_map_ else ()


def _code_of(name: str) -> int:
    return EventCode[name].value if name in EventCode.__members__ else 0


def smmu_named(found: re.Match[str]) -> Iterator[str]:
    """Take the line apart that names an SMMU's event, as kernels since 6.14 print it."""
    ssid = int(found["ssid"], 16)
    where = f"stream {int(found['sid'], 16):#x} ({found['client'].strip()})"
    yield f"{event_name(_code_of(found['name']))}: {where}, {pasid_text(ssid or None)}"


def smmu_pri(found: re.Match[str]) -> Iterator[str]:
    """Take a page request apart that the SMMU's driver denies."""
    ssid = int(found["ssid"], 16)
    yield f"stream {int(found['sid'], 16):#x} asks {pasid_text(ssid or None)} for {int(found['iova'], 16):#x}"


_AMD_FLAGS = ("GN", "NX", "US", "I", "PR", "RW", "PE", "RZ", "TR")


def amd_event(found: re.Match[str]) -> Iterator[str]:
    """Take an event of AMD's IOMMU apart; the flags of a page fault are bits 59:48 of its entry."""
    groups = found.groupdict()
    pasid = int(groups["pasid"], 16) if groups["pasid"] else 0
    device = groups["device"] or "a device"
    yield f"{found['name']}: {device} {pasid_text(pasid or None)} at {int(groups['addr'], 16):#x}"
    flags = int(groups["flags"] or "0", 16)
    named = [name for bit, name in enumerate(_AMD_FLAGS) if flags >> bit & 1]
    if named and found["name"] == "IO_PAGE_FAULT":
        yield f"flags {flags:#06x}: {', '.join(named)}"


def swerr(found: re.Match[str]) -> Iterator[str]:
    """Take the software error register of a DSA or IAA apart."""
    words = [int(word, 16) for word in _WORD.findall(found["words"] or "")]
    error = Swerr.from_words(int(found["first"], 16), *words[:3])
    wq = f" of queue {error.wq_idx}" if error.wq_idx_valid else ""
    name = Opcode(error.operation).name.lower() if error.operation in Opcode._value2member_map_ else "descriptor"
    what = f"{name}{wq}" if error.desc_valid else f"a write{wq}"
    place = f" at {error.fault_addr:#x}" if error.fault_addr else ""
    yield f"{what}: error {error.error:#04x} ({error_name(error.error)}){place}, {pasid_text(error.pasid or None)}"


def completion(found: re.Match[str]) -> Iterator[str]:
    """Name the status of a completion record, whose bit 7 tells that the page fault was one of a write."""
    text = found["status"]
    status = int(text, 16 if text.lower().startswith("0x") else 10)
    write = ", of a write" if status & FAULT_ON_WRITE else ""
    yield f"status {status:#04x}: {status_name(status)}{write}"
