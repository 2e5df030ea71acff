"""Many flows, on all cores."""
