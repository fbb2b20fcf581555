"""What a mock with caches keeps, which invalidation takes it away, and what a stale line reaches."""

from __future__ import annotations

import pickle
from itertools import permutations

import pytest

from pasidlab.description import DeviceSpec, IommuSpec, MachineSpec, ProcessSpec, check, on_model
from pasidlab.devices import Access, Work
from pasidlab.errors import Errno, InputError
from pasidlab.machine import Machine

WORK = Work()
STEPS = ["table", "iotlb", "atc"]


def machine_of(detach: list[str] | None = None, kind: str = "pcie", *, caches: bool = True) -> Machine:
    spec = MachineSpec(
        iommu=[IommuSpec("iommu0", caches=caches, detach=detach)],
        device=[DeviceSpec(name, "iommu0", kind=kind, pasid_bits=2) for name in ("dev0", "dev1")],
        process=[ProcessSpec("a"), ProcessSpec("b")],
    )
    return Machine(spec, "hybrid")


def lines(machine: Machine) -> tuple[list[tuple[str, int, str]], list[tuple[str, int, str]]]:
    """Return device, PASID and process of each line of the IOTLB and of the ATCs."""
    driver = machine.parts.mock
    iotlb, atc = (
        [(dev.name, pasid, domain.mm.name) for (dev, pasid), domain in cache.items()]
        for cache in (driver.iotlb, driver.atc)
    )
    return iotlb, atc


def worked(machine: Machine) -> Machine:
    """Let a's work fill the caches under number 1 of dev0."""
    machine.bind("dev0", "a", "queue")
    assert machine.submit("a", "dev0", None, WORK).work.owner == "a"
    return machine


LINE = [("dev0", 1, "a")]


class TestFilling:
    def test_work_for_a_process_fills_both(self) -> None:
        assert lines(worked(machine_of())) == (LINE, LINE)

    def test_a_device_off_pcie_has_no_atc(self) -> None:
        assert lines(worked(machine_of(kind="narrow"))) == (LINE, [])

    def test_a_bind_alone_fills_none(self) -> None:
        machine = machine_of()
        machine.bind("dev0", "a")
        assert lines(machine) == ([], [])

    def test_a_blocked_access_fills_none(self) -> None:
        machine = machine_of()
        assert machine.dma("dev0", 1, WORK).result == "fault"
        machine.bind("dev0", "a")
        machine.exit_mm("a")
        assert machine.dma("dev0", 1, WORK).rule == "dma.quiet"
        assert lines(machine) == ([], [])

    def test_a_kernel_managed_domain_fills_none(self) -> None:
        machine = machine_of()
        machine.attach("dev0", 3)
        assert machine.dma("dev0", 3, WORK).work.owner == "kernel"
        assert lines(machine) == ([], [])

    def test_without_caches_nothing_is_kept_and_nobody_listens_to_the_mm(self) -> None:
        machine = worked(machine_of(caches=False))
        assert lines(machine) == ([], [])
        assert machine.processes["a"].mm.notifier_subscriptions is None

    def test_an_iotlb_hit_fills_the_atc_and_an_atc_hit_fills_nothing(self) -> None:
        machine = worked(machine_of())
        driver = machine.parts.mock
        driver.atc.clear()
        machine.dma("dev0", 1, WORK)
        assert lines(machine) == (LINE, LINE)
        driver.iotlb.clear()
        machine.dma("dev0", 1, WORK)
        assert lines(machine) == ([], LINE)

    def test_a_line_is_one_devices(self) -> None:
        machine = worked(machine_of())
        assert machine.dma("dev1", 1, WORK).rule == "dma.no-entry"


class TestTakingAway:
    @pytest.mark.parametrize("detach", [None, *(list(order) for order in permutations(STEPS))])
    def test_all_three_steps_in_any_order_leave_nothing_where_nobody_works_in_between(
        self, detach: list[str] | None
    ) -> None:
        machine = worked(machine_of(detach))
        machine.unbind("queue")
        assert lines(machine) == ([], [])
        assert machine.parts.mock.entries == {}

    def test_a_step_that_is_left_out_is_not_done(self) -> None:
        for left_out, expected in (("iotlb", (LINE, [])), ("atc", ([], LINE))):
            machine = worked(machine_of([step for step in STEPS if step != left_out]))
            machine.unbind("queue")
            assert lines(machine) == expected

    def test_only_that_device_and_number_are_invalidated(self) -> None:
        machine = worked(machine_of())
        machine.bind("dev1", "a")
        machine.bind("dev0", "b", "queue of b")
        machine.submit("a", "dev1", None, WORK)
        machine.submit("b", "dev0", None, WORK)
        machine.unbind("queue")
        assert lines(machine) == ([("dev1", 1, "a"), ("dev0", 2, "b")],) * 2

    @pytest.mark.parametrize("left_out", ["iotlb", "atc"])
    def test_a_stale_line_is_the_old_process_for_the_next_one(self, left_out: str) -> None:
        machine = machine_of([step for step in STEPS if step != left_out])
        machine.bind_device_pasid("dev0", "a", 3, "queue")
        machine.submit("a", "dev0", None, WORK)
        machine.unbind("queue")
        machine.bind_device_pasid("dev0", "b", 3)
        assert machine.submit("b", "dev0", None, Work(data=b"of b")).work.owner == "a"
        assert machine.load("a", WORK.address, 4).work.data == b"of b"

    def test_attaching_invalidates_nothing(self) -> None:
        machine = worked(machine_of(["table"]))
        machine.unbind("queue")
        machine.attach("dev0", 1)
        assert lines(machine) == (LINE, LINE)
        assert machine.dma("dev0", 1, WORK).work.owner == "a"

    def test_a_domain_that_takes_the_place_of_another_leaves_no_line_of_it(self) -> None:
        machine = machine_of()
        driver, dev0, dev1 = machine.parts.mock, machine.endpoints["dev0"].dev, machine.endpoints["dev1"].dev
        machine.bind_device_pasid("dev0", "a", 3)
        machine.bind_device_pasid("dev1", "b", 3)
        machine.submit("a", "dev0", None, WORK)
        old, new = driver.entries[dev0, 3], driver.entries[dev1, 3]
        assert driver.set_dev_pasid(new, dev0, 3, old) is None
        assert lines(machine) == ([], [])

    def test_a_device_leaves_the_fault_queue_only_when_all_steps_are_done(self) -> None:
        machine = worked(machine_of())
        dev, seen = machine.endpoints["dev0"].dev, []
        machine.kernel.at_window = lambda step: seen.append((step, dev.fault_param is not None))
        machine.unbind("queue")
        assert seen == [("table", True), ("iotlb", True)]
        assert dev.fault_param is None


class TestTheEndOfAnAddressSpace:
    def test_its_lines_go_on_all_devices_and_others_stay(self) -> None:
        machine = worked(machine_of())
        machine.bind("dev1", "a")
        machine.bind("dev1", "b")
        machine.submit("a", "dev1", None, WORK)
        machine.submit("b", "dev1", None, WORK)
        machine.exit_mm("a")
        assert lines(machine) == ([("dev1", 2, "b")],) * 2

    @pytest.mark.parametrize("left_out", ["iotlb", "atc"])
    def test_what_is_not_invalidated_reaches_freed_memory(self, left_out: str) -> None:
        machine = worked(machine_of([step for step in STEPS if step != left_out]))
        machine.exit("a")
        for work in (WORK, Work(Access.READ)):
            outcome = machine.dma("dev0", 1, work)
            assert (outcome.result, outcome.work.owner) == ("ok", "freed memory")
        (finding,) = machine.kernel.findings
        assert finding.rule.id == "dma.freed"
        assert "PASID 1 of dev0 outlived a" in finding.why

    def test_until_its_pages_go_a_line_reaches_its_own_memory(self) -> None:
        """The notifier comes before the pages are freed, so that an access in between is no harm."""
        machine, owners = worked(machine_of()), []
        machine.kernel.at_window = lambda step: owners.append((step, machine.dma("dev0", 1, WORK).work.owner))
        machine.exit_mm("a")
        assert owners == [("table", "a"), ("iotlb", "a")]
        assert lines(machine) == ([], [])

    def test_the_notifier_is_registered_once_and_goes_with_the_last_domain(self) -> None:
        machine = machine_of()
        mm = machine.processes["a"].mm
        machine.bind("dev0", "a", "one")
        machine.bind("dev1", "a", "two")
        assert len(mm.notifier_subscriptions.subscriptions) == 1
        machine.unbind("one")
        assert len(mm.notifier_subscriptions.subscriptions) == 1
        machine.unbind("two")
        assert mm.notifier_subscriptions.subscriptions == []
        assert mm.mm_count == 1

    def test_a_bind_without_memory_for_the_notifier_fails(self) -> None:
        refused = []
        for nth in range(1, 5):
            machine = machine_of()
            machine.kernel.fail_allocation = nth
            refused.append(machine.bind_device("dev0", "a").rule)
            assert machine.parts.mock.caches.notifiers.keys() <= {machine.processes["a"].mm}
        assert "mmu-notifier.no-memory" in refused

    def test_a_failed_attach_leaves_no_notifier(self) -> None:
        machine = machine_of()
        machine.fail_next("dev0", "set_dev_pasid", Errno.ENOMEM)
        assert machine.bind("dev0", "a").result == "ENOMEM"
        assert machine.parts.mock.caches.notifiers == {}
        machine.exit("a")
        assert machine.kernel.mms == {machine.processes["b"].mm: None}

    def test_two_iommus_go_by_their_own_orders(self) -> None:
        spec = MachineSpec(
            iommu=[IommuSpec("one", caches=True, detach=["table"]), IommuSpec("two", caches=True)],
            device=[DeviceSpec(name, of, pasid_bits=2) for name, of in (("dev1", "one"), ("dev2", "two"))],
            process=[ProcessSpec("a")],
        )
        machine, seen = Machine(spec), []
        for device in ("dev1", "dev2"):
            machine.bind(device, "a")
            machine.submit("a", device, None, WORK)
        machine.kernel.at_window = seen.append
        machine.exit_mm("a")
        assert lines(machine) == ([("dev1", 1, "a")],) * 2
        assert seen == ["table", "iotlb"]


def test_a_machine_with_lines_can_be_copied_by_pickle() -> None:
    machine = pickle.loads(pickle.dumps(worked(machine_of())))
    assert lines(machine) == (LINE, LINE)
    machine.exit("a")
    assert lines(machine) == ([], [])


class TestTheKeys:
    @pytest.mark.parametrize(
        ("spec", "message"),
        [
            (IommuSpec("i", detach=["table"]), "a mock has nothing to invalidate without caches = true"),
            (IommuSpec("i", caches=True, detach=["iotlb"]), "has no 'table', without which nothing is taken away"),
            (IommuSpec("i", caches=True, detach=["table", "atc", "atc"]), "names a step twice"),
            (
                IommuSpec("i", model="intel-vtd", detach=["table"]),
                "only an IOMMU of model mock or arm-smmu-v3 has it",
            ),
        ],
    )
    def test_an_order_that_cannot_be_is_refused(self, spec: IommuSpec, message: str) -> None:
        with pytest.raises(InputError, match=rf"^iommu\[0\]\.detach.*{message}"):
            check(MachineSpec(iommu=[spec]))

    def test_another_model_keeps_the_order_if_its_driver_can_have_one(self) -> None:
        spec = MachineSpec(iommu=[IommuSpec("i", caches=True, detach=["table", "atc"])])
        kept = {model: on_model(spec, model).iommu[0].detach for model in ("mock", "arm-smmu-v3", "intel-vtd")}
        assert kept == {"mock": ["table", "atc"], "arm-smmu-v3": ["table", "atc"], "intel-vtd": None}
