"""A network of cores with layers of any widths, made and prepared beside the global random generator."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from sigmoidcore.calibration.calibrate import prepare
from sigmoidcore.core import SigmoidCore
from sigmoidcore.nn.networks import Chain

_ONE_AT_A_TIME = threading.Lock()


def prepared(widths: Sequence[int], inputs: Tensor, saturation: float | Literal["auto"], seed: int) -> nn.Sequential:
    """A prepared network: Linear and a centered core for every hidden width, then Linear.

    PyTorch's global generator and default device play no part, and the generator is left as it is. Several threads may
    make networks at once.

    Args:
        widths: of the inputs, of every hidden layer and of the outputs.
        inputs: a batch, [batch, widths[0]], float32, on the CPU.
        saturation: see `sigmoidcore.prepare`.
        seed: fixes the weights.

    Returns:
        The network, float32, on the CPU.

    Example:
        >>> prepared((3, 8, 4, 2), torch.randn(20, 3), 0.5, seed=0)(torch.zeros(5, 3)).shape
        torch.Size([5, 2])
    """
    with _ONE_AT_A_TIME, torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.manual_seed(seed)
        *hidden, last = pairwise(widths)
        layers: list[nn.Module] = []
        for fan_in, fan_out in hidden:
            layers += [nn.Linear(fan_in, fan_out), SigmoidCore(fan_out, alpha=4.0, centered=True)]
        network = Chain(*layers, nn.Linear(*last)).to(torch.float32)
        prepare(network, inputs, saturation=saturation)
    return network


@contextmanager
def gradients() -> Iterator[None]:
    """Gradients are computed inside, whatever the caller has switched off."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


@contextmanager
def on_cpu() -> Iterator[None]:
    """Tensors are made on the CPU inside where no device is named, whatever the caller's default device is."""
    usual = torch.empty(0).device.type == "cpu"  # then without the context, which costs time in every call of PyTorch
    with nullcontext() if usual else torch.device("cpu"):
        yield
