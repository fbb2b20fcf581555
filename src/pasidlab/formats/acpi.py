"""The structures of the ACPI tables by which firmware describes IOMMUs and what is behind them.

Decided here: a format is the part of a structure that always has the same length. Lists that follow it, as ID mappings
and device scopes, are formats of their own, and so is the header that all nodes of an IORT begin with. What later
revisions put at the end of a structure may be left out.
"""

from __future__ import annotations

from dataclasses import replace

from pasidlab.formats.form import WordFormat, form_of
from pasidlab.platforms.acpi import dmar_words as dmar
from pasidlab.platforms.acpi import iort_words as iort
from pasidlab.platforms.acpi import ivrs_words as ivrs
from pasidlab.platforms.acpi import rhct_words as rhct
from pasidlab.platforms.acpi import rimt_words as rimt
from pasidlab.platforms.acpi import viot_words as viot
from pasidlab.platforms.acpi.header import AcpiHeader


def _body(form: WordFormat) -> WordFormat:
    """Return the format of an IORT node without the header, which the specification has apart."""
    return replace(form, summary=f"After the node's header: {form.summary}")


def _grown(form: WordFormat) -> WordFormat:
    """Return a format of which older revisions have only the beginning."""
    return replace(form, fills=True)


ACPI = (
    form_of("acpi.header", AcpiHeader),
    form_of("iort.fields", iort.IortFields),
    form_of("iort.node", iort.IortNodeHeader),
    _body(form_of("iort.its_group", iort.ItsGroup)),
    _body(form_of("iort.named_component", iort.NamedComponent)),
    _grown(_body(form_of("iort.root_complex", iort.RootComplex))),
    _body(form_of("iort.smmu", iort.Smmu)),
    _grown(_body(form_of("iort.smmuv3", iort.Smmuv3))),
    _grown(_body(form_of("iort.pmcg", iort.Pmcg))),
    _body(form_of("iort.rmr", iort.Rmr)),
    form_of("iort.rmr_range", iort.RmrRange),
    _body(form_of("iort.iwb", iort.Iwb)),
    form_of("iort.id_mapping", iort.IdMapping),
    form_of("dmar.fields", dmar.DmarFields),
    form_of("dmar.structure", dmar.RemappingStructure),
    form_of("dmar.drhd", dmar.Drhd),
    form_of("dmar.rmrr", dmar.Rmrr),
    form_of("dmar.atsr", dmar.Atsr),
    form_of("dmar.rhsa", dmar.Rhsa),
    form_of("dmar.andd", dmar.Andd),
    form_of("dmar.satc", dmar.Satc),
    form_of("dmar.sidp", dmar.Sidp),
    form_of("dmar.scope", dmar.DeviceScope),
    form_of("dmar.path", dmar.PathEntry),
    form_of("ivrs.fields", ivrs.IvrsFields),
    form_of("ivrs.block", ivrs.Block),
    form_of("ivrs.ivhd", ivrs.Ivhd),
    form_of("ivrs.ivhd_efr", ivrs.IvhdWithEfr, "IVHD of type 0x11 or 0x40, with copies of both feature registers"),
    form_of("ivrs.ivhd_features", ivrs.IvhdFeatures),
    form_of("ivrs.entry", ivrs.Entry4),
    form_of("ivrs.alias", ivrs.AliasEntry),
    form_of("ivrs.ext", ivrs.ExtEntry),
    form_of("ivrs.special", ivrs.SpecialEntry),
    form_of("ivrs.hid", ivrs.HidEntry),
    form_of("ivrs.ivmd", ivrs.Ivmd),
    form_of("rimt.fields", rimt.RimtFields),
    form_of("rimt.node", rimt.RimtNode),
    form_of("rimt.iommu", rimt.IommuNode),
    form_of("rimt.root_complex", rimt.RootComplexNode),
    form_of("rimt.platform", rimt.PlatformNode),
    form_of("rimt.id_mapping", rimt.IdMapping),
    form_of("rimt.wire", rimt.InterruptWire),
    form_of("rhct.fields", rhct.RhctFields),
    form_of("rhct.node", rhct.RhctNode),
    form_of("rhct.isa_string", rhct.IsaStringNode),
    form_of("rhct.cmo", rhct.CmoNode),
    form_of("rhct.mmu", rhct.MmuNode),
    form_of("rhct.hart", rhct.HartInfoNode),
    form_of("viot.fields", viot.ViotFields),
    form_of("viot.node", viot.ViotNodeHeader),
    form_of("viot.pci_range", viot.PciRange),
    form_of("viot.mmio", viot.MmioEndpoint),
    form_of("viot.iommu_pci", viot.VirtioIommuPci),
    form_of("viot.iommu_mmio", viot.VirtioIommuMmio),
)
"""The formats of ACPI tables."""
