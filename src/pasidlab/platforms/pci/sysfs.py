"""The PCI functions of a host, as sysfs shows them.

Source: Linux, Documentation/ABI/testing/sysfs-bus-pci and drivers/pci/pci-sysfs.c. Read of each function in
sys/bus/pci/devices: config, the links driver, iommu_group and physfn, and where the link of the function itself leads,
which names the bridges above it.

Decided here: files are read below sys/devices, where the function's link leads, and by the link itself where a tree has
no file there. vendor, device, class and revision count before configuration space, in which a virtual function has no
IDs. A name that is no address of a function is left out, and so is a function with nothing to read.
"""

from __future__ import annotations

import posixpath
from dataclasses import replace

from pasidlab.errors import InputError
from pasidlab.platforms.host.numbers import read_number
from pasidlab.platforms.host.tree import Tree, link_name
from pasidlab.platforms.pci.config import ConfigSpace, Header, read_config
from pasidlab.platforms.pci.function import Function
from pasidlab.platforms.pci.words import EXTENDED_START
from pasidlab.platforms.said import Rid, rid_of
from pasidlab.rules import Finding, Rule

DEVICES = "sys/bus/pci/devices"

UNREAD_CONFIG = Rule(
    "pci.no-config",
    "sysfs, config",
    "the file is missing, or is no configuration space",
    "{file}: {size} bytes, which are no configuration space; only the files beside it are read",
    source="Linux, drivers/pci/pci-sysfs.c",
    remedy="capture again, as root, while the device is awake",
)


def functions(tree: Tree) -> list[Function]:
    """Return the PCI functions of a host, by address; empty where it has none."""
    addresses = ((name, rid_of(name)) for name in tree.names(DEVICES))
    return [_function(tree, name, rid) for name, rid in addresses if rid is not None]


def _function(tree: Tree, name: str, rid: Rid) -> Function:
    """Read one function."""
    link = f"{DEVICES}/{name}"
    target = tree.link(link)
    place = link if target is None else posixpath.normpath(f"{DEVICES}/{target}")
    raw = tree.read(f"{place}/config")
    if raw is None and tree.read(f"{place}/vendor") is None:
        raw, place = tree.read(f"{link}/config"), link
    above = _above(target)
    physfn = link_name(tree, f"{place}/physfn")
    return Function(
        rid,
        _config(tree, place, raw),
        link,
        parent=above,
        at_root=target is not None and above is None,
        physfn=None if physfn is None else rid_of(physfn),
        driver=link_name(tree, f"{place}/driver"),
        group=link_name(tree, f"{place}/iommu_group"),
    )


def _above(target: str | None) -> Rid | None:
    """Return the function in whose directory a function's own directory is; None where it is a root bus's."""
    parts = [] if target is None else target.rstrip("/").split("/")
    return rid_of(parts[-2]) if len(parts) > 1 else None


def _config(tree: Tree, place: str, raw: bytes | None) -> ConfigSpace:
    """Return a function's configuration space, with the IDs that the files beside it have."""
    file = f"{place}/config"
    beside = Header(
        read_number(tree, f"{place}/vendor"),
        read_number(tree, f"{place}/device"),
        read_number(tree, f"{place}/revision"),
        read_number(tree, f"{place}/class"),
    )
    try:
        config = read_config(raw or b"", file)
    except InputError:
        findings: list[Finding] = [UNREAD_CONFIG.finding(file=file, size=len(raw or b""))]
        config = ConfigSpace(file, unread="config was not read", findings=findings)
    if len(raw or b"") == EXTENDED_START and not config.extended_known:
        config = replace(config, unread="256 bytes were read, which is all where the kernel has no access to more")
    return replace(config, header=beside.filled(config.header))
