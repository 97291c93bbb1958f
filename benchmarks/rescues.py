"""Twenty networks that do not learn, repaired by the printed remedy, against an expert's repair.

Each network has one fault of a kind that people make: a depth that plain sigmoids do not survive, weights of a wrong
size, raw inputs, dead units. All learn handwritten digits (or sums of sequences) for 300 steps of Adam, as

    broken    it is, at a rate of 0.001
    repaired  an expert would write it, at 0.001
    remedy    the first finding of `unstuck.diagnose` says: its call as printed, or its words, done by hand

The last one trains with the optimizer that it names, or at 0.001. Calls are of Sigmoid Core where it has one, else of
plain PyTorch. A network is rescued if its score is within `TOLERANCE` of that of the repaired one. Scores are means
over the seeds, in percent: accuracy, or explained variance. Every outcome starts from the seed.
"""

import copy
import itertools
import statistics
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import sigmoidcore as sc
import unstuck
from _report import Report, arguments
from training import digits
from unstuck.findings import Severity

STEPS, BATCH, PROBE, RATE = 300, 128, 256, 0.001
TOLERANCE = 3.0
OUTCOMES = ("broken", "repaired", "remedy")
Make = Callable[[], nn.Module]


@dataclass(frozen=True)
class Task:
    """Samples and targets for training and for the test, and the loss."""

    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    loss: Callable[[Tensor, Tensor], Tensor]

    def score(self, model: nn.Module) -> float:
        """Percent of the test samples that are right, or percent of the variance that is explained."""
        inputs, targets = self.test
        with torch.no_grad():
            outputs = model(inputs)
        if self.loss is nn.functional.cross_entropy:
            return 100 * float((outputs.argmax(1) == targets).float().mean())
        explained = 1 - float((outputs - targets).square().mean() / targets.var(0).mean())
        return 100 * max(0.0, explained) if explained == explained else 0.0


@dataclass(frozen=True)
class Rescue:
    """A broken network, the same as an expert repairs it, and how the words of a remedy without a call are done."""

    name: str
    broken: Make
    repaired: Make
    task: Callable[[], Task] = lambda: classes()
    by_hand: Callable[[nn.Module, Tensor], nn.Module] | None = None


# --- tasks ------------------------------------------------------------------------------------------------------------


def classes(scale: float = 1.0, offset: float = 0.0) -> Task:
    split = digits()
    return Task(
        (scale * split.train_x + offset, split.train_y), (scale * split.test_x + offset, split.test_y),
        nn.functional.cross_entropy,
    )  # fmt: skip


def images() -> Task:
    split = digits()
    shape = (-1, 1, 8, 8)
    return Task(
        (split.train_x.reshape(shape), split.train_y), (split.test_x.reshape(shape), split.test_y),
        nn.functional.cross_entropy,
    )  # fmt: skip


def pictures() -> Task:
    split = digits()
    return Task((split.train_x, split.train_x), (split.test_x, split.test_x), nn.functional.mse_loss)


# --- networks ---------------------------------------------------------------------------------------------------------


def mlp(activation: Make, depth: int, width: int = 64, outputs: int = 10) -> nn.Sequential:
    sizes = [64, *[width] * depth]
    hidden = (m for i in range(depth) for m in (nn.Linear(sizes[i], sizes[i + 1]), activation()))
    return nn.Sequential(*hidden, nn.Linear(width, outputs))


def convnet(activation: Make, depth: int, channels: int = 16) -> nn.Sequential:
    sizes = [1, *[channels] * depth]
    hidden = (m for i in range(depth) for m in (nn.Conv2d(sizes[i], sizes[i + 1], 3, padding=1), activation()))
    return nn.Sequential(*hidden, nn.AvgPool2d(4), nn.Flatten(), nn.Linear(4 * channels, 10))


@torch.no_grad()
def initialised(model: nn.Module, draw: Callable[[Tensor], Any], bias: float | None = 0.0) -> nn.Module:
    for layer in model.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            draw(layer.weight)
            if bias is not None:
                nn.init.constant_(layer.bias, bias)
    return model


@torch.no_grad()
def changed(model: nn.Module, layer: str, *, factor: float = 1.0, offset: float = 0.0) -> nn.Module:
    linear = model.get_submodule(layer)
    linear.get_parameter("weight").mul_(factor)
    linear.get_parameter("bias").add_(offset)
    return model


def he(model: nn.Module) -> nn.Module:
    return initialised(model, lambda weight: nn.init.kaiming_normal_(weight, nonlinearity="relu"))


def orthogonal(model: nn.Module) -> nn.Module:
    return initialised(model, nn.init.orthogonal_)


def normal(model: nn.Module, std: float, bias: float | None = 0.0) -> nn.Module:
    return initialised(model, lambda weight: nn.init.normal_(weight, std=std), bias)


def cores(slope: float) -> nn.Module:
    model = mlp(lambda: sc.SigmoidCore(64, centered=True), 20)
    for module in model.modules():
        if isinstance(module, sc.SigmoidCore):
            module.set_slope(slope)
    return orthogonal(model)


class Functions(nn.Module):
    """Hidden layers in a list, with the activation called in forward."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.first = nn.Linear(64, 48)
        self.hidden = nn.ModuleList(nn.Linear(48, 48) for _ in range(depth))
        self.last = nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.sigmoid(self.first(x))
        for layer in self.hidden:
            x = torch.sigmoid(layer(x))
        return self.last(x)


def unit_inputs(model: nn.Module, inputs: Tensor) -> nn.Module:
    """The remedy for unscaled inputs: the same network behind their standardisation over the training set."""

    class Standardise(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x - inputs.mean(0)) / (inputs.std(0) + 1e-6 * inputs.std())

    return nn.Sequential(Standardise(), model)


def constant(model: nn.Module, value: float) -> nn.Module:
    return initialised(model, lambda weight: nn.init.constant_(weight, value))


def autoencoder(activation: Make) -> nn.Sequential:
    sizes = [64, 48, 40, 32, 24, 24, 32, 40, 48]
    hidden = (m for a, b in itertools.pairwise(sizes) for m in (nn.Linear(a, b), activation()))
    return nn.Sequential(*hidden, nn.Linear(48, 64))


def relus(depth: int) -> Make:
    return lambda: he(mlp(nn.ReLU, depth))


RESCUES = (
    Rescue("sigmoids 30 deep", lambda: mlp(nn.Sigmoid, 30), relus(30)),
    Rescue("sigmoids 12 deep width 256", lambda: mlp(nn.Sigmoid, 12, 256), lambda: he(mlp(nn.ReLU, 12, 256))),
    Rescue("sigmoids called in forward 16 deep", lambda: Functions(16), relus(16)),
    Rescue("sigmoid convolutions 10 deep", lambda: convnet(nn.Sigmoid, 10), lambda: he(convnet(nn.ReLU, 10)), images),
    Rescue("tanhs 50 deep", lambda: mlp(nn.Tanh, 50), lambda: orthogonal(mlp(nn.Tanh, 50))),
    Rescue("tanhs normal weights of 0.02 10 deep",
           lambda: normal(mlp(nn.Tanh, 10), 0.02), lambda: orthogonal(mlp(nn.Tanh, 10))),
    Rescue("tanhs unit normal weights 8 deep",
           lambda: normal(mlp(nn.Tanh, 8), 1.0), lambda: orthogonal(mlp(nn.Tanh, 8))),
    Rescue("softsigns 40 deep", lambda: mlp(nn.Softsign, 40), lambda: orthogonal(mlp(nn.Tanh, 40))),
    Rescue("sigmoid autoencoder 9 layers",
           lambda: autoencoder(nn.Sigmoid), lambda: he(autoencoder(nn.ReLU)), pictures),
    Rescue("cores with slopes of 1 20 deep", lambda: cores(1.0), lambda: orthogonal(mlp(nn.Tanh, 20))),
    Rescue("cores with slopes of 40 20 deep", lambda: cores(40.0), lambda: orthogonal(mlp(nn.Tanh, 20))),
    Rescue("first layer of sigmoids saturated by its bias",
           lambda: changed(mlp(nn.Sigmoid, 2), "0", offset=30.0), lambda: mlp(nn.Sigmoid, 2)),
    Rescue("sigmoids normal weights of 3 4 deep",
           lambda: normal(mlp(nn.Sigmoid, 4), 3.0), lambda: orthogonal(mlp(nn.Tanh, 4))),
    Rescue("tanhs read pixels of 0 to 255 5 deep",
           lambda: mlp(nn.Tanh, 5), lambda: unit_inputs(mlp(nn.Tanh, 5), classes(40.0, 100.0).train[0]),
           lambda: classes(40.0, 100.0), unit_inputs),
    Rescue("ReLUs all off by their bias",
           lambda: changed(mlp(nn.ReLU, 4), "4", offset=-10.0), lambda: mlp(nn.ReLU, 4)),
    Rescue("ReLUs normal weights of 0.01 8 deep", lambda: normal(mlp(nn.ReLU, 8), 0.01), relus(8)),
    Rescue("ReLUs unit normal weights 12 deep", lambda: normal(mlp(nn.ReLU, 12), 1.0), relus(12)),
    Rescue("ReLUs default weights 40 deep", lambda: mlp(nn.ReLU, 40), relus(40)),
    Rescue("constant weights ReLU", lambda: constant(mlp(nn.ReLU, 3), 0.05), relus(3)),
    Rescue("last layer 1000 times too large",
           lambda: changed(mlp(nn.Tanh, 4), "8", factor=1000.0), lambda: mlp(nn.Tanh, 4)),
)  # fmt: skip


def trained(network: nn.Module, task: Task, optimizer: torch.optim.Optimizer | None = None) -> float:
    """The score after the steps; a separate generator draws the batches."""
    optimizer = optimizer or torch.optim.Adam(network.parameters(), lr=RATE)
    inputs, targets = task.train
    generator = torch.Generator().manual_seed(0)
    for _ in range(STEPS):
        rows = torch.randint(len(inputs), (BATCH,), generator=generator)
        optimizer.zero_grad()
        task.loss(network(inputs[rows]), targets[rows]).backward()
        optimizer.step()
    return task.score(network)


def outcomes(rescue: Rescue, seed: int) -> tuple[tuple[float, ...], list[str]]:
    """The score of every outcome, and the rule and the remedy."""
    task = rescue.task()
    torch.manual_seed(seed)
    network = rescue.broken()
    pixels, labels, loss = *(part[:PROBE] for part in task.train), task.loss
    broken = trained(copy.deepcopy(network), task)
    torch.manual_seed(seed)
    repaired = trained(rescue.repaired(), task)
    torch.manual_seed(seed)
    diagnosis = unstuck.diagnose(network, pixels, labels, loss)
    loud = [finding for finding in diagnosis.findings if finding.severity is not Severity.NOTE]
    names: dict[str, Any] = {"torch": torch, "sc": sc, "network": network, "pixels": pixels}
    if loud and loud[0].call is not None:
        exec(loud[0].call, names)
    elif loud and rescue.by_hand is not None:
        network = rescue.by_hand(network, task.train[0])
    said = [loud[0].rule, loud[0].call or loud[0].remedy] if loud else []
    return (broken, repaired, trained(network, task, names.get("optimizer"))), said


def main() -> None:
    options = arguments(__doc__).parse_args()
    options.threads = options.threads or 1
    torch.set_flush_denormal(True)
    seeds = [0] if options.quick else [0, 1, 2, 3, 4]
    settings = {"steps": STEPS, "batch": BATCH, "rate": RATE, "tolerance": TOLERANCE}
    report = Report("rescues", options, key=("network",), seeds=seeds, settings=settings)
    warnings.simplefilter("ignore", UserWarning)
    for rescue in RESCUES[::5] if options.quick else RESCUES:
        if not report.wants(network=rescue.name):
            continue
        scores, said = zip(*(outcomes(rescue, seed) for seed in seeds), strict=True)
        values = dict(zip(OUTCOMES, zip(*scores, strict=True), strict=True))
        means = {name: statistics.mean(of_seeds) for name, of_seeds in values.items()}
        rescued = means["remedy"] >= means["repaired"] - TOLERANCE
        report.add(network=rescue.name, **means, rescued=rescued, values=values, said=said[-1])
    report.finish()
    print(f"\n{sum(row['rescued'] for row in report.rows)} of {len(report.rows)} are rescued")


if __name__ == "__main__":
    main()
