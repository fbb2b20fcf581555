"""What other implementations of the architecture do, too, seen through memory and registers alone."""

from __future__ import annotations

from typing import Any

import pytest

from pasidlab.hw.vtd import Request
from tests.test_vtd_bringup import (
    DID,
    ECAP,
    HIGH_SID,
    OTHER_PAGE,
    PAGE,
    PLAIN_SID,
    READ_WRITE,
    SID,
    Software,
    record,
)

ADDRESS = 0x12_3456_7000
"""Within 39 bits."""
SNP, TM = 1 << 11, 1 << 62
NOWHERE = 1 << 45
"""No memory answers there."""
SELECTIVE = 3
LARGE = 1 << 7
NARROW = {"guest_bits": 39, "second_levels": frozenset({3})}


def legacy(levels: int = 4, *, by_register: bool = False, tt: int = 0, top: int | None = None, **more: Any) -> Software:
    """Map one page for one device in legacy mode."""
    software = Software(more)
    software.memory.poison(NOWHERE, 1 << 45)
    software.map(software.second, levels, ADDRESS, PAGE, READ_WRITE)
    word0 = (software.second if top is None else top) | tt << 2 | 1
    software.start_legacy(PLAIN_SID, word0, DID << 8 | levels - 2, by_register=by_register)
    return software


def scalable(rid_pasid: int, sid: int = SID) -> Software:
    """Map one page for requests without PASID in scalable mode; no request with PASID is allowed."""
    software = Software()
    software.second_stage(rid_pasid, 3)
    software.map(software.second, 3, ADDRESS, PAGE, READ_WRITE)
    software.start_scalable(sid, rid_pasid=rid_pasid, flags=0)
    return software


def entry_of(level: int, levels: int) -> int:
    """Return where the entry of a level lies, as `Software.map` places it."""
    return 0x8000_0000 + 0x200_0000 + 0x1000 * (levels - level) + 8 * (ADDRESS >> 12 + 9 * (level - 1) & 0x1FF)


def change(software: Software, place: int, *, add: int = 0, take: int = 0) -> None:
    entry = software.memory.load64(place)
    assert entry is not None
    software.words(place, entry & ~take | add)


# --- tables ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("write", [False, True])
@pytest.mark.parametrize(("level", "reason"), [(4, 0x03), (3, 0x07), (2, 0x07), (1, 0x07)])
def test_in_legacy_mode_a_first_table_without_memory_is_the_fault_of_the_context_entry(
    level: int, reason: int, write: bool
) -> None:
    software = legacy(top=NOWHERE if level == 4 else None)
    if level < 4:
        change(software, entry_of(level + 1, 4), add=NOWHERE, take=(1 << 45) - 0x1000)
    software.blocked(PLAIN_SID, None, ADDRESS, write=write)
    assert software.fault() == (ADDRESS, record(PLAIN_SID, reason, None, read=not write))


@pytest.mark.parametrize("bit", [SNP, TM])
@pytest.mark.parametrize("level", [2, 3, 4])
def test_what_points_to_a_table_has_no_snp_and_no_tm(level: int, bit: int) -> None:
    software = legacy()
    assert software.read(ECAP, 8) & 1 << 2, "device-TLBs, with which pages have TM"
    change(software, entry_of(level, 4), add=bit)
    software.blocked(PLAIN_SID, None, ADDRESS)
    assert software.fault() == (ADDRESS, record(PLAIN_SID, 0x0C, None, read=True))


def test_pages_have_tm_where_there_are_device_tlbs() -> None:
    software = legacy()
    change(software, entry_of(1, 4), add=TM)
    software.moves(PLAIN_SID, None, ADDRESS)
    bare = legacy(device_tlb=False, page_requests=False)
    change(bare, entry_of(1, 4), add=TM)
    bare.blocked(PLAIN_SID, None, ADDRESS)
    assert bare.fault() == (ADDRESS, record(PLAIN_SID, 0x0C, None, read=True))


def test_pass_through_does_not_look_at_the_pointer_to_tables() -> None:
    legacy(tt=2, top=1 << 62, host_bits=46).moves(PLAIN_SID, None, ADDRESS, ADDRESS)
    software = legacy(tt=0, top=1 << 62, host_bits=46)
    software.blocked(PLAIN_SID, None, ADDRESS)
    assert software.fault() == (ADDRESS, record(PLAIN_SID, 0x0B, None, read=True))


@pytest.mark.parametrize("address", [ADDRESS | 1 << 39, ADDRESS | 1 << 63])
@pytest.mark.parametrize("features", [{}, NARROW])
def test_the_record_of_an_address_beyond_the_width_has_all_of_it(features: dict[str, Any], address: int) -> None:
    software = legacy(3, **features)
    software.blocked(PLAIN_SID, None, address, write=True)
    assert software.fault() == (address, record(PLAIN_SID, 0x04, None, read=False))


def test_a_unit_of_39_bits_has_no_tables_of_4_levels() -> None:
    software = legacy(4, **NARROW)
    software.blocked(PLAIN_SID, None, ADDRESS)
    assert software.fault() == (ADDRESS, record(PLAIN_SID, 0x03, None, read=True))


# --- RID_PASID ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sid", [SID, HIGH_SID])
@pytest.mark.parametrize("rid_pasid", [0, 5, 0x1234, 0xFFFF, 0xF_FFFF])
def test_requests_without_pasid_take_that_pasid_without_having_it(rid_pasid: int, sid: int) -> None:
    software = scalable(rid_pasid, sid)
    software.moves(sid, None, ADDRESS)
    software.blocked(sid, None, 0)
    assert software.fault() == (0, record(sid, 0x79, None, read=True))
    software.blocked(sid, rid_pasid, ADDRESS)
    assert software.fault() == (ADDRESS, record(sid, 0x45, rid_pasid, read=True))


@pytest.mark.parametrize("rid_pasid", [5, 0x1234])
@pytest.mark.parametrize(("which", "reason"), [("directory", 0x51), ("pasid", 0x59)])
@pytest.mark.parametrize("silent", [False, True])
def test_an_entry_that_is_not_present_is_still_asked_for_fpd(
    which: str, reason: int, silent: bool, rid_pasid: int
) -> None:
    software = scalable(rid_pasid)
    place = (
        software.directory + 8 * (rid_pasid >> 6) if which == "directory" else software.pasids + 64 * (rid_pasid & 63)
    )
    change(software, place, take=1, add=2 * silent)
    software.blocked(SID, None, ADDRESS)
    if silent:
        assert not software.read(0x34)
    else:
        assert software.fault() == (ADDRESS, record(SID, reason, None, read=True))


# --- caches ------------------------------------------------------------------------------------------------------


def invalidate(software: Software, did: int, address: int, mask: int, *, by_register: bool) -> None:
    if not by_register:
        software.flush((2 | SELECTIVE << 4 | did << 16, address | mask))
        return
    iva = (software.read(ECAP, 8) >> 8 & 0x3FF) * 16
    software.write64(iva, address | mask)
    software.write64(iva + 8, 1 << 63 | SELECTIVE << 60 | did << 32)
    assert software.read(iva + 8, 8) == SELECTIVE << 60 | SELECTIVE << 57 | did << 32


@pytest.mark.parametrize("by_register", [False, True])
@pytest.mark.parametrize(
    ("did", "page", "mask", "reached"),
    [
        (DID, 0, 0, True),
        (DID, 1, 0, False),
        (DID, 1, 1, False),
        (DID, -4, 3, True),
        (DID, 8, 3, False),
        (DID, 0x40, 9, True),
        (DID, 1 << 9, 9, False),
        (DID, 0, 18, True),
        (DID + 1, 0, 0, False),
    ],
)
def test_pages_are_forgotten_to_the_page(did: int, page: int, mask: int, reached: bool, by_register: bool) -> None:
    software = legacy(by_register=by_register)
    software.moves(PLAIN_SID, None, ADDRESS)
    change(software, entry_of(1, 4), take=PAGE, add=OTHER_PAGE)
    software.moves(PLAIN_SID, None, ADDRESS)
    first = (ADDRESS >> 12) + page
    invalidate(software, did, first >> mask << mask + 12, mask, by_register=by_register)
    software.moves(PLAIN_SID, None, ADDRESS, OTHER_PAGE if reached else PAGE)


@pytest.mark.parametrize(("page", "reached"), [(0, True), (511, True), (512, False), (-1, False)])
def test_a_large_page_is_forgotten_by_any_of_its_pages(page: int, reached: bool) -> None:
    software = legacy()
    start = ADDRESS & -(1 << 21)
    offset = ADDRESS - start
    software.words(entry_of(2, 4), PAGE | READ_WRITE | LARGE)
    software.moves(PLAIN_SID, None, ADDRESS, PAGE + offset)
    moved = PAGE + (1 << 30)
    software.words(entry_of(2, 4), moved | READ_WRITE | LARGE)
    invalidate(software, DID, start + (page << 12), 0, by_register=False)
    software.moves(PLAIN_SID, None, ADDRESS, (moved if reached else PAGE) + offset)


@pytest.mark.parametrize("by_register", [False, True])
def test_a_changed_context_entry_counts_when_its_cache_was_invalidated(by_register: bool) -> None:
    software = legacy(by_register=by_register)
    software.moves(PLAIN_SID, None, ADDRESS)
    software.map(software.tables, 4, ADDRESS, OTHER_PAGE, READ_WRITE)
    software.words(software.contexts + 16 * PLAIN_SID, software.tables | 1, DID + 1 << 8 | 2)
    software.moves(PLAIN_SID, None, ADDRESS)
    if by_register:
        software.invalidate_by_register()
    else:
        software.flush((1 | SELECTIVE << 4 | DID << 16 | PLAIN_SID << 32, 0), (2 | 2 << 4 | DID << 16, 0))
    software.moves(PLAIN_SID, None, ADDRESS, OTHER_PAGE)


def test_a_request_that_lacks_a_right_is_recorded_though_its_page_is_cached() -> None:
    software = legacy()
    change(software, entry_of(1, 4), take=2)
    assert software.unit.dma_read(Request(PLAIN_SID, None, ADDRESS), 1)
    software.blocked(PLAIN_SID, None, ADDRESS, write=True)
    assert software.fault() == (ADDRESS, record(PLAIN_SID, 0x05, None, read=False))
