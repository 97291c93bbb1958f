"""Reinforcement of language models: PPO and GRPO with groups, rewards, ratios and advantages that are wrong."""

import torch
from torch import Tensor

from modern_failures.blocks import GPT, add_adapters
from modern_failures.data import ASK, VOCABULARY, WORDS
from modern_failures.program import Program, Training, called, usual_step

GROUP, LENGTH, PROMPTS = 8, 3, 8
"""Completions of a prompt, tokens of a completion, prompts of a batch."""


def prompts(count: int) -> Tensor:
    """Two words and ASK; the first word is what every token of the completion should be."""
    return torch.cat([torch.randint(WORDS, (count, 2)) + 3, torch.full((count, 1), ASK)], 1)


@torch.no_grad()
def completed(policy: GPT, rows: Tensor, temperature: float = 1.0) -> Tensor:
    """The prompts with completions that the policy draws."""
    for _ in range(LENGTH):
        odds = (policy(rows)[:, -1] / temperature).softmax(-1)
        rows = torch.cat([rows, torch.multinomial(odds, 1)], 1)
    return rows


def log_probabilities(logits: Tensor, rows: Tensor) -> Tensor:
    """Logarithms of the probabilities of the completions' tokens."""
    return logits[:, -LENGTH - 1 : -1].log_softmax(-1).gather(-1, rows[:, -LENGTH:, None])[..., 0]


def rewards(rows: Tensor, solutions: Tensor) -> Tensor:
    """Share of a completion's tokens that are the solution."""
    return (rows[:, -LENGTH:] == solutions[:, None]).float().mean(1)


def advantages(gained: Tensor) -> Tensor:
    """Rewards compared with those of the group, that is of the next rows."""
    groups = gained.view(-1, GROUP)
    return ((groups - groups.mean(1, keepdim=True)) / (groups.std(1, keepdim=True) + 1e-4)).flatten()


def clipped(logits: Tensor, targets: tuple[Tensor, ...]) -> Tensor:
    """The loss of PPO, for rows, logarithms of their probabilities when they were drawn, and advantages."""
    rows, old, advantage = targets
    ratio, advantage = (log_probabilities(logits, rows) - old).exp(), advantage[:, None]
    return -torch.min(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage).mean()


def drawn(policy: GPT, rows: Tensor, gained: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Inputs and targets of a step for completions and their rewards."""
    with torch.no_grad():
        old = log_probabilities(policy(rows), rows)
    return rows, (rows, old, advantages(gained))


def reinforcement(policy: GPT, batch, rate: float = 3e-3, step=usual_step) -> Training:
    """Training of a policy, scored by the mean reward of new prompts."""

    def score(policy: GPT) -> float:
        rows = completed(policy, prompts(256))
        return rewards(rows, rows[:, 0]).mean().item()

    parameters = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW([{"params": parameters}], lr=rate, weight_decay=0.0)
    return Training(policy, batch, clipped, optimizer, score, step)


def groups_of_several_prompts(repaired: bool) -> Training:
    policy = GPT(VOCABULARY)

    def batch(step: int):
        asked = prompts(PROMPTS)
        rows = asked.repeat_interleave(GROUP, 0) if repaired else asked.repeat(GROUP, 1)
        rows = completed(policy, rows)
        easy = (rows[:, 1] - 3.0) / 2  # some prompts earn more, whatever the completion
        return drawn(policy, rows, rewards(rows, rows[:, 0]) + easy)

    return reinforcement(policy, batch)


def solutions_of_other_prompts(repaired: bool) -> Training:
    policy = GPT(VOCABULARY)

    def batch(step: int):
        rows = completed(policy, prompts(PROMPTS).repeat_interleave(GROUP, 0))  # by the sampler
        solutions = rows[:, 0] if repaired else rows[:, 0].repeat_interleave(GROUP)[: len(rows)]  # and once more
        return drawn(policy, rows, rewards(rows, solutions))

    return reinforcement(policy, batch)


def completions_all_alike(repaired: bool) -> Training:
    policy = GPT(VOCABULARY)

    def batch(step: int):
        rows = prompts(PROMPTS).repeat_interleave(GROUP, 0)
        rows = completed(policy, rows, temperature=1.0 if repaired else 0.01)
        return drawn(policy, rows, rewards(rows, rows[:, 0]))

    return reinforcement(policy, batch)


def old_policy_is_the_new_one(repaired: bool) -> Training:
    policy = GPT(VOCABULARY)

    def batch(step: int):
        rows = completed(policy, prompts(PROMPTS).repeat_interleave(GROUP, 0))
        return drawn(policy, rows, rewards(rows, rows[:, 0]))

    def epochs(training: Training, rows: Tensor, targets: tuple[Tensor, ...]) -> None:
        for _ in range(8):
            if not repaired:
                with torch.no_grad():
                    targets = (rows, log_probabilities(called(policy, rows), rows), targets[2])
            usual_step(training, rows, targets)

    return reinforcement(policy, batch, rate=1e-2, step=epochs)


def adapter_loaded_for_inference(repaired: bool) -> Training:
    policy = GPT(VOCABULARY)
    add_adapters(policy, rank=8)
    policy.head.requires_grad_(True)
    if not repaired:
        policy.requires_grad_(False)
    policy.tokens.register_forward_hook(lambda module, inputs, output: output.requires_grad_())  # as for checkpoints

    def batch(step: int):
        rows = completed(policy, prompts(PROMPTS).repeat_interleave(GROUP, 0))
        return drawn(policy, rows, rewards(rows, rows[:, 0]))

    return reinforcement(policy, batch, rate=1e-2)


PROGRAMS = [
    Program(
        name="GRPO whose groups have several prompts",
        source="https://github.com/StarsfieldAI/R1-V/issues/67",
        symptom="means and deviations of the rewards are those of different questions",
        explanation="completions come as first, second, first, second prompt, and groups are taken from next rows",
        causes=("groups mixed",),
        make=groups_of_several_prompts,
        steps=60,
        margin=0.2,
        visible="training",
    ),
    Program(
        name="GRPO with the solutions of other prompts",
        source="https://github.com/StarsfieldAI/R1-V/issues/146",
        symptom="completions from the second group on are scored by wrong solutions",
        explanation="the sampler repeats each sample already; the arguments of the reward are repeated once more",
        causes=("targets wrong", "pairs shuffled apart"),
        make=solutions_of_other_prompts,
        steps=60,
        margin=0.2,
        visible="training",
    ),
    Program(
        name="GRPO with completions that are all alike",
        source="https://github.com/modelscope/ms-swift/issues/4570",
        symptom="loss and gradient norm are always 0",
        explanation="completions are drawn with too little randomness: equal rewards within a group, no advantages",
        causes=("advantages zero", "constant loss"),
        make=completions_all_alike,
        steps=60,
        margin=0.2,
    ),
    Program(
        name="PPO whose ratio is always one",
        source="https://github.com/abhisheksuran/Reinforcement_Learning/issues/4",
        symptom="old and new probabilities are the same",
        explanation="old probabilities are computed again by the new policy in each epoch, so nothing is ever clipped",
        causes=("ratio always one",),
        make=old_policy_is_the_new_one,
        steps=15,
        margin=0.1,
        visible="training",
    ),
    Program(
        name="GRPO with an adapter that was loaded for inference",
        source="https://github.com/huggingface/trl/issues/6700",
        symptom="training runs and changes nothing: the optimizer is empty",
        explanation="`PeftModel.from_pretrained` without `is_trainable=True` freezes the adapter",
        causes=("no step", "parameters not in the optimizer"),
        make=adapter_loaded_for_inference,
        steps=60,
        margin=0.2,
    ),
]
