"""Charts: the coordinates in which a flow is integrated."""
