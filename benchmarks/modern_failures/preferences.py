"""Learning from preferences: reward models, and DPO against a reference."""

import copy

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from modern_failures.blocks import GPT, next_token_loss
from modern_failures.data import ASK, END, PAD, VOCABULARY, WORDS, answers_only
from modern_failures.program import Program, Training


def pairs(samples: int = 128) -> tuple[Tensor, Tensor]:
    """Questions with the preferred answer, the first word plus one, and with another one, plus three."""
    words = torch.randint(WORDS, (samples, 3))
    sign, end = torch.full((samples, 1), ASK), torch.full((samples, 1), END)
    good, bad = (torch.cat([words + 3, sign, (words[:, :1] + plus) % WORDS + 3, end], 1) for plus in (1, 3))
    return good, bad


def tuned(good: Tensor, bad: Tensor, steps: int = 60) -> GPT:
    """A language model that gives both answers equally often."""
    model, rows = GPT(VOCABULARY), torch.cat([good, bad])
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        next_token_loss(model(rows), answers_only(rows)).backward()
        optimizer.step()
    return model


def log_probability(logits: Tensor, rows: Tensor) -> Tensor:
    """Logarithm of the probability of each row's answer."""
    tokens = logits[:, :-1].log_softmax(-1).gather(-1, rows[:, 1:, None])[..., 0]
    return (tokens * (answers_only(rows)[:, 1:] >= 0)).sum(1)


def preference(policy: GPT, reference, good: Tensor, bad: Tensor, beta: float = 0.5) -> Training:
    """DPO on all pairs: good rows first. Scored by the probability of the preferred answer of two."""
    rows = torch.cat([good, bad])

    def loss(logits: Tensor, rows: Tensor) -> Tensor:
        gain = log_probability(logits, rows) - log_probability(reference(rows, logits), rows)
        chosen, rejected = gain.chunk(2)
        return -logsigmoid(beta * (chosen - rejected)).mean()

    @torch.no_grad()
    def score(model: GPT) -> float:
        return (log_probability(model(good), good) - log_probability(model(bad), bad)).sigmoid().mean().item()

    return Training(
        policy,
        batch=lambda step: (rows, rows),
        loss=loss,
        optimizer=torch.optim.AdamW(policy.parameters(), lr=5e-4, weight_decay=0.0),
        score=score,
    )


def frozen(model: GPT):
    """Logits of a copy of the model that stays as it is."""
    kept = copy.deepcopy(model).requires_grad_(False)
    return lambda rows, logits: kept(rows)


def beta_is_zero(repaired: bool) -> Training:
    good, bad = pairs()
    policy = tuned(good, bad)
    return preference(policy, frozen(policy), good, bad, beta=0.5 if repaired else 0.0)


def policy_is_its_reference(repaired: bool) -> Training:
    good, bad = pairs()
    policy = tuned(good, bad)
    return preference(policy, frozen(policy) if repaired else lambda rows, logits: logits, good, bad)


class RewardModel(nn.Module):
    """A language model with a reward for the last token that is not padding, or for the last one of all."""

    def __init__(self, pad_token_id: int | None):
        super().__init__()
        self.transformer, self.score = GPT(VOCABULARY), nn.Linear(32, 1, bias=False)
        self.pad_token_id = pad_token_id

    def forward(self, input_ids: Tensor) -> Tensor:
        rewards = self.score(self.transformer.hidden(input_ids))[..., 0]
        if self.pad_token_id is None:
            return rewards[:, -1]
        last = (input_ids != self.pad_token_id).sum(1) - 1
        return rewards.gather(1, last[:, None])[:, 0]


def rewarding(model: RewardModel, good: Tensor, bad: Tensor) -> Training:
    """A reward model on pairs; scored by the pairs in the right order, each text alone."""
    rows = torch.cat([good, bad])

    def loss(rewards: Tensor, _: Tensor) -> Tensor:
        chosen, rejected = rewards.chunk(2)
        return -logsigmoid(chosen - rejected).mean()

    @torch.no_grad()
    def score(model: RewardModel) -> float:
        chosen, rejected = (torch.cat([model(row[row != PAD][None]) for row in rows]) for rows in (good, bad))
        return (chosen > rejected).float().mean().item()

    return Training(
        model,
        batch=lambda step: (rows, rows),
        loss=loss,
        optimizer=torch.optim.AdamW(model.parameters(), lr=1e-3),
        score=score,
    )


def reward_of_the_padding(repaired: bool) -> Training:
    good, bad = (nn.functional.pad(rows, (0, 14), value=PAD) for rows in pairs())
    return rewarding(RewardModel(PAD if repaired else None), good, bad)


PROGRAMS = [
    Program(
        name="DPO with beta 0",
        source="https://github.com/huggingface/trl/issues/1627",
        symptom="the loss stays 0.6931 and all rewards are 0",
        explanation="beta is 0, so the loss does not depend on the policy",
        causes=("constant loss", "loss weights wrong"),
        make=beta_is_zero,
        steps=60,
        margin=0.2,
    ),
    Program(
        name="DPO whose reference is the policy",
        source="https://github.com/eric-mitchell/direct-preference-optimization/issues/46",
        symptom="a question: is the loss not constant when policy and reference are the same model?",
        explanation="both log-probabilities come from one model and one pass, so their difference is 0",
        causes=("reference is the policy", "constant loss"),
        make=policy_is_its_reference,
        steps=60,
        margin=0.2,
    ),
    Program(
        name="reward of the padding",
        source="https://github.com/huggingface/trl/issues/937",
        symptom="strange loss, and an accuracy of 60 %",
        explanation="the configuration has no padding token, so the reward is that of the last padding token",
        causes=("loss of the wrong positions", "padding visible"),
        make=reward_of_the_padding,
        steps=60,
        margin=0.2,
    ),
]
