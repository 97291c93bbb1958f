"""Preferences: DPO and reward models, with log-probabilities of the wrong tokens or the wrong sign."""

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modern_failures_strangers.data import ASK, END, FIRST_WORD, PAD, batches, column
from modern_failures_strangers.networks import GPT, Encoder
from modern_failures_strangers.program import Program
from real_failures.program import Training


def pairs(rows: int = 256) -> tuple[Tensor, Tensor]:
    """Two answers to the same question: one of small words, preferred, and one of large words."""
    question = torch.cat([torch.randint(FIRST_WORD, 12, (rows, 3)), column(rows, ASK)], 1)
    chosen, rejected = torch.randint(FIRST_WORD, 7, (rows, 4)), torch.randint(7, 12, (rows, 4))
    mixed = torch.rand(rows, 4) < 0.25
    chosen, rejected = torch.where(mixed, rejected, chosen), torch.where(mixed, chosen, rejected)
    return torch.cat([question, chosen], 1), torch.cat([question, rejected], 1)


def log_probabilities(logits: Tensor, tokens: Tensor) -> Tensor:
    """Of each token but the first, after those before it."""
    return logits[:, :-1].log_softmax(-1).gather(-1, tokens[:, 1:, None])[..., 0]


def dpo(chosen: Tensor, rejected: Tensor, chosen_before: Tensor, rejected_before: Tensor, beta: float = 0.5) -> Tensor:
    """The loss of DPO, of the summed log-probabilities of two models."""
    return -F.logsigmoid(beta * ((chosen - chosen_before) - (rejected - rejected_before))).mean()


@torch.no_grad()
def writes_small_words(model: GPT) -> float:
    """Fraction of the sampled words that are of the preferred kind."""
    questions = torch.cat([torch.randint(FIRST_WORD, 12, (256, 3)), column(256, ASK)], 1)
    return (model.complete(questions, 4, greedy=False)[:, 4:] < 7).float().mean().item()


def reference_is_the_policy(repaired: bool) -> Training:
    chosen, rejected = pairs()
    policy = GPT(12, 8)
    reference = copy.deepcopy(policy) if repaired else policy

    def step(training: Training, chosen: Tensor, rejected: Tensor) -> None:
        sums = [
            log_probabilities(model(texts), texts)[:, 3:].sum(1)
            for model in (policy, reference)
            for texts in (chosen, rejected)
        ]
        training.optimizer.zero_grad()
        dpo(*sums).backward()
        training.optimizer.step()

    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-3)
    return Training(policy, batches(chosen, rejected), dpo, optimizer, writes_small_words, step)


def masked_dpo(mask: Callable[[Tensor], Tensor], chosen: Tensor, rejected: Tensor, lr: float = 1e-3) -> Training:
    """DPO on the tokens of a mask; of the texts without their first token."""
    policy = GPT(12, chosen.shape[1])
    reference = copy.deepcopy(policy).requires_grad_(False).eval()

    def step(training: Training, chosen: Tensor, rejected: Tensor) -> None:
        both = torch.cat([chosen, rejected])
        weights = mask(both).float()
        new = (log_probabilities(training.model(both), both) * weights).sum(1)
        old = (log_probabilities(reference(both), both) * weights).sum(1)
        loss = dpo(*new.chunk(2), *old.chunk(2))
        training.optimizer.zero_grad()
        loss.backward()
        training.optimizer.step()

    optimizer = torch.optim.AdamW(policy.parameters(), lr=lr)
    return Training(policy, batches(chosen, rejected), dpo, optimizer, writes_small_words, step)


def beta_of_zero(repaired: bool) -> Training:
    chosen, rejected = pairs()
    policy = GPT(12, 8)
    reference = copy.deepcopy(policy).requires_grad_(False)
    beta = 0.5 if repaired else 0.0

    def loss(logits: Tensor, texts: Tensor) -> Tensor:
        new = log_probabilities(logits, texts)[:, 3:].sum(1)
        old = log_probabilities(reference(texts), texts)[:, 3:].sum(1)
        return dpo(*new.chunk(2), *old.chunk(2), beta=beta)

    def batch(step: int) -> tuple[Tensor, Tensor]:
        both = torch.cat(batches(chosen, rejected)(step))
        return both, both

    return Training(policy, batch, loss, torch.optim.AdamW(policy.parameters(), lr=1e-3), writes_small_words)


def mask_of_ignored_tokens(repaired: bool) -> Training:
    chosen, rejected = pairs()

    def mask(texts: Tensor) -> Tensor:
        labels = texts.clone()
        labels[:, :4] = -100
        ignored = labels[:, 1:] == -100
        return ~ignored if repaired else ignored

    return masked_dpo(mask, chosen, rejected)


def padding_counts_as_answer(repaired: bool) -> Training:
    chosen, rejected = (F.pad(torch.cat([texts, column(256, END)], 1), (0, 40)) for texts in pairs())

    def mask(texts: Tensor) -> Tensor:
        answer = torch.arange(1, texts.shape[1]) >= 4
        return answer & (texts[:, 1:] != PAD) if repaired else answer.expand(len(texts), -1)

    return masked_dpo(mask, chosen, rejected)


def chosen_and_rejected_swapped(repaired: bool) -> Training:
    chosen, rejected = pairs()
    policy = GPT(12, 8)
    reference = copy.deepcopy(policy).requires_grad_(False)

    def loss(logits: Tensor, texts: Tensor) -> Tensor:
        with torch.no_grad():
            old = log_probabilities(reference(texts), texts)[:, 3:].sum(1)
        new = log_probabilities(logits, texts)[:, 3:].sum(1)
        return dpo(*new.chunk(2), *old.chunk(2))

    def concatenated(step: int) -> tuple[Tensor, Tensor]:
        good, bad = batches(chosen, rejected)(step)
        both = torch.cat([good, bad] if repaired else [bad, good])
        return both, both

    return Training(policy, concatenated, loss, torch.optim.RMSprop(policy.parameters(), lr=1e-3), writes_small_words)


def labels_not_shifted(repaired: bool) -> Training:
    chosen, rejected = pairs()
    policy = GPT(12, 8)
    reference = copy.deepcopy(policy).requires_grad_(False)
    shift = 1 if repaired else 0

    def log_sums(logits: Tensor, texts: Tensor) -> Tensor:
        labels, logits = texts[:, shift:], logits[:, : texts.shape[1] - shift]
        return logits.log_softmax(-1).gather(-1, labels[..., None])[:, -4:, 0].sum(1)

    def loss(logits: Tensor, texts: Tensor) -> Tensor:
        return dpo(*log_sums(logits, texts).chunk(2), *log_sums(reference(texts), texts).chunk(2))

    def concatenated(step: int) -> tuple[Tensor, Tensor]:
        both = torch.cat(batches(chosen, rejected)(step))
        return both, both

    return Training(policy, concatenated, loss, torch.optim.AdamW(policy.parameters(), lr=1e-3), writes_small_words)


class Reward(nn.Module):
    """One number for a text."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.head = Encoder(12, 8), nn.Linear(32, 1)

    def forward(self, texts: Tensor) -> Tensor:
        return self.head(self.encoder(texts).mean(1))


def reward_subtracted_the_other_way(repaired: bool) -> Training:
    chosen, rejected = pairs()
    model = Reward()

    def loss(rewards: Tensor, _: None) -> Tensor:
        chosen, rejected = rewards.chunk(2)
        return -F.logsigmoid(chosen - rejected if repaired else rejected - chosen).mean()

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        return (model(chosen) > model(rejected)).float().mean().item()

    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    return Training(model, lambda step: (torch.cat(batches(chosen, rejected)(step)), None), loss, optimizer, score)


PROGRAMS = [
    Program(
        name="DPO whose reference is the policy itself",
        source="",
        symptom="the loss stays at 0.6931 and all rewards at zero",
        explanation="the reference is the same object, so the two log-probabilities cancel, and so do their gradients; "
        "known from `reference = policy` where a copy was meant",
        cause="one network under two names",
        make=reference_is_the_policy,
        steps=60,
        margin=0.2,
    ),
    Program(
        name="DPO with a beta of zero",
        source="https://github.com/huggingface/trl/issues/1627",
        symptom="the loss stays at 0.6931 from the first step and the rewards at zero",
        explanation="beta was set to 0.0, and the whole difference is multiplied by it",
        cause="multiplied by zero",
        make=beta_of_zero,
        steps=60,
        margin=0.2,
    ),
    Program(
        name="DPO on the ignored tokens",
        source="https://github.com/QwenAudio/CosyVoice/issues/1449",
        symptom="the loss stays at 0.6931",
        explanation="the mask is one where a label is ignored, so the answers do not count",
        cause="mask inverted",
        make=mask_of_ignored_tokens,
        steps=60,
        margin=0.2,
    ),
    Program(
        name="DPO with padding among the answers",
        source="https://github.com/0xallam/Direct-Preference-Optimization/issues/4",
        symptom="the margin of the rewards grows, the answers do not become better",
        explanation="the log-probabilities of the padding are summed with those of the answer, and are most of the sum",
        cause="loss on the wrong tokens",
        make=padding_counts_as_answer,
        steps=60,
        margin=0.06,
    ),
    Program(
        name="DPO with chosen and rejected swapped",
        source="",
        symptom="the loss falls and the accuracy of the rewards is 1, the model writes what it should not",
        explanation="the concatenated batch has the rejected texts first, and is split as if they were last; "
        "known from data sets whose columns are ordered the other way",
        cause="sign wrong",
        make=chosen_and_rejected_swapped,
        steps=60,
        margin=0.4,
    ),
    Program(
        name="DPO with labels that are not shifted",
        source="",
        symptom="the loss falls as it should, and the samples are as bad as before",
        explanation="the log-probability of a token is read where the token itself is the input; "
        "the hand-written DPO of many first attempts",
        cause="labels shifted wrongly",
        make=labels_not_shifted,
        steps=60,
        margin=0.1,
    ),
    Program(
        name="reward model with its sign wrong",
        source="",
        symptom="the loss falls, the accuracy goes to zero",
        explanation="the loss has the rejected reward minus the chosen one; a slip that is found in many reviews",
        cause="sign wrong",
        make=reward_subtracted_the_other_way,
        steps=60,
        margin=0.5,
    ),
]
