"""Exhaustive search over everything that can happen on a small machine."""
