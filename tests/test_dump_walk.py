"""`pasidlab dump` and `pasidlab walk`: the tables of a machine, read back from memory, and the way through them."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from pasidlab.errors import InputError
from pasidlab.hw.pagetable.contract import Touch
from pasidlab.hw.smmuv3 import inspect
from pasidlab.hw.smmuv3.registers import Offset
from pasidlab.hw.smmuv3.request import Request
from pasidlab.hw.smmuv3.smmu import Smmuv3
from pasidlab.hw.smmuv3.structures import Cd, Config, Ste
from pasidlab.hw.transaction import Operation
from pasidlab.machine import Machine
from pasidlab.report.dump import MOST_CONTEXTS, dump
from pasidlab.report.walk import walk
from pasidlab.report.walked import NotReached, Reached, Transaction
from pasidlab.runner import machine_at
from pasidlab.scenario import Scenario

from .conftest import ROOT, Command

NARROW = ROOT / "scenarios/narrow_smmu.toml"
CODE, READ_ONLY, READ_WRITE = 0x3000_0000, 0x2000_0000, 0x1000_0000
READ, WRITE = Operation.READ, Operation.WRITE

BOUND = """
[cpu]
arch = "arm64"
page_size = {page_size}
[[iommu]]
name = "smmu0"
model = "arm-smmu-v3"
{iommu}
[[device]]
name = "npu0"
iommu = "smmu0"
kind = "{kind}"
pasid_bits = 4
stream_id = 0x103
{device}
[[process]]
name = "a"
[[step]]
do = "bind"
device = "npu0"
process = "a"
[[step]]
do = "load"
process = "a"
[[step]]
do = "load"
process = "a"
address = 0x20000000
"""


def bound(page_size: int = 4096, iommu: str = "", device: str = "", kind: str = "narrow") -> str:
    return BOUND.format(page_size=page_size, iommu=iommu, device=device, kind=kind)


@pytest.fixture
def machine_of(scenario_file: Callable[[str], Path]) -> Callable[[str], Machine]:
    return lambda text: machine_at(Scenario.load(scenario_file(text)))


def narrow(scheme: str = "v2", steps: int | None = None) -> Machine:
    return machine_at(Scenario.load(NARROW), scheme, steps)


def hardware(machine: Machine) -> Smmuv3:
    return machine.parts.smmus.instances[machine.iommus["smmu0"]].hw


def records(machine: Machine, kind: str, device: str | None = None) -> list[dict[str, Any]]:
    return [record for record in dump(machine, "test", device).records() if record["kind"] == kind]


def pages_of(machine: Machine, owner: str) -> list[dict[str, Any]]:
    return [record for record in records(machine, "descriptor") if record.get("owners") == [owner]]


def state_of(machine: Machine) -> tuple[object, ...]:
    """What looking must not change."""
    smmu = hardware(machine)
    registers = [int(inspect.register(smmu, offset)) for offset in Offset]
    rows, pool = smmu.memory.page_table()
    caches = dict(smmu.tlb.entries), dict(smmu.lookup.cached_streams), dict(smmu.lookup.cached_contexts)
    return registers, dict(rows), pool.tobytes(), caches, len(smmu.stalls)


class TestMachineAt:
    def test_a_machine_stands_after_as_many_steps_as_asked(self) -> None:
        assert [len(narrow(steps=steps).bindings) for steps in (0, 1, 2, 3, 4, None)] == [0, 1, 1, 2, 3, 3]

    @pytest.mark.parametrize("steps", [-1, 7])
    def test_a_step_that_is_not_there_is_named(self, steps: int) -> None:
        with pytest.raises(InputError, match=rf"step {steps}: no such step; allowed: 0 \(before the first\) to 6"):
            narrow(steps=steps)

    @pytest.mark.parametrize("scheme", ["all", "mainline,v2"])
    def test_one_scheme_at_a_time(self, scheme: str) -> None:
        with pytest.raises(InputError, match="one scheme at a time; known: mainline, rfc, v2, hybrid"):
            narrow(scheme)


class TestDumpOfAnSmmu:
    def test_entries_are_those_that_lie_in_memory(self) -> None:
        machine = narrow()
        found = [*records(machine, "ste"), *records(machine, "cd")]
        assert len(found) == 2 + 2 + 3
        for record in found:
            raw = machine.kernel.memory.load(record["address"], 64)
            assert raw is not None
            assert [int(word, 16) for word in record["words"]] == list(Ste.unpack(raw).words)

    def test_every_context_is_listed_with_its_asid_and_whose_it_is(self) -> None:
        found = {(r["device"], r["ssid"]): r["owner"] for r in records(narrow(), "cd")}
        assert found == {
            ("npu0", 0): "kernel",
            ("npu0", 1): "c",
            ("gpu0", 0): "kernel",
            ("gpu0", 1): "a",
            ("gpu0", 3): "b",
        }
        asids = [record["asid"] for record in records(narrow(), "cd")]
        assert len(set(asids)) == len(asids)

    def test_before_the_first_step_no_process_has_a_context(self) -> None:
        assert {r["owner"] for r in records(narrow(steps=0), "cd")} == {"kernel"}

    def test_a_released_address_space_is_nobodys(self, machine_of: Callable[[str], Machine]) -> None:
        machine = machine_of(bound() + '[[step]]\ndo = "dma"\ndevice = "npu0"\npasid = 1\n')
        quiet = Cd(epd0=True)
        assert [r["owner"] for r in records(machine, "cd")] == ["kernel", "a"]
        binding = next(iter(machine.bindings.values()))
        machine.processes["a"].files.files.remove(binding.file)  # as if another process had the file open too
        machine.exit("a")
        found = records(machine, "cd")[-1]
        assert found["owner"] is None
        assert int(found["words"][0], 16) & quiet

    def test_neighbouring_pages_that_grant_the_same_are_one_line(self) -> None:
        runs = [r for r in records(narrow(steps=0), "descriptor", "npu0") if r["level"] == 3]
        assert [(r["input"], r["count"], r["owners"]) for r in runs] == [
            (area, 4, ["kernel"]) for area in (READ_WRITE, READ_ONLY, CODE, 0x5000_0000)
        ]

    def test_a_page_shows_its_rights_and_whose_it_is(self, machine_of: Callable[[str], Machine]) -> None:
        pages = pages_of(machine_of(bound()), "a")
        assert [(page["input"], page["rights"]) for page in pages] == [
            (READ_WRITE, "user rw-, privileged rw-"),
            (READ_ONLY, "user r--, privileged r--"),
        ]

    def test_a_device_hides_what_is_not_about_it(self) -> None:
        machine = narrow()
        assert {r["sid"] for r in records(machine, "ste", "npu0")} == {1}
        assert {r["sid"] for r in records(machine, "cached_cd", "npu0")} == {1}
        assert records(machine, "register", "npu0") == []

    def test_caches_are_shown_and_are_empty_where_there_are_none(self, machine_of: Callable[[str], Machine]) -> None:
        assert {tuple(r["owners"]) for r in records(narrow(), "cached_translation")} == {("a",), ("c",)}
        assert {(r["sid"], r["ssid"]) for r in records(narrow(), "cached_cd")} >= {(1, 1), (0x100, 1)}
        assert [(r["streams"], r["contexts"]) for r in records(narrow(), "cached_level1")] == [(2, 1)]
        machine = machine_of(bound(iommu="caches = false"))
        assert [records(machine, kind) for kind in ("cached_ste", "cached_cd", "cached_translation")] == [[], [], []]

    def test_an_atc_is_shown_with_its_device(self, machine_of: Callable[[str], Machine]) -> None:
        text = (
            bound(iommu="ats = true", kind="pcie")
            + '[[step]]\ndo = "dma"\ndevice = "npu0"\npasid = 1\naccess = "read"\n'
        )
        found = records(machine_of(text), "cached_in_device")
        assert [(r["device"], r["pasid"], r["input"], r["owners"]) for r in found] == [("npu0", 1, READ_WRITE, ["a"])]

    def test_events_that_nobody_took_are_pending(self) -> None:
        machine = narrow()
        smmu = hardware(machine)
        smmu.interface.irq = None
        assert [r["pending"] for r in records(machine, "queue")] == [0, 0]
        smmu.translate(Request(1, 7, 0x1000))
        found = records(machine, "pending")
        assert [(r["queue"], r["fields"]["code"], r["fields"]["ssid"]) for r in found] == [
            ("event queue", "C_BAD_SUBSTREAMID", 7)
        ]

    @pytest.mark.parametrize("page_size", [4096, 16384, 65536])
    @pytest.mark.parametrize("two_level", ["true", "false"])
    def test_every_shape_of_table_is_found(
        self, machine_of: Callable[[str], Machine], page_size: int, two_level: str
    ) -> None:
        machine = machine_of(bound(page_size, iommu=f"two_level = {two_level}\nsid_bits = 10"))
        assert [(r["sid"], r["ssid"], r["owner"]) for r in records(machine, "cd")] == [
            (0x103, 0, "kernel"),
            (0x103, 1, "a"),
        ]
        page = pages_of(machine, "a")[0]
        assert page["input"] == READ_WRITE
        assert page["lg2"] == page_size.bit_length() - 1

    def test_stage_2_has_its_page_table(self, machine_of: Callable[[str], Machine]) -> None:
        machine = machine_of(bound(device='default_domain = "stage2"'))
        assert [r["part"] for r in records(machine, "page_table")] == ["stage 2"]
        assert records(machine, "ste")[0]["fields"]["config"] == Config.STAGE_2.name

    def test_long_lists_are_cut_and_say_so(self, scenario_file: Callable[[str], Path]) -> None:
        names = [f"p{number}" for number in range(MOST_CONTEXTS + 5)]
        text = '[[iommu]]\nname = "smmu0"\nmodel = "arm-smmu-v3"\n'
        text += '[[device]]\nname = "npu0"\niommu = "smmu0"\npasid_bits = 8\n'
        text += "".join(f'[[process]]\nname = "{name}"\n' for name in names)
        text += "".join(f'[[step]]\ndo = "bind"\ndevice = "npu0"\nprocess = "{name}"\n' for name in names)
        machine = machine_at(Scenario.load(scenario_file(text)))
        assert len(records(machine, "cd")) == MOST_CONTEXTS
        left_out = [(r["of"], r["count"]) for r in records(machine, "left_out")]
        assert left_out == [("CDs", 6)]

    def test_a_table_that_leads_to_itself_ends(self) -> None:
        machine = narrow()
        cd = next(r for r in records(machine, "cd") if r["owner"] == "c")
        table = cd["fields"]["ttb0"]
        for index in range(512):
            machine.kernel.memory.store64(table + 8 * index, table | 0x403)
        found = records(machine, "descriptor", "npu0")
        assert len([r for r in found if r["ssid"] == 1]) <= 48

    def test_an_entry_that_memory_does_not_answer_for_is_said(self) -> None:
        machine = narrow()
        [ste] = records(machine, "ste", "npu0")
        machine.kernel.memory.poison(ste["address"], 8)
        assert [r["words"] for r in records(machine, "ste", "npu0")] == [None]

    def test_looking_changes_nothing(self) -> None:
        machine = narrow()
        before = state_of(machine)
        list(dump(machine, "test").records())
        assert state_of(machine) == before


class TestDumpOfOtherMachines:
    def test_a_mock_iommu_shows_whose_memory_each_pasid_reaches(self) -> None:
        machine = machine_at(Scenario.load(ROOT / "scenarios/narrow.toml"), "v2")
        found = [(r["iommu"], r["device"], r["pasid"], r["owners"]) for r in records(machine, "entry")]
        assert found == [("smmu0", "npu0", 1, ["c"]), ("smmu0", "gpu0", 1, ["a"]), ("smmu0", "gpu0", 3, ["b"])]

    def test_a_device_behind_no_iommu_is_said_to_be(self, machine_of: Callable[[str], Machine]) -> None:
        machine = machine_of('[[device]]\nname = "d"\n[[step]]\ndo = "show"\n')
        assert records(machine, "device") == [{"kind": "device", "device": "d", "iommu": None}]

    def test_a_device_that_is_not_there_is_named(self) -> None:
        with pytest.raises(InputError, match="--device 'x': no such device; allowed: npu0, gpu0"):
            dump(narrow(), "test", "x")


class TestWalk:
    def test_the_accesses_come_in_order_and_each_leads_to_the_next(self) -> None:
        found = walk(narrow(), "npu0", Transaction(1, READ_WRITE))
        assert [step.what for step in found.steps] == [
            "L1STD",
            "STE",
            "CD",
            *(f"stage 1 level {level} descriptor" for level in range(4)),
        ]
        words = [step.word for step in found.steps]
        assert [step.rule for step in found.steps] == [
            "smmu.l1std-read",
            "smmu.ste-read",
            "smmu.cd-read",
            *["vmsa.table"] * 3,
            "vmsa.page",
        ]
        leads = [words[0].l2ptr, words[1].s1contextptr, words[2].ttb0, *(word.next_table for word in words[3:6])]
        assert [step.address & -4096 for step in found.steps[1:]] == leads
        assert isinstance(found.end, Reached)
        assert (words[6].output, found.owners) == (found.end.address, ("c",))

    def test_one_number_on_two_devices_leads_to_two_processes(self) -> None:
        machine = narrow()
        assert [walk(machine, device, Transaction(1, READ_WRITE)).owners for device in ("npu0", "gpu0")] == [
            ("c",),
            ("a",),
        ]

    def test_under_mainline_the_descriptor_was_never_written(self) -> None:
        found = walk(narrow("mainline"), "npu0", Transaction(1, READ_WRITE))
        assert (found.result, found.rule.id) == ("terminated", "smmu.cd-invalid")
        assert found.steps[-1].word == 0
        assert isinstance(found.end, NotReached)
        assert (found.end.name, found.record.ssid) == ("C_BAD_CD", 1)

    def test_without_pasid_the_kernels_table_is_walked(self) -> None:
        assert walk(narrow(), "npu0", Transaction(None, READ_WRITE)).owners == ("kernel",)

    @pytest.mark.parametrize(
        ("asked", "rule"),
        [
            (Transaction(1, READ_ONLY, WRITE), "vmsa.ap-read-only"),
            (Transaction(1, READ_ONLY, instruction=True), "vmsa.uxn"),
            (Transaction(1, READ_ONLY, instruction=True, privileged=True), "vmsa.pxn"),
            (Transaction(1, CODE), "vmsa.invalid"),
            (Transaction(1, 1 << 50), "vmsa.range"),
        ],
    )
    def test_an_access_that_the_tables_do_not_allow_names_the_rule(
        self, machine_of: Callable[[str], Machine], asked: Transaction, rule: str
    ) -> None:
        found = walk(machine_of(bound()), "npu0", asked)
        assert (found.result, found.rule.id) == ("stalled", rule)
        assert found.record.inputaddr == asked.address

    def test_where_faults_cannot_stall_the_access_is_aborted(self, machine_of: Callable[[str], Machine]) -> None:
        found = walk(machine_of(bound(iommu="stall = false")), "npu0", Transaction(1, CODE))
        assert found.result == "terminated"

    def test_caches_are_not_asked(self) -> None:
        machine = narrow()
        request = Request(1, 1, READ_WRITE)
        touches: list[Touch] = []
        hardware(machine).translate(request, touches)
        assert touches == []
        assert len(walk(machine, "npu0", Transaction(1, READ_WRITE)).steps) == 7

    @pytest.mark.parametrize("address", [READ_WRITE, CODE])
    def test_walking_changes_nothing(self, address: int) -> None:
        machine = narrow()
        before = copy.deepcopy(state_of(machine))
        walk(machine, "npu0", Transaction(1, address, WRITE))
        assert state_of(machine) == before

    def test_memory_that_does_not_answer_ends_the_walk(self) -> None:
        machine = narrow()
        place = walk(machine, "npu0", Transaction(1, READ_WRITE)).steps[-1].address
        machine.kernel.memory.poison(place, 8)
        found = walk(machine, "npu0", Transaction(1, READ_WRITE))
        assert (found.steps[-1].word, found.rule.id) == (None, "vmsa.abort")

    def test_a_stage_2_is_told_from_a_stage_1(self, machine_of: Callable[[str], Machine]) -> None:
        found = walk(machine_of(bound(device='default_domain = "stage2"')), "npu0", Transaction(None, READ_WRITE))
        assert {step.what.partition(" level")[0] for step in found.steps[2:]} == {"stage 2"}
        assert found.owners == ("kernel",)

    def test_each_access_is_below_the_one_before_for_every_granule(self, machine_of: Callable[[str], Machine]) -> None:
        for page_size, levels in ((4096, 4), (16384, 4), (65536, 3)):
            found = walk(machine_of(bound(page_size)), "npu0", Transaction(1, READ_WRITE))
            numbers = [int(step.what.split()[3]) for step in found.steps if step.what.startswith("stage")]
            assert all(after == before + 1 for before, after in pairwise(numbers))
            assert (len(numbers), numbers[-1], found.owners) == (levels, 3, ("a",))

    @pytest.mark.parametrize(
        ("device", "message"), [("x", "no such device"), ("npu0", "allowed: none in this scenario")]
    )
    def test_a_device_without_tables_is_named(self, device: str, message: str) -> None:
        machine = machine_at(Scenario.load(ROOT / "scenarios/narrow.toml"))
        with pytest.raises(InputError, match=f"--device '{device}': .*{message}"):
            walk(machine, device, Transaction())


class TestCommands:
    def test_the_dump_is_a_tree_of_tables(self, pasidlab: Command) -> None:
        done = pasidlab("dump", NARROW, "--scheme", "v2", "--device", "npu0")
        assert done.status == 0
        lines = [line.lstrip("│├└─ \u00a0") for line in done.out.splitlines()]
        assert lines[0] == f"{Scenario.load(NARROW).title}: v2, kernel v7.3, after step 6 of 6"
        assert "STE of stream 0x1, npu0 at 0x80008040" in lines
        assert "CD of SubstreamID 1 at 0x80024040: ASID 5, the address space of c" in lines

    def test_the_dump_of_a_mock_says_that_there_are_no_tables(self, pasidlab: Command) -> None:
        done = pasidlab("dump", "scenarios/narrow.toml", "--at", "1")
        assert done.status == 0
        assert "smmu0: a mock IOMMU; it has no tables in memory, only what its driver was told" in done.out
        assert "PASID 1: the memory of a" in done.out

    @pytest.mark.parametrize("path", sorted((ROOT / "scenarios").glob("*smmu*.toml")), ids=lambda path: path.stem)
    def test_every_scenario_with_an_smmu_dumps_the_same_for_people_and_programs(
        self, pasidlab: Command, path: Path
    ) -> None:
        text, lines = pasidlab("dump", path).out, pasidlab("dump", path, "--json").out.splitlines()
        kinds = [json.loads(line)["kind"] for line in lines]
        assert text.count("STE of stream") == kinds.count("ste") + kinds.count("cached_ste")

    def test_the_walk_prints_each_access_and_the_end(self, pasidlab: Command) -> None:
        out = pasidlab(
            "walk", NARROW, "--scheme", "v2", "--device", "npu0", "--pasid", "0x1", "--address", READ_WRITE
        ).out
        assert " 3  0x80024040  CD  0x0005f205c0003510 0x0000000080062000" in out
        assert "translated to 0x80066000, the memory of c [smmu.walked]" in out
        assert "the same holds for the 4 KiB around it: user rw-, privileged rw-" in out

    def test_a_fault_prints_its_event(self, pasidlab: Command) -> None:
        done = pasidlab("walk", NARROW, "--device", "npu0", "--pasid", "1", "--address", "0x10000000", "--at", "4")
        assert done.status == 0
        assert "fault, aborted: the CD of stream 0x1, SubstreamID 0x1, is not valid [smmu.cd-invalid]" in done.out
        assert "event C_BAD_CD  0x000000010000180a" in done.out

    def test_json_is_one_object_an_access_and_one_for_the_end(self, pasidlab: Command) -> None:
        arguments = "--device", "gpu0", "--pasid", "1", "--address", "0x10000000", "--access", "write", "--json"
        found = [json.loads(line) for line in pasidlab("walk", NARROW, *arguments).out.splitlines()]
        assert [record["access"] for record in found[:-1]] == list(range(1, len(found)))
        assert (found[-1]["result"], found[-1]["owners"], found[-1]["lg2"]) == ("translated", ["a"], 12)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("dump", "scenarios/none.toml"), "scenarios/none.toml: cannot be read: No such file or directory"),
            (("dump", NARROW, "--at", "7"), "--at 7: {file} has 6 steps; allowed: 0 (before the first) to 6"),
            (("dump", NARROW, "--at", "-1"), "--at -1: {file} has 6 steps; allowed"),
            (("dump", NARROW, "--scheme", "all"), "{file}: scheme 'all': one scheme at a time"),
            (("dump", NARROW, "--scheme", "best"), "{file}: scheme 'best': no such scheme; known: mainline"),
            (("dump", NARROW, "--device", "x"), "--device 'x': no such device; allowed: npu0, gpu0"),
            (("walk", NARROW, "--device", "x", "--address", "0"), "--device 'x': no such device; allowed: npu0, gpu0"),
            (
                ("walk", "scenarios/narrow.toml", "--device", "npu0", "--address", "0"),
                "--device 'npu0': has no tables to walk, since it is behind no IOMMU of model arm-smmu-v3 or intel-vtd",
            ),
            (
                ("walk", NARROW, "--device", "npu0", "--pasid", "1048576", "--address", "0"),
                "--pasid '1048576': allowed: 0 to 0xfffff, decimal or with 0x in front",
            ),
            (
                ("walk", NARROW, "--device", "npu0", "--address", "0x1_0000"),
                "--address '0x1_0000': allowed: 0 to 0xffffffffffffffff, decimal or with 0x in front",
            ),
            (("walk", NARROW, "--device", "npu0", "--address", "9" * 999), f"--address '{'9' * 40}...': allowed: 0 to"),
            (
                ("walk", NARROW, "--device", "npu0", "--address", "0", "--access", "rw"),
                "--access 'rw': allowed: read, write",
            ),
            (
                ("walk", NARROW, "--device", "npu0", "--address", "0", "--access", "write", "--instruction"),
                "--instruction: an instruction fetch is a read; leave out --access write",
            ),
        ],
    )
    def test_a_bad_argument_is_named_with_what_is_allowed(
        self, pasidlab: Command, arguments: tuple[object, ...], message: str
    ) -> None:
        done = pasidlab(*arguments)
        assert (done.status, done.out) == (2, "")
        assert done.err.startswith(f"pasidlab: {message.format(file=NARROW)}")


def test_a_machine_without_hardware_is_said_to_be_one(scenario_file: Callable[[str], Path], pasidlab: Command) -> None:
    done = pasidlab("dump", scenario_file('[[step]]\ndo = "show"\n'))
    assert done.out.splitlines()[1:] == ["└── this machine has neither IOMMU nor device"]


def test_no_line_of_a_dump_is_broken_where_there_is_no_terminal(pasidlab: Command) -> None:
    lines = pasidlab("dump", NARROW, "--scheme", "v2").out.splitlines()
    page = next(line for line in lines if "4 times 4 KiB" in line)
    assert page.endswith("user rwx, privileged rw-; the kernel's memory")
    assert all(line == line.rstrip() for line in lines)
