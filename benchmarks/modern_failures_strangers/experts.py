"""Mixtures of experts: routers that do not learn, or send everything to one expert."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modern_failures_strangers.networks import MLP
from modern_failures_strangers.program import Program
from real_failures.program import Training

EXPERTS = 8


class Mixture(nn.Module):
    """One expert for each input, chosen by a router; `weigh` makes its weight from the probabilities."""

    def __init__(self, weigh=lambda chosen, all_of_them: chosen, axis: int = -1, limit: float | None = None):
        super().__init__()
        self.router = nn.Linear(8, EXPERTS)
        self.experts = nn.ModuleList(MLP(8, 8, 1) for _ in range(EXPERTS))
        self.weigh, self.axis, self.limit = weigh, axis, limit

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        probabilities = self.router(inputs).softmax(self.axis)
        weight, choice = probabilities.max(-1)
        outputs = torch.cat([expert(inputs) for expert in self.experts], 1)
        chosen = outputs.gather(1, choice[:, None])[:, 0] * self.weigh(weight, probabilities)
        if self.limit is not None:
            before = F.one_hot(choice, EXPERTS).cumsum(0).gather(1, choice[:, None])[:, 0]
            chosen = chosen * (before <= self.limit * len(inputs) / EXPERTS)
        return chosen, probabilities


def balance(probabilities: Tensor) -> Tensor:
    """The loss of the Switch Transformer: one if all experts are used alike."""
    used = F.one_hot(probabilities.argmax(-1), EXPERTS).float().mean(0)
    return EXPERTS * (used * probabilities.mean(0)).sum()


def train(model: Mixture, balance_weight: float = 0.01, biased: bool = False) -> Training:
    """Regression where each region of the inputs has its own function; the score is the explained variance."""
    directions = torch.randn(8, EXPERTS)
    functions = 2 * torch.randn(EXPERTS, 8)
    if biased:
        with torch.no_grad():
            model.router.bias[0] = 4.0

    def draw(rows: int) -> tuple[Tensor, Tensor]:
        inputs = torch.randn(rows, 8)
        return inputs, (functions[(inputs @ directions).argmax(1)] * inputs).sum(1)

    def loss(outputs: tuple[Tensor, Tensor], targets: Tensor) -> Tensor:
        guesses, probabilities = outputs
        return F.mse_loss(guesses, targets) / 30 + balance_weight * balance(probabilities)

    @torch.no_grad()
    def score(model: Mixture) -> float:
        inputs, targets = draw(2048)
        return 1 - F.mse_loss(model(inputs)[0], targets).item() / targets.var().item()

    return Training(model, lambda step: draw(256), loss, torch.optim.AdamW(model.parameters(), lr=1e-2), score)


def weight_divided_by_itself(repaired: bool) -> Training:
    def weigh(weight: Tensor, _: Tensor) -> Tensor:
        return weight if repaired else weight / weight.view(-1, 1).sum(-1)

    return train(Mixture(weigh))


def no_balance(repaired: bool) -> Training:
    return train(Mixture(limit=2.0), balance_weight=0.1 if repaired else 0.0, biased=True)


def balance_unlearned(repaired: bool) -> Training:
    return train(Mixture(limit=2.0), balance_weight=0.1 if repaired else -0.1)


def balance_too_strong(repaired: bool) -> Training:
    return train(Mixture(), balance_weight=0.01 if repaired else 100.0)


def softmax_over_the_tokens(repaired: bool) -> Training:
    return train(Mixture(axis=-1 if repaired else 0))


PROGRAMS = [
    Program(
        name="top-1 router whose weight is divided by itself",
        source="https://github.com/jingyaogong/minimind/issues/858",
        symptom="the mixture is worse than a dense model of a third of its size, and the experts do not specialise",
        explanation="the weights of the chosen experts are normalised to one, so the weight of a single expert is "
        "constant, and the router has no gradient of the loss",
        cause="router gets no gradient",
        make=weight_divided_by_itself,
        steps=300,
        margin=0.05,
    ),
    Program(
        name="router without a balancing loss",
        source="https://github.com/pytorch/torchtitan/issues/1246",
        symptom="nearly all tokens are routed to one expert",
        explanation="nothing keeps the router from preferring the expert that is best at first, "
        "and what exceeds its capacity is dropped",
        cause="experts not used",
        make=no_balance,
        steps=200,
        margin=0.1,
    ),
    Program(
        name="balancing loss with its sign wrong",
        source="",
        symptom="one expert takes everything, the total loss is negative",
        explanation="the balancing loss is subtracted; known from code where it is called a reward",
        cause="penalty reversed",
        make=balance_unlearned,
        steps=200,
        margin=0.1,
    ),
    Program(
        name="balancing loss that drowns the task",
        source="",
        symptom="the experts are used exactly alike and the task is learned badly",
        explanation="the weight of the balancing loss is 100 instead of 0.01; "
        "known from coefficients that are meant for a sum in one code and for a mean in another",
        cause="one loss drowns the other",
        make=balance_too_strong,
        steps=200,
        margin=0.05,
    ),
    Program(
        name="router with a softmax over the tokens",
        source="",
        symptom="the loss stops high",
        explanation="the softmax is over dimension 0, so a token gets tiny weights that depend on the batch; "
        "known from routers that are moved from three dimensions to two",
        cause="axis wrong",
        make=softmax_over_the_tokens,
        steps=200,
        margin=0.1,
    ),
]
