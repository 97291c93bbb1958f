"""Plain sigmoids, with the usual first weights, and the scaled sigmoid."""

from functools import partial

import torch
from torch import Tensor, nn

from sigmoidcore.peers.method import Method, Problem
from sigmoidcore.peers.weights import initialised, lecun_normal


class ScaledSigmoid(nn.Module):
    """4 sigmoid(x) - 2, which is near x where x is small."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply it."""
        return 4 * torch.sigmoid(x) - 2


def plain(problem: Problem, activation: type[nn.Module] = nn.Sigmoid) -> nn.Module:
    """PyTorch's default weights."""
    return problem.plain(lambda width: activation())


def xavier(problem: Problem, activation: type[nn.Module] = nn.Sigmoid) -> nn.Module:
    """Weights uniform within sqrt(6 / (fan_in + fan_out)), equation 16."""
    return initialised(plain(problem, activation), nn.init.xavier_uniform_)


def lecun(problem: Problem) -> nn.Module:
    """Weights N(0, 1 / fan_in), equation 16."""
    return initialised(plain(problem), lecun_normal)


METHODS = (
    Method("sigmoid", "sigmoids with PyTorch's default weights", plain),
    Method("sigmoid-xavier", "Glorot and Bengio (2010), PMLR 9:249", xavier),
    Method("sigmoid-lecun", "LeCun, Bottou, Orr and Müller, Efficient BackProp (1998)", lecun),
    Method("sigmoid-scaled", "Xu, Huang and Li (2016), arXiv 1602.05980", partial(xavier, activation=ScaledSigmoid)),
)
