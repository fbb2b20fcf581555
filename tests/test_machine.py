"""What can be done on a machine: verbs that the scenarios do not need, both sides of each."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from pasidlab import Errno, InputError, Machine, MachineSpec, run
from pasidlab.description import CpuSpec, DeviceSpec, IommuSpec, ProcessSpec
from pasidlab.devices import Access, SubmitBy, Work
from pasidlab.drivers.traits import Mode
from pasidlab.hw.cpu import Instruction
from pasidlab.linux.iopf import Fault
from pasidlab.outcome import Outcome
from pasidlab.rules import RULES
from pasidlab.scenario import Scenario
from pasidlab.schemes import SCHEMES

from .conftest import ROOT


def machine(scheme: str = "mainline", *, devices: list[DeviceSpec] | None = None, **keys: Any) -> Machine:
    spec = MachineSpec(
        iommu=[IommuSpec("iommu0", per_device_pasid_space=True)],
        device=devices or [DeviceSpec("dev0", "iommu0", pasid_bits=4), DeviceSpec("dev1", "iommu0", pasid_bits=4)],
        process=[ProcessSpec("a"), ProcessSpec("b")],
        **keys,
    )
    return Machine(spec, scheme)


def refused(outcome: Outcome, result: str, rule: str) -> str:
    assert (outcome.result, outcome.rule) == (result, rule), outcome
    assert rule in RULES
    return outcome.why


def ok(outcome: Outcome, pasid: int | None = None) -> Outcome:
    assert outcome.result == "ok", outcome
    if pasid is not None:
        assert outcome.pasid == pasid
    return outcome


def fault(address: int = 0x1000_0000, perm: int = 1, *, last: bool = True):
    return lambda pasid: Fault(pasid, address, perm, last, 0)


class TestNumbers:
    def test_a_module_takes_and_returns_a_number(self) -> None:
        m = machine()
        ok(m.alloc_global("dev0", "g"), 1)
        assert list(m.kernel.holders()) == [(1, "module g")]
        assert ok(m.free_global("g")).rule == "free-global.done"
        assert list(m.kernel.holders()) == []

    def test_a_number_that_is_not_held_only_warns(self) -> None:
        m = machine()
        assert ok(m.free_global(7)).rule == "free-global.not-held"
        assert m.kernel.warnings == 1

    def test_a_number_with_the_sign_bit_is_ignored(self) -> None:
        m = machine()
        assert ok(m.free_global(2**31)).rule == "free-global.silent"
        assert m.kernel.warnings == 0

    def test_a_name_without_number_is_enoent(self) -> None:
        m = machine(devices=[DeviceSpec("dev0", "iommu0", pasid_bits=0)])
        assert m.alloc_global("dev0", "g").result == "ENOSPC"
        assert refused(m.free_global("g"), "ENOENT", "number.none") == "g names no number here"

    def test_a_full_space_names_the_holders_and_counts_the_rest(self) -> None:
        m = machine(devices=[DeviceSpec("dev0", "iommu0", pasid_bits=4)])
        for number in range(15):
            ok(m.alloc_global("dev0", f"g{number}"), number + 1)
        why = refused(m.alloc_global("dev0"), "ENOSPC", "alloc-global.none")
        assert "1 is held by module g0" in why
        assert why.endswith("and 7 more")

    def test_attach_replace_detach(self) -> None:
        m = machine()
        ok(m.attach("dev0", 3), 3)
        assert refused(m.attach("dev0", 3), "EBUSY", "attach.slot-taken").startswith("number 3 on dev0 is already")
        assert ok(m.replace("dev0", 3)).rule == "replace.done"
        assert ok(m.detach("dev0", 3)).rule == "detach.done"
        refused(m.replace("dev0", 3), "EINVAL", "replace.empty-slot")
        refused(m.detach("dev0", 3), "ENOENT", "handle.none")

    def test_replace_is_not_there_before_6_15(self) -> None:
        m = machine(kernel="v6.12")
        ok(m.attach("dev0", 3))
        assert refused(m.replace("dev0", 3), "ENOSYS", "replace.no-such-call").startswith("kernel v6.12 has no")

    def test_attach_any_takes_the_lowest_free_number_under_the_rfc(self) -> None:
        m = machine("rfc")
        ok(m.attach("dev0", 1))
        assert ok(m.attach_any("dev0", "x"), 2).rule == "rfc.picked"
        ok(m.detach("dev0", "x"), 2)

    def test_attach_any_of_a_full_device_names_what_holds_it(self) -> None:
        m = machine("rfc", devices=[DeviceSpec("dev0", "iommu0", pasid_bits=1)])
        ok(m.attach("dev0", 1, with_handle=False))
        outcome = m.attach_any("dev0", "x")
        assert "1 to domain 0, attached without handle (kernel DMA)" in refused(outcome, "ENOSPC", "rfc.device-full")
        assert outcome.holders == ((1, "domain 0, attached without handle (kernel DMA)"),)
        refused(m.detach("dev0", "x"), "ENOENT", "number.none")

    def test_attach_any_on_a_device_without_pasids(self) -> None:
        m = machine("rfc", devices=[DeviceSpec("dev0", "iommu0")])
        refused(m.attach_any("dev0"), "ENOSPC", "bind.device-without-pasids")

    @pytest.mark.parametrize("scheme", ["mainline", "v2", "hybrid"])
    def test_attach_any_is_the_rfcs_alone(self, scheme: str) -> None:
        why = refused(machine(scheme).attach_any("dev0"), "ENOSYS", "scheme.no-such-call")
        assert why == f"scheme {scheme} has no iommu_attach_device_pasid_any()"

    @pytest.mark.parametrize("verb", ["attach", "replace"])
    def test_a_device_behind_no_iommu_attaches_nothing(self, verb: str) -> None:
        m = machine(devices=[DeviceSpec("dev0")])
        refused(getattr(m, verb)("dev0", 3), "ENODEV", "attach.no-group")
        refused(m.attach_any("dev0"), "ENODEV", "attach.no-group")

    def test_amd_attaches_no_kernel_domain_to_a_pasid(self) -> None:
        spec = MachineSpec(
            iommu=[IommuSpec("amd", ops=Mode.AMD_VI, pasid_bits=16)], device=[DeviceSpec("dev0", "amd", pasid_bits=16)]
        )
        m = Machine(spec)
        assert m.endpoints["dev0"].dev.max_pasids == 65535
        refused(m.attach("dev0", 3), "EOPNOTSUPP", "attach.no-set-dev-pasid")


class TestProcesses:
    @pytest.mark.parametrize("verb", ["exec", "exit", "enable_lam"])
    def test_a_process_that_has_exited_does_nothing_more(self, verb: str) -> None:
        m = machine()
        ok(m.exit("a"))
        assert refused(getattr(m, verb)("a"), "ESRCH", "process.exited") == "process a has exited"

    def test_nor_does_it_bind_submit_map_or_hand_off(self) -> None:
        m = machine()
        ok(m.exit("a"))
        outcomes = [
            m.bind("dev0", "a"),
            m.bind_device("dev0", "a"),
            m.submit("a", "dev0", None, Work()),
            m.mmap_portal("a", "dev0"),
            m.handoff("dev0", "dev1", "a", Work()),
            m.fork("a", "c"),
            m.clone("a", "c"),
        ]
        assert {outcome.result for outcome in outcomes} == {"ESRCH"}

    def test_an_unbind_of_a_refused_bind_is_enoent(self) -> None:
        m = machine(devices=[DeviceSpec("dev0")])
        refused(m.bind("dev0", "a", "h"), "ENODEV", "bind.no-group")
        refused(m.unbind("h"), "ENOENT", "handle.none")

    def test_a_bond_of_a_file_goes_with_the_last_process_that_has_it_open(self) -> None:
        m = machine()
        ok(m.bind("dev0", "a", "h"), 1)
        ok(m.fork("a", "child"))
        ok(m.exit("a"))
        assert m.bindings["h"].live
        ok(m.exit("child"))
        assert not m.bindings["h"].live
        assert list(m.kernel.holders()) == []

    def test_lam_and_sva_exclude_each_other(self) -> None:
        m = machine(cpu=CpuSpec(arch="x86"))
        ok(m.enable_lam("a"))
        refused(m.bind_device("dev0", "a"), "EBUSY", "bind.page-table-not-dma-compatible")
        ok(m.bind_device("dev0", "b"))
        refused(m.enable_lam("b"), "EINVAL", "lam.has-pasid")

    def test_force_tagged_sva_lifts_both(self) -> None:
        m = machine(cpu=CpuSpec(arch="x86", force_tagged_sva=True))
        ok(m.bind_device("dev0", "a"))
        ok(m.enable_lam("a"))
        ok(m.bind_device("dev1", "a"))

    def test_lam_needs_x86_and_a_single_thread(self) -> None:
        refused(machine().enable_lam("a"), "ENODEV", "lam.no-cpu")
        m = machine(cpu=CpuSpec(arch="x86"))
        ok(m.clone("a", "thread"))
        refused(m.enable_lam("a"), "EBUSY", "lam.locked")

    def test_a_copied_machine_goes_its_own_way(self) -> None:
        m = machine("hybrid")
        ok(m.bind("dev0", "a", "h"), 1)
        twin = copy.deepcopy(m)
        ok(twin.exit("a"))
        assert (m.bindings["h"].live, twin.bindings["h"].live) == (True, False)
        ok(twin.bind("dev0", "b"), 1)
        ok(m.bind("dev0", "b"), 2)


class TestWork:
    def test_a_read_shows_whose_memory_it_was(self) -> None:
        m = machine()
        ok(m.bind("dev0", "a"))
        outcome = ok(m.submit("a", "dev0", None, Work(Access.READ, size=5)), 1)
        assert outcome.work is not None
        assert (outcome.work.owner, outcome.work.data) == ("a", b"a a a")

    def test_a_write_over_a_page_border_lands_in_both_pages(self) -> None:
        m = machine()
        ok(m.bind("dev0", "a"))
        ok(m.submit("a", "dev0", None, Work(Access.WRITE, 0x1000_0FFE, b"1234")))
        outcome = ok(m.submit("a", "dev0", None, Work(Access.READ, 0x1000_0FFC, size=8)))
        assert outcome.work is not None
        assert outcome.work.data == b"a 1234a "

    @pytest.mark.parametrize("address", [0x2000_0000, 0x5000_0000, 0x6000_0000])
    def test_a_write_that_the_memory_forbids_is_a_fault(self, address: int) -> None:
        m = machine()
        ok(m.bind("dev0", "a"))
        why = refused(m.submit("a", "dev0", None, Work(address=address)), "fault", "dma.page-request-refused")
        assert f"{address:#x} of a under PASID 1 to write" in why

    def test_a_process_without_bond_has_no_queue(self) -> None:
        refused(machine().submit("a", "dev0", None, Work()), "EPERM", "submit.no-queue")

    def test_a_queue_can_be_named_where_a_process_has_two(self) -> None:
        m = machine("hybrid")
        ok(m.bind_device_pasid("dev0", "a", 5, "local"))
        ok(m.bind_device("dev0", "a", "global"))
        ok(m.submit("a", "dev0", None, Work()), 5)
        ok(m.submit("a", "dev0", None, Work(), handle="global"), 1)

    def test_a_hand_off_needs_a_bond_on_the_first_device(self) -> None:
        refused(machine().handoff("dev0", "dev1", "a", Work()), "EPERM", "handoff.no-number")

    def test_a_claimed_number_that_has_no_value_is_enoent(self) -> None:
        m = machine(devices=[DeviceSpec("dev0", "iommu0", pasid_bits=0, submit=SubmitBy.ST64B)])
        m.alloc_global("dev0", "g")
        refused(m.submit("a", "dev0", Instruction.ST64B, Work(), claims="g"), "ENOENT", "number.none")

    def test_dma_under_no_number_is_blocked(self) -> None:
        assert refused(machine().dma("dev0", 9, Work()), "fault", "dma.no-entry").startswith("the IOMMU has no entry")

    def test_a_register_device_has_no_portal(self) -> None:
        assert refused(machine().mmap_portal("a", "dev0"), "ENODEV", "portal.none").startswith("dev0 takes its PASID")


def dsa(scheme: str = "mainline", **keys: Any) -> Machine:
    return machine(scheme, devices=[DeviceSpec("dsa0", "iommu0", "dsa", pasid_bits=8, **keys)])


class TestIdxd:
    def test_probe_takes_a_number_for_the_kernel(self) -> None:
        m = dsa()
        assert list(m.kernel.holders()) == [(1, "idxd (dsa0, kernel work queues)")]
        ok(m.bind("dsa0", "a"), 2)

    def test_a_device_without_numbers_goes_on_without_one(self) -> None:
        m = machine(devices=[DeviceSpec("dsa0", "iommu0", "dsa")])
        assert list(m.kernel.holders()) == []

    def test_a_device_behind_no_iommu_probes_all_the_same(self) -> None:
        assert list(machine(devices=[DeviceSpec("dsa0", kind="dsa")]).kernel.holders()) == []

    def test_a_number_that_the_group_cannot_carry_goes_back(self) -> None:
        narrow = DeviceSpec("npu0", "iommu0", "narrow", group="g", pasid_bits=0)
        m = machine(devices=[narrow, DeviceSpec("dsa0", "iommu0", "dsa", group="g", pasid_bits=8)])
        assert list(m.kernel.holders()) == []

    def test_the_kernel_submits_under_its_own_number(self) -> None:
        outcome = ok(dsa().kernel_submit("dsa0", Work()), 1)
        assert outcome.work is not None
        assert outcome.work.owner == "kernel"

    def test_without_a_number_the_kernel_does_not_submit(self) -> None:
        refused(dsa(kernel_pasid=False).kernel_submit("dsa0", Work()), "ENODEV", "kernel.no-number")

    @pytest.mark.parametrize("cpu", [CpuSpec(arch="arm64"), CpuSpec(arch="x86", enqcmd=False)])
    def test_nor_on_a_cpu_without_enqcmds(self, cpu: CpuSpec) -> None:
        m = machine(devices=[DeviceSpec("dsa0", "iommu0", "dsa", pasid_bits=8)], cpu=cpu)
        refused(m.kernel_submit("dsa0", Work()), "EOPNOTSUPP", "kernel.no-enqcmds")

    def test_a_dedicated_queue_has_one_owner(self) -> None:
        m = dsa(queue="dedicated")
        ok(m.bind("dsa0", "a", "h"), 2)
        why = refused(m.bind("dsa0", "b"), "EBUSY", "idxd.dedicated-busy")
        assert why == "the dedicated queue of dsa0 belongs to process a"
        ok(m.unbind("h"))
        ok(m.bind("dsa0", "b"), 3)

    def test_a_dedicated_queue_works_under_its_own_number_whatever_the_write_says(self) -> None:
        m = dsa(queue="dedicated")
        ok(m.bind("dsa0", "a", "h"), 2)
        ok(m.mmap_portal("a", "dsa0"))
        outcome = ok(m.submit("a", "dsa0", Instruction.MOVDIR64B, Work(), claims=1), 2)
        assert (outcome.rule, outcome.work and outcome.work.owner) == ("idxd.dedicated-used", "a")

    def test_a_dedicated_queue_answers_enqcmd_with_retry(self) -> None:
        m = dsa(queue="dedicated")
        ok(m.bind("dsa0", "a", "h"), 2)
        ok(m.mmap_portal("a", "dsa0"))
        refused(m.submit("a", "dsa0", Instruction.ENQCMD, Work()), "EAGAIN", "idxd.dedicated-takes-no-enqcmd")

    def test_a_dedicated_queue_without_owner_is_disabled(self) -> None:
        spec = {"queue": "dedicated"}
        m = machine(
            devices=[DeviceSpec("dsa0", "iommu0", "dsa", pasid_bits=8, **spec)],
            options=Scenario.from_dict({"options": {"guard": "none"}, "step": [{"do": "show"}]}).options,
        )
        ok(m.mmap_portal("a", "dsa0"))
        refused(m.submit("a", "dsa0", Instruction.MOVDIR64B, Work()), "fault", "idxd.dedicated-disabled")

    def test_a_refused_bind_leaves_a_dedicated_queue_free(self) -> None:
        m = dsa(queue="dedicated")
        m.fail_next("dsa0", "set_dev_pasid", Errno.EIO)
        refused(m.bind("dsa0", "a"), "EIO", "driver.set-failed")
        ok(m.bind("dsa0", "b"))


class TestFaultsAndResets:
    def test_the_answer_to_a_page_request_is_the_result(self) -> None:
        m = machine()
        ok(m.bind("dev0", "a", "h"))
        assert ok(m.page_request("dev0", "h", fault()), 1).rule == "fault.mm-handled"
        refused(m.page_request("dev0", "h", fault(0x6000_0000)), "fault", "fault.mm-no-area")
        refused(m.page_request("dev0", 9, fault()), "EINVAL", "fault.no-handler")
        refused(m.page_request("dev0", None, fault()), "EINVAL", "fault.no-handler")

    @pytest.mark.parametrize("model", ["mock", "arm-smmu-v3"])
    def test_no_device_sends_a_number_of_more_than_20_bits(self, model: Any) -> None:
        m = Machine(MachineSpec(iommu=[IommuSpec("iommu0", model)], device=[DeviceSpec("dev0", "iommu0")]))
        assert m.dma("dev0", 0xF_FFFF, Work(Access.READ)).result == "fault"
        with pytest.raises(InputError, match="pasid = 1048576: a device sends 20 bits; allowed: 0 to 0xfffff"):
            m.dma("dev0", 1 << 20, Work(Access.READ))
        with pytest.raises(InputError, match="a device sends 20 bits"):
            m.page_request("dev0", 1 << 20, fault())

    def test_the_wire_code_is_told_for_a_real_drivers_habits(self) -> None:
        spec = MachineSpec(
            iommu=[IommuSpec("smmu0", ops=Mode.ARM_SMMU_V3)],
            device=[DeviceSpec("dev0", "smmu0", pasid_bits=4)],
            process=[ProcessSpec("a")],
        )
        m = Machine(spec)
        ok(m.bind("dev0", "a", "h"))
        assert m.page_request("dev0", "h", fault()).detail == ("on the wire: CMD_RESUME Retry",)
        assert m.page_request("dev0", "h", fault(0)).detail == ("on the wire: CMD_RESUME Abort",)

    @pytest.mark.parametrize("scheme", SCHEMES)
    @pytest.mark.parametrize("kind", ["pcie", "narrow"])
    def test_a_device_whose_iommu_offers_no_pasids_says_so(self, scheme: str, kind: Any) -> None:
        spec = MachineSpec(
            iommu=[IommuSpec("vtd0", model="intel-vtd", scalable=False)],
            device=[DeviceSpec("d0", "vtd0", kind=kind, pasid_bits=20)],
            process=[ProcessSpec("a")],
        )
        why = refused(Machine(spec, scheme).bind_device("d0", "a"), "ENOSPC", "bind.device-without-pasids")
        assert why == "d0 carries no PASID at all: of its own it has 20 bits, and its IOMMU offers none"

    def test_a_group_of_mixed_widths_is_found_once_when_it_is_complete(self) -> None:
        widths = {"x": 4, "y": 2, "z": 3, "p": 3, "q": 4}
        devices = [
            DeviceSpec(name, "iommu0", pasid_bits=n, group="g" if name > "w" else "h") for name, n in widths.items()
        ]
        m = Machine(MachineSpec(iommu=[IommuSpec("iommu0")], device=devices))
        assert [(found.rule.id, found.facts["group"], found.facts["widths"]) for found in m.kernel.findings] == [
            ("group.mixed-width", "g", "x 16, y 4, z 8"),
            ("group.mixed-width", "h", "p 8, q 16"),
        ]

    @pytest.mark.parametrize("iommu", [IommuSpec("i", model="intel-vtd"), IommuSpec("i", ops=Mode.INTEL_VTD)])
    def test_a_stop_marker_says_that_it_has_no_answer(self, iommu: IommuSpec) -> None:
        m = Machine(
            MachineSpec(iommu=[iommu], device=[DeviceSpec("dev0", "i", pasid_bits=4)], process=[ProcessSpec("a")])
        )
        ok(m.bind("dev0", "a", "h"))
        outcome = ok(m.page_request("dev0", "h", fault(perm=0)))
        assert outcome.rule == "prq.stop-marker"
        assert outcome.detail == ("the IOMMU driver drops a stop marker and answers nothing",)

    def test_an_overflow_forgets_partial_requests(self) -> None:
        m = machine()
        ok(m.bind("dev0", "a", "h"))
        partial = ok(m.page_request("dev0", "h", fault(0, last=False)))
        assert partial.rule == "fault.partial"
        assert partial.detail == ("the request waits for the last one of its group; no answer yet",)
        assert ok(m.discard("iommu0")).rule == "fault.discarded"
        ok(m.page_request("dev0", "h", fault()))

    def test_the_fence_nests_and_tells_its_depth(self) -> None:
        m = machine()
        assert ok(m.reset_prepare("dev0")).why.endswith("(1 deep)")
        assert ok(m.reset_prepare("dev0")).why.endswith("(2 deep)")
        assert ok(m.reset_done("dev0")).rule == "reset.still-fenced"
        refused(m.bind("dev0", "a"), "EBUSY", "attach.reset")
        assert ok(m.reset_done("dev0")).rule == "reset.lifted"
        assert ok(m.reset_done("dev0")).rule == "reset.unbalanced"
        ok(m.bind("dev0", "a"))

    def test_kernels_before_7_0_have_no_fence(self) -> None:
        m = machine(kernel="v6.12")
        assert ok(m.reset_prepare("dev0")).rule == "reset.no-fence"
        assert ok(m.reset_done("dev0")).rule == "reset.no-fence"

    def test_the_flat_fence_of_7_0_does_not_nest(self) -> None:
        m = machine(kernel="v7.0")
        ok(m.reset_prepare("dev0"))
        refused(m.reset_prepare("dev0"), "EBUSY", "reset.already")

    def test_a_group_with_pasids_is_not_given_away(self) -> None:
        m = machine()
        ok(m.bind("dev0", "a", "h"))
        assert refused(m.claim_dma_owner("dev0"), "EBUSY", "dma-owner.pasids-attached").endswith("attached: 1")
        ok(m.unbind("h"))
        assert ok(m.claim_dma_owner("dev0")).rule == "dma-owner.claimed"
        refused(m.claim_dma_owner("dev0", "somebody else"), "EPERM", "dma-owner.other-owner")

    @pytest.mark.parametrize(
        ("call", "errno", "rule"),
        [
            ("set_dev_pasid", Errno.EIO, "driver.set-failed"),
            ("domain_alloc_sva", Errno.ENOMEM, "driver.domain-alloc-failed"),
            ("memory", Errno.ENOMEM, "bind.no-memory"),
        ],
    )
    def test_an_injected_failure_comes_once(self, call: str, errno: Errno, rule: str) -> None:
        m = machine()
        assert ok(m.fail_next("dev0", call, errno)).rule == "failure.armed"
        refused(m.bind("dev0", "a"), errno.name, rule)
        ok(m.bind("dev0", "a"))

    def test_older_kernels_flush_no_kernel_mappings(self) -> None:
        m = machine(kernel="v6.16")
        ok(m.bind("dev0", "a"))
        outcome = ok(m.invalidate_kva())
        assert (outcome.rule, outcome.detail) == ("kva.absent", ("reached: none",))


class TestShow:
    def test_a_process(self) -> None:
        m = machine()
        assert ok(m.show(process="a")).detail == (
            "a: pid 1 in pid namespace init, no number for ENQCMD and its like, ACCDATA_EL1 0x0",
        )
        ok(m.bind("dev0", "a"))
        assert "number 1 for ENQCMD" in ok(m.show(process="a"), 1).detail[0]
        ok(m.exit("a"))
        assert ok(m.show(process="a")).detail == ("a: exited",)

    def test_a_device(self) -> None:
        m = machine()
        ok(m.bind("dev0", "a"))
        assert ok(m.show(device="dev0")).detail == ("dev0 carries 1..15", "1: process a (SVA)")

    def test_the_global_space(self) -> None:
        m = machine()
        assert ok(m.show()).detail == ("the global space is empty",)
        ok(m.bind("dev0", "a"))
        assert ok(m.show()).detail == ("1: process a",)


class TestPythonInterface:
    def test_an_unknown_device_is_named(self) -> None:
        with pytest.raises(InputError, match=r"^device 'zz': no such device; known: dev0, dev1$"):
            machine().bind("zz", "a")

    def test_a_process_that_a_refused_fork_should_have_started_is_esrch(self) -> None:
        m = machine()
        ok(m.exit("a"))
        refused(m.fork("a", "c"), "ESRCH", "process.exited")
        refused(m.bind("dev0", "c"), "ESRCH", "process.never-started")
        assert ok(m.show(process="c")).detail == ("c: was never started",)

    def test_two_binds_without_name_are_both_kept(self) -> None:
        m = machine()
        ok(m.bind("dev0", "a"), 1)
        ok(m.bind("dev0", "a"), 1)
        ok(m.unbind("dev0/a"))
        assert len(m.endpoints["dev0"].dev.iommu_group.pasid_array) == 1
        ok(m.exit("a"))
        assert m.endpoints["dev0"].dev.iommu_group.pasid_array == {}

    @pytest.mark.parametrize("options", [{"guard": "bogus"}, {"nope": 1}, {"quota_user": "x"}])
    def test_bad_options_are_input_errors(self, options: dict) -> None:
        with pytest.raises(InputError):
            run(ROOT / "scenarios" / "narrow.toml", "mainline", options=options)

    def test_a_scheme_may_be_a_name(self) -> None:
        assert [machine(name).scheme.name for name in SCHEMES] == list(SCHEMES)

    def test_options_override_those_of_the_file(self) -> None:
        (report,) = run(ROOT / "scenarios" / "portal_hole.toml", "hybrid", options={"guard": "declared"})
        assert not report.met
        assert report.as_dict()["unmet"] > 0

    def test_classes_serve_as_schemes(self) -> None:
        reports = run(ROOT / "scenarios" / "narrow.toml", [SCHEMES["v2"]])
        assert [report.scheme for report in reports] == ["v2"]
