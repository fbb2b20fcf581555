"""`Word`: what declaring, building, reading and packing promise, messages included."""

from __future__ import annotations

import pickle
from enum import IntEnum

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pasidlab.words import Field, Word, address, bits, flag


class Kind(IntEnum):
    OFF = 0
    ON = 1
    RESERVED_2 = 2
    BOTH = 3


class Pair(Word, size=128):
    v = flag(0, "valid")
    kind = bits(2, 1, Kind)
    count = bits(10, 3, names={7: "SEVEN"})
    pointer = address(51, 12)
    top = bits(63, 60)
    across = bits(71, 64)
    high = address(115, 72, low=12)


class Wider(Pair, size=192):
    extra = bits(191, 128)


def fields_of(word: type[Word]) -> st.SearchStrategy[dict[str, int]]:
    return st.fixed_dictionaries(
        {name: st.integers(0, (1 << f.width) - 1).map(lambda v, f=f: v << f.shift) for name, f in word.FIELDS.items()}
    )


# --- declaring ---------------------------------------------------------------------------------------------------


def test_overlapping_fields_are_refused_by_name():
    with pytest.raises(TypeError, match=r"^Bad\.b: bits 4:3 overlap a$"):

        class Bad(Word, size=32):
            a = bits(3, 0)
            b = bits(4, 3)


def test_a_field_that_overlaps_an_inherited_one_is_refused():
    with pytest.raises(TypeError, match=r"^Bad\.more: bits 8 overlap count$"):

        class Bad(Pair, size=128):
            more = flag(8)


def test_neighbouring_fields_do_not_overlap():
    class Good(Word, size=8):
        a = bits(3, 0)
        b = bits(7, 4)

    assert Good.RESERVED == 0


def test_a_field_that_sticks_out_is_refused():
    with pytest.raises(TypeError, match=r"^Bad\.a: bits 32:31 stick out of 32 bits$"):

        class Bad(Word, size=32):
            a = bits(32, 31)


def test_an_enumeration_must_name_every_encoding():
    with pytest.raises(TypeError, match=r"^Bad\.a: Kind must name each of the 8 encodings, no other$"):

        class Bad(Word, size=32):
            a = bits(2, 0, Kind)


def test_an_enumeration_must_not_name_more_than_the_encodings():
    with pytest.raises(TypeError, match=r"^Bad\.a: Kind must name each of the 2 encodings, no other$"):

        class Bad(Word, size=32):
            a = bits(0, 0, Kind)


@pytest.mark.parametrize(("msb", "lsb"), [(0, 1), (3, -1)])
def test_bits_are_declared_most_significant_first(msb, lsb):
    with pytest.raises(ValueError, match=rf"^bits {msb}:{lsb}: most significant bit first, none negative$"):
        bits(msb, lsb)


def test_a_subclass_has_the_fields_of_all_its_bases():
    class Base(Word, size=32):
        base = bits(15, 12)

    class Left(Base, size=32):
        left = bits(3, 0)

    class Right(Base, size=32):
        right = bits(7, 4)

    class Both(Left, Right, size=32):
        own = bits(11, 8)

    assert set(Both.FIELDS) == {"base", "left", "right", "own"}
    assert Both(base=4, left=1, right=2, own=3) == 0x4321
    assert "own" not in Left.FIELDS


# --- building ----------------------------------------------------------------------------------------------------


def test_fields_land_at_their_bits():
    pair = Pair(v=True, kind=Kind.BOTH, count=0xAB, pointer=0x8_2345_0000, top=9, across=0xCD, high=0x1_2345_6000)
    assert pair.words == (0x9000_0008_2345_055F, 0x0000_0000_1234_56CD)


@pytest.mark.parametrize(("value", "shown"), [(256, "0x100"), (-1, "-0x1")])
def test_a_value_out_of_range_is_refused_with_its_place(value, shown):
    with pytest.raises(ValueError, match=rf"^Pair\.count={shown} does not fit bits 10:3$"):
        Pair(count=value)


def test_a_flag_takes_only_0_and_1():
    with pytest.raises(ValueError, match=r"^Pair\.v=0x2 does not fit bits 0$"):
        Pair(v=2)


def test_an_address_that_is_not_aligned_is_refused():
    with pytest.raises(ValueError, match=r"^Pair\.pointer=0x1004 is not aligned to 0x1000$"):
        Pair(pointer=0x1004)


def test_an_address_that_is_too_large_is_refused():
    with pytest.raises(ValueError, match=r"^Pair\.pointer=0x10000000000000 does not fit bits 51:12$"):
        Pair(pointer=1 << 52)


def test_an_unknown_field_is_refused_and_the_known_ones_are_listed():
    with pytest.raises(TypeError, match=r"^Pair\.cuont: no such field; known: v, kind, count, pointer, top"):
        Pair(cuont=1)


@pytest.mark.parametrize(("raw", "shown"), [(1 << 128, "0x1" + "0" * 32), (-1, "-0x1")])
def test_a_raw_value_must_fit_the_word(raw, shown):
    with pytest.raises(ValueError, match=rf"^Pair\({shown}\) does not fit 128 bits$"):
        Pair(raw)


def test_from_words_refuses_more_words_than_there_are():
    with pytest.raises(ValueError, match=r"does not fit 128 bits$"):
        Pair.from_words(0, 0, 1)


def test_a_word_starts_from_a_raw_value_and_fields_go_on_top():
    assert Pair(0x7F8, count=1) == 0x8
    assert Pair(0x7F8, v=1) == 0x7F9


def test_a_smaller_word_can_be_read_as_a_wider_one():
    assert Wider(Pair(count=3), extra=1).count == 3


# --- reading -----------------------------------------------------------------------------------------------------


def test_a_field_reads_as_what_it_was_declared():
    pair = Pair(v=1, kind=2, count=7, pointer=0x5000)
    assert pair.v is True
    assert Pair().v is False
    assert pair.kind is Kind.RESERVED_2
    assert (pair.count, pair.pointer) == (7, 0x5000)


def test_low_says_which_address_bit_lies_at_lsb():
    assert Pair(high=0x1000) == 1 << 72


def test_a_word_does_not_change():
    pair = Pair()
    with pytest.raises(AttributeError):
        pair.v = True


def test_replace_changes_only_what_it_names():
    before = Pair(v=1, count=7, top=3)
    after = before.replace(count=8)
    assert after == Pair(v=1, count=8, top=3)
    assert before.count == 7
    assert type(after) is Pair


def test_reserved_shows_the_set_bits_that_no_field_covers():
    assert Pair(v=1, across=0xFF).reserved == 0
    assert Pair(1 << 11 | 1 << 127 | 1).reserved == 1 << 11 | 1 << 127


def test_mask_covers_exactly_the_named_fields():
    assert Pair.mask("v", "top") == 0xF000_0000_0000_0001
    assert Pair.mask(*Pair.FIELDS) | Pair.RESERVED == (1 << 128) - 1


def test_values_come_lowest_first_with_their_meaning():
    shown = [(v.field.name, v.value, v.meaning) for v in Pair(kind=3, count=7, pointer=0x3000).values()]
    assert shown[:4] == [("v", 0, ""), ("kind", 3, "BOTH"), ("count", 7, "SEVEN"), ("pointer", 0x3000, "")]
    assert [name for name, _, _ in shown] == ["v", "kind", "count", "pointer", "top", "across", "high"]


def test_repr_shows_what_is_set():
    assert repr(Pair(v=1, kind=1, pointer=0x3000)) == "Pair(v=0x1, kind=ON, pointer=0x3000)"
    assert repr(Pair()) == "Pair()"


def test_a_field_describes_itself():
    field = Pair.FIELDS["pointer"]
    assert (field.name, field.bits_text, field.width, field.shift, field.mask) == (
        "pointer", "51:12", 40, 12, 0x000F_FFFF_FFFF_F000,
    )  # fmt: skip
    assert (Pair.FIELDS["v"].bits_text, Pair.FIELDS["v"].doc) == ("0", "valid")


def test_a_field_outside_a_word_cannot_be_read_or_written():
    class Plain:
        field: Field[bool] = flag(0)

    with pytest.raises(AttributeError, match="read through a subclass of Word"):
        _ = Plain().field
    with pytest.raises(AttributeError, match="use replace"):
        Plain().field = True


def test_words_are_equal_and_hash_as_their_number():
    assert Pair(v=1) == 1
    assert {Pair(v=1): "x"}[1] == "x"


# --- packing -----------------------------------------------------------------------------------------------------


def test_bytes_are_little_endian():
    assert Pair(v=1, across=2).pack() == bytes([1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0])


def test_a_word_of_32_bits_is_one_word_of_4_bytes():
    class Register(Word, size=32):
        all = bits(31, 0)

    assert Register(0xDEAD_BEEF).words == (0xDEAD_BEEF,)
    assert Register(1).pack() == b"\1\0\0\0"


@given(fields_of(Wider))
def test_what_is_built_is_what_is_read(fields):
    word = Wider(**fields)
    assert {name: getattr(word, name) for name in fields} == fields
    assert {v.field.name: v.value for v in word.values()} == fields
    assert word.reserved == 0


@given(st.integers(0, (1 << 192) - 1))
def test_every_raw_value_survives_all_round_trips(raw):
    word = Wider(raw)
    assert int(word) == raw
    assert Wider.from_words(*word.words) == raw
    assert Wider.unpack(word.pack()) == raw
    assert pickle.loads(pickle.dumps(word)) == word
    assert Wider(word.reserved, **{name: getattr(word, name) for name in Wider.FIELDS}) == raw


def test_an_address_may_lie_below_its_own_bits() -> None:
    class Compressed(Word, size=32):
        page = address(23, 4, low=12)

    assert Compressed(page=0x1234_5000) == 0x12_3450
    assert Compressed(page=0x1234_5000).page == 0x1234_5000
