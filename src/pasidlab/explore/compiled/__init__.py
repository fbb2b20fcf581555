"""The search over a record of fixed layout: the four schemes once more, as compiled functions."""
