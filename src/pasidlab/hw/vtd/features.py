"""What a remapping unit can do, and how its capability registers say it.

Source: Intel VT-d 4.1, 11.4.2 (CAP), 11.4.3 (ECAP).
Not checked: combinations that the architecture demands, so that a machine can be described that lacks what a driver
may take for granted.
Not modelled, and always read as absent: advanced fault logging, protected memory, interrupt remapping and posting,
write buffers that need flushing, virtual and enhanced commands, performance monitoring, memory types.
"""

from __future__ import annotations

from dataclasses import dataclass

from pasidlab.hw.features import check_values
from pasidlab.hw.vtd.registers import Cap, Ecap, Ttm

IOTLB_OFFSET, FAULT_RECORDING_OFFSET = 0x400, 0x500
"""Where the registers are that have no fixed place."""
LARGEST_MASK = 18
"""CAP.MAMV: an invalidation reaches 2^18 pages at most, in units of pages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """The features of one unit; building raises ValueError for a value that no capability register can say.

    Attributes:
        pasid_bits: width of PASIDs, 1 to 20 (ECAP.PSS); 0 is a unit without PASIDs (ECAP.PASID).
        scalable: scalable mode (ECAP.SMTS).
        first_stage: first-stage translation (ECAP.FSTS).
        second_stage: second-stage translation in scalable mode (ECAP.SSTS).
        nested: nested translation (ECAP.NEST).
        pass_through: pass-through (ECAP.PT).
        five_level: first-stage tables of 5 levels (CAP.FS5LP).
        first_1g: 1 GiB pages in first-stage tables (CAP.FS1GP).
        second_levels: levels that second-stage tables may have, of 3, 4 and 5 (CAP.SAGAW).
        second_2m, second_1g: large pages in second-stage tables (CAP.SSLPS).
        guest_bits: guest address width, thus of input addresses of second-stage tables (CAP.MGAW).
        host_bits: physical address width; the platform's, no register says it.
        domain_bits: width of domain identifiers, an even number from 4 to 16 (CAP.ND).
        device_tlb: device-TLBs, which are PCIe ATS (ECAP.DT).
        page_requests: page requests (ECAP.PRS).
        page_request_drain: page request draining (ECAP.PDS).
        execute_requests: execute requests (ECAP.ERS).
        supervisor_requests: supervisor requests (ECAP.SRS).
        rid_pasid: requests without PASID take the PASID of the context entry, else PASID 0 (ECAP.RPS).
        rid_priv: RID_PRIV (ECAP.RPRIVS).
        extended_accessed: extended accessed bits (ECAP.EAFS).
        second_ad: second-stage accessed and dirty bits (ECAP.SSADS).
        coherent: page walks are coherent (ECAP.C and ECAP.SMPWCS).
        snoop_control: second-stage pages and PASID entries can ask for snooped accesses (ECAP.SC); nothing is cached by
            CPUs here, so that only the fields' being reserved depends on it.
        caching_mode: entries that are not present may be cached (CAP.CM).
        abort_dma: abort DMA mode (ECAP.ADMS).
        root_invalidates: setting the root table invalidates every cache (CAP.ESRTPS).
        fault_records: fault recording registers, 1 to 256 (CAP.NFR).
        stop_marker: ECAP.SMS.
    """

    pasid_bits: int = 20
    scalable: bool = True
    first_stage: bool = True
    second_stage: bool = True
    nested: bool = True
    pass_through: bool = True
    five_level: bool = True
    first_1g: bool = True
    second_levels: frozenset[int] = frozenset({3, 4, 5})
    second_2m: bool = True
    second_1g: bool = True
    guest_bits: int = 57
    host_bits: int = 52
    domain_bits: int = 16
    device_tlb: bool = True
    page_requests: bool = True
    page_request_drain: bool = True
    execute_requests: bool = True
    supervisor_requests: bool = True
    rid_pasid: bool = True
    rid_priv: bool = True
    extended_accessed: bool = True
    second_ad: bool = True
    coherent: bool = True
    snoop_control: bool = False
    caching_mode: bool = False
    abort_dma: bool = True
    root_invalidates: bool = False
    fault_records: int = 8
    stop_marker: bool = True

    def __post_init__(self) -> None:
        check_values(self, _ALLOWED)
        if self.second_levels - {3, 4, 5}:
            raise ValueError(f"Features.second_levels={sorted(self.second_levels)}: allowed are 3, 4 and 5")
        if self.page_requests and not self.device_tlb:
            raise ValueError("Features.page_requests=True: allowed only with device_tlb=True")

    def has_mode(self, mode: Ttm) -> bool:
        """Whether the unit has a translation table mode."""
        if mode is Ttm.SCALABLE:
            return self.scalable
        if mode is Ttm.ABORT_DMA:
            return self.abort_dma
        return mode is Ttm.LEGACY

    def cap(self) -> Cap:
        """Return CAP."""
        return Cap(
            nd=(self.domain_bits - 4) // 2,
            cm=self.caching_mode,
            sagaw=sum(1 << levels - 2 for levels in self.second_levels),
            mgaw=self.guest_bits - 1,
            fro=FAULT_RECORDING_OFFSET >> 4,
            ssls2m=self.second_2m,
            ssls1g=self.second_1g,
            psi=True,
            nfr=self.fault_records - 1,
            mamv=LARGEST_MASK,
            dwd=True,
            drd=True,
            fs1gp=self.first_1g,
            fs5lp=self.five_level,
            esrtps=self.root_invalidates,
        )

    def ecap(self) -> Ecap:
        """Return ECAP."""
        return Ecap(
            c=self.coherent,
            qi=True,
            dt=self.device_tlb,
            pt=self.pass_through,
            sc=self.snoop_control,
            iro=IOTLB_OFFSET >> 4,
            nest=self.nested,
            prs=self.page_requests,
            ers=self.execute_requests,
            srs=self.supervisor_requests,
            nwfs=self.device_tlb,
            eafs=self.extended_accessed,
            pss=max(self.pasid_bits - 1, 0),
            pasid=self.pasid_bits > 0,
            pds=self.page_request_drain,
            smts=self.scalable,
            ssads=self.second_ad,
            ssts=self.second_stage,
            fsts=self.first_stage,
            smpwcs=self.coherent,
            rps=self.rid_pasid,
            adms=self.abort_dma,
            rprivs=self.rid_priv,
            sms=self.stop_marker,
        )


_ALLOWED = {
    "pasid_bits": range(21),
    "guest_bits": range(30, 65),
    "host_bits": range(30, 53),
    "domain_bits": range(4, 17, 2),
    "fault_records": range(1, 257),
}
