"""What invalidations act upon: the caches of a unit and those of devices, as one protocol.

Source: Intel VT-d 4.1, 6.5. Everything here is decoded: an invalidation that reaches its target is legal.
"""

from __future__ import annotations

from typing import Protocol


class InvalidationTarget(Protocol):
    """Receives invalidations in the order of the queue, or of the writes to CCMD and IOTLB."""

    def root_table_set(self) -> None:
        """GCMD.SRTP: where CAP.ESRTPS, forget everything."""

    def context_cache(self, did: int | None = None, source_id: int | None = None, function_mask: int = 0) -> None:
        """Forget context entries: all, of a domain, or of a device; `function_mask` widens it to others."""

    def pasid_cache(self, did: int | None = None, pasid: int | None = None) -> None:
        """Forget PASID entries: all, of a domain, or of a PASID in a domain."""

    def iotlb(self, did: int | None = None, first: int | None = None, size: int = 0, *, leaf: bool = False) -> None:
        """Forget translations whatever their PASID: all, of a domain, or of `size` bytes of second-stage input."""

    def pasid_iotlb(self, did: int, pasid: int, first: int | None = None, size: int = 0, *, leaf: bool = False) -> None:
        """Forget translations of a PASID in a domain: all, or of `size` bytes; `leaf` keeps paging structures."""

    def device_tlb(self, source_id: int, pasid: int | None, *, every_pasid: bool, first: int, size: int | None) -> None:
        """Invalidate `size` bytes, None all, in the device-TLB of a device."""

    def device_tlb_timed_out(self) -> int | None:
        """Wait for all earlier device-TLB invalidations; the source of one that timed out, or None."""

    def drain_page_requests(self) -> None:
        """Put every page request that is under way into the queue, or answer it."""

    def page_group_response(self, source_id: int, pasid: int | None, prg_index: int, code: int) -> None:
        """Answer a page request group; `code` as software wrote it."""
