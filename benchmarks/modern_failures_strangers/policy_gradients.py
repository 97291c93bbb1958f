"""Reinforcement learning of language models: PPO and GRPO with lost, mixed or reversed signals."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from modern_failures_strangers.data import ASK, FIRST_WORD, column
from modern_failures_strangers.networks import GPT, Encoder
from modern_failures_strangers.preferences import log_probabilities
from modern_failures_strangers.program import Program
from real_failures.program import Training

WORDS = 4


def prompts(rows: int) -> Tensor:
    """A word and a mark."""
    return torch.cat([torch.randint(FIRST_WORD, 12, (rows, 1)), column(rows, ASK)], 1)


def reward(texts: Tensor) -> Tensor:
    """Fraction of the written words that are smaller than the word of the prompt, or equal."""
    return (texts[:, 2:] <= texts[:, :1]).float().mean(1) * (texts[:, 2:] >= FIRST_WORD).all(1)


def policy() -> GPT:
    return GPT(12, 2 + WORDS)


@torch.no_grad()
def mean_reward(model: GPT) -> float:
    return reward(model.complete(prompts(512), WORDS, greedy=False)).mean().item()


def standardised(rewards: Tensor) -> Tensor:
    return (rewards - rewards.mean(-1, keepdim=True)) / (rewards.std(-1, keepdim=True) + 1e-4)


def grpo(
    model: GPT,
    advantages: Callable[[Tensor], Tensor],
    questions: int = 16,
    group: int = 8,
    temperature: float = 1.0,
) -> Training:
    """GRPO: a group of answers to each question; the advantages from the rewards in the order of the rows."""

    def roll_out(step: int) -> tuple[Tensor, Tensor]:
        asked = prompts(questions).repeat_interleave(group, 0)
        head = model.head.weight.data
        model.head.weight.data = head / temperature
        texts = model.complete(asked, WORDS, greedy=False)
        model.head.weight.data = head
        return texts, advantages(reward(texts))

    def loss(logits: Tensor, rolled: tuple[Tensor, Tensor]) -> Tensor:
        texts, advantage = rolled
        new = log_probabilities(logits, texts)[:, 1:]
        ratio = (new - new.detach()).exp()
        return -(ratio * advantage[:, None]).mean()

    def batch(step: int) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        texts, advantage = roll_out(step)
        return texts, (texts, advantage)

    return Training(model, batch, loss, torch.optim.AdamW(model.parameters(), lr=5e-3), mean_reward)


def groups_of_the_wrong_rows(repaired: bool) -> Training:
    def advantages(rewards: Tensor) -> Tensor:
        if repaired:
            return standardised(rewards.view(16, 8)).flatten()
        return standardised(rewards.view(16, 8)).mT.flatten()

    return grpo(policy(), advantages)


def group_of_one(repaired: bool) -> Training:
    group = 8 if repaired else 1

    def advantages(rewards: Tensor) -> Tensor:
        grouped = rewards.view(-1, group)
        spread = grouped.std(1, keepdim=True, correction=0)
        return ((grouped - grouped.mean(1, keepdim=True)) / (spread + 1e-4)).flatten()

    return grpo(policy(), advantages, questions=128 // group, group=group)


def answers_all_alike(repaired: bool) -> Training:
    temperature = 1.0 if repaired else 0.01
    return grpo(policy(), lambda rewards: standardised(rewards.view(16, 8)).flatten(), temperature=temperature)


def reward_descended(repaired: bool) -> Training:
    sign = 1 if repaired else -1
    return grpo(policy(), lambda rewards: sign * standardised(rewards.view(16, 8)).flatten())


def ratio_without_old(repaired: bool) -> Training:
    model = policy()

    def collect(step: int) -> tuple[Tensor, Tensor]:
        texts = model.complete(prompts(128), WORDS, greedy=False)
        return texts, reward(texts)

    def ppo(training: Training, texts: Tensor, rewards: Tensor) -> None:
        advantage = standardised(rewards)[:, None]
        with torch.no_grad():
            before = log_probabilities(training.model(texts), texts)[:, 1:]
        for _ in range(2):
            new = log_probabilities(training.model(texts), texts)[:, 1:]
            old = before if repaired else log_probabilities(training.model(texts), texts)[:, 1:]
            training.optimizer.zero_grad()
            training.loss((new - old).exp(), advantage).backward()
            training.optimizer.step()

    def clipped(ratio: Tensor, advantage: Tensor) -> Tensor:
        return -torch.min(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage).mean()

    return Training(model, collect, clipped, torch.optim.Adam(model.parameters(), lr=3e-3), mean_reward, step=ppo)


def divergence_rewarded(repaired: bool) -> Training:
    model = policy()
    reference = copy.deepcopy(model).requires_grad_(False)
    weight = 0.5 if repaired else -0.5

    def roll_out(step: int) -> tuple[Tensor, Tensor]:
        texts = model.complete(prompts(128), WORDS, greedy=False)
        return texts, texts

    def loss(logits: Tensor, texts: Tensor) -> Tensor:
        new = log_probabilities(logits, texts)[:, 1:]
        away = log_probabilities(reference(texts), texts)[:, 1:] - new
        divergence = away.exp() - away - 1
        return (-(new - new.detach()).exp() * standardised(reward(texts))[:, None] + weight * divergence).mean()

    @torch.no_grad()
    def objective(model: GPT) -> float:
        texts = model.complete(prompts(512), WORDS, greedy=False)
        divergence = (log_probabilities(model(texts), texts) - log_probabilities(reference(texts), texts))[:, 1:]
        return mean_reward(model) - 0.5 * divergence.mean().item()

    return Training(model, roll_out, loss, torch.optim.AdamW(model.parameters(), lr=3e-3), objective)


class ActorAndCritic(nn.Module):
    """A policy whose states a second head values."""

    def __init__(self) -> None:
        super().__init__()
        self.policy = policy()
        self.value = nn.Linear(32, 1)

    def forward(self, texts: Tensor) -> tuple[Tensor, Tensor]:
        states = self.policy.hidden(texts)
        return self.policy.head(states), self.value(states[:, 1])


def actor_critic(advantages_in_a_column: bool = False, scale: float = 1.0) -> Training:
    """Policy and critic with shared layers; a step for each batch of texts."""
    model = ActorAndCritic()

    def roll_out(step: int) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        texts = model.policy.complete(prompts(128), WORDS, greedy=False)
        return texts, (texts, scale * reward(texts))

    def loss(outputs: tuple[Tensor, Tensor], rolled: tuple[Tensor, Tensor]) -> Tensor:
        (logits, values), (texts, rewards) = outputs, rolled
        advantages = standardised((rewards - values[:, 0]).detach())
        if advantages_in_a_column:
            advantages = advantages[:, None]
        new = log_probabilities(logits, texts)[:, 1:].sum(1)
        ratio = (new - new.detach()).exp()
        return -(ratio * advantages).mean() + 0.5 * (values[:, 0] - rewards).square().mean()

    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    return Training(model, roll_out, loss, optimizer, lambda model: mean_reward(model.policy))


def advantages_in_a_column(repaired: bool) -> Training:
    return actor_critic(advantages_in_a_column=not repaired)


def value_loss_drowns_the_policy(repaired: bool) -> Training:
    return actor_critic(scale=1.0 if repaired else 1000.0)


def values_against_all_rewards(repaired: bool) -> Training:
    writer, critic = policy(), nn.Sequential(Encoder(12, 2 + WORDS), nn.Flatten(), nn.Linear(32 * (2 + WORDS), 1))

    def roll_out(step: int) -> tuple[Tensor, Tensor]:
        texts = writer.complete(prompts(128), WORDS, greedy=False)
        return texts, reward(texts)

    def value_loss(values: Tensor, rewards: Tensor) -> Tensor:
        return 0.5 * ((values[:, 0] if repaired else values) - rewards).square().mean()

    @torch.no_grad()
    def explained(critic: nn.Module) -> float:
        texts, rewards = roll_out(0)
        return 1 - ((critic(texts)[:, 0] - rewards).var() / rewards.var()).item()

    return Training(critic, roll_out, value_loss, torch.optim.AdamW(critic.parameters(), lr=3e-3), explained)


def words_sampled_again(repaired: bool) -> Training:
    model = policy()

    def roll_out(step: int) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        texts = model.complete(prompts(128), WORDS, greedy=False)
        return texts, (texts, standardised(reward(texts)))

    def reinforce(logits: Tensor, rolled: tuple[Tensor, Tensor]) -> Tensor:
        texts, advantage = rolled
        words = torch.distributions.Categorical(logits=logits[:, 1:-1])
        actions = texts[:, 2:] if repaired else words.sample()
        return -(words.log_prob(actions) * advantage[:, None]).mean() - 0.001 * words.entropy().mean()

    return Training(model, roll_out, reinforce, torch.optim.AdamW(model.parameters(), lr=5e-3), mean_reward)


PROGRAMS = [
    Program(
        name="GRPO with groups of the wrong rows",
        source="https://github.com/StarsfieldAI/R1-V/issues/67",
        symptom="the reward hardly grows",
        explanation="the completions are ordered by generation and the advantages by prompt, so they do not match",
        cause="wrong pairs",
        make=groups_of_the_wrong_rows,
        steps=60,
        margin=0.15,
    ),
    Program(
        name="GRPO with one completion for a prompt",
        source="https://github.com/modelscope/ms-swift/issues/3980",
        symptom="loss and gradient norm are exactly zero",
        explanation="the advantage of a group of one is zero",
        cause="no signal in the rewards",
        make=group_of_one,
        steps=60,
        margin=0.15,
    ),
    Program(
        name="GRPO with completions that are all alike",
        source="https://github.com/modelscope/ms-swift/issues/4570",
        symptom="loss and gradient norm are nearly always zero",
        explanation="the temperature is so low that all completions of a group are equal, and so are their rewards",
        cause="no signal in the rewards",
        make=answers_all_alike,
        steps=60,
        margin=0.15,
    ),
    Program(
        name="policy gradient with its sign wrong",
        source="https://github.com/natolambert/rlhf-book/issues/125",
        symptom="the reward falls to zero",
        explanation="the objective, which is to be maximised, is minimised",
        cause="sign wrong",
        make=reward_descended,
        steps=40,
        margin=0.3,
    ),
    Program(
        name="PPO whose old log-probabilities are new ones",
        source="https://github.com/higgsfield-ai/higgsfield/issues/20",
        symptom="the ratio is always one, and the policy does not change",
        explanation="the old log-probabilities are computed by the present policy, with their gradient, which cancels",
        cause="gradient cancels",
        make=ratio_without_old,
        steps=40,
        margin=0.15,
    ),
    Program(
        name="divergence from the reference rewarded",
        source="https://github.com/qiancheng0/ToolRL/issues/52",
        symptom="the training becomes unstable and collapses",
        explanation="the KL term has the wrong sign, so the policy is pushed away from the reference",
        cause="penalty reversed",
        make=divergence_rewarded,
        steps=40,
        margin=0.1,
    ),
    Program(
        name="values against all rewards of the batch",
        source="https://github.com/RLinf/RLinf/issues/1568",
        symptom="the critic predicts the mean of all returns, whatever the text",
        explanation="values of shape (N, 1) minus rewards of shape (N,) are broadcast to (N, N)",
        cause="shapes broadcast",
        make=values_against_all_rewards,
        steps=60,
        margin=0.1,
    ),
    Program(
        name="advantages in a column, ratios in a row",
        source="https://github.com/RITCHIEHuang/DeepRL_Algorithms/issues/13",
        symptom="the policy learns very slowly or not",
        explanation="the product of shapes (N, 1) and (N,) is (N, N), and its mean is that of all pairs",
        cause="shapes broadcast",
        make=advantages_in_a_column,
        steps=40,
        margin=0.15,
    ),
    Program(
        name="value loss that drowns the policy",
        source="",
        symptom="the value loss is in the thousands, the reward does not grow",
        explanation="the rewards are not scaled and policy and critic share their layers and an optimizer; "
        "known from PPO on raw scores of a reward model",
        cause="one loss drowns the other",
        make=value_loss_drowns_the_policy,
        steps=30,
        margin=0.1,
    ),
    Program(
        name="log-probabilities of words sampled again",
        source="",
        symptom="the reward does not grow, everything else looks right",
        explanation="the loss samples new words and uses the advantage of the old ones; "
        "a usual slip in first policy gradients, where `sample` is called twice",
        cause="wrong pairs",
        make=words_sampled_again,
        steps=60,
        margin=0.15,
    ),
]
