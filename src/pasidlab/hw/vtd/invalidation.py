"""What invalidations do, whether registers or descriptors ask for them, and what makes a descriptor illegal.

Source: Intel VT-d 4.1, 6.5.1 (registers), 6.5.2 (descriptors), 6.5.2.10 and 11.4.9.9 (errors).
Decided where the architecture leaves a choice: a reserved granularity, an address mask above CAP.MAMV and PD without
ECAP.PDS count as reserved fields; a descriptor of a feature that ECAP does not have counts as one of no known type;
address bits below a mask are ignored.
Not modelled: the most pending invalidations of a device (MIP); PFSID, since every function has a device-TLB of its own
here; LPIG of page group responses, all of which reach the device.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from pasidlab.hw.vtd.descriptors import (
    ContextCacheInvalidate,
    Descriptor,
    DeviceTlbInvalidate,
    InvalidationWait,
    IotlbInvalidate,
    PageGroupResponse,
    PasidCacheGranularity,
    PasidCacheInvalidate,
    PasidDeviceTlbInvalidate,
    PasidIotlbGranularity,
    PasidIotlbInvalidate,
    sized_range,
)
from pasidlab.hw.vtd.features import LARGEST_MASK, Features
from pasidlab.hw.vtd.registers import Ccmd, Granularity, Iotlb, Iva, QueueError
from pasidlab.hw.vtd.spec import SPEC
from pasidlab.hw.vtd.target import InvalidationTarget
from pasidlab.rules import Rule

_PAGE_SHIFT = 12


# --- by registers ------------------------------------------------------------------------------------------------


def context_cache(target: InvalidationTarget, request: Ccmd | ContextCacheInvalidate, granularity: Granularity) -> None:
    """Invalidate context entries; `granularity` is not the reserved one."""
    if granularity is Granularity.GLOBAL:
        target.context_cache()
    elif granularity is Granularity.DOMAIN:
        target.context_cache(request.did)
    else:
        target.context_cache(request.did, request.sid, request.fm)


def iotlb(target: InvalidationTarget, did: int, granularity: Granularity, pages: Iva) -> None:
    """Invalidate translations; `granularity` is not the reserved one, and the mask of `pages` is supported."""
    if granularity is Granularity.GLOBAL:
        target.iotlb()
    elif granularity is Granularity.DOMAIN:
        target.iotlb(did)
    else:
        target.iotlb(did, *_pages(pages.addr, pages.am), leaf=pages.ih)


def command_context_cache(target: InvalidationTarget, ccmd: Ccmd) -> Granularity:
    """Carry out CCMD, and return the actual granularity; RESERVED: the request is incorrect, and ignored."""
    if ccmd.cirg is not Granularity.RESERVED:
        context_cache(target, ccmd, ccmd.cirg)
    return ccmd.cirg


def command_iotlb(target: InvalidationTarget, command: Iotlb, iva: Iva) -> Granularity:
    """Carry out IOTLB, and return the actual granularity; RESERVED: the request is incorrect, and ignored."""
    if command.iirg is Granularity.SELECTIVE and iva.am > LARGEST_MASK:
        return Granularity.RESERVED
    if command.iirg is not Granularity.RESERVED:
        iotlb(target, command.did, command.iirg, iva)
    return command.iirg


def _pages(addr: int, mask: int) -> tuple[int, int]:
    """Return start and size of 2^`mask` pages around an address."""
    size = 1 << _PAGE_SHIFT + mask
    return addr & -size, size


# --- what makes a descriptor illegal -----------------------------------------------------------------------------


class Failure(NamedTuple):
    """Why the queue stopped: what IQER says, and the rule."""

    error: QueueError
    rule: Rule


class Check(NamedTuple):
    """What can be wrong with the fields of a descriptor, on a unit with certain features."""

    failure: Failure
    broken: Callable[[Any, Features], bool]


def _failure(error: QueueError, name: str, check: str, why: str) -> Failure:
    where = f"{SPEC}, 6.5.2.10 and 11.4.9.9, IQEI {error.value}"
    return Failure(error, Rule(f"vtd.qi-{name}", where, check, why, source=SPEC))


_DESCRIPTOR = "the {descriptor} descriptor at offset {head:#x} "
TAIL = _failure(
    QueueError.INVALID_TAIL,
    "tail",
    "IQT.QT is not within the queue",
    "the tail {tail:#x} of the invalidation queue lies behind its end",
)
ABORTED = _failure(
    QueueError.FETCH_ERROR, "fetch", "memory does not answer", "the descriptor at offset {head:#x} cannot be read"
)
TYPE = _failure(
    QueueError.INVALID_TYPE,
    "type",
    "no known type, or one of a feature that ECAP does not have",
    _DESCRIPTOR + "is none that this unit knows",
)
RESERVED = _failure(
    QueueError.RESERVED_FIELD, "reserved", "reserved bits are set", _DESCRIPTOR + "has reserved bits set"
)
GRANULARITY = _failure(
    QueueError.RESERVED_FIELD, "granularity", "G is reserved", _DESCRIPTOR + "has a granularity that does not exist"
)
MASK = _failure(QueueError.RESERVED_FIELD, "mask", "AM > CAP.MAMV", _DESCRIPTOR + "has an address mask above CAP.MAMV")
NO_DRAIN = _failure(
    QueueError.RESERVED_FIELD,
    "drain",
    "PD == 1, ECAP.PDS == 0",
    _DESCRIPTOR + "asks to drain page requests, which this unit cannot",
)
WIDTH = _failure(
    QueueError.INVALID_WIDTH,
    "width",
    "RTADDR.TTM == 01, IQA.DW == 0",
    "the invalidation queue has descriptors of 128 bits, and scalable mode needs 256",
)
ALIGNMENT = _failure(
    QueueError.TAIL_ALIGNMENT,
    "tail-alignment",
    "IQA.DW == 1, bit 4 of IQT is set",
    "the tail {tail:#x} of the invalidation queue is no multiple of 32 bytes",
)
MODE = _failure(
    QueueError.INVALID_TTM,
    "ttm",
    "RTADDR.TTM is reserved, or not supported",
    "nothing can be invalidated in a translation table mode that does not exist",
)


def _has_device_tlb(features: Features) -> bool:
    return features.device_tlb


def _has_pasid_tables(features: Features) -> bool:
    """Whether there is scalable mode, where requests without PASID have a PASID entry too, whatever ECAP.PASID says."""
    return features.scalable


def _has_pasid_tables_and_device_tlb(features: Features) -> bool:
    return _has_pasid_tables(features) and features.device_tlb


def _has_page_requests(features: Features) -> bool:
    return features.page_requests


def _is_reserved(descriptor: ContextCacheInvalidate | IotlbInvalidate, features: Features) -> bool:
    return descriptor.g is Granularity.RESERVED


def _is_reserved_pasid_iotlb(descriptor: PasidIotlbInvalidate, features: Features) -> bool:
    return descriptor.g < PasidIotlbGranularity.PASID


def _is_reserved_pasid_cache(descriptor: PasidCacheInvalidate, features: Features) -> bool:
    return descriptor.g is PasidCacheGranularity.RESERVED_2


def _reaches_too_far(descriptor: IotlbInvalidate, features: Features) -> bool:
    return descriptor.g is Granularity.SELECTIVE and descriptor.am > LARGEST_MASK


def _reaches_too_far_in_pasid(descriptor: PasidIotlbInvalidate, features: Features) -> bool:
    return descriptor.g is PasidIotlbGranularity.PAGES and descriptor.am > LARGEST_MASK


def _drains_in_vain(descriptor: InvalidationWait, features: Features) -> bool:
    return descriptor.pd and not features.page_request_drain


# --- what a legal descriptor does --------------------------------------------------------------------------------


def _context_cache(descriptor: ContextCacheInvalidate, target: InvalidationTarget) -> None:
    context_cache(target, descriptor, descriptor.g)


def _iotlb(descriptor: IotlbInvalidate, target: InvalidationTarget) -> None:
    iotlb(target, descriptor.did, descriptor.g, Iva(am=descriptor.am, ih=descriptor.ih, addr=descriptor.addr))


def _device_tlb(descriptor: DeviceTlbInvalidate, target: InvalidationTarget) -> None:
    first, size = sized_range(descriptor.addr, descriptor.s)
    target.device_tlb(descriptor.sid, None, every_pasid=False, first=first, size=size)


def _pasid_iotlb(descriptor: PasidIotlbInvalidate, target: InvalidationTarget) -> None:
    if descriptor.g is PasidIotlbGranularity.PASID:
        target.pasid_iotlb(descriptor.did, descriptor.pasid)
        return
    first, size = _pages(descriptor.addr, descriptor.am)
    target.pasid_iotlb(descriptor.did, descriptor.pasid, first, size, leaf=descriptor.ih)


def _pasid_cache(descriptor: PasidCacheInvalidate, target: InvalidationTarget) -> None:
    if descriptor.g is PasidCacheGranularity.GLOBAL:
        target.pasid_cache()
    elif descriptor.g is PasidCacheGranularity.DOMAIN:
        target.pasid_cache(descriptor.did)
    else:
        target.pasid_cache(descriptor.did, descriptor.pasid)


def _pasid_device_tlb(descriptor: PasidDeviceTlbInvalidate, target: InvalidationTarget) -> None:
    first, size = sized_range(descriptor.addr, descriptor.s)
    target.device_tlb(descriptor.sid, descriptor.pasid, every_pasid=descriptor.g, first=first, size=size)


def _page_group_response(descriptor: PageGroupResponse, target: InvalidationTarget) -> None:
    pasid = descriptor.pasid if descriptor.pp else None
    target.page_group_response(descriptor.rid, pasid, descriptor.prgi, descriptor.rc)


class Entry(NamedTuple):
    """One type of descriptor: what it does (a wait: what the queue does), which unit has it, what can be wrong."""

    perform: Callable[[Any, InvalidationTarget], None] | None
    has: Callable[[Features], bool] | None = None
    checks: tuple[Check, ...] = ()


_NO_GRANULARITY = Check(GRANULARITY, _is_reserved)
_DESCRIPTORS: dict[type[Descriptor], Entry] = {
    ContextCacheInvalidate: Entry(_context_cache, checks=(_NO_GRANULARITY,)),
    IotlbInvalidate: Entry(_iotlb, checks=(_NO_GRANULARITY, Check(MASK, _reaches_too_far))),
    DeviceTlbInvalidate: Entry(_device_tlb, _has_device_tlb),
    InvalidationWait: Entry(None, checks=(Check(NO_DRAIN, _drains_in_vain),)),
    PasidIotlbInvalidate: Entry(
        _pasid_iotlb,
        _has_pasid_tables,
        (Check(GRANULARITY, _is_reserved_pasid_iotlb), Check(MASK, _reaches_too_far_in_pasid)),
    ),
    PasidCacheInvalidate: Entry(_pasid_cache, _has_pasid_tables, (Check(GRANULARITY, _is_reserved_pasid_cache),)),
    PasidDeviceTlbInvalidate: Entry(_pasid_device_tlb, _has_pasid_tables_and_device_tlb),
    PageGroupResponse: Entry(_page_group_response, _has_page_requests),
}
"""What this unit can have; without interrupt remapping there is no interrupt entry cache to invalidate."""


def illegal(descriptor: Descriptor, features: Features) -> Failure | None:
    """Return the first thing that is wrong with a descriptor."""
    entry = _DESCRIPTORS.get(type(descriptor))
    if entry is None or (entry.has is not None and not entry.has(features)):
        return TYPE
    if descriptor.reserved:
        return RESERVED
    return next((check.failure for check in entry.checks if check.broken(descriptor, features)), None)


def name_of(descriptor: Descriptor) -> str:
    """Return the name of a descriptor's type, or its number where there is none."""
    return Descriptor.FIELDS["type"].names.get(descriptor.type, f"type {descriptor.type}")


def perform(descriptor: Descriptor, target: InvalidationTarget) -> None:
    """Carry out a legal descriptor that is no wait."""
    action = _DESCRIPTORS[type(descriptor)].perform
    assert action is not None, "only the queue can carry out a wait"
    action(descriptor, target)
