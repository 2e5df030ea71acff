"""Float-safe building blocks that every floor uses, each written once."""
