"""DDPG on a pendulum, an update after each step: python ddpg.py [STEPS]."""

import copy
import math
import random
import sys

import torch
from torch import nn

STEPS = int(sys.argv[1]) if len(sys.argv) > 1 else 4000
torch.manual_seed(0)
random.seed(0)


def mlp(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, outputs))


actor, critic = nn.Sequential(mlp(3, 1), nn.Tanh()), mlp(4, 1)
old_actor, old_critic = copy.deepcopy(actor), copy.deepcopy(critic)
of_actor = torch.optim.Adam(actor.parameters(), lr=1e-3)
of_critic = torch.optim.Adam(critic.parameters(), lr=1e-3)
angle, turn = math.pi, 0.0
memory: list[tuple[list[float], float, float, list[float]]] = []
for step in range(STEPS + 64):
    seen = [math.cos(angle), math.sin(angle), turn]
    with torch.no_grad():
        force = max(-1.0, min(1.0, float(actor(torch.tensor(seen))) + 0.2 * random.gauss(0, 1)))
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
        target = rewards[:, None] + 0.99 * old_critic(torch.cat([following, old_actor(following)], 1))
    loss = nn.functional.mse_loss(critic(torch.cat([states, forces[:, None]], 1)), target)
    of_critic.zero_grad()
    loss.backward()
    of_critic.step()
    loss = -critic(torch.cat([states, actor(states)], 1)).mean()
    of_actor.zero_grad()
    loss.backward()
    of_actor.step()
    with torch.no_grad():
        for old, new in ((old_actor, actor), (old_critic, critic)):
            for one, other in zip(old.parameters(), new.parameters(), strict=True):
                one.lerp_(other, 0.005)
