"""StreamIDs of a machine: each stream has one device, and an SMMU has as many bits as the streams behind it need.

Decided here: of two devices with one StreamID the first keeps it, as an alias of a PCI bridge gives it to several; the
other, and one whose StreamID is too large for the model, gets a free one when the machine is put together.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pasidlab.platforms.said import Endpoint, Iommu
from pasidlab.rules import Finding, Level, Rule
from pasidlab.toml_text import Commented

MOST_SID_BITS = 24
USUAL_SID_BITS = 16

STREAM_TAKEN = Rule(
    "import.stream-taken",
    "the sources of an import",
    "two devices have one StreamID behind one SMMU",
    "{device}: StreamID {stream} of {iommu} is {other}'s already, by an alias or a wrong map; it gets a free one here",
    remedy="look whether the devices are behind one PCI bridge, where they cannot be told apart",
)
STREAM_TOO_LARGE = Rule(
    "import.stream-too-large",
    "the sources of an import",
    "a StreamID has more than 24 bits, the most that is modelled",
    "{device}: StreamID {stream:#x} of {iommu} has more than 24 bits; it gets a free one here",
    level=Level.NOTE,
)
STREAM_BITS = Rule(
    "import.stream-bits",
    "the sources of an import",
    "a StreamID does not fit the SMMU",
    "{iommu} has StreamIDs of {bits} bits by {origin}, and a device behind it has one of {needed}; the latter is taken",
    remedy="look whether the dump is of this SMMU; if it is, firmware's map of StreamIDs is wrong",
)


@dataclass(slots=True, eq=False)
class Streams:
    """StreamIDs behind each SMMU: whose each is, and how many bits they need."""

    findings: list[Finding]
    taken: dict[str, dict[int, str]] = field(default_factory=dict)

    def settle(self, table: dict[str, Any], one: Endpoint, iommu: str) -> None:
        """Keep a device's StreamIDs, or leave them out where they are another's, or too large."""
        value = table["stream_id"].value
        streams = [value] if isinstance(value, int) else list(dict.fromkeys(value))
        taken = self.taken.setdefault(iommu, {})
        facts: dict[str, Any] = {"device": one.name, "iommu": iommu}
        for stream in streams:
            if stream >> MOST_SID_BITS:
                self.findings.append(STREAM_TOO_LARGE.finding(stream=stream, **facts))
            elif stream in taken:
                self.findings.append(STREAM_TAKEN.finding(stream=stream, other=taken[stream], **facts))
        own = [stream for stream in streams if not stream >> MOST_SID_BITS and stream not in taken]
        taken.update(dict.fromkeys(own, one.name))
        if not own:
            del table["stream_id"]
        else:
            table["stream_id"] = Commented(own[0] if len(own) == 1 else own, table["stream_id"].comment)

    def bits(self, iommu: str) -> int:
        """Return how many bits the StreamIDs behind an SMMU need."""
        return max(self.taken.get(iommu, {}), default=0).bit_length()


def settle_streams(table: dict[str, Any], one: Iommu, needed: int, findings: list[Finding]) -> None:
    """Give an SMMU as many bits of StreamIDs as the devices behind it need."""
    told = table.get("sid_bits")
    if needed <= (USUAL_SID_BITS if told is None else told.value):
        return
    table["sid_bits"] = Commented(needed, "as many as the StreamIDs behind it need")
    if told is not None:
        findings.append(STREAM_BITS.finding(iommu=one.name, bits=told.value, origin=told.comment, needed=needed))
