"""What of a machine bears on a check, in words; each is a fact of the description or of the running model."""

from __future__ import annotations

from pasidlab.explain.scene import Scene


def kernel(scene: Scene) -> str:
    """Name the kernel."""
    return f"kernel {scene.kernel}"


def behind(scene: Scene) -> str:
    """Say what is in front of the device."""
    return scene.behind


def carries(scene: Scene) -> str:
    """Say which numbers the device carries."""
    return scene.carries


def members(scene: Scene) -> str:
    """Say what the group's members carry."""
    return scene.members


def cpus(scene: Scene) -> str:
    """Name the architecture and the kernel."""
    return f"{scene.arch} CPUs, kernel {scene.kernel}"


def built(option: str) -> str:
    """Return the name of a kernel option as people write it."""
    return f"CONFIG_{option}"


def config(scene: Scene) -> str:
    """Say what is known of the kernel options that decide over SVA."""
    known = scene.machine.config
    said = [f"{built(name)}={'y' if known[name] else 'n'}" for name in sorted(known)]
    return ", ".join(said) if said else "the machine's description says nothing of kernel options"


SVA_OPTIONS = frozenset({"IOMMU_SVA", "ARM_SMMU_V3_SVA", "INTEL_IOMMU_SVM"})
"""Options of which one says whether a kernel has SVA."""


def config_unknown(scene: Scene) -> bool:
    """Whether nothing says if the kernel was built with SVA."""
    return not SVA_OPTIONS & set(scene.machine.config)


def levels(scene: Scene) -> str:
    """Say how many levels page tables have, and how many the unit walks."""
    iommu = scene.iommu_spec
    walks = 5 if iommu is None or iommu.five_level is not False else 4
    return f"page tables of {5 if scene.machine.cpu.la57 else 4} levels, {scene.behind}, which walks up to {walks}"


def sharing(scene: Scene) -> str:
    """Say whether the IOMMU can share page tables."""
    iommu = scene.iommu_spec
    able = iommu is not None and iommu.sva
    return f"{scene.behind}, which {'can' if able else 'cannot'} share page tables with the CPUs"


def scalable(scene: Scene) -> str:
    """Say whether a remapping unit has scalable mode and PASIDs."""
    iommu = scene.iommu_spec
    on = iommu is not None and iommu.scalable is not False
    width = 0 if iommu is None else iommu.pasid_bits
    return f"{scene.behind}: scalable mode {'on' if on else 'off'}, {width} PASID bits"


def switched_on(scene: Scene) -> str:
    """Say what of PASID, ATS and page requests the device has on."""
    device, dev = scene.device_spec, scene.base.dev
    off = {"PASID": dev.pci and not dev.pasid_enabled, "ATS": device.ats is False, "page requests": device.pri is False}
    said = ", ".join(f"{name} {'off' if is_off else 'on'}" for name, is_off in off.items())
    return f"{scene.device} has {said}"


def streams(scene: Scene) -> str:
    """Say how many streams the device has."""
    given = scene.device_spec.stream_id
    count = len(given) if isinstance(given, list) else 1
    return f"{scene.device} has {count} stream{'s' if count > 1 else ''}"


def default_domain(scene: Scene) -> str:
    """Say what the traffic without PASID runs in."""
    kind = scene.device_spec.default_domain or "dma"
    return f"the traffic of {scene.device} without PASID is in a domain of kind {kind}"


def queue(scene: Scene) -> str:
    """Say of which kind the queue for user space is."""
    device = scene.device_spec
    return f"{scene.device} is of kind {device.kind}, its queue {device.queue or 'shared'}"
