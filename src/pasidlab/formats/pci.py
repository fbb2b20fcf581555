"""The header and the capabilities of PCI configuration space that decide whether a function can use PASIDs.

Decided here: a format is a whole capability, its header included, as it lies in configuration space; PCI Express up to
Device Control 2.
"""

from __future__ import annotations

from pasidlab.formats.form import form_of
from pasidlab.platforms.pci.words import (
    AcsCapability,
    AtsCapability,
    CapabilityHeader,
    ConfigHeader,
    ExpressCapability,
    ExtendedHeader,
    PasidCapability,
    PriCapability,
    SriovCapability,
)

PCI = (
    form_of("pci.config", ConfigHeader),
    form_of("pci.capability", CapabilityHeader),
    form_of("pci.extended", ExtendedHeader),
    form_of("pci.express", ExpressCapability),
    form_of("pci.acs", AcsCapability),
    form_of("pci.ats", AtsCapability),
    form_of("pci.sriov", SriovCapability),
    form_of("pci.pri", PriCapability),
    form_of("pci.pasid", PasidCapability),
)
"""The formats of configuration space."""
