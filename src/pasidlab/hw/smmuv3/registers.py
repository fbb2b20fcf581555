"""The SMMU's registers: offsets and fields of the Non-secure programming interface (IHI 0070 G.b, chapter 6).

Queue indexes (WR, RD) are declared with their full 20 bits; how many of them are index and wrap bit depends on the size
of the queue.

Not modelled: the Secure, Root and Realm interfaces; ECMDQ and its registers; address translation operations (GATOS,
VATOS), MPAM and identification registers.
"""

from enum import IntEnum

from pasidlab.hw.pagetable.descriptors import Shareability
from pasidlab.hw.smmuv3.structures import AddressSize, InstCfg, PrivCfg, ShCfg
from pasidlab.words import Word, address, bits, flag


class Offset(IntEnum):
    """Byte offset from the base of page 0; page 1 begins at 0x10000."""

    IDR0 = 0x00
    IDR1 = 0x04
    IDR2 = 0x08
    IDR3 = 0x0C
    IDR4 = 0x10
    IDR5 = 0x14
    IIDR = 0x18
    AIDR = 0x1C
    CR0 = 0x20
    CR0ACK = 0x24
    CR1 = 0x28
    CR2 = 0x2C
    STATUSR = 0x40
    GBPA = 0x44
    AGBPA = 0x48
    IRQ_CTRL = 0x50
    IRQ_CTRLACK = 0x54
    GERROR = 0x60
    GERRORN = 0x64
    GERROR_IRQ_CFG0 = 0x68
    GERROR_IRQ_CFG1 = 0x70
    GERROR_IRQ_CFG2 = 0x74
    STRTAB_BASE = 0x80
    STRTAB_BASE_CFG = 0x88
    CMDQ_BASE = 0x90
    CMDQ_PROD = 0x98
    CMDQ_CONS = 0x9C
    EVENTQ_BASE = 0xA0
    EVENTQ_IRQ_CFG0 = 0xB0
    EVENTQ_IRQ_CFG1 = 0xB8
    EVENTQ_IRQ_CFG2 = 0xBC
    PRIQ_BASE = 0xC0
    PRIQ_IRQ_CFG0 = 0xD0
    PRIQ_IRQ_CFG1 = 0xD8
    PRIQ_IRQ_CFG2 = 0xDC
    EVENTQ_PROD = 0x100A8
    EVENTQ_CONS = 0x100AC
    PRIQ_PROD = 0x100C8
    PRIQ_CONS = 0x100CC


class Ttf(IntEnum):
    """IDR0.TTF: translation table formats."""

    RESERVED_0 = 0
    AARCH32 = 1
    AARCH64 = 2
    BOTH = 3


class Httu(IntEnum):
    """IDR0.HTTU: what hardware updates in translation tables."""

    NONE = 0
    ACCESS = 1
    ACCESS_DIRTY = 2
    ACCESS_DIRTY_TABLE = 3


class TtEndian(IntEnum):
    """IDR0.TTENDIAN: endianness of translation tables."""

    MIXED = 0
    RESERVED_1 = 1
    LITTLE = 2
    BIG = 3


class StallModel(IntEnum):
    """IDR0.STALL_MODEL: what can become of a faulting transaction."""

    STALL_AND_TERMINATE = 0
    TERMINATE_ONLY = 1
    STALL_FORCED = 2
    RESERVED_3 = 3


class StLevel(IntEnum):
    """IDR0.ST_LEVEL: the stream table formats there are."""

    LINEAR = 0
    TWO_LEVEL = 1
    RESERVED_2 = 2
    RESERVED_3 = 3


class Vax(IntEnum):
    """IDR5.VAX: the largest virtual address size."""

    BITS_48 = 0
    BITS_52 = 1
    BITS_56 = 2
    RESERVED_3 = 3


class Cacheability(IntEnum):
    """CR1: how queues and tables are accessed."""

    NC = 0
    WB = 1
    WT = 2
    RESERVED_3 = 3


class StrtabFmt(IntEnum):
    """STRTAB_BASE_CFG.FMT: the shape of the stream table."""

    LINEAR = 0
    TWO_LEVEL = 1
    RESERVED_2 = 2
    RESERVED_3 = 3


class CmdqErr(IntEnum):
    """CMDQ_CONS.ERR: why command consumption stopped."""

    NONE = 0
    ILL = 1
    ABT = 2
    ATC_INV_SYNC = 3


class Idr0(Word, size=32):
    """Features, first part."""

    s2p = flag(0, "stage 2")
    s1p = flag(1, "stage 1")
    ttf = bits(3, 2, Ttf, doc="translation table formats")
    cohacc = flag(4, "coherent access to tables and queues")
    btm = flag(5, "takes part in broadcast TLB maintenance")
    httu = bits(7, 6, Httu, doc="hardware updates of translation tables")
    dormhint = flag(8)
    hyp = flag(9, "EL2 stage 1")
    ats = flag(10)
    ns1ats = flag(11, "no split-stage ATS")
    asid16 = flag(12)
    msi = flag(13)
    sev = flag(14, "SYNC can send an event to the CPUs")
    atos = flag(15)
    pri = flag(16)
    vmw = flag(17, "VMID wildcards")
    vmid16 = flag(18)
    cd2l = flag(19, "two-level CD tables")
    vatos = flag(20)
    ttendian = bits(22, 21, TtEndian)
    atsrecerr = flag(23, "CR2.REC_CFG_ATS can be set")
    stall_model = bits(25, 24, StallModel)
    term_model = flag(26, "faults always abort: CD.A must be 1")
    st_level = bits(28, 27, StLevel)
    rme_impl = flag(30)


class Idr1(Word, size=32):
    """Features, second part: sizes."""

    sidsize = bits(5, 0, doc="StreamID bits")
    ssidsize = bits(10, 6, doc="SubstreamID bits")
    priqs = bits(15, 11, doc="log2 of the largest PRI queue")
    eventqs = bits(20, 16, doc="log2 of the largest event queue")
    cmdqs = bits(25, 21, doc="log2 of the largest command queue")
    attr_perms_ovr = flag(26, "PRIVCFG and INSTCFG can override")
    attr_types_ovr = flag(27, "MEMATTR, ALLOCCFG and SHCFG can override")
    rel = flag(28, "preset base addresses are relative")
    queues_preset = flag(29)
    tables_preset = flag(30)
    ecmdq = flag(31)


class Idr2(Word, size=32):
    """Features, third part: where the VATOS page is."""

    ba_vatos = bits(9, 0, doc="VATOS page, in 64K pages")


class Idr3(Word, size=32):
    """Features, fourth part."""

    had = flag(2, "hierarchical attributes can be switched off")
    pbha = flag(3)
    xnx = flag(4, "stage 2 execute-never by privilege")
    pps = flag(5, "automatic page responses carry the PASID")
    mpam = flag(7)
    fwb = flag(8, "STE.S2FWB")
    stt = flag(9, "small translation tables")
    ril = flag(10, "range TLB invalidation")
    bbml = bits(12, 11, doc="break-before-make level")
    e0pd = flag(13)
    ptwnnc = flag(14)
    dpt = flag(15)
    pasidtt = flag(16, "translated requests may carry a PASID")


class Idr4(Word, size=32):
    """Implementation defined."""

    impl = bits(31, 0)


class Idr5(Word, size=32):
    """Features, sixth part: addresses."""

    oas = bits(2, 0, AddressSize, doc="output address size")
    gran4k = flag(4)
    gran16k = flag(5)
    gran64k = flag(6)
    ds = flag(7, "52-bit addresses with granules below 64K")
    d128 = flag(8)
    vax = bits(11, 10, Vax, doc="virtual address size")
    stall_max = bits(31, 16, doc="most stalled transactions")


class Iidr(Word, size=32):
    """Who made the implementation."""

    implementer = bits(11, 0)
    revision = bits(15, 12)
    variant = bits(19, 16)
    productid = bits(31, 20)


class Aidr(Word, size=32):
    """Architecture version: SMMUv3.minor."""

    archminorrev = bits(3, 0)
    archmajorrev = bits(7, 4, doc="0: SMMUv3")


class Cr0(Word, size=32):
    """Enables; CR0ACK shows which of them took effect."""

    smmuen = flag(0, "translation on")
    priqen = flag(1)
    eventqen = flag(2)
    cmdqen = flag(3)
    atschk = flag(4, "translated transactions are checked")
    vmw = bits(8, 6, doc="VMID bits that invalidations ignore")
    dpt_walk_en = flag(10)


class Cr1(Word, size=32):
    """How queues and tables are accessed."""

    queue_ic = bits(1, 0, Cacheability, doc="inner")
    queue_oc = bits(3, 2, Cacheability, doc="outer")
    queue_sh = bits(5, 4, Shareability)
    table_ic = bits(7, 6, Cacheability, doc="inner")
    table_oc = bits(9, 8, Cacheability, doc="outer")
    table_sh = bits(11, 10, Shareability)


class Cr2(Word, size=32):
    """Translation regime and what is recorded."""

    e2h = flag(0, "EL2 streams are EL2-E2H")
    recinvsid = flag(1, "record C_BAD_STREAMID")
    ptm = flag(2, "ignore broadcast TLB maintenance")
    rec_cfg_ats = flag(3, "record configuration errors of ATS requests")


class Statusr(Word, size=32):
    """Status."""

    dormant = flag(0)


class Gbpa(Word, size=32):
    """What happens to transactions while CR0.SMMUEN=0."""

    memattr = bits(3, 0, doc="memory type override")
    mtcfg = flag(4, "memattr is used")
    alloccfg = bits(11, 8, doc="allocation hints")
    shcfg = bits(13, 12, ShCfg)
    privcfg = bits(17, 16, PrivCfg)
    instcfg = bits(19, 18, InstCfg)
    abort = flag(20, "abort instead of bypass")
    update = flag(31, "written as 1 with new values; 0 when they took effect")


class Agbpa(Word, size=32):
    """Implementation defined."""

    impl = bits(31, 0)


class IrqCtrl(Word, size=32):
    """Interrupt enables; IRQ_CTRLACK shows which of them took effect."""

    gerror_irqen = flag(0)
    priq_irqen = flag(1)
    eventq_irqen = flag(2)


class Gerror(Word, size=32):
    """Global errors: one is active while GERROR and GERRORN differ in its bit."""

    cmdq_err = flag(0, "command consumption stopped; CMDQ_CONS.ERR says why")
    eventq_abt_err = flag(2, "event queue write aborted")
    priq_abt_err = flag(3, "PRI queue write aborted")
    msi_cmdq_abt_err = flag(4)
    msi_eventq_abt_err = flag(5)
    msi_priq_abt_err = flag(6)
    msi_gerror_abt_err = flag(7)
    sfm_err = flag(8, "service failure mode")
    cmdqp_err = flag(9)
    dpt_err = flag(10)


class IrqCfg0(Word, size=64):
    """*_IRQ_CFG0: where the MSI is written; 0 for none."""

    addr = address(55, 2)


class IrqCfg1(Word, size=32):
    """*_IRQ_CFG1: what the MSI writes."""

    data = bits(31, 0)


class IrqCfg2(Word, size=32):
    """*_IRQ_CFG2: attributes of the MSI."""

    memattr = bits(3, 0)
    sh = bits(5, 4, Shareability)


class PriqIrqCfg2(IrqCfg2, size=32):
    """PRIQ_IRQ_CFG2."""

    lo = flag(31, "interrupt for records with Last=1 only")


class StrtabBase(Word, size=64):
    """Stream table base."""

    addr = address(55, 6, doc="aligned to the size of the table, or of its first level")
    ra = flag(62, "read-allocate hint")


class StrtabBaseCfg(Word, size=32):
    """Stream table format."""

    log2size = bits(5, 0, doc="StreamID bits that the table covers")
    split = bits(10, 6, doc="StreamID bits of level 2: 6, 8, 10; others act as 6")
    fmt = bits(17, 16, StrtabFmt)


class QueueBase(Word, size=64):
    """What the bases of all queues have."""

    log2size = bits(4, 0, doc="log2 of the number of entries")
    addr = address(55, 5, doc="aligned to the size of the queue")


class CmdqBase(QueueBase, size=64):
    """CMDQ_BASE."""

    ra = flag(62, "read-allocate hint")


class EventqBase(QueueBase, size=64):
    """EVENTQ_BASE."""

    wa = flag(62, "write-allocate hint")


class PriqBase(QueueBase, size=64):
    """PRIQ_BASE."""

    wa = flag(62, "write-allocate hint")


class CmdqProd(Word, size=32):
    """CMDQ_PROD, written by software."""

    wr = bits(19, 0, doc="write index with wrap bit")


class CmdqCons(Word, size=32):
    """CMDQ_CONS, written by the SMMU."""

    rd = bits(19, 0, doc="read index with wrap bit")
    err = bits(30, 24, names={member: member.name for member in CmdqErr}, doc="why consumption stopped")


class EventqProd(Word, size=32):
    """EVENTQ_PROD and PRIQ_PROD, written by the SMMU."""

    wr = bits(19, 0, doc="write index with wrap bit")
    ovflg = flag(31, "overflow while it differs from OVACKFLG")


class EventqCons(Word, size=32):
    """EVENTQ_CONS and PRIQ_CONS, written by software."""

    rd = bits(19, 0, doc="read index with wrap bit")
    ovackflg = flag(31, "acknowledges OVFLG")


REGISTERS: dict[Offset, type[Word]] = {
    Offset.IDR0: Idr0,
    Offset.IDR1: Idr1,
    Offset.IDR2: Idr2,
    Offset.IDR3: Idr3,
    Offset.IDR4: Idr4,
    Offset.IDR5: Idr5,
    Offset.IIDR: Iidr,
    Offset.AIDR: Aidr,
    Offset.CR0: Cr0,
    Offset.CR0ACK: Cr0,
    Offset.CR1: Cr1,
    Offset.CR2: Cr2,
    Offset.STATUSR: Statusr,
    Offset.GBPA: Gbpa,
    Offset.AGBPA: Agbpa,
    Offset.IRQ_CTRL: IrqCtrl,
    Offset.IRQ_CTRLACK: IrqCtrl,
    Offset.GERROR: Gerror,
    Offset.GERRORN: Gerror,
    Offset.GERROR_IRQ_CFG0: IrqCfg0,
    Offset.GERROR_IRQ_CFG1: IrqCfg1,
    Offset.GERROR_IRQ_CFG2: IrqCfg2,
    Offset.STRTAB_BASE: StrtabBase,
    Offset.STRTAB_BASE_CFG: StrtabBaseCfg,
    Offset.CMDQ_BASE: CmdqBase,
    Offset.CMDQ_PROD: CmdqProd,
    Offset.CMDQ_CONS: CmdqCons,
    Offset.EVENTQ_BASE: EventqBase,
    Offset.EVENTQ_IRQ_CFG0: IrqCfg0,
    Offset.EVENTQ_IRQ_CFG1: IrqCfg1,
    Offset.EVENTQ_IRQ_CFG2: IrqCfg2,
    Offset.PRIQ_BASE: PriqBase,
    Offset.PRIQ_IRQ_CFG0: IrqCfg0,
    Offset.PRIQ_IRQ_CFG1: IrqCfg1,
    Offset.PRIQ_IRQ_CFG2: PriqIrqCfg2,
    Offset.EVENTQ_PROD: EventqProd,
    Offset.EVENTQ_CONS: EventqCons,
    Offset.PRIQ_PROD: EventqProd,
    Offset.PRIQ_CONS: EventqCons,
}
"""The layout of each register; its SIZE is the register's size in bits."""
