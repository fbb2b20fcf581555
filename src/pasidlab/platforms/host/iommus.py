"""The IOMMUs of a Linux host, their registers as far as sysfs shows them, and which device is behind which.

Source: Documentation/ABI/testing/sysfs-class-iommu, -intel-iommu, -amd-iommu and sysfs-kernel-iommu_groups;
iommu_device_sysfs_add(), iommu_device_link() (drivers/iommu/iommu-sysfs.c), Linux 6.12. An AMD IOMMU shows its
extended features as one number, from 5.18 on as `second:first`, from 6.7 on as `first:second`.

Decided here: of two numbers of AMD, the first that has a bit of PREFSUP, GTSUP, GASUP or PCSUP and of PASMAX or GATS
is the first register; where neither has, or both, the order of 6.7. An IOMMU's kind is told by its name, of a
virtio-iommu by where its link leads; of others only a remark is kept. A group's type `DMA` or `DMA-FQ` is
default_domain dma, `auto` says nothing. Below a platform device's `of_node` are all properties that it has in the
device tree, for users too: where `compatible` is there, which each such node has, what is not there it does not have.
Not read: `domains_supported`, `domains_used`, reserved regions of groups.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple, TypeVar

from pasidlab.hw.vtd.registers import Cap, Ecap
from pasidlab.platforms.amd import Efr, efr_says
from pasidlab.platforms.devicetree.nodes import width_of
from pasidlab.platforms.host.tree import Tree, link_name, read_text
from pasidlab.platforms.origins import inside
from pasidlab.platforms.registers_say import cap_says, ecap_says
from pasidlab.platforms.said import Endpoint, Iommu, Kind, Said, rid_of
from pasidlab.rules import Level, Rule
from pasidlab.words import Word

CLASS, GROUPS = "sys/class/iommu", "sys/kernel/iommu_groups"
BUSES = {"pci": "sys/bus/pci/devices", "platform": "sys/bus/platform/devices"}
FIRMWARE = "firmware/devicetree/base"
CELL = 4
"""Bytes of a number in a device tree."""
DOMAINS = {"DMA": "dma", "DMA-FQ": "dma", "identity": "identity", "blocked": "blocked"}
"""What a group's type says of the domain that its devices start in."""
NAMES: tuple[tuple[str, Kind], ...] = (
    (r"dmar\d+", "intel-vtd"),
    (r"smmu3\..*", "arm-smmu-v3"),
    (r"smmu\..*", "arm-smmu"),
    (r"ivhd\d+", "amd-vi"),
    (r"riscv-iommu@.*", "riscv"),
)
_VIRTIO = re.compile(r"/virtio\d+/iommu/")
"""What the link of a virtio-iommu has, which is named after its PCI function or its platform device."""
_BASE = re.compile(
    r"0x([0-9a-fA-F]{1,16})$|^riscv-iommu@([0-9a-fA-F]{1,16})(?:\.|$)|^([0-9a-fA-F]{1,16})\.virtio_mmio$"
)
_HEX = re.compile(r"^(0x)?[0-9a-fA-F]{1,16}$")

NOT_A_NUMBER = Rule(
    "sysfs.not-a-number",
    "sys/class/iommu",
    "a register's file holds no hexadecimal number of at most 64 bits",
    "{file}: {text!r} is no register; it is not read",
    remedy="capture again",
    level=Level.WARNING,
)

W = TypeVar("W", bound=Word)


class Device(NamedTuple):
    """A device of sysfs that has something to do with IOMMUs."""

    bus: str
    name: str
    iommu: str | None
    group: str | None
    node: str


def iommus_say(tree: Tree) -> Said:
    """Return what a host's sysfs says of IOMMUs, and of the devices behind them."""
    said = Said(f"{tree.name}: {CLASS}")
    known = set()
    for name in tree.names(CLASS):
        iommu = _iommu(tree, name, said)
        if iommu is not None:
            said.iommus.append(iommu)
            known.add(name)
    behind = _behind(tree, known)
    types = {group: text for group in tree.names(GROUPS) if (text := read_text(tree, f"{GROUPS}/{group}/type"))}
    groups = _groups(tree)
    for device in devices(tree):
        said.endpoints.append(_endpoint(tree, device, behind, groups, types))
    return said


# --- units ---------------------------------------------------------------------------------------------------------


def _iommu(tree: Tree, name: str, said: Said) -> Iommu | None:
    kind = next((kind for pattern, kind in NAMES if re.fullmatch(pattern, name)), None)
    place = f"{CLASS}/{name}"
    if kind is None and tree.names(f"{place}/amd-iommu"):
        kind = "amd-vi"
    if kind is None and _VIRTIO.search(tree.link(place) or ""):
        kind = "virtio-iommu"
    if kind is None:
        said.remarks.append(f"{place}: an IOMMU of a kind that is not known here")
        return None
    iommu = Iommu(name, kind, place)
    if kind == "intel-vtd":
        _intel(tree, iommu, said)
    elif kind == "amd-vi":
        _amd(tree, iommu, said)
    else:
        base = _BASE.search(name)
        iommu.base = int(base[base.lastindex or 0], 16) if base else None
    if kind == "virtio-iommu":
        iommu.rid = rid_of(name)
        iommu.say("pasid_bits", 0, f"{place}: a virtio-iommu has no PASIDs in Linux")
        iommu.say("sva", False, f"{place}: Linux's driver of the virtio-iommu has no SVA")
    return iommu


def _intel(tree: Tree, iommu: Iommu, said: Said) -> None:
    """Say what the registers of a unit tell."""
    place = f"{iommu.origin}/intel-iommu"
    iommu.base = _number(tree, f"{place}/address", said)
    cap, ecap = (_number(tree, f"{place}/{name}", said) for name in ("cap", "ecap"))
    if cap is not None:
        cap_says(iommu, Cap(cap), inside(f"{place}/cap {cap:#x}"))
    if ecap is not None:
        ecap_says(iommu, Ecap(ecap), inside(f"{place}/ecap {ecap:#x}"))


def _amd(tree: Tree, iommu: Iommu, said: Said) -> None:
    """Say what the extended features of an IOMMU tell."""
    path = f"{iommu.origin}/amd-iommu/features"
    text = read_text(tree, path)
    if not text:
        return
    numbers = text.split(":")
    if len(numbers) > 2 or not all(_HEX.match(number) for number in numbers):
        said.found([NOT_A_NUMBER.finding(file=path, text=text[:64])])
        return
    efr = first_features([int(number, 16) for number in numbers])
    efr_says(iommu, efr, inside(f"{path} {efr:#x}"))


def first_features(numbers: list[int]) -> Efr:
    """Return which of the numbers in a features file is the first register."""
    likely = [Efr(number) for number in numbers if _is_first(Efr(number))]
    return likely[0] if len(likely) == 1 else Efr(numbers[0])


def _is_first(efr: Efr) -> bool:
    return bool(efr & Efr.mask("prefsup", "gtsup", "gasup", "pcsup")) and bool(efr & Efr.mask("pasmax", "gats"))


def _number(tree: Tree, path: str, said: Said) -> int | None:
    """Return the number that a file of sysfs holds."""
    text = read_text(tree, path)
    if text is None or not text:
        return None
    if _HEX.match(text):
        return int(text, 16)
    said.found([NOT_A_NUMBER.finding(file=path, text=text[:64])])
    return None


# --- devices -------------------------------------------------------------------------------------------------------


def devices(tree: Tree) -> Iterator[Device]:
    """Yield the devices of a host that have an IOMMU or a group."""
    for bus, directory in BUSES.items():
        for name in tree.names(directory):
            place = f"{directory}/{name}"
            iommu, group = link_name(tree, f"{place}/iommu"), link_name(tree, f"{place}/iommu_group")
            if bus == "pci" or iommu is not None or group is not None:
                yield Device(bus, name, iommu, group, "" if bus == "pci" else _node(tree, place))


def _node(tree: Tree, place: str) -> str:
    """Return the path of a device's node in firmware: of a device tree or of the ACPI namespace."""
    target = tree.link(f"{place}/of_node")
    if target is not None and FIRMWARE in target:
        return target.split(FIRMWARE, 1)[1].rstrip("/") or "/"
    return read_text(tree, f"{place}/firmware_node/path") or ""


def _behind(tree: Tree, names: set[str]) -> dict[str, str]:
    """Return the IOMMU of each device that an IOMMU's own directory links to."""
    return {device: name for name in sorted(names) for device in tree.names(f"{CLASS}/{name}/devices")}


def _groups(tree: Tree) -> dict[str, str]:
    """Return the group of each device that a group's own directory links to."""
    return {device: group for group in tree.names(GROUPS) for device in tree.names(f"{GROUPS}/{group}/devices")}


def _endpoint(
    tree: Tree, device: Device, behind: dict[str, str], groups: dict[str, str], types: dict[str, str]
) -> Endpoint:
    directory = BUSES[device.bus]
    place = f"{directory}/{device.name}"
    pci = device.bus == "pci"
    endpoint = Endpoint(device.name, "pci" if pci else "platform", place, rid_of(device.name), device.node)
    iommu = device.iommu or behind.get(device.name)
    if iommu is not None:
        endpoint.say("iommu", iommu, f"{place}/iommu" if device.iommu else f"{CLASS}/{iommu}/devices")
        if not pci:
            _say_properties(tree, endpoint, f"{place}/of_node")
    group = device.group or groups.get(device.name)
    if group is not None:
        endpoint.say("group", f"group{group}", f"{place}/iommu_group {group}")
        domain = DOMAINS.get(types.get(group, ""))
        if domain is not None:
            endpoint.say("default_domain", domain, f"{GROUPS}/{group}/type {types[group]}")
    return endpoint


def _say_properties(tree: Tree, endpoint: Endpoint, node: str) -> None:
    """Say what the node of a platform device in a device tree tells of PASIDs, where its properties are shown."""
    there = tree.names(node)
    if "compatible" not in there:
        return
    raw = tree.read(f"{node}/pasid-num-bits") if "pasid-num-bits" in there else b""
    if raw is not None and len(raw) < CELL:
        endpoint.say("pasid_bits", None, f"{node}: no pasid-num-bits")
    elif raw is not None:
        bits = int.from_bytes(raw[:CELL], "big")
        endpoint.say("pasid_bits", width_of(bits), f"{node}/pasid-num-bits {bits}")
    stalls = "dma-can-stall" in there
    endpoint.say("can_stall", stalls, f"{node}{'/' if stalls else ': no '}dma-can-stall")
