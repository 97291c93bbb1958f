"""Trainings in which something goes wrong: Sigmoid Core with and without the Equalizer, beside peers.

Digits, 30 layers of 64, Adam, batches of 100, 10 epochs, the rate constant for half of the steps and then falling; 3
seeds. Sigmoid Core has the rule's rate, with the slopes that `prepare` solves. Each peer has the best of its rates and
of its knob's values in the undisturbed training, with a seed that is not reported, by the test samples.

Settings that last from the start: 50 epochs, 3 and 10 times the rate, weight decay (decoupled, 1 a unit of rate), 40 %
wrong labels, batches of 8. Events after half of the steps: all hidden weights 3 times as large; a third as large; all
hidden biases 3 larger; half of the neurons of every hidden layer shut by their biases (-10); inputs 5 larger, in
training and in the test; inputs 10 times as large. From the start: inputs 10 times as large, or 5 larger, in every
second batch and half of the test, which `prepare` has not seen. Test accuracy of the last epoch; chance where the loss
did not stay finite.

Events that no threshold was tuned on, in the middle: 30 times the rate for 5 steps; one layer's weights drawn again;
its biases 5 larger; inputs of one batch 100 times as large; random labels for 50 steps; half of all weights set to 0.
"""

import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from _report import Report, arguments
from peers import Method, Problem, find
from training import DivergedError, Split, digits, train

DEPTH, WIDTH, EPOCHS, BATCH = 30, 64, 10, 100
WITH, WITHOUT = "sigmoid-core", "sigmoid-core, without the Equalizer"
PEERS = ("tanh-orthogonal", "dks", "rezero", "resnet")
TUNING_SEED = 100

Setting = tuple[float | None, float]
"""A value of the method's knob, and a rate."""


def hidden(model: nn.Module) -> list[nn.Linear]:
    """All linear layers but the last."""
    return [layer for layer in model.modules() if isinstance(layer, nn.Linear)][:-1]


def weights_times(factor: float) -> Callable[[nn.Module], None]:
    """Multiplies all hidden weights."""

    def change(model: nn.Module) -> None:
        for layer in hidden(model):
            layer.weight.mul_(factor)

    return change


def biases_plus(shift: float, share: float = 1.0) -> Callable[[nn.Module], None]:
    """Adds to the biases of the first `share` of the neurons of every hidden layer."""

    def change(model: nn.Module) -> None:
        for layer in hidden(model):
            assert layer.bias is not None
            layer.bias[: int(share * len(layer.bias))] += shift

    return change


def middle(model: nn.Module) -> nn.Linear:
    """The hidden layer in the middle."""
    layers = hidden(model)
    return layers[len(layers) // 2]


def redrawn(model: nn.Module) -> None:
    """One layer gets normal weights of the size that it had."""
    weight = middle(model).weight
    weight.normal_(std=float(weight.std()), generator=torch.Generator().manual_seed(0))


def pruned(model: nn.Module) -> None:
    """Half of the hidden weights are 0."""
    generator = torch.Generator().manual_seed(0)
    for layer in hidden(model):
        layer.weight.mul_(torch.rand(layer.weight.shape, generator=generator) < 0.5)


def one_bias_plus(model: nn.Module) -> None:
    """Adds 5 to the biases of one layer."""
    bias = middle(model).bias
    assert bias is not None
    bias += 5


def strides_of(factor: float) -> Callable[[], Callable[[nn.Module], None]]:
    """Makes an event that lasts some steps, whose updates are so many times as large."""

    def make() -> Callable[[nn.Module], None]:
        before: list[Tensor] = []

        def change(model: nn.Module) -> None:
            parameters = list(model.parameters())
            for p, old in zip(parameters, before, strict=False):
                p.copy_(old + factor * (p - old))
            before[:] = [p.clone() for p in parameters]

        return change

    return make


@dataclass(frozen=True)
class Disturbed(Split):
    """In some batches of the epoch in the middle, inputs and labels are changed."""

    change: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    batches: int

    def train_batches(self, batch_size: int, seed: int, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of an epoch."""
        count = -(-len(self.train_x) // batch_size)
        for i, (x, y) in enumerate(super().train_batches(batch_size, seed, epoch)):
            yield self.change(x, y) if 0 <= (epoch - EPOCHS // 2) * count + i < self.batches else (x, y)


def disturbed(change: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], batches: int) -> Callable[[Split], Split]:
    """So many batches are changed after half of the epochs."""
    return lambda s: Disturbed(
        s.name, s.train_x, s.train_y, s.test_x, s.test_y, s.classes, change=change, batches=batches
    )


@dataclass(frozen=True)
class Drift(Split):
    """From the epoch `since` on, the inputs of the training are changed."""

    change: Callable[[Tensor], Tensor]
    since: int

    def train_batches(self, batch_size: int, seed: int, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of an epoch."""
        for x, y in super().train_batches(batch_size, seed, epoch):
            yield (self.change(x) if epoch >= self.since else x), y


def drifting(change: Callable[[Tensor], Tensor]) -> Callable[[Split], Split]:
    """Inputs change after half of the epochs, and those of the test."""
    return lambda s: Drift(
        s.name, s.train_x, s.train_y, change(s.test_x), s.test_y, s.classes, change=change, since=EPOCHS // 2
    )


@dataclass(frozen=True)
class Alternation(Split):
    """The inputs of every second batch are changed."""

    change: Callable[[Tensor], Tensor]

    def train_batches(self, batch_size: int, seed: int, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of an epoch."""
        for i, (x, y) in enumerate(super().train_batches(batch_size, seed, epoch)):
            yield (self.change(x) if i % 2 else x), y


def alternating(change: Callable[[Tensor], Tensor]) -> Callable[[Split], Split]:
    """Inputs change in every second batch, and in half of the test."""
    return lambda s: Alternation(
        s.name,
        s.train_x,
        s.train_y,
        torch.cat([s.test_x[::2], change(s.test_x[1::2])]),
        torch.cat([s.test_y[::2], s.test_y[1::2]]),
        s.classes,
        change=change,
    )


def wrong_labels(split: Split, share: float = 0.4) -> Split:
    """A share of the training labels is random."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(split.classes, split.train_y.shape, generator=generator)
    chosen = torch.rand(split.train_y.shape, generator=generator) < share
    return replace(split, train_y=labels.where(chosen, split.train_y))


@dataclass(frozen=True)
class Trouble:
    """What is different from the undisturbed training: the recipe, the data, the rate, or an event in the middle."""

    options: Mapping[str, Any] = field(default_factory=dict)
    data: Callable[[Split], Split] = lambda split: split
    rate: float = 1.0
    event: Callable[[nn.Module], None] | None = None
    lasting: Callable[[], Callable[[nn.Module], None]] | None = None  # makes an event of 5 steps


TROUBLES = {
    "nothing": Trouble(),
    "50 epochs": Trouble({"epochs": 50}),
    "rate x 3": Trouble(rate=3.0),
    "rate x 10": Trouble(rate=10.0),
    "weight decay 1": Trouble({"weight_decay": 1.0}),
    "40 % wrong labels": Trouble(data=wrong_labels),
    "batch 8": Trouble({"batch_size": 8}),
    "weights x 3": Trouble(event=weights_times(3.0)),
    "weights / 3": Trouble(event=weights_times(1 / 3)),
    "biases + 3": Trouble(event=biases_plus(3.0)),
    "half of the neurons shut": Trouble(event=biases_plus(-10.0, 0.5)),
    "inputs + 5": Trouble(data=drifting(lambda x: x + 5)),
    "inputs x 10": Trouble(data=drifting(lambda x: x * 10)),
    "every second batch + 5": Trouble(data=alternating(lambda x: x + 5)),
    "every second batch x 10": Trouble(data=alternating(lambda x: x * 10)),
    "rate x 30 for 5 steps": Trouble(lasting=strides_of(30.0)),
    "one layer drawn again": Trouble(event=redrawn),
    "one layer's biases + 5": Trouble(event=one_bias_plus),
    "one batch x 100": Trouble(data=disturbed(lambda x, y: (100 * x, y), 1)),
    "wrong labels for 50 steps": Trouble(data=disturbed(lambda x, y: (x, y[torch.randperm(len(y))]), 50)),
    "half of the weights 0": Trouble(event=pruned),
}


def accuracy(method: Method, setting: Setting, trouble: Trouble, split: Split, seed: int, equalize: bool) -> float:
    """Of the last epoch on the test samples, in percent."""
    knob, rate = setting
    torch.manual_seed(seed)
    model = method.network(Problem(*split.probes(), split.classes, WIDTH, DEPTH), knob)
    options = {**method.training(), "epochs": EPOCHS, "batch_size": BATCH, **trouble.options}
    if not equalize:
        options["equalize"] = False
    half = options["epochs"] * -(-len(split.train_x) // options["batch_size"]) // 2
    lasting = None if trouble.lasting is None else trouble.lasting()

    @torch.no_grad()
    def on_step(step: int) -> None:
        if trouble.event is not None and step == half:
            trouble.event(model)
        if lasting is not None and half <= step <= half + 5:
            lasting(model)

    try:
        result = train(model, trouble.data(split), lr=rate * trouble.rate, seed=seed, on_step=on_step, **options)
    except DivergedError:
        return 100 / split.classes
    return round(result.accuracies[-1], 2)


def best(method: Method, split: Split) -> Setting:
    """The setting with the best accuracy in the undisturbed training."""
    settings = method.settings()
    if len(settings) == 1:
        return settings[0]
    found = [accuracy(method, setting, TROUBLES["nothing"], split, TUNING_SEED, True) for setting in settings]
    return settings[found.index(max(found))]


def main() -> None:
    options = arguments(__doc__).parse_args()
    torch.set_flush_denormal(True)
    split = digits()
    report = Report(
        "equalizer_settings",
        options,
        key=("setting", "method"),
        seeds=[0] if options.quick else [0, 1, 2],
        settings={"depth": DEPTH, "width": WIDTH, "epochs": EPOCHS},
    )
    chosen: dict[str, Setting] = {}
    for name in (WITH, WITHOUT, *(PEERS[-1:] if options.quick else PEERS)):
        method = find(WITH if name == WITHOUT else name)
        for trouble in ("nothing", "inputs + 5") if options.quick else TROUBLES:
            if not report.wants(setting=trouble, method=name):
                continue
            if name not in chosen:
                chosen[name] = method.settings()[0] if options.quick else best(method, split)
            accuracies = [
                accuracy(method, chosen[name], TROUBLES[trouble], split, seed, name != WITHOUT) for seed in report.seeds
            ]
            report.add(
                setting=trouble,
                method=name,
                accuracy=statistics.median(accuracies),
                worst=min(accuracies),
                accuracies=accuracies,
                knob=chosen[name][0],
                rate=chosen[name][1],
                settings=len(method.settings()),
            )
    report.finish()


if __name__ == "__main__":
    main()
