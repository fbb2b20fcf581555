"""What people see: tables of a run, sentences for its refusals, truth tables that are computed, not written."""
