"""What every step has: its expectations, the things that it names, and the thing that it gives a name to."""

from __future__ import annotations

from typing import Annotated, ClassVar

from msgspec import Meta, Struct

from pasidlab.description import DetachStep, MachineSpec, Name
from pasidlab.hw.cpu import MAX_PASID
from pasidlab.linux.iopf import PERM_EXEC, PERM_PRIV, PERM_READ, PERM_WRITE

Pasid = Annotated[int, Meta(ge=0, le=0xFFFF_FFFF)]
PasidOrName = Pasid | Name
SentPasid = Annotated[int, Meta(ge=0, le=MAX_PASID)] | Name
"""What a device sends with an access: a PASID of 20 bits; the kernel's calls take any number of 32."""
Address = Annotated[int, Meta(ge=0)]

DEVICE, PROCESS = {"device": "device"}, {"process": "process"}
PERMS = {"r": PERM_READ, "w": PERM_WRITE, "x": PERM_EXEC, "p": PERM_PRIV}


class Step(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="do"):
    """What every step may have.

    Attributes:
        expect: the result that must come; by scheme or by model of IOMMU, what is not named may have any.
        expect_pasid: the number that must come.
        expect_work: whose memory must have been touched: a process, "kernel", or "nobody".
        expect_data: the bytes, as text, that must have been read or written there.
        expect_detail: a text that the detail must contain (of `show`, `invalidate_kva` and `descriptor`).
        note: text for the reader.
        during: it happens inside the call of the step before it that has no such key, after this step of a driver.
    """

    expect: str | dict[str, str] | None = None
    expect_pasid: int | dict[str, int] | None = None
    expect_work: str | dict[str, str] | None = None
    expect_data: str | dict[str, str] | None = None
    expect_detail: str | dict[str, str] | None = None
    note: str = ""
    during: DetachStep | None = None

    uses: ClassVar[dict[str, str]] = {}
    """Keys that name something, with the kind of thing: device, process, iommu, handle, number, job."""
    makes: ClassVar[str] = ""
    """What the key `as` gives a name to: handle, number or process."""
    fits_window: ClassVar[bool] = False
    """Whether it can happen inside a call of the kernel, as what devices, instructions and the fault worker do."""

    @property
    def verb(self) -> str:
        """The value of the key `do`."""
        return str(self.__struct_config__.tag)

    @property
    def subject(self) -> str:
        """The names that the step is about, for a report."""
        parts = [str(getattr(self, key)) for key in self.uses if getattr(self, key, None) is not None]
        return " ".join(parts)

    def check(self, spec: MachineSpec) -> None:
        """Raise InputError, its message beginning with a key, for what no type forbids; every name is known here."""


class OnDevice(Step, frozen=True):
    """A step about one device."""

    device: Name
    uses: ClassVar = DEVICE


class OnProcess(Step, frozen=True):
    """A step about one process."""

    process: Name
    uses: ClassVar = PROCESS


def perm_of(letters: str) -> int:
    """Return the rights that letters stand for."""
    return sum(PERMS[letter] for letter in set(letters))
