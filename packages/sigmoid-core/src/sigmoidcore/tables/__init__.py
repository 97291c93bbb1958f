"""Tables in files: reading them, and a network that predicts one of their columns."""
