"""The verbs of kernel modules: numbers of the global space, and domains attached to PASIDs."""

from __future__ import annotations

from collections.abc import Callable

from pasidlab.linux import iommu, structs, sva
from pasidlab.linux.structs import IOMMU_PASID_INVALID
from pasidlab.machine.state import MachineState
from pasidlab.outcome import FOR_ALL, FOR_ALL_NONE, FREE_SILENT, NO_HANDLE, Outcome
from pasidlab.pasid import INT_MAX
from pasidlab.rules import Refusal, Rule

PutDomain = Callable[[structs.IommuDomain, structs.Device, int, structs.AttachHandle | None], Refusal | None]


class Attachments(MachineState):
    """See the module docstring."""

    def alloc_global(self, device: str, name: str | None = None) -> Outcome:
        """`iommu_alloc_global_pasid(dev)` by a kernel module."""
        endpoint = self._endpoint(device)
        dev = endpoint.dev
        pasid = iommu.iommu_alloc_global_pasid(dev)
        if pasid == IOMMU_PASID_INVALID:
            if name:
                self.numbers[name] = None
            refusal = iommu.ALLOC_GLOBAL_NONE.refuse(dev=dev.name, range=iommu.pasid_range(dev))
            return self._settle_for(refusal, endpoint)
        self.kernel.global_users[pasid] = f"module {name}" if name else f"the driver of {device}"
        if name:
            self.numbers[name] = pasid
        self.kernel.decided(iommu.ALLOC_GLOBAL, dev=device, pasid=pasid)
        return self._settle(None, pasid)

    def alloc_for_all(self, devices: list[str], name: str | None = None) -> Outcome:
        """Take the lowest global number that every listed device carries and that is free on each of them.

        The "must work for all RIDs" allocation of the 2021 debate (R6); no kernel has it.
        """
        endpoints = [self._endpoint(device) for device in devices]
        bound = min(endpoint.dev.max_pasids for endpoint in endpoints)
        groups = [endpoint.dev.iommu_group for endpoint in endpoints]
        taken = {pasid for group in groups if group is not None for pasid in group.pasid_array}
        space = self.kernel.iommu_global_pasid_ida
        pasid = next((p for p in range(1, bound) if p not in taken and p not in space), None)
        if name:
            self.numbers[name] = pasid
        if pasid is None:
            names, last = ", ".join(devices), max(bound - 1, 0)
            return self._settle(FOR_ALL_NONE.refuse(devices=names, last=last))
        space.take(pasid)
        iommu.report_global_pasid(endpoints[0].dev, pasid)
        self.kernel.global_users[pasid] = f"module {name}" if name else "a module for several devices"
        self.kernel.decided(FOR_ALL, devices=", ".join(devices), pasid=pasid)
        return self._settle(None, pasid)

    def free_global(self, pasid: int | str) -> Outcome:
        """`iommu_free_global_pasid(pasid)`."""
        number = self._number(pasid)
        if isinstance(number, Refusal):
            return self._settle(number)
        if number > INT_MAX:
            self.kernel.decided(FREE_SILENT, pasid=number)
        iommu.iommu_free_global_pasid(self.kernel, number)
        return self._settle(None, number)

    def attach(self, device: str, pasid: int | str, *, with_handle: bool = True) -> Outcome:
        """`iommu_attach_device_pasid()` of a kernel-managed domain of its own."""
        handle = structs.AttachHandle() if with_handle else None
        return self._put_domain(device, pasid, iommu.iommu_attach_device_pasid, handle, iommu.ATTACH_DONE)

    def replace(self, device: str, pasid: int | str) -> Outcome:
        """`iommu_replace_device_pasid()` with a new kernel-managed domain."""
        call = iommu.iommu_replace_device_pasid
        return self._put_domain(device, pasid, call, structs.AttachHandle(), iommu.REPLACE_DONE)

    def _put_domain(
        self, device: str, pasid: int | str, call: PutDomain, handle: structs.AttachHandle | None, done: Rule
    ) -> Outcome:
        """Give a new kernel-managed domain to a call that puts it at a number; one that is refused is freed."""

        def put(dev: structs.Device, number: int) -> Refusal | None:
            domain = self._paging_domain(dev)
            if isinstance(domain, Refusal):
                return domain
            refusal = call(domain, dev, number, handle)
            if refusal:
                sva.iommu_domain_free(domain)
                return refusal
            self._remember(dev, number, domain)
            self.kernel.decided(done, dev=dev.name, pasid=number)
            return None

        return self._with_number(device, pasid, put)

    def detach(self, device: str, pasid: int | str) -> Outcome:
        """`iommu_detach_device_pasid()` of what `attach` attached."""

        def call(dev: structs.Device, number: int) -> Refusal | None:
            if dev.iommu_group is None:
                return iommu.ATTACH_NO_GROUP.refuse(dev=dev.name)
            domain = self.domains.pop((dev.iommu_group, number), None)
            if domain is None:
                return NO_HANDLE.refuse(handle=f"{number} of {dev.name}")
            iommu.iommu_detach_device_pasid(domain, dev, number)
            sva.iommu_domain_free(domain)
            return None

        return self._with_number(device, pasid, call)

    def attach_any(self, device: str, name: str | None = None) -> Outcome:
        """`iommu_attach_device_pasid_any()` of a kernel-managed domain."""
        endpoint = self._endpoint(device)
        domain = self._paging_domain(endpoint.dev)
        if isinstance(domain, Refusal):
            return self._settle(domain)
        pasid = self.scheme.attach_device_pasid_any(domain, endpoint.dev)
        if name:
            self.numbers[name] = None if isinstance(pasid, Refusal) else pasid
        if isinstance(pasid, Refusal):
            sva.iommu_domain_free(domain)
            return self._settle_for(pasid, endpoint)
        self._remember(endpoint.dev, pasid, domain)
        return self._settle(None, pasid)

    def _with_number(
        self, device: str, pasid: int | str, call: Callable[[structs.Device, int], Refusal | None]
    ) -> Outcome:
        number = self._number(pasid)
        if isinstance(number, Refusal):
            return self._settle(number)
        return self._settle(call(self._endpoint(device).dev, number), number)

    def _paging_domain(self, dev: structs.Device) -> structs.IommuDomain | Refusal:
        if dev.iommu is None or dev.ops.domain_alloc_paging is None:
            return iommu.ATTACH_NO_GROUP.refuse(dev=dev.name)
        return dev.ops.domain_alloc_paging(dev)

    def _remember(self, dev: structs.Device, pasid: int, domain: structs.IommuDomain) -> None:
        assert dev.iommu_group is not None
        old = self.domains.get((dev.iommu_group, pasid))
        self.domains[dev.iommu_group, pasid] = domain
        if old is not None:
            sva.iommu_domain_free(old)
