"""Who decides a PASID: today's Linux and the three proposals, each in a short file; and how to find a user's own."""

from pasidlab.schemes.base import Scheme
from pasidlab.schemes.hybrid import Hybrid
from pasidlab.schemes.load import SCHEMES, find_scheme, find_schemes
from pasidlab.schemes.mainline import Mainline
from pasidlab.schemes.options import Options
from pasidlab.schemes.rfc import Rfc
from pasidlab.schemes.v2 import V2

__all__ = ["SCHEMES", "V2", "Hybrid", "Mainline", "Options", "Rfc", "Scheme", "find_scheme", "find_schemes"]
