"""An actor and a critic balance a pole, with an update for each episode: python actor_critic.py [STEPS]."""

import math
import sys

import torch
from torch import nn

STEPS = int(sys.argv[1]) if len(sys.argv) > 1 else 20000
torch.manual_seed(0)
body = nn.Sequential(nn.Linear(4, 64), nn.ReLU())
actor, critic = nn.Linear(64, 2), nn.Linear(64, 1)
model = nn.ModuleDict({"body": body, "actor": actor, "critic": critic})
optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)


def pole(state: list[float], action: int) -> tuple[list[float], bool]:
    x, v, angle, turn = state
    force, sine, cosine = (20.0 * action - 10.0), math.sin(angle), math.cos(angle)
    pull = (force + 0.05 * turn**2 * sine) / 1.1
    angular = (9.8 * sine - cosine * pull) / (0.5 * (4 / 3 - 0.1 * cosine**2 / 1.1))
    v, turn = v + 0.02 * (pull - 0.05 * angular * cosine / 1.1), turn + 0.02 * angular
    x, angle = x + 0.02 * v, angle + 0.02 * turn
    return [x, v, angle, turn], abs(x) > 2.4 or abs(angle) > 0.21


taken = 0
while taken < STEPS:
    state, odds, values = [0.05 * float(n) for n in torch.randn(4)], [], []
    for _ in range(100):
        hidden = body(torch.tensor(state))
        policy = torch.distributions.Categorical(logits=actor(hidden))
        action = policy.sample()
        odds.append(policy.log_prob(action))
        values.append(critic(hidden))
        state, fell = pole(state, int(action))
        taken += 1
        if fell:
            break
    returns = torch.tensor([1 - 0.99 ** (len(odds) - i) for i in range(len(odds))])  # over their largest
    value = torch.cat(values)
    loss = -(torch.stack(odds) * (returns - value.detach())).sum() + nn.functional.smooth_l1_loss(value, returns)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
