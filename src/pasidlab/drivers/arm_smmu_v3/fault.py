"""What the SMMU reports, and what the driver answers: event queue, PRI queue, CMD_RESUME.

Only stalled faults become page requests of the core: each is a group of one, whose index is the stall tag. A device's
PRI page requests are not used: they are denied.

Source: arm_smmu_evtq_thread(), arm_smmu_handle_event(), arm_smmu_dump_event() (7.3; 6.12 prints less),
arm_smmu_priq_thread(), arm_smmu_handle_ppr(), arm_smmu_page_response(), Linux 6.12.117 and 7.3.4.
Not modelled: the rate limit of printed events.
"""

from __future__ import annotations

from collections.abc import Iterator

from pasidlab import events
from pasidlab.drivers.arm_smmu_v3.cmdq import arm_smmu_cmdq_issue_cmd
from pasidlab.drivers.arm_smmu_v3.device import EVTQ_ENT_BYTES, PRIQ_ENT_BYTES
from pasidlab.drivers.arm_smmu_v3.structs import ArmSmmuDevice, ArmSmmuMaster, Queue
from pasidlab.hw.smmuv3.commands import PriResp, Resp, Resume
from pasidlab.hw.smmuv3.records import Event, FAccess, FAddrSize, FPermission, FTranslation, PriRecord, event_of
from pasidlab.hw.smmuv3.registers import EventqCons, EventqProd, Offset
from pasidlab.linux.iopf import PERM_EXEC, PERM_PRIV, PERM_READ, PERM_WRITE, Fault, ResponseCode
from pasidlab.rules import WAS_READ, Rule

PRI_DENIED = Rule(
    "arm-smmu-v3.pri-denied",
    "arm_smmu_handle_ppr (drivers/iommu/arm/arm-smmu-v3)",
    "any page request; the last of its group is answered",
    "{smmu} prints that it did not expect a page request of stream {sid:#x}, and denies it",
    source=WAS_READ,
    remedy="let the program touch or pin its memory before it gives it to the device",
)

StallEvent = FTranslation | FAddrSize | FAccess | FPermission


def _entries(smmu: ArmSmmuDevice, queue: Queue, size: int, prod: Offset, cons: Offset) -> Iterator[bytes]:
    """Take entries until the queue is empty, telling the SMMU after each; an overflow is acknowledged."""
    wrap = (2 << queue.max_n_shift) - 1
    while True:
        produced = EventqProd(smmu.mmio_read(prod))
        if produced.wr & wrap == queue.cons:
            return
        index = queue.cons & wrap >> 1
        entry = smmu.kernel.memory.load(queue.base + index * size, size)
        queue.cons = (queue.cons + 1) & wrap
        smmu.mmio_write(cons, EventqCons(rd=queue.cons, ovackflg=produced.ovflg))
        if entry is not None:
            yield entry


def arm_smmu_events(smmu: ArmSmmuDevice) -> Iterator[Event]:
    """Take the event queue's records."""
    for entry in _entries(smmu, smmu.evtq, EVTQ_ENT_BYTES, Offset.EVENTQ_PROD, Offset.EVENTQ_CONS):
        yield event_of(int.from_bytes(entry, "little"))


def arm_smmu_page_requests(smmu: ArmSmmuDevice) -> Iterator[PriRecord]:
    """Take the PRI queue's records."""
    for entry in _entries(smmu, smmu.priq, PRIQ_ENT_BYTES, Offset.PRIQ_PROD, Offset.PRIQ_CONS):
        yield PriRecord.unpack(entry)


def stall_fault(event: Event) -> Fault | None:
    """Return the page request that a stalled fault is; None for any other event (arm_smmu_handle_event())."""
    if not isinstance(event, StallEvent) or not event.stall:
        return None
    perm = PERM_READ if event.rnw else PERM_WRITE
    perm |= PERM_EXEC if event.ind else 0
    perm |= PERM_PRIV if event.pnu else 0
    pasid = event.ssid if event.ssv else None
    return Fault(pasid, event.inputaddr, perm, last=True, grpid=event.stag)


def arm_smmu_dump_event(smmu: ArmSmmuDevice, master: ArmSmmuMaster | None, event: Event) -> None:
    """Print an event that nobody takes; `master` is the device of its stream, if there is one."""
    if smmu.kernel.observers:
        name = Event.FIELDS["code"].names.get(event.code, f"{event.code:#04x}")
        device = "" if master is None else master.dev.name
        smmu.kernel.emit(events.SmmuEvent(smmu.name, device, name, event.sid, event.ssid, event.words))


def stall_event(sid: int, fault: Fault) -> Event:
    """Return the record that says the same as a page request, as if the SMMU had stalled it under that tag."""
    return FTranslation.make(
        sid=sid,
        ssv=fault.pasid is not None,
        ssid=fault.pasid or 0,
        stag=fault.grpid & 0xFFFF,
        stall=True,
        pnu=bool(fault.perm & PERM_PRIV),
        ind=bool(fault.perm & PERM_EXEC),
        rnw=not fault.perm & PERM_WRITE,
        inputaddr=fault.addr,
    )


def arm_smmu_handle_ppr(smmu: ArmSmmuDevice, record: PriRecord) -> None:
    """Deny a page request of a device, once for its group."""
    smmu.kernel.decided(PRI_DENIED, smmu=smmu.name, sid=record.sid)
    if not record.last:
        return
    response = PriResp.make(
        sid=record.sid, ssv=record.ssv, ssid=record.ssid, prgindex=record.prgindex, resp=Resp.FAILURE
    )
    arm_smmu_cmdq_issue_cmd(smmu, response)


def arm_smmu_page_response(master: ArmSmmuMaster, fault: Fault, code: ResponseCode) -> None:
    """Resume a stalled transaction: retry it on success, else abort it. Nothing waits for that, so no CMD_SYNC."""
    if not master.stall_enabled:
        master.smmu.kernel.warn("arm_smmu_page_response", f"{master.dev.name} does not stall")
        return
    success = code is ResponseCode.SUCCESS
    resume = Resume.make(sid=master.streams[0], stag=fault.grpid & 0xFFFF, ac=success, ab=not success)
    arm_smmu_cmdq_issue_cmd(master.smmu, resume)
