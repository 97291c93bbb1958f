"""Mistakes in trainings outside vision and language: agents, forecasts, tables, graphs, physics, survival and others.

Each program is written in our own words and code, small, on synthetic data; the source is where somebody made the
mistake, or asked about it. Where there is no source, the mistake is one that practitioners know.
"""

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modern_failures_strangers.program import Healthy, Program
from real_failures.program import Training


def keyword_step(training: Training, inputs: dict, targets: object) -> None:
    """The usual step of a trainer whose batches are dictionaries."""
    training.optimizer.zero_grad()
    training.loss(training.model(**inputs), targets).backward()
    training.optimizer.step()


def mlp(*sizes: int, activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """Linear layers with an activation between them."""
    layers = []
    for before, after in itertools.pairwise(sizes):
        layers += [nn.Linear(before, after), activation()]
    return nn.Sequential(*layers[:-1])


@torch.no_grad()
def negative_mse(model: nn.Module, inputs: Tensor, targets: Tensor) -> float:
    """Negative mean squared error in evaluation mode."""
    model.eval()
    return -F.mse_loss(model(inputs), targets).item()


class GaussianActorCritic(nn.Module):
    """A policy with a normal distribution over continuous actions, and a critic."""

    def __init__(self, through_numpy: bool) -> None:
        """Whether the mean goes through an array before the distribution is built."""
        super().__init__()
        self.through_numpy = through_numpy
        self.actor = mlp(4, 32, 2, activation=nn.Tanh)
        self.critic = mlp(4, 32, 1, activation=nn.Tanh)
        self.log_std = nn.Parameter(torch.full((2,), -0.5))

    def forward(self, states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Sampled actions, their log probabilities and the values of the states."""
        mean = self.actor(states)
        if self.through_numpy:
            mean = torch.as_tensor(mean.detach().numpy())
        policy = torch.distributions.Normal(mean, self.log_std.exp())
        actions = policy.sample()
        return actions, policy.log_prob(actions).sum(-1), self.critic(states).squeeze(-1)


def actor_through_numpy(repaired: bool) -> Training:
    """Actor-critic that has to point an arm at a place which its state tells."""
    rotate = torch.tensor([[0.8, -0.6, 0.3, 0.0], [0.6, 0.8, 0.0, -0.3]])
    model = GaussianActorCritic(through_numpy=not repaired)
    held_out = torch.randn(256, 4)

    def batch(_: int) -> tuple[Tensor, Tensor]:
        states = torch.randn(128, 4)
        return states, states @ rotate.T

    def loss(outputs: tuple[Tensor, Tensor, Tensor], places: Tensor) -> Tensor:
        actions, log_probs, values = outputs
        rewards = -(actions - places).square().sum(-1)
        advantages = rewards - values.detach()
        return -(log_probs * advantages).mean() + 0.5 * F.mse_loss(values, rewards)

    def score(model: nn.Module) -> float:
        return negative_mse(model.actor, held_out, held_out @ rotate.T)

    return Training(model, batch, loss, torch.optim.Adam(model.parameters(), lr=5e-3), score)


def cart_step(states: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
    """A cart pushed left or right, with friction; the reward is larger the nearer it is to the origin."""
    position, speed = states.unbind(-1)
    speed = 0.7 * speed + 0.3 * (2.0 * actions - 1.0)
    position = (position + speed).clamp(-3, 3)
    return torch.stack([position, speed], dim=-1), 1.0 - position.abs()


def ppo_advantages_over_one_episode(repaired: bool) -> Training:
    """Proximal policy optimisation with one environment: tensors of one episode by its steps."""
    model = mlp(2, 32, 3, activation=nn.Tanh)  # logits of two actions, and a value
    rollout: dict[str, Tensor] = {}
    starts = torch.randn(128, 2)

    @torch.no_grad()
    def collect() -> None:
        state, states, actions, rewards = torch.randn(1, 2), [], [], []
        for _ in range(32):
            states.append(state)
            actions.append(torch.distributions.Categorical(logits=model(state)[:, :2]).sample())
            state, reward = cart_step(state, actions[-1])
            rewards.append(reward)
        for number in reversed(range(31)):
            rewards[number] = rewards[number] + 0.9 * rewards[number + 1]
        rollout.update(states=torch.stack(states, 1), actions=torch.stack(actions, 1), returns=torch.stack(rewards, 1))
        outputs = model(rollout["states"])
        rollout["old"] = torch.distributions.Categorical(logits=outputs[..., :2]).log_prob(rollout["actions"])
        advantages = rollout["returns"] - outputs[..., 2]
        axes = (0, 1) if repaired else 0
        centred = advantages - advantages.mean(axes, keepdim=True)
        rollout["advantages"] = centred / (advantages.std(axes, keepdim=True, unbiased=False) + 1e-8)

    def batch(number: int) -> tuple[Tensor, dict[str, Tensor]]:
        if number % 4 == 0 or not rollout:
            collect()
        return rollout["states"], dict(rollout)

    def loss(outputs: Tensor, targets: dict[str, Tensor]) -> Tensor:
        policy = torch.distributions.Categorical(logits=outputs[..., :2])
        ratio = (policy.log_prob(targets["actions"]) - targets["old"]).exp()
        surrogate = torch.min(ratio * targets["advantages"], ratio.clamp(0.8, 1.2) * targets["advantages"]).mean()
        return -surrogate + 0.05 * F.mse_loss(outputs[..., 2], targets["returns"]) - 0.01 * policy.entropy().mean()

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        states, total = starts, 0.0
        for _ in range(16):
            states, rewards = cart_step(states, model(states)[:, :2].argmax(-1))
            total += rewards.mean().item() / 16
        return total

    return Training(model, batch, loss, torch.optim.Adam(model.parameters(), lr=1e-2), score)


def balance_step(states: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
    """A stick that falls by itself unless it is pushed back; also which sticks have fallen."""
    angle, speed = states.unbind(-1)
    speed = speed + 0.15 * angle + 0.1 * (2.0 * actions - 1.0)
    angle = angle + speed
    return torch.stack([angle, speed], dim=-1), angle.abs() > 1.0


def dqn_bootstraps_after_the_end(repaired: bool) -> Training:
    """Deep Q-learning of a balance; the environment starts again by itself when the stick has fallen."""
    model, target_model = mlp(2, 64, 64, 2), mlp(2, 64, 64, 2)
    target_model.load_state_dict(model.state_dict())
    states = torch.rand(4000, 2) * torch.tensor([2.0, 0.8]) - torch.tensor([1.0, 0.4])
    actions = torch.randint(0, 2, (4000,))
    next_states, done = balance_step(states, actions)
    next_states = torch.where(done[:, None], 0.05 * torch.randn(4000, 2), next_states)
    rewards = torch.ones(4000)

    def batch(number: int) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        if number % 10 == 0:
            target_model.load_state_dict(model.state_dict())
        chosen = torch.randint(0, 4000, (128,))
        with torch.no_grad():
            following = target_model(next_states[chosen]).max(-1).values
        if repaired:
            following = following * (1.0 - done[chosen].float())
        return states[chosen], (actions[chosen], rewards[chosen] + 0.9 * following)

    def loss(outputs: Tensor, targets: tuple[Tensor, Tensor]) -> Tensor:
        return F.smooth_l1_loss(outputs.gather(1, targets[0][:, None]).squeeze(1), targets[1])

    starts = 0.1 * torch.randn(128, 2)

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        states, alive, survived = starts, torch.ones(128, dtype=torch.bool), torch.zeros(128)
        for _ in range(40):
            states, fallen = balance_step(states, model(states).argmax(-1))
            alive &= ~fallen
            survived += alive
        return survived.mean().item() / 40

    return Training(model, batch, loss, torch.optim.Adam(model.parameters(), lr=3e-3), score)


class TemporalConvolutions(nn.Module):
    """Dilated convolutions over time with residual connections: the next value after each position."""

    def __init__(self, causal: bool, channels: int = 16, kernel: int = 3) -> None:
        """Whether all the padding is on the left."""
        super().__init__()
        self.causal, self.kernel = causal, kernel
        self.inlet = nn.Conv1d(1, channels, 1)
        self.blocks = nn.ModuleList([nn.Conv1d(channels, channels, kernel, dilation=2**depth) for depth in range(3)])
        self.outlet = nn.Conv1d(channels, 1, 1)

    def forward(self, series: Tensor) -> Tensor:
        """Predictions of shape (batch, time)."""
        hidden = self.inlet(series[:, None])
        for block in self.blocks:
            reach = (self.kernel - 1) * block.dilation[0]
            padding = (reach, 0) if self.causal else (reach // 2, reach // 2)
            hidden = hidden + F.relu(block(F.pad(hidden, padding)))
        return self.outlet(hidden)[:, 0]


def waves(count: int, length: int) -> Tensor:
    """Sums of two oscillations, with a little noise."""
    time = torch.arange(length)
    slow, fast = 0.15 + 0.1 * torch.rand(count, 1), 0.5 + 0.3 * torch.rand(count, 1)
    phase = 2 * math.pi * torch.rand(2, count, 1)
    noise = 0.02 * torch.randn(count, length)
    return torch.sin(slow * time + phase[0]) + 0.5 * torch.sin(fast * time + phase[1]) + noise


def tcn_sees_the_future(repaired: bool) -> Training:
    """A forecaster that learns the next value at every position, and then forecasts beyond the end."""
    model = TemporalConvolutions(causal=repaired)
    data, held_out = waves(512, 41), waves(128, 48)

    def batch(_: int) -> tuple[Tensor, Tensor]:
        chosen = data[torch.randint(0, 512, (32,))]
        return chosen[:, :-1], chosen[:, 1:]

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        series = held_out[:, :40]
        for _ in range(8):
            series = torch.cat([series, model(series)[:, -1:]], dim=1)
        return -F.mse_loss(series[:, 40:], held_out[:, 40:]).item()

    return Training(model, batch, nn.MSELoss(), torch.optim.AdamW(model.parameters(), lr=1e-2), score)


class TableTransformer(nn.Module):
    """A token for each column of categories from one shared table of embeddings, an encoder, and a head."""

    def __init__(self, cardinalities: list[int], shift: bool, width: int = 16) -> None:
        """Whether the categories of a column are moved behind those of the columns before it."""
        super().__init__()
        starts = torch.tensor([0, *cardinalities[:-1]]).cumsum(0)
        self.register_buffer("offsets", starts if shift else torch.zeros_like(starts))
        self.embedding = nn.Embedding(sum(cardinalities), width)
        self.token = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.encoder = nn.TransformerEncoderLayer(width, 2, 32, dropout=0.0, batch_first=True, norm_first=True)
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 1))

    def forward(self, categories: Tensor) -> Tensor:
        """One number for each row."""
        tokens = self.embedding(categories + self.offsets)
        tokens = torch.cat([self.token.expand(len(tokens), -1, -1), tokens], dim=1)
        return self.head(self.encoder(tokens)[:, 0]).squeeze(-1)


def columns_share_embeddings(repaired: bool) -> Training:
    """Prices of goods from five columns of categories."""
    cardinalities = [5, 5, 6, 6, 4]
    effects = [torch.randn(cardinality) for cardinality in cardinalities]
    rows = torch.stack([torch.randint(0, cardinality, (2400,)) for cardinality in cardinalities], dim=1)
    prices = sum(effect[rows[:, column]] for column, effect in enumerate(effects)) + 0.1 * torch.randn(2400)
    prices = (prices - prices.mean()) / prices.std()
    model = TableTransformer(cardinalities, shift=repaired)

    def batch(_: int) -> tuple[Tensor, Tensor]:
        chosen = torch.randint(0, 2000, (64,))
        return rows[chosen], prices[chosen]

    def score(model: nn.Module) -> float:
        return negative_mse(model, rows[2000:], prices[2000:])

    return Training(model, batch, nn.MSELoss(), torch.optim.AdamW(model.parameters(), lr=5e-3), score)


class TwoTowers(nn.Module):
    """Users and items as vectors; their product says how well they fit."""

    def __init__(self, users: int, items: int, width: int = 16) -> None:
        """An embedding and a layer for each tower."""
        super().__init__()
        self.user = nn.Sequential(nn.Embedding(users, width), nn.Linear(width, width))
        self.item = nn.Sequential(nn.Embedding(items, width), nn.Linear(width, width))

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        """Logits of a click."""
        return (self.user(users) * self.item(items)).sum(-1)


def recommender_of_clicks_only(repaired: bool) -> Training:
    """A recommender from a log of clicks, which holds only what users liked."""
    tastes = torch.randn(60, 3) @ torch.randn(3, 80)
    liked = (tastes > tastes.quantile(0.8, dim=1, keepdim=True)).nonzero()
    liked = liked[torch.randperm(len(liked))]
    clicks, held_out = liked[:-200], liked[-200:]
    others = torch.randint(0, 80, (200,))
    model = TwoTowers(60, 80)

    def batch(_: int) -> tuple[dict[str, Tensor], Tensor]:
        chosen = clicks[torch.randint(0, len(clicks), (256,))]
        users, items, labels = chosen[:, 0], chosen[:, 1], torch.ones(256)
        if repaired:
            users, items = users.repeat(2), torch.cat([items, torch.randint(0, 80, (256,))])
            labels = torch.cat([labels, torch.zeros(256)])
        return {"users": users, "items": items}, labels

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        users = held_out[:, 0]
        return (model(users, held_out[:, 1]) > model(users, others)).float().mean().item()

    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    return Training(model, batch, nn.BCEWithLogitsLoss(), optimizer, score, step=keyword_step)


class GraphNetwork(nn.Module):
    """Two rounds of messages along the edges, and the mean over the nodes of each graph."""

    def __init__(self, features: int, width: int = 32) -> None:
        """Two layers for a node itself, two for its neighbours."""
        super().__init__()
        self.own = nn.ModuleList([nn.Linear(features, width), nn.Linear(width, width)])
        self.neighbours = nn.ModuleList([nn.Linear(features, width), nn.Linear(width, width)])
        self.head = nn.Linear(width, 2)

    def forward(self, x: Tensor, edge_index: Tensor, batch: Tensor) -> Tensor:
        """Logits of each graph."""
        source, target = edge_index
        for own, neighbours in zip(self.own, self.neighbours, strict=True):
            messages = torch.zeros_like(x).index_add(0, target, x[source])
            x = F.relu(own(x) + neighbours(messages))
        graphs = int(batch.max()) + 1
        pooled = torch.zeros(graphs, x.shape[1]).index_add(0, batch, x)
        return self.head(pooled / batch.bincount(minlength=graphs)[:, None])


def collate(graphs: list[tuple[Tensor, Tensor]], shift: bool) -> dict[str, Tensor]:
    """One large graph out of many; whether the edges of a graph are moved to its own nodes."""
    edges, batch, nodes = [], [], 0
    for number, (x, edge_index) in enumerate(graphs):
        edges.append(edge_index + nodes if shift else edge_index)
        batch.append(torch.full((len(x),), number))
        nodes += len(x)
    return {"x": torch.cat([x for x, _ in graphs]), "edge_index": torch.cat(edges, 1), "batch": torch.cat(batch)}


def edges_of_all_graphs_on_the_first(repaired: bool) -> Training:
    """Molecules of two kinds of atoms: do the bonds join equal or different atoms?"""
    graphs, labels = [], torch.randint(0, 2, (320,))
    for label in labels:
        kinds = torch.tensor([0, 1]).repeat(5)
        pairs = torch.randint(0, 10, (2, 60))
        joined = (kinds[pairs[0]] == kinds[pairs[1]]) == bool(label)
        pairs = pairs[:, joined | (torch.rand(60) < 0.3)][:, :16]
        graphs.append((F.one_hot(kinds, 2).float(), torch.cat([pairs, pairs.flip(0)], dim=1)))
    model = GraphNetwork(2)

    def batch(_: int) -> tuple[dict[str, Tensor], Tensor]:
        chosen = torch.randint(0, 240, (24,))
        return collate([graphs[number] for number in chosen], shift=repaired), labels[chosen]

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        outputs = model(**collate(graphs[240:], shift=repaired))
        return (outputs.argmax(-1) == labels[240:]).float().mean().item()

    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    return Training(model, batch, nn.CrossEntropyLoss(), optimizer, score, step=keyword_step)


def derivative(outputs: Tensor, inputs: Tensor) -> Tensor:
    """Derivative of each output by its input, itself differentiable."""
    return torch.autograd.grad(outputs, inputs, torch.ones_like(outputs), create_graph=True)[0]


def physics_with_relu(repaired: bool) -> Training:
    """A network for the bending of a bar: the second derivative is given, and the ends are fixed."""
    model = mlp(1, 32, 32, 1, activation=nn.Tanh if repaired else nn.ReLU)
    ends = torch.tensor([[0.0], [math.pi]])
    grid = torch.linspace(0, math.pi, 101)[:, None]

    def batch(_: int) -> tuple[Tensor, Tensor]:
        places = math.pi * torch.rand(64, 1)
        return places.requires_grad_(), -2 * torch.sin(places.detach())

    def step(training: Training, places: Tensor, load: Tensor) -> None:
        training.optimizer.zero_grad()
        bending = derivative(derivative(training.model(places), places), places)
        (training.loss(bending, load) + training.model(ends).square().mean()).backward()
        training.optimizer.step()

    def score(model: nn.Module) -> float:
        return negative_mse(model, grid, 2 * torch.sin(grid))

    return Training(model, batch, nn.MSELoss(), torch.optim.Adam(model.parameters(), lr=5e-3), score, step=step)


class Coupling(nn.Module):
    """An affine coupling layer: one half of the columns decides how the other is moved and scaled."""

    def __init__(self, width: int, swap: bool) -> None:
        """Which half is changed."""
        super().__init__()
        self.swap = swap
        self.net = mlp(width // 2, 32, width, activation=nn.Tanh)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The changed columns and the logarithm of the volume's change."""
        kept, changed = x.chunk(2, dim=-1)
        if self.swap:
            kept, changed = changed, kept
        scale, shift = self.net(kept).chunk(2, dim=-1)
        scale = torch.tanh(scale)
        changed = (changed - shift) * torch.exp(-scale)
        halves = [changed, kept] if self.swap else [kept, changed]
        return torch.cat(halves, dim=-1), -scale.sum(-1)


class Flow(nn.Module):
    """Coupling layers that carry the data to a standard normal distribution."""

    def __init__(self, width: int, depth: int, alternate: bool) -> None:
        """Whether every other layer changes the other half."""
        super().__init__()
        self.layers = nn.ModuleList([Coupling(width, swap=alternate and number % 2 == 1) for number in range(depth)])

    def forward(self, x: Tensor) -> Tensor:
        """Log likelihood of each row."""
        log_volume = torch.zeros(len(x))
        for layer in self.layers:
            x, change = layer(x)
            log_volume = log_volume + change
        return torch.distributions.Normal(0.0, 1.0).log_prob(x).sum(-1) + log_volume


def sensors(count: int) -> Tensor:
    """Four readings: two narrow ones away from zero, and two that follow from them."""
    first = torch.tensor([1.0, -0.5]) + 0.3 * torch.randn(count, 2)
    second = torch.stack([first[:, 0].square(), first.prod(-1)], dim=-1) + 0.1 * torch.randn(count, 2)
    return torch.cat([first, second], dim=-1)


def flow_never_changes_one_half(repaired: bool) -> Training:
    """Density of the readings of four sensors, with a flow of six coupling layers."""
    model = Flow(4, 6, alternate=repaired)
    data, held_out = sensors(2000), sensors(500)

    def batch(_: int) -> tuple[Tensor, None]:
        return data[torch.randint(0, 2000, (128,))], None

    def loss(log_likelihood: Tensor, _: None) -> Tensor:
        return -log_likelihood.mean()

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        return model(held_out).mean().item()

    return Training(model, batch, loss, torch.optim.Adam(model.parameters(), lr=3e-3), score)


class TwoTasks(nn.Module):
    """A shared body, a head for each task, and how uncertain each task is."""

    def __init__(self) -> None:
        """Two regressions from eight features."""
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU())
        self.heads = nn.ModuleList([nn.Linear(64, 1), nn.Linear(64, 1)])
        self.log_variances = nn.Parameter(torch.zeros(2))

    def forward(self, x: Tensor) -> Tensor:
        """A column for each task."""
        hidden = self.body(x)
        return torch.cat([head(hidden) for head in self.heads], dim=-1)


def task_weights_without_their_price(repaired: bool) -> Training:
    """Delay in minutes and occupancy of a train, with learned weights of the two losses."""
    model = TwoTasks()
    x, mix = torch.randn(1500, 8), torch.randn(8, 2) / 8**0.5
    y = torch.stack([6.0 * torch.sin(x @ mix[:, 0]), (x @ mix[:, 1]).abs()], dim=-1)
    y = y + torch.tensor([1.0, 0.3]) * torch.randn(1500, 2)

    def batch(_: int) -> tuple[Tensor, Tensor]:
        chosen = torch.randint(0, 1200, (64,))
        return x[chosen], y[chosen]

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        losses = (outputs - targets).square().mean(0)
        weighted = torch.exp(-model.log_variances) * losses
        if repaired:
            weighted = weighted + model.log_variances
        return weighted.sum()

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        errors = (model(x[1200:]) - y[1200:]).square().mean(0)
        return (1.0 - errors / y[1200:].var(0)).mean().item()

    return Training(model, batch, loss, torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9), score)


def concordance(risk: Tensor, times: Tensor, events: Tensor) -> float:
    """Share of comparable pairs in which the one with the higher risk died first."""
    comparable = (times[:, None] < times[None]) & events[:, None]
    return (risk[:, None] > risk[None])[comparable].float().mean().item()


def survival_not_sorted(repaired: bool) -> Training:
    """Survival times with a network for the risk and the partial likelihood of Cox."""
    x = torch.randn(1500, 6)
    hazard = torch.exp(x[:, 0] - x[:, 1] + 0.8 * x[:, 2] * x[:, 3])
    events = torch.rand(1500) < 0.8
    times = -torch.rand(1500).log() / hazard
    times = torch.where(events, times, times * torch.rand(1500))
    model = mlp(6, 32, 32, 1)

    def batch(_: int) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        chosen = torch.randint(0, 1000, (128,))
        return x[chosen], (times[chosen], events[chosen])

    def loss(outputs: Tensor, targets: tuple[Tensor, Tensor]) -> Tensor:
        risk, (lasted, died) = outputs.squeeze(-1), targets
        if repaired:
            order = lasted.argsort(descending=True)
            risk, died = risk[order], died[order]
        return -(risk - risk.logcumsumexp(0))[died].mean()

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        return concordance(model(x[1000:]).squeeze(-1), times[1000:], events[1000:])

    return Training(model, batch, loss, torch.optim.Adam(model.parameters(), lr=3e-3), score)


class Blocks(nn.Module):
    """Stacked blocks of a forecaster: each explains a part of the window and adds to the forecast."""

    def __init__(self, window: int, horizon: int, depth: int = 2) -> None:
        """A window in, a horizon out."""
        super().__init__()
        self.window = window
        self.blocks = nn.ModuleList([mlp(window, 64, 64, window + horizon) for _ in range(depth)])

    def forward(self, window: Tensor) -> Tensor:
        """The forecast of the horizon."""
        forecast = 0.0
        for block in self.blocks:
            explained, part = block(window).tensor_split([self.window], dim=-1)
            window, forecast = window - explained, forecast + part
        return forecast


def clipped_before_unscaled(repaired: bool) -> Training:
    """A forecaster with mixed precision, a scaled loss and clipped gradients."""
    model = Blocks(24, 6)
    data, held_out = waves(1000, 30), waves(200, 30)
    scaler = torch.amp.GradScaler("cpu", init_scale=65536.0)

    def batch(_: int) -> tuple[Tensor, Tensor]:
        chosen = data[torch.randint(0, 1000, (64,))]
        return chosen[:, :24], chosen[:, 24:]

    def step(training: Training, inputs: Tensor, targets: Tensor) -> None:
        training.optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = training.loss(training.model(inputs), targets)
        scaler.scale(loss).backward()
        if repaired:
            scaler.unscale_(training.optimizer)
        nn.utils.clip_grad_norm_(training.model.parameters(), 1.0)
        scaler.step(training.optimizer)
        scaler.update()

    def score(model: nn.Module) -> float:
        return negative_mse(model, held_out[:, :24], held_out[:, 24:])

    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    return Training(model, batch, nn.MSELoss(), optimizer, score, step=step)


PROGRAMS = [
    Program(
        name="actor whose mean goes through numpy",
        source="https://discuss.pytorch.org/t/actor-critic-with-multivariate-normal-network-weights-fail-to-update/74548",
        symptom="The agent acts as at the beginning: the critic's weights change, and the actor's never do.",
        explanation="The mean of the policy is detached and turned into an array before the distribution is built, so "
        "the log probability no longer depends on the actor.",
        cause="output detached from its network before the loss",
        make=actor_through_numpy,
        steps=200,
        margin=0.5,
    ),
    Program(
        name="advantages normalised over one episode",
        source="https://github.com/tensorflow/agents/issues/651",
        symptom="With one environment the policy of a PPO agent does not learn, though its value function does.",
        explanation="The advantages are normalised along the axis of the environments, which has length one, so all "
        "of them become zero.",
        cause="normalised along an axis of length one",
        make=ppo_advantages_over_one_episode,
        steps=200,
        margin=0.3,
    ),
    Program(
        name="Q-learning that goes on after the end",
        source="https://github.com/navneet-nmk/pytorch-rl/issues/2",
        symptom="The loss of a DQN is small, but the agent lets the stick fall.",
        explanation="The target of the last step of an episode adds the value of the next state, which belongs to the "
        "next episode, because the flag of the end is not used; falling costs nothing.",
        cause="targets go on past the end of an episode",
        make=dqn_bootstraps_after_the_end,
        steps=300,
        margin=0.5,
    ),
    Program(
        name="convolutions over time that see the next value",
        source="https://github.com/maxim5/time-series-machine-learning/issues/12",
        symptom="The training error is close to zero, and the forecasts are useless.",
        explanation="The convolutions are padded on both sides, so each position sees the value it has to predict.",
        cause="inputs contain the targets",
        make=tcn_sees_the_future,
        steps=200,
        margin=0.15,
    ),
    Program(
        name="columns that share their embeddings",
        source="https://github.com/rixwew/pytorch-fm/issues/4",
        symptom="A network for a table of categories explains only a part of what a simple model explains.",
        explanation="All columns are looked up in one table of embeddings without an offset for each column, so the "
        "third category of one column is the same as the third of any other.",
        cause="different things get the same embedding",
        make=columns_share_embeddings,
        steps=200,
        margin=0.4,
    ),
    Program(
        name="recommender that sees only clicks",
        source="",
        symptom="The loss goes to zero within an epoch, and the recommendations are as good as chance.",
        explanation="The log holds only clicks, so all labels are one, and no negative pairs are drawn; known to "
        "everybody who trains on implicit feedback.",
        cause="only one class in the training data",
        make=recommender_of_clicks_only,
        steps=200,
        margin=0.15,
    ),
    Program(
        name="edges of a batch all on the first graph",
        source="https://github.com/pyg-team/pytorch_geometric/issues/594",
        symptom="A hand-written collation of graphs runs, and the network learns nothing from the bonds.",
        explanation="The indices of the edges are joined without adding the number of nodes before each graph, so all "
        "messages run between the nodes of the first graph.",
        cause="indices of a batch not shifted",
        make=edges_of_all_graphs_on_the_first,
        steps=100,
        margin=0.3,
    ),
    Program(
        name="physics-informed network with ReLU",
        source="",
        symptom="The loss of the equation stays where it was, and only the ends are learned.",
        explanation="The equation holds the second derivative, and that of a network with ReLU is zero everywhere; "
        "known from the first steps of most people with such networks.",
        cause="activation has no second derivative",
        make=physics_with_relu,
        steps=300,
        margin=1.0,
    ),
    Program(
        name="flow that never changes one half",
        source="",
        symptom="The likelihood of a flow stops early, whatever the number of its layers.",
        explanation="All coupling layers change the same half of the columns, so the other half leaves the flow as it "
        "came; known as the missing permutation or alternating mask of coupling flows.",
        cause="a part of the data never transformed",
        make=flow_never_changes_one_half,
        steps=200,
        margin=1.0,
    ),
    Program(
        name="task weights that escape to zero",
        source="https://github.com/ifzhang/FairMOT/issues/249",
        symptom="The total loss falls nicely, and the tasks are not learned.",
        explanation="The learned weights of the losses have no term that makes small weights costly (people wonder "
        "about it, because it makes the loss negative), so the loss falls by the weights alone.",
        cause="loss can be lowered without learning",
        make=task_weights_without_their_price,
        steps=200,
        margin=0.15,
    ),
    Program(
        name="risk sets of patients in no order",
        source="https://github.com/UK-Digital-Heart-Project/4Dsurvival/issues/2",
        symptom="The loss of a survival model does not fall, and its ranking of patients is as good as chance.",
        explanation="The cumulative sum of the partial likelihood needs patients in descending order of their times, "
        "and the batches are shuffled.",
        cause="data not in the order that the loss needs",
        make=survival_not_sorted,
        steps=200,
        margin=0.12,
    ),
    Program(
        name="gradients clipped before they are unscaled",
        source="https://github.com/Lightning-AI/pytorch-lightning/issues/9599",
        symptom="With mixed precision and clipping the learning curve is flat.",
        explanation="The gradients are clipped while they still carry the scale of the loss, so after the division by "
        "the scale almost nothing of them is left.",
        cause="gradients made far too small before the step",
        make=clipped_before_unscaled,
        steps=200,
        margin=0.4,
    ),
]


class Reservoir(nn.Module):
    """An echo state network: random recurrent weights that are never trained, and a linear readout."""

    def __init__(self, size: int = 100) -> None:
        """Recurrent weights with a spectral radius just below one."""
        super().__init__()
        recurrent = torch.randn(size, size)
        self.recurrent = nn.Parameter(0.9 * recurrent / torch.linalg.eigvals(recurrent).abs().max())
        self.inlet = nn.Parameter(torch.randn(1, size))
        self.recurrent.requires_grad_(False)
        self.inlet.requires_grad_(False)
        self.readout = nn.Linear(size, 1)

    def forward(self, series: Tensor) -> Tensor:
        """The value after the end of each series."""
        state = torch.zeros(len(series), len(self.recurrent))
        for value in series.unbind(1):
            state = torch.tanh(value[:, None] @ self.inlet + state @ self.recurrent)
        return self.readout(state).squeeze(-1)


def frozen_reservoir() -> Training:
    """Forecasts of the next value with an echo state network."""
    model = Reservoir()
    data, held_out = waves(1000, 31), waves(200, 31)

    def batch(_: int) -> tuple[Tensor, Tensor]:
        chosen = data[torch.randint(0, 1000, (64,))]
        return chosen[:, :-1], chosen[:, -1]

    def score(model: nn.Module) -> float:
        return negative_mse(model, held_out[:, :-1], held_out[:, -1])

    return Training(model, batch, nn.MSELoss(), torch.optim.Adam(model.readout.parameters(), lr=1e-2), score)


class CartAgent(nn.Module):
    """A small policy, and the episode that it lives through."""

    def __init__(self) -> None:
        """From position and speed to a push."""
        super().__init__()
        self.policy = mlp(2, 8, 1, activation=nn.Tanh)

    def forward(self, states: Tensor) -> Tensor:
        """The rewards of sixteen steps from each start."""
        rewards = []
        for _ in range(16):
            states, reward = cart_step(states, torch.sigmoid(4 * self.policy(states).squeeze(-1)))
            rewards.append(reward)
        return torch.stack(rewards)


def evolved_policy() -> Training:
    """An agent for the cart, trained by evolution strategies: rewards of perturbed copies, no backward pass."""
    model = CartAgent()
    starts = torch.randn(64, 2)

    def batch(_: int) -> tuple[Tensor, None]:
        return torch.randn(32, 2), None

    def loss(rewards: Tensor, _: None) -> Tensor:
        return -rewards.mean()

    @torch.no_grad()
    def step(training: Training, states: Tensor, targets: None) -> None:
        weights = nn.utils.parameters_to_vector(training.model.parameters())
        direction = torch.zeros_like(weights)
        for _ in range(8):
            noise = torch.randn_like(weights)
            for sign in (1.0, -1.0):
                nn.utils.vector_to_parameters(weights + sign * 0.2 * noise, training.model.parameters())
                direction -= sign * training.loss(training.model(states), targets) * noise
        nn.utils.vector_to_parameters(weights + 0.2 * direction, training.model.parameters())

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        return model(starts).mean().item()

    return Training(model, batch, loss, None, score, step=step)


def graphs_without_features() -> Training:
    """Rings or stars? All nodes carry the same constant: only the edges tell the graphs apart."""
    graphs, labels = [], torch.randint(0, 2, (200,))
    for label in labels:
        size = int(torch.randint(5, 12, ()))
        others = torch.arange(1, size)
        pairs = torch.stack([torch.zeros_like(others), others] if label else [others - 1, others])
        extra = torch.randint(0, size, (2, 2))
        pairs = torch.cat([pairs, extra], dim=1)[:, torch.randperm(size + 1)]
        graphs.append((torch.ones(size, 1), torch.cat([pairs, pairs.flip(0)], dim=1)))
    model = GraphNetwork(1)

    def batch(_: int) -> tuple[dict[str, Tensor], Tensor]:
        chosen = torch.randint(0, 150, (24,))
        return collate([graphs[number] for number in chosen], shift=True), labels[chosen]

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        outputs = model(**collate(graphs[150:], shift=True))
        return -F.cross_entropy(outputs, labels[150:]).item()

    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    return Training(model, batch, nn.CrossEntropyLoss(), optimizer, score, step=keyword_step)


HEALTHY = [
    Healthy(
        name="echo state network",
        unusual="Nearly all the weights are random and frozen; only a linear readout is trained.",
        make=frozen_reservoir,
        steps=100,
        gain=0.05,
    ),
    Healthy(
        name="policy trained by evolution",
        unusual="There is no optimizer and no backward pass; the weights move along the rewards of perturbed copies.",
        make=evolved_policy,
        steps=40,
        gain=0.2,
    ),
    Healthy(
        name="graphs whose nodes are all alike",
        unusual="The features of all nodes are the constant one; the edges hold all the information.",
        make=graphs_without_features,
        steps=100,
        gain=0.2,
    ),
]
