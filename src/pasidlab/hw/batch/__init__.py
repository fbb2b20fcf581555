"""What the compiled batches of all IOMMUs have in common: memory, requests, fields and rules, as numbers in arrays.

Modules that import numba are imported only when a batch is first asked for.
"""
