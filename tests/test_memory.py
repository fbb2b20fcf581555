"""Physical memory: sparse, little-endian, aborting where it is told to or where nothing answers."""

import copy
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pasidlab.memory import PAGE_SIZE, Memory

TOP = 1 << 52


def test_what_was_never_stored_reads_as_zeros_and_costs_nothing() -> None:
    memory = Memory()
    assert memory.load(TOP - PAGE_SIZE, PAGE_SIZE) == bytes(PAGE_SIZE)
    assert memory.load64(0x1234_5678) == 0
    assert memory.touched_pages == 0


def test_only_stores_cost_pages() -> None:
    memory = Memory()
    memory.store(0x1FFF, b"ab")
    memory.store64(TOP - 8, 1)
    memory.store64(TOP - 8, 2)
    assert memory.touched_pages == 3


def test_words_are_little_endian() -> None:
    memory = Memory()
    assert memory.store64(0x1000, 0x0123_4567_89AB_CDEF)
    assert memory.load(0x1000, 8) == bytes.fromhex("efcdab8967452301")
    assert memory.store(0x1002, b"\x00")
    assert memory.load64(0x1000) == 0x0123_4567_8900_CDEF


def test_a_word_load_ignores_the_lowest_bits_of_the_address() -> None:
    memory = Memory()
    memory.store64(0x1000, 5)
    assert [memory.load64(0x1000 + n) for n in range(9)] == [5] * 8 + [0]


@pytest.mark.parametrize("bits", [32, 48, 52])
def test_beyond_the_last_byte_nothing_answers(bits: int) -> None:
    memory = Memory(bits)
    end = 1 << bits
    assert memory.store64(end - 8, 7)
    assert memory.load64(end - 1) == 7
    assert memory.load(end - 1, 1) == b"\0"
    for address, size in ((end - 1, 2), (end, 1), (end - PAGE_SIZE, PAGE_SIZE + 1), (1 << 63, 8)):
        assert memory.aborts(address, size)
        assert memory.load(address, size) is None
        assert not memory.store(address, bytes(size))
    assert memory.load64(end) is None
    assert not memory.store64(end, 1)
    assert memory.touched_pages == 1


def test_before_the_first_byte_nothing_answers() -> None:
    memory = Memory()
    assert memory.load64(-8) is None
    assert memory.load(-1, 2) is None
    assert not memory.store(-1, b"ab")


def test_accesses_of_no_bytes_succeed_wherever_there_is_memory() -> None:
    memory = Memory()
    assert memory.load(0, 0) == b""
    assert memory.store(0, b"")
    assert memory.touched_pages == 0


def test_loads_and_stores_cross_pages() -> None:
    memory = Memory()
    data = bytes(n % 251 for n in range(3 * PAGE_SIZE))
    assert memory.store(0x5FF8, data)
    assert memory.load(0x5FF8, len(data)) == data
    assert memory.load(0x5FF0, 16) == bytes(8) + data[:8]
    assert memory.load(0x6000, PAGE_SIZE) == data[8 : 8 + PAGE_SIZE]
    assert memory.touched_pages == 4


@pytest.mark.parametrize(("address", "size"), [(0x1000, 1), (0x0FFF, 2), (0x1007, 100), (0x0, 0x3000), (0x100F, 1)])
def test_every_access_that_meets_poison_aborts_and_stores_nothing(address: int, size: int) -> None:
    memory = Memory()
    memory.store(0, bytes(range(1, 256)) * 64)
    before = memory.load(address, size)
    memory.poison(0x1000, 16)
    assert memory.load(address, size) is None
    assert not memory.store(address, bytes(size))
    assert memory.aborts(address, size)
    memory.heal()
    assert memory.load(address, size) == before


def test_accesses_beside_poison_succeed() -> None:
    memory = Memory()
    memory.poison(0x1008, 8)
    assert memory.poisoned == (range(0x1008, 0x1010),)
    assert memory.load64(0x1000) == 0
    assert memory.load64(0x100F) is None
    assert memory.load64(0x1010) == 0
    assert memory.load(0x1000, 8) == bytes(8)
    assert memory.load(0x1000, 9) is None
    assert memory.store(0x1010, b"x")
    memory.poison(0x1000, 1)
    assert memory.load64(0x1000) is None
    memory.heal()
    assert memory.poisoned == ()
    assert memory.load64(0x1008) == 0


def test_poison_keeps_a_load_across_pages_from_starting() -> None:
    memory = Memory()
    memory.poison(0x2000, 8)
    assert memory.load(0x1FFC, 8) is None
    assert memory.load(0x1FF8, 8) == bytes(8)


def test_observers_see_each_store_that_happened_in_order() -> None:
    memory = Memory()
    seen: list[tuple[int, bytes]] = []
    memory.observers.append(lambda address, data: seen.append((address, data)))
    memory.store64(0x1000, 1)
    memory.store(0x1FFE, b"abcd")
    memory.poison(0x1000, 8)
    memory.store64(0x1000, 2)
    memory.store64(TOP, 3)
    memory.load64(0x1000)
    assert seen == [(0x1000, bytes([1, 0, 0, 0, 0, 0, 0, 0])), (0x1FFE, b"abcd")]


def test_an_observer_sees_memory_as_it_is_after_the_store() -> None:
    memory = Memory()
    seen: list[int | None] = []
    memory.observers.append(lambda address, data: seen.append(memory.load64(address)))
    memory.store64(0x1000, 9)
    assert seen == [9]


def test_growth_keeps_what_was_stored() -> None:
    memory = Memory()
    pages = [page * 977 << 12 for page in range(1000)]
    for number, address in enumerate(pages):
        memory.store64(address, number)
    assert [memory.load64(address) for address in pages] == list(range(1000))
    assert memory.touched_pages == 1000


def test_the_page_table_shows_each_touched_page_once() -> None:
    memory = Memory()
    for page in range(100):
        memory.store64((page << 12) + 8, page + 1)
    rows, pool = memory.page_table()
    assert list(rows) == list(range(100))
    assert [int(pool[rows[page], 1]) for page in range(100)] == list(range(1, 101))
    assert not pool[0].any()


@pytest.mark.parametrize("clone", [copy.deepcopy, copy.copy, lambda memory: pickle.loads(pickle.dumps(memory))])
def test_a_copy_is_independent(clone: object) -> None:
    memory = Memory(48)
    for page in range(70):
        memory.store64(page << 12, page)
    memory.poison(0x9_0000, 8)
    other = clone(memory)  # type: ignore[operator]
    assert (other.bits, other.poisoned, other.touched_pages) == (48, memory.poisoned, 70)
    assert [other.load64(page << 12) for page in range(70)] == list(range(70))
    memory.store64(0, 111)
    memory.store64(0xA0_0000, 1)
    other.store64(0xB0_0000, 2)
    other.heal()
    assert (other.load64(0), other.load64(0xA0_0000), other.load64(0xB0_0000)) == (0, 0, 2)
    assert (memory.load64(0), memory.load64(0xA0_0000), memory.load64(0xB0_0000)) == (111, 1, 0)
    assert memory.poisoned


class Watcher:
    """Counts stores, as a part of a machine would."""

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self.stores = 0
        memory.observers.append(self.count)

    def count(self, address: int, data: bytes) -> None:
        self.stores += 1


def test_the_copy_of_a_machine_watches_the_copy_of_its_memory() -> None:
    watcher = Watcher(Memory())
    other = copy.deepcopy(watcher)
    other.memory.store64(0, 1)
    assert (watcher.stores, other.stores) == (0, 1)


AREA = 5 * PAGE_SIZE
ranges = st.tuples(st.integers(TOP - AREA, TOP + 16), st.integers(1, 2 * PAGE_SIZE))
steps = st.one_of(
    st.tuples(st.just("store"), ranges, st.integers(0, 255)),
    st.tuples(st.just("store64"), st.integers((TOP - AREA) // 8, TOP // 8), st.integers(0, 2**64 - 1)),
    st.tuples(st.just("poison"), ranges, st.just(0)),
    st.tuples(st.just("heal"), st.just(0), st.just(0)),
    st.tuples(st.just("load"), ranges, st.just(0)),
)


class Model:
    """Memory as a dict of bytes."""

    def __init__(self) -> None:
        self.bytes: dict[int, int] = {}
        self.bad: set[int] = set()

    def ok(self, address: int, size: int) -> bool:
        return address + size <= TOP and not any(at in self.bad for at in range(address, address + size))

    def load(self, address: int, size: int) -> bytes | None:
        if not self.ok(address, size):
            return None
        return bytes(self.bytes.get(at, 0) for at in range(address, address + size))

    def store(self, address: int, data: bytes) -> bool:
        if not self.ok(address, len(data)):
            return False
        self.bytes.update(enumerate(data, address))
        return True


@settings(max_examples=100, deadline=None)
@given(st.lists(steps, max_size=20))
def test_memory_agrees_with_a_dict_of_bytes(script: list[tuple[str, object, int]]) -> None:
    memory, model = Memory(), Model()
    for what, where, value in script:
        match what, where:
            case "store", (int(address), int(size)):
                data = bytes((value + n) % 256 for n in range(size))
                assert memory.store(address, data) == model.store(address, data)
            case "store64", int(index):
                assert memory.store64(index * 8, value) == model.store(index * 8, value.to_bytes(8, "little"))
                assert memory.load64(index * 8) == (None if index * 8 == TOP or index * 8 in model.bad else value) or (
                    not model.ok(index * 8, 8)
                )
            case "poison", (int(address), int(size)):
                memory.poison(address, size)
                model.bad.update(range(address, address + size))
            case "load", (int(address), int(size)):
                assert memory.load(address, size) == model.load(address, size)
            case _:
                memory.heal()
                model.bad.clear()
    for address in range(TOP - AREA, TOP, 8):
        raw = model.load(address, 8)
        assert memory.load64(address) == (None if raw is None else int.from_bytes(raw, "little"))
    assert memory.touched_pages == len({address >> 12 for address in model.bytes})
