"""Slopes and shifts go into the weights."""
