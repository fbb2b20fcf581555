"""Processes' page tables behind VT-d: who may share them, what is flushed when they change, and their end."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pasidlab.drivers.hardware import Moved
from pasidlab.drivers.intel.cache import cache_tag_flush_all, cache_tag_flush_range, calculate_psi_aligned_address
from pasidlab.errors import Errno
from pasidlab.events import DmarFault, DomainAllocated, DomainFreed
from pasidlab.hw.vtd.features import Features
from pasidlab.hw.vtd.registers import Offset
from pasidlab.hw.vtd.structures import Flpm
from pasidlab.linux.iommu import iommu_attach_device_pasid, iommu_dev_enable_feature_sva
from pasidlab.linux.iopf import iommu_sva_iopf_handler
from pasidlab.linux.kernel import Kernel
from pasidlab.linux.memory import flush_tlb_mm
from pasidlab.linux.mm import MmStruct, dup_mmap, mmget, mmput, mprotect, munmap
from pasidlab.linux.mmu_notifier import mmu_notifier_arch_invalidate_secondary_tlbs
from pasidlab.linux.pgtable import READ, WRITE
from pasidlab.linux.pgtable_arm64 import Arm64PageTables
from pasidlab.linux.profiles import V6_12_0, V6_15, V7_3, Profile
from pasidlab.linux.structs import AttachHandle, Device
from pasidlab.linux.sva import iommu_sva_invalidate_kva_range
from pasidlab.rules import RULES, Refusal
from pasidlab.schemes import Hybrid, Mainline, Options, Scheme

from .intel_rig import DATA, FOUR_LEVELS, HOLE, NOTHING, READ_ONLY, SID, IntelRig, told

PAGE = 4096
BAD_UNITS = {
    "intel.svm-no-pasid": replace(FOUR_LEVELS, pasid_bits=0),
    "intel.svm-not-coherent": replace(FOUR_LEVELS, coherent=False),
    "intel.svm-no-1g-pages": replace(FOUR_LEVELS, first_1g=False),
}
old_and_new = pytest.mark.parametrize("profile", [V6_12_0, V7_3], ids=lambda profile: profile.name)


class PerDevice:
    """Two devices of one unit, each with its own process under PASID 1."""

    def __init__(self, scheme: Scheme | None = None) -> None:
        self.rig = IntelRig(scheme=scheme)
        unit = self.rig.unit()
        self.devs = [self.rig.device(f"dev{n}", unit, source_id=SID + n) for n in range(2)]
        self.mms = [self.rig.mm(name) for name in "ab"]
        for dev, mm in zip(self.devs, self.mms, strict=True):
            domain = self.rig.driver.domain_alloc_sva(dev, mm)
            assert not isinstance(domain, Refusal)
            self.attach(dev, domain)

    def attach(self, dev: Device, domain: Any) -> None:
        domain.iopf_handler = iommu_sva_iopf_handler
        assert iommu_attach_device_pasid(domain, dev, 1, AttachHandle()) is None


# --- who may -------------------------------------------------------------------------------------------------


@old_and_new
def test_a_bound_process_is_reached_with_its_own_rights(profile: Profile) -> None:
    rig = IntelRig(profile)
    dev = rig.device()
    assert iommu_dev_enable_feature_sva(dev) is None
    pasid = rig.pasid(rig.bind(dev, rig.mm()))
    assert rig.driver.access(dev, pasid, DATA, b"bytes", 5) == Moved("a", b"bytes")
    assert rig.driver.access(dev, pasid, DATA, None, 5) == Moved("a", b"bytes")
    assert rig.read(dev, pasid, READ_ONLY) == "a"
    for address, access in ((READ_ONLY, rig.write), (NOTHING, rig.read), (HOLE, rig.read)):
        assert access(dev, pasid, address) == "intel.page-request-refused"
    assert rig.kernel.warnings == 0


@pytest.mark.parametrize("rule", BAD_UNITS)
def test_a_unit_that_cannot_walk_the_cpus_tables_refuses_with_the_reason(rule: str) -> None:
    rig = IntelRig()
    dev = rig.device(unit=rig.unit(features=BAD_UNITS[rule], max_pasids=16))
    assert rig.refused(dev, rig.mm()) == (Errno.ENODEV, rule)
    assert rig.events(DomainAllocated) == [DomainAllocated("dsa0", None, Errno.ENODEV)]
    enable = iommu_dev_enable_feature_sva(dev)
    assert isinstance(enable, Refusal)
    assert enable.rule.id == rule


def test_processes_with_5_levels_need_a_unit_with_5_levels_and_the_rule_says_how_to_boot() -> None:
    rig = IntelRig(levels=5)
    dev = rig.device(unit=rig.unit(features=FOUR_LEVELS))
    assert rig.refused(dev, rig.mm()) == (Errno.ENODEV, "intel.svm-no-5-level")
    assert "boot with no5lvl" in RULES["intel.svm-no-5-level"].why


@pytest.mark.parametrize(("levels", "mode"), [(4, Flpm.FOUR_LEVEL), (5, Flpm.FIVE_LEVEL)])
def test_the_entry_says_how_many_levels_the_process_has(levels: int, mode: Flpm) -> None:
    rig = IntelRig(levels=levels)
    dev = rig.device(unit=rig.unit(features=Features()))
    pasid = rig.pasid(rig.bind(dev, rig.mm()))
    assert rig.entry(dev, pasid).fspm is mode
    assert rig.write(dev, pasid) == "a"


def test_page_tables_that_are_not_x86s_are_not_shared() -> None:
    rig = IntelRig()
    rig.kernel = Kernel(Mainline(), pgtable=Arm64PageTables(12))
    rig.driver.kernel = rig.kernel
    dev = rig.device()
    assert rig.refused(dev, rig.mm()) == (Errno.ENODEV, "intel.svm-foreign-tables")


@pytest.mark.parametrize("traits", [{"ats": False}, {"pasid_enabled": False}])
def test_a_device_needs_pasid_and_ats(traits: dict[str, Any]) -> None:
    rig = IntelRig()
    assert rig.refused(rig.device(**traits), rig.mm()) == (Errno.EINVAL, "intel.sva-no-pasid-or-ats")


def test_a_device_whose_page_requests_are_off_is_refused() -> None:
    rig = IntelRig()
    dev = rig.device()
    rig.driver.infos[dev].pri_enabled = False
    assert rig.refused(dev, rig.mm()) == (Errno.EINVAL, "intel.sva-pri-off")


@pytest.mark.parametrize("features", [FOUR_LEVELS, replace(FOUR_LEVELS, page_requests=False)])
def test_a_device_without_page_requests_may_but_sees_only_pages_that_are_there(features: Features) -> None:
    rig = IntelRig()
    dev = rig.device(unit=rig.unit(features=features), pri=features is not FOUR_LEVELS)
    mm = rig.mm()
    pasid = rig.pasid(rig.bind(dev, mm))
    assert rig.write(dev, pasid) == "intel.page-not-asked"
    assert dev.fault_param is None
    other = rig.device("pri", rig.unit("dmar1"), source_id=SID + 1)
    assert rig.write(other, rig.pasid(rig.bind(other, mm))) == "a"
    assert rig.write(dev, pasid) == "a"


def test_kernels_that_enable_the_feature_first_ask_it_only_then() -> None:
    rig = IntelRig(V6_15)
    dev = rig.device(ats=False)
    enable = iommu_dev_enable_feature_sva(dev)
    assert isinstance(enable, Refusal)
    assert enable.errno is Errno.EINVAL
    rig.bind(dev, rig.mm())


def test_one_domain_serves_devices_behind_several_units() -> None:
    rig = IntelRig()
    mm = rig.mm()
    devs = [rig.device(f"dev{n}", rig.unit(f"dmar{n}"), source_id=SID + n) for n in range(2)]
    handles = [rig.bind(dev, mm) for dev in devs]
    assert len(rig.events(DomainAllocated)) == 1
    assert [rig.write(dev, rig.pasid(handle)) for dev, handle in zip(devs, handles, strict=True)] == ["a", "a"]
    for handle in handles:
        rig.unbind(handle)
    assert len(rig.events(DomainFreed)) == 1


# --- flushes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "last", "block", "mask"),
    [
        (0x1000, 0x1FFF, 0x1000, 0),
        (0x1000, 0x2FFF, 0x0000, 2),
        (0x2000, 0x3FFF, 0x2000, 1),
        (0x3000, 0x4FFF, 0x0000, 3),
        (0x1234, 0x1235, 0x1000, 0),
        (0, (1 << 64) - 1, 0, 52),
        ((1 << 63) - 1, 1 << 63, 0, 52),
    ],
)
def test_a_range_becomes_the_smallest_aligned_block_around_it(first: int, last: int, block: int, mask: int) -> None:
    assert calculate_psi_aligned_address(first, last) == (block, mask)


def test_what_is_unmapped_is_flushed_in_the_unit_and_in_each_device_before_its_pages_go() -> None:
    rig = IntelRig()
    unit, mm = rig.unit(), rig.mm()
    devs = [rig.device(f"dev{n}", unit, source_id=SID + n) for n in range(2)]
    pasids = [rig.pasid(rig.bind(dev, mm)) for dev in devs]
    for dev, pasid in zip(devs, pasids, strict=True):
        assert rig.write(dev, pasid) == "a"
    rig.forget(unit)
    assert munmap(mm, DATA, PAGE) is None
    assert told(rig.descriptors(unit)) == [
        f"PASID_IOTLB 1/1 {DATA:#x}+1",
        f"PASID_DEVICE_TLB {SID:#x}/1 {DATA:#x}+1",
        f"PASID_DEVICE_TLB {SID + 1:#x}/1 {DATA:#x}+1;",
    ]
    for dev, pasid in zip(devs, pasids, strict=True):
        assert rig.write(dev, pasid) == "intel.page-request-refused"


def test_rights_that_are_taken_away_are_gone_for_the_device_too() -> None:
    rig = IntelRig()
    dev, mm = rig.device(), rig.mm()
    pasid = rig.pasid(rig.bind(dev, mm))
    assert rig.write(dev, pasid) == "a"
    assert mprotect(mm, DATA, 4 * PAGE, READ) is None
    assert rig.write(dev, pasid) == "intel.page-request-refused"
    assert rig.read(dev, pasid) == "a"


def test_a_flush_of_everything_names_no_pages_and_reaches_device_tlbs_by_pasid() -> None:
    rig = IntelRig()
    dev, mm = rig.device(), rig.mm()
    rig.bind(dev, mm)
    rig.forget(dev)
    flush_tlb_mm(mm)
    assert told(rig.descriptors(dev)) == ["PASID_IOTLB 1/1 all", f"PASID_DEVICE_TLB {SID:#x}/1 all;"]


def test_a_flush_of_the_kernels_half_is_one_of_the_whole_pasid_where_so_many_pages_cannot_be_said() -> None:
    rig = IntelRig()
    dev, mm = rig.device(), rig.mm()
    rig.bind(dev, mm)
    rig.forget(dev)
    iommu_sva_invalidate_kva_range(rig.kernel, 1 << 63, (1 << 64) - 1)
    lines = told(rig.descriptors(dev))
    assert lines[0] == "PASID_IOTLB 1/1 all"
    assert lines[1].startswith(f"PASID_DEVICE_TLB {SID:#x}/1")
    assert rig.kernel.warnings == 0


def test_a_domain_of_many_devices_is_flushed_in_batches_of_16() -> None:
    rig = IntelRig()
    unit, mm = rig.unit(), rig.mm()
    for n in range(20):
        rig.bind(rig.device(f"dev{n}", unit, source_id=n), mm)
    rig.forget(unit)
    mmu_notifier_arch_invalidate_secondary_tlbs(mm, DATA, DATA + PAGE)
    lines = told(rig.descriptors(unit))
    assert [n for n, line in enumerate(lines, start=1) if line.endswith(";")] == [16, 21]


def test_a_second_stage_domain_under_a_pasid_is_flushed_by_domain() -> None:
    rig = IntelRig()
    dev = rig.device()
    domain = rig.driver.domain_alloc_stage2(dev)
    assert rig.driver.paging_set_dev_pasid(domain, dev, 5, None) is None
    rig.forget(dev)
    cache_tag_flush_range(domain, DATA, DATA + 2 * PAGE - 1)
    cache_tag_flush_range(domain, 0, (1 << 40) - 1)
    cache_tag_flush_all(domain)
    assert told(rig.descriptors(dev)) == [
        f"IOTLB SELECTIVE 3 {DATA:#x}+2",
        f"PASID_DEVICE_TLB {SID:#x}/5 {DATA:#x}+2;",
        "IOTLB DOMAIN 3",
        f"PASID_DEVICE_TLB {SID:#x}/5 0x0+{1 << 28};",
        "IOTLB DOMAIN 3",
        f"PASID_DEVICE_TLB {SID:#x}/5 all;",
    ]


# --- the end of a process ------------------------------------------------------------------------------------


@old_and_new
def test_the_end_of_a_process_takes_its_entry_away_quietly_and_the_unbind_drains(profile: Profile) -> None:
    rig = IntelRig(profile)
    dev, mm = rig.device(), rig.mm()
    handle = rig.bind(dev, mm)
    pasid = rig.pasid(handle)
    assert rig.write(dev, pasid) == "a"
    rig.forget(dev)
    mmput(mm)
    entry = rig.entry(dev, pasid)
    assert (entry.p, entry.fpd, entry.fsptptr, entry.did) == (False, True, 0, 0)
    assert told(rig.descriptors(dev)) == [
        f"PASID_CACHE 1/{pasid};",
        f"PASID_IOTLB 1/{pasid} all;",
        f"PASID_DEVICE_TLB {SID:#x}/{pasid} all;",
    ]
    rig.unbind(handle)
    assert rig.entry(dev, pasid) == 0
    assert told(rig.descriptors(dev)) == [
        "WAIT fence",
        f"PASID_IOTLB 2/{pasid} all",
        f"PASID_DEVICE_TLB {SID:#x}/{pasid} all; drain",
    ]


def test_after_the_end_the_device_reaches_nobody_and_leaves_no_records() -> None:
    rig = IntelRig()
    dev, mm, other = rig.device(), rig.mm(), rig.mm("b")
    handle = rig.bind(dev, mm)
    pasid = rig.pasid(handle)
    assert rig.write(dev, pasid) == "a"
    mmput(mm)
    later = rig.bind(dev, other)
    assert rig.write(dev, rig.pasid(later)) == "b"
    assert rig.write(dev, pasid) != "b"
    assert rig.events(DmarFault) == []
    rig.unbind(handle)


def test_while_a_user_is_left_the_entry_stays() -> None:
    rig = IntelRig()
    dev, mm = rig.device(), rig.mm()
    pasid = rig.pasid(rig.bind(dev, mm))
    mmget(mm)
    mmput(mm)
    assert rig.write(dev, pasid) == "a"


def test_after_an_unbind_the_number_leads_to_the_next_process() -> None:
    rig = IntelRig()
    dev = rig.device()
    for name in ("a", "b"):
        handle = rig.bind(dev, rig.mm(name))
        assert rig.write(dev, rig.pasid(handle)) == name
        rig.unbind(handle)


# --- one identifier for all processes ------------------------------------------------------------------------


def test_one_number_for_two_processes_on_one_unit_leads_both_to_the_first() -> None:
    case = PerDevice()
    rig, (first, second) = case.rig, case.devs
    assert [rig.entry(dev, 1, SID + n).did for n, dev in enumerate(case.devs)] == [1, 1]
    assert rig.write(first, 1) == "a"
    assert rig.write(second, 1) == "a"
    assert rig.findings() == [
        "PASID 1 is b on dev1 and a on dev0, both with domain identifier 1: dmar0 uses for one device what it has"
        " cached for the other"
    ]


def test_with_an_identifier_for_each_process_each_device_reaches_its_own() -> None:
    case = PerDevice(Hybrid())
    rig, (first, second) = case.rig, case.devs
    assert rig.write(first, 1) == "a"
    assert rig.write(second, 1) == "b"
    assert rig.findings() == [
        "PASID 1 is b on dev1 and a on dev0; each has a domain identifier of its own, which this design needs of the"
        " driver: with Linux's one for all (option vtd_did = shared) dmar0 would use for one device what it has cached"
        " for the other"
    ]
    dids = [rig.entry(dev, 1, SID + n).did for n, dev in enumerate(case.devs)]
    assert len({*dids, 1}) == 3


def test_a_design_with_numbers_per_device_and_linuxs_identifier_leads_both_to_the_first() -> None:
    case = PerDevice(Hybrid(Options(vtd_did="shared")))
    assert [case.rig.write(dev, 1) for dev in case.devs] == ["a", "a"]


def test_the_same_process_under_one_number_on_two_devices_is_no_finding() -> None:
    rig = IntelRig()
    unit, mm = rig.unit(), rig.mm()
    for n in range(2):
        rig.bind(rig.device(f"dev{n}", unit, source_id=SID + n), mm)
    assert rig.findings() == []


# --- sharing -------------------------------------------------------------------------------------------------


def test_while_another_device_of_the_unit_has_the_process_its_translations_are_flushed() -> None:
    rig = IntelRig()
    unit, mm = rig.unit(), rig.mm()
    devs = [rig.device(f"dev{n}", unit, source_id=SID + n) for n in range(2)]
    handles = [rig.bind(dev, mm) for dev in devs]
    rig.unbind(handles[0])
    assert rig.write(devs[1], 1) == "a"
    assert munmap(mm, DATA, PAGE) is None
    assert rig.write(devs[1], 1) == "intel.page-request-refused"


def test_a_freed_domain_hears_no_more_of_its_process() -> None:
    rig = IntelRig()
    dev, mm = rig.device(), rig.mm()
    rig.unbind(rig.bind(dev, mm))
    assert mm.notifier_subscriptions is not None
    assert mm.notifier_subscriptions.subscriptions == []


def test_a_page_that_two_processes_share_is_the_bound_ones() -> None:
    rig = IntelRig()
    dev, parent = rig.device(), rig.mm()
    handle = rig.bind(dev, parent)
    assert rig.write(dev, rig.pasid(handle)) == "a"
    child = MmStruct(rig.kernel, "b")
    dup_mmap(child, parent)
    assert rig.read(dev, rig.pasid(handle)) == "a"
    bound = rig.bind(dev, child)
    assert rig.read(dev, rig.pasid(bound)) == "b"
    assert rig.write(dev, rig.pasid(bound), data=b"mine") == "b"
    assert rig.driver.access(dev, rig.pasid(handle), DATA, None, 4) == Moved("a", b"work")


# --- anything in any order -----------------------------------------------------------------------------------

STEPS = ("bind", "unbind", "write", "read", "munmap", "protect", "exit")


@settings(max_examples=60, deadline=None)
@given(data=st.data(), caches=st.booleans())
def test_no_order_of_events_leads_a_device_to_memory_that_is_not_its_processes(data: Any, caches: bool) -> None:
    rig = IntelRig()
    unit = rig.unit(caches=caches)
    devs = [rig.device(f"dev{n}", unit, source_id=SID + n) for n in range(2)]
    mms = [rig.mm(name) for name in "ab"]
    bonds: dict[tuple[int, int], Any] = {}
    for step, d, m, page in data.draw(
        st.lists(
            st.tuples(st.sampled_from(STEPS), st.integers(0, 1), st.integers(0, 1), st.integers(0, 3)), max_size=25
        )
    ):
        dev, mm, bond, address = devs[d], mms[m], bonds.get((d, m)), DATA + PAGE * page
        if step == "bind" and bond is None and mm.mm_users:
            bonds[d, m] = rig.bind(dev, mm)
        elif step == "unbind" and bond is not None:
            rig.unbind(bonds.pop((d, m)))
        elif step == "munmap":
            munmap(mm, address, PAGE)
        elif step == "protect":
            mprotect(mm, address, PAGE, READ)
        elif step == "exit" and mm.mm_users:
            mmput(mm)
        elif step in ("read", "write") and mm.global_pasid is not None:
            vma = mm.vma_lookup(address) if mm.mm_users else None
            allowed = bond is not None and vma is not None and (step == "read" or vma.flags & WRITE)
            reached = (rig.write if step == "write" else rig.read)(dev, mm.global_pasid, address)
            assert reached == mm.name if allowed else reached.startswith(("intel.", "vtd."))
    assert rig.kernel.warnings == 0
    assert rig.register(unit, Offset.FSTS) == 0
