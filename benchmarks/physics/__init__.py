"""Solvers of differential equations by networks: equations with references, methods, and their training."""

from physics.methods import METHODS, Method
from physics.problem import Problem
from physics.problems import PROBLEMS

__all__ = ["METHODS", "PROBLEMS", "Method", "Problem"]
