"""Hidden activations of any model become cores."""
