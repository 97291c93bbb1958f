"""What watches a training, for `diagnosis_overhead.py`: our Monitor and its peers, each as its manual says.

A watcher is a context manager: made before the first step, it gives a function that the training calls after each step
with the step's number and its loss, and what it has gathered is written when it ends.

**Monitor**: `unstuck.Monitor`. **wandb** (`run.watch(log="all")`, offline): histograms of all parameters and gradients;
the run logs the loss at every step, for without that nothing that is watched is kept. **TensorBoard**: the same
histograms by `add_histogram`, as its tutorials do. **torchmortem**: its collectors at this cadence; for every step its
own default, in which the expensive ones run one step in 50.
"""

import logging
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor, nn

import unstuck

AfterStep = Callable[[int, Tensor], None]
Watcher = Callable[[nn.Module, torch.optim.Optimizer, int], AbstractContextManager[AfterStep]]
"""From the model, its optimizer and the cadence: watch one step of so many."""


@contextmanager
def nobody(model: nn.Module, optimizer: torch.optim.Optimizer, every: int) -> Iterator[AfterStep]:
    yield lambda step, loss: None


@contextmanager
def monitor(model: nn.Module, optimizer: torch.optim.Optimizer, every: int) -> Iterator[AfterStep]:
    with unstuck.Monitor(model, every=every) as watching:
        yield lambda step, loss: None
    assert watching.measurements


@contextmanager
def wandb(model: nn.Module, optimizer: torch.optim.Optimizer, every: int) -> Iterator[AfterStep]:
    import wandb as service

    with tempfile.TemporaryDirectory() as folder:
        settings = service.Settings(silent=True, console="off", x_disable_stats=True)
        run = service.init(mode="offline", dir=folder, project="overhead", settings=settings)
        run.watch(model, log="all", log_freq=every)
        yield lambda step, loss: run.log({"loss": loss.item()})
        run.finish(quiet=True)


@contextmanager
def tensorboard(model: nn.Module, optimizer: torch.optim.Optimizer, every: int) -> Iterator[AfterStep]:
    from torch.utils.tensorboard import SummaryWriter

    with tempfile.TemporaryDirectory() as folder, SummaryWriter(folder) as writer:

        def after(step: int, loss: Tensor) -> None:
            if step % every == 0:
                for name, parameter in model.named_parameters():
                    writer.add_histogram(name, parameter, step)
                    writer.add_histogram(f"{name}.grad", parameter.grad, step)

        yield after


@contextmanager
def torchmortem(model: nn.Module, optimizer: torch.optim.Optimizer, every: int) -> Iterator[AfterStep]:
    from torchmortem import Autopsy
    from torchmortem.types import SamplingConfig

    logging.getLogger("torchmortem").setLevel(logging.CRITICAL)
    sampling = SamplingConfig(every, max(every, 50))
    with Autopsy(model, optimizer=optimizer, sampling=sampling) as autopsy:
        yield lambda step, loss: autopsy.step(loss=loss.item())


WATCHERS: dict[str, Watcher] = {
    "monitor": monitor,
    "wandb": wandb,
    "tensorboard": tensorboard,
    "torchmortem": torchmortem,
}
