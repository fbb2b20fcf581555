"""What a machine's description says of its kernel, and of where it comes from; machines without steps."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec import convert, structs

from pasidlab.description import (
    EFFECTS,
    KERNEL_OPTIONS,
    DeviceSpec,
    IommuSpec,
    MachineSpec,
    ProcessSpec,
    check,
    not_built,
    on_model,
    sources_of,
)
from pasidlab.devices import Access, Work
from pasidlab.drivers import base, mock
from pasidlab.drivers.arm_smmu_v3 import domain, master
from pasidlab.drivers.arm_smmu_v3 import driver as smmu_driver
from pasidlab.drivers.arm_smmu_v3 import sva as smmu_sva
from pasidlab.drivers.intel import svm
from pasidlab.errors import Errno, InputError
from pasidlab.linux import iommu, pci_ats, sva
from pasidlab.linux.iommu import GROUP_MIXED_WIDTH
from pasidlab.machine import Machine
from pasidlab.rules import Rule
from pasidlab.runner import run
from pasidlab.scenario import Scenario
from pasidlab.schemes import base as scheme_base

from .conftest import Command

WRITE = Work(Access.WRITE, 0x1000_0000, b"work")
MODELS = {"mock": {}, "arm-smmu-v3": {"model": "arm-smmu-v3"}, "intel-vtd": {"model": "intel-vtd"}}


def spec(model: str = "mock", config: dict[str, bool] | None = None, **keys: Any) -> MachineSpec:
    device = convert({"name": "d", "iommu": "i", "pasid_bits": 8} | keys.pop("device", {}), DeviceSpec)
    return MachineSpec(
        iommu=[IommuSpec("i", **MODELS[model])],
        device=[device],
        process=[ProcessSpec("a")],
        config=config or {},
        **keys,
    )


# --- config --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "hint"), [("IOMMU_SWA", ""), ("CONFIG_IOMMU_SVA", "; write it as IOMMU_SVA"), ("iommu_sva", "")]
)
def test_an_unknown_option_is_named_with_all_that_are_known(name: str, hint: str) -> None:
    with pytest.raises(InputError) as raised:
        check(spec(config={name: True}))
    assert str(raised.value) == f"config.{name}: no such option{hint}; known: {', '.join(KERNEL_OPTIONS)}"


def test_every_known_option_is_taken_and_set_changes_nothing() -> None:
    assert len(set(KERNEL_OPTIONS)) == len(KERNEL_OPTIONS)
    assert set(EFFECTS) <= set(KERNEL_OPTIONS)
    assert not_built(spec(config=dict.fromkeys(KERNEL_OPTIONS, True))) == frozenset()
    assert Machine(spec(config=dict.fromkeys(KERNEL_OPTIONS, True))).bind("d", "a").result == "ok"


@pytest.mark.parametrize(
    ("arch", "config", "missing"),
    [
        ("arm64", {}, set()),
        ("arm64", {"ARM_SMMU_V3_SVA": False}, {"ARM_SMMU_V3_SVA", "IOMMU_SVA"}),
        ("arm64", {"ARM_SMMU_V3_SVA": False, "IOMMU_SVA": True}, {"ARM_SMMU_V3_SVA"}),
        ("x86", {"INTEL_IOMMU_SVM": False}, {"INTEL_IOMMU_SVM"}),
        ("x86", {"INTEL_IOMMU_SVM": False, "AMD_IOMMU": True}, {"INTEL_IOMMU_SVM"}),
        ("x86", {"INTEL_IOMMU_SVM": False, "AMD_IOMMU": False}, {"INTEL_IOMMU_SVM", "AMD_IOMMU", "IOMMU_SVA"}),
        ("x86", {"ARM_SMMU_V3_SVA": False}, {"ARM_SMMU_V3_SVA"}),
        ("x86", {"PCI_ATS": False}, {"PCI_ATS", "PCI_PASID"}),
        ("x86", {"PCI_ATS": False, "PCI_PASID": True}, {"PCI_ATS"}),
        ("x86", {"PCI_PRI": False}, set()),
    ],
)
def test_what_nothing_selects_is_not_built(arch: str, config: dict[str, bool], missing: set[str]) -> None:
    machine = convert({"cpu": {"arch": arch}, "config": config}, MachineSpec)
    assert not_built(machine) == missing


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("kernel", ["v6.12", "v7.3"])
def test_without_iommu_sva_every_bind_is_enodev_and_nothing_is_taken(model: str, kernel: str) -> None:
    m = Machine(spec(model, {"IOMMU_SVA": False}, kernel=kernel))
    outcome = m.bind_device("d", "a")
    assert (outcome.result, outcome.rule) == ("ENODEV", "bind.not-built")
    assert "without CONFIG_IOMMU_SVA" in outcome.why
    assert m.processes["a"].mm.iommu_mm is None
    assert m.attach("d", 3).result == "ok", "the kernel's own domains need no SVA"


@pytest.mark.parametrize("pasid", [0, 3])
def test_the_call_with_a_number_is_a_stub_too(pasid: int) -> None:
    m = Machine(spec(config={"IOMMU_SVA": False}), "hybrid")
    assert m.bind_device_pasid("d", "a", pasid).rule == "bind.not-built"
    assert Machine(spec(config={"IOMMU_SVA": False})).bind_device_pasid("d", "a", pasid).rule == "scheme.no-such-call"


def test_a_device_behind_no_iommu_is_told_so_only_by_a_kernel_with_sva() -> None:
    lone = {"device": {"iommu": None}}
    outcome = Machine(spec(**lone)).bind_device("d", "a")
    assert (outcome.rule, outcome.why) == ("bind.no-group", "d is behind no IOMMU")
    assert Machine(spec(config={"IOMMU_SVA": False}, **lone)).bind_device("d", "a").rule == "bind.not-built"


@pytest.mark.parametrize(
    ("kernel", "answers"),
    [
        ("v7.3", {"bind": ("EOPNOTSUPP", "bind.driver-without-sva")}),
        ("v6.12", {"bind": ("EINVAL", "driver.enable-sva-refused")}),
    ],
)
def test_an_smmu_driver_without_sva_has_no_feat_sva(kernel: str, answers: dict[str, tuple[str, str]]) -> None:
    m = Machine(spec("arm-smmu-v3", {"ARM_SMMU_V3_SVA": False, "IOMMU_SVA": True}, kernel=kernel))
    outcome = m.bind("d", "a")
    assert (outcome.result, outcome.rule) == answers["bind"]
    lacking = [finding.why for finding in m.kernel.findings if finding.rule.id == "arm-smmu-v3.sva-lacking"]
    assert lacking == [
        "d has PASIDs, but its SMMU cannot share page tables with this CPU: "
        "the kernel was built without CONFIG_ARM_SMMU_V3_SVA"
    ]


def test_before_6_14_a_driver_without_sva_lets_the_core_run_out_of_memory() -> None:
    m = Machine(spec("arm-smmu-v3", {"ARM_SMMU_V3_SVA": False, "IOMMU_SVA": True}, kernel="v6.12"))
    assert m.bind_device("d", "a").rule == "bind.driver-without-sva-6.12"


@pytest.mark.parametrize("kernel", ["v6.12", "v7.3"])
@pytest.mark.parametrize("call", ["bind", "bind_device"])
def test_a_vtd_driver_without_svm_answers_enodev(kernel: str, call: str) -> None:
    switches = {"x86_sva_refused": False}
    m = Machine(spec("intel-vtd", {"INTEL_IOMMU_SVM": False}, kernel=kernel, switches=switches))
    outcome = getattr(m, call)("d", "a")
    assert (outcome.result, outcome.rule) == ("ENODEV", "intel.svm-not-built")


@pytest.mark.parametrize("model", MODELS)
def test_without_pci_pasid_only_platform_devices_have_pasids(model: str) -> None:
    m = Machine(spec(model, {"PCI_PASID": False}))
    assert m.endpoints["d"].dev.max_pasids == 0
    outcome = m.bind_device("d", "a")
    assert (outcome.result, outcome.rule) == ("ENOSPC", "bind.device-without-pasids")
    assert outcome.why.startswith("d carries no PASID at all: the kernel was built without CONFIG_PCI_PASID")
    assert m.enable_pasid("d").rule == "enable-pasid.not-built"
    if model != "intel-vtd":
        platform = Machine(spec(model, {"PCI_PASID": False}, device={"kind": "narrow"}))
        assert platform.bind_device("d", "a").result == "ok"


def test_without_pci_ats_vtd_binds_nobody_and_an_smmus_devices_stall_instead() -> None:
    config = {"PCI_ATS": False, "PCI_PASID": True}
    outcome = Machine(spec("intel-vtd", config)).bind_device("d", "a")
    assert (outcome.rule, outcome.why.endswith(": ATS is off")) == ("intel.sva-no-pasid-or-ats", True)
    for options, supported in ((config, False), ({}, True)):
        machine = spec("arm-smmu-v3", options)
        m = Machine(structs.replace(machine, iommu=[structs.replace(machine.iommu[0], ats=True)]))
        assert m.parts.smmus.masters[m.endpoints["d"].dev].ats_supported is supported


# --- other keys ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[[finding]]\nrule = "Import"\nwhy = "x"\n', "finding[0].rule = 'Import': expected the id of a rule, as"),
        ('[[finding]]\nrule = "import.x"\n', "finding[0].why: missing"),
        ('[[finding]]\nrule = "import.x"\nwhy = ""\n', "finding[0].why = ''"),
        ('[config]\nIOMMU_SVA = "y"\n', "config = {'IOMMU_SVA': 'y'}: expected `bool`"),
        ('cmdline = "a\\nb"\n', "cmdline = 'a\\nb': expected one line of text"),
        (
            '[[device]]\nname = "d"\nkind = "narrow"\nprefix_path = false\n',
            "device[0].prefix_path = False: only a PCIe device, of a kind other than narrow, has it",
        ),
        (
            '[[device]]\nname = "d"\nkind = "narrow"\nacs_path = true\n',
            "device[0].acs_path = True: only a PCIe device, of a kind other than narrow, has it",
        ),
        ('[[device]]\nname = "d"\nprg_pasid = true\n', "device[0].prg_pasid = True: only a device behind an intel-vtd"),
    ],
)
def test_a_mistake_in_a_new_key_is_named(text: str, message: str, scenario_file: Callable[[str], Path]) -> None:
    with pytest.raises(InputError) as raised:
        Scenario.load(scenario_file(text))
    assert message in str(raised.value)


def test_new_keys_survive_a_change_of_model_where_they_have_a_meaning() -> None:
    machine = spec("intel-vtd", device={"prefix_path": False, "prg_pasid": False, "source_id": "01:00.0"})
    device = on_model(machine, "mock").device[0]
    assert (device.prefix_path, device.prg_pasid, device.source_id) == (False, None, None)


# --- source identifiers --------------------------------------------------------------------------------------


def behind(*devices: tuple[str, str | None]) -> MachineSpec:
    """Make a machine of two VT-d units, and devices of (unit, source identifier)."""
    return MachineSpec(
        iommu=[IommuSpec(name, model="intel-vtd") for name in ("u0", "u1")],
        device=[DeviceSpec(f"d{n}", unit, source_id=source, pasid_bits=8) for n, (unit, source) in enumerate(devices)],
        process=[ProcessSpec("a"), ProcessSpec("b")],
    )


def test_units_of_two_segments_may_have_devices_with_one_identifier() -> None:
    m = Machine(behind(("u0", "6a:01.0"), ("u1", "6a:01.0")))
    first, second = m.bind("d0", "a"), m.bind("d1", "b")
    assert (first.pasid, second.pasid) == (1, 2)
    for device, pasid, owner in (("d0", 1, "a"), ("d1", 2, "b")):
        assert m.dma(device, pasid, WRITE).work.owner == owner
    for device, pasid in (("d0", 2), ("d1", 1)):
        assert m.dma(device, pasid, WRITE).result == "fault", "each unit has tables of its own"


def test_a_unit_has_an_identifier_once() -> None:
    with pytest.raises(InputError, match=r"device\[1\]\.source_id = '6A:01\.0': is another device's of u0; each has"):
        check(behind(("u0", "6a:01.0"), ("u0", "6A:01.0")))


def test_identifiers_that_are_given_out_are_new_on_the_machine_while_there_are_enough() -> None:
    given = sources_of(behind(("u0", "00:01.0"), ("u1", None), ("u0", None)))
    assert list(given.values()) == [0x0008, 0x0010, 0x0018]
    many = MachineSpec(
        iommu=[IommuSpec(name, model="intel-vtd") for name in ("u0", "u1")],
        device=[DeviceSpec(f"d{n}", f"u{n % 2}") for n in range(10_000)],
    )
    sources = sources_of(many)
    for unit in range(2):
        own = [sources[f"d{n}"] for n in range(unit, 10_000, 2)]
        assert len(set(own)) == 5000


def test_a_unit_without_a_free_identifier_says_so() -> None:
    full = MachineSpec(
        iommu=[IommuSpec("u0", model="intel-vtd")], device=[DeviceSpec(f"d{n}", "u0") for n in range(8192)]
    )
    with pytest.raises(InputError, match=r"device\[8191\]\.source_id: missing, and none from 00:01\.0 on is free"):
        check(full)


# --- groups and findings of large machines -------------------------------------------------------------------


def test_a_large_group_names_the_first_of_each_width() -> None:
    devices = [DeviceSpec(f"d{n}", "i", group="g", pasid_bits=4 + (n == 50)) for n in range(60)]
    m = Machine(MachineSpec(iommu=[IommuSpec("i")], device=devices))
    assert [finding.why for finding in m.kernel.findings] == [
        "the devices of group g have different max_pasids (d0 16, d50 32, in 60 devices): "
        "a number must fit each of them"
    ]


def test_a_finding_is_kept_once_and_can_be_forgotten() -> None:
    kernel = Machine(MachineSpec()).kernel
    first = kernel.found(GROUP_MIXED_WIDTH, group="g", widths="a")
    assert kernel.found(GROUP_MIXED_WIDTH, group="g", widths="a") is first
    second = kernel.found(GROUP_MIXED_WIDTH, group="g", widths="b")
    assert kernel.findings == [first, second]
    kernel.forget(first)
    assert kernel.findings == [second]


# --- remedies ------------------------------------------------------------------------------------------------


MODULES = (base, mock, domain, master, smmu_driver, smmu_sva, svm, iommu, pci_ats, sva, scheme_base)
REFUSING = {
    value.id: value
    for module in MODULES
    for value in vars(module).values()
    if isinstance(value, Rule) and isinstance(value.errno, Errno)
}


@pytest.mark.parametrize("rule", REFUSING)
def test_a_rule_that_refuses_says_what_people_can_do(rule: str) -> None:
    remedy = REFUSING[rule].remedy
    assert remedy
    assert not remedy.endswith("."), "it is part of a sentence"


# --- a machine without steps ---------------------------------------------------------------------------------

SERVER = """
title = "A server"
cmdline = "intel_iommu=on,sm_on"

[[finding]]
rule = "import.width-assumed"
why = "dmar1: no source says ECAP"

[[iommu]]
name = "dmar0"

[[iommu]]
name = "ivhd0"
ops = "amd-vi"

[[device]]
name = "npu0"
iommu = "dmar0"
group = "g"
pasid_bits = 4

[[device]]
name = "npu1"
iommu = "dmar0"
group = "g"
pasid_bits = 3

[[device]]
name = "lone"
"""


def test_run_says_what_a_machine_is_what_was_found_and_what_to_do_next(
    pasidlab: Command, scenario_file: Callable[[str], Path]
) -> None:
    done = pasidlab("run", scenario_file(SERVER))
    assert done.status == 0
    assert done.out.splitlines() == [
        "A server  (kernel v7.3)",
        "1 mock, 1 amd-vi, with the devices behind each: dmar0 (2), ivhd0 (0); behind none: 1",
        "3 devices (npu0, npu1, lone), 2 of them with PASIDs",
        "finding: dmar1: no source says ECAP [import.width-assumed]",
        "finding: the devices of group g have different max_pasids (npu0 16, npu1 8): a number must fit each of them "
        "[group.mixed-width]",
        "no steps: `pasidlab audit` says what limits each device, `pasidlab explain` why a call fails on it, "
        "`pasidlab check` searches what can happen on two; add steps to try something",
    ]


def test_run_as_json_gives_one_summary(pasidlab: Command, scenario_file: Callable[[str], Path]) -> None:
    done = pasidlab("run", scenario_file(SERVER), "--json")
    (summary,) = [json.loads(line) for line in done.out.splitlines()]
    assert (summary["title"], summary["steps"], summary["met"]) == ("A server", 0, True)
    assert [found["rule"] for found in summary["findings"]] == ["import.width-assumed", "group.mixed-width"]


def test_a_machine_without_anything_is_a_machine(pasidlab: Command, scenario_file: Callable[[str], Path]) -> None:
    lines = pasidlab("run", scenario_file('about = "nothing"\n')).out.splitlines()
    assert lines[:3] == ["machine  (kernel v7.3)", "no IOMMU", "0 devices, 0 of them with PASIDs"]


def test_what_an_import_found_is_told_with_steps_too(scenario_file: Callable[[str], Path]) -> None:
    reports = run(Scenario.load(scenario_file(SERVER + '[[step]]\ndo = "show"\ndevice = "npu0"\n')), "mainline,rfc")
    assert [report.found[0][0] for report in reports] == ["import.width-assumed"] * 2


def test_a_machine_of_many_devices_is_told_in_two_lines(
    pasidlab: Command, scenario_file: Callable[[str], Path]
) -> None:
    many = "".join(f'[[device]]\nname = "d{n}"\niommu = "i0"\npasid_bits = 8\n' for n in range(2000))
    iommus = "".join(f'[[iommu]]\nname = "i{n}"\n' for n in range(20))
    lines = pasidlab("run", scenario_file(iommus + many)).out.splitlines()
    assert lines[1].startswith("20 mock, with the devices behind each: i0 (2,000), i1 (0)")
    assert lines[1].endswith("i7 (0), and 12 more")
    assert lines[2] == "2,000 devices (d0, d1, d2, d3, d4, d5, d6, d7, and 1992 more), 2,000 of them with PASIDs"
