"""The portals and queues of a DSA: which write is accepted, under which PASID it works, what waits and is drained."""

from __future__ import annotations

import pytest

from pasidlab.devices.idxd import registers as reg
from pasidlab.devices.idxd.descriptors import Flags, Opcode, Status, build
from pasidlab.devices.idxd.portals import (
    DEDICATED_NO_OWNER,
    DEDICATED_RETRY,
    DROPPED_ERRORS,
    POSTED_TO_DISABLED,
    POSTED_TO_FULL,
    POSTED_TO_SHARED,
    QUEUE_DISABLED,
    QUEUE_FULL,
    QUEUE_LIMIT,
)
from pasidlab.devices.idxd.registers import (
    Command,
    CommandError,
    Portal,
    Wqcfg,
    WqMode,
    WqState,
    portal_offset,
)
from tests.idxd_rig import ACCEPTED, DEDICATED, DST, NOOP, REC, RETRY, SRC, A, B, Rig, memmove

# --- shared queues -------------------------------------------------------------------------------------------------


def test_a_shared_queue_works_under_the_pasid_of_the_write():
    rig = Rig()
    rig.memory.put(A, SRC, b"of a")
    rig.memory.put(B, SRC, b"of b")
    assert rig.send(memmove(4), B) is ACCEPTED
    assert rig.memory.get(B, DST, 4) == b"of b"
    assert rig.memory.get(A, DST, 4) == bytes(4)
    assert (rig.done[0].pasid, rig.done[0].status) == (B, Status.SUCCESS)


def test_a_shared_queue_drops_a_posted_write_and_tells_swerr():
    rig = Rig()
    assert rig.send(memmove(), B, posted=True) is None
    assert rig.done == []
    error = rig.hw.swerr
    assert (error.valid, error.pasid, error.operation) == (True, B, Opcode.MEMMOVE)
    assert error.error == DROPPED_ERRORS[POSTED_TO_SHARED]


def test_a_sloppy_device_believes_the_pasid_of_a_posted_write():
    rig = Rig(sloppy=True)
    rig.memory.put(B, SRC, b"of b")
    assert rig.send(memmove(4), B, posted=True) is None
    assert rig.memory.get(B, DST, 4) == b"of b"
    assert not rig.hw.swerr.valid


def test_privileged_work_needs_privileged_mode_of_the_pasid_capability():
    rig = Rig()
    rig.send(memmove(), priv=True)
    assert rig.done[0].status == Status.BAD_PRIV
    rig.hw.engine.privileged_enabled = True
    rig.send(memmove(), priv=True)
    assert rig.done[1].status == Status.SUCCESS
    assert {privileged for *_, privileged in rig.memory.log} == {True}


@pytest.mark.parametrize("opcode", [Opcode.MEMMOVE, Opcode.BATCH, 0x7F])
def test_without_privileged_mode_no_record_tells_of_the_privilege_but_swerr_does(opcode):
    rig = Rig()
    data = build(opcode, Flags.CRAV | Flags.RCR, source=SRC, destination=DST, size=4, completion_addr=REC)
    rig.send(data, priv=True)
    assert (rig.done[0].status, rig.done[0].recorded) == (Status.BAD_PRIV, False)
    assert (rig.hw.swerr.error, rig.hw.swerr.priv, rig.hw.swerr.pasid) == (Status.BAD_PRIV, True, A)
    assert rig.memory.log == []


def test_reserved_bits_of_dword_0_are_refused():
    rig = Rig()
    rig.send(NOOP, A | 1 << 20)
    assert rig.done[0].status == Status.RESERVED_NOT_ZERO


# --- dedicated queues ----------------------------------------------------------------------------------------------


def test_a_dedicated_queue_works_under_the_pasid_of_wqcfg():
    rig = Rig(**DEDICATED)
    rig.memory.put(A, SRC, b"of a")
    assert rig.send(memmove(4), B, posted=True) is None
    assert rig.memory.get(A, DST, 4) == b"of a"
    assert rig.memory.get(B, DST, 4) == bytes(4)


def test_a_dedicated_queue_does_not_look_at_dword_0():
    rig = Rig(**DEDICATED)
    rig.send(NOOP, 0xFFFF_FFFF & ~(1 << 31), priv=True, posted=True)
    assert (rig.done[0].status, rig.done[0].pasid, rig.done[0].privileged) == (Status.SUCCESS, A, False)


def test_a_dedicated_queue_answers_a_non_posted_write_with_retry():
    rig = Rig(**DEDICATED)
    assert rig.send(NOOP) is RETRY
    assert rig.hw.take(portal_offset(0), NOOP, posted=False) is DEDICATED_RETRY
    assert rig.done == []


def test_without_pasid_enable_requests_carry_none():
    rig = Rig(**DEDICATED | {"pasid_en": False})
    rig.memory.map(None, SRC)
    rig.memory.map(None, DST)
    rig.send(memmove(), posted=True)
    assert {pasid for pasid, *_ in rig.memory.log} == {None}
    assert rig.done[0].pasid is None


def test_a_full_dedicated_queue_drops_the_write():
    rig = Rig(**DEDICATED)
    rig.hw.held = True
    for _ in range(4):
        rig.send(NOOP, posted=True)
    assert rig.hw.take(portal_offset(0), NOOP, posted=True) is POSTED_TO_FULL
    assert rig.hw.swerr.error == DROPPED_ERRORS[POSTED_TO_FULL]
    assert rig.hw.run() == 4


# --- occupancy -----------------------------------------------------------------------------------------------------


def test_a_shared_queue_that_is_full_answers_retry():
    rig = Rig()
    rig.hw.held = True
    assert [rig.send(NOOP) for _ in range(5)] == [ACCEPTED] * 4 + [RETRY]
    assert rig.hw.take(portal_offset(0, Portal.UNLIMITED), NOOP, posted=False) is QUEUE_FULL
    assert rig.hw.run(1) == 1
    assert rig.send(NOOP) is ACCEPTED


@pytest.mark.parametrize("portal", [Portal.LIMITED, Portal.LIMITED_IMS])
def test_a_limited_portal_accepts_below_the_threshold_only(portal):
    rig = Rig()
    rig.hw.held = True
    assert [rig.send(NOOP, portal=portal) for _ in range(3)] == [ACCEPTED, ACCEPTED, RETRY]
    assert rig.hw.take(portal_offset(0, portal), NOOP, posted=False) is QUEUE_LIMIT
    assert rig.send(NOOP, portal=Portal.UNLIMITED) is ACCEPTED
    assert rig.send(NOOP, portal=Portal.UNLIMITED_IMS) is ACCEPTED


def test_wqcfg_tells_the_occupancy():
    rig = Rig()
    rig.hw.held = True
    rig.send(NOOP)
    rig.send(NOOP)
    config = Wqcfg(rig.hw.mmio_read(reg.WQCFG, reg.WQCFG_BYTES))
    assert (config.occupancy, config.wq_state) == (2, WqState.ENABLED)


@pytest.mark.parametrize("offset", [portal_offset(1), portal_offset(7), portal_offset(8), 1 << 40, -64])
def test_a_queue_that_is_not_enabled_answers_retry(offset):
    rig = Rig()
    assert rig.hw.portal_write(offset, NOOP, posted=False) is RETRY
    assert rig.hw.take(offset, NOOP, posted=False) is QUEUE_DISABLED


def test_a_posted_write_to_a_queue_that_is_not_enabled_is_dropped():
    rig = Rig()
    assert rig.hw.take(portal_offset(1), NOOP, posted=True) is POSTED_TO_DISABLED
    assert rig.hw.swerr.wq_idx == 1
    rig.config(1, mode=WqMode.DEDICATED)
    assert rig.hw.take(portal_offset(1), NOOP, posted=True) is DEDICATED_NO_OWNER


def test_any_place_in_a_portals_page_is_the_portal():
    rig = Rig()
    assert rig.hw.portal_write(portal_offset(0) + 0xFC0, NOOP, posted=False) is ACCEPTED


# --- drain and abort -----------------------------------------------------------------------------------------------


def held_with(*pasids: int) -> Rig:
    rig = Rig()
    rig.hw.held = True
    for pasid in pasids:
        rig.send(NOOP, pasid)
    return rig


def test_draining_a_pasid_finishes_its_descriptors_and_no_others():
    rig = held_with(A, B, A)
    assert rig.command(Command.DRAIN_PASID, A) == CommandError.SUCCESS
    assert [done.pasid for done in rig.done] == [A, A]
    assert rig.hw.queues[0].occupancy == 1


def test_aborting_a_pasid_forgets_its_descriptors_and_no_others():
    rig = held_with(A, B, A)
    assert rig.command(Command.ABORT_PASID, A) == CommandError.SUCCESS
    assert rig.done == []
    assert rig.hw.run() == 1
    assert rig.done[0].pasid == B


@pytest.mark.parametrize(
    ("command", "operand", "done"),
    [
        (Command.DRAIN_ALL, 0, 2),
        (Command.ABORT_ALL, 0, 0),
        (Command.DRAIN_WQ, 1, 2),
        (Command.ABORT_WQ, 1, 0),
        (Command.DISABLE_WQ, 1, 2),
        (Command.RESET_WQ, 1, 0),
        (Command.DISABLE_DEVICE, 0, 2),
        (Command.RESET_DEVICE, 0, 0),
    ],
)
def test_drain_and_disable_finish_what_waits_abort_and_reset_forget_it(command, operand, done):
    rig = held_with(A, B)
    assert rig.command(command, operand) == CommandError.SUCCESS
    assert len(rig.done) == done
    assert rig.hw.queues[0].occupancy == 0


def test_a_disabled_queue_takes_nothing():
    rig = Rig()
    rig.command(Command.DISABLE_WQ, 1)
    assert rig.send(NOOP) is RETRY
    assert Wqcfg(rig.hw.mmio_read(reg.WQCFG, 32)).wq_size == 4
    rig.command(Command.ENABLE_WQ, 0)
    assert rig.send(NOOP) is ACCEPTED
    rig.command(Command.RESET_WQ, 1)
    assert Wqcfg(rig.hw.mmio_read(reg.WQCFG, 32)).wq_size == 0
