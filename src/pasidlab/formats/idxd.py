"""The words of DSA and IAA: descriptors, completion records, queue configuration and other registers."""

from __future__ import annotations

from dataclasses import replace

from pasidlab.devices.idxd import registers
from pasidlab.devices.idxd.descriptors import DsaCompletion, DsaDescriptor, IaaCompletion, IaaDescriptor
from pasidlab.formats.form import form_of, named_by
from pasidlab.words import Word

_REGISTERS: dict[str, type[Word]] = {
    "GENCAP": registers.Gencap,
    "WQCAP": registers.Wqcap,
    "GRPCAP": registers.Grpcap,
    "ENGCAP": registers.Engcap,
    "TABLES": registers.Tables,
    "GENCFG": registers.Gencfg,
    "GENCTRL": registers.Genctrl,
    "GENSTS": registers.Gensts,
    "CMD": registers.Cmd,
    "CMDSTS": registers.Cmdsts,
    "SWERR": registers.Swerr,
}
"""The registers of BAR0, by the names of their offsets."""

IDXD = (
    replace(form_of("idxd.desc", DsaDescriptor, "Descriptor of DSA"), named=named_by("opcode"), fills=True),
    replace(
        form_of("idxd.completion", DsaCompletion, "Completion record of DSA"), named=named_by("status"), fills=True
    ),
    replace(form_of("idxd.iaa_desc", IaaDescriptor, "Descriptor of IAA"), named=named_by("opcode"), fills=True),
    replace(
        form_of("idxd.iaa_completion", IaaCompletion, "Completion record of IAA"), named=named_by("status"), fills=True
    ),
    replace(form_of("idxd.wqcfg", registers.Wqcfg), fills=True),
    replace(form_of("idxd.grpcfg", registers.Grpcfg), fills=True),
    form_of("idxd.msix_perm", registers.MsixPerm, "Which PASID's descriptors may raise an interrupt"),
    *(
        form_of(f"idxd.{name.lower()}", word, f"Register {name} at {getattr(registers, name):#x}")
        for name, word in _REGISTERS.items()
    ),
)
"""The formats of DSA and IAA."""
