"""Kernel versions as sets of switches, each with the place that it was taken from.

`v6.12` (6.12.117) and `v7.3` (7.3.4) are witnessed by the records under `tests/data`; the profiles between them
are put together from the switches, whose release numbers come from reading and are not witnessed.

Not modelled: anything of a release that no switch names.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from pasidlab.errors import InputError

ResetFence = Literal["none", "flat", "nested"]


def _switch(default: Any, meaning: str, source: str) -> Any:
    return field(default=default, metadata={"meaning": meaning, "source": source})


@dataclass(frozen=True, kw_only=True)
class Profile:
    """The differences between kernels that a caller, a driver or a device can see; defaults are those of 7.3."""

    name: str
    x86_sva_refused: bool = _switch(
        False,
        "iommu_sva_bind_device() answers -EOPNOTSUPP on every x86 build",
        "6.12.y stable (read); absent in 7.3.4 (read)",
    )
    group_test_first: bool = _switch(
        True,
        "iommu_attach_device_pasid() tests the group before the driver's operations",
        "7.3.4 (read); 6.12 tests them the other way round",
    )
    detach_through_blocked_domain: bool = _switch(
        True,
        "detaching is set_dev_pasid of the driver's blocked domain; before, remove_dev_pasid",
        "about 6.14; run on 6.12.117 and 7.3.4",
    )
    late_publication: bool = _switch(
        True,
        "an attach handle is found by the fault path only after all members of the group are set",
        "about 6.15; run on 7.3.4",
    )
    replace_device_pasid: bool = _switch(True, "iommu_replace_device_pasid() exists", "about 6.15; run on 7.3.4")
    enable_feature: bool = _switch(
        False,
        "drivers call iommu_dev_enable_feature(SVA) before they bind",
        "until about 6.16; 6.12.117 (read)",
    )
    iopf_at_attach: bool = _switch(
        True,
        "a device is in the fault queue from its first attach with a fault handler to the last; before, from probe",
        "about 6.16; run on 7.3.4",
    )
    skip_members_without_pasids: bool = _switch(
        True,
        "group members with max_pasids 0 do not limit an attach",
        "about 6.16 and 6.12.y stable; 6.12.0 refuses such a group",
    )
    domain_alloc_fallback: bool = _switch(
        False,
        "a driver without domain_alloc_sva is asked through domain_alloc, whose NULL reads as -ENOMEM",
        "6.12.117 (read); 7.3.4 answers -EOPNOTSUPP (read)",
    )
    kva_invalidation: bool = _switch(
        True, "iommu_sva_invalidate_kva_range() reaches every bound mm", "about 6.19; 7.3.4 (read)"
    )
    reset_fence: ResetFence = _switch(
        "nested",
        "pci_dev_reset_iommu_prepare() blocks a device's PASIDs: not at all, once per group, or nested per device",
        "7.0 flat (read); 7.3.4 nested (run)",
    )
    pasid_freed_at_mmput: bool = _switch(
        False,
        "the PASID is freed when the last user of the mm leaves, not when the last reference goes",
        "5.18-rc, the nginx/uacce regression of 2022; undone in 5.18",
    )
    exec_keeps_pasid_activated: bool = _switch(
        True,
        "quirk: exec resets IA32_PASID but not the task's pasid_activated, so the #GP is not fixed up again",
        "flag run on 6.12.117; 7.3.4 (read); on hardware untested",
    )
    partial_faults_ignore_pasid: bool = _switch(
        True,
        "quirk: partial page requests of a device join a group by group index alone",
        "run on 6.12.117 and 7.3.4",
    )
    bad_partial_answered_at_once: bool = _switch(
        True,
        "quirk: a page request for an unknown PASID is answered INVALID even when it is not the last of its group",
        "run on 6.12.117 and 7.3.4",
    )
    pasid_num_bits_truncated: bool = _switch(
        True,
        "quirk: 1 << pasid-num-bits is stored in 32 bits, so 32 bits or more give no PASIDs",
        "run on 6.12.117 and 7.3.4",
    )

    amd_bound_one_less: bool = _switch(
        True,
        "quirk: AMD's max_pasids is one less than a power of two, so the largest number is never used",
        "6.12.117 and 7.3.4 (read)",
    )
    amd_no_memory_is_einval: bool = _switch(
        True, "quirk: AMD's set_dev_pasid answers -EINVAL when there is no memory", "7.3.4 (read)"
    )
    failure_sent_raw: bool = _switch(
        True,
        "quirk: VT-d and AMD send the core's FAILURE as 2, a reserved code; PCIe's Response Failure is 0xF",
        "6.12.117 and 7.3.4 (read)",
    )

    smmu_used_mev_s2fwb: bool = _switch(
        True,
        "arm_smmu_get_ste_used() counts MEV, and at stage 2 S2FWB, among the bits that the hardware uses",
        "S2FWB about 6.13, MEV about 6.15; run on 6.12.117 (neither) and 7.3.4 (both)",
    )
    smmu_ste_update_safe: bool = _switch(
        True,
        "arm_smmu_get_ste_update_safe(): a hitless change of an STE may change MEV and EATS on the way",
        "about 7.0; run on 7.3.4, absent in 6.12.117 (read)",
    )
    smmu_invs: bool = _switch(
        True,
        "arm-smmu-v3 keeps an array of what to invalidate per domain, and flushes a tag with its last user; before, "
        "it walks the domain's devices, and flushes an ASID when its SVA domain is freed",
        "about 7.0; 7.3.4 (read), absent in 6.12.117 (read)",
    )
    smmu_sva_cd_httu: bool = _switch(
        True,
        "arm_smmu_make_sva_cd() sets HA, HD and HAFT as the SMMU offers them",
        "after 7.0 (read); HA and HD run on 7.3.4, HAFT 7.3.4 (read); absent in 6.12.117 (read)",
    )

    vtd_prq_needs_pasid: bool = _switch(
        False,
        "the page request thread of VT-d answers INVALID by itself to a request without PASID; later the core does",
        "6.12.117 (read); absent since the queue has a file of its own, about 6.13 (read)",
    )

    vtd_stage_by_unit: bool = _switch(
        True,
        "kernel-managed domains behind VT-d have first-stage tables where their unit has these; before, where every"
        " unit of the machine has them",
        "about 6.13 (read); 6.12.117 asks the audit of all units (read)",
    )

    def with_switches(self, switches: dict[str, Any]) -> Profile:
        """Return this profile with some switches changed; InputError names an unknown one and what is allowed."""
        known = {f.name: f for f in switch_fields()}
        for name, value in switches.items():
            if name not in known:
                raise InputError(f"switches.{name}: no such switch; known: {', '.join(known)}")
            allowed = ("none", "flat", "nested") if name == "reset_fence" else (True, False)
            if type(value) is not type(allowed[0]) or value not in allowed:
                choices = ", ".join(str(a).lower() for a in allowed)
                raise InputError(f"switches.{name} = {value!r}: must be one of {choices}")
        return replace(self, **switches)


def switch_fields() -> list[Any]:
    """Return the dataclass fields that are switches, each with `meaning` and `source` in its metadata."""
    return [f for f in fields(Profile) if f.metadata]


V7_3 = Profile(name="v7.3")
V7_0 = replace(V7_3, name="v7.0", reset_fence="flat", smmu_sva_cd_httu=False)
V6_19 = replace(V7_0, name="v6.19", reset_fence="none", smmu_ste_update_safe=False, smmu_invs=False)
V6_16 = replace(V6_19, name="v6.16", kva_invalidation=False)
V6_15 = replace(V6_16, name="v6.15", enable_feature=True, iopf_at_attach=False, skip_members_without_pasids=False)
V6_12 = replace(
    V6_15,
    name="v6.12",
    skip_members_without_pasids=True,
    x86_sva_refused=True,
    group_test_first=False,
    detach_through_blocked_domain=False,
    late_publication=False,
    replace_device_pasid=False,
    domain_alloc_fallback=True,
    smmu_used_mev_s2fwb=False,
    vtd_prq_needs_pasid=True,
    vtd_stage_by_unit=False,
)
V6_12_0 = replace(V6_12, name="v6.12.0", x86_sva_refused=False, skip_members_without_pasids=False)

PROFILES = {p.name: p for p in (V6_12_0, V6_12, V6_15, V6_16, V6_19, V7_0, V7_3)}
WITNESSED = ("v6.12", "v7.3")
DEFAULT_PROFILE = V7_3


def profile(name: str) -> Profile:
    """Return the profile of that name; InputError says which there are."""
    try:
        return PROFILES[name]
    except KeyError:
        raise InputError(f"kernel {name!r}: no such profile; known: {', '.join(PROFILES)}") from None
