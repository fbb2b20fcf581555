"""The named properties: for each, a state or step that breaks it and a sibling that does not; and users' own ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pasidlab.errors import InputError
from pasidlab.explore.action import FREED, KERNEL, NOBODY, Action, Result, Step, Verb
from pasidlab.explore.properties import DEFAULT, PROPERTIES
from pasidlab.explore.state import OPENED, OnDevice, ProcessState, State, TaskState
from pasidlab.explore.wanted import always, check_sometimes, find_property, goal_text, sometimes
from pasidlab.explore.world import World
from pasidlab.rules import RULES

N1, N2 = 1 << 1, 1 << 2
BIND, BIND_DEVICE, BIND_DEVICE_PASID = Verb.BIND, Verb.BIND_DEVICE, Verb.BIND_DEVICE_PASID
EXITED = (TaskState(False), TaskState(False))


def world(**changed: Any) -> World:
    """Two processes of two threads, two devices that carry 1 to 3 and one that carries nothing."""
    raw: dict[str, Any] = {
        "actions": ["bind", "bind_device_pasid", "unbind", "submit", "exit", "fail_next"],
        "iommu": [{"name": "iommu0", "max_pasids": 4}],
        "device": [
            {"name": "acc", "count": 2, "iommu": "iommu0", "pasid_bits": 2},
            {"name": "bare", "iommu": "iommu0"},
        ],
        "process": [{"name": "p", "count": 2, "threads": 2}],
    }
    return World.from_dict(raw | changed)


def process(*on: OnDevice, **changed: Any) -> ProcessState:
    devices = (*on, *(OnDevice() for _ in range(3 - len(on))))
    return ProcessState(**{"tasks": (TaskState(), TaskState()), "on": devices} | changed)


def state(*processes: ProcessState, **changed: Any) -> State:
    everyone = (*processes, *(process() for _ in range(2 - len(processes))))
    others = {"module": (0, 0, 0), "attached": (0, 0, 0), "armed": (False, False, False)}
    return State(**{"processes": everyone} | others | changed)


def bonded(number: int, **changed: Any) -> OnDevice:
    return OnDevice(**{"opened": number, "entry": 1 << number} | changed)


def broken(name: str, given: State, **changed: Any) -> bool:
    test = PROPERTIES[name].state
    assert test is not None
    return test(given, world(**changed))


def broken_by(name: str, before: State, step: Step, after: State | None = None) -> bool:
    test = PROPERTIES[name].step
    assert test is not None
    return test(before, step, before if after is None else after, world())


def step(verb: Verb, *where: int, result: Result = Result.OK, owner: int = NOBODY) -> Step:
    return Step(Action(verb, *where), result, owner)


class TestOneMmPerNumber:
    def test_two_processes_under_one_number_of_a_device_break_it(self) -> None:
        assert broken("one-mm-per-number", state(process(bonded(1)), process(bonded(1))))

    def test_one_number_on_two_devices_does_not(self) -> None:
        assert not broken("one-mm-per-number", state(process(bonded(1)), process(OnDevice(), bonded(1))))

    def test_two_numbers_on_one_device_do_not(self) -> None:
        assert not broken("one-mm-per-number", state(process(bonded(1)), process(bonded(2))))

    @pytest.mark.parametrize(("attached", "breaks"), [((N1, 0, 0), True), ((N2, 0, 0), False), ((0, N1, 0), False)])
    def test_a_kernel_managed_domain_counts_as_one(self, attached: tuple[int, ...], breaks: bool) -> None:
        assert broken("one-mm-per-number", state(process(bonded(1)), attached=attached)) is breaks


@pytest.mark.parametrize(("name", "verb"), [("isolation", Verb.COMPLETE), ("page-request-owner", Verb.ANSWER)])
class TestWhoseMemory:
    @pytest.mark.parametrize("owner", [2, FREED, KERNEL])
    def test_memory_that_is_not_the_submitters_breaks_it(self, name: str, verb: Verb, owner: int) -> None:
        assert broken_by(name, state(), step(verb, 0, owner=owner))

    @pytest.mark.parametrize("owner", [1, NOBODY])
    def test_its_own_memory_or_none_does_not(self, name: str, verb: Verb, owner: int) -> None:
        assert not broken_by(name, state(), step(verb, 0, owner=owner))

    def test_the_submitter_is_the_process_of_the_step(self, name: str, verb: Verb) -> None:
        assert not broken_by(name, state(), step(verb, 1, owner=2))

    def test_another_action_does_not(self, name: str, verb: Verb) -> None:
        other = Verb.ANSWER if verb is Verb.COMPLETE else Verb.COMPLETE
        assert not broken_by(name, state(), step(other, 0, owner=2))


LINGERING = [{"iotlb": N1}, {"atc": N1}, {"asked": 1}]


class TestNoEarlyReuse:
    @pytest.mark.parametrize("left", LINGERING)
    def test_a_new_bond_at_a_number_that_something_names_breaks_it(self, left: dict[str, int]) -> None:
        others = process(OnDevice(**left))
        before, after = state(process(), others), state(process(bonded(1)), others)
        assert broken_by("no-early-reuse", before, step(BIND, 0, 0), after)

    @pytest.mark.parametrize("left", LINGERING)
    def test_another_number_or_another_device_does_not(self, left: dict[str, int]) -> None:
        others = process(OnDevice(**left))
        before = state(process(), others)
        assert not broken_by("no-early-reuse", before, step(BIND, 0, 0), state(process(bonded(2)), others))
        on_second = state(process(OnDevice(), bonded(1)), others)
        assert not broken_by("no-early-reuse", before, step(BIND, 0, 1), on_second)

    def test_a_bond_that_was_there_before_is_not_new(self) -> None:
        others = process(OnDevice(asked=1))
        before = state(process(bonded(1)), others)
        after = state(process(bonded(1, normal=1)), others)
        assert not broken_by("no-early-reuse", before, step(BIND_DEVICE, 0, 0), after)

    def test_work_in_flight_is_left_to_isolation(self) -> None:
        others = process(OnDevice(job=1))
        assert not broken_by(
            "no-early-reuse", state(process(), others), step(BIND, 0, 0), state(process(bonded(1)), others)
        )

    def test_a_refused_bind_hands_nothing_out(self) -> None:
        before = state(process(), process(OnDevice(asked=1)))
        assert not broken_by("no-early-reuse", before, step(BIND, 0, 0, result=Result.EBUSY))

    @pytest.mark.parametrize("left", LINGERING)
    def test_a_global_number_that_something_names_anywhere_breaks_it(self, left: dict[str, int]) -> None:
        others = process(OnDevice(), OnDevice(**left))
        before, after = state(process(), others), state(process(bonded(1), number=1), others)
        assert broken_by("no-early-reuse", before, step(BIND, 0, 0), after)

    def test_a_number_of_a_device_whose_bond_lives_is_not_reused_by_the_global_space(self) -> None:
        others = process(OnDevice(), bonded(1, asked=1, iotlb=N1))
        before, after = state(process(), others), state(process(bonded(1), number=1), others)
        assert not broken_by("no-early-reuse", before, step(BIND, 0, 0), after)

    def test_a_drivers_number_of_v2_is_none_of_the_global_space(self) -> None:
        others = process(OnDevice(), OnDevice(asked=1))
        before, after = state(process(), others), state(process(bonded(1), number=1, mode=2), others)
        assert not broken_by("no-early-reuse", before, step(BIND_DEVICE_PASID, 0, 0, 1), after)

    @pytest.mark.parametrize(("alive", "breaks"), [(True, True), (False, False)])
    def test_the_register_of_a_living_task_names_it(self, alive: bool, breaks: bool) -> None:
        others = process(tasks=(TaskState(), TaskState(alive, 1, True)))
        before, after = state(process(), others), state(process(bonded(1), number=1), others)
        assert broken_by("no-early-reuse", before, step(BIND, 0, 0), after) is breaks

    def test_a_number_for_a_kernel_module_counts_every_process(self) -> None:
        before, after = state(process(OnDevice(asked=1))), state(process(OnDevice(asked=1)), module=(0, 1, 0))
        assert broken_by("no-early-reuse", before, step(Verb.ALLOC_GLOBAL, 0, 1), after)
        free = state(process(OnDevice(asked=1)), module=(0, 2, 0))
        assert not broken_by("no-early-reuse", before, step(Verb.ALLOC_GLOBAL, 0, 1), free)


class TestBondInTable:
    def test_a_bond_without_entry_or_an_entry_without_bond_breaks_it(self) -> None:
        assert broken("bond-in-table", state(process(OnDevice(opened=1))))
        assert broken("bond-in-table", state(process(OnDevice(entry=N1))))
        assert broken("bond-in-table", state(process(OnDevice(opened=1, entry=N2))))

    def test_equal_masks_do_not(self) -> None:
        assert not broken("bond-in-table", state(process(bonded(1), OnDevice(normal=2, local=N1, entry=N1 | N2))))

    def test_within_a_call_they_may_differ(self) -> None:
        assert not broken("bond-in-table", state(process(OnDevice(opened=1), window=(1, 1, 1))))

    def test_a_device_behind_no_iommu_has_no_table(self) -> None:
        device = [{"name": "acc", "count": 3, "pasid_bits": 2}]
        assert not broken("bond-in-table", state(process(OnDevice(opened=1))), device=device)


class TestEnqcmdAfterNormalBind:
    @pytest.mark.parametrize(
        "left", [{"number": 1}, {"number": 1, "mode": 1}, {"tasks": (TaskState(True, 1, True), TaskState())}]
    )
    def test_a_number_before_a_normal_bind_breaks_it(self, left: dict[str, Any]) -> None:
        assert broken("enqcmd-after-normal-bind", state(process(**left)))
        assert not broken("enqcmd-after-normal-bind", state(process(**left, bound=True)))

    def test_a_drivers_number_of_v2_is_not_carried(self) -> None:
        assert not broken("enqcmd-after-normal-bind", state(process(number=1, mode=2)))

    @pytest.mark.parametrize(("carried", "breaks"), [("first", True), ("none", False)])
    def test_rfc_carries_its_first_bond_if_the_option_says_so(self, carried: str, breaks: bool) -> None:
        given = state(process(order=(1,)))
        assert broken("enqcmd-after-normal-bind", given, options={"rfc_enqcmd": carried}) is breaks

    def test_a_process_that_has_exited_submits_nothing(self) -> None:
        assert not broken("enqcmd-after-normal-bind", state(process(tasks=EXITED, number=1)))


class TestNoLeak:
    @pytest.mark.parametrize("left", [{"entry": N1}, {"iotlb": N1}, {"atc": N1}])
    def test_what_is_left_when_all_are_gone_breaks_it(self, left: dict[str, int]) -> None:
        gone = process(OnDevice(**left), tasks=EXITED)
        assert broken("no-leak", state(gone, process(tasks=EXITED)))
        assert not broken("no-leak", state(gone, process())), "another process lives"

    def test_a_number_that_is_left_breaks_it(self) -> None:
        assert broken("no-leak", state(process(tasks=EXITED, number=1), process(tasks=EXITED)))

    @pytest.mark.parametrize("open_", [{"opened": 1}, {"normal": 1}, {"local": N1}, {"closing": OPENED}])
    def test_a_file_that_is_open_may_hold_things(self, open_: dict[str, int]) -> None:
        holding = process(OnDevice(entry=N1, **open_), tasks=EXITED)
        assert not broken("no-leak", state(holding, process(tasks=EXITED)))

    def test_within_a_call_and_with_nothing_left_it_holds(self) -> None:
        within = process(OnDevice(iotlb=N1), tasks=EXITED, window=(1, 1, 1))
        assert not broken("no-leak", state(within, process(tasks=EXITED)))
        assert not broken("no-leak", state(process(tasks=EXITED), process(tasks=EXITED)))


class TestRefusals:
    @pytest.mark.parametrize("verb", [BIND, BIND_DEVICE])
    def test_a_refusal_by_an_idle_device_breaks_it(self, verb: Verb) -> None:
        refused = step(verb, 0, 0, result=Result.ENOSPC)
        assert broken_by("idle-device-serves", state(), refused)
        assert not broken_by("idle-device-serves", state(process(), process(bonded(1))), refused), "it is in use"
        assert not broken_by("idle-device-serves", state(attached=(N1, 0, 0)), refused), "a domain is attached"
        assert not broken_by("idle-device-serves", state(armed=(True, False, False)), refused), "it was asked for"
        assert not broken_by("idle-device-serves", state(), step(verb, 0, 0)), "no refusal"

    def test_a_call_that_a_scheme_does_not_have_is_no_refusal(self) -> None:
        assert not broken_by("idle-device-serves", state(), step(BIND_DEVICE_PASID, 0, 0, 1, result=Result.ENOSYS))

    @pytest.mark.parametrize(("number", "breaks"), [(3, True), (4, False)])
    def test_a_number_that_the_device_cannot_carry_is_a_wrong_argument(self, number: int, breaks: bool) -> None:
        refused = step(BIND_DEVICE_PASID, 0, 0, number, result=Result.EBUSY)
        assert broken_by("idle-device-serves", state(), refused) is breaks

    def test_a_device_without_numbers_serves_nobody(self) -> None:
        assert not broken_by("idle-device-serves", state(), step(BIND, 0, 2, result=Result.ENODEV))

    def test_a_fresh_process_refused_while_a_number_is_free_breaks_it(self) -> None:
        refused = step(BIND, 0, 0, result=Result.EBUSY)
        name, used = "fresh-process-served", process(bonded(1), number=1)
        assert broken_by(name, state(process(), used), refused)
        assert not broken_by(name, state(process(), used, module=(2, 3, 0)), refused), "all numbers are held"
        assert not broken_by(name, state(process(), used, attached=(N2 | 1 << 3, 0, 0)), refused)
        assert not broken_by(name, state(process(bound=True), used), refused), "it has been bound"
        assert not broken_by(name, state(process(OnDevice(), bonded(2)), used), refused), "it has a bond"

    def test_a_drivers_number_of_v2_is_held_on_its_device_only(self) -> None:
        refused = step(BIND, 0, 1, result=Result.EBUSY)
        elsewhere = state(process(), process(bonded(1), number=1, mode=2), module=(2, 3, 0))
        assert broken_by("fresh-process-served", elsewhere, refused)

    def test_a_fresh_process_that_names_a_number_wants_that_one(self) -> None:
        used = state(process(), process(bonded(1), number=1))
        taken = step(BIND_DEVICE_PASID, 0, 0, 1, result=Result.EBUSY)
        free = step(BIND_DEVICE_PASID, 0, 0, 2, result=Result.EBUSY)
        assert not broken_by("fresh-process-served", used, taken)
        assert broken_by("fresh-process-served", used, free)

    @pytest.mark.parametrize("left", [{"bound": True}, {"mode": 2}, {"number": 1}])
    def test_a_process_that_gave_all_back_and_is_refused_breaks_it(self, left: dict[str, Any]) -> None:
        name, refused = "given-back-is-fresh", step(BIND, 0, 0, result=Result.EBUSY)
        assert broken_by(name, state(process(**left)), refused)
        assert not broken_by(name, state(process(OnDevice(), bonded(1), **left)), refused), "it has a bond"
        assert not broken_by(name, state(process(**left), process(bonded(1))), refused), "the device is in use"
        assert not broken_by(name, state(process()), refused), "it had nothing to give back"


class TestNames:
    def test_every_property_has_a_rule_with_its_source(self) -> None:
        for name, one in PROPERTIES.items():
            rule = RULES[f"check.{name}"]
            assert (one.rule, one.source) == (rule.why, rule.source)
            assert (one.state is None) != (one.step is None)
            assert one.kind == ("state" if one.state else "step")

    def test_a_world_has_seven_unless_it_says_otherwise(self) -> None:
        assert [one.name for one in always(world())] == list(DEFAULT)
        assert [one.name for one in always(world(always=["no-leak"]))] == ["no-leak"]
        assert [one.name for one in always(world(always=["no-leak"]), ["isolation"])] == ["isolation"]

    def test_default_stands_for_the_seven_and_nothing_is_named_twice(self) -> None:
        found = [one.name for one in always(world(), ["isolation", "default", "idle-device-serves"])]
        assert found == ["isolation", *(name for name in DEFAULT if name != "isolation"), "idle-device-serves"]

    def test_an_unknown_name_is_told_with_those_that_there_are(self) -> None:
        with pytest.raises(InputError, match=r"property 'isolatoin': no such property; known: one-mm-per-number, isol"):
            find_property("isolatoin")

    def test_a_world_without_any_is_wrong(self) -> None:
        with pytest.raises(InputError, match=r"always = \[\]: nothing to hold"):
            always(world(always=[]))


class TestOwnFile:
    def file(self, path: Path, text: str) -> Path:
        path = path / "mine.py"
        path.write_text(text)
        return path

    def test_a_function_of_a_state_is_a_property_of_states(self, tmp_path: Path) -> None:
        path = self.file(tmp_path, 'def bad(state):\n    """No module\n    has 2."""\n    return 2 in state.module\n')
        found = find_property(f"{path}:bad")
        assert (found.name, found.rule, found.source) == (f"{path}:bad", "No module has 2.", str(path))
        assert found.state is not None
        assert found.state(state(module=(0, 2, 0)), world())
        assert not found.state(state(), world())

    def test_a_function_of_three_is_a_property_of_steps_and_may_want_the_world(self, tmp_path: Path) -> None:
        text = "def bad(before, step, after, world):\n    return world.numbers == 3 and step.owner == 2\n"
        found = find_property(f"{self.file(tmp_path, text)}:bad")
        assert found.step is not None
        assert found.step(state(), step(Verb.COMPLETE, owner=2), state(), world())

    def test_what_it_raises_is_told_with_its_place(self, tmp_path: Path) -> None:
        path = self.file(tmp_path, "def bad(state):\n    return state.nothing\n")
        found = find_property(f"{path}:bad")
        with pytest.raises(InputError, match=r"property bad \(.*mine.py, line 2\) raised AttributeError: .*nothing"):
            found.state(state(), world())

    def test_a_function_that_returns_no_truth_value_is_wrong(self, tmp_path: Path) -> None:
        path = self.file(tmp_path, "def bad(state):\n    state.module\n")
        found = find_property(f"{path}:bad")
        assert found.state is not None
        with pytest.raises(InputError, match=r"line 1\) returned None; it must return True when it is broken"):
            found.state(state(), world())

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("def other(state): return False\n", r"'bad' is no function in it; there are: other"),
            ("bad = 3\n", r"'bad' is no function in it; there are: none"),
            ("def bad(before, after): return False\n", r"line 1: bad\(before, after\): must take \(state\) or"),
            ("def bad(world): return False\n", r"bad\(world\): must take"),
            ("import nothing_of_that_name\n", r"cannot be loaded: ModuleNotFoundError"),
            ("def bad(:\n", r"cannot be loaded: SyntaxError"),
        ],
    )
    def test_a_file_that_does_not_serve_is_told(self, tmp_path: Path, text: str, message: str) -> None:
        path = self.file(tmp_path, text)
        with pytest.raises(InputError, match=message):
            find_property(f"{path}:bad")

    def test_a_missing_file_is_told(self) -> None:
        with pytest.raises(InputError, match=r"nowhere\.py: no such file"):
            find_property("nowhere.py:bad")


class TestSometimes:
    def test_pairs_are_read_for_the_scheme(self) -> None:
        given = world(sometimes={"v2": ["bind=ENOSPC", "submit=ok"]})
        assert sometimes(given, "v2") == ((Verb.BIND, Result.ENOSPC), (Verb.SUBMIT, Result.OK))
        assert sometimes(given, "rfc") == ()
        assert [goal_text(goal) for goal in sometimes(given, "v2")] == ["bind=ENOSPC", "submit=ok"]

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("bind", r"sometimes.v2 = 'bind': must be VERB=RESULT"),
            ("bond=ok", r"no such verb; allowed: bind, bind_device"),
            ("bind=EIO", r"no such result; allowed: ok, fault, ignored, SIGSEGV"),
            ("bind=OK", r"no such result"),
            ("mmap_portal=ok", r"can never be reached; add to `actions`: mmap_portal"),
            ("resume=EPERM", None),
        ],
    )
    def test_what_cannot_be_is_told(self, text: str, message: str | None) -> None:
        given = world(sometimes={"v2": [text]})
        if message is None:
            check_sometimes(given, ["v2"])
            return
        with pytest.raises(InputError, match=message):
            check_sometimes(given, ["v2"])

    def test_an_unknown_scheme_is_told_and_a_users_own_is_known_when_it_runs(self) -> None:
        given = world(sometimes={"mine": ["bind=ok"]})
        check_sometimes(given, ["mine"])
        with pytest.raises(InputError, match=r"sometimes.mine: no such scheme; known here: hybrid, mainline, rfc, v2"):
            check_sometimes(given, ["v2"])
