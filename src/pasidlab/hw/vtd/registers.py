"""The registers of a remapping unit: offsets and fields (Intel VT-d 4.1, chapter 11).

The fault recording registers and the two IOTLB registers have no fixed place: CAP.FRO and ECAP.IRO say where they are.

Not modelled: advanced fault logs, protected memory ranges, MTRRs, performance monitoring, virtual commands, enhanced
commands, interrupt remapping (IRTA reads and writes, and has no effect).
"""

from enum import IntEnum

from pasidlab.words import Word, address, bits, flag


class Offset(IntEnum):
    """Byte offset from the base of a unit."""

    VER = 0x00
    CAP = 0x08
    ECAP = 0x10
    GCMD = 0x18
    GSTS = 0x1C
    RTADDR = 0x20
    CCMD = 0x28
    FSTS = 0x34
    FECTL = 0x38
    FEDATA = 0x3C
    FEADDR = 0x40
    FEUADDR = 0x44
    IQH = 0x80
    IQT = 0x88
    IQA = 0x90
    ICS = 0x9C
    IECTL = 0xA0
    IEDATA = 0xA4
    IEADDR = 0xA8
    IEUADDR = 0xAC
    IQER = 0xB0
    IRTA = 0xB8
    PQH = 0xC0
    PQT = 0xC8
    PQA = 0xD0
    PRS = 0xDC
    PECTL = 0xE0
    PEDATA = 0xE4
    PEADDR = 0xE8
    PEUADDR = 0xEC


class Ver(Word, size=32):
    """Version (11.4.1)."""

    minor = bits(3, 0)
    major = bits(7, 4)


class Cap(Word, size=64):
    """Capabilities (11.4.2)."""

    nd = bits(2, 0, doc="2^(4 + 2 ND) domain identifiers")
    afl = flag(3, doc="advanced fault logging")
    rwbf = flag(4, doc="write buffers must be flushed")
    plmr = flag(5, doc="protected low memory")
    phmr = flag(6, doc="protected high memory")
    cm = flag(7, doc="caching mode: entries that are not present may be cached")
    sagaw = bits(12, 8, doc="second-stage tables: bit 1 of 3 levels, bit 2 of 4, bit 3 of 5")
    mgaw = bits(21, 16, doc="guest address width, less 1")
    zlr = flag(22, doc="zero-length reads of write-only pages")
    fro = bits(33, 24, doc="offset of the fault recording registers, in units of 16 bytes")
    ssls2m = flag(34, doc="2 MiB pages in second-stage tables")
    ssls1g = flag(35, doc="1 GiB pages in second-stage tables")
    psi = flag(39, doc="page-selective invalidation")
    nfr = bits(47, 40, doc="fault recording registers, less 1")
    mamv = bits(53, 48, doc="largest address mask of an invalidation")
    dwd = flag(54, doc="write draining")
    drd = flag(55, doc="read draining")
    fs1gp = flag(56, doc="1 GiB pages in first-stage tables")
    pi = flag(59, doc="posted interrupts")
    fs5lp = flag(60, doc="first-stage tables of 5 levels")
    ecmds = flag(61, doc="enhanced commands")
    esirtps = flag(62)
    esrtps = flag(63, doc="setting the root table invalidates everything")


class Ecap(Word, size=64):
    """Extended capabilities (11.4.3)."""

    c = flag(0, doc="page walks are coherent in legacy mode")
    qi = flag(1, doc="queued invalidation")
    dt = flag(2, doc="device-TLBs")
    ir = flag(3, doc="interrupt remapping")
    eim = flag(4)
    pt = flag(6, doc="pass-through")
    sc = flag(7, doc="snoop control")
    iro = bits(17, 8, doc="offset of the IOTLB registers, in units of 16 bytes")
    mhmv = bits(23, 20)
    mts = flag(25, doc="memory types")
    nest = flag(26, doc="nested translation")
    prs = flag(29, doc="page requests")
    ers = flag(30, doc="execute requests")
    srs = flag(31, doc="supervisor requests")
    nwfs = flag(33, doc="no-write flag of translation requests")
    eafs = flag(34, doc="extended accessed bits")
    pss = bits(39, 35, doc="PASID bits, less 1")
    pasid = flag(40, doc="process address space identifiers")
    dit = flag(41, doc="throttled device-TLB invalidations")
    pds = flag(42, doc="page request draining")
    smts = flag(43, doc="scalable mode")
    vcs = flag(44, doc="virtual commands")
    ssads = flag(45, doc="second-stage accessed and dirty bits")
    ssts = flag(46, doc="second-stage translation in scalable mode")
    fsts = flag(47, doc="first-stage translation")
    smpwcs = flag(48, doc="page walks are coherent in scalable mode")
    rps = flag(49, doc="RID_PASID")
    pms = flag(51, doc="performance monitoring")
    adms = flag(52, doc="abort DMA mode")
    rprivs = flag(53, doc="RID_PRIV")
    sms = flag(58, doc="stop marker")


class Gcmd(Word, size=32):
    """Global command (11.4.4.1): each bit starts what GSTS then shows."""

    cfi = flag(23, doc="compatibility format interrupts")
    sirtp = flag(24, doc="set interrupt remap table pointer")
    ire = flag(25, doc="interrupt remapping enable")
    qie = flag(26, doc="queued invalidation enable")
    wbf = flag(27, doc="write buffer flush")
    eafl = flag(28, doc="advanced fault logging enable")
    sfl = flag(29, doc="set fault log")
    srtp = flag(30, doc="set root table pointer")
    te = flag(31, doc="translation enable")


class Gsts(Word, size=32):
    """Global status (11.4.4.2)."""

    cfis = flag(23)
    irtps = flag(24)
    ires = flag(25)
    qies = flag(26)
    wbfs = flag(27)
    afls = flag(28)
    fls = flag(29)
    rtps = flag(30)
    tes = flag(31)


class Ttm(IntEnum):
    """Translation table mode."""

    LEGACY = 0
    SCALABLE = 1
    RESERVED = 2
    ABORT_DMA = 3


class Rtaddr(Word, size=64):
    """Root table address (11.4.5)."""

    ttm = bits(11, 10, Ttm, doc="translation table mode")
    rta = address(63, 12, doc="root table")


class Granularity(IntEnum):
    """What an invalidation reaches, as the registers and the descriptors of context cache and IOTLB say it."""

    RESERVED = 0
    GLOBAL = 1
    DOMAIN = 2
    SELECTIVE = 3
    """One device (context cache), or pages of a domain (IOTLB)."""


class Ccmd(Word, size=64):
    """Context command (11.4.6.1)."""

    did = bits(15, 0)
    sid = bits(31, 16)
    fm = bits(33, 32, doc="function mask")
    caig = bits(60, 59, Granularity, doc="actual granularity")
    cirg = bits(62, 61, Granularity, doc="requested granularity")
    icc = flag(63, doc="invalidate; hardware clears it when done")


class Iva(Word, size=64):
    """Invalidate address (11.4.6.3), at ECAP.IRO."""

    am = bits(5, 0, doc="address mask: 2^AM pages")
    ih = flag(6, doc="no table but the last changed")
    addr = address(63, 12)


class Iotlb(Word, size=64):
    """IOTLB invalidate (11.4.6.2), at ECAP.IRO + 8."""

    did = bits(47, 32)
    dw = flag(48, doc="drain writes")
    dr = flag(49, doc="drain reads")
    iaig = bits(58, 57, Granularity, doc="actual granularity")
    iirg = bits(61, 60, Granularity, doc="requested granularity")
    ivt = flag(63, doc="invalidate; hardware clears it when done")


class Fsts(Word, size=32):
    """Fault status (11.4.7.1)."""

    pfo = flag(0, doc="a fault found no free recording register")
    ppf = flag(1, doc="a recording register holds a fault")
    afo = flag(2)
    apf = flag(3)
    iqe = flag(4, doc="invalidation queue error")
    ice = flag(5, doc="invalidation completion error")
    ite = flag(6, doc="a device did not answer an invalidation in time")
    fri = bits(15, 8, doc="the recording register of the first pending fault")


class EventControl(Word, size=32):
    """FECTL, IECTL or PECTL (11.4.7.2, 11.4.9.9, 11.4.11.6): one interrupt."""

    ip = flag(30, doc="pending, because masked")
    im = flag(31, doc="masked")


class EventData(Word, size=32):
    """FEDATA, IEDATA or PEDATA: the message."""

    imd = bits(31, 0, doc="message data")


class EventAddress(Word, size=32):
    """FEADDR, IEADDR or PEADDR: where the message goes, low half."""

    ma = address(31, 2, doc="message address, low half")


class EventUpperAddress(Word, size=32):
    """FEUADDR, IEUADDR or PEUADDR: where the message goes, high half."""

    mua = bits(31, 0, doc="message address, high half")


class Iqh(Word, size=64):
    """Invalidation queue head (11.4.9.1)."""

    qh = address(18, 4, doc="offset of the next descriptor")


class Iqt(Word, size=64):
    """Invalidation queue tail (11.4.9.2)."""

    qt = address(18, 4, doc="offset behind the last descriptor")


class Iqa(Word, size=64):
    """Invalidation queue address (11.4.9.3)."""

    qs = bits(2, 0, doc="2^QS pages")
    dw = flag(11, doc="descriptors of 256 bits, else 128")
    iqa = address(63, 12, doc="the queue")


class Ics(Word, size=32):
    """Invalidation completion status (11.4.9.4)."""

    iwc = flag(0, doc="a wait descriptor that asks for an interrupt completed")


class QueueError(IntEnum):
    """IQEI: why an invalidation queue stopped."""

    NONE = 0
    INVALID_TAIL = 1
    FETCH_ERROR = 2
    INVALID_TYPE = 3
    RESERVED_FIELD = 4
    INVALID_WIDTH = 5
    TAIL_ALIGNMENT = 6
    INVALID_TTM = 7
    UNKNOWN_8 = 8
    UNKNOWN_9 = 9
    UNKNOWN_10 = 10
    UNKNOWN_11 = 11
    UNKNOWN_12 = 12
    UNKNOWN_13 = 13
    UNKNOWN_14 = 14
    UNKNOWN_15 = 15


class Iqer(Word, size=64):
    """Invalidation queue error record (11.4.9.9)."""

    iqei = bits(3, 0, QueueError, doc="invalidation queue error")
    itesid = bits(47, 32, doc="source of the invalidation that timed out")
    icesid = bits(63, 48, doc="source of the unexpected completion")


class Irta(Word, size=64):
    """Interrupt remapping table address (11.4.8.1)."""

    s = bits(3, 0, doc="2^(S + 1) entries")
    eime = flag(11)
    irta = address(63, 12)


class Pqh(Word, size=64):
    """Page request queue head (11.4.11.1)."""

    pqh = address(18, 5, doc="offset of the next descriptor that software takes")


class Pqt(Word, size=64):
    """Page request queue tail (11.4.11.2)."""

    pqt = address(18, 5, doc="offset behind the last descriptor")


class Pqa(Word, size=64):
    """Page request queue address (11.4.11.3)."""

    pqs = bits(2, 0, doc="2^PQS pages")
    pqa = address(63, 12, doc="the queue")


class Prs(Word, size=32):
    """Page request status (11.4.11.4)."""

    ppr = flag(0, doc="a request waits")
    pro = flag(1, doc="overflow: a request was lost")


REGISTERS: dict[Offset, type[Word]] = {
    Offset.VER: Ver,
    Offset.CAP: Cap,
    Offset.ECAP: Ecap,
    Offset.GCMD: Gcmd,
    Offset.GSTS: Gsts,
    Offset.RTADDR: Rtaddr,
    Offset.CCMD: Ccmd,
    Offset.FSTS: Fsts,
    Offset.FECTL: EventControl,
    Offset.FEDATA: EventData,
    Offset.FEADDR: EventAddress,
    Offset.FEUADDR: EventUpperAddress,
    Offset.IQH: Iqh,
    Offset.IQT: Iqt,
    Offset.IQA: Iqa,
    Offset.ICS: Ics,
    Offset.IECTL: EventControl,
    Offset.IEDATA: EventData,
    Offset.IEADDR: EventAddress,
    Offset.IEUADDR: EventUpperAddress,
    Offset.IQER: Iqer,
    Offset.IRTA: Irta,
    Offset.PQH: Pqh,
    Offset.PQT: Pqt,
    Offset.PQA: Pqa,
    Offset.PRS: Prs,
    Offset.PECTL: EventControl,
    Offset.PEDATA: EventData,
    Offset.PEADDR: EventAddress,
    Offset.PEUADDR: EventUpperAddress,
}
"""The registers at fixed places, each with its word; at CAP.FRO and ECAP.IRO lie `FaultRecord`, `Iva` and `Iotlb`."""
