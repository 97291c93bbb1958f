import random
from collections import deque

import numpy as np
import torch
import torch.nn as nn

random.seed(0)
np.random.seed(0)
torch.manual_seed(0)


class RoverEnv:
    """A rover on a line has to stop near the goal; pushes accelerate it left or right."""

    def __init__(self):
        self.state = np.zeros(3, dtype=np.float32)
        self.t = 0

    def reset(self):
        self.state[0] = np.random.uniform(-1, 1)
        self.state[1] = 0.0
        self.state[2] = np.random.uniform(-1, 1)
        self.t = 0
        return self.state

    def step(self, action):
        push = (-0.1, 0.0, 0.1)[action]
        self.state[1] = 0.8 * self.state[1] + push
        self.state[0] = np.clip(self.state[0] + self.state[1], -2, 2)
        self.t += 1
        reward = 1.0 - abs(self.state[0] - self.state[2])
        return self.state, float(reward), self.t >= 40


class QNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 3))

    def forward(self, x):
        return self.net(x)


class ReplayBuffer:
    def __init__(self, capacity=10000):
        self.memory = deque(maxlen=capacity)

    def push(self, s, a, r, s2, done):
        self.memory.append((s, a, r, s2, float(done)))

    def sample(self, n):
        s, a, r, s2, d = zip(*random.sample(self.memory, n))
        return (torch.as_tensor(np.array(s)), torch.tensor(a), torch.tensor(r, dtype=torch.float32),
                torch.as_tensor(np.array(s2)), torch.tensor(d))


env = RoverEnv()
q, target_q = QNet(), QNet()
target_q.load_state_dict(q.state_dict())
optimizer = torch.optim.Adam(q.parameters(), lr=1e-3)
buffer = ReplayBuffer()
GAMMA, steps = 0.9, 0
returns = []

for episode in range(70):
    s = env.reset()
    total, done = 0.0, False
    eps = max(0.05, 1.0 - episode / 40)
    while not done:
        if random.random() < eps:
            a = random.randrange(3)
        else:
            with torch.no_grad():
                a = q(torch.as_tensor(s)).argmax().item()
        s2, r, done = env.step(a)
        buffer.push(s, a, r, s2, done)
        s = s2
        total += r
        steps += 1
        if len(buffer.memory) >= 200:
            bs, ba, br, bs2, bd = buffer.sample(64)
            with torch.no_grad():
                y = br + GAMMA * target_q(bs2).max(1).values
            loss = nn.functional.smooth_l1_loss(q(bs).gather(1, ba[:, None]).squeeze(1), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if steps % 100 == 0:
            target_q.load_state_dict(q.state_dict())
    returns.append(total)
    if (episode + 1) % 14 == 0:
        print(f"episode {episode + 1} return {np.mean(returns[-14:]):.2f} loss {loss.item():.4f}")

scores = []
for _ in range(30):
    s, done, total = env.reset(), False, 0.0
    while not done:
        with torch.no_grad():
            a = q(torch.as_tensor(s)).argmax().item()
        s, r, done = env.step(a)
        total += r
    scores.append(total)
print(f"greedy evaluation return: {np.mean(scores):.2f}")
