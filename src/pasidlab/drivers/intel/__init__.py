"""Linux's intel-iommu driver: root, context and PASID tables, the invalidation queue, the page request queue."""
