"""x86-64 paging: every check with a sibling that passes, and an interpreter that shares no code with the format."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pasidlab.hw.pagetable import x86
from pasidlab.hw.pagetable.contract import Access, FaultKind, Leaf, Rights, WalkFault
from pasidlab.hw.pagetable.paging_entries import LargePageEntry, PageEntry, PagingTable
from pasidlab.hw.pagetable.walker import walk
from pasidlab.hw.pagetable.x86 import X86Paging
from pasidlab.memory import Memory

from .x86_tables import (
    EA,
    LOWEST_BIT,
    PAGE,
    PCD,
    PS,
    PWT,
    ROOT,
    RW,
    SAMPLE,
    SUPER_EXECUTE,
    SUPER_READ,
    SUPER_WRITE,
    US,
    USER_EXECUTE,
    USER_READ,
    USER_WRITE,
    XD,
    A,
    D,
    G,
    P,
    Path,
    fault_of,
    leaf_of,
    walked,
)

ACCESSES = [USER_READ, USER_WRITE, USER_EXECUTE, SUPER_READ, SUPER_WRITE, SUPER_EXECUTE]
EVERY_LEVEL = [(levels, level) for levels in (4, 5) for level in range(levels, 0, -1)]
at_every_level = pytest.mark.parametrize(("levels", "level"), EVERY_LEVEL)
both_depths = pytest.mark.parametrize("levels", [4, 5])
ALL = P | RW | US
SIZES = {1: 0, 2: PS, 3: PS}


def paging(levels: int = 4, **options: object) -> X86Paging:
    return X86Paging(**{"table": ROOT, "levels": levels, "nxe": True} | options)  # type: ignore[arg-type]


def mapped(levels: int = 4, level: int = 1, leaf: int = ALL) -> Path:
    output = PAGE >> LOWEST_BIT[level] << LOWEST_BIT[level]
    return Path(levels).map(output | SIZES[level] | leaf, level)


def test_the_words_have_their_bits_where_the_manual_has_them() -> None:
    page = PageEntry(0x8000_0001_2345_6067)
    assert (page.p, page.rw, page.us, page.pwt, page.pcd, page.a, page.d) == (1, 1, 1, 0, 0, 1, 1)
    assert (page.pat, page.g, page.ea, page.output, page.xd) == (0, 0, 0, 0x1_2345_6000, True)
    assert int(PageEntry(pat=True, g=True, ea=True, pwt=True, pcd=True)) == 0x598
    large = LargePageEntry(0x4000_10E1)
    assert (large.ps, large.pat, large.output) == (True, True, 0x4000_0000)
    assert PagingTable(0x000F_FFFF_FFFF_F067).next_table == 0x000F_FFFF_FFFF_F000


class TestAddresses:
    @pytest.mark.parametrize(
        ("levels", "address"),
        [
            *((4, a) for a in (0, 0x0000_7FFF_FFFF_FFFF, 0xFFFF_8000_0000_0000, 0xFFFF_FFFF_FFFF_FFFF)),
            *((5, a) for a in (0x0000_8000_0000_0000, 0x00FF_FFFF_FFFF_FFFF, 0xFF00_0000_0000_0000)),
        ],
    )
    def test_a_canonical_address_is_walked_by_all_its_bits(self, levels: int, address: int) -> None:
        path = replace(Path(levels), address=address).map(PAGE | ALL)
        assert leaf_of(path, paging(levels)).output == PAGE | address & 0xFFF

    @pytest.mark.parametrize(
        ("levels", "address"),
        [
            *((4, a) for a in (0x0000_8000_0000_0000, 0xFFFF_7FFF_FFFF_FFFF, 1 << 63, 1 << 48)),
            *((5, a) for a in (0x0100_0000_0000_0000, 0xFEFF_FFFF_FFFF_FFFF, 1 << 63, 1 << 57)),
        ],
    )
    def test_any_other_address_faults_before_anything_is_read(self, levels: int, address: int) -> None:
        path = replace(Path(levels), address=address).map(PAGE | ALL)
        found, touches = walked(path, paging(levels))
        assert found == WalkFault(FaultKind.TRANSLATION, x86.CANONICAL, 1, 0, address)
        assert touches == []

    @pytest.mark.parametrize("level", [1, 2, 3])
    @both_depths
    def test_a_page_of_each_size_keeps_the_rest_of_the_address(self, levels: int, level: int) -> None:
        path = mapped(levels, level)
        below = (1 << LOWEST_BIT[level]) - 1
        found = leaf_of(path, paging(levels))
        assert (found.output, found.lg2, found.level) == (PAGE & ~below | SAMPLE & below, LOWEST_BIT[level], level)
        assert (found.entry_address, found.global_, found.writable_clean) == (path.place(level), False, False)

    def test_low_bits_of_the_first_tables_address_are_ignored(self) -> None:
        assert leaf_of(mapped(), paging(table=ROOT | 0xFFF)) == leaf_of(mapped(), paging())


class TestEntries:
    @at_every_level
    def test_an_entry_without_p_is_not_present_whatever_else_it_says(self, levels: int, level: int) -> None:
        path = mapped(levels)
        for entry in (0, path.get(level) & ~P, (1 << 64) - 2):
            path.put(level, entry)
            found = fault_of(path, paging(levels, nxe=False, host_bits=40))
            assert found == WalkFault(FaultKind.TRANSLATION, x86.NOT_PRESENT, 1, level, SAMPLE)

    @at_every_level
    def test_memory_that_does_not_answer_is_an_abort(self, levels: int, level: int) -> None:
        path = mapped(levels)
        path.memory.poison(path.place(level), 8)
        found = fault_of(path, paging(levels))
        place = path.place(level)
        assert found == WalkFault(FaultKind.EXTERNAL_ABORT, x86.ABORTED, 1, level, SAMPLE, place)

    def test_ps_maps_where_there_are_such_pages_and_is_reserved_elsewhere(self) -> None:
        for level, pages_1g in ((5, True), (4, True), (3, False)):
            path = mapped(5).change(level, add=PS)
            found = fault_of(path, paging(5, pages_1g=pages_1g))
            assert (found.kind, found.rule, found.level) == (FaultKind.RESERVED, x86.PAGE_SIZE, level)
        assert leaf_of(mapped(5, 3), paging(5)).lg2 == 30
        assert leaf_of(mapped(5, 2), paging(5, pages_1g=False)).lg2 == 21
        assert leaf_of(mapped(5).change(1, add=PS), paging(5)).output == PAGE | SAMPLE & 0xFFF

    @pytest.mark.parametrize("host_bits", [36, 46, 51])
    @at_every_level
    def test_address_bits_from_the_host_width_on_are_reserved(self, levels: int, level: int, host_bits: int) -> None:
        for bit in {host_bits, 51}:
            found = fault_of(mapped(levels).change(level, add=1 << bit), paging(levels, host_bits=host_bits))
            assert (found.kind, found.rule, found.level) == (FaultKind.RESERVED, x86.RESERVED, level)
        for bit in (host_bits, 51):
            found, _ = walked(mapped(levels).change(level, add=1 << bit), paging(levels, host_bits=52))
            assert isinstance(found, Leaf) or found.rule is not x86.RESERVED

    @pytest.mark.parametrize(
        ("level", "bit"), [(2, bit) for bit in range(13, 21)] + [(3, bit) for bit in range(13, 30)]
    )
    def test_low_address_bits_of_a_large_page_are_reserved(self, level: int, bit: int) -> None:
        found = fault_of(mapped(level=level).change(level, add=1 << bit), paging())
        assert (found.kind, found.rule, found.level) == (FaultKind.RESERVED, x86.RESERVED, level)

    @pytest.mark.parametrize("level", [2, 3])
    def test_bit_12_of_a_large_page_is_pat_and_no_address(self, level: int) -> None:
        path = mapped(level=level)
        without = leaf_of(path, paging()).output
        assert leaf_of(path.change(level, add=1 << 12), paging()).output == without

    @at_every_level
    def test_xd_is_reserved_without_nxe(self, levels: int, level: int) -> None:
        path = mapped(levels).change(level, add=XD)
        found = fault_of(path, paging(levels, nxe=False))
        assert (found.kind, found.rule, found.level) == (FaultKind.RESERVED, x86.RESERVED, level)
        assert isinstance(leaf_of(path, paging(levels, nxe=True)), Leaf)

    @at_every_level
    def test_memory_types_and_what_is_left_to_software_mean_nothing(self, levels: int, level: int) -> None:
        ignored = PWT | PCD | G | 0xE00 | 0x7FF << 52 | (D if level > 1 else PS)
        path = mapped(levels)
        without = leaf_of(path, paging(levels))
        found = leaf_of(path.change(level, add=ignored), paging(levels))
        assert found._replace(entry=without.entry) == without

    def test_reserved_bits_win_over_rights(self) -> None:
        path = Path().map(PAGE | P | 1 << 51)
        assert fault_of(path, paging(host_bits=46), USER_WRITE).rule is x86.RESERVED
        assert fault_of(path.change(1, take=1 << 51), paging(host_bits=46), USER_WRITE).rule is x86.USER


class TestRights:
    @at_every_level
    def test_u_s_has_to_be_set_at_every_level_for_a_user(self, levels: int, level: int) -> None:
        path = mapped(levels).change(level, take=US)
        for access in (USER_READ, USER_WRITE, USER_EXECUTE):
            assert leaf_of(mapped(levels), paging(levels), access)
            found = fault_of(path, paging(levels), access)
            assert found == WalkFault(FaultKind.PERMISSION, x86.USER, 1, 1, SAMPLE)
        for access in (SUPER_READ, SUPER_WRITE, SUPER_EXECUTE):
            found = leaf_of(path, paging(levels), access)
            assert found.rights == Rights.PRIVILEGED_READ | Rights.PRIVILEGED_WRITE | Rights.PRIVILEGED_EXECUTE

    @at_every_level
    def test_r_w_has_to_be_set_at_every_level_to_write(self, levels: int, level: int) -> None:
        path = mapped(levels).change(level, take=RW)
        assert fault_of(path, paging(levels), USER_WRITE).rule is x86.READ_ONLY
        assert fault_of(path, paging(levels, wpe=True), SUPER_WRITE).rule is x86.READ_ONLY
        assert leaf_of(path, paging(levels), SUPER_WRITE).rights & Rights.PRIVILEGED_WRITE
        assert leaf_of(mapped(levels), paging(levels, wpe=True), SUPER_WRITE).rights & Rights.USER_WRITE
        for access in (USER_READ, USER_EXECUTE, SUPER_READ, SUPER_EXECUTE):
            assert not leaf_of(path, paging(levels, wpe=True), access).rights & Rights.USER_WRITE

    @at_every_level
    def test_xd_at_one_level_is_enough_to_forbid_execution(self, levels: int, level: int) -> None:
        path = mapped(levels).change(level, add=XD)
        for access in (USER_EXECUTE, SUPER_EXECUTE):
            assert leaf_of(mapped(levels), paging(levels), access)
            assert fault_of(path, paging(levels), access).rule is x86.XD
        for access in (USER_READ, USER_WRITE, SUPER_READ, SUPER_WRITE):
            assert not leaf_of(path, paging(levels), access).rights & (Rights.USER_EXECUTE | Rights.PRIVILEGED_EXECUTE)

    @at_every_level
    def test_smep_keeps_the_supervisor_from_executing_what_is_the_users(self, levels: int, level: int) -> None:
        path, fmt = mapped(levels), paging(levels, smep=True)
        assert fault_of(path, fmt, SUPER_EXECUTE).rule is x86.SMEP
        assert leaf_of(path, paging(levels), SUPER_EXECUTE)
        for access in (USER_EXECUTE, SUPER_READ, SUPER_WRITE):
            assert not leaf_of(path, fmt, access).rights & Rights.PRIVILEGED_EXECUTE
        assert leaf_of(path.change(level, take=US), fmt, SUPER_EXECUTE)

    @pytest.mark.parametrize("level", [4, 3, 2])
    def test_an_entry_that_is_not_present_wins_over_a_right_missing_above_it(self, level: int) -> None:
        path = mapped().change(level, take=US | RW).change(1, take=P)
        assert fault_of(path, paging(), USER_WRITE).rule is x86.NOT_PRESENT

    def test_without_access_no_right_is_asked_for(self) -> None:
        found = leaf_of(Path(table_bits=P).map(PAGE | P | XD), paging(wpe=True), None)
        assert found.rights == Rights.PRIVILEGED_READ


class TestMarks:
    @pytest.mark.parametrize("level", [1, 2, 3])
    @both_depths
    def test_a_read_sets_a_in_every_entry_used_and_d_in_none(self, levels: int, level: int) -> None:
        path = mapped(levels, level)
        before = path.entries(level)
        found = leaf_of(path, paging(levels))
        assert path.entries(level) == {number: entry | A for number, entry in before.items()}
        assert found.entry == path.get(level)

    @pytest.mark.parametrize("level", [1, 2, 3])
    def test_a_write_sets_d_in_the_leaf_too(self, level: int) -> None:
        path = mapped(level=level)
        before = path.entries(level)
        leaf_of(path, paging(), SUPER_WRITE)
        assert path.entries(level) == {n: entry | A | (D if n == level else 0) for n, entry in before.items()}

    def test_the_touches_tell_what_was_read_and_written_in_order(self) -> None:
        _, touches = walked(mapped(), paging(), USER_WRITE)
        steps = [(touch.level, touch.store, touch.rule.id) for touch in touches]
        tables = [(n, store, rule) for n in (4, 3, 2) for store, rule in ((0, "x86.table"), (1, "x86.set-accessed"))]
        assert steps == [*tables, (1, False, "x86.page"), (1, True, "x86.set-dirty")]

    def test_what_is_marked_already_is_not_written_again(self) -> None:
        path = mapped()
        leaf_of(path, paging(), USER_WRITE)
        for access in (USER_READ, USER_WRITE):
            _, touches = walked(path, paging(), access)
            assert [touch.store for touch in touches] == [False] * 4

    def test_a_write_marks_a_page_that_was_only_read(self) -> None:
        path = mapped()
        leaf_of(path, paging())
        assert path.get(1) & (A | D) == A
        leaf_of(path, paging(), USER_WRITE)
        assert path.get(1) & (A | D) == A | D

    def test_an_access_that_is_refused_marks_tables_but_no_page(self) -> None:
        path = mapped().change(1, take=RW)
        fault_of(path, paging(), USER_WRITE)
        assert [bool(entry & A) for entry in path.entries().values()] == [True, True, True, False]

    def test_the_extended_accessed_flag_is_set_with_eafe_only(self) -> None:
        for eafe, bits in ((False, A), (True, A | EA)):
            for access, dirty in ((USER_READ, 0), (USER_WRITE, D)):
                path = mapped()
                leaf_of(path, paging(eafe=eafe), access)
                marks = [entry & (A | D | EA) for entry in path.entries().values()]
                assert marks == [bits, bits, bits, bits | dirty]
        path = mapped()
        leaf_of(path, paging())
        leaf_of(path, paging(eafe=True))
        assert all(entry & EA for entry in path.entries().values())

    def test_a_mark_that_cannot_be_stored_is_an_abort(self) -> None:
        class ReadOnly(Memory):
            def store64(self, address: int, value: int) -> bool:
                return False

        for level in (3, 1):
            path = mapped()
            for above in range(4, level, -1):
                path.change(above, add=A)
            frozen = ReadOnly()
            frozen.__setstate__(path.memory.__getstate__())
            found = walk(frozen, paging(), SAMPLE, USER_READ, [])
            assert isinstance(found, WalkFault)
            assert (found.rule, found.level, found.fetch_address) == (x86.ABORTED, level, path.place(level))


# --- an interpreter of the manual's text ---------------------------------------------------------------------------

HOST = 46
INTERESTING = st.sampled_from([P, RW, US, A, D, PS, G, EA, 1 << 12, 1 << 13, 1 << 20, 1 << 29, 1 << 45, 1 << 46, XD])


def interpret(path: Path, fmt: X86Paging, access: Access) -> tuple[object, dict[int, int]]:
    """Return what comes out, and what the entries are afterwards, level by level."""
    after, user, write, nx = path.entries(), True, True, False
    mark = A | EA if fmt.eafe else A
    for level in range(path.levels, 0, -1):
        entry = after[level]
        page = level == 1 or bool(entry & PS)
        wrong = flaw(entry, level, page, fmt)
        if wrong:
            return (wrong, level), after
        user, write, nx = user and bool(entry & US), write and bool(entry & RW), nx or bool(entry & XD)
        if page:
            break
        after[level] = entry | mark
    wrong = refusal(user, write, nx, fmt, access)
    if wrong:
        return (wrong, level), after
    after[level] = entry | mark | (D if access.write else 0)
    size = 1 << LOWEST_BIT[level]
    frame = (entry & (1 << 52) - 1) // size * size
    return (frame + path.address % size, level), after


def flaw(entry: int, level: int, page: bool, fmt: X86Paging) -> str:
    """Return what is wrong with an entry, whoever asks."""
    if not entry & P:
        return "x86.not-present"
    if page and (level > 3 or (level == 3 and not fmt.pages_1g)):
        return "x86.page-size"
    reserved = list(range(HOST, 52)) + ([] if fmt.nxe else [63])
    reserved += range(13, LOWEST_BIT[level]) if page else []
    return "x86.reserved" if any(entry >> bit & 1 for bit in reserved) else ""


def refusal(user: bool, write: bool, nx: bool, fmt: X86Paging, access: Access) -> str:
    """Return which right an access lacks."""
    if not access.privileged and not user:
        return "x86.user"
    if access.write and not write and (fmt.wpe or not access.privileged):
        return "x86.read-only"
    if access.instruction and nx:
        return "x86.xd"
    return "x86.smep" if access.instruction and access.privileged and user and fmt.smep else ""


@settings(max_examples=600, deadline=None)
@given(
    levels=st.sampled_from([4, 5]),
    leaf=st.sampled_from([1, 1, 2, 3]),
    flaws=st.lists(st.tuples(st.integers(1, 5), INTERESTING), max_size=4),
    flags=st.fixed_dictionaries({name: st.booleans() for name in ("wpe", "nxe", "smep", "eafe", "pages_1g")}),
    access=st.sampled_from(ACCESSES),
)
def test_the_walk_agrees_with_the_interpreter(
    levels: int, leaf: int, flaws: list[tuple[int, int]], flags: dict[str, bool], access: Access
) -> None:
    path = mapped(levels, leaf)
    for level, bit in flaws:
        if level <= levels:
            path.put(level, path.get(level) ^ bit)
    for level in range(1, leaf):
        path.put(level, 0)
    fmt = X86Paging(table=ROOT, levels=levels, host_bits=HOST, **flags)
    path = clear_address_flaws(path)
    expected, after = interpret(path, fmt, access)
    found, _ = walked(path, fmt, access)
    got = (found.output, found.level) if isinstance(found, Leaf) else (found.rule.id, found.level)
    assert got == expected
    assert path.entries() == after


def clear_address_flaws(path: Path) -> Path:
    """Let table entries lead to their tables still; reserved bits above the host width stay."""
    below_host = (1 << HOST) - 0x1000
    for level in range(path.levels, 1, -1):
        if path.get(level) & (P | PS) == P:
            path.put(level, path.get(level) & ~below_host | path.table(level - 1))
    return path


ENTRY = st.one_of(
    st.integers(0, (1 << 64) - 1),
    st.builds(lambda page, bits: page << 12 | bits, st.integers(0, 7), st.integers(0, 0xFFF)),
    st.builds(lambda page, bits: page << 12 | bits | P, st.integers(0, 7), st.sampled_from([0, RW | US, RW | US | PS])),
)


@settings(max_examples=300, deadline=None)
@given(
    entries=st.lists(ENTRY, min_size=1, max_size=16),
    levels=st.sampled_from([4, 5]),
    address=st.one_of(st.integers(0, (1 << 64) - 1), st.integers(0, 1 << 47)),
    root=st.integers(0, 7),
    access=st.sampled_from([None, *ACCESSES]),
    eafe=st.booleans(),
)
def test_random_tables_never_raise_and_get_marks_only(
    entries: list[int], levels: int, address: int, root: int, access: Access | None, eafe: bool
) -> None:
    memory = Memory(40)
    words = (entries * (4096 // len(entries) + 1))[:4096]
    memory.store(0, b"".join(word.to_bytes(8, "little") for word in words))
    found = walk(memory, paging(levels, table=root << 12, eafe=eafe), address, access, [])
    assert isinstance(found, Leaf | WalkFault)
    marks = A | D | (EA if eafe else 0)
    for number, word in enumerate(words):
        now = memory.load64(8 * number)
        assert now is not None
        assert now & word == word
        assert not (now ^ word) & ~marks
