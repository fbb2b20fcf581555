"""What a machine's SVA comes to: how many PASIDs each device has, what bounds them, what is wrong, and what differs.

`audit(spec)` gives rows and findings; `compare(a, b)` says what two machines differ in that should be equal.
"""

from pasidlab.audit.audited import Audit, audit
from pasidlab.audit.capacity import Fit, fit
from pasidlab.audit.compare import Difference, compare
from pasidlab.audit.limits import Kind, Limit
from pasidlab.audit.rows import Room, Row

__all__ = ["Audit", "Difference", "Fit", "Kind", "Limit", "Room", "Row", "audit", "compare", "fit"]
