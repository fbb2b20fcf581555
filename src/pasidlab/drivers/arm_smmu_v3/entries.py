"""The stream table entries and context descriptors that the driver builds, as pure functions.

Source: drivers/iommu/arm/arm-smmu-v3/arm-smmu-v3.c and arm-smmu-v3-sva.c, Linux 6.12.117 and 7.3.4; what is built is
held against the records of both (`tests/data/smmu_words_*.jsonl`). What the kernel reads from its own structures comes
in as small frozen inputs; what it reads from the CPU is `CpuRegisters`.

Not modelled: nested STEs of iommufd, MEV and S2FWB (which only those and their parents set), big-endian CPUs.
"""

from __future__ import annotations

from dataclasses import dataclass

from pasidlab.hw.pagetable.descriptors import Shareability
from pasidlab.hw.smmuv3.structures import (
    AddressSize,
    Cd,
    Config,
    Eats,
    FetchCache,
    S1Dss,
    S1Fmt,
    ShCfg,
    Ste,
    Strw,
    Tg0,
    WalkCache,
)
from pasidlab.linux.profiles import Profile

S1CTXPTR_MASK = (1 << 52) - (1 << 6)
"""Address bits of a CD table that the driver writes, and takes for used; the STE's field goes on to bit 55."""
TTB_MASK = (1 << 52) - (1 << 4)
"""Address bits of a translation table that the driver writes into CD.TTB0 and STE.S2TTB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """Those of `smmu->features` that decide about entries.

    Attributes:
        attr_types_ovr: memory types can be overridden (IDR1.ATTR_TYPES_OVR).
        e2h: the stream world EL2-E2H is used (IDR0.HYP on a kernel that runs at EL2).
        stalls: faults can stall (IDR0.STALL_MODEL 0 or 2).
        stall_force: faults always stall (IDR0.STALL_MODEL 2).
        ha: the SMMU sets access flags (IDR0.HTTU).
        hd: the SMMU sets dirty state (IDR0.HTTU).
        haft: the SMMU sets access flags of tables (IDR0.HTTU).
    """

    attr_types_ovr: bool = False
    e2h: bool = False
    stalls: bool = False
    stall_force: bool = False
    ha: bool = False
    hd: bool = False
    haft: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CdTable:
    """A master's CD table (`struct arm_smmu_ctx_desc_cfg`): where it lies, its shape, log2 of its CDs."""

    cdtab_dma: int
    s1fmt: S1Fmt
    s1cdmax: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage1Config:
    """A stage 1 table of io-pgtable (`arm_lpae_s1_cfg`); `hd` is its quirk ARM_HD, dirty tracking by hardware."""

    ttbr: int
    mair: int
    tsz: int
    tg: Tg0
    irgn: WalkCache
    orgn: WalkCache
    sh: Shareability
    ips: AddressSize
    hd: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage2Config:
    """A stage 2 table of io-pgtable (`arm_lpae_s2_cfg`)."""

    vttbr: int
    tsz: int
    sl: int
    tg: Tg0
    irgn: WalkCache
    orgn: WalkCache
    sh: Shareability
    ps: AddressSize


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuRegisters:
    """What an SVA descriptor takes from the CPU.

    Attributes:
        t0sz: 64 less the number of virtual address bits in use.
        tg0: the page size, in the code of CD.TG0.
        ips: ID_AA64MMFR0_EL1.PARange.
        mair: MAIR_EL1.
        haft: the kernel uses hardware access flags of tables (FEAT_HAFT).
    """

    t0sz: int
    tg0: Tg0
    ips: AddressSize
    mair: int
    haft: bool = False


# --- stream table entries --------------------------------------------------------------------------------------


def arm_smmu_make_abort_ste() -> Ste:
    """Return the entry of a blocked stream: valid, and everything aborted without an event."""
    return Ste(v=True, config=Config.ABORT)


def arm_smmu_make_bypass_ste(features: Features) -> Ste:
    """Return the entry of an identity domain without PASIDs."""
    return Ste(v=True, config=Config.BYPASS, shcfg=_incoming(features))


def arm_smmu_make_cdtable_ste(
    features: Features, cd_table: CdTable, s1dss: S1Dss, *, stall_enabled: bool, ats_enabled: bool
) -> Ste:
    """Return the entry that leads to a CD table; `s1dss` follows from the RID's domain."""
    return Ste(
        v=True,
        config=Config.STAGE_1,
        s1fmt=cd_table.s1fmt,
        s1contextptr=cd_table.cdtab_dma & S1CTXPTR_MASK,
        s1cdmax=cd_table.s1cdmax,
        s1dss=s1dss,
        s1cir=FetchCache.WB_RA,
        s1cor=FetchCache.WB_RA,
        s1csh=Shareability.ISH,
        s1stalld=features.stalls and not stall_enabled,
        eats=_eats(ats_enabled),
        strw=Strw.EL2 if features.e2h else Strw.EL1,
        shcfg=_incoming(features) if s1dss is S1Dss.BYPASS else ShCfg.NSH,
        # VMID 0 is kept for EL1 streams without stage 2.
        s2vmid=0,
    )


def arm_smmu_make_s2_domain_ste(
    features: Features, vmid: int, table: Stage2Config, *, stall_enabled: bool, ats_enabled: bool
) -> Ste:
    """Return the entry of a stage 2 domain."""
    return Ste(
        v=True,
        config=Config.STAGE_2,
        eats=_eats(ats_enabled),
        shcfg=_incoming(features),
        s2vmid=vmid,
        s2t0sz=table.tsz,
        s2sl0=table.sl,
        s2ir0=table.irgn,
        s2or0=table.orgn,
        s2sh0=table.sh,
        s2tg=table.tg,
        s2ps=table.ps,
        s2aa64=True,
        s2ptw=True,
        s2s=stall_enabled,
        s2r=True,
        s2ttb=table.vttbr & TTB_MASK,
    )


def _eats(ats_enabled: bool) -> Eats:
    return Eats.FULL if ats_enabled else Eats.OFF


def _incoming(features: Features) -> ShCfg:
    """Return the shareability of what is not translated; 0, which is NSH, where it cannot be overridden."""
    return ShCfg.INCOMING if features.attr_types_ovr else ShCfg.NSH


# --- context descriptors ---------------------------------------------------------------------------------------


def arm_smmu_make_s1_cd(asid: int, table: Stage1Config, *, stall_enabled: bool) -> Cd:
    """Return the descriptor of a stage 1 domain whose tables the kernel keeps."""
    return _cd(asid, table.ips, stall_enabled=stall_enabled).replace(
        t0sz=table.tsz,
        tg0=table.tg,
        ir0=table.irgn,
        or0=table.orgn,
        sh0=table.sh,
        ha=table.hd,
        hd=table.hd,
        ttb0=table.ttbr & TTB_MASK,
        **_mair(table.mair),
    )


def arm_smmu_make_sva_cd(
    features: Features, cpu: CpuRegisters, pgd: int | None, asid: int, profile: Profile, *, stall_enabled: bool
) -> Cd:
    """Return the descriptor of an mm; without `pgd` the quiet one of an mm that was released, whose walks all fault.

    The two differ in used bits of word 0 only, for TTB0 is ignored under EPD0: a change needs no V=0. The quiet one
    neither stalls nor records, so that a device that still does DMA is stopped at once.
    """
    cd = _cd(asid, cpu.ips, stall_enabled=stall_enabled).replace(**_mair(cpu.mair))
    if profile.smmu_sva_cd_httu:
        cd = cd.replace(ha=features.ha, hd=features.hd, haft=features.haft and cpu.haft)
    if pgd is not None:
        return cd.replace(
            t0sz=cpu.t0sz,
            tg0=cpu.tg0,
            ir0=WalkCache.WB_RA_WA,
            or0=WalkCache.WB_RA_WA,
            sh0=Shareability.ISH,
            ttb0=pgd & TTB_MASK,
        )
    quiet = cd.replace(epd0=True)
    return quiet if features.stall_force else quiet.replace(s=False, r=False)


def _cd(asid: int, ips: AddressSize, *, stall_enabled: bool) -> Cd:
    """Return what all valid descriptors share: one half of the address space, faults abort and are recorded."""
    return Cd(v=True, aa64=True, epd1=True, ips=ips, s=stall_enabled, r=True, a=True, aset=True, asid=asid)


def _mair(mair: int) -> dict[str, int]:
    return {"mair0": mair & 0xFFFF_FFFF, "mair1": mair >> 32}
