"""Registers of DSA and IAA, those fields that bear on PASIDs, queues, groups and engines, and the portals of BAR2.

Source: drivers/dma/idxd/registers.h (v6.12 and v7.3), which is the reference here. The capabilities are those of a
first generation DSA, as its driver prints them at probe (gen_cap 0x40915f010f, wq_cap 0x3f000000080080, group_cap
0x36004, engine_cap 0x4), less what is not modelled. ATS support of queues is there too; PRS support, which only later
generations have, is on as well.

Decided here: the page of BAR0 where each table lies (GRPCFG 0x300, WQCFG 0x400, MSI-X permissions 0x500).
Not modelled: WQCFG's ATS disable (requests go by the device's ATS), interrupts, read buffers, the event log,
performance counters, IMS, operation masks of queues.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import IntEnum

from pasidlab.words import Word, bits, flag

# BAR0, byte offsets.
VERSION, GENCAP, WQCAP, GRPCAP, ENGCAP, OPCAP, TABLES = 0x00, 0x10, 0x20, 0x30, 0x38, 0x40, 0x60
GENCFG, GENCTRL, GENSTS, INTCAUSE, CMD, CMDSTS, CMDCAP, SWERR = 0x80, 0x88, 0x90, 0x98, 0xA0, 0xA8, 0xB0, 0xC0
SWERR_BYTES = 32
TABLE_UNIT = 0x100
GRPCFG, WQCFG, MSIX_PERM = 0x300, 0x400, 0x500
GRPCFG_BYTES, WQCFG_BYTES, MSIX_PERM_BYTES = 64, 32, 8
BAR0_BYTES = 0x1000

NUM_GROUPS, NUM_ENGINES, NUM_WQS, NUM_VECTORS = 4, 4, 8, 9
TOTAL_WQ_SIZE = 128
MAX_XFER_SHIFT, MAX_BATCH_SHIFT = 31, 10

PORTAL_BYTES = 0x1000
WQ_PORTALS = 4


class Portal(IntEnum):
    """The four pages of a queue in BAR2: which occupancy it accepts up to, and where its interrupts come from."""

    UNLIMITED = 0
    LIMITED = 1
    UNLIMITED_IMS = 2
    LIMITED_IMS = 3


def portal_offset(wq: int, portal: Portal = Portal.LIMITED) -> int:
    """Return the byte offset of a portal in BAR2; user space gets the limited one."""
    return (wq * WQ_PORTALS + portal) * PORTAL_BYTES


class Gencap(Word, size=64):
    """General capabilities."""

    block_on_fault = flag(0)
    overlap_copy = flag(1)
    cache_control_mem = flag(2)
    cache_control_cache = flag(3)
    cmd_cap = flag(4)
    dest_readback = flag(8)
    drain_readback = flag(9)
    evl_support = bits(14, 13)
    batch_continuation = flag(15)
    max_xfer_shift = bits(20, 16)
    max_batch_shift = bits(24, 21)
    max_ims_mult = bits(30, 25)
    config_en = flag(31, doc="software may configure queues and groups")


class Wqcap(Word, size=64):
    """Work queue capabilities."""

    total_wq_size = bits(15, 0)
    num_wqs = bits(23, 16)
    wqcfg_size = bits(27, 24, doc="a WQCFG has 2^(this + 5) bytes")
    shared_mode = flag(48)
    dedicated_mode = flag(49)
    wq_ats_support = flag(50)
    priority = flag(51)
    occupancy = flag(52)
    occupancy_int = flag(53)
    op_config = flag(54)
    wq_prs_support = flag(55)


class Grpcap(Word, size=64):
    """Group capabilities."""

    num_groups = bits(7, 0)
    total_rdbufs = bits(15, 8)


class Engcap(Word, size=64):
    """Engine capabilities."""

    num_engines = bits(7, 0)


class Tables(Word, size=128):
    """Where the tables are, in units of 0x100 bytes."""

    grpcfg = bits(15, 0)
    wqcfg = bits(31, 16)
    msix_perm = bits(47, 32)
    ims = bits(63, 48)
    perfmon = bits(79, 64)


class Gencfg(Word, size=32):
    """General configuration."""

    rdbuf_limit = bits(7, 0)
    user_int_en = flag(12)
    evl_en = flag(13)


class Genctrl(Word, size=32):
    """General control."""

    softerr_int_en = flag(0)
    halt_int_en = flag(1)
    evl_int_en = flag(2)


class DeviceState(IntEnum):
    """GENSTS.state."""

    DISABLED = 0
    ENABLED = 1
    DRAIN = 2
    HALT = 3


class Gensts(Word, size=32):
    """General status."""

    state = bits(1, 0, DeviceState)
    reset_type = bits(3, 2)


class Command(IntEnum):
    """CMD.cmd."""

    ENABLE_DEVICE = 1
    DISABLE_DEVICE = 2
    DRAIN_ALL = 3
    ABORT_ALL = 4
    RESET_DEVICE = 5
    ENABLE_WQ = 6
    DISABLE_WQ = 7
    DRAIN_WQ = 8
    ABORT_WQ = 9
    RESET_WQ = 10
    DRAIN_PASID = 11
    ABORT_PASID = 12
    REQUEST_INT_HANDLE = 13
    RELEASE_INT_HANDLE = 14


class Cmd(Word, size=32):
    """CMD: writing it executes a command."""

    operand = bits(19, 0)
    cmd = bits(24, 20, names={command.value: command.name for command in Command})
    int_req = flag(31)


class CommandError(IntEnum):
    """CMDSTS.err.

    The kernel's name of 0x13 is PASID_INVAL; the tool accel-config reads it as an unsupported PRSREQALLOC.
    """

    SUCCESS = 0x00
    INVALID_COMMAND = 0x01
    INVALID_WQ_INDEX = 0x02
    HARDWARE_ERROR = 0x03
    DEVICE_ENABLED = 0x10
    CONFIG = 0x11
    BUS_MASTER = 0x12
    PASID_INVALID = 0x13
    WQ_SIZE_RANGE = 0x14
    GROUP_CONFIG = 0x15
    GROUP_WQS = 0x16
    GROUP_ENGINES = 0x17
    GROUP_BUFFERS = 0x18
    DEVICE_NOT_ENABLED = 0x20
    WQ_ENABLED = 0x21
    WQ_SIZE = 0x22
    WQ_PRIORITY = 0x23
    WQ_MODE = 0x24
    WQ_BOF = 0x25
    WQ_PASID_ENABLE = 0x26
    WQ_MAX_BATCH = 0x27
    WQ_MAX_XFER = 0x28
    WQ_PRIV = 0x2A
    NOT_ENABLED = 0x31
    WQ_NOT_ENABLED = 0x32


class Cmdsts(Word, size=32):
    """What became of the last command."""

    err = bits(7, 0, names={error.value: error.name for error in CommandError})
    result = bits(23, 8)
    active = flag(31)


class Swerr(Word, size=256):
    """The first error that no completion record could tell."""

    valid = flag(0)
    overflow = flag(1, doc="more errors came before software cleared the first")
    desc_valid = flag(2)
    wq_idx_valid = flag(3)
    batch = flag(4)
    fault_rw = flag(5, doc="the page fault was one of a write")
    priv = flag(6)
    error = bits(15, 8)
    wq_idx = bits(23, 16)
    operation = bits(39, 32)
    pasid = bits(59, 40)
    batch_idx = bits(79, 64)
    invalid_flags = bits(127, 96)
    fault_addr = bits(191, 128)


class WqMode(IntEnum):
    """WQCFG.mode."""

    SHARED = 0
    DEDICATED = 1


class WqState(IntEnum):
    """WQCFG.wq_state."""

    DISABLED = 0
    ENABLED = 1
    BUSY = 2
    RESERVED_3 = 3


class Wqcfg(Word, size=256):
    """Configuration of a work queue."""

    wq_size = bits(15, 0, doc="descriptors that it holds")
    wq_thresh = bits(47, 32, doc="occupancy below which a limited portal accepts")
    mode = bits(64, 64, WqMode)
    bof = flag(65, doc="descriptors may block on faults")
    wq_ats_disable = flag(66)
    wq_prs_disable = flag(67)
    priority = bits(71, 68)
    pasid = bits(91, 72, doc="of a dedicated queue; a shared one has 0 here")
    pasid_en = flag(92, doc="requests carry a PASID")
    priv = flag(93, doc="of a dedicated queue: requests are privileged")
    max_xfer_shift = bits(100, 96)
    max_batch_shift = bits(104, 101)
    occupancy_inth = bits(143, 128)
    occupancy_limit = bits(175, 160)
    occupancy = bits(207, 192)
    mode_support = flag(221)
    wq_state = bits(223, 222, WqState)


class Grpcfg(Word, size=512):
    """Which queues and engines belong to a group."""

    wqs = bits(255, 0, doc="bit n: queue n")
    engines = bits(319, 256, doc="bit n: engine n")
    tc_a = bits(322, 320)
    tc_b = bits(325, 323)
    use_rdbuf_limit = flag(327)
    rdbufs_reserved = bits(335, 328)
    rdbufs_allowed = bits(347, 340)


class MsixPerm(Word, size=32):
    """Who may raise an interrupt: descriptors of one PASID."""

    ignore = flag(2)
    pasid_en = flag(3)
    pasid = bits(31, 12)


CMDCAP_VALUE = sum(1 << command for command in Command if command <= Command.ABORT_PASID)
"""The commands that there are: all but those of interrupt handles."""


def capabilities(opcodes: Iterable[int]) -> Iterator[tuple[int, int, int]]:
    """Yield offset, value and size of each register that says what a device is."""
    yield VERSION, 0x100, 4
    gencap = Gencap(block_on_fault=True, overlap_copy=True, cmd_cap=True, config_en=True)
    yield GENCAP, gencap.replace(max_xfer_shift=MAX_XFER_SHIFT, max_batch_shift=MAX_BATCH_SHIFT), 8
    wqcap = Wqcap(total_wq_size=TOTAL_WQ_SIZE, num_wqs=NUM_WQS, shared_mode=True, dedicated_mode=True)
    yield WQCAP, wqcap.replace(priority=True, occupancy=True, wq_ats_support=True, wq_prs_support=True), 8
    yield GRPCAP, Grpcap(num_groups=NUM_GROUPS), 8
    yield ENGCAP, Engcap(num_engines=NUM_ENGINES), 8
    yield OPCAP, sum(1 << opcode for opcode in opcodes), 32
    grpcfg, wqcfg, msix_perm = (offset // TABLE_UNIT for offset in (GRPCFG, WQCFG, MSIX_PERM))
    yield TABLES, Tables(grpcfg=grpcfg, wqcfg=wqcfg, msix_perm=msix_perm), 16
    yield CMDCAP, CMDCAP_VALUE, 4
