"""Golden encodings of descriptors, completion records and registers, worked out by hand from the kernel's headers."""

from __future__ import annotations

from dataclasses import fields

import pytest

from pasidlab.devices.idxd.descriptors import (
    DsaCompletion,
    DsaDescriptor,
    Flags,
    IaaCompletion,
    IaaDescriptor,
    IaaOpcode,
    Opcode,
    Status,
    build,
    build_iaa,
    parse,
    status_name,
)
from pasidlab.devices.idxd.library import ALL_OPERANDS, OPERANDS, OPERATIONS, Request
from pasidlab.devices.idxd.registers import (
    Cmd,
    Cmdsts,
    Command,
    Gencap,
    MsixPerm,
    Portal,
    Swerr,
    Wqcap,
    Wqcfg,
    WqMode,
    portal_offset,
)


def qwords(data: bytes) -> list[int]:
    return [int.from_bytes(data[at : at + 8], "little") for at in range(0, len(data), 8)]


MEMMOVE = [0x0300000E_00012345, 0x7000, 0x1234_5000, 0xABCD_E000, 0x0000_0000_0000_1000, 0, 0, 0]


def test_a_memmove_with_a_record_is_these_words():
    flags = Flags.BOF | Flags.CRAV | Flags.RCR
    fields = {"completion_addr": 0x7000, "source": 0x1234_5000, "destination": 0xABCD_E000, "size": 0x1000}
    data = build(Opcode.MEMMOVE, flags, **fields)
    assert qwords((0x12345).to_bytes(4, "little") + data[4:]) == MEMMOVE


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("pasid", 0x12344),
        ("priv", 1),
        ("bof", 0),
        ("crav", 0),
        ("rcr", 0),
        ("opcode", 4),
        ("completion_addr", 0x7020),
        ("source", 0x1234_5001),
        ("destination", 0xABCD_E001),
        ("size", 0x1001),
        ("int_handle", 1),
        ("operation_specific", 1),
    ],
)
def test_each_field_of_it_has_bits_of_its_own(field, value):
    golden = DsaDescriptor.from_words(*MEMMOVE)
    changed = golden.replace(**{field: value})
    assert list(changed.words) != MEMMOVE
    assert bin(golden ^ changed).count("1") == 1 or field == "opcode"


def test_dword_0_of_enqcmd_is_in_the_golden_words():
    assert parse(DsaDescriptor.from_words(*MEMMOVE).pack()).dword0 == 0x0001_2345


def test_parsing_takes_the_same_fields_out_that_the_word_has():
    descriptor = parse(DsaDescriptor.from_words(*MEMMOVE).pack())
    assert (descriptor.pasid, descriptor.priv, descriptor.opcode) == (0x12345, False, Opcode.MEMMOVE)
    assert descriptor.flags == 0xE
    assert descriptor[3:7] == (0x7000, 0x1234_5000, 0xABCD_E000, 0x1000)


def test_priv_is_bit_31_of_dword_0():
    assert parse(DsaDescriptor(priv=True).pack()).priv
    assert DsaDescriptor(priv=True) == 1 << 31


@pytest.mark.parametrize(
    ("flag", "bit"),
    [("FENCE", 0), ("BOF", 1), ("CRAV", 2), ("RCR", 3), ("RCI", 4), ("CRSTS", 5), ("CR", 7), ("CC", 8), ("DSTS", 15)],
)
def test_flags_are_where_the_kernel_has_them(flag, bit):
    assert Flags[flag] == 1 << bit
    assert getattr(DsaDescriptor(1 << 32 + bit), flag.lower())


@pytest.mark.parametrize(
    ("name", "code"),
    {
        "BATCH": 1,
        "DRAIN": 2,
        "FILL": 4,
        "DUALCAST": 9,
        "TRANSLATION_FETCH": 0x0A,
        "CRC_GEN": 0x10,
        "COPY_CRC": 0x11,
        "DIX_GEN": 0x17,
        "CACHE_FLUSH": 0x20,
    }.items(),
)
def test_opcodes_are_those_of_the_kernel(name, code):
    assert Opcode[name] == code


def test_iaa_opcodes_are_those_of_the_kernel():
    assert (IaaOpcode.DECOMPRESS, IaaOpcode.COMPRESS, IaaOpcode.CRC64) == (0x42, 0x43, 0x44)


@pytest.mark.parametrize(
    ("name", "code"),
    {
        "PAGE_FAULT_NO_BOF": 3,
        "PAGE_FAULT_INVALID": 4,
        "BATCH_FAILED": 5,
        "BATCH_PAGE_FAULT": 6,
        "BAD_OPCODE": 0x10,
        "INVALID_FLAGS": 0x11,
        "RESERVED_NOT_ZERO": 0x12,
        "TRANSFER_SIZE": 0x13,
        "RECORD_TRANSLATION": 0x1A,
        "RECORD_ALIGNMENT": 0x1B,
        "BAD_PRIV": 0x1D,
        "TRANSLATION_FAILED": 0x22,
        "OUTPUT_OVERFLOW": 0x0B,
        "ANALYTICS_ERROR": 0x0A,
        "INT_HANDLE": 0x19,
        "DUALCAST": 0x17,
    }.items(),
)
def test_status_codes_are_those_of_the_kernel(name, code):
    assert Status[name] == code


def test_an_iaa_descriptor_is_these_words():
    fields = {"source1": 0x1000, "destination": 0x2000, "source1_size": 0x100, "max_destination_size": 0x80}
    data = build_iaa(IaaOpcode.COMPRESS, Flags.CRAV, completion_addr=0x40, compression_flags=0x101, **fields)
    assert qwords(data) == [0x43000004_00000000, 0x40, 0x1000, 0x2000, 0x0101_0000_0000_0100, 0, 0x80, 0]


def test_the_second_source_of_iaa_follows():
    word = IaaDescriptor(source2=0x5000, source2_size=0x10, filter_flags=1, num_inputs=2)
    assert word.words[5:] == (0x5000, 0x10 << 32, 2 << 32 | 1)


def test_a_page_fault_record_is_these_words():
    record = DsaCompletion.from_words(0x0000_0010_0000_0083, 0x1000_4000, 0, 0)
    assert (record.status, record.fault_write, record.bytes_completed) == (3, True, 16)
    assert record.fault_addr == 0x1000_4000
    assert not DsaCompletion.from_words(0x0000_0010_0000_0003).fault_write


def test_an_iaa_record_has_its_output_size_in_bytes_24_to_27():
    record = IaaCompletion.from_words(1, 0, 0, 0x1234_0000_0000_0055, 0xDEAD_BEEF, 0, 0, 0)
    assert (record.output_size, record.xor_csum, record.crc) == (0x55, 0x1234, 0xDEAD_BEEF)


def test_wqcfg_has_its_pasid_in_bits_27_to_8_of_dword_2():
    config = Wqcfg(mode=WqMode.DEDICATED, pasid=0x12345, pasid_en=True, priority=1, bof=True)
    assert config.words == (0, 0x1123_4513, 0, 0)
    assert config.replace(priv=True).words[1] == 0x3123_4513
    assert config.replace(mode=WqMode.SHARED).words[1] == 0x1123_4512


def test_wqcfg_has_its_state_in_bits_31_to_30_of_dword_6():
    assert Wqcfg(1 << 222).wq_state == 1
    assert Wqcfg(wq_size=16, wq_thresh=8).words[0] == 8 << 32 | 16


def test_a_command_is_its_operand_and_code():
    assert Cmd(cmd=Command.DRAIN_PASID, operand=0x12345, int_req=True) == 0x80B1_2345
    assert Cmd(cmd=Command.ABORT_PASID, operand=0x12345) == 0x00C1_2345
    assert Cmdsts(0x26).err == 0x26


def test_the_capabilities_of_a_first_generation_dsa_read_as_its_driver_reads_them():
    gencap, wqcap = Gencap(0x40_915F_010F), Wqcap(0x3F_0000_0008_0080)
    assert (gencap.block_on_fault, gencap.max_xfer_shift, gencap.max_batch_shift) == (True, 31, 10)
    assert gencap.config_en
    assert (wqcap.total_wq_size, wqcap.num_wqs, wqcap.shared_mode, wqcap.dedicated_mode) == (128, 8, True, True)
    assert wqcap.wq_ats_support
    assert not wqcap.wq_prs_support


def test_an_msix_permission_has_its_pasid_in_bits_31_to_12():
    assert MsixPerm(pasid=0x12345, pasid_en=True) == 0x1234_5008


def test_swerr_has_its_pasid_in_bits_59_to_40():
    error = Swerr(valid=True, desc_valid=True, wq_idx_valid=True, error=0x1A, wq_idx=1, operation=3, pasid=0x12345)
    assert error.words[0] == 0x0123_4503_0001_1A0D


def test_portals_of_a_queue_are_four_pages():
    assert [portal_offset(2, portal) for portal in Portal] == [0x8000, 0x9000, 0xA000, 0xB000]
    assert portal_offset(0) == 0x1000


def test_a_request_is_packed_as_its_descriptor():
    request = Request(Opcode.MEMMOVE, 0x1234_5000, 0xABCD_E000, 0x1000, completion=0x7000)
    assert qwords(request.pack())[1:] == MEMMOVE[1:]
    assert qwords(request.pack())[0] == MEMMOVE[0] - 0x12345


def test_a_pattern_stands_in_the_source_of_a_fill_and_in_the_destination_of_a_compare():
    assert parse(Request(Opcode.FILL, pattern=b"ab").pack()).source == 0x6261
    assert parse(Request(Opcode.COMPARE_PATTERN, 5, pattern=b"ab").pack())[4:6] == (5, 0x6261)


def test_a_field_that_does_not_fit_is_named():
    with pytest.raises(ValueError, match=r"^DsaDescriptor\.size=0x100000000 does not fit bits 287:256$"):
        Request(Opcode.FILL, size=1 << 32).pack()


def test_the_operands_of_every_operation_are_fields_of_a_request():
    assert set(OPERANDS) == {opcode for operations in OPERATIONS.values() for opcode in operations.values()}
    assert set(ALL_OPERANDS) < {field.name for field in fields(Request)}


def test_each_kind_has_its_own_operations():
    assert "fill" in OPERATIONS["dsa"]
    assert "fill" not in OPERATIONS["iaa"]
    assert OPERATIONS["iaa"]["compress"] is IaaOpcode.COMPRESS


def test_a_status_is_named_without_its_write_bit():
    assert status_name(0x83) == "page fault, block on fault not set"
    assert status_name(0x10) == "bad opcode"
    assert status_name(0x3F) == "status 0x3f"


def test_a_request_of_iaa_has_room_for_output():
    word = IaaDescriptor.unpack(Request(IaaOpcode.DECOMPRESS, 0x1000, 0x2000, 0x30, room=0x80, completion=0x40).pack())
    assert (word.source1, word.source1_size, word.destination) == (0x1000, 0x30, 0x2000)
    assert (word.max_destination_size, word.completion_addr, word.bof) == (0x80, 0x40, True)
