"""What a risk is made of: activations, losses, networks, laws of the inputs, teachers."""
