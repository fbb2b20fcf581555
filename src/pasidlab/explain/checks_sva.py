"""The checks of the calls that bind, attach and enable, in the kernel's order.

Source: the rules themselves, declared in `linux` and `drivers`, each with function and version; the order is that of
Linux 7.3.4, and of 6.12.117 where a check says so.
"""

from __future__ import annotations

from dataclasses import replace

from pasidlab.errors import Errno
from pasidlab.explain import facts, states
from pasidlab.explain.check import Check
from pasidlab.linux.profiles import Profile

_ARM, _INTEL, _AMD = frozenset({"arm-smmu-v3"}), frozenset({"intel-vtd"}), frozenset({"amd-vi"})
_MOCKED = frozenset({"usual", "amd-vi", "riscv", "other_driver", "no_domain_alloc_sva", "no_set_dev_pasid"})
_BY_ENABLE = "kernels before 6.16 find it out when the feature is enabled"
_AT_BIND = "kernels from 6.16 on; earlier ones find it out when the feature is enabled"


def _at_bind(profile: Profile) -> bool:
    return not profile.enable_feature


def _fence(profile: Profile) -> bool:
    return profile.reset_fence != "none"


_INTEL_SVA = (
    Check("intel.svm-no-pasid", drivers=_INTEL, fact=facts.scalable),
    Check("intel.svm-not-coherent", drivers=_INTEL, fact=facts.sharing),
    Check("intel.svm-no-1g-pages", drivers=_INTEL, fact=facts.behind),
    Check("intel.svm-no-5-level", drivers=_INTEL, fact=facts.levels),
    Check("intel.sva-no-pasid-or-ats", drivers=_INTEL, fact=facts.switched_on),
    Check("intel.sva-pri-off", drivers=_INTEL, fact=facts.switched_on),
)
"""intel_iommu_sva_supported(): asked when the feature is enabled, from 6.16 on at bind."""

ENABLE_FEATURE = (
    Check("enable-sva.unsupported", fact=facts.behind),
    Check("arm-smmu-v3.enable-iopf-streams", drivers=_ARM, fact=facts.streams),
    Check("driver.enable-sva-refused", drivers=_ARM | _MOCKED, fact=facts.sharing),
    *_INTEL_SVA,
)

_ATTACH_CORE = (
    Check("attach.no-set-dev-pasid", fact=facts.behind),
    Check("attach.foreign-domain", state=states.CALLERS_FAULT),
    Check("attach.pasid-zero", state=states.ZERO),
    Check("attach.reset", "kernels from 7.0 on", _fence, state=states.RESET),
    Check("attach.beyond-max-pasids", fact=facts.members, state=states.NARROW_MEMBER),
    Check("attach.slot-taken", state=states.ATTACHED),
)
_ATTACH_DRIVER = (
    Check("driver.other-instance", drivers=_MOCKED, state=states.CALLERS_FAULT),
    Check("driver.set-failed", drivers=_AMD, state=states.NO_MEMORY, answer=Errno.EINVAL),
    Check(
        "explain.amd-no-gcr3-table", drivers=_AMD, state=replace(states.CONFIGURED, words="the machine was booted so")
    ),
    Check("arm-smmu-v3.other-smmu", drivers=_ARM, state=states.CALLERS_FAULT),
    Check("arm-smmu-v3.rid-domain", drivers=_ARM, fact=facts.default_domain),
    Check("arm-smmu-v3.cd-no-memory", drivers=_ARM, state=states.NO_MEMORY),
    Check("arm-smmu-v3.no-memory", drivers=_ARM, state=states.NO_MEMORY),
)
_INTEL_ENTRY = (
    Check("intel.no-memory", drivers=_INTEL, state=states.NO_MEMORY),
    Check("intel.iopf-no-pri", drivers=_INTEL, fact=facts.switched_on),
    Check("intel.no-first-level", drivers=_INTEL, fact=facts.behind),
    Check("intel.no-5-level", drivers=_INTEL, fact=facts.levels),
    Check("intel.pasid-no-entry", drivers=_INTEL, state=states.NO_MEMORY),
    Check("intel.pasid-present", drivers=_INTEL, state=states.CALLERS_FAULT),
)

_BEGIN = (
    Check("bind.no-group", fact=facts.behind),
    Check(
        "bind.x86-refused",
        "stable kernels on x86 that took the refusal and not yet the repair: 6.12.y, 6.18.y to about 6.18.20",
        lambda profile: profile.x86_sva_refused,
        arch="x86",
        fact=facts.cpus,
    ),
    Check("bind.page-table-not-dma-compatible", arch="x86", state=states.LAM),
)
_NUMBER = (
    Check("bind.number-too-wide", state=states.WIDER),
    Check("bind.no-memory", state=states.NO_MEMORY),
    Check("bind.device-without-pasids", fact=facts.carries),
    Check("bind.no-number-free", state=states.FULL),
)
_BOND = (
    Check("handle-get.other-type", state=states.ATTACHED_WITH_HANDLE),
    Check("bind.number-of-other-mm", state=states.OF_OTHER),
    Check("bind.no-memory-for-handle", state=states.NO_MEMORY),
    Check(
        "bind.driver-without-sva",
        "kernels after 6.12",
        lambda profile: not profile.domain_alloc_fallback,
        fact=facts.behind,
    ),
    Check(
        "bind.driver-without-sva-6.12",
        "kernels to 6.12",
        lambda profile: profile.domain_alloc_fallback,
        fact=facts.behind,
    ),
    Check("driver.no-sva-feature", drivers=_MOCKED, fact=facts.sharing),
    Check("arm-smmu-v3.no-sva", drivers=_ARM, fact=facts.sharing),
    Check("arm-smmu-v3.no-asid", drivers=_ARM, state=states.NO_ASID),
    *(replace(check, when=_AT_BIND, exists=_at_bind) for check in _INTEL_SVA),
    Check("driver.mm-dying", state=states.DYING),
    Check("mmu-notifier.no-memory", state=states.NO_MEMORY),
)
_AT_ATTACH = (
    *(check for check in _ATTACH_CORE if check.id not in ("attach.foreign-domain", "attach.pasid-zero")),
    *(check for check in _ATTACH_DRIVER if check.id not in ("driver.other-instance", "arm-smmu-v3.other-smmu")),
    Check("arm-smmu-v3.iopf-streams", _AT_BIND, _at_bind, _ARM, fact=facts.streams),
    *_INTEL_ENTRY,
)
BIND = (
    Check("bind.not-built", fact=facts.config, unknown=facts.config_unknown),
    *_BEGIN,
    *_NUMBER,
    *_BOND,
    *_AT_ATTACH,
)
BIND_PASID = (
    Check("scheme.no-such-call", fact=facts.kernel),
    Check("bind-pasid.zero", state=states.ZERO),
    Check("bind.not-built", fact=facts.config, unknown=facts.config_unknown),
    *_BEGIN,
    Check("v2.mode-differs", state=states.BOUND),
    Check("hybrid.local-too-wide", state=states.BEYOND),
    Check("v2.number-too-wide", state=states.BEYOND),
    *_BOND,
    *_AT_ATTACH,
)
OPEN = (
    Check("idxd.dedicated-busy", fact=facts.queue, state=states.BUSY),
    *(replace(check, when=_BY_ENABLE, exists=lambda profile: profile.enable_feature) for check in ENABLE_FEATURE),
    *BIND,
)

ENABLE_PASID = tuple(
    Check(f"enable-pasid.{name}", fact=facts.switched_on)
    for name in (
        "nobody-asks",
        "not-built",
        "physfn-off",
        "already",
        "no-prefix-path",
        "no-capability",
        "no-acs",
        "features",
        "failed",
    )
)
ALLOC_GLOBAL = (Check("alloc-global.none", fact=facts.carries, state=states.FULL),)
ATTACH = (
    Check("attach.no-group", fact=facts.behind),
    *_ATTACH_CORE[:4],
    replace(_ATTACH_CORE[4], state=states.BEYOND),
    replace(_ATTACH_CORE[5], state=states.ATTACHED),
    *_ATTACH_DRIVER,
    Check("intel.no-pasid-support", drivers=_INTEL, fact=facts.scalable),
    Check("intel.domain-incompatible", drivers=_INTEL, state=states.CALLERS_FAULT),
    Check("intel.no-domain-id", drivers=_INTEL, state=states.NO_DOMAIN_ID),
    Check("intel.no-second-level", drivers=_INTEL, fact=facts.behind),
    *_INTEL_ENTRY,
)
REPLACE = (
    Check("replace.no-such-call", "kernels before 6.15", lambda p: not p.replace_device_pasid, fact=facts.kernel),
    Check("replace.no-group", fact=facts.behind),
    Check("replace.no-set-dev-pasid", fact=facts.behind),
    Check("replace.invalid", state=states.ZERO),
    Check("replace.reset", "kernels from 7.0 on", _fence, state=states.RESET),
    Check("replace.empty-slot", state=states.NOTHING_THERE),
    Check("replace.same-handle", state=states.CALLERS_FAULT),
    Check("driver.no-replace", drivers=_AMD, fact=facts.behind),
    *_ATTACH_DRIVER,
    *_INTEL_ENTRY,
)
CLAIM_OWNER = (
    Check("dma-owner.no-group", fact=facts.behind),
    Check("dma-owner.other-owner", state=states.OWNED),
    Check("dma-owner.pasids-attached", state=states.ATTACHED),
)
LAM = (
    Check("lam.no-cpu", fact=facts.cpus),
    Check("lam.has-pasid", arch="x86", state=states.BOUND),
    Check("lam.locked", arch="x86", state=states.THREADS),
    Check("lam.bits", arch="x86", state=states.CALLERS_FAULT),
)
