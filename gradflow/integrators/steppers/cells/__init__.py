"""The event-located integrator of two-layer flows with kinks: a compiled kernel and its host."""
