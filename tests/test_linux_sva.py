"""Family C of the core cases: binding an address space to a device.

C27 to C30 are invariants: they are checked over random call sequences. Behind them: a bind whose N-th memory
allocation fails, under each scheme.
"""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pasidlab.drivers.mock import MockDriver
from pasidlab.drivers.traits import Mode
from pasidlab.errors import Errno
from pasidlab.events import (
    DomainAllocated,
    DomainFreed,
    KvaInvalidated,
    MmDropped,
    MmReleased,
    PasidFreed,
)
from pasidlab.linux.iommu import (
    iommu_alloc_global_pasid,
    iommu_attach_handle_get,
    iommu_dev_enable_feature_sva,
    iommu_free_global_pasid,
)
from pasidlab.linux.kernel import Arch
from pasidlab.linux.mm import mmput
from pasidlab.linux.prctl import prctl_enable_tagged_addr
from pasidlab.linux.profiles import V6_12, V6_16, V7_3
from pasidlab.linux.structs import (
    IOMMU_PASID_INVALID,
    AttachHandle,
    Device,
    DomainType,
    IommuGroup,
)
from pasidlab.linux.sva import (
    IommuSva,
    iommu_sva_bind_device,
    iommu_sva_bind_device_pasid,
    iommu_sva_get_pasid,
    iommu_sva_invalidate_kva_range,
    iommu_sva_unbind_device,
    mm_get_enqcmd_pasid,
    mm_valid_pasid,
)
from pasidlab.linux.task import File, clone_vm, close_file, do_exit, exec_, fork
from pasidlab.rules import Refusal
from pasidlab.schemes import V2, Hybrid, Mainline, Options, Rfc
from tests.rig import Rig, both_kernels, bound, programmed, refused

EBUSY, EINVAL, EIO, ENOMEM = Errno.EBUSY, Errno.EINVAL, Errno.EIO, Errno.ENOMEM
ENODEV, ENOSPC, EOPNOTSUPP, EOVERFLOW = Errno.ENODEV, Errno.ENOSPC, Errno.EOPNOTSUPP, Errno.EOVERFLOW
INVALID = IOMMU_PASID_INVALID

bind, unbind = iommu_sva_bind_device, iommu_sva_unbind_device


def untouched(mm):
    return mm.iommu_mm is None and mm_get_enqcmd_pasid(mm) == INVALID


# One device, one process


@both_kernels
def test_c1_a_first_bind_takes_number_1(profile):
    rig = Rig(profile)
    dev = rig.device("dev", 2)
    bond = bound(bind(dev, rig.mm("a")))
    assert iommu_sva_get_pasid(bond) == 1
    assert (bond.users, bond.domain.users) == (1, 1)
    assert rig.holders == {1: "process a"}
    assert rig.calls() == [DomainAllocated("dev", 0, None), programmed("dev", 1, 0)]


@both_kernels
def test_c2_a_second_bind_is_the_same_handle_without_a_driver_call(profile):
    rig = Rig(profile)
    dev, mm = rig.device("dev", 2), rig.mm("a")
    bond = bound(bind(dev, mm))
    rig.calls()
    assert bound(bind(dev, mm)) is bond
    assert bond.users == 2
    assert rig.calls() == []


@both_kernels
def test_c3_the_last_unbind_detaches_and_the_number_stays(profile):
    rig = Rig(profile)
    dev, mm = rig.device("dev", 2), rig.mm("a")
    bond = bound(bind(dev, mm))
    bind(dev, mm)
    rig.calls()
    unbind(bond)
    assert rig.calls() == []
    assert dev.iommu_group.pasid_array == {1: bond}
    unbind(bond)
    assert rig.calls() == [rig.cleared("dev", 1, 0), DomainFreed(0)]
    assert dev.iommu_group.pasid_array == {}
    assert rig.held == [1]


@both_kernels
def test_c4_a_bind_after_the_last_unbind_is_a_new_handle_with_the_old_number(profile):
    rig = Rig(profile)
    dev, mm = rig.device("dev", 2), rig.mm("a")
    first = bound(bind(dev, mm))
    unbind(first)
    second = bound(bind(dev, mm))
    assert second is not first
    assert second.pasid == 1


# The failure that started the thread


def full(rig):
    """A 2-bit device whose three numbers are held by three bound processes."""
    narrow = rig.device("narrow", 2)
    return narrow, [bound(bind(narrow, rig.mm(f"m{n}"))) for n in (1, 2, 3)]


@both_kernels
def test_c5_a_narrow_device_without_a_free_number_is_enospc(profile):
    rig = Rig(profile)
    narrow, _ = full(rig)
    m4 = rig.mm("m4")
    why = refused(bind(narrow, m4), ENOSPC, "bind.no-number-free")
    assert why == "narrow carries 1..3 and none of them is free in the global space"
    assert untouched(m4)


@both_kernels
def test_c5_the_numbers_may_be_held_by_modules_for_other_devices(profile):
    rig = Rig(profile)
    rig.hold(1, 2, 3)
    refused(bind(rig.device("narrow", 2), rig.mm("a")), ENOSPC, "bind.no-number-free")
    assert rig.holders == {1: "module", 2: "module", 3: "module"}


def test_c5_under_the_rfc_only_the_numbers_of_the_device_itself_count():
    rig = Rig(scheme=Rfc())
    rig.hold(1, 2, 3)
    narrow, _ = full(rig)
    why = refused(bind(narrow, rig.mm("m4")), ENOSPC, "rfc.device-full")
    assert why == (
        "narrow carries 1..3 and each of them is attached: "
        "1 to process m1 (SVA), 2 to process m2 (SVA), 3 to process m3 (SVA)"
    )


@both_kernels
def test_c6_unbinding_alone_frees_no_number(profile):
    rig = Rig(profile)
    narrow, bonds = full(rig)
    for bond in bonds:
        unbind(bond)
    refused(bind(narrow, rig.mm("m4")), ENOSPC, "bind.no-number-free")


@both_kernels
def test_c7_the_number_of_a_dead_mm_is_given_again(profile):
    rig = Rig(profile)
    narrow, bonds = full(rig)
    for bond in bonds:
        unbind(bond)
    rig.forget()
    mmput(bonds[1].mm)
    assert rig.seen == [MmReleased("m2"), PasidFreed(2), MmDropped("m2")]
    assert bound(bind(narrow, rig.mm("m4"))).pasid == 2


def four_on_a_wide_device(rig):
    wide = rig.device("wide", 16)
    return [bound(bind(wide, rig.mm(f"m{n}"))) for n in (1, 2, 3, 4)]


@both_kernels
def test_c8_a_number_from_a_wide_device_does_not_fit_a_narrow_one(profile):
    rig = Rig(profile)
    bonds = four_on_a_wide_device(rig)
    narrow = rig.device("narrow", 2)
    why = refused(bind(narrow, bonds[3].mm), EOVERFLOW, "bind.number-too-wide")
    assert why == "process m4 has number 4 for life, and narrow carries 1..3"
    assert bound(bind(narrow, bonds[2].mm)).pasid == 3


def test_c8_the_same_limit_holds_for_the_live_number_of_a_v2_driver():
    rig = Rig(scheme=V2())
    wide, narrow, mm = rig.device("wide", 16), rig.device("narrow", 2), rig.mm("a")
    bound(iommu_sva_bind_device_pasid(wide, mm, 4))
    outcome = iommu_sva_bind_device_pasid(narrow, mm, 4)
    assert refused(outcome, EOVERFLOW, "v2.number-too-wide") == "narrow carries 1..3: 4 does not fit"


@both_kernels
def test_c9_a_number_is_never_chosen_again(profile):
    rig = Rig(profile)
    bonds = four_on_a_wide_device(rig)
    for bond in bonds[:3]:
        unbind(bond)
        mmput(bond.mm)
    assert rig.held == [4]
    refused(bind(rig.device("narrow", 2), bonds[3].mm), EOVERFLOW, "bind.number-too-wide")


@both_kernels
@pytest.mark.parametrize("bits", [None, 0], ids=["no PASIDs", "0 bits"])
def test_c10_a_device_without_numbers_has_two_errnos(profile, bits):
    rig = Rig(profile)
    none, fresh, numbered = rig.device("none", bits), rig.mm("fresh"), rig.mm("numbered")
    bound(bind(rig.device("dev", 4), numbered))
    assert refused(bind(none, fresh), ENOSPC, "bind.device-without-pasids") == "none carries no PASID at all"
    why = refused(bind(none, numbered), EOVERFLOW, "bind.number-too-wide")
    assert why == "process numbered has number 1 for life, and none carries no PASID"
    assert untouched(fresh)


@both_kernels
def test_c11_a_device_behind_no_iommu_is_enodev(profile):
    rig = Rig(profile)
    mm = rig.mm("a")
    why = refused(bind(Device(rig.kernel, "alone", pasid_num_bits=4), mm), ENODEV, "bind.no-group")
    assert "alone is behind no IOMMU" in why
    assert untouched(mm)
    assert rig.held == []


def test_c12_stable_6_12_refuses_sva_on_x86():
    rig = Rig(V6_12, arch=Arch.X86)
    mm = rig.mm("a")
    refused(bind(rig.device("dev", 4), mm), EOPNOTSUPP, "bind.x86-refused")
    assert untouched(mm)
    assert rig.held == []


@pytest.mark.parametrize(
    ("profile", "arch"), [(V7_3, Arch.X86), (V6_12, Arch.ARM64), (V6_12, Arch.UM)], ids=lambda v: v.name
)
def test_c12_other_kernels_and_architectures_do_not(profile, arch):
    rig = Rig(profile, arch=arch)
    assert bound(bind(rig.device("dev", 4), rig.mm("a"))).pasid == 1


# LAM


def test_c13_a_process_with_lam_is_refused_and_no_number_taken():
    rig = Rig(V7_3, arch=Arch.X86)
    task = rig.process("a")
    assert prctl_enable_tagged_addr(task) is None
    why = refused(bind(rig.device("dev", 4), task.mm), EBUSY, "bind.page-table-not-dma-compatible")
    assert why == "process a uses tagged addresses (LAM), which devices do not understand"
    assert untouched(task.mm)
    assert rig.held == []


def test_c13_the_test_comes_even_when_the_mm_has_a_number():
    rig = Rig(V7_3, arch=Arch.X86)
    dev, mm = rig.device("dev", 4), rig.mm("a")
    bound(bind(dev, mm))
    mm.lam = True
    refused(bind(dev, mm), EBUSY, "bind.page-table-not-dma-compatible")


def test_c13_forced_tagged_sva_lifts_it():
    rig = Rig(V7_3, arch=Arch.X86)
    rig.kernel.force_tagged_sva = True
    mm = rig.mm("a")
    mm.lam = True
    bound(bind(rig.device("dev", 4), mm))


def test_c14_a_bound_process_cannot_turn_lam_on():
    rig = Rig(V7_3, arch=Arch.X86)
    task = rig.process("a")
    bond = bound(bind(rig.device("dev", 4), task.mm))
    assert "process a" in refused(prctl_enable_tagged_addr(task), EINVAL, "lam.has-pasid")
    unbind(bond)
    refused(prctl_enable_tagged_addr(task), EINVAL, "lam.has-pasid")


def test_c14_forced_tagged_sva_lifts_it():
    rig = Rig(V7_3, arch=Arch.X86)
    rig.kernel.force_tagged_sva = True
    task = rig.process("a")
    bound(bind(rig.device("dev", 4), task.mm))
    assert prctl_enable_tagged_addr(task) is None


# A bind that fails after the number was taken


@both_kernels
def test_c15_a_failing_domain_allocation_keeps_the_number(profile):
    rig = Rig(profile)
    dev, mm = rig.device("dev", 4), rig.mm("a")
    rig.driver.fail_alloc[dev] = EIO
    why = refused(bind(dev, mm), EIO, "driver.domain-alloc-failed")
    assert why == "the IOMMU driver of dev failed to make an SVA domain"
    assert rig.calls() == [DomainAllocated("dev", None, EIO)]
    assert rig.holders == {1: "process a"}
    assert bound(bind(dev, mm)).pasid == 1


@both_kernels
def test_c15_a_failing_set_frees_the_domain_and_keeps_the_number(profile):
    rig = Rig(profile)
    dev, mm = rig.device("dev", 4), rig.mm("a")
    rig.driver.fail_set[dev] = EIO
    refused(bind(dev, mm), EIO, "driver.set-failed")
    assert rig.calls() == [DomainAllocated("dev", 0, None), programmed("dev", 1, 0, EIO), DomainFreed(0)]
    assert mm.mm_count == 1
    assert mm_get_enqcmd_pasid(mm) == 1


@both_kernels
def test_c15_the_number_goes_with_the_mm_although_it_was_never_bound(profile):
    rig = Rig(profile)
    dev, mm = rig.device("dev", 4), rig.mm("a")
    rig.driver.fail_alloc[dev] = EIO
    bind(dev, mm)
    mmput(mm)
    assert rig.held == []


@both_kernels
def test_c16_a_narrower_member_refuses_the_number_which_stays(profile):
    rig = Rig(profile)
    rig.hold(1, 2, 3)
    group = IommuGroup("pair")
    wide, _narrow = rig.device("wide", 4, group), rig.device("narrow", 2, group)
    why = refused(bind(wide, rig.mm("a")), EINVAL, "attach.beyond-max-pasids")
    assert why == "narrow, in the group of wide, carries 1..3: 4 does not fit"
    assert rig.holders[4] == "process a"


@both_kernels
@pytest.mark.parametrize("handle", [None, AttachHandle()], ids=["without handle", "with handle"])
def test_a_kernel_managed_domain_at_the_number_is_ebusy_and_the_number_stays(profile, handle):
    rig = Rig(profile)
    dev, mm = rig.device("dev", 4), rig.mm("a")
    assert rig.attach(dev, 1, handle) is None
    rule = "handle-get.other-type" if handle else "attach.slot-taken"
    refused(bind(dev, mm), EBUSY, rule)
    assert mm_get_enqcmd_pasid(mm) == 1


@both_kernels
def test_a_bind_refused_for_another_kind_of_domain_names_device_number_and_holder(profile):
    rig = Rig(profile)
    nic = rig.device("nic", 4)
    assert rig.attach(nic, 1, AttachHandle()) is None
    why = refused(bind(nic, rig.mm("a")), EBUSY, "handle-get.other-type")
    assert [word in why for word in ("nic", "1", "domain 0")] == [True, True, True]


@both_kernels
def test_a_number_that_another_mm_has_on_the_device_is_ebusy(profile):
    rig = Rig(profile)
    dev, a, b = rig.device("dev", 4), rig.mm("a"), rig.mm("b")
    bound(bind(dev, a))
    iommu_free_global_pasid(rig.kernel, 1)  # breaks the contract: mainline alone never gets here
    why = refused(bind(dev, b), EBUSY, "bind.number-of-other-mm")
    assert why == "number 1 on dev belongs to process a (SVA)"


def test_driver_without_sva_answers_by_kernel():
    for profile, errno, rule in (
        (V6_12, ENOMEM, "bind.driver-without-sva-6.12"),
        (V7_3, EOPNOTSUPP, "bind.driver-without-sva"),
    ):
        rig = Rig(profile)
        dev = rig.device("dev", 4, iommu=rig.iommu("plain", mode=Mode.NO_DOMAIN_ALLOC_SVA))
        assert refused(bind(dev, rig.mm("a")), errno, rule) == "the IOMMU driver of dev has no SVA"
        assert rig.holders == {1: "process a"}


# Several devices


@both_kernels
def test_c17_two_devices_of_one_iommu_share_the_domain(profile):
    rig = Rig(profile)
    mm = rig.mm("a")
    one, two = bound(bind(rig.device("one", 4), mm)), bound(bind(rig.device("two", 4), mm))
    assert one is not two
    assert one.domain is two.domain
    assert one.domain.users == 2
    assert mm.iommu_mm.sva_domains == [one.domain]
    assert rig.calls() == [DomainAllocated("one", 0, None), programmed("one", 1, 0), programmed("two", 1, 0)]


@both_kernels
def test_c18_two_iommus_have_a_domain_each_and_one_number(profile):
    rig = Rig(profile)
    mm = rig.mm("a")
    one = bound(bind(rig.device("one", 4), mm))
    two = bound(bind(rig.device("two", 4, iommu=rig.iommu("other")), mm))
    assert one.domain is not two.domain
    assert one.pasid == two.pasid == 1
    assert mm.iommu_mm.sva_domains == [two.domain, one.domain]  # the newest first
    assert rig.calls()[2:] == [
        programmed("two", 1, 0, EINVAL),  # the first domain is tried; its errno is swallowed
        DomainAllocated("two", 1, None),
        programmed("two", 1, 1),
    ]


@both_kernels
def test_c18_an_injected_error_of_a_shared_domain_is_swallowed_too(profile):
    rig = Rig(profile)
    mm, two = rig.mm("a"), rig.device("two", 4)
    one = bound(bind(rig.device("one", 4), mm))
    rig.driver.fail_set[two] = EIO
    bond = bound(bind(two, mm))
    assert bond.domain is not one.domain
    assert len(mm.iommu_mm.sva_domains) == 2


class AnyUnit(MockDriver):
    """A driver whose domains serve all of its units, as those of VT-d do."""

    def set_dev_pasid(self, domain, dev, pasid, old):
        domain.iommu = dev.iommu
        return super().set_dev_pasid(domain, dev, pasid, old)


@both_kernels
def test_c19_two_units_of_a_vtd_like_driver_share_the_domain(profile):
    rig = Rig(profile, driver=AnyUnit)
    mm = rig.mm("a")
    one = bound(bind(rig.device("one", 4), mm))
    two = bound(bind(rig.device("two", 4, iommu=rig.iommu("other")), mm))
    assert one.domain is two.domain
    assert one.domain.users == 2
    assert one.pasid == two.pasid == 1


@both_kernels
def test_c20_two_devices_of_one_group_share_the_handle(profile):
    rig = Rig(profile)
    group = IommuGroup("pair")
    a, b, mm = rig.device("a", 4, group), rig.device("b", 4, group), rig.mm("m")
    bond = bound(bind(b, mm))
    assert bound(bind(a, mm)) is bond
    assert (bond.users, bond.dev) == (2, b)
    rig.calls()
    unbind(bond)
    assert rig.calls() == []
    assert set(rig.driver.entries) == {(a, 1), (b, 1)}


@both_kernels
def test_c20_the_limit_is_that_of_the_named_device_though_the_group_is_attached(profile):
    rig = Rig(profile)
    group = IommuGroup("slot")
    gpu, bridge, mm = rig.device("gpu", 4, group), rig.device("bridge", None, group), rig.mm("a")
    refused(bind(bridge, mm), ENOSPC, "bind.device-without-pasids")
    bound(bind(gpu, mm))
    refused(bind(bridge, mm), EOVERFLOW, "bind.number-too-wide")


@pytest.mark.parametrize("scheme", [Mainline, Rfc, V2, Hybrid])
def test_c20_a_member_without_pasids_gets_no_number_though_its_group_has_some(scheme):
    rig = Rig(scheme=scheme())
    group = IommuGroup("slot")
    _gpu, bridge = rig.device("gpu", 4, group), rig.device("bridge", None, group)
    outcome = bind(bridge, rig.mm("a"))
    assert isinstance(outcome, Refusal)
    assert outcome.errno is ENOSPC


@both_kernels
def test_c21_each_driver_has_a_domain_of_its_own(profile):
    rig = Rig(profile)
    mm = rig.mm("a")
    one = bound(bind(rig.device("one", 4), mm))
    two = bound(bind(rig.device("two", 4, iommu=rig.iommu("vtd", mode=Mode.OTHER_DRIVER)), mm))
    assert one.pasid == two.pasid == 1
    assert mm.iommu_mm.sva_domains == [two.domain, one.domain]


# Processes


@both_kernels
def test_c22_a_forked_child_has_no_number_and_gets_the_next(profile):
    rig = Rig(profile)
    dev, parent = rig.device("dev", 4), rig.process("a")
    bond = bound(bind(dev, parent.mm))
    child = fork(parent, "child", 2)
    assert untouched(child.mm)
    assert mm_get_enqcmd_pasid(parent.mm) == 1
    assert bound(bind(dev, child.mm)).pasid == 2
    assert bond.users == 1


@both_kernels
def test_c23_a_thread_shares_number_and_handle(profile):
    rig = Rig(profile)
    dev, task = rig.device("dev", 4), rig.process("a")
    bond = bound(bind(dev, task.mm))
    thread = clone_vm(task, "thread", 2)
    assert mm_get_enqcmd_pasid(thread.mm) == 1
    assert bound(bind(dev, thread.mm)) is bond


@both_kernels
def test_c23_the_number_lives_until_the_last_thread(profile):
    rig = Rig(profile)
    task = rig.process("a")
    thread = clone_vm(task, "thread", 2)
    unbind(bound(bind(rig.device("dev", 4), task.mm)))
    do_exit(task)
    assert rig.held == [1]
    do_exit(thread)
    assert rig.held == []


@both_kernels
def test_exec_drops_the_number_of_the_old_mm(profile):
    rig = Rig(profile)
    dev, task = rig.device("dev", 4), rig.process("a")
    unbind(bound(bind(dev, task.mm)))
    exec_(task, "a, executed")
    assert rig.held == []
    assert untouched(task.mm)


def opened(rig, task):
    """The file of a device whose driver binds at open and unbinds at release."""
    bond = bound(bind(rig.device("dev", 4), task.mm))
    file = File("dev", lambda: unbind(bond))
    task.files.files.append(file)
    return file


@both_kernels
def test_c24_exit_releases_the_mm_first_and_frees_the_number_at_close(profile):
    rig = Rig(profile)
    task = rig.process("a")
    opened(rig, task)
    rig.forget()
    do_exit(task)
    assert rig.seen == [
        MmReleased("a"),
        rig.cleared("dev", 1, 0),
        PasidFreed(1),
        MmDropped("a"),
        DomainFreed(0),
    ]
    assert rig.held == []


@both_kernels
def test_c24_between_release_and_close_the_bond_still_holds_number_and_slot(profile):
    rig = Rig(profile)
    task = rig.process("a")
    seen_in_release = []
    file = opened(rig, task)
    release, file.release = file.release, lambda: (seen_in_release.append(rig.holders), release())
    do_exit(task)
    assert seen_in_release == [{1: "process a, exited, kept by a bond"}]


@both_kernels
def test_c25_a_file_passed_to_another_process_keeps_the_number(profile):
    rig = Rig(profile)
    owner, other = rig.process("owner"), rig.process("other")
    file = opened(rig, owner)
    other.files.files.append(file)
    file.count += 1
    do_exit(owner)
    assert rig.holders == {1: "process owner, exited, kept by a bond"}
    close_file(other, file)
    assert rig.held == []


@both_kernels
def test_c25_a_forked_daemon_keeps_the_number_of_its_dead_parent(profile):
    rig = Rig(profile)
    master = rig.process("master")
    opened(rig, master)
    daemon = fork(master, "daemon", 2)
    do_exit(master)
    assert rig.held == [1]
    do_exit(daemon)
    assert rig.held == []


@both_kernels
def test_c25_a_closed_file_is_not_released_again_at_exit(profile):
    rig = Rig(profile)
    task = rig.process("a")
    close_file(task, opened(rig, task))
    do_exit(task)
    assert rig.held == []
    assert rig.kernel.mms == {}


def test_c25_a_kernel_of_5_18_rc_frees_it_too_early():
    profile = V7_3.with_switches({"pasid_freed_at_mmput": True})
    rig = Rig(profile)
    dev, master = rig.device("dev", 4), rig.process("master")
    bond = bound(bind(dev, master.mm))
    do_exit(master)
    assert rig.held == []  # the nginx regression of 2022: the slot is still the dead process's
    refused(bind(dev, rig.mm("next")), EBUSY, "bind.number-of-other-mm")
    unbind(bond)
    assert rig.kernel.warnings == 0


# Whose memory a device reaches


@both_kernels
def test_a_device_reaches_the_bound_mm(profile):
    rig = Rig(profile)
    dev = rig.device("dev", 4)
    bond = bound(bind(dev, rig.mm("a")))
    assert rig.driver.translate(dev, 1) is bond.domain


@both_kernels
def test_a_device_reaches_nothing_under_a_number_that_is_not_attached(profile):
    rig = Rig(profile)
    dev = rig.device("dev", 4)
    unbind(bound(bind(dev, rig.mm("a"))))
    fault = rig.driver.translate(dev, 1)
    assert fault.rule.id == "dma.no-entry"
    assert fault.why == "the IOMMU has no entry for PASID 1 of dev: the access is blocked"


@both_kernels
def test_a_device_reaches_nothing_of_a_process_that_has_exited(profile):
    rig = Rig(profile)
    dev, mm = rig.device("dev", 4), rig.mm("a")
    bound(bind(dev, mm))
    mmput(mm)
    fault = rig.driver.translate(dev, 1)
    assert fault.rule.id == "dma.quiet"
    assert fault.why == "PASID 1 of dev names a, which has exited: the access is blocked"


@both_kernels
def test_a_device_reaches_a_kernel_managed_domain(profile):
    rig = Rig(profile)
    dev = rig.device("dev", 4)
    assert rig.attach(dev, 5) is None
    assert rig.driver.translate(dev, 5).type is DomainType.PAGING


@both_kernels
def test_c26_a_dead_mm_cannot_be_bound(profile):
    rig = Rig(profile)
    mm = rig.mm("a")
    mm.mm_count += 1  # somebody keeps the structure
    mmput(mm)
    why = refused(bind(rig.device("dev", 4), mm), EINVAL, "driver.mm-dying")
    assert why == "process a has exited; nothing can be bound to it any more"


# The invariants, over random sequences

MMS, DEVICES = ("a", "b", "c"), ("narrow", "wide", "other", "left", "right")
mms, devices = st.sampled_from(MMS), st.sampled_from(DEVICES)
calls = st.one_of(
    st.tuples(st.just("bind"), devices, mms),
    st.tuples(st.just("unbind"), st.integers(0, 9)),
    st.tuples(st.just("exit"), mms),
    st.tuples(st.just("take"), devices),
    st.tuples(st.just("give"), st.integers(0, 9)),
    st.tuples(st.just("attach"), devices, st.integers(0, 9), st.booleans()),
    st.tuples(st.just("fail set"), devices),
    st.tuples(st.just("fail alloc"), devices),
)


class Run:
    """Does random calls of mainline, within the contracts of callers."""

    def __init__(self, profile):
        self.rig = rig = Rig(profile)
        pair = IommuGroup("pair")
        self.devices = {
            "narrow": rig.device("narrow", 2),
            "wide": rig.device("wide", 4),
            "other": rig.device("other", 4, iommu=rig.iommu("other")),
            "left": rig.device("left", 4, pair),
            "right": rig.device("right", 2, pair),
        }
        self.live = {}
        self.uses = []
        self.module = []

    def do(self, call, *arguments):
        getattr(self, "do_" + call.replace(" ", "_"))(*arguments)

    def do_bind(self, dev, name):
        mm = self.live.setdefault(name, None) or self.rig.mm(name)
        self.live[name] = mm
        outcome = bind(self.devices[dev], mm)
        if isinstance(outcome, IommuSva):
            self.uses.append(outcome)

    def do_unbind(self, index):
        if self.uses:
            unbind(self.uses.pop(index % len(self.uses)))

    def do_exit(self, name):
        mm = self.live.pop(name, None)
        if mm:
            mmput(mm)

    def do_take(self, dev):
        pasid = iommu_alloc_global_pasid(self.devices[dev])
        if pasid != INVALID:
            self.module.append(pasid)

    def do_give(self, index):
        if self.module:
            iommu_free_global_pasid(self.rig.kernel, self.module.pop(index % len(self.module)))

    def do_attach(self, dev, pasid, with_handle):
        self.rig.attach(self.devices[dev], pasid, AttachHandle() if with_handle else None)

    def do_fail_set(self, dev):
        self.rig.driver.fail_set[self.devices[dev]] = EIO

    def do_fail_alloc(self, dev):
        self.rig.driver.fail_alloc[self.devices[dev]] = EIO

    @property
    def bonds(self):
        groups = {dev.iommu_group for dev in self.devices.values()}
        entries = [(pasid, entry) for group in groups for pasid, entry in group.pasid_array.items()]
        return [(pasid, entry) for pasid, entry in entries if isinstance(entry, IommuSva)]

    @property
    def mms_with_data(self):
        return [mm for mm in self.rig.kernel.mms if mm.iommu_mm]


def over_random_sequences(check):
    """Run `check` after every call of random sequences, under both kernels."""

    @both_kernels
    @settings(max_examples=60, derandomize=True, deadline=None, database=None)
    @given(sequence=st.lists(calls, max_size=40))
    def run(profile, sequence):
        run = Run(profile)
        for call in sequence:
            run.do(*call)
            check(run)
        assert run.rig.kernel.warnings == 0

    return run


@over_random_sequences
def test_c27_every_held_number_has_exactly_one_holder(run):
    numbers = [mm.iommu_mm.pasid for mm in run.mms_with_data] + run.module
    assert sorted(numbers) == run.rig.held


@over_random_sequences
def test_c28_a_bond_sits_at_the_number_of_its_mm(run):
    assert all(pasid == bond.pasid == bond.mm.iommu_mm.pasid for pasid, bond in run.bonds)


@over_random_sequences
def test_c29_the_users_of_an_mms_domains_are_its_bonds(run):
    bonds = [bond for _, bond in run.bonds]
    for mm in run.mms_with_data:
        of_mm = [bond for bond in bonds if bond.mm is mm]
        assert sum(domain.users for domain in mm.iommu_mm.sva_domains) == len(of_mm)
        assert set(mm.iommu_mm.sva_domains) == {bond.domain for bond in of_mm}
        assert all(domain.users >= 1 for domain in mm.iommu_mm.sva_domains)


@over_random_sequences
def test_c30_the_core_knows_the_mms_that_have_domains(run):
    assert set(run.rig.kernel.iommu_sva_mms) == {mm for mm in run.mms_with_data if mm.iommu_mm.sva_domains}


def test_the_random_sequences_reach_what_they_shall():
    run = Run(V7_3)
    for call in (
        ("bind", "wide", "a"),
        ("bind", "narrow", "a"),
        ("bind", "other", "a"),
        ("take", "wide"),
        ("exit", "a"),
        ("attach", "wide", 5, True),
    ):
        run.do(*call)
    assert len(run.bonds) == 3
    assert run.rig.held == [1, 2]
    assert len(run.mms_with_data[0].iommu_mm.sva_domains) == 2


# IOMMUs that cannot


def riscv(rig):
    """An instance that never sets max_pasids, of a driver without the operations."""
    return rig.iommu("riscv", 0, Mode.NO_SET_DEV_PASID)


@both_kernels
def test_c31_a_riscv_iommu_carries_no_pasids(profile):
    rig = Rig(profile)
    dev, numbered = rig.device("dev", 20, iommu=riscv(rig)), rig.mm("numbered")
    bound(bind(rig.device("elsewhere", 4), numbered))
    assert dev.max_pasids == 0
    refused(bind(dev, rig.mm("fresh")), ENOSPC, "bind.device-without-pasids")
    refused(bind(dev, numbered), EOVERFLOW, "bind.number-too-wide")
    refused(rig.attach(dev, 1), EOPNOTSUPP, "attach.no-set-dev-pasid")


def test_c32_without_the_sva_feature_7_3_refuses_the_bind_and_keeps_the_number():
    rig = Rig(V7_3)
    dev = rig.device("dev", 4, iommu=rig.iommu("old", sva=False))
    why = refused(bind(dev, rig.mm("a")), EOPNOTSUPP, "driver.no-sva-feature")
    assert why == "the IOMMU of dev cannot share page tables with this CPU"
    assert rig.holders == {1: "process a"}


def test_c32_without_the_sva_feature_6_12_refuses_to_enable_it():
    rig = Rig(V6_12)
    dev = rig.device("dev", 4, iommu=rig.iommu("old", sva=False))
    why = refused(iommu_dev_enable_feature_sva(dev), EINVAL, "driver.enable-sva-refused")
    assert why == "the IOMMU of dev cannot share page tables with this CPU"
    assert rig.held == []


def test_c32_with_the_feature_6_12_enables_it():
    rig = Rig(V6_12)
    assert iommu_dev_enable_feature_sva(rig.device("dev", 4)) is None


def test_enabling_sva_without_an_iommu_is_enodev():
    rig = Rig(V6_12)
    refused(iommu_dev_enable_feature_sva(Device(rig.kernel, "alone")), ENODEV, "enable-sva.unsupported")


# Kernel mappings


def test_kernel_mappings_are_flushed_for_every_bound_mm():
    rig = Rig(V7_3)
    dev = rig.device("dev", 4)
    bound(bind(dev, rig.mm("a")))
    gone = bound(bind(dev, rig.mm("b")))
    released = bound(bind(dev, rig.mm("c")))
    unbind(gone)
    mmput(released.mm)
    rig.forget()
    iommu_sva_invalidate_kva_range(rig.kernel, 0x1000, 0x2000)
    assert rig.seen == [KvaInvalidated("a", 0x1000, 0x2000)]


@pytest.mark.parametrize("profile", [V6_12, V6_16], ids=lambda profile: profile.name)
def test_older_kernels_do_not_flush_kernel_mappings(profile):
    rig = Rig(profile)
    bound(bind(rig.device("dev", 4), rig.mm("a")))
    rig.forget()
    iommu_sva_invalidate_kva_range(rig.kernel, 0x1000, 0x2000)
    assert rig.seen == []
    assert rig.rules("kva") == []


# What a bind reports when it succeeds


def test_a_bind_says_which_of_the_three_ways_it_went():
    rig = Rig()
    mm, one, two = rig.mm("a"), rig.device("one", 4), rig.device("two", 4)
    rig.forget()
    bind(one, mm)
    assert rig.rules("bind") == ["bind.domain-new"]
    bind(two, mm)
    assert rig.rules("bind") == ["bind.domain-shared"]
    bind(two, mm)
    assert rig.rules("bind") == ["bind.same-mm"]


def test_mainline_has_no_bind_with_a_number():
    rig = Rig()
    dev, mm = rig.device("dev", 4), rig.mm("a")
    outcome = iommu_sva_bind_device_pasid(dev, mm, 3)
    why = refused(outcome, Errno.ENOSYS, "scheme.no-such-call")
    assert why == "scheme mainline has no iommu_sva_bind_device_pasid()"
    assert untouched(mm)


@pytest.mark.parametrize(
    "options",
    [Options(), Options(quota_user=1), Options(min_sva_bits=8), Options(guard="range")],
    ids=["plain", "quota", "width", "range"],
)
@pytest.mark.parametrize("scheme", [Mainline, Rfc])
def test_a_call_that_the_design_does_not_have_is_enosys_whatever_is_asked(scheme, options):
    rig = Rig(scheme=scheme(options))
    outcome = iommu_sva_bind_device_pasid(Device(rig.kernel, "alone"), rig.mm("a"), 3)
    refused(outcome, Errno.ENOSYS, "scheme.no-such-call")


@pytest.mark.parametrize("scheme", [V2, Hybrid])
def test_pasid_0_is_refused_before_anything_else_is_looked_at(scheme):
    rig = Rig(scheme=scheme())
    outcome = iommu_sva_bind_device_pasid(Device(rig.kernel, "alone"), rig.mm("a"), 0)
    assert refused(outcome, EINVAL, "bind-pasid.zero") == "PASID 0 is the traffic of alone without PASID"


@pytest.mark.parametrize("scheme", [V2, Hybrid])
def test_guard_range_keeps_the_local_numbers_of_portal_devices_above_the_global_ones(scheme):
    rig = Rig(scheme=scheme(Options(guard="range", local_first=8)))
    portal = rig.probe(Device(rig.kernel, "portal", pasid_num_bits=4, enqcmd_bar=True))
    outcome = iommu_sva_bind_device_pasid(portal, rig.mm("a"), 3)
    assert isinstance(outcome, Refusal)
    assert outcome.errno is EINVAL
    bound(iommu_sva_bind_device_pasid(portal, rig.mm("a"), 8))


@pytest.mark.parametrize("scheme", [Mainline, Rfc, V2, Hybrid])
def test_the_portal_of_a_device_behind_no_iommu_is_not_mapped(scheme):
    rig = Rig(scheme=scheme())
    outcome = rig.kernel.scheme.may_map_portal(Device(rig.kernel, "alone"), rig.mm("a"))
    why = refused(outcome, Errno.EPERM, "portal.no-bond")
    assert why == "process a has no normal bond on alone, so its portal must not be mapped"


def test_the_number_that_a_v2_process_holds_already_is_no_new_one_for_the_quota():
    rig = Rig(scheme=V2(Options(quota_user=1)))
    mm = rig.mm("a")
    bound(iommu_sva_bind_device_pasid(rig.device("one", 4), mm, 5))
    bound(iommu_sva_bind_device_pasid(rig.device("two", 4), mm, 5))


@both_kernels
def test_a_bond_in_a_slot_is_an_sva_handle(profile):
    rig = Rig(profile)
    dev = rig.device("dev", 4)
    bond = bound(bind(dev, rig.mm("a")))
    assert iommu_attach_handle_get(dev.iommu_group, 1, DomainType.SVA) is bond
    refused(iommu_attach_handle_get(dev.iommu_group, 1, DomainType.PAGING), EBUSY, "handle-get.other-type")


# The N-th memory allocation of a bind fails


def global_bind(dev, mm):
    return iommu_sva_bind_device(dev, mm)


def local_bind(dev, mm):
    return iommu_sva_bind_device_pasid(dev, mm, 3)


BINDS = [
    pytest.param(Mainline, global_bind, True, id="mainline"),
    pytest.param(Rfc, global_bind, True, id="rfc, own space"),
    pytest.param(Rfc, global_bind, False, id="rfc, global"),
    pytest.param(V2, global_bind, True, id="v2, core"),
    pytest.param(V2, local_bind, True, id="v2, driver"),
    pytest.param(Hybrid, global_bind, True, id="hybrid, global"),
    pytest.param(Hybrid, local_bind, True, id="hybrid, local"),
]
every_bind = pytest.mark.parametrize(("scheme", "call", "per_device"), BINDS)
every_allocation = pytest.mark.parametrize("nth", [1, 2, 3])


def bind_with_failure(scheme, call, per_device, nth):
    """Bind while the N-th allocation fails."""
    rig = Rig(scheme=scheme())
    dev = rig.device("dev", 4, iommu=rig.iommu("iommu", per_device=per_device))
    mm = rig.mm("a")
    rig.calls()
    rig.kernel.fail_allocation = nth
    return rig, dev, mm, call(dev, mm)


@every_allocation
@every_bind
def test_a_bind_without_memory_is_enomem_and_attaches_nothing(scheme, call, per_device, nth):
    rig, dev, mm, outcome = bind_with_failure(scheme, call, per_device, nth)
    if rig.kernel.fail_allocation:  # the bind makes fewer than N
        bound(outcome)
        return
    assert isinstance(outcome, Refusal)
    assert outcome.errno is ENOMEM
    assert dev.iommu_group.pasid_array == {}
    assert rig.calls() == []
    assert mm.mm_count == 1


@every_allocation
@every_bind
def test_a_bind_without_memory_leaves_only_what_linux_leaves(scheme, call, per_device, nth):
    rig, _, mm, _ = bind_with_failure(scheme, call, per_device, nth)
    if rig.kernel.fail_allocation:
        return
    global_at_once = scheme is Mainline or (scheme is Rfc and not per_device)
    if global_at_once and nth == 2:  # the handle: the number was taken and published before
        assert rig.holders == {1: "process a"}
        assert mm_get_enqcmd_pasid(mm) == 1
    else:
        assert rig.held == []
        assert untouched(mm)
        assert not mm_valid_pasid(mm)


@every_allocation
@every_bind
def test_the_same_bind_succeeds_when_there_is_memory_again(scheme, call, per_device, nth):
    rig, dev, mm, _ = bind_with_failure(scheme, call, per_device, nth)
    rig.kernel.fail_allocation = 0
    bond = bound(call(dev, mm))
    assert dev.iommu_group.pasid_array == {bond.pasid: bond}


@every_bind
def test_a_first_bind_makes_two_allocations(scheme, call, per_device):
    rig, _, _, outcome = bind_with_failure(scheme, call, per_device, 3)
    bound(outcome)
    assert rig.kernel.fail_allocation == 1  # the mm's data, and the handle


@every_bind
def test_a_second_bind_to_another_device_makes_one(scheme, call, per_device):
    rig, dev, mm, outcome = bind_with_failure(scheme, call, per_device, 0)
    bond = bound(outcome)
    other = rig.device("other", 4, iommu=dev.iommu)
    rig.kernel.fail_allocation = 1
    assert "bond" in refused(call(other, mm), ENOMEM, "bind.no-memory-for-handle")
    assert dev.iommu_group.pasid_array == {bond.pasid: bond}
    assert other.iommu_group.pasid_array == {}
    assert bond.domain.users == 1


@every_bind
def test_a_second_bind_to_the_same_device_makes_none(scheme, call, per_device):
    rig, dev, mm, outcome = bind_with_failure(scheme, call, per_device, 0)
    rig.kernel.fail_allocation = 1
    assert bound(call(dev, mm)) is bound(outcome)


def test_a_slot_that_another_holds_wins_over_no_memory():
    rig = Rig(scheme=V2())
    dev, a, b = rig.device("dev", 4), rig.mm("a"), rig.mm("b")
    bound(local_bind(dev, a))
    rig.kernel.fail_allocation = 2
    refused(local_bind(dev, b), EBUSY, "bind.number-of-other-mm")
