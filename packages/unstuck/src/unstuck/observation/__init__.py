"""How a model is watched while it runs, with the parts of PyTorch's private API that this takes.

Public for packages that watch models themselves, as Sigmoid Core does.
"""

from unstuck._torch.autograd import (
    NONE,
    accumulates,
    backward_pass,
    bare,
    in_transform,
    keeps_graph,
    nearest_leaf,
    nodes_behind,
    own_copy,
    running_node,
    version,
)
from unstuck._torch.eager import uncompiled
from unstuck._torch.modes import transforms_active

__all__ = [
    "NONE",
    "accumulates",
    "backward_pass",
    "bare",
    "in_transform",
    "keeps_graph",
    "nearest_leaf",
    "nodes_behind",
    "own_copy",
    "running_node",
    "transforms_active",
    "uncompiled",
    "version",
]
