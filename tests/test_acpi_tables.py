"""What all ACPI tables share: the header, bounded reading, and files that hold several tables or acpidump's text."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pasidlab.errors import InputError
from pasidlab.platforms.acpi import dump
from pasidlab.platforms.acpi.dump import tables_in
from pasidlab.platforms.acpi.header import MOST_BYTES, AcpiHeader, read_table
from pasidlab.platforms.acpi.region import Region
from pasidlab.rules import Finding
from pasidlab.words import Word, bits
from tests.acpi_tables import summed, table

DATA = Path(__file__).parent / "data" / "platforms" / "acpi-arm"
IORT, VIOT = ((DATA / name).read_bytes() for name in ("qemu-smmuv3.iort.aml", "qemu-virtio.viot.aml"))
DUMP = (DATA / "acpidump.txt").read_bytes()


class Pair(Word, size=32):
    first = bits(15, 0)
    second = bits(31, 16)


# --- the header ----------------------------------------------------------------------------------------------------


def test_a_right_table_has_no_findings() -> None:
    one = read_table(IORT, "t", "IORT")
    assert (one.signature, one.checksum_ok, one.findings, len(one.region)) == ("IORT", True, [], len(IORT))
    assert (one.header.length, one.header.revision) == (236, 3)


def test_a_wrong_checksum_is_a_finding_that_tells_the_right_one() -> None:
    data = bytearray(IORT)
    data[9] = (data[9] + 1) & 0xFF
    one = read_table(bytes(data), "t")
    assert not one.checksum_ok
    assert [finding.why for finding in one.findings] == [
        f"t: the bytes of IORT add up to 0x01, not 0: checksum {data[9]:#04x}, right were {IORT[9]:#04x}"
    ]


def test_a_table_cut_short_is_read_as_far_as_it_goes() -> None:
    one = read_table(IORT[:100], "t")
    assert [finding.why for finding in one.findings] == ["t: IORT says that it has 236 bytes, and the file has 100"]
    assert (len(one.region), one.checksum_ok) == (100, False)


def test_bytes_behind_a_table_are_none_of_it() -> None:
    one = read_table(IORT + b"more", "t")
    assert (len(one.region), one.checksum_ok) == (len(IORT), True)


def test_a_length_smaller_than_the_header_is_a_finding_and_all_is_read() -> None:
    data = AcpiHeader.unpack(IORT[:36]).replace(length=35).pack() + IORT[36:]
    one = read_table(summed(data), "t")
    assert [finding.why for finding in one.findings] == [
        "t: IORT says that it has 35 bytes, fewer than its header of 36; all 236 of the file are read"
    ]
    assert (len(one.region), one.checksum_ok) == (len(IORT), False)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "t: 0 bytes are no ACPI table; its header alone has 36"),
        (b"IORT" + bytes(31), "t: 35 bytes are no ACPI table; its header alone has 36"),
        (b"\x7fELF" + bytes(60), r"t: begins with b'\x7fELF', which is no ACPI signature"),
        (VIOT, "t: is a table VIOT, not IORT"),
        (bytes(MOST_BYTES + 1), "t: larger than 1 MiB, the most that is read of a table"),
    ],
)
def test_what_is_no_such_table_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(InputError) as refused:
        read_table(data, "t", "IORT")
    assert str(refused.value) == why


# --- bounded reading -----------------------------------------------------------------------------------------------


def region(data: bytes, start: int = 0) -> Region:
    findings: list[Finding] = []
    return Region(data, "t", start, findings)


@pytest.mark.parametrize(("at", "left"), [(1, 3), (4, 0), (9, 0)])
def test_a_word_that_does_not_fit_is_a_finding_and_none(at: int, left: int) -> None:
    part = region(b"abcd", 0x10)
    assert part.read(Pair, at, "a pair") is None
    assert [finding.why for finding in part.findings] == [
        f"t, offset {hex(0x10 + at)}: a pair needs 4 bytes, and {left} are left"
    ]


def test_a_word_that_fits_is_read_where_it_lies() -> None:
    part = region(b"..\x01\0\x02\0")
    assert part.read(Pair, 2) == Pair(first=1, second=2)
    assert part.findings == []


def test_a_part_knows_its_place_and_ends_with_the_whole() -> None:
    whole = region(b"0123456789", 0x100)
    part = whole.part(4, 100)
    assert (part.data, part.start) == (b"456789", 0x104)
    assert part.part(20).data == b""
    assert part.findings is whole.findings


def test_text_ends_at_a_zero_and_shows_what_is_none_as_dots() -> None:
    assert region(b"xx\\_SB\x01\xff.\0more").text(2) == "\\_SB..."


def test_structures_end_at_a_length_that_cannot_be() -> None:
    part = region(b"\x02a\x03bc\x00zzz")
    found = [one.data for one in part.structures(lambda rest: rest.data[0], 1, "a thing")]
    assert found == [b"\x02a", b"\x03bc"]
    assert [finding.why for finding in part.findings] == [
        "t, offset 0x5: a thing says 0 bytes, allowed are 1 to 4; nothing after it is read"
    ]


# --- files of tables -----------------------------------------------------------------------------------------------


def test_a_binary_table_is_one() -> None:
    assert tables_in(IORT, "t") == [("IORT", IORT)]


def test_tables_one_after_another_are_told_apart_and_zeros_behind_the_last_passed_over() -> None:
    assert tables_in(IORT + VIOT + bytes(5), "t") == [("IORT", IORT), ("VIOT", VIOT)]


def test_a_table_whose_length_cannot_be_is_handed_on_with_the_rest_of_the_file() -> None:
    assert tables_in(VIOT + IORT[:100], "t") == [("VIOT", VIOT), ("IORT", IORT[:100])]


def test_what_acpidump_printed_is_the_tables_that_it_was_given() -> None:
    assert tables_in(DUMP, "t") == [("IORT", IORT), ("VIOT", VIOT)]


def test_text_around_and_between_dumped_tables_is_passed_over() -> None:
    mailed = b"IORT attached, 49 4F 52\n\n" + DUMP.replace(b"\n", b"\r\n").replace(b"\r\n\r\n", b"\r\n--\r\n\r\n")
    assert tables_in(mailed, "t") == [("IORT", IORT), ("VIOT", VIOT)]


@pytest.mark.parametrize("title", [b"RSD PTR", b"RSD "])
def test_the_root_pointer_in_a_dump_is_no_table(title: bytes) -> None:
    pointer = title + b" @ 0x00000000000F6A10\n    0000: 52 53 44 20 50 54 52 20  RSD PTR \n\n"
    assert tables_in(pointer + DUMP + pointer, "t") == [("IORT", IORT), ("VIOT", VIOT)]


def test_characters_that_look_like_bytes_are_none() -> None:
    data = summed(table("FAKE", b" 49 4F 52 20 41 42 AB CD"))
    lines = [b"FAKE @ 0x1234"]
    for at in range(0, len(data), 16):
        row = data[at : at + 16]
        lines.append(b"  %04x: %-48s %s" % (at, row.hex(" ").encode(), bytes(b if b > 31 else 46 for b in row)))
    assert tables_in(b"\n".join(lines), "t") == [("FAKE", data)]


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "t: is empty"),
        (b" \n", "t: is empty"),
        (b"hello", "t: holds no ACPI table: neither a binary one nor acpidump's text, as 'IORT @ 0x...'"),
        (bytes(9), r"t: begins with b'\x00\x00\x00\x00' at offset 0x0, which is no ACPI signature"),
        (VIOT + b"zz\0\1", r"t: begins with b'zz\x00\x01' at offset 0x70, which is no ACPI signature"),
        (VIOT + b"IORT\0", "t: 5 bytes at offset 0x70 are no ACPI table; its header alone has 36"),
        (
            b"IORT @ 0x0\n",
            "t: IORT has no bytes; lines as '    0000: 49 4F 52 54 ...' should follow its name",
        ),
        (
            b"IORT @ 0x0\n 0000: 56 49 4F 54\n",
            "t: IORT begins with b'VIOT', not with its name",
        ),
        (
            b"IORT @ 0x0\n 0000: 49 4F 52 54\n 0010: 00\n",
            "t, line 3: the offset is 0010, and 0x4 bytes came before; a line is missing",
        ),
    ],
)
def test_a_file_that_holds_no_table_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(InputError) as refused:
        tables_in(data, "t")
    assert str(refused.value) == why


def test_a_file_that_is_too_large_or_has_too_many_tables_is_refused() -> None:
    with pytest.raises(InputError, match=r"^t: larger than 64 MiB, the most that is read of a file of ACPI tables$"):
        tables_in(bytes(dump.MOST_BYTES + 1), "t")
    with pytest.raises(InputError, match=r"^t: holds more than 1024 tables, the most that are read of one file$"):
        tables_in(table("AAAA", b"") * 1025, "t")


@given(st.lists(st.tuples(st.sampled_from(["IORT", "DMAR", "SSDT"]), st.binary(max_size=80)), min_size=1, max_size=4))
@settings(max_examples=50, deadline=None)
def test_any_tables_are_the_same_as_bytes_and_as_text(contents: list[tuple[str, bytes]]) -> None:
    tables = [(name, table(name, body)) for name, body in contents]
    text = "".join(f"{name} @ 0x{at:016x}\n{_rows(data)}\n" for at, (name, data) in enumerate(tables))
    assert tables_in(b"".join(data for _, data in tables), "t") == tables
    assert tables_in(text.encode(), "t") == tables


def _rows(data: bytes) -> str:
    """Return the lines that acpidump prints for a table."""
    rows = (data[at : at + 16] for at in range(0, len(data), 16))
    return "".join(
        f"    {16 * number:04X}: {row.hex(' ').upper():<48} {''.join(chr(b) if 32 <= b < 127 else '.' for b in row)}\n"
        for number, row in enumerate(rows)
    )


@given(st.integers(0, len(DUMP) - 1), st.binary(max_size=4), st.integers(0, len(DUMP)))
@settings(max_examples=150, deadline=None)
def test_no_change_of_a_dump_raises_anything_but_an_input_error(at: int, other: bytes, end: int) -> None:
    changed = (DUMP[:at] + other + DUMP[at + len(other) :])[:end]
    try:
        tables = tables_in(changed, "t")
    except InputError:
        return
    assert all(len(name) == 4 and data[:4] == name.encode() for name, data in tables)
