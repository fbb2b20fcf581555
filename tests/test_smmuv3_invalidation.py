"""Each invalidation of the SMMUv3 driver is needed: without any single one, something is reached that must not be.

A check is a short story that ends in assertions. Each mutation drops one class of command at one place of the driver;
its check passes with the driver as it is and fails with the mutation. That no place is forgotten is tested too.

Not observable in this model, and therefore not mutated:

* CMD_PREFETCH_CONFIG only warms caches (a test drops it everywhere);
* CMD_SYNC, for commands are done when they are published; a real SMMU may do them later;
* of several CFGI for one change of an entry the first ones, since this SMMU reads an entry as a whole: what it might
  cache in between is removed by the last CFGI, whose loss is tested with a device that never stops trying;
* CFGI_CD for SSID 0 when the stream goes to stage 2, which leaves no way to the CD table;
* ATC_INV of a device whose ATS goes off cannot be seen by an access: the SMMU refuses what the device translated, and
  the device is flushed again before ATS comes back. What the ATC holds is looked at instead.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest

from pasidlab.drivers.arm_smmu_v3 import cmdq
from pasidlab.drivers.arm_smmu_v3 import driver as driver_module
from pasidlab.hw.atc import AtcEntry
from pasidlab.hw.pagetable.contract import Leaf
from pasidlab.hw.smmuv3.caches import Tag
from pasidlab.hw.smmuv3.commands import (
    AtcInv,
    CfgiCd,
    CfgiSte,
    CfgiSteRange,
    Command,
    PrefetchConfig,
    PriResp,
    Resume,
    Sync,
    TlbiNhAsid,
    TlbiNhVa,
    TlbiNsnhAll,
    TlbiS12Vmall,
)
from pasidlab.hw.smmuv3.registers import Cr0, Offset, StrtabBase, StrtabBaseCfg
from pasidlab.hw.smmuv3.request import Request, Terminated
from pasidlab.hw.smmuv3.smmu import Smmuv3
from pasidlab.hw.smmuv3.structures import Config, Ste
from pasidlab.hw.smmuv3.target import Regime
from pasidlab.hw.smmuv3.translate import ALL_RIGHTS
from pasidlab.hw.transaction import Ats, Operation, Transferred, Translated
from pasidlab.linux.mm import READ, WRITE, permitted_page
from pasidlab.linux.structs import IommuDomain

from .smmuv3_machine import CODE, DATA, HOLE, READ_ONLY, SMMU, SmmuMachine, narrow, nic

V6_12, V7_3 = "v6.12", "v7.3"
BOTH = (V6_12, V7_3)
ATS = {"ats": True}
SECRET = 0x4000_0000
"""Physical memory that belongs to nobody here, below what the kernel gives out."""
NIC = nic()
NPU = narrow()

# --- dropping ------------------------------------------------------------------------------------------------


def callers() -> tuple[str, ...]:
    """The driver's functions on the stack, the innermost first."""
    names = []
    frame = sys._getframe(2)
    while frame is not None:
        if "arm_smmu_v3" in frame.f_code.co_filename:
            names.append(frame.f_code.co_name)
        frame = frame.f_back
    return tuple(names)


@dataclass
class Wire:
    """Stands where commands are issued: drops some, notes all, and may let a device try in between.

    Attributes:
        drop: whether to drop a command, given where it comes from.
        seen, dropped: the commands with their callers.
        between: called after commands were issued.
    """

    drop: Callable[[Command, tuple[str, ...]], bool] = lambda command, names: False
    seen: list[tuple[Command, tuple[str, ...]]] = field(default_factory=list)
    dropped: list[Command] = field(default_factory=list)
    between: Callable[[], object] | None = None

    def issue(self, smmu: Any, cmds: Iterable[Command], *, sync: bool) -> None:
        names, kept = callers(), []
        for command in cmds:
            self.seen.append((command, names))
            (self.dropped if self.drop(command, names) else kept).append(command)
        ISSUE(smmu, kept, sync=sync)
        if self.between is not None:
            between, self.between = self.between, None
            between()
            self.between = between


ISSUE = cmdq.arm_smmu_cmdq_issue_cmdlist


@contextmanager
def wired(wire: Wire) -> Iterator[Wire]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cmdq, "arm_smmu_cmdq_issue_cmdlist", wire.issue)
        yield wire


# --- checks --------------------------------------------------------------------------------------------------

Check = Callable[[str, Wire], None]


def expect(condition: object, what: str) -> None:
    if not condition:
        raise AssertionError(what)


def kernel_domain(m: SmmuMachine, device: str) -> Any:
    domain = m.driver.domain_alloc_paging(m.dev(device))
    assert isinstance(domain, IommuDomain)
    return domain


def without_pasid(m: SmmuMachine, device: str, address: int = DATA) -> Any:
    return m.driver.ports[m.dev(device)].transfer(None, address, b"rid", 3)


def refused(m: SmmuMachine, device: str, pasid: int, address: int = DATA) -> None:
    """No access of (device, PASID) reaches anything."""
    for outcome in (m.write(device, pasid, address), m.read(device, pasid, address)):
        expect(outcome.result == "fault", f"{device} reached {outcome.work}")


def cd_of_a_new_bond(kernel: str, wire: Wire) -> None:
    m = SmmuMachine(NPU, kernel=kernel)
    refused(m, "npu0", 1)
    m.bind("npu0", "a")
    expect(m.write("npu0", 1).result == "ok", "the SMMU still has the CD from before the bind")


def cd_of_a_new_bond_while_the_device_tries(kernel: str, wire: Wire) -> None:
    m = SmmuMachine(NPU, kernel=kernel)
    port = m.driver.ports[m.dev("npu0")]
    wire.between = lambda: port.transfer(1, DATA, b"early", 5)
    m.bind("npu0", "a")
    wire.between = None
    expect(m.write("npu0", 1).result == "ok", "the SMMU has the CD from the middle of the bind")


def cd_of_a_bond_that_went(kernel: str, wire: Wire) -> None:
    m = SmmuMachine(NPU, kernel=kernel)
    m.bind("npu0", "a", "h")
    m.write("npu0", 1)
    m.unbind("h")
    refused(m, "npu0", 1)


def cd_of_a_bond_that_went_on_a_second_stream(kernel: str, wire: Wire) -> None:
    m = SmmuMachine(narrow(stream_id=[4, 300], can_stall=False), kernel=kernel)
    m.bind("npu0", "a", "h")
    m.store("a", DATA, b"x")
    request = Request(300, 1, DATA, Operation.WRITE)
    assert isinstance(m.hw().dma_write(request, b"work"), Transferred)
    m.unbind("h")
    expect(isinstance(m.hw().dma_write(request, b"work"), Terminated), "the second stream still reaches the process")


def ste_of_a_second_stream(kernel: str, wire: Wire) -> None:
    m = SmmuMachine(narrow(stream_id=[4, 300], can_stall=False, default_domain="identity"), kernel=kernel)
    request = Request(300, 1, DATA, Operation.WRITE)
    assert isinstance(m.hw().dma_write(request, b"early"), Terminated)
    m.bind("npu0", "a", "h")
    m.store("a", DATA, b"x")
    expect(isinstance(m.hw().dma_write(request, b"work"), Transferred), "the second stream has its old STE")


def cd_of_a_released_mm(kernel: str, wire: Wire) -> None:
    m = SmmuMachine(NPU, kernel=kernel)
    m.bind_device("npu0", "a")
    m.write("npu0", 1)
    m.exit("a")
    before = m.register(Offset.EVENTQ_PROD)
    refused(m, "npu0", 1)
    expect(m.register(Offset.EVENTQ_PROD) == before, "a quiet CD neither stalls nor records")


def level_1_descriptor_of_a_new_leaf(kernel: str, wire: Wire) -> None:
    m = SmmuMachine(narrow(bits=11), scheme="hybrid", kernel=kernel)
    refused(m, "npu0", 1500)
    m.bind_device_pasid("npu0", "a", 1500)
    expect(m.write("npu0", 1500).result == "ok", "the SMMU still has the level 1 descriptor without a leaf")


def cd_of_a_new_rid_domain(kernel: str, wire: Wire) -> None:
    m = SmmuMachine(NPU, kernel=kernel)
    before = without_pasid(m, "npu0")
    assert m.driver.attach_dev(kernel_domain(m, "npu0"), m.dev("npu0")) is None
    after = without_pasid(m, "npu0")
    expect(isinstance(after, Transferred), f"{after}")
    expect(after.address != before.address, "the device still uses the old domain")


def cd_0_of_a_rid_that_leaves_stage_1(kernel: str, wire: Wire) -> None:
    m = SmmuMachine(NPU, kernel=kernel)
    m.bind("npu0", "a")
    port = m.driver.ports[m.dev("npu0")]
    wire.between = lambda: port.transfer(0, DATA, b"zero", 4)
    m.driver.attach_identity(m.driver.ops.identity_domain, m.dev("npu0"))
    wire.between = None
    expect(isinstance(port.transfer(0, DATA, b"zero", 4), Terminated), "SSID 0 still has the kernel's domain")


def ste_of_the_first_pasid(kernel: str, wire: Wire) -> None:
    m = SmmuMachine(narrow(default_domain="identity"), kernel=kernel)
    refused(m, "npu0", 1)
    m.bind("npu0", "a")
    expect(m.write("npu0", 1).result == "ok", "the SMMU still has the STE without CD table")


def ste_of_the_last_pasid(kernel: str, wire: Wire) -> None:
    m = SmmuMachine(nic(default_domain="blocked"), smmu=ATS, kernel=kernel)
    m.bind("nic0", "a", "h")
    m.write("nic0", 1)
    m.unbind("h")
    translated = Request(1, None, SECRET, Operation.WRITE, ats=Ats.TRANSLATED)
    expect(isinstance(m.hw().dma_write(translated, b"work"), Terminated), "translated addresses are still believed")


def ste_of_a_rid_that_is_blocked(kernel: str, wire: Wire) -> None:
    m = SmmuMachine(narrow(default_domain="identity"), kernel=kernel)
    assert isinstance(without_pasid(m, "npu0", SECRET), Transferred)
    m.driver.attach_blocked(m.driver.ops.blocked_domain, m.dev("npu0"))
    expect(isinstance(without_pasid(m, "npu0", SECRET), Terminated), "the device still reaches all memory")


def ste_of_a_rid_that_gets_a_domain(kernel: str, wire: Wire) -> None:
    m = SmmuMachine(narrow(default_domain="blocked"), kernel=kernel)
    assert isinstance(without_pasid(m, "npu0"), Terminated)
    m.driver.attach_dev(kernel_domain(m, "npu0"), m.dev("npu0"))
    expect(isinstance(without_pasid(m, "npu0"), Transferred), "the SMMU still has the STE that aborts")


def asid_of_a_bond_that_went(kernel: str, wire: Wire) -> None:
    m = SmmuMachine(NPU, kernel=kernel)
    m.bind("npu0", "a", "h")
    m.write("npu0", 1)
    asid = m.cd(1, 1).asid
    m.unbind("h")
    m.bind("npu0", "b", "i")
    assert m.cd(1, 2).asid == asid, "the number is used again"
    outcome = m.read("npu0", 2, DATA, 2)
    expect(outcome.work is not None and outcome.work.data == b"b ", "b's device reads the memory of a")


def asid_of_a_domain_that_was_replaced(kernel: str, wire: Wire) -> None:
    m = SmmuMachine(NPU, kernel=kernel)
    m.attach("npu0", 1)
    port = m.driver.ports[m.dev("npu0")]
    port.transfer(1, DATA, b"old", 3)
    old = m.cd(1, 1).asid
    m.replace("npu0", 1)
    m.replace("npu0", 1)
    assert m.cd(1, 1).asid == old, "the number is used again"
    last = port.transfer(1, DATA, b"new", 3)
    expect(isinstance(last, Transferred) and leads_now(m, last), "the device reaches the old domain's memory")


def leads_now(m: SmmuMachine, moved: Transferred) -> bool:
    """Whether an access went where the page tables lead when they are walked anew."""
    m.hw().tlb.clear()
    again = m.driver.ports[m.dev("npu0")].transfer(1, DATA, b"new", 3)
    assert isinstance(again, Transferred)
    return again.address == moved.address


def asid_of_a_kernel_domain_that_was_freed(kernel: str, wire: Wire) -> None:
    m = SmmuMachine(NPU, kernel=kernel)
    port = m.driver.ports[m.dev("npu0")]
    m.attach("npu0", 1)
    port.transfer(1, DATA, b"old", 3)
    old = m.cd(1, 1).asid
    m.detach("npu0", 1)
    hold = m.kernel.page_alloc.alloc_page()
    m.attach("npu0", 1)
    assert m.cd(1, 1).asid == old, "the number is used again"
    moved = port.transfer(1, DATA, b"new", 3)
    expect(isinstance(moved, Transferred) and leads_now(m, moved), "the device reaches the old domain's memory")
    m.kernel.page_alloc.put_page(hold)


def vmid_of_a_kernel_domain_that_was_freed(kernel: str, wire: Wire) -> None:
    m = SmmuMachine(narrow(default_domain="stage2"), kernel=kernel)
    dev = m.dev("npu0")
    without_pasid(m, "npu0")
    old = m.driver.masters[dev].rid_domain
    assert old is not None
    m.driver.attach_blocked(m.driver.ops.blocked_domain, dev)
    m.driver.domain_free(old)
    hold = m.kernel.page_alloc.alloc_page()
    domain = m.driver.domain_alloc_stage2(dev)
    m.driver.attach_dev(domain, dev)
    assert m.ste(1).s2vmid == 1, "the number is used again"
    moved = without_pasid(m, "npu0")
    m.hw().tlb.clear()
    expect(moved.address == without_pasid(m, "npu0").address, "the device reaches the old domain's memory")
    m.kernel.page_alloc.put_page(hold)


def tlb_of_a_released_mm(kernel: str, wire: Wire) -> None:
    m = SmmuMachine(NPU, kernel=kernel)
    m.bind_device("npu0", "a")
    m.write("npu0", 1)
    m.exit("a")
    refused(m, "npu0", 1)


def tlb_after_munmap(kernel: str, wire: Wire) -> None:
    m = SmmuMachine(NPU, kernel=kernel)
    m.bind("npu0", "a")
    m.write("npu0", 1)
    m.munmap("a", DATA)
    refused(m, "npu0", 1)


def after_fork(device: Any, how: dict[str, bool]) -> Check:
    def check(kernel: str, wire: Wire) -> None:
        m = SmmuMachine(device, smmu=how, kernel=kernel)
        m.bind(device.name, "a")
        m.store("a", DATA, b"before")
        assert m.write(device.name, 1, DATA, b"BEFORE").result == "ok"
        m.fork("a", "child")
        m.write(device.name, 1, DATA, b"after!")
        loaded = m.load("child", DATA, 6).work
        expect(loaded is not None and loaded.data == b"BEFORE", "the parent's device wrote into the child's memory")

    return check


def with_atc(kernel: str, device: Any = NIC) -> SmmuMachine:
    """A device that keeps the translation of a page of process a."""
    m = SmmuMachine(device, smmu=ATS, kernel=kernel)
    m.bind_device("nic0", "a", "h")
    m.store("a", DATA, b"x")
    assert m.write("nic0", 1).work is not None
    assert m.atc("nic0").entries
    return m


def atc_of_a_bond_that_went(kernel: str, wire: Wire) -> None:
    m = with_atc(kernel)
    m.unbind("h")
    refused(m, "nic0", 1)


def atc_after_munmap(kernel: str, wire: Wire) -> None:
    m = with_atc(kernel)
    m.munmap("a", DATA)
    refused(m, "nic0", 1)


def atc_of_a_released_mm(kernel: str, wire: Wire) -> None:
    m = with_atc(kernel)
    m.exit("a")
    refused(m, "nic0", 1)


def atc_of_a_device_that_gets_ats(kernel: str, wire: Wire) -> None:
    m = SmmuMachine(nic(default_domain="identity"), smmu=ATS, kernel=kernel)
    m.atc("nic0").fill(1, DATA, AtcEntry(SECRET, 12, read=True, write=True))
    m.bind("nic0", "a")
    m.store("a", DATA, b"x")
    outcome = m.write("nic0", 1)
    expect(outcome.work is not None and outcome.work.owner == "a", f"an old translation is used: {outcome.work}")


def atc_of_a_rid_that_changes_its_domain(kernel: str, wire: Wire) -> None:
    m = SmmuMachine(NIC, smmu=ATS, kernel=kernel)
    port = m.driver.ports[m.dev("nic0")]
    port.ats = m.driver.masters[m.dev("nic0")].pci_ats
    before = without_pasid(m, "nic0")
    m.driver.attach_dev(kernel_domain(m, "nic0"), m.dev("nic0"))
    after = without_pasid(m, "nic0")
    expect(isinstance(after, Transferred) and after.address != before.address, "the device uses the old domain")


def atc_of_a_device_that_loses_ats(kernel: str, wire: Wire) -> None:
    m = with_atc(kernel, nic(default_domain="identity"))
    m.atc("nic0").fill(None, DATA, AtcEntry(SECRET, 12, read=True, write=True))
    m.unbind("h")
    expect(not m.atc("nic0").entries, "a device without ATS keeps translations")


class UsedSmmu(Smmuv3):
    """An SMMU that firmware has used: stream 7 passed, and ASID 1 had a page. It was switched off as it was."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.memory.store(SECRET + 7 * 64, Ste(v=True, config=Config.BYPASS).pack())
        self.mmio_write(Offset.STRTAB_BASE, StrtabBase(addr=SECRET), 8)
        self.mmio_write(Offset.STRTAB_BASE_CFG, StrtabBaseCfg(log2size=4), 4)
        self.mmio_write(Offset.CR0, Cr0(smmuen=True), 4)
        assert isinstance(self.translate(Request(7, None, SECRET)), Translated)
        self.mmio_write(Offset.CR0, Cr0(), 4)
        leaf = Leaf(SECRET, 12, ALL_RIGHTS, 0, 0, 3, global_=False, writable_clean=False)
        self.tlb.fill(Tag(Regime.NH, 0, 1), DATA, leaf)


def used_before(kernel: str, *devices: Any) -> SmmuMachine:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(driver_module, "Smmuv3", UsedSmmu)
        return SmmuMachine(*devices, kernel=kernel)


def configuration_from_before_the_reset(kernel: str, wire: Wire) -> None:
    m = used_before(kernel, NPU)
    outcome = m.hw().dma_write(Request(7, None, SECRET, Operation.WRITE), b"work")
    expect(isinstance(outcome, Terminated), "a stream that nobody configured passes")


def translations_from_before_the_reset(kernel: str, wire: Wire) -> None:
    m = used_before(kernel, NPU)
    assert m.cd(1, 0).asid == 1
    moved = without_pasid(m, "npu0")
    expect(m.kernel.page_alloc.owners_of(moved.address) == ("kernel",), "firmware's translation is still used")


# --- the mutations -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mutation:
    """One invalidation that is left out.

    Attributes:
        name: what is left out.
        command: of which class.
        place: functions of the driver that must all be on the stack.
        check: what goes wrong then.
        absent: functions that must not be on the stack.
        only: which of those commands, if not all.
        nth: only the one with this index among those that match.
        kernels: where the driver issues it.
    """

    name: str
    command: type[Command]
    place: tuple[str, ...]
    check: Check
    absent: tuple[str, ...] = ()
    only: Callable[[Any], bool] = lambda command: True
    nth: int | None = None
    kernels: tuple[str, ...] = BOTH

    def matches(self, command: Command, names: tuple[str, ...]) -> bool:
        here = set(self.place) <= set(names) and not set(self.absent) & set(names)
        return isinstance(command, self.command) and here and self.only(command)

    def dropper(self) -> Callable[[Command, tuple[str, ...]], bool]:
        count = 0

        def drop(command: Command, names: tuple[str, ...]) -> bool:
            nonlocal count
            if not self.matches(command, names):
                return False
            count += 1
            return self.nth is None or count == self.nth + 1

        return drop


SET, CLEAR, RELEASE = "arm_smmu_set_pasid", "arm_smmu_clear_pasid", "release"
UNMAP, COMMIT = "arch_invalidate_secondary_tlbs", "arm_smmu_attach_commit"
STE, CD = "arm_smmu_sync_ste", "arm_smmu_write_cd_entry"


def first_stream(command: Any) -> bool:
    return bool(command.sid != 300)


MUTATIONS = [
    Mutation("CFGI_CD at set_dev_pasid", CfgiCd, (SET, CD), cd_of_a_new_bond),
    Mutation("the last CFGI_CD at set_dev_pasid", CfgiCd, (SET, CD), cd_of_a_new_bond_while_the_device_tries, nth=1),
    Mutation("CFGI_CD at detach", CfgiCd, (CLEAR, CD), cd_of_a_bond_that_went, absent=("_attach_dev_ste",)),
    Mutation(
        "CFGI_CD at detach, second stream",
        CfgiCd,
        (CLEAR, CD),
        cd_of_a_bond_that_went_on_a_second_stream,
        only=lambda command: not first_stream(command),
    ),
    Mutation("CFGI_CD at mm release", CfgiCd, (RELEASE, CD), cd_of_a_released_mm),
    Mutation("CFGI_CD of level 1 for a new leaf", CfgiCd, ("_add_leaf",), level_1_descriptor_of_a_new_leaf),
    Mutation("CFGI_CD of SSID 0, another domain", CfgiCd, ("arm_smmu_attach_dev", CD), cd_of_a_new_rid_domain),
    Mutation("CFGI_CD of SSID 0, no domain", CfgiCd, ("_attach_dev_ste", CD), cd_0_of_a_rid_that_leaves_stage_1),
    Mutation("CFGI_STE at the first PASID", CfgiSte, (SET, STE), ste_of_the_first_pasid),
    Mutation(
        "CFGI_STE at the first PASID, second stream",
        CfgiSte,
        (SET, STE),
        ste_of_a_second_stream,
        only=lambda command: not first_stream(command),
    ),
    Mutation("CFGI_STE at the last PASID", CfgiSte, (CLEAR, STE), ste_of_the_last_pasid),
    Mutation("CFGI_STE, RID blocked", CfgiSte, ("_attach_dev_ste", STE), ste_of_a_rid_that_is_blocked, absent=(CLEAR,)),
    Mutation("CFGI_STE, RID gets a domain", CfgiSte, ("arm_smmu_attach_dev", STE), ste_of_a_rid_that_gets_a_domain),
    Mutation("TLBI_ASID at detach", TlbiNhAsid, (CLEAR,), asid_of_a_bond_that_went, kernels=(V7_3,)),
    Mutation("TLBI_ASID at replace", TlbiNhAsid, (COMMIT,), asid_of_a_domain_that_was_replaced, kernels=(V7_3,)),
    Mutation(
        "TLBI_ASID at the free of an SVA domain",
        TlbiNhAsid,
        ("arm_smmu_sva_domain_free",),
        asid_of_a_bond_that_went,
        kernels=(V6_12,),
    ),
    Mutation(
        "TLBI_ASID at the free of a kernel domain",
        TlbiNhAsid,
        ("domain_free", "arm_smmu_domain_inv_range"),
        asid_of_a_kernel_domain_that_was_freed,
        kernels=(V6_12,),
    ),
    Mutation(
        "TLBI_ASID at the detach of a kernel domain",
        TlbiNhAsid,
        (CLEAR,),
        asid_of_a_kernel_domain_that_was_freed,
        kernels=(V7_3,),
    ),
    Mutation(
        "TLBI_S12_VMALL at the free of a kernel domain",
        TlbiS12Vmall,
        ("domain_free",),
        vmid_of_a_kernel_domain_that_was_freed,
        kernels=(V6_12,),
    ),
    Mutation(
        "TLBI_S12_VMALL at detach", TlbiS12Vmall, (COMMIT,), vmid_of_a_kernel_domain_that_was_freed, kernels=(V7_3,)
    ),
    Mutation("TLBI_ASID at mm release", TlbiNhAsid, (RELEASE,), tlb_of_a_released_mm),
    Mutation("TLBI_VA in the notifier", TlbiNhVa, (UNMAP,), tlb_after_munmap),
    Mutation("TLBI_ASID in the notifier", TlbiNhAsid, (UNMAP,), after_fork(NPU, {})),
    Mutation("ATC_INV of everything in the notifier", AtcInv, (UNMAP,), after_fork(NIC, ATS)),
    Mutation("ATC_INV of a range in the notifier", AtcInv, (UNMAP,), atc_after_munmap),
    Mutation("ATC_INV at detach", AtcInv, (CLEAR,), atc_of_a_bond_that_went, absent=(COMMIT,)),
    Mutation("ATC_INV at mm release", AtcInv, (RELEASE,), atc_of_a_released_mm),
    Mutation("ATC_INV before ATS goes on", AtcInv, ("arm_smmu_enable_ats",), atc_of_a_device_that_gets_ats),
    Mutation(
        "ATC_INV at a change of domain",
        AtcInv,
        (COMMIT,),
        atc_of_a_rid_that_changes_its_domain,
        absent=("arm_smmu_enable_ats", CLEAR),
    ),
    Mutation(
        "ATC_INV when ATS goes off",
        AtcInv,
        (COMMIT,),
        atc_of_a_device_that_loses_ats,
        absent=("arm_smmu_enable_ats", "arm_smmu_attach_dev"),
    ),
    Mutation("CFGI_ALL at reset", CfgiSteRange, ("arm_smmu_device_reset",), configuration_from_before_the_reset),
    Mutation("TLBI_NSNH_ALL at reset", TlbiNsnhAll, ("arm_smmu_device_reset",), translations_from_before_the_reset),
]
CASES = [pytest.param(kernel, m, id=f"{m.name} ({kernel})") for m in MUTATIONS for kernel in m.kernels]


@pytest.mark.parametrize(("kernel", "mutation"), CASES)
def test_leaving_one_invalidation_out_is_noticed(kernel: str, mutation: Mutation) -> None:
    with wired(Wire()) as wire:
        mutation.check(kernel, wire)
    with wired(Wire(mutation.dropper())) as wire:
        with pytest.raises(AssertionError):
            mutation.check(kernel, wire)
        assert wire.dropped, "the mutation dropped nothing"


INVALIDATES_NOTHING = (PrefetchConfig, PriResp, Resume, Sync)


@pytest.mark.parametrize("kernel", BOTH)
def test_every_place_that_invalidates_has_its_mutation(kernel: str) -> None:
    here = [mutation for mutation in MUTATIONS if kernel in mutation.kernels]
    missing = set()
    with wired(Wire()) as wire:
        for check in {mutation.check for mutation in MUTATIONS}:
            if kernel == V7_3 or check is not asid_of_a_domain_that_was_replaced:
                check(kernel, wire)
        stage_2_after_stage_1(kernel)
    for command, names in wire.seen:
        if isinstance(command, INVALIDATES_NOTHING) or any(m.matches(command, names) for m in here):
            continue
        missing.add((type(command).__name__, names))
    assert missing == set()


def stage_2_after_stage_1(kernel: str) -> None:
    m = SmmuMachine(NIC, smmu=ATS, kernel=kernel)
    dev = m.dev("nic0")
    assert m.driver.attach_dev(m.driver.domain_alloc_stage2(dev), dev) is None
    m.reset_prepare("nic0")
    m.reset_done("nic0")


@pytest.mark.parametrize("kernel", BOTH)
def test_prefetches_are_not_needed(kernel: str) -> None:
    for mutation in MUTATIONS:
        if kernel in mutation.kernels:
            with wired(Wire(lambda command, names: isinstance(command, PrefetchConfig))) as wire:
                mutation.check(kernel, wire)


@pytest.mark.parametrize("kernel", BOTH)
def test_without_caches_no_invalidation_but_that_of_atcs_is_needed(kernel: str) -> None:
    m = SmmuMachine(narrow(default_domain="identity"), smmu={"caches": False}, kernel=kernel)
    with wired(Wire(lambda command, names: not isinstance(command, Resume))):
        refused(m, "npu0", 1)
        m.bind("npu0", "a", "h")
        assert m.write("npu0", 1).work is not None
        m.munmap("a", DATA)
        refused(m, "npu0", 1)
        m.unbind("h")
        refused(m, "npu0", 1, CODE)


# --- random histories ----------------------------------------------------------------------------------------

PAGES = [DATA, DATA, DATA, DATA + 0x1000, DATA + 0x3000, READ_ONLY, CODE, HOLE]
PROCESSES = ("a", "b", "child", "grandchild")
DEVICES = ("npu0", "nic0")
VERBS = {"bind": 3, "dma": 10, "store": 6, "unbind": 2, "munmap": 1, "mprotect": 2, "fork": 1, "exit": 1, "reset": 1}


class History:
    """A machine with a device that stalls and one with ATS, and what it must hold after each step."""

    def __init__(self, kernel: str, rid: Any) -> None:
        self.m = SmmuMachine(narrow(default_domain=rid), nic(bits=3, default_domain=rid), smmu=ATS, kernel=kernel)
        self.bonds: dict[tuple[str, str], int] = {}
        self.used: dict[tuple[str, int], None] = {}
        self.landed = 0

    def step(self, random: Random) -> None:
        """Do one thing; devices mostly use numbers that somebody has or had, for those are the ones that can hurt."""
        verb = random.choices(list(VERBS), list(VERBS.values()))[0]
        device, process, page = random.choice(DEVICES), random.choice(PROCESSES), random.choice(PAGES)
        if verb in ("bind", "unbind"):
            getattr(self, verb)(device, process)
        elif verb == "dma":
            device, pasid = random.choice([*self.used, (device, random.randrange(5))])
            self.dma(device, pasid, page, random.random() < 0.5)
        elif verb in ("store", "exit"):
            getattr(self, verb)(*((process, page) if verb == "store" else (process,)))
        elif verb == "munmap":
            self.munmap(process, page, random.randrange(1, 3))
        elif verb == "mprotect":
            self.mprotect(process, page, random.choice([0, READ, READ | WRITE, READ | WRITE]))
        elif verb == "fork":
            self.fork(process, random.choice(PROCESSES[2:]))
        else:
            self.reset(device)

    def alive(self, process: str) -> bool:
        task = self.m.processes.get(process)
        return task is not None and task.mm is not None

    def bind(self, device: str, process: str) -> None:
        if (device, process) not in self.bonds and self.alive(process):
            outcome = self.m.bind(device, process, f"{device}/{process}")
            if outcome.result == "ok":
                assert outcome.pasid is not None
                self.bonds[device, process] = outcome.pasid
                self.used[device, outcome.pasid] = None

    def unbind(self, device: str, process: str) -> None:
        pasid = self.bonds.pop((device, process), None)
        if pasid is not None:
            self.m.unbind(f"{device}/{process}")
            for page in PAGES:
                refused(self.m, device, pasid, page)

    def store(self, process: str, page: int) -> None:
        if self.alive(process):
            self.m.store(process, page, process.encode())

    def munmap(self, process: str, page: int, pages: int) -> None:
        if self.alive(process):
            self.m.munmap(process, page, pages * 0x1000)

    def mprotect(self, process: str, page: int, rights: int) -> None:
        if self.alive(process):
            self.m.mprotect(process, page, rights, 0x1000)

    def fork(self, process: str, child: str) -> None:
        if self.alive(process) and child not in self.m.processes:
            self.m.fork(process, child)

    def exit(self, process: str) -> None:
        """End a process; the files of its children keep its bonds."""
        if self.alive(process):
            self.m.exit(process)
            self.bonds = {key: pasid for key, pasid in self.bonds.items() if self.m.bindings["/".join(key)].live}

    def reset(self, device: str) -> None:
        self.m.reset_prepare(device)
        if self.m.kernel.profile.reset_fence != "none":
            for pasid in range(5):
                refused(self.m, device, pasid)
        self.m.reset_done(device)

    def dma(self, device: str, pasid: int, page: int, write: bool) -> None:
        """Whatever an access reaches is mapped, with that right, by the one process that has the number now."""
        m = self.m
        others = {name: self.memory_of(name) for name in PROCESSES if self.alive(name)}
        holders = [process for (dev, process), number in self.bonds.items() if (dev, number) == (device, pasid)]
        allowed = any(self.lets(process, device, page, write) for process in holders)
        outcome = m.write(device, pasid, page, b"dma") if write else m.read(device, pasid, page, 3)
        if outcome.work is None:
            assert outcome.result == "fault"
            assert not allowed, f"{holders} let {device} have {page:#x}"
            return
        self.landed += 1
        assert holders == [outcome.work.owner], (device, pasid, holders, outcome.work)
        mm = m.processes[holders[0]].mm
        assert mm is not None
        vma = mm.vma_lookup(page)
        assert vma is not None
        assert vma.flags & (WRITE if write else READ), "the right was taken away"
        assert mm.read(page, 3) == outcome.work.data
        for name, memory in others.items():
            assert name == holders[0] or self.memory_of(name) == memory, f"{name}'s memory changed"

    def lets(self, process: str, device: str, page: int, write: bool) -> bool:
        """Whether a process's page is there with that right; the device that stalls can wait for it to come."""
        mm = self.m.processes[process].mm
        if mm is None:
            return False
        vma = mm.vma_lookup(page)
        right = vma is not None and bool(vma.flags & (WRITE if write else READ))
        return permitted_page(mm, page, write) is not None or (device == "npu0" and right)

    def memory_of(self, process: str) -> list[Any]:
        """The bytes of the pages that a process has, without bringing any in."""
        mm = self.m.processes[process].mm
        assert mm is not None
        readable = [page for page in PAGES if mm.has_page(page) and (vma := mm.vma_lookup(page)) and vma.flags & READ]
        return [(page, mm.read(page, 8)) for page in readable]


def history(kernel: str, seed: int, steps: int = 100) -> History:
    random = Random(seed)
    done = History(kernel, random.choice(["dma", "identity", "blocked"]))
    for _ in range(steps):
        done.step(random)
    return done


@pytest.mark.parametrize("kernel", BOTH)
def test_every_access_lands_in_a_page_that_its_process_maps_now_or_nowhere(kernel: str) -> None:
    landed = 0
    for seed in range(60):
        done = history(kernel, seed)
        landed += done.landed
        assert done.m.register(Offset.GERROR, SMMU) == done.m.register(Offset.GERRORN, SMMU) == 0
    assert landed > 300, "the histories hardly reach memory"


@pytest.mark.parametrize("kernel", BOTH)
@pytest.mark.parametrize("command", [AtcInv, TlbiNhVa, TlbiNhAsid, CfgiCd, CfgiSte], ids=lambda kind: kind.__name__)
def test_random_histories_notice_when_a_command_is_never_issued(kernel: str, command: type[Command]) -> None:
    def all_histories() -> None:
        for seed in range(60):
            history(kernel, seed)

    with wired(Wire(lambda issued, names: isinstance(issued, command))), pytest.raises(AssertionError):
        all_histories()
