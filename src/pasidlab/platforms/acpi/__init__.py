"""Tables of ACPI that bear on PASIDs, each with a module that reads it and says what it means."""
