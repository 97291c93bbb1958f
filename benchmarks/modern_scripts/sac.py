"""SAC on a pendulum, an update after each step: python sac.py [STEPS]."""

import copy
import math
import random
import sys

import torch
from torch import Tensor, nn

STEPS = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
torch.manual_seed(0)
random.seed(0)


def mlp(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, outputs))


actor, critics = mlp(3, 2), nn.ModuleList([mlp(4, 1), mlp(4, 1)])
old = copy.deepcopy(critics)
temperature = torch.zeros((), requires_grad=True)
of_actor = torch.optim.Adam(actor.parameters(), lr=1e-3)
of_critics = torch.optim.Adam(critics.parameters(), lr=1e-3)
of_temperature = torch.optim.Adam([temperature], lr=1e-3)


def drawn(states: Tensor) -> tuple[Tensor, Tensor]:
    """Forces and the logarithms of their probabilities."""
    mean, spread = actor(states).chunk(2, -1)
    policy = torch.distributions.Normal(mean, spread.clamp(-5, 2).exp())
    raw = policy.rsample()
    return raw.tanh(), (policy.log_prob(raw) - torch.log(1 - raw.tanh().square() + 1e-6)).sum(-1, keepdim=True)


def least(critics: nn.ModuleList, states: Tensor, forces: Tensor) -> Tensor:
    both = torch.cat([states, forces], 1)
    return torch.minimum(critics[0](both), critics[1](both))


angle, turn = math.pi, 0.0
memory: list[tuple[list[float], float, float, list[float]]] = []
for step in range(STEPS + 64):
    seen = [math.cos(angle), math.sin(angle), turn]
    with torch.no_grad():
        force = float(drawn(torch.tensor([seen]))[0])
    reward = -(((angle + math.pi) % (2 * math.pi) - math.pi) ** 2) - 0.1 * turn**2 - 0.004 * force**2
    turn = max(-8.0, min(8.0, turn + 0.05 * (15 * math.sin(angle) + 6 * force)))
    angle += 0.05 * turn
    memory.append((seen, force, reward, [math.cos(angle), math.sin(angle), turn]))
    if step % 200 == 199:
        angle, turn = random.uniform(-math.pi, math.pi), 0.0
    if len(memory) < 64:
        continue
    states, forces, rewards, following = (torch.tensor(x) for x in zip(*random.sample(memory, 64), strict=True))
    with torch.no_grad():
        chosen, odds = drawn(following)
        target = rewards[:, None] + 0.99 * (least(old, following, chosen) - temperature.exp() * odds)
    both = torch.cat([states, forces[:, None]], 1)
    loss = sum(nn.functional.mse_loss(critic(both), target) for critic in critics)
    of_critics.zero_grad()
    loss.backward()
    of_critics.step()
    chosen, odds = drawn(states)
    loss = (temperature.exp().detach() * odds - least(critics, states, chosen)).mean()
    of_actor.zero_grad()
    loss.backward()
    of_actor.step()
    loss = -(temperature * (odds.detach() - 1)).mean()
    of_temperature.zero_grad()
    loss.backward()
    of_temperature.step()
    with torch.no_grad():
        for one, other in zip(old.parameters(), critics.parameters(), strict=True):
            one.lerp_(other, 0.005)
