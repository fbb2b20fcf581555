"""Work and page requests in flight: who does what, when it is dropped, and what a driver's wrong release leads to."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from pasidlab.description import CpuSpec, DeviceSpec, IommuSpec, MachineSpec, ProcessSpec
from pasidlab.devices import Access, SubmitBy, Work
from pasidlab.errors import InputError
from pasidlab.hw.cpu import Instruction
from pasidlab.machine import Machine
from pasidlab.outcome import Outcome
from pasidlab.runner import run
from pasidlab.scenario import Scenario
from pasidlab.schemes import SCHEMES, Options

MODELS = ("mock", "arm-smmu-v3", "intel-vtd")
WORK = Work(data=b"late")

every_scheme = pytest.mark.parametrize("scheme", SCHEMES)
every_model = pytest.mark.parametrize("model", MODELS)


def machine_of(scheme: str = "mainline", model: str = "mock", guard: str = "mmap", **device: Any) -> Machine:
    """One device with numbers 1 to 3, and three processes."""
    spec = MachineSpec(
        cpu=CpuSpec(arch="x86"),
        iommu=[IommuSpec("iommu0", model=model, pasid_bits=8)],
        device=[DeviceSpec("dev0", "iommu0", pasid_bits=2, **device)],
        process=[ProcessSpec(name) for name in "abc"],
        options=Options(guard=guard),
    )
    return Machine(spec, scheme)


def portal_machine(scheme: str = "mainline", **device: Any) -> Machine:
    machine = machine_of(scheme, submit=SubmitBy.ENQCMD, **device)
    assert machine.bind("dev0", "a", "queue").result == "ok"
    assert machine.mmap_portal("a", "dev0").result == "ok"
    return machine


def in_flight(scheme: str = "mainline", model: str = "mock") -> Machine:
    """Return a machine on which work of a waits under number 1."""
    machine = machine_of(scheme, model)
    assert machine.bind("dev0", "a", "queue").pasid == 1
    assert machine.submit("a", "dev0", None, WORK, job="job").result == "ok"
    return machine


def is_none(outcome: Outcome, rule: str) -> bool:
    return (outcome.result, outcome.rule, outcome.work) == ("ENOENT", rule, None)


def the_number_goes_to(machine: Machine, process: str, *, stop: bool = True, drain: bool = True) -> None:
    """End a, whatever the scheme: then its number is free, and the next process gets it."""
    machine.exit_mm("a")
    assert machine.unbind("queue", stop=stop, drain=drain).result == "ok"
    assert machine.bind("dev0", process).pasid == 1


class TestJobs:
    @every_model
    def test_work_that_waits_touches_nothing_until_it_is_completed(self, model: str) -> None:
        machine = in_flight(model=model)
        assert machine.load("a", WORK.address, 4).work.data == b"a a "
        done = machine.complete("job")
        assert (done.result, done.work.owner, done.work.pasid, done.work.data) == ("ok", "a", 1, b"late")
        assert machine.load("a", WORK.address, 4).work.data == b"late"

    def test_the_outcome_of_a_submission_names_the_number_and_has_no_work(self) -> None:
        machine = machine_of()
        machine.bind("dev0", "a")
        accepted = machine.submit("a", "dev0", None, WORK, job="job")
        assert (accepted.result, accepted.pasid, accepted.rule, accepted.work) == ("ok", 1, "job.accepted", None)
        assert (machine.jobs["job"].submitter.name, machine.jobs["job"].device) == ("a", "dev0")

    def test_what_complete_leads_to_is_what_a_submission_at_once_leads_to(self) -> None:
        now, later = (portal_machine() for _ in range(2))
        at_once = now.submit("a", "dev0", Instruction.ENQCMD, WORK)
        later.submit("a", "dev0", Instruction.ENQCMD, WORK, job="job")
        done = later.complete("job")
        assert (done.result, done.pasid, done.rule, done.why, done.work) == (
            at_once.result,
            at_once.pasid,
            at_once.rule,
            at_once.why,
            at_once.work,
        )

    def test_a_job_is_done_once(self) -> None:
        machine = in_flight()
        assert machine.complete("job").result == "ok"
        assert is_none(machine.complete("job"), "job.none")

    @pytest.mark.parametrize("verb", ["complete", "ask"])
    def test_a_name_that_was_never_given_is_no_job(self, verb: str) -> None:
        assert is_none(getattr(machine_of(), verb)("job"), "job.none")

    def test_a_name_is_taken_while_its_work_waits_or_its_request_is_in_flight(self) -> None:
        machine = in_flight()
        again = machine.submit("a", "dev0", None, WORK, job="job")
        assert (again.result, again.rule) == ("EBUSY", "job.name-taken")
        machine.ask("job")
        machine.complete("job")
        assert machine.submit("a", "dev0", None, WORK, job="job").rule == "job.name-taken"
        machine.answer("job")
        assert machine.submit("a", "dev0", None, WORK, job="job").result == "ok"

    def test_a_refused_submission_leaves_no_job(self) -> None:
        machine = machine_of()
        assert machine.submit("a", "dev0", None, WORK, job="job").result == "EPERM"
        assert machine.jobs == {}

    def test_a_signalled_submission_leaves_no_job(self) -> None:
        machine = machine_of(submit=SubmitBy.ENQCMD)
        assert machine.submit("a", "dev0", Instruction.ENQCMD, WORK, job="job").result == "SIGSEGV"
        assert machine.jobs == {}

    def test_an_ignored_store_leaves_no_job_and_a_believed_one_does(self) -> None:
        for sloppy, names in ((False, []), (True, ["job"])):
            machine = portal_machine(sloppy=sloppy)
            outcome = machine.submit("a", "dev0", Instruction.MOVDIR64B, WORK, claims=3, job="job")
            assert outcome.result == "ok"
            assert list(machine.jobs) == names
        assert machine.jobs["job"].pasid == 3
        assert machine.complete("job").result == "fault"

    def test_the_number_is_that_of_the_time_of_the_submission(self) -> None:
        """A queue's number is in the register, a portal's in the store: neither is looked up again."""
        machine = in_flight("hybrid")
        machine.bind_device_pasid("dev0", "a", 3, "other")
        machine.submit("a", "dev0", None, WORK, handle="other", job="other job")
        assert {name: job.pasid for name, job in machine.jobs.items()} == {"job": 1, "other job": 3}
        assert machine.complete("other job").pasid == 3

    def test_work_under_a_number_without_an_entry_faults_and_is_gone(self) -> None:
        machine = in_flight()
        machine.unbind("queue", stop=False)
        assert machine.complete("job").result == "fault"
        assert is_none(machine.complete("job"), "job.none")

    def test_a_machine_with_work_in_flight_can_be_copied_by_pickle(self) -> None:
        machine = in_flight()
        machine.ask("job")
        copy = pickle.loads(pickle.dumps(machine))
        assert copy.answer("job").work.owner == "a"
        assert copy.complete("job").work.owner == "a"
        assert machine.jobs["job"].asked


class TestDescriptors:
    @pytest.mark.parametrize("kind", ["dsa", "iaa"])
    def test_a_device_with_descriptors_comes_to_all_commands_of_a_job_later(self, kind: str) -> None:
        machine = portal_machine(kind=kind)
        many = Work(data=bytes(range(20)))
        assert machine.submit("a", "dev0", Instruction.ENQCMD, many, job="job").result == "ok"
        copy = pickle.loads(pickle.dumps(machine))
        assert machine.load("a", many.address, 4).work.data == b"a a "
        for one in (machine, copy):
            done = one.complete("job")
            assert (done.result, done.work.owner, done.work.data) == ("ok", "a", many.data)

    def test_a_job_of_several_descriptors_counts_them_all(self) -> None:
        machine = portal_machine(kind="dsa")
        machine.submit("a", "dev0", Instruction.ENQCMD, Work(data=bytes(range(20))), job="job")
        assert len(machine.jobs["job"].accepted) > 1

    def test_the_queue_of_a_dedicated_device_gives_the_number(self) -> None:
        machine = machine_of(kind="dsa", queue="dedicated", kernel_pasid=False)
        machine.bind("dev0", "a", "queue")
        machine.mmap_portal("a", "dev0")
        assert machine.submit("a", "dev0", Instruction.MOVDIR64B, WORK, claims=3, job="job").result == "ok"
        assert machine.jobs["job"].pasid == 1
        assert machine.complete("job").work.owner == "a"

    def test_what_a_portal_does_not_accept_leaves_no_job(self) -> None:
        machine = machine_of(kind="dsa", queue="dedicated", kernel_pasid=False)
        machine.bind("dev0", "a")
        machine.mmap_portal("a", "dev0")
        assert machine.submit("a", "dev0", Instruction.ENQCMD, WORK, job="job").result == "EAGAIN"
        assert machine.jobs == {}


class TestPageRequests:
    @every_model
    def test_a_request_is_served_when_it_is_answered_and_the_page_is_there_then(self, model: str) -> None:
        machine = in_flight(model=model)
        mm = machine.processes["a"].mm
        assert machine.ask("job").pasid == 1
        assert not mm.has_page(WORK.address)
        answered = machine.answer("job")
        assert (answered.result, answered.work.owner, answered.work.pasid, answered.work.data) == ("ok", "a", 1, b"")
        assert mm.has_page(WORK.address)
        assert machine.complete("job").work.owner == "a"

    def test_a_request_asks_for_what_the_work_does(self) -> None:
        machine = machine_of()
        machine.bind("dev0", "a")
        for address, access in ((0x2000_0123, Access.READ), (0x2000_0123, Access.WRITE)):
            machine.submit("a", "dev0", None, Work(access, address), job=access)
            machine.ask(access)
        assert {name: (one.fault.addr, one.fault.perm) for name, one in machine.requests.items()} == {
            "read": (0x2000_0000, 1),
            "write": (0x2000_0000, 2),
        }
        assert machine.answer("read").result == "ok"
        assert machine.answer("write").rule == "fault.mm-rights"

    def test_there_is_no_answer_without_a_request(self) -> None:
        machine = in_flight()
        assert is_none(machine.answer("job"), "job.no-request")
        machine.ask("job")
        assert machine.answer("job").result == "ok"
        assert is_none(machine.answer("job"), "job.no-request")

    def test_a_job_asks_once_at_a_time(self) -> None:
        machine = in_flight()
        assert not machine.jobs["job"].asked
        machine.ask("job")
        assert machine.jobs["job"].asked
        assert (machine.ask("job").result, machine.ask("job").rule) == ("EBUSY", "job.asked-already")
        machine.answer("job")
        assert not machine.jobs["job"].asked
        assert machine.ask("job").result == "ok"

    @every_model
    def test_an_answer_without_success_is_a_fault_and_ends_the_job(self, model: str) -> None:
        machine = in_flight(model=model)
        machine.ask("job")
        machine.unbind("queue", stop=False, drain=False)
        answered = machine.answer("job")
        assert (answered.result, answered.rule, answered.work) == ("fault", "fault.no-handler", None)
        assert is_none(machine.complete("job"), "job.none")

    def test_a_request_after_the_end_of_the_process_is_refused(self) -> None:
        machine = in_flight()
        machine.ask("job")
        machine.exit_mm("a")
        answered = machine.answer("job")
        assert (answered.result, answered.rule) == ("fault", "fault.mm-exiting")

    def test_a_request_outlives_its_job(self) -> None:
        machine = in_flight()
        machine.ask("job")
        machine.stop("queue")
        assert machine.jobs == {}
        assert machine.answer("job").work.owner == "a"
        assert is_none(machine.complete("job"), "job.none")


class TestRelease:
    def test_stop_drops_the_work_of_all_under_the_number_and_no_other(self) -> None:
        machine = portal_machine("hybrid", sloppy=True)
        machine.bind("dev0", "b")
        machine.mmap_portal("b", "dev0")
        machine.submit("a", "dev0", Instruction.ENQCMD, WORK, job="of a")
        machine.submit("b", "dev0", Instruction.ENQCMD, WORK, job="of b")
        machine.submit("b", "dev0", Instruction.MOVDIR64B, WORK, claims=1, job="forged")
        stopped = machine.stop("queue")
        assert (stopped.result, stopped.pasid, stopped.rule) == ("ok", 1, "job.stopped")
        assert list(machine.jobs) == ["of b"]

    def test_stop_waits_for_the_last_user_of_a_bond(self) -> None:
        machine = in_flight()
        machine.bind_device("dev0", "a", "second")
        assert machine.stop("queue").rule == "job.stop-shared"
        assert list(machine.jobs) == ["job"]
        machine.unbind("second")
        assert list(machine.jobs) == ["job"]
        assert machine.stop("queue").rule == "job.stopped"
        assert machine.jobs == {}

    def test_stop_comes_too_late_but_works_after_the_unbind(self) -> None:
        machine = in_flight()
        machine.unbind("queue", stop=False)
        assert list(machine.jobs) == ["job"]
        assert machine.stop("queue").result == "ok"
        assert machine.jobs == {}

    def test_drain_answers_what_is_in_flight_under_the_number(self) -> None:
        machine = in_flight()
        machine.ask("job")
        drained = machine.drain("queue")
        assert (drained.result, drained.pasid, drained.rule) == ("ok", 1, "job.drained")
        assert machine.requests == {}
        assert machine.processes["a"].mm.has_page(WORK.address)

    def test_drain_leaves_other_numbers_alone(self) -> None:
        machine = in_flight("hybrid")
        machine.bind("dev0", "b", "queue of b")
        machine.submit("b", "dev0", None, WORK, job="of b")
        machine.ask("of b")
        machine.drain("queue")
        assert list(machine.requests) == ["of b"]

    @pytest.mark.parametrize("verb", ["stop", "drain", "unbind"])
    def test_a_bind_that_was_never_made_cannot_be_released(self, verb: str) -> None:
        assert is_none(getattr(machine_of(), verb)("queue"), "handle.none")

    def test_unbind_does_all_three_steps(self) -> None:
        machine = in_flight()
        machine.ask("job")
        assert machine.unbind("queue").rule == "unbind.last"
        assert (machine.jobs, machine.requests) == ({}, {})

    @pytest.mark.parametrize(("left_out", "stays"), [("stop", "jobs"), ("drain", "requests")])
    def test_unbind_leaves_out_what_it_is_told(self, left_out: str, stays: str) -> None:
        machine = in_flight()
        if stays == "requests":
            machine.ask("job")
        machine.unbind("queue", **{left_out: False})
        assert list(getattr(machine, stays)) == ["job"]

    def test_unbind_does_not_stop_again_what_was_stopped(self) -> None:
        machine = portal_machine("hybrid", sloppy=True)
        machine.bind("dev0", "b")
        machine.mmap_portal("b", "dev0")
        machine.stop("queue")
        machine.submit("b", "dev0", Instruction.MOVDIR64B, WORK, claims=1, job="forged")
        machine.unbind("queue")
        assert list(machine.jobs) == ["forged"]

    def test_a_shared_unbind_only_counts_down(self) -> None:
        machine = in_flight()
        machine.bind_device("dev0", "a", "second")
        machine.ask("job")
        assert machine.unbind("queue").rule == "unbind.shared"
        assert (list(machine.jobs), list(machine.requests)) == (["job"], ["job"])

    @every_scheme
    def test_an_exit_stops_drains_and_unbinds_each_file(self, scheme: str) -> None:
        machine = in_flight(scheme)
        machine.ask("job")
        machine.exit("a")
        assert (machine.jobs, machine.requests) == ({}, {})
        assert not machine.bindings["queue"].live

    @every_scheme
    def test_stop_takes_the_portal_that_the_guard_would_bar(self, scheme: str) -> None:
        machine = portal_machine(scheme)
        mm, endpoint = machine.processes["a"].mm, machine.endpoints["dev0"]
        machine.stop("queue")
        assert mm not in endpoint.mapped
        assert machine.submit("a", "dev0", Instruction.ENQCMD, WORK).rule == "portal.unmapped"

    @every_scheme
    def test_without_the_stop_the_unbind_takes_it(self, scheme: str) -> None:
        machine = portal_machine(scheme)
        machine.unbind("queue", stop=False)
        assert machine.processes["a"].mm not in machine.endpoints["dev0"].mapped

    def test_a_guard_that_asks_for_no_bond_leaves_the_portal_of_a_bond_without_file(self) -> None:
        machine = machine_of(submit=SubmitBy.ENQCMD, guard="none")
        machine.bind_device("dev0", "a", "queue")
        machine.mmap_portal("a", "dev0")
        machine.unbind("queue")
        assert machine.processes["a"].mm in machine.endpoints["dev0"].mapped

    @pytest.mark.parametrize("release", ["stop", "unbind"])
    def test_a_portal_goes_with_the_last_file_whatever_the_guard(self, release: str) -> None:
        machine = machine_of(submit=SubmitBy.ENQCMD, guard="none")
        for handle in ("one", "two"):
            machine.bind("dev0", "a", handle)
        machine.mmap_portal("a", "dev0")
        mm, endpoint = machine.processes["a"].mm, machine.endpoints["dev0"]
        machine.unbind("one")
        assert mm in endpoint.mapped
        getattr(machine, release)("two")
        assert mm not in endpoint.mapped

    def test_a_bond_of_the_drivers_does_not_keep_the_portal_under_hybrid(self) -> None:
        machine = portal_machine("hybrid")
        machine.bind_device_pasid("dev0", "a", 3)
        machine.stop("queue")
        assert machine.processes["a"].mm not in machine.endpoints["dev0"].mapped


class TestExitMm:
    def test_the_address_space_goes_and_the_bond_stays(self) -> None:
        machine = in_flight()
        mm = machine.processes["a"].mm
        assert machine.exit_mm("a").rule == "task.left-mm"
        assert mm.torn_down
        assert machine.bindings["queue"].live
        assert machine.dma("dev0", 1, WORK).rule == "dma.quiet"

    def test_each_file_is_closed_by_its_unbind(self) -> None:
        machine = in_flight()
        machine.exit_mm("a")
        assert machine.unbind("queue").rule == "unbind.last"
        assert machine.jobs == {}
        assert machine.processes["a"].files.files == []

    def test_who_has_left_its_address_space_has_exited(self) -> None:
        machine = in_flight()
        machine.exit_mm("a")
        for outcome in (machine.exit_mm("a"), machine.exit("a"), machine.submit("a", "dev0", None, WORK)):
            assert outcome.result == "ESRCH"


class TestWrongOrders:
    @every_scheme
    @every_model
    def test_work_that_was_not_stopped_lands_in_the_next_process(self, model: str, scheme: str) -> None:
        machine = in_flight(scheme, model)
        the_number_goes_to(machine, "b", stop=False)
        assert machine.complete("job").work.owner == "b"
        assert machine.load("b", WORK.address, 4).work.data == b"late"

    @every_scheme
    @every_model
    def test_a_request_that_was_not_drained_is_served_by_the_next_process(self, model: str, scheme: str) -> None:
        machine = in_flight(scheme, model)
        machine.ask("job")
        the_number_goes_to(machine, "b", drain=False)
        assert machine.answer("job").work.owner == "b"

    @every_scheme
    @every_model
    def test_a_driver_that_does_its_duty_leaves_nothing_to_the_next_process(self, model: str, scheme: str) -> None:
        machine = in_flight(scheme, model)
        machine.ask("job")
        the_number_goes_to(machine, "b")
        assert is_none(machine.complete("job"), "job.none")
        assert is_none(machine.answer("job"), "job.no-request")


MACHINE = """
cpu = { arch = "x86" }
[[iommu]]
name = "iommu0"
[[device]]
name = "dev0"
iommu = "iommu0"
pasid_bits = 2
[[process]]
name = "a"
[[process]]
name = "b"
"""


def scenario(tmp_path: Any, *steps: str) -> Scenario:
    path = tmp_path / "scenario.toml"
    path.write_text(MACHINE + "".join(f"[[step]]\n{step}\n" for step in steps))
    return Scenario.load(path)


BIND = 'do = "bind"\ndevice = "dev0"\nprocess = "a"\nas = "queue"'
SUBMIT = 'do = "submit"\nprocess = "a"\ndevice = "dev0"\njob = "work"'


class TestScenarios:
    def test_the_steps_do_what_the_verbs_do(self, tmp_path: Any) -> None:
        verbs = ('do = "ask"\njob = "work"', 'do = "answer"\njob = "work"', 'do = "complete"\njob = "work"')
        release = ('do = "stop"\nhandle = "queue"', 'do = "drain"\nhandle = "queue"', 'do = "unbind"\nhandle = "queue"')
        (report,) = run(scenario(tmp_path, BIND, SUBMIT, *verbs, *release, 'do = "exit_mm"\nprocess = "a"'), "mainline")
        assert [(step.do, step.result) for step in report.steps] == [
            (verb, "ok")
            for verb in ("bind", "submit", "ask", "answer", "complete", "stop", "drain", "unbind", "exit_mm")
        ]
        assert report.steps[1].subject == "a dev0 register as work"
        assert [step.trespass for step in report.steps] == [""] * 9

    @pytest.mark.parametrize(("left_out", "verb"), [("stop", "complete"), ("drain", "answer")])
    def test_work_and_answers_of_another_process_are_a_trespass(self, tmp_path: Any, left_out: str, verb: str) -> None:
        ask = ('do = "ask"\njob = "work"',) if verb == "answer" else ()
        exit_mm = 'do = "exit_mm"\nprocess = "a"'
        unbind = f'do = "unbind"\nhandle = "queue"\n{left_out} = false'
        bind = 'do = "bind"\ndevice = "dev0"\nprocess = "b"'
        last = f'do = "{verb}"\njob = "work"'
        (report,) = run(scenario(tmp_path, BIND, SUBMIT, *ask, exit_mm, unbind, bind, last), "mainline")
        assert (report.steps[-1].trespass, report.steps[-1].outcome.work.owner) == ("a", "b")
        assert report.steps[-1].as_dict("mainline")["trespass"] is True

    @pytest.mark.parametrize("verb", ["complete", "ask", "answer"])
    def test_a_job_that_no_step_gives_is_an_error(self, tmp_path: Any, verb: str) -> None:
        with pytest.raises(InputError, match=r"step\[1\].job = 'play': no such job; known here: none"):
            scenario(tmp_path, BIND, f'do = "{verb}"\njob = "play"')

    def test_a_job_that_was_refused_is_enoent(self, tmp_path: Any) -> None:
        (report,) = run(scenario(tmp_path, SUBMIT, 'do = "complete"\njob = "work"'), "mainline")
        assert [step.result for step in report.steps] == ["EPERM", "ENOENT"]
