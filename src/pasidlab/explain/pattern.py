"""A line that a kernel, a driver or a tool prints, and what it says of PASIDs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

Decode = Callable[[re.Match[str]], Iterator[str]]
RulesOf = Callable[[re.Match[str]], tuple[str, ...]]


def _nothing(found: re.Match[str]) -> Iterator[str]:
    return iter(())


def _no_rules(found: re.Match[str]) -> tuple[str, ...]:
    return ()


@dataclass(frozen=True, slots=True)
class Pattern:
    """One kind of line.

    Attributes:
        id: its name.
        regex: what it looks like; the group `errno` is the result of `call`, `device` the device.
        printed_by: what prints it, and where that is read.
        meaning: what it says, in a sentence; empty where the decoded line says it all.
        call: the call that failed; empty where none did.
        result: its result, where the line names none.
        rules: what can stand behind the line, the likeliest first.
        rules_of: the same, where it depends on the line.
        decode: what the numbers of the line mean.
        follow: how many lines after it belong to it, if they are numbers alone; the group `words` of `regex` gets them.
        remedy: what to do, where no rule says it.
        iommu: the IOMMU driver that the device is behind, where the line's driver is to be found with one only.
    """

    id: str
    regex: re.Pattern[str]
    printed_by: str
    meaning: str = ""
    call: str = ""
    result: str = ""
    rules: tuple[str, ...] = ()
    rules_of: RulesOf = _no_rules
    decode: Decode = _nothing
    follow: int = 0
    remedy: str = ""
    iommu: str = ""


def line(regex: str) -> re.Pattern[str]:
    """Compile what a line looks like, upper and lower case alike."""
    return re.compile(regex, re.IGNORECASE)


PCI = r"(?P<device>(?:[0-9a-f]{4}:)?[0-9a-f]{2}:[0-9a-f]{2}\.[0-7])"
"""A PCI function as kernels write it."""
