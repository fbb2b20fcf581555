"""Family B of the core cases: attach, detach, replace, ownership, reset.

B18 (AMD refuses to replace an SVA domain) is an answer of the AMD driver: see test_traits.py.
"""

from __future__ import annotations

import pytest

from pasidlab.drivers.mock import RACE_GROUP, MockDriver
from pasidlab.drivers.traits import Mode
from pasidlab.errors import Errno
from pasidlab.events import (
    DomainAllocated,
    DomainFreed,
    PageResponded,
    PasidBlocked,
    PasidRemoved,
    PasidSet,
    RidAttached,
    Warned,
)
from pasidlab.linux.iommu import (
    iommu_attach_device_pasid,
    iommu_attach_handle_get,
    iommu_detach_device_pasid,
    iommu_replace_device_pasid,
)
from pasidlab.linux.iopf import Fault, ResponseCode, iommu_report_device_fault, iopf_queue_flush_dev
from pasidlab.linux.ownership import (
    iommu_device_claim_dma_owner,
    iommu_device_release_dma_owner,
    iommu_device_unuse_default_domain,
    iommu_device_use_default_domain,
)
from pasidlab.linux.profiles import V6_12, V6_12_0, V6_19, V7_0, V7_3
from pasidlab.linux.reset import pci_dev_reset_iommu_done, pci_dev_reset_iommu_prepare
from pasidlab.linux.structs import (
    AttachHandle,
    Device,
    DomainType,
    IommuGroup,
)
from pasidlab.linux.sva import iommu_sva_bind_device, iommu_sva_unbind_device
from tests.rig import DATA, Rig, both_kernels, bound, programmed, refused

EBUSY, EINVAL, EIO = Errno.EBUSY, Errno.EINVAL, Errno.EIO
ENODEV, ENOENT, EOPNOTSUPP = Errno.ENODEV, Errno.ENOENT, Errno.EOPNOTSUPP


def trio(rig):
    """Three healthy devices in one group."""
    group = IommuGroup("trio")
    return [rig.device(name, 4, group) for name in "abc"]


# Attach


@both_kernels
def test_b1_pasid_0_is_refused(profile):
    rig = Rig(profile)
    why = refused(rig.attach(rig.device("dev", 4), 0), EINVAL, "attach.pasid-zero")
    assert why == "PASID 0 is the traffic of dev without PASID"
    assert rig.calls() == []


@both_kernels
def test_b2_the_largest_number_fits_and_the_next_does_not(profile):
    rig = Rig(profile)
    dev = rig.device("dev", 4)
    why = refused(rig.attach(dev, 16), EINVAL, "attach.beyond-max-pasids")
    assert why == "dev, in the group of dev, carries 1..15: 16 does not fit"
    assert rig.attach(dev, 15) is None


@pytest.mark.parametrize(
    ("profile", "errno", "rule"),
    [(V6_12, EOPNOTSUPP, "attach.no-set-dev-pasid"), (V7_3, ENODEV, "attach.no-group")],
    ids=lambda value: getattr(value, "name", value),
)
def test_b3_without_group_and_operation_each_kernel_tests_another_first(profile, errno, rule):
    rig = Rig(profile)
    behind = rig.device("behind", 4, iommu=rig.iommu("bare", mode=Mode.NO_SET_DEV_PASID))
    alone = Device(rig.kernel, "alone", pasid_num_bits=4)
    why = refused(iommu_attach_device_pasid(rig.domain(behind), alone, 1), errno, rule)
    assert "alone" in why


@both_kernels
def test_b3_without_group_alone_is_enodev(profile):
    rig = Rig(profile)
    domain = rig.domain(rig.device("behind", 4))
    outcome = iommu_attach_device_pasid(domain, Device(rig.kernel, "alone", pasid_num_bits=4), 1)
    assert refused(outcome, ENODEV, "attach.no-group") == "alone is behind no IOMMU"


@both_kernels
def test_b3_without_operation_alone_is_eopnotsupp(profile):
    rig = Rig(profile)
    dev = rig.device("dev", 4, iommu=rig.iommu("bare", mode=Mode.NO_SET_DEV_PASID))
    why = refused(rig.attach(dev, 1), EOPNOTSUPP, "attach.no-set-dev-pasid")
    assert why == "the IOMMU driver of dev cannot attach this kind of domain to a PASID"


@both_kernels
def test_b3_the_missing_operation_is_found_before_pasid_0(profile):
    rig = Rig(profile)
    dev = rig.device("dev", 4, iommu=rig.iommu("bare", mode=Mode.NO_SET_DEV_PASID))
    refused(rig.attach(dev, 0), EOPNOTSUPP, "attach.no-set-dev-pasid")


def test_b3_kernel_7_3_needs_a_blocked_domain():
    rig = Rig(V7_3)
    dev = rig.device("dev", 4)
    dev.ops.blocked_domain = None
    refused(rig.attach(dev, 1), EOPNOTSUPP, "attach.no-set-dev-pasid")


@both_kernels
def test_b4_a_domain_of_another_driver_is_refused(profile):
    rig = Rig(profile)
    dev = rig.device("dev", 4)
    other = rig.device("other", 4, iommu=rig.iommu("other", mode=Mode.OTHER_DRIVER))
    why = refused(iommu_attach_device_pasid(rig.domain(other), dev, 1), EINVAL, "attach.foreign-domain")
    assert why == "the domain was made by another IOMMU driver than that of dev"
    assert rig.calls() == []


@both_kernels
def test_b4_a_domain_of_another_instance_is_refused_by_the_driver(profile):
    rig = Rig(profile)
    dev, other = rig.device("dev", 4), rig.device("other", 4, iommu=rig.iommu("other"))
    refused(iommu_attach_device_pasid(rig.domain(other), dev, 1), EINVAL, "driver.other-instance")
    assert rig.calls() == [programmed("dev", 1, 0, EINVAL)]
    assert dev.iommu_group.pasid_array == {}


@both_kernels
def test_b5_a_taken_number_is_refused_and_the_first_stays(profile):
    rig = Rig(profile)
    dev = rig.device("dev", 4)
    first = AttachHandle()
    assert rig.attach(dev, 5, first) is None
    why = refused(rig.attach(dev, 5, AttachHandle()), EBUSY, "attach.slot-taken")
    assert why == "number 5 on dev is already attached to domain 0, attached with a handle (as iommufd does)"
    assert rig.calls() == [programmed("dev", 5, 0)]
    assert iommu_attach_handle_get(dev.iommu_group, 5) is first


@both_kernels
def test_b6_a_member_without_pasids_is_passed_over(profile):
    rig = Rig(profile)
    group = IommuGroup("slot")
    gpu, _bridge = rig.device("gpu", 20, group), rig.device("bridge", None, group)
    assert rig.attach(gpu, 7) is None
    assert rig.calls() == [programmed("gpu", 7, 0)]


def test_b6_kernel_6_12_0_lets_such_a_member_refuse_all_numbers():
    rig = Rig(V6_12_0)
    group = IommuGroup("slot")
    gpu, _bridge = rig.device("gpu", 20, group), rig.device("bridge", None, group)
    why = refused(rig.attach(gpu, 7), EINVAL, "attach.beyond-max-pasids")
    assert why == "bridge, in the group of gpu, carries no PASID: 7 does not fit"


@both_kernels
def test_b7_the_narrowest_member_limits_the_group(profile):
    rig = Rig(profile)
    group = IommuGroup("pair")
    a, _b = rig.device("a", 4, group), rig.device("b", 2, group)
    why = refused(rig.attach(a, 7), EINVAL, "attach.beyond-max-pasids")
    assert why == "b, in the group of a, carries 1..3: 7 does not fit"
    assert rig.calls() == []


@both_kernels
def test_b8_a_member_of_0_bits_refuses_every_number(profile):
    rig = Rig(profile)
    group = IommuGroup("pair")
    a, _b = rig.device("a", 4, group), rig.device("b", 0, group)
    refused(rig.attach(a, 1), EINVAL, "attach.beyond-max-pasids")


@both_kernels
def test_b9_a_failing_member_undoes_those_before_it_in_list_order(profile):
    rig = Rig(profile)
    a, _b, c = trio(rig)
    rig.driver.fail_set[c] = EIO
    why = refused(rig.attach(a, 5), EIO, "driver.set-failed")
    assert why == "the IOMMU driver of c failed to set the PASID"
    assert rig.calls() == [
        programmed("a", 5, 0),
        programmed("b", 5, 0),
        programmed("c", 5, 0, EIO),
        rig.cleared("a", 5, 0),
        rig.cleared("b", 5, 0),
    ]
    assert a.iommu_group.pasid_array == {}
    assert rig.driver.entries == {}


@both_kernels
def test_b9_the_same_attach_succeeds_when_the_member_is_healthy_again(profile):
    rig = Rig(profile)
    a, _b, c = trio(rig)
    rig.driver.fail_set[c] = EIO
    rig.attach(a, 5)
    assert rig.attach(a, 5) is None
    assert len(rig.driver.entries) == 3


@pytest.mark.parametrize(
    ("profile", "code"), [(V6_12, ResponseCode.SUCCESS), (V7_3, ResponseCode.INVALID)], ids=lambda v: v.name
)
def test_b10_a_page_request_inside_the_attach(profile, code):
    rig = Rig(profile)
    dev, task = rig.device("dev", 4), rig.process("a")
    rig.driver.races[dev] = DATA, 1
    bound(iommu_sva_bind_device(dev, task.mm))
    assert rig.calls() == [
        DomainAllocated("dev", 0, None),
        PageResponded("dev", 1, RACE_GROUP, code),
        programmed("dev", 1, 0),
    ]


@both_kernels
def test_b10_a_page_request_after_the_attach_is_served(profile):
    rig = Rig(profile)
    dev, task = rig.device("dev", 4), rig.process("a")
    bound(iommu_sva_bind_device(dev, task.mm))
    rig.calls()
    assert iommu_report_device_fault(dev, Fault(1, DATA, 1, last=True, grpid=3)) is None
    iopf_queue_flush_dev(dev)
    assert rig.calls() == [PageResponded("dev", 1, 3, ResponseCode.SUCCESS)]


@both_kernels
def test_b11_an_attachment_without_handle_reads_as_empty_but_is_taken(profile):
    rig = Rig(profile)
    dev = rig.device("dev", 4)
    assert rig.attach(dev, 5) is None
    why = refused(iommu_attach_handle_get(dev.iommu_group, 5), ENOENT, "handle-get.absent")
    assert why == "no handle is attached at 5"
    refused(rig.attach(dev, 5), EBUSY, "attach.slot-taken")


@both_kernels
def test_b12_detaching_what_was_never_attached_has_no_errno_and_leaves_the_slot_empty(profile):
    rig = Rig(profile)
    dev = rig.device("dev", 4)
    iommu_detach_device_pasid(rig.domain(dev), dev, 5)
    assert rig.calls() == [rig.cleared("dev", 5, 0)]
    assert dev.iommu_group.pasid_array == {}


@both_kernels
def test_detach_clears_every_member_that_has_pasids_and_then_the_slot(profile):
    rig = Rig(profile)
    group = IommuGroup("trio")
    a, _bridge, b = (rig.device(name, bits, group) for name, bits in (("a", 4), ("bridge", None), ("b", 4)))
    domain = rig.domain(a)
    assert iommu_attach_device_pasid(domain, a, 5) is None
    rig.calls()
    iommu_detach_device_pasid(domain, b, 5)
    assert rig.calls() == [rig.cleared("a", 5, 0), rig.cleared("b", 5, 0)]
    assert group.pasid_array == {}


def test_detaching_is_another_driver_call_in_each_kernel():
    assert Rig(V6_12).cleared("dev", 5, 0) == PasidRemoved("dev", 5, 0)
    assert Rig(V7_3).cleared("dev", 5, 0) == PasidBlocked("dev", 5, 0)


# Replace


def replaceable(rig, *, bits=4):
    """A device with one handle attached at 5: the device, its domain (number 0) and the handle."""
    dev, handle = rig.device("dev", bits), AttachHandle()
    assert rig.attach(dev, 5, handle) is None
    rig.calls()
    return dev, handle.domain, handle


def test_b13_replace_on_an_empty_slot_is_refused_and_leaves_it_empty():
    rig = Rig(V7_3)
    dev = rig.device("dev", 4)
    outcome = iommu_replace_device_pasid(rig.domain(dev), dev, 5, AttachHandle())
    assert refused(outcome, EINVAL, "replace.empty-slot") == "nothing is attached to 5 on dev"
    assert dev.iommu_group.pasid_array == {}
    assert rig.calls() == []


def test_b13_a_number_beyond_the_device_is_an_empty_slot():
    rig = Rig(V7_3)
    dev = rig.device("dev", 4)
    refused(iommu_replace_device_pasid(rig.domain(dev), dev, 16, AttachHandle()), EINVAL, "replace.empty-slot")


def test_b14_replace_with_the_handle_that_is_there_warns():
    rig = Rig(V7_3)
    dev, domain, handle = replaceable(rig)
    outcome = iommu_replace_device_pasid(domain, dev, 5, handle)
    assert refused(outcome, EINVAL, "replace.same-handle") == "the handle is the one that 5 on dev already has"
    assert rig.kernel.warnings == 1
    assert rig.calls() == []


@pytest.mark.parametrize(("pasid", "handle"), [(5, None), (0, AttachHandle())], ids=["no handle", "pasid 0"])
def test_b15_replace_needs_a_handle_and_a_pasid(pasid, handle):
    rig = Rig(V7_3)
    dev, _, _ = replaceable(rig)
    why = refused(iommu_replace_device_pasid(rig.domain(dev), dev, pasid, handle), EINVAL, "replace.invalid")
    assert "dev" in why
    assert rig.calls() == []


def test_b15_replace_needs_a_domain_of_the_driver():
    rig = Rig(V7_3)
    dev, _, _ = replaceable(rig)
    other = rig.device("other", 4, iommu=rig.iommu("other", mode=Mode.OTHER_DRIVER))
    outcome = iommu_replace_device_pasid(rig.domain(other), dev, 5, AttachHandle())
    refused(outcome, EINVAL, "replace.invalid")


def test_b15_replace_needs_the_operation():
    rig = Rig(V7_3)
    bare = rig.device("bare", 4, iommu=rig.iommu("bare", mode=Mode.NO_SET_DEV_PASID))
    outcome = iommu_replace_device_pasid(rig.domain(bare), bare, 5, AttachHandle())
    refused(outcome, EOPNOTSUPP, "replace.no-set-dev-pasid")


def test_replace_needs_a_group():
    rig = Rig(V7_3)
    domain = rig.domain(rig.device("behind", 4))
    outcome = iommu_replace_device_pasid(domain, Device(rig.kernel, "alone"), 5, AttachHandle())
    assert refused(outcome, ENODEV, "replace.no-group") == "alone is behind no IOMMU"


def test_b16_replace_by_the_same_domain_needs_no_driver_call():
    rig = Rig(V7_3)
    dev, domain, _ = replaceable(rig)
    fresh = AttachHandle()
    assert iommu_replace_device_pasid(domain, dev, 5, fresh) is None
    assert rig.calls() == []
    assert iommu_attach_handle_get(dev.iommu_group, 5) is fresh


def test_b16_replace_turns_an_attachment_without_handle_into_one_with():
    rig = Rig(V7_3)
    dev, handle = rig.device("dev", 4), AttachHandle()
    domain = rig.domain(dev)
    assert iommu_attach_device_pasid(domain, dev, 5) is None
    rig.calls()
    assert iommu_replace_device_pasid(domain, dev, 5, handle) is None
    assert rig.calls() == []
    assert iommu_attach_handle_get(dev.iommu_group, 5) is handle


def test_replace_gives_the_driver_the_old_domain():
    rig = Rig(V7_3)
    dev, _, _ = replaceable(rig)
    assert iommu_replace_device_pasid(rig.domain(dev), dev, 5, AttachHandle()) is None
    assert rig.calls() == [PasidSet("dev", 5, 1, None, 0)]


def test_b17_a_failing_replace_puts_the_old_domain_back():
    rig = Rig(V7_3)
    a, b, c = trio(rig)
    old = AttachHandle()
    assert rig.attach(a, 5, old) is None
    rig.calls()
    rig.driver.fail_set[b] = EIO
    refused(iommu_replace_device_pasid(rig.domain(a), a, 5, AttachHandle()), EIO, "driver.set-failed")
    assert rig.calls() == [PasidSet("a", 5, 1, None, 0), PasidSet("b", 5, 1, EIO, 0), PasidSet("a", 5, 0, None, 1)]
    assert iommu_attach_handle_get(a.iommu_group, 5) is old
    assert [rig.driver.entries[dev, 5].id for dev in (a, b, c)] == [0, 0, 0]


class NeverBack(MockDriver):
    """A driver that refuses to go back to domain 0."""

    def set_dev_pasid(self, domain, dev, pasid, old):
        if domain.id == 0 and old is not None:
            self.fail_set[dev] = EIO
        return super().set_dev_pasid(domain, dev, pasid, old)


def test_b17_a_member_that_refuses_its_old_domain_is_blocked_with_a_warning():
    rig = Rig(V7_3, driver=NeverBack)
    a, b, _ = trio(rig)
    assert rig.attach(a, 5, AttachHandle()) is None
    rig.driver.fail_set[b] = EIO
    refused(iommu_replace_device_pasid(rig.domain(a), a, 5, AttachHandle()), EIO, "driver.set-failed")
    assert rig.kernel.warnings == 1
    assert rig.calls()[-1] == PasidBlocked("a", 5, 1)


def test_replace_does_not_exist_in_6_12():
    rig = Rig(V6_12)
    dev = rig.device("dev", 4)
    outcome = iommu_replace_device_pasid(rig.domain(dev), dev, 5, AttachHandle())
    assert refused(outcome, Errno.ENOSYS, "replace.no-such-call") == (
        "kernel v6.12 has no iommu_replace_device_pasid()"
    )


# The reset fence


def in_reset(rig):
    """Two devices of one group, 5 attached, `a` in reset."""
    group = IommuGroup("pair")
    a, b = rig.device("a", 4, group), rig.device("b", 4, group)
    handle = AttachHandle()
    assert rig.attach(a, 5, handle) is None
    rig.calls()
    assert pci_dev_reset_iommu_prepare(a) is None
    return a, b, handle


def test_b19_prepare_blocks_the_rid_and_every_pasid_of_that_device_only():
    rig = Rig(V7_3)
    a, b, handle = in_reset(rig)
    assert rig.calls() == [RidAttached("a", "B"), PasidBlocked("a", 5, 0)]
    assert a.iommu_group.pasid_array == {5: handle}
    assert list(rig.driver.entries) == [(b, 5)]


@pytest.mark.parametrize("through", [0, 1], ids=["the device", "its sibling"])
def test_b19_attach_in_reset_is_refused_for_the_whole_group(through):
    rig = Rig(V7_3)
    dev = in_reset(rig)[through]
    why = refused(rig.attach(dev, 6), EBUSY, "attach.reset")
    assert why == f"a device in the group of {dev.name} is being reset"


@pytest.mark.parametrize("through", [0, 1], ids=["the device", "its sibling"])
def test_b19_replace_in_reset_is_refused_for_the_whole_group(through):
    rig = Rig(V7_3)
    dev = in_reset(rig)[through]
    why = refused(iommu_replace_device_pasid(rig.domain(dev), dev, 5, AttachHandle()), EBUSY, "replace.reset")
    assert why == f"a device in the group of {dev.name} is being reset"


def test_b19_done_puts_everything_back_with_the_blocked_domain_as_the_old_one():
    rig = Rig(V7_3)
    a, b, _ = in_reset(rig)
    rig.calls()
    pci_dev_reset_iommu_done(a)
    assert rig.calls() == [RidAttached("a", "I"), PasidSet("a", 5, 0, None, "B")]
    assert {(a, 5), (b, 5)} == set(rig.driver.entries)
    assert rig.attach(a, 6) is None


def test_b19_a_second_prepare_nests_in_7_3():
    rig = Rig(V7_3)
    a, _, _ = in_reset(rig)
    rig.calls()
    assert pci_dev_reset_iommu_prepare(a) is None
    pci_dev_reset_iommu_done(a)
    assert rig.calls() == []
    refused(rig.attach(a, 6), EBUSY, "attach.reset")
    pci_dev_reset_iommu_done(a)
    assert rig.attach(a, 6) is None
    assert rig.kernel.warnings == 0


def test_b19_a_second_prepare_is_ebusy_in_7_0():
    rig = Rig(V7_0)
    a, _, _ = in_reset(rig)
    assert refused(pci_dev_reset_iommu_prepare(a), EBUSY, "reset.already") == "a is being reset already"
    assert rig.kernel.warnings == 1


def test_b19_two_members_in_reset_are_counted():
    rig = Rig(V7_3)
    a, b, _ = in_reset(rig)
    assert pci_dev_reset_iommu_prepare(b) is None
    pci_dev_reset_iommu_done(a)
    refused(rig.attach(a, 6), EBUSY, "attach.reset")
    pci_dev_reset_iommu_done(b)
    assert rig.attach(a, 6) is None


def test_b19_detach_in_reset_skips_the_blocked_device_and_done_does_not_restore():
    rig = Rig(V7_3)
    a, _, handle = in_reset(rig)
    rig.calls()
    iommu_detach_device_pasid(handle.domain, a, 5)
    pci_dev_reset_iommu_done(a)
    assert rig.calls() == [PasidBlocked("b", 5, 0), RidAttached("a", "I")]
    assert rig.driver.entries == {}


def test_b19_a_bond_is_shared_in_reset_although_the_device_is_blocked():
    rig = Rig(V7_3)
    dev, mm = rig.device("dev", 4), rig.mm("a")
    bond = bound(iommu_sva_bind_device(dev, mm))
    pci_dev_reset_iommu_prepare(dev)
    assert bound(iommu_sva_bind_device(dev, mm)) is bond


def test_b19_a_bind_of_another_mm_in_reset_makes_and_frees_a_domain_and_keeps_the_number():
    rig = Rig(V7_3)
    dev = rig.device("dev", 4)
    pci_dev_reset_iommu_prepare(dev)
    rig.calls()
    refused(iommu_sva_bind_device(dev, rig.mm("a")), EBUSY, "attach.reset")
    assert rig.calls() == [DomainAllocated("dev", 0, None), DomainFreed(0)]
    assert rig.holders == {1: "process a"}


def test_b19_a_refused_restore_warns_and_leaves_the_bond_dead_until_its_last_unbind():
    rig = Rig(V7_3)
    dev, mm = rig.device("dev", 4), rig.mm("a")
    bond = bound(iommu_sva_bind_device(dev, mm))
    pci_dev_reset_iommu_prepare(dev)
    rig.driver.fail_set[dev] = EIO
    pci_dev_reset_iommu_done(dev)
    assert rig.kernel.warnings == 1
    assert bound(iommu_sva_bind_device(dev, mm)) is bond
    iommu_sva_unbind_device(bond)
    rig.calls()
    iommu_sva_unbind_device(bond)
    assert rig.calls() == [PasidBlocked("dev", 1, 0), DomainFreed(0)]
    bound(iommu_sva_bind_device(dev, mm))


def test_b19_a_page_request_in_reset_finds_the_handle_but_no_fault_queue():
    rig = Rig(V7_3)
    dev, task = rig.device("dev", 4), rig.process("a")
    bound(iommu_sva_bind_device(dev, task.mm))
    pci_dev_reset_iommu_prepare(dev)
    rig.calls()
    outcome = iommu_report_device_fault(dev, Fault(1, DATA, 1, last=True, grpid=3))
    refused(outcome, EINVAL, "fault.no-fault-param")
    assert rig.kernel.warnings == 1
    assert rig.calls() == [PageResponded("dev", 1, 3, ResponseCode.INVALID)]


def test_b19_an_unbalanced_done_warns():
    rig = Rig(V7_3)
    dev = rig.device("dev", 4)
    rig.forget()
    pci_dev_reset_iommu_done(dev)
    assert rig.seen == [Warned("pci_dev_reset_iommu_done", "dev is not being reset")]


def test_b19_the_rid_of_an_owned_group_is_blocked_already_and_not_attached_again():
    rig = Rig(V7_3)
    dev = rig.device("dev", 4)
    assert iommu_device_claim_dma_owner(dev, "vfio") is None
    rig.calls()
    assert pci_dev_reset_iommu_prepare(dev) is None
    assert rig.calls() == []


def test_b19_a_member_without_pasids_has_only_its_rid_blocked_and_restored():
    rig = Rig(V7_3)
    group = IommuGroup("slot")
    gpu, bridge = rig.device("gpu", 4, group), rig.device("bridge", None, group)
    assert rig.attach(gpu, 5, AttachHandle()) is None
    rig.calls()
    pci_dev_reset_iommu_prepare(bridge)
    pci_dev_reset_iommu_done(bridge)
    assert rig.calls() == [RidAttached("bridge", "B"), RidAttached("bridge", "I")]


@pytest.mark.parametrize("profile", [V6_12, V6_19], ids=lambda profile: profile.name)
def test_b19_older_kernels_have_no_fence(profile):
    rig = Rig(profile)
    a, _, _ = in_reset(rig)
    assert rig.attach(a, 6) is None
    rig.calls()
    pci_dev_reset_iommu_done(a)
    assert rig.calls() == []
    assert rig.kernel.warnings == 0


def test_b19_a_device_behind_no_iommu_needs_no_fence():
    rig = Rig(V7_3)
    alone = Device(rig.kernel, "alone")
    assert pci_dev_reset_iommu_prepare(alone) is None
    pci_dev_reset_iommu_done(alone)
    assert rig.calls() == []
    assert rig.kernel.warnings == 0


# Ownership


@both_kernels
def test_b20_a_group_with_an_attached_pasid_cannot_be_claimed(profile):
    rig = Rig(profile)
    dev = rig.device("dev", 4)
    domain = rig.domain(dev)
    for pasid in (7, 5):
        assert iommu_attach_device_pasid(domain, dev, pasid) is None
    why = refused(iommu_device_claim_dma_owner(dev, "vfio"), EBUSY, "dma-owner.pasids-attached")
    assert why == "the group of dev still has PASIDs attached: 5, 7"
    for pasid in (7, 5):
        iommu_detach_device_pasid(domain, dev, pasid)
    assert iommu_device_claim_dma_owner(dev, "vfio") is None


@both_kernels
def test_b20_only_the_owner_may_claim_again(profile):
    rig = Rig(profile)
    dev = rig.device("dev", 4)
    assert iommu_device_claim_dma_owner(dev, "vfio") is None
    why = refused(iommu_device_claim_dma_owner(dev, "other"), Errno.EPERM, "dma-owner.other-owner")
    assert why == "the group of dev belongs to somebody else"
    assert iommu_device_claim_dma_owner(dev, "vfio") is None


@both_kernels
def test_b20_a_release_with_a_pasid_attached_warns_and_changes_nothing(profile):
    rig = Rig(profile)
    dev = rig.device("dev", 4)
    assert iommu_device_claim_dma_owner(dev, "vfio") is None
    assert rig.attach(dev, 5) is None
    iommu_device_release_dma_owner(dev)
    assert rig.kernel.warnings == 1
    refused(iommu_device_claim_dma_owner(dev, "other"), Errno.EPERM, "dma-owner.other-owner")


@both_kernels
def test_b20_a_released_group_has_its_default_domain_again(profile):
    rig = Rig(profile)
    dev = rig.device("dev", 4)
    iommu_device_claim_dma_owner(dev, "vfio")
    assert dev.iommu_group.domain.type is DomainType.BLOCKED
    iommu_device_release_dma_owner(dev)
    assert dev.iommu_group.domain.type is DomainType.IDENTITY
    assert rig.kernel.warnings == 0


@both_kernels
def test_b20_a_group_claimed_twice_is_released_twice(profile):
    rig = Rig(profile)
    dev = rig.device("dev", 4)
    iommu_device_claim_dma_owner(dev, "vfio")
    iommu_device_claim_dma_owner(dev, "vfio")
    iommu_device_release_dma_owner(dev)
    refused(iommu_device_claim_dma_owner(dev, "other"), Errno.EPERM, "dma-owner.other-owner")
    iommu_device_release_dma_owner(dev)
    assert iommu_device_claim_dma_owner(dev, "other") is None


@both_kernels
def test_b20_a_group_with_a_kernel_driver_is_claimed_after_the_driver_left(profile):
    rig = Rig(profile)
    dev = rig.device("dev", 4)
    assert iommu_device_use_default_domain(dev) is None
    refused(iommu_device_claim_dma_owner(dev, "vfio"), Errno.EPERM, "dma-owner.other-owner")
    iommu_device_unuse_default_domain(dev)
    assert iommu_device_claim_dma_owner(dev, "vfio") is None
    assert rig.kernel.warnings == 0


@both_kernels
def test_a_driver_that_leaves_a_group_without_users_warns(profile):
    rig = Rig(profile)
    dev = rig.device("dev", 4)
    iommu_device_unuse_default_domain(dev)
    assert rig.kernel.warnings == 1
    assert dev.iommu_group.owner_cnt == 0


def test_ownership_needs_a_group():
    rig = Rig()
    alone = Device(rig.kernel, "alone")
    refused(iommu_device_claim_dma_owner(alone, "vfio"), ENODEV, "dma-owner.no-group")
    assert iommu_device_use_default_domain(alone) is None


@both_kernels
def test_two_drivers_share_the_default_domain_of_a_group(profile):
    rig = Rig(profile)
    group = IommuGroup("pair")
    a, b = rig.device("a", 4, group), rig.device("b", 4, group)
    assert iommu_device_use_default_domain(a) is None
    assert iommu_device_use_default_domain(b) is None
    assert group.owner_cnt == 2


@both_kernels
def test_a_first_driver_may_use_a_group_with_a_pasid_attached(profile):
    rig = Rig(profile)
    dev = rig.device("dev", 4)
    assert rig.attach(dev, 5) is None
    assert iommu_device_use_default_domain(dev) is None


@both_kernels
def test_a_second_driver_in_the_group_is_refused_while_a_pasid_is_attached(profile):
    rig = Rig(profile)
    group = IommuGroup("pair")
    a, b = rig.device("a", 4, group), rig.device("b", 4, group)
    assert iommu_device_use_default_domain(a) is None
    assert rig.attach(a, 5) is None
    why = refused(iommu_device_use_default_domain(b), EBUSY, "default-domain.busy")
    assert why == "the group of b is owned, or has PASIDs attached"


@both_kernels
def test_a_driver_that_unbinds_with_a_pasid_attached_warns(profile):
    rig = Rig(profile)
    dev = rig.device("dev", 4)
    assert iommu_device_use_default_domain(dev) is None
    assert rig.attach(dev, 5) is None
    iommu_device_unuse_default_domain(dev)
    assert rig.kernel.warnings == 1
    assert dev.iommu_group.owner_cnt == 1


@both_kernels
def test_a_group_without_default_domain_defers_the_probe(profile):
    rig = Rig(profile)
    dev = rig.device("dev", 4)
    dev.iommu_group.default_domain = None
    refused(iommu_device_use_default_domain(dev), Errno.EPROBE_DEFER, "default-domain.not-ready")


# Looking into a slot


@both_kernels
def test_b21_a_kernel_managed_handle_is_no_sva_handle(profile):
    rig = Rig(profile)
    dev = rig.device("dev", 4)
    assert rig.attach(dev, 5, AttachHandle()) is None
    outcome = iommu_attach_handle_get(dev.iommu_group, 5, DomainType.SVA)
    assert "number 5 on dev belongs to domain 0" in refused(outcome, EBUSY, "handle-get.other-type")


@both_kernels
def test_b21_any_type_is_found_when_none_is_asked(profile):
    rig = Rig(profile)
    dev, handle = rig.device("dev", 4), AttachHandle()
    assert rig.attach(dev, 5, handle) is None
    assert iommu_attach_handle_get(dev.iommu_group, 5) is handle
    assert iommu_attach_handle_get(dev.iommu_group, 5, DomainType.PAGING) is handle
