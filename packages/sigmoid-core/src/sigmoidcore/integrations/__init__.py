"""Sigmoid Core in other frameworks: one module each, imported only where it is used."""
