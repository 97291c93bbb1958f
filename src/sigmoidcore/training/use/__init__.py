"""A trained network in use: predictions, evaluation, export."""
