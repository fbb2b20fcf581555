"""The document that this package follows, under the name by which rules cite it."""

from typing import Final

SPEC: Final = "Intel VT-d 4.1"
"""Intel Virtualization Technology for Directed I/O, Architecture Specification."""
