"""A machine description out of what the sources say: checked as if a person had written it, each value with its origin.

Decided here:

* Kept are the devices that carry PASIDs, and the others of their groups, whose limits count; `every` keeps all. A
  virtual function is kept where its physical function carries PASIDs.
* An IOMMU of a kind that has no model to the bit is a mock with the operations of its driver. virtio-iommu and
  SMMUv1/v2 have none for PASIDs, as RISC-V's driver has none, whose operations they get.
* What no source says has the default of a description, and says "assumed" where it decides what a device carries.
* A machine cannot have both an arm-smmu-v3 and an intel-vtd: where sources say so, the kind that came first has its
  model, and the other becomes a mock. What CPUs of its kind cannot have is left out, and told.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from pasidlab.description import (
    ARM_SMMU_V3,
    INTEL_VTD,
    MOCK,
    CpuSpec,
    DeviceSpec,
    IommuSpec,
    MachineSpec,
    architecture,
    unknown,
)
from pasidlab.description.models import DEVICE_KEYS, IOMMU_KEYS, foreign_keys
from pasidlab.platforms.merge import Merged
from pasidlab.platforms.names import Names, clean_names, line_of
from pasidlab.platforms.said import MOST_PASID_BITS, Endpoint, Iommu, Kind, Known
from pasidlab.platforms.streams import Streams, settle_streams
from pasidlab.rules import Finding, Level, Rule
from pasidlab.toml_text import Commented

LONGEST_WHY = 4096
_X86_PAGE = 4096
OPS: dict[Kind, str] = {"amd-vi": "amd-vi", "riscv": "riscv", "virtio-iommu": "riscv", "arm-smmu": "riscv"}
"""Whose operations the mock has that stands for an IOMMU without a model to the bit."""
NO_PASID_DRIVER = "no PASID operations in its Linux driver, as in RISC-V's"
WIDTHS = {ARM_SMMU_V3: "IDR1.SSIDSIZE", INTEL_VTD: "ECAP.PSS"}
"""Where each model's width of PASIDs stands in hardware."""

TWO_MODELS = Rule(
    "import.two-models",
    "the sources of an import",
    "they have an Arm SMMUv3 and an Intel VT-d unit",
    "{iommu}: the machine has an {first} already, and no page table suits both: it becomes a mock",
    remedy="give sources of one machine only",
)
CPU_MISMATCH = Rule(
    "import.cpu-mismatch",
    "the sources of an import",
    "a property of the CPUs or of the kernel does not suit the other sources",
    "{key} is {value} by {origin}, which no machine with {whose} has; it is left out",
    remedy="give sources of one machine only",
    level=Level.ERROR,
)
WIDTH_ASSUMED = Rule(
    "import.width-assumed",
    "the sources of an import",
    "no source says how many PASIDs an IOMMU takes",
    "{iommu}: no source says {register}, so 20 bits are assumed; fewer limit every device behind it",
    remedy="of an SMMU no file of Linux has it: take IDR1.SSIDSIZE from the chip's manual, the firmware's source or "
    "the register, and write it into the machine's file as ssid_bits, or give a text with a line `IDR1: 0x...` beside; "
    "of a VT-d unit sys/class/iommu and the kernel's log have ECAP",
)
PROPERTY_UNKNOWN = Rule(
    unknown.PROPERTY_UNKNOWN,
    "the sources of an import",
    "no source says whether a device has PASIDs",
    "{device}: no source tells its {what}, so it is not known how many PASIDs it has, if any",
    remedy="capture as root, or give the IORT, the device tree or the output of `lspci -vv` as root beside; or set "
    "pasid_bits of the device in the machine's file",
)


@dataclass(frozen=True, slots=True)
class Written:
    """A machine as a document.

    Attributes:
        document: decoded TOML, values with an origin `Commented`.
        findings: what was found on the way.
        left_out: how many devices were not kept.
    """

    document: dict[str, Any]
    findings: list[Finding] = field(default_factory=list)
    left_out: int = 0

    @property
    def plain(self) -> dict[str, Any]:
        """The document without comments, as a TOML reader would have it."""
        plain: dict[str, Any] = _plain(self.document)
        return plain


def _plain(value: Any) -> Any:
    if isinstance(value, Commented):
        return _plain(value.value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value


def written(merged: Merged, *, every: bool = False) -> Written:
    """Return the machine that the sources describe, as a document."""
    findings: list[Finding] = []
    models = _models(merged, findings)
    kept = list(merged.endpoints.values()) if every else _worth_keeping(merged)
    kept = _functions_first(kept)
    streams = Streams(findings)
    names = Names(clean_names(merged.iommus), clean_names(one.name for one in kept))
    devices = [_device(one, names, models, streams) for one in kept]
    _clean_groups(devices)
    findings += _unknown(kept, names, models)
    document: dict[str, Any] = {key: _commented(known) for key, known in merged.machine.items()}
    document["cpu"] = _cpu(merged, set(models.values()), devices, findings)
    document["iommu"] = [_iommu(one, names, models[one.name], streams, findings) for one in merged.iommus.values()]
    _leave_to_options(document)
    document["device"] = devices
    present = {key: value for key, value in document.items() if value}
    return Written(present, findings, len(merged.endpoints) - len(kept))


def _leave_to_options(document: dict[str, Any]) -> None:
    """Leave out that an SMMU has no SVA where the kernel has none for it: then its log says nothing of the hardware."""
    config = document.get("config")
    if config is not None and config.value.get("ARM_SMMU_V3_SVA") is False:
        for table in document["iommu"]:
            if table.get("model") == ARM_SMMU_V3:
                table.pop("sva", None)


def _cpu(merged: Merged, models: set[str], devices: list[dict[str, Any]], findings: list[Finding]) -> dict[str, Any]:
    """Return what is known of the CPUs, without what no machine with such CPUs and IOMMUs has."""
    cpu = {key: known.value for key, known in merged.cpu.items()}
    iommus = [IommuSpec(name=INTEL_VTD, model="intel-vtd")] if INTEL_VTD in models else []
    kinds = {table["kind"].value for table in devices if "kind" in table}
    kept = [DeviceSpec(name=kind, kind=kind) for kind in sorted(kinds)]
    whose = architecture(MachineSpec(cpu=CpuSpec(arch=cpu.get("arch")), iommu=iommus, device=kept))
    x86 = whose == "x86" or INTEL_VTD in models
    impossible = {"page_size": x86 and cpu.get("page_size") != _X86_PAGE, "la57": not x86 and cpu.get("la57")}
    for key in [key for key in cpu if impossible.get(key)]:
        known = merged.cpu[key]
        facts = {"key": key, "value": known.value, "origin": known.origin}
        findings.append(CPU_MISMATCH.finding(**facts, whose=f"an {INTEL_VTD}" if INTEL_VTD in models else whose))
    return {key: _commented(known) for key, known in merged.cpu.items() if not impossible.get(key)}


def _unknown(kept: Iterable[Endpoint], names: Names, models: dict[str, str]) -> Iterator[Finding]:
    """Yield a finding for each device of which no source says whether it has PASIDs.

    Bridges, which have no kind, have none, and platform devices are asked for them behind an SMMUv3 only.
    """
    for one in kept:
        pci, smmu = one.bus == "pci", models.get(_value(one, "iommu")) == ARM_SMMU_V3
        may_have = smmu if not pci else "kind" in one.keys and "physfn" not in one.keys
        if may_have and "pasid_bits" not in one.keys:
            what = "PCI capabilities" if pci else "pasid-num-bits"
            yield PROPERTY_UNKNOWN.finding(device=names.devices[one.name], what=what)


def _commented(known: Known) -> Commented:
    return Commented(line_of(known.value) if isinstance(known.value, str) else known.value, known.origin)


def _models(merged: Merged, findings: list[Finding]) -> dict[str, str]:
    """Return the model of each IOMMU, by its name."""
    models: dict[str, str] = {}
    for one in merged.iommus.values():
        model = one.kind if one.kind in (ARM_SMMU_V3, INTEL_VTD) else MOCK
        other = next((known for known in models.values() if known not in (MOCK, model)), None)
        if model != MOCK and other is not None:
            findings.append(TWO_MODELS.finding(iommu=one.name, first=other))
            model = MOCK
        models[one.name] = model
    return models


# --- which devices -------------------------------------------------------------------------------------------------


def _worth_keeping(merged: Merged) -> list[Endpoint]:
    """Return the devices that carry PASIDs, their virtual functions, and the others of their groups."""
    endpoints = merged.endpoints
    carrying = {name for name, one in endpoints.items() if _carries(one)}
    carrying |= {name for name, one in endpoints.items() if _value(one, "physfn") in carrying}
    groups = {_value(endpoints[name], "group") for name in carrying} - {None}
    return [one for name, one in endpoints.items() if name in carrying or _value(one, "group") in groups]


def _carries(one: Endpoint) -> bool:
    """Whether a device has a PASID capability or property; a platform device behind an IOMMU may lack it by mistake."""
    has = _value(one, "pasid_bits") is not None
    return has or (one.bus == "platform" and "iommu" in one.keys)


def _value(one: Endpoint, key: str) -> Any:
    known = one.keys.get(key)
    return None if known is None else known.value


def _functions_first(kept: Iterable[Endpoint]) -> list[Endpoint]:
    """Put physical functions before their virtual ones, as a description wants it."""
    return sorted(kept, key=lambda one: "physfn" in one.keys)


# --- IOMMUs --------------------------------------------------------------------------------------------------------


def _iommu(one: Iommu, names: Names, model: str, streams: Streams, findings: list[Finding]) -> dict[str, Any]:
    table: dict[str, Any] = {"name": Commented(names.iommus[one.name], one.origin)}
    if model != MOCK:
        table["model"] = model
    if one.kind in OPS:
        why = f"{one.kind}: {NO_PASID_DRIVER}" if OPS[one.kind] != one.kind else one.kind
        table["ops"] = Commented(OPS[one.kind], why)
    foreign = set(foreign_keys(IOMMU_KEYS, model))
    table |= {key: _commented(known) for key, known in one.keys.items() if key not in foreign}
    _say_width(table, one, model, findings)
    _settle_page_requests(table, model)
    if model == ARM_SMMU_V3:
        settle_streams(table, one, streams.bits(one.name), findings)
    return table


def _say_width(table: dict[str, Any], one: Iommu, model: str, findings: list[Finding]) -> None:
    """Keep the width in its range; say where it is only assumed."""
    for key in ("pasid_bits", "ssid_bits"):
        known = one.keys.get(key)
        if known is not None:
            table[key] = Commented(min(known.value, MOST_PASID_BITS), known.origin)
    if model in WIDTHS and not {"pasid_bits", "ssid_bits"} & set(table):
        table["pasid_bits"] = Commented(MOST_PASID_BITS, f"assumed: no source says {WIDTHS[model]}")
        findings.append(WIDTH_ASSUMED.finding(iommu=one.name, register=WIDTHS[model]))


def _settle_page_requests(table: dict[str, Any], model: str) -> None:
    """Take an IOMMU for one without page requests where it has no ATS, by which they are answered."""
    pri, ats = table.get("pri"), table.get("ats")
    has_ats = model == INTEL_VTD if ats is None else ats.value
    if pri is not None and pri.value and not has_ats:
        why = "no source says that it has ATS" if ats is None else f"no ATS: {ats.comment}"
        table["pri"] = Commented(False, f"{pri.comment}, but {why}")


# --- devices -------------------------------------------------------------------------------------------------------


def _device(one: Endpoint, names: Names, models: dict[str, str], streams: Streams) -> dict[str, Any]:
    iommu = _value(one, "iommu")
    model = models.get(iommu, MOCK)
    table: dict[str, Any] = {"name": Commented(names.devices[one.name], one.origin)}
    keys = dict(one.keys)
    if one.bus == "platform":
        keys["kind"] = Known("narrow", "a platform device")
    foreign = set(foreign_keys(DEVICE_KEYS, model))
    if one.bus == "platform":
        foreign |= _PCI_KEYS
    for key, known in keys.items():
        clean = names.clean(key, known.value)
        if key not in foreign and clean is not None:
            table[key] = Commented(clean, known.origin)
    if "stream_id" in table:
        streams.settle(table, one, iommu)
    if model == INTEL_VTD and one.rid is not None:
        table["source_id"] = one.rid.in_segment
    return _in_order(table)


_PCI_KEYS = {"ats", "pri", "pasid_enabled", "prefix_path", "acs_path", "prg_pasid", "physfn"}
"""Keys of a device that only a PCI function has."""
_FIRST_KEYS = ("name", "iommu", "kind", "group", "physfn", "pasid_bits")


def _in_order(table: dict[str, Any]) -> dict[str, Any]:
    """Return the keys of a device in the order in which people write them."""
    first = {key: table[key] for key in _FIRST_KEYS if key in table}
    return first | {key: value for key, value in table.items() if key not in first}


def _clean_groups(devices: list[dict[str, Any]]) -> None:
    """Leave out what only the first device of a group says."""
    seen: set[str] = set()
    for table in devices:
        group = table.get("group")
        if group is not None and group.value in seen:
            table.pop("default_domain", None)
        if group is not None:
            seen.add(group.value)
