"""What a verb of a machine led to: a result in one word, a number, and the rule with its sentence."""

from __future__ import annotations

from dataclasses import dataclass

from pasidlab.devices.endpoint import Done


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a verb led to.

    Attributes:
        result: "ok", an errno name, a signal name, or "fault".
        pasid: the number of the bond, allocation or work; None when there is none.
        rule, why: the rule that settled it, and its sentence.
        holders: for ENOSPC, who holds each number that would have served.
        work: what a device did to memory.
        detail: for `show`, lines of text.
    """

    result: str
    pasid: int | None = None
    rule: str = ""
    why: str = ""
    holders: tuple[tuple[int, str], ...] = ()
    work: Done | None = None
    detail: tuple[str, ...] = ()


def holder_text(holders: tuple[tuple[int, str], ...], most: int = 8) -> str:
    """List holders in words."""
    text = ", ".join(f"{pasid} is held by {holder}" for pasid, holder in holders[:most])
    return text if len(holders) <= most else f"{text}, and {len(holders) - most} more"
