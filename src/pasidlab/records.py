"""The records of real kernels: one JSON object a line, plain or gzipped; the schema is described in docs/records.md.

Lines are read one at a time, so that a file may be larger than memory.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal, cast

import msgspec

from pasidlab.decode import convert
from pasidlab.errors import InputError
from pasidlab.hw.pagetable.descriptors import Shareability
from pasidlab.hw.smmuv3.structures import AddressSize, S1Dss, S1Fmt, Tg0, WalkCache

MAX_LINE = 16 * 1024 * 1024
"""Longest line of a record file, in bytes."""


class Instance(msgspec.Struct, frozen=True):
    """An IOMMU instance of a record."""

    id: int
    max_pasids: int
    ret: int = 0
    ops: str = "usual"


class Dev(msgspec.Struct, frozen=True):
    """A platform device of a record; `bits` and `group` -1 are none, `inst` -1 is behind no IOMMU."""

    id: int
    inst: int
    bits: int
    group: int
    max_pasids: int
    ret: int = 0


class Sequence(msgspec.Struct, frozen=True):
    """One recorded sequence: it starts from a fresh kernel."""

    seq: int
    kind: str
    kernel: str
    insts: list[Instance]
    devs: list[Dev]
    steps: list[tuple[list[Any], dict[str, Any]]]


Flag = Literal[0, 1]
Hex64 = Annotated[str, msgspec.Meta(pattern="^[0-9a-fA-F]{1,16}$")]
"""A 64-bit word in hexadecimal digits."""
Entry = Annotated[list[Hex64], msgspec.Meta(min_length=8, max_length=8)]
"""An STE or a CD, word 0 first."""
Bits2 = Annotated[int, msgspec.Meta(ge=0, lt=1 << 2)]
Bits5 = Annotated[int, msgspec.Meta(ge=0, lt=1 << 5)]
Bits6 = Annotated[int, msgspec.Meta(ge=0, lt=1 << 6)]
Bits16 = Annotated[int, msgspec.Meta(ge=0, lt=1 << 16)]


class SteParams(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    """What every stream table entry was made from: features of the SMMU, and how the master uses them."""

    feat_stalls: Flag
    feat_attr_types_ovr: Flag
    feat_e2h: Flag
    stall_enabled: Flag
    ats: Flag


class AbortParams(SteParams, frozen=True, kw_only=True, tag="abort"):
    """arm_smmu_make_abort_ste()."""


class BypassParams(SteParams, frozen=True, kw_only=True, tag="bypass"):
    """arm_smmu_make_bypass_ste()."""


class CdTableParams(SteParams, frozen=True, kw_only=True, tag="cdtable"):
    """arm_smmu_make_cdtable_ste()."""

    cdtab: Hex64
    s1cdmax: Bits5
    s1fmt: S1Fmt
    s1dss: S1Dss


class S2Params(SteParams, frozen=True, kw_only=True, tag="s2"):
    """arm_smmu_make_s2_domain_ste()."""

    vmid: Bits16
    tsz: Bits6
    sl: Bits2
    irgn: WalkCache
    orgn: WalkCache
    sh: Shareability
    tg: Tg0
    ps: AddressSize
    vttbr: Hex64


class CdParams(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    """What every context descriptor was made from."""

    feat_stall_force: Flag
    stall_enabled: Flag
    asid: Bits16
    feat_ha: Flag = 0
    feat_hd: Flag = 0
    feat_haft: Flag = 0


class ZeroParams(CdParams, frozen=True, kw_only=True, tag="zero"):
    """A cleared descriptor."""


class S1Params(CdParams, frozen=True, kw_only=True, tag="s1"):
    """arm_smmu_make_s1_cd()."""

    ips: AddressSize
    tg: Tg0
    sh: Shareability
    orgn: WalkCache
    irgn: WalkCache
    tsz: Bits6
    ttbr: Hex64
    mair: Hex64
    hd: Flag


class SvaParams(CdParams, frozen=True, kw_only=True, tag="sva"):
    """arm_smmu_make_sva_cd() with an mm."""

    pgd_pa: Hex64


class SvaReleaseParams(CdParams, frozen=True, kw_only=True, tag="sva_release"):
    """arm_smmu_make_sva_cd() without an mm."""


class EntryUpdate(msgspec.Struct, frozen=True, kw_only=True, tag_field="entry"):
    """One entry that the driver changed into another; `syncK` is the entry in memory at its K-th sync."""

    n: int
    from_: Entry = msgspec.field(name="from")
    to: Entry
    to_used: Entry
    sync0: Entry | None = None
    sync1: Entry | None = None
    sync2: Entry | None = None
    final: Entry
    syncs: int


class SteUpdate(EntryUpdate, frozen=True, kw_only=True, tag="ste"):
    """An update of a stream table entry."""

    from_params: AbortParams | BypassParams | CdTableParams | S2Params
    to_params: AbortParams | BypassParams | CdTableParams | S2Params


class CdUpdate(EntryUpdate, frozen=True, kw_only=True, tag="cd"):
    """An update of a context descriptor."""

    from_params: ZeroParams | S1Params | SvaParams | SvaReleaseParams
    to_params: ZeroParams | S1Params | SvaParams | SvaReleaseParams


_ONLY_IN_UPDATES = {"entry", "from_params", "to_params", "to_used"}


Lines = Iterator[tuple[int, bytes]]


def read_lines(path: Path) -> Lines:
    """Yield number and content of each line that is not blank."""
    with _readable(path) as stream:
        for number in range(1, 2**31):
            line = stream.readline(MAX_LINE + 1)
            if not line:
                return
            if len(line) > MAX_LINE:
                raise InputError(f"{path}:{number}: the line is longer than {MAX_LINE} bytes")
            if line.strip():
                yield number, line


def is_update(line: bytes) -> bool:
    """Tell whether a line is an update of an SMMU's entry, be it a malformed one."""
    try:
        return not _ONLY_IN_UPDATES.isdisjoint(msgspec.json.decode(line, type=dict[str, msgspec.Raw]))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False


def read_sequences(path: Path, lines: Lines | None = None) -> Iterator[tuple[int, Sequence]]:
    """Yield line number and sequence; `lines` are the file's, if it is already open."""
    decoder = msgspec.json.Decoder(Sequence)
    for number, line in lines or read_lines(path):
        try:
            yield number, decoder.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise InputError(f"{path}:{number}: not a recorded sequence: {error}") from None


def read_updates(path: Path, lines: Lines | None = None) -> Iterator[tuple[int, SteUpdate | CdUpdate]]:
    """Yield line number and update of an SMMU's entry; `lines` are the file's, if it is already open."""
    kinds = cast("type[SteUpdate | CdUpdate]", SteUpdate | CdUpdate)
    for number, line in lines or read_lines(path):
        try:
            yield number, convert(msgspec.json.decode(line, type=dict[str, Any]), kinds)
        except (InputError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise InputError(f"{path}:{number}: not a recorded entry: {error}") from None


@contextmanager
def _readable(path: Path) -> Iterator[BinaryIO]:
    try:
        with path.open("rb") as raw:
            if raw.peek(2)[:2] == b"\x1f\x8b":
                with gzip.open(raw) as stream:
                    yield cast("BinaryIO", stream)
            else:
                yield raw
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{path}: cannot be read: {reason}") from None
