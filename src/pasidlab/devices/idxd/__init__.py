"""Intel DSA and IAA: registers, portals, work queues, descriptors, and the kernel driver that configures them.

| module | what it is |
|---|---|
| `descriptors` | the 64-byte descriptors and the completion records, as words |
| `registers` | capabilities, WQCFG, GRPCFG, commands, SWERR, portals |
| `queues`, `job`, `operations`, `analytics`, `engine` | a descriptor's way through the device |
| `commands`, `portals`, `device` | the device behind its registers and portals |
| `driver`, `refusals` | the kernel driver, idxd, and why it cannot enable a queue |
| `library` | the descriptors that a program makes of a job |
| `endpoint` | all of it as a machine has it |
"""

from pasidlab.devices.idxd.device import IdxdDevice
from pasidlab.devices.idxd.driver import IdxdDriver
from pasidlab.devices.idxd.endpoint import Idxd

__all__ = ["Idxd", "IdxdDevice", "IdxdDriver"]
