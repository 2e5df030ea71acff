"""The methods that take steps: diffrax, SciPy, event-located (piecewise), late phase."""
