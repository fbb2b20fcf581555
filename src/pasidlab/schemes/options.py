"""What can be varied within a scheme, each option with the question of the thread that it answers."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

Count = Annotated[int, Meta(ge=0, le=0xF_FFFF)]
Order = Literal["lowest", "highest", "reserve-low"]
Guard = Literal["mmap", "range", "declared", "none"]
LocalBy = Literal["iommu", "arch", "device", "driver"]


class Options(Struct, frozen=True, forbid_unknown_fields=True):
    """Options of a scheme; the defaults are what the scheme's proposer wrote, or what Linux does.

    Attributes:
        order: which free number of the global space is taken (R28): the lowest, as Linux does; the highest; or
            `reserve-low`, the lowest above `reserve`, which only devices that carry nothing else may go below.
        reserve: how many low numbers `reserve-low` keeps for narrow devices.
        quota_user: how many numbers the processes of one user may hold (R27); 0 is no limit, as in Linux.
        quota_device: how many numbers may be attached to one device's group (R27); 0 is no limit.
        min_sva_bits: a device with fewer PASID bits gets no SVA (R7); 0 is no such policy, as in Linux.
        guard: how the portal hole of section 3 of docs/thread.md is closed (R11): `mmap` maps the portal only for a
            process with a normal bond on that device (Jason Gunthorpe, 2026-05-13, d); `range` draws the local
            numbers of portal devices from `local_first` up and global ones below; `declared` gives a device
            that has numbers of its own no portal; `none` leaves the hole open, to show it.
        local_first: the first local number of a portal device under guard `range`.
        local_by: who decides that a device's numbers are local (R4); None is the scheme's own answer.
        rfc_enqcmd: what ENQCMD carries for a process with local bonds only under `rfc`, whose diff was not seen:
            `first`, the number of its first bond, as unchanged code would; or `none`.
        vtd_did: the domain identifiers of processes on Intel VT-d under a scheme with numbers per device (R3): `own`,
            one for each address space, since units tell what they have cached apart by identifier and PASID; or
            `shared`, Linux's one for all (FLPT_DEFAULT_DID), to show what happens. mainline has Linux's.
    """

    order: Order = "lowest"
    reserve: Count = 3
    quota_user: Count = 0
    quota_device: Count = 0
    min_sva_bits: Annotated[int, Meta(ge=0, le=20)] = 0
    guard: Guard = "mmap"
    local_first: Annotated[int, Meta(ge=1, le=0xF_FFFF)] = 0x8000
    local_by: LocalBy | None = None
    rfc_enqcmd: Literal["first", "none"] = "first"
    vtd_did: Literal["own", "shared"] = "own"
