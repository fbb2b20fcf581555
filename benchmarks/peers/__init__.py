"""Searches of the same abstract machine by other means, for comparison only."""
