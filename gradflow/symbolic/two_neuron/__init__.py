"""Two hidden nodes: the flow in general position (generic), its regimes, and where they come from
(the sectors between w1 and u2: wedges)."""
