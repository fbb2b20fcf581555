"""`struct arm_smmu_domain` and how one is attached: to the traffic without PASID, and to a PASID.

Source: arm_smmu_attach_dev(), arm_smmu_attach_prepare(), arm_smmu_attach_commit(), arm_smmu_set_pasid(),
arm_smmu_blocking_set_dev_pasid() (7.3; 6.12: arm_smmu_remove_dev_pasid()), arm_smmu_attach_dev_ste(), Linux 6.12.117
and 7.3.4.
Not modelled: locks; enforced cache coherency; nested domains of iommufd; dirty tracking.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

from pasidlab.drivers.arm_smmu_v3.device import read_ste
from pasidlab.drivers.arm_smmu_v3.entries import (
    arm_smmu_make_abort_ste,
    arm_smmu_make_bypass_ste,
    arm_smmu_make_cdtable_ste,
    arm_smmu_make_s1_cd,
    arm_smmu_make_s2_domain_ste,
)
from pasidlab.drivers.arm_smmu_v3.invalidation import (
    arm_smmu_atc_inv_master,
    arm_smmu_flush_released,
    arm_smmu_invs_of,
)
from pasidlab.drivers.arm_smmu_v3.master import (
    arm_smmu_alloc_cd_ptr,
    arm_smmu_clear_cd,
    arm_smmu_install_ste_for_dev,
    arm_smmu_write_cd_entry,
    cd_table_in_ste,
)
from pasidlab.drivers.arm_smmu_v3.structs import ArmSmmuDomain, ArmSmmuMaster, ArmSmmuMasterDomain, Invs, Stage
from pasidlab.drivers.base import ATC, IOTLB, TABLE, in_steps
from pasidlab.errors import Errno
from pasidlab.hw.smmuv3.structures import Cd, Eats, S1Dss, Ste
from pasidlab.linux.iopf import iopf_queue_add_device, iopf_queue_remove_device
from pasidlab.linux.structs import IOMMU_NO_PASID, DomainType, IommuDomain
from pasidlab.rules import WAS_READ, Refusal, Rule

_DETACH = (TABLE, ATC, IOTLB)
"""Linux's order; a TLB entry is found only by the ASID of a CD that is still there, so that it may go last."""
_SET_PASID = "arm_smmu_set_pasid (drivers/iommu/arm/arm-smmu-v3)"
OTHER_SMMU = Rule(
    "arm-smmu-v3.other-smmu",
    _SET_PASID,
    "smmu_domain->smmu != master->smmu",
    "the domain was made for another SMMU than that of {dev}",
    Errno.EINVAL,
    source=WAS_READ,
    remedy="allocate a domain for each SMMU; SVA does so by itself",
)
RID_DOMAIN = Rule(
    "arm-smmu-v3.rid-domain",
    _SET_PASID,
    "the CD table is not in the STE, and the RID domain is neither identity nor blocked",
    "{dev} has a stage 2 domain for traffic without PASID, which leaves no room for a CD table",
    Errno.EINVAL,
    source=WAS_READ,
    remedy="give the traffic without PASID a stage 1 domain, identity or none: not one of a virtual machine",
)
SSIDS_IN_USE = Rule(
    "arm-smmu-v3.ssids-in-use",
    "arm_smmu_attach_dev (drivers/iommu/arm/arm-smmu-v3)",
    "arm_smmu_ssids_in_use(&master->cd_table)",
    "{dev} has PASIDs in use, which a stage 2 domain would take the CD table from",
    Errno.EBUSY,
    source=WAS_READ,
    remedy="unbind all processes before the device gets a stage 2 domain",
)
MASTER_DOMAIN_NO_MEMORY = Rule(
    "arm-smmu-v3.no-memory",
    "arm_smmu_attach_prepare (drivers/iommu/arm/arm-smmu-v3)",
    "!kzalloc(master_domain)",
    "no memory to attach PASID {pasid} of {dev}",
    Errno.ENOMEM,
    source=WAS_READ,
    remedy="free memory, and try again",
)
IOPF_STREAMS = Rule(
    "arm-smmu-v3.iopf-streams",
    "arm_smmu_enable_iopf (drivers/iommu/arm/arm-smmu-v3)",
    "master->num_streams != 1",
    "{dev} stalls and has several streams: its faults cannot be told apart",
    Errno.EOPNOTSUPP,
    "7.3.4 (read)",
    remedy="let firmware give a device that may stall one StreamID, or take dma-can-stall away from it",
)


STALL_AT_UNBIND = Rule(
    "arm-smmu-v3.stall-at-detach",
    "arm_smmu_blocking_set_dev_pasid (drivers/iommu/arm/arm-smmu-v3)",
    "a stalled access of the PASID has no answer yet; the driver flushes no fault work",
    "PASID {pasid} of {dev} is taken away while {count} of its page requests wait: the device's driver had to stop it "
    "first, and in a real kernel the worker now touches freed memory",
    source=WAS_READ,
)


@dataclass(slots=True, eq=False, repr=False)
class AttachState:
    """`struct arm_smmu_attach_state`: what an attach has prepared and has to commit."""

    master: ArmSmmuMaster
    ssid: int
    old: ArmSmmuMasterDomain | None
    new: ArmSmmuMasterDomain | None = None
    ats_enabled: bool = False
    released: Invs = field(default_factory=Invs)


# --- prepare and commit --------------------------------------------------------------------------------------


def arm_smmu_attach_prepare(
    master: ArmSmmuMaster, domain: IommuDomain, ssid: int, *, cd_needs_ats: bool
) -> AttachState | Refusal:
    """Get ready for a domain at (device, SSID): fault queue, record, invalidations; ATS goes off first if it must."""
    state = AttachState(master, ssid, master.master_domains.get(ssid))
    smmu_domain = domain if isinstance(domain, ArmSmmuDomain) else None
    if smmu_domain is not None or cd_needs_ats:
        state.ats_enabled = master.ats_supported
    if smmu_domain is not None:
        if master.smmu.kernel.allocation_fails():
            return MASTER_DOMAIN_NO_MEMORY.refuse(dev=master.dev.name, pasid=ssid)
        refusal = arm_smmu_enable_iopf(master, smmu_domain)
        if refusal:
            return refusal
        state.new = ArmSmmuMasterDomain(master, smmu_domain, ssid)
        smmu_domain.devices.insert(0, state.new)
        smmu_domain.invs.merge(arm_smmu_invs_of(master, smmu_domain, ssid, state.ats_enabled))
    if state.old is not None:
        state.released = arm_smmu_invs_of(master, state.old.domain, ssid, master.ats_enabled)
    if master.ats_enabled and not state.ats_enabled:
        master.pci_ats = False
    return state


def arm_smmu_attach_commit(state: AttachState) -> None:
    """Flush what the device cached, all of it where ATS goes on or off; let the old domain and its invalidations go."""
    master = state.master
    if state.ats_enabled and not master.ats_enabled:
        arm_smmu_enable_ats(master)
    elif state.ats_enabled:
        arm_smmu_atc_inv_master(master, state.ssid)
    elif master.ats_enabled:
        arm_smmu_atc_inv_master(master, IOMMU_NO_PASID)
    if state.old is not None:
        arm_smmu_remove_master_domain(state.old, state.released)
    master.master_domains.pop(state.ssid, None)
    if state.new is not None:
        master.master_domains[state.ssid] = state.new
    master.ats_enabled = state.ats_enabled


def arm_smmu_enable_ats(master: ArmSmmuMaster) -> None:
    """Switch ATS on in a device that has forgotten everything: an invalidation without PASID is one of all PASIDs."""
    arm_smmu_atc_inv_master(master, IOMMU_NO_PASID)
    master.pci_ats = True


def arm_smmu_remove_master_domain(record: ArmSmmuMasterDomain, released: Invs, *, flush: bool = True) -> None:
    """Drop an attachment: fault queue, list, and since 7.x the tags that nothing uses any more."""
    arm_smmu_disable_iopf(record.master, record.domain)
    record.domain.devices.remove(record)
    last = record.domain.invs.unref(released)
    if flush and record.master.smmu.kernel.profile.smmu_invs:
        arm_smmu_flush_released(last)


def arm_smmu_enable_iopf(master: ArmSmmuMaster, domain: ArmSmmuDomain) -> Refusal | None:
    """Count one more attachment that takes faults; since 6.16 the first puts a stalling device into the fault queue."""
    if domain.iopf_handler is None or not master.smmu.kernel.profile.iopf_at_attach:
        return None
    if not master.stall_enabled:
        return None
    if len(master.streams) != 1:
        return IOPF_STREAMS.refuse(dev=master.dev.name)
    if not master.fault_users:
        refusal = iopf_queue_add_device(master.smmu.iopf_queue, master.dev)
        if refusal:
            return refusal
    master.fault_users += 1
    return None


def arm_smmu_disable_iopf(master: ArmSmmuMaster, domain: ArmSmmuDomain) -> None:
    """Count one less; the last takes the device out of the fault queue."""
    if domain.iopf_handler is None or not master.fault_users:
        return
    master.fault_users -= 1
    if not master.fault_users:
        iopf_queue_remove_device(master.smmu.iopf_queue, master.dev)


# --- traffic without PASID -----------------------------------------------------------------------------------

_S1DSS_OF = {DomainType.IDENTITY: S1Dss.BYPASS, DomainType.BLOCKED: S1Dss.TERMINATE}


def arm_smmu_attach_dev(domain: ArmSmmuDomain, master: ArmSmmuMaster) -> Refusal | None:
    """Attach a stage 1 or stage 2 domain to the traffic without PASID."""
    if domain.smmu is not master.smmu:
        return OTHER_SMMU.refuse(dev=master.dev.name)
    if domain.stage is Stage.S2 and master.used_ssids:
        return SSIDS_IN_USE.refuse(dev=master.dev.name)
    if domain.stage is Stage.S1:
        slot = arm_smmu_alloc_cd_ptr(master, IOMMU_NO_PASID)
        if isinstance(slot, Refusal):
            return slot
    state = arm_smmu_attach_prepare(master, domain, IOMMU_NO_PASID, cd_needs_ats=bool(master.used_ssids))
    if isinstance(state, Refusal):
        return state
    if domain.stage is Stage.S1:
        arm_smmu_write_cd_entry(master, IOMMU_NO_PASID, arm_smmu_domain_cd(domain, master))
        arm_smmu_install_ste_for_dev(master, _cdtable_ste(master, S1Dss.SSID0, state.ats_enabled))
    else:
        arm_smmu_install_ste_for_dev(master, _s2_ste(master, domain, state.ats_enabled))
        arm_smmu_clear_cd(master, IOMMU_NO_PASID)
    arm_smmu_attach_commit(state)
    master.rid_domain = domain
    return None


def arm_smmu_domain_cd(domain: ArmSmmuDomain, master: ArmSmmuMaster) -> Cd:
    """Return the CD of a stage 1 domain that the kernel maps."""
    assert domain.table is not None
    return arm_smmu_make_s1_cd(domain.asid, domain.table.stage1_config(), stall_enabled=master.stall_enabled)


def _cdtable_ste(master: ArmSmmuMaster, s1dss: S1Dss, ats_enabled: bool) -> Ste:
    assert master.cd_table is not None
    features, stalls = master.smmu.features, master.stall_enabled
    return arm_smmu_make_cdtable_ste(features, master.cd_table, s1dss, stall_enabled=stalls, ats_enabled=ats_enabled)


def _s2_ste(master: ArmSmmuMaster, domain: ArmSmmuDomain, ats_enabled: bool) -> Ste:
    assert domain.table is not None
    config = domain.table.stage2_config()
    return arm_smmu_make_s2_domain_ste(
        master.smmu.features, domain.vmid, config, stall_enabled=master.stall_enabled, ats_enabled=ats_enabled
    )


def arm_smmu_attach_dev_identity(identity: IommuDomain, master: ArmSmmuMaster) -> Refusal | None:
    """Let traffic without PASID pass; a CD table that is in use stays in the STE."""
    return _attach_dev_ste(identity, master, arm_smmu_make_bypass_ste(master.smmu.features))


def arm_smmu_attach_dev_blocked(blocked: IommuDomain, master: ArmSmmuMaster) -> Refusal | None:
    """Stop traffic without PASID; a CD table that is in use stays in the STE."""
    return _attach_dev_ste(blocked, master, arm_smmu_make_abort_ste())


def _attach_dev_ste(domain: IommuDomain, master: ArmSmmuMaster, ste: Ste) -> Refusal | None:
    """arm_smmu_attach_dev_ste()."""
    in_use = bool(master.used_ssids)
    state = arm_smmu_attach_prepare(master, domain, IOMMU_NO_PASID, cd_needs_ats=in_use)
    if isinstance(state, Refusal):
        return state
    if in_use:
        ste = _cdtable_ste(master, _S1DSS_OF[domain.type], state.ats_enabled)
    arm_smmu_install_ste_for_dev(master, ste)
    arm_smmu_attach_commit(state)
    arm_smmu_clear_cd(master, IOMMU_NO_PASID)
    master.rid_domain = domain
    return None


# --- PASIDs --------------------------------------------------------------------------------------------------


def arm_smmu_set_pasid(master: ArmSmmuMaster, domain: ArmSmmuDomain, pasid: int, cd: Cd) -> Refusal | None:
    """Attach a domain to (device, PASID), in the place of an old one if there is one."""
    rid = master.rid_domain
    if domain.smmu is not master.smmu:
        return OTHER_SMMU.refuse(dev=master.dev.name)
    if not cd_table_in_ste(master) and (rid is None or rid.type not in _S1DSS_OF):
        return RID_DOMAIN.refuse(dev=master.dev.name)
    slot = arm_smmu_alloc_cd_ptr(master, pasid)
    if isinstance(slot, Refusal):
        return slot
    state = arm_smmu_attach_prepare(master, domain, pasid, cd_needs_ats=True)
    if isinstance(state, Refusal):
        return state
    arm_smmu_write_cd_entry(master, pasid, cd.replace(asid=domain.asid))
    _update_ste(master, state.ats_enabled)
    arm_smmu_attach_commit(state)
    return None


def _update_ste(master: ArmSmmuMaster, ats_enabled: bool) -> None:
    """arm_smmu_update_ste(): put the CD table into the STE unless it is there with the same ATS state."""
    if cd_table_in_ste(master) and _ste_has_ats(master) == ats_enabled:
        return
    rid = master.rid_domain
    s1dss = S1Dss.SSID0 if rid is None else _S1DSS_OF.get(rid.type, S1Dss.SSID0)
    arm_smmu_install_ste_for_dev(master, _cdtable_ste(master, s1dss, ats_enabled))


def _ste_has_ats(master: ArmSmmuMaster) -> bool:
    return read_ste(master.smmu, master.streams[0]).eats is Eats.FULL


def arm_smmu_clear_pasid(master: ArmSmmuMaster, pasid: int) -> None:
    """Take (device, PASID) away: CD, ATC, attachment; with the last SSID a CD table that the RID needs not goes too."""
    record = master.master_domains.pop(pasid, None)
    if record is None:
        return
    _report_pending_faults(master, pasid)
    released = arm_smmu_invs_of(master, record.domain, pasid, master.ats_enabled)
    steps = [step for step in master.smmu.detach or _DETACH if step != ATC or master.ats_enabled]
    in_steps(master.smmu.kernel, steps, partial(_clear_step, record, released))
    if IOTLB not in steps:
        arm_smmu_remove_master_domain(record, released, flush=False)
    rid = master.rid_domain
    if master.used_ssids or rid is None or rid.type not in _S1DSS_OF:
        return
    attach = arm_smmu_attach_dev_identity if rid.type is DomainType.IDENTITY else arm_smmu_attach_dev_blocked
    attach(rid, master)


def _clear_step(record: ArmSmmuMasterDomain, released: Invs, step: str) -> None:
    """Do one step of taking (device, PASID) away."""
    if step == TABLE:
        arm_smmu_clear_cd(record.master, record.ssid)
    elif step == ATC:
        arm_smmu_atc_inv_master(record.master, record.ssid)
    else:
        arm_smmu_remove_master_domain(record, released)


def _report_pending_faults(master: ArmSmmuMaster, pasid: int) -> None:
    param = master.dev.fault_param
    pending = [group for group in param.faults if group.last_fault.pasid == pasid] if param is not None else []
    if pending:
        master.smmu.kernel.found(STALL_AT_UNBIND, dev=master.dev.name, pasid=pasid, count=len(pending))
