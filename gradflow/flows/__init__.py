"""A flow is a risk seen in a chart (coordinates) and a clock (time change)."""
