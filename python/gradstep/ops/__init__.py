"""The native functions: activations, losses, dropout and normalisation on NumPy arrays."""
