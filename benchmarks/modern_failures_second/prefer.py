"""Preference and reinforcement learning on language models."""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modern_failures_second.common import tiny_gpt, update
from modern_failures_strangers.data import ASK, FIRST_WORD, batches, column, translations
from modern_failures_strangers.program import Program
from real_failures.program import Training


def log_probabilities(model: nn.Module, questions: Tensor, answers: Tensor) -> Tensor:
    """Logarithm of the probability of each answer."""
    texts = torch.cat([questions, column(len(questions), ASK), answers], 1)
    log = model(input_ids=texts[:, :-1]).logits.log_softmax(-1)
    return log.gather(-1, texts[:, 1:, None])[:, -answers.shape[1] :, 0].sum(1)


def preferences(beta: float, reference_of) -> Training:
    questions, chosen = translations(1280, length=2)
    pairs = torch.stack([chosen, torch.randint(FIRST_WORD, 12, chosen.shape)], 1)
    model = tiny_gpt(vocabulary=12)
    reference = reference_of(model)

    def loss(margin: Tensor, _: object) -> Tensor:
        return -F.logsigmoid(beta * margin).mean()

    def step(training: Training, questions: Tensor, pairs: Tensor) -> None:
        def margin(model: nn.Module) -> Tensor:
            return log_probabilities(model, questions, pairs[:, 0]) - log_probabilities(model, questions, pairs[:, 1])

        update(training, training.loss(margin(training.model) - margin(reference), None))

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        good = log_probabilities(model, questions[1024:], pairs[1024:, 0])
        bad = log_probabilities(model, questions[1024:], pairs[1024:, 1])
        return (good > bad).float().mean().item()

    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    return Training(model, batches(questions[:1024], pairs[:1024]), loss, optimizer, score, step=step)


def frozen_copy(model: nn.Module) -> nn.Module:
    return copy.deepcopy(model).requires_grad_(False)


def reference_is_the_policy(repaired: bool) -> Training:
    return preferences(0.3, frozen_copy if repaired else lambda model: model)


def beta_of_zero(repaired: bool) -> Training:
    return preferences(0.3 if repaired else 0.0, frozen_copy)


GROUP, PROMPTS = 8, 8


def policy_training(
    choose=lambda logits: torch.distributions.Categorical(logits=logits).sample(),
    advantages=lambda rewards: (rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + 1e-4),
    place: int = 1,
    bonus: float = 0.0,
    lr: float = 3e-3,
) -> Training:
    """Group-relative learning of one-word answers; `place` is where the probability of the answer is read."""
    questions, answers = translations(256, length=1)
    model = tiny_gpt(vocabulary=12)

    def step(training: Training, questions: Tensor, answers: Tensor) -> None:
        asked = torch.cat([questions, column(len(questions), ASK)], 1).repeat_interleave(GROUP, 0)
        right = answers.repeat_interleave(GROUP, 0)[:, 0]
        with torch.no_grad():
            said = choose(training.model(input_ids=asked).logits[:, -1])
        rewards = (said == right).float() + bonus * asked[:, 0]
        log = training.model(input_ids=torch.cat([asked, said[:, None]], 1)).logits.log_softmax(-1)
        chosen = log[:, place].gather(-1, said[:, None])[:, 0]
        gains = advantages(rewards.view(PROMPTS, GROUP)).reshape(-1)
        ratio = torch.exp(chosen - chosen.detach())
        update(training, training.loss(ratio, gains))

    def loss(ratio: Tensor, gains: Tensor) -> Tensor:
        return -torch.min(ratio * gains, ratio.clamp(0.8, 1.2) * gains).mean()

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        asked = torch.cat([questions, column(256, ASK)], 1)
        return model(input_ids=asked).logits[:, -1].softmax(-1).gather(-1, answers).mean().item()

    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    return Training(model, batches(questions, answers, size=PROMPTS), loss, optimizer, score, step=step)


def mixed_groups(repaired: bool) -> Training:
    def mixed(rewards: Tensor) -> Tensor:
        groups = rewards.reshape(GROUP, PROMPTS)
        return (rewards.view(-1) - groups.mean(0).repeat(GROUP)) / (groups.std(0).repeat(GROUP) + 1e-4)

    return policy_training(bonus=1.0) if repaired else policy_training(bonus=1.0, advantages=mixed)


def greedy_rollouts(repaired: bool) -> Training:
    return policy_training() if repaired else policy_training(choose=lambda logits: logits.argmax(-1))


def probability_one_place_late(repaired: bool) -> Training:
    return policy_training(place=1 if repaired else 2)


class ActorCritic(nn.Module):
    """A language model with a value of the text so far."""

    def __init__(self):
        super().__init__()
        self.policy, self.value = tiny_gpt(vocabulary=12), nn.Linear(32, 1)

    def forward(self, input_ids: Tensor) -> tuple[Tensor, Tensor]:
        outputs = self.policy(input_ids=input_ids, output_hidden_states=True)
        return outputs.logits[:, -1], self.value(outputs.hidden_states[-1][:, -1])[:, 0]


def advantage_with_gradient(repaired: bool) -> Training:
    questions, answers = translations(256, length=1)
    model = ActorCritic()
    coefficient = 0.1

    def step(training: Training, questions: Tensor, answers: Tensor) -> None:
        asked = torch.cat([questions, column(len(questions), ASK)], 1)
        logits, value = training.model(asked)
        policy = torch.distributions.Categorical(logits=logits)
        said = policy.sample()
        reward = (said == answers[:, 0]).float()
        gain = reward - value
        used = gain.detach() if repaired else gain
        update(training, training.loss(policy.log_prob(said), used) + coefficient * gain.square().mean())

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        asked = torch.cat([questions, column(256, ASK)], 1)
        return model(asked)[0].softmax(-1).gather(-1, answers).mean().item()

    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    loss = lambda log, gain: -(log * gain).mean()  # noqa: E731
    return Training(model, batches(questions, answers, size=64), loss, optimizer, score, step=step)


PROGRAMS = [
    Program(
        name="reference model is the policy itself",
        source="https://github.com/eric-mitchell/direct-preference-optimization/issues/46",
        symptom="the DPO loss is 0.693 at every step and the rewards are zero",
        explanation="the reference is the same object as the policy and not a frozen copy, so the difference of "
        "the two and its gradient are zero",
        cause="reference not a copy",
        make=reference_is_the_policy,
        steps=80,
        margin=0.2,
    ),
    Program(
        name="beta of zero",
        source="https://github.com/huggingface/trl/issues/1627",
        symptom="the DPO loss remains 0.6931 and the rewards stay at 0.0",
        explanation="beta is 0.0 in the configuration and multiplies the whole margin",
        cause="loss multiplied by zero",
        make=beta_of_zero,
        steps=80,
        margin=0.2,
    ),
    Program(
        name="advantages over groups of different prompts",
        source="https://github.com/dllm-reasoning/d1/issues/19",
        symptom="the reward oscillates and does not grow",
        explanation="the rewards are reshaped in the wrong order, so each group mixes prompts, and what is easy "
        "or hard about a prompt is taken for merit of its answers",
        cause="groups mixed up",
        make=mixed_groups,
        steps=100,
        margin=0.2,
    ),
    Program(
        name="greedy rollouts",
        source="https://github.com/modelscope/ms-swift/issues/4570",
        symptom="loss and gradient norm are zero at all steps",
        explanation="the answers of a group are decoded greedily, so they are all the same and no one is better "
        "than the others",
        cause="no exploration",
        make=greedy_rollouts,
        steps=150,
        margin=0.2,
    ),
    Program(
        name="log-probabilities read one place late",
        source="https://github.com/lucidrains/PaLM-rlhf-pytorch/issues/31",
        symptom="the policy changes and the reward does not grow",
        explanation="the logits are not shifted: the probability of a token is read at the place of the token itself "
        "and not at the one before",
        cause="logits and tokens off by one",
        make=probability_one_place_late,
        steps=100,
        margin=0.2,
    ),
    Program(
        name="advantage carries the gradient of the critic",
        source="https://github.com/astariul/encode-attend-navigate-pytorch/issues/2",
        symptom="the value grows far above any reward and training is unstable",
        explanation="the advantage is not detached, so the policy loss also pushes the value up",
        cause="missing detach",
        make=advantage_with_gradient,
        steps=200,
        margin=0.15,
    ),
]
