"""PCI Express messages that carry PASIDs: exact bytes both ways, and what is no such message."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pasidlab.errors import InputError
from pasidlab.formats import FORMATS, decode, decode_bytes, decode_words, find_format, hex_words
from pasidlab.hw.pcie import (
    AddressType,
    CompletionStatus,
    Cpl,
    CplD,
    Fmt,
    InvalidateCompletion,
    InvalidateRange,
    InvalidateRequest,
    MemoryRead32,
    MemoryRead64,
    MemoryWrite32,
    MemoryWrite64,
    PageRequest,
    PasidPrefix,
    PrgResponse,
    ResponseCode,
    Tlp,
    TlpError,
    TranslationEntry,
    TranslationRequest32,
    TranslationRequest64,
    parse,
    stop_marker,
)
from pasidlab.hw.pcie.headers import KINDS, Header
from pasidlab.hw.pcie.wire import BigEndianWord

from .conftest import Command

USER = PasidPrefix.make(0x12345)
RANGE = InvalidateRange.covering(0x7F00_1234_0000, 15)
ENTRIES = (
    TranslationEntry(addr=0x8_8765_4000, r=True, w=True),
    TranslationEntry.covering(0x8_8760_0000, 21, r=True, exe=True, priv=True, global_=True, n=True),
)
GOLDEN: list[tuple[str, Tlp]] = [
    (
        "20000001 0100ab0f 00007f00 12345678",
        Tlp(MemoryRead64.make(requester_id=0x100, tag=0xAB, first_be=0xF, addr=0x7F00_1234_5678, length=1)),
    ),
    (
        "91012345 20000001 0100ab0f 00007f00 12345678",
        Tlp(MemoryRead64.make(requester_id=0x100, tag=0xAB, first_be=0xF, addr=0x7F00_1234_5678, length=1), USER),
    ),
    (
        "00000001 0100ab0f 12345678",
        Tlp(MemoryRead32.make(requester_id=0x100, tag=0xAB, first_be=0xF, addr=0x1234_5678, length=1)),
    ),
    (
        "40000801 01000003 88765000 beef0000",
        Tlp.make(
            MemoryWrite32.make(requester_id=0x100, first_be=3, addr=0x8876_5000, at=AddressType.TRANSLATED),
            payload=bytes.fromhex("beef0000"),
        ),
    ),
    (
        "91c12345 60000002 010000ff 00007f00 12345000 0001020304050607",
        Tlp.make(
            MemoryWrite64.make(requester_id=0x100, first_be=15, last_be=15, addr=0x7F00_1234_5000),
            PasidPrefix.make(0x12345, pmr=True, exe=True),
            bytes(range(8)),
        ),
    ),
    (
        "91012345 20000404 010005ff 00007f00 12345001",
        Tlp(
            TranslationRequest64.make(
                requester_id=0x100,
                tag=5,
                length=4,
                first_be=15,
                last_be=15,
                untranslated_address=0x7F00_1234_5000,
                nw=True,
            ),
            USER,
        ),
    ),
    (
        "00000402 010005ff 12345000",
        Tlp(
            TranslationRequest32.make(
                requester_id=0x100, tag=5, length=2, first_be=15, last_be=15, untranslated_address=0x1234_5000
            )
        ),
    ),
    (
        "4a000004 02000010 01000500 0000000887654003 00000008876ffc39",
        Tlp.make(
            CplD.make(completer_id=0x200, requester_id=0x100, tag=5, byte_count=16),
            payload=b"".join(one.pack() for one in ENTRIES),
        ),
    ),
    (
        "0a000000 02002000 01000500",
        Tlp(Cpl.make(completer_id=0x200, requester_id=0x100, tag=5, status=CompletionStatus.UR)),
    ),
    (
        "91012345 72000002 00f81f01 01000000 00000000 00007f0012343800",
        Tlp.make(InvalidateRequest.make(requester_id=0xF8, itag=31, device_id=0x100), USER, RANGE.pack()),
    ),
    (
        "32000000 01000002 00f80001 80000000",
        Tlp(InvalidateCompletion.make(requester_id=0x100, device_id=0xF8, cc=1, itag_vector=1 << 31)),
    ),
    (
        "91012345 30000000 01000004 00007f00 123450d7",
        Tlp(
            PageRequest.make(
                requester_id=0x100, page_address=0x7F00_1234_5000, prg_index=0x1A, last=True, write=True, read=True
            ),
            USER,
        ),
    ),
    (
        "91012345 32000000 00f80005 0100101a 00000000",
        Tlp(
            PrgResponse.make(
                requester_id=0xF8, device_id=0x100, prg_index=0x1A, response_code=ResponseCode.INVALID_REQUEST
            ),
            USER,
        ),
    ),
    ("91012345 30000000 01000004 00000000 00000004", stop_marker(0x100, 0x12345)),
]
NAMES = [f"{number}-{type(tlp.header).__name__}" for number, (_, tlp) in enumerate(GOLDEN)]


def test_the_golden_bytes_have_every_kind() -> None:
    assert {type(tlp.header) for _, tlp in GOLDEN} == set(KINDS)


class TestGolden:
    @pytest.mark.parametrize(("text", "tlp"), GOLDEN, ids=NAMES)
    def test_a_tlp_is_these_bytes_and_the_bytes_are_this_tlp(self, text: str, tlp: Tlp) -> None:
        assert tlp.pack().hex() == text.replace(" ", "")
        read = parse(bytes.fromhex(text))
        assert read == tlp
        assert type(read.header) is type(tlp.header)

    @pytest.mark.parametrize(("text", "tlp"), GOLDEN, ids=NAMES)
    def test_a_sibling_with_one_bit_changed_is_another_tlp_or_none(self, text: str, tlp: Tlp) -> None:
        data = bytes.fromhex(text)
        for bit in range(len(data) * 8):
            sibling = bytearray(data)
            sibling[bit // 8] ^= 0x80 >> bit % 8
            try:
                read = parse(bytes(sibling))
            except TlpError:
                continue
            assert read != tlp
            assert read.pack() == sibling

    @pytest.mark.parametrize(("text", "tlp"), GOLDEN, ids=NAMES)
    def test_a_byte_less_and_a_byte_more_are_refused(self, text: str, tlp: Tlp) -> None:
        data = tlp.pack()
        for cut in (*(data[:size] for size in range(len(data))), data + b"\0"):
            with pytest.raises(TlpError, match=rf"^{len(cut)} bytes: "):
                parse(cut)


class TestPrefix:
    @pytest.mark.parametrize(
        ("text", "prefix"),
        [
            ("91012345", PasidPrefix.make(0x12345)),
            ("91812345", PasidPrefix.make(0x12345, pmr=True)),
            ("91412345", PasidPrefix.make(0x12345, exe=True)),
            ("910fffff", PasidPrefix.make(0xF_FFFF)),
        ],
    )
    def test_privileged_is_bit_7_and_execute_bit_6_of_byte_1(self, text: str, prefix: PasidPrefix) -> None:
        assert prefix.pack().hex() == text
        assert PasidPrefix.unpack(bytes.fromhex(text)) == prefix
        assert prefix.reserved == 0

    def test_a_pasid_has_20_bits(self) -> None:
        with pytest.raises(ValueError, match=r"PasidPrefix.pasid=0x100000 does not fit bits 19:0"):
            PasidPrefix.make(1 << 20)

    def test_a_tlp_knows_its_pasid(self) -> None:
        assert stop_marker(1, 5).pasid == 5
        assert Tlp(PageRequest.make()).pasid is None

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("90000000", "byte 0 is 0x90: not a prefix that is known; allowed: 0x91, PASID"),
            ("9101", "2 bytes: the PASID prefix has 4"),
            ("91012345", "4 bytes: no header; allowed: 12 bytes or more from byte 4 on"),
            ("91012345 91012345", "byte 4 is 0x91: not a format and type that is known; allowed: 0x00, 0x0a, 0x20, "),
            ("91012345 20", "5 bytes: the header at byte 4 has 16, and 1 are there"),
        ],
    )
    def test_what_is_wrong_with_a_prefix_is_named(self, text: str, message: str) -> None:
        with pytest.raises(TlpError) as caught:
            parse(bytes.fromhex(text))
        assert str(caught.value).startswith(message)


class TestRefused:
    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "0 bytes: no header; allowed: 12 bytes or more from byte 0 on"),
            (
                "04000001" + "00" * 8,
                "byte 0 is 0x04: not a format and type that is known; allowed: "
                "0x00, 0x0a, 0x20, 0x30, 0x32, 0x40, 0x4a, 0x60, 0x72",
            ),
            ("e0000001", "byte 0 is 0xe0: not a format and type that is known"),
            ("30000000 01000018" + "00" * 8, "byte 7 is 0x18: not a message code after 0x30 that is known"),
            (
                "91000001 32000000 01000004" + "00" * 8,
                "byte 11 is 0x04: not a message code after 0x32 that is known; allowed: 0x02, 0x05",
            ),
            ("00000403" + "00" * 8, "TranslationRequest32.length=3: a translation has 2 dwords; allowed: even numbers"),
            (
                "72000001 00000001" + "00" * 12,
                "InvalidateRequest.length=1: the range has 2 dwords; allowed: 2",
            ),
            ("40000002" + "00" * 12, "16 bytes: MemoryWrite32 at byte 0 says that the TLP has 20"),
            ("40000000" + "00" * 12, "16 bytes: MemoryWrite32 at byte 0 says that the TLP has 4108"),
            ("00008001" + "00" * 8, "12 bytes: MemoryRead32 at byte 0 says that the TLP has 16"),
        ],
    )
    def test_the_byte_or_field_is_named_with_what_is_allowed(self, text: str, message: str) -> None:
        with pytest.raises(TlpError) as caught:
            parse(bytes.fromhex(text))
        assert str(caught.value).startswith(message)

    def test_the_error_is_a_value_error_and_bad_input(self) -> None:
        assert issubclass(TlpError, ValueError)
        assert issubclass(TlpError, InputError)

    @pytest.mark.parametrize(
        ("header", "payload", "message"),
        [
            (MemoryWrite32.make(), b"", "payload: 0 bytes; allowed: whole dwords, 4 to 4096 bytes"),
            (MemoryWrite32.make(), b"12345", "payload: 5 bytes; allowed: whole dwords"),
            (MemoryWrite32.make(), bytes(4100), "payload: 4100 bytes; allowed: whole dwords"),
            (MemoryRead32.make(length=1), b"1234", "payload: 4 bytes; 0 are what the header says"),
            (InvalidateRequest.make(), bytes(16), "InvalidateRequest.length=4: the range has 2 dwords; allowed: 2"),
            (PageRequest(PageRequest.make(), message_code=5), b"", "PageRequest("),
            (MemoryRead32.make(at=1, length=2), b"", "MemoryRead32("),
            (PageRequest(), b"", "PageRequest("),
        ],
    )
    def test_parts_that_do_not_belong_together_make_no_tlp(self, header: Header, payload: bytes, message: str) -> None:
        with pytest.raises(TlpError) as caught:
            Tlp.make(header, None, payload)
        assert str(caught.value).startswith(message)

    def test_a_header_of_another_kind_says_which(self) -> None:
        with pytest.raises(TlpError, match="not a MemoryRead32 by its fields, but a TranslationRequest32"):
            Tlp(MemoryRead32.make(at=1, length=2))
        with pytest.raises(TlpError, match="not a PageRequest by its fields, but none that is known"):
            Tlp(PageRequest.make(message_code=5))

    @pytest.mark.parametrize("size", [3, 5])
    def test_a_digest_is_one_dword(self, size: int) -> None:
        with pytest.raises(TlpError, match=f"digest: {size} bytes; 4 are what the header says"):
            Tlp.make(MemoryRead32.make(length=1), digest=bytes(size))

    def test_a_payload_of_1024_dwords_has_length_0(self) -> None:
        tlp = Tlp.make(MemoryWrite64.make(), payload=bytes(4096))
        assert tlp.header.length == 0
        assert parse(tlp.pack()) == tlp

    def test_a_digest_ends_the_tlp(self) -> None:
        tlp = Tlp.make(MemoryWrite32.make(), USER, b"data", b"ecrc")
        assert tlp.pack().endswith(b"dataecrc")
        assert parse(tlp.pack()) == tlp


class TestMessages:
    def test_each_field_of_each_header_reads_back_alone(self) -> None:
        for kind in KINDS:
            for name, field in kind.FIELDS.items():
                value = field.mask >> field.lsb << field.shift
                header = kind(**{name: value})
                assert int.from_bytes(header.pack(), "big") == field.mask
                assert getattr(kind.unpack(header.pack()), name) == value

    def test_a_translation_request_asks_for_half_as_many_as_its_dwords(self) -> None:
        assert [TranslationRequest64.make(length=n).translations for n in (2, 4, 0)] == [1, 2, 512]
        assert TranslationRequest32.make(length=6).translations == 3

    def test_a_completion_has_an_entry_for_each_translation(self) -> None:
        assert parse(bytes.fromhex(GOLDEN[7][0])).entries == ENTRIES

    @pytest.mark.parametrize(
        "tlp",
        [Tlp.make(CplD.make(), payload=bytes(12)), Tlp(Cpl.make()), Tlp.make(MemoryWrite32.make(), payload=bytes(8))],
    )
    def test_what_is_no_whole_number_of_entries_has_none(self, tlp: Tlp) -> None:
        with pytest.raises(TlpError, match="no translations; allowed: CplD with 8 bytes for each"):
            _ = tlp.entries

    def test_only_an_invalidate_request_has_a_range(self) -> None:
        tlp = Tlp.make(InvalidateRequest.make(), payload=RANGE.pack())
        assert tlp.invalidate_range == RANGE
        with pytest.raises(TlpError, match="PageRequest: has no range; allowed: InvalidateRequest"):
            _ = stop_marker(1, 2).invalidate_range

    def test_a_reserved_response_code_is_kept_without_a_name(self) -> None:
        response = parse(bytes.fromhex("32000000 00f80005 0100701a 00000000")).header
        assert isinstance(response, PrgResponse)
        assert response.response_code == 7
        assert {shown.field.name: shown.meaning for shown in response.values()}["response_code"] == ""

    @pytest.mark.parametrize(("code", "digits"), [(0, "001a"), (1, "101a"), (0xF, "f01a")])
    def test_the_response_code_lies_above_the_prg_index(self, code: int, digits: str) -> None:
        response = PrgResponse.make(prg_index=0x1A, response_code=code)
        assert response.pack()[10:12].hex() == digits

    @pytest.mark.parametrize(
        ("fields", "prefix", "is_marker"),
        [
            ({"last": True}, USER, True),
            ({"last": True}, None, False),
            ({"last": True, "read": True}, USER, False),
            ({"last": True, "write": True}, USER, False),
            ({}, USER, False),
        ],
    )
    def test_a_stop_marker_is_last_without_rights_and_has_a_pasid(
        self, fields: dict[str, bool], prefix: PasidPrefix | None, is_marker: bool
    ) -> None:
        assert Tlp(PageRequest.make(**fields), prefix).is_stop_marker is is_marker

    def test_another_message_is_no_stop_marker(self) -> None:
        assert not Tlp(PrgResponse.make(), USER).is_stop_marker


class TestRanges:
    @pytest.mark.parametrize(
        ("first", "lg2", "text"),
        [
            (0x7000, 12, "0000000000007000"),
            (0x6000, 13, "0000000000006800"),
            (0x4000, 14, "0000000000005800"),
            (0x8000, 15, "000000000000b800"),
            (0x20_0000, 21, "00000000002ff800"),
            (0, 63, "3ffffffffffff800"),
            (0, 64, "7ffffffffffff800"),
        ],
    )
    def test_the_lowest_zero_bit_tells_the_size(self, first: int, lg2: int, text: str) -> None:
        for word in (InvalidateRange, TranslationEntry):
            made = word.covering(first, lg2)
            assert made.pack().hex() == text
            read = word.unpack(bytes.fromhex(text))
            assert (read.first, read.lg2) == (first, lg2)

    def test_all_ones_mean_everything(self) -> None:
        word = InvalidateRange(0xFFFF_FFFF_FFFF_F800)
        assert (word.first, word.lg2) == (0, 64)

    def test_without_s_ones_are_address(self) -> None:
        word = TranslationEntry(addr=0x7000)
        assert (word.first, word.lg2) == (0x7000, 12)

    @pytest.mark.parametrize(
        ("first", "lg2", "message"),
        [
            (0, 11, "InvalidateRange: lg2=11 has no code; allowed: 12 to 64"),
            (0, 65, "InvalidateRange: lg2=65 has no code; allowed: 12 to 64"),
            (0x1000, 13, "InvalidateRange: first=0x1000 is not aligned to 0x2000"),
        ],
    )
    def test_a_range_without_a_code_is_refused(self, first: int, lg2: int, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            InvalidateRange.covering(first, lg2)

    @given(st.integers(12, 64), st.integers(0, 2**64 - 1))
    def test_every_aligned_range_reads_back(self, lg2: int, somewhere: int) -> None:
        first = somewhere >> lg2 << lg2
        made = TranslationEntry.covering(first, lg2, r=True)
        assert (made.first, made.lg2, made.r, made.w) == (first, lg2, True, False)

    @given(st.integers(0, 2**64 - 1))
    def test_any_word_is_an_aligned_range_within_64_bits(self, raw: int) -> None:
        word = InvalidateRange(raw)
        assert 12 <= word.lg2 <= 64
        assert word.first % (1 << word.lg2) == 0
        assert word.first + (1 << word.lg2) <= 1 << 64

    @pytest.mark.parametrize(
        ("name", "bit"),
        [("r", 0), ("w", 1), ("u", 2), ("exe", 3), ("priv", 4), ("global_", 5), ("n", 10), ("s", 11)],
    )
    def test_the_bits_of_a_translation(self, name: str, bit: int) -> None:
        assert TranslationEntry(**{name: True}) == 1 << bit


# --- properties ----------------------------------------------------------------------------------------------------


@st.composite
def tlps(draw: st.DrawFn) -> Tlp:
    kind = draw(st.sampled_from(KINDS))
    free = {name: field for name, field in kind.FIELDS.items() if name not in (*kind.KIND, "td", "length")}
    if issubclass(kind, MemoryRead32 | MemoryRead64):
        free.pop("at")
    fields = {name: draw(st.integers(0, (1 << field.width) - 1)) << field.shift for name, field in free.items()}
    header = kind.make(**fields)
    payload = b""
    if header.fmt in (Fmt.DW3_DATA, Fmt.DW4_DATA):
        dwords = 2 if kind is InvalidateRequest else draw(st.integers(1, 6))
        payload = draw(st.binary(min_size=4 * dwords, max_size=4 * dwords))
    prefix = draw(st.none() | st.builds(PasidPrefix.make, st.integers(0, 2**20 - 1), pmr=st.booleans()))
    return Tlp.make(header, prefix, payload, draw(st.just(b"") | st.binary(min_size=4, max_size=4)))


@given(tlps())
def test_every_tlp_reads_back(tlp: Tlp) -> None:
    read = parse(tlp.pack())
    assert read == tlp
    assert type(read.header) is type(tlp.header)
    assert read.pack() == tlp.pack()


def outcome(data: bytes) -> bytes | str:
    """What the TLP packs to, or why there is none."""
    try:
        return parse(data).pack()
    except TlpError as error:
        return str(error)


FIRST_BYTES = st.sampled_from(sorted({tlp.pack()[0] for _, tlp in GOLDEN}))
LIKELY = st.builds(lambda first, rest: bytes([first]) + rest, FIRST_BYTES, st.binary(max_size=48))


@given(st.binary(max_size=48) | LIKELY)
def test_any_bytes_are_a_tlp_that_packs_to_them_or_a_named_error(data: bytes) -> None:
    found = outcome(data)
    named = ("byte ", f"{len(data)} bytes: ", "TranslationRequest", "InvalidateRequest")
    assert found.startswith(named) if isinstance(found, str) else found == data


@given(tlps(), st.data())
def test_damaged_bytes_fail_in_no_other_way(tlp: Tlp, draw: st.DataObject) -> None:
    data = bytearray(tlp.pack())
    data[draw.draw(st.integers(0, min(len(data), 20) - 1))] = draw.draw(st.integers(0, 255))
    found = outcome(bytes(data))
    assert isinstance(found, str) or found == data


# --- words on the wire, and decode ---------------------------------------------------------------------------------


class TestWire:
    def test_byte_0_is_the_most_significant(self) -> None:
        header = Cpl.make(tag=0xAB)
        assert header.pack() == int(header).to_bytes(12, "big")
        assert header.pack()[10] == 0xAB

    def test_words_are_those_of_the_first_bytes_first_and_the_last_may_be_short(self) -> None:
        header = Cpl.unpack(bytes(range(12)))
        assert header.words == (0x0001_0203_0405_0607, 0x0809_0A0B)
        assert Cpl.from_words(*header.words) == header
        assert hex_words(header) == ["0x0001020304050607", "0x08090a0b"]

    @given(st.sampled_from((*KINDS, PasidPrefix, TranslationEntry)), st.data())
    def test_bytes_and_words_of_every_word_read_back(self, kind: type[BigEndianWord], data: st.DataObject) -> None:
        word = kind(data.draw(st.integers(0, (1 << kind.SIZE) - 1)))
        assert kind.unpack(word.pack()) == kind.from_words(*word.words) == word

    @pytest.mark.parametrize("size", [3, 5])
    def test_a_wrong_number_of_bytes_is_no_word(self, size: int) -> None:
        with pytest.raises(ValueError, match=f"PasidPrefix: {size} bytes given; it has 4"):
            PasidPrefix.unpack(bytes(size))


class TestDecode:
    def test_every_word_of_these_messages_has_a_format(self) -> None:
        names = {name.removeprefix("pcie.") for name in FORMATS if name.startswith("pcie.")}
        assert names == {
            "pasid_prefix",
            *("memory", "memory_32", "ats_request", "ats_request_32", "ats_completion", "ats_entry"),
            *("invalidate", "invalidate_range", "invalidate_cpl", "page_request", "prg_response"),
        }

    @given(st.sampled_from([name for name in FORMATS if name.startswith("pcie.")]), st.data())
    def test_bytes_and_printed_words_say_the_same(self, name: str, data: st.DataObject) -> None:
        form = find_format(name)
        decoded = decode(form, data.draw(st.integers(0, (1 << form.bits) - 1)))
        assert decode_bytes(form, decoded.word.pack().hex()) == decoded
        assert decode_words(form, " ".join(hex_words(decoded.word))) == decoded

    def test_a_prefix_is_read_as_it_is_sent(self, pasidlab: Command) -> None:
        out = pasidlab("decode", "pcie.pasid_prefix", "--bytes", "91812345").out
        assert "pasid │  19:0 │ 0x12345 │" in out
        assert "pmr   │    23 │       1 │" in out
        assert out == pasidlab("decode", "pcie.pasid_prefix", "0x91812345").out

    def test_a_page_request_of_two_words(self, pasidlab: Command) -> None:
        done = pasidlab("decode", "pcie.page_request", "0x3000000001000004", "0x00007f00123450d7", "--json")
        fields = {field["name"]: field["value"] for field in json.loads(done.out)["fields"]}
        assert (fields["page_address"], fields["prg_index"]) == (0x7F00_1234_5000, 0x1A)
        assert (fields["last"], fields["write"], fields["read"], fields["requester_id"]) == (1, 1, 1, 0x100)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("pcie.pasid_prefix", "--bytes", "910123"), "HEX: pcie.pasid_prefix has 4 bytes; 3 given"),
            (("pcie.pasid_prefix", "191012345"), "HEX '191012345': pcie.pasid_prefix has 32 bits, and this does not"),
            (("pcie.ats_completion", "0", "100000000"), "HEX '0 100000000': pcie.ats_completion has 96 bits, and this"),
            (("pcie.ats_completion", "0"), "HEX: pcie.ats_completion has 2 64-bit words; 1 given"),
        ],
    )
    def test_a_wrong_size_is_named(self, pasidlab: Command, arguments: tuple[str, ...], message: str) -> None:
        done = pasidlab("decode", *arguments)
        assert (done.status, done.out) == (2, "")
        assert done.err.startswith(f"pasidlab: {message}")
