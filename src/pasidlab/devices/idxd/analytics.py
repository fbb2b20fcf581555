"""What IAA does: deflate, inflate, and a CRC, one function an operation.

Source: Intel IAA architecture specification, descriptors and completion records by operation; codes and places of
fields by include/uapi/linux/idxd.h (v6.12 and v7.3).
Decided here: compression is zlib's raw deflate of the whole input, without the tables that a program gives in its
second source; what a real IAA writes differs in the choice of codes, and inflates to the same bytes. A CRC64 takes
its polynomial from bytes 56 to 63, most significant bit first, and starts from 0.
Not modelled: the second source and its tables (AECS), statistics, filters (scan, extract, select, expand), indexes,
and flags of compression other than 0 as changing anything.
"""

from __future__ import annotations

import struct
import zlib
from functools import lru_cache

from pasidlab.devices.idxd.descriptors import Descriptor, IaaOpcode, Status
from pasidlab.devices.idxd.job import Job
from pasidlab.devices.idxd.operations import USUAL_FLAGS, Operation, memmove, noop

RAW_DEFLATE = -15
"""zlib's window bits for a stream without header and checksum."""
BAD_STREAM = 1
"""Error code of an analytics error: the input is no deflate stream, or ends early (the number is ours)."""

_OUTPUT = struct.Struct("<8xIBBHI")
"""Bytes 16 to 35 of the completion: output size and bits, checksums."""
_OUTPUT_CRC64 = struct.Struct("<16xQ")
_U64 = (1 << 64) - 1


def compress(job: Job, descriptor: Descriptor) -> int:
    """Deflate source 1 to the destination."""
    data = job.read_all(descriptor.source, descriptor.size)
    if data is None:
        return job.stopped()
    engine = zlib.compressobj(wbits=RAW_DEFLATE)
    return _output(job, descriptor, engine.compress(data) + engine.flush(), data)


def decompress(job: Job, descriptor: Descriptor) -> int:
    """Inflate source 1 to the destination."""
    data = job.read_all(descriptor.source, descriptor.size)
    if data is None:
        return job.stopped()
    engine = zlib.decompressobj(wbits=RAW_DEFLATE)
    try:
        output = engine.decompress(data, _most_output(descriptor) + 1)
    except zlib.error:
        return _bad_stream(job)
    if len(output) <= _most_output(descriptor) and not engine.eof:
        return _bad_stream(job)
    return _output(job, descriptor, output, output)


def _most_output(descriptor: Descriptor) -> int:
    return int.from_bytes(descriptor.specific[8:12], "little")


def _bad_stream(job: Job) -> int:
    job.result = BAD_STREAM
    return Status.ANALYTICS_ERROR


def _output(job: Job, descriptor: Descriptor, output: bytes, plain: bytes) -> int:
    """Write the output, if the destination holds it, and tell its size and the checksums of the plain bytes."""
    if len(output) > _most_output(descriptor):
        return Status.OUTPUT_OVERFLOW
    source, destination = descriptor.source, descriptor.destination
    if source < destination + len(output) and destination < source + descriptor.size:
        return Status.OVERLAP
    if not job.write_all(descriptor.destination, output):
        return job.stopped()
    job.specific = _OUTPUT.pack(len(output), 0, 0, xor_checksum(plain), zlib.crc32(plain))
    return job.done(descriptor.size)


def xor_checksum(data: bytes) -> int:
    """Exclusive or of the 16-bit little-endian words; an odd last byte has a 0 after it."""
    checksum = 0
    for (word,) in struct.iter_unpack("<H", data + bytes(len(data) % 2)):
        checksum ^= word
    return checksum


def crc64(job: Job, descriptor: Descriptor) -> int:
    """Compute a CRC of 64 bits over source 1."""
    data = job.read_all(descriptor.source, descriptor.size)
    if data is None:
        return job.stopped()
    polynomial = int.from_bytes(descriptor.specific[16:24], "little")
    job.specific = _OUTPUT_CRC64.pack(_crc64(data, polynomial))
    return job.done(len(data))


def _crc64(data: bytes, polynomial: int) -> int:
    """Divide by the polynomial, whose bit 64 is implied, byte by byte."""
    table, crc = _crc64_table(polynomial), 0
    for byte in data:
        crc = (crc << 8) & _U64 ^ table[crc >> 56 ^ byte]
    return crc


@lru_cache(maxsize=8)
def _crc64_table(polynomial: int) -> tuple[int, ...]:
    table = []
    for byte in range(256):
        value = byte << 56
        for _ in range(8):
            value = (value << 1 ^ (polynomial if value >> 63 else 0)) & _U64
        table.append(value)
    return tuple(table)


_IAA_INVALID = 0xFF_FFFF & ~(USUAL_FLAGS | 0x3F << 16)
_ALL = (1 << 192) - 1

IAA_OPERATIONS: dict[int, Operation] = {
    operation.opcode: operation
    for operation in (
        Operation(IaaOpcode.NOOP, noop, sized=False),
        Operation(IaaOpcode.DRAIN, noop, sized=False),
        Operation(IaaOpcode.MEMMOVE, memmove),
        Operation(IaaOpcode.DECOMPRESS, decompress, _IAA_INVALID, _ALL, word19=True),
        Operation(IaaOpcode.COMPRESS, compress, _IAA_INVALID, _ALL, word19=True),
        Operation(IaaOpcode.CRC64, crc64, _IAA_INVALID, _ALL, word19=True),
    )
}
