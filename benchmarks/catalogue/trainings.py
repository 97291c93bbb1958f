"""Trainings that a `Monitor` watches: what is wrong is the optimizer, or comes only with the steps."""

from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import nn

from catalogue.case import Case, Problem, adam, classes, sgd
from catalogue.conv import normalised
from catalogue.mlp import he, mlp, prepared
from catalogue.recurrent import gru, reader
from catalogue.transformer import Language, language

STEPS = 8

Parameters = Iterable[nn.Parameter]


def one_rate(
    lr: float, chosen: Callable[[int], bool], base: float = 1e-3
) -> Callable[[Parameters], torch.optim.Optimizer]:
    """Adam, with another rate for some of the parameters, by their position."""

    def optimizer(parameters: Parameters) -> torch.optim.Optimizer:
        each = enumerate(parameters)
        return torch.optim.Adam([{"params": [p], "lr": lr if chosen(i) else base} for i, p in each])

    return optimizer


def without(chosen: Callable[[int], bool]) -> Callable[[Parameters], torch.optim.Optimizer]:
    """Adam that was never given some of the parameters."""
    return lambda parameters: torch.optim.Adam([p for i, p in enumerate(parameters) if not chosen(i)], lr=1e-3)


def decayed(parameters: Parameters) -> torch.optim.Optimizer:
    """AdamW with the usual decay and a warm-up that has just begun."""
    return torch.optim.AdamW(parameters, lr=1e-5, weight_decay=0.01)


def squared(factor: float = 1.0) -> Problem:
    inputs, _ = classes()
    model = nn.Sequential(nn.Linear(32, 64), nn.Tanh(), nn.Linear(64, 32))
    return model, inputs, factor * inputs, nn.functional.mse_loss


RELU = partial(mlp, nn.ReLU, 3, he)
PARAMETERS = tuple(name for name, _ in Language().named_parameters())
EVERY = tuple(f"{i}.{kind}" for i in (0, 2, 4, 6) for kind in ("weight", "bias"))

BROKEN = (
    Case("training: Adam, lr 1e-9", "a rate as for no network", RELU, ("US301",), EVERY, adam(1e-9), STEPS),
    Case("training: SGD, lr 1e-9", "a rate as for no network", RELU, ("US301",), EVERY, sgd(1e-9), STEPS),
    Case(
        "training: layer 2 has rate 0",
        "a scheduler or a group has set it so",
        RELU,
        ("US301",),
        ("2.weight", "2.bias"),
        one_rate(0.0, lambda i: i in (2, 3)),
        STEPS,
    ),
    Case(
        "training: layer 2 is not in the optimizer",
        "made before the layer was replaced",
        RELU,
        ("US303", "US301"),
        ("2.weight", "2.bias"),
        without(lambda i: i in (2, 3)),
        STEPS,
    ),
    Case(
        "training: the last layer is not in the optimizer",
        "a new head was made after the optimizer",
        RELU,
        ("US303",),
        ("6.weight", "6.bias"),
        without(lambda i: i in (6, 7)),
        STEPS,
    ),
    Case(
        "training: transformer, SGD, lr 1e-8",
        "a rate as for no network",
        language,
        ("US301",),
        PARAMETERS,
        sgd(1e-8),
        STEPS,
    ),
    Case("training: Adam, lr 1", "each step is as large as the weights", RELU, ("US302",), EVERY, adam(1.0), 4),
    Case("training: SGD, lr 3", "a hundred times too large", RELU, ("US302",), EVERY, sgd(3.0), 4),
    Case(
        "training: layer 2 has rate 30",
        "the other layers have 0.001",
        RELU,
        ("US302",),
        ("2.weight", "2.bias"),
        one_rate(30.0, lambda i: i in (2, 3)),
        4,
    ),
    Case(
        "training: GRU, Adam, lr 5",
        "each step is larger than the weights",
        partial(reader, gru, 10),
        ("US302",),
        (
            *tuple(f"recurrent.{kind}_{which}_l0" for kind in ("weight", "bias") for which in ("ih", "hh")),
            "head.weight",
            "head.bias",
        ),
        adam(5.0),
        4,
    ),
    Case(
        "training: transformer, Adam, lr 1",
        "each step is larger than most weights",
        language,
        ("US302",),
        PARAMETERS,
        adam(1.0),
        4,
    ),
    Case(
        "training: squared errors, SGD, lr 1e4",
        "it diverges within some steps, and all becomes NaN",
        squared,
        ("US401",),
        ("1", *(f"{i}{kind}" for i in (0, 2) for kind in ("", ".weight", ".bias"))),
        sgd(1e4, 0.9),
        60,
    ),
)

HEALTHY = (
    Case("training: ReLU, Adam, lr 1e-3", "common", RELU, optimizer=adam(1e-3), steps=30),
    Case("training: ReLU, SGD, lr 0.1, momentum", "common", RELU, optimizer=sgd(0.1, 0.9), steps=30),
    Case("training: AdamW, warm-up at lr 1e-5", "slow on purpose", RELU, optimizer=decayed, steps=10),
    Case("training: fine-tuning, Adam, lr 3e-5", "slow on purpose", language, optimizer=adam(3e-5), steps=10),
    Case("training: transformer, Adam, lr 1e-3", "common", language, optimizer=adam(1e-3), steps=10),
    Case(
        "training: conv, BatchNorm, SGD, lr 0.1",
        "common",
        partial(normalised, nn.ReLU, nn.BatchNorm2d, 4),
        optimizer=sgd(0.1, 0.9),
        steps=20,
    ),
    Case("training: GRU, Adam, lr 3e-3", "common", partial(reader, gru, 10), optimizer=adam(3e-3), steps=20),
    Case(
        "training: cores, depth 30, Adam, lr 0.03 / 30",
        "the rule",
        partial(prepared, 30),
        optimizer=adam(1e-3),
        steps=10,
    ),
)
