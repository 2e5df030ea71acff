"""gradflow: gradient flows of two-layer neural networks, to the accuracy at which theory can be checked."""

from gradflow._jax import enable_x64 as _enable_x64

_enable_x64()
__version__ = "0.1.0"
