"""Family A of the core cases: the global PASID allocator, and how many numbers a device carries."""

from __future__ import annotations

import pytest

from pasidlab import events
from pasidlab.errors import Errno
from pasidlab.linux.iommu import (
    iommu_alloc_global_pasid,
    iommu_free_global_pasid,
    pasid_range,
    pci_max_pasids,
)
from pasidlab.linux.structs import (
    IOMMU_FIRST_GLOBAL_PASID,
    IOMMU_PASID_INVALID,
    Device,
)
from pasidlab.linux.sva import iommu_sva_bind_device
from tests.rig import Rig, both_kernels, bound, refused

INVALID = IOMMU_PASID_INVALID


def take(dev, count):
    return [iommu_alloc_global_pasid(dev) for _ in range(count)]


@both_kernels
def test_a1_a_device_without_pasids_gets_no_number(profile):
    rig = Rig(profile)
    assert take(rig.device("dev", None), 1) == [INVALID]
    assert rig.held == []


@both_kernels
def test_a2_a_device_of_0_bits_gets_no_number(profile):
    rig = Rig(profile)
    dev = rig.device("dev", 0)
    assert dev.max_pasids == 1
    assert take(dev, 1) == [INVALID]
    assert rig.held == []


@both_kernels
def test_a3_a_1_bit_device_gets_1_and_no_more(profile):
    assert take(Rig(profile).device("dev", 1), 2) == [1, INVALID]


@both_kernels
def test_a4_a_2_bit_device_gets_1_2_3_and_no_more(profile):
    assert take(Rig(profile).device("dev", 2), 4) == [1, 2, 3, INVALID]


@both_kernels
def test_a5_lowest_free_is_reused_at_once(profile):
    rig = Rig(profile)
    dev = rig.device("dev", 2)
    take(dev, 4)
    iommu_free_global_pasid(rig.kernel, 2)
    assert take(dev, 1) == [2]


@both_kernels
def test_a5_the_lowest_of_several_freed_numbers_comes_first(profile):
    rig = Rig(profile)
    dev = rig.device("dev", 3)
    take(dev, 7)
    for pasid in (5, 2, 6):
        iommu_free_global_pasid(rig.kernel, pasid)
    assert take(dev, 3) == [2, 5, 6]


@both_kernels
def test_a6_a_wide_device_eats_the_numbers_of_a_narrow_one(profile):
    rig = Rig(profile)
    wide, narrow = rig.device("wide", 16), rig.device("narrow", 2)
    assert take(wide, 3) == [1, 2, 3]
    assert take(narrow, 1) == [INVALID]
    assert take(wide, 1) == [4]


@both_kernels
def test_a6_all_iommus_share_the_one_space(profile):
    rig = Rig(profile)
    here, there = rig.device("here", 4), rig.device("there", 4, iommu=rig.iommu("other"))
    assert [iommu_alloc_global_pasid(dev) for dev in (here, there, here)] == [1, 2, 3]


@both_kernels
def test_a7_freeing_invalid_warns_and_changes_nothing(profile):
    rig = Rig(profile)
    take(rig.device("dev", 2), 1)
    iommu_free_global_pasid(rig.kernel, INVALID)
    assert rig.kernel.warnings == 1
    assert rig.held == [1]


@both_kernels
def test_a7_freeing_a_number_that_is_not_held_warns_and_changes_nothing(profile):
    rig = Rig(profile)
    take(rig.device("dev", 2), 1)
    rig.forget()
    iommu_free_global_pasid(rig.kernel, 2)
    assert rig.seen == [events.Warned("ida_free", "ida_free called for id=2 which is not allocated")]
    assert rig.held == [1]


@both_kernels
def test_a7_the_largest_number_of_the_ida_is_not_silent(profile):
    rig = Rig(profile)
    iommu_free_global_pasid(rig.kernel, 2**31 - 1)
    assert rig.kernel.warnings == 1


@both_kernels
@pytest.mark.parametrize("pasid", [2**31, 2**32 - 2])
def test_a7_freeing_a_number_from_2_31_on_is_silent(profile, pasid):
    rig = Rig(profile)
    iommu_free_global_pasid(rig.kernel, pasid)
    assert rig.kernel.warnings == 0
    assert rig.seen == []


@both_kernels
def test_a8_zero_is_never_returned(profile):
    rig = Rig(profile)
    dev = rig.device("dev", 4)
    assert min(take(dev, 15)) == IOMMU_FIRST_GLOBAL_PASID == 1
    for pasid in range(1, 16):
        iommu_free_global_pasid(rig.kernel, pasid)
    assert take(dev, 1) == [1]


@both_kernels
@pytest.mark.parametrize(
    ("bits", "ssidsize", "max_pasids"),
    [
        (None, 20, 0),
        (0, 20, 1),
        (1, 20, 2),
        (2, 20, 4),
        (20, 4, 16),
        (20, 16, 65536),
        (31, 31, 2**31),
        (32, 20, 0),
        (33, 20, 0),
        (63, 20, 0),
    ],
)
def test_a9_max_pasids_of_a_platform_device(profile, bits, ssidsize, max_pasids):
    rig = Rig(profile)
    assert rig.device("dev", bits, iommu=rig.iommu("other", 1 << ssidsize)).max_pasids == max_pasids


def test_a9_without_the_truncation_quirk_32_bits_are_many():
    rig = Rig()
    rig.kernel.profile = rig.kernel.profile.with_switches({"pasid_num_bits_truncated": False})
    assert rig.device("dev", 32).max_pasids == 1 << 20


@both_kernels
def test_a10_amd_carries_one_number_less_than_a_power_of_two(profile):
    rig = Rig(profile)
    amd = rig.iommu("amd", 65535)
    dev = rig.probe(Device(rig.kernel, "dev", pci=True, pci_pasid_width=16), iommu=amd)
    assert dev.max_pasids == 65535
    why = refused(rig.attach(dev, 65535), Errno.EINVAL, "attach.beyond-max-pasids")
    assert why == "dev, in the group of dev, carries 1..65534: 65535 does not fit"
    assert rig.attach(dev, 65534) is None


@both_kernels
def test_a11_a_vf_has_the_width_of_its_pf(profile):
    rig = Rig(profile)
    pf = Device(rig.kernel, "pf", pci=True, pci_pasid_width=4)
    vf = rig.probe(Device(rig.kernel, "vf", pci=True, physfn=pf))
    assert vf.max_pasids == 16


@both_kernels
def test_a11_pci_without_the_capability_carries_none(profile):
    rig = Rig(profile)
    dev = rig.probe(Device(rig.kernel, "dev", pci=True, pasid_num_bits=8))
    assert pci_max_pasids(dev) == 0
    assert dev.max_pasids == 0


@both_kernels
def test_a12_idxd_takes_number_1_at_probe_and_the_next_process_2(profile):
    rig = Rig(profile)
    dsa = rig.device("dsa", 20)
    system = iommu_alloc_global_pasid(dsa)
    assert rig.attach(dsa, system) is None
    assert system == 1
    bond = bound(iommu_sva_bind_device(dsa, rig.mm("a")))
    assert bond.pasid == 2


def test_an_allocation_is_reported_with_its_device():
    rig = Rig()
    take(rig.device("dev", 2), 1)
    assert rig.seen == [events.PasidAllocated(1, "dev")]


def test_a_free_is_reported_and_ends_the_users_entry():
    rig = Rig()
    rig.hold(1, 2)
    rig.forget()
    iommu_free_global_pasid(rig.kernel, 1)
    assert rig.seen == [events.PasidFreed(1)]
    assert rig.kernel.global_users == {2: "module"}
    assert rig.holders == {2: "module"}


@pytest.mark.parametrize(
    ("bits", "text"),
    [
        (None, "no PASID"),
        (0, "no PASID"),
        (1, "1"),
        (2, "1..3"),
        (20, "1..1048575"),
    ],
)
def test_the_range_of_a_device_in_words(bits, text):
    assert pasid_range(Rig().device("dev", bits)) == text
