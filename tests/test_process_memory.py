"""A process's memory as others reach it: a device behind the mock IOMMU, and the machine's verbs."""

from __future__ import annotations

import copy

import pytest

from pasidlab import InputError, Machine, MachineSpec, run
from pasidlab.description import CpuSpec, DeviceSpec, IommuSpec, ProcessSpec
from pasidlab.devices import Access, Work
from pasidlab.linux.mm import MmStruct
from pasidlab.linux.pgtable import READ
from pasidlab.linux.sva import iommu_sva_bind_device
from pasidlab.rules import Faulted
from pasidlab.scenario import Scenario
from tests.mm_rig import NONE, PAGE, RO, RW, fork, page_of, process
from tests.rig import Rig, bound


class TestDevices:
    """What the mock IOMMU reaches is the process's own page."""

    def rig(self) -> tuple[Rig, object, MmStruct]:
        rig = Rig()
        dev = rig.device("dev", 4)
        mm = process(rig.kernel)
        bound(iommu_sva_bind_device(dev, mm))
        return rig, dev, mm

    def test_the_cpu_sees_what_the_device_wrote(self) -> None:
        rig, dev, mm = self.rig()
        moved = rig.driver.access(dev, 1, RW + 4, b"dma", 3)
        assert (moved.owner, moved.data) == ("a", b"dma")
        assert mm.read(RW, 8) == b"a a dma "
        assert rig.driver.access(dev, 1, RW + 4, None, 3).data == b"dma"

    def test_a_write_after_a_fork_asks_and_leaves_the_child_its_page(self) -> None:
        rig, dev, mm = self.rig()
        mm.write(RW, b"old")
        child = fork(mm, "child")
        assert rig.driver.access(dev, 1, RW, b"new", 3).owner == "a"
        assert (mm.read(RW, 3), child.read(RW, 3)) == (b"new", b"old")
        assert "fault.mm-handled" in rig.decided

    def test_memory_that_aborts_is_a_fault_of_the_device(self) -> None:
        rig, dev, mm = self.rig()
        mm.write(RW, b"x")
        rig.kernel.memory.poison(page_of(mm, RW), 1)
        for data in (None, b"y"):
            fault = rig.driver.access(dev, 1, RW, data, 1)
            assert isinstance(fault, Faulted)
            assert fault.rule.id == "dma.aborted"

    def test_a_kernel_managed_domain_reads_as_zeros(self) -> None:
        rig, dev, _ = self.rig()
        rig.attach(dev, 5)
        assert rig.driver.access(dev, 5, 0x1234, None, 4).data == bytes(4)
        assert rig.driver.access(dev, 5, 0x1234, b"to", 2).owner == "kernel"


def machine(**cpu: object) -> Machine:
    return Machine(
        MachineSpec(
            cpu=CpuSpec(**cpu),  # type: ignore[arg-type]
            iommu=[IommuSpec("iommu0")],
            device=[DeviceSpec("dev0", "iommu0", pasid_bits=4), DeviceSpec("loose", pasid_bits=4)],
            process=[ProcessSpec("a")],
        )
    )


class TestVerbs:
    def test_load_and_store(self) -> None:
        m = machine()
        stored = m.store("a", RW, b"text")
        assert (stored.result, stored.rule, stored.work.owner) == ("ok", "store.done", "a")
        loaded = m.load("a", RW, 4)
        assert (loaded.rule, loaded.work.data, loaded.pasid) == ("load.done", b"text", None)
        assert m.store("a", RO, b"x").result == "SIGSEGV"
        assert m.load("a", NONE, 1).rule == "page-fault.rights"

    def test_munmap_and_mprotect_without_size_reach_to_the_end_of_the_area(self) -> None:
        m = machine()
        assert m.mprotect("a", RW + PAGE, READ).rule == "mprotect.done"
        assert m.store("a", RW, b"x").result == "ok"
        assert m.store("a", RW + 3 * PAGE, b"x").result == "SIGSEGV"
        assert m.munmap("a", RO + 3 * PAGE).rule == "munmap.done"
        assert m.load("a", RO + 3 * PAGE - 1, 1).result == "ok"
        assert m.load("a", RO + 3 * PAGE, 1).rule == "page-fault.no-area"
        assert m.munmap("a", 0x9000_0000).result == "ok"
        assert m.mprotect("a", 0x9000_0000, READ).result == "ENOMEM"

    def test_an_exited_process_does_nothing_more(self) -> None:
        m = machine()
        m.exit("a")
        for outcome in (m.load("a", RW, 1), m.store("a", RW, b""), m.munmap("a", RW), m.mprotect("a", RW, READ)):
            assert outcome.result == "ESRCH"

    @pytest.mark.parametrize("size", [4096, 16384, 65536])
    def test_a_device_works_in_pages_of_the_kernel(self, size: int) -> None:
        m = machine(page_size=size)
        m.bind("dev0", "a", "h")
        data = bytes(range(200)) * (2 * size // 200)
        assert m.dma("dev0", "h", Work(data=data, address=RW + 7)).work.data == data
        assert m.load("a", RW + 7, len(data)).work.data == data
        assert m.dma("dev0", "h", Work(Access.READ, RW + 4 * size - 2, size=4)).result == "fault"

    def test_a_copied_machine_has_memory_of_its_own(self) -> None:
        m = machine()
        m.store("a", RW, b"old")
        twin = copy.deepcopy(m)
        twin.store("a", RW, b"new")
        assert [each.load("a", RW, 3).work.data for each in (m, twin)] == [b"old", b"new"]

    def test_an_expectation_of_bytes_that_do_not_come_is_unmet(self) -> None:
        step = {"do": "load", "process": "a", "size": 3}
        steps = [step | {"expect_data": "a a"}, step | {"expect_data": {"rfc": "b b"}}]
        scenario = Scenario.from_dict({"process": [{"name": "a"}], "step": steps})
        unmet = {report.scheme: [step.unmet for step in report.steps] for report in run(scenario, "mainline,rfc")}
        assert unmet == {"mainline": [(), ()], "rfc": [(), ("expected the data 'b b', not 'a a'",)]}

    def test_x86_has_one_page_size(self) -> None:
        with pytest.raises(InputError, match=r"cpu\.page_size = 65536: pages of an x86 kernel have 4096 bytes"):
            machine(arch="x86", page_size=65536)

    def test_a_job_of_no_bytes_asks_for_its_page_all_the_same(self) -> None:
        m = machine()
        m.bind("dev0", "a", "h")
        assert m.dma("dev0", "h", Work(data=b"")).work.data == b""
        assert m.dma("dev0", "h", Work(data=b"", address=NONE)).result == "fault"

    def test_a_device_behind_no_iommu_reaches_nothing(self) -> None:
        m = machine()
        assert m.dma("loose", 1, Work()).rule == "dma.no-entry"
        assert m.driver_of(m.endpoints["dev0"].dev) is m.driver_of(m.endpoints["loose"].dev)
