"""Kernel versions as switches: each is documented, checked, and makes the difference that it names."""

from __future__ import annotations

import pytest

from pasidlab.errors import Errno, InputError
from pasidlab.events import PasidBlocked, PasidRemoved, RidAttached
from pasidlab.linux.iommu import iommu_detach_device_pasid, iommu_replace_device_pasid
from pasidlab.linux.kernel import Arch
from pasidlab.linux.profiles import (
    DEFAULT_PROFILE,
    PROFILES,
    V6_12,
    V6_12_0,
    V6_15,
    V6_16,
    V6_19,
    V7_0,
    V7_3,
    WITNESSED,
    Profile,
    profile,
    switch_fields,
)
from pasidlab.linux.reset import pci_dev_reset_iommu_prepare
from pasidlab.linux.structs import (
    AttachHandle,
    Device,
    IommuGroup,
)
from pasidlab.linux.sva import iommu_sva_bind_device, iommu_sva_invalidate_kva_range
from pasidlab.rules import Refusal
from tests.rig import Rig, bound, refused

SWITCHES = {field.name: field for field in switch_fields()}
BOOLEANS = sorted(set(SWITCHES) - {"reset_fence"})
KNOWN = ", ".join(SWITCHES)


# Documentation


@pytest.mark.parametrize("name", SWITCHES)
def test_each_switch_has_a_meaning_and_a_source(name):
    assert SWITCHES[name].metadata["meaning"]
    assert SWITCHES[name].metadata["source"]


@pytest.mark.parametrize("name", SWITCHES)
def test_each_source_names_a_kernel(name):
    assert any(word in SWITCHES[name].metadata["source"] for word in ("6.", "5.18", "7."))


def test_everything_but_the_name_is_a_switch():
    assert set(Profile.__dataclass_fields__) - set(SWITCHES) == {"name"}


@pytest.mark.parametrize("name", SWITCHES)
def test_each_switch_can_be_turned(name):
    before = getattr(V7_3, name)
    after = "none" if name == "reset_fence" else not before
    assert getattr(V7_3.with_switches({name: after}), name) == after


# Finding a profile


def test_a_profile_is_found_by_its_name():
    assert {name: profile(name) for name in PROFILES} == PROFILES
    assert all(name == found.name for name, found in PROFILES.items())


def test_an_unknown_profile_is_an_input_error_that_lists_the_known():
    known = r"v6\.12\.0, v6\.12, v6\.15, v6\.16, v6\.19, v7\.0, v7\.3"
    with pytest.raises(InputError, match=rf"^kernel 'v9': no such profile; known: {known}$"):
        profile("v9")


def test_the_default_is_the_newest_witnessed_profile():
    assert DEFAULT_PROFILE is V7_3
    assert WITNESSED == ("v6.12", "v7.3")
    assert set(WITNESSED) <= set(PROFILES)


# Changing switches


def test_no_switches_change_nothing():
    assert V7_3.with_switches({}) == V7_3


def test_switches_leave_the_profile_itself_alone():
    assert V7_3.with_switches({"late_publication": False}) != V7_3
    assert V7_3.late_publication


@pytest.mark.parametrize("name", ["late_publicatoin", "name", ""])
def test_an_unknown_switch_is_an_input_error_that_lists_the_known(name):
    with pytest.raises(InputError) as error:
        V7_3.with_switches({name: True})
    assert str(error.value) == f"switches.{name}: no such switch; known: {KNOWN}"


@pytest.mark.parametrize("value", ["true", "nested", None, 2, [], {}])
@pytest.mark.parametrize("name", BOOLEANS)
def test_a_switch_that_is_not_true_or_false_is_an_input_error(name, value):
    with pytest.raises(InputError) as error:
        V7_3.with_switches({name: value})
    assert str(error.value) == f"switches.{name} = {value!r}: must be one of true, false"


@pytest.mark.parametrize("value", [0, 1, 1.0])
def test_a_number_is_not_true_or_false(value):
    with pytest.raises(InputError) as error:
        V7_3.with_switches({"late_publication": value})
    assert str(error.value) == f"switches.late_publication = {value!r}: must be one of true, false"


@pytest.mark.parametrize("value", ["flat ", "Nested", "", True, False, None, 0, []])
def test_a_reset_fence_that_does_not_exist_is_an_input_error(value):
    with pytest.raises(InputError) as error:
        V7_3.with_switches({"reset_fence": value})
    assert str(error.value) == f"switches.reset_fence = {value!r}: must be one of none, flat, nested"


@pytest.mark.parametrize("value", ["none", "flat", "nested"])
def test_each_reset_fence_is_accepted(value):
    assert V7_3.with_switches({"reset_fence": value}).reset_fence == value


def test_one_wrong_switch_among_good_ones_is_named():
    with pytest.raises(InputError, match=r"^switches\.nonsense: no such switch"):
        V7_3.with_switches({"late_publication": False, "nonsense": True})


# What differs between neighbours

NEIGHBOURS = [
    (V6_12_0, V6_12, {"x86_sva_refused", "skip_members_without_pasids"}),
    (
        V6_12,
        V6_15,
        {
            "x86_sva_refused",
            "group_test_first",
            "detach_through_blocked_domain",
            "late_publication",
            "replace_device_pasid",
            "domain_alloc_fallback",
            "skip_members_without_pasids",  # 6.12.y has the fix of 6.16 by back-port
            "smmu_used_mev_s2fwb",
            "vtd_prq_needs_pasid",
            "vtd_stage_by_unit",
        },
    ),
    (V6_15, V6_16, {"enable_feature", "iopf_at_attach", "skip_members_without_pasids"}),
    (V6_16, V6_19, {"kva_invalidation"}),
    (V6_19, V7_0, {"reset_fence", "smmu_ste_update_safe", "smmu_invs"}),
    (V7_0, V7_3, {"reset_fence", "smmu_sva_cd_httu"}),
]


@pytest.mark.parametrize(("old", "new", "changed"), NEIGHBOURS, ids=lambda value: getattr(value, "name", ""))
def test_neighbours_differ_in_the_documented_switches_only(old, new, changed):
    assert {name for name in SWITCHES if getattr(old, name) != getattr(new, name)} == changed


def names(condition):
    """The profiles under which something holds, oldest first."""
    return [found.name for found in PROFILES.values() if condition(found)]


def answer(outcome):
    """The errno of an outcome; None when it succeeded."""
    return outcome.errno if isinstance(outcome, Refusal) else None


def test_x86_sva_is_refused_by_stable_6_12_only():
    def refuses(found):
        rig = Rig(found, arch=Arch.X86)
        return answer(iommu_sva_bind_device(rig.device("dev", 4), rig.mm("a"))) is Errno.EOPNOTSUPP

    assert names(refuses) == ["v6.12"]


def test_a_member_without_pasids_stops_its_group_before_the_fix_of_6_16():
    def refuses(found):
        rig = Rig(found)
        group = IommuGroup("slot")
        gpu, _bridge = rig.device("gpu", 4, group), rig.device("bridge", None, group)
        return answer(rig.attach(gpu, 1)) is Errno.EINVAL

    assert names(refuses) == ["v6.12.0", "v6.15"]


def test_replace_exists_from_6_15_on():
    def exists(found):
        rig = Rig(found)
        dev = rig.device("dev", 4)
        assert rig.attach(dev, 1, AttachHandle()) is None
        return answer(iommu_replace_device_pasid(rig.domain(dev), dev, 1, AttachHandle())) is None

    assert names(exists) == ["v6.15", "v6.16", "v6.19", "v7.0", "v7.3"]


def test_detaching_goes_through_the_blocked_domain_from_6_15_on():
    def detach(found):
        rig = Rig(found)
        dev = rig.device("dev", 4)
        iommu_detach_device_pasid(rig.domain(dev), dev, 1)
        return rig.calls()

    assert names(lambda found: detach(found) == [PasidRemoved("dev", 1, 0)]) == ["v6.12.0", "v6.12"]
    assert names(lambda found: detach(found) == [PasidBlocked("dev", 1, 0)]) == [
        "v6.15",
        "v6.16",
        "v6.19",
        "v7.0",
        "v7.3",
    ]


def test_a_device_is_in_the_fault_queue_from_probe_until_6_15():
    assert names(lambda found: Rig(found).device("dev", 4).fault_param) == ["v6.12.0", "v6.12", "v6.15"]


def test_kernel_mappings_are_flushed_from_6_19_on():
    def flushes(found):
        rig = Rig(found)
        bound(iommu_sva_bind_device(rig.device("dev", 4), rig.mm("a")))
        rig.forget()
        iommu_sva_invalidate_kva_range(rig.kernel, 0, 1)
        return rig.seen

    assert names(flushes) == ["v6.19", "v7.0", "v7.3"]


def test_the_reset_fence_is_there_from_7_0_on():
    def fences(found):
        rig = Rig(found)
        assert pci_dev_reset_iommu_prepare(rig.device("dev", 4)) is None
        return rig.calls() == [RidAttached("dev", "B")]

    assert names(fences) == ["v7.0", "v7.3"]


def test_the_reset_fence_nests_in_7_3_only():
    def nests(found):
        rig = Rig(found)
        dev = rig.device("dev", 4)
        pci_dev_reset_iommu_prepare(dev)
        return answer(pci_dev_reset_iommu_prepare(dev)) is None

    assert names(nests) == ["v6.12.0", "v6.12", "v6.15", "v6.16", "v6.19", "v7.3"]


def test_drivers_must_enable_sva_until_6_15():
    assert names(lambda found: found.enable_feature) == ["v6.12.0", "v6.12", "v6.15"]


def test_the_quirks_are_in_every_profile():
    for name in (
        "exec_keeps_pasid_activated",
        "partial_faults_ignore_pasid",
        "bad_partial_answered_at_once",
        "pasid_num_bits_truncated",
    ):
        assert names(lambda found, name=name: getattr(found, name)) == list(PROFILES)


def test_no_release_frees_the_pasid_at_mmput():
    assert names(lambda found: found.pasid_freed_at_mmput) == []


def test_a_bind_behind_no_iommu_is_enodev_under_every_profile():
    for found in PROFILES.values():
        rig = Rig(found)
        outcome = iommu_sva_bind_device(Device(rig.kernel, "alone"), rig.mm("a"))
        refused(outcome, Errno.ENODEV, "bind.no-group")
