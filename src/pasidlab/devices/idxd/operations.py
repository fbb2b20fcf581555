"""What DSA does: one function an operation, from the parsed descriptor to the status of its completion.

Source: Intel DSA architecture specification, descriptors and completion records by operation; codes and places of
fields by include/uapi/linux/idxd.h (v6.12 and v7.3).
Decided here: a delta record is written when it is complete, so a fault leaves none of it; a cache flush and a
translation fetch read, since caches are not modelled; 2^19 bytes at the most in a create delta, whose 16-bit offsets
count 8 bytes.
Not modelled: DIF and DIX, readback, the CRC's own flags and a seed in memory, patterns of 16 bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

from pasidlab.devices.idxd.descriptors import Descriptor, Flags, IaaOpcode, Opcode, Status
from pasidlab.devices.idxd.job import LARGEST_REQUEST, Job, part_of

Run = Callable[[Job, Descriptor], int]

USUAL_FLAGS = 0xFFFF & ~(Flags.CR | Flags.DRDBK | Flags.DSTS | 1 << 6)
"""Flags that every operation may have: no check of a result, and no readback, which GENCAP does not offer."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation.

    Attributes:
        opcode, run: its code, and what it does.
        invalid_flags: bits of the flags that it must not have.
        specific: which bits of bytes 40 to 63 it uses; the others are reserved.
        sized: it has a transfer size, from 1 to the queue's bound.
        word19: it uses bits 319:304, too.
    """

    opcode: Opcode | IaaOpcode
    run: Run
    invalid_flags: int = 0xFF_FFFF & ~USUAL_FLAGS
    specific: int = 0
    sized: bool = True
    word19: bool = False


def noop(job: Job, descriptor: Descriptor) -> int:
    """No operation, and a drain, before which all earlier descriptors are done: queues run in order."""
    return Status.SUCCESS


def memmove(job: Job, descriptor: Descriptor) -> int:
    """Copy; from the end if the destination begins within the source."""
    source, destination, size = descriptor.source, descriptor.destination, descriptor.size
    if source < destination < source + size:
        return _copy_from_end(job, descriptor)
    done = 0
    while done < size:
        data = job.read(source + done, part_of(size - done, source + done, destination + done))
        if data is None or not job.write(destination + done, data):
            return job.stopped(done)
        done += len(data)
    return job.done(done)


def _copy_from_end(job: Job, descriptor: Descriptor) -> int:
    """Copy the last bytes first; the result 1 tells it if a fault ends it."""
    left = descriptor.size
    while left:
        ends = (descriptor.source + left, descriptor.destination + left)
        part = min(left, *((end - 1) % LARGEST_REQUEST + 1 for end in ends))
        data = job.read(ends[0] - part, part)
        if data is None or not job.write(ends[1] - part, data):
            job.result = 1
            return job.stopped(descriptor.size - left)
        left -= part
    return job.done(descriptor.size)


def fill(job: Job, descriptor: Descriptor) -> int:
    """Repeat the 8 bytes of the source field."""
    pattern = descriptor.source.to_bytes(8, "little")
    destination, size, done = descriptor.destination, descriptor.size, 0
    while done < size:
        part = part_of(size - done, destination + done)
        if not job.write(destination + done, _repeated(pattern, done, part)):
            return job.stopped(done)
        done += part
    return job.done(done)


def _repeated(pattern: bytes, start: int, size: int) -> bytes:
    """Return `size` bytes of a pattern without end, from byte `start` of it."""
    phase = start % len(pattern)
    return (pattern * ((phase + size) // len(pattern) + 1))[phase : phase + size]


def compare(job: Job, descriptor: Descriptor) -> int:
    """Compare two ranges; bytes completed is where they first differ."""
    first, second, size, done = descriptor.source, descriptor.destination, descriptor.size, 0
    while done < size:
        one = job.read(first + done, part_of(size - done, first + done, second + done))
        two = None if one is None else job.read(second + done, len(one))
        if one is None or two is None:
            return job.stopped(done)
        if one != two:
            return _differs(job, descriptor, done, one, two)
        done += len(one)
    return _compared(job, descriptor, done)


def compare_pattern(job: Job, descriptor: Descriptor) -> int:
    """Compare a range with the 8 bytes of the destination field, repeated."""
    pattern = descriptor.destination.to_bytes(8, "little")
    source, size, done = descriptor.source, descriptor.size, 0
    while done < size:
        data = job.read(source + done, part_of(size - done, source + done))
        if data is None:
            return job.stopped(done)
        expected = _repeated(pattern, done, len(data))
        if data != expected:
            return _differs(job, descriptor, done, data, expected)
        done += len(data)
    return _compared(job, descriptor, done)


def _differs(job: Job, descriptor: Descriptor, done: int, one: bytes, two: bytes) -> int:
    job.result = 1
    first = next(index for index in range(len(one)) if one[index] != two[index])
    return _compared(job, descriptor, done + first)


def _compared(job: Job, descriptor: Descriptor, bytes_completed: int) -> int:
    """Return success, or with the check-result flag whether the result is the one expected."""
    job.bytes_completed = bytes_completed
    checks = descriptor.flags & Flags.CR
    return Status.SUCCESS_PREDICATE if checks and job.result != descriptor.specific[0] else Status.SUCCESS


# --- delta records -------------------------------------------------------------------------------------------------

DELTA_UNIT, DELTA_ENTRY = 8, 10
LARGEST_DELTA_SOURCE = DELTA_UNIT << 16
_DELTA = struct.Struct("<H8s")


def create_delta(job: Job, descriptor: Descriptor) -> int:
    """Write what differs between two ranges: result 0 nothing, 1 a record, 2 more than it may hold."""
    delta_address, most = struct.unpack_from("<QI", descriptor.specific)
    if (descriptor.source | descriptor.destination | delta_address) % DELTA_UNIT:
        return Status.ADDRESS_ALIGNMENT
    if descriptor.size % DELTA_UNIT or descriptor.size > LARGEST_DELTA_SOURCE:
        return Status.TRANSFER_SIZE
    if most % DELTA_ENTRY or not most:
        return Status.DELTA_SIZE
    one = job.read_all(descriptor.source, descriptor.size)
    two = None if one is None else job.read_all(descriptor.destination, descriptor.size)
    if one is None or two is None:
        return job.stopped()
    record, compared = _delta(one, two, most)
    if not job.write_all(delta_address, record):
        return job.stopped()
    job.result = 2 if compared < descriptor.size else int(bool(record))
    job.specific = len(record).to_bytes(4, "little")
    return job.done(compared)


def _delta(one: bytes, two: bytes, most: int) -> tuple[bytes, int]:
    """Return the record, and how far it reaches."""
    record = bytearray()
    for at in range(0, len(one), DELTA_UNIT):
        if one[at : at + DELTA_UNIT] == two[at : at + DELTA_UNIT]:
            continue
        if len(record) + DELTA_ENTRY > most:
            return bytes(record), at
        record += _DELTA.pack(at // DELTA_UNIT, two[at : at + DELTA_UNIT])
    return bytes(record), len(one)


def apply_delta(job: Job, descriptor: Descriptor) -> int:
    """Write the entries of a delta record over a range."""
    length = int.from_bytes(descriptor.specific[:4], "little")
    if (descriptor.source | descriptor.destination) % DELTA_UNIT:
        return Status.ADDRESS_ALIGNMENT
    if descriptor.size % DELTA_UNIT or descriptor.size > LARGEST_DELTA_SOURCE:
        return Status.TRANSFER_SIZE
    if length % DELTA_ENTRY or not 0 < length <= LARGEST_DELTA_SOURCE // DELTA_UNIT * DELTA_ENTRY:
        return Status.DELTA_SIZE
    record = job.read_all(descriptor.source, length)
    return job.stopped() if record is None else _apply(job, descriptor, record)


def _apply(job: Job, descriptor: Descriptor, record: bytes) -> int:
    before = -1
    for done, (unit, data) in enumerate(_DELTA.iter_unpack(record)):
        if unit <= before:
            return Status.DELTA_NOT_INCREASING
        if unit * DELTA_UNIT >= descriptor.size:
            return Status.DELTA_OUT_OF_RANGE
        if not job.write(descriptor.destination + unit * DELTA_UNIT, data):
            return job.stopped(done * DELTA_ENTRY)
        before = unit
    return job.done(len(record))


# --- copies and checksums ------------------------------------------------------------------------------------------


def overlaps(first: int, second: int, size: int) -> bool:
    """Whether two ranges of a size share bytes."""
    return abs(first - second) < size


def dualcast(job: Job, descriptor: Descriptor) -> int:
    """Copy to two destinations, whose bits 11:0 are equal."""
    source, first, size = descriptor.source, descriptor.destination, descriptor.size
    second = int.from_bytes(descriptor.specific[:8], "little")
    if (first ^ second) % LARGEST_REQUEST:
        return Status.DUALCAST
    if overlaps(source, first, size) or overlaps(source, second, size) or overlaps(first, second, size):
        return Status.OVERLAP
    done = 0
    while done < size:
        data = job.read(source + done, part_of(size - done, source + done, first + done))
        if data is None or not (job.write(first + done, data) and job.write(second + done, data)):
            return job.stopped(done)
        done += len(data)
    return job.done(done)


def _crc32c_table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return tuple(table)


_CRC32C = _crc32c_table()


def crc32c(data: bytes, seed: int = 0) -> int:
    """CRC-32C, inverted and reflected as iSCSI has it; `seed` is what it was up to here."""
    crc = seed ^ 0xFFFF_FFFF
    for byte in data:
        crc = crc >> 8 ^ _CRC32C[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFF_FFFF


def crc_gen(job: Job, descriptor: Descriptor) -> int:
    """Compute the CRC of a range; on a fault it is that of the bytes completed."""
    return _crc(job, descriptor, copies=False)


def copy_crc(job: Job, descriptor: Descriptor) -> int:
    """Copy, and compute the CRC."""
    if overlaps(descriptor.source, descriptor.destination, descriptor.size):
        return Status.OVERLAP
    return _crc(job, descriptor, copies=True)


def _crc(job: Job, descriptor: Descriptor, *, copies: bool) -> int:
    source, destination, size, done = descriptor.source, descriptor.destination, descriptor.size, 0
    crc = int.from_bytes(descriptor.specific[:4], "little")
    while done < size:
        ends = (source + done, destination + done) if copies else (source + done,)
        data = job.read(source + done, part_of(size - done, *ends))
        if data is None or (copies and not job.write(destination + done, data)):
            return job.stopped(done)
        crc = crc32c(data, crc)
        job.specific = crc.to_bytes(8, "little")
        done += len(data)
    return job.done(done)


def cache_flush(job: Job, descriptor: Descriptor) -> int:
    """Flush the destination: here only its translation shows."""
    data = job.read_all(descriptor.destination, descriptor.size)
    return job.stopped() if data is None else job.done(len(data))


def translation_fetch(job: Job, descriptor: Descriptor) -> int:
    """Fetch the translations of a region, a byte in each stride of it."""
    stride = max(int.from_bytes(descriptor.specific[8:12], "little"), LARGEST_REQUEST)
    for done in range(0, descriptor.size, stride):
        if job.read(descriptor.source + done, 1) is None:
            return job.stopped(done)
    return job.done(descriptor.size)


_CHECKS_RESULT = 0xFF_FFFF & ~(USUAL_FLAGS | Flags.CR)
_U32, _U64, _BYTE = (1 << 32) - 1, (1 << 64) - 1, 0xFF

DSA_OPERATIONS: dict[int, Operation] = {
    operation.opcode: operation
    for operation in (
        Operation(Opcode.NOOP, noop, sized=False),
        Operation(Opcode.DRAIN, noop, sized=False),
        Operation(Opcode.MEMMOVE, memmove),
        Operation(Opcode.FILL, fill),
        Operation(Opcode.COMPARE, compare, _CHECKS_RESULT, _BYTE),
        Operation(Opcode.COMPARE_PATTERN, compare_pattern, _CHECKS_RESULT, _BYTE),
        Operation(Opcode.CREATE_DELTA, create_delta, specific=_U64 | _U32 << 64),
        Operation(Opcode.APPLY_DELTA, apply_delta, specific=_U32),
        Operation(Opcode.DUALCAST, dualcast, specific=_U64),
        Operation(Opcode.TRANSLATION_FETCH, translation_fetch, specific=_U32 << 64),
        Operation(Opcode.CRC_GEN, crc_gen, specific=_U32),
        Operation(Opcode.COPY_CRC, copy_crc, specific=_U32),
        Operation(Opcode.CACHE_FLUSH, cache_flush),
    )
}
