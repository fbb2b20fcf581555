"""The verbs that bind and unbind a process to a device, with or without opening it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeGuard

from pasidlab.devices import Endpoint
from pasidlab.errors import InputError, ModelError
from pasidlab.linux import sva
from pasidlab.linux import task as tasks
from pasidlab.linux.mm import MmStruct
from pasidlab.linux.pci_ats import PASID_ENABLED, probed_pasid
from pasidlab.machine.in_flight import InFlight
from pasidlab.machine.state import Binding
from pasidlab.outcome import NO_HANDLE, Outcome
from pasidlab.rules import Refusal
from pasidlab.schemes import Scheme


class Binds(InFlight):
    """See the module docstring."""

    def bind(self, device: str, process: str, handle: str | None = None) -> Outcome:
        """Open the device: its driver binds the process as the scheme lets it; the file keeps the bond."""
        return self._bind(device, process, handle, lambda endpoint, mm: endpoint.open(mm), opens=True)

    def bind_device(self, device: str, process: str, handle: str | None = None) -> Outcome:
        """`iommu_sva_bind_device(dev, mm)`."""
        call = sva.iommu_sva_bind_device
        return self._bind(device, process, handle, lambda endpoint, mm: call(endpoint.dev, mm))

    def bind_device_pasid(self, device: str, process: str, pasid: int, handle: str | None = None) -> Outcome:
        """`iommu_sva_bind_device_pasid(dev, mm, pasid)`."""
        call = sva.iommu_sva_bind_device_pasid
        return self._bind(device, process, handle, lambda endpoint, mm: call(endpoint.dev, mm, pasid))

    def _bind(
        self,
        device: str,
        process: str,
        handle: str | None,
        call: Callable[[Endpoint, MmStruct], sva.IommuSva | Refusal],
        *,
        opens: bool = False,
    ) -> Outcome:
        """Bind by a call; one that opens the device leaves a file with the process."""
        task = self._task(process)
        if isinstance(task, Refusal):
            return self._settle(task)
        endpoint = self._endpoint(device)
        assert task.mm is not None
        bond = call(endpoint, task.mm)
        if not _is_bond(bond, self.scheme):
            return self._settle_for(bond, endpoint)
        binding = Binding(bond, endpoint)
        if opens:
            binding.file = tasks.File(device, partial(self._release, binding))
            task.files.files.append(binding.file)
        self.bindings[handle or self._unnamed(device, process)] = binding
        return self._settle(None, sva.iommu_sva_get_pasid(bond))

    def _unnamed(self, device: str, process: str) -> str:
        """Name a bind without `as`: the plain name stands for the oldest one that lives."""
        name = f"{device}/{process}"
        taken = name in self.bindings and self.bindings[name].live
        return f"{name}#{len(self.bindings)}" if taken else name

    def enable_pasid(self, device: str) -> Outcome:
        """Tell what pci_enable_pasid() answered when the IOMMU's driver met a device, or would have answered.

        Raises InputError for a device of the platform bus, which has no such switch.
        """
        endpoint = self._endpoint(device)
        if not endpoint.dev.pci and endpoint.dev.pasid_refused is None:
            raise InputError(f"device {device!r}: of the platform bus; only a PCI function has PASID to switch on")
        refusal = probed_pasid(endpoint.dev)
        if refusal is None:
            self.kernel.decided(PASID_ENABLED, dev=device)
        return self._settle(refusal)

    def unbind(self, handle: str, *, stop: bool = True, drain: bool = True) -> Outcome:
        """Undo a bind by its name; one that a driver's open made is closed in every process that has the file.

        The driver stops the device's work and drains its page requests first, unless it is told to leave that out.
        """
        binding = self.bindings.get(handle)
        if binding is None or not binding.live:
            return self._settle(NO_HANDLE.refuse(handle=handle))
        for task in self.processes.values():
            if binding.file in task.files.files:
                task.files.files.remove(binding.file)
        self._release(binding, stop=stop, drain=drain)
        return self._settle(None, binding.bond.pasid)

    def _release(self, binding: Binding, *, stop: bool = True, drain: bool = True) -> None:
        """Do what the driver's release does: nobody has the file any more."""
        self._quiesce(binding, stop=stop, drain=drain)
        self._unmap_file(binding)
        binding.live = False
        if binding.file is not None:
            binding.endpoint.release(binding.bond)
        else:
            sva.iommu_sva_unbind_device(binding.bond)
        group = binding.endpoint.dev.iommu_group
        for endpoint in self.endpoints.values():
            if endpoint.dev.iommu_group is group:
                endpoint.unmap_where_barred(binding.bond.mm)


def _is_bond(answer: sva.IommuSva | Refusal, scheme: Scheme) -> TypeGuard[sva.IommuSva]:
    """Tell a bond from a refusal; raises ModelError when a user's scheme returned neither."""
    if isinstance(answer, sva.IommuSva):
        if answer.mm.iommu_mm is not answer.data:
            raise ModelError(f"a bind of scheme {scheme.name} did not put its data on mm.iommu_mm")
        return True
    if isinstance(answer, Refusal):
        return False
    raise ModelError(f"a bind of scheme {scheme.name} returned {answer!r}, not an IommuSva or a Refusal")
