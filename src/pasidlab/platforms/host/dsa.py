"""DSA and IAA as the idxd driver shows them in sysfs: whether they have PASIDs, what failed last, how queues are set.

Source: Documentation/ABI/stable/sysfs-driver-dma-idxd; drivers/dma/idxd/sysfs.c and init.c, include/uapi/linux/idxd.h,
Linux 6.12.

Decided here: `pasid_enabled` 0 makes the function one without PASIDs, whatever the cause is; 1 says nothing, since from
6.16 on the driver shows 1 without asking. A device counts as one with shared queues if any that has a size is shared.
Not read: groups, engines, traffic classes, statistics.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from pasidlab.devices.idxd import refusals
from pasidlab.devices.idxd.registers import CommandError, Swerr
from pasidlab.platforms.host.numbers import read_flag, read_number
from pasidlab.platforms.host.tree import Tree, read_text
from pasidlab.platforms.said import Endpoint, Rid, Said, rid_of
from pasidlab.rules import Finding, Level, Rule

DEVICES = "sys/bus/dsa/devices"
_DEVICE = re.compile(r"(dsa|iax)(\d{1,6})")
_QUEUE = re.compile(r"wq(\d{1,6})\.\d{1,6}")
_DRIVERS_OWN = 0x8000_0000
"""Codes of `cmd_status` from here on are the driver's, smaller ones the device's."""
SYSFS = "Documentation/ABI/stable/sysfs-driver-dma-idxd"

PASID_DISABLED = Rule(
    "idxd.pasid-disabled",
    f"{SYSFS}, pasid_enabled",
    "pasid_enabled == 0",
    "{device} ({function}) has no PASIDs: pasid_enabled is 0, so that it has no shared queues, and no user has SVA",
    source="Linux 6.12 (read)",
    remedy="see in this order: VT-d is on in the firmware's setup; the kernel has CONFIG_INTEL_IOMMU_SVM, and "
    "intel_iommu=on,sm_on; every unit has scalable mode and PASIDs; CPU and unit have the same levels of page tables, "
    "else no5lvl; the function has PASID, ATS and PRI, and the path to it passes TLP prefixes; then load idxd again",
    level=Level.ERROR,
)
COMMAND_STATUS = Rule(
    "idxd.cmd-status",
    f"{SYSFS}, cmd_status",
    "cmd_status != 0",
    "{device} ({function}): the last command failed with cmd_status {status:#x}: {meaning}",
    source="Linux 6.12 (read)",
    remedy="it stays until the next command: look whether it is of now, then look at the check it names",
    level=Level.WARNING,
)
SOFTWARE_ERROR = Rule(
    "idxd.software-error",
    f"{SYSFS}, errors",
    "SWERR.valid",
    "{device} ({function}) holds an error that no completion record could tell: code {error:#x}, PASID {pasid}, queue "
    "{queue}, address {address:#x}",
    source="Linux 6.12 (read)",
    remedy="a completion record was not writable, or a descriptor was wrong; the driver of 6.12 has it in its log too",
    level=Level.WARNING,
)
QUEUE_WITHOUT_ATS = Rule(
    "idxd.queue-without-ats",
    f"{SYSFS}, ats_disable",
    "ats_disable == 1 or prs_disable == 1 of a user queue",
    "{queue} of {device}: {what} is 1, so that a page which is not there is never asked for: the descriptor fails",
    source="Linux 6.12 (read)",
    remedy="write 0 while the queue is disabled, or let programs touch their pages before",
    level=Level.WARNING,
)
QUEUE_FAULTS = Rule(
    "idxd.queue-does-not-block",
    f"{SYSFS}, block_on_fault",
    "block_on_fault == 0 of a user queue",
    "{queue} of {device}: block_on_fault is 0: a descriptor that meets a page fault ends with status 3, and its user "
    "has to touch the page and go on",
    source="Linux 6.12 (read)",
    remedy="write 1 while the queue is disabled, if the device has it, or see that the program does",
    level=Level.NOTE,
)


@dataclass(slots=True, eq=False)
class Queue:
    """A work queue; what is None or empty could not be read."""

    name: str
    mode: str = ""
    type: str = ""
    state: str = ""
    size: int | None = None
    threshold: int | None = None
    block_on_fault: bool | None = None
    ats_disable: bool | None = None
    prs_disable: bool | None = None


@dataclass(slots=True, eq=False)
class Accelerator:
    """A DSA or an IAA; what is None or empty could not be read.

    Attributes:
        function: the name of its PCI function; empty where the link is not there.
        errors: SWERR as of the last error.
        op_cap: the operations that it has, as the driver prints them.
    """

    name: str
    kind: Literal["dsa", "iaa"]
    function: str = ""
    pasid_enabled: bool | None = None
    state: str = ""
    cmd_status: int | None = None
    errors: Swerr | None = None
    max_work_queues: int | None = None
    op_cap: str = ""
    queues: list[Queue] = field(default_factory=list)

    @property
    def rid(self) -> Rid | None:
        """The requester ID of its function."""
        return rid_of(self.function)


def accelerators(tree: Tree) -> list[Accelerator]:
    """Return the DSAs and IAAs of a host, each with its queues."""
    found: dict[str, Accelerator] = {}
    numbers: dict[str, Accelerator] = {}
    names = tree.names(DEVICES)
    for name in names:
        match = _DEVICE.fullmatch(name)
        if match is not None:
            found[name] = numbers[match[2]] = _accelerator(tree, name, "dsa" if match[1] == "dsa" else "iaa")
    for name in names:
        match = _QUEUE.fullmatch(name)
        if match is not None:
            device = found.get(_above(tree, name)) or numbers.get(match[1])
            if device is not None:
                device.queues.append(_queue(tree, name))
    return list(found.values())


def _above(tree: Tree, name: str) -> str:
    """Return what a device of the bus belongs to: the last part but one of where its link leads."""
    target = tree.link(f"{DEVICES}/{name}")
    parts = [] if target is None else target.rstrip("/").split("/")
    return parts[-2] if len(parts) > 1 else ""


def _accelerator(tree: Tree, name: str, kind: Literal["dsa", "iaa"]) -> Accelerator:
    place = f"{DEVICES}/{name}"
    above = _above(tree, name)
    return Accelerator(
        name,
        kind,
        function=above if rid_of(above) else "",
        pasid_enabled=read_flag(tree, f"{place}/pasid_enabled"),
        state=read_text(tree, f"{place}/state") or "",
        cmd_status=read_number(tree, f"{place}/cmd_status"),
        errors=_errors(read_text(tree, f"{place}/errors") or ""),
        max_work_queues=read_number(tree, f"{place}/max_work_queues"),
        op_cap=read_text(tree, f"{place}/op_cap") or "",
    )


def _queue(tree: Tree, name: str) -> Queue:
    place = f"{DEVICES}/{name}"
    return Queue(
        name,
        mode=read_text(tree, f"{place}/mode") or "",
        type=read_text(tree, f"{place}/type") or "",
        state=read_text(tree, f"{place}/state") or "",
        size=read_number(tree, f"{place}/size"),
        threshold=read_number(tree, f"{place}/threshold"),
        block_on_fault=read_flag(tree, f"{place}/block_on_fault"),
        ats_disable=read_flag(tree, f"{place}/ats_disable"),
        prs_disable=read_flag(tree, f"{place}/prs_disable"),
    )


def _errors(text: str) -> Swerr | None:
    words = text.split()
    if len(words) != Swerr.SIZE // 64 or not all(re.fullmatch(r"(0[xX])?[0-9a-fA-F]{1,16}", word) for word in words):
        return None
    return Swerr.from_words(*(int(word, 16) for word in words))


# --- what it means -------------------------------------------------------------------------------------------------


def dsa_says(tree: Tree) -> Said:
    """Return what a host's sysfs says of DSAs and IAAs."""
    said = Said(f"{tree.name}: {DEVICES}")
    for device in accelerators(tree):
        said.found(_findings(device))
        if device.rid is not None:
            said.endpoints.append(_endpoint(device))
    return said


def _endpoint(device: Accelerator) -> Endpoint:
    place = f"{DEVICES}/{device.name}"
    endpoint = Endpoint(device.function, "pci", place, device.rid)
    endpoint.say("kind", device.kind, place)
    if device.pasid_enabled is False:
        endpoint.say("pasid_enabled", False, f"{place}/pasid_enabled 0")
    modes = {queue.mode: queue.name for queue in reversed(device.queues) if queue.size}
    for mode in ("shared", "dedicated"):
        if mode in modes:
            endpoint.say("queue", mode, f"{DEVICES}/{modes[mode]}/mode {mode}")
    return endpoint


def _findings(device: Accelerator) -> Iterable[Finding]:
    facts = {"device": device.name, "function": device.function or "its function is unknown"}
    if device.pasid_enabled is False:
        yield PASID_DISABLED.finding(**facts)
    if device.cmd_status:
        meaning = command_meaning(device.cmd_status)
        yield COMMAND_STATUS.finding(status=device.cmd_status, meaning=meaning, **facts)
    errors = device.errors
    if errors is not None and errors.valid:
        queue = errors.wq_idx if errors.wq_idx_valid else "unknown"
        told = {"error": errors.error, "pasid": errors.pasid, "queue": queue, "address": errors.fault_addr}
        yield SOFTWARE_ERROR.finding(**told, **facts)
    for one in device.queues:
        if one.type == "user" and one.size:
            yield from _queue_findings(device, one)


def _queue_findings(device: Accelerator, queue: Queue) -> Iterable[Finding]:
    for what in ("ats_disable", "prs_disable"):
        if getattr(queue, what):
            yield QUEUE_WITHOUT_ATS.finding(queue=queue.name, device=device.name, what=what)
    if queue.block_on_fault is False:
        yield QUEUE_FAULTS.finding(queue=queue.name, device=device.name)


def command_meaning(status: int) -> str:
    """Return what a `cmd_status` means: the driver's check that refused, or the device's error."""
    if status < _DRIVERS_OWN:
        code = status & 0xFF
        known = next((error for error in CommandError if error == code), None)
        words = "a code that is not known here" if known is None else known.name.lower().replace("_", " ")
        return f"the device answered {words}"
    scmd = next((one for one in refusals.Scmd if one == status), None)
    if scmd is None:
        return "a refusal of the driver that is not known here"
    rule: Rule = getattr(refusals, scmd.name)
    return f"the driver refused, {rule.check} (rule {rule.id})"
