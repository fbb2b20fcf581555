"""The 64-byte descriptors of DSA and IAA, and the completion records that the devices write.

Source: include/uapi/linux/idxd.h (v6.12 and v7.3), which is the reference for bit positions and codes here; the Intel
DSA architecture specification for what they mean. Bits count from bit 0 of byte 0; all is little-endian.

Decided here: the specifications give one range of bits many names, by operation (source, pattern and descriptor list
are bits 191:128). A Word has one name for each range, that of memory move, and the docs of the field tell the others.

The device reads a descriptor through `parse()`, which takes it apart once; the Words are for building and for people.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import NamedTuple

from pasidlab.words import Word, address, bits, flag

DESCRIPTOR_BYTES = 64
MAX_PASID = 0xF_FFFF
FAULT_ON_WRITE = 0x80
"""Bit 7 of a completion's status byte: the page fault was one of a write."""


class Opcode(IntEnum):
    """Operations of DSA; those that IAA has too have the same numbers."""

    NOOP = 0x00
    BATCH = 0x01
    DRAIN = 0x02
    MEMMOVE = 0x03
    FILL = 0x04
    COMPARE = 0x05
    COMPARE_PATTERN = 0x06
    CREATE_DELTA = 0x07
    APPLY_DELTA = 0x08
    DUALCAST = 0x09
    TRANSLATION_FETCH = 0x0A
    CRC_GEN = 0x10
    COPY_CRC = 0x11
    DIF_CHECK = 0x12
    DIF_INSERT = 0x13
    DIF_STRIP = 0x14
    DIF_UPDATE = 0x15
    DIX_GEN = 0x17
    CACHE_FLUSH = 0x20


class IaaOpcode(IntEnum):
    """Operations of IAA that its own work is for."""

    NOOP = 0x00
    DRAIN = 0x02
    MEMMOVE = 0x03
    DECOMPRESS = 0x42
    COMPRESS = 0x43
    CRC64 = 0x44


class Flags(IntEnum):
    """Bits 55:32 of a descriptor, counted from 0; combined they are plain numbers."""

    FENCE = 1 << 0
    BOF = 1 << 1
    CRAV = 1 << 2
    RCR = 1 << 3
    RCI = 1 << 4
    CRSTS = 1 << 5
    CR = 1 << 7
    CC = 1 << 8
    ADDR1_TCS = 1 << 9
    ADDR2_TCS = 1 << 10
    ADDR3_TCS = 1 << 11
    CR_TCS = 1 << 12
    STORD = 1 << 13
    DRDBK = 1 << 14
    DSTS = 1 << 15


class Status(IntEnum):
    """Status of a completion record, bits 6:0; IAA shares those that it has, and adds its own."""

    NONE = 0x00
    SUCCESS = 0x01
    SUCCESS_PREDICATE = 0x02
    PAGE_FAULT_NO_BOF = 0x03
    PAGE_FAULT_INVALID = 0x04
    BATCH_FAILED = 0x05
    BATCH_PAGE_FAULT = 0x06
    DELTA_NOT_INCREASING = 0x07
    DELTA_OUT_OF_RANGE = 0x08
    DIF_ERROR = 0x09
    ANALYTICS_ERROR = 0x0A
    OUTPUT_OVERFLOW = 0x0B
    BAD_OPCODE = 0x10
    INVALID_FLAGS = 0x11
    RESERVED_NOT_ZERO = 0x12
    TRANSFER_SIZE = 0x13
    DESCRIPTOR_COUNT = 0x14
    DELTA_SIZE = 0x15
    OVERLAP = 0x16
    DUALCAST = 0x17
    LIST_ALIGNMENT = 0x18
    INT_HANDLE = 0x19
    RECORD_TRANSLATION = 0x1A
    RECORD_ALIGNMENT = 0x1B
    ADDRESS_ALIGNMENT = 0x1C
    BAD_PRIV = 0x1D
    TRAFFIC_CLASS = 0x1E
    READBACK_PAGE_FAULT = 0x1F
    HARDWARE_ERROR = 0x20
    HARDWARE_ERROR_READBACK = 0x21
    TRANSLATION_FAILED = 0x22
    DRAIN_EVENT_LOG = 0x26
    BATCH_EVENT_LOG = 0x27


_ALL_OPCODES = {opcode.value: opcode.name for opcode in Opcode} | {o.value: o.name for o in IaaOpcode}
_STATUS_NAMES = {status.value: status.name for status in Status}
_IN_WORDS = {
    Status.SUCCESS_PREDICATE: "success, predicate false",
    Status.PAGE_FAULT_NO_BOF: "page fault, block on fault not set",
    Status.PAGE_FAULT_INVALID: "page fault, page request refused",
    Status.RECORD_TRANSLATION: "page fault of the completion record",
    Status.RECORD_ALIGNMENT: "alignment of the completion record",
    Status.DUALCAST: "destinations of a dualcast",
}
"""Names for people where the constant's own is too short."""


class Common(Word, size=512):
    """What all descriptors begin with."""

    pasid = bits(19, 0, doc="of a shared queue; a dedicated one has its own in WQCFG")
    priv = flag(31, doc="privileged; 0 from ENQCMD")
    fence = flag(32, doc="in a batch: wait for the descriptors before")
    bof = flag(33, doc="block on fault: ask for pages and wait")
    crav = flag(34, doc="the completion record address is valid")
    rcr = flag(35, doc="request a completion record even on success")
    rci = flag(36, doc="request a completion interrupt")
    crsts = flag(37, doc="completion record steering")
    cr = flag(39, doc="check the result against the one expected")
    cc = flag(40, doc="cache control: allocate on write")
    addr1_tcs = flag(41, doc="traffic class selector of address 1")
    addr2_tcs = flag(42, doc="traffic class selector of address 2")
    addr3_tcs = flag(43, doc="traffic class selector of address 3")
    cr_tcs = flag(44, doc="traffic class selector of the completion record")
    stord = flag(45, doc="strict ordering")
    drdbk = flag(46, doc="destination readback")
    dsts = flag(47, doc="destination steering")
    operation_flags = bits(55, 48, doc="flags of the operation; those of IAA for its second source")
    opcode = bits(63, 56, names=_ALL_OPCODES)
    completion_addr = address(127, 64, doc="where the completion record goes: 32 byte aligned, of IAA 64")


class DsaDescriptor(Common, size=512):
    """`struct dsa_hw_desc`."""

    source = address(191, 128, doc="source; pattern of a fill; descriptor list of a batch; delta record to apply")
    destination = address(255, 192, doc="destination; second source or pattern of a compare")
    size = bits(287, 256, doc="transfer size in bytes; descriptor count of a batch")
    int_handle = bits(303, 288, doc="interrupt handle")
    operation_specific = bits(511, 320, doc="expected result; delta record; second destination; CRC seed")


class IaaDescriptor(Common, size=512):
    """`struct iax_hw_desc`."""

    source1 = address(191, 128)
    destination = address(255, 192)
    source1_size = bits(287, 256)
    int_handle = bits(303, 288)
    compression_flags = bits(319, 304, doc="of compression or decompression; flags of a CRC64")
    source2 = address(383, 320, doc="tables (AECS), or a second input")
    max_destination_size = bits(415, 384)
    source2_size = bits(447, 416)
    filter_flags = bits(479, 448)
    num_inputs = bits(511, 480)


class DsaCompletion(Word, size=256):
    """`struct dsa_completion_record`."""

    status = bits(6, 0, names=_STATUS_NAMES)
    fault_write = flag(7, doc="the page fault was one of a write")
    result = bits(15, 8, doc="of a compare 1 is different; of a create delta 2 is too long")
    fault_info = bits(23, 16)
    bytes_completed = bits(63, 32, doc="of a batch: descriptors completed")
    fault_addr = address(127, 64)
    operation_specific = bits(255, 128, doc="invalid flags; delta record size; CRC")


class IaaCompletion(Word, size=512):
    """`struct iax_completion_record`."""

    status = bits(6, 0, names=_STATUS_NAMES)
    fault_write = flag(7, doc="the page fault was one of a write")
    error_code = bits(15, 8)
    fault_info = bits(23, 16)
    bytes_completed = bits(63, 32, doc="input bytes")
    fault_addr = address(127, 64)
    invalid_flags = bits(159, 128)
    output_size = bits(223, 192)
    output_bits = bits(231, 224)
    xor_csum = bits(255, 240, doc="exclusive or of the 16-bit words of the uncompressed data")
    crc = bits(287, 256, doc="CRC-32 of the uncompressed data; low half of a CRC64")
    min = bits(319, 288, doc="high half of a CRC64")
    max = bits(351, 320)
    sum = bits(383, 352)


class Descriptor(NamedTuple):
    """A descriptor taken apart; `specific` is bytes 40 to 63, `rsvd1` bits 319:304 (of IAA its compression flags)."""

    dword0: int
    flags: int
    opcode: int
    completion_addr: int
    source: int
    destination: int
    size: int
    int_handle: int
    rsvd1: int
    specific: bytes

    @property
    def pasid(self) -> int:
        """Bits 19:0."""
        return self.dword0 & MAX_PASID

    @property
    def priv(self) -> bool:
        """Bit 31."""
        return bool(self.dword0 >> 31)


_LAYOUT = struct.Struct("<IIQQQIHH24s")
_FLAG_BITS = (1 << 24) - 1


def parse(data: bytes) -> Descriptor:
    """Take 64 bytes apart."""
    dword0, dword1, *rest = _LAYOUT.unpack(data)
    return Descriptor(dword0, dword1 & _FLAG_BITS, dword1 >> 24, *rest)


def build(opcode: int, flags: int = 0, **fields: int) -> bytes:
    """Return the 64 bytes of a DSA descriptor whose dword 0 is left to the instruction that sends it.

    `fields` are `completion_addr`, `source`, `destination`, `size`, `int_handle` and `operation_specific`.
    """
    return DsaDescriptor((flags & _FLAG_BITS | opcode << 24) << 32, **fields).pack()


def build_iaa(opcode: int, flags: int = 0, **fields: int) -> bytes:
    """As `build()`, of an IAA descriptor; `fields` as `IaaDescriptor` names them."""
    return IaaDescriptor((flags & _FLAG_BITS | opcode << 24) << 32, **fields).pack()


def status_name(status: int) -> str:
    """Name a status byte for people, its write bit left out."""
    code = status & ~FAULT_ON_WRITE
    if code in _IN_WORDS:
        return _IN_WORDS[Status(code)]
    return _STATUS_NAMES.get(code, f"status {code:#x}").lower().replace("_", " ")
