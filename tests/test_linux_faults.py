"""Family E of the core cases: page requests, how they are grouped, and what the device is answered.

E10 (the code on the wire), E11 (VT-d's stop marker) and E12 (an SMMU stall event is a group of one) are answers of real
IOMMU drivers: see test_traits.py.
"""

from __future__ import annotations

import pytest

from pasidlab.errors import Errno
from pasidlab.events import PageResponded
from pasidlab.linux.iommu import iommu_replace_device_pasid
from pasidlab.linux.iopf import (
    Fault,
    IopfQueue,
    ResponseCode,
    iommu_report_device_fault,
    iommu_sva_handle_mm,
    iopf_group_response,
    iopf_queue_add_device,
    iopf_queue_discard_partial,
    iopf_queue_flush_dev,
    iopf_queue_remove_device,
    run_work,
)
from pasidlab.linux.mm import EXEC, mmput
from pasidlab.linux.profiles import V6_12, V7_3
from pasidlab.linux.structs import (
    AttachHandle,
    Device,
    IommuGroup,
)
from pasidlab.linux.sva import iommu_sva_bind_device, iommu_sva_unbind_device
from pasidlab.linux.task import do_exit
from tests.rig import DATA, PAGE, READ_ONLY, Rig, both_kernels, bound, refused

READ, WRITE = 1, 2
SUCCESS, INVALID, FAILURE = ResponseCode.SUCCESS, ResponseCode.INVALID, ResponseCode.FAILURE
EBUSY, EINVAL, ENODEV, ENOMEM = Errno.EBUSY, Errno.EINVAL, Errno.ENODEV, Errno.ENOMEM
NOWHERE = 0x9000_0000


class FaultRig(Rig):
    """A device bound to processes a (PASID 1) and b (PASID 2)."""

    def __init__(self, profile):
        super().__init__(profile)
        self.dev = self.device("dev", 4)
        self.a, self.b = self.process("a"), self.process("b")
        self.bonds = [bound(iommu_sva_bind_device(self.dev, task.mm)) for task in (self.a, self.b)]
        self.forget()

    def request(self, address=DATA, perm=READ, *, pasid=1, last=True, grpid=3, dev=None):
        """Report a page request and leave its group to the worker."""
        return iommu_report_device_fault(dev or self.dev, Fault(pasid, address, perm, last, grpid))

    def partial(self, address=DATA, perm=READ, *, pasid=1, grpid=3):
        """Report a page request that is not the last of its group."""
        return self.request(address, perm, pasid=pasid, last=False, grpid=grpid)

    def flush(self):
        """Run the worker; return what devices were answered since the last look."""
        iopf_queue_flush_dev(self.dev)
        return self.answers()

    def answers(self):
        """Return what devices were answered since the last look."""
        return [event for event in self.calls() if isinstance(event, PageResponded)]

    def has_page(self, task, address):
        """Whether the page was brought in."""
        return task.mm.has_page(address)


def answer(code, *, pasid=1, grpid=3, dev="dev"):
    return PageResponded(dev, pasid, grpid, code)


# Groups


@both_kernels
def test_e1_a_group_is_handled_in_the_order_of_arrival_and_answered_once(profile):
    rig = FaultRig(profile)
    assert rig.partial(DATA) is None
    assert rig.partial(NOWHERE) is None
    assert rig.answers() == []
    assert rig.request(DATA + PAGE) is None
    assert rig.flush() == [answer(INVALID)]
    assert rig.has_page(rig.a, DATA)  # before the one that failed
    assert not rig.has_page(rig.a, DATA + PAGE)  # behind it


@both_kernels
def test_e1_three_good_requests_have_one_answer(profile):
    rig = FaultRig(profile)
    rig.partial(DATA)
    rig.partial(DATA + PAGE)
    rig.request(DATA + 2 * PAGE)
    assert rig.flush() == [answer(SUCCESS)]
    assert all(rig.has_page(rig.a, DATA + n * PAGE) for n in range(3))


@both_kernels
def test_e1_another_group_index_is_another_group(profile):
    rig = FaultRig(profile)
    rig.partial(NOWHERE, grpid=3)
    rig.request(DATA, grpid=4)
    assert rig.flush() == [answer(SUCCESS, grpid=4)]
    rig.request(DATA, grpid=3)
    assert rig.flush() == [answer(INVALID, grpid=3)]


@both_kernels
def test_e1_another_device_is_another_group(profile):
    rig = FaultRig(profile)
    other = rig.device("other", 4)
    bound(iommu_sva_bind_device(other, rig.a.mm))
    rig.partial(NOWHERE)
    rig.request(DATA, dev=other)
    assert rig.flush() == [answer(SUCCESS, dev="other")]


@both_kernels
def test_e2_partial_requests_join_by_group_index_whatever_their_pasid(profile):
    rig = FaultRig(profile)
    rig.partial(DATA, pasid=1)
    rig.request(DATA + PAGE, pasid=2)
    assert rig.flush() == [answer(SUCCESS, pasid=2)]
    assert not rig.has_page(rig.a, DATA)
    assert rig.has_page(rig.b, DATA)  # a's request, served by b


@both_kernels
def test_e2_a_bad_partial_of_another_pasid_spoils_the_group(profile):
    rig = FaultRig(profile)
    rig.partial(NOWHERE, pasid=1)
    rig.request(DATA, pasid=2)
    assert rig.flush() == [answer(INVALID, pasid=2)]


def test_e2_without_the_quirk_pasids_are_kept_apart():
    rig = FaultRig(V7_3.with_switches({"partial_faults_ignore_pasid": False}))
    rig.partial(NOWHERE, pasid=1)
    rig.request(DATA, pasid=2)
    assert rig.flush() == [answer(SUCCESS, pasid=2)]
    rig.request(DATA, pasid=1)
    assert rig.flush() == [answer(INVALID, pasid=1)]


@both_kernels
@pytest.mark.parametrize("last", [True, False], ids=["last", "not last"])
def test_e3_a_pasid_that_is_not_attached_is_answered_invalid_at_once(profile, last):
    rig = FaultRig(profile)
    why = refused(rig.request(pasid=9, last=last), EINVAL, "fault.no-handler")
    assert why == "nothing on dev handles faults of PASID 9; the request is answered INVALID"
    assert rig.answers() == [answer(INVALID, pasid=9)]


def test_e3_without_the_quirk_only_the_last_is_answered():
    rig = FaultRig(V7_3.with_switches({"bad_partial_answered_at_once": False}))
    refused(rig.request(pasid=9, last=False), EINVAL, "fault.no-handler")
    assert rig.answers() == []
    refused(rig.request(pasid=9), EINVAL, "fault.no-handler")
    assert rig.answers() == [answer(INVALID, pasid=9)]


@both_kernels
@pytest.mark.parametrize("handle", [None, AttachHandle()], ids=["without handle", "with handle"])
def test_e3_a_kernel_managed_domain_takes_no_page_requests(profile, handle):
    rig = FaultRig(profile)
    assert rig.attach(rig.dev, 5, handle) is None
    refused(rig.request(pasid=5), EINVAL, "fault.no-handler")
    assert rig.answers() == [answer(INVALID, pasid=5)]


@both_kernels
def test_e3_a_request_without_pasid_looks_at_the_rid(profile):
    rig = FaultRig(profile)
    refused(rig.request(pasid=None), EINVAL, "fault.no-handler")
    assert rig.answers() == [answer(INVALID, pasid=0)]


@both_kernels
def test_e3_a_device_behind_no_iommu_has_no_handler(profile):
    rig = FaultRig(profile)
    alone = Device(rig.kernel, "alone")
    alone.iommu = rig.smmu
    refused(rig.request(dev=alone), EINVAL, "fault.no-handler")
    assert rig.answers() == [answer(INVALID, dev="alone")]


@both_kernels
def test_e3_the_same_number_on_another_device_reaches_nobody(profile):
    rig = FaultRig(profile)
    other = rig.device("other", 4)
    refused(rig.request(dev=other), EINVAL, "fault.no-handler")
    assert rig.answers() == [answer(INVALID, dev="other")]


# One request


@both_kernels
def test_e4_the_first_failure_settles_the_group(profile):
    rig = FaultRig(profile)
    rig.partial(DATA)
    rig.partial(NOWHERE)
    rig.request(DATA + PAGE)
    rig.forget()
    run_work(rig.smmu.iopf_queue)
    assert rig.rules("fault") == ["fault.mm-handled", "fault.mm-no-area"]


@both_kernels
@pytest.mark.parametrize(
    ("address", "perm", "code"),
    [
        (READ_ONLY, WRITE, INVALID),
        (READ_ONLY, READ | WRITE, INVALID),
        (DATA, EXEC, INVALID),
        (READ_ONLY, READ, SUCCESS),
        (DATA, READ, SUCCESS),
        (DATA, WRITE, SUCCESS),
        (READ_ONLY, 0, SUCCESS),
    ],
)
def test_e5_the_rights_of_the_area_decide(profile, address, perm, code):
    rig = FaultRig(profile)
    assert rig.request(address, perm) is None
    assert rig.flush() == [answer(code)]


@both_kernels
@pytest.mark.parametrize(("address", "rule"), [(NOWHERE, "fault.mm-no-area"), (READ_ONLY, "fault.mm-rights")])
def test_e5_the_rule_says_why_the_answer_is_invalid(profile, address, rule):
    rig = FaultRig(profile)
    rig.request(address, WRITE)
    run_work(rig.smmu.iopf_queue)
    assert rig.rules("fault") == ["fault.queued", rule]


@both_kernels
def test_e5_the_end_of_an_area_is_outside(profile):
    rig = FaultRig(profile)
    rig.request(DATA + 4 * PAGE - 1)
    rig.request(DATA + 4 * PAGE)
    assert rig.flush() == [answer(SUCCESS), answer(INVALID)]


@both_kernels
def test_e6_a_process_that_has_exited_serves_nothing(profile):
    rig = FaultRig(profile)
    mmput(rig.a.mm)
    assert rig.request() is None
    iopf_queue_flush_dev(rig.dev)
    assert rig.rules("fault") == ["fault.queued", "fault.mm-exiting"]


@both_kernels
def test_e6_the_answer_is_invalid(profile):
    rig = FaultRig(profile)
    rig.request()
    do_exit(rig.a)  # while the group waits for its worker
    assert rig.flush() == [answer(INVALID)]


@both_kernels
def test_e6_serving_does_not_keep_the_mm_alive(profile):
    rig = FaultRig(profile)
    rig.request()
    rig.flush()
    assert rig.a.mm.mm_users == 1


@both_kernels
def test_a_request_without_the_pasid_flag_is_invalid_for_the_mm(profile):
    rig = FaultRig(profile)
    assert iommu_sva_handle_mm(Fault(None, DATA, READ, last=True, grpid=0), rig.a.mm) is INVALID
    assert rig.rules("fault") == ["fault.mm-no-pasid"]


# No memory, a handler that refuses


@both_kernels
def test_e7_without_memory_for_the_group_the_answer_is_failure(profile):
    rig = FaultRig(profile)
    rig.kernel.fail_allocation = 1
    assert rig.request() is None
    assert rig.answers() == [answer(FAILURE)]
    assert rig.flush() == []


@both_kernels
def test_e7_the_partials_of_that_group_are_gone_too(profile):
    rig = FaultRig(profile)
    rig.partial(NOWHERE)
    rig.kernel.fail_allocation = 1
    rig.request()
    rig.answers()
    rig.request()
    assert rig.flush() == [answer(SUCCESS)]


@both_kernels
def test_e7_without_memory_for_a_partial_there_is_no_answer(profile):
    rig = FaultRig(profile)
    rig.kernel.fail_allocation = 1
    refused(rig.partial(), ENOMEM, "fault.partial-no-memory")
    assert rig.flush() == []


@both_kernels
def test_a_group_that_the_handler_refuses_is_answered_failure(profile):
    rig = FaultRig(profile)
    rig.bonds[0].domain.iopf_handler = lambda group: iopf_queue_discard_partial(None)
    assert rig.request() is None
    assert "fault.handler-refused" in rig.decided
    assert rig.answers() == [answer(FAILURE)]


# The queue


@both_kernels
def test_e8_removal_answers_what_is_pending_and_forgets_partials(profile):
    rig = FaultRig(profile)
    rig.partial(grpid=1)
    rig.request(grpid=2)
    rig.request(grpid=3)
    iopf_queue_remove_device(rig.smmu.iopf_queue, rig.dev)
    assert rig.answers() == [answer(INVALID, grpid=2), answer(INVALID, grpid=3)]
    assert rig.dev.fault_param is None
    run_work(rig.smmu.iopf_queue)
    assert rig.rules("fault") == []


@both_kernels
def test_e8_a_partial_does_not_survive_removal(profile):
    rig = FaultRig(profile)
    queue = rig.smmu.iopf_queue
    rig.partial(NOWHERE)
    iopf_queue_remove_device(queue, rig.dev)
    assert iopf_queue_add_device(queue, rig.dev) is None
    rig.request()
    assert rig.flush() == [answer(SUCCESS)]


@both_kernels
def test_e8_removal_also_answers_a_group_that_its_handler_keeps(profile):
    rig = FaultRig(profile)
    kept = []
    rig.bonds[0].domain.iopf_handler = kept.append  # as iommufd does: user space answers later
    assert rig.request() is None
    iopf_queue_remove_device(rig.smmu.iopf_queue, rig.dev)
    assert rig.answers() == [answer(INVALID)]
    iopf_group_response(kept[0], SUCCESS)
    assert rig.answers() == []


@both_kernels
def test_e8_removal_does_not_answer_what_was_answered_before(profile):
    rig = FaultRig(profile)
    rig.request()
    assert rig.flush() == [answer(SUCCESS)]
    iopf_queue_remove_device(rig.smmu.iopf_queue, rig.dev)
    assert rig.answers() == []


@both_kernels
def test_e8_a_group_is_answered_once(profile):
    rig = FaultRig(profile)
    kept = []
    rig.bonds[0].domain.iopf_handler = kept.append
    rig.request()
    iopf_group_response(kept[0], SUCCESS)
    iopf_group_response(kept[0], SUCCESS)
    assert rig.answers() == [answer(SUCCESS)]


@both_kernels
def test_e8_the_requests_of_other_devices_stay(profile):
    rig = FaultRig(profile)
    other = rig.device("other", 4)
    bound(iommu_sva_bind_device(other, rig.a.mm))
    rig.request()
    rig.request(dev=other)
    iopf_queue_remove_device(rig.smmu.iopf_queue, rig.dev)
    rig.answers()
    iopf_queue_flush_dev(other)
    assert rig.answers() == [answer(SUCCESS, dev="other")]


@both_kernels
def test_e8_removal_from_a_queue_that_it_is_not_in_warns(profile):
    rig = FaultRig(profile)
    iopf_queue_remove_device(IopfQueue(), rig.dev)
    assert rig.kernel.warnings == 1
    assert rig.dev.fault_param is not None


@both_kernels
def test_e9_a_device_is_added_once(profile):
    rig = FaultRig(profile)
    outcome = iopf_queue_add_device(rig.smmu.iopf_queue, rig.dev)
    assert refused(outcome, EBUSY, "fault.queue-twice") == "dev is in a fault queue already"


@both_kernels
def test_e9_a_driver_that_cannot_answer_has_no_queue(profile):
    rig = Rig(profile)
    rig.driver.ops().page_response = None
    outcome = iopf_queue_add_device(IopfQueue(), rig.device("dev", 4))
    assert refused(outcome, ENODEV, "fault.queue-no-response-op") == (
        "the IOMMU driver of dev cannot answer page requests"
    )


@both_kernels
def test_e13_an_overflow_forgets_the_partials_of_all_devices(profile):
    rig = FaultRig(profile)
    other = rig.device("other", 4)
    bound(iommu_sva_bind_device(other, rig.a.mm))
    rig.partial(NOWHERE)
    rig.request(NOWHERE, dev=other, last=False)
    assert iopf_queue_discard_partial(rig.smmu.iopf_queue) is None
    rig.request()
    rig.request(dev=other)
    assert rig.flush() == [answer(SUCCESS), answer(SUCCESS, dev="other")]


@both_kernels
def test_e13_an_overflow_leaves_the_partials_of_other_iommus(profile):
    rig = FaultRig(profile)
    rig.partial(NOWHERE)
    iopf_queue_discard_partial(IopfQueue())
    rig.request()
    assert rig.flush() == [answer(INVALID)]


def test_e13_without_a_queue_there_is_nothing_to_discard():
    assert refused(iopf_queue_discard_partial(None), EINVAL, "fault.discard-no-queue") == "there is no fault queue"


@both_kernels
def test_flushing_a_device_that_is_in_no_queue_warns(profile):
    rig = Rig(profile)
    dev = rig.device("dev", 4)
    if dev.fault_param:
        iopf_queue_remove_device(rig.smmu.iopf_queue, dev)
    assert refused(iopf_queue_flush_dev(dev), ENODEV, "fault.flush-no-param") == "dev is in no fault queue"
    assert rig.kernel.warnings == 1


@both_kernels
def test_a_flush_serves_all_devices_of_the_iommu(profile):
    rig = FaultRig(profile)
    other = rig.device("other", 4)
    bound(iommu_sva_bind_device(other, rig.b.mm))
    rig.request()
    rig.request(pasid=2, dev=other)
    assert rig.flush() == [answer(SUCCESS), answer(SUCCESS, pasid=2, dev="other")]


# When a device is in the queue


def test_6_12_has_a_device_in_the_queue_from_its_probe():
    assert Rig(V6_12).device("dev", 4).fault_param is not None


def test_7_3_has_a_device_in_the_queue_from_its_first_bond_to_its_last():
    rig = Rig(V7_3)
    dev = rig.device("dev", 4)
    assert dev.fault_param is None
    bonds = [bound(iommu_sva_bind_device(dev, rig.mm(name))) for name in "ab"]
    assert dev.fault_param is not None
    iommu_sva_unbind_device(bonds[0])
    assert dev.fault_param is not None
    iommu_sva_unbind_device(bonds[1])
    assert dev.fault_param is None


def test_7_3_does_not_queue_a_device_for_kernel_managed_domains():
    rig = Rig(V7_3)
    dev = rig.device("dev", 4)
    assert rig.attach(dev, 5, AttachHandle()) is None
    assert dev.fault_param is None


def test_7_3_replacing_a_domain_joins_and_leaves_the_queue():
    rig = Rig(V7_3)
    dev, mm = rig.device("dev", 4), rig.mm("a")
    sva = bound(iommu_sva_bind_device(rig.device("other", 4), mm)).domain
    assert rig.attach(dev, 5, AttachHandle()) is None
    assert iommu_replace_device_pasid(sva, dev, 5, AttachHandle()) is None
    assert dev.fault_param is not None
    assert iommu_replace_device_pasid(rig.domain(dev), dev, 5, AttachHandle()) is None
    assert dev.fault_param is None


@pytest.mark.parametrize(("profile", "code"), [(V6_12, INVALID), (V7_3, SUCCESS)], ids=lambda v: v.name)
def test_a_partial_and_the_last_unbind(profile, code):
    rig = FaultRig(profile)
    iommu_sva_unbind_device(rig.bonds[1])
    rig.partial(NOWHERE)
    iommu_sva_unbind_device(rig.bonds[0])  # 7.3 forgets the partial here, 6.12 joins it later
    bound(iommu_sva_bind_device(rig.dev, rig.a.mm))
    rig.request()
    assert rig.flush() == [answer(code)]


@both_kernels
def test_a_partial_survives_while_another_pasid_is_bound(profile):
    rig = FaultRig(profile)
    rig.partial(NOWHERE, pasid=1)
    iommu_sva_unbind_device(rig.bonds[0])
    rig.request(pasid=2)
    assert rig.flush() == [answer(INVALID, pasid=2)]


def test_7_3_a_member_without_pasids_is_in_no_queue():
    rig = Rig(V7_3)
    group = IommuGroup("slot")
    gpu, bridge, task = rig.device("gpu", 4, group), rig.device("bridge", None, group), rig.process("a")
    bound(iommu_sva_bind_device(gpu, task.mm))
    rig.calls()
    outcome = iommu_report_device_fault(bridge, Fault(1, DATA, READ, last=True, grpid=3))
    assert refused(outcome, EINVAL, "fault.no-fault-param") == (
        "bridge is in no fault queue; the request is answered INVALID"
    )
    assert rig.kernel.warnings == 1
    assert rig.calls() == [answer(INVALID, dev="bridge")]
