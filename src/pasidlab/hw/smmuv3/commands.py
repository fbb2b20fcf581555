"""Commands: the 16-byte entries of the command queue (IHI 0070 G.b, chapter 4).

A command class declares the fields its command has and no others, so that `reserved` shows what software left in the
rest. Opcodes without a class of their own, and codes without an opcode, read as plain `Command`.

Not modelled: layouts of the EL3, Secure and DPT commands; the widening of addresses to bit 55.
"""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar, Self

from pasidlab.hw.pagetable.descriptors import Shareability
from pasidlab.words import Word, address, bits, flag


class Opcode(IntEnum):
    """The codes that the architecture has given out."""

    PREFETCH_CONFIG = 0x01
    PREFETCH_ADDR = 0x02
    CFGI_STE = 0x03
    CFGI_STE_RANGE = 0x04
    CFGI_CD = 0x05
    CFGI_CD_ALL = 0x06
    CFGI_VMS_PIDM = 0x07
    TLBI_NH_ALL = 0x10
    TLBI_NH_ASID = 0x11
    TLBI_NH_VA = 0x12
    TLBI_NH_VAA = 0x13
    TLBI_EL3_ALL = 0x18
    TLBI_EL3_VA = 0x1A
    TLBI_EL2_ALL = 0x20
    TLBI_EL2_ASID = 0x21
    TLBI_EL2_VA = 0x22
    TLBI_EL2_VAA = 0x23
    TLBI_S12_VMALL = 0x28
    TLBI_S2_IPA = 0x2A
    TLBI_NSNH_ALL = 0x30
    ATC_INV = 0x40
    PRI_RESP = 0x41
    RESUME = 0x44
    STALL_TERM = 0x45
    SYNC = 0x46
    TLBI_S_EL2_ALL = 0x50
    TLBI_S_EL2_ASID = 0x51
    TLBI_S_EL2_VA = 0x52
    TLBI_S_EL2_VAA = 0x53
    TLBI_S_S12_VMALL = 0x58
    TLBI_S_S2_IPA = 0x5A
    TLBI_SNH_ALL = 0x60
    DPTI_ALL = 0x70
    DPTI_PA = 0x73


CFGI_ALL_RANGE = 31
"""CFGI_STE_RANGE with this Range is CFGI_ALL."""
ATC_INV_ALL = 52
"""ATC_INV with this Size covers all addresses."""


class Tg(IntEnum):
    """TG of a TLB invalidation: the granule of a range."""

    NO_RANGE = 0
    GRANULE_4K = 1
    GRANULE_16K = 2
    GRANULE_64K = 3


class Resp(IntEnum):
    """PRI_RESP.Resp: the answer to a page request group."""

    FAILURE = 0
    INVALID_REQUEST = 1
    SUCCESS = 2
    RESERVED_3 = 3


class Cs(IntEnum):
    """SYNC.CS: how completion is signalled."""

    NONE = 0
    IRQ = 1
    SEV = 2
    RESERVED_3 = 3


COMMANDS: dict[int, type[Command]] = {}
"""The class of each opcode that has one."""


class Command(Word, size=128):
    """What all commands have; a subclass that names its opcode stands in COMMANDS."""

    OPCODE: ClassVar[Opcode]

    opcode = bits(7, 0, names={member: member.name for member in Opcode})

    def __init_subclass__(cls, opcode: Opcode | None = None) -> None:
        super().__init_subclass__(size=128)
        if opcode is not None:
            cls.OPCODE = opcode
            COMMANDS[opcode] = cls

    @classmethod
    def make(cls, **fields: int) -> Self:
        """Build the command with its opcode."""
        return cls(opcode=cls.OPCODE, **fields)


def command_of(raw: int) -> Command:
    """Return a queue entry as the command that its opcode says."""
    return COMMANDS.get(raw & 0xFF, Command)(raw)


# --- parts that commands share -----------------------------------------------------------------------------------


class StreamCommand(Command):
    """A command about a stream."""

    ssec = flag(10, "Secure stream")
    sid = bits(63, 32, doc="StreamID")


class SubstreamCommand(StreamCommand):
    """A command about a stream or one of its substreams."""

    ssv = flag(11, "ssid is valid")
    ssid = bits(31, 12, doc="SubstreamID")


class VmidCommand(Command):
    """A command about a virtual machine."""

    vmid = bits(47, 32)


class RangeCommand(Command):
    """A TLB invalidation by address."""

    num = bits(16, 12, doc="(num + 1) << scale granules, where there is a tg")
    scale = bits(25, 20)
    leaf = flag(64, "last-level entries only")
    ttl = bits(73, 72, doc="level of the entry; 0: any")
    tg = bits(75, 74, Tg, doc="granule of the range")


# --- configuration -----------------------------------------------------------------------------------------------


class PrefetchConfig(SubstreamCommand, opcode=Opcode.PREFETCH_CONFIG):
    """4.2: fetch a configuration."""


class PrefetchAddr(SubstreamCommand, opcode=Opcode.PREFETCH_ADDR):
    """4.2: fetch a configuration and translations."""

    size = bits(68, 64, doc="2^size pages of 4K")
    addr = address(127, 76)


class CfgiSte(StreamCommand, opcode=Opcode.CFGI_STE):
    """4.3: an STE, and all CDs reached through it."""

    leaf = flag(64, "the STE, not the descriptors on the way to it")


class CfgiSteRange(StreamCommand, opcode=Opcode.CFGI_STE_RANGE):
    """4.3: the STEs of 2^(range+1) streams; range 31: all configuration."""

    range = bits(68, 64)


class CfgiCd(StreamCommand, opcode=Opcode.CFGI_CD):
    """4.3: one CD."""

    ssid = bits(31, 12, doc="SubstreamID")
    leaf = flag(64, "the CD, not the descriptors on the way to it")


class CfgiCdAll(StreamCommand, opcode=Opcode.CFGI_CD_ALL):
    """4.3: all CDs of a stream."""


class CfgiVmsPidm(VmidCommand, opcode=Opcode.CFGI_VMS_PIDM):
    """4.3: the PARTID map of a virtual machine."""

    ssec = flag(10, "Secure")


# --- translations ------------------------------------------------------------------------------------------------


class TlbiNhAll(VmidCommand, opcode=Opcode.TLBI_NH_ALL):
    """4.4: all of a VMID's stage 1."""


class TlbiNhAsid(VmidCommand, opcode=Opcode.TLBI_NH_ASID):
    """4.4: an ASID."""

    asid = bits(63, 48)


class TlbiNhVa(VmidCommand, RangeCommand, opcode=Opcode.TLBI_NH_VA):
    """4.4: addresses of an ASID."""

    asid = bits(63, 48)
    addr = address(127, 76)


class TlbiNhVaa(VmidCommand, RangeCommand, opcode=Opcode.TLBI_NH_VAA):
    """4.4: addresses of all ASIDs."""

    addr = address(127, 76)


class TlbiEl2All(Command, opcode=Opcode.TLBI_EL2_ALL):
    """4.4: all of EL2."""


class TlbiEl2Asid(Command, opcode=Opcode.TLBI_EL2_ASID):
    """4.4: an ASID of EL2-E2H."""

    asid = bits(63, 48)


class TlbiEl2Va(RangeCommand, opcode=Opcode.TLBI_EL2_VA):
    """4.4: addresses of EL2; with E2H, of an ASID."""

    asid = bits(63, 48)
    addr = address(127, 76)


class TlbiEl2Vaa(RangeCommand, opcode=Opcode.TLBI_EL2_VAA):
    """4.4: addresses of all ASIDs of EL2-E2H."""

    addr = address(127, 76)


class TlbiS12Vmall(VmidCommand, opcode=Opcode.TLBI_S12_VMALL):
    """4.4: both stages of a VMID."""


class TlbiS2Ipa(VmidCommand, RangeCommand, opcode=Opcode.TLBI_S2_IPA):
    """4.4: intermediate addresses of a VMID."""

    ipa = address(115, 76)


class TlbiNsnhAll(Command, opcode=Opcode.TLBI_NSNH_ALL):
    """4.4: everything Non-secure but EL2."""


# --- devices -----------------------------------------------------------------------------------------------------


class AtcInv(SubstreamCommand, opcode=Opcode.ATC_INV):
    """4.5: translations in a device's ATC."""

    global_ = flag(9, "all PASIDs; needs ssv")
    size = bits(69, 64, doc="2^size pages of 4K; 52: everything")
    addr = address(127, 76)


class PriResp(SubstreamCommand, opcode=Opcode.PRI_RESP):
    """4.5: the answer to a page request group."""

    prgindex = bits(72, 64)
    resp = bits(77, 76, Resp)


class Resume(StreamCommand, opcode=Opcode.RESUME):
    """4.6: what becomes of a stalled transaction: retry with ac, else abort with ab, else read zero, ignore writes."""

    ac = flag(12, "retry")
    ab = flag(13, "abort")
    stag = bits(79, 64, doc="from the event")


class StallTerm(StreamCommand, opcode=Opcode.STALL_TERM):
    """4.6: terminate all stalled transactions of a stream."""


# --- synchronisation ---------------------------------------------------------------------------------------------


class Sync(Command, opcode=Opcode.SYNC):
    """4.7: completes when all commands before it have."""

    cs = bits(13, 12, Cs, doc="how completion is signalled")
    msh = bits(23, 22, Shareability)
    msiattr = bits(27, 24, doc="memory type of the MSI")
    msidata = bits(63, 32)
    msiaddr = address(115, 66, doc="where the MSI is written; 0 for none")
