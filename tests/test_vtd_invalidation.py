"""Each invalidation of the VT-d driver is needed: without any single one, something is reached that must not be.

A check is a short story that ends in assertions. Each mutation drops one type of descriptor at one place of the driver;
its check passes with the driver as it is and fails with the mutation. That no place is forgotten is tested too. What
the driver does to wait for page requests is in test_vtd_drain.

Not observable in this model, and therefore not mutated (a test drops them all, everywhere):

* the IOTLB invalidation among the drain's descriptors names the domain of the traffic without PASID. The architecture
  wants one before the device-TLB's, of whatever granularity, for the order that it makes on the way; nothing is cached
  that it is meant for;
* the IOTLB invalidations of a unit in caching mode after an entry became present: such units remember pages of the
  second stage alone that were not there, and those went with the entry that was there before. A hypervisor with shadow
  tables, for which Linux does it, is not modelled;
* those of a PASID that passed through: nothing is cached for it. They are at a place that other domains need.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytest

from pasidlab.drivers.intel import driver as driver_module
from pasidlab.drivers.intel import pasid as pasid_module
from pasidlab.hw.pagetable.contract import ALL_RIGHTS, Leaf
from pasidlab.hw.pagetable.paging_entries import PageEntry, PagingTable
from pasidlab.hw.transaction import Transferred, Translated
from pasidlab.hw.vtd.caches import Tag
from pasidlab.hw.vtd.descriptors import (
    ContextCacheInvalidate,
    Descriptor,
    DeviceTlbInvalidate,
    InvalidationWait,
    IotlbInvalidate,
    PageGroupResponse,
    PasidCacheInvalidate,
    PasidDeviceTlbInvalidate,
    PasidIotlbInvalidate,
)
from pasidlab.hw.vtd.registers import Gcmd, Offset, Rtaddr, Ttm
from pasidlab.hw.vtd.request import Request
from pasidlab.hw.vtd.structures import (
    AddressWidth,
    PasidDirectoryEntry,
    PasidEntry,
    Pgtt,
    RootEntry,
    ScalableContextEntry,
)
from pasidlab.hw.vtd.unit import RemappingUnit
from pasidlab.linux import memory
from pasidlab.linux.iommu import iommu_attach_device_pasid, iommu_detach_device_pasid, iommu_replace_device_pasid
from pasidlab.linux.mm import EXEC, READ
from pasidlab.linux.structs import AttachHandle

from .intel_rig import FOUR_LEVELS, SID, IntelRig
from .vtd_machine import (
    BOTH,
    DATA,
    READ_ONLY,
    V7_3,
    HarmError,
    VtdMachine,
    Wire,
    acc,
    expect,
    owned,
    refused,
    wired,
)

SECRET = 0x4000_0000
"""Physical memory that belongs to nobody here, below what the kernel gives out."""
FREED = "freed memory"
"""Owner of memory that nobody has any more."""
NUMBER, FIRST, SECOND = 5, 6, 7
ACC = acc()
MUTE = acc(pri=False)
"""A device that does not ask for pages, and is never drained."""

Check = Callable[[str, Wire], None]


# --- processes -----------------------------------------------------------------------------------------------


def working(kernel: str, device: Any = ACC, **unit: Any) -> VtdMachine:
    """A device that has what a process maps in all its caches and in those of the unit."""
    m = VtdMachine(device, kernel=kernel, **unit)
    assert m.bind_device_pasid("acc0", "a", NUMBER, "h").result == "ok"
    m.store("a", DATA, b"x")
    owned(m.write(NUMBER), "a")
    assert m.atc().entries
    assert m.unit.tlb.entries
    assert m.unit.lookup.cached_pasids
    return m


def tries_anew(m: VtdMachine) -> Any:
    """Let the device ask for a translation, whatever it had."""
    m.atc().invalidate(None, every_pasid=True, first=0, size=None)
    return m.raw(NUMBER)


def bond_that_went(device: Any) -> Check:
    def check(kernel: str, wire: Wire) -> None:
        m = working(kernel, device)
        m.unbind("h")
        refused(m, NUMBER)

    return check


def next_bond(kernel: str, wire: Wire) -> None:
    m = working(kernel)
    m.unbind("h")
    m.bind_device_pasid("acc0", "b", NUMBER)
    owned(m.read(NUMBER), "b")


def mm_that_went_while_the_device_works(kernel: str, wire: Wire) -> None:
    m = working(kernel)
    wire.between = lambda: m.raw(NUMBER)
    m.exit("a")
    wire.between = None
    refused(m, NUMBER)


def mm_that_went_while_a_second_device_works(kernel: str, wire: Wire) -> None:
    m = VtdMachine(ACC, acc("acc1"), kernel=kernel)
    m.store("a", DATA, b"x")
    for device, number in (("acc0", FIRST), ("acc1", SECOND)):
        m.bind_device_pasid(device, "a", number)
        owned(m.write(number, device=device), "a")
    wire.between = lambda: m.raw(SECOND, device="acc1")
    m.exit("a")
    wire.between = None
    refused(m, FIRST)
    refused(m, SECOND, device="acc1")


def bond_after_an_mm_that_went(kernel: str, wire: Wire) -> None:
    m = working(kernel)
    m.store("b", DATA, b"x")
    m.exit("a")
    m.unbind("h")
    m.bind_device_pasid("acc0", "b", NUMBER)
    owned(m.read(NUMBER), "b")


def bond_after_an_mm_that_went_while_the_device_works(kernel: str, wire: Wire) -> None:
    m = working(kernel)
    m.store("b", DATA, b"x")
    wire.between = partial(tries_anew, m)
    m.exit("a")
    wire.between = None
    m.unbind("h")
    m.bind_device_pasid("acc0", "b", NUMBER)
    owned(m.read(NUMBER), "b")


def after_munmap(kernel: str, wire: Wire) -> None:
    m = working(kernel)
    m.munmap("a", DATA)
    refused(m, NUMBER)


def after_mprotect(kernel: str, wire: Wire) -> None:
    m = working(kernel)
    m.mprotect("a", DATA, READ)
    expect(m.write(NUMBER).result == "fault", "the device writes what its process may only read")
    owned(m.read(NUMBER), "a")


def after_fork(kernel: str, wire: Wire) -> None:
    m = working(kernel)
    m.fork("a", "child")
    m.write(NUMBER, data=b"after!")
    loaded = m.load("child", DATA, 4).work
    expect(loaded is not None and loaded.data == b"work", "the parent's device wrote into the child's memory")


def after_a_copy_on_write(kernel: str, wire: Wire) -> None:
    m = working(kernel)
    m.fork("a", "child")
    owned(m.read(NUMBER), "a")
    m.store("a", DATA, b"news")
    outcome = m.read(NUMBER)
    expect(outcome.work is not None and outcome.work.data == b"news", "the device reads what is the child's alone")


def after_a_kernel_table_went(kernel: str, wire: Wire) -> None:
    """A table of the kernel's half is freed, and the process has its page now: it says where addresses lead."""
    m = working(kernel)
    address, tables = 0xFFFF_FFFF_FF60_0000, [m.mm("a").pgd]
    for shift in (39, 30, 21):
        tables.append(m.kernel.page_alloc.alloc_page())
        entry = PagingTable(p=True, rw=True, us=True, next_table=tables[-1])
        m.kernel.memory.store64(tables[-2] + (address >> shift & 511) * 8, entry)
    shared = m.kernel.page_alloc.alloc_page()
    m.kernel.memory.store64(tables[-1] + (address >> 12 & 511) * 8, PageEntry(p=True, us=True, output=shared))
    assert isinstance(m.port().transfer(NUMBER, address, None, 4), Transferred)
    m.kernel.memory.store64(tables[-2] + (address >> 21 & 511) * 8, 0)
    m.invalidate_kva()
    forged = PageEntry(p=True, rw=True, us=True, output=SECRET).pack() * 512
    m.kernel.memory.store(tables[-1], forged)
    for page in (address, address + 0x1000):
        outcome = m.port().transfer(NUMBER, page, None, 4, page_requests=False)
        expect(not isinstance(outcome, Transferred), f"the device goes through a table that was freed: {outcome}")


# --- kernel-managed domains ----------------------------------------------------------------------------------


def leads_now(m: VtdMachine, pasid: int | None) -> None:
    """The device reaches what tables say when everything is read anew."""
    moved = m.raw(pasid)
    expect(isinstance(moved, Transferred), f"{moved}")
    m.unit.tlb.clear()
    m.unit.lookup.clear()
    m.atc().invalidate(None, every_pasid=True, first=0, size=None)
    again = m.raw(pasid)
    assert isinstance(again, Transferred)
    expect(moved.address == again.address, "the device reaches the old domain's memory")


def new_domain(m: VtdMachine, *, first_level: bool = True) -> Any:
    """A domain whose memory is not that of the one that was freed before."""
    m.kernel.page_alloc.alloc_pages(0)
    driver, dev = m.driver, m.dev()
    return driver.domain_alloc_paging(dev) if first_level else driver.domain_alloc_stage2(dev)


def detached_domain(*, first_level: bool) -> Check:
    """A domain is freed, and the next one gets its identifier and its PASID."""

    def check(kernel: str, wire: Wire) -> None:
        m = VtdMachine(ACC, kernel=kernel)
        for _ in range(2):
            domain = new_domain(m, first_level=first_level)
            assert iommu_attach_device_pasid(domain, m.dev(), NUMBER) is None
            leads_now(m, NUMBER)
            iommu_detach_device_pasid(domain, m.dev(), NUMBER)
            expect(not isinstance(m.raw(NUMBER), Transferred), "the device still reaches the domain")
            m.driver.domain_free(domain)

    return check


def replaced_domain(*, first_level: bool) -> Check:
    def check(kernel: str, wire: Wire) -> None:
        m = VtdMachine(ACC, kernel=kernel)
        domains = [new_domain(m, first_level=first_level) for _ in range(3)]
        assert iommu_attach_device_pasid(domains[0], m.dev(), NUMBER, AttachHandle()) is None
        m.raw(NUMBER)
        for domain in domains[1:]:
            assert iommu_replace_device_pasid(domain, m.dev(), NUMBER, AttachHandle()) is None
            leads_now(m, NUMBER)
            m.raw(NUMBER)

    return check


def replaced_domain_that_comes_back(*, first_level: bool) -> Check:
    """The third domain has the identifier of the first."""

    def check(kernel: str, wire: Wire) -> None:
        m = VtdMachine(ACC, kernel=kernel)
        domains = [new_domain(m, first_level=first_level) for _ in range(3)]
        assert iommu_attach_device_pasid(domains[0], m.dev(), NUMBER, AttachHandle()) is None
        dids = [domains[0].did_on(m.iommu)]
        m.raw(NUMBER)
        for domain in domains[1:]:
            assert iommu_replace_device_pasid(domain, m.dev(), NUMBER, AttachHandle()) is None
            dids.append(domain.did_on(m.iommu))
        assert dids[0] == dids[2]
        leads_now(m, NUMBER)

    return check


def rid_domain_that_was_replaced(*, first_level: bool = True, **unit: Any) -> Check:
    """Requests without PASID go to a new domain, which has the identifier of the old one."""

    def check(kernel: str, wire: Wire) -> None:
        m = VtdMachine(acc(pri=False, default_domain="dma" if first_level else "stage2"), kernel=kernel, **unit)
        assert m.info().domain is not None
        old, moved = m.info().domain.did_on(m.iommu), m.raw(None)
        assert isinstance(moved, Transferred), moved
        domain = new_domain(m, first_level=first_level)
        assert m.driver.attach_dev(domain, m.dev()) is None
        assert domain.did_on(m.iommu) == old, "the identifier is used again"
        leads_now(m, None)

    return check


def rid_that_is_blocked(**unit: Any) -> Check:
    def check(kernel: str, wire: Wire) -> None:
        m = VtdMachine(acc(pri=False), kernel=kernel, **unit)
        assert isinstance(m.raw(None), Transferred)
        m.driver.attach_blocked(m.driver.ops.blocked_domain, m.dev())
        expect(not isinstance(m.raw(None), Transferred), "the device still reaches the old domain")

    return check


# --- entries that become present, and what firmware left behind ----------------------------------------------


def entry_that_was_not_there(kernel: str, wire: Wire) -> None:
    m = VtdMachine(ACC, kernel=kernel, caching_mode=True)
    refused(m, NUMBER)
    m.bind_device_pasid("acc0", "a", NUMBER)
    owned(m.write(NUMBER), "a")


def context_that_was_not_there(kernel: str, wire: Wire) -> None:
    rig = IntelRig()
    unit = rig.unit(features=replace(FOUR_LEVELS, caching_mode=True))
    hw = rig.driver.instances[unit].hw
    assert not isinstance(hw.dma_write(Request(SID, None, DATA), b"early"), Transferred)
    dev = rig.device(unit=unit, default_domain="identity")
    outcome = rig.port(dev).transfer(None, SECRET, b"late", 4)
    expect(isinstance(outcome, Transferred), "the unit still has it that there is no such device")


class UsedUnit(RemappingUnit):
    """A unit that firmware has used: a device with PASID 1, whose page leads to SECRET. It was left as it was."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        root, context, directory, table, pages = (SECRET + 0x10_0000 + page * 0x1000 for page in range(5))
        source = SID & 0xFF
        store = self.memory.store
        self.memory.store64(root + 16 * (SID >> 8) + 8 * (source >> 7), RootEntry(p=True, ctp=context))
        entry = ScalableContextEntry(p=True, dte=True, paside=True, pasiddirptr=directory)
        store(context + 32 * (source & 0x7F), entry.pack())
        self.memory.store64(directory, PasidDirectoryEntry(p=True, smptblptr=table))
        first = PasidEntry(p=True, aw=AddressWidth(2), pgtt=Pgtt.FIRST_STAGE, did=2, fsptptr=pages)
        passed = PasidEntry(p=True, aw=AddressWidth(2), pgtt=Pgtt.PASS_THROUGH, did=1)
        for pasid, pasid_entry in ((1, first), (2, passed)):
            store(table + 64 * pasid, pasid_entry.pack())
        self.mmio_write(Offset.RTADDR, Rtaddr(rta=root, ttm=Ttm.SCALABLE), 8)
        self.mmio_write(Offset.GCMD, Gcmd(srtp=True), 4)
        self.mmio_write(Offset.GCMD, Gcmd(te=True), 4)
        assert isinstance(self.translate(Request(SID, 2, SECRET)), Translated)
        self.mmio_write(Offset.GCMD, Gcmd(), 4)
        leaf = Leaf(SECRET, 12, ALL_RIGHTS, 0, 0, 4, global_=False, writable_clean=False)
        self.tlb.fill(Tag(2, 0), DATA, leaf, int(ALL_RIGHTS))


def used_before() -> tuple[IntelRig, Any]:
    rig = IntelRig()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(driver_module, "RemappingUnit", UsedUnit)
        unit = rig.unit()
    return rig, unit


def tables_of_firmware(kernel: str, wire: Wire) -> None:
    rig, unit = used_before()
    hw = rig.driver.instances[unit].hw
    outcome = hw.dma_write(Request(SID, 2, SECRET), b"work")
    expect(not isinstance(outcome, Transferred), "a device still goes through tables from before the start")


def pasids_of_firmware(kernel: str, wire: Wire) -> None:
    rig, unit = used_before()
    dev = rig.device(unit=unit)
    outcome = rig.port(dev).transfer(2, SECRET, b"work", 4)
    expect(not isinstance(outcome, Transferred), "a PASID is still what it was before the start")


def translations_of_firmware(kernel: str, wire: Wire) -> None:
    rig, unit = used_before()
    dev = rig.device(unit=unit)
    outcome = rig.port(dev).transfer(None, DATA, b"work", 4)
    assert isinstance(outcome, Transferred)
    expect(outcome.address != SECRET, "the device reaches what was there before the start")


# --- mutations -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mutation:
    """One invalidation that is left out, and the check that sees it.

    Attributes:
        descriptor: its type.
        place: functions of the driver and the kernel that are on the stack when it is issued.
        only: which of those descriptors, if not all.
        kernels: where the driver issues it.
    """

    name: str
    descriptor: type[Descriptor]
    place: tuple[str, ...]
    check: Check
    only: Callable[[Any], bool] = lambda descriptor: True
    kernels: tuple[str, ...] = BOTH

    def matches(self, descriptor: Descriptor, names: tuple[str, ...]) -> bool:
        here = set(self.place) <= set(names) and DRAIN not in names
        return isinstance(descriptor, self.descriptor) and here and self.only(descriptor)


DRAIN = "intel_iommu_drain_pasid_prq"
TEAR, DETACH, RELEASE = "intel_pasid_tear_down_entry", "clear_dev_pasid", "release"
REPLACE, RID, LEGACY = "_tear_down_old", "device_block_translation", "domain_context_clear"
NOTIFIER, ROOT = "arch_invalidate_secondary_tlbs", "iommu_set_root_entry"
UNMAP, PROTECT, COPY, FORK = "unmap_page_range", "change_protection", "_wp_page_copy", "dup_mmap"
KVA = "iommu_sva_invalidate_kva_range"
CACHE, IOTLB, DOMAIN, DEVICE = PasidCacheInvalidate, PasidIotlbInvalidate, IotlbInvalidate, PasidDeviceTlbInvalidate
CONTEXT, DEVICE_RID = ContextCacheInvalidate, DeviceTlbInvalidate
NEW = (V7_3,)


def of_second_device(descriptor: Any) -> bool:
    return bool(getattr(descriptor, "pasid", None) == SECOND)


MUTATIONS = [
    Mutation("PASID cache at detach", CACHE, (TEAR, DETACH), bond_that_went(ACC)),
    Mutation("IOTLB at detach", IOTLB, (TEAR, DETACH), next_bond),
    Mutation("device-TLB at detach", DEVICE, (TEAR, DETACH), bond_that_went(MUTE)),
    Mutation("IOTLB at the detach of a kernel domain", IOTLB, (TEAR, DETACH), detached_domain(first_level=True)),
    Mutation("domain at the detach of a second stage", DOMAIN, (TEAR, DETACH), detached_domain(first_level=False)),
    Mutation("PASID cache at mm release", CACHE, (TEAR, RELEASE), mm_that_went_while_the_device_works),
    Mutation("IOTLB at mm release", IOTLB, (TEAR, RELEASE), bond_after_an_mm_that_went),
    Mutation("device-TLB at mm release", DEVICE, (TEAR, RELEASE), mm_that_went_while_the_device_works),
    Mutation(
        "PASID cache at mm release, second device",
        CACHE,
        (TEAR, RELEASE),
        mm_that_went_while_a_second_device_works,
        only=of_second_device,
    ),
    Mutation(
        "device-TLB at mm release, second device",
        DEVICE,
        (TEAR, RELEASE),
        mm_that_went_while_a_second_device_works,
        only=of_second_device,
    ),
    Mutation("PASID cache at replace", CACHE, (TEAR, REPLACE), replaced_domain(first_level=True), kernels=NEW),
    Mutation(
        "IOTLB at replace", IOTLB, (TEAR, REPLACE), replaced_domain_that_comes_back(first_level=True), kernels=NEW
    ),
    Mutation(
        "domain at the replace of a second stage",
        DOMAIN,
        (TEAR, REPLACE),
        replaced_domain_that_comes_back(first_level=False),
        kernels=NEW,
    ),
    Mutation("device-TLB at replace", DEVICE, (TEAR, REPLACE), replaced_domain(first_level=True), kernels=NEW),
    Mutation("PASID cache of the RID", CACHE, (TEAR, RID), rid_that_is_blocked()),
    Mutation("IOTLB of the RID", IOTLB, (TEAR, RID), rid_domain_that_was_replaced()),
    Mutation("domain of the RID", DOMAIN, (TEAR, RID), rid_domain_that_was_replaced(first_level=False)),
    Mutation("device-TLB of the RID", DEVICE_RID, (TEAR, RID), rid_domain_that_was_replaced()),
    Mutation("context cache, legacy mode", CONTEXT, (LEGACY,), rid_that_is_blocked(scalable=False)),
    Mutation("domain, legacy mode", DOMAIN, (LEGACY,), rid_domain_that_was_replaced(first_level=False, scalable=False)),
    Mutation(
        "device-TLB, legacy mode",
        DEVICE_RID,
        (LEGACY,),
        rid_domain_that_was_replaced(first_level=False, scalable=False),
    ),
    Mutation("IOTLB at munmap", IOTLB, (NOTIFIER, UNMAP), after_munmap),
    Mutation("device-TLB at munmap", DEVICE, (NOTIFIER, UNMAP), after_munmap),
    Mutation("IOTLB at mprotect", IOTLB, (NOTIFIER, PROTECT), after_mprotect),
    Mutation("device-TLB at mprotect", DEVICE, (NOTIFIER, PROTECT), after_mprotect),
    Mutation("IOTLB at fork", IOTLB, (NOTIFIER, FORK), after_fork),
    Mutation("device-TLB at fork", DEVICE, (NOTIFIER, FORK), after_fork),
    Mutation("IOTLB at copy-on-write", IOTLB, (NOTIFIER, COPY), after_a_copy_on_write),
    Mutation("device-TLB at copy-on-write", DEVICE, (NOTIFIER, COPY), after_a_copy_on_write),
    Mutation("IOTLB when kernel tables go", IOTLB, (KVA,), after_a_kernel_table_went, kernels=NEW),
    Mutation("device-TLB when kernel tables go", DEVICE, (KVA,), after_a_kernel_table_went, kernels=NEW),
    Mutation("PASID cache, caching mode", CACHE, ("_pasid_flush_caches",), entry_that_was_not_there),
    Mutation("context cache, caching mode", CONTEXT, ("_flush_not_present",), context_that_was_not_there),
    Mutation("context cache at the start", CONTEXT, (ROOT,), tables_of_firmware),
    Mutation("PASID cache at the start", CACHE, (ROOT,), pasids_of_firmware),
    Mutation("IOTLB at the start", DOMAIN, (ROOT,), translations_of_firmware),
]
CASES = [pytest.param(kernel, m, id=f"{m.name} ({kernel})") for m in MUTATIONS for kernel in m.kernels]


@pytest.mark.parametrize(("kernel", "mutation"), CASES)
def test_leaving_one_invalidation_out_is_noticed(kernel: str, mutation: Mutation) -> None:
    with wired(Wire()) as wire:
        mutation.check(kernel, wire)
    with wired(Wire(mutation.matches)) as wire:
        with pytest.raises(HarmError):
            mutation.check(kernel, wire)
        assert wire.dropped, "the mutation dropped nothing"


# --- what is left out in vain, and what is not mutated -------------------------------------------------------

SPARED = [(IOTLB, "_pasid_flush_caches"), (DOMAIN, "_flush_not_present"), (IOTLB, DRAIN), (DOMAIN, DRAIN)]
"""Not observable; see the module docstring."""


def spared(descriptor: Descriptor, names: tuple[str, ...]) -> bool:
    return any(isinstance(descriptor, kind) and place in names for kind, place in SPARED)


@pytest.mark.parametrize("kernel", BOTH)
def test_every_place_that_invalidates_has_its_mutation(kernel: str) -> None:
    here = [mutation for mutation in MUTATIONS if kernel in mutation.kernels]
    missing = set()
    with wired(Wire()) as wire:
        for mutation in here:
            mutation.check(kernel, wire)
        all_else(kernel)
    for descriptor, names in wire.seen:
        if isinstance(descriptor, (InvalidationWait, PageGroupResponse)) or spared(descriptor, names):
            continue
        if DRAIN in names or any(mutation.matches(descriptor, names) for mutation in here):
            continue
        missing.add((type(descriptor).__name__, names))
    assert missing == set()
    assert {kind for kind, _ in SPARED} <= {type(desc) for desc, names in wire.seen if spared(desc, names)}


def all_else(kernel: str) -> None:
    """Do what the checks leave out."""
    for unit in ({}, {"scalable": False}, {"caching_mode": True}, {"scalable": False, "caching_mode": True}):
        m = VtdMachine(ACC, kernel=kernel, **unit)
        ops = m.driver.ops
        m.bind("acc0", "a")
        m.write(1)
        m.mprotect("a", DATA, READ | EXEC)
        m.exec("a")
        m.driver.attach_identity(ops.identity_domain, m.dev())
        m.driver.attach_dev(new_domain(m, first_level=False), m.dev())
        m.driver.attach_blocked(ops.blocked_domain, m.dev())
        m.attach("acc0", 9)
        m.replace("acc0", 9)
        m.detach("acc0", 9)
        if unit.get("scalable", True):
            second_stages_under_a_pasid(m)
        m.reset_prepare("acc0")
        m.reset_done("acc0")
        m.exit("a")


def second_stages_under_a_pasid(m: VtdMachine) -> None:
    first, second = (new_domain(m, first_level=False) for _ in range(2))
    assert iommu_attach_device_pasid(first, m.dev(), NUMBER, AttachHandle()) is None
    iommu_replace_device_pasid(second, m.dev(), NUMBER, AttachHandle())
    iommu_detach_device_pasid(second if m.kernel.profile.replace_device_pasid else first, m.dev(), NUMBER)


@pytest.mark.parametrize("kernel", BOTH)
def test_what_is_not_mutated_is_not_missed(kernel: str) -> None:
    with wired(Wire(spared)) as wire:
        for mutation in MUTATIONS:
            if kernel in mutation.kernels:
                mutation.check(kernel, wire)
    assert wire.dropped


@pytest.mark.parametrize("kernel", BOTH)
def test_without_caches_no_invalidation_but_that_of_device_tlbs_is_needed(kernel: str) -> None:
    needed = (PageGroupResponse, InvalidationWait, DEVICE, DEVICE_RID)
    with wired(Wire(lambda descriptor, names: not isinstance(descriptor, needed))) as wire:
        m = VtdMachine(ACC, kernel=kernel, caches=False)
        refused(m, NUMBER)
        m.bind_device_pasid("acc0", "a", NUMBER, "h")
        owned(m.write(NUMBER), "a")
        m.munmap("a", DATA)
        refused(m, NUMBER)
        m.unbind("h")
        refused(m, NUMBER, READ_ONLY)
        m.bind_device_pasid("acc0", "b", NUMBER)
        owned(m.read(NUMBER), "b")
    assert wire.dropped


@pytest.mark.parametrize("kernel", BOTH)
def test_at_the_detach_of_a_device_with_page_requests_the_drain_flushes_its_tlb_once_more(kernel: str) -> None:
    with wired(Wire(lambda descriptor, names: isinstance(descriptor, DEVICE) and DRAIN not in names)) as wire:
        bond_that_went(ACC)(kernel, wire)
        assert wire.dropped
    with wired(Wire(lambda descriptor, names: isinstance(descriptor, DEVICE))) as wire, pytest.raises(HarmError):
        bond_that_went(ACC)(kernel, wire)


# --- order ---------------------------------------------------------------------------------------------------


def next_bond_while_the_device_works(kernel: str, wire: Wire) -> None:
    m = working(kernel)
    wire.between = partial(tries_anew, m)
    m.unbind("h")
    wire.between = None
    m.bind_device_pasid("acc0", "b", NUMBER)
    owned(m.read(NUMBER), "b")


def after_munmap_while_the_device_works(kernel: str, wire: Wire) -> None:
    m = working(kernel)
    wire.between = lambda: m.raw(NUMBER)
    m.munmap("a", DATA)
    wire.between = None
    refused(m, NUMBER)


def after_fork_while_the_device_works(kernel: str, wire: Wire) -> None:
    m = working(kernel)
    wire.between = lambda: m.raw(NUMBER)
    m.fork("a", "child")
    wire.between = None
    m.write(NUMBER, data=b"after!")
    loaded = m.load("child", DATA, 5).work
    expect(loaded is not None and loaded.data != b"after", "the parent's device wrote into the child's memory")


ORDERS = {
    "PASID cache before IOTLB": (CACHE, (TEAR, DETACH), next_bond_while_the_device_works),
    "PASID cache before IOTLB at mm release": (
        CACHE,
        (TEAR, RELEASE),
        bond_after_an_mm_that_went_while_the_device_works,
    ),
    "IOTLB before device-TLB at munmap": (IOTLB, (NOTIFIER, UNMAP), after_munmap_while_the_device_works),
    "IOTLB before device-TLB at fork": (IOTLB, (NOTIFIER, FORK), after_fork_while_the_device_works),
}


@pytest.mark.parametrize("kernel", BOTH)
@pytest.mark.parametrize(("descriptor", "place", "check"), ORDERS.values(), ids=list(ORDERS))
def test_an_invalidation_that_comes_one_too_late_is_noticed(
    kernel: str, descriptor: type[Descriptor], place: tuple[str, ...], check: Check
) -> None:
    with wired(Wire()) as wire:
        check(kernel, wire)
    late = Mutation("late", descriptor, place, check).matches
    with wired(Wire(late=late)) as wire:
        with pytest.raises(HarmError):
            check(kernel, wire)
        assert wire.dropped, "nothing came late"


Store = Callable[[Any, int, PasidEntry], None]
STORE: Store = pasid_module._store


@contextmanager
def stored(store: Store) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pasid_module, "_store", store)
        yield


@pytest.mark.parametrize("kernel", BOTH)
def test_p_is_cleared_before_the_caches_are_flushed(kernel: str) -> None:
    def without_clearing_p(iommu: Any, place: int, entry: PasidEntry) -> None:
        if entry.p or not entry:
            STORE(iommu, place, entry)

    check = bond_that_went_while_the_device_works
    with wired(Wire()) as wire:
        check(kernel, wire)
        with stored(without_clearing_p), pytest.raises(HarmError):
            check(kernel, wire)


def bond_that_went_while_the_device_works(kernel: str, wire: Wire) -> None:
    m = working(kernel)
    wire.between = lambda: m.raw(NUMBER)
    m.unbind("h")
    wire.between = None
    refused(m, NUMBER)


ASCENDING = tuple(range(PasidEntry.SIZE // 64))


@pytest.mark.parametrize("kernel", BOTH)
def test_the_rest_of_an_entry_changes_only_while_it_is_not_present(kernel: str) -> None:
    """Entries are written word by word, and the device tries after each; one half written leads to a table at 0.

    In one order that happens when an entry is set up, in the other when it is torn down.
    """
    orders = (ASCENDING, ASCENDING[::-1])
    assert [reaches_table_0(kernel, order, p_apart=True) for order in orders] == [False, False]
    assert [reaches_table_0(kernel, order, p_apart=False) for order in orders] == [True, True]


def reaches_table_0(kernel: str, order: tuple[int, ...], *, p_apart: bool) -> bool:
    """Whether the device gets to SECRET while a process is bound and unbound."""
    m = VtdMachine(ACC, kernel=kernel, caches=False)
    m.store("a", DATA, b"x")
    plant_table_0(m)
    reached = []

    def by_words(iommu: Any, place: int, entry: PasidEntry) -> None:
        if entry and not entry.p and not p_apart:
            return
        data = entry.pack()
        for word in order:
            iommu.kernel.memory.store(place + 8 * word, data[8 * word : 8 * word + 8])
            moved = tries_anew(m)
            reached.append(isinstance(moved, Transferred) and moved.address == SECRET)

    with stored(by_words):
        m.bind_device_pasid("acc0", "a", NUMBER, "h")
        m.unbind("h")
    return any(reached)


def plant_table_0(m: VtdMachine) -> None:
    """Let a table at address 0 lead from DATA to SECRET."""
    down = PagingTable(p=True, rw=True, us=True)
    for index, table in ((0, 0), (DATA >> 21, 0x1000)):
        m.kernel.memory.store64(8 * index, down.replace(next_table=table))
    m.kernel.memory.store64(0x1000, PageEntry(p=True, rw=True, us=True, output=SECRET))


def owners_while_a_page_goes(kernel: str, wire: Wire, take: Callable[[VtdMachine], object]) -> set[str]:
    """Whose memory the device reaches at the time of each invalidation."""
    m, owners = working(kernel), set()

    def look() -> None:
        outcome = m.write(NUMBER)
        owners.add(outcome.work.owner if outcome.work else "nobody")

    wire.between = look
    take(m)
    wire.between = None
    return owners


TAKES: dict[str, Callable[[VtdMachine], object]] = {
    "munmap": lambda m: m.munmap("a", DATA),
    "exit": lambda m: m.exit("a"),
    "exec": lambda m: m.exec("a"),
}


@pytest.mark.parametrize("kernel", BOTH)
@pytest.mark.parametrize("take", TAKES.values(), ids=list(TAKES))
def test_pages_are_flushed_before_they_are_free(kernel: str, take: Callable[[VtdMachine], object]) -> None:
    with wired(Wire()) as wire:
        assert owners_while_a_page_goes(kernel, wire, take) == {"a", "nobody"}


@pytest.mark.parametrize("kernel", BOTH)
def test_a_page_that_is_free_before_it_is_flushed_is_reached(kernel: str) -> None:
    flushes: list[Callable[[], None]] = []

    def munmap_then_flush(m: VtdMachine) -> None:
        m.munmap("a", DATA)
        for flush in flushes:
            flush()

    with wired(Wire()) as wire, pytest.MonkeyPatch.context() as patch:
        flush_now = memory._flush_touched
        patch.setattr(memory, "_flush_touched", lambda mm, pages: flushes.append(partial(flush_now, mm, pages)))
        assert FREED in owners_while_a_page_goes(kernel, wire, munmap_then_flush)
