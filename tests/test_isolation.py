"""No guard leaves a way into the memory of another process; each case was a hole once."""

from __future__ import annotations

import pytest

from pasidlab import Machine, MachineSpec
from pasidlab.description import DeviceSpec, IommuSpec, ProcessSpec
from pasidlab.devices import SubmitBy, Work
from pasidlab.hw.cpu import Instruction
from pasidlab.schemes import Options


def machine(scheme: str, *devices: DeviceSpec, **options: object) -> Machine:
    spec = MachineSpec(
        iommu=[IommuSpec("iommu0")],
        device=list(devices),
        process=[ProcessSpec("a"), ProcessSpec("b")],
        options=Options(**options),  # type: ignore[arg-type]
    )
    return Machine(spec, scheme)


def portal(name: str, group: str | None = None, pasids: str = "global") -> DeviceSpec:
    return DeviceSpec(name, "iommu0", group=group, pasid_bits=20, submit=SubmitBy.ENQCMD, pasids=pasids)  # type: ignore[arg-type]


def register(name: str, group: str | None = None) -> DeviceSpec:
    return DeviceSpec(name, "iommu0", group=group, pasid_bits=20, pasids="local")


def enqcmd(m: Machine, process: str, device: str) -> tuple[str, str]:
    outcome = m.submit(process, device, Instruction.ENQCMD, Work())
    return outcome.result, outcome.work.owner if outcome.work else "nobody"


@pytest.mark.parametrize("scheme", ["v2", "hybrid"])
def test_guard_mmap_unmaps_every_member_of_a_group_when_the_shared_bond_goes(scheme: str) -> None:
    m = machine(scheme, portal("d1", "g"), portal("d2", "g"))
    m.bind_device("d1", "a", "h1")
    m.bind_device("d2", "a", "h2")
    assert m.mmap_portal("a", "d1").result == "ok"
    m.unbind("h1")
    assert enqcmd(m, "a", "d1") == ("ok", "a")
    m.unbind("h2")
    assert m.bind_device_pasid("d1", "b", 1).result == "ok"
    assert enqcmd(m, "a", "d1") == ("SIGSEGV", "nobody")


def test_guard_range_counts_the_portals_of_the_whole_group() -> None:
    m = machine("hybrid", portal("e"), portal("acc", "g"), register("nic", "g"), guard="range")
    m.bind("e", "a")
    assert m.bind("nic", "b").pasid == 0x8000
    m.mmap_portal("a", "acc")
    assert enqcmd(m, "a", "acc") == ("fault", "nobody")


def test_guard_declared_counts_the_numbers_of_the_whole_group() -> None:
    m = machine("hybrid", portal("e"), portal("acc", "g"), register("nic", "g"), guard="declared")
    m.bind("e", "a")
    m.bind("nic", "b")
    assert m.mmap_portal("a", "acc").result == "ENODEV"
    assert enqcmd(m, "a", "acc") == ("SIGSEGV", "nobody")


def test_guard_mmap_asks_for_the_normal_call_not_for_the_number() -> None:
    m = machine("hybrid", portal("e"), portal("d"))
    m.bind_device("e", "a")
    m.bind_device_pasid("d", "a", 1)
    assert m.mmap_portal("a", "d").result == "EPERM"
    m.bind_device("d", "a")
    assert m.mmap_portal("a", "d").result == "ok"


def test_a_queue_of_another_device_or_process_is_not_used() -> None:
    m = machine("hybrid", register("d1"), register("d2"))
    m.bind_device_pasid("d1", "b", 7, "of b")
    m.bind_device_pasid("d2", "a", 7, "of a")
    for process, device in (("b", "d2"), ("a", "d1"), ("a", "d2")):
        outcome = m.submit(process, device, None, Work(), handle="of b")
        assert (outcome.result, outcome.rule) == ("EPERM", "handle.foreign")
    assert m.submit("b", "d1", None, Work(), handle="of b").work.owner == "b"


def test_a_quota_is_not_passed_by_under_a_second_kind_of_number() -> None:
    for first, second in (("local", "core"), ("core", "local")):
        m = machine("hybrid", register("d"), quota_user=1)
        calls = {"core": lambda m=m: m.bind_device("d", "a"), "local": lambda m=m: m.bind_device_pasid("d", "a", 5)}
        assert calls[first]().result == "ok"
        assert calls[second]().result == "EDQUOT"


def test_what_a_task_opens_after_its_exec_is_closed_at_its_exit() -> None:
    m = machine("mainline", register("d"))
    m.clone("a", "t")
    m.exec("t")
    m.bind("d", "t", "h")
    m.exit("t")
    assert not m.bindings["h"].live
    assert list(m.kernel.holders()) == []


def test_each_exec_gives_memory_of_another_name() -> None:
    m = machine("mainline", register("d"))
    names = []
    for _ in range(3):
        m.exec("a")
        names.append(m.processes["a"].mm.name)
    assert names == ["a after exec", "a after exec 2", "a after exec 3"]
