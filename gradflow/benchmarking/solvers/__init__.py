"""Solvers, a file a library: each turns a problem and a setting into an `Attempt`."""
