"""What each operation of DSA and IAA does to memory, and what its completion record tells."""

from __future__ import annotations

import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pasidlab.devices.idxd.analytics import xor_checksum
from pasidlab.devices.idxd.descriptors import Flags, IaaOpcode, Opcode, Status, build
from pasidlab.devices.idxd.operations import crc32c
from pasidlab.drivers.hardware import Seen
from tests.idxd_rig import DST, LIST, REC, SRC, A, B, Rig, memmove

OK = Status.SUCCESS


def rig_with(data: bytes, at: int = SRC, **more) -> Rig:
    rig = Rig(**more)
    rig.memory.put(A, at, data)
    return rig


# --- moves ---------------------------------------------------------------------------------------------------------


def test_noop_and_drain_touch_nothing_but_their_record():
    for opcode in (Opcode.NOOP, Opcode.DRAIN):
        rig = Rig()
        assert rig.do(opcode).status == OK
        assert [address for _, address, *_ in rig.memory.log] == [REC]


@settings(max_examples=60, deadline=None)
@given(st.binary(min_size=1, max_size=9000), st.integers(0, 4095), st.integers(-4095, 4095))
def test_memmove_moves_as_memmove_does(data, start, distance):
    rig = Rig()
    for pasid in (A,):
        rig.memory.map(pasid, 0x5_0000, 6)
    source, destination = 0x5_1000 + start, 0x5_1000 + start + distance
    rig.memory.put(A, source, data)
    record = rig.do(Opcode.MEMMOVE, source=source, destination=destination, size=len(data))
    assert (record.status, record.bytes_completed, record.result) == (OK, len(data), 0)
    assert rig.memory.get(A, destination, len(data)) == data


def test_a_fault_in_a_copy_from_the_end_is_told_by_result_1():
    rig = Rig()
    for page in (0x60, 0x61):
        rig.memory.map(A, page << 12, 1)
    record = rig.do(Opcode.MEMMOVE, source=0x5_FFF8, destination=0x6_0000, size=0x1010)
    assert (record.status, record.result) == (Status.PAGE_FAULT_NO_BOF, 1)
    assert record.bytes_completed == 0x1008
    assert record.fault_addr == 0x5_FFF8


def test_fill_repeats_its_8_bytes_across_pages():
    rig = Rig()
    pattern = int.from_bytes(b"abcdefgh", "little")
    assert rig.do(Opcode.FILL, source=pattern, destination=DST + 0xFFD, size=21).bytes_completed == 21
    assert rig.memory.get(A, DST + 0xFFD, 22) == b"abcdefghabcdefghabcde\0"


def test_dualcast_writes_both_destinations():
    rig = rig_with(b"twice")
    assert rig.do(Opcode.DUALCAST, source=SRC, destination=DST, size=5, operation_specific=LIST).status == OK
    assert rig.memory.get(A, DST, 5) == rig.memory.get(A, LIST, 5) == b"twice"


def test_the_destinations_of_a_dualcast_agree_in_bits_11_to_0():
    record = Rig().do(Opcode.DUALCAST, source=SRC, destination=DST, size=5, operation_specific=LIST + 1)
    assert record.status == Status.DUALCAST


def test_buffers_of_a_dualcast_do_not_overlap():
    record = Rig().do(Opcode.DUALCAST, source=SRC, destination=DST, size=0x1001, operation_specific=DST + 0x1000)
    assert record.status == Status.OVERLAP


# --- compares ------------------------------------------------------------------------------------------------------


def test_compare_finds_the_first_byte_that_differs():
    rig = rig_with(b"same, then not")
    rig.memory.put(A, DST, b"same, then now")
    record = rig.do(Opcode.COMPARE, source=SRC, destination=DST, size=14)
    assert (record.status, record.result, record.bytes_completed) == (OK, 1, 13)
    record = rig.do(Opcode.COMPARE, source=SRC, destination=DST, size=13)
    assert (record.status, record.result, record.bytes_completed) == (OK, 0, 13)


@pytest.mark.parametrize(("expected", "status"), [(0, 2), (1, 1)])
def test_the_check_result_flag_asks_for_a_result(expected, status):
    rig = rig_with(b"x")
    record = rig.do(Opcode.COMPARE, Flags.CR, source=SRC, destination=DST, size=1, operation_specific=expected)
    assert record.status == status


def test_compare_pattern_repeats_the_pattern():
    rig = rig_with(b"abcdefgh" * 3 + b"abX")
    pattern = int.from_bytes(b"abcdefgh", "little")
    record = rig.do(Opcode.COMPARE_PATTERN, source=SRC, destination=pattern, size=26)
    assert (record.result, record.bytes_completed) == (0, 26)
    record = rig.do(Opcode.COMPARE_PATTERN, source=SRC, destination=pattern, size=27)
    assert (record.result, record.bytes_completed) == (1, 26)


@pytest.mark.parametrize("opcode", [Opcode.COMPARE, Opcode.COMPARE_PATTERN])
def test_a_fault_ends_a_compare(opcode):
    rig = Rig()
    record = rig.do(opcode, source=SRC + 0x3FFC, destination=DST if opcode is Opcode.COMPARE else 0, size=8)
    assert (record.status, record.bytes_completed, record.fault_addr) == (3, 4, SRC + 0x4000)


# --- deltas --------------------------------------------------------------------------------------------------------

DELTA = REC + 0x1000


def delta_rig() -> Rig:
    rig = rig_with(b"11111111" + b"22222222" + b"33333333" + b"44444444")
    rig.memory.put(A, DST, b"11111111" + b"2222-222" + b"33333333" + b"4444444-")
    return rig


def create(rig: Rig, most: int = 80, size: int = 32, delta: int = DELTA):
    specific = delta | most << 64
    return rig.do(Opcode.CREATE_DELTA, source=SRC, destination=DST, size=size, operation_specific=specific)


def test_a_delta_record_has_the_words_that_differ():
    rig = delta_rig()
    record = create(rig)
    assert (record.status, record.result, record.operation_specific) == (OK, 1, 20)
    assert rig.memory.get(A, DELTA, 20) == b"\1\0" + b"2222-222" + b"\3\0" + b"4444444-"


def test_equal_ranges_have_no_delta():
    record = create(delta_rig(), size=8)
    assert (record.status, record.result, record.operation_specific) == (OK, 0, 0)


def test_a_delta_that_is_too_long_ends_where_its_room_does():
    record = create(delta_rig(), most=10)
    assert (record.result, record.operation_specific, record.bytes_completed) == (2, 10, 24)


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"delta": DELTA + 1}, Status.ADDRESS_ALIGNMENT),
        ({"size": 12}, Status.TRANSFER_SIZE),
        ({"size": (8 << 16) + 8}, Status.TRANSFER_SIZE),
        ({"most": 0}, Status.DELTA_SIZE),
        ({"most": 81}, Status.DELTA_SIZE),
    ],
)
def test_a_delta_that_cannot_be_is_refused(fields, status):
    assert create(delta_rig(), **fields).status == status


def test_applying_a_delta_makes_the_ranges_equal():
    rig = delta_rig()
    create(rig)
    record = rig.do(Opcode.APPLY_DELTA, source=DELTA, destination=SRC, size=32, operation_specific=20)
    assert (record.status, record.bytes_completed) == (OK, 20)
    assert rig.memory.get(A, SRC, 32) == rig.memory.get(A, DST, 32)


@pytest.mark.parametrize(
    ("units", "size", "length", "status"),
    [
        ((1, 1), 32, 20, Status.DELTA_NOT_INCREASING),
        ((2, 1), 32, 20, Status.DELTA_NOT_INCREASING),
        ((0, 4), 32, 20, Status.DELTA_OUT_OF_RANGE),
        ((0, 3), 32, 19, Status.DELTA_SIZE),
        ((0, 3), 32, 0, Status.DELTA_SIZE),
        ((0, 3), 31, 20, Status.TRANSFER_SIZE),
        ((0, 3), 32, 20, OK),
    ],
)
def test_a_delta_record_that_makes_no_sense_is_refused(units, size, length, status):
    rig = Rig()
    entries = b"".join(unit.to_bytes(2, "little") + b"datadata" for unit in units)
    rig.memory.put(A, DELTA, entries)
    record = rig.do(Opcode.APPLY_DELTA, source=DELTA, destination=DST, size=size, operation_specific=length)
    assert record.status == status


@pytest.mark.parametrize("opcode", [Opcode.CREATE_DELTA, Opcode.APPLY_DELTA])
def test_a_fault_ends_a_delta(opcode):
    specific = DELTA | 80 << 64 if opcode is Opcode.CREATE_DELTA else 80
    for fields in ({"source": 0x9_0000, "destination": DST}, {"source": SRC, "destination": 0x9_0000}):
        assert Rig().do(opcode, **fields, size=8, operation_specific=specific).status & 3 == 3


# --- checksums -----------------------------------------------------------------------------------------------------


def test_crc32c_is_that_of_iscsi():
    assert crc32c(b"123456789") == 0xE306_9283
    assert crc32c(bytes(32)) == 0x8A91_36AA
    assert crc32c(b"56789", crc32c(b"1234")) == crc32c(b"123456789")


def test_crc_gen_puts_the_crc_into_the_record():
    rig = rig_with(b"123456789")
    record = rig.do(Opcode.CRC_GEN, source=SRC, size=9)
    assert (record.status, record.operation_specific) == (OK, 0xE306_9283)
    seeded = rig.do(Opcode.CRC_GEN, source=SRC + 4, size=5, operation_specific=crc32c(b"1234"))
    assert seeded.operation_specific == 0xE306_9283


def test_copy_crc_copies_too():
    rig = rig_with(b"123456789")
    assert rig.do(Opcode.COPY_CRC, source=SRC, destination=DST, size=9).operation_specific == 0xE306_9283
    assert rig.memory.get(A, DST, 9) == b"123456789"
    assert rig.do(Opcode.COPY_CRC, source=SRC, destination=SRC + 8, size=9).status == Status.OVERLAP


def test_cache_flush_and_translation_fetch_need_their_pages():
    rig = Rig()
    assert rig.do(Opcode.CACHE_FLUSH, destination=DST, size=0x4000).status == OK
    assert rig.do(Opcode.CACHE_FLUSH, destination=DST, size=0x4001).fault_addr == DST + 0x4000
    fetch = {"source": SRC, "operation_specific": 0x2000 << 64}
    rig.memory.log.clear()
    assert rig.do(Opcode.TRANSLATION_FETCH, size=0x4000, **fetch).status == OK
    assert [address for _, address, *_ in rig.memory.log[:-1]] == [SRC, SRC + 0x2000]
    assert rig.do(Opcode.TRANSLATION_FETCH, size=0x4001, **fetch).bytes_completed == 0x4000


# --- batches -------------------------------------------------------------------------------------------------------


def record_at(index: int) -> dict[str, int]:
    return {"completion_addr": REC + 0x100 + 32 * index}


def batch(rig: Rig, *descriptors: bytes, count: int | None = None, flags: int = 0, **fields: int):
    for index, data in enumerate(descriptors):
        rig.memory.put(A, LIST + 64 * index, data)
    size = len(descriptors) if count is None else count
    return rig.do(Opcode.BATCH, flags, **({"source": LIST, "size": size} | fields))


WANTED = Flags.CRAV | Flags.RCR


def test_a_batch_runs_its_list_under_its_own_pasid():
    rig = rig_with(b"data")
    other = B.to_bytes(4, "little")
    first = other + memmove(4)[4:]
    second = other + memmove(4, WANTED, source=DST, destination=DST + 8, **record_at(1))[4:]
    record = batch(rig, first, second)
    assert (record.status, record.bytes_completed) == (OK, 2)
    assert rig.memory.get(A, DST + 8, 4) == b"data"
    assert rig.record(address=REC + 0x120).status == OK
    assert {pasid for pasid, *_ in rig.memory.log} == {A}


def test_a_batch_with_a_failure_is_told_so_and_goes_on():
    rig = Rig()
    record = batch(rig, memmove(0, WANTED, **record_at(0)), memmove(4))
    assert (record.status, record.bytes_completed) == (Status.BATCH_FAILED, 2)
    assert rig.record(address=REC + 0x100).status == Status.TRANSFER_SIZE


def test_a_fence_stops_a_batch_after_a_failure():
    rig = Rig()
    record = batch(rig, memmove(0), memmove(4, Flags.FENCE), memmove(4))
    assert (record.status, record.bytes_completed) == (Status.BATCH_FAILED, 1)
    record = batch(rig, memmove(4), memmove(4, Flags.FENCE), memmove(4))
    assert (record.status, record.bytes_completed) == (OK, 3)


def test_an_error_in_a_batch_without_record_names_its_index_in_swerr():
    rig = Rig()
    batch(rig, memmove(4), memmove(0))
    assert (rig.hw.swerr.batch, rig.hw.swerr.batch_idx) == (True, 1)


@pytest.mark.parametrize("opcode", [Opcode.BATCH, Opcode.DRAIN])
def test_a_batch_has_no_batch_and_no_drain_in_it(opcode):
    rig = Rig()
    inner = build(opcode, WANTED, **{"source": LIST, "size": 2} if opcode is Opcode.BATCH else {}, **record_at(0))
    assert batch(rig, inner, memmove(4)).status == Status.BATCH_FAILED
    assert rig.record(address=REC + 0x100).status == Status.BAD_OPCODE


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"count": 1}, Status.DESCRIPTOR_COUNT),
        ({"count": 33}, Status.DESCRIPTOR_COUNT),
        ({"source": LIST + 32, "count": 2}, Status.LIST_ALIGNMENT),
        ({"source": 0x9_0000, "count": 2}, Status.BATCH_PAGE_FAULT),
        ({"source": LIST + 0x3FC0, "count": 2}, Status.BATCH_PAGE_FAULT),
    ],
)
def test_a_batch_whose_list_cannot_be_read_is_refused(fields, status):
    record = batch(Rig(), **fields)
    assert record.status == status


def test_a_batch_list_that_is_blocked_is_a_failed_translation():
    rig = Rig()
    rig.memory.seen = Seen.BLOCKED
    assert batch(rig, count=2, source=0x9_0000).status == Status.TRANSLATION_FAILED


# --- IAA -----------------------------------------------------------------------------------------------------------

TEXT = b"PASID " * 100


def iaa_rig(data: bytes) -> Rig:
    return rig_with(data, iaa=True)


def iaa(rig: Rig, opcode: IaaOpcode, size: int, room: int = 4096, **more: int):
    fields = {"source1": SRC, "source1_size": size, "destination": DST, "max_destination_size": room}
    return rig.do(opcode, **(fields | more))


def test_what_iaa_compresses_any_inflate_reads():
    rig = iaa_rig(TEXT)
    record = iaa(rig, IaaOpcode.COMPRESS, len(TEXT))
    assert record.status == OK
    assert record.output_size < len(TEXT) // 10
    assert zlib.decompress(rig.memory.get(A, DST, record.output_size), wbits=-15) == TEXT
    assert (record.crc, record.xor_csum) == (zlib.crc32(TEXT), xor_checksum(TEXT))


def test_iaa_inflates_what_any_deflate_wrote():
    engine = zlib.compressobj(wbits=-15)
    packed = engine.compress(TEXT) + engine.flush()
    rig = iaa_rig(packed)
    record = iaa(rig, IaaOpcode.DECOMPRESS, len(packed))
    assert (record.status, record.output_size) == (OK, len(TEXT))
    assert rig.memory.get(A, DST, len(TEXT)) == TEXT
    assert record.bytes_completed == len(packed)


def test_the_exclusive_or_is_of_16_bit_words():
    assert xor_checksum(b"\x01\x02\x03\x04\x05") == 0x0201 ^ 0x0403 ^ 0x0005


def test_output_that_does_not_fit_is_an_overflow():
    engine = zlib.compressobj(wbits=-15)
    packed = engine.compress(TEXT) + engine.flush()
    assert iaa(iaa_rig(packed), IaaOpcode.DECOMPRESS, len(packed), len(TEXT) - 1).status == Status.OUTPUT_OVERFLOW
    assert iaa(iaa_rig(packed), IaaOpcode.DECOMPRESS, len(packed), len(TEXT)).status == OK
    assert iaa(iaa_rig(TEXT), IaaOpcode.COMPRESS, len(TEXT), 4).status == Status.OUTPUT_OVERFLOW


@pytest.mark.parametrize("data", [b"\xff\xff\xff\xff", b"\x4b"])
def test_a_stream_that_is_none_or_ends_early_is_an_analytics_error(data):
    record = iaa(iaa_rig(data), IaaOpcode.DECOMPRESS, len(data))
    assert (record.status, record.error_code) == (Status.ANALYTICS_ERROR, 1)


def test_iaa_buffers_do_not_overlap():
    rig = iaa_rig(TEXT)
    assert iaa(rig, IaaOpcode.COMPRESS, len(TEXT), destination=SRC + 10).status == Status.OVERLAP


@pytest.mark.parametrize("opcode", [IaaOpcode.COMPRESS, IaaOpcode.DECOMPRESS, IaaOpcode.CRC64, IaaOpcode.MEMMOVE])
def test_a_fault_ends_an_operation_of_iaa(opcode):
    room = 0 if opcode is IaaOpcode.MEMMOVE else 4096
    record = iaa(Rig(iaa=True), opcode, 4, room, source1=0x9_0000)
    assert (record.status, record.fault_addr) == (Status.PAGE_FAULT_NO_BOF, 0x9_0000)


def test_crc64_is_that_of_ecma_182():
    rig = iaa_rig(b"123456789")
    polynomial = 0x42F0_E1EB_A9EA_3693
    halves = {"filter_flags": polynomial & 0xFFFF_FFFF, "num_inputs": polynomial >> 32}
    record = iaa(rig, IaaOpcode.CRC64, 9, 0, **halves)
    assert record.min << 32 | record.crc == 0x6C40_DF5F_0B49_7347  # CRC-64/ECMA-182, check value


def test_iaa_has_no_fill():
    assert Rig(iaa=True).do(Opcode.FILL, source1_size=4).status == Status.BAD_OPCODE


@settings(max_examples=50, deadline=None)
@given(st.binary(min_size=1, max_size=3000))
def test_inflating_what_was_deflated_gives_it_back(data):
    rig = iaa_rig(data)
    packed = iaa(rig, IaaOpcode.COMPRESS, len(data), 0x3000).output_size
    back = iaa(rig, IaaOpcode.DECOMPRESS, packed, 0x3000, source1=DST, destination=SRC)
    assert (back.status, rig.memory.get(A, SRC, len(data))) == (OK, data)


@settings(max_examples=100, deadline=None)
@given(st.binary(min_size=1, max_size=200))
def test_any_bytes_may_be_inflated(data):
    assert iaa(iaa_rig(data), IaaOpcode.DECOMPRESS, len(data)).status in (OK, 0x0A, 0x0B)


# --- faults on the way out -----------------------------------------------------------------------------------------


def test_a_delta_record_that_cannot_be_written_is_a_fault_on_write():
    record = create(delta_rig(), delta=0x9_0000)
    assert (record.status, record.fault_write, record.fault_addr) == (3, True, 0x9_0000)


def test_applying_a_delta_wants_aligned_addresses():
    record = Rig().do(Opcode.APPLY_DELTA, source=DELTA, destination=DST + 4, size=32, operation_specific=20)
    assert record.status == Status.ADDRESS_ALIGNMENT


@pytest.mark.parametrize(("destination", "second"), [(DST, 0x9_0000), (0x9_0000, DST)])
def test_a_fault_ends_a_dualcast(destination, second):
    record = Rig().do(Opcode.DUALCAST, source=SRC, destination=destination, size=4, operation_specific=second)
    assert (record.status, record.fault_write, record.fault_addr) == (3, True, 0x9_0000)


def test_output_of_iaa_that_cannot_be_written_is_a_fault_on_write():
    record = iaa(iaa_rig(TEXT), IaaOpcode.COMPRESS, len(TEXT), destination=0x9_0000)
    assert (record.status, record.fault_write, record.output_size) == (3, True, 0)
