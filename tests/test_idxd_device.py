"""A DSA behind its registers: enabling and commands, checks of descriptors, completion, faults, whatever is written."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pasidlab.devices.idxd import registers as reg
from pasidlab.devices.idxd.descriptors import DsaCompletion, Flags, Opcode, Status, build
from pasidlab.devices.idxd.registers import (
    Command,
    CommandError,
    DeviceState,
    Engcap,
    Gencap,
    Gensts,
    Grpcap,
    MsixPerm,
    Tables,
    Wqcap,
    WqMode,
)
from pasidlab.drivers.hardware import Seen
from tests.idxd_rig import ACCEPTED, DEDICATED, DST, LIST, NOOP, REC, RETRY, SRC, A, B, Rig, iaa_move, memmove

# --- enabling ------------------------------------------------------------------------------------------------------


def test_a_configured_device_is_enabled():
    rig = Rig()
    assert rig.enabled == (CommandError.SUCCESS, CommandError.SUCCESS)
    assert Gensts(rig.hw.mmio_read(reg.GENSTS, 4)).state is DeviceState.ENABLED


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"wq_size": 0}, CommandError.WQ_SIZE),
        ({"priority": 0}, CommandError.WQ_PRIORITY),
        ({"pasid_en": False}, CommandError.WQ_PASID_ENABLE),
        ({"max_batch_shift": 11}, CommandError.WQ_MAX_BATCH),
        ({"mode": WqMode.DEDICATED, "priv": True}, CommandError.WQ_PRIV),
    ],
)
def test_a_queue_whose_configuration_cannot_be_is_not_enabled(fields, error):
    rig = Rig(**fields)
    assert rig.enabled[1] == error
    assert rig.send(NOOP) is RETRY


def test_pasid_enable_without_the_pasid_capability_is_error_0x26():
    rig = Rig(pasids=False)
    assert rig.enabled[1] == 0x26
    assert Rig(pasids=False, **DEDICATED | {"pasid_en": False}).enabled[1] == CommandError.SUCCESS


@pytest.mark.parametrize(
    ("groups", "error"),
    [
        ({0: (0b1, 0)}, CommandError.GROUP_CONFIG),
        ({0: (0, 0b1)}, CommandError.GROUP_CONFIG),
        ({0: (0b1, 0b1), 1: (0b1, 0b10)}, CommandError.GROUP_WQS),
        ({0: (0b1, 0b1), 1: (0b10, 0b1)}, CommandError.GROUP_ENGINES),
        ({0: (1 << 8, 0b1)}, CommandError.GROUP_WQS),
        ({0: (0b1, 1 << 4)}, CommandError.GROUP_ENGINES),
    ],
)
def test_groups_that_cannot_be_keep_the_device_disabled(groups, error):
    rig = Rig()
    rig.command(Command.DISABLE_DEVICE)
    for index, (wqs, engines) in groups.items():
        rig.group(index, wqs=wqs, engines=engines)
    assert rig.command(Command.ENABLE_DEVICE) == error
    assert not rig.hw.enabled


def test_the_queues_share_the_room_of_the_device():
    rig = Rig()
    rig.command(Command.DISABLE_DEVICE)
    rig.config(1, wq_size=reg.TOTAL_WQ_SIZE - 3)
    assert rig.command(Command.ENABLE_DEVICE) == CommandError.WQ_SIZE_RANGE
    rig.config(1, wq_size=reg.TOTAL_WQ_SIZE - 4)
    assert rig.command(Command.ENABLE_DEVICE) == CommandError.SUCCESS


@pytest.mark.parametrize(
    ("command", "operand", "error"),
    [
        (Command.ENABLE_DEVICE, 0, CommandError.DEVICE_ENABLED),
        (Command.ENABLE_WQ, 0, CommandError.WQ_ENABLED),
        (Command.ENABLE_WQ, 8, CommandError.INVALID_WQ_INDEX),
        (Command.DISABLE_WQ, 0b10, CommandError.WQ_NOT_ENABLED),
        (Command.DISABLE_WQ, 1 << 16 | 1, CommandError.INVALID_WQ_INDEX),
        (Command.REQUEST_INT_HANDLE, 0, CommandError.INVALID_COMMAND),
        (31, 0, CommandError.INVALID_COMMAND),
        (0, 0, CommandError.INVALID_COMMAND),
    ],
)
def test_a_command_that_cannot_be_says_why(command, operand, error):
    assert Rig().command(command, operand) == error


@pytest.mark.parametrize(
    ("command", "error"),
    [
        (Command.DISABLE_DEVICE, CommandError.NOT_ENABLED),
        (Command.DRAIN_ALL, CommandError.NOT_ENABLED),
        (Command.ABORT_ALL, CommandError.NOT_ENABLED),
        (Command.ENABLE_WQ, CommandError.DEVICE_NOT_ENABLED),
        (Command.DRAIN_WQ, CommandError.NOT_ENABLED),
        (Command.DRAIN_PASID, CommandError.NOT_ENABLED),
        (Command.ABORT_PASID, CommandError.NOT_ENABLED),
    ],
)
def test_most_commands_need_an_enabled_device(command, error):
    rig = Rig()
    rig.command(Command.RESET_DEVICE)
    assert rig.command(command) == error


def test_an_enabled_queue_keeps_its_configuration():
    rig = Rig()
    rig.config(0, wq_size=1)
    assert rig.hw.wqcfg(0).wq_size == 4
    rig.config(1, wq_size=1)
    assert rig.hw.wqcfg(1).wq_size == 1


def test_an_enabled_device_keeps_its_groups():
    rig = Rig()
    rig.group(0, wqs=0, engines=0)
    assert rig.send(NOOP) is ACCEPTED
    assert len(rig.done) == 1


def test_a_queue_without_engine_is_not_served():
    rig = Rig()
    rig.config(1)
    rig.command(Command.ENABLE_WQ, 1)
    assert rig.send(NOOP, wq=1) is ACCEPTED
    assert rig.done == []
    assert rig.command(Command.DRAIN_WQ, 0b10) == CommandError.SUCCESS
    assert rig.done == []


def test_the_queue_of_higher_priority_is_served_first():
    rig = Rig()
    rig.command(Command.RESET_DEVICE)
    rig.config(0, priority=1)
    rig.config(1, priority=2)
    rig.group(0, wqs=0b11, engines=0b1)
    for command, operand in ((Command.ENABLE_DEVICE, 0), (Command.ENABLE_WQ, 0), (Command.ENABLE_WQ, 1)):
        assert rig.command(command, operand) == CommandError.SUCCESS
    rig.hw.held = True
    rig.send(NOOP, A, wq=0)
    rig.send(NOOP, B, wq=1)
    rig.hw.run()
    assert [done.wq for done in rig.done] == [1, 0]


# --- completion ----------------------------------------------------------------------------------------------------


def test_a_record_comes_on_success_only_when_it_is_requested():
    rig = Rig()
    rig.send(memmove(flags=Flags.CRAV, completion_addr=REC))
    assert rig.record().status == 0
    rig.send(memmove(flags=Flags.CRAV | Flags.RCR, completion_addr=REC))
    assert rig.record().status == Status.SUCCESS


def test_an_error_is_recorded_without_a_request():
    rig = Rig()
    rig.send(memmove(0, flags=Flags.CRAV, completion_addr=REC))
    assert rig.record().status == Status.TRANSFER_SIZE


def test_an_error_without_record_goes_to_swerr():
    rig = Rig()
    rig.memory.pages.clear()
    rig.send(memmove(), B)
    error = rig.hw.swerr
    assert (error.valid, error.desc_valid, error.overflow) == (True, True, False)
    assert (error.error, error.operation, error.pasid) == (Status.PAGE_FAULT_NO_BOF, Opcode.MEMMOVE, B)
    assert (error.fault_addr, error.fault_rw) == (SRC, False)


def test_the_second_error_leaves_the_first_and_sets_overflow():
    rig = Rig()
    rig.send(memmove(0), A)
    rig.send(memmove(0), B)
    assert (rig.hw.swerr.pasid, rig.hw.swerr.overflow) == (A, True)
    rig.write(reg.SWERR, 0b10)
    assert (rig.hw.swerr.valid, rig.hw.swerr.overflow) == (True, False)
    rig.write(reg.SWERR, 0b11)
    assert rig.hw.swerr == 0


def test_a_page_fault_of_the_record_goes_to_swerr_as_0x1a():
    rig = Rig()
    rig.send(memmove(flags=Flags.CRAV | Flags.RCR, completion_addr=0x9_0000))
    assert rig.memory.get(A, DST, 64) == rig.memory.get(A, SRC, 64)
    error = rig.hw.swerr
    assert (error.error, error.fault_addr, error.fault_rw) == (0x1A, 0x9_0000, True)
    assert not rig.done[0].recorded


def test_the_page_of_the_record_is_asked_for_whatever_the_flag_says():
    rig = Rig()
    rig.memory.served.add(0x90)
    rig.send(memmove(flags=Flags.CRAV | Flags.RCR, completion_addr=0x9_0000))
    assert rig.record(address=0x9_0000).status == Status.SUCCESS


def test_but_not_when_the_queue_has_no_prs():
    rig = Rig(wq_prs_disable=True)
    rig.memory.served.add(0x90)
    rig.send(memmove(flags=Flags.CRAV | Flags.RCR, completion_addr=0x9_0000))
    assert rig.memory.asked == []
    assert rig.hw.swerr.error == Status.RECORD_TRANSLATION


@pytest.mark.parametrize(("iaa", "size"), [(False, 32), (True, 64)])
def test_a_record_is_aligned_to_its_size(iaa, size):
    rig = Rig(iaa=iaa)
    data = iaa_move(flags=Flags.CRAV | Flags.RCR) if iaa else memmove(flags=Flags.CRAV | Flags.RCR)
    at = REC + size // 2
    rig.send(data[:8] + at.to_bytes(8, "little") + data[16:])
    assert rig.hw.swerr.error == Status.RECORD_ALIGNMENT
    assert rig.memory.log == [], "it is checked before anything is done"
    assert (rig.done[0].status, rig.done[0].recorded) == (Status.RECORD_ALIGNMENT, False)
    rig.send(data[:8] + (REC + size).to_bytes(8, "little") + data[16:])
    assert rig.record(address=REC + size).status == Status.SUCCESS


def test_a_record_that_is_not_aligned_fails_its_descriptor_of_a_batch_alone():
    rig = Rig()
    bad = memmove(4, flags=Flags.CRAV, completion_addr=REC + 0x110)
    rig.memory.put(A, LIST, bad + memmove(8, destination=DST + 64))
    rig.memory.put(A, SRC, b"12345678")
    record = rig.do(Opcode.BATCH, source=LIST, size=2)
    assert (record.status, record.bytes_completed) == (Status.BATCH_FAILED, 2)
    assert (rig.memory.get(A, DST, 4), rig.memory.get(A, DST + 64, 8)) == (bytes(4), b"12345678")
    assert (rig.hw.swerr.error, rig.hw.swerr.batch) == (Status.RECORD_ALIGNMENT, True)


def test_the_record_goes_to_the_memory_of_the_descriptors_pasid():
    rig = Rig()
    assert rig.do(Opcode.NOOP, pasid=B).status == Status.SUCCESS
    assert rig.record(A).status == 0


# --- checks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("opcode", [0x0B, 0x12, 0x17, 0x42, 0xFF])
def test_an_operation_that_the_device_does_not_have_is_refused(opcode):
    assert Rig().do(opcode).status == Status.BAD_OPCODE


def test_opcap_has_the_operations_that_there_are():
    opcap = Rig().hw.mmio_read(reg.OPCAP, 32)
    assert opcap == 0x1_0003_07FF
    assert Rig(iaa=True).hw.mmio_read(reg.OPCAP, 32) == 0x1C << 64 | 0xD


@pytest.mark.parametrize("flag", [Flags.FENCE, Flags.DRDBK, Flags.DSTS, Flags.CR, 1 << 6, 1 << 16])
def test_a_flag_that_does_not_apply_is_told_in_the_record(flag):
    record = Rig().do(Opcode.NOOP, flag)
    assert record.status == Status.INVALID_FLAGS
    assert record.operation_specific == flag


def test_block_on_fault_is_for_queues_that_have_it():
    assert Rig(bof=False).do(Opcode.NOOP, Flags.BOF).status == Status.INVALID_FLAGS
    assert Rig(wq_prs_disable=True).do(Opcode.NOOP, Flags.BOF).status == Status.INVALID_FLAGS
    assert Rig().do(Opcode.NOOP, Flags.BOF).status == Status.SUCCESS


def test_a_request_for_a_record_needs_its_address():
    rig = Rig()
    rig.send(build(Opcode.NOOP, Flags.RCR))
    assert (rig.hw.swerr.error, rig.done[0].status) == (Status.INVALID_FLAGS, Status.INVALID_FLAGS)


def test_reserved_fields_are_zero():
    assert Rig().do(Opcode.NOOP, operation_specific=1).status == Status.RESERVED_NOT_ZERO
    rig = Rig()
    rig.send(build(Opcode.NOOP)[:38] + b"\1\0" + bytes(24))
    assert rig.done[0].status == Status.RESERVED_NOT_ZERO


@pytest.mark.parametrize(("size", "status"), [(0, 0x13), (1, 1), (1 << 21, 1), ((1 << 21) + 1, 0x13)])
def test_a_transfer_has_a_size_within_the_queues_bound(size, status):
    rig = Rig()
    for at in (0x40_0000, 0x80_0000):
        rig.memory.map(A, at, 513)
    record = rig.do(Opcode.MEMMOVE, source=0x40_0000, destination=0x80_0000, size=size)
    assert record.status == status


def test_an_interrupt_is_for_the_pasid_of_its_msix_permission():
    rig = Rig()
    assert rig.do(Opcode.NOOP, Flags.RCI, int_handle=1).status == Status.INT_HANDLE
    rig.write(reg.MSIX_PERM + reg.MSIX_PERM_BYTES, MsixPerm(pasid=A, pasid_en=True))
    assert rig.do(Opcode.NOOP, Flags.RCI, int_handle=1).status == Status.SUCCESS
    assert rig.do(Opcode.NOOP, Flags.RCI, int_handle=1, pasid=B).status == Status.INT_HANDLE
    rig.write(reg.MSIX_PERM + reg.MSIX_PERM_BYTES, MsixPerm(ignore=True))
    assert rig.do(Opcode.NOOP, Flags.RCI, int_handle=1, pasid=B).status == Status.SUCCESS
    assert rig.do(Opcode.NOOP, Flags.RCI, int_handle=9).status == Status.INT_HANDLE


# --- page faults ---------------------------------------------------------------------------------------------------


def test_without_block_on_fault_the_fault_is_told_and_no_page_asked_for():
    rig = Rig()
    record = rig.do(Opcode.MEMMOVE, source=SRC, destination=DST + 0x3FF0, size=0x20)
    assert (record.status, record.fault_write) == (Status.PAGE_FAULT_NO_BOF, True)
    assert (record.bytes_completed, record.fault_addr) == (0x10, DST + 0x4000)
    assert rig.memory.asked == []


def test_with_block_on_fault_the_page_comes_and_the_work_goes_on():
    rig = Rig()
    rig.memory.served.add((DST + 0x4000) // 4096)
    record = rig.do(Opcode.MEMMOVE, Flags.BOF, source=SRC, destination=DST + 0x3FF0, size=0x20)
    assert (record.status, record.bytes_completed) == (Status.SUCCESS, 0x20)
    assert rig.memory.asked == [(A, DST + 0x4000)]


@pytest.mark.parametrize("seen", [Seen.INVALID, Seen.FAILURE])
def test_a_refused_page_request_is_status_4(seen):
    rig = Rig()
    rig.memory.seen = seen
    record = rig.do(Opcode.MEMMOVE, Flags.BOF, source=0x9_0000, destination=DST, size=4)
    assert (record.status, record.fault_write, record.fault_addr) == (4, False, 0x9_0000)


def test_a_blocked_access_is_a_failed_translation():
    rig = Rig()
    rig.memory.seen = Seen.BLOCKED
    assert rig.do(Opcode.MEMMOVE, Flags.BOF, source=0x9_0000, destination=DST, size=4).status == 0x22


# --- whatever is written -------------------------------------------------------------------------------------------

ODD = Rig()
"""A device that gets anything; kept over all examples, since queues are empty after each."""


@settings(max_examples=300, deadline=None)
@given(
    data=st.binary(min_size=64, max_size=64),
    opcode=st.sampled_from([*Opcode, 0xFF]),
    places=st.lists(st.sampled_from([SRC, DST, REC, LIST, 0, (1 << 64) - 32]), min_size=3, max_size=3),
    size=st.one_of(st.integers(0, 200), st.integers(0, (1 << 32) - 1)),
    clean=st.booleans(),
    pasid=st.sampled_from([A, B, 0x33]),
    offset=st.one_of(st.integers(-(1 << 20), 1 << 24), st.sampled_from([0, 0x1000, 0x2000, 0x3000])),
    posted=st.booleans(),
)
def test_no_64_bytes_raise_or_touch_another_pasids_memory(data, opcode, places, size, clean, pasid, offset, posted):
    memory = ODD.memory
    memory.log.clear()
    head = pasid.to_bytes(4, "little") + (data[4:7] if not clean else b"\x0e\0\0") + bytes([opcode])
    places = b"".join(place.to_bytes(8, "little") for place in places)
    tail = bytes(28) if clean else data[36:]
    ODD.hw.portal_write(offset, head + places + size.to_bytes(4, "little") + tail, posted=posted)
    assert {touched for touched, *_ in memory.log} <= {pasid}


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=80), st.integers(-100, 1 << 20), st.booleans())
def test_no_write_to_a_portal_raises(data, offset, posted):
    Rig(sloppy=True).hw.portal_write(offset, data, posted=posted)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.one_of(st.integers(-16, 0x1100), st.sampled_from([reg.CMD, reg.WQCFG, reg.GRPCFG, reg.SWERR])),
            st.integers(0, (1 << 64) - 1),
            st.sampled_from([1, 4, 8, 32, 64]),
        ),
        max_size=12,
    )
)
def test_no_write_to_a_register_raises(writes):
    rig = Rig()
    rig.hw.held = True
    rig.send(memmove())
    for offset, value, size in writes:
        rig.hw.mmio_write(offset, value, size)
        assert 0 <= rig.hw.mmio_read(offset, size) < 1 << 8 * size
    rig.send(memmove())
    rig.hw.run()


def test_capabilities_are_read_only():
    rig = Rig()
    for offset, word, size in (
        (reg.GENCAP, Gencap, 8),
        (reg.WQCAP, Wqcap, 8),
        (reg.GRPCAP, Grpcap, 8),
        (reg.ENGCAP, Engcap, 8),
        (reg.TABLES, Tables, 16),
    ):
        before = rig.hw.mmio_read(offset, size)
        rig.write(offset, (1 << 8 * size) - 1, size)
        assert rig.hw.mmio_read(offset, size) == before != 0
        assert word(before).reserved == 0


def test_queues_have_ats_and_prs_and_can_be_shared_or_dedicated():
    wqcap = Wqcap(Rig().hw.mmio_read(reg.WQCAP, 8))
    assert (wqcap.wq_ats_support, wqcap.wq_prs_support, wqcap.shared_mode, wqcap.dedicated_mode) == (True,) * 4


def test_the_tables_are_where_the_register_says():
    tables = Tables(Rig().hw.mmio_read(reg.TABLES, 16))
    assert [at * 0x100 for at in (tables.grpcfg, tables.wqcfg, tables.msix_perm)] == [0x300, 0x400, 0x500]


def test_a_completion_in_memory_is_the_word():
    rig = Rig()
    rig.do(Opcode.MEMMOVE, source=SRC, destination=DST, size=8)
    assert rig.memory.get(A, REC, 32) == DsaCompletion(status=1, bytes_completed=8).pack()
