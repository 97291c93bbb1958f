"""The network of an estimator: a prepared multilayer perceptron of any widths."""

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

_GLOBAL_GENERATOR = threading.Lock()


def prepared(widths: Sequence[int], inputs: Tensor, saturation: float | Literal["auto"], seed: int) -> nn.Sequential:
    """A prepared network: Linear and a centered core for every hidden width, then Linear.

    It is float32 and on the CPU, like the inputs. PyTorch's global generator does not change, also if several threads
    make networks at the same time.

    Example:
        >>> prepared((3, 8, 4, 2), torch.randn(20, 3), 0.5, seed=0)(torch.zeros(5, 3)).shape
        torch.Size([5, 2])
    """
    with _GLOBAL_GENERATOR, torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.manual_seed(seed)
        *hidden, last = pairwise(widths)
        layers: list[nn.Module] = []
        for fan_in, fan_out in hidden:
            layers += [nn.Linear(fan_in, fan_out), SigmoidCore(fan_out, alpha=4.0, centered=True)]
        network = Chain(*layers, nn.Linear(*last)).to(torch.float32)
        prepare(network, inputs, saturation=saturation)
    return network


@contextmanager
def isolated(*, gradients: bool = True) -> Iterator[None]:
    """Compute gradients or not, and on the CPU by default, whatever the caller has set."""
    # The context of a device makes every call of PyTorch slower, so it is entered only if it changes something.
    on_cpu = nullcontext() if torch.empty(0).device.type == "cpu" else torch.device("cpu")
    with torch.inference_mode(False), torch.set_grad_enabled(gradients), on_cpu:
        yield
