"""A tensor with labels, as libraries for differential equations have them."""

import torch


class Labelled(torch.Tensor):
    """As PINA's LabelTensor: a copy must have labels, and results of functions have none."""

    def clone(self, *args, **kwargs):
        raise AttributeError("'Labelled' object has no attribute '_labels'")
