"""Repairs for the findings of `unstuck` that only Sigmoid Core makes."""

from sigmoidcore.remedies.suggest import suggest

__all__ = ["suggest"]
