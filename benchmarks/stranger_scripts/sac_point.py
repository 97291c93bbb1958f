import random

import numpy as np
import torch
import torch.nn as nn

random.seed(2)
np.random.seed(2)
torch.manual_seed(2)


class TrackEnv:
    """Point mass in the plane: steer it to the origin with bounded velocity commands."""

    def reset(self):
        self.p = np.random.uniform(-1, 1, size=2)
        self.t = 0
        return self.p.astype(np.float32)

    def step(self, a):
        self.p = np.clip(self.p + 0.3 * a, -2, 2)
        self.t += 1
        reward = -float(np.sqrt((self.p ** 2).sum()))
        return self.p.astype(np.float32), reward, self.t >= 20


class Actor(nn.Module):
    def __init__(self, obs, act):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(obs, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU())
        self.mu, self.log_std = nn.Linear(32, act), nn.Linear(32, act)

    def forward(self, s):
        h = self.body(s)
        return self.mu(h), self.log_std(h).clamp(-5, 1)

    def sample(self, s):
        mu, log_std = self(s)
        dist = torch.distributions.Normal(mu, log_std.exp())
        u = dist.rsample()
        a = torch.tanh(u)
        logp = dist.log_prob(u) - torch.log(1 - a.pow(2) + 1e-6)
        return a, logp.sum(-1)


class Critic(nn.Module):
    def __init__(self, obs, act):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(obs + act, 48), nn.ReLU(), nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, 1))

    def forward(self, s, a):
        return self.net(torch.cat([s, a], -1)).squeeze(-1)


OBS, ACT, GAMMA, TAU = 2, 2, 0.9, 0.02
env = TrackEnv()
actor = Actor(OBS, ACT)
q1, q2, t1, t2 = (Critic(OBS, ACT) for _ in range(4))
t1.load_state_dict(q1.state_dict())
t2.load_state_dict(q2.state_dict())
log_alpha = torch.zeros(1, requires_grad=True)
target_entropy = float(ACT)
opt_actor = torch.optim.Adam(actor.parameters(), lr=3e-3)
opt_critic = torch.optim.Adam([*q1.parameters(), *q2.parameters()], lr=3e-3)
opt_alpha = torch.optim.Adam([log_alpha], lr=1e-2)

buffer, history = [], []
for episode in range(40):
    s, done, total = env.reset(), False, 0.0
    while not done:
        with torch.no_grad():
            a = actor.sample(torch.as_tensor(s))[0].numpy()
        s2, r, done = env.step(a)
        buffer.append((s, a, r, s2))
        s, total = s2, total + r
        if len(buffer) < 100:
            continue
        bs, ba, br, bs2 = (torch.as_tensor(np.array(v), dtype=torch.float32)
                           for v in zip(*random.sample(buffer, 64)))
        alpha = log_alpha.exp().detach()
        with torch.no_grad():
            a2, logp2 = actor.sample(bs2)
            y = br + GAMMA * (torch.min(t1(bs2, a2), t2(bs2, a2)) - alpha * logp2)
        critic_loss = (q1(bs, ba) - y).pow(2).mean() + (q2(bs, ba) - y).pow(2).mean()
        opt_critic.zero_grad()
        critic_loss.backward()
        opt_critic.step()

        new_a, logp = actor.sample(bs)
        actor_loss = (alpha * logp - torch.min(q1(bs, new_a), q2(bs, new_a))).mean()
        opt_actor.zero_grad()
        actor_loss.backward()
        opt_actor.step()

        alpha_loss = -(log_alpha.exp() * (logp + target_entropy).detach()).mean()
        opt_alpha.zero_grad()
        alpha_loss.backward()
        opt_alpha.step()

        with torch.no_grad():
            for net, tgt in ((q1, t1), (q2, t2)):
                for p, tp in zip(net.parameters(), tgt.parameters()):
                    tp.lerp_(p, TAU)
    history.append(total)
    if (episode + 1) % 8 == 0:
        print(f"episode {episode + 1} return {np.mean(history[-8:]):.2f} "
              f"critic loss {critic_loss.item():.4f} alpha {log_alpha.exp().item():.3f}")

print(f"mean return of the last 10 episodes: {np.mean(history[-10:]):.2f}")
