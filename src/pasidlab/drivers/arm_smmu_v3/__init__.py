"""Linux's arm-smmu-v3 driver: the tables that it builds, and the order in which it changes them."""
