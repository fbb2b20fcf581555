"""`pasidlab check` on a machine: what is taken of it, what is left out, and where there is nothing to search."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec import convert

from pasidlab.description import DeviceSpec, IommuSpec, MachineSpec
from pasidlab.drivers.traits import Mode
from pasidlab.errors import InputError
from pasidlab.explore.compiled.supported import unsupported
from pasidlab.explore.of_machine import Loaded, load_world, world_of
from pasidlab.explore.world import World
from pasidlab.schemes import SCHEMES

from .conftest import Command

Write = Callable[[str], Path]

IOMMUS = {
    "smmu": IommuSpec("smmu", model="arm-smmu-v3", ssid_bits=16),
    "amd": IommuSpec("amd", ops=Mode.AMD_VI, pasid_bits=16),
    "none": IommuSpec("none", ops=Mode.RISCV),
    "unshared": IommuSpec("unshared", sva=False),
    "mock": IommuSpec("mock"),
}


def machine(*devices: dict[str, Any], iommus: str = "smmu amd none unshared mock", **keys: Any) -> MachineSpec:
    """Make a machine; a device without a name has its index."""
    specs = [
        convert({"name": f"d{n}", "iommu": "smmu", "pasid_bits": 16} | one, DeviceSpec) for n, one in enumerate(devices)
    ]
    return MachineSpec(iommu=[IOMMUS[name] for name in iommus.split()], device=specs, **keys)


def taken(spec: MachineSpec, *names: str) -> list[str]:
    return [device.name for device in world_of(spec, names).world.device]


def refused(spec: MachineSpec, *names: str) -> str:
    with pytest.raises(InputError) as raised:
        world_of(spec, names)
    return str(raised.value)


# --- what is taken -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bits", "names"),
    [
        ([16, 16, 16], ["d0", "d1"]),
        ([16, 16, 20], ["d0", "d1"]),
        ([16, 16, 8], ["d0", "d2"]),
        ([16, 8, 1], ["d0", "d2"]),
        ([None, 16, 0, 1], ["d1", "d3"]),
        ([None, 16, 0], ["d1"]),
    ],
)
def test_the_first_device_is_taken_and_the_first_of_another_width(bits: list[int | None], names: list[str]) -> None:
    assert taken(machine(*({"pasid_bits": width} for width in bits))) == names


def test_devices_that_cannot_be_bound_are_passed_over() -> None:
    spec = machine(
        {"iommu": None},
        {"iommu": "none"},
        {"iommu": "unshared"},
        {"iommu": "amd", "prefix_path": False},
        {"iommu": "amd", "pasid_enabled": False},
        {"iommu": "mock", "acs_path": False},
        {"iommu": "amd"},
        {"iommu": "mock"},
    )
    assert taken(spec) == ["d6", "d7"]


def test_devices_are_taken_by_name_in_the_order_asked_for() -> None:
    spec = machine(*[{}] * 5)
    assert taken(spec, "d4", "d1", "d2") == ["d4", "d1", "d2"]


def test_a_world_has_two_processes_few_numbers_and_only_the_iommus_of_its_devices() -> None:
    world, _ = world_of(machine({}, {"pasid_bits": 1}, {"iommu": "mock"}))
    assert [iommu.name for iommu in world.machine.iommu] == ["smmu"]
    assert (world.processes, world.max_pasids) == ((("p0",), ("p1",)), (4, 2))
    assert world.actions == ["bind", "unbind", "submit", "exit"]
    assert {iommu.model for iommu in world.machine.iommu} == {"mock"}


def test_amds_mock_becomes_a_usual_one_so_that_the_search_is_compiled() -> None:
    world, _ = world_of(machine({"iommu": "amd"}))
    assert unsupported(world, SCHEMES["mainline"]) is None


def test_a_dsa_has_a_portal_and_a_number_for_the_kernel_beside_the_others() -> None:
    world, _ = world_of(machine({"kind": "dsa"}, iommus="smmu"))
    assert "mmap_portal" in world.actions
    assert world.max_pasids == (5,)
    without, _ = world_of(machine({"kind": "dsa", "kernel_pasid": False}, iommus="smmu"))
    assert without.max_pasids == (4,)


def test_a_virtual_function_stands_by_itself_with_the_width_of_its_physical_one() -> None:
    spec = machine({"pasid_bits": 1}, {"pasid_bits": None, "physfn": "d0"})
    world, _ = world_of(spec, ["d1"])
    assert (world.device[0].name, world.device[0].physfn, world.max_pasids) == ("d1", None, (2,))
    broken = machine({"prefix_path": False, "iommu": "amd"}, {"pasid_bits": None, "physfn": "d0", "iommu": "amd"})
    assert "EINVAL [driver.pasid-off]" in refused(broken, "d1")


def test_groups_are_dropped_and_it_is_said() -> None:
    spec = machine({"group": "g"}, {"group": "g", "pasid_bits": None}, {"group": "g", "pasid_bits": 2})
    world, remarks = world_of(spec)
    assert all(device.group is None for device in world.device)
    assert remarks == (
        "taken of the machine: d0, d2; 2 processes",
        "left out: 1 other device, numbers above 3, the tables and caches of the IOMMUs, "
        "the groups of d0, d2, whose other members limit them too",
    )


def test_kernel_switches_options_and_cpus_are_those_of_the_machine() -> None:
    keys = {"kernel": "v6.12", "switches": {"skip_members_without_pasids": False}}
    world, _ = world_of(machine({"iommu": "mock"}, iommus="mock", **keys))
    assert (world.kernel, world.switches) == ("v6.12", keys["switches"])
    assert world_of(machine({"kind": "dsa", "iommu": "mock"})).world.machine.cpu.arch == "x86"


def test_of_many_devices_only_those_that_are_taken_are_kept() -> None:
    spec = machine(*({"pasid_bits": 16 if n else None, "stream_id": n} for n in range(10_000)))
    world, remarks = world_of(spec)
    assert len(world.device) == 2
    assert remarks[1].startswith("left out: 9,998 other devices")


# --- nothing to search ---------------------------------------------------------------------------------------


def test_a_machine_on_which_nobody_can_be_bound_is_refused_with_each_reason_once() -> None:
    spec = machine({"iommu": None}, {"iommu": None}, {"iommu": "none"}, {"iommu": "unshared"}, {"pasid_bits": None})
    assert refused(spec) == (
        "device: no process can be bound to any, so there is nothing to search: d0: it is behind no IOMMU, "
        "d2: it carries no PASID, d3: EOPNOTSUPP [driver.no-sva-feature]"
    )
    assert refused(machine()).endswith("nothing to search: the machine has no devices")


def test_a_kernel_without_sva_has_nothing_to_search() -> None:
    assert refused(machine({}, config={"ARM_SMMU_V3_SVA": False})).endswith("d0: ENODEV [bind.not-built]")


def test_a_stable_x86_kernel_has_nothing_to_search() -> None:
    spec = machine({"kind": "dsa", "iommu": "mock"}, iommus="mock", kernel="v6.12")
    assert refused(spec).endswith("EOPNOTSUPP [bind.x86-refused]")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["d9"], "--device d9: no such device; known: d0, d1"),
        (["d0", "d0"], "--device d0: is named twice"),
        (["d1"], "--device d1: no process can be bound to it, so there is nothing to search: it is behind no IOMMU"),
    ],
)
def test_a_device_that_cannot_be_taken_is_named(names: list[str], message: str) -> None:
    assert refused(machine({}, {"iommu": None}), *names) == message


# --- files and the command -----------------------------------------------------------------------------------

SERVER = """
title = "A server"
scheme = "mainline"

[[iommu]]
name = "smmu0"
model = "arm-smmu-v3"

[[device]]
name = "npu0"
iommu = "smmu0"
kind = "narrow"
pasid_bits = 1

[[device]]
name = "0000:01:00.0"
iommu = "smmu0"
pasid_bits = 16
"""


def test_the_command_tells_what_it_took_and_searches_it(pasidlab: Command, scenario_file: Write) -> None:
    done = pasidlab("check", scenario_file(SERVER))
    assert (done.status, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[:4] == [
        "A server  (kernel v7.3)",
        "taken of the machine: npu0, 0000:01:00.0; 2 processes",
        "left out: numbers above 3, the tables and caches of the IOMMUs",
        "2 processes (p0 p1), 2 devices (npu0 0000:01:00.0), 3 numbers",
    ]
    assert lines[5].startswith("mainline  holds: 7 properties in ")


def test_json_on_standard_output_leaves_the_remarks_to_standard_error(pasidlab: Command, scenario_file: Write) -> None:
    done = pasidlab("check", scenario_file(SERVER), "--device", "npu0", "--json", "-")
    (verdict,) = [json.loads(line) for line in done.out.splitlines()]
    assert verdict["world"] == "A server"
    assert done.err.startswith("pasidlab: taken of the machine: npu0; 2 processes\npasidlab: left out: 1 other device")


def test_a_counterexample_of_a_machine_is_a_scenario_that_runs(
    pasidlab: Command, scenario_file: Write, tmp_path: Path
) -> None:
    trace = tmp_path / "trace.toml"
    text = SERVER.replace("pasid_bits = 16\n", 'pasid_bits = 16\nsubmit = "enqcmd"\npasids = "local"\n')
    found = pasidlab("check", scenario_file(text), "--scheme", "hybrid", "--option", "guard=none", "--scenario", trace)
    assert found.status == 1, found.out
    assert pasidlab("run", trace).status == 0


def test_device_is_for_machines_only(pasidlab: Command, scenario_file: Write) -> None:
    for text in ('actions = ["bind"]\n' + SERVER, SERVER + '[[step]]\ndo = "show"\n'):
        done = pasidlab("check", scenario_file(text), "--device", "npu0")
        assert done.status == 2
        assert "--device npu0: only for a machine, which has neither actions nor steps" in done.err


@pytest.mark.parametrize(
    "text",
    [
        SERVER + '[[step]]\ndo = "show"\n',
        "always = []\n" + SERVER,
        SERVER + "[bounds]\nstates = 1\n",
        SERVER + '[[process]]\nname = "p"\ncount = 2\n',
        SERVER + '[[process]]\nname = "p"\nthreads = 2\n',
    ],
)
def test_what_is_meant_as_a_world_or_has_steps_still_needs_actions(text: str, scenario_file: Write) -> None:
    with pytest.raises(InputError, match=r"actions: missing; name some of: bind, "):
        load_world(scenario_file(text))


def test_a_world_is_loaded_as_it_is(scenario_file: Write) -> None:
    text = (
        'actions = ["bind"]\n[[iommu]]\nname = "i"\nmax_pasids = 2\n[[device]]\nname = "d"\n[[process]]\nname = "p"\n'
    )
    path = scenario_file(text)
    assert load_world(path) == Loaded(World.load(path))


def test_a_mistake_in_a_machine_is_told_with_its_file(pasidlab: Command, scenario_file: Write) -> None:
    path = scenario_file(SERVER + "[config]\nIOMMU_SWA = true\n")
    done = pasidlab("check", path)
    assert done.status == 2
    assert done.err.startswith(f"pasidlab: {path}: config.IOMMU_SWA: no such option; known: ")


# --- worlds with the new keys --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("[config]\nIOMMU_SVA = false\n", "a kernel without CONFIG_IOMMU_SVA"),
        ("[config]\nIOMMU_SVA = true\n", None),
        ("[[device]]\nname = 'e'\nprefix_path = false\n", "a device in which PASID may be off, e"),
        ("[[device]]\nname = 'e'\nacs_path = false\n", "a device in which PASID may be off, e"),
        ("[[device]]\nname = 'e'\nacs_path = true\n", None),
    ],
)
def test_worlds_where_pasid_is_off_are_for_the_readable_search(
    key: str, reason: str | None, scenario_file: Write
) -> None:
    text = 'actions = ["bind"]\n[[iommu]]\nname = "i"\nmax_pasids = 2\n[[process]]\nname = "p"\n'
    device = "[[device]]\nname = 'd'\niommu = 'i'\npasid_bits = 1\n"
    world = World.load(scenario_file(text + device + key))
    assert unsupported(world, SCHEMES["mainline"]) == reason
