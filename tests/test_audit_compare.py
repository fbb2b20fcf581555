"""Two machines that should be equal: what differs, what of it bears on SVA, and in which order it is told."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from msgspec import structs

from pasidlab.audit import Audit, Difference, audit, compare
from pasidlab.audit.compare import ABSENT, KINDS
from pasidlab.description import CpuSpec, DeviceSpec, IommuSpec, MachineSpec
from pasidlab.schemes import Options

from .test_audit_capacity import machines

CMDLINE = "BOOT_IMAGE=/vmlinuz root=/dev/sda2 intel_iommu=on,sm_on"
NODE = MachineSpec(
    cmdline=CMDLINE,
    config={"IOMMU_SVA": True, "INTEL_IDXD": True},
    iommu=[IommuSpec("dmar0", model="intel-vtd"), IommuSpec("dmar1", model="intel-vtd", pasid_bits=16)],
    device=[
        DeviceSpec("0000:6a:01.0", "dmar0", kind="dsa", pasid_bits=20, source_id="6a:01.0"),
        DeviceSpec("0000:6a:02.0", "dmar1", kind="iaa", pasid_bits=20, source_id="6a:02.0"),
    ],
)


def changed(**keys: Any) -> Audit:
    return audit(structs.replace(NODE, **keys))


def device(index: int, **keys: Any) -> list[DeviceSpec]:
    devices = list(NODE.device)
    devices[index] = structs.replace(devices[index], **keys)
    return devices


def found(**keys: Any) -> list[Difference]:
    return compare(audit(NODE), changed(**keys))


def told(differences: list[Difference], kind: str) -> list[tuple[str, str, Any, Any]]:
    return [(each.name, each.key, each.first, each.second) for each in differences if each.kind == kind]


def test_equal_machines_do_not_differ() -> None:
    assert compare(audit(NODE), audit(structs.replace(NODE))) == []


def test_pasid_that_is_off_on_one_of_two_nodes_with_equal_command_lines_is_told_with_what_it_leads_to() -> None:
    differences = found(device=device(0, pasid_enabled=False))
    assert told(differences, "command line") == []
    assert differences[0] == Difference("device", "0000:6a:01.0", "pasid_enabled", None, False)
    assert told(differences, "row") == [
        ("0000:6a:01.0", "usable", 65533, 0),
        ("0000:6a:01.0", "limit", "IOMMU", "PASID off"),
    ]
    rules = [name for name, _, first, _ in told(differences, "finding") if first == ABSENT]
    assert rules == ["audit.sva-refused", "idxd.queue-without-pasids"]
    assert all(difference.bears for difference in differences)


CASES: dict[str, tuple[dict[str, Any], Difference]] = {
    "the kernel": ({"kernel": "v7.0"}, Difference("kernel", "", "profile", "v7.3", "v7.0")),
    "a switch": (
        {"switches": {"kva_invalidation": False}},
        Difference("kernel", "kva_invalidation", "", ABSENT, False),
    ),
    "an option of the kernel": (
        {"config": {"IOMMU_SVA": True}},
        Difference("config", "INTEL_IDXD", "", True, ABSENT, bears=False),
    ),
    "an option that SVA needs": (
        {"config": {"IOMMU_SVA": False, "INTEL_IDXD": True}},
        Difference("config", "IOMMU_SVA", "", True, False),
    ),
    "a word that bears on SVA": (
        {"cmdline": CMDLINE + " no5lvl"},
        Difference("command line", "no5lvl", "", ABSENT, "no5lvl"),
    ),
    "a word with another value": (
        {"cmdline": "BOOT_IMAGE=/vmlinuz root=/dev/sda2 intel_iommu=on"},
        Difference("command line", "intel_iommu", "", "intel_iommu=on,sm_on", "intel_iommu=on"),
    ),
    "a word that does not": (
        {"cmdline": CMDLINE.replace("sda2", "sdb1")},
        Difference("command line", "root", "", "root=/dev/sda2", "root=/dev/sdb1", bears=False),
    ),
    "the CPUs": ({"cpu": CpuSpec(la57=True)}, Difference("cpu", "", "la57", False, True)),
    "the schemes' options": (
        {"options": Options(guard="none")},
        Difference("options", "", "guard", "mmap", "none"),
    ),
    "an IOMMU's width": (
        {"iommu": [NODE.iommu[0], structs.replace(NODE.iommu[1], pasid_bits=18)]},
        Difference("iommu", "dmar1", "pasid_bits", 16, 18),
    ),
    "what an IOMMU is modelled with": (
        {"iommu": [NODE.iommu[0], structs.replace(NODE.iommu[1], caches=False)]},
        Difference("iommu", "dmar1", "caches", None, False, bears=False),
    ),
    "a device's path": (
        {"device": device(1, acs_path=False)},
        Difference("device", "0000:6a:02.0", "acs_path", None, False),
    ),
    "a device's address": (
        {"device": device(1, source_id="6b:00.0")},
        Difference("device", "0000:6a:02.0", "source_id", "6a:02.0", "6b:00.0", bears=False),
    ),
    "a device on one side": (
        {"device": NODE.device[:1]},
        Difference("device", "0000:6a:02.0", "", "present", ABSENT),
    ),
    "a device on the other": (
        {"device": [*NODE.device, DeviceSpec("gpu", "dmar0")]},
        Difference("device", "gpu", "", ABSENT, "present"),
    ),
    "an IOMMU on the other": (
        {"iommu": [*NODE.iommu, IommuSpec("dmar2", model="intel-vtd")]},
        Difference("iommu", "dmar2", "", ABSENT, "present"),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_differs_is_told_with_both_values_and_whether_it_bears_on_sva(case: str) -> None:
    keys, expected = CASES[case]
    assert expected in found(**keys)


def test_the_order_of_a_command_line_does_not_matter() -> None:
    words = CMDLINE.split()
    assert found(cmdline=" ".join(reversed(words))) == []


def test_iommus_of_other_names_are_matched_in_their_order() -> None:
    renamed = [structs.replace(iommu, name=f"drhd@{index}") for index, iommu in enumerate(NODE.iommu)]
    devices = [structs.replace(each, iommu=f"drhd@{index}") for index, each in enumerate(NODE.device)]
    differences = found(iommu=renamed, device=devices)
    assert told(differences, "iommu") == []
    assert told(differences, "device") == []


def test_an_iommu_of_another_model_is_another_iommu() -> None:
    one = audit(MachineSpec(iommu=[IommuSpec("a", model="arm-smmu-v3")], device=[DeviceSpec("d", "a")]))
    two = audit(MachineSpec(iommu=[IommuSpec("b")], device=[DeviceSpec("d", "b")]))
    differences = compare(one, two)
    assert told(differences, "iommu") == [("a", "", "present", ABSENT), ("b", "", ABSENT, "present")]
    assert told(differences, "device") == [("d", "iommu", "a", "b")]


def test_a_note_that_only_one_machine_has_does_not_bear_on_sva() -> None:
    differences = found(device=device(0, kernel_pasid=False))
    notes = [each for each in differences if each.kind == "finding" and each.name == "audit.idxd-numbers"]
    assert len(notes) == 2
    assert not any(each.bears for each in notes)


@given(machines(), machines())
@settings(max_examples=60, deadline=None)
def test_what_bears_on_sva_comes_first_and_causes_before_what_they_lead_to(one: MachineSpec, two: MachineSpec) -> None:
    first, second = audit(one), audit(two)
    differences = compare(first, second)
    order = [(not each.bears, KINDS.index(each.kind)) for each in differences]
    assert order == sorted(order)
    assert len(differences) == len(compare(second, first))
    assert compare(first, first) == []
    assert (differences == []) == (one == two)
