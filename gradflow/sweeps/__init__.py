"""A function over a grid of named parameters: on all cores or a cluster, kept in a store, returned
as one table. It integrates nothing itself, and neither JAX nor xarray is imported before it is
needed. `sweep` is the entry; `store`, `segments` and `lock` are what survives a kill."""
