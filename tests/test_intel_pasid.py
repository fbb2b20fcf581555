"""Words of PASID entries and descriptors, and the order in which entries come and go; errors of the queue."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pasidlab.drivers.intel.pasid import (
    intel_pasid_get_entry,
    intel_pasid_setup_first_level,
    intel_pasid_setup_pass_through,
    intel_pasid_setup_second_level,
    intel_pasid_tear_down_entry,
)
from pasidlab.drivers.intel.qi import (
    QI_LENGTH,
    desc_dev_iotlb,
    qi_desc_dev_iotlb_pasid,
    qi_desc_iotlb,
    qi_desc_piotlb,
    qi_flush_pasid_cache,
    qi_submit_sync,
)
from pasidlab.drivers.intel.structs import MAX_AGAW_PFN_WIDTH, DeviceDomainInfo
from pasidlab.errors import Errno, ModelError
from pasidlab.events import Warned
from pasidlab.hw.vtd.descriptors import (
    Descriptor,
    PasidCacheGranularity,
    PasidIotlbInvalidate,
    sized_range,
)
from pasidlab.hw.vtd.features import Features
from pasidlab.hw.vtd.registers import Granularity, Offset
from pasidlab.hw.vtd.structures import PasidEntry, Pgtt
from pasidlab.linux.structs import Device
from pasidlab.rules import Refusal

from .intel_rig import FOUR_LEVELS, SID, IntelRig, told

PASID = 0x12345
PGD = 0x8_8765_4000


def info_of(rig: IntelRig, dev: Device | None = None) -> DeviceDomainInfo:
    return rig.driver.infos[dev or rig.device()]


def first_level(info: DeviceDomainInfo, pasid: int = PASID, *, five_level: bool = False) -> Refusal | None:
    return intel_pasid_setup_first_level(info, PGD, pasid, 1, five_level=five_level)


# --- known words ---------------------------------------------------------------------------------------------


def test_the_words_of_an_entry_for_a_process() -> None:
    rig = IntelRig()
    info = info_of(rig)
    assert first_level(info) is None
    entry = rig.entry(info.dev, PASID)
    known = PasidEntry.from_words(0x49, 0x1, PGD)
    added = PasidEntry.mask("pwsnp", "nxe")
    assert PasidEntry(entry & ~added) == known
    assert entry & added == added
    assert entry.words[3:] == (0, 0, 0, 0, 0)


def test_the_words_of_a_context_entry_for_20_bits() -> None:
    rig = IntelRig()
    context = rig.context(rig.device())
    assert context.words[0] & 0xFFF == 0xE1D
    assert context.words[1:] == (0, 0, 0)


def test_the_words_of_descriptors() -> None:
    rig = IntelRig()
    dev = rig.device()
    info = info_of(rig, dev)
    rig.forget(dev)
    qi_flush_pasid_cache(info.iommu, 1, PasidCacheGranularity.PASID, PASID)
    assert rig.descriptors(dev)[0].words[:2] == (0x0001_2345_0001_0017, 0)
    assert qi_desc_piotlb(1, PASID).words[:2] == (0x0001_2345_0001_0026, 0)
    everything = qi_desc_dev_iotlb_pasid(SID, PASID, 0, MAX_AGAW_PFN_WIDTH)
    assert everything.words[:2] == (0x0001_2345_6A01_0008, 0x7FFF_FFFF_FFFF_F800)


@pytest.mark.parametrize("order", [0, 1, 2, 9, 18, MAX_AGAW_PFN_WIDTH])
@pytest.mark.parametrize("pasid", [0, 7])
def test_a_device_tlb_invalidation_reaches_what_it_was_made_for(order: int, pasid: int) -> None:
    rig = IntelRig()
    info = info_of(rig)
    first = 0x7F00_0000_0000 >> 12 + order << 12 + order
    desc: Any = desc_dev_iotlb(info, pasid, first, order)
    everything = order == MAX_AGAW_PFN_WIDTH
    assert sized_range(desc.addr, desc.s) == ((0, None) if everything else (first, 4096 << order))
    assert hasattr(desc, "pasid") is (pasid != 0)


# --- setting up ----------------------------------------------------------------------------------------------


def test_pasids_share_a_table_64_at_a_time_which_is_made_on_demand_and_kept() -> None:
    rig = IntelRig()
    info = info_of(rig)
    used = rig.kernel.page_alloc.used
    places = [intel_pasid_get_entry(info, pasid) for pasid in (64, 127, 128)]
    assert rig.kernel.page_alloc.used == used + 2
    assert places[0] is not None
    assert places[1] == places[0] + 63 * 64
    assert first_level(info, 64) is None
    intel_pasid_tear_down_entry(info, 64, fault_ignore=False)
    assert intel_pasid_get_entry(info, 64) == places[0]
    assert rig.kernel.page_alloc.used == used + 2


def test_without_memory_for_a_table_there_is_no_entry() -> None:
    rig = IntelRig()
    info = info_of(rig)
    rig.kernel.fail_allocation = 1
    refusal = first_level(info)
    assert refusal is not None
    assert (refusal.errno, refusal.rule.id) == (Errno.ENODEV, "intel.pasid-no-entry")
    assert rig.kernel.warnings == 0
    assert first_level(info) is None


def test_an_entry_that_is_present_is_not_written_over() -> None:
    rig = IntelRig()
    info = info_of(rig)
    assert first_level(info) is None
    before = rig.entry(info.dev, PASID)
    for refusal in (first_level(info), intel_pasid_setup_pass_through(info, PASID)):
        assert refusal is not None
        assert (refusal.errno, refusal.rule.id) == (Errno.EBUSY, "intel.pasid-present")
    assert rig.entry(info.dev, PASID) == before


def test_a_unit_refuses_stages_and_levels_that_it_does_not_have() -> None:
    rig = IntelRig()
    second_only = info_of(rig, rig.device("a", rig.unit("dmar0", replace(FOUR_LEVELS, first_stage=False))))
    first_only = info_of(rig, rig.device("b", rig.unit("dmar1", replace(FOUR_LEVELS, second_stage=False))))
    domain = rig.driver.domain_alloc_stage2(second_only.dev)
    refusals = [
        first_level(second_only),
        first_level(first_only, five_level=True),
        intel_pasid_setup_second_level(first_only, domain, PASID),
    ]
    assert [(r.errno, r.rule.id) for r in refusals if r] == [
        (Errno.EINVAL, "intel.no-first-level"),
        (Errno.EINVAL, "intel.no-5-level"),
        (Errno.EINVAL, "intel.no-second-level"),
    ]


def test_an_entry_becomes_present_only_when_all_the_rest_of_it_is_there() -> None:
    rig = IntelRig()
    info = info_of(rig)
    place = intel_pasid_get_entry(info, PASID)
    seen: list[PasidEntry] = []
    rig.kernel.memory.observers.append(lambda at, data: seen.append(PasidEntry.unpack(data)) if at == place else None)
    assert first_level(info) is None
    *before, last = seen
    assert last.p
    assert not any(entry.p for entry in before)
    assert before[-1] == last.replace(p=False)


@pytest.mark.parametrize("caching_mode", [False, True])
def test_only_in_caching_mode_is_a_new_entry_flushed(caching_mode: bool) -> None:
    rig = IntelRig()
    dev = rig.device(unit=rig.unit(features=replace(FOUR_LEVELS, caching_mode=caching_mode)))
    rig.forget(dev)
    assert first_level(info_of(rig, dev), 7) is None
    assert told(rig.descriptors(dev)) == (["PASID_CACHE 1/7;", "PASID_IOTLB 1/7 all;"] if caching_mode else [])


def test_in_caching_mode_a_process_is_reached_though_its_absence_was_remembered() -> None:
    rig = IntelRig()
    dev = rig.device(unit=rig.unit(features=replace(FOUR_LEVELS, caching_mode=True)))
    assert rig.write(dev, 1) != "a"
    assert rig.write(dev, rig.pasid(rig.bind(dev, rig.mm()))) == "a"


# --- tearing down --------------------------------------------------------------------------------------------


def words_at_each_step(rig: IntelRig, info: DeviceDomainInfo, pasid: int, *, fault_ignore: bool) -> list[Any]:
    """Tear an entry down; return what it says while each descriptor is carried out, and at the end."""
    steps: list[Any] = []
    place = intel_pasid_get_entry(info, pasid)
    assert place is not None
    unit = rig.hw(info.dev)
    for name in ("pasid_cache", "pasid_iotlb", "iotlb", "device_tlb"):
        watch(rig, unit, name, place, steps)
    intel_pasid_tear_down_entry(info, pasid, fault_ignore=fault_ignore)
    steps.append(("end", PasidEntry(rig.load(place, 64))))
    return steps


def watch(rig: IntelRig, unit: Any, name: str, place: int, steps: list[Any]) -> None:
    carry_out = getattr(unit, name)

    def watched(*arguments: Any, **more: Any) -> Any:
        steps.append((name, PasidEntry(rig.load(place, 64))))
        return carry_out(*arguments, **more)

    setattr(unit, name, watched)


@pytest.mark.parametrize("fault_ignore", [False, True])
def test_p_alone_is_cleared_then_caches_are_flushed_and_only_then_goes_the_rest(fault_ignore: bool) -> None:
    rig = IntelRig()
    info = info_of(rig)
    assert first_level(info) is None
    without_p = rig.entry(info.dev, PASID).replace(p=False)
    assert words_at_each_step(rig, info, PASID, fault_ignore=fault_ignore) == [
        ("pasid_cache", without_p),
        ("pasid_iotlb", without_p),
        ("device_tlb", without_p),
        ("end", PasidEntry(fpd=fault_ignore)),
    ]


def test_what_comes_by_second_stage_is_flushed_by_domain_and_pass_through_by_pasid() -> None:
    rig = IntelRig()
    info = info_of(rig)
    assert intel_pasid_setup_pass_through(info, 7) is None
    domain = rig.driver.domain_alloc_stage2(info.dev)
    assert rig.driver.paging_set_dev_pasid(domain, info.dev, 8, None) is None
    assert rig.entry(info.dev, 8).pgtt is Pgtt.SECOND_STAGE
    rig.forget(info.dev)
    for pasid in (7, 8):
        intel_pasid_tear_down_entry(info, pasid, fault_ignore=False)
    assert told(rig.descriptors(info.dev)) == [
        "PASID_CACHE 1/7;",
        "PASID_IOTLB 1/7 all;",
        f"PASID_DEVICE_TLB {SID:#x}/7 all;",
        "PASID_CACHE 3/8;",
        "IOTLB DOMAIN 3;",
        f"PASID_DEVICE_TLB {SID:#x}/8 all;",
    ]


def test_a_device_without_ats_has_no_tlb_to_invalidate() -> None:
    rig = IntelRig()
    info = info_of(rig, rig.device(ats=False))
    assert first_level(info, 7) is None
    rig.forget(info.dev)
    intel_pasid_tear_down_entry(info, 7, fault_ignore=False)
    assert told(rig.descriptors(info.dev)) == ["PASID_CACHE 1/7;", "PASID_IOTLB 1/7 all;"]


def test_tearing_down_what_is_not_there_does_nothing_and_an_odd_entry_is_warned_about() -> None:
    rig = IntelRig()
    info = info_of(rig)
    place = intel_pasid_get_entry(info, 7)
    assert place is not None
    rig.forget(info.dev)
    intel_pasid_tear_down_entry(info, 7, fault_ignore=False)
    assert rig.kernel.warnings == 0
    rig.kernel.memory.store(place, PasidEntry(did=9).pack())
    intel_pasid_tear_down_entry(info, 7, fault_ignore=False)
    assert rig.kernel.warnings == 1
    assert rig.descriptors(info.dev) == []


def test_an_entry_with_fpd_left_is_cleared_by_the_second_tear_down_without_flushes() -> None:
    rig = IntelRig()
    info = info_of(rig)
    assert first_level(info, 7) is None
    intel_pasid_tear_down_entry(info, 7, fault_ignore=True)
    rig.forget(info.dev)
    intel_pasid_tear_down_entry(info, 7, fault_ignore=False)
    assert rig.entry(info.dev, 7) == 0
    assert rig.descriptors(info.dev) == []
    assert first_level(info, 7) is None


# --- the queue -----------------------------------------------------------------------------------------------


def test_the_queue_goes_round() -> None:
    rig = IntelRig()
    info = info_of(rig)
    for _ in range(QI_LENGTH):
        assert qi_submit_sync(info.iommu, (qi_desc_piotlb(1, 7),)) is None
    assert rig.register(info.dev, Offset.IQH) == rig.register(info.dev, Offset.IQT)


def test_an_invalid_descriptor_is_replaced_and_the_queue_goes_on() -> None:
    rig = IntelRig()
    info = info_of(rig)
    bad = PasidIotlbInvalidate.make(g=0, did=1, pasid=7)
    refusal = qi_submit_sync(info.iommu, (bad,))
    assert refusal is not None
    assert (refusal.errno, refusal.rule.id) == (Errno.EINVAL, "intel.qi-invalid-descriptor")
    (warning,) = rig.events(Warned)
    assert "RESERVED_FIELD" in warning.text
    assert rig.register(info.dev, Offset.FSTS) == 0
    assert qi_submit_sync(info.iommu, (qi_desc_piotlb(1, 7),)) is None


def test_a_bad_descriptor_that_is_not_the_first_would_hang_the_kernel() -> None:
    rig = IntelRig()
    info = info_of(rig)
    with pytest.raises(ModelError, match="stopped where the kernel does not look"):
        qi_submit_sync(info.iommu, (qi_desc_piotlb(1, 7), Descriptor(0xF)))


class Silent:
    """A device that answers no invalidation, or only after some."""

    def __init__(self, silences: int) -> None:
        self.silences = silences

    def invalidate(self, pasid: int | None, **what: Any) -> bool:
        self.silences -= 1
        return self.silences < 0

    def page_response(self, pasid: int | None, prg_index: int, code: int) -> None:
        """Take the answer to a page request."""


def test_a_time_out_is_repeated_until_the_device_answers() -> None:
    rig = IntelRig()
    info = info_of(rig)
    rig.hw(info.dev).connect(SID, Silent(2))
    rig.forget(info.dev)
    assert qi_submit_sync(info.iommu, (desc_dev_iotlb(info, 7, 0, 0),)) is None
    assert told(rig.descriptors(info.dev)) == [f"PASID_DEVICE_TLB {SID:#x}/7 0x0+1;"] * 3


def test_a_device_that_never_answers_is_given_up() -> None:
    rig = IntelRig()
    info = info_of(rig)
    rig.hw(info.dev).connect(SID, Silent(99))
    refusal = qi_submit_sync(info.iommu, (desc_dev_iotlb(info, 7, 0, 0),))
    assert refusal is not None
    assert (refusal.errno, refusal.rule.id) == (Errno.ETIMEDOUT, "intel.qi-device-silent")
    assert qi_submit_sync(info.iommu, (qi_desc_piotlb(1, 7),)) is None


def test_a_device_that_is_gone_is_not_asked_again() -> None:
    rig = IntelRig()
    info = info_of(rig)
    rig.hw(info.dev).connect(SID + 1, Silent(99))
    rig.forget(info.dev)
    refusal = qi_submit_sync(info.iommu, (qi_desc_dev_iotlb_pasid(SID + 1, 7, 0, 0),))
    assert refusal is not None
    assert (refusal.errno, refusal.rule.id) == (Errno.ETIMEDOUT, "intel.qi-device-gone")
    assert len(rig.descriptors(info.dev)) == 2


def test_iotlb_invalidations_drain_what_the_unit_can_drain() -> None:
    rig = IntelRig()
    desc = qi_desc_iotlb(info_of(rig).iommu, 3, 0x7000, 0, Granularity.SELECTIVE)
    assert (desc.dw, desc.dr, desc.did, desc.addr, desc.am) == (True, True, 3, 0x7000, 0)


def test_five_level_tables_say_so_in_their_entry() -> None:
    rig = IntelRig()
    info = info_of(rig, rig.device(unit=rig.unit(features=Features())))
    assert first_level(info, 7, five_level=True) is None
    assert rig.entry(info.dev, 7).words[0] == 0x4D
    assert rig.entry(info.dev, 7).fspm.name == "FIVE_LEVEL"
