"""What the VT-d driver leaves in registers and tables: bring-up, devices, domains of traffic with and without PASID."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pasidlab.drivers.hardware import Moved
from pasidlab.drivers.intel.cache import cache_tag_flush_range
from pasidlab.drivers.intel.dma_pte import DmaPageTable
from pasidlab.errors import Errno, InputError
from pasidlab.events import DmarFault, PasidBlocked, PasidRemoved, PasidSet, RidAttached
from pasidlab.hw.vtd.descriptors import DescriptorType
from pasidlab.hw.vtd.features import Features
from pasidlab.hw.vtd.registers import EventControl, Gcmd, Offset, Ttm
from pasidlab.hw.vtd.structures import AddressWidth, ContextEntry, Flpm, Pgtt, TranslationType
from pasidlab.linux.iommu import (
    iommu_attach_device_pasid,
    iommu_detach_device_pasid,
    iommu_replace_device_pasid,
)
from pasidlab.linux.profiles import V6_12_0, V7_3, Profile
from pasidlab.linux.structs import AttachHandle, Device, IommuDomain
from pasidlab.rules import Refusal

from .intel_rig import DATA, FOUR_LEVELS, SID, IntelRig, told

LEGACY = replace(FOUR_LEVELS, scalable=False, pasid_bits=0)


def paging(rig: IntelRig, dev: Device) -> IommuDomain:
    return rig.driver._alloc_paging(dev, first_level=True)


def attach(rig: IntelRig, domain: IommuDomain, dev: Device) -> Refusal | None:
    return rig.driver.attach_dev(domain, dev)


# --- bring-up ------------------------------------------------------------------------------------------------


def test_a_unit_comes_up_in_scalable_mode_with_wide_descriptors_and_its_interrupts_unmasked() -> None:
    rig = IntelRig()
    unit = rig.unit()
    status = rig.register(unit, Offset.GSTS)
    assert (status.tes, status.qies, status.rtps) == (True, True, True)
    assert rig.register(unit, Offset.RTADDR).ttm is Ttm.SCALABLE
    iqa = rig.register(unit, Offset.IQA)
    assert (iqa.dw, iqa.qs) == (True, 1)
    assert rig.register(unit, Offset.PQA).pqs == 4
    for control in (Offset.FECTL, Offset.PECTL):
        assert not rig.register(unit, control).im
    assert rig.register(unit, Offset.FSTS) == 0


@pytest.mark.parametrize("root_invalidates", [False, True])
def test_after_the_root_table_is_set_everything_is_flushed_unless_the_unit_does_so(root_invalidates: bool) -> None:
    rig = IntelRig()
    unit = rig.driver.instance("dmar0", replace(FOUR_LEVELS, root_invalidates=root_invalidates), None, per_device=True)
    rig._read[unit.name] = 0
    flushes = ["CONTEXT_CACHE;", "PASID_CACHE 0/0;", "IOTLB GLOBAL 0;"]
    assert told(rig.descriptors(unit)) == ([] if root_invalidates else flushes)


def test_a_unit_without_page_requests_gets_no_queue_for_them() -> None:
    rig = IntelRig()
    unit = rig.unit(features=replace(FOUR_LEVELS, page_requests=False))
    assert rig.register(unit, Offset.PQA) == 0
    assert rig.driver.instances[unit].iommu.prq is None


@pytest.mark.parametrize(("bits", "bound"), [(1, 2), (15, 1 << 15), (20, 1 << 20)])
def test_max_pasids_is_what_pss_says(bits: int, bound: int) -> None:
    assert IntelRig().unit(features=replace(FOUR_LEVELS, pasid_bits=bits)).max_pasids == bound


def test_max_pasids_is_0_without_scalable_mode_or_pasids_and_can_be_overridden() -> None:
    rig = IntelRig()
    assert rig.unit("a", LEGACY).max_pasids == 0
    assert rig.unit("b", replace(FOUR_LEVELS, pasid_bits=0)).max_pasids == 0
    assert rig.unit("c", max_pasids=7).max_pasids == 7


@pytest.mark.parametrize(
    ("features", "width"),
    [
        (Features(), AddressWidth.BITS_57),
        (FOUR_LEVELS, AddressWidth.BITS_48),
        (replace(FOUR_LEVELS, first_stage=False, second_levels=frozenset({3})), AddressWidth.BITS_39),
        (Features(second_levels=frozenset({3, 4})), AddressWidth.BITS_48),
        (Features(second_stage=False, second_levels=frozenset({3})), AddressWidth.BITS_57),
    ],
)
def test_tables_are_as_wide_as_both_stages_of_the_unit_can_be(features: Features, width: AddressWidth) -> None:
    rig = IntelRig()
    dev = rig.device(unit=rig.unit(features=features))
    assert rig.entry(dev, 0).aw is width
    assert rig.write(dev, None) == "kernel"


def test_a_unit_whose_stages_have_no_levels_in_common_is_refused_by_name() -> None:
    with pytest.raises(InputError, match=r"remapping unit 'dmar0'.*allowed are 3, 4 and 5"):
        IntelRig().unit(features=replace(FOUR_LEVELS, second_levels=frozenset({3})))


# --- several units -------------------------------------------------------------------------------------------


def test_features_that_only_some_units_have_are_findings() -> None:
    rig = IntelRig()
    rig.unit("dmar0", Features())
    rig.unit("dmar1", replace(Features(), five_level=False, page_requests=False, second_levels=frozenset({3, 4})))
    assert rig.findings() == [
        f"dmar: IOMMU feature {name} inconsistent: dmar0 and dmar1 differ; what is decided for all units goes without"
        for name in ("fl5lp_support", "prs")
    ]


def test_equal_units_make_no_finding() -> None:
    rig = IntelRig()
    rig.unit("dmar0")
    rig.unit("dmar1")
    assert rig.findings() == []


@pytest.mark.parametrize(
    ("profile", "pgtt"), [(V6_12_0, Pgtt.SECOND_STAGE), (V7_3, Pgtt.FIRST_STAGE)], ids=["machine", "unit"]
)
def test_domains_have_first_stage_tables_where_every_unit_walks_them_and_later_where_theirs_does(
    profile: Profile, pgtt: Pgtt
) -> None:
    rig = IntelRig(profile)
    first = rig.unit("dmar0")
    rig.unit("dmar1", replace(FOUR_LEVELS, first_stage=False))
    assert rig.entry(rig.device(unit=first), 0).pgtt is pgtt


def test_directories_are_made_for_the_narrowest_unit_and_a_pasid_beyond_is_refused() -> None:
    rig = IntelRig()
    wide = rig.unit("dmar0")
    rig.unit("dmar1", replace(FOUR_LEVELS, pasid_bits=15))
    dev = rig.device(unit=wide)
    assert rig.context(dev).pdts == 2
    beyond = iommu_attach_device_pasid(paging(rig, dev), dev, 1 << 15, AttachHandle())
    assert isinstance(beyond, Refusal)
    assert (beyond.errno, beyond.rule.id) == (Errno.ENODEV, "intel.pasid-no-entry")
    assert iommu_attach_device_pasid(paging(rig, dev), dev, (1 << 15) - 1, AttachHandle()) is None


# --- context entries -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("bits", "pdts"), [(1, 2), (15, 2), (16, 3), (19, 6), (20, 7)])
def test_a_directory_has_a_page_at_the_least_and_room_for_all_pasids(bits: int, pdts: int) -> None:
    rig = IntelRig()
    assert rig.context(rig.device(bits=bits)).pdts == pdts


@pytest.mark.parametrize(
    ("traits", "bits", "flags"),
    [
        ({}, 20, (True, True, True)),
        ({"pri": False}, 20, (True, True, False)),
        ({"ats": False}, 20, (False, True, False)),
        ({"pasid_enabled": False}, 20, (True, True, True)),
        ({}, None, (True, False, True)),
    ],
)
def test_a_context_entry_allows_what_device_and_unit_support(
    traits: dict[str, Any], bits: int | None, flags: tuple[bool, ...]
) -> None:
    rig = IntelRig()
    context = rig.context(rig.device(bits=bits, **traits))
    assert (context.dte, context.paside, context.pre) == flags
    assert (context.p, context.fpd, context.rid_pasid) == (True, False, 0)


@pytest.mark.parametrize("source_id", [0x0000, 0x007F, 0x0080, 0xFFFF])
def test_each_half_of_a_bus_has_a_context_table_of_its_own(source_id: int) -> None:
    rig = IntelRig()
    dev = rig.device(source_id=source_id)
    assert rig.context(dev, source_id).p
    assert rig.write(dev, None) == "kernel"


# --- traffic without PASID -----------------------------------------------------------------------------------


def test_the_default_domain_is_first_stage_with_an_identifier_of_its_own() -> None:
    rig = IntelRig()
    unit = rig.unit()
    entries = [rig.entry(rig.device(f"dev{n}", unit, source_id=SID + n), 0, SID + n) for n in range(2)]
    assert [(entry.pgtt, entry.did) for entry in entries] == [(Pgtt.FIRST_STAGE, 2), (Pgtt.FIRST_STAGE, 3)]


@pytest.mark.parametrize(
    ("domain", "pgtt", "did"),
    [("dma", Pgtt.FIRST_STAGE, 2), ("stage2", Pgtt.SECOND_STAGE, 2), ("identity", Pgtt.PASS_THROUGH, 1)],
)
def test_each_default_domain_is_a_kind_of_entry_under_pasid_0(domain: str, pgtt: Pgtt, did: int) -> None:
    rig = IntelRig()
    dev = rig.device(default_domain=domain)
    entry = rig.entry(dev, 0)
    assert (entry.p, entry.pgtt, entry.did, entry.fpd, entry.pwsnp) == (True, pgtt, did, False, True)


def test_paging_domains_lead_to_the_kernels_buffer_and_nowhere_else() -> None:
    for domain in ("dma", "stage2"):
        rig = IntelRig()
        dev = rig.device(default_domain=domain)
        assert rig.write(dev, None, data=b"bytes") == "kernel"
        assert rig.driver.access(dev, None, DATA, None, 5) == Moved("kernel", b"bytes")
        assert rig.write(dev, None, 0x7000_0000) == "intel.page-request-refused"


def test_identity_leads_to_the_address_itself() -> None:
    rig = IntelRig()
    dev = rig.device(default_domain="identity")
    page = rig.kernel.page_alloc.alloc_page()
    assert rig.write(dev, None, page, b"here") == "kernel"
    assert rig.kernel.memory.load(page, 4) == b"here"
    assert rig.events(RidAttached) == [RidAttached("dsa0", "I")]


def test_a_blocked_device_without_ats_is_blocked_and_the_fault_is_printed() -> None:
    rig = IntelRig()
    dev = rig.device(default_domain="blocked", ats=False)
    assert not rig.entry(dev, 0).p
    assert rig.write(dev, None).startswith("vtd.")
    (fault,) = rig.events(DmarFault)
    assert (fault.unit, fault.device, fault.name, fault.sid, fault.pasid) == (
        "dmar0",
        "dsa0",
        "DIRECTORY_NOT_PRESENT",
        SID,
        None,
    )
    assert rig.register(dev, Offset.FSTS) == 0


def test_faults_go_on_being_printed_when_there_are_more_than_recording_registers() -> None:
    rig = IntelRig()
    dev = rig.device(unit=rig.unit(features=replace(FOUR_LEVELS, fault_records=2)), ats=False)
    for address in range(0x7000_0000, 0x7000_5000, 0x1000):
        rig.write(dev, None, address)
    assert [fault.name for fault in rig.events(DmarFault)] == ["FIRST_NOT_PRESENT"] * 5


def test_a_new_domain_takes_the_old_entry_away_first_and_gives_the_identifier_back() -> None:
    rig = IntelRig()
    dev = rig.device()
    rig.forget(dev)
    domain = paging(rig, dev)
    assert attach(rig, domain, dev) is None
    assert rig.entry(dev, 0).did == 2
    assert told(rig.descriptors(dev)) == ["PASID_CACHE 2/0;", "PASID_IOTLB 2/0 all;", f"DEVICE_TLB {SID:#x} all;"]
    assert rig.driver.attach_blocked(domain, dev) is None
    assert not rig.entry(dev, 0).p
    assert rig.write(dev, None) == "intel.page-request-refused"


def test_a_second_stage_domain_is_flushed_by_its_identifier() -> None:
    rig = IntelRig()
    dev = rig.device(default_domain="stage2")
    rig.write(dev, None)
    rig.forget(dev)
    rig.driver.attach_blocked(rig.driver.infos[dev].domain, dev)  # type: ignore[arg-type]
    assert told(rig.descriptors(dev)) == ["PASID_CACHE 2/0;", "IOTLB DOMAIN 2;", f"DEVICE_TLB {SID:#x} all;"]


def test_domain_identifiers_run_out_where_there_are_few() -> None:
    rig = IntelRig()
    unit = rig.unit(features=replace(FOUR_LEVELS, domain_bits=4))
    for n in range(14):
        assert rig.entry(rig.device(f"dev{n}", unit, source_id=n), 0, n).did == 2 + n
    late = rig.device("late", unit, source_id=99)
    assert not rig.entry(late, 0, 99).p
    warnings = [event.text for event in rig.seen if hasattr(event, "text")]
    assert warnings == ["late stays without a domain: the 16 domain identifiers of dmar0 are all in use"]


def test_a_domain_goes_to_every_unit_that_can_walk_its_tables() -> None:
    rig = IntelRig()
    first, second = rig.unit("dmar0"), rig.unit("dmar1")
    one, other = rig.device("one", first), rig.device("other", second, source_id=SID + 1)
    domain = paging(rig, one)
    assert attach(rig, domain, other) is None
    assert rig.write(other, None) == "kernel"


WIDE = replace(Features(), guest_bits=48)


@pytest.mark.parametrize(
    ("made_for", "features"),
    [
        (FOUR_LEVELS, replace(FOUR_LEVELS, first_1g=False)),
        (FOUR_LEVELS, replace(FOUR_LEVELS, coherent=False)),
        (FOUR_LEVELS, replace(FOUR_LEVELS, guest_bits=47)),
        (WIDE, FOUR_LEVELS),
    ],
    ids=["page sizes", "coherency", "width", "levels"],
)
def test_a_domain_is_refused_by_a_unit_that_cannot_walk_its_tables(made_for: Features, features: Features) -> None:
    rig = IntelRig()
    domain = paging(rig, rig.device("one", rig.unit("dmar0", made_for)))
    other = rig.device("other", rig.unit("dmar1", features), source_id=SID + 1)
    for refusal in (iommu_attach_device_pasid(domain, other, 5, AttachHandle()), attach(rig, domain, other)):
        assert isinstance(refusal, Refusal)
        assert (refusal.errno, refusal.rule.id) == (Errno.EINVAL, "intel.domain-incompatible")
    assert not rig.entry(other, 0, SID + 1).p
    assert not rig.entry(other, 5, SID + 1).p


def test_the_default_domain_is_flushed_in_the_device_too_until_it_goes() -> None:
    rig = IntelRig()
    dev = rig.device()
    domain = rig.driver.infos[dev].domain
    assert domain is not None
    rig.forget(dev)
    cache_tag_flush_range(domain, DATA, DATA + 4095)
    assert told(rig.descriptors(dev)) == [f"PASID_IOTLB 2/0 {DATA:#x}+1", f"DEVICE_TLB {SID:#x} {DATA:#x}+1;"]
    rig.driver.attach_blocked(domain, dev)
    rig.forget(dev)
    cache_tag_flush_range(domain, DATA, DATA + 4095)
    assert rig.descriptors(dev) == []


def test_an_identifier_is_kept_until_the_last_attachment_on_its_unit_goes() -> None:
    rig = IntelRig()
    dev = rig.device()
    domain, free = paging(rig, dev), rig.driver.infos[dev].iommu.domain_ids
    for pasid in (5, 6):
        assert iommu_attach_device_pasid(domain, dev, pasid, AttachHandle()) is None
    iommu_detach_device_pasid(domain, dev, 5)
    assert free.lowest_free(2, 9) == 4
    assert rig.write(dev, 6) == "kernel"
    iommu_detach_device_pasid(domain, dev, 6)
    assert free.lowest_free(2, 9) == 3


def test_faults_that_found_no_room_are_acknowledged_so_that_later_ones_are_recorded() -> None:
    rig = IntelRig()
    dev = rig.device(unit=rig.unit(features=replace(FOUR_LEVELS, fault_records=2)), ats=False)
    rig.hw(dev).mmio_write(Offset.FECTL, EventControl(im=True), 4)
    for address in range(0x7000_0000, 0x7000_3000, 0x1000):
        rig.write(dev, None, address)
    assert rig.register(dev, Offset.FSTS).pfo
    rig.hw(dev).mmio_write(Offset.FECTL, EventControl(), 4)
    assert len(rig.events(DmarFault)) == 2
    rig.write(dev, None, 0x7000_0000)
    assert len(rig.events(DmarFault)) == 3


def test_device_tlbs_are_left_alone_while_nothing_is_translated() -> None:
    rig = IntelRig()
    dev = rig.device()
    rig.driver.infos[dev].iommu.gcmd = Gcmd()
    rig.forget(dev)
    rig.driver.attach_blocked(paging(rig, dev), dev)
    assert told(rig.descriptors(dev)) == ["PASID_CACHE 2/0;", "PASID_IOTLB 2/0 all;"]


def test_a_group_shares_the_domain_of_its_first_device() -> None:
    rig = IntelRig()
    unit = rig.unit()
    first = rig.device("first", unit)
    second = rig.device("second", unit, group=first.iommu_group, source_id=SID + 1)
    assert rig.entry(second, 0, SID + 1) == rig.entry(first, 0)


# --- legacy mode ---------------------------------------------------------------------------------------------


def legacy_context(rig: IntelRig, dev: Device) -> ContextEntry:
    root = rig.register(dev, Offset.RTADDR).rta
    return ContextEntry(rig.load((rig.load(root + 16 * (SID >> 8), 8) & -4096) + 16 * (SID & 0xFF), 16))


@pytest.mark.parametrize(
    ("domain", "ats", "kind", "did"),
    [
        ("dma", True, TranslationType.ALL, 2),
        ("dma", False, TranslationType.UNTRANSLATED_ONLY, 2),
        ("identity", True, TranslationType.PASS_THROUGH, 1),
    ],
)
def test_in_legacy_mode_the_context_entry_translates(domain: str, ats: bool, kind: TranslationType, did: int) -> None:
    rig = IntelRig()
    dev = rig.device(unit=rig.unit(features=LEGACY), default_domain=domain, ats=ats)
    assert rig.register(dev, Offset.RTADDR).ttm is Ttm.LEGACY
    assert not rig.register(dev, Offset.IQA).dw
    context = legacy_context(rig, dev)
    assert (context.p, context.tt, context.did, context.aw) == (True, kind, did, AddressWidth.BITS_48)
    if domain == "dma":
        assert rig.write(dev, None) == "kernel"


def test_in_legacy_mode_a_context_entry_goes_with_flushes_of_everything_it_tagged() -> None:
    rig = IntelRig()
    dev = rig.device(unit=rig.unit(features=LEGACY))
    rig.write(dev, None)
    rig.forget(dev)
    rig.driver.attach_blocked(rig.driver.infos[dev].domain, dev)  # type: ignore[arg-type]
    assert told(rig.descriptors(dev)) == ["CONTEXT_CACHE;", "IOTLB DOMAIN 2;", f"DEVICE_TLB {SID:#x} all;"]
    assert not legacy_context(rig, dev).p
    assert rig.write(dev, None) != "kernel"


def test_in_legacy_mode_no_domain_goes_under_a_pasid() -> None:
    rig = IntelRig()
    dev = rig.device(unit=rig.unit(features=LEGACY, max_pasids=8))
    refusal = iommu_attach_device_pasid(paging(rig, dev), dev, 1, AttachHandle())
    assert isinstance(refusal, Refusal)
    assert (refusal.errno, refusal.rule.id) == (Errno.EOPNOTSUPP, "intel.no-pasid-support")


def test_in_caching_mode_a_context_entry_that_appears_is_flushed_as_not_present() -> None:
    for features, flush in ((FOUR_LEVELS, "IOTLB DOMAIN 0;"), (LEGACY, "IOTLB DOMAIN 2;")):
        rig = IntelRig()
        unit = rig.unit(features=replace(features, caching_mode=True))
        dev = rig.device(unit=unit)
        assert told(rig.descriptors(dev))[:2] == ["CONTEXT_CACHE;", flush]
        assert rig.write(dev, None) == "kernel"


# --- paging domains under PASIDs -----------------------------------------------------------------------------


def test_a_paging_domain_works_under_a_pasid_with_its_own_identifier() -> None:
    rig = IntelRig()
    dev = rig.device()
    domain = paging(rig, dev)
    assert iommu_attach_device_pasid(domain, dev, 5, AttachHandle()) is None
    entry = rig.entry(dev, 5)
    assert (entry.p, entry.pgtt, entry.did, entry.fspm) == (True, Pgtt.FIRST_STAGE, 3, Flpm.FOUR_LEVEL)
    assert rig.write(dev, 5) == "kernel"
    rig.forget(dev)
    iommu_detach_device_pasid(domain, dev, 5)
    assert told(rig.descriptors(dev)) == [
        "PASID_CACHE 3/5;",
        "PASID_IOTLB 3/5 all;",
        f"PASID_DEVICE_TLB {SID:#x}/5 all;",
    ]
    assert rig.write(dev, 5) != "kernel"
    assert rig.driver.infos[dev].iommu.domain_ids.lowest_free(2, 9) == 3


def test_identity_works_under_a_pasid() -> None:
    rig = IntelRig()
    dev = rig.device()
    identity = rig.driver.ops.identity_domain
    assert identity is not None
    assert iommu_attach_device_pasid(identity, dev, 5, AttachHandle()) is None
    entry = rig.entry(dev, 5)
    assert (entry.pgtt, entry.did) == (Pgtt.PASS_THROUGH, 1)
    page = rig.kernel.page_alloc.alloc_page()
    assert rig.write(dev, 5, page) == "kernel"
    iommu_detach_device_pasid(identity, dev, 5)
    assert rig.entry(dev, 5) == 0


def test_replacing_a_domain_tears_the_old_entry_down_before_it_sets_the_new_one_up() -> None:
    rig = IntelRig()
    dev = rig.device()
    old, new = paging(rig, dev), paging(rig, dev)
    assert iommu_attach_device_pasid(old, dev, 5, AttachHandle()) is None
    rig.forget(dev)
    assert iommu_replace_device_pasid(new, dev, 5, AttachHandle()) is None
    assert told(rig.descriptors(dev)) == [
        "PASID_CACHE 3/5;",
        "PASID_IOTLB 3/5 all;",
        f"PASID_DEVICE_TLB {SID:#x}/5 all;",
    ]
    assert rig.entry(dev, 5).did == 4
    assert rig.write(dev, 5) == "kernel"
    iommu_detach_device_pasid(new, dev, 5)
    assert rig.entry(dev, 5) == 0


def test_a_failure_on_request_leaves_nothing_behind() -> None:
    rig = IntelRig()
    dev = rig.device()
    rig.driver.fail_set[dev] = Errno.EIO
    domain = paging(rig, dev)
    refusal = iommu_attach_device_pasid(domain, dev, 5, AttachHandle())
    assert isinstance(refusal, Refusal)
    assert refusal.errno is Errno.EIO
    assert rig.entry(dev, 5) == 0
    assert rig.events(PasidSet)[-1].errno is Errno.EIO
    assert iommu_attach_device_pasid(domain, dev, 5, AttachHandle()) is None


def test_without_memory_for_its_record_an_attachment_fails() -> None:
    rig = IntelRig()
    dev = rig.device()
    rig.kernel.fail_allocation = 1
    refusal = iommu_attach_device_pasid(paging(rig, dev), dev, 5, AttachHandle())
    assert isinstance(refusal, Refusal)
    assert (refusal.errno, refusal.rule.id) == (Errno.ENOMEM, "intel.no-memory")
    assert rig.entry(dev, 5) == 0


@pytest.mark.parametrize(("profile", "event"), [(V6_12_0, PasidRemoved), (V7_3, PasidBlocked)])
def test_detaching_is_told_as_each_kernel_does_it(profile: Any, event: Any) -> None:
    rig = IntelRig(profile)
    dev = rig.device()
    domain = paging(rig, dev)
    assert iommu_attach_device_pasid(domain, dev, 5, AttachHandle()) is None
    iommu_detach_device_pasid(domain, dev, 5)
    assert [type(seen) for seen in rig.seen if isinstance(seen, PasidRemoved | PasidBlocked)] == [event]
    assert rig.entry(dev, 5) == 0


def test_the_domain_and_its_table_are_freed() -> None:
    rig = IntelRig()
    dev = rig.device()
    before = rig.kernel.page_alloc.used
    domain = paging(rig, dev)
    assert rig.kernel.page_alloc.used > before
    rig.driver.domain_free(domain)
    assert rig.kernel.page_alloc.used == before


def test_every_descriptor_of_the_driver_is_one_that_the_unit_takes() -> None:
    rig = IntelRig()
    dev = rig.device()
    handle = rig.bind(dev, rig.mm())
    rig.write(dev, rig.pasid(handle))
    rig.unbind(handle)
    assert all(desc.type in set(DescriptorType) and not desc.reserved for desc in rig.descriptors(dev))
    assert rig.kernel.warnings == 0


@pytest.mark.parametrize(
    ("first_level", "table", "leaf", "read_only"), [(True, 0x27, 0x67, 0x25), (False, 0x3, 0x3, 0x1)]
)
def test_the_words_of_the_kernels_own_tables(first_level: bool, table: int, leaf: int, read_only: int) -> None:
    rig = IntelRig()
    pages = DmaPageTable(rig.kernel, 4, first_level=first_level)
    pages.map_page(0x7F12_3456_7000, 0x8_8765_4000, write=True)
    pages.map_page(0x7F12_3456_8000, 0x8_8765_5000, write=False)
    at = pages.pgd
    for shift in (39, 30, 21):
        entry = rig.load(at + 8 * (0x7F12_3456_7000 >> shift & 511), 8)
        assert entry & 0xFFF == table
        at = entry & -4096
    assert rig.load(at + 8 * 0x167, 16) == (0x8_8765_5000 | read_only) << 64 | 0x8_8765_4000 | leaf
