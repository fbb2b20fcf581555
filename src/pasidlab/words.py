"""`Word`: one immutable integer whose bit ranges have names, as the specifications' own tables print them.

A table entry, command, event record or register is declared once, by absolute bit numbers, most significant first::

    class Ste(Word, size=512):
        v = flag(0)
        config = bits(3, 1, Config)
        s1context_ptr = address(55, 6)

    ste = Ste(v=True, config=Config.STAGE_1, s1context_ptr=0x8_2345_0000)
    ste.config, hex(ste), ste.words, ste.pack()

Reading never fails: an enumeration of a field names every encoding of its bits, the reserved ones included, so that
whoever interprets a word decides what a reserved value means. Building fails for an unknown field and for a value
that does not fit, and names the field; declaring fails for fields that overlap or stick out.

Not modelled: fields that are split over two bit ranges; declare the two parts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, ClassVar, Generic, Never, Self, TypeVar, overload

T = TypeVar("T", bound=int)
E = TypeVar("E", bound=IntEnum)
_WORD_BITS = 64


class Field(Generic[T]):
    """One named bit range of a Word, `msb` down to `lsb`, both inclusive and counted over the whole word.

    Attributes:
        name: as declared; empty before the class is complete.
        shift: an address field holds an address without its lowest `shift` bits, which are 0; else 0.
        names: the name of each known value; complete where the field is an enumeration.
        doc: a few words for people.
    """

    def __init__(
        self,
        msb: int,
        lsb: int,
        kind: type[int] = int,
        *,
        shift: int = 0,
        names: Mapping[int, str] | None = None,
        doc: str = "",
    ) -> None:
        if not 0 <= lsb <= msb:
            raise ValueError(f"bits {msb}:{lsb}: most significant bit first, none negative")
        self.name = ""
        self.msb, self.lsb, self.kind, self.shift, self.doc = msb, lsb, kind, shift, doc
        self.names = names or ({member: member.name for member in kind} if issubclass(kind, IntEnum) else {})

    @property
    def width(self) -> int:
        """Number of bits."""
        return self.msb - self.lsb + 1

    @property
    def mask(self) -> int:
        """The bits of the range, in place."""
        return ((1 << self.width) - 1) << self.lsb

    @property
    def bits_text(self) -> str:
        """The range as specifications print it: `63:59`, or `0` for a single bit."""
        return f"{self.msb}:{self.lsb}" if self.msb != self.lsb else f"{self.lsb}"

    @overload
    def __get__(self, word: None, owner: type[Any]) -> Field[T]: ...
    @overload
    def __get__(self, word: Word, owner: type[Any]) -> T: ...
    def __get__(self, word: Word | None, owner: type[Any]) -> Field[T] | T:
        raise AttributeError("a field is read through a subclass of Word")

    def __set__(self, word: Word, value: Never) -> None:
        raise AttributeError("a Word does not change; use replace()")

    def getter(self) -> property:
        """Return the property that reads the field, made once per class for speed: masked first, then moved down."""
        mask, down = self.mask, self.lsb - self.shift
        if self.kind is bool:
            return property(lambda word: word & mask != 0, doc=self.doc)
        if issubclass(self.kind, IntEnum):
            members = tuple(self.kind(value) for value in range(1 << self.width))
            return property(lambda word: members[(word & mask) >> down], doc=self.doc)
        if not down:
            return property(lambda word: word & mask, doc=self.doc)
        if down < 0:
            return property(lambda word: (word & mask) << -down, doc=self.doc)
        return property(lambda word: (word & mask) >> down, doc=self.doc)

    def encode(self, value: int, place: str) -> int:
        """Return the bits of a value, in place; ValueError says why it does not fit at `place`."""
        if self.shift and value & ((1 << self.shift) - 1):
            raise ValueError(f"{place}={value:#x} is not aligned to {1 << self.shift:#x}")
        raw = value >> self.shift
        if raw < 0 or raw >> self.width:
            raise ValueError(f"{place}={value:#x} does not fit bits {self.bits_text}")
        return raw << self.lsb

    def check_names(self, place: str) -> None:
        """Raise TypeError unless an enumeration names every encoding."""
        if not issubclass(self.kind, IntEnum):
            return
        missing = sorted(set(range(1 << self.width)) - set(self.kind))
        if missing or max(self.kind) >> self.width:
            raise TypeError(
                f"{place}: {self.kind.__name__} must name each of the {1 << self.width} encodings, no other"
            )


def flag(bit: int, doc: str = "") -> Field[bool]:
    """Declare a single bit."""
    return Field(bit, bit, bool, doc=doc)


@overload
def bits(msb: int, lsb: int, *, names: Mapping[int, str] | None = None, doc: str = "") -> Field[int]: ...
@overload
def bits(msb: int, lsb: int, kind: type[E], *, doc: str = "") -> Field[E]: ...
def bits(
    msb: int, lsb: int, kind: type[Any] = int, *, names: Mapping[int, str] | None = None, doc: str = ""
) -> Field[Any]:
    """Declare a range that holds a number, or a member of an enumeration that names all its encodings.

    `names` tells people some values of a range that is too wide to name them all.
    """
    return Field(msb, lsb, kind, names=names, doc=doc)


def address(msb: int, lsb: int, *, low: int | None = None, doc: str = "") -> Field[int]:
    """Declare a range that holds an address, whose value is read whole.

    `low` is the address bit that lies at `lsb`; by default `lsb` modulo 64, as all the specifications place it.
    """
    return Field(msb, lsb, int, shift=lsb % _WORD_BITS if low is None else low, doc=doc)


@dataclass(frozen=True, slots=True)
class FieldValue:
    """A field of one word with its value; `meaning` is the value's name, if it has one."""

    field: Field[Any]
    value: int
    meaning: str


class Word(int):
    """Base of all words; a subclass gives its size in bits and declares fields, inheriting those of its base.

    `Ste(raw)` takes any integer of the size; keywords then set fields on top of it.
    """

    __slots__ = ()
    SIZE: ClassVar[int]
    FIELDS: ClassVar[dict[str, Field[Any]]] = {}
    RESERVED: ClassVar[int]
    """The bits that no field covers."""

    def __init_subclass__(cls, size: int, **more: Any) -> None:
        super().__init_subclass__(**more)
        cls.SIZE = size
        inherited = (getattr(base, "FIELDS", {}) for base in reversed(cls.__bases__))
        cls.FIELDS = {name: field for fields in inherited for name, field in fields.items()}
        for name, value in list(vars(cls).items()):
            if isinstance(value, Field):
                value.name = name
                value.check_names(f"{cls.__name__}.{name}")
                cls.FIELDS[name] = value
                setattr(cls, name, value.getter())
        cls.RESERVED = (1 << size) - 1 & ~cls._covered()

    @classmethod
    def _covered(cls) -> int:
        covered = 0
        for name, field in cls.FIELDS.items():
            if field.mask >> cls.SIZE:
                raise TypeError(f"{cls.__name__}.{name}: bits {field.bits_text} stick out of {cls.SIZE} bits")
            if field.mask & covered:
                others = (o.name for o in cls.FIELDS.values() if o is not field and o.mask & field.mask)
                raise TypeError(f"{cls.__name__}.{name}: bits {field.bits_text} overlap {', '.join(others)}")
            covered |= field.mask
        return covered

    def __new__(cls, raw: int = 0, /, **fields: int) -> Self:
        """Build a word; raises ValueError for a value that does not fit, TypeError for an unknown field."""
        if raw < 0 or raw.bit_length() > cls.SIZE:
            raise ValueError(f"{cls.__name__}({raw:#x}) does not fit {cls.SIZE} bits")
        return int.__new__(cls, cls._with(raw, fields) if fields else raw)

    @classmethod
    def _with(cls, raw: int, fields: dict[str, int]) -> int:
        """Return the bits of a word with some fields set."""
        value = int(raw)
        for name, field_value in fields.items():
            field = cls.FIELDS.get(name)
            if field is None:
                raise TypeError(f"{cls.__name__}.{name}: no such field; known: {', '.join(cls.FIELDS)}")
            value = value & ~field.mask | field.encode(field_value, f"{cls.__name__}.{name}")
        return value

    @classmethod
    def from_words(cls, *words: int) -> Self:
        """Build from 64-bit words, word 0 first."""
        return cls(sum(word << (_WORD_BITS * index) for index, word in enumerate(words)))

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """Build from little-endian bytes, as they lie in memory."""
        return cls(int.from_bytes(data, "little"))

    def pack(self) -> bytes:
        """Return the little-endian bytes."""
        return self.to_bytes(self.SIZE // 8, "little")

    @property
    def words(self) -> tuple[int, ...]:
        """The 64-bit words, word 0 first; a word of 32 bits has one."""
        return tuple(self >> shift & (1 << _WORD_BITS) - 1 for shift in range(0, self.SIZE, _WORD_BITS))

    def replace(self, **fields: int) -> Self:
        """Return the word with some fields changed."""
        return type(self)(self, **fields)

    @classmethod
    def mask(cls, *names: str) -> Self:
        """Return the word with all bits of the named fields set."""
        return cls(sum(cls.FIELDS[name].mask for name in names))

    @property
    def reserved(self) -> int:
        """The bits that are set although no field covers them."""
        return self & self.RESERVED

    def values(self) -> Iterator[FieldValue]:
        """Yield every field with its value and the value's name, lowest bits first."""
        for field in sorted(self.FIELDS.values(), key=lambda field: field.lsb):
            value = (self >> field.lsb & (1 << field.width) - 1) << field.shift
            yield FieldValue(field, value, field.names.get(value, ""))

    def __repr__(self) -> str:
        shown = (f"{v.field.name}={v.meaning or hex(v.value)}" for v in self.values() if v.value)
        return f"{type(self).__name__}({', '.join(shown)})"
