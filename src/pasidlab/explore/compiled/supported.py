"""Which worlds and schemes the compiled search knows; the rest is for the readable one."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

from pasidlab.description import architecture, not_built
from pasidlab.devices import SubmitBy
from pasidlab.drivers.traits import Mode
from pasidlab.explore.action import Verb
from pasidlab.explore.world import World, too_large
from pasidlab.linux.profiles import profile
from pasidlab.schemes import SCHEMES, Scheme

_MODES = (Mode.USUAL, Mode.OTHER_DRIVER, Mode.ARM_SMMU_V3, Mode.INTEL_VTD)
"""Mocks whose operations do the same to a bond."""
_KINDS = ("pcie", "narrow")
_QUOTAS = ("quota_user", "quota_device", "min_sva_bits")
_INSTRUCTIONS = {SubmitBy.ENQCMD: "x86", SubmitBy.ST64BV0: "arm64"}


def unsupported(world: World, scheme: type[Scheme]) -> str | None:
    """Say why a world under a scheme is for the readable search only; None when the compiled one takes it."""
    parts = (_of_scheme(world, scheme), _of_iommus(world), _of_devices(world), _of_kernel(world), _of_cpus(world))
    return too_large(world) or next(chain(*parts), None)


def _of_scheme(world: World, scheme: type[Scheme]) -> Iterator[str]:
    if SCHEMES.get(scheme.name) is not scheme:
        yield f"scheme {scheme.name} has no compiled form"
    yield from (f"option {name}" for name in _QUOTAS if getattr(world.options, name))


def _of_iommus(world: World) -> Iterator[str]:
    modes = {iommu.ops for iommu in world.iommu}
    if len(modes) > 1:
        yield "IOMMUs of different drivers"
    yield from (f"iommu.ops = {mode.value!r}" for mode in modes if mode not in _MODES)
    yield from (f"iommu {iommu.name} cannot share page tables" for iommu in world.iommu if not iommu.sva)


def _of_devices(world: World) -> Iterator[str]:
    yield from (f"a device of kind {one.kind}" for one in world.device if one.kind not in _KINDS)
    yield from (f"a virtual function, {one.name}" for one in world.device if one.physfn is not None)
    off = (one for one in world.device if False in (one.prefix_path, one.acs_path, one.pasid_enabled))
    yield from (f"a device in which PASID may be off, {one.name}" for one in off)
    arch = architecture(world.machine)
    for one in world.device:
        if _INSTRUCTIONS.get(one.submits, arch) != arch:
            yield f"a device that takes {one.submits.value} on {arch}, {one.name}"


def _of_kernel(world: World) -> Iterator[str]:
    """Look at the switches that change what an action leads to."""
    kernel = profile(world.kernel).with_switches(dict(world.switches))
    if kernel.x86_sva_refused and architecture(world.machine) == "x86":
        yield f"kernel {world.kernel} refuses SVA on x86"
    yield from (f"a kernel without CONFIG_{name}" for name in sorted(not_built(world.machine)))
    if kernel.pasid_freed_at_mmput:
        yield "switch pasid_freed_at_mmput"
    without = any(device.iommu and not most for device, most in zip(world.machine.device, world.largest, strict=True))
    if without and not kernel.skip_members_without_pasids:
        yield "switch skip_members_without_pasids = false, and a device without PASIDs"


def _of_cpus(world: World) -> Iterator[str]:
    x86 = architecture(world.machine) == "x86"
    if Verb.FORGE in world.verbs and not (world.cpu.movdir64b if x86 else world.cpu.ls64):
        yield "posted stores that the CPU does not have"
