"""Float-safe building blocks that every floor uses, each written once: `vectors` (NumPy),
`traced` (the same in JAX), `logs`, `rows`, `compiled`, `files`, `format`."""
