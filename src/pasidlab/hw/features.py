"""What the features of any IOMMU have in common: each has the values that a register can say."""

from __future__ import annotations

from collections.abc import Mapping

Values = range | tuple[object, ...]


def check_values(features: object, allowed: Mapping[str, Values]) -> None:
    """Raise ValueError for the first field whose value is not among those allowed for it, and say which are."""
    for name, values in allowed.items():
        value = getattr(features, name)
        if value not in values:
            raise ValueError(f"Features.{name}={value!r}: allowed are {_text(values)}")


def _text(values: Values) -> str:
    """Say which values a field may have."""
    if isinstance(values, range):
        steps = "" if values.step == 1 else f", in steps of {values.step}"
        return f"{values[0]} to {values[-1]}{steps}"
    return ", ".join(repr(value) for value in values)
