"""The late phase of margin losses, to any time."""
