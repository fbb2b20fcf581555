"""The audit's count of address spaces is what binding them one after another comes to, on every model and scheme."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pasidlab.audit.capacity import Fit, fit, under
from pasidlab.audit.rows import Probed
from pasidlab.audit.supply import Supply, free_ranges
from pasidlab.description import DeviceSpec, IommuSpec, MachineSpec
from pasidlab.devices import SubmitBy
from pasidlab.drivers.arm_smmu_v3.master import CD_OUT_OF_BOUNDS
from pasidlab.drivers.intel.structs import FIRST_DID
from pasidlab.drivers.traits import Mode
from pasidlab.linux.mm import MmStruct
from pasidlab.linux.sva import IommuSva
from pasidlab.machine import Machine
from pasidlab.pasid import PasidSpace
from pasidlab.schemes import SCHEMES, Options

Prepare = Callable[[Machine], None]


def nothing(machine: Machine) -> None:
    pass


def one_by_one(spec: MachineSpec, scheme: str, device: str, prepare: Prepare = nothing) -> tuple[int, str, str]:
    """Bind new address spaces until one is refused, as the audit's documentation says that it counts."""
    machine = Machine(spec, scheme)
    prepare(machine)
    endpoint, count = machine.endpoints[device], 0
    known = len(machine.kernel.findings)
    while True:
        bond = endpoint.open(MmStruct(machine.kernel, f"p{count}", "audit"))
        if not isinstance(bond, IommuSva):
            return count, bond.rule.id, bond.result
        if any(finding.rule is CD_OUT_OF_BOUNDS for finding in machine.kernel.findings[known:]):
            return count, CD_OUT_OF_BOUNDS.id, "damage"
        count += 1


def counted(found: Fit) -> tuple[int, str, str]:
    return found.spaces, found.next.rule.id, found.result


def all_fits(spec: MachineSpec, prepare: Prepare = nothing) -> dict[tuple[str, str], tuple[int, str, str]]:
    """Count all devices under all schemes on the machines that an audit has."""
    probed = Probed(spec)
    prepared: set[Machine] = set()
    found = {}
    for name, kind in SCHEMES.items():
        scheme = kind(spec.options)
        machine = probed.machine_of(scheme)
        if machine not in prepared:
            prepare(machine)
            prepared.add(machine)
        with under(machine, scheme):
            for device in spec.device:
                found[name, device.name] = counted(fit(machine, device.name))
    return found


def check(spec: MachineSpec, prepare: Prepare = nothing) -> None:
    found = all_fits(spec, prepare)
    assert found == {(scheme, device): one_by_one(spec, scheme, device, prepare) for scheme, device in found}


def machine_with(iommu: list[IommuSpec], device: list[DeviceSpec], **more: Any) -> MachineSpec:
    return MachineSpec(iommu=iommu, device=device, **more)


# --- any small machine -----------------------------------------------------------------------------------------

MODELS = st.sampled_from(["arm-smmu-v3", "intel-vtd", "mock", "amd-vi", "riscv"])
BITS = st.integers(0, 5)


@st.composite
def iommus(draw: st.DrawFn, model: str, name: str) -> IommuSpec:
    keys: dict[str, Any] = {"pasid_bits": draw(BITS), "per_device_pasid_space": draw(st.booleans())}
    if model in ("amd-vi", "riscv"):
        keys["ops"] = Mode(model)
    elif model != "mock":
        keys["model"] = model
    if model == "arm-smmu-v3":
        keys["two_level"] = draw(st.none() | st.booleans())
    if model == "intel-vtd":
        keys["scalable"] = draw(st.sampled_from([None, None, False]))
    keys["sva"] = draw(st.sampled_from([True, True, True, False]))
    return IommuSpec(name, **keys)


@st.composite
def devices(draw: st.DrawFn, model: str, index: int) -> DeviceSpec:
    kind = draw(st.sampled_from(["pcie", "narrow", "dsa"]))
    keys: dict[str, Any] = {
        "kind": kind,
        "pasid_bits": draw(st.none() | BITS),
        "iommu": draw(st.sampled_from(["u0", "u0", "u1", None])),
        "pasids": draw(st.sampled_from(["local", "global"])),
        "submit": draw(st.sampled_from([None, SubmitBy.ENQCMD])),
    }
    if keys["iommu"]:
        keys["group"] = draw(st.sampled_from([None, None, "g0", "g1"]))
    if kind != "narrow":
        keys["prefix_path"] = draw(st.sampled_from([None, None, None, False]))
        keys["acs_path"] = draw(st.sampled_from([None, None, None, False]))
    if kind == "dsa":
        keys["queue"] = draw(st.sampled_from(["shared", "shared", "dedicated"]))
        keys["kernel_pasid"] = draw(st.booleans())
    return DeviceSpec(f"d{index}", **keys)


@st.composite
def machines(draw: st.DrawFn) -> MachineSpec:
    model = draw(MODELS)
    units = [draw(iommus(model, f"u{index}")) for index in range(2)]
    count = draw(st.integers(1, 4))
    options = Options(
        order=draw(st.sampled_from(["lowest", "lowest", "highest", "reserve-low"])),
        reserve=draw(st.integers(0, 4)),
        guard=draw(st.sampled_from(["mmap", "range", "declared", "none"])),
        local_first=draw(st.integers(1, 20)),
        quota_user=draw(st.sampled_from([0, 0, 0, 1, 5])),
        quota_device=draw(st.sampled_from([0, 0, 0, 1, 5])),
        min_sva_bits=draw(st.sampled_from([0, 0, 0, 3])),
        local_by=draw(st.sampled_from([None, None, "iommu", "driver", "device"])),
    )
    kernel = draw(st.sampled_from(["v7.3", "v7.3", "v6.15", "v6.12", "v6.12.0"]))
    config = {
        draw(st.sampled_from(["IOMMU_SVA", "PCI_PASID", "ARM_SMMU_V3_SVA"])): draw(st.sampled_from([True, True, False]))
    }
    return MachineSpec(
        kernel=kernel,
        config=config,
        iommu=units,
        device=[draw(devices(model, index)) for index in range(count)],
        options=options,
    )


@given(machines())
@settings(max_examples=60, deadline=None)
def test_the_count_is_that_of_binding_one_by_one(spec: MachineSpec) -> None:
    check(spec)


# --- what bounds a count ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["mainline", "hybrid"])
def test_sixteen_bits_are_counted_as_binding_them_does(scheme: str) -> None:
    spec = machine_with(
        [IommuSpec("amd", ops=Mode.AMD_VI, pasid_bits=16)], [DeviceSpec("npu", "amd", pasid_bits=16, pasids="local")]
    )
    machine = Machine(spec, scheme)
    expected = one_by_one(spec, scheme, "npu")
    assert counted(fit(machine, "npu")) == expected
    assert expected[0] == 65534


def leave_asids(count: int) -> Prepare:
    """Take all ASIDs of SMMUs but some."""

    def prepare(machine: Machine) -> None:
        asids = machine.parts.smmus.asids
        for _ in range(65535 - len(asids) - count):
            asids.alloc(1, 65535)

    return prepare


@pytest.mark.parametrize("left", [0, 1, 7])
def test_asids_of_smmus_bound_what_numbers_would_allow(left: int) -> None:
    spec = machine_with([IommuSpec("smmu", model="arm-smmu-v3")], [DeviceSpec("gpu", "smmu", pasid_bits=20)])
    found = all_fits(spec, leave_asids(left))
    assert set(found.values()) == {(left, "arm-smmu-v3.no-asid", "EBUSY")}
    check(spec, leave_asids(left))


def test_twenty_bits_behind_an_smmu_end_with_its_asids() -> None:
    spec = machine_with([IommuSpec("smmu", model="arm-smmu-v3")], [DeviceSpec("gpu", "smmu", pasid_bits=20)])
    assert set(all_fits(spec).values()) == {(65534, "arm-smmu-v3.no-asid", "EBUSY")}, "one is the default domain's"


def leave_domain_ids(count: int) -> Prepare:
    """Take all domain identifiers of units but some."""

    def prepare(machine: Machine) -> None:
        for unit in machine.parts.vtds.instances.values():
            space = unit.iommu.domain_ids
            for _ in range(len(Supply(space, FIRST_DID, 65535)) - count):
                space.alloc(FIRST_DID, 65535)

    return prepare


@pytest.mark.parametrize("left", [0, 1, 5])
def test_domain_identifiers_bound_schemes_that_need_one_for_each_address_space(left: int) -> None:
    devices = [
        DeviceSpec("acc", "dmar0", pasid_bits=5, group="g"),
        DeviceSpec("beside", "dmar0", pasid_bits=5, group="g"),
    ]
    spec = machine_with([IommuSpec("dmar0", model="intel-vtd", pasid_bits=5)], devices)
    found = all_fits(spec, leave_domain_ids(left))
    assert found["mainline", "acc"] == (31, "bind.no-number-free", "ENOSPC")
    assert found["hybrid", "acc"] == (left, "intel.no-domain-id", "ENOSPC")
    check(spec, leave_domain_ids(left))


def test_twenty_bits_behind_vt_d_are_all_there_under_mainline() -> None:
    spec = machine_with([IommuSpec("dmar0", model="intel-vtd")], [DeviceSpec("acc", "dmar0", pasid_bits=20)])
    machine = Machine(spec, "mainline")
    assert counted(fit(machine, "acc")) == ((1 << 20) - 1, "bind.no-number-free", "ENOSPC")


def test_a_linear_cd_table_ends_the_count_although_the_bind_succeeds() -> None:
    spec = machine_with(
        [IommuSpec("smmu", model="arm-smmu-v3", two_level=False)], [DeviceSpec("gpu", "smmu", pasid_bits=16)]
    )
    assert set(all_fits(spec).values()) == {(1023, "arm-smmu-v3.cd-out-of-bounds", "damage")}
    check(spec)


def test_the_directories_of_the_narrowest_unit_bound_devices_behind_the_others() -> None:
    units = [IommuSpec("dmar0", model="intel-vtd"), IommuSpec("dmar1", model="intel-vtd", pasid_bits=16)]
    spec = machine_with(units, [DeviceSpec("acc", "dmar0", pasid_bits=20)])
    machine = Machine(spec, "mainline")
    assert counted(fit(machine, "acc")) == (65535, "intel.pasid-no-entry", "ENODEV")


def test_a_narrower_member_bounds_its_group() -> None:
    group = [DeviceSpec("wide", "u", pasid_bits=8, group="g"), DeviceSpec("narrow", "u", pasid_bits=3, group="g")]
    spec = machine_with([IommuSpec("u")], group)
    found = all_fits(spec)
    assert found["mainline", "wide"] == (7, "attach.beyond-max-pasids", "EINVAL")
    assert found["mainline", "narrow"] == (7, "bind.no-number-free", "ENOSPC")
    check(spec)


def test_a_number_of_the_kernel_stands_in_the_way_of_the_drivers_own() -> None:
    units = [IommuSpec("dmar0", model="intel-vtd", pasid_bits=6)]
    dsas = [DeviceSpec(f"dsa{index}", "dmar0", kind="dsa", pasid_bits=6, pasids="local") for index in range(3)]
    check(machine_with(units, dsas))


# --- the machine is as it was ----------------------------------------------------------------------------------


@given(machines())
@settings(max_examples=25, deadline=None)
def test_counting_twice_gives_the_same_and_leaves_nothing(spec: MachineSpec) -> None:
    machine = Machine(spec, "mainline")
    kernel = machine.kernel
    before = [finding.why for finding in kernel.findings], list(kernel.holders()), len(machine.parts.smmus.asids)
    first = [counted(fit(machine, device.name)) for device in spec.device]
    assert [counted(fit(machine, device.name)) for device in spec.device] == first
    after = [finding.why for finding in kernel.findings], list(kernel.holders()), len(machine.parts.smmus.asids)
    assert after == before
    assert not kernel.mms
    assert machine.scheme.options is spec.options


# --- the numbers that a space has to give ----------------------------------------------------------------------


def space_with(*held: int) -> PasidSpace:
    space = PasidSpace()
    for number in held:
        space.take(number)
    return space


def test_free_ranges_lie_between_held_numbers() -> None:
    assert list(free_ranges(space_with(3, 4, 9), 1, 12)) == [(1, 2), (5, 8), (10, 12)]
    assert list(free_ranges(space_with(3, 4, 9), 4, 9)) == [(5, 8)]
    assert list(free_ranges(space_with(), 5, 4)) == []


@given(st.sets(st.integers(1, 30)), st.booleans(), st.integers(0, 40))
def test_taking_many_is_allocating_them_one_by_one(held: set[int], descending: bool, count: int) -> None:
    space, other = space_with(*held), space_with(*held)
    supply = Supply(space, 1, 30, descending=descending)
    alloc = other.alloc_highest if descending else other.alloc
    given_out = [alloc(1, 30) for _ in range(min(count, len(supply)))]
    assert given_out == [supply[index] for index in range(len(given_out))]
    supply.take(count)
    assert space.lowest_free(1, 30) == other.lowest_free(1, 30)
    assert space.highest_free(1, 30) == other.highest_free(1, 30)
    supply.give_back()
    assert list(free_ranges(space, 1, 30)) == list(free_ranges(space_with(*held), 1, 30))


@given(st.sets(st.integers(1, 30)), st.booleans(), st.sets(st.integers(0, 40)))
def test_runs_end_before_and_after_every_start(held: set[int], descending: bool, starts: set[int]) -> None:
    supply = Supply(space_with(*held), 1, 30, descending=descending)
    ends = supply.ends(starts)
    begin, runs = 0, []
    for end in ends:
        runs.append([supply[index] for index in range(begin, end + 1)])
        begin = end + 1
    assert [number for run in runs for number in run] == [supply[index] for index in range(len(supply))]
    for run in runs:
        assert run
        assert not starts & set(sorted(run)[1:]), "a start is in the middle of a run"
        assert not held & set(range(min(run), max(run) + 1)), "a held number is within a run"
