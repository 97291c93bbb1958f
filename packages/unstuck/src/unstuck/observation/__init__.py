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
    leaves,
    nearest_leaf,
    nodes_behind,
    own_copy,
    running_node,
    version,
)
from unstuck._torch.eager import eager, uncompiled
from unstuck._torch.modes import original, transforms_active
from unstuck.observation.batch import (
    Inputs,
    LossFn,
    check_batch,
    check_inputs,
    check_loss,
    check_model,
    checked_sinks,
    floating_tensors,
    loss_of,
    random_loss,
    run,
    scalar_loss,
    unchanged,
    undisturbed,
)
from unstuck.observation.observer import LayerObserver, Observer
from unstuck.observation.process_group import Alone, Ranks
from unstuck.observation.profile import Profile, spread
from unstuck.observation.sizes import norm, norms, root_mean_square, row_norms

__all__ = [
    "NONE",
    "Alone",
    "Inputs",
    "LayerObserver",
    "LossFn",
    "Observer",
    "Profile",
    "Ranks",
    "accumulates",
    "backward_pass",
    "bare",
    "check_batch",
    "check_inputs",
    "check_loss",
    "check_model",
    "checked_sinks",
    "eager",
    "floating_tensors",
    "in_transform",
    "keeps_graph",
    "leaves",
    "loss_of",
    "nearest_leaf",
    "nodes_behind",
    "norm",
    "norms",
    "original",
    "own_copy",
    "random_loss",
    "root_mean_square",
    "row_norms",
    "run",
    "running_node",
    "scalar_loss",
    "spread",
    "transforms_active",
    "unchanged",
    "uncompiled",
    "undisturbed",
    "version",
]
