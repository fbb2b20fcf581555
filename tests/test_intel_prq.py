"""Page requests behind VT-d: what the driver answers itself, overflows, draining, and when a device is in the queue."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pasidlab.drivers.intel.pasid import intel_pasid_setup_pass_through
from pasidlab.drivers.intel.prq import (
    PRQ_ENT_BYTES,
    PRQ_ORDER,
    intel_iommu_drain_pasid_prq,
    intel_iommu_page_response,
    prq_event_thread,
    prq_fault,
    prq_request,
)
from pasidlab.drivers.intel.qi import qi_desc_piotlb, qi_submit_sync
from pasidlab.errors import Errno
from pasidlab.events import Decided, PageResponded
from pasidlab.hw.vtd.records import PageRequest
from pasidlab.hw.vtd.registers import EventControl, Offset
from pasidlab.hw.vtd.request import Request
from pasidlab.linux.iommu import iommu_attach_device_pasid, iommu_replace_device_pasid
from pasidlab.linux.iopf import Fault, ResponseCode, iommu_sva_iopf_handler, iopf_queue_add_device, run_work
from pasidlab.linux.pgtable import pte_offset_map, set_pte
from pasidlab.linux.profiles import V6_12_0, V6_15, V7_3, Profile
from pasidlab.linux.structs import AttachHandle, Device
from pasidlab.rules import Refusal

from .intel_rig import DATA, FOUR_LEVELS, SID, IntelRig, told

READ, WRITE, EXEC, PRIV = 1, 2, 4, 8
GROUP = 3
both = pytest.mark.parametrize("profile", [V6_12_0, V7_3], ids=lambda profile: profile.name)


class Bound(IntelRig):
    """A rig with a device on which process "a" is bound."""

    def __init__(self, profile: Profile = V7_3, **unit: Any) -> None:
        super().__init__(profile)
        self.dev = self.device(unit=self.unit(**unit))
        self.info = self.driver.infos[self.dev]
        self.a = self.mm()
        self.handle = self.bind(self.dev, self.a)
        self.number = self.pasid(self.handle)
        self.forget(self.dev)
        self.seen.clear()

    @property
    def iommu(self) -> Any:
        return self.info.iommu

    def run(self) -> None:
        run_work(self.iommu.iopf_queue)

    def rules(self) -> list[str]:
        return [event.rule for event in self.events(Decided)]

    def answers(self) -> list[tuple[int, str]]:
        return [(event.code, event.wire) for event in self.events(PageResponded)]

    def put(self, pasid: int | None = None, source_id: int = SID, **how: Any) -> None:
        """Put a request into the queue while its interrupt is masked."""
        fault = Fault(self.number if pasid is None else pasid, DATA, READ, last=True, grpid=GROUP)
        self.mask(True)
        self.hw(self.dev).page_request(prq_request(source_id, replace(fault, **how)))

    def mask(self, masked: bool) -> None:
        self.hw(self.dev).mmio_write(Offset.PECTL, EventControl(im=masked), 4)


# --- the way of a request ------------------------------------------------------------------------------------


@both
def test_a_request_waits_for_its_worker_and_is_answered_once(profile: Profile) -> None:
    rig = Bound(profile)
    assert rig.report(rig.dev, rig.number) is None
    assert rig.answers() == []
    rig.run()
    assert rig.answers() == [(ResponseCode.SUCCESS, "0")]
    assert told(rig.descriptors(rig.dev)) == [f"PAGE_GROUP_RESPONSE {SID:#x}/1 {GROUP} code 0;"]
    assert rig.register(rig.dev, Offset.PQH) == rig.register(rig.dev, Offset.PQT)
    assert rig.register(rig.dev, Offset.PRS) == 0


def test_the_words_of_a_response() -> None:
    rig = Bound()
    fault = Fault(0x12345, DATA, READ, last=True, grpid=0x1A)
    intel_iommu_page_response(rig.info, fault, ResponseCode.SUCCESS)
    assert rig.descriptors(rig.dev)[0].words == (0x0001_2345_6A01_0019, 0xD4, 0, 0)


@pytest.mark.parametrize("perm", range(16))
@pytest.mark.parametrize("last", [False, True])
def test_a_fault_survives_the_way_through_a_descriptor(perm: int, last: bool) -> None:
    fault = Fault(7, DATA, perm, last, GROUP)
    assert prq_fault(PageRequest.unpack(prq_request(SID, fault).pack())) == fault
    assert prq_fault(prq_request(SID, replace(fault, pasid=None))) == replace(fault, pasid=None)


def test_requests_wait_for_the_last_of_their_group() -> None:
    rig = Bound()
    assert rig.report(rig.dev, rig.number, last=False) is None
    assert rig.report(rig.dev, rig.number, DATA + 4096) is None
    rig.run()
    assert rig.answers() == [(ResponseCode.SUCCESS, "0")]
    assert rig.rules().count("fault.mm-handled") == 2


@both
def test_a_pasid_that_nobody_has_is_answered_by_the_core_at_once(profile: Profile) -> None:
    rig = Bound(profile)
    refusal = rig.report(rig.dev, 99)
    assert isinstance(refusal, Refusal)
    assert (refusal.errno, refusal.rule.id) == (Errno.EINVAL, "fault.no-handler")
    assert rig.answers() == [(ResponseCode.INVALID, "1")]


def test_a_device_without_page_request_enable_is_answered_by_the_unit() -> None:
    rig = IntelRig()
    dev = rig.device(pri=False)
    rig.bind(dev, rig.mm())
    rig.forget(dev)
    assert rig.report(dev, 1) is None
    assert rig.descriptors(dev) == []
    assert rig.register(dev, Offset.PQT) == 0


# --- the driver's own answers --------------------------------------------------------------------------------


@both
@pytest.mark.parametrize(
    ("address", "perm"),
    [
        (1 << 47, READ),
        ((1 << 64) - (1 << 48), READ),
        (DATA, READ | PRIV),
        (DATA, WRITE | PRIV),
        (DATA, EXEC | READ),
    ],
)
def test_the_driver_answers_some_requests_itself(profile: Profile, address: int, perm: int) -> None:
    rig = Bound(profile)
    assert rig.report(rig.dev, rig.number, address, perm) is None
    assert rig.answers() == [(ResponseCode.INVALID, "1")]
    assert rig.rules() == ["prq.driver-invalid"]
    assert told(rig.descriptors(rig.dev)) == [f"PAGE_GROUP_RESPONSE {SID:#x}/1 {GROUP} code 1;"]


def test_a_bad_request_that_is_not_the_last_gets_no_answer() -> None:
    rig = Bound()
    rig.report(rig.dev, rig.number, DATA, READ | PRIV, last=False)
    assert rig.answers() == []
    assert rig.rules() == ["prq.driver-invalid"]
    assert rig.descriptors(rig.dev) == []


def test_what_is_canonical_depends_on_the_levels_of_the_kernel() -> None:
    rig = IntelRig(levels=5)
    dev = rig.device()
    refusal = rig.report(dev, 1, 1 << 47)
    assert isinstance(refusal, Refusal)
    assert rig.report(dev, 1, 1 << 56) is None
    assert [event.rule for event in rig.events(Decided)] == ["prq.driver-invalid"]


@pytest.mark.parametrize(
    ("profile", "result"), [(V6_12_0, "prq.driver-invalid"), (V7_3, "fault.no-handler")], ids=["v6.12.0", "v7.3"]
)
def test_a_request_without_pasid_is_answered_by_the_driver_and_later_by_the_core(profile: Profile, result: str) -> None:
    rig = Bound(profile)
    refusal = rig.report(rig.dev, None)
    assert (refusal.rule.id if refusal else rig.rules()[-1]) == result
    assert rig.answers() == [(ResponseCode.INVALID, "1")]


def test_a_stop_marker_is_dropped() -> None:
    rig = Bound()
    rig.port(rig.dev).stop_marker(rig.number)
    assert rig.rules() == ["prq.stop-marker"]
    assert rig.answers() == []
    assert rig.descriptors(rig.dev) == []
    assert rig.register(rig.dev, Offset.PQH) == rig.register(rig.dev, Offset.PQT)


def test_a_request_of_a_device_that_was_never_probed_is_answered_invalid() -> None:
    rig = Bound()
    del rig.iommu.device_rbtree[SID]
    rig.report(rig.dev, rig.number)
    assert rig.rules() == ["prq.driver-invalid"]
    assert told(rig.descriptors(rig.dev)) == [f"PAGE_GROUP_RESPONSE {SID:#x}/1 {GROUP} code 1;"]


@pytest.mark.parametrize(("raw", "code", "wire"), [(True, 2, "2"), (False, 0xF, "0xF")])
def test_failure_goes_out_as_the_core_calls_it_unless_that_is_mended(raw: bool, code: int, wire: str) -> None:
    rig = Bound(replace(V7_3, failure_sent_raw=raw))
    rig.kernel.fail_allocation = 1
    assert rig.report(rig.dev, rig.number) is None
    assert rig.answers() == [(ResponseCode.FAILURE, wire)]
    assert told(rig.descriptors(rig.dev)) == [f"PAGE_GROUP_RESPONSE {SID:#x}/1 {GROUP} code {code};"]


# --- overflow ------------------------------------------------------------------------------------------------


def test_an_overflow_forgets_partial_requests_once_the_queue_is_empty() -> None:
    rig = Bound()
    assert rig.report(rig.dev, rig.number, last=False) is None
    room = (4096 << PRQ_ORDER) // PRQ_ENT_BYTES - 1
    for _ in range(room + 1):
        rig.put(99)
    assert rig.register(rig.dev, Offset.PRS).pro
    rig.mask(False)
    assert not rig.register(rig.dev, Offset.PRS).pro
    assert "intel.prq-overflow" in rig.rules()
    assert rig.dev.fault_param is not None
    assert rig.dev.fault_param.partial == []
    assert rig.write(rig.dev, rig.number) == "a"


# --- draining ------------------------------------------------------------------------------------------------


def test_draining_waits_for_requests_of_this_device_and_pasid_alone() -> None:
    rig = Bound()
    rig.device("other", rig.dev.iommu, source_id=SID + 1)
    rig.put(rig.number, SID + 1)
    rig.put(99)
    assert rig.register(rig.dev, Offset.PQT).pqt == 2 * PRQ_ENT_BYTES
    intel_iommu_drain_pasid_prq(rig.info, rig.number)
    assert rig.answers() == []
    assert rig.register(rig.dev, Offset.PQH).pqh == 0
    rig.put()
    intel_iommu_drain_pasid_prq(rig.info, rig.number)
    assert rig.register(rig.dev, Offset.PQH) == rig.register(rig.dev, Offset.PQT)
    assert (ResponseCode.SUCCESS, "0") in rig.answers()


def test_draining_runs_the_workers_and_then_fences_the_unit() -> None:
    rig = Bound()
    assert rig.report(rig.dev, rig.number) is None
    intel_iommu_drain_pasid_prq(rig.info, rig.number)
    assert told(rig.descriptors(rig.dev)) == [
        f"PAGE_GROUP_RESPONSE {SID:#x}/1 {GROUP} code 0;",
        "WAIT fence",
        "PASID_IOTLB 2/1 all",
        f"PASID_DEVICE_TLB {SID:#x}/1 all; drain",
    ]


def test_draining_traffic_without_pasid_flushes_its_domain() -> None:
    rig = Bound()
    intel_iommu_drain_pasid_prq(rig.info, 0)
    assert told(rig.descriptors(rig.dev)) == ["WAIT fence", "IOTLB DOMAIN 2", f"DEVICE_TLB {SID:#x} all; drain"]


def test_a_device_that_takes_no_faults_is_not_drained() -> None:
    rig = IntelRig()
    dev = rig.device(pri=False)
    handle = rig.bind(dev, rig.mm())
    rig.forget(dev)
    rig.unbind(handle)
    assert not [line for line in told(rig.descriptors(dev)) if "drain" in line]
    assert rig.kernel.warnings == 0


def test_a_request_under_way_at_the_unbind_is_answered() -> None:
    rig = Bound()
    port, requests = rig.port(rig.dev), rig.hw(rig.dev).page_requests
    requests.hold = True
    index = port.request_page(Request(SID, rig.number, DATA))
    assert index is not None
    rig.unbind(rig.handle)
    assert not requests.in_flight
    assert port.answer(index) == ResponseCode.INVALID
    assert rig.register(rig.dev, Offset.PQH) == rig.register(rig.dev, Offset.PQT)
    assert rig.answers() == [(ResponseCode.INVALID, "1")]


def test_before_7_3_a_request_under_way_at_the_unbind_is_left_to_a_worker_that_runs_too_late() -> None:
    rig = Bound(V6_12_0)
    port, requests = rig.port(rig.dev), rig.hw(rig.dev).page_requests
    requests.hold = True
    index = port.request_page(Request(SID, rig.number, DATA))
    assert index is not None
    rig.unbind(rig.handle)
    assert not requests.in_flight
    assert port.answer(index) is None
    assert len(rig.iommu.iopf_queue.work) == 1


def test_an_unanswered_group_is_answered_before_its_bond_goes() -> None:
    rig = Bound()
    assert rig.report(rig.dev, rig.number) is None
    rig.unbind(rig.handle)
    assert rig.answers() == [(ResponseCode.SUCCESS, "0")]
    rig.run()
    assert len(rig.answers()) == 1


def test_draining_repeats_after_an_overflow() -> None:
    rig = Bound()
    room = (4096 << PRQ_ORDER) // PRQ_ENT_BYTES - 1
    for _ in range(room + 1):
        rig.put(99, perm=0)
    rig.forget(rig.dev)
    intel_iommu_drain_pasid_prq(rig.info, rig.number)
    assert [line for line in told(rig.descriptors(rig.dev)) if line.endswith("drain")] == [
        f"PASID_DEVICE_TLB {SID:#x}/1 all; drain"
    ] * 2
    assert not rig.register(rig.dev, Offset.PRS).pro


def test_the_thread_leaves_an_empty_queue_alone() -> None:
    rig = Bound()
    prq_event_thread(rig.iommu)
    assert rig.answers() == []
    assert rig.rules() == []


# --- when a device is in the queue ---------------------------------------------------------------------------


def test_a_device_is_in_the_queue_from_its_first_attachment_with_faults_to_the_last() -> None:
    rig = IntelRig()
    dev = rig.device()
    assert dev.fault_param is None
    handles = [rig.bind(dev, rig.mm(name)) for name in "ab"]
    assert rig.driver.infos[dev].iopf_refcount == 2
    rig.unbind(handles[0])
    assert dev.fault_param is not None
    rig.unbind(handles[1])
    assert dev.fault_param is None
    assert rig.kernel.warnings == 0


@pytest.mark.parametrize("profile", [V6_12_0, V6_15], ids=lambda profile: profile.name)
def test_before_6_16_a_device_is_in_the_queue_from_its_probe(profile: Profile) -> None:
    rig = IntelRig(profile)
    dev = rig.device()
    assert dev.fault_param is not None
    rig.unbind(rig.bind(dev, rig.mm()))
    assert dev.fault_param is not None
    assert rig.driver.infos[dev].iopf_refcount == 0


def faulting_domain(rig: IntelRig, dev: Device) -> Any:
    domain = rig.driver.domain_alloc_paging(dev)
    domain.iopf_handler = iommu_sva_iopf_handler
    return domain


def test_a_paging_domain_with_a_fault_handler_needs_page_requests() -> None:
    rig = IntelRig()
    dev = rig.device(pri=False)
    refusal = iommu_attach_device_pasid(faulting_domain(rig, dev), dev, 5, AttachHandle())
    assert isinstance(refusal, Refusal)
    assert (refusal.errno, refusal.rule.id) == (Errno.ENODEV, "intel.iopf-no-pri")
    assert rig.entry(dev, 5) == 0
    rid = rig.driver.attach_dev(faulting_domain(rig, dev), dev)
    assert rid is not None
    assert rid.rule.id == "intel.iopf-no-pri"
    assert not rig.entry(dev, 0).p


def test_replacing_the_last_domain_with_faults_skips_the_draining() -> None:
    rig = Bound()
    domain = rig.driver.domain_alloc_paging(rig.dev)
    rig.forget(rig.dev)
    assert iommu_replace_device_pasid(domain, rig.dev, rig.number, AttachHandle()) is None
    assert told(rig.descriptors(rig.dev)) == [
        f"PASID_CACHE 1/{rig.number};",
        f"PASID_IOTLB 1/{rig.number} all;",
        f"PASID_DEVICE_TLB {SID:#x}/{rig.number} all;",
    ]
    assert rig.dev.fault_param is None
    assert rig.write(rig.dev, rig.number) == "kernel"


def test_a_page_request_that_nobody_answers_ends_the_access() -> None:
    rig = Bound(features=FOUR_LEVELS)
    rig.mask(True)
    assert rig.write(rig.dev, rig.number) == "intel.page-request-unanswered"


def test_a_refused_page_request_says_how() -> None:
    rig = Bound()
    rig.kernel.fail_allocation = 1
    outcome: Any = rig.driver.access(rig.dev, rig.number, DATA, b"work", 4)
    assert (outcome.rule.id, outcome.seen.name) == ("intel.page-request-refused", "FAILURE")
    assert "was answered 0x2" in outcome.why
    outcome = rig.driver.access(rig.dev, rig.number, 0x4000_0000, b"work", 4)
    assert outcome.seen.name == "INVALID"
    outcome = rig.driver.access(rig.dev, rig.number, 0x4000_0000, b"work", 4, page_requests=False)
    assert (outcome.rule.id, outcome.seen.name) == ("intel.page-not-asked", "NO_PAGE")


def test_a_device_asks_again_when_the_unit_had_no_room_and_gives_up_at_last() -> None:
    rig = Bound()
    room = (4096 << PRQ_ORDER) // PRQ_ENT_BYTES - 1
    for _ in range(room + 1):
        rig.put(99, perm=0)
    assert rig.write(rig.dev, rig.number) == "intel.no-progress"
    rig.mask(False)
    assert rig.write(rig.dev, rig.number) == "a"


def test_a_page_that_is_gone_after_each_answer_ends_the_access_at_last() -> None:
    rig = Bound()

    def steal(event: Any) -> None:
        ptep = pte_offset_map(rig.a, DATA)
        if isinstance(event, PageResponded) and ptep is not None:
            set_pte(rig.kernel.memory, ptep, 0)

    rig.kernel.observers.append(steal)
    assert rig.write(rig.dev, rig.number) == "intel.no-progress"
    assert rig.answers() == [(ResponseCode.SUCCESS, "0")] * 8
    rig.kernel.observers.remove(steal)
    assert rig.write(rig.dev, rig.number) == "a"


def test_a_handler_may_use_the_queue_when_its_interrupt_comes_while_somebody_waits_for_that() -> None:
    rig = Bound()
    served: list[Refusal | None] = []
    rig.hw(rig.dev).interface.irq = lambda name: served.append(qi_submit_sync(rig.iommu, (qi_desc_piotlb(1, 2),)))
    rig.hw(rig.dev).page_requests.hold = True
    rig.port(rig.dev).request_page(Request(SID, rig.number, DATA))
    qi_submit_sync(rig.iommu, (qi_desc_piotlb(1, 1),), drain=True)
    assert served == [None]
    assert told(rig.descriptors(rig.dev)) == ["PASID_IOTLB 1/1 all; drain", "PASID_IOTLB 1/2 all;"]


def test_traffic_without_pasid_counts_among_the_attachments_with_faults() -> None:
    rig = IntelRig()
    dev = rig.device()
    assert rig.driver.attach_dev(faulting_domain(rig, dev), dev) is None
    assert dev.fault_param is not None
    rig.driver.attach_blocked(faulting_domain(rig, dev), dev)
    assert dev.fault_param is None
    assert rig.kernel.warnings == 0


def test_identity_in_the_place_of_a_process_takes_no_faults() -> None:
    rig = Bound()
    identity = rig.driver.ops.identity_domain
    assert identity is not None
    assert iommu_replace_device_pasid(identity, rig.dev, rig.number, AttachHandle()) is None
    assert rig.dev.fault_param is None
    assert rig.info.iopf_refcount == 0


@pytest.mark.parametrize("profile", [V6_12_0, V7_3], ids=lambda profile: profile.name)
def test_a_device_without_page_requests_is_never_in_the_queue(profile: Profile) -> None:
    rig = IntelRig(profile)
    dev = rig.device(pri=False)
    assert dev.fault_param is None
    rig.bind(dev, rig.mm())
    assert dev.fault_param is None


def test_a_device_that_cannot_join_the_queue_gets_no_process() -> None:
    rig = IntelRig()
    dev = rig.device()
    info = rig.driver.infos[dev]
    iopf_queue_add_device(info.iommu.iopf_queue, dev)
    domain: Any = rig.driver.domain_alloc_sva(dev, rig.mm())
    domain.iopf_handler = iommu_sva_iopf_handler
    refusal = iommu_attach_device_pasid(domain, dev, 1, AttachHandle())
    assert isinstance(refusal, Refusal)
    assert refusal.errno is Errno.EBUSY
    assert (domain.dev_pasids, domain.cache_tags, info.iopf_refcount) == ([], {}, 0)
    assert rig.entry(dev, 1) == 0


def test_a_set_that_finds_an_entry_in_use_leaves_nothing_behind() -> None:
    rig = IntelRig()
    dev = rig.device()
    info = rig.driver.infos[dev]
    assert intel_pasid_setup_pass_through(info, 1) is None
    domain: Any = rig.driver.domain_alloc_sva(dev, rig.mm())
    domain.iopf_handler = iommu_sva_iopf_handler
    refusal = iommu_attach_device_pasid(domain, dev, 1, AttachHandle())
    assert isinstance(refusal, Refusal)
    assert (refusal.errno, refusal.rule.id) == (Errno.EBUSY, "intel.pasid-present")
    assert (domain.dev_pasids, domain.cache_tags, info.iopf_refcount) == ([], {}, 0)
    assert dev.fault_param is None
    assert rig.entry(dev, 1).pgtt.name == "PASS_THROUGH"
    paging = rig.driver.domain_alloc_paging(dev)
    assert iommu_attach_device_pasid(paging, dev, 1, AttachHandle()) is not None
    assert info.iommu.domain_ids.lowest_free(2, 9) == 3
