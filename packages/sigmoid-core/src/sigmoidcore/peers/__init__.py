"""The methods that we are compared with, in `methods`, and the comparison itself.

from sigmoidcore.peers import find
find("tanh-orthogonal").network(problem, 1.02)
"""

from sigmoidcore.peers.method import Method, Problem
from sigmoidcore.peers.registry import BUILT_IN, find, names

__all__ = ["BUILT_IN", "Method", "Problem", "find", "names"]
