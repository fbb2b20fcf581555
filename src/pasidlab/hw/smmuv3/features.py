"""What an SMMU implementation can do, and how its ID registers IDR0 to IDR5 say it.

Source: IHI 0070 G.b, 6.3.1 to 6.3.6.
Not checked: combinations that the architecture demands (two-level stream tables from 7 StreamID bits on, both stages
for EL2), so that a machine can be described that lacks what a driver may take for granted.
Not modelled, and always read as absent: AArch32 tables (so that IDR0.TTF is fixed), access flags of tables (HTTU 3),
big-endian tables, split-stage ATS, ATOS, MPAM, DPT, ECMDQ, preset tables and queues, VMID wildcards, 128-bit
descriptors.
"""

from __future__ import annotations

from dataclasses import dataclass

from pasidlab.hw.features import Values, check_values
from pasidlab.hw.smmuv3.registers import Idr0, Idr1, Idr2, Idr3, Idr4, Idr5, StallModel, StLevel, TtEndian, Ttf
from pasidlab.hw.smmuv3.structures import OAS_BITS

__all__ = ["GRANULES", "Features", "StallModel"]

GRANULES = frozenset({12, 14, 16})
"""log2 of the translation granules that there are."""
LARGEST_QUEUE = 19
"""log2 of the entries of the largest queue that an index register has bits for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """The features of one SMMU; building raises ValueError for a value that no ID register can say.

    Attributes:
        ssid_bits: SubstreamID bits, 0 for none (IDR1.SSIDSIZE).
        sid_bits: StreamID bits (IDR1.SIDSIZE).
        two_level_streams: two-level stream tables (IDR0.ST_LEVEL).
        two_level_cds: two-level CD tables (IDR0.CD2L).
        stage1: stage 1 translation (IDR0.S1P).
        stage2: stage 2 translation (IDR0.S2P).
        stall_model: whether faulting transactions can, cannot or must stall (IDR0.STALL_MODEL).
        term_model: terminated transactions always abort (IDR0.TERM_MODEL).
        oas_bits: physical address bits (IDR5.OAS).
        vax: 0 for virtual addresses of 48 bits, 1 for 52 (IDR5.VAX).
        granules: log2 of each translation granule (IDR5.GRAN4K, GRAN16K, GRAN64K).
        ats: PCIe ATS (IDR0.ATS).
        pri: PCIe page requests; needs ATS (IDR0.PRI).
        httu: 0 no hardware updates of tables, 1 access flag, 2 also dirty state (IDR0.HTTU).
        asid16: ASIDs of 16 bits, else 8 (IDR0.ASID16).
        vmid16: VMIDs of 16 bits, else 8 (IDR0.VMID16).
        coherent: coherent access to tables and queues (IDR0.COHACC).
        btm: takes part in broadcast TLB maintenance (IDR0.BTM).
        msi: interrupts can be memory writes (IDR0.MSI).
        sev: SYNC can wake CPUs (IDR0.SEV).
        hyp: EL2 and EL2-E2H stage 1 (IDR0.Hyp, CR2.E2H).
        range_invalidation: TLB invalidation by range (IDR3.RIL).
        pps: automatic page responses carry the PASID whatever the STE says (IDR3.PPS).
        bbml: break-before-make level, 0 to 2 (IDR3.BBML).
        stt: small translation tables (IDR3.STT).
        attr_types_ovr: memory types can be overridden (IDR1.ATTR_TYPES_OVR).
        attr_perms_ovr: privilege and instruction can be overridden (IDR1.ATTR_PERMS_OVR).
        cmdq_bits: log2 of the largest command queue (IDR1.CMDQS).
        eventq_bits: log2 of the largest event queue (IDR1.EVENTQS).
        priq_bits: log2 of the largest PRI queue (IDR1.PRIQS).
        stall_max: most stalled transactions (IDR5.STALL_MAX).
    """

    ssid_bits: int = 20
    sid_bits: int = 16
    two_level_streams: bool = True
    two_level_cds: bool = True
    stage1: bool = True
    stage2: bool = True
    stall_model: StallModel = StallModel.STALL_AND_TERMINATE
    term_model: bool = False
    oas_bits: int = 48
    vax: int = 0
    granules: frozenset[int] = GRANULES
    ats: bool = False
    pri: bool = False
    httu: int = 0
    asid16: bool = True
    vmid16: bool = True
    coherent: bool = True
    btm: bool = False
    msi: bool = True
    sev: bool = False
    hyp: bool = False
    range_invalidation: bool = True
    pps: bool = False
    bbml: int = 0
    stt: bool = False
    attr_types_ovr: bool = False
    attr_perms_ovr: bool = False
    cmdq_bits: int = 8
    eventq_bits: int = 8
    priq_bits: int = 8
    stall_max: int = 64

    def __post_init__(self) -> None:
        check_values(self, _ALLOWED)
        if not self.granules or self.granules - GRANULES:
            raise ValueError(f"Features.granules={sorted(self.granules)}: allowed are one or more of 12, 14, 16")
        if self.pri and not self.ats:
            raise ValueError("Features.pri=True: allowed only with ats=True")

    def idr0(self) -> Idr0:
        """Return IDR0."""
        return Idr0(
            s2p=self.stage2,
            s1p=self.stage1,
            ttf=Ttf.AARCH64,
            cohacc=self.coherent,
            btm=self.btm,
            httu=self.httu,
            hyp=self.hyp,
            ats=self.ats,
            ns1ats=self.ats and self.stage1 and self.stage2,
            asid16=self.asid16,
            msi=self.msi,
            sev=self.sev,
            pri=self.pri,
            vmid16=self.vmid16,
            cd2l=self.two_level_cds,
            ttendian=TtEndian.LITTLE,
            stall_model=self.stall_model,
            term_model=self.term_model,
            st_level=StLevel.TWO_LEVEL if self.two_level_streams else StLevel.LINEAR,
        )

    def idr1(self) -> Idr1:
        """Return IDR1."""
        return Idr1(
            sidsize=self.sid_bits,
            ssidsize=self.ssid_bits,
            priqs=self.priq_bits,
            eventqs=self.eventq_bits,
            cmdqs=self.cmdq_bits,
            attr_perms_ovr=self.attr_perms_ovr,
            attr_types_ovr=self.attr_types_ovr,
        )

    def idr2(self) -> Idr2:
        """Return IDR2, which only an SMMU with VATOS would fill."""
        return Idr2()

    def idr3(self) -> Idr3:
        """Return IDR3."""
        return Idr3(
            had=self.stage1,
            xnx=self.stage2,
            pps=self.pps,
            stt=self.stt,
            ril=self.range_invalidation,
            bbml=self.bbml,
        )

    def idr4(self) -> Idr4:
        """Return IDR4, which is the implementation's own."""
        return Idr4()

    def idr5(self) -> Idr5:
        """Return IDR5."""
        stalls = self.stall_model is not StallModel.TERMINATE_ONLY
        return Idr5(
            oas=OAS_BITS.index(self.oas_bits),
            gran4k=12 in self.granules,
            gran16k=14 in self.granules,
            gran64k=16 in self.granules,
            vax=self.vax,
            stall_max=self.stall_max if stalls else 0,
        )


_QUEUE_BITS = range(LARGEST_QUEUE + 1)
_ALLOWED: dict[str, Values] = {
    "ssid_bits": range(21),
    "sid_bits": range(33),
    "stall_model": (StallModel.STALL_AND_TERMINATE, StallModel.TERMINATE_ONLY, StallModel.STALL_FORCED),
    "oas_bits": OAS_BITS,
    "vax": range(2),
    "httu": range(3),
    "bbml": range(3),
    "cmdq_bits": _QUEUE_BITS,
    "eventq_bits": _QUEUE_BITS,
    "priq_bits": _QUEUE_BITS,
    "stall_max": range(1 << 16),
}
