"""VT-d's second stage: every check with a sibling that passes, an independent interpreter, and one stage in another."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pasidlab.hw.pagetable import vtd_second, x86
from pasidlab.hw.pagetable.contract import Access, FaultKind, Leaf, Rights, WalkFault
from pasidlab.hw.pagetable.paging_entries import SecondStageLeaf, SecondStageTable
from pasidlab.hw.pagetable.vtd_second import SecondStage
from pasidlab.hw.pagetable.walker import walk
from pasidlab.hw.pagetable.x86 import X86Paging
from pasidlab.memory import Memory

from .x86_tables import (
    A2,
    D2,
    LOWEST_BIT,
    PAGE,
    PS,
    ROOT,
    RW,
    SAMPLE,
    SNP,
    SUPER_EXECUTE,
    SUPER_READ,
    SUPER_WRITE,
    TM,
    US,
    USER_EXECUTE,
    USER_READ,
    USER_WRITE,
    A,
    D,
    P,
    Path,
    R,
    W,
    X,
    fault_of,
    index,
    leaf_of,
    walked,
)

ACCESSES = [USER_READ, USER_WRITE, USER_EXECUTE, SUPER_READ, SUPER_WRITE, SUPER_EXECUTE]
INPUT_BITS = {3: 39, 4: 48, 5: 57}
EVERY_LEVEL = [(levels, level) for levels in (3, 4, 5) for level in range(levels, 0, -1)]
at_every_level = pytest.mark.parametrize(("levels", "level"), EVERY_LEVEL)
SIZES = {1: 0, 2: PS, 3: PS}
INSIDE = SAMPLE & (1 << 39) - 1
"""An address that three levels reach."""
READS = Rights.USER_READ | Rights.PRIVILEGED_READ
WRITES = Rights.USER_WRITE | Rights.PRIVILEGED_WRITE
EXECUTES = Rights.USER_EXECUTE | Rights.PRIVILEGED_EXECUTE


def second(levels: int = 4, **options: object) -> SecondStage:
    return SecondStage(**{"table": ROOT, "levels": levels} | options)  # type: ignore[arg-type]


def mapped(levels: int = 4, level: int = 1, bits: int = R | W | X) -> Path:
    output = PAGE >> LOWEST_BIT[level] << LOWEST_BIT[level]
    return Path(levels, R | W | X, INSIDE).map(output | SIZES[level] | bits, level)


def test_the_words_have_their_bits_where_the_specification_has_them() -> None:
    leaf = SecondStageLeaf(0x4000_0001_2345_6BFF)
    assert (leaf.r, leaf.w, leaf.x, leaf.emt, leaf.ipat, leaf.ps) == (1, 1, 1, 7, 1, 1)
    assert (leaf.a, leaf.d, leaf.snp, leaf.output, leaf.tm) == (1, 1, 1, 0x1_2345_6000, 1)
    assert int(SecondStageLeaf(a=True)) | int(SecondStageLeaf(d=True)) == 0x300
    assert SecondStageTable(0x000F_FFFF_FFFF_F003).next_table == 0x000F_FFFF_FFFF_F000


class TestAddresses:
    @pytest.mark.parametrize("levels", [3, 4, 5])
    def test_the_levels_decide_how_wide_the_input_may_be(self, levels: int) -> None:
        top = (1 << INPUT_BITS[levels]) - 1
        path = replace(Path(levels, R | W), address=top).map(PAGE | R)
        assert leaf_of(path, second(levels)).output == PAGE | 0xFFF
        for beyond in (top + 1, 1 << 63):
            found, touches = walked(replace(path, address=beyond), second(levels))
            assert found == WalkFault(FaultKind.TRANSLATION, vtd_second.RANGE, 2, 0, beyond)
            assert touches == []

    def test_the_unit_may_take_less_than_the_levels_reach(self) -> None:
        path = replace(Path(4, R | W), address=(1 << 42) - 1).map(PAGE | R)
        assert leaf_of(path, second(mgaw=42)).output == PAGE | 0xFFF
        assert fault_of(replace(path, address=1 << 42), second(mgaw=42)).rule is vtd_second.RANGE
        assert second(3, mgaw=57).input_bits == 39

    @pytest.mark.parametrize("level", [1, 2, 3])
    @pytest.mark.parametrize("levels", [3, 4, 5])
    def test_a_page_of_each_size_keeps_the_rest_of_the_address(self, levels: int, level: int) -> None:
        below = (1 << LOWEST_BIT[level]) - 1
        found = leaf_of(mapped(levels, level), second(levels))
        assert (found.output, found.lg2, found.level) == (PAGE & ~below | INSIDE & below, LOWEST_BIT[level], level)
        assert found.global_


class TestEntries:
    @at_every_level
    def test_an_entry_without_r_and_w_is_not_present(self, levels: int, level: int) -> None:
        path = mapped(levels).change(level, take=R | W, add=0x7F0)
        found = fault_of(path, second(levels))
        assert found == WalkFault(FaultKind.TRANSLATION, vtd_second.NOT_PRESENT, 2, level, INSIDE)
        assert fault_of(path, second(levels, execute=True)).rule is not vtd_second.NOT_PRESENT
        assert fault_of(path.change(level, take=X), second(levels, execute=True)).rule is vtd_second.NOT_PRESENT
        assert leaf_of(path.change(level, add=R, take=0x7F0), second(levels))

    @at_every_level
    def test_memory_that_does_not_answer_is_an_abort(self, levels: int, level: int) -> None:
        path = mapped(levels)
        path.memory.poison(path.place(level), 8)
        found = fault_of(path, second(levels))
        place = path.place(level)
        assert found == WalkFault(FaultKind.EXTERNAL_ABORT, vtd_second.ABORTED, 2, level, INSIDE, place)

    def test_ps_maps_where_there_are_such_pages_and_is_reserved_elsewhere(self) -> None:
        for level, options in ((5, {}), (4, {}), (3, {"pages_1g": False}), (2, {"pages_2m": False})):
            found = fault_of(mapped(5).change(level, add=PS), second(5, **options))
            assert (found.kind, found.rule, found.level) == (FaultKind.RESERVED, vtd_second.PAGE_SIZE, level)
        assert leaf_of(mapped(5, 3), second(5, pages_2m=False)).lg2 == 30
        assert leaf_of(mapped(5, 2), second(5, pages_1g=False)).lg2 == 21
        assert leaf_of(mapped(5).change(1, add=PS), second(5, pages_1g=False, pages_2m=False)).lg2 == 12

    @pytest.mark.parametrize("host_bits", [36, 46, 51])
    @at_every_level
    def test_address_bits_from_the_host_width_on_are_reserved(self, levels: int, level: int, host_bits: int) -> None:
        for bit in {host_bits, 51}:
            path = mapped(levels).change(level, add=1 << bit)
            found = fault_of(path, second(levels, host_bits=host_bits))
            assert (found.kind, found.rule, found.level) == (FaultKind.RESERVED, vtd_second.RESERVED, level)
            wide, _ = walked(path, second(levels, host_bits=52))
            assert isinstance(wide, Leaf) or wide.rule is not vtd_second.RESERVED

    @pytest.mark.parametrize(
        ("level", "bit"), [(2, bit) for bit in range(12, 21)] + [(3, bit) for bit in range(12, 30)]
    )
    def test_low_address_bits_of_a_large_page_are_reserved(self, level: int, bit: int) -> None:
        found = fault_of(mapped(level=level).change(level, add=1 << bit), second())
        assert (found.kind, found.rule, found.level) == (FaultKind.RESERVED, vtd_second.RESERVED, level)

    @at_every_level
    def test_snp_and_tm_are_reserved_where_nothing_uses_them(self, levels: int, level: int) -> None:
        for bit, option in ((SNP, "snoop"), (TM, "device_tlb")):
            path = mapped(levels).change(level, add=bit)
            found = fault_of(path, second(levels, **{option: False}))
            assert (found.kind, found.rule, found.level) == (FaultKind.RESERVED, vtd_second.RESERVED, level)

    @at_every_level
    def test_snp_and_tm_mean_something_in_pages_and_are_reserved_in_what_points_to_tables(
        self, levels: int, level: int
    ) -> None:
        for bit, other in ((SNP, "device_tlb"), (TM, "snoop")):
            path = mapped(levels).change(level, add=bit)
            fmt = second(levels, **{other: False})
            if level == 1:
                assert leaf_of(path, fmt)
            else:
                assert (fault_of(path, fmt).rule, fault_of(path, fmt).level) == (vtd_second.RESERVED, level)

    @pytest.mark.parametrize(("level", "bit"), [(2, SNP), (2, TM), (3, SNP), (3, TM)])
    def test_snp_and_tm_mean_something_in_large_pages_too(self, level: int, bit: int) -> None:
        path = mapped(level=level).change(level, add=bit)
        assert leaf_of(path, second())
        assert fault_of(path, second(snoop=bit != SNP, device_tlb=bit != TM)).rule is vtd_second.RESERVED

    @at_every_level
    def test_memory_types_and_what_is_left_to_software_mean_nothing(self, levels: int, level: int) -> None:
        ignored = 0x78 | 1 << 10 | 0x3FF << 52 | 1 << 63 | (PS if level == 1 else 0)
        path = mapped(levels)
        without = leaf_of(path, second(levels))
        found = leaf_of(path.change(level, add=ignored), second(levels))
        assert found._replace(entry=without.entry) == without

    def test_no_right_wins_over_reserved_bits_and_those_win_over_rights(self) -> None:
        path = Path(4, R | W).map(1 << 51)
        fmt = second(host_bits=46)
        assert fault_of(path, fmt, USER_WRITE).rule is vtd_second.NOT_PRESENT
        assert fault_of(path.change(1, add=R), fmt, USER_WRITE).rule is vtd_second.RESERVED
        assert fault_of(path.change(1, take=1 << 51), fmt, USER_WRITE).rule is vtd_second.NO_WRITE


class TestRights:
    @at_every_level
    def test_r_has_to_be_set_at_every_level_to_read(self, levels: int, level: int) -> None:
        path = mapped(levels).change(level, take=R)
        for access in (USER_READ, SUPER_READ, USER_EXECUTE):
            assert leaf_of(mapped(levels), second(levels), access).rights == READS | WRITES | EXECUTES
            found = fault_of(path, second(levels), access)
            assert found == WalkFault(FaultKind.PERMISSION, vtd_second.NO_READ, 2, 1, INSIDE)
        assert leaf_of(path, second(levels), USER_WRITE).rights == WRITES

    @at_every_level
    def test_w_has_to_be_set_at_every_level_to_write(self, levels: int, level: int) -> None:
        path = mapped(levels).change(level, take=W)
        for access in (USER_WRITE, SUPER_WRITE):
            found = fault_of(path, second(levels), access)
            assert found == WalkFault(FaultKind.PERMISSION, vtd_second.NO_WRITE, 2, 1, INSIDE)
        assert leaf_of(path, second(levels)).rights == READS | EXECUTES

    @at_every_level
    def test_x_counts_only_where_execute_requests_do(self, levels: int, level: int) -> None:
        path = mapped(levels).change(level, take=X)
        for access in (USER_EXECUTE, SUPER_EXECUTE):
            assert leaf_of(path, second(levels), access)
            assert fault_of(path, second(levels, execute=True), access).rule is vtd_second.NO_EXECUTE
            assert leaf_of(mapped(levels), second(levels, execute=True), access)
        assert leaf_of(path, second(levels, execute=True)).rights == READS | WRITES

    def test_without_access_no_right_is_asked_for(self) -> None:
        assert leaf_of(mapped(bits=W), second(), None).rights == WRITES


class TestMarks:
    @pytest.mark.parametrize("level", [1, 2, 3])
    @pytest.mark.parametrize("ad", [False, True])
    def test_flags_are_set_in_every_entry_used_with_slade_only(self, level: int, ad: bool) -> None:
        for access, dirty in ((USER_READ, 0), (USER_WRITE, D2)):
            path = mapped(level=level)
            before = path.entries(level)
            leaf_of(path, second(ad=ad), access)
            marks = {n: A2 | (dirty if n == level else 0) for n in before}
            assert path.entries(level) == {n: entry | (marks[n] if ad else 0) for n, entry in before.items()}

    def test_what_is_marked_already_is_not_written_again(self) -> None:
        path = mapped()
        leaf_of(path, second(ad=True), USER_WRITE)
        for access in (USER_READ, USER_WRITE):
            _, touches = walked(path, second(ad=True), access)
            assert [touch.store for touch in touches] == [False] * 4

    def test_an_access_that_is_refused_marks_no_page(self) -> None:
        path = mapped(bits=R)
        fault_of(path, second(ad=True), USER_WRITE)
        assert [bool(entry & A2) for entry in path.entries().values()] == [True, True, True, False]


class Nested:
    """A first stage whose tables and page lie at addresses that a second stage moves up by `BASE`, page by page."""

    BASE = 0x10_0000_0000
    ROOT_2 = 0x200_0000

    def __init__(self, levels: int = 4, second_levels: int = 4) -> None:
        self.path = Path(levels, base=self.BASE)
        self.path.map(PAGE | P | RW | US)
        self.first = X86Paging(table=ROOT, levels=levels, nxe=True)
        self.second_levels = second_levels
        self.next_table = self.ROOT_2 + 0x1000
        self.leaves: dict[int, int] = {}
        for page in (*(self.path.table(level) for level in range(levels, 0, -1)), PAGE):
            self.give(page)

    @property
    def memory(self) -> Memory:
        return self.path.memory

    def give(self, page: int) -> None:
        """Map one page in the second stage."""
        table = self.ROOT_2
        for level in range(self.second_levels, 1, -1):
            slot = table + 8 * index(page, level)
            if not self.memory.load64(slot):
                self.memory.store64(slot, self.next_table | R | W)
                self.next_table += 0x1000
            table = (self.memory.load64(slot) or 0) & ~0xFFF
            table &= (1 << 52) - 1
        self.leaves[page] = table + 8 * index(page, 1)
        self.memory.store64(self.leaves[page], page + self.BASE | R | W)

    def limit(self, page: int, bits: int) -> None:
        """Leave only some bits of the second stage's entry of a page."""
        self.memory.store64(self.leaves[page], page + self.BASE | bits)

    def entry(self, page: int) -> int:
        return self.memory.load64(self.leaves[page]) or 0

    def stage2(self, **options: object) -> SecondStage:
        return second(self.second_levels, table=self.ROOT_2, **options)


SHAPES = pytest.mark.parametrize(("levels", "second_levels"), [(4, 3), (4, 4), (5, 4), (4, 5), (5, 5)])


class TestNested:
    @SHAPES
    def test_tables_and_output_of_the_first_stage_go_through_the_second(self, levels: int, second_levels: int) -> None:
        nested = Nested(levels, second_levels)
        for number in range(levels, 0, -1):
            nested.path.change(number, add=A)
        found, touches = walked(nested.path, nested.first, USER_READ, nested.stage2())
        assert isinstance(found, Leaf)
        assert (found.output, found.lg2, found.level) == (PAGE + nested.BASE | SAMPLE & 0xFFF, 12, 1)
        assert [t.stage for t in touches] == ([2] * second_levels + [1]) * levels + [2] * second_levels

    def test_marks_of_the_first_stage_are_writes_to_the_second(self) -> None:
        nested = Nested()
        leaf_of(nested.path, nested.first, USER_WRITE, nested.stage2(ad=True))
        assert [entry & (A | D) for entry in nested.path.entries().values()] == [A, A, A, A | D]
        for level in range(4, 0, -1):
            assert nested.entry(nested.path.table(level)) & (A2 | D2) == A2 | D2
        assert nested.entry(PAGE) & (A2 | D2) == A2 | D2

    def test_tables_that_are_marked_already_are_only_read(self) -> None:
        nested = Nested()
        for level in range(4, 0, -1):
            nested.path.change(level, add=A)
        leaf_of(nested.path, nested.first, USER_READ, nested.stage2(ad=True))
        assert {nested.entry(page) & (A2 | D2) for page in nested.leaves} == {A2}

    @pytest.mark.parametrize("level", [4, 3, 2, 1])
    def test_a_mark_in_a_table_that_the_second_stage_keeps_read_only_faults(self, level: int) -> None:
        nested = Nested()
        table = nested.path.table(level)
        nested.limit(table, R)
        found = fault_of(nested.path, nested.first, USER_READ, nested.stage2())
        place = table + 8 * index(SAMPLE, level)
        expected = WalkFault(FaultKind.PERMISSION, vtd_second.NO_WRITE, 2, 1, place, on_table=True)
        assert found == expected
        nested.path.change(level, add=A)
        assert leaf_of(nested.path, nested.first, USER_READ, nested.stage2())
        found, _ = walked(nested.path, nested.first, USER_WRITE, nested.stage2())
        assert found == expected if level == 1 else isinstance(found, Leaf)

    @pytest.mark.parametrize("level", [4, 3, 2, 1])
    def test_a_table_that_the_second_stage_does_not_map_faults_on_its_address(self, level: int) -> None:
        nested = Nested()
        nested.limit(nested.path.table(level), 0)
        found = fault_of(nested.path, nested.first, USER_WRITE, nested.stage2())
        place = nested.path.table(level) + 8 * index(SAMPLE, level)
        assert found == WalkFault(FaultKind.TRANSLATION, vtd_second.NOT_PRESENT, 2, 1, place, on_table=True)

    def test_the_output_is_checked_as_the_access_that_it_is(self) -> None:
        nested = Nested()
        nested.limit(PAGE, R)
        found = fault_of(nested.path, nested.first, USER_WRITE, nested.stage2())
        assert (found.rule, found.on_table, found.address) == (vtd_second.NO_WRITE, False, PAGE | SAMPLE & 0xFFF)
        assert leaf_of(nested.path, nested.first, USER_READ, nested.stage2()).rights == READS | EXECUTES

    def test_a_right_that_the_first_stage_lacks_is_its_fault(self) -> None:
        nested = Nested()
        nested.path.change(1, take=RW)
        found = fault_of(nested.path, nested.first, USER_WRITE, nested.stage2())
        assert (found.rule, found.stage, found.address) == (x86.READ_ONLY, 1, SAMPLE)

    def test_what_the_first_stage_puts_out_must_fit_the_second(self) -> None:
        nested = Nested(second_levels=3)
        nested.path.map(1 << 39 | P | RW | US)
        found = fault_of(nested.path, nested.first, USER_READ, nested.stage2())
        assert (found.rule, found.stage, found.on_table) == (vtd_second.RANGE, 2, False)
        assert found.address == 1 << 39 | SAMPLE & 0xFFF
        nested.path.change(2, add=1 << 39)
        found = fault_of(nested.path, nested.first, USER_READ, nested.stage2())
        assert (found.rule, found.on_table) == (vtd_second.RANGE, True)

    def test_the_smaller_of_the_two_pages_counts(self) -> None:
        nested = Nested()
        large = PAGE & -(1 << 21)
        nested.path.map(large | PS | P | RW | US, 2)
        nested.give(large + (SAMPLE & 0x1F_F000))
        assert leaf_of(nested.path, nested.first, USER_READ, nested.stage2()).lg2 == 12


# --- an interpreter of the specification's text --------------------------------------------------------------------

HOST = 46
INTERESTING = st.sampled_from([R, W, X, PS, A2, D2, SNP, TM, 1 << 12, 1 << 20, 1 << 29, 1 << 45, 1 << 46, 1 << 63])


def interpret(path: Path, fmt: SecondStage, access: Access) -> tuple[object, dict[int, int]]:
    """Return what comes out, and what the entries are afterwards."""
    after, all_rights = path.entries(), R | W | X
    for level in range(path.levels, 0, -1):
        entry = after[level]
        page = level == 1 or bool(entry & PS)
        wrong = flaw(entry, level, page, fmt)
        if wrong:
            return (wrong, level), after
        all_rights &= entry
        if page:
            break
        after[level] |= A2 if fmt.ad else 0
    wrong = refusal(all_rights, fmt, access)
    if wrong:
        return (wrong, level), after
    if fmt.ad:
        after[level] |= A2 | (D2 if access.write else 0)
    size = 1 << LOWEST_BIT[level]
    return ((entry & (1 << 52) - 1) // size * size + path.address % size, level), after


def flaw(entry: int, level: int, page: bool, fmt: SecondStage) -> str:
    """Return what is wrong with an entry, whoever asks."""
    if not entry & (R | W) and not (fmt.execute and entry & X):
        return "vtd.second-not-present"
    if page and level > 1 and not {2: fmt.pages_2m, 3: fmt.pages_1g}.get(level, False):
        return "vtd.second-page-size"
    reserved = [*range(HOST, 52), *[11] * (not (page and fmt.snoop)), *[62] * (not (page and fmt.device_tlb))]
    reserved += range(12, LOWEST_BIT[level]) if page else []
    return "vtd.second-reserved" if any(entry >> bit & 1 for bit in reserved) else ""


def refusal(rights: int, fmt: SecondStage, access: Access) -> str:
    """Return which right an access lacks."""
    if access.write:
        return "" if rights & W else "vtd.second-no-write"
    if not rights & R:
        return "vtd.second-no-read"
    return "vtd.second-no-execute" if access.instruction and fmt.execute and not rights & X else ""


FLAGS = ("ad", "execute", "snoop", "device_tlb", "pages_2m", "pages_1g")


@settings(max_examples=600, deadline=None)
@given(
    levels=st.sampled_from([3, 4, 5]),
    leaf=st.sampled_from([1, 1, 2, 3]),
    flaws=st.lists(st.tuples(st.integers(1, 5), INTERESTING), max_size=4),
    flags=st.fixed_dictionaries({name: st.booleans() for name in FLAGS}),
    access=st.sampled_from(ACCESSES),
)
def test_the_walk_agrees_with_the_interpreter(
    levels: int, leaf: int, flaws: list[tuple[int, int]], flags: dict[str, bool], access: Access
) -> None:
    path = mapped(levels, leaf)
    for level, bit in flaws:
        if level <= levels:
            path.put(level, path.get(level) ^ bit)
    for level in range(levels, 1, -1):
        if not path.get(level) & PS:
            path.put(level, path.get(level) & ~((1 << HOST) - 0x1000) | path.table(level - 1))
    for level in range(1, leaf):
        path.put(level, 0)
    fmt = SecondStage(table=ROOT, levels=levels, host_bits=HOST, **flags)
    expected, after = interpret(path, fmt, access)
    found, _ = walked(path, fmt, access)
    got = (found.output, found.level) if isinstance(found, Leaf) else (found.rule.id, found.level)
    assert got == expected
    assert path.entries() == after


ENTRY = st.one_of(
    st.integers(0, (1 << 64) - 1),
    st.builds(lambda page, bits: page << 12 | bits, st.integers(0, 7), st.integers(0, 0xFFF)),
)


@settings(max_examples=200, deadline=None)
@given(
    entries=st.lists(ENTRY, min_size=1, max_size=16),
    levels=st.sampled_from([3, 4, 5]),
    address=st.one_of(st.integers(0, (1 << 64) - 1), st.integers(0, (1 << 39) - 1)),
    access=st.sampled_from([None, *ACCESSES]),
    nested=st.booleans(),
)
def test_random_tables_never_raise(
    entries: list[int], levels: int, address: int, access: Access | None, nested: bool
) -> None:
    memory = Memory(40)
    words = (entries * (4096 // len(entries) + 1))[:4096]
    memory.store(0, b"".join(word.to_bytes(8, "little") for word in words))
    below = SecondStage(table=0x3000, levels=levels, ad=True)
    first = X86Paging(table=0x1000, levels=4) if nested else below
    found = walk(memory, first, address, access, [], below if nested else None)
    assert isinstance(found, Leaf | WalkFault)
