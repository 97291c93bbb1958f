"""Solvers of another kind, for the references: spectral methods and expansions. None of them has a network."""
