"""One suite for every format, granule and start level: what any page table has to do."""

import pytest

from pasidlab.hw.pagetable import vmsa
from pasidlab.hw.pagetable.contract import (
    Access,
    FaultKind,
    Leaf,
    Rights,
    Touch,
    WalkFault,
    needed,
)
from pasidlab.hw.pagetable.vmsa import Granule, Region, Stage1, Stage2, stage1_start_level, stage2_start_level
from pasidlab.hw.pagetable.walker import walk
from pasidlab.memory import Memory
from tests.tables import (
    AF,
    AP_RO,
    AP_TABLE_RO,
    AP_TABLE_USER,
    AP_USER,
    BLOCKS,
    CONTIGUOUS,
    DBM,
    NG,
    ONES,
    PXN,
    PXN_TABLE,
    ROOT,
    RUNS,
    S2_R,
    S2_W,
    SETUPS,
    TABLE,
    UXN,
    UXN_TABLE,
    VALID,
    Setup,
)

READ, WRITE = Access(), Access(write=True)
EVERYBODY = [Access(write, instruction, privileged) for write, instruction, privileged in (
    (False, False, False), (True, False, False), (False, True, False),
    (False, False, True), (True, False, True), (False, True, True),
)]  # fmt: skip


@pytest.fixture(params=SETUPS, ids=lambda setup: setup.name)
def s(request: pytest.FixtureRequest) -> Setup:
    return request.param.fresh()


def go(s: Setup, inside: int, access: Access | None = READ, **options: object) -> tuple[Leaf | WalkFault, list[Touch]]:
    touches: list[Touch] = []
    return walk(s.memory, s.format(**options), s.address(inside), access, touches), touches


def leaf_of(s: Setup, inside: int, access: Access | None = READ, **options: object) -> Leaf:
    found, _ = go(s, inside, access, **options)
    assert isinstance(found, Leaf), found
    return found


def fault_of(s: Setup, inside: int, access: Access | None = READ, **options: object) -> WalkFault:
    found, _ = go(s, inside, access, **options)
    assert isinstance(found, WalkFault), found
    return found


# --- what maps -----------------------------------------------------------------------------------------------------


def test_an_entry_maps_at_every_level_that_has_leaves(s: Setup) -> None:
    for level in s.leaf_levels:
        one = s.fresh()
        shift, inside = one.shift(level), one.sample
        output = 0x5A << 40 >> shift << shift
        place = one.map(inside, output, level)
        found, touches = go(one, inside)
        assert isinstance(found, Leaf)
        assert found.output == output | inside & ((1 << shift) - 1)
        assert (found.lg2, found.level, found.entry_address) == (shift, level, place)
        assert found.entry == one.memory.load64(place)
        assert [t.level for t in touches] == list(range(one.start_level, level + 1))
        assert [t.address for t in touches] == [one.place(inside, n) for n in range(one.start_level, level + 1)]
        assert [t.value for t in touches] == [one.memory.load64(t.address) for t in touches]
        assert [t.rule for t in touches[:-1]] == [vmsa.TABLE] * (len(touches) - 1)
        assert touches[-1].rule is (vmsa.PAGE if level == 3 else vmsa.BLOCK)
        assert {(t.stage, t.store) for t in touches} == {(s.stage, False)}


def test_the_first_and_the_last_page_of_a_region_map(s: Setup) -> None:
    page = 1 << s.granule
    last = (1 << 64 - s.tsz) - 1
    s.map(0, 7 * page)
    s.map(last, 9 * page)
    assert leaf_of(s, 0).output == 7 * page
    assert leaf_of(s, last).output == 10 * page - 1


def test_the_highest_output_address_maps(s: Setup) -> None:
    page = 1 << s.granule
    s.map(s.sample, (1 << 48) - page)
    assert leaf_of(s, s.sample).output == (1 << 48) - page | s.sample & page - 1


def test_runs_of_contiguous_entries_count_as_one(s: Setup) -> None:
    for level in s.leaf_levels:
        one = s.fresh()
        shift, count, bits = one.shift(level), RUNS[one.granule][level], 64 - one.tsz
        run = min(count << shift, 1 << bits)
        start = one.sample & -run
        for n in range(0, run >> shift, 3):
            one.map(start + (n << shift), (1 << 46) + (n << shift), level, one.leaf | CONTIGUOUS)
        last = (run - 1 >> shift) // 3 * 3 << shift
        for inside in (start, start + last, start + last + 0x123):
            found = leaf_of(one, inside)
            assert (1 << found.lg2, found.output) == (run, (1 << 46) + inside - start)


def test_a_run_whose_output_is_not_aligned_is_taken_entry_by_entry(s: Setup) -> None:
    page = 1 << s.granule
    s.map(s.sample, (s.sample & -page ^ page) & (1 << 48) - 1, attributes=s.leaf | CONTIGUOUS)
    assert leaf_of(s, s.sample).lg2 == s.granule


def test_the_bits_of_the_base_below_the_table_size_are_ignored(s: Setup) -> None:
    s.map(s.sample, 0x7000_0000)
    entries = 1 << 64 - s.tsz - s.shift(s.start_level)
    odd = ROOT | entries * 8 - 1
    assert leaf_of(s, s.sample, root=odd) == leaf_of(s, s.sample)


def test_table_and_leaf_ignore_bits_that_software_owns(s: Setup) -> None:
    s.map(s.sample, 0x7000_0000, attributes=s.leaf | 0xF << 55 | 0x3F << 2 & ~(3 << 6))
    for level in s.levels[:-1]:
        s.limit(s.sample, level, 0xFF << 51 | 0x3FF << 2)
    assert leaf_of(s, s.sample).output >> s.granule == 0x7000_0000 >> s.granule


# --- what does not -------------------------------------------------------------------------------------------------


def test_an_address_beside_the_region_is_not_translated(s: Setup) -> None:
    outside = [1 << bit for bit in range(64 - s.tsz, 64)]
    for inside in outside:
        touches: list[Touch] = []
        address = s.address(0) ^ inside
        found = walk(s.memory, s.format(), address, READ, touches)
        assert isinstance(found, WalkFault)
        assert (found.kind, found.stage, found.level, found.address) == (FaultKind.TRANSLATION, s.stage, 0, address)
        other_half = s.stage == 1 and inside == 1 << 55
        assert found.rule is (vmsa.DISABLED if other_half else vmsa.RANGE)
        assert touches == []


@pytest.mark.parametrize("bits", [0, 2])
def test_an_entry_with_bit_0_clear_is_invalid_at_every_level(s: Setup, bits: int) -> None:
    for level in s.levels:
        one = s.fresh()
        place = one.put(one.sample, level, ONES & ~3 | bits)
        found, touches = go(one, one.sample, oa_bits=52)
        assert found == WalkFault(FaultKind.TRANSLATION, vmsa.INVALID, s.stage, level, one.address(one.sample))
        assert touches[-1] == Touch(place, ONES & ~3 | bits, vmsa.INVALID, s.stage, level)
        assert len(touches) == level - s.start_level + 1


def test_a_block_where_none_may_be_is_reserved(s: Setup) -> None:
    for level in s.levels:
        one = s.fresh()
        one.put(one.sample, level, 0x7000_0000 | one.leaf | VALID)
        if level in BLOCKS[s.granule][:-1]:
            assert leaf_of(one, one.sample).level == level
        else:
            fault = fault_of(one, one.sample)
            assert (fault.kind, fault.rule, fault.level) == (FaultKind.TRANSLATION, vmsa.RESERVED, level)


def test_memory_that_does_not_answer_aborts_at_every_level(s: Setup) -> None:
    for level in s.levels:
        one = s.fresh()
        one.map(one.sample, 0x7000_0000)
        place = one.place(one.sample, level)
        one.memory.poison(place, 8)
        found, touches = go(one, one.sample)
        where = one.address(one.sample)
        assert found == WalkFault(FaultKind.EXTERNAL_ABORT, vmsa.ABORTED, s.stage, level, where, place)
        assert touches[-1] == Touch(place, None, vmsa.ABORTED, s.stage, level)


def test_tables_and_outputs_beyond_the_output_size_fault(s: Setup) -> None:
    for level in s.levels[:-1]:
        one = s.fresh()
        one.map(one.sample, 0x7000_0000)
        one.limit(one.sample, level, 1 << 40)
        fault = fault_of(one, one.sample, oa_bits=40)
        assert (fault.kind, fault.rule, fault.level) == (FaultKind.ADDR_SIZE, vmsa.TABLE_SIZE, level)
    for level in s.leaf_levels:
        one = s.fresh()
        one.map(one.sample, 1 << 40 | 1 << 39, level, attributes=one.leaf & ~AF)
        fault = fault_of(one, one.sample, oa_bits=40)
        assert (fault.kind, fault.rule, fault.level) == (FaultKind.ADDR_SIZE, vmsa.OUTPUT_SIZE, level)
        assert fault_of(one, one.sample, oa_bits=42).kind is FaultKind.ACCESS


def test_a_base_beyond_the_output_size_faults_before_any_access(s: Setup) -> None:
    found, touches = go(s, s.sample, oa_bits=40, root=1 << 40)
    assert found == WalkFault(FaultKind.ADDR_SIZE, vmsa.BASE_SIZE, s.stage, 0, s.address(s.sample))
    assert touches == []


def test_only_64k_granules_have_bases_of_more_than_48_bits(s: Setup) -> None:
    fault = fault_of(s, s.sample, oa_bits=52, root=1 << 48)
    assert fault.rule is (vmsa.INVALID if s.granule is Granule.K64 else vmsa.BASE_SIZE)


def test_an_input_size_that_the_granule_has_not_is_not_translated(s: Setup) -> None:
    for tsz in (0, 11, 50, 63):
        s.tsz = tsz
        touches: list[Touch] = []
        address = 1 << 55 if s.high else 0
        found = walk(s.memory, s.format(), address, READ, touches)
        assert isinstance(found, WalkFault)
        assert found.rule is (vmsa.TSZ if s.stage == 1 else vmsa.START_LEVEL)
        assert found.kind is FaultKind.TRANSLATION


# --- flags ---------------------------------------------------------------------------------------------------------


def test_a_clear_access_flag_faults_unless_nobody_asks(s: Setup) -> None:
    place = s.map(s.sample, 0x7000_0000, attributes=s.leaf & ~AF)
    found, touches = go(s, s.sample)
    assert found == WalkFault(FaultKind.ACCESS, vmsa.ACCESS_FLAG, s.stage, 3, s.address(s.sample))
    assert touches[-1].rule is vmsa.ACCESS_FLAG
    before = s.memory.load64(place)
    assert leaf_of(s, s.sample, affd=True).entry == before == s.memory.load64(place)


def test_hardware_sets_the_access_flag_once(s: Setup) -> None:
    place = s.map(s.sample, 0x7000_0000, attributes=s.leaf & ~AF)
    before = s.memory.load64(place)
    assert before is not None
    found, touches = go(s, s.sample, ha=True)
    assert isinstance(found, Leaf)
    assert found.entry == before | AF == s.memory.load64(place)
    assert touches[-2:] == [
        Touch(place, before, vmsa.PAGE, s.stage, 3),
        Touch(place, before | AF, vmsa.MARKED_ACCESSED, s.stage, 3, store=True),
    ]
    assert not any(t.store for t in go(s, s.sample, ha=True)[1])


def test_hardware_sets_the_access_flag_of_tables_only_with_haft(s: Setup) -> None:
    s.map(s.sample, 0x7000_0000)
    tables = [s.place(s.sample, level) for level in s.levels[:-1]]
    assert not any(t.store for t in go(s, s.sample, ha=True)[1])
    assert not any(t.store for t in go(s, s.sample, haft=True)[1])
    before = [s.memory.load64(place) or 0 for place in tables]
    stores = [t for t in go(s, s.sample, ha=True, haft=True)[1] if t.store]
    assert [t.address for t in stores] == tables
    assert [t.value for t in stores] == [entry | AF for entry in before] == [s.memory.load64(t) for t in tables]
    assert not any(t.store for t in go(s, s.sample, ha=True, haft=True)[1])


def clean(s: Setup) -> int:
    """Attributes of a page that may be written, but must be made dirty first."""
    return DBM | (s.leaf & ~S2_W if s.stage == 2 else s.leaf | AP_RO)


@pytest.mark.parametrize("flag", [AF, 0])
def test_a_write_makes_a_clean_page_dirty_by_one_store(s: Setup, flag: int) -> None:
    place = s.map(s.sample, 0x7000_0000, attributes=clean(s) & ~AF | flag)
    before = s.memory.load64(place)
    found, touches = go(s, s.sample, WRITE, ha=True, hd=True)
    assert isinstance(found, Leaf)
    assert before is not None
    after = (before | S2_W if s.stage == 2 else before & ~AP_RO) | AF
    assert found.entry == s.memory.load64(place) == after
    assert not found.writable_clean
    assert Rights.USER_WRITE in found.rights
    assert touches[-1] == Touch(place, after, vmsa.MARKED_DIRTY, s.stage, 3, store=True)
    assert [t.store for t in touches].count(True) == 1


def test_a_read_leaves_a_clean_page_clean(s: Setup) -> None:
    place = s.map(s.sample, 0x7000_0000, attributes=clean(s))
    before = s.memory.load64(place)
    found = leaf_of(s, s.sample, ha=True, hd=True)
    assert found.writable_clean
    assert not found.rights & (Rights.USER_WRITE | Rights.PRIVILEGED_WRITE)
    assert s.memory.load64(place) == before


@pytest.mark.parametrize("options", [{}, {"ha": True}, {"hd": True}])
def test_a_clean_page_is_read_only_unless_hardware_keeps_dirty_state(s: Setup, options: dict[str, bool]) -> None:
    s.map(s.sample, 0x7000_0000, attributes=clean(s))
    fault = fault_of(s, s.sample, WRITE, **options)
    assert fault.kind is FaultKind.PERMISSION
    assert fault.rule is (vmsa.S2_NO_WRITE if s.stage == 2 else vmsa.READ_ONLY)


def test_a_refused_access_marks_nothing(s: Setup) -> None:
    place = s.map(s.sample, 0x7000_0000, attributes=s.leaf & ~AF & ~S2_W if s.stage == 2 else AP_USER | AP_RO)
    before = s.memory.load64(place)
    found, touches = go(s, s.sample, WRITE, ha=True)
    assert isinstance(found, WalkFault)
    assert found.kind is FaultKind.PERMISSION
    assert s.memory.load64(place) == before
    assert (touches[-1].rule, touches[-1].store) == (found.rule, False)


def test_without_an_access_no_right_is_asked_for(s: Setup) -> None:
    s.map(s.sample, 0x7000_0000, attributes=AF | UXN | PXN)
    assert leaf_of(s, s.sample, None).output >> s.granule == 0x7000_0000 >> s.granule
    s.map(s.sample, 0x7000_0000, attributes=UXN)
    assert fault_of(s, s.sample, None).kind is FaultKind.ACCESS


class ReadOnlyMemory(Memory):
    """Answers loads, and aborts stores."""

    __slots__ = ()

    def store64(self, address: int, value: int) -> bool:
        return False


@pytest.mark.parametrize("flag", [AF, 0])
def test_an_update_that_memory_refuses_is_an_abort(s: Setup, flag: int) -> None:
    place = s.map(s.sample, 0x7000_0000, attributes=s.leaf & ~AF | flag)
    memory = ReadOnlyMemory()
    memory.__setstate__(s.memory.__getstate__())
    s.memory = memory
    if flag:
        place = s.place(s.sample, s.start_level)
        if s.start_level == 3:
            return
    found, touches = go(s, s.sample, ha=True, haft=bool(flag))
    assert isinstance(found, WalkFault)
    assert (found.kind, found.fetch_address) == (FaultKind.EXTERNAL_ABORT, place)
    assert touches[-1][:3] == (place, None, vmsa.ABORTED)
    assert touches[-1].store


def test_every_rule_of_a_walk_makes_a_sentence() -> None:
    rules = [rule for name, rule in vars(vmsa).items() if isinstance(rule, vmsa.Rule)]
    assert len(rules) > 30
    for rule in rules:
        assert rule.id.startswith("vmsa.")
        assert "{" not in rule.sentence({"stage": 1, "level": 2, "address": 3})


# --- one walk, byte by byte -----------------------------------------------------------------------------------------


def test_golden_walk_of_four_levels() -> None:
    memory = Memory()
    words = {
        0x8_8765_47F0: 0x8_8000_0003,  # VA[47:39] = 0xfe
        0x8_8000_0000: 0x8_8000_1003,  # VA[38:30] = 0
        0x8_8000_1488: 0x8_8000_2003,  # VA[29:21] = 0x91
        0x8_8000_2A28: 0x0060_0009_1234_5F43,  # VA[20:12] = 0x145: AF, nG, SH, AP 01, PXN, UXN
    }
    for address, word in words.items():
        memory.store64(address, word)
    s1 = Stage1(ttb0=Region(0x8_8765_4000, 16, Granule.K4), ttb1=None, oa_bits=48)
    touches: list[Touch] = []
    found = walk(memory, s1, 0x7F00_1234_5678, WRITE, touches)
    rights = Rights.USER_READ | Rights.USER_WRITE | Rights.PRIVILEGED_READ | Rights.PRIVILEGED_WRITE
    page = 0x0060_0009_1234_5F43
    assert found == Leaf(0x9_1234_5678, 12, rights, page, 0x8_8000_2A28, 3, global_=False, writable_clean=False)
    assert touches == [
        Touch(0x8_8765_47F0, 0x8_8000_0003, vmsa.TABLE, 1, 0),
        Touch(0x8_8000_0000, 0x8_8000_1003, vmsa.TABLE, 1, 1),
        Touch(0x8_8000_1488, 0x8_8000_2003, vmsa.TABLE, 1, 2),
        Touch(0x8_8000_2A28, page, vmsa.PAGE, 1, 3),
    ]


# --- stage 1 -------------------------------------------------------------------------------------------------------

U_R, U_W, U_X = Rights.USER_READ, Rights.USER_WRITE, Rights.USER_EXECUTE
P_R, P_W, P_X = Rights.PRIVILEGED_READ, Rights.PRIVILEGED_WRITE, Rights.PRIVILEGED_EXECUTE
S1 = next(setup for setup in SETUPS if setup.name == "s1-low-4k-16")
S2 = next(setup for setup in SETUPS if setup.name == "s2-4k-24-sl2")


def rights(setup: Setup, attributes: int, *limits: int, **options: object) -> Rights:
    """Return the rights of a page; ask for each of them, and hold the answers against it."""
    s = setup.fresh()
    s.map(s.sample, 0x7000_0000, attributes=attributes)
    for level, limit in enumerate(limits):
        s.limit(s.sample, level, limit)
    granted = leaf_of(s, s.sample, None, **options).rights
    for access in EVERYBODY:
        found, _ = go(s, s.sample, access, **options)
        assert isinstance(found, Leaf) is (needed(access) in granted), access
        assert isinstance(found, Leaf) or found.kind is FaultKind.PERMISSION
    return granted


@pytest.mark.parametrize(
    ("ap", "granted"),
    [
        (0, P_R | P_W),
        (AP_USER, P_R | P_W | U_R | U_W),
        (AP_RO, P_R),
        (AP_RO | AP_USER, P_R | U_R),
    ],
)
def test_ap_says_who_reads_and_writes(ap: int, granted: Rights) -> None:
    assert rights(S1, AF | UXN | PXN | ap) == granted


@pytest.mark.parametrize(
    ("attributes", "granted"),
    [
        (0, P_X | U_X),
        (UXN, P_X),
        (PXN, U_X),
        (UXN | PXN, Rights(0)),
        (AP_USER, U_X),
        (AP_USER | UXN, Rights(0)),
        (AP_USER | AP_RO, P_X | U_X),
    ],
)
def test_uxn_and_pxn_say_who_executes_and_privileged_code_shuns_what_users_write(
    attributes: int, granted: Rights
) -> None:
    assert rights(S1, AF | attributes) & (P_X | U_X) == granted


@pytest.mark.parametrize(
    ("limit", "taken"),
    [
        (AP_TABLE_USER, U_R | U_W),
        (AP_TABLE_RO, U_W | P_W),
        (AP_TABLE_RO | AP_TABLE_USER, U_R | U_W | P_W),
        (UXN_TABLE, U_X),
        (PXN_TABLE, P_X),
    ],
)
@pytest.mark.parametrize("level", [0, 1, 2])
def test_a_table_takes_rights_from_all_below_it(limit: int, taken: Rights, level: int) -> None:
    everything = rights(S1, AF | AP_USER)
    limits = [limit if n == level else 0 for n in range(3)]
    privileged_execution = P_X if taken & U_W else Rights(0)
    assert rights(S1, AF | AP_USER, *limits) == everything & ~taken | privileged_execution & ~taken
    assert rights(S1, AF | AP_USER, *limits, had=True) == everything


def test_limits_of_several_tables_add_up() -> None:
    assert rights(S1, AF | AP_USER, AP_TABLE_USER, UXN_TABLE, PXN_TABLE) == P_R | P_W


@pytest.mark.parametrize(
    ("attributes", "granted"),
    [
        (0, P_R | P_W | U_X),
        (AP_USER, P_R | P_W | U_R | U_W),
        (AP_RO, P_R | P_X | U_X),
        (AP_RO | AP_USER, P_R | U_R | P_X | U_X),
        (AP_RO | AP_USER | DBM, P_R | U_R | P_X | U_X),
    ],
)
def test_wxn_takes_execution_from_what_can_be_written(attributes: int, granted: Rights) -> None:
    assert rights(S1, AF | attributes, wxn=True) == granted


def test_wxn_counts_a_clean_page_as_writable() -> None:
    s = S1.fresh()
    s.map(s.sample, 0x7000_0000, attributes=AF | AP_USER | AP_RO | DBM)
    assert leaf_of(s, s.sample, wxn=True, ha=True, hd=True).rights == P_R | U_R


def test_a_page_that_a_table_makes_read_only_is_never_clean() -> None:
    s = S1.fresh()
    s.map(s.sample, 0x7000_0000, attributes=AF | AP_USER | AP_RO | DBM)
    s.limit(s.sample, 1, AP_TABLE_RO)
    assert not leaf_of(s, s.sample, ha=True, hd=True).writable_clean
    assert fault_of(s, s.sample, WRITE, ha=True, hd=True).rule is vmsa.TABLE_READ_ONLY


def test_el2_has_clean_pages_too() -> None:
    s = S1.fresh()
    s.map(s.sample, 0x7000_0000, attributes=AF | AP_RO | DBM)
    fmt = Stage1(ttb0=Region(ROOT, 16, Granule.K4), ttb1=None, el2=True, ha=True, hd=True)
    found = walk(s.memory, fmt, s.sample, READ, [])
    assert isinstance(found, Leaf)
    assert found.writable_clean
    s.map(s.sample, 0x7000_0000, attributes=AF | DBM)
    found = walk(s.memory, fmt, s.sample, READ, [])
    assert isinstance(found, Leaf)
    assert not found.writable_clean
    s.map(s.sample, 0x7000_0000, attributes=AF | AP_RO)
    found = walk(s.memory, fmt, s.sample, WRITE, [])
    assert isinstance(found, WalkFault)
    assert found.rule is vmsa.READ_ONLY
    s.map(s.sample, 0x7000_0000, attributes=AF | AP_RO | DBM)
    s.limit(s.sample, 1, AP_TABLE_RO)
    found = walk(s.memory, fmt, s.sample, READ, [])
    assert isinstance(found, Leaf)
    assert not found.writable_clean


@pytest.mark.parametrize(("ap", "kept"), [(0, P_R | P_W), (AP_USER, U_R | U_W), (AP_RO, P_R), (AP_RO | AP_USER, U_R)])
def test_pan_keeps_privileged_data_accesses_from_what_users_read(ap: int, kept: Rights) -> None:
    assert rights(S1, AF | UXN | PXN | ap, pan=True) == kept


def test_a_table_that_keeps_users_out_ends_pan() -> None:
    assert rights(S1, AF | UXN | PXN | AP_USER, AP_TABLE_USER, pan=True) == P_R | P_W


@pytest.mark.parametrize(
    ("attributes", "limit", "granted"),
    [
        (0, 0, P_R | P_W | P_X | U_R | U_W | U_X),
        (AP_RO, 0, P_R | P_X | U_R | U_X),
        (AP_RO | DBM, 0, P_R | P_X | U_R | U_X),
        (UXN, 0, P_R | P_W | U_R | U_W),
        (PXN, PXN_TABLE | AP_TABLE_USER, P_R | P_W | P_X | U_R | U_W | U_X),
        (0, AP_TABLE_RO, P_R | P_X | U_R | U_X),
        (0, UXN_TABLE, P_R | P_W | U_R | U_W),
    ],
)
def test_el2_without_e2h_knows_one_privilege(attributes: int, limit: int, granted: Rights) -> None:
    s = S1.fresh()
    s.map(s.sample, 0x7000_0000, attributes=AF | NG | attributes)
    s.limit(s.sample, 0, limit)
    region = Region(ROOT, 16, Granule.K4)
    for options, expected in (({}, granted), ({"wxn": True}, granted & ~(P_X | U_X) if granted & P_W else granted)):
        found = walk(s.memory, Stage1(ttb0=region, ttb1=None, el2=True, pan=True, **options), s.sample, None, [])
        assert isinstance(found, Leaf)
        assert found.rights == expected
        assert found.global_
    with_e2h = walk(s.memory, Stage1(ttb0=region, ttb1=region, el2=True), s.sample, None, [])
    assert isinstance(with_e2h, Leaf)
    assert not with_e2h.global_
    assert with_e2h.rights != granted


def test_without_ttb1_the_high_half_is_out_of_range() -> None:
    found = walk(Memory(), Stage1(ttb0=Region(ROOT, 16, Granule.K4), ttb1=None), ONES, READ, [])
    assert isinstance(found, WalkFault)
    assert found.rule is vmsa.RANGE


@pytest.mark.parametrize(("entry", "is_global"), [(0, True), (NG, False)])
def test_ng_binds_a_page_to_its_asid(entry: int, is_global: bool) -> None:
    s = S1.fresh()
    s.map(s.sample, 0x7000_0000, attributes=AF | entry)
    assert leaf_of(s, s.sample, None).global_ is is_global


@pytest.mark.parametrize(
    ("attributes", "limit", "options", "access", "rule"),
    [
        (0, 0, {}, READ, vmsa.NO_USER),
        (AP_USER | AP_RO, 0, {}, WRITE, vmsa.READ_ONLY),
        (AP_USER, AP_TABLE_USER, {}, READ, vmsa.TABLE_NO_USER),
        (AP_USER, AP_TABLE_RO, {}, WRITE, vmsa.TABLE_READ_ONLY),
        (UXN, 0, {}, Access(instruction=True), vmsa.UXN),
        (PXN, 0, {}, Access(instruction=True, privileged=True), vmsa.PXN),
        (0, UXN_TABLE, {}, Access(instruction=True), vmsa.UXN_TABLE),
        (0, PXN_TABLE, {}, Access(instruction=True, privileged=True), vmsa.PXN_TABLE),
        (AP_USER, 0, {}, Access(instruction=True, privileged=True), vmsa.USER_WRITABLE),
        (AP_USER, 0, {"wxn": True}, Access(instruction=True), vmsa.WXN),
        (0, 0, {"wxn": True}, Access(instruction=True, privileged=True), vmsa.WXN),
        (AP_USER, 0, {"pan": True}, Access(privileged=True), vmsa.PAN),
    ],
)
def test_a_permission_fault_names_what_took_the_right(
    attributes: int, limit: int, options: dict[str, bool], access: Access, rule: vmsa.Rule
) -> None:
    s = S1.fresh()
    place = s.map(s.sample, 0x7000_0000, attributes=AF | attributes)
    s.limit(s.sample, 1, limit)
    found, touches = go(s, s.sample, access, **options)
    assert found == WalkFault(FaultKind.PERMISSION, rule, 1, 3, s.sample)
    assert touches[-1] == Touch(place, s.memory.load64(place), rule, 1, 3)


@pytest.mark.parametrize("high", [False, True])
def test_tbi_ignores_the_top_byte_and_only_that(high: bool) -> None:
    s = next(x for x in SETUPS if x.name == f"s1-{'high' if high else 'low'}-4k-25").fresh()
    s.map(s.sample, 0x7000_0000)
    fmt = s.format(tbi=True)
    assert isinstance(fmt, Stage1)
    plain = s.address(s.sample)
    for tag in (0, 1, 0x80, 0xA5, 0xFF):
        address = plain & (1 << 56) - 1 | tag << 56
        found = walk(s.memory, fmt, address, READ, [])
        assert isinstance(found, Leaf)
        assert found.output == 0x7000_0000 | s.sample & 0xFFF
        assert fmt.canonical(address) == plain
        below = walk(s.memory, fmt, address ^ 1 << 40, READ, [])
        assert isinstance(below, WalkFault)
        assert below.rule is vmsa.RANGE
    tagged = plain ^ 1 << 60
    untold = s.format()
    assert isinstance(untold, Stage1)
    assert untold.canonical(tagged) == tagged


def test_epd_comes_before_everything_else() -> None:
    s = S1.fresh()
    s.tsz = 0
    assert fault_of(s, 1 << 54, disabled=True, root=1 << 60).rule is vmsa.DISABLED


def test_both_halves_have_tables_granules_and_sizes_of_their_own() -> None:
    low = S1.fresh()
    high = next(x for x in SETUPS if x.name == "s1-high-64k-22").fresh()
    low.map(low.sample, 0x7000_0000)
    high.map(high.sample, 0x9000_0000)
    fmt = Stage1(ttb0=Region(ROOT, 16, Granule.K4), ttb1=Region(ROOT, 22, Granule.K64))
    for s, output in ((low, 0x7000_0000), (high, 0x9000_0000)):
        found = walk(s.memory, fmt, s.address(s.sample), READ, [])
        assert isinstance(found, Leaf)
        assert (found.output & -4096 & -(1 << s.granule), found.lg2) == (output, s.granule)


# --- 52 bits -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["s1-low-64k-16", "s1-high-64k-12", "s2-64k-12-sl2"])
def test_64k_entries_hold_address_bits_51_to_48_in_bits_15_to_12(name: str) -> None:
    s = next(x for x in SETUPS if x.name == name).fresh()
    s.map(s.sample, 0x7000_0000 | 0xA000)
    assert leaf_of(s, s.sample, oa_bits=52).output == 0x000A_0000_7000_0000 | s.sample & 0xFFFF
    assert leaf_of(s, s.sample, oa_bits=48).output == 0x7000_0000 | s.sample & 0xFFFF
    fault = fault_of(s, s.sample, oa_bits=48, oas_bits=52)
    assert (fault.kind, fault.rule) == (FaultKind.ADDR_SIZE, vmsa.OUTPUT_SIZE)
    s.limit(s.sample, s.start_level, 0x3000)
    fault = fault_of(s, s.sample, oa_bits=48, oas_bits=52)
    assert (fault.kind, fault.rule) == (FaultKind.ADDR_SIZE, vmsa.TABLE_SIZE)
    _, touches = go(s, s.sample, oa_bits=52)
    assert touches[1].address >> 48 == 3


@pytest.mark.parametrize(
    ("oa_bits", "oas_bits", "maps"), [(52, 0, True), (48, 52, True), (48, 0, False), (40, 48, False)]
)
def test_64k_level_1_has_blocks_where_addresses_have_52_bits(oa_bits: int, oas_bits: int, maps: bool) -> None:
    s = next(x for x in SETUPS if x.name == "s1-low-64k-16").fresh()
    s.put(s.sample, 1, s.leaf | VALID)
    found, _ = go(s, s.sample, oa_bits=oa_bits, oas_bits=oas_bits)
    assert isinstance(found, Leaf) is maps
    if isinstance(found, Leaf):
        assert (found.lg2, found.output) == (42, s.sample & (1 << 42) - 1)
    else:
        assert found.rule is vmsa.RESERVED


def test_a_base_of_52_bits_is_aligned_to_64_bytes() -> None:
    s = next(x for x in SETUPS if x.name == "s1-low-64k-21").fresh()
    s.map(0, 0x7000_0000)
    assert leaf_of(s, 0, oa_bits=52, root=ROOT + 32).output == 0x7000_0000
    assert fault_of(s, 0, oa_bits=48, root=ROOT + 32).rule is vmsa.INVALID


# --- stage 2 -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("xn", "with_xnx", "without"),
    [(0, P_X | U_X, P_X | U_X), (1, U_X, P_X | U_X), (2, Rights(0), Rights(0)), (3, P_X, Rights(0))],
)
def test_stage_2_xn_tells_privileges_apart_only_with_xnx(xn: int, with_xnx: Rights, without: Rights) -> None:
    assert rights(S2, AF | xn << 53, xnx=True) == with_xnx
    assert rights(S2, AF | xn << 53) == without


@pytest.mark.parametrize(
    ("s2ap", "granted"), [(0, Rights(0)), (S2_R, U_R | P_R), (S2_W, U_W | P_W), (S2_R | S2_W, U_R | U_W | P_R | P_W)]
)
def test_s2ap_says_what_both_privileges_may(s2ap: int, granted: Rights) -> None:
    assert rights(S2, AF | 2 << 53 | s2ap) == granted


def test_stage_2_knows_no_asid() -> None:
    s = S2.fresh()
    s.map(s.sample, 0x7000_0000, attributes=s.leaf | NG)
    assert leaf_of(s, s.sample).global_


def test_stage_2_ignores_what_stage_1_tables_take() -> None:
    everything = AP_TABLE_RO | AP_TABLE_USER | UXN_TABLE | PXN_TABLE
    assert rights(S2, AF | S2_R | S2_W, everything, everything) == U_R | U_W | U_X | P_R | P_W | P_X


@pytest.mark.parametrize(
    ("granule", "tsz", "sl0", "level"),
    [
        (Granule.K4, 16, 2, 0),
        (Granule.K4, 15, 2, None),
        (Granule.K4, 48, 3, 3),
        (Granule.K4, 49, 3, None),
        (Granule.K4, 20, 1, None),
        (Granule.K4, 21, 1, 1),
        (Granule.K4, 34, 1, None),
        (Granule.K4, 25, 2, None),
        (Granule.K16, 16, 3, None),
        (Granule.K16, 23, 1, None),
        (Granule.K64, 17, 1, None),
        (Granule.K64, 12, 3, None),
        (Granule.K64, 11, 2, None),
    ],
)
def test_stage_2_starts_where_1_to_16_tables_are_enough(
    granule: Granule, tsz: int, sl0: int, level: int | None
) -> None:
    assert stage2_start_level(granule, tsz, sl0) == level


def test_stage_1_start_levels_follow_from_the_size() -> None:
    levels = [stage1_start_level(Granule.K4, tsz) for tsz in range(64)]
    assert stage1_start_level(Granule.K64, 47) == 3
    assert stage1_start_level(Granule.K64, 48) is None
    assert levels == [None] * 16 + [0] * 9 + [1] * 9 + [2] * 9 + [3] * 6 + [None] * 15


# --- both ----------------------------------------------------------------------------------------------------------


def nested(**flat: int) -> tuple[Setup, Stage2]:
    """Return stage-1 tables in a memory that stage 2 maps one to one: 1 GiB blocks, but for the 2 MiB given."""
    s = S1.fresh()
    root2 = 0x2000_0000
    for gib in range(8):
        s.memory.store64(root2 + gib * 8, gib << 30 | AF | S2_R | S2_W | VALID)
    return s, Stage2(ttb=root2, tsz=28, sl0=1, granule=Granule.K4, **flat)


def go_nested(s: Setup, s2: Stage2, access: Access = READ, **options: object) -> tuple[Leaf | WalkFault, list[Touch]]:
    touches: list[Touch] = []
    return walk(s.memory, s.format(**options), s.sample, access, touches, s2), touches


def test_nested_touches_come_in_the_order_of_the_walk() -> None:
    s, s2 = nested()
    s.map(s.sample, 0x7000_0000)
    found, touches = go_nested(s, s2)
    assert isinstance(found, Leaf)
    assert found.output == 0x7000_0000 | s.sample & 0xFFF
    assert (found.lg2, found.level) == (12, 3)
    assert [t.stage for t in touches] == [2, 1] * 4 + [2]
    assert [t.level for t in touches] == [1, 0, 1, 1, 1, 2, 1, 3, 1]
    assert [t.address for t in touches[1::2]] == [s.place(s.sample, level) for level in range(4)]


def test_nested_takes_the_smaller_size_and_the_rights_of_both() -> None:
    s, s2 = nested()
    s.map(s.sample, 1 << 30, 1)
    s.memory.store64(s2.ttb + 8, 0x2100_0000 | TABLE | VALID)
    index = s.sample >> 21 & 0x1FF
    s.memory.store64(0x2100_0000 + index * 8, 0x4020_0000 | AF | S2_R | VALID)
    # the tables of stage 1 lie in the same gibibyte
    for offset in (0, *(n << 21 for n in range(512))):
        place = 0x2100_0000 + (offset >> 21) * 8
        if not s.memory.load64(place):
            s.memory.store64(place, (1 << 30) + offset | AF | S2_R | VALID)
    found, _ = go_nested(s, s2)
    assert isinstance(found, Leaf)
    assert (found.lg2, found.output) == (21, 0x4020_0000 | s.sample & 0x1F_FFFF)
    assert found.rights == U_R | P_R | U_X
    fault, _ = go_nested(s, s2, WRITE)
    ipa = 1 << 30 | s.sample & (1 << 30) - 1
    assert fault == WalkFault(FaultKind.PERMISSION, vmsa.S2_NO_WRITE, 2, 2, ipa)


@pytest.mark.parametrize("level", range(4))
def test_stage_2_can_refuse_each_table_of_stage_1(level: int) -> None:
    s, s2 = nested()
    s.map(s.sample, 0x7000_0000)
    place = s.place(s.sample, level)
    gib = place >> 30
    s.memory.store64(s2.ttb + gib * 8, gib << 30 | AF | S2_W | VALID)
    found, touches = go_nested(s, s2)
    first = 0 if gib == ROOT >> 30 else 1
    ipa = s.place(s.sample, first)
    assert found == WalkFault(FaultKind.PERMISSION, vmsa.S2_NO_READ, 2, 1, ipa, on_table=True)
    assert touches[-1].rule is vmsa.S2_NO_READ
    s.memory.store64(s2.ttb + gib * 8, 0)
    found, _ = go_nested(s, s2)
    assert found == WalkFault(FaultKind.TRANSLATION, vmsa.INVALID, 2, 1, ipa, on_table=True)


def test_stage_2_faults_on_the_output_are_not_on_a_table() -> None:
    s, s2 = nested()
    s.map(s.sample, 0xF_0000_0000)
    found, touches = go_nested(s, s2)
    ipa = 0xF_0000_0000 | s.sample & 0xFFF
    assert found == WalkFault(FaultKind.TRANSLATION, vmsa.INVALID, 2, 1, ipa)
    assert len(touches) == 9
    s.map(s.sample, 0x10_0000_0000)
    found, touches = go_nested(s, s2)
    assert isinstance(found, WalkFault)
    assert (found.rule, found.on_table) == (vmsa.RANGE, False)


def test_an_abort_under_a_stage_1_table_is_stage_2s_own() -> None:
    s, s2 = nested()
    s.map(s.sample, 0x7000_0000)
    entry = s2.ttb + (ROOT >> 30) * 8
    s.memory.poison(entry, 8)
    found, _ = go_nested(s, s2)
    ipa = s.place(s.sample, 0)
    assert found == WalkFault(FaultKind.EXTERNAL_ABORT, vmsa.ABORTED, 2, 1, ipa, entry, on_table=True)


def test_an_abort_of_a_nested_stage_1_table_gives_its_physical_address() -> None:
    s, s2 = nested()
    s.map(s.sample, 0x7000_0000)
    s.memory.store64(s2.ttb + (ROOT >> 30) * 8, 6 << 30 | AF | S2_R | VALID)
    there = s.place(s.sample, 0) - ROOT + (6 << 30)
    s.memory.poison(there, 8)
    found, _ = go_nested(s, s2)
    assert found == WalkFault(FaultKind.EXTERNAL_ABORT, vmsa.ABORTED, 1, 0, s.sample, there)


def test_an_update_of_a_stage_1_table_is_a_write_to_stage_2() -> None:
    s, s2 = nested()
    place = s.map(s.sample, 0x7000_0000, attributes=s.leaf & ~AF)
    gib = place >> 30
    s.memory.store64(s2.ttb + gib * 8, gib << 30 | AF | S2_R | VALID)
    found, touches = go_nested(s, s2, ha=True)
    assert found == WalkFault(FaultKind.PERMISSION, vmsa.S2_NO_WRITE, 2, 1, place, on_table=True)
    assert not any(t.store for t in touches)
    s.memory.store64(s2.ttb + gib * 8, gib << 30 | AF | S2_R | DBM | VALID)
    s2 = Stage2(ttb=s2.ttb, tsz=28, sl0=1, granule=Granule.K4, ha=True, hd=True)
    found, touches = go_nested(s, s2, ha=True)
    assert isinstance(found, Leaf)
    assert [(t.stage, t.rule) for t in touches if t.store] == [(2, vmsa.MARKED_DIRTY), (1, vmsa.MARKED_ACCESSED)]


def test_a_clean_page_of_either_stage_makes_a_nested_leaf_clean() -> None:
    s, s2 = nested(ha=True, hd=True)
    s.map(s.sample, 0x1_0000_0000)
    s.memory.store64(s2.ttb + 4 * 8, 4 << 30 | AF | S2_R | DBM | VALID)
    found, _ = go_nested(s, s2)
    assert isinstance(found, Leaf)
    assert found.writable_clean
    assert U_W not in found.rights


@pytest.mark.parametrize(
    ("mem_attr", "refused"), [(0, True), (1, True), (3, True), (4, False), (5, False), (15, False)]
)
def test_s2ptw_refuses_stage_1_tables_in_device_memory(mem_attr: int, refused: bool) -> None:
    s, _ = nested()
    s.map(s.sample, 0x1_0000_0000)
    root2 = 0x2000_0000
    for gib in (ROOT >> 30, 2):
        s.memory.store64(root2 + gib * 8, gib << 30 | AF | S2_R | S2_W | mem_attr << 2 | VALID)
    options = {"ttb": root2, "tsz": 28, "sl0": 1, "granule": Granule.K4}
    found, _ = go_nested(s, Stage2(**options, ptw=True))
    assert isinstance(go_nested(s, Stage2(**options))[0], Leaf)
    assert isinstance(found, WalkFault) is refused
    if isinstance(found, WalkFault):
        assert (found.kind, found.rule, found.on_table) == (FaultKind.PERMISSION, vmsa.DEVICE_TABLE, True)


def test_s2ptw_lets_transactions_reach_device_memory() -> None:
    s, s2 = nested(ptw=True)
    s.memory.store64(s2.ttb, AF | S2_R | VALID)
    assert isinstance(walk(s.memory, s2, 0x1000, READ, []), Leaf)
