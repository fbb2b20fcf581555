"""Which specification the rules of this package stand in: Arm System Memory Management Unit, version 3."""

from __future__ import annotations

SPEC = "IHI 0070 G.b"
