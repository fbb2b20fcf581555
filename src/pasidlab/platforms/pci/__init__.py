"""PCI functions: configuration space however it was read, and what follows from where a function is."""
