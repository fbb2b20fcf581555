"""Rows say what bounds a device's numbers, findings what is wrong with a machine; both agree with the model."""

from __future__ import annotations

import re
import subprocess
import sys
from itertools import product
from string import Formatter
from typing import Any

import pytest
from hypothesis import given, settings

from pasidlab.audit import Audit, Kind, Row, audit, fit
from pasidlab.audit.limits import OF_NUMBERS
from pasidlab.audit.of_kernel import PORTAL
from pasidlab.description import CpuSpec, DeviceSpec, FindingSpec, IommuSpec, MachineSpec, ProcessSpec
from pasidlab.devices import SubmitBy, Work
from pasidlab.drivers.traits import Mode
from pasidlab.errors import InputError
from pasidlab.hw.cpu import Instruction
from pasidlab.linux.mm import MmStruct
from pasidlab.linux.sva import IommuSva
from pasidlab.machine import Machine
from pasidlab.report.audit_json import row_dict
from pasidlab.rules import RULES, Finding, Level
from pasidlab.scenario import Scenario
from pasidlab.schemes import SCHEMES, Mainline, Options

from .conftest import ROOT
from .test_audit_capacity import machines

EXAMPLES = ROOT / "docs" / "examples" / "machines"
ARM = CpuSpec(arch="arm64")
ALL_SET = dict.fromkeys(
    ("IOMMU_SVA", "ARM_SMMU_V3_SVA", "INTEL_IOMMU_SVM", "AMD_IOMMU", "PCI_PASID", "PCI_ATS", "INTEL_IDXD_SVM"), True
)


def of(iommu: list[IommuSpec], device: list[DeviceSpec], **more: Any) -> Audit:
    return audit(MachineSpec(iommu=iommu, device=device, **{"config": ALL_SET, **more}))


def row(found: Audit, device: str) -> Row:
    return next(row for row in found.rows if row.device == device)


def limit(found: Audit, device: str) -> tuple[int, str, str]:
    of_device = row(found, device)
    return of_device.usable, of_device.limit.kind.value, of_device.limit.fact


def sentences(found: Audit, rule: str) -> list[str]:
    return [finding.why for finding in found.findings if finding.rule.id == rule]


def rules(found: Audit) -> set[str]:
    return {finding.rule.id for finding in found.findings}


def smmu(**keys: Any) -> IommuSpec:
    return IommuSpec("smmu", model="arm-smmu-v3", **keys)


def dmar(name: str = "dmar0", **keys: Any) -> IommuSpec:
    return IommuSpec(name, model="intel-vtd", **keys)


# --- rows ------------------------------------------------------------------------------------------------------


def test_a_device_without_pasids_has_no_row_unless_its_group_has_some() -> None:
    devices = [
        DeviceSpec("gpu", "u", pasid_bits=8, group="g"),
        DeviceSpec("audio", "u", group="g"),
        DeviceSpec("disk", "u"),
        DeviceSpec("vf", "u", physfn="gpu"),
        DeviceSpec("zero", "u", kind="narrow", pasid_bits=0),
    ]
    found = of([IommuSpec("u")], devices)
    assert [row.device for row in found.rows] == ["gpu", "audio", "vf", "zero"]
    assert [row.bits for row in found.rows] == [8, None, 8, 0]
    assert row(found, "gpu").first_beside == ("audio",)
    assert row(found, "vf").beside == 0


LIMITS: dict[str, tuple[list[IommuSpec], list[DeviceSpec], tuple[int, str, str]]] = {
    "the device's capability": (
        [smmu()],
        [DeviceSpec("d", "smmu", pasid_bits=8)],
        (255, "device", "its PASID capability says 8 bits"),
    ),
    "the physical function's capability": (
        [IommuSpec("u")],
        [DeviceSpec("pf", "u", pasid_bits=1), DeviceSpec("d", "u", physfn="pf")],
        (1, "device", "the PASID capability of pf says 1 bit"),
    ),
    "firmware's property": (
        [smmu()],
        [DeviceSpec("d", "smmu", kind="narrow", pasid_bits=2)],
        (3, "firmware", "pasid-num-bits is 2"),
    ),
    "no capability": (
        [IommuSpec("u")],
        [DeviceSpec("d", "u", group="g"), DeviceSpec("other", "u", pasid_bits=3, group="g")],
        (0, "device", "it has no PASID capability"),
    ),
    "the IOMMU": (
        [smmu(ssid_bits=6)],
        [DeviceSpec("d", "smmu", pasid_bits=16)],
        (63, "IOMMU", "smmu takes numbers below 64"),
    ),
    "AMD's one less": (
        [IommuSpec("ivhd0", ops=Mode.AMD_VI, pasid_bits=16)],
        [DeviceSpec("d", "ivhd0", pasid_bits=16)],
        (65534, "IOMMU", "ivhd0 takes numbers below 65,535, one less than a power of two, as AMD's driver has it"),
    ),
    "an IOMMU without PASIDs": (
        [IommuSpec("rv", ops=Mode.RISCV)],
        [DeviceSpec("d", "rv", pasid_bits=16)],
        (0, "IOMMU", "rv offers no PASIDs"),
    ),
    "a linear CD table": (
        [smmu(two_level=False)],
        [DeviceSpec("d", "smmu", pasid_bits=16)],
        (
            1023,
            "linear table",
            "smmu has no two-level CD tables, and the device's linear one has 1,024 entries",
        ),
    ),
    "directories for the narrowest unit": (
        [dmar(), dmar("dmar1", pasid_bits=15)],
        [DeviceSpec("d", "dmar0", pasid_bits=20)],
        (
            32767,
            "IOMMU",
            "directories of PASIDs are made for the narrowest unit: numbers below 32,768",
        ),
    ),
    "a member of the group": (
        [IommuSpec("u")],
        [DeviceSpec("d", "u", pasid_bits=8, group="g"), DeviceSpec("other", "u", pasid_bits=3, group="g")],
        (7, "group", "other, in its group, carries 1..7"),
    ),
    "no IOMMU": ([], [DeviceSpec("d", pasid_bits=8)], (0, "no IOMMU", "d is behind no IOMMU")),
    "an SMMU that cannot share page tables": (
        [smmu(sva=False)],
        [DeviceSpec("d", "smmu", pasid_bits=8)],
        (0, "IOMMU", "the SMMU of d cannot share page tables with this CPU"),
    ),
}


@pytest.mark.parametrize("case", LIMITS)
def test_the_limit_that_binds_is_named_with_its_fact(case: str) -> None:
    iommu, device, expected = LIMITS[case]
    usable, kind, fact = limit(of(iommu, device), "d")
    assert (usable, kind) == expected[:2]
    assert fact.startswith(expected[2])


@pytest.mark.parametrize(
    ("keys", "kind", "rule"),
    [
        ({"prefix_path": False}, Kind.PREFIX_PATH, "audit.no-prefix-path"),
        ({"acs_path": False}, Kind.ACS_PATH, "audit.no-acs-path"),
        ({"pasid_enabled": False}, Kind.PASID_OFF, "audit.sva-refused"),
    ],
)
@pytest.mark.parametrize("iommu", [smmu(), dmar()], ids=lambda iommu: iommu.model)
def test_pasid_that_cannot_be_switched_on_leaves_no_number(
    iommu: IommuSpec, keys: dict[str, Any], kind: Kind, rule: str
) -> None:
    found = of([iommu], [DeviceSpec("d", iommu.name, pasid_bits=8, **keys)])
    assert row(found, "d").limit.kind is kind
    assert row(found, "d").usable == 0
    assert all(room.spaces == 0 for room in row(found, "d").rooms.values())
    assert rule in rules(found)
    assert found.has_error


@pytest.mark.parametrize(
    ("iommu", "config", "option"),
    [
        (dmar(), {"IOMMU_SVA": False}, "IOMMU_SVA"),
        (dmar(), {"INTEL_IOMMU_SVM": False}, "INTEL_IOMMU_SVM"),
        (smmu(), {"ARM_SMMU_V3_SVA": False}, "ARM_SMMU_V3_SVA"),
        (smmu(), {"PCI_PASID": False}, "PCI_PASID"),
        (IommuSpec("ivhd0", ops=Mode.AMD_VI, pasid_bits=16), {"IOMMU_SVA": False}, "IOMMU_SVA"),
    ],
)
def test_an_option_that_the_kernel_lacks_is_an_error_and_leaves_no_number(
    iommu: IommuSpec, config: dict[str, bool], option: str
) -> None:
    found = of([iommu], [DeviceSpec("d", iommu.name, pasid_bits=8)], config={**ALL_SET, **config})
    assert row(found, "d").usable == 0
    assert sentences(found, "audit.kernel-config")[0].startswith(f"the kernel was built without CONFIG_{option}: ")
    assert found.has_error


def test_a_stable_kernel_that_refuses_x86_is_the_limit() -> None:
    device = [DeviceSpec("d", "dmar0", pasid_bits=8)]
    refusing, allowing = of([dmar()], device, kernel="v6.12"), of([dmar()], device, kernel="v7.3")
    assert row(refusing, "d").limit.kind is Kind.KERNEL
    assert row(refusing, "d").usable == 0
    assert sentences(refusing, "audit.kernel-refuses") == [
        "kernel v6.12 refuses SVA on x86, whatever the hardware: d cannot be bound"
    ]
    assert row(allowing, "d").usable == 255
    assert "audit.kernel-refuses" not in rules(allowing)


def test_numbers_that_idxd_holds_at_probe_are_not_usable() -> None:
    dsas = [DeviceSpec(f"dsa{index}", "dmar0", kind="dsa", pasid_bits=20) for index in range(3)]
    found = of([dmar()], [*dsas, DeviceSpec("narrow", "dmar0", pasid_bits=2)])
    assert row(found, "dsa0").held == 3
    assert row(found, "dsa0").usable == (1 << 20) - 1 - 3
    assert row(found, "narrow").usable == 0
    assert row(found, "narrow").rooms["mainline"].rule == "bind.no-number-free"
    assert sentences(found, "audit.idxd-numbers") == [
        "idxd holds 3 numbers of the machine-wide space (1, 2, 3) since probe, for kernel work queues of dsa0, dsa1, "
        "dsa2"
    ]
    assert (
        "no process can be bound to narrow (ENOSPC by bind.no-number-free)" in sentences(found, "audit.sva-refused")[0]
    )


def test_devices_with_usable_numbers_share_the_machine_wide_space() -> None:
    devices = [DeviceSpec(f"d{index}", "u", pasid_bits=8) for index in range(12)]
    found = of([IommuSpec("u")], [*devices, DeviceSpec("alone", pasid_bits=8)])
    assert row(found, "d3").sharing == 11
    assert row(found, "d3").first_sharing == ("d0", "d1", "d2", "d4", "d5", "d6", "d7", "d8")
    assert row(found, "alone").sharing == 0
    assert row(found, "alone").first_sharing == ()


@given(machines())
@settings(max_examples=60, deadline=None)
def test_usable_numbers_are_what_fits_today_where_numbers_are_what_runs_out(spec: MachineSpec) -> None:
    plain = Options(guard="none")
    found = audit(MachineSpec(kernel=spec.kernel, iommu=spec.iommu, device=spec.device, options=plain))
    for of_device in found.rows:
        room = of_device.rooms["mainline"]
        if room.rule in OF_NUMBERS:
            assert room.spaces == of_device.usable, of_device
        assert room.spaces <= of_device.usable, of_device
        assert (of_device.usable == 0) == (room.spaces == 0), of_device


@given(machines())
@settings(max_examples=60, deadline=None)
def test_devices_that_are_alike_have_the_rooms_that_each_would_have_alone(spec: MachineSpec) -> None:
    found = audit(spec)
    for name, scheme in SCHEMES.items():
        machine = Machine(spec, scheme(spec.options))
        for of_device in found.rows:
            alone, room = fit(machine, of_device.device), of_device.rooms[name]
            assert (room.spaces, room.result, room.rule) == (alone.spaces, alone.result, alone.next.rule.id)
            if not alone.spaces:
                assert room.why == alone.next.why


@pytest.mark.parametrize("model", ["mock", "intel-vtd", "arm-smmu-v3"])
def test_a_reason_that_is_told_within_another_names_each_device_and_never_its_like(model: str) -> None:
    devices = [DeviceSpec(f"pf{index}", "u", kind="pcie", pasid_bits=8, prefix_path=False) for index in range(3)]
    devices += [DeviceSpec(f"vf{index}", "u", kind="pcie", physfn=f"pf{index}") for index in range(3)]
    found = of([IommuSpec("u", model=model)], devices)
    for of_device in found.rows:
        others = {device.name for device in devices} - {of_device.device, f"pf{of_device.device[2:]}"}
        named = set(re.findall(r"\b[pv]f\d", of_device.today.why))
        assert of_device.today.spaces == 0
        assert of_device.device in named
        assert not named & others


def test_only_the_schemes_that_are_asked_for_have_rooms() -> None:
    spec = MachineSpec(iommu=[IommuSpec("u")], device=[DeviceSpec("d", "u", pasid_bits=2)])
    found = audit(spec, [SCHEMES["v2"], SCHEMES["v2"]])
    assert found.schemes == ("v2",)
    assert list(found.rows[0].rooms) == ["v2"]
    assert found.rows[0].today.spaces == 3


def test_a_users_scheme_is_refused_since_its_spaces_are_not_known() -> None:
    class Own(Mainline):
        name = "own"

    with pytest.raises(InputError, match="scheme 'own': an audit counts with mainline, rfc, v2, hybrid only"):
        audit(MachineSpec(), [Own])


def test_a_machine_of_nothing_is_audited() -> None:
    found = audit(MachineSpec())
    assert found.rows == ()
    assert found.findings == ()


# --- findings --------------------------------------------------------------------------------------------------

GOOD = {
    "arm": of([smmu()], [DeviceSpec("d", "smmu", pasid_bits=16, can_stall=True, ats=False)], cpu=ARM),
    "intel": of([dmar()], [DeviceSpec("d", "dmar0", pasid_bits=20)], cmdline="root=/dev/sda intel_iommu=on,sm_on"),
    "amd": of([IommuSpec("i", ops=Mode.AMD_VI, pasid_bits=16)], [DeviceSpec("d", "i", pasid_bits=16)]),
}


@pytest.mark.parametrize("machine", GOOD)
def test_nothing_is_found_about_a_good_machine(machine: str) -> None:
    assert [(finding.rule.id, finding.why) for finding in GOOD[machine].findings] == []


def narrow(name: str, **keys: Any) -> DeviceSpec:
    return DeviceSpec(name, "smmu", kind="narrow", **keys)


BAD: dict[str, tuple[Audit, Level, str]] = {
    "audit.no-iommu": (of([], [DeviceSpec("d", pasid_bits=4)]), Level.ERROR, "no IOMMU is in front of d"),
    "audit.unit-widths": (
        of([dmar(), dmar("dmar1", pasid_bits=16), dmar("dmar2")], [DeviceSpec("d", "dmar0", pasid_bits=20)]),
        Level.WARNING,
        "remapping units take PASIDs of different widths (20 bits: dmar0, dmar2; 16 bits: dmar1): "
        "the directories of all devices are made for 16 bits",
    ),
    "audit.group-blocked": (
        of(
            [IommuSpec("u")],
            [DeviceSpec("gpu", "u", pasid_bits=8, group="g"), DeviceSpec("one", "u", pasid_bits=0, group="g")],
        ),
        Level.ERROR,
        "no number can be attached to gpu: one, in its group, carries no PASID, and a number has to fit every member "
        "of group g",
    ),
    "audit.group-member-without": (
        of(
            [IommuSpec("u")],
            [DeviceSpec("gpu", "u", pasid_bits=8, group="g"), DeviceSpec("audio", "u", group="g")],
        ),
        Level.NOTE,
        "group g has members without PASIDs (audio), which this kernel passes over; an older one refuses all",
    ),
    "audit.stall-without-sva": (
        of([smmu()], [narrow("npu", can_stall=True), narrow("other", can_stall=True, pasid_bits=0)]),
        Level.NOTE,
        "firmware says that npu, other may stall, but gives no PASIDs: stalls serve SVA only, which they cannot have",
    ),
    "audit.no-pasid-property": (
        of([smmu()], [narrow("dma")]),
        Level.NOTE,
        "firmware gives dma no pasid-num-bits: platform devices without it have no PASIDs",
    ),
    "audit.linear-table": (
        of(
            [smmu(two_level=False)], [DeviceSpec("gpu", "smmu", pasid_bits=11), DeviceSpec("ok", "smmu", pasid_bits=10)]
        ),
        Level.ERROR,
        "smmu has linear CD tables of 1,024 entries, and the core lets gpu have larger numbers: the 1,024th process "
        "makes the driver write beyond the table",
    ),
    "audit.five-level": (
        of([dmar(five_level=False)], [DeviceSpec("d", "dmar0", pasid_bits=20)], cpu=CpuSpec(la57=True)),
        Level.ERROR,
        "page tables of the kernel have 5 levels (57 bits), and there is no SVA behind units that walk 4 (48): dmar0",
    ),
    "audit.iommu-narrower": (
        of([smmu(ssid_bits=10)], [DeviceSpec("d", "smmu", pasid_bits=20), DeviceSpec("e", "smmu", pasid_bits=10)]),
        Level.NOTE,
        "smmu takes numbers up to 1,023, fewer than d could carry",
    ),
    "audit.starvation": (
        of([smmu()], [narrow("npu", pasid_bits=1), DeviceSpec("gpu", "smmu", pasid_bits=16)]),
        Level.WARNING,
        "npu can have number 1 only, which processes bound to wider devices (gpu) can all hold: a bind is then refused "
        "on an idle device",
    ),
    "audit.identity-domain": (
        of([smmu()], [DeviceSpec("gpu", "smmu", pasid_bits=16, default_domain="identity")]),
        Level.NOTE,
        "traffic of gpu without PASID passes untranslated: SVA beside it needs S1DSS bypass, which old drivers lack",
    ),
    "audit.scalable-mode-off": (
        of([dmar(scalable=False)], [DeviceSpec("d", "dmar0", pasid_bits=20)]),
        Level.ERROR,
        "without scalable mode a VT-d unit has no PASIDs, and it is off in dmar0: d cannot be bound",
    ),
    "audit.command-line": (
        of([dmar()], [DeviceSpec("d", "dmar0", pasid_bits=20)], cmdline="quiet intel_iommu=on,sm_off pci=noats,x"),
        Level.WARNING,
        "the kernel was booted with intel_iommu=on,sm_off: VT-d's scalable mode is off, and with it all PASIDs",
    ),
    "audit.config-unknown": (
        of([dmar()], [DeviceSpec("d", "dmar0", pasid_bits=20)], config={"IOMMU_SVA": True}),
        Level.NOTE,
        "whether the kernel was built with CONFIG_INTEL_IOMMU_SVM, CONFIG_PCI_PASID, CONFIG_PCI_ATS is not known; they "
        "are taken for set",
    ),
    "audit.sva-refused": (
        of([dmar()], [DeviceSpec("d", "dmar0", pasid_bits=20, ats=False)]),
        Level.ERROR,
        "no process can be bound to d (EINVAL by intel.sva-no-pasid-or-ats): d has not both PASID and ATS switched on, "
        "without which it cannot share page tables",
    ),
}


@pytest.mark.parametrize("rule", BAD)
def test_what_is_wrong_is_found_with_level_sentence_and_remedy(rule: str) -> None:
    found, level, why = BAD[rule]
    assert any(sentence.startswith(why) for sentence in sentences(found, rule)), sentences(found, rule)
    assert RULES[rule].level is level
    assert RULES[rule].remedy or "; " in sentences(found, rule)[0]
    assert found.has_error == any(finding.rule.level is Level.ERROR for finding in found.findings)


def test_a_member_without_pasids_blocks_its_group_on_a_kernel_that_does_not_pass_it_over() -> None:
    group = [DeviceSpec("gpu", "u", pasid_bits=8, group="g"), DeviceSpec("audio", "u", group="g")]
    found = of([IommuSpec("u")], group, kernel="v6.12.0")
    assert limit(found, "gpu") == (0, "group", "audio, in its group, carries no PASID")
    assert "audit.group-blocked" in rules(found)
    assert "audit.group-member-without" not in rules(found)


def test_findings_of_the_machines_assembly_are_told_too() -> None:
    found = of([smmu()], [DeviceSpec("d", "smmu", pasid_bits=16, can_stall=False)], cpu=ARM)
    assert "arm-smmu-v3.no-fault-path" in rules(found)


def test_findings_of_an_import_keep_their_sentence_and_the_level_of_their_rule() -> None:
    told = [FindingSpec("audit.no-acs-path", "as it was told"), FindingSpec("future.rule", "nobody knows")]
    found = audit(MachineSpec(finding=told))
    assert [(finding.rule.id, finding.rule.level, finding.why) for finding in found.findings] == [
        ("audit.no-acs-path", Level.ERROR, "as it was told"),
        ("audit.imported", Level.WARNING, "nobody knows (rule future.rule)"),
    ]
    assert found.has_error


def test_findings_come_the_gravest_first_and_each_once() -> None:
    found = audit(Scenario.load(EXAMPLES / "apu.toml"))
    order = [Level.ERROR, Level.WARNING, Level.NOTE]
    levels = [order.index(finding.rule.level) for finding in found.findings]
    assert levels == sorted(levels)
    assert len({(finding.rule.id, finding.why) for finding in found.findings}) == len(found.findings)


@pytest.mark.parametrize(
    "spec",
    [MachineSpec(device=[DeviceSpec("d")]), MachineSpec(iommu=[IommuSpec("u")]), MachineSpec(cmdline="quiet")],
)
def test_a_machine_without_any_device_with_pasids_is_told_so(spec: MachineSpec) -> None:
    assert rules(audit(spec)) == {"audit.no-pasids"}


def test_every_rule_of_the_audit_is_tested_here() -> None:
    text = "".join(path.read_text() for path in (ROOT / "tests").glob("test_audit*.py"))
    own = [rule for rule in RULES if rule.startswith("audit.")]
    assert [rule for rule in own if rule not in text] == []
    assert len(own) > 15


# --- findings that the model bears out -------------------------------------------------------------------------


def test_a_device_that_is_said_to_starve_refuses_an_idle_bind() -> None:
    spec = MachineSpec(
        iommu=[smmu()], device=[narrow("npu", pasid_bits=2), DeviceSpec("gpu", "smmu", pasid_bits=16)], cpu=ARM
    )
    assert "audit.starvation" in rules(audit(spec))
    machine = Machine(spec, "mainline")
    mms = [MmStruct(machine.kernel, f"p{index}") for index in range(4)]
    bonds = [machine.endpoints["gpu"].open(mm) for mm in mms[:3]]
    assert all(isinstance(bond, IommuSva) for bond in bonds)
    refused = machine.endpoints["npu"].open(mms[3])
    assert not isinstance(refused, IommuSva)
    assert refused.result == "ENOSPC"


def lands_elsewhere(scheme: str, guard: str, *, own_bond: bool) -> bool:
    """Let a process with a number of its own send it to a device on which the number is another process's."""
    spec = portal_machine(guard)
    machine = Machine(spec, SCHEMES[scheme](spec.options))
    first = machine.bind("dsa", "attacker")
    victim = machine.bind("acc", "victim")
    if victim.result != "ok" or first.pasid != victim.pasid:
        return False
    if own_bond:
        machine.bind("acc", "attacker")
    machine.mmap_portal("attacker", "acc")
    outcome = machine.submit("attacker", "acc", Instruction.ENQCMD, Work())
    return outcome.work is not None and outcome.work.owner == "victim"


def portal_machine(guard: str) -> MachineSpec:
    return MachineSpec(
        iommu=[IommuSpec("u", per_device_pasid_space=True)],
        device=[
            DeviceSpec("dsa", "u", pasid_bits=20, submit=SubmitBy.ENQCMD),
            DeviceSpec("acc", "u", pasid_bits=20, submit=SubmitBy.ENQCMD, pasids="local"),
        ],
        process=[ProcessSpec("attacker"), ProcessSpec("victim")],
        options=Options(guard=guard),  # type: ignore[arg-type]
        config=ALL_SET,
    )


@pytest.mark.parametrize("guard", ["none", "mmap", "range", "declared"])
def test_the_schemes_that_a_portal_is_said_to_be_open_under_are_those_where_work_lands_elsewhere(guard: str) -> None:
    open_under = {
        scheme for scheme, own in product(SCHEMES, (False, True)) if lands_elsewhere(scheme, guard, own_bond=own)
    }
    found = audit(portal_machine(guard))
    told = {
        scheme
        for finding in found.findings
        if finding.rule is PORTAL and "acc" in str(finding.facts["devices"])
        for scheme in str(finding.facts["schemes"]).split(", ")
    }
    assert told == open_under
    if guard == "none":
        assert told == {"rfc", "v2", "hybrid"}


def test_a_portal_finding_names_schemes_guard_and_devices() -> None:
    found = audit(portal_machine("none"))
    assert sentences(found, "audit.portal-unguarded") == [
        "under rfc with guard none, a process that maps the portal of dsa can send its number to a device on which "
        "that number is another process's",
        "under rfc, v2, hybrid with guard none, a process that maps the portal of acc can send its number to a device "
        "on which that number is another process's",
    ]


# --- the machines of the documentation -------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.toml")), ids=lambda path: path.name)
def test_the_example_machines_are_described_and_run(path: Any) -> None:
    found = audit(Scenario.load(path))
    assert found.rows
    assert re.match(r"# \w.*\.\n", path.read_text())


def test_a_finding_is_a_verdict_of_a_declared_rule() -> None:
    for finding in audit(Scenario.load(EXAMPLES / "server.toml")).findings:
        assert isinstance(finding, Finding)
        assert finding.rule is RULES[finding.rule.id]


def test_the_audit_document_has_every_rule_with_its_level_and_every_limit() -> None:
    text = (ROOT / "docs" / "audit.md").read_text()
    told = dict(re.findall(r"^\| `(audit\.[\w-]+)` \| (\w+) \|", text, re.MULTILINE))
    assert told == {rule.id: rule.level.value for rule in RULES.values() if rule.id.startswith("audit.")}
    assert set(re.findall(r"^\| `([\w ]+)` \|", text, re.MULTILINE)) == {kind.value for kind in Kind}


def test_the_audit_document_has_every_key_of_a_row() -> None:
    quoted = set(re.findall(r"`(\w+)`", (ROOT / "docs" / "audit.md").read_text()))
    found = audit(MachineSpec(iommu=[IommuSpec("u")], device=[DeviceSpec("d", "u", pasid_bits=2)]))
    assert set(row_dict(found.rows[0])) <= quoted


def test_a_remedy_names_no_fact_that_its_sentence_does_not() -> None:
    formatter = Formatter()
    for rule in RULES.values():
        asked, given = ({name for _, name, _, _ in formatter.parse(text) if name} for text in (rule.remedy, rule.why))
        assert asked <= given, rule.id


def test_findings_of_readers_that_are_not_loaded_keep_their_level() -> None:
    program = (
        "from pasidlab.audit import audit; from pasidlab.description import FindingSpec, MachineSpec\n"
        "told = audit(MachineSpec(finding=[FindingSpec('import.two-models', 'both')])).findings[0]\n"
        "assert (told.rule.id, told.why) == ('import.two-models', 'both'), told\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
