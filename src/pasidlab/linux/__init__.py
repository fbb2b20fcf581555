"""The Linux core's PASID and SVA path: one module per kernel file, kernel names for kernel things.

What is where: `profiles` (what differs between kernels), `kernel` (the global variables), `structs`
(include/linux/iommu.h), `iommu` with `ownership` and `reset` (drivers/iommu/iommu.c), `mm` (mm_struct), `sva`
(drivers/iommu/iommu-sva.c), `iopf` (io-pgfault.c), `task` (fork, exec, exit), `traps` (the #GP fix-up), `prctl` (LAM).
docs/reading.md has an order to read them in.
"""
