"""What SMMUv3's debugfs says: the SMMU as far as its registers are shown, and what each stream has of substreams.

Source: IHI 0070 G.b, 5.2 and 6.3, by the checks of `hw.smmuv3.legality`; arm_smmu_make_cdtable_ste() and
arm_smmu_make_bypass_ste() (arm-smmu-v3.c), Linux 6.12.

Decided here: an entry is held against the ID registers where they are shown; without, the SMMU is taken for one that
has everything, so that only what no SMMU takes is found. Only entries of which all eight words are shown are judged.
Which device a stream is of is not told by these files. That the capabilities name a size of the stream table tells
StreamID bits, whatever IDR1 says.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from pasidlab.hw.smmuv3.features import GRANULES, Features
from pasidlab.hw.smmuv3.legality import STE_EATS_SPLIT, STE_INVALID, ste_fault
from pasidlab.hw.smmuv3.registers import Cr0, StallModel
from pasidlab.hw.smmuv3.structures import OAS_BITS, Config
from pasidlab.platforms.debugfs.smmu import STE_WORDS, SmmuDump, Stream
from pasidlab.platforms.origins import Where, inside
from pasidlab.platforms.registers_say import idr0_says, idr1_says, idr5_says
from pasidlab.platforms.said import MOST_PASID_BITS, Iommu, Said
from pasidlab.rules import Finding, Level, Rule

MOST_FINDINGS = 200
"""How many findings about streams are kept, an SMMU."""
_BASE = re.compile(r"0x([0-9a-fA-F]{1,16})$")
FILE = "stream_table/<sid>/ste (drivers/iommu/arm/arm-smmu-v3/arm-smmu-v3-debugfs.c)"

REFUSED = Rule(
    "smmu-debugfs.refused",
    FILE,
    "an STE fails a check of 5.2",
    "{place}: {why}: the SMMU answers C_BAD_STE (rule {rule})",
    source="IHI 0070 G.b, 5.2",
    remedy="what wrote this is at fault, driver, hypervisor or memory: report it with this dump",
    level=Level.ERROR,
)
BYPASS = Rule(
    "smmu-debugfs.bypass",
    FILE,
    "STE.Config == 100",
    "{place}: stream {sid:#x} bypasses the SMMU: it has no CD table, and no PASID goes anywhere",
    source="IHI 0070 G.b, 5.2 Config",
    remedy="boot without iommu.passthrough=1, or attach a PASID: newer kernels then make a CD table with S1DSS bypass",
    level=Level.NOTE,
)
NO_SUBSTREAMS = Rule(
    "smmu-debugfs.no-substreams",
    FILE,
    "stage 1, STE.S1CDMax == 0",
    "{place}: stream {sid:#x} has a single CD (S1CDMax 0): requests with a PASID are refused",
    source="IHI 0070 G.b, 5.2 S1CDMax",
    remedy="the device has no PASIDs by firmware or capability, or pci_enable_pasid() failed",
    level=Level.NOTE,
)
OFF = Rule(
    "smmu-debugfs.off",
    "registers (drivers/iommu/arm/arm-smmu-v3/arm-smmu-v3-debugfs.c)",
    "!(CR0 & SMMUEN)",
    "{place}: the SMMU is off (CR0 {cr0:#x}): no device behind it has PASIDs",
    source="IHI 0070 G.b, 6.3.9",
    remedy="look into the kernel's log why the driver did not come up, or why it is bypassed",
    level=Level.ERROR,
)


def smmu_dump_says(dump: SmmuDump, name: str = "") -> Said:
    """Return what dumps of one SMMU say of a machine; `name` as the kernel calls it, empty where nothing says it."""
    said = Said(dump.file, remarks=list(dump.remarks))
    if name:
        said.iommus.append(_iommu(dump, name))
    elif dump.registers or dump.capabilities:
        said.nameless = _iommu(dump, "")
    cr0 = dump.registers.get("CR0")
    if isinstance(cr0, Cr0) and not cr0.smmuen:
        said.found([OFF.finding(place=dump.places["CR0"], cr0=int(cr0))])
    found = list(_stream_findings(dump))
    said.found(found[:MOST_FINDINGS])
    if len(found) > MOST_FINDINGS:
        said.remarks.append(f"{dump.file}: {len(found) - MOST_FINDINGS} more findings about streams")
    said.remarks += _about_streams(dump)
    return said


def _iommu(dump: SmmuDump, name: str) -> Iommu:
    base = _BASE.search(name)
    iommu = Iommu(name, "arm-smmu-v3", dump.file, int(base[1], 16) if base else None)
    _capabilities(iommu, dump)
    if dump.idr0 is not None:
        idr0_says(iommu, dump.idr0, _where(dump, "IDR0", dump.idr0))
    if dump.idr1 is not None:
        idr1_says(iommu, dump.idr1, _where(dump, "IDR1", dump.idr1))
    if dump.idr5 is not None:
        idr5_says(iommu, dump.idr5, _where(dump, "IDR5", dump.idr5))
    return iommu


def _where(dump: SmmuDump, name: str, value: int) -> Where:
    return inside(f"{dump.places[name]}, {name} {value:#x}")


def _capabilities(iommu: Iommu, dump: SmmuDump) -> None:
    """Say what the capabilities tell; the kernel's own view of what hardware has."""

    def origin(name: str) -> str:
        return f"{dump.places[name]}, {name}"

    ats, pri = (dump.capabilities.get(f"{name} Support") for name in ("ATS", "PRI"))
    if ats is not None:
        iommu.say("ats", bool(ats), origin("ATS Support"))
    if pri is not None:
        iommu.say("pri", bool(ats) and bool(pri), origin("PRI Support"))
    size = dump.capabilities.get("Stream Table Size")
    if size:
        iommu.say("sid_bits", min(int(size).bit_length() - 1, 24), origin("Stream Table Size"))
    for name in ("Stage1 Translation", "Coherent Walk"):
        if dump.capabilities.get(name) is False:
            iommu.say("sva", False, origin(name))


# --- streams -------------------------------------------------------------------------------------------------------


def features_of(dump: SmmuDump) -> Features:
    """Return the features that ID registers tell; what none tells is there."""
    idr0, idr1, idr3, idr5 = dump.idr0, dump.idr1, dump.idr3, dump.idr5
    most = Features(oas_bits=52, vax=1, httu=2, hyp=True, stt=True, ats=True).idr0()
    idr0 = most if idr0 is None else idr0
    stall = StallModel.STALL_AND_TERMINATE if idr0.stall_model is StallModel.RESERVED_3 else idr0.stall_model
    granules = GRANULES if idr5 is None else _granules(idr5.gran4k, idr5.gran16k, idr5.gran64k)
    return Features(
        ssid_bits=MOST_PASID_BITS if idr1 is None else min(idr1.ssidsize, MOST_PASID_BITS),
        two_level_cds=idr0.cd2l,
        stage1=idr0.s1p,
        stage2=idr0.s2p,
        stall_model=stall,
        oas_bits=52 if idr5 is None else OAS_BITS[idr5.oas],
        granules=granules,
        ats=idr0.ats,
        httu=min(idr0.httu, 2),
        vmid16=idr0.vmid16,
        hyp=idr0.hyp,
        stt=True if idr3 is None else idr3.stt,
    )


def _granules(*there: bool) -> frozenset[int]:
    return frozenset(size for size, has in zip((12, 14, 16), there, strict=True) if has) or GRANULES


def _stream_findings(dump: SmmuDump) -> Iterator[Finding]:
    features = features_of(dump)
    split = dump.idr0 is None or not dump.idr0.ns1ats
    for stream in dump.streams:
        if stream.words == STE_WORDS:
            yield from _findings(stream, features, split)


def _findings(stream: Stream, features: Features, split: bool) -> Iterator[Finding]:
    """Yield what an entry means; one that is not valid is a stream that nobody uses. `split`: it may split ATS."""
    ste = stream.ste
    rule = ste_fault(ste, features)
    if rule is not None and rule is not STE_INVALID and not (split and rule is STE_EATS_SPLIT):
        why = rule.sentence({"sid": stream.sid})
        yield REFUSED.finding(place=stream.place, why=why, rule=rule.id)
    elif ste.v and ste.config is Config.BYPASS:
        yield BYPASS.finding(place=stream.place, sid=stream.sid)
    elif ste.v and ste.config in (Config.STAGE_1, Config.NESTED) and not ste.s1cdmax:
        yield NO_SUBSTREAMS.finding(place=stream.place, sid=stream.sid)


def _about_streams(dump: SmmuDump) -> list[str]:
    """Tell what the entries have of substreams."""
    remarks = []
    short = sum(stream.words < STE_WORDS for stream in dump.streams)
    if short:
        remarks.append(
            f"{dump.file}: {short} of {len(dump.streams)} entries not judged, since not all eight words are shown"
        )
    widths = {stream.sid: stream.ste.s1cdmax for stream in dump.streams if stream.ste.v and stream.ste.s1cdmax}
    if widths:
        least, most = min(widths.values()), max(widths.values())
        shown = f"{least}" if least == most else f"{least} to {most}"
        remarks.append(f"{dump.file}: {len(widths)} streams have substreams, of {shown} bits (S1CDMax)")
    return remarks
