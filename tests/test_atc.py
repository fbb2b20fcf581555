"""The ATC of a device, and the bounded cache under it: what is kept, found, pushed out and invalidated."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pasidlab.hw.atc import Atc, AtcEntry, AtcKey
from pasidlab.hw.cache import Cache

PA = 0x8_0000_0000
PAGE = 0x7F00_0000_0000


def entry(output: int = PA, lg2: int = 12, **rights: bool) -> AtcEntry:
    return AtcEntry(output, lg2, **({"read": True, "write": True} | rights))


class TestCache:
    def test_the_oldest_entry_makes_room(self) -> None:
        cache: Cache[int, str] = Cache(2)
        for key in range(3):
            cache.put(key, str(key))
        assert cache.entries == {1: "1", 2: "2"}

    def test_a_refill_pushes_nothing_out_and_stays_as_old_as_it_was(self) -> None:
        cache: Cache[int, str] = Cache(2)
        for key, value in ((0, "a"), (1, "b"), (0, "c")):
            cache.put(key, value)
        assert cache.entries == {0: "c", 1: "b"}
        cache.put(2, "d")
        assert cache.entries == {1: "b", 2: "d"}

    def test_capacity_0_keeps_nothing(self) -> None:
        cache: Cache[int, str] = Cache(0)
        cache.put(0, "a")
        assert cache.get(0) is None

    def test_what_an_invalidation_reaches_goes_and_no_more(self) -> None:
        cache: Cache[int, str] = Cache(4, {0: "a", 1: "b", 2: "c", 3: "d"})
        cache.drop_where(lambda key: key % 2 == 0)
        cache.drop(3)
        cache.drop(7)
        assert cache.entries == {1: "b"}
        cache.clear()
        assert not cache.entries

    @given(st.integers(0, 4), st.lists(st.tuples(st.integers(0, 6), st.integers())))
    def test_it_is_never_larger_than_its_capacity_and_has_the_newest_value(
        self, capacity: int, puts: list[tuple[int, int]]
    ) -> None:
        cache: Cache[int, int] = Cache(capacity)
        for key, value in puts:
            cache.put(key, value)
            assert len(cache.entries) <= capacity
            assert cache.get(key) == (value if capacity else None)


class TestRoom:
    def test_a_refill_of_a_full_cache_pushes_nothing_out(self) -> None:
        atc = Atc(capacity=2)
        for page in (0, 1, 1):
            atc.fill(1, page << 12, entry())
        assert [atc.lookup(1, page << 12, write=False) is not None for page in (0, 1)] == [True, True]

    def test_a_device_without_atc_memory_keeps_nothing(self) -> None:
        atc = Atc(capacity=0)
        atc.fill(1, PAGE, entry())
        assert not atc.entries
        assert atc.lookup(1, PAGE, write=False) is None

    def test_entries_of_all_sizes_share_the_room(self) -> None:
        atc = Atc(capacity=2)
        for lg2 in (12, 21, 30):
            atc.fill(1, 0, entry(lg2=lg2))
        assert list(atc.entries) == [AtcKey(1, 21, 0, False), AtcKey(1, 30, 0, False)]


class TestLookup:
    @pytest.mark.parametrize("lg2", [12, 16, 21, 30])
    def test_an_entry_covers_its_size_and_not_a_byte_more(self, lg2: int) -> None:
        atc = Atc()
        first = PAGE & -(1 << lg2)
        atc.fill(1, first + 0x123, entry(PA, lg2))
        last = (1 << lg2) - 1
        assert atc.lookup(1, first + last, write=False) == PA + last
        assert atc.lookup(1, first + last + 1, write=False) is None
        assert atc.lookup(1, first - 1, write=False) is None

    def test_an_output_within_the_range_is_completed_to_the_address(self) -> None:
        atc = Atc()
        atc.fill(1, PAGE + 0x5000, entry(PA + 0x5000, 21))
        assert atc.lookup(1, PAGE + 0x7ABC, write=False) == PA + 0x7ABC

    @pytest.mark.parametrize("pasid", [None, 0, 2])
    def test_another_pasid_and_none_are_strangers(self, pasid: int | None) -> None:
        atc = Atc()
        atc.fill(1, PAGE, entry())
        assert atc.lookup(pasid, PAGE, write=False) is None

    def test_of_two_sizes_the_smaller_counts_if_it_gives_the_right(self) -> None:
        atc = Atc()
        atc.fill(1, PAGE, entry(PA, 21))
        atc.fill(1, PAGE, entry(2 * PA, 12, write=False))
        assert atc.lookup(1, PAGE, write=False) == 2 * PA
        assert atc.lookup(1, PAGE, write=True) == PA

    @pytest.mark.parametrize(
        ("rights", "found"),
        [
            ({"read": True, "write": False}, {"read"}),
            ({"read": False, "write": True}, {"write"}),
            ({"read": True, "write": False, "execute": True}, {"read", "execute"}),
            ({"read": False, "write": True, "execute": True}, {"write"}),
            ({"read": True, "write": True}, {"read", "write"}),
            ({"read": False, "write": False, "execute": True}, set()),
        ],
    )
    def test_only_what_was_granted_is_found(self, rights: dict[str, bool], found: set[str]) -> None:
        atc = Atc()
        atc.fill(1, PAGE, entry(**rights))
        asked = {"read": (False, False), "write": (True, False), "execute": (False, True)}
        answers = {name: atc.lookup(1, PAGE, write=write, execute=execute) for name, (write, execute) in asked.items()}
        assert {name for name, answer in answers.items() if answer is not None} == found

    def test_a_privileged_translation_and_a_user_translation_are_two(self) -> None:
        atc = Atc()
        atc.fill(1, PAGE, entry(2 * PA, privileged=True))
        assert atc.lookup(1, PAGE, write=False) is None
        atc.fill(1, PAGE, entry(PA))
        assert atc.lookup(1, PAGE, write=False) == PA
        assert atc.lookup(1, PAGE, write=False, privileged=True) == 2 * PA

    def test_a_newer_grant_replaces_the_older_one(self) -> None:
        atc = Atc()
        atc.fill(1, PAGE, entry())
        atc.fill(1, PAGE, entry(2 * PA, write=False))
        assert atc.lookup(1, PAGE, write=False) == 2 * PA
        assert atc.lookup(1, PAGE, write=True) is None


WHO = ((1, PAGE, False), (2, PAGE, False), (None, PAGE, False), (1, PAGE, True), (1, PAGE + 0x10_0000, False))


class TestInvalidate:
    @pytest.mark.parametrize(
        ("pasid", "every_pasid", "first", "size", "gone"),
        [
            (1, False, PAGE, 4096, {0, 3}),
            (1, False, 0, None, {0, 3, 4}),
            (1, False, PAGE + 4096, 4096, set()),
            (1, False, PAGE - 4096, 4096, set()),
            (1, False, PAGE + 4095, 1, {0, 3}),
            (1, False, PAGE, 0x20_0000, {0, 3, 4}),
            (3, False, 0, None, set()),
            (1, True, PAGE, 4096, {0, 1, 2, 3}),
            (3, True, 0, None, {0, 1, 2, 3, 4}),
            (None, False, PAGE, 4096, {0, 1, 2, 3}),
            (None, False, 0, None, {0, 1, 2, 3, 4}),
        ],
    )
    def test_one_pasid_or_all_and_a_range_or_everything(
        self, pasid: int | None, every_pasid: bool, first: int, size: int | None, gone: set[int]
    ) -> None:
        atc = Atc()
        for owner, address, privileged in WHO:
            atc.fill(owner, address, entry(privileged=privileged))
        assert atc.invalidate(pasid, every_pasid=every_pasid, first=first, size=size)
        kept = {
            index
            for index, (owner, address, privileged) in enumerate(WHO)
            if atc.lookup(owner, address, write=False, privileged=privileged) is not None
        }
        assert kept == set(range(len(WHO))) - gone

    def test_a_range_reaches_the_large_entry_around_it(self) -> None:
        atc = Atc()
        atc.fill(1, PAGE, entry(lg2=30))
        atc.invalidate(1, every_pasid=False, first=PAGE + 0x1000, size=4096)
        assert not atc.entries

    def test_a_hung_device_forgets_nothing_and_does_not_answer(self) -> None:
        atc = Atc(hung=True)
        atc.fill(1, PAGE, entry())
        assert not atc.invalidate(None, every_pasid=True, first=0, size=None)
        assert len(atc.entries) == 1


@given(
    st.lists(
        st.tuples(st.sampled_from((None, 1, 2)), st.integers(0, 40), st.sampled_from((12, 14)), st.booleans()),
        max_size=30,
    ),
    st.integers(0, 40),
)
def test_lookup_finds_what_a_search_through_all_entries_finds(
    fills: list[tuple[int | None, int, int, bool]], page: int
) -> None:
    atc = Atc(capacity=8)
    for number, (pasid, at, lg2, privileged) in enumerate(fills):
        atc.fill(pasid, at << 12, entry(number << 20, lg2, privileged=privileged))
    address = page << 12
    matching = [
        (key.lg2, kept.output)
        for key, kept in atc.entries.items()
        if key.pasid == 1 and not key.privileged and key.page == address >> key.lg2
    ]
    expected = min(matching, default=None)
    found = atc.lookup(1, address, write=True)
    assert (found if found is None else found >> 20 << 20) == (expected if expected is None else expected[1])
