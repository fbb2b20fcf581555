"""Requester IDs: which PCI function of a segment sent a message, in 16 bits.

Source: PCI Express Base Specification 6.0, 2.2.6.2; the form in text is that of lspci and of the kernel's log.
"""

from __future__ import annotations

LAST_RID = 0xFFFF
"""The last requester ID of a segment."""


def rid_number(bus: int, device: int, function: int) -> int:
    """Return the requester ID of a function: bits 15:8, 7:3 and 2:0."""
    return bus << 8 | device << 3 | function


def rid_text(number: int) -> str:
    """Return bus, device and function as lspci prints them: 6a:01.0."""
    return f"{number >> 8:02x}:{number >> 3 & 0x1F:02x}.{number & 7}"
