"""The event-located integrator of flows with kinks."""
