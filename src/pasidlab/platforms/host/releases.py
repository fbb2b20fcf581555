"""What a kernel's release tells: the profile that stands for it, and whether it refuses SVA on x86.

Source: `linux.profiles` for the profiles. The commit 72f98ef9a4be, which turns SVA off on x86, went into 5.15.200,
6.1.163, 6.6.120, 6.12.64 and 6.18.4 (CVE-2025-71089); 6.19 has the fix that allows SVA again. 6.18.y got that later,
with 6.18.7 by CVE-2025-71202, though users of 6.18.7 report the refusal; what distributions took of it is not known.

Decided here: of the profiles, the nearest that is not newer than the release is taken; 6.13 and 6.14 get v6.12.0,
since v6.12 has changes of 6.12.y. A kernel 6.12.0 of a distribution is taken for v6.12, since such kernels have most of
these.
"""

from __future__ import annotations

import re

from pasidlab.linux.profiles import PROFILES
from pasidlab.platforms.host.cmdline import version_of

REFUSES_X86 = {(5, 15): 200, (6, 1): 163, (6, 6): 120, (6, 12): 64, (6, 18): 4}
"""The first release of each long-term kernel that answers every bind on x86 with EOPNOTSUPP."""
X86_AGAIN, PERHAPS_AGAIN = (6, 19), (6, 18, 7)
_DISTRIBUTION = re.compile(r"\d+\.\d+\.0-(?!rc)\d")


def profile_for(release: str) -> tuple[str, str]:
    """Return the name of the profile for a release, and a remark where it is not just that release."""
    numbers = version_of(release)
    if numbers is None:
        return next(reversed(PROFILES)), f"the release {release!r} is none; the newest profile is taken"
    if numbers[:2] == (6, 12):
        return _long_term(release, numbers[2])
    bases = {_base(name): name for name in reversed(PROFILES)}
    base = max((base for base in bases if base <= numbers[:2]), default=min(bases))
    name = bases[base]
    if base == numbers[:2]:
        return name, ""
    if base == max(bases):
        return name, f"Linux {release} is newer than {name}, the newest profile, which is taken"
    nearest = "the nearest that is not newer" if base < numbers[:2] else "the oldest"
    return name, f"Linux {release} has no profile of its own; {name} is {nearest}"


def refuses_x86(release: str) -> bool | None:
    """Return whether a kernel refuses SVA on x86; None where that is not known."""
    numbers = version_of(release)
    if numbers is None:
        return None
    if numbers[:2] >= X86_AGAIN or numbers[:2] < min(REFUSES_X86):
        return False
    if numbers >= PERHAPS_AGAIN or _DISTRIBUTION.match(release):
        return None
    first = REFUSES_X86.get(numbers[:2])
    return first is not None and numbers[2] >= first


def _long_term(release: str, patch: int) -> tuple[str, str]:
    """Return the profile of a 6.12: as released, or as the long-term releases made of it."""
    if patch:
        same = patch == 117
        return "v6.12", "" if same else f"v6.12 is 6.12.117; {release} differs from it where fixes came in between"
    if _DISTRIBUTION.match(release):
        return "v6.12", f"{release} is a distribution's kernel, with changes of its own; v6.12 is taken"
    return "v6.12.0", ""


def _base(name: str) -> tuple[int, int]:
    numbers = version_of(name.removeprefix("v"))
    return numbers[:2] if numbers else (0, 0)
