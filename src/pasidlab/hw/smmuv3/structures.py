"""The SMMU's configuration in memory: stream table, STE, CD table, CD (IHI 0070 G.b, chapter 5).

Every encoding has a name; `RESERVED_n` and names that end in their own number (`ABORT_1`) mark encodings without a
meaning of their own. What they act as is the business of whoever reads the word. Table pointers reach up to address
bit 55, translation table bases up to bit 51.

Not modelled: the MPAM and VMS words of the STE beyond PARTID; the widening of translation table bases to bit 55.
"""

from enum import IntEnum

from pasidlab.hw.pagetable.descriptors import Shareability
from pasidlab.words import Word, address, bits, flag

OAS_BITS = (32, 36, 40, 42, 44, 48, 52, 56)
"""Address bits that each code of IDR5.OAS, CD.IPS and STE.S2PS stands for."""


class AddressSize(IntEnum):
    """Physical or intermediate address size; `OAS_BITS[code]` is the number."""

    BITS_32 = 0
    BITS_36 = 1
    BITS_40 = 2
    BITS_42 = 3
    BITS_44 = 4
    BITS_48 = 5
    BITS_52 = 6
    BITS_56 = 7


class Config(IntEnum):
    """STE.Config: what a stream's transactions go through."""

    ABORT = 0
    ABORT_1 = 1
    ABORT_2 = 2
    ABORT_3 = 3
    BYPASS = 4
    STAGE_1 = 5
    STAGE_2 = 6
    NESTED = 7


class S1Fmt(IntEnum):
    """STE.S1Fmt: the shape of the CD table."""

    LINEAR = 0
    LEAF_4K = 1
    LEAF_64K = 2
    RESERVED_3 = 3


class S1Dss(IntEnum):
    """STE.S1DSS: what happens to a transaction without SubstreamID when there are substreams."""

    TERMINATE = 0
    BYPASS = 1
    SSID0 = 2
    RESERVED_3 = 3


class Eats(IntEnum):
    """STE.EATS: how far a stream may use ATS."""

    OFF = 0
    FULL = 1
    SPLIT_STAGE = 2
    DPT = 3


class Strw(IntEnum):
    """STE.STRW of a Non-secure stream: the translation regime of stage 1."""

    EL1 = 0
    RESERVED_1 = 1
    EL2 = 2
    RESERVED_3 = 3


class ShCfg(IntEnum):
    """SHCFG of STE and GBPA: shareability of what is not translated."""

    NSH = 0
    INCOMING = 1
    OSH = 2
    ISH = 3


class FetchCache(IntEnum):
    """STE.S1CIR and S1COR: how CDs are fetched (RA: read-allocate)."""

    NC = 0
    WB_RA = 1
    WT_RA = 2
    WB = 3


class WalkCache(IntEnum):
    """IR and OR fields: how translation tables are fetched (RA, WA: read-, write-allocate)."""

    NC = 0
    WB_RA_WA = 1
    WT = 2
    WB_RA = 3


class PrivCfg(IntEnum):
    """PRIVCFG of STE and GBPA: overrides the privilege of a transaction."""

    INCOMING = 0
    INCOMING_1 = 1
    UNPRIVILEGED = 2
    PRIVILEGED = 3


class InstCfg(IntEnum):
    """INSTCFG of STE and GBPA: overrides data or instruction of a read."""

    INCOMING = 0
    INCOMING_1 = 1
    DATA = 2
    INSTRUCTION = 3


class Tg0(IntEnum):
    """CD.TG0 and STE.S2TG: translation granule."""

    GRANULE_4K = 0
    GRANULE_64K = 1
    GRANULE_16K = 2
    RESERVED_3 = 3


class Tg1(IntEnum):
    """CD.TG1: translation granule, in another code than TG0."""

    RESERVED_0 = 0
    GRANULE_16K = 1
    GRANULE_4K = 2
    GRANULE_64K = 3


TG0_SHIFT = (12, 16, 14, None)
"""log2 of the granule for each code of TG0 and S2TG; None where the code is reserved."""
TG1_SHIFT = (None, 14, 12, 16)
"""log2 of the granule for each code of TG1; None where the code is reserved."""


class L1Std(Word, size=64):
    """Level 1 stream table descriptor (5.1)."""

    span = bits(4, 0, doc="2^(span-1) STEs at l2ptr; 0 and above 11: none")
    l2ptr = address(55, 6, doc="level 2 stream table, aligned to its size")


class Ste(Word, size=512):
    """Stream table entry (5.2)."""

    v = flag(0, "valid")
    config = bits(3, 1, Config)
    s1fmt = bits(5, 4, S1Fmt, doc="CD table format")
    s1contextptr = address(55, 6, doc="CD, or CD table")
    s1cdmax = bits(63, 59, doc="log2 of the number of CDs; 0: one CD, no substreams")

    s1dss = bits(65, 64, S1Dss, doc="transactions without SubstreamID")
    s1cir = bits(67, 66, FetchCache, doc="CD fetch, inner cache")
    s1cor = bits(69, 68, FetchCache, doc="CD fetch, outer cache")
    s1csh = bits(71, 70, Shareability, doc="CD fetch, shareability")
    s2hwu59 = flag(72, "descriptor bit 59 is for hardware")
    s2hwu60 = flag(73, "descriptor bit 60 is for hardware")
    s2hwu61 = flag(74, "descriptor bit 61 is for hardware")
    s2hwu62 = flag(75, "descriptor bit 62 is for hardware")
    dre = flag(76, "destructive reads allowed")
    cont = bits(80, 77, doc="2^cont neighbouring STEs are equal")
    dcp = flag(81, "directed cache prefetch allowed")
    ppar = flag(82, "automatic page responses carry the PASID")
    mev = flag(83, "events may be merged")
    software = bits(87, 84, doc="for software; not read by hardware")
    s1pie = flag(88, "stage 1 permission indirection")
    s2fwb = flag(89, "stage 2 forces write-back")
    s1mpam = flag(90, "PARTID and PMG from the CD")
    s1stalld = flag(91, "stage 1 must not stall")
    eats = bits(93, 92, Eats)
    strw = bits(95, 94, Strw, doc="translation regime")

    memattr = bits(99, 96, doc="memory type override")
    mtcfg = flag(100, "memattr is used")
    alloccfg = bits(104, 101, doc="allocation hints")
    shcfg = bits(109, 108, ShCfg)
    nscfg = bits(111, 110, doc="Non-secure override; Secure streams only")
    privcfg = bits(113, 112, PrivCfg)
    instcfg = bits(115, 114, InstCfg)
    impl_127_116 = bits(127, 116, doc="implementation defined")

    s2vmid = bits(143, 128)
    impl_159_144 = bits(159, 144, doc="implementation defined")
    s2t0sz = bits(165, 160, doc="IPA size is 64 - s2t0sz")
    s2sl0 = bits(167, 166, doc="start level; its code depends on the granule")
    s2ir0 = bits(169, 168, WalkCache, doc="walks, inner cache")
    s2or0 = bits(171, 170, WalkCache, doc="walks, outer cache")
    s2sh0 = bits(173, 172, Shareability, doc="walks, shareability")
    s2tg = bits(175, 174, Tg0, doc="granule")
    s2ps = bits(178, 176, AddressSize, doc="physical address size")
    s2aa64 = flag(179, "VMSAv8-64 tables")
    s2endi = flag(180, "big-endian tables")
    s2affd = flag(181, "no access flag faults")
    s2ptw = flag(182, "stage 1 walks must not reach device memory")
    s2hd = flag(183, "hardware updates dirty state")
    s2ha = flag(184, "hardware updates access flags")
    s2s = flag(185, "faults stall")
    s2r = flag(186, "faults are recorded")
    s2haft = flag(187, "hardware updates access flags of tables")
    s2pie = flag(188, "permission indirection")
    s2poe = flag(189, "permission overlays")
    dpt_vmatch = bits(191, 190)

    s2nsw = flag(192)
    s2nsa = flag(193)
    s2sl0_2 = flag(194, "start level, third bit")
    s2ds = flag(195, "52-bit addresses with granules below 64K")
    s2ttb = address(243, 196, doc="translation table base")
    s2skl = bits(254, 253, doc="skipped levels")
    partid = bits(287, 272, doc="MPAM partition")


class L1Cd(Word, size=64):
    """Level 1 CD table descriptor (5.3)."""

    v = flag(0, "valid")
    l2ptr = address(55, 12, doc="leaf table, aligned to its size")


class Cd(Word, size=512):
    """Context descriptor (5.4)."""

    t0sz = bits(5, 0, doc="region size is 64 - t0sz")
    tg0 = bits(7, 6, Tg0, doc="granule")
    ir0 = bits(9, 8, WalkCache, doc="walks, inner cache")
    or0 = bits(11, 10, WalkCache, doc="walks, outer cache")
    sh0 = bits(13, 12, Shareability, doc="walks, shareability")
    epd0 = flag(14, "walks through ttb0 fault")
    endi = flag(15, "big-endian tables")
    t1sz = bits(21, 16, doc="region size is 64 - t1sz")
    tg1 = bits(23, 22, Tg1, doc="granule")
    ir1 = bits(25, 24, WalkCache, doc="walks, inner cache")
    or1 = bits(27, 26, WalkCache, doc="walks, outer cache")
    sh1 = bits(29, 28, Shareability, doc="walks, shareability")
    epd1 = flag(30, "walks through ttb1 fault")
    v = flag(31, "valid")
    ips = bits(34, 32, AddressSize, doc="intermediate address size")
    affd = flag(35, "no access flag faults")
    wxn = flag(36, "what is writable is not executable")
    uwxn = flag(37, "what unprivileged may write, privileged cannot execute")
    tbi0 = flag(38, "top byte ignored")
    tbi1 = flag(39, "top byte ignored")
    pan = flag(40, "privileged data accesses not to unprivileged pages")
    aa64 = flag(41, "VMSAv8-64 tables")
    hd = flag(42, "hardware updates dirty state")
    ha = flag(43, "hardware updates access flags")
    s = flag(44, "faults stall")
    r = flag(45, "faults are recorded")
    a = flag(46, "faults abort, in place of reading zero")
    aset = flag(47, "ASID not shared with the CPUs")
    asid = bits(63, 48)

    nscfg0 = flag(64, "Non-secure walks; Secure streams only")
    had0 = flag(65, "hierarchical attributes off")
    e0pd0 = flag(66, "unprivileged accesses fault")
    haft = flag(67, "hardware updates access flags of tables")
    ttb0 = address(115, 68, doc="translation table base, low half")
    pnch = flag(122, "protected attribute instead of contiguous bit")
    epan = flag(123, "pan also covers what unprivileged may execute")
    hwu0 = bits(127, 124, doc="descriptor bits 62:59 are for hardware")

    nscfg1 = flag(128, "Non-secure walks; Secure streams only")
    had1 = flag(129, "hierarchical attributes off")
    e0pd1 = flag(130, "unprivileged accesses fault")
    aie = flag(131, "attribute index extension")
    ttb1 = address(179, 132, doc="translation table base, high half")
    ds = flag(186, "52-bit addresses with granules below 64K")
    pie = flag(187, "permission indirection")
    hwu1 = bits(191, 188, doc="descriptor bits 62:59 are for hardware")

    mair0 = bits(223, 192, doc="memory attributes 0 to 3")
    mair1 = bits(255, 224, doc="memory attributes 4 to 7")
    amair0 = bits(287, 256, doc="implementation defined memory attributes")
    amair1 = bits(319, 288, doc="implementation defined memory attributes")
    partid = bits(367, 352, doc="MPAM partition")
    pmg = bits(375, 368, doc="MPAM monitoring group")
