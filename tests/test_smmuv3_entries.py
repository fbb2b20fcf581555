"""The driver's entries: what is built, which bits count as used, and that no store shows the hardware a mixture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pasidlab.drivers.arm_smmu_v3 import writer as writer_module
from pasidlab.drivers.arm_smmu_v3.entries import (
    CdTable,
    CpuRegisters,
    Features,
    Stage1Config,
    Stage2Config,
    arm_smmu_make_abort_ste,
    arm_smmu_make_bypass_ste,
    arm_smmu_make_cdtable_ste,
    arm_smmu_make_s1_cd,
    arm_smmu_make_s2_domain_ste,
    arm_smmu_make_sva_cd,
)
from pasidlab.drivers.arm_smmu_v3.used import (
    arm_smmu_get_cd_used,
    arm_smmu_get_ste_update_safe,
    arm_smmu_get_ste_used,
)
from pasidlab.drivers.arm_smmu_v3.writer import (
    EntryWriter,
    arm_smmu_cd_writer,
    arm_smmu_entry_qword_diff,
    arm_smmu_ste_writer,
    arm_smmu_write_entry,
    entry_set,
)
from pasidlab.hw.pagetable.descriptors import Shareability
from pasidlab.hw.smmuv3.structures import (
    AddressSize,
    Cd,
    Config,
    Eats,
    S1Dss,
    S1Fmt,
    ShCfg,
    Ste,
    Strw,
    Tg0,
    WalkCache,
)
from pasidlab.linux.profiles import V6_12, V7_3, Profile

PLAIN = Features()
TABLE = CdTable(cdtab_dma=0x8_2345_0000, s1fmt=S1Fmt.LINEAR, s1cdmax=1)
STAGE_1 = Stage1Config(
    ttbr=0x4_5678_9000,
    mair=0xFF44_0C04_00BB_00CC,
    tsz=16,
    tg=Tg0.GRANULE_4K,
    irgn=WalkCache.WB_RA_WA,
    orgn=WalkCache.WB_RA_WA,
    sh=Shareability.ISH,
    ips=AddressSize.BITS_48,
)
STAGE_2 = Stage2Config(
    vttbr=0x7_0000_0000,
    tsz=24,
    sl=1,
    tg=Tg0.GRANULE_4K,
    irgn=WalkCache.WB_RA_WA,
    orgn=WalkCache.WB_RA_WA,
    sh=Shareability.ISH,
    ps=AddressSize.BITS_48,
)
CPU = CpuRegisters(t0sz=16, tg0=Tg0.GRANULE_4K, ips=AddressSize.BITS_48, mair=0xFF44_0C04_00BB_00CC)
PGD = 0x4123_4000


def cdtable(s1dss: S1Dss = S1Dss.SSID0, *, features: Features = PLAIN, ats: bool = False, stall: bool = False) -> Ste:
    return arm_smmu_make_cdtable_ste(features, TABLE, s1dss, stall_enabled=stall, ats_enabled=ats)


def stage_2(vmid: int = 7, *, features: Features = PLAIN, ats: bool = False, stall: bool = False) -> Ste:
    return arm_smmu_make_s2_domain_ste(features, vmid, STAGE_2, stall_enabled=stall, ats_enabled=ats)


def sva(
    pgd: int | None = PGD,
    asid: int = 5,
    *,
    features: Features = PLAIN,
    cpu: CpuRegisters = CPU,
    stall: bool = True,
    profile: Profile = V7_3,
) -> Cd:
    return arm_smmu_make_sva_cd(features, cpu, pgd, asid, profile, stall_enabled=stall)


ABORT, BYPASS = arm_smmu_make_abort_ste(), arm_smmu_make_bypass_ste(PLAIN)
S1 = arm_smmu_make_s1_cd(9, STAGE_1, stall_enabled=False)
OVERRIDE = Features(attr_types_ovr=True)


# --- what is built ---------------------------------------------------------------------------------------------


def test_a_blocked_stream_is_aborted_by_a_valid_entry() -> None:
    assert ABORT == Ste(v=True, config=Config.ABORT) == 1


def test_bypass_keeps_the_incoming_shareability_where_it_can_be_overridden() -> None:
    assert Ste(v=True, config=Config.BYPASS) == BYPASS
    assert arm_smmu_make_bypass_ste(OVERRIDE) == BYPASS.replace(shcfg=ShCfg.INCOMING)


def test_shareability_of_an_entry_with_a_cd_table_matters_only_when_transactions_bypass_it() -> None:
    assert cdtable(S1Dss.BYPASS, features=OVERRIDE).shcfg is ShCfg.INCOMING
    assert cdtable(S1Dss.SSID0, features=OVERRIDE).shcfg is ShCfg.NSH
    assert cdtable(S1Dss.BYPASS).shcfg is ShCfg.NSH


@pytest.mark.parametrize(
    ("can", "does", "forbidden"), [(True, False, True), (True, True, False), (False, False, False)]
)
def test_stalls_are_forbidden_where_they_are_possible_and_not_wanted(can: bool, does: bool, forbidden: bool) -> None:
    assert cdtable(features=Features(stalls=can), stall=does).s1stalld is forbidden


def test_the_stream_world_follows_e2h() -> None:
    assert (cdtable().strw, cdtable(features=Features(e2h=True)).strw) == (Strw.EL1, Strw.EL2)


def test_a_stage_2_entry_stalls_when_the_device_does() -> None:
    assert (stage_2(stall=True).s2s, stage_2().s2s) == (True, False)
    assert (stage_2(ats=True).eats, stage_2().eats) == (Eats.FULL, Eats.OFF)


def test_address_bits_that_the_driver_does_not_write_are_left_out() -> None:
    table = replace(TABLE, cdtab_dma=0xFFF0_0000_0000_003F | 0x1000)
    ste = arm_smmu_make_cdtable_ste(PLAIN, table, S1Dss.SSID0, stall_enabled=False, ats_enabled=False)
    assert ste.s1contextptr == 0x1000
    assert sva(0xFFF0_0000_0000_000F | 0x1000).ttb0 == 0x1000
    s1 = arm_smmu_make_s1_cd(1, replace(STAGE_1, ttbr=1 << 48 | 0x1001), stall_enabled=False)
    assert s1.ttb0 == 1 << 48 | 0x1000
    table_2 = replace(STAGE_2, vttbr=0x100F)
    assert arm_smmu_make_s2_domain_ste(PLAIN, 1, table_2, stall_enabled=False, ats_enabled=False).s2ttb == 0x1000


def test_dirty_tracking_sets_both_ha_and_hd() -> None:
    tracking = arm_smmu_make_s1_cd(9, replace(STAGE_1, hd=True), stall_enabled=False)
    assert (S1.ha, S1.hd) == (False, False)
    assert tracking == S1.replace(ha=True, hd=True)


def test_a_quiet_descriptor_is_valid_and_neither_walks_nor_stalls_nor_records() -> None:
    live, quiet = sva(), sva(None)
    assert quiet == live.replace(epd0=True, t0sz=0, tg0=0, ir0=0, or0=0, sh0=0, ttb0=0, s=False, r=False)
    assert (quiet.v, quiet.a, quiet.asid, quiet.epd1) == (True, True, live.asid, True)


def test_a_quiet_descriptor_goes_on_stalling_where_the_smmu_always_stalls() -> None:
    quiet = sva(None, features=Features(stall_force=True))
    assert (quiet.s, quiet.r) == (True, True)


@pytest.mark.parametrize("pgd", [PGD, None])
def test_hardware_flags_of_an_mm_follow_the_smmu_from_7_3_on(pgd: int | None) -> None:
    httu = Features(ha=True, hd=True, haft=True)
    cpu = replace(CPU, haft=True)
    assert sva(pgd, features=httu, cpu=cpu) == sva(pgd).replace(ha=True, hd=True, haft=True)
    assert sva(pgd, features=Features(ha=True)) == sva(pgd).replace(ha=True)
    assert sva(pgd, features=httu, cpu=cpu, profile=V6_12) == sva(pgd)


def test_table_access_flags_need_both_sides() -> None:
    assert not sva(features=Features(haft=True)).haft
    assert not sva(cpu=replace(CPU, haft=True)).haft


# --- which bits are used ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", [V6_12, V7_3])
def test_of_an_invalid_entry_only_v_is_used(profile: Profile) -> None:
    assert arm_smmu_get_ste_used(Ste(cdtable() & ~1), profile) == Ste.mask("v")
    assert arm_smmu_get_cd_used(S1.replace(v=False)) == Cd.mask("v")


def test_what_an_abort_and_a_bypass_use() -> None:
    assert arm_smmu_get_ste_used(ABORT, V7_3) == Ste.mask("v", "config")
    assert arm_smmu_get_ste_used(BYPASS, V7_3) == Ste.mask("v", "config", "shcfg")


def test_shareability_is_used_with_a_cd_table_only_under_bypass() -> None:
    used = {dss: arm_smmu_get_ste_used(cdtable(dss), V7_3) & Ste.mask("shcfg") for dss in S1Dss}
    assert [dss for dss, bits in used.items() if bits] == [S1Dss.BYPASS]


def test_merging_of_events_and_forced_write_back_count_from_7_3_on() -> None:
    def more(ste: Ste) -> int:
        return arm_smmu_get_ste_used(ste, V7_3) & ~arm_smmu_get_ste_used(ste, V6_12)

    assert more(cdtable()) == Ste.mask("mev")
    assert more(stage_2()) == Ste.mask("mev", "s2fwb")
    assert more(BYPASS) == more(ABORT) == 0


def test_a_nested_entry_uses_what_both_stages_use() -> None:
    nested = stage_2().replace(config=Config.NESTED)
    both = arm_smmu_get_ste_used(nested.replace(config=Config.STAGE_1), V7_3) | arm_smmu_get_ste_used(stage_2(), V7_3)
    assert arm_smmu_get_ste_used(nested, V7_3) == both


def test_a_quiet_descriptor_does_not_use_its_lower_table() -> None:
    unused = Cd.mask("t0sz", "tg0", "ir0", "or0", "sh0", "ttb0")
    assert arm_smmu_get_cd_used(sva(None)) == (1 << 512) - 1 & ~unused
    assert arm_smmu_get_cd_used(sva()) == (1 << 512) - 1


def test_ats_may_change_on_the_way_unless_it_is_split_or_stage_2_stalls() -> None:
    with_ats = cdtable(ats=True)
    split = cdtable().replace(eats=Eats.SPLIT_STAGE)
    assert arm_smmu_get_ste_update_safe(cdtable(), with_ats) == Ste.mask("mev") | Ste(eats=Eats.FULL)
    for one, other in (
        (with_ats, split),
        (split, with_ats),
        (with_ats, stage_2(stall=True)),
        (stage_2(stall=True), BYPASS),
    ):
        assert arm_smmu_get_ste_update_safe(one, other) == Ste.mask("mev")


# --- the writer ------------------------------------------------------------------------------------------------

Trace = list[tuple[str, Ste | Cd]]


def trace(entry: Ste | Cd, target: Ste | Cd, profile: Profile = V7_3) -> Trace:
    """Write one entry over the other; return what is in memory after each store and at each sync."""
    memory = list(entry.words)
    seen: Trace = []

    def store(index: int, value: int) -> None:
        memory[index] = value
        seen.append(("store", type(entry).from_words(*memory)))

    def sync() -> None:
        seen.append(("sync", type(entry).from_words(*memory)))

    if isinstance(entry, Ste):
        assert isinstance(target, Ste)
        arm_smmu_write_entry(arm_smmu_ste_writer(profile, store, sync), entry, target)
    else:
        assert isinstance(target, Cd)
        arm_smmu_write_entry(arm_smmu_cd_writer(store, sync), entry, target)
    assert type(entry).from_words(*memory) == target
    return seen


def syncs(entry: Ste | Cd, target: Ste | Cd, profile: Profile = V7_3) -> list[Ste | Cd]:
    return [image for what, image in trace(entry, target, profile) if what == "sync"]


def hitless(entry: Ste | Cd, target: Ste | Cd, profile: Profile = V7_3) -> bool:
    return all(image.v for _, image in trace(entry, target, profile))


OTHER_TABLE = replace(TABLE, cdtab_dma=0x9_0000_0000)


def other_cdtable(*, ats: bool = False) -> Ste:
    return arm_smmu_make_cdtable_ste(PLAIN, OTHER_TABLE, S1Dss.SSID0, stall_enabled=False, ats_enabled=ats)


@pytest.mark.parametrize("entry", [ABORT, BYPASS, cdtable(), stage_2(), S1, sva(), sva(None), Cd()])
def test_an_equal_entry_is_neither_stored_nor_synced(entry: Ste | Cd) -> None:
    assert trace(entry, entry) == []


def test_bits_that_neither_uses_cost_one_sync() -> None:
    stray = ABORT | Ste(s2vmid=0x77, s1contextptr=0x1000)
    assert syncs(Ste(stray), ABORT) == [ABORT]
    assert len(trace(Ste(stray), ABORT)) == 3


def test_one_critical_word_alone_is_one_store_and_one_sync() -> None:
    assert trace(cdtable(), other_cdtable()) == [("store", other_cdtable()), ("sync", other_cdtable())]


def test_what_is_unused_yet_is_stored_before_the_critical_word() -> None:
    target = cdtable()
    first = Ste.from_words(ABORT.words[0], *target.words[1:])
    assert syncs(ABORT, target) == [first, target]


def test_what_is_unused_from_then_on_is_cleared_after_the_critical_word() -> None:
    entry = cdtable()
    first = Ste.from_words(ABORT.words[0], *entry.words[1:])
    assert syncs(entry, ABORT) == [first, ABORT]


def test_a_hitless_update_of_three_steps_syncs_after_each() -> None:
    entry, target = cdtable(), arm_smmu_make_bypass_ste(OVERRIDE)
    before, critical, after = syncs(entry, target)
    assert (before.config, before.shcfg) == (Config.STAGE_1, ShCfg.INCOMING)
    assert (critical.config, critical.s1dss) == (Config.BYPASS, S1Dss.SSID0)
    assert after == target
    assert hitless(entry, target)


def test_two_critical_words_take_v_away_first_and_give_it_back_last() -> None:
    entry, target = sva(), S1
    assert syncs(entry, target) == [
        Cd.from_words(0, *entry.words[1:]),
        Cd.from_words(0, *target.words[1:]),
        target,
    ]


def test_an_mm_that_is_released_and_taken_again_is_never_invalid() -> None:
    assert hitless(sva(), sva(None))
    assert hitless(sva(None), sva())
    assert [len(syncs(sva(), sva(None))), len(syncs(sva(None), sva())), len(syncs(sva(None), Cd()))] == [2, 2, 2]


def test_a_change_of_ats_with_another_word_is_hitless_from_7_3_on() -> None:
    entry, target = cdtable(ats=True), other_cdtable()
    assert hitless(entry, target, V7_3)
    assert not hitless(entry, target, V6_12)
    assert [len(syncs(entry, target, profile)) for profile in (V7_3, V6_12)] == [2, 3]


def test_a_safe_bit_that_changes_alone_is_synced() -> None:
    assert syncs(cdtable(ats=True), cdtable()) == [cdtable()]
    assert syncs(cdtable().replace(mev=True), cdtable()) == [cdtable()]


def test_a_change_of_ats_breaks_where_stage_2_stalls() -> None:
    entry = stage_2(ats=True)
    target = stage_2(8, stall=True)
    assert not hitless(entry, target)
    assert hitless(entry, stage_2(8))


def test_a_safe_bit_that_only_one_of_them_uses_waits_for_the_critical_word() -> None:
    images = syncs(cdtable(ats=True), BYPASS)
    assert images[0].eats is Eats.FULL
    assert images[-1].eats is Eats.OFF


def test_a_writer_without_safe_bits_has_none() -> None:
    writer = arm_smmu_ste_writer(V6_12, lambda index, value: None, lambda: None)
    assert writer.get_update_safe(cdtable(), cdtable(ats=True)) == 0


def test_words_that_miss_used_bits_are_counted() -> None:
    writer = arm_smmu_ste_writer(V7_3, lambda index, value: None, lambda: None)
    assert arm_smmu_entry_qword_diff(writer, BYPASS, cdtable())[1] == [0]
    assert arm_smmu_entry_qword_diff(writer, cdtable(), stage_2())[1] == [0, 2]
    assert arm_smmu_entry_qword_diff(writer, ABORT, ABORT) == (list(ABORT.words), [])


# --- no mixture, at any store ----------------------------------------------------------------------------------


def view(image: Ste | Cd, profile: Profile) -> int:
    """What the hardware makes of an entry: its used bits, less those that the driver lets change at any time."""
    if isinstance(image, Cd):
        return image & arm_smmu_get_cd_used(image)
    return image & arm_smmu_get_ste_used(image, profile)


def mixtures(entry: Ste | Cd, target: Ste | Cd, profile: Profile) -> Trace:
    """The moments at which the hardware would see neither the old entry, nor the new one, nor an invalid one."""
    safe = 0
    if isinstance(entry, Ste) and isinstance(target, Ste) and profile.smmu_ste_update_safe:
        safe = arm_smmu_get_ste_update_safe(entry, target)
    known = {view(entry, profile) & ~safe, view(target, profile) & ~safe}
    moments = trace(entry, target, profile)
    return [(what, image) for what, image in moments if image.v and view(image, profile) & ~safe not in known]


flags = st.booleans()
features = st.builds(
    Features, attr_types_ovr=flags, e2h=flags, stalls=flags, stall_force=flags, ha=flags, hd=flags, haft=flags
)
addresses = st.sampled_from([0, 0x1_0000, 0x2_0000, 0xFFFF_FFFF_F000])
tables = st.builds(CdTable, cdtab_dma=addresses, s1fmt=st.sampled_from(S1Fmt), s1cdmax=st.integers(0, 31))
stage_1_configs = st.builds(
    Stage1Config,
    ttbr=addresses,
    mair=st.integers(0, (1 << 64) - 1),
    tsz=st.integers(0, 63),
    tg=st.sampled_from(Tg0),
    irgn=st.sampled_from(WalkCache),
    orgn=st.sampled_from(WalkCache),
    sh=st.sampled_from(Shareability),
    ips=st.sampled_from(AddressSize),
    hd=flags,
)
stage_2_configs = st.builds(
    Stage2Config,
    vttbr=addresses,
    tsz=st.integers(0, 63),
    sl=st.integers(0, 3),
    tg=st.sampled_from(Tg0),
    irgn=st.sampled_from(WalkCache),
    orgn=st.sampled_from(WalkCache),
    sh=st.sampled_from(Shareability),
    ps=st.sampled_from(AddressSize),
)
made_stes = st.one_of(
    st.just(ABORT),
    st.builds(arm_smmu_make_bypass_ste, features),
    st.builds(
        arm_smmu_make_cdtable_ste, features, tables, st.sampled_from(S1Dss), stall_enabled=flags, ats_enabled=flags
    ),
    st.builds(
        arm_smmu_make_s2_domain_ste,
        features,
        st.integers(0, 3),
        stage_2_configs,
        stall_enabled=flags,
        ats_enabled=flags,
    ),
)
# Nested and split-stage entries, which the driver itself does not make here, go through the same writer.
stes = st.builds(
    lambda ste, config, mev, eats: ste.replace(config=config or ste.config, mev=mev, eats=eats or ste.eats),
    made_stes,
    st.sampled_from([None, None, Config.NESTED]),
    flags,
    st.sampled_from([None, None, *Eats]),
)
cpus = st.builds(
    CpuRegisters,
    t0sz=st.integers(12, 39),
    tg0=st.sampled_from(Tg0),
    ips=st.sampled_from(AddressSize),
    mair=st.integers(0, (1 << 64) - 1),
    haft=flags,
)
cds = st.one_of(
    st.just(Cd()),
    st.builds(arm_smmu_make_s1_cd, st.integers(0, 3), stage_1_configs, stall_enabled=flags),
    st.builds(
        arm_smmu_make_sva_cd,
        features,
        st.sampled_from([CPU]) | cpus,
        st.none() | addresses,
        st.integers(0, 3),
        st.sampled_from([V6_12, V7_3]),
        stall_enabled=flags,
    ),
)
profiles = st.sampled_from([V6_12, V7_3])


@settings(max_examples=400)
@given(entry=stes, target=stes, profile=profiles)
def test_the_hardware_never_sees_a_mixture_of_two_stream_table_entries(
    entry: Ste, target: Ste, profile: Profile
) -> None:
    target = Ste(target & arm_smmu_get_ste_used(target, profile))
    assert mixtures(entry, target, profile) == []
    assert len(syncs(entry, target, profile)) <= 3


@settings(max_examples=400)
@given(entry=cds, target=cds)
def test_the_hardware_never_sees_a_mixture_of_two_context_descriptors(entry: Cd, target: Cd) -> None:
    assert mixtures(entry, target, V7_3) == []
    assert len(syncs(entry, target)) <= 3


@given(entry=stes, target=stes, profile=profiles)
def test_every_store_is_followed_by_a_sync_and_every_sync_preceded_by_a_store(
    entry: Ste, target: Ste, profile: Profile
) -> None:
    whats = [what for what, _ in trace(entry, target, profile)]
    assert not whats or whats[-1] == "sync"
    assert all(what == "store" for what, after in pairwise(whats) if after == "sync")


@given(raw=st.integers(0, (1 << 512) - 1), target=stes, profile=profiles)
def test_whatever_lies_in_memory_is_replaced(raw: int, target: Ste, profile: Profile) -> None:
    assert trace(Ste(raw), target, profile) or raw == target


@given(ste=made_stes, cd=cds)
def test_what_the_driver_builds_sets_no_bit_that_it_does_not_use(ste: Ste, cd: Cd) -> None:
    for profile in (V6_12, V7_3):
        assert not ste & ~arm_smmu_get_ste_used(ste, profile)
    assert not cd & ~arm_smmu_get_cd_used(cd)
    assert (ste.reserved, cd.reserved) == (0, 0)


def _critical_first(
    writer: EntryWriter[Ste], memory: list[int], unused_update: list[int], target: tuple[int, ...], critical: int
) -> None:
    entry_set(writer, memory, target, [critical])
    entry_set(writer, memory, target, range(8))


def _unused_last_word_too_early(
    writer: EntryWriter[Ste], memory: list[int], unused_update: list[int], target: tuple[int, ...], critical: int
) -> None:
    entry_set(writer, memory, target, [index for index in range(8) if index != critical])
    entry_set(writer, memory, target, range(8))


def _without_break(writer: EntryWriter[Ste], memory: list[int], target: tuple[int, ...]) -> None:
    for index in range(8):
        entry_set(writer, memory, target, [index])


def _valid_too_early(writer: EntryWriter[Ste], memory: list[int], target: tuple[int, ...]) -> None:
    entry_set(writer, memory, [0] * 8, [0])
    entry_set(writer, memory, target, [0])
    entry_set(writer, memory, target, range(8))


@pytest.mark.parametrize(
    ("step", "wrong", "entry", "target"),
    [
        ("_write_hitless", _critical_first, ABORT, cdtable()),
        ("_write_hitless", _unused_last_word_too_early, cdtable(), ABORT),
        ("_write_broken", _without_break, cdtable(), stage_2()),
        ("_write_broken", _valid_too_early, cdtable(), stage_2()),
    ],
)
def test_a_wrong_order_shows_a_mixture(
    monkeypatch: pytest.MonkeyPatch, step: str, wrong: Callable[..., None], entry: Ste, target: Ste
) -> None:
    assert mixtures(entry, target, V7_3) == []
    monkeypatch.setattr(writer_module, step, wrong)
    assert mixtures(entry, target, V7_3)


def test_a_used_bit_that_the_driver_forgets_shows_a_mixture(monkeypatch: pytest.MonkeyPatch) -> None:
    def forgetful(ste: Ste, profile: Profile) -> int:
        return arm_smmu_get_ste_used(ste, profile) & ~Ste.mask("s1dss")

    monkeypatch.setattr(writer_module, "arm_smmu_get_ste_used", forgetful)
    target = arm_smmu_make_cdtable_ste(PLAIN, OTHER_TABLE, S1Dss.TERMINATE, stall_enabled=False, ats_enabled=False)
    assert mixtures(cdtable(), target, V7_3)
