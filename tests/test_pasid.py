from __future__ import annotations

import copy
import pickle
import tracemalloc
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from pasidlab import pasid as pasid_module
from pasidlab.pasid import INT_MAX, FreeInBoth, PasidSpace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

WORD = 2**11  # numbers per lowest word: where a search has to move on
GROUP = 2**22  # numbers below one word of the middle level


def space_with(numbers: Iterable[int]) -> PasidSpace:
    space = PasidSpace()
    for number in numbers:
        assert space.take(number)
    return space


@pytest.fixture
def short_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """Words of 8 bits and 128 numbers, so that a few numbers fill words and clear bits of every level."""
    monkeypatch.setattr(pasid_module, "INT_MAX", 127)
    monkeypatch.setattr(pasid_module, "_SHIFT", 3)
    monkeypatch.setattr(pasid_module, "_OFFSET", 7)
    monkeypatch.setattr(pasid_module, "_ALL_FREE", 0xFF)


# Allocation


def test_alloc_returns_lowest_free_number_first() -> None:
    space = PasidSpace()
    assert [space.alloc(1, 3) for _ in range(4)] == [1, 2, 3, None]


def test_freed_number_is_reused_by_the_very_next_alloc() -> None:
    space = space_with([1, 2, 3])
    assert space.free(2)
    assert space.alloc(1, INT_MAX) == 2
    assert space.alloc(1, INT_MAX) == 4


def test_free_number_below_the_range_is_not_given() -> None:
    space = space_with([5])
    assert space.alloc(5, 9) == 6


def test_full_narrow_range_leaves_wide_range_usable() -> None:
    space = PasidSpace()
    assert [space.alloc(1, 2**20 - 1) for _ in range(3)] == [1, 2, 3]
    assert space.alloc(1, 3) is None
    assert space.alloc(1, 2**20 - 1) == 4


def test_both_ends_belong_to_the_range() -> None:
    space = PasidSpace()
    assert space.alloc(7, 7) == 7
    assert space.alloc(7, 7) is None
    assert space.alloc_highest(8, 8) == 8


def test_zero_is_a_number_only_when_the_range_holds_it() -> None:
    space = PasidSpace()
    assert space.alloc(1, 1) == 1
    assert space.alloc(1, 1) is None
    assert space.alloc(0, 1) == 0


@pytest.mark.parametrize("method", ["alloc", "alloc_highest", "lowest_free", "highest_free"])
def test_empty_range_has_no_free_number(method: str) -> None:
    space = PasidSpace()
    assert getattr(space, method)(1, 0) is None
    assert len(space) == 0


def test_alloc_highest_returns_highest_free_number_first() -> None:
    space = PasidSpace()
    assert [space.alloc_highest(1, 3) for _ in range(4)] == [3, 2, 1, None]
    assert space.free(2)
    assert space.alloc_highest(1, 3) == 2


def test_looking_takes_nothing() -> None:
    space = space_with([1])
    assert space.lowest_free(1, 9) == 2
    assert space.highest_free(1, 9) == 9
    assert list(space) == [1]


@pytest.mark.parametrize("last_held", [WORD - 1, WORD, 2 * WORD - 1, 5 * WORD])
def test_search_moves_on_over_full_words(last_held: int) -> None:
    space = space_with(range(last_held + 1))
    assert space.lowest_free(0, INT_MAX) == last_held + 1
    assert space.lowest_free(0, last_held) is None
    assert space.highest_free(0, last_held) is None


@pytest.mark.usefixtures("short_words")
def test_space_with_all_numbers_held_has_no_free_number() -> None:
    space = space_with(range(128))
    assert space.lowest_free(0, 127) is None
    assert space.highest_free(0, 127) is None
    assert space.free(70)
    assert space.lowest_free(0, 127) == 70
    assert space.highest_free(0, 127) == 70


@pytest.mark.parametrize("first", [WORD, GROUP, INT_MAX + 1 - 3 * WORD])
def test_search_down_moves_on_over_full_words(first: int) -> None:
    last = first + 3 * WORD - 1
    space = space_with(range(first, last + 1))
    assert space.highest_free(0, last) == first - 1
    assert space.highest_free(first, last) is None
    assert space.free(first + WORD)
    assert space.highest_free(0, last) == first + WORD
    assert space.lowest_free(first, last) == first + WORD


# Limits


@pytest.mark.parametrize("high", [INT_MAX + 1, 2**32 - 1])
def test_upper_bound_above_int_max_is_read_as_int_max(high: int) -> None:
    space = PasidSpace()
    assert space.alloc(INT_MAX, high) == INT_MAX
    assert space.alloc(INT_MAX, high) is None
    assert space.alloc_highest(0, high) == INT_MAX - 1


@pytest.mark.parametrize("number", [-1, INT_MAX + 1])
def test_numbers_outside_the_range_are_refused_by_name(number: int) -> None:
    space = PasidSpace()
    calls: list[Callable[[], object]] = [
        lambda: space.alloc(number, 9),
        lambda: space.alloc_highest(number, 9),
        lambda: space.lowest_free(number, 9),
        lambda: space.highest_free(number, 9),
        lambda: space.take(number),
        lambda: space.reserve(number, 9),
        lambda: space.reserve(0, number),
        lambda: space.unreserve(number, 9),
        lambda: space.unreserve(0, number),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=rf"^{number} is outside .* 0\.\.2147483647$"):
            call()


def test_negative_upper_bound_is_refused() -> None:
    with pytest.raises(ValueError, match="-1 is outside"):
        PasidSpace().alloc(1, -1)


# Take and free


def test_take_refuses_a_held_number() -> None:
    space = PasidSpace()
    assert space.take(5)
    assert not space.take(5)
    assert len(space) == 1


def test_alloc_steps_over_a_taken_number() -> None:
    space = space_with([1, 3])
    assert [space.alloc(1, 9) for _ in range(2)] == [2, 4]


@pytest.mark.parametrize("number", [0, 4, WORD, INT_MAX, INT_MAX + 1, 2**32 - 1, -1])
def test_free_of_a_number_not_held_changes_nothing(number: int) -> None:
    space = space_with([1, 2, 3])
    assert not space.free(number)
    assert list(space) == [1, 2, 3]


def test_second_free_is_told() -> None:
    space = space_with([1])
    assert space.free(1)
    assert not space.free(1)
    assert len(space) == 0


def test_iteration_is_ascending() -> None:
    numbers = [INT_MAX, 3, GROUP, WORD, 0, WORD - 1]
    space = space_with(numbers)
    assert list(space) == sorted(numbers)
    assert len(space) == len(numbers)
    assert all(number in space for number in numbers)


# Reservations


def test_reserved_numbers_are_never_handed_out() -> None:
    space = PasidSpace()
    space.reserve(1, 3)
    assert space.alloc(1, 3) is None
    assert space.alloc(1, 9) == 4
    assert space.alloc_highest(0, 3) == 0
    assert not space.take(2)


def test_reserved_end_of_the_range_is_not_given() -> None:
    space = space_with([4, 6])
    space.reserve(5, 5)
    assert space.alloc(4, 5) is None
    assert space.alloc_highest(5, 6) is None


def test_reserved_number_is_not_held() -> None:
    space = PasidSpace()
    space.reserve(1, 3)
    assert 2 not in space
    assert not space.free(2)
    assert len(space) == 0
    assert list(space) == []


def test_reserving_a_held_number_is_refused_by_name_and_reserves_nothing() -> None:
    space = space_with([5, 7])
    with pytest.raises(ValueError, match=r"^cannot reserve 2\.\.9: 5 is held$"):
        space.reserve(2, 9)
    assert space.alloc(2, 9) == 2


def test_held_numbers_beside_the_range_do_not_hinder_a_reservation() -> None:
    space = space_with([4, 8])
    space.reserve(5, 7)
    assert space.alloc(4, 8) is None


def test_overlapping_reservations_hold_together() -> None:
    space = PasidSpace()
    space.reserve(1, 5)
    space.reserve(4, 8)
    space.reserve(2, 3)
    assert space.lowest_free(1, 20) == 9
    space.reserve(12, 14)
    space.reserve(9, 11)
    assert space.lowest_free(1, 20) == 15


def test_search_steps_over_held_and_reserved_numbers_in_turn() -> None:
    space = space_with([1, 4, 5])
    space.reserve(2, 3)
    space.reserve(6, 7)
    assert space.lowest_free(1, 9) == 8
    assert space.highest_free(0, 7) == 0


def test_reservation_up_to_either_end_of_all_numbers() -> None:
    space = PasidSpace()
    space.reserve(0, 9)
    space.reserve(20, INT_MAX)
    assert space.highest_free(0, 9) is None
    assert space.lowest_free(20, INT_MAX) is None
    assert space.lowest_free(0, INT_MAX) == 10
    assert space.highest_free(0, INT_MAX) == 19


def test_empty_reservation_reserves_nothing() -> None:
    space = space_with([5])
    space.reserve(6, 5)
    assert space.lowest_free(0, 0) == 0
    assert space.lowest_free(6, 6) == 6


def test_unreserve_opens_the_middle_of_a_reservation() -> None:
    space = PasidSpace()
    space.reserve(1, 9)
    space.unreserve(4, 5)
    assert [space.alloc(1, 9) for _ in range(3)] == [4, 5, None]


def test_unreserve_leaves_held_and_unreserved_numbers_alone() -> None:
    space = space_with([4])
    space.reserve(6, 7)
    space.unreserve(0, 9)
    space.unreserve(9, 0)
    assert list(space) == [4]
    assert [space.alloc(4, 9) for _ in range(3)] == [5, 6, 7]


# Copies


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda space: pickle.loads(pickle.dumps(space))])
def test_copy_is_equal_and_independent(clone: Callable[[PasidSpace], PasidSpace]) -> None:
    space = space_with(range(1, 2 * WORD))
    space.reserve(2 * WORD, 2 * WORD + 9)
    twin = clone(space)
    assert list(twin) == list(space)
    assert twin.alloc(1, INT_MAX) == 2 * WORD + 10
    twin.unreserve(2 * WORD, 2 * WORD)
    assert len(space) == 2 * WORD - 1
    assert space.lowest_free(1, INT_MAX) == 2 * WORD + 10


# Memory


def size_of(space: PasidSpace) -> int:
    """Bytes of a copy: to trace the million calls that fill a space would take seconds."""
    pickled = pickle.dumps(space)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        twin = pickle.loads(pickled)
        after, _ = tracemalloc.get_traced_memory()
        assert len(twin) == len(space)
    finally:
        tracemalloc.stop()
    return after - before


def test_full_20_bit_space_takes_under_128_kib() -> None:
    assert size_of(space_with(range(1, 2**20))) < 128 * 1024


def test_every_second_number_takes_at_most_two_bits_per_number() -> None:
    assert size_of(space_with(range(0, 2**20, 2))) < 2 * 2**20 // 8


def test_words_without_held_numbers_take_no_memory() -> None:
    space = PasidSpace()
    far_apart = range(0, INT_MAX, INT_MAX // 1000)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for number in far_apart:
            space.take(number)
        for number in far_apart:
            space.free(number)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 64 * len(far_apart)  # the emptied dict keeps its table


# Against a plain set


# Numbers and runs come from the class that is run, as the two classes below differ in the size of words.
any_number = st.runner().flatmap(lambda machine: machine.numbers)
any_length = st.runner().flatmap(lambda machine: st.integers(1, machine.longest_run))


class SetMachine(RuleBasedStateMachine):
    """A space beside a set of held numbers and a list of reserved ranges."""

    numbers: st.SearchStrategy[int]
    longest_run: int
    last = INT_MAX

    def __init__(self) -> None:
        super().__init__()
        self.space = PasidSpace()
        self.held: set[int] = set()
        self.reserved: list[range] = []

    def is_free(self, number: int) -> bool:
        return number not in self.held and not any(number in one for one in self.reserved)

    def free_ends(self, low: int, high: int) -> set[int]:
        """Free numbers of low..high that are its ends or beside a held or reserved number.

        The lowest and the highest free number of the range are always among them.
        """
        beside_held = {number + step for number in self.held for step in (-1, 1)}
        beside_reserved = {end for one in self.reserved for end in (one.start - 1, one.stop)}
        ends = {low, high} | beside_held | beside_reserved
        return {number for number in ends if low <= number <= high and self.is_free(number)}

    @rule(low=any_number, high=any_number)
    def alloc(self, low: int, high: int) -> None:
        expected = min(self.free_ends(low, high), default=None)
        assert self.space.lowest_free(low, high) == expected
        assert self.space.alloc(low, high) == expected
        if expected is not None:
            self.held.add(expected)

    @rule(low=any_number, high=any_number)
    def alloc_highest(self, low: int, high: int) -> None:
        expected = max(self.free_ends(low, high), default=None)
        assert self.space.highest_free(low, high) == expected
        assert self.space.alloc_highest(low, high) == expected
        if expected is not None:
            self.held.add(expected)

    @rule(first=any_number, length=any_length)
    def take_run(self, first: int, length: int) -> None:
        for number in range(first, min(first + length, self.last + 1)):
            free = self.is_free(number)
            assert self.space.take(number) == free
            if free:
                self.held.add(number)

    @rule(first=any_number, length=any_length)
    def free_run(self, first: int, length: int) -> None:
        for number in range(first, first + length):
            assert self.space.free(number) == (number in self.held)
            self.held.discard(number)

    @rule(low=any_number, high=any_number)
    def reserve(self, low: int, high: int) -> None:
        first_held = min((number for number in self.held if low <= number <= high), default=None)
        if first_held is None:
            self.space.reserve(low, high)
            self.reserved.append(range(low, high + 1))
        else:
            with pytest.raises(ValueError, match=f": {first_held} is held"):
                self.space.reserve(low, high)

    @rule(low=any_number, length=st.integers(1, 4))
    def reserve_few(self, low: int, length: int) -> None:
        self.reserve(low, min(low + length - 1, self.last))

    @rule(low=any_number, high=any_number)
    def unreserve(self, low: int, high: int) -> None:
        self.space.unreserve(low, high)
        if low <= high:
            below = [range(one.start, min(one.stop, low)) for one in self.reserved]
            above = [range(max(one.start, high + 1), one.stop) for one in self.reserved]
            self.reserved = [one for one in below + above if one]

    @rule(number=any_number)
    def contains(self, number: int) -> None:
        assert (number in self.space) == (number in self.held)

    @invariant()
    def holds_the_same_numbers(self) -> None:
        assert len(self.space) == len(self.held)
        assert list(self.space) == sorted(self.held)


class AtBorders(SetMachine):
    numbers = st.builds(
        lambda border, step: min(max(border + step, 0), INT_MAX),
        st.sampled_from([0, WORD, 2 * WORD, 2**20, GROUP, INT_MAX + 1 - WORD, INT_MAX]),
        st.integers(-3, 3),
    )
    longest_run = WORD + 8


class WithShortWords(SetMachine):
    numbers = st.integers(0, 127)
    longest_run = 80
    last = 127


def test_space_behaves_like_a_set() -> None:
    run_state_machine_as_test(AtBorders, settings=settings(max_examples=40, stateful_step_count=25, deadline=None))


@pytest.mark.usefixtures("short_words")
def test_tree_with_short_words_behaves_like_a_set() -> None:
    run_state_machine_as_test(WithShortWords, settings=settings(max_examples=80, stateful_step_count=30, deadline=None))


small = st.sets(st.integers(0, 60))


@given(small, small, st.integers(0, 60), st.integers(0, 60))
def test_free_in_both_takes_the_outermost_number_that_neither_space_holds(held, other, low, high) -> None:
    both = [number for number in range(low, high + 1) if number not in held | other]
    for take, expected in (("alloc", min(both, default=None)), ("alloc_highest", max(both, default=None))):
        space = space_with(held)
        assert getattr(FreeInBoth(space, space_with(other)), take)(low, high) == expected
        assert set(space) == held | ({expected} - {None})
