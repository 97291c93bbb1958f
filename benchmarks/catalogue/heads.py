"""Networks of a few parts: encoders, gates, one head or two, and what stands between a head and its loss."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from catalogue.case import Case, Problem, classes, shifted
from catalogue.mlp import cross_entropy, trained


class Encoded(nn.Module):
    """An encoder and a head; `between` is what happens to the code."""

    def __init__(self, between: Callable[[Tensor], Tensor], code: int = 32) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, code))
        self.head = nn.Sequential(nn.Linear(code, 64), nn.ReLU(), nn.Linear(64, 10))
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.between(self.encoder(x)))


def encoded(between: Callable[[Tensor], Tensor], code: int = 32) -> Problem:
    return Encoded(between, code), *classes(), cross_entropy


class Weighted(nn.Module):
    """Features weighted by a score; `dim` is where the scores are normalised: 1 is right, over 32 features."""

    def __init__(self, scores: int) -> None:
        super().__init__()
        self.score = nn.Linear(32, scores)
        self.head = nn.Linear(scores, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.softmax(self.score(x), dim=1))


class Kept(nn.Module):
    """Two hidden layers, kept as `keep` likes, and a head."""

    def __init__(self, keep: Callable[[list[nn.Module]], Any], *, frozen: bool = False, also: bool = False) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Linear(32, 64), nn.Linear(64, 64)]
        for layer in layers:
            layer.requires_grad_(not frozen)
        self.layers = keep(layers)
        if also:
            self.again = nn.ModuleList(layers)
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers.values() if isinstance(self.layers, dict) else self.layers:
            x = torch.relu(layer(x))
        return self.head(x)


class PlainTensor(nn.Module):
    """A matrix that is a tensor with a gradient, and no parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(32, 64)
        self.matrix = (torch.randn(64, 64) / 8).requires_grad_()
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(torch.relu(self.first(x)) @ self.matrix))


def kept(keep: Callable[[list[nn.Module]], Any], **options: bool) -> Problem:
    return Kept(keep, **options), *classes(), cross_entropy


class NormalisedScore(nn.Module):
    """Each sample's one score, normalised over that one score: it is the bias for every sample."""

    def __init__(self, code: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(32, 64), nn.Tanh(), nn.Linear(64, code))
        self.norm = nn.LayerNorm(code)
        self.head = nn.Linear(code, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.encoder(x)))


class Spare(nn.Module):
    """A second head that the forward pass never calls."""

    def __init__(self, frozen: bool) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(32, 64), nn.ReLU())
        self.head = nn.Linear(64, 10)
        self.spare = nn.Linear(64, 5).requires_grad_(not frozen)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.trunk(x))


class TwoOutputs(nn.Module):
    """Two heads that both run; whether the loss reads both is up to it."""

    def __init__(self, frozen: bool = False) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(32, 64), nn.ReLU())
        self.first = nn.Linear(64, 10)
        self.second = nn.Linear(64, 10).requires_grad_(not frozen)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.trunk(x)
        return self.first(h), self.second(h)


class Experts(nn.Module):
    """A sparse mixture: each sample goes to one of many experts, and to some of them none."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.router = nn.Linear(32, count)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32)) for _ in range(count)
        )
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        weight, best = self.router(x).softmax(-1).max(-1)
        mixed = x
        for i, expert in enumerate(self.experts):
            rows = (best == i).nonzero()[:, 0]
            if len(rows):
                mixed = mixed.index_add(0, rows, weight[rows, None] * expert(x[rows]))
        return self.head(mixed)


def first_only(outputs: tuple[Tensor, Tensor], targets: Tensor) -> Tensor:
    return cross_entropy(outputs[0], targets)


def both(outputs: tuple[Tensor, Tensor], targets: Tensor) -> Tensor:
    return cross_entropy(outputs[0], targets) + cross_entropy(outputs[1], targets)


def with_loss(last: nn.Module | None, loss_fn: Callable[[Tensor, Tensor], Tensor], outputs: int = 10) -> Problem:
    """A network that ends in `last`, which is "3"; targets of one output are 0 or 1."""
    inputs, targets = classes()
    layers = [nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, outputs)]
    model = nn.Sequential(*layers, *([] if last is None else [last]))
    return model, inputs, targets if outputs > 1 else (targets % 2).float()[:, None], loss_fn


def gated(bias: float) -> Problem:
    class Gated(nn.Module):
        """Squeeze and excite: features times a sigmoid of a bottleneck of them."""

        def __init__(self) -> None:
            super().__init__()
            self.rise = nn.Linear(32, 64)
            self.squeeze = nn.Linear(64, 8)
            self.excite = nn.Linear(8, 64)
            self.gate = nn.Sigmoid()
            self.head = nn.Linear(64, 10)

        def forward(self, x: Tensor) -> Tensor:
            h = torch.relu(self.rise(x))
            return self.head(h * self.gate(self.excite(torch.relu(self.squeeze(h)))))

    model = Gated()
    shifted(model.excite, bias)
    return model, *classes(), cross_entropy


def binary(outputs: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.binary_cross_entropy(outputs, targets)


def with_logits(outputs: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.binary_cross_entropy_with_logits(outputs, targets)


BROKEN = (
    Case(
        "layers in a list",
        "a list in place of nn.ModuleList: the optimizer does not know of them",
        partial(kept, list),
        ("US504",),
        ("layers[0].weight",),
    ),
    Case(
        "layers in a dict",
        "a dict in place of nn.ModuleDict",
        partial(kept, lambda layers: dict(zip(("first", "second"), layers, strict=True))),
        ("US504",),
        ("layers['first'].weight",),
    ),
    Case(
        "a tensor in place of a parameter",
        "requires_grad alone does not make it one",
        lambda: (PlainTensor(), *classes(), cross_entropy),
        ("US504",),
        ("matrix",),
    ),
    Case(
        "mean over the batch",
        "mean(0), where mean(1) was meant: all samples get the mean of all",
        partial(encoded, lambda code: code.mean(0, keepdim=True).expand_as(code)),
        ("US203",),
        ("head.0", "head.1"),
    ),
    Case(
        "softmax over one score",
        "the softmax of a single number is 1",
        lambda: (Weighted(1), *classes(), cross_entropy),
        ("US203", "US502"),
        ("softmax", "score", "score.weight"),
    ),
    Case(
        "LayerNorm over one feature",
        "a single number minus its mean is 0",
        lambda: (NormalisedScore(1), *classes(), cross_entropy),
        ("US203", "US502"),
        ("norm", "encoder.2", "encoder.2.weight"),
    ),
    Case(
        "detached encoder",
        "code.detach() between encoder and head",
        partial(encoded, lambda code: code.detach()),
        ("US501",),
        ("encoder.0.weight", "encoder.0.bias", "encoder.2.weight", "encoder.2.bias"),
    ),
    Case(
        "code rounded to whole numbers",
        "round() has derivative 0 everywhere",
        partial(encoded, torch.round),
        ("US502",),
        ("encoder.2", "encoder.2.weight"),
    ),
    Case(
        "second head not in the loss",
        "it runs, but the loss reads the first one only",
        lambda: (TwoOutputs(), *classes(), first_only),
        ("US501",),
        ("second.weight", "second.bias"),
    ),
    Case(
        "head that is never called",
        "forward has forgotten it",
        lambda: (Spare(frozen=False), *classes(), cross_entropy),
        ("US501",),
        ("spare.weight", "spare.bias"),
    ),
    Case(
        "softmax before cross_entropy",
        "cross_entropy applies a softmax itself",
        partial(with_loss, nn.Softmax(dim=1), cross_entropy),
        ("US601",),
        ("3",),
    ),
    Case(
        "sigmoid before BCE with logits",
        "the loss applies a sigmoid itself",
        partial(with_loss, nn.Sigmoid(), with_logits, 1),
        ("US601",),
        ("3",),
    ),
    Case(
        "ReLU before cross_entropy",
        "logits below 0 get no gradient",
        partial(with_loss, nn.ReLU(), cross_entropy),
        ("US601",),
        ("3",),
    ),
)

HEALTHY = (
    Case("layers in a ModuleList", "as it should be", partial(kept, nn.ModuleList)),
    Case("layers in a list and a ModuleList", "the model has them elsewhere", partial(kept, list, also=True)),
    Case("frozen layers in a tuple", "they are not to train", partial(kept, tuple, frozen=True)),
    Case("unused head, frozen", "unused on purpose", lambda: (Spare(frozen=True), *classes(), cross_entropy)),
    Case(
        "second output frozen, not in the loss", "on purpose", lambda: (TwoOutputs(frozen=True), *classes(), first_only)
    ),
    Case(
        "one of 64 experts for each sample", "some get no sample", lambda: (Experts(64), *classes(128), cross_entropy)
    ),
    Case("two heads, both in the loss", "two branches", lambda: (TwoOutputs(), *classes(), both)),
    Case("sigmoid and BCE", "a sigmoid at the end belongs to this loss", partial(with_loss, nn.Sigmoid(), binary, 1)),
    Case("logits and BCE with logits", "as it should be", partial(with_loss, None, with_logits, 1)),
    Case("log-softmax and NLL", "as it should be", partial(with_loss, nn.LogSoftmax(dim=1), nn.functional.nll_loss)),
    Case(
        "trained sigmoid output and BCE",
        "a saturated output that is right",
        partial(trained, partial(with_loss, nn.Sigmoid(), binary, 1), 300, 1e-2),
    ),
    Case("squeeze and excite", "a sigmoid gate", partial(gated, 0.0)),
    Case("squeeze and excite, gates 95 % open", "a gate far from its middle", partial(gated, 3.0)),
    Case("softmax over 32 scores", "as it should be", lambda: (Weighted(32), *classes(), cross_entropy)),
    Case("LayerNorm over 16 features", "as it should be", lambda: (NormalisedScore(16), *classes(), cross_entropy)),
    Case(
        "straight-through rounding",
        "rounds forward, not backward",
        partial(encoded, lambda c: c + (c.round() - c).detach()),
    ),
)
