"""`pasidlab dump` and `pasidlab walk` on VT-d: a unit's tables, read back from memory, and the way through them."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pasidlab.errors import InputError
from pasidlab.hw.pagetable.contract import Touch
from pasidlab.hw.transaction import Operation
from pasidlab.hw.vtd import inspect
from pasidlab.hw.vtd.records import PageRequest, Reason
from pasidlab.hw.vtd.registers import Offset
from pasidlab.hw.vtd.request import Blocked, Request
from pasidlab.hw.vtd.structures import PasidEntry, Pgtt
from pasidlab.hw.vtd.unit import RemappingUnit
from pasidlab.machine import Machine
from pasidlab.report.dump import dump
from pasidlab.report.walk import walk
from pasidlab.report.walked import NotReached, Reached, Transaction
from pasidlab.runner import machine_at
from pasidlab.scenario import Scenario

from .conftest import ROOT, Command

HANDOFF = ROOT / "scenarios/vtd_dsa_to_iaa.toml"
TEARDOWN = ROOT / "scenarios/vtd_teardown.toml"
READ_WRITE, READ_ONLY, CODE = 0x1000_0000, 0x2000_0000, 0x3000_0000
WRITE = Operation.WRITE
SOURCE = 0x103

BOUND = """
[[iommu]]
name = "vtd0"
model = "intel-vtd"
{iommu}
[[device]]
name = "acc0"
iommu = "vtd0"
kind = "pcie"
pasid_bits = 8
source_id = "01:00.3"
{device}
[[process]]
name = "a"
[[step]]
do = "bind"
device = "acc0"
process = "a"
[[step]]
do = "load"
process = "a"
[[step]]
do = "load"
process = "a"
address = 0x20000000
"""


def bound(iommu: str = "", device: str = "") -> str:
    return BOUND.format(iommu=iommu, device=device)


@pytest.fixture
def machine_of(scenario_file: Callable[[str], Path]) -> Callable[[str], Machine]:
    return lambda text: machine_at(Scenario.load(scenario_file(text)))


@pytest.fixture
def machine(machine_of: Callable[[str], Machine]) -> Machine:
    return machine_of(bound())


def teardown(steps: int) -> Machine:
    return machine_at(Scenario.load(TEARDOWN), "mainline", steps)


def hardware(machine: Machine) -> RemappingUnit:
    return machine.parts.vtds.instances[machine.iommus["vtd0"]].hw


def records(machine: Machine, kind: str, device: str | None = None) -> list[dict[str, Any]]:
    return [record for record in dump(machine, "test", device).records() if record["kind"] == kind]


def state_of(machine: Machine) -> tuple[object, ...]:
    """What looking must not change."""
    unit = hardware(machine)
    registers = [int(inspect.register(unit, offset)) for offset in Offset]
    rows, pool = unit.memory.page_table()
    caches = dict(unit.tlb.entries), dict(unit.tlb.tables), dict(unit.lookup.cached_pasids)
    return registers, dict(rows), pool.tobytes(), caches, inspect.fault_records(unit)


class TestDump:
    def test_entries_are_those_that_lie_in_memory(self, machine: Machine) -> None:
        sizes = {"root": 16, "context": 32, "pasid_directory": 8, "pasid_entry": 64}
        found = [record for kind in sizes for record in records(machine, kind)]
        assert [record["kind"] for record in found] == ["root", "context", "pasid_directory", *["pasid_entry"] * 2]
        for record in found:
            raw = machine.kernel.memory.load(record["address"], sizes[record["kind"]])
            assert raw is not None
            assert b"".join(int(word, 16).to_bytes(8, "little") for word in record["words"]) == raw

    def test_every_pasid_is_listed_with_its_domain_and_whose_it_is(self) -> None:
        machine = machine_at(Scenario.load(HANDOFF), "rfc")
        found = {(r["device"], r["pasid"]): r["owner"] for r in records(machine, "pasid_entry")}
        assert found == {
            ("acc0", 0): "kernel",
            ("acc0", 1): "c",
            ("dsa0", 0): "kernel",
            ("dsa0", 1): "a",
            ("dsa0", 2): "b",
            ("dsa0", 3): "c",
            ("iaa0", 0): "kernel",
            ("iaa0", 1): "b",
            ("iaa0", 2): "a",
            ("iaa1", 0): "kernel",
            ("iaa1", 1): "b",
        }
        sources = {r["device"]: r["source_id"] for r in records(machine, "context")}
        assert sources == {"acc0": "00:01.0", "dsa0": "6a:01.0", "iaa0": "6a:02.0", "iaa1": "e7:02.0"}
        for record in records(machine, "pasid_entry"):
            assert record["did"] == record["fields"]["did"]

    def test_an_entry_that_is_torn_down_is_nobodys_and_silent(self) -> None:
        entries = [r for r in records(teardown(4), "pasid_entry") if r["pasid"] == 1]
        assert [(r["owner"], r["fields"]) for r in entries] == [(None, {"fpd": 1})]
        assert [r["owner"] for r in records(teardown(3), "pasid_entry")] == ["kernel", "a"]
        assert [r["pasid"] for r in records(teardown(8), "pasid_entry")] == [0]

    def test_a_page_shows_its_rights_and_whose_it_is(self, machine: Machine) -> None:
        pages = [r for r in records(machine, "descriptor") if r.get("owners") == ["a"]]
        assert [(page["input"], page["lg2"], page["rights"]) for page in pages] == [
            (READ_WRITE, 12, "user rw-, privileged rw-"),
            (READ_ONLY, 12, "user r--, privileged rw-"),
        ]

    def test_a_device_hides_what_is_not_about_it(self) -> None:
        machine = machine_at(Scenario.load(HANDOFF), "rfc")
        for kind in ("context", "pasid_entry", "cached_context", "cached_pasid"):
            assert {r["source_id"] for r in records(machine, kind, "iaa0")} == {"6a:02.0"}
        assert {r["bus"] for r in records(machine, "root", "iaa0")} == {0x6A}
        assert records(machine, "register", "iaa0") == []

    def test_caches_are_shown_and_are_empty_where_there_are_none(self, machine_of: Callable[[str], Machine]) -> None:
        work = '[[step]]\ndo = "dma"\ndevice = "acc0"\npasid = 1\naccess = "read"\n'
        machine = machine_of(bound() + work)
        [page] = records(machine, "cached_translation")
        assert (page["pasid"], page["input"], page["owners"], page["nested"]) == (1, READ_WRITE, ["a"], False)
        assert (page["rights"], page["usable"]) == ("user rw-, privileged rw-", "user r--, privileged r--")
        assert any(
            line.endswith("the memory of a; a write walks again, to mark the page dirty") for line in text_of(machine)
        )
        [table] = records(machine, "cached_table")
        assert (table["pasid"], table["level"], table["lg2"]) == (1, 1, 21)
        assert [(r["source_id"], r["pasid"]) for r in records(machine, "cached_pasid")] == [("01:00.3", 1)]
        machine = machine_of(bound("caches = false") + work)
        kinds = ("cached_context", "cached_pasid", "cached_translation", "cached_table")
        assert [records(machine, kind) for kind in kinds] == [[], [], [], []]

    def test_a_device_tlb_is_shown_with_its_device(self, machine_of: Callable[[str], Machine]) -> None:
        machine = machine_of(bound() + '[[step]]\ndo = "dma"\ndevice = "acc0"\npasid = 1\naccess = "read"\n')
        found = records(machine, "cached_in_device")
        assert [(r["device"], r["pasid"], r["input"], r["owners"]) for r in found] == [("acc0", 1, READ_WRITE, ["a"])]

    def test_faults_that_nobody_took_are_shown(self, machine: Machine) -> None:
        unit = hardware(machine)
        unit.interface.irq = None
        assert records(machine, "fault") == []
        unit.translate(Request(SOURCE, 7, 0x1000))
        [found] = records(machine, "fault")
        assert (found["register"], found["source_id"], found["fields"]["fr"]) == (0, "01:00.3", "PASID_NOT_PRESENT")
        assert len(records(machine, "fault", "acc0")) == 1

    def test_page_requests_are_shown_in_the_queue_and_on_their_way(self, machine: Machine) -> None:
        unit = hardware(machine)
        unit.interface.irq = None
        unit.page_request(PageRequest(rid=SOURCE, pp=True, pasid=1, rd=True, lpig=True))
        unit.page_requests.hold = True
        unit.page_request(PageRequest(rid=SOURCE, pp=True, pasid=1, rd=True, lpig=True, prgi=1))
        assert [r["queue"] for r in records(machine, "pending")] == ["page request queue"]
        assert [r["fields"]["prgi"] for r in records(machine, "in_flight")] == [1]

    @pytest.mark.parametrize(
        ("domain", "part", "owner"),
        [("dma", "first stage", "kernel"), ("stage2", "second stage", "kernel"), ("identity", None, None)],
    )
    def test_traffic_without_pasid_has_what_its_domain_says(
        self, machine_of: Callable[[str], Machine], domain: str, part: str | None, owner: str | None
    ) -> None:
        machine = machine_of(bound(device=f'default_domain = "{domain}"'))
        entry = next(r for r in records(machine, "pasid_entry") if r["pasid"] == 0)
        parts = [r["part"] for r in records(machine, "page_table") if r["pasid"] == 0]
        assert (entry["owner"], parts) == (owner, [part] if part else [])

    def test_legacy_mode_has_its_own_entries(self, machine_of: Callable[[str], Machine]) -> None:
        machine = machine_of(bound("scalable = false").partition("[[process]]")[0] + '[[step]]\ndo = "show"\n')
        assert [r["mode"] for r in records(machine, "root_table")] == ["LEGACY"]
        assert [r["fields"]["aw"] for r in records(machine, "context")] != []
        assert [r["part"] for r in records(machine, "page_table")] == ["second stage"]

    def test_an_entry_that_memory_does_not_answer_for_is_said(self, machine: Machine) -> None:
        for kind in ("pasid_entry", "pasid_directory", "context", "root"):
            place = records(machine, kind)[0]["address"]
            machine.kernel.memory.poison(place, 8)
            assert records(machine, kind)[0]["words"] is None
            machine.kernel.memory.heal()

    def test_an_entry_that_the_unit_refuses_is_said_to_be(self, machine: Machine) -> None:
        for kind, rule in (("pasid_entry", "vtd.pasid-reserved"), ("context", "vtd.context-reserved")):
            record = records(machine, kind)[0]
            bad = record["address"] + 24
            machine.kernel.memory.store64(bad, 1 << 63)
            assert any(rule in line for line in text_of(machine))
            machine.kernel.memory.store64(bad, 0)

    def test_nested_tables_say_that_the_first_stage_is_the_guests(self, machine: Machine) -> None:
        first, *_ = records(machine, "pasid_entry")
        stage = PasidEntry(p=True, pgtt=Pgtt.NESTED, aw=2, did=9, ssptptr=first["fields"]["fsptptr"], fsptptr=0x7000)
        machine.kernel.memory.store(first["address"], stage.pack())
        assert [r["part"] for r in records(machine, "page_table") if r["pasid"] == 0] == ["second stage"]
        assert any("its first stage lies in guest addresses" in line for line in text_of(machine))

    def test_without_a_table_mode_no_request_passes_and_no_table_is_shown(self, machine: Machine) -> None:
        unit = hardware(machine)
        unit.mmio_write(Offset.RTADDR, unit.interface.root | 3 << 10, 8)
        unit.mmio_write(Offset.GCMD, 0xC000_0000, 4)
        assert records(machine, "root") == []
        assert "refused: TTM == 11 [vtd.abort-dma]" in text_of(machine)

    def test_whatever_lies_in_memory_can_be_shown_and_walked(self, machine: Machine) -> None:
        memory = machine.kernel.memory
        numbers = random.Random(7)
        kinds = ("root", "context", "pasid_directory", "pasid_entry", "descriptor")
        places = [record["address"] for kind in kinds for record in records(machine, kind)]
        for _ in range(60):
            place = numbers.choice(places) + 8 * numbers.randrange(8)
            memory.store64(place, numbers.getrandbits(64) & numbers.choice([(1 << 64) - 1, 0xFFFF, 0x1FF, 0xFFFF_F007]))
            assert next(dump(machine, "test").records())["kind"] == "machine"
            for pasid in (None, 1):
                found = walk(machine, "acc0", Transaction(pasid, READ_WRITE))
                assert found.result in ("translated", "blocked")
                assert json.dumps(list(found.as_dicts()))

    def test_looking_changes_nothing(self, machine: Machine) -> None:
        before = state_of(machine)
        list(dump(machine, "test").records())
        assert state_of(machine) == before


def text_of(machine: Machine) -> list[str]:
    lines = []
    nodes = [dump(machine, "test")]
    while nodes:
        node = nodes.pop()
        lines.append(node.text)
        nodes.extend(node.children)
    return lines


class TestWalk:
    def test_the_accesses_come_in_order_and_each_leads_to_the_next(self, machine: Machine) -> None:
        found = walk(machine, "acc0", Transaction(1, READ_WRITE))
        assert [step.what for step in found.steps] == [
            "root entry",
            "context entry",
            "PASID directory entry",
            "PASID entry",
            *(f"stage 1 level {level} entry" for level in (4, 3, 2, 1)),
        ]
        words = [step.word for step in found.steps]
        assert [step.rule for step in found.steps] == [
            "vtd.root-read",
            "vtd.context-read",
            "vtd.directory-read",
            "vtd.pasid-read",
            *["x86.table"] * 3,
            "x86.page",
        ]
        leads = [words[0].lctp, words[1].pasiddirptr, words[2].smptblptr, words[3].fsptptr]
        leads += [word.next_table for word in words[4:7]]
        assert [step.address & -4096 for step in found.steps[1:]] == leads
        assert isinstance(found.end, Reached)
        assert (words[7].output, found.owners) == (found.end.address, ("a",))

    def test_one_number_on_two_devices_leads_to_two_processes(self) -> None:
        machine = machine_at(Scenario.load(HANDOFF), "rfc", 5)
        tables = [
            walk(machine, device, Transaction(1, READ_WRITE)).steps[3].word.fsptptr for device in ("dsa0", "iaa0")
        ]
        assert tables == [machine.processes[name].mm.pgd_page for name in ("a", "b")]
        assert walk(machine, "iaa0", Transaction(1, READ_WRITE)).owners == ("b",)

    def test_without_pasid_the_entry_of_rid_pasid_is_walked(self, machine: Machine) -> None:
        found = walk(machine, "acc0", Transaction(None, READ_WRITE))
        assert (found.steps[3].what, found.steps[3].address & 0xFFF) == ("PASID entry", 0)
        assert found.owners == ("kernel",)

    @pytest.mark.parametrize(
        ("asked", "rule", "reason"),
        [
            (Transaction(1, READ_ONLY, WRITE), "x86.read-only", Reason.NO_WRITE),
            (Transaction(1, READ_WRITE, instruction=True), "vtd.ere-clear", Reason.ERE_CLEAR),
            (Transaction(1, READ_WRITE, privileged=True), "vtd.sre-clear", Reason.SRE_CLEAR),
            (Transaction(1, CODE), "x86.not-present", Reason.FIRST_NOT_PRESENT),
            (Transaction(1, 1 << 60), "x86.canonical", Reason.NOT_CANONICAL),
            (Transaction(2, READ_WRITE), "vtd.pasid-not-present", Reason.PASID_NOT_PRESENT),
            (Transaction(0xFFFFF, READ_WRITE), "vtd.pasid-beyond-directory", Reason.PASID_BEYOND_PDTS),
        ],
    )
    def test_an_access_that_the_tables_do_not_allow_has_rule_reason_and_record(
        self, machine: Machine, asked: Transaction, rule: str, reason: Reason
    ) -> None:
        found = walk(machine, "acc0", asked)
        assert (found.result, found.rule.id) == ("blocked", rule)
        assert isinstance(found.end, NotReached)
        assert found.end.name == reason.name
        request = Request(SOURCE, asked.pasid, asked.address, asked.access, asked.privileged, asked.instruction)
        outcome = hardware(machine).translate(request)
        assert isinstance(outcome, Blocked)
        assert found.record == outcome.record

    def test_a_device_that_is_blocked_has_no_entry_of_rid_pasid(self, machine_of: Callable[[str], Machine]) -> None:
        blocked = machine_of(bound(device='default_domain = "blocked"'))
        found = walk(blocked, "acc0", Transaction(None, READ_WRITE))
        assert (found.rule.id, found.why) == (
            "vtd.pasid-not-present",
            f"the entry of RID_PASID of device {SOURCE:#06x} is not present",
        )
        assert walk(blocked, "acc0", Transaction(2, READ_WRITE)).why.startswith("the entry of PASID 0x2 of device 0x")

    def test_fpd_leaves_no_record_and_is_said_to(self) -> None:
        found = walk(teardown(4), "acc0", Transaction(1, READ_WRITE))
        assert found.record is None
        assert isinstance(found.end, NotReached)
        assert found.end.unrecorded == "reason PASID_NOT_PRESENT (0x59), no fault record: FPD is set in the PASID entry"

    def test_a_fault_for_which_no_register_is_free_says_so(self, machine: Machine) -> None:
        unit = hardware(machine)
        unit.interface.irq = None
        for _ in range(unit.features.fault_records):
            unit.translate(Request(SOURCE, 7, 0x1000))
        found = walk(machine, "acc0", Transaction(7, 0x1000))
        assert isinstance(found.end, NotReached)
        assert found.end.unrecorded.endswith("no fault record: no fault recording register is free")

    def test_what_is_never_recorded_says_so(self, machine: Machine) -> None:
        found = walk(machine, "acc0", Transaction(None, 0xFEE0_0000, WRITE))
        assert (found.rule.id, found.steps) == ("vtd.interrupt", [])
        assert list(found.as_dicts())[-1] | {"why": ""} == {
            "result": "blocked",
            "rule": "vtd.interrupt",
            "why": "",
            "event": None,
            "reason": None,
        }

    @pytest.mark.parametrize("asked", [Transaction(privileged=True), Transaction(instruction=True)])
    def test_what_no_request_without_pasid_can_say_is_named(self, machine: Machine, asked: Transaction) -> None:
        option = "--privileged" if asked.privileged else "--instruction"
        with pytest.raises(InputError, match=f"{option}: needs --pasid"):
            walk(machine, "acc0", asked)

    def test_flags_that_hardware_sets_are_accesses(self, machine: Machine) -> None:
        page = walk(machine, "acc0", Transaction(1, READ_WRITE)).steps[-1]
        dirty = 1 << 6
        machine.kernel.memory.store64(page.address, page.word & ~dirty)
        last = walk(machine, "acc0", Transaction(1, READ_WRITE, WRITE)).steps[-1]
        assert (last.what, last.store, last.word) == ("stage 1 level 1 entry, written", True, page.word | dirty)

    def test_a_second_stage_is_told_from_a_first(self, machine_of: Callable[[str], Machine]) -> None:
        found = walk(machine_of(bound(device='default_domain = "stage2"')), "acc0", Transaction(None, READ_WRITE))
        assert {step.what.partition(" level")[0] for step in found.steps[4:]} == {"stage 2"}
        assert [type(step.word).__name__ for step in found.steps[-2:]] == ["SecondStageTable", "SecondStageLeaf"]
        assert found.owners == ("kernel",)

    def test_an_untranslated_device_reaches_everything(self, machine_of: Callable[[str], Machine]) -> None:
        found = walk(machine_of(bound(device='default_domain = "identity"')), "acc0", Transaction(None, 0x5000))
        assert isinstance(found.end, Reached)
        assert (found.rule.id, found.end.address, found.end.lg2) == ("vtd.pass-through", 0x5000, 52)

    def test_legacy_mode_has_two_entries_before_the_page_table(self, machine_of: Callable[[str], Machine]) -> None:
        machine = machine_of(bound("scalable = false").partition("[[process]]")[0] + '[[step]]\ndo = "show"\n')
        found = walk(machine, "acc0", Transaction(None, READ_WRITE))
        assert [type(step.word).__name__ for step in found.steps[:2]] == ["RootEntry", "ContextEntry"]
        assert found.owners == ("kernel",)

    def test_caches_are_not_asked(self, machine: Machine) -> None:
        touches: list[Touch] = []
        request = Request(SOURCE, 1, READ_WRITE)
        hardware(machine).translate(request)
        hardware(machine).translate(request, touches)
        assert touches == []
        assert len(walk(machine, "acc0", Transaction(1, READ_WRITE)).steps) == 8

    @pytest.mark.parametrize("address", [READ_WRITE, CODE])
    def test_walking_changes_nothing(self, machine: Machine, address: int) -> None:
        before = copy.deepcopy(state_of(machine))
        walk(machine, "acc0", Transaction(1, address, WRITE))
        assert state_of(machine) == before

    def test_memory_that_does_not_answer_ends_the_walk(self, machine: Machine) -> None:
        steps = walk(machine, "acc0", Transaction(1, READ_WRITE)).steps
        reasons = []
        for step in steps:
            machine.kernel.memory.poison(step.address, 8)
            found = walk(machine, "acc0", Transaction(1, READ_WRITE))
            assert (found.steps[-1].word, found.steps[-1].what) == (None, step.what)
            assert isinstance(found.end, NotReached)
            reasons.append(found.end.name)
            machine.kernel.memory.heal()
        assert reasons == [
            "ROOT_ACCESS",
            "CONTEXT_ACCESS",
            "DIRECTORY_ACCESS",
            "PASID_ACCESS",
            "FIRST_TABLE_ACCESS",
            *["FIRST_ACCESS"] * 3,
        ]


class TestCommands:
    def test_the_dump_is_a_tree_of_tables(self, pasidlab: Command) -> None:
        done = pasidlab("dump", HANDOFF, "--scheme", "rfc", "--device", "iaa0")
        assert done.status == 0
        lines = [line.lstrip("│├└─ \u00a0") for line in done.out.splitlines()]
        assert "vtd0: an Intel VT-d remapping unit" in lines
        assert any(line.startswith("root table at ") and line.endswith("translation is on") for line in lines)
        assert any(line.startswith("context entry of 6a:02.0, iaa0 at ") for line in lines)
        owned = [line for line in lines if line.startswith("entry of PASID")]
        assert [line.rpartition(", ")[2] for line in owned[:3]] == [
            "the address space of the kernel",
            "the address space of b",
            "the address space of a",
        ]

    @pytest.mark.parametrize("path", sorted((ROOT / "scenarios").glob("vtd*.toml")), ids=lambda path: path.stem)
    def test_every_scenario_with_a_unit_dumps_the_same_for_people_and_programs(
        self, pasidlab: Command, path: Path
    ) -> None:
        text, lines = pasidlab("dump", path).out, pasidlab("dump", path, "--json").out.splitlines()
        kinds = [json.loads(line)["kind"] for line in lines]
        assert text.count(" entry of PASID ") == kinds.count("pasid_entry") + kinds.count("cached_pasid")
        assert text.count("context entry of ") == kinds.count("context") + kinds.count("cached_context")
        assert "pasid_entry" in kinds

    def test_a_fault_prints_its_reason_and_record(self, pasidlab: Command) -> None:
        arguments = "--device", "iaa1", "--pasid", "2", "--address", "0x10000000"
        done = pasidlab("walk", HANDOFF, "--scheme", "rfc", *arguments)
        assert done.status == 0
        assert (
            "fault, blocked: the entry of PASID 0x2 of device 0xe710 is not present [vtd.pasid-not-present]" in done.out
        )
        assert "fault record PASID_NOT_PRESENT  0x0000000010000000 0xc00002598000e710" in done.out

    def test_json_has_the_shape_of_an_smmus(self, pasidlab: Command) -> None:
        arguments = "--device", "iaa0", "--pasid", "1", "--json", "--address"
        found = [
            [json.loads(line) for line in pasidlab("walk", HANDOFF, *arguments, address).out.splitlines()]
            for address in ("0x10000000", "0x7000000000")
        ]
        smmu = "walk", "scenarios/narrow_smmu.toml", "--scheme", "v2", "--device", "npu0", "--pasid", "1", "--json"
        theirs = [
            [json.loads(line) for line in pasidlab(*smmu, "--address", address).out.splitlines()]
            for address in ("0x10000000", "0x7000000000")
        ]
        assert [set(record) for record in found[0][-2:]] == [set(record) for record in theirs[0][-2:]]
        assert set(found[1][-1]) == set(theirs[1][-1]) | {"reason"}
        assert set(found[1][-1]["event"]) == set(theirs[1][-1]["event"])
