"""SMMUv3's debugfs: capabilities, registers and stream table entries, as text.

Source: the series "iommu/arm-smmu-v3: debugfs" of Qinxin Xia (HiSilicon), versions of 2025 and 2026, as read in
drivers/iommu/arm/arm-smmu-v3/arm-smmu-v3-debugfs.c; no release had it by Linux 7.3. Below
`/sys/kernel/debug/iommu/arm_smmu_v3/<smmu>/` lie `capabilities` (`  ATS Support: Yes`), `registers` (`CR0: 0x…`) and
`stream_table/<StreamID>/ste`, which prints a StreamID in decimal, the configuration in words, and eight lines
`STE[0]: 0x…`, lowest word first. The capabilities do not tell how many SubstreamIDs there are.

Decided here: only the raw words of an entry count, since early versions print the pointer from the wrong word. Also
taken are lines `SID 0x10: 0x… 0x…` with up to eight words, as people's own tools print, and registers of any name in
the form `IDR1: 0x…`, from which all that follows is said. What has no such form is a remark.
Not read: context descriptors, which nobody prints.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from pasidlab.errors import InputError
from pasidlab.hw.smmuv3.registers import REGISTERS, Idr0, Idr1, Idr3, Idr5, Offset
from pasidlab.hw.smmuv3.structures import Ste
from pasidlab.platforms.debugfs.vtd import lines_of, remarks_about
from pasidlab.words import Word

STE_WORDS = 8
_HEADINGS = re.compile(r"SMMUv3 (Capabilities|Key Registers):|Raw Data:")
_IN_WORDS = re.compile(r"(Valid|Config|S1ContextPtr|S2ContextPtr|S2TTB): .*")
_STREAM = re.compile(r"STE for Stream ID (\d{1,10})")
_WORD = re.compile(r"STE\[([0-7])\]: 0x([0-9a-fA-F]{1,16})")
_WHOLE = re.compile(r"SID:? (0x[0-9a-fA-F]{1,8}|\d{1,10}):?((?:[\s:,]+0x[0-9a-fA-F]{1,16}){1,8})")
_REGISTER = re.compile(r"([A-Z][A-Z0-9_]{1,31})\s*[:=]\s*0x([0-9a-fA-F]{1,16})(?:\s+\[[^\]]*\])?")
_CAPABILITY = re.compile(r"([A-Z][A-Za-z0-9 ]{2,30}): (Yes|No|\d{1,12})")
_MISSING = re.compile(
    r"Invalid Stream ID: .*|STE not available for SID .*|No SMMU master data|No streams configured for device"
    r"|SMMU not available"
)
CAPABILITIES = (
    "Stage1 Translation",
    "Stage2 Translation",
    "Coherent Walk",
    "ATS Support",
    "PRI Support",
    "Stream Table Size",
    "Command Queue Depth",
    "Event Queue Depth",
)
"""What the file `capabilities` has."""
_KERNELS = {"EVTQ_PROD": "EVENTQ_PROD", "EVTQ_CONS": "EVENTQ_CONS"}
"""Names of registers that are the kernel's, and those of the architecture."""


@dataclass(frozen=True, slots=True)
class Stream:
    """A stream table entry; `words` of its eight words were printed, the others are taken for 0."""

    sid: int
    ste: Ste
    place: str
    words: int = STE_WORDS


@dataclass(slots=True, eq=False)
class SmmuDump:
    """What files of SMMUv3's debugfs show.

    Attributes:
        registers: by the architecture's names, each as a Word where that is known.
        capabilities: as the kernel names them: true, false, or a number.
        streams: in the order of the text.
        places: file and line of each register and capability.
    """

    file: str
    registers: dict[str, Word | int] = field(default_factory=dict)
    capabilities: dict[str, bool | int] = field(default_factory=dict)
    streams: list[Stream] = field(default_factory=list)
    places: dict[str, str] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)

    @property
    def idr0(self) -> Idr0 | None:
        """IDR0; None when it was not printed, which the kernel's own file does not."""
        value = self.registers.get("IDR0")
        return value if isinstance(value, Idr0) else None

    @property
    def idr1(self) -> Idr1 | None:
        """IDR1; None when it was not printed."""
        value = self.registers.get("IDR1")
        return value if isinstance(value, Idr1) else None

    @property
    def idr3(self) -> Idr3 | None:
        """IDR3; None when it was not printed."""
        value = self.registers.get("IDR3")
        return value if isinstance(value, Idr3) else None

    @property
    def idr5(self) -> Idr5 | None:
        """IDR5; None when it was not printed."""
        value = self.registers.get("IDR5")
        return value if isinstance(value, Idr5) else None


def read_smmu_dump(text: str, file: str = "SMMUv3 debugfs") -> SmmuDump:
    """Read any of the files, or several behind one another: capabilities, registers, stream table entries as Words.

    `file` is what messages call the text. Lines of no known form are in `remarks`. Raises InputError for a text without
    any line of these files, or larger than 64 MiB.
    """
    reader = _Reader(SmmuDump(file))
    strange = [number for number, line in enumerate(lines_of(text, file), 1) if not reader.take(number, line.strip())]
    reader.end_stream()
    dump = reader.dump
    if not (dump.registers or dump.capabilities or dump.streams or dump.remarks):
        raise InputError(f"{file}: no line is one of SMMUv3's debugfs, as 'STE[0]: 0x…' or 'CR0: 0x…' are")
    dump.remarks += remarks_about(file, strange)
    return dump


class _Reader:
    """Takes lines; the words of an entry are kept until the entry ends."""

    def __init__(self, dump: SmmuDump) -> None:
        self.dump = dump
        self.sid: int | None = None
        self.place = ""
        self.words: dict[int, int] = {}

    def take(self, number: int, line: str) -> bool:
        """Take a line; returns whether it is of a known form."""
        if not line or _HEADINGS.fullmatch(line) or (self.sid is not None and _IN_WORDS.fullmatch(line)):
            return True
        return self._entry(number, line) or self._value(number, line)

    def _entry(self, number: int, line: str) -> bool:
        """Take a line of an entry."""
        stream, word, whole = _STREAM.fullmatch(line), _WORD.fullmatch(line), _WHOLE.fullmatch(line)
        if stream is not None:
            self.end_stream()
            self.sid, self.place = int(stream[1]), self._place(number)
        elif word is not None and self.sid is not None and int(word[1]) not in self.words:
            self.words[int(word[1])] = int(word[2], 16)
        elif whole is not None:
            self.end_stream()
            found = re.findall(r"0x([0-9a-fA-F]+)", whole[2])
            self.sid = int(whole[1], 16 if whole[1].startswith("0x") else 10)
            self.place = self._place(number)
            self.words = {index: int(value, 16) for index, value in enumerate(found)}
            self.end_stream()
        elif _MISSING.fullmatch(line):
            self.dump.remarks.append(f"{self._place(number)}: {line}")
        else:
            return False
        return True

    def end_stream(self) -> None:
        """Keep the entry whose words were taken last."""
        if self.sid is not None and self.words:
            ste = Ste.from_words(*(self.words.get(index, 0) for index in range(STE_WORDS)))
            self.dump.streams.append(Stream(self.sid, ste, self.place, len(self.words)))
        self.sid, self.words = None, {}

    def _place(self, number: int) -> str:
        return f"{self.dump.file}, line {number}"

    def _value(self, number: int, line: str) -> bool:
        """Take a line of a register or of a capability."""
        register, capability = _REGISTER.fullmatch(line), _CAPABILITY.fullmatch(line)
        if register is not None:
            name = _KERNELS.get(register[1], register[1])
            self.dump.registers.setdefault(name, _register(name, int(register[2], 16)))
            self.dump.places.setdefault(name, self._place(number))
            return True
        if capability is None or capability[1] not in CAPABILITIES:
            return False
        value = {"Yes": True, "No": False}.get(capability[2])
        self.dump.capabilities.setdefault(capability[1], int(capability[2]) if value is None else value)
        self.dump.places.setdefault(capability[1], self._place(number))
        return True


def _register(name: str, value: int) -> Word | int:
    """Return a register as its Word; a plain number where it is not known, or too large."""
    word = REGISTERS[Offset[name]] if name in Offset.__members__ else None
    return value if word is None or value >> word.SIZE else word(value)
