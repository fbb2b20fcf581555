"""The checks of DSA and IAA: probe, queues, portals, and the instruction that writes to them.

Source: the rules themselves, declared in `devices`, `linux` and `own_rules`, each with function and version; the order
is that of drivers/dma/idxd, Linux 7.3.4.
"""

from __future__ import annotations

from pasidlab.errors import Errno
from pasidlab.explain import facts, states
from pasidlab.explain.check import Check, State
from pasidlab.linux.profiles import Profile

_BY_ASKING = "kernels before 6.16, which ask the IOMMU"


def _asks(profile: Profile) -> bool:
    return profile.enable_feature


PROBE = (
    Check("idxd.sva-forced-off", state=states.CONFIGURED),
    Check("idxd.user-sva-refused", _BY_ASKING, _asks, fact=facts.scalable),
    Check("idxd.no-kernel-number", fact=facts.carries, state=states.FULL),
)
ENABLE_WQ = (
    Check("idxd.device-enabled", state=states.CONFIGURED),
    Check("idxd.shared-mode-refused", state=states.CONFIGURED),
    Check("idxd.threshold-of-dedicated", state=states.CONFIGURED),
    Check("idxd.no-shared-queues", fact=facts.queue),
    Check("idxd.no-queue-configured", state=states.CONFIGURED),
    Check("idxd.device-not-enabled", fact=facts.queue),
    Check("idxd.user-queue-without-sva", fact=facts.queue),
    Check("idxd.queue-enabled", state=states.CONFIGURED),
    Check("idxd.queue-without-group", state=states.CONFIGURED),
    Check("idxd.queue-without-name", state=states.CONFIGURED),
    Check("idxd.shared-without-pasids", fact=facts.queue),
    Check("idxd.shared-without-threshold", state=states.CONFIGURED),
    Check("idxd.queue-without-pasids", fact=facts.queue),
    Check("idxd.command-refused", fact=facts.queue),
)
MMAP = (
    Check("portal.none", fact=facts.queue),
    Check("portal.no-bond", "option guard = mmap", state=states.NEVER_BOUND),
    Check("portal.declared-non-enqcmd", "option guard = declared", fact=facts.queue),
)
ENQCMD = (
    Check("traps.undefined", fact=facts.cpus, answer="SIGILL"),
    Check("traps.gp-other", fact=facts.cpus, answer="SIGSEGV"),
    Check("traps.gp-no-number", state=states.NEVER_BOUND, answer="SIGSEGV"),
    Check("traps.gp-no-number", state=states.FORKED, answer="SIGSEGV"),
    Check("traps.gp-already-activated", state=states.EXECED, answer="SIGSEGV"),
    Check("portal.unmapped", fact=facts.queue, answer="SIGSEGV"),
    Check("idxd.queue-disabled", fact=facts.queue),
    Check("idxd.dedicated-takes-no-enqcmd", fact=facts.queue),
    Check("idxd.queue-full", state=State("the queue holds as many descriptors as it has room for")),
    Check("idxd.queue-threshold", state=State("the queue is at its threshold")),
    Check("submit.no-queue", fact=facts.queue, answer=Errno.EPERM),
)
BECAUSE = {
    "idxd.user-sva-refused": "enable_feature",
    "idxd.no-shared-queues": "enable_feature",
    "idxd.user-queue-without-sva": "enable_feature",
    "idxd.shared-without-pasids": "enable_feature",
    "idxd.shared-mode-refused": "enable_feature",
    "idxd.queue-without-pasids": "bind",
    "intel.sva-no-pasid-or-ats": "enable_pasid",
}
"""Checks behind which another call stands, whose answer is the deeper cause."""
