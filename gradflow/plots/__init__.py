"""Pictures, one style; a file a kind of picture."""
