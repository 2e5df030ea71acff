"""Networks: activations, parameters, two-layer and deep linear nets, random features."""
