"""`convert`: hidden activations of any model become cores."""
