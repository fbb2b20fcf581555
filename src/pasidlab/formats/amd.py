"""The register of AMD's IOMMUs that says what they can do, as sysfs, firmware and the kernel's log show it."""

from __future__ import annotations

from pasidlab.formats.form import form_of
from pasidlab.platforms.amd import Efr

AMD = (form_of("amd.efr", Efr),)
"""The formats of AMD's IOMMUs."""
