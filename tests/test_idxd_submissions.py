"""Descriptors of a process's own: what the machine makes of their 64 bytes, by verb and by scenario step."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pasidlab.description import IommuSpec
from pasidlab.devices import Work
from pasidlab.devices.idxd.descriptors import Flags, Opcode, build
from pasidlab.devices.idxd.library import OPERATIONS, Request
from pasidlab.devices.idxd.operations import crc32c
from pasidlab.devices.idxd.registers import Portal
from pasidlab.errors import InputError
from pasidlab.hw.cpu import Instruction
from pasidlab.machine import Machine
from pasidlab.outcome import Outcome
from pasidlab.scenario import Scenario
from tests.idxd_rig import ENQCMD, MOVDIR64B, RW, idxd, machine, opened

REC = 0x1000_2000


# --- descriptors of a process's own --------------------------------------------------------------------------------


def descriptor(opcode: Opcode = Opcode.MEMMOVE, **fields: Any) -> bytes:
    return Request(opcode, **({"source": RW, "destination": RW + 64, "size": 4, "completion": REC} | fields)).pack()


def send(m: Machine, data: bytes, instruction: Instruction = ENQCMD, **more: Any) -> Outcome:
    return m.submit_descriptor("a", "dsa0", instruction, data, **more)


def test_a_descriptor_does_what_its_64_bytes_say():
    m = opened()
    m.store("a", RW, b"data")
    outcome = send(m, descriptor())
    assert (outcome.result, outcome.pasid, outcome.work.owner) == ("ok", 2, "a")
    assert m.load("a", RW + 64, 4).work.data == b"data"
    assert outcome.detail == (
        "ENQCMD: ZF = 0, accepted",
        "completion record at 0x10002000: status 0x01 (success), bytes_completed = 0x4",
    )


def test_the_record_lies_in_the_processes_memory():
    m = opened()
    send(m, descriptor())
    assert m.load("a", REC, 8).work.data == b"\1\0\0\0\4\0\0\0"


def test_a_fault_is_in_the_record_and_in_the_outcome():
    m = opened()
    outcome = send(m, descriptor(destination=0x2000_0000))
    assert (outcome.result, outcome.rule) == ("fault", "dma.page-request-refused")
    said = "status 0x84 (page fault, page request refused; of a write), fault_addr = 0x20000000"
    assert outcome.detail[1] == f"completion record at 0x10002000: {said}"
    assert m.load("a", REC, 1).work.data == b"\x84"
    outcome = send(m, descriptor(destination=RW + 0x1000, block_on_fault=False))
    assert (outcome.result, outcome.rule) == ("fault", "dma.page-not-there")
    assert "status 0x83 (page fault, block on fault not set; of a write)" in outcome.detail[1]
    outcome = send(m, descriptor(source=RW + 0x3000, block_on_fault=False))
    assert "status 0x03 (page fault, block on fault not set), fault_addr = 0x10003000" in outcome.detail[1]


def test_a_descriptor_that_is_refused_names_its_status():
    m = opened()
    outcome = send(m, descriptor(size=0))
    assert (outcome.result, outcome.rule) == ("fault", "idxd.completed-with-error")
    assert outcome.why == "dsa0 completed the descriptor with status 0x13, transfer size"


def test_retry_is_zf_1():
    outcome = send(opened(queue="dedicated"), descriptor(completion=None))
    assert (outcome.result, outcome.detail) == ("EAGAIN", ("ENQCMD: ZF = 1, retry",))


def test_where_no_record_came_the_status_is_0():
    m = opened()
    m.store("a", REC, b"\0" * 32)
    idxd(m).hw.held = True
    outcome = send(m, descriptor())
    assert outcome.detail[1] == "completion record at 0x10002000: status 0x00, nothing has come"


def test_a_record_where_the_process_has_no_memory_is_told_of_both_sides():
    outcome = send(opened(), descriptor(completion=0x9000_0000))
    assert (outcome.result, outcome.rule) == ("fault", "dma.page-request-refused")
    assert outcome.detail[1:] == (
        "SWERR: error 0x1a (page fault of the completion record) at 0x90000000",
        "completion record at 0x90000000: the program cannot write there, so it cannot poll it: "
        "a has no memory area at 0x90000000",
    )


def test_the_programs_own_text_is_not_taken_for_a_record():
    outcome = send(opened(), descriptor(completion=0x2000_0000))
    assert outcome.detail[1] == "SWERR: error 0x1a (page fault of the completion record) at 0x20000000"
    place = "completion record at 0x20000000"
    assert outcome.detail[2].startswith(f"{place}: the program cannot write there, so it cannot poll it: ")
    assert "status" not in outcome.detail[2]


@pytest.mark.parametrize(("kind", "at", "size"), [("dsa", REC + 8, 32), ("iaa", REC + 32, 64)])
def test_a_record_that_is_not_aligned_keeps_a_descriptor_from_running(kind, at, size):
    m = opened(kind=kind)
    m.store("a", RW, b"data")
    outcome = send(m, descriptor(OPERATIONS[kind]["memmove"], completion=at))
    assert (outcome.result, outcome.rule, outcome.work) == ("fault", "idxd.record-misaligned", None)
    assert (
        outcome.why == f"dsa0 did not run the descriptor: its completion record must lie at a multiple of {size} bytes"
    )
    assert outcome.detail == (
        "ENQCMD: ZF = 0, accepted",
        "SWERR: error 0x1b (alignment of the completion record)",
        f"completion record at {at:#x}: status 0x00, nothing has come",
    )
    assert m.load("a", RW + 64, 4).work.data == b"a a "


def test_each_submission_tells_its_own_error_of_swerr():
    m = opened()
    for _ in range(3):
        assert send(m, descriptor(size=0, completion=None)).detail[1] == "SWERR: error 0x13 (transfer size)"
    assert not idxd(m).hw.swerr.valid
    m.submit("a", "dsa0", ENQCMD, Work(address=0x9000_0000))
    assert idxd(m).hw.swerr.valid
    assert send(m, descriptor(completion=None)).detail == ("ENQCMD: ZF = 0, accepted",)


def test_a_dropped_write_is_told_by_swerr():
    outcome = send(opened(), descriptor(completion=None), MOVDIR64B, claims=2)
    assert outcome.detail == (
        "MOVDIR64B: posted, no answer",
        "SWERR: error 0x71 (a posted write to a shared queue)",
    )


def test_movdir64b_gets_no_answer():
    m = opened(queue="dedicated")
    outcome = send(m, descriptor(), MOVDIR64B, claims=0x55)
    assert (outcome.result, outcome.rule, outcome.pasid) == ("ok", "idxd.dedicated-used", 2)
    assert outcome.detail[0] == "MOVDIR64B: posted, no answer"


def test_enqcmd_wants_dword_0_to_be_0():
    outcome = send(opened(), b"\1" + descriptor()[1:])
    assert (outcome.result, outcome.rule) == ("SIGSEGV", "traps.gp-already-activated")
    assert all("ZF" not in line for line in outcome.detail)


def test_a_limited_portal_is_what_the_threshold_is_for():
    m = opened()
    own = idxd(m)
    own.hw.held = True
    own.hw.queues[0].threshold = 1
    assert send(m, descriptor()).rule == "idxd.queued"
    assert send(m, descriptor()).rule == "idxd.queue-threshold"
    assert send(m, descriptor(), portal=Portal.UNLIMITED).rule == "idxd.queued"


def test_a_batch_of_the_process_runs_in_its_memory():
    m = opened()
    first = Request(Opcode.FILL, pattern=b"1", destination=RW + 1, size=1).pack()
    second = Request(Opcode.FILL, pattern=b"2", destination=RW + 2, size=1).pack()
    m.store("a", RW + 0x1000, first + second)
    data = build(Opcode.BATCH, Flags.BOF | Flags.CRAV | Flags.RCR, source=RW + 0x1000, size=2, completion_addr=REC)
    outcome = send(m, data)
    assert (outcome.result, outcome.work.data) == ("ok", b"12")
    assert m.load("a", RW + 1, 2).work.data == b"12"


def test_a_process_that_has_exited_and_a_number_that_is_none_send_nothing():
    m = opened()
    m.unbind("h")
    m.alloc_global("dsa0", "none")
    m.numbers["none"] = None
    assert send(m, descriptor(), claims="none").rule == "number.none"
    m.exit("a")
    assert send(m, descriptor()).rule == "process.exited"


def test_only_a_dsa_or_iaa_has_descriptors_and_they_have_64_bytes():
    m = machine(kind="pcie")
    with pytest.raises(InputError, match=r"^device 'dsa0': has no descriptors; only one of kind dsa or iaa has$"):
        send(m, bytes(64))
    with pytest.raises(InputError, match=r"^a descriptor has 64 bytes, not 63$"):
        send(machine(), bytes(63))


@settings(max_examples=60, deadline=None)
@given(
    body=st.binary(min_size=60, max_size=60),
    opcode=st.sampled_from(Opcode),
    places=st.lists(st.sampled_from([RW, RW + 0x3FC0, REC, 0x2000_0000, 0]), min_size=3, max_size=3),
    size=st.integers(0, 0x5000),
    clean=st.booleans(),
    model=st.sampled_from(["mock", "arm-smmu-v3", "intel-vtd"]),
)
def test_no_descriptor_of_one_process_touches_another(body, opcode, places, size, clean, model):
    m = opened(iommu=IommuSpec("iommu0", model=model))
    m.bind("dsa0", "b")
    m.store("b", RW, b"of b")
    if clean:
        addresses = b"".join(place.to_bytes(8, "little") for place in places)
        body = bytes([0x0E, 0, 0, opcode]) + addresses + size.to_bytes(4, "little") + bytes(28)
    outcome = send(m, bytes(4) + body)
    assert outcome.work is None or outcome.work.owner in ("a", "nobody")
    assert m.load("b", RW, 0x4000).work.data == b"of b" + (b"b " * 0x2000)[4:]


# --- the scenario step ---------------------------------------------------------------------------------------------


def scenario(**keys: Any) -> Scenario:
    step = {"do": "descriptor", "device": "dsa0", "process": "a", "operation": "fill", "size": 4} | keys
    return Scenario.from_dict(
        {
            "iommu": [{"name": "iommu0"}],
            "device": [
                {"name": "dsa0", "iommu": "iommu0", "kind": "dsa", "pasid_bits": 8},
                {"name": "iaa0", "iommu": "iommu0", "kind": "iaa", "pasid_bits": 8},
                {"name": "nic0", "iommu": "iommu0", "pasid_bits": 8},
            ],
            "process": [{"name": "a"}],
            "step": [
                {"do": "bind", "device": "dsa0", "process": "a"},
                {"do": "mmap_portal", "device": "dsa0", "process": "a"},
                step,
            ],
        }
    )


def test_a_scenario_may_have_descriptors():
    spec = scenario(pattern="text", destination=RW, completion=REC)
    m = Machine(spec)
    outcome = [step.perform(m) for step in spec.step][-1]
    assert (outcome.result, outcome.work.data) == ("ok", b"text")
    assert "status 0x01" in outcome.detail[1]
    assert spec.step[-1].subject == "a dsa0 fill"


def test_a_scenario_may_make_a_delta_and_apply_it():
    common = {"process": "a", "device": "dsa0", "completion": REC, "size": 16}
    delta = RW + 0x1000
    create = {"operation": "create_delta", "source": RW, "destination": RW + 64, "delta": delta, "delta_size": 80}
    apply = {"operation": "apply_delta", "source": delta, "destination": RW, "delta_size": 10}
    m = opened()
    m.store("a", RW, b"12345678abcdefgh")
    m.store("a", RW + 64, b"12345678ABCDEFGH")
    for keys in (create, apply):
        step = scenario(**common | keys).step[-1]
        assert step.perform(m).result == "ok"
    assert m.load("a", RW, 16).work.data == b"12345678ABCDEFGH"
    assert m.load("a", delta, 10).work.data == b"\1\0ABCDEFGH"


def test_a_crc_begins_with_its_seed():
    m = opened()
    m.store("a", RW, b"123456789")
    crc = {"operation": "crc_gen", "source": RW, "completion": REC}
    assert "= 0xe3069283" in scenario(**crc, size=9).step[-1].perform(m).detail[1]
    half = crc32c(b"1234")
    rest = scenario(**crc | {"source": RW + 4}, size=5, seed=half).step[-1].perform(m)
    assert "operation_specific = 0xe3069283" in rest.detail[1]


def test_on_an_smmu_a_device_stalls_so_a_descriptor_that_does_not_block_does_not_fault():
    smmu = IommuSpec("iommu0", model="arm-smmu-v3")
    for unit, result in ((smmu, "ok"), (IommuSpec("iommu0", model="arm-smmu-v3", ats=True, pri=True), "fault")):
        m = opened(iommu=unit)
        outcome = send(m, descriptor(source=RW + 0x2000, destination=RW + 0x3000, block_on_fault=False))
        assert outcome.result == result


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"delta": 64}, r"^step\[2\]\.delta = 64: fill has no such key; it has pattern, destination, size$"),
        (
            {"operation": "create_delta", "delta": 1 << 64},
            r"^step\[2\]\.delta = 0x10000000000000000: must be below 2\^64$",
        ),
        ({"seed": 1 << 32}, r"^step\[2\]\.seed = 4294967296: expected `int` <= 4294967295$"),
        ({"operation": "compress"}, r"^step\[2\]\.operation = 'compress': no such operation of dsa; allowed: noop, "),
        ({"device": "iaa0"}, r"^step\[2\]\.operation = 'fill': no such operation of iaa; allowed: noop, drain, mem"),
        ({"device": "nic0"}, r"^step\[2\]\.device = 'nic0': has no descriptors; only one of kind dsa or iaa has$"),
        ({"size": 1 << 32}, r"^step\[2\]\.size = 4294967296: expected `int` <= 4294967295$"),
        ({"room": 1 << 32}, r"^step\[2\]\.room = 4294967296: expected `int` <= 4294967295$"),
        ({"completion": (1 << 65) - 1}, r"^step\[2\]\.completion = 0x1ffffffffffffffff: must be below 2\^64$"),
        ({"destination": 1 << 64}, r"^step\[2\]\.destination = 0x10000000000000000: must be below 2\^64$"),
        ({"pattern": 0x41}, r"^step\[2\]\.pattern = 65: expected text, got `int`$"),
        ({"pattern": "\u20ac" * 3}, r"^step\[2\]\.pattern = '\u20ac{3}': has 9 bytes; allowed: up to 8$"),
        ({"room": 64}, r"^step\[2\]\.room = 64: fill has no such key; it has pattern, destination, size$"),
        (
            {"operation": "memmove", "pattern": "x"},
            r"^step\[2\]\.pattern = 'x': memmove has no such key; it has source, ",
        ),
        (
            {"operation": "compare", "destination2": 64},
            r"^step\[2\]\.destination2 = 64: compare has no such key; it has",
        ),
        ({"operation": "noop"}, r"^step\[2\]\.size = 4: noop has no such key$"),
        (
            {"device": "iaa0", "operation": "crc64", "room": 9},
            r"^step\[2\]\.room = 9: crc64 has no such key; it has sou",
        ),
        ({"pattern": "123456789"}, r"^step\[2\]\.pattern = '123456789': .*8"),
        ({"portal": "third"}, r"^step\[2\]\.portal = 'third': .*allowed: limited"),
        ({"process": "c"}, r"^step\[2\]\.process = 'c': no such process"),
    ],
)
def test_a_descriptor_that_cannot_be_is_a_message(keys, message):
    with pytest.raises(InputError, match=message):
        scenario(**keys)


@pytest.mark.parametrize(
    ("device", "operation", "keys"),
    [
        ("dsa0", "dualcast", {"source": RW, "destination": RW + 0x1000, "destination2": RW + 0x2000, "size": 4}),
        ("dsa0", "compare_pattern", {"source": RW, "pattern": "a ", "size": 4}),
        ("iaa0", "compress", {"source": RW, "destination": RW + 64, "size": 4, "room": 64}),
    ],
)
def test_an_operation_has_keys_of_its_own(device, operation, keys):
    step = scenario(**{"device": device, "operation": operation} | keys).step[-1]
    assert {key: getattr(step, key) for key in keys} == keys
