"""What a user-space library makes of a job: the 64 bytes that it hands to the portal.

Decided here: a write of any bytes is a fill for each run of equal 8 bytes, so it needs no source; a read is a CRC of
the range; both ask for pages as they come (block on fault) and want no completion record, whose page would show in
every scenario. IAA has no fill: a write to it copies from `SOURCE_PAGE` pages into the area of the program's data,
where the program stores the bytes first; its read is a CRC64. A job of no bytes is a noop.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

from pasidlab.devices.endpoint import Access, Command, Work
from pasidlab.devices.idxd.analytics import IAA_OPERATIONS
from pasidlab.devices.idxd.descriptors import Flags, IaaOpcode, Opcode, build, build_iaa
from pasidlab.devices.idxd.engine import IAA, Kind
from pasidlab.devices.idxd.operations import DSA_OPERATIONS

PATTERN_BYTES = 8
PROGRAM_DATA = 0x1000_0000
"""Where a process has memory that it may write."""
SOURCE_PAGE = 3
"""The page of that memory from which a copy takes its bytes: the last one."""
CRC64_POLYNOMIAL = 0x42F0_E1EB_A9EA_3693
"""ECMA-182."""


def commands(kind: Kind, work: Work, page_size: int) -> Iterator[Command]:
    """Yield the commands that do a job, in order."""
    size = len(work.data) if work.access is Access.WRITE else work.size
    if not size:
        yield Command(build(Opcode.NOOP))
    elif kind is IAA:
        yield from _iaa_commands(work, page_size)
    elif work.access is Access.READ:
        yield Command(build(Opcode.CRC_GEN, Flags.BOF, source=work.address, size=size))
    else:
        yield from _fills(work)


def _fills(work: Work) -> Iterator[Command]:
    starts = range(0, len(work.data), PATTERN_BYTES)
    address = work.address
    for pattern, run in groupby(work.data[start : start + PATTERN_BYTES] for start in starts):
        size = sum(len(part) for part in run)
        source = int.from_bytes(pattern, "little")
        yield Command(build(Opcode.FILL, Flags.BOF, source=source, destination=address & _WRAP, size=size))
        address += size


_WRAP = (1 << 64) - 1


def _iaa_commands(work: Work, page_size: int) -> Iterator[Command]:
    if work.access is Access.READ:
        polynomial = {"num_inputs": CRC64_POLYNOMIAL >> 32, "filter_flags": CRC64_POLYNOMIAL & 0xFFFF_FFFF}
        fields = {"source1": work.address, "source1_size": work.size}
        yield Command(build_iaa(IaaOpcode.CRC64, Flags.BOF, **fields, **polynomial))
        return
    source = PROGRAM_DATA + SOURCE_PAGE * page_size
    for done in range(0, len(work.data), page_size):
        part = work.data[done : done + page_size]
        fields = {"source1": source, "destination": (work.address + done) & _WRAP, "source1_size": len(part)}
        yield Command(build_iaa(IaaOpcode.MEMMOVE, Flags.BOF, **fields), source, part)


@dataclass(frozen=True, slots=True)
class Request:
    """One descriptor as a person writes it.

    Attributes:
        opcode: the operation.
        source, destination, size: as the descriptor has them; of IAA they are source 1 and its size.
        pattern: of a fill, and of a compare with a pattern: the 8 bytes, in the place of an address.
        destination2: of a dualcast.
        delta, delta_size: where create_delta writes its record and what room it has there; of apply_delta, whose
            source the record is, only its size.
        seed: of a CRC: where it begins.
        room: of IAA: most bytes of output.
        completion: where the completion record goes, on success too; None is no record.
        block_on_fault: ask for pages and wait.
    """

    opcode: Opcode | IaaOpcode
    source: int = 0
    destination: int = 0
    size: int = 0
    pattern: bytes = b""
    destination2: int = 0
    room: int = 0
    completion: int | None = None
    block_on_fault: bool = True
    delta: int = 0
    delta_size: int = 0
    seed: int = 0

    def pack(self) -> bytes:
        """Return the 64 bytes, with dword 0 left 0; ValueError names the field that does not fit."""
        flags: int = Flags.BOF if self.block_on_fault else 0
        if self.completion is not None:
            flags |= Flags.CRAV | Flags.RCR
        pattern = int.from_bytes(self.pattern, "little")
        in_source = self.opcode != Opcode.COMPARE_PATTERN
        completion = self.completion or 0
        source = pattern if self.pattern and in_source else self.source
        destination = pattern if self.pattern and not in_source else self.destination
        if isinstance(self.opcode, IaaOpcode):
            fields = {"source1": source, "source1_size": self.size, "max_destination_size": self.room}
            return build_iaa(self.opcode, flags, completion_addr=completion, destination=destination, **fields)
        fields = {"source": source, "size": self.size, "operation_specific": self._specific()}
        return build(self.opcode, flags, completion_addr=completion, destination=destination, **fields)

    def _specific(self) -> int:
        """Return what begins at byte 40, which each operation has its own use for."""
        if self.opcode == Opcode.DUALCAST:
            return self.destination2
        if self.opcode == Opcode.CREATE_DELTA:
            return self.delta | self.delta_size << 64
        return self.delta_size if self.opcode == Opcode.APPLY_DELTA else self.seed


OPERATIONS: dict[str, dict[str, Opcode | IaaOpcode]] = {
    "dsa": {Opcode(code).name.lower(): Opcode(code) for code in DSA_OPERATIONS},
    "iaa": {IaaOpcode(code).name.lower(): IaaOpcode(code) for code in IAA_OPERATIONS},
}
"""Operations by the name that a person gives them, for each kind of device; a batch has a list, so it is not here."""
_COPY = ("source", "destination", "size")
OPERANDS: dict[int, tuple[str, ...]] = {
    Opcode.NOOP: (),
    Opcode.DRAIN: (),
    Opcode.MEMMOVE: _COPY,
    Opcode.FILL: ("pattern", "destination", "size"),
    Opcode.COMPARE: _COPY,
    Opcode.COMPARE_PATTERN: ("source", "pattern", "size"),
    Opcode.CREATE_DELTA: (*_COPY, "delta", "delta_size"),
    Opcode.APPLY_DELTA: (*_COPY, "delta_size"),
    Opcode.DUALCAST: (*_COPY, "destination2"),
    Opcode.TRANSLATION_FETCH: ("source", "size"),
    Opcode.CRC_GEN: ("source", "size", "seed"),
    Opcode.COPY_CRC: (*_COPY, "seed"),
    Opcode.CACHE_FLUSH: ("destination", "size"),
    IaaOpcode.COMPRESS: (*_COPY, "room"),
    IaaOpcode.DECOMPRESS: (*_COPY, "room"),
    IaaOpcode.CRC64: ("source", "size"),
}
"""Which fields of a `Request` each operation looks at; operations that DSA and IAA share have the same number."""
ALL_OPERANDS = tuple(dict.fromkeys(field for fields in OPERANDS.values() for field in fields))
