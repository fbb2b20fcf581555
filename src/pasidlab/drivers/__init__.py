"""Kernel drivers of IOMMUs: they write what the hardware reads. So far the `mock`, which has no tables."""
