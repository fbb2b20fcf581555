"""What the SMMUv3 driver leaves in memory, and which commands it issues in which order; F1 to F10 are known cases."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pasidlab.description import CpuSpec, MachineSpec, check
from pasidlab.devices import Access, Work
from pasidlab.drivers.arm_smmu_v3.cmdq import CMD_SYNC
from pasidlab.drivers.arm_smmu_v3.entries import arm_smmu_make_abort_ste
from pasidlab.errors import Errno, InputError
from pasidlab.events import Event, PageResponded, PasidBlocked, PasidRemoved
from pasidlab.hw.smmuv3.commands import AtcInv, CfgiCd, TlbiNhAsid, TlbiNhVa
from pasidlab.hw.smmuv3.features import StallModel
from pasidlab.hw.smmuv3.registers import Offset
from pasidlab.hw.smmuv3.structures import Config, Eats, S1Dss, S1Fmt, Tg0
from pasidlab.linux.profiles import PROFILES
from pasidlab.linux.sva import iommu_sva_bind_device
from pasidlab.rules import Refusal

from .conftest import Command
from .smmuv3_machine import DATA, SmmuMachine, narrow, nic, smmu_spec, told

both_kernels = pytest.mark.parametrize("kernel", ["v6.12", "v7.3"])
ATS = {"ats": True}
NEW_CD = 2
"""A CD that becomes valid takes two steps: what is not used yet, then word 0 with V."""


def cfgi_cd(sid: int, ssid: int, times: int = NEW_CD) -> list[str]:
    return [f"CFGI_CD {sid}/{ssid};"] * times


def cfgi_ste(sid: int, times: int = 2) -> list[str]:
    return [f"CFGI_STE {sid};"] * times + [f"PREFETCH_CONFIG {sid}"]


# --- F1 to F10 -----------------------------------------------------------------------------------------------


@both_kernels
def test_f1_a_device_of_one_bit_has_a_linear_table_of_two_cds(kernel: str) -> None:
    m = SmmuMachine(narrow(bits=1), kernel=kernel)
    assert m.bind("npu0", "a").pasid == 1
    ste = m.ste(1)
    assert (ste.s1cdmax, ste.s1fmt, ste.config) == (1, S1Fmt.LINEAR, Config.STAGE_1)
    assert m.cd(1, 0).v
    assert m.cd(1, 1).v
    assert m.cd(1, 1).ttb0 == m.processes["a"].mm.pgd
    assert m.driver.masters[m.dev("npu0")].used_ssids == 1


@both_kernels
def test_f2_an_identity_rid_gets_a_cd_table_with_the_first_pasid_and_loses_it_with_the_last(kernel: str) -> None:
    m = SmmuMachine(narrow(default_domain="identity"), kernel=kernel)
    before = m.ste(1)
    assert (before.v, before.config) == (True, Config.BYPASS)
    m.bind("npu0", "a", "first")
    m.bind("npu0", "b", "second")
    assert (m.ste(1).config, m.ste(1).s1dss) == (Config.STAGE_1, S1Dss.BYPASS)
    m.unbind("first")
    assert m.ste(1).config is Config.STAGE_1
    m.unbind("second")
    assert m.ste(1) == before


@both_kernels
def test_f3_a_blocked_rid_terminates_what_comes_without_pasid(kernel: str) -> None:
    m = SmmuMachine(narrow(default_domain="blocked"), kernel=kernel)
    assert m.ste(1) == arm_smmu_make_abort_ste()
    m.bind("npu0", "a", "h")
    assert (m.ste(1).config, m.ste(1).s1dss) == (Config.STAGE_1, S1Dss.TERMINATE)
    m.unbind("h")
    assert m.ste(1) == arm_smmu_make_abort_ste()


@both_kernels
def test_f3_a_stage_1_rid_has_the_table_already_and_its_ste_is_not_stored_again(kernel: str) -> None:
    m = SmmuMachine(narrow(), kernel=kernel)
    before = m.ste(1)
    assert (before.config, before.s1dss) == (Config.STAGE_1, S1Dss.SSID0)
    m.forget()
    m.bind("npu0", "a", "h")
    assert told(m.commands()) == cfgi_cd(1, 1)
    m.unbind("h")
    assert m.ste(1) == before
    assert not [line for line in told(m.commands()) if "STE" in line]


@both_kernels
def test_f4_a_stage_2_rid_leaves_no_room_for_pasids(kernel: str) -> None:
    m = SmmuMachine(narrow(default_domain="stage2"), kernel=kernel)
    assert m.ste(1).config is Config.STAGE_2
    m.forget()
    outcome = m.bind("npu0", "a")
    assert (outcome.result, outcome.rule) == ("EINVAL", "arm-smmu-v3.rid-domain")
    assert m.ste(1).config is Config.STAGE_2
    assert m.processes["a"].mm.global_pasid == 1


@both_kernels
def test_f4_stage_2_is_refused_to_a_rid_while_pasids_are_in_use(kernel: str) -> None:
    m = SmmuMachine(narrow(), kernel=kernel)
    m.bind("npu0", "a", "h")
    before, dev = m.ste(1), m.dev("npu0")
    domain = m.driver.domain_alloc_stage2(dev)
    refusal = m.driver.attach_dev(domain, dev)
    assert isinstance(refusal, Refusal)
    assert (refusal.errno, refusal.rule.id) == (Errno.EBUSY, "arm-smmu-v3.ssids-in-use")
    assert m.ste(1) == before
    m.unbind("h")
    assert m.driver.attach_dev(domain, dev) is None
    assert (m.ste(1).config, m.ste(1).s2vmid) == (Config.STAGE_2, 1)


@both_kernels
def test_f5_the_release_of_an_mm_makes_its_cds_quiet_and_flushes(kernel: str) -> None:
    m = SmmuMachine(narrow(), nic(can_stall=False), smmu=ATS, kernel=kernel)
    m.bind_device("npu0", "a")
    m.bind_device("nic0", "a")
    asid = m.cd(1, 1).asid
    m.forget()
    m.exit("a")
    for sid in (1, 2):
        cd = m.cd(sid, 1)
        assert (cd.v, cd.epd0, cd.epd1, cd.s, cd.r, cd.a, cd.ttb0, cd.asid) == (1, 1, 1, 0, 0, 1, 0, asid)
    newest_first = cfgi_cd(2, 1) + cfgi_cd(1, 1)
    assert told(m.commands()) == [*newest_first, f"TLBI_NH_ASID {asid};", "ATC_INV 2/1 all;"]
    assert m.write("npu0", 1).result == "fault"


@both_kernels
def test_f5_with_forced_stalls_even_a_quiet_cd_stalls(kernel: str, features: Callable[..., None]) -> None:
    features(stall_model=StallModel.STALL_FORCED)
    m = SmmuMachine(narrow(can_stall=False), kernel=kernel)
    m.bind_device("npu0", "a")
    assert m.cd(1, 1).s
    m.exit("a")
    cd = m.cd(1, 1)
    assert (cd.v, cd.epd0, cd.s, cd.r) == (True, True, True, True)


@both_kernels
def test_f6_detach_zeroes_the_cd_then_flushes_atc_then_tlb(kernel: str) -> None:
    m = SmmuMachine(narrow(), nic(), smmu=ATS, kernel=kernel)
    m.bind("nic0", "a", "h")
    assert m.cd(2, 1).asid == 3
    m.forget()
    m.unbind("h")
    assert m.cd(2, 1) == 0
    assert told(m.commands()) == [*cfgi_cd(2, 1), "ATC_INV 2/1 all;", "TLBI_NH_ASID 3;"]


@pytest.mark.parametrize(("kernel", "at_detach"), [("v6.12", []), ("v7.3", ["TLBI_NH_ASID 1;"])])
def test_f6_the_last_bond_flushes_the_asid_and_the_free_of_its_domain_only_before_7(
    kernel: str, at_detach: list[str]
) -> None:
    m = SmmuMachine(narrow(default_domain="identity"), kernel=kernel)
    m.bind("npu0", "a", "h")
    m.forget()
    detached: list[list[str]] = []

    def look(event: Event) -> None:
        if isinstance(event, PasidBlocked | PasidRemoved):
            detached.append(told(m.commands()))

    m.kernel.observers.append(look)
    m.unbind("h")
    assert detached == [cfgi_cd(1, 1) + at_detach + cfgi_ste(1)]
    assert told(m.commands()) == ([] if at_detach else ["TLBI_NH_ASID 1;"])


def test_f6_the_bits_of_the_commands_are_those_of_the_driver() -> None:
    m = SmmuMachine(nic(), smmu=ATS)
    m.bind("nic0", "a", "h")
    m.forget()
    m.unbind("h")
    cfgi = CfgiCd.make(sid=1, ssid=1, leaf=True)
    atc = AtcInv.make(sid=1, ssv=True, ssid=1, size=52)
    assert m.commands() == [cfgi, CMD_SYNC, cfgi, CMD_SYNC, atc, CMD_SYNC, TlbiNhAsid.make(asid=2), CMD_SYNC]
    assert f"{CMD_SYNC:#x}" == "0xfc02046"


@both_kernels
def test_f7_two_level_cds_get_a_leaf_when_one_of_its_numbers_is_used(kernel: str) -> None:
    m = SmmuMachine(narrow(bits=11, default_domain="blocked"), scheme="hybrid", kernel=kernel)
    m.forget()
    m.bind_device("npu0", "a")
    assert m.ste(1).s1cdmax == 11
    assert [l1.v for l1 in m.l1cds(1)] == [True, False]
    assert told(m.commands()) == ["CFGI_CD 1/1 and level 1;", *cfgi_cd(1, 1), *cfgi_ste(1)]
    m.bind_device_pasid("npu0", "b", 1500)
    assert [l1.v for l1 in m.l1cds(1)] == [True, True]
    assert m.cd(1, 1500).v
    assert told(m.commands()) == ["CFGI_CD 1/1500 and level 1;", *cfgi_cd(1, 1500)]


def test_f7_a_leaf_stays_when_its_last_cd_goes() -> None:
    m = SmmuMachine(narrow(bits=11))
    m.bind("npu0", "a", "h")
    before = m.l1cds(1)
    m.unbind("h")
    m.forget()
    m.bind("npu0", "b")
    assert m.l1cds(1) == before
    assert told(m.commands()) == cfgi_cd(1, 2)


@both_kernels
def test_f7_a_downgrade_warns_when_ssid_0_never_had_a_leaf(kernel: str) -> None:
    m = SmmuMachine(narrow(bits=11, default_domain="identity"), scheme="hybrid", kernel=kernel)
    m.bind_device_pasid("npu0", "a", 1500, "h")
    assert m.write("npu0", 1500).work.owner == "a"
    m.unbind("h")
    assert m.kernel.warnings == 1
    assert m.ste(1).config is Config.BYPASS


def test_f7_without_two_levels_a_device_gets_ten_bits_and_the_core_does_not_know() -> None:
    m = SmmuMachine(narrow(bits=11), smmu={"two_level": False})
    assert (m.ste(1).s1cdmax, m.ste(1).s1fmt) == (10, S1Fmt.LINEAR)
    assert m.dev("npu0").max_pasids == 2048
    assert m.findings() == ["arm-smmu-v3.two-limits"]
    assert "no two-level CD tables" in m.kernel.findings[0].why


@both_kernels
def test_f8_when_asids_run_out_a_bind_is_busy_and_the_number_stays(kernel: str) -> None:
    m = SmmuMachine(narrow(), kernel=kernel)
    asids = m.driver.asids
    while (free := asids.lowest_free(1, 0xFFFF)) is not None:
        asids.take(free)
    outcome = m.bind("npu0", "a")
    assert (outcome.result, outcome.rule) == ("EBUSY", "arm-smmu-v3.no-asid")
    assert "65535 ASIDs" in outcome.why
    assert m.processes["a"].mm.global_pasid == 1
    assert not m.cd(1, 1).v
    asids.free(77)
    assert m.bind("npu0", "a").pasid == 1
    assert m.cd(1, 1).asid == 77


@pytest.mark.parametrize(
    ("kernel", "result", "rule"),
    [
        ("v7.3", "EOPNOTSUPP", "arm-smmu-v3.iopf-streams"),
        ("v6.16", "EOPNOTSUPP", "arm-smmu-v3.iopf-streams"),
        ("v6.12", "EINVAL", "arm-smmu-v3.enable-iopf-streams"),
    ],
)
def test_f9_a_stalling_device_with_two_streams_is_refused(kernel: str, result: str, rule: str) -> None:
    m = SmmuMachine(narrow(stream_id=[4, 9]), kernel=kernel)
    outcome = m.bind("npu0", "a")
    assert (outcome.result, outcome.rule) == (result, rule)
    assert [m.cd(sid, 1).v for sid in (4, 9)] == [False, False]


@both_kernels
def test_f9_a_device_that_does_not_stall_may_have_several_streams(kernel: str) -> None:
    m = SmmuMachine(narrow(stream_id=[4, 300], can_stall=False, default_domain="identity"), kernel=kernel)
    m.forget()
    assert m.bind("npu0", "a", "h").result == "ok"
    assert m.ste(4) == m.ste(300)
    assert m.cd(4, 1).v
    assert told(m.commands()) == ["CFGI_CD 4/1", "CFGI_CD 300/1;"] * NEW_CD + cfgi_ste(4) + cfgi_ste(300)
    m.unbind("h")
    assert m.ste(4) == m.ste(300)
    assert m.ste(4).config is Config.BYPASS


@both_kernels
def test_f10_an_mm_on_two_devices_has_one_asid_and_one_number(kernel: str) -> None:
    m = SmmuMachine(narrow("npu0"), narrow("npu1", bits=8), kernel=kernel)
    assert m.bind("npu0", "a", "h").pasid == m.bind("npu1", "a").pasid == 1
    assert m.cd(1, 1) == m.cd(2, 1)
    asid = m.cd(1, 1).asid
    m.forget()
    m.unbind("h")
    assert told(m.commands()) == cfgi_cd(1, 1), "the ASID still has a user"
    assert m.cd(2, 1).asid == asid


# --- set_dev_pasid -------------------------------------------------------------------------------------------


@both_kernels
def test_the_first_pasid_of_an_identity_rid_writes_cd_then_ste_then_flushes_the_atc_before_ats_goes_on(
    kernel: str,
) -> None:
    m = SmmuMachine(nic(default_domain="identity"), smmu=ATS, kernel=kernel)
    m.forget()
    m.bind("nic0", "a", "h")
    first_leaf = ["CFGI_CD 1/1 and level 1;"]
    assert told(m.commands()) == [*first_leaf, *cfgi_cd(1, 1), *cfgi_ste(1), "ATC_INV 1 all;"]
    assert m.ste(1).eats is Eats.FULL
    m.bind("nic0", "b")
    assert told(m.commands()) == [*cfgi_cd(1, 2), "ATC_INV 1/2 all;"], "ATS was on before"
    m.unbind("h")
    m.forget()
    m.unbind("nic0/b")
    atc_off = [*cfgi_ste(1), "ATC_INV 1 all;"]
    tail = [*atc_off, "TLBI_NH_ASID 2;"] if kernel == "v6.12" else ["TLBI_NH_ASID 2;", *atc_off]
    assert told(m.commands()) == [*cfgi_cd(1, 2), "ATC_INV 1/2 all;", *tail]
    assert m.ste(1).eats is Eats.OFF
    assert not m.driver.ports[m.dev("nic0")].atc.entries


@both_kernels
def test_the_cd_of_a_process_is_built_from_the_cpu(kernel: str) -> None:
    m = SmmuMachine(narrow(), nic(can_stall=False), kernel=kernel)
    m.bind_device("npu0", "a")
    m.bind_device("nic0", "a")
    cd = m.cd(1, 1)
    assert (cd.v, cd.aa64, cd.r, cd.a, cd.aset, cd.epd1, cd.s) == (1, 1, 1, 1, 1, 1, 1)
    assert (cd.t0sz, cd.tg0, cd.ips) == (16, Tg0.GRANULE_4K, 5)
    assert (cd.tbi0, cd.ha, cd.hd, cd.epd0) == (0, 0, 0, 0)
    assert m.cd(2, 1) == cd.replace(s=False), "the device decides whether it stalls"


@pytest.mark.parametrize(("kernel", "httu"), [("v6.12", 0), ("v7.0", 0), ("v7.3", 1)])
def test_the_cd_offers_hardware_updates_since_7_3(kernel: str, httu: int, features: Callable[..., None]) -> None:
    features(httu=2)
    m = SmmuMachine(narrow(), kernel=kernel)
    m.bind_device("npu0", "a")
    assert (m.cd(1, 1).ha, m.cd(1, 1).hd) == (httu, httu)


@pytest.mark.parametrize("device", ["nic0", "npu0"])
def test_a_failing_allocation_leaves_nothing_behind(device: str) -> None:
    refused: list[str] = []
    for nth in range(1, 10):
        m = SmmuMachine(nic(bits=11, default_domain="blocked"), narrow(default_domain="blocked"), smmu=ATS)
        sid = 1 if device == "nic0" else 2
        m.kernel.fail_allocation = nth
        outcome = m.bind_device(device, "a", "h")
        if outcome.result == "ok":
            break
        refused.append(outcome.rule)
        assert outcome.result == "ENOMEM"
        assert m.ste(sid) == arm_smmu_make_abort_ste()
        assert m.dev(device).fault_param is None
        assert m.driver.asids.lowest_free(1, 9) == 1
        assert m.bind_device(device, "a").result == "ok"
        assert m.write(device, 1).result in ("ok", "fault")
    leaf = ["arm-smmu-v3.cd-no-memory"] if device == "nic0" else []
    assert refused[-2 - len(leaf) :] == ["arm-smmu-v3.cd-no-memory", *leaf, "arm-smmu-v3.no-memory"]


@both_kernels
def test_an_mm_without_users_gets_no_cd(kernel: str) -> None:
    m = SmmuMachine(narrow("npu0"), narrow("npu1"), kernel=kernel)
    m.bind_device("npu0", "a")
    mm = m.processes["a"].mm
    m.exit("a")
    refusal = iommu_sva_bind_device(m.dev("npu1"), mm)
    assert isinstance(refusal, Refusal)
    assert refusal.errno is Errno.EINVAL
    assert not m.cd(2, 1).v


@both_kernels
def test_two_smmus_have_a_domain_and_an_asid_each_under_one_number(kernel: str) -> None:
    iommus = [smmu_spec("s0"), smmu_spec("s1")]
    m = SmmuMachine(narrow("n0", iommu="s0"), narrow("n1", iommu="s1"), iommus=iommus, kernel=kernel)
    assert m.bind("n0", "a").pasid == m.bind("n1", "a", "h").pasid == 1
    assert m.cd(1, 1, "s0").asid != m.cd(1, 1, "s1").asid
    assert m.write("n0", 1).result == m.write("n1", 1).result == "ok"
    m.forget()
    m.munmap("a", DATA)
    for name in ("s0", "s1"):
        asid = m.cd(1, 1, name).asid
        assert told(m.commands(name)) == [f"TLBI_NH_VA {asid} {DATA:#x}+2;"]
    m.unbind("h")
    assert m.cd(1, 1, "s0").v
    assert not m.cd(1, 1, "s1").v
    assert m.commands("s0") == []


@both_kernels
def test_a_domain_of_another_smmu_is_refused(kernel: str) -> None:
    iommus = [smmu_spec("s0"), smmu_spec("s1")]
    m = SmmuMachine(narrow("n0", iommu="s0"), narrow("n1", iommu="s1"), iommus=iommus, kernel=kernel)
    domain = m.driver.domain_alloc_paging(m.dev("n0"))
    assert not isinstance(domain, Refusal)
    for refusal in (
        m.driver.s1_set_dev_pasid(domain, m.dev("n1"), 1, None),
        m.driver.attach_dev(domain, m.dev("n1")),
    ):
        assert refusal is not None
        assert (refusal.errno, refusal.rule.id) == (Errno.EINVAL, "arm-smmu-v3.other-smmu")


@both_kernels
def test_vmids_are_counted_by_each_smmu(kernel: str) -> None:
    iommus = [smmu_spec("s0"), smmu_spec("s1")]
    devices = [narrow(f"n{i}", iommu=f"s{i}", default_domain="stage2") for i in range(2)]
    m = SmmuMachine(*devices, iommus=iommus, kernel=kernel)
    assert m.ste(1, "s0").s2vmid == m.ste(1, "s1").s2vmid == 1


@both_kernels
def test_every_member_of_a_group_gets_the_cd_and_one_bond_clears_them_all(kernel: str) -> None:
    m = SmmuMachine(narrow("n0", group="g"), narrow("n1", group="g"), kernel=kernel)
    m.bind("n0", "a", "h")
    assert m.cd(1, 1) == m.cd(2, 1)
    assert m.write("n1", 1).work.owner == "a"
    m.forget()
    m.unbind("h")
    assert m.cd(1, 1) == m.cd(2, 1) == 0
    flush = "TLBI_NH_ASID 2;"
    assert told(m.commands()) == [*cfgi_cd(1, 1), *cfgi_cd(2, 1), flush]


@both_kernels
def test_a_group_shares_the_domain_of_its_traffic_without_pasid(kernel: str) -> None:
    m = SmmuMachine(narrow("n0", group="g"), narrow("n1", group="g"), narrow("n2"), kernel=kernel)
    assert m.cd(1, 0) == m.cd(2, 0)
    assert m.cd(3, 0).asid != m.cd(1, 0).asid


# --- invalidation --------------------------------------------------------------------------------------------


@both_kernels
@pytest.mark.parametrize(
    ("first", "pages", "tlbi", "atc"),
    [(0, 1, 2, (0, 1)), (1, 1, 2, (1, 1)), (0, 4, 4, (0, 4)), (1, 2, 2, (0, 4)), (1, 3, 3, (0, 4)), (2, 2, 2, (2, 2))],
)
def test_munmap_flushes_tlb_by_range_then_atc_by_one_power_of_two(
    kernel: str, first: int, pages: int, tlbi: int, atc: tuple[int, int]
) -> None:
    m = SmmuMachine(nic(default_domain="identity"), smmu=ATS, kernel=kernel)
    m.bind("nic0", "a")
    m.store("a", DATA, bytes(0x4000))
    m.forget()
    m.munmap("a", DATA + first * 0x1000, pages * 0x1000)
    lines = told(m.commands())
    assert lines[-1] == f"ATC_INV 1/1 {DATA + atc[0] * 0x1000:#x}+{atc[1]};"
    covered = sum(int(line.rstrip(";").rpartition("+")[2]) for line in lines[:-1])
    assert covered == tlbi
    assert lines[0].startswith(f"TLBI_NH_VA 1 {DATA + first * 0x1000:#x}+")
    assert lines[-2].endswith(";")
    assert not any(line.endswith(";") for line in lines[:-2])


def test_a_range_command_names_no_level_since_a_table_may_have_gone() -> None:
    m = SmmuMachine(narrow(default_domain="identity"))
    m.bind("npu0", "a")
    m.store("a", DATA, bytes(0x4000))
    m.forget()
    m.munmap("a", DATA)
    assert m.commands() == [TlbiNhVa.make(asid=1, tg=1, scale=2, num=0, addr=DATA), CMD_SYNC]


@both_kernels
def test_without_range_invalidation_every_page_has_a_command(kernel: str, features: Callable[..., None]) -> None:
    features(range_invalidation=False)
    m = SmmuMachine(narrow(default_domain="identity"), kernel=kernel)
    m.bind("npu0", "a")
    m.store("a", DATA, bytes(0x4000))
    m.forget()
    m.munmap("a", DATA)
    assert m.commands() == [*(TlbiNhVa.make(asid=1, addr=DATA + page * 0x1000) for page in range(4)), CMD_SYNC]


@both_kernels
@pytest.mark.parametrize(("ranges", "pages", "whole"), [(False, 511, False), (False, 512, True), (True, 512, False)])
def test_many_pages_without_range_invalidation_flush_the_asid(
    kernel: str, ranges: bool, pages: int, whole: bool, features: Callable[..., None]
) -> None:
    features(range_invalidation=ranges, cmdq_bits=10)
    m = SmmuMachine(nic(default_domain="identity"), smmu=ATS, kernel=kernel)
    m.bind("nic0", "a")
    m.forget()
    m.processes["a"].mm.notifier_subscriptions.arch_invalidate_secondary_tlbs(0, pages * 0x1000)
    lines = told(m.commands())
    if whole:
        assert lines == ["TLBI_NH_ASID 1;", "ATC_INV 1/1 all;"]
    else:
        assert lines[0].startswith("TLBI_NH_VA 1 0x0+")
        assert lines[-1] == "ATC_INV 1/1 0x0+512;"


@both_kernels
def test_fork_flushes_the_whole_parent(kernel: str) -> None:
    m = SmmuMachine(nic(default_domain="identity"), smmu=ATS, kernel=kernel)
    m.bind("nic0", "a")
    m.store("a", DATA, b"x")
    m.forget()
    m.fork("a", "child")
    assert told(m.commands()) == ["TLBI_NH_ASID 1;", "ATC_INV 1/1 all;"]


@both_kernels
def test_a_page_that_comes_needs_no_flush(kernel: str) -> None:
    m = SmmuMachine(narrow(), kernel=kernel)
    m.bind("npu0", "a")
    m.forget()
    m.store("a", DATA, b"x")
    assert m.commands() == []


@pytest.mark.parametrize(
    ("kernel", "order"),
    [("v7.3", ["ATC_INV 1/1 all", "ATC_INV 2/1 all;"]), ("v6.12", ["ATC_INV 2/1 all", "ATC_INV 1/1 all;"])],
)
def test_atcs_are_flushed_by_stream_since_7_and_by_the_newest_attachment_before(kernel: str, order: list[str]) -> None:
    m = SmmuMachine(nic("nic0"), nic("nic1"), smmu=ATS, kernel=kernel)
    m.bind("nic0", "a")
    m.bind("nic1", "a")
    m.forget()
    m.fork("a", "child")
    assert told(m.commands()) == [f"TLBI_NH_ASID {m.cd(1, 1).asid};", *order]


def test_kernel_mappings_are_flushed_for_every_bound_process_that_lives() -> None:
    m = SmmuMachine(narrow(default_domain="identity"))
    m.bind("npu0", "a")
    m.bind_device("npu0", "b")
    m.exit("b")
    m.forget()
    assert m.invalidate_kva().detail == ("reached: a",)
    assert [(c.opcode, c.asid, c.addr) for c in m.commands()[:-1]] == [(0x12, 1, 1 << 63)]
    old = SmmuMachine(narrow(), kernel="v6.12")
    old.bind("npu0", "a")
    old.forget()
    old.invalidate_kva()
    assert old.commands() == []


@pytest.mark.parametrize(("kernel", "freed"), [("v6.12", ["TLBI_S12_VMALL 1;"]), ("v7.3", [])])
def test_a_stage_2_domain_is_flushed_by_its_vmid(kernel: str, freed: list[str]) -> None:
    m = SmmuMachine(narrow(default_domain="stage2"), kernel=kernel)
    dev = m.dev("npu0")
    domain, blocked = m.driver.masters[dev].rid_domain, m.driver.ops.blocked_domain
    assert domain is not None
    assert blocked is not None
    m.forget()
    m.driver.attach_blocked(blocked, dev)
    detached = told(m.commands())
    assert ("TLBI_S12_VMALL 1;" in detached) is (not freed)
    m.driver.domain_free(domain)
    assert told(m.commands()) == freed


# --- reset, replace ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rid", ["dma", "identity", "blocked"])
def test_a_reset_blocks_everything_and_gives_it_back(rid: Any) -> None:
    m = SmmuMachine(nic(default_domain=rid, can_stall=True), smmu=ATS)
    m.bind("nic0", "a")
    m.attach("nic0", 9)
    m.store("a", DATA, b"before")
    assert m.write("nic0", 1).work.owner == "a"
    assert m.write("nic0", 9).work.owner == "kernel"
    before = m.ste(1), m.cd(1, 1), m.cd(1, 9)
    m.reset_prepare("nic0")
    assert m.ste(1) == arm_smmu_make_abort_ste()
    assert not m.driver.masters[m.dev("nic0")].pci_ats
    assert [m.write("nic0", pasid).result for pasid in (1, 9)] == ["fault", "fault"]
    m.munmap("a", DATA)
    m.reset_done("nic0")
    assert (m.ste(1), m.cd(1, 1), m.cd(1, 9)) == before
    assert m.driver.masters[m.dev("nic0")].pci_ats
    assert m.write("nic0", 1).result == "fault", "the page went during the reset"
    assert m.write("nic0", 9).work.owner == "kernel"


def test_a_process_that_exits_inside_a_reset_stays_blocked() -> None:
    m = SmmuMachine(narrow())
    m.bind_device("npu0", "a", "h")
    m.bind_device("npu0", "b")
    m.reset_prepare("npu0")
    m.exit("a")
    warnings = m.kernel.warnings
    m.reset_done("npu0")
    assert m.kernel.warnings == warnings + 1
    assert not m.cd(1, 1).v
    assert m.cd(1, 2).v
    assert m.write("npu0", 1).result == "fault"
    assert m.unbind("h").result == "ok"


def test_replacing_a_domain_writes_the_cd_anew_and_flushes_the_old_asid() -> None:
    m = SmmuMachine(nic(default_domain="identity"), smmu=ATS)
    m.attach("nic0", 5)
    old = m.cd(1, 5)
    m.write("nic0", 5)
    m.forget()
    assert m.replace("nic0", 5).result == "ok"
    new = m.cd(1, 5)
    assert new.ttb0 != old.ttb0
    assert (old.asid, new.asid) == (1, 2)
    assert told(m.commands()) == [*cfgi_cd(1, 5, 3), "ATC_INV 1/5 all;", "TLBI_NH_ASID 1;"]


def test_a_kernel_domain_replaces_a_process_and_the_fault_queue_empties() -> None:
    m = SmmuMachine(narrow())
    m.bind_device("npu0", "a")
    assert m.dev("npu0").fault_param is not None
    m.replace("npu0", 1)
    assert m.dev("npu0").fault_param is None
    assert m.write("npu0", 1).work.owner == "kernel"


@pytest.mark.parametrize("kernel", ["v6.12", "v6.16", "v7.3"])
def test_a_stalling_device_is_in_the_fault_queue_from_probe_or_from_its_first_attach(kernel: str) -> None:
    m = SmmuMachine(narrow(), nic(can_stall=False), kernel=kernel)
    early = not PROFILES[kernel].iopf_at_attach
    assert (m.dev("npu0").fault_param is not None) is early
    m.bind("npu0", "a", "h")
    m.bind("npu0", "b", "i")
    m.bind("nic0", "a")
    assert m.dev("npu0").fault_param is not None
    assert m.dev("nic0").fault_param is None
    m.unbind("h")
    assert m.dev("npu0").fault_param is not None
    m.unbind("i")
    assert (m.dev("npu0").fault_param is not None) is early


# --- bring-up ------------------------------------------------------------------------------------------------


@both_kernels
@pytest.mark.parametrize("how", [{}, ATS, {"ats": True, "pri": True}], ids=str)
def test_the_smmu_is_on_after_probe_with_what_it_has(kernel: str, how: dict[str, bool]) -> None:
    m = SmmuMachine(smmu=how, kernel=kernel)
    cr0 = m.register(Offset.CR0ACK)
    assert (cr0.smmuen, cr0.cmdqen, cr0.eventqen) == (True, True, True)
    assert (cr0.atschk, cr0.priqen) == ("ats" in how, "pri" in how)
    assert told(m.commands()) == ["CFGI_STE_RANGE;", "TLBI_NSNH_ALL;"]
    assert m.commands() == []


@pytest.mark.parametrize(
    ("sid_bits", "two_level", "fmt", "log2size"),
    [(16, True, 1, 16), (9, True, 1, 9), (8, True, 0, 8), (4, True, 0, 4), (16, False, 0, 16), (24, True, 1, 24)],
)
def test_streams_that_fit_into_one_level_2_table_have_a_linear_one(
    sid_bits: int, two_level: bool, fmt: int, log2size: int
) -> None:
    m = SmmuMachine(narrow(), smmu={"sid_bits": sid_bits, "two_level": two_level})
    config = m.register(Offset.STRTAB_BASE_CFG)
    assert (config.fmt, config.log2size) == (fmt, log2size)
    assert m.bind("npu0", "a").result == "ok"
    assert m.write("npu0", 1).work.owner == "a"


def test_a_stream_without_device_aborts_and_one_beyond_the_table_does_too() -> None:
    m = SmmuMachine(narrow(stream_id=5))
    assert m.ste(6) == arm_smmu_make_abort_ste()


def test_a_linear_stream_table_has_a_limit() -> None:
    spec = MachineSpec(iommu=[smmu_spec(two_level=False, sid_bits=20)])
    with pytest.raises(InputError, match=r"iommu\[0\].sid_bits = 20: a linear stream table"):
        check(spec)


# --- findings ------------------------------------------------------------------------------------------------

SMMU_TEXT = '[[iommu]]\nname = "smmu0"\nmodel = "arm-smmu-v3"\n'
PROCESS_TEXT = '[[process]]\nname = "a"\n'
FINDINGS = {
    "group.mixed-width": (
        '[[device]]\nname = "x"\niommu = "smmu0"\npasid_bits = 4\ngroup = "g"\n'
        '[[device]]\nname = "y"\niommu = "smmu0"\npasid_bits = 2\ngroup = "g"\n',
        "",
        "the devices of group g have different max_pasids (x 16, y 4)",
    ),
    "arm-smmu-v3.two-limits": (
        '[[device]]\nname = "x"\niommu = "smmu0"\npasid_bits = 16\n',
        "two_level = false\n",
        "below 65536, its CD table has room for those below 1024: the SMMU has no two-level CD tables",
    ),
    "arm-smmu-v3.cd-out-of-bounds": (
        '[[device]]\nname = "x"\niommu = "smmu0"\npasid_bits = 4\npasid_enabled = false\n',
        "",
        "x have PASID 1, and its CD table ends at 0",
    ),
    "arm-smmu-v3.no-fault-path": (
        '[[device]]\nname = "x"\niommu = "smmu0"\npasid_bits = 4\n',
        "ats = true\n",
        "x has PASIDs and cannot wait for pages",
    ),
    "arm-smmu-v3.sva-lacking": (
        '[[device]]\nname = "x"\niommu = "smmu0"\npasid_bits = 4\n',
        "granule = 65536\n",
        "it has no tables of the kernel's page size (IDR5)",
    ),
}


@pytest.mark.parametrize("rule", FINDINGS)
def test_a_finding_shows_in_text_and_json_of_a_run(
    rule: str, pasidlab: Command, scenario_file: Callable[[str], Path]
) -> None:
    devices, keys, sentence = FINDINGS[rule]
    step = '[[step]]\ndo = "bind_device"\ndevice = "x"\nprocess = "a"\n'
    path = scenario_file(SMMU_TEXT + keys + devices + PROCESS_TEXT + step)
    text = pasidlab("run", path, "--scheme", "mainline").out
    assert f"[{rule}]" in text
    assert sentence in text
    summary = json.loads(pasidlab("run", path, "--scheme", "mainline", "--json").out.splitlines()[-1])
    assert [found["why"] for found in summary["findings"] if found["rule"] == rule and sentence in found["why"]]


def test_a_machine_without_mismatch_has_no_finding() -> None:
    m = SmmuMachine(narrow(), narrow("npu1"), smmu=ATS)
    m.bind("npu0", "a", "h")
    m.write("npu0", 1)
    m.unbind("h")
    assert m.findings() == []


@pytest.mark.parametrize(
    ("device", "how", "cause"),
    [
        (nic("x", pasid_enabled=False), {}, "pci_enable_pasid() failed"),
        (nic("x"), {"two_level": False}, "the SMMU has no two-level CD tables"),
        (nic("x"), {"ssid_bits": 4, "max_pasids": 64}, "more PASIDs than it has SubstreamID bits"),
    ],
)
def test_two_limits_say_why_they_differ(device: Any, how: dict[str, Any], cause: str) -> None:
    m = SmmuMachine(device, smmu=how)
    found = [finding for finding in m.kernel.findings if finding.rule.id == "arm-smmu-v3.two-limits"]
    assert len(found) == 1
    assert cause in found[0].why


@both_kernels
def test_a_cd_out_of_bounds_is_reported_not_written_and_refused_by_the_hardware(kernel: str) -> None:
    m = SmmuMachine(narrow(bits=11), scheme="hybrid", smmu={"two_level": False}, kernel=kernel)
    beyond = m.ste(1).s1contextptr + 64 * 1024
    before = m.kernel.memory.load(beyond, 64 * 8)
    m.bind_device_pasid("npu0", "a", 1026, "h")
    assert "arm-smmu-v3.cd-out-of-bounds" in m.findings()
    assert m.kernel.memory.load(beyond, 64 * 8) == before
    outcome = m.write("npu0", 1026)
    assert (outcome.result, outcome.rule) == ("fault", "smmu.ssid-range")
    assert m.unbind("h").result == "ok"


@pytest.mark.parametrize(
    ("kernel", "result", "rule"),
    [("v7.3", "EOPNOTSUPP", "arm-smmu-v3.no-sva"), ("v6.12", "EINVAL", "driver.enable-sva-refused")],
)
@pytest.mark.parametrize("how", [{"sva": False}, {"granule": 65536}], ids=str)
def test_an_smmu_that_cannot_share_page_tables_refuses_a_bind(
    kernel: str, result: str, rule: str, how: dict[str, Any]
) -> None:
    m = SmmuMachine(narrow(), smmu=how, kernel=kernel)
    outcome = m.bind("npu0", "a")
    assert (outcome.result, outcome.rule) == (result, rule)
    assert m.processes["a"].mm.global_pasid == (1 if kernel == "v7.3" else None)
    assert m.findings() == ["arm-smmu-v3.sva-lacking"]
    assert m.attach("npu0", 1).result == "ok", "the kernel's own tables need neither"
    assert m.write("npu0", 1).work.owner == "kernel"


@both_kernels
def test_asids_narrower_than_the_cpus_keep_sva_away(kernel: str, features: Callable[..., None]) -> None:
    features(asid16=False, oas_bits=40)
    m = SmmuMachine(narrow(), kernel=kernel)
    assert "narrower than the CPU's (IDR5.OAS), its ASIDs" in m.kernel.findings[0].why


@both_kernels
def test_sva_before_6_16_needs_pasids_to_be_enabled(kernel: str) -> None:
    m = SmmuMachine(nic(pasid_enabled=False), kernel=kernel)
    assert m.bind("nic0", "a").result == ("EINVAL" if kernel == "v6.12" else "ok")


# --- io-pgtable ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page_size", [4096, 16384, 65536])
@pytest.mark.parametrize("granule", [None, 4096, 16384, 65536])
def test_kernel_domains_work_with_every_granule_under_every_page_size(page_size: int, granule: int | None) -> None:
    for rid in ("dma", "stage2"):
        m = SmmuMachine(
            narrow(default_domain=rid),
            narrow("npu1"),
            smmu={"granule": granule},
            cpu=CpuSpec(arch="arm64", page_size=page_size),
        )
        m.attach("npu1", 2)
        assert m.write("npu1", 2).work.owner == "kernel"
        assert m.write("npu1", 2, DATA + 4 * page_size - 4).work.owner == "kernel"
        assert m.write("npu1", 2, DATA - page_size * 16).result == "fault"
        port = m.driver.ports[m.dev("npu0")]
        moved = port.transfer(None, DATA, b"rid", 3)
        assert moved.data == b"rid"
        assert m.kernel.page_alloc.owners_of(moved.address) == ("kernel",)


def test_a_freed_kernel_domain_gives_its_memory_back() -> None:
    m = SmmuMachine(narrow())
    used = m.kernel.page_alloc.used
    m.attach("npu0", 1)
    assert m.kernel.page_alloc.used > used
    m.detach("npu0", 1)
    assert m.kernel.page_alloc.used == used


def test_a_claim_of_dma_ownership_blocks_the_traffic_without_pasid_and_its_release_lets_it_go_on() -> None:
    m = SmmuMachine(narrow())
    before = m.ste(1)
    assert m.claim_dma_owner("npu0").result == "ok"
    assert m.ste(1).config is Config.ABORT
    m.release_dma_owner("npu0")
    assert m.ste(1) == before


def test_a_group_across_two_smmus_leaves_its_second_device_without_a_domain() -> None:
    smmus = [smmu_spec("smmu0"), smmu_spec("smmu1")]
    m = SmmuMachine(nic("a0", group="g", iommu="smmu0"), nic("a1", group="g", iommu="smmu1"), iommus=smmus)
    assert m.kernel.warnings == 1
    assert m.ste(m.driver.masters[m.dev("a1")].streams[0], "smmu1").config is Config.ABORT
    assert m.bind_device("a1", "a").rule == "arm-smmu-v3.other-smmu"


@pytest.mark.parametrize("how", [{}, {"ats": True}])
def test_an_access_larger_than_a_page_of_the_smmu_is_translated_page_by_page(how: dict[str, Any]) -> None:
    m = SmmuMachine(nic(), smmu={"granule": 4096} | how, cpu=CpuSpec(page_size=65536))
    m.attach("nic0", 7)
    m.write("nic0", 7, DATA, b"ab" * 4096)
    second = m.read("nic0", 7, DATA + 4096, 2).work
    assert second is not None
    assert second.data == b"ab"


@pytest.mark.parametrize(("httu", "ha", "hd"), [(0, False, False), (1, True, False), (2, True, True)])
def test_7_3_lets_the_smmu_update_a_process_table_as_far_as_it_can(httu: int, ha: bool, hd: bool) -> None:
    m = SmmuMachine(narrow(), smmu={"httu": httu}, kernel="v7.3")
    assert m.bind("npu0", "a").result == "ok"
    assert (m.cd(1, 1).ha, m.cd(1, 1).hd) == (ha, hd)


def test_an_smmu_that_sets_access_flags_needs_no_page_request_for_an_old_page() -> None:
    """A fork leaves the child's entries old: AF is 0, and each is writable only after it was copied."""
    asked = {}
    for httu in (0, 1):
        m = SmmuMachine(narrow(), smmu={"httu": httu}, kernel="v7.3")
        m.store("a", DATA, b"before")
        m.fork("a", "child")
        m.bind("npu0", "child", "h")
        with m._listening(PageResponded) as answers:
            read = m.dma("npu0", "h", Work(Access.READ, DATA, size=6))
        assert read.work is not None
        assert read.work.data == b"before"
        asked[httu] = len(answers)
    assert asked == {0: 1, 1: 0}


def test_an_x86_machine_with_an_smmu_says_that_it_is_made_up() -> None:
    m = SmmuMachine(narrow(), cpu=CpuSpec(arch="x86"))
    assert "machine.x86-smmu" in [finding.rule.id for finding in m.kernel.findings]
    assert "machine.x86-smmu" not in [finding.rule.id for finding in SmmuMachine(narrow()).kernel.findings]


def test_a_device_that_may_stall_and_uses_ats_is_found_to_lose_accesses() -> None:
    m = SmmuMachine(nic(can_stall=True), smmu={"ats": True})
    found = [finding.rule.id for finding in m.kernel.findings]
    assert found == ["arm-smmu-v3.ats-does-not-stall"]
