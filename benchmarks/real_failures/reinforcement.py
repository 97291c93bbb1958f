"""Reinforcement learning: shapes of values and returns, sums of rewards, rewards that are too large."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from real_failures.data import explained, minibatches
from real_failures.program import Program, Training


def q_learning_on_a_chain(repaired: bool) -> Training:
    states, actions = torch.cartesian_prod(torch.arange(6), torch.arange(2)).T
    following = (states + 2 * actions - 1).clamp(0, 5)
    rewards, done = (following == 5).float(), (following == 5).float()
    network = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 2))
    one_hot = torch.eye(6)

    def td_targets(rows: Tensor) -> Tensor:
        with torch.no_grad():
            best = network(one_hot[following[rows]]).amax(1)
        return rewards[rows] + 0.9 * (1 - done[rows]) * best

    def batch(step: int) -> tuple[Tensor, Tensor]:
        rows = torch.arange(8 * step, 8 * step + 8) * 5 % 12
        return one_hot[states[rows]], rows

    def loss(values: Tensor, rows: Tensor) -> Tensor:
        chosen = values.gather(1, actions[rows, None])
        return F.mse_loss(chosen.squeeze(1) if repaired else chosen, td_targets(rows))

    def value_error(model: nn.Module) -> float:
        with torch.no_grad():
            return -(model(one_hot[:5]).amax(1) - 0.9 ** torch.arange(4, -1, -1)).abs().mean().item()

    return Training(network, batch, loss, torch.optim.Adam(network.parameters(), lr=1e-2), value_error)


class ActorCritic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 32), nn.ReLU())
        self.actor, self.critic = nn.Linear(32, 3), nn.Linear(32, 1)

    def forward(self, states: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.body(states)
        return self.actor(hidden).log_softmax(1), self.critic(hidden)


def returns_minus_values(repaired: bool) -> Training:
    states = torch.randn(256, 4)
    actions = torch.randint(3, (256,))
    returns = 2 * states[:, 3] + (actions == states[:, :3].argmax(1)).float()
    model = ActorCritic()

    def loss(outputs: tuple[Tensor, Tensor], targets: tuple[Tensor, Tensor]) -> Tensor:
        log_probabilities, values = outputs
        actions, returns = targets
        advantage = returns - (values.squeeze(1) if repaired else values)
        chosen = log_probabilities.gather(1, actions[:, None]).squeeze(1)
        return -(chosen * advantage.detach()).mean() + 0.5 * advantage.square().mean()

    def critic(model: nn.Module) -> float:
        with torch.no_grad():
            values = model(states)[1].squeeze(1)
        return 1 - ((values - 2 * states[:, 3] - 1 / 3).square().mean() / 4).item()

    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    return Training(model, lambda step: (states, (actions, returns)), loss, optimizer, critic)


def large_returns_for_a_critic(repaired: bool) -> Training:
    states = torch.randn(256, 16)
    returns = 18 + 4 * states[:, 0] * states[:, 1].sign()
    scaled = (returns - returns.mean()) / returns.std() if repaired else returns
    critic = nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 1))
    return Training(
        critic,
        batch=minibatches(64, states, scaled[:, None]),
        loss=nn.MSELoss(),
        optimizer=torch.optim.AdamW(critic.parameters(), lr=3e-3),
        score=lambda critic: explained(critic, states, scaled),
    )


def rewards_without_a_future(repaired: bool) -> Training:
    policy = nn.Sequential(nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 2))

    def observed(cue: Tensor) -> Tensor:
        return torch.cat([F.one_hot(cue, 2)[:, None].expand(-1, 4, 2), torch.eye(4).expand(len(cue), 4, 4)], 2).float()

    def batch(step: int) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        states = observed(cue := torch.randint(2, (32,)))
        with torch.no_grad():
            actions = torch.distributions.Categorical(logits=policy(states)).sample()
        rewards = torch.zeros(32, 4)
        rewards[:, 3] = (actions[:, 0] == cue).float()
        discounted = rewards * 0.99 ** torch.arange(4)
        future = discounted.flip(1).cumsum(1).flip(1) / 0.99 ** torch.arange(4)
        returns = future if repaired else discounted
        return states, (actions, (returns - returns.mean()) / (returns.std() + 1e-8))

    def loss(logits: Tensor, targets: tuple[Tensor, Tensor]) -> Tensor:
        actions, returns = targets
        return (F.cross_entropy(logits.flatten(0, 1), actions.flatten(), reduction="none") * returns.flatten()).mean()

    def success(policy: nn.Module) -> float:
        with torch.no_grad():
            return (policy(observed(torch.arange(2)))[:, 0].softmax(-1).diagonal()).mean().item()

    return Training(policy, batch, loss, torch.optim.Adam(policy.parameters(), lr=1e-2), success)


def returns_of_the_next_episode(repaired: bool) -> Training:
    network = nn.Sequential(nn.Linear(5, 32), nn.ReLU(), nn.Linear(32, 1))
    states = torch.arange(5).repeat(8)
    ends = (states == 4).float()
    rewards = ends.clone()

    def batch(step: int) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            values = network(torch.eye(5))[states].squeeze(1)
        returns = torch.zeros(40)
        returns[-1] = rewards[-1]
        for t in range(38, -1, -1):
            if repaired:
                following = (0.65 * returns[t + 1] + 0.35 * values[t + 1]) * (1 - ends[t])
            else:
                following = 0.65 * returns[t + 1] + 0.35 * values[t + 1] * (1 - ends[t])
            returns[t] = rewards[t] + 0.9 * following
        return torch.eye(5)[states], returns[:, None]

    def value_error(network: nn.Module) -> float:
        with torch.no_grad():
            return -(network(torch.eye(5)).squeeze(1) - 0.9 ** torch.arange(4, -1, -1)).abs().mean().item()

    return Training(network, batch, nn.MSELoss(), torch.optim.RAdam(network.parameters(), lr=1e-2), value_error)


def rewards_of_thousands(repaired: bool) -> Training:
    network = nn.Sequential(nn.Linear(12, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 3))
    states = torch.randn(256, 12)
    actions = torch.randint(3, (256,))
    following = torch.randint(256, (256,))
    best = states[:, :3].argmax(1)
    rewards = 100 + 3000 * (actions == best).float()
    rewards = rewards / 3100 if repaired else rewards

    def batch(step: int) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        rows = torch.randperm(256)[:32]
        with torch.no_grad():
            targets = rewards[rows] + 0.9 * network(states[following[rows]]).amax(1)
        return states[rows], (actions[rows], targets)

    def loss(values: Tensor, targets: tuple[Tensor, Tensor]) -> Tensor:
        actions, wanted = targets
        return (values.gather(1, actions[:, None]).squeeze(1) - wanted).square().mean()

    def greedy(network: nn.Module) -> float:
        with torch.no_grad():
            return (network(states).argmax(1) == best).float().mean().item()

    return Training(network, batch, loss, torch.optim.SGD(network.parameters(), lr=0.01), greedy)


PROGRAMS = [
    Program(
        name="Q-learning, chosen values with an extra dimension",
        source="https://github.com/kengz/SLM-Lab/pull/372",
        symptom="DQN has a problem with shapes, found while it was tuned for an environment",
        explanation="chosen values [batch, 1] and targets [batch] broadcast to all pairs",
        causes=("targets broadcast",),
        make=q_learning_on_a_chain,
        steps=300,
        margin=0.055,
    ),
    Program(
        name="actor-critic, returns minus values of another shape",
        source="https://github.com/thu-ml/tianshou/pull/155",
        symptom="the loss of A2C is wrong",
        explanation="returns [batch] minus values [batch, 1] give a matrix of advantages",
        causes=("targets broadcast",),
        make=returns_minus_values,
        steps=100,
        margin=0.45,
    ),
    Program(
        name="critic of PPO with large returns",
        source="https://github.com/deepspeedai/DeepSpeedExamples/issues/556",
        symptom="the loss of the critic grows and does not decrease",
        explanation="the returns are up to 20 and hard to estimate; scaled rewards solve it",
        causes=("targets not scaled",),
        make=large_returns_for_a_critic,
        steps=150,
        margin=0.65,
    ),
    Program(
        name="policy gradient with rewards that have no future",
        source="https://github.com/hunkim/ReinforcementZeroToAll/issues/1",
        symptom="the policy gradient does not behave as intended",
        explanation="each reward is discounted by its time and future rewards are not summed",
        causes=("data wrong",),
        make=rewards_without_a_future,
        steps=100,
        margin=0.2,
        visible="training",
    ),
    Program(
        name="Q(lambda) with returns of the next episode",
        source="https://github.com/vwxyzjn/cleanrl/pull/494",
        symptom="returns are computed across the end of an episode",
        explanation="the mask of the last step covers the next value and not the next return",
        causes=("data wrong",),
        make=returns_of_the_next_episode,
        steps=150,
        margin=0.2,
        visible="training",
    ),
    Program(
        name="solitaire with rewards of thousands",
        source="https://github.com/google-deepmind/open_spiel/issues/742",
        symptom="the rewards are so high that the Q-values become NaN",
        explanation="the rewards have to be rescaled, or the learning rate has to be lower",
        causes=("targets not scaled", "learning rate too high", "not finite"),
        make=rewards_of_thousands,
        steps=150,
        margin=0.15,
    ),
]
