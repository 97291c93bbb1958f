"""Trainings outside of language and images: forecasts, tables, recommendation, graphs, molecules, control, physics.

Each mistake is one that people make with such networks; each program is written from scratch, with made data. A batch
depends on its number only, so that the broken and the repaired program see the same data.
"""

import copy
import itertools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.nn import GraphConv, global_mean_pool

from modern_failures_strangers.program import Healthy, Program
from real_failures.program import Training

Make = Callable[[bool], Training]
Batch = Callable[[int], tuple[Any, Any]]
TEST = 10**6
PROGRAMS: list[Program] = []
HEALTHY: list[Healthy] = []


def program(name: str, cause: str, steps: int, margin: float) -> Callable[[Make], Make]:
    """Add to the collection; the lines of the docstring are the symptom, the explanation, and the source if any."""

    def add(make: Make) -> Make:
        symptom, explanation, *source = [line.strip() for line in (make.__doc__ or "").splitlines() if line.strip()]
        PROGRAMS.append(Program(name, "".join(source), symptom, explanation, cause, make, steps, margin))
        return make

    return add


def healthy(name: str, steps: int, gain: float) -> Callable[[Callable[[], Training]], Callable[[], Training]]:
    """Add to the collection; the docstring says what is unusual."""

    def add(make: Callable[[], Training]) -> Callable[[], Training]:
        HEALTHY.append(Healthy(name, (make.__doc__ or "").strip(), make, steps, gain))
        return make

    return add


def rng(number: int) -> torch.Generator:
    """Random numbers of a batch."""
    return torch.Generator().manual_seed(12345 + number)


def mlp(*sizes: int, act: Callable[[], nn.Module] = nn.ReLU) -> nn.Sequential:
    """Linear layers with an activation between them."""
    layers: list[nn.Module] = []
    for number, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
        layers += [act()] if number else []
        layers.append(nn.Linear(fan_in, fan_out))
    return nn.Sequential(*layers)


def r2(outputs: Tensor, targets: Tensor) -> float:
    """Share of the variance that is explained; not below -1."""
    return max(-1.0, 1 - ((outputs - targets).pow(2).mean() / targets.var(unbiased=False)).item())


def on_test(batch: Batch, measure: Callable[[Tensor, Any], float]) -> Callable[[nn.Module], float]:
    """Score of a network on a batch that is not in the training."""

    def score(model: nn.Module) -> float:
        inputs, targets = batch(TEST)
        model.eval()
        with torch.no_grad():
            outputs = model(**inputs) if isinstance(inputs, dict) else model(inputs)
        model.train()
        return measure(outputs, targets)

    return score


def accuracy(outputs: Tensor, targets: Tensor) -> float:
    """Share of right classes."""
    return (outputs.argmax(-1) == targets).float().mean().item()


def waves(number: int) -> tuple[Tensor, Tensor]:
    """Waves of a random period and phase, and how they go on."""
    g = rng(number)
    period, phase = 6 + 10 * torch.rand(64, 1, generator=g), 6.3 * torch.rand(64, 1, generator=g)
    values = torch.sin(6.283 * torch.arange(27) / period + phase)
    return values[:, :24, None], values[:, 24:]


class Forecaster(nn.Module):
    """Two recurrent layers; the last states of both give the forecast."""

    def __init__(self, transpose: bool) -> None:
        super().__init__()
        self.rnn = nn.GRU(1, 32, num_layers=2, batch_first=True)
        self.head = nn.Linear(64, 3)
        self.transpose = transpose

    def forward(self, series: Tensor) -> Tensor:
        _, hidden = self.rnn(series)
        if self.transpose:
            hidden = hidden.transpose(0, 1).contiguous()
        return self.head(hidden.view(len(series), -1))


@program("forecast: last states flattened across the batch", "information across the batch", 150, 0.5)
def forecast_hidden(repaired: bool) -> Training:
    """The forecast stays at the mean, whatever the recurrent network.

    h_n is (layers, batch, width): view(batch, -1) joins states of different series, not of the layers.
    https://github.com/timbmg/Sentence-VAE/issues/15
    """
    model = Forecaster(transpose=repaired)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    return Training(model, waves, nn.MSELoss(), optimizer, on_test(waves, r2))


class NextItem(nn.Module):
    """A causal transformer over the items that a user has seen."""

    def __init__(self, items: int, length: int, width: int = 48) -> None:
        super().__init__()
        self.items, self.positions = nn.Embedding(items, width), nn.Embedding(length, width)
        layer = nn.TransformerEncoderLayer(width, 2, 96, dropout=0.0, batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(width, items)

    def forward(self, seen: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(seen.shape[1])
        x = self.items(seen) + self.positions(torch.arange(seen.shape[1]))
        return self.head(self.blocks(x, mask=mask, is_causal=True))


@program("recommend: targets are the inputs", "targets not shifted", 150, 0.4)
def sequential_recommendation(repaired: bool) -> Training:
    """The loss goes to zero within minutes, and the recommendations are the item just seen.

    The sequence was not shifted: each position is asked for the item that it is given.
    """
    follows = torch.randperm(50)

    def sessions(number: int) -> Tensor:
        g = rng(number)
        seen = [torch.randint(50, (48,), generator=g)]
        for _ in range(12):
            jump = torch.rand(48, generator=g) < 0.1
            seen.append(torch.where(jump, torch.randint(50, (48,), generator=g), follows[seen[-1]]))
        return torch.stack(seen, 1)

    def batch(number: int) -> tuple[Tensor, Tensor]:
        seen = sessions(number)
        return seen[:, :-1], seen[:, 1:] if repaired else seen[:, :-1]

    def score(model: nn.Module) -> float:
        seen = sessions(TEST)
        with torch.no_grad():
            return accuracy(model(seen[:, :-1])[:, -1], seen[:, -1])

    model = NextItem(50, 12)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    return Training(model, batch, lambda o, t: F.cross_entropy(o.flatten(0, 1), t.flatten()), optimizer, score)


class Towers(nn.Module):
    """Cosines of all users with all items, divided by a temperature."""

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.user, self.item = mlp(20, 64, 16), mlp(30, 64, 16)
        self.temperature = temperature

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        return F.normalize(self.user(users), dim=-1) @ F.normalize(self.item(items), dim=-1).T / self.temperature


@program("two towers: cosines without a temperature", "logits confined", 150, 0.15)
def two_towers(repaired: bool) -> Training:
    """The loss stays a little below the logarithm of the batch size; recall is poor.

    Logits between -1 and 1 cannot give a sharp softmax over 256 items.
    """
    to_user, to_item, tastes = torch.randn(8, 20), torch.randn(8, 30), torch.randn(6, 8)

    def batch(number: int) -> tuple[dict[str, Tensor], Tensor]:
        g = rng(number)
        taste = tastes[torch.randint(6, (256,), generator=g)] + 0.15 * torch.randn(256, 8, generator=g)
        users = taste @ to_user / 3 + 0.03 * torch.randn(256, 20, generator=g)
        items = torch.tanh(taste @ to_item / 3) + 0.03 * torch.randn(256, 30, generator=g)
        return {"users": users, "items": items}, torch.arange(256)

    model = Towers(temperature=0.07 if repaired else 1.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    return Training(model, batch, F.cross_entropy, optimizer, on_test(batch, accuracy), keyword_step)


def keyword_step(training: Training, inputs: dict[str, Tensor], targets: Any) -> None:
    """The usual step for a network that takes keyword arguments."""
    assert training.optimizer is not None
    training.optimizer.zero_grad()
    training.loss(training.model(**inputs), targets).backward()
    training.optimizer.step()


def random_graph(g: torch.Generator, nodes: int) -> Tensor:
    """Edges of a ring with chords, in both directions."""
    ring = torch.stack([torch.arange(nodes), (torch.arange(nodes) + 1) % nodes])
    chords = torch.randint(nodes, (2, nodes // 2), generator=g)
    edges = torch.cat([ring, chords], 1)
    return torch.cat([edges, edges.flip(0)], 1)


class GraphNet(nn.Module):
    """Two graph convolutions and the mean over the nodes."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.first, self.second = GraphConv(features, 32, aggr="mean"), GraphConv(32, 32, aggr="mean")
        self.head = mlp(32, 32, 1)

    def forward(self, x: Tensor, edge_index: Tensor, batch: Tensor) -> Tensor:
        x = self.second(self.first(x, edge_index).relu(), edge_index).relu()
        return self.head(global_mean_pool(x, batch)).squeeze(-1)


@program("graphs: edges not shifted", "edges of a batch wrong", 100, 0.3)
def graphs_collated(repaired: bool) -> Training:
    """The graph network is hardly better than one without edges.

    The edges are joined without the offset of each graph: all of them are among the first nodes.
    https://github.com/deepchem/deepchem/pull/3291
    """

    def batch(number: int) -> tuple[dict[str, Tensor], Tensor]:
        g = rng(number)
        xs, edges, owners, targets, shift = [], [], [], [], 0
        for graph in range(32):
            nodes = int(torch.randint(6, 14, (), generator=g))
            x, edge = torch.randn(nodes, 1, generator=g).sign(), random_graph(g, nodes)
            targets.append((x[edge[0]] * x[edge[1]]).mean() * 3)
            xs.append(x)
            edges.append(edge + shift if repaired else edge)
            owners.append(torch.full((nodes,), graph))
            shift += nodes
        inputs = {"x": torch.cat(xs), "edge_index": torch.cat(edges, 1), "batch": torch.cat(owners)}
        return inputs, torch.stack(targets)

    model = GraphNet(1)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    return Training(model, batch, nn.MSELoss(), optimizer, on_test(batch, r2), keyword_step)


class ActorCritic(nn.Module):
    """Logits of the actions, and the value of the state."""

    def __init__(self) -> None:
        super().__init__()
        self.actor, self.critic = mlp(6, 64, 4, act=nn.Tanh), mlp(6, 64, 1, act=nn.Tanh)

    def forward(self, states: Tensor) -> tuple[Tensor, Tensor]:
        return self.actor(states), self.critic(states).squeeze(-1)


@program("actor-critic: rewards and values broadcast", "targets broadcast", 200, 0.3)
def actor_critic(repaired: bool) -> Training:
    """The value loss falls, the policy gets no better.

    Rewards (batch, 1) minus values (batch,) are a matrix: every action gets the mean advantage.
    https://github.com/google-deepmind/acme/issues/277
    """
    best = torch.randn(6, 4)

    def batch(number: int) -> tuple[Tensor, Tensor]:
        states = torch.randn(256, 6, generator=rng(number))
        return states, (states @ best).argmax(-1, keepdim=True)

    def loss(outputs: tuple[Tensor, Tensor], right: Tensor) -> Tensor:
        logits, values = outputs
        policy = torch.distributions.Categorical(logits=logits)
        actions = policy.sample()
        rewards = (actions[:, None] == right).float()  # (batch, 1), as the buffer keeps them
        if repaired:
            rewards = rewards.squeeze(-1)
        advantages = rewards - values
        actor_loss = -(policy.log_prob(actions) * advantages.detach()).mean()
        return actor_loss + 0.5 * advantages.pow(2).mean() - 0.003 * policy.entropy().mean()

    model = ActorCritic()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    return Training(model, batch, loss, optimizer, on_test(batch, lambda o, t: accuracy(o[0], t.squeeze(-1))))


def soft_update(source: nn.Module, destination: nn.Module, tau: float = 0.1) -> None:
    """Move the parameters of one network a little towards those of the other."""
    with torch.no_grad():
        for new, old in zip(source.parameters(), destination.parameters(), strict=True):
            old.copy_(tau * new + (1 - tau) * old)


def chain_world(number: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Steps in a corridor of ten cells; the reward is at its right end."""
    g = rng(number)
    cells, actions = torch.randint(10, (128,), generator=g), torch.randint(2, (128,), generator=g)
    after = (cells + 2 * actions - 1).clamp(min=0)
    done = (after == 10).float()
    told = {"action": actions, "reward": done, "done": done, "next": F.one_hot(after.clamp(max=9), 10).float()}
    return F.one_hot(cells, 10).float(), told


@program("q-learning: soft update the wrong way", "target network updated the wrong way", 300, 0.5)
def q_learning(repaired: bool) -> Training:
    """The values stay near their start; only states beside the reward learn.

    Swapped arguments of the soft update: the learner is pulled to a target that never changes.
    https://github.com/reinshift/MADDPG_Multi_UAV_Roundup/issues/10
    """
    model = mlp(10, 64, 2)
    target = copy.deepcopy(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)

    def step(training: Training, states: Tensor, told: dict[str, Tensor]) -> None:
        with torch.no_grad():
            future = target(told["next"]).max(1).values
            goals = told["reward"] + 0.95 * (1 - told["done"]) * future
        optimizer.zero_grad()
        values = training.model(states).gather(1, told["action"][:, None]).squeeze(1)
        training.loss(values, goals).backward()
        optimizer.step()
        pair = (training.model, target) if repaired else (target, training.model)
        soft_update(*pair)

    def score(model: nn.Module) -> float:
        with torch.no_grad():
            best = model(torch.eye(10)).max(1).values
        return -(best - 0.95 ** torch.arange(9, -1, -1)).pow(2).mean().sqrt().item()

    return Training(model, chain_world, nn.SmoothL1Loss(), optimizer, score, step)


class Experts(nn.Module):
    """Each row goes to the one expert that the router prefers."""

    def __init__(self, softmax_first: bool, experts: int = 4) -> None:
        super().__init__()
        self.router = mlp(8, 32, experts)
        self.experts = nn.ModuleList(nn.Linear(8, 1) for _ in range(experts))
        self.softmax_first = softmax_first

    def forward(self, x: Tensor) -> Tensor:
        logits = self.router(x)
        if self.softmax_first:
            weights, chosen = logits.softmax(-1).topk(1, dim=-1)
        else:
            best, chosen = logits.topk(1, dim=-1)
            weights = best.softmax(-1)
        outputs = torch.cat([expert(x) for expert in self.experts], -1)
        return (weights * outputs.gather(1, chosen)).squeeze(-1)


@program("experts: softmax over one logit", "softmax over one value", 200, 0.2)
def top_one_experts(repaired: bool) -> Training:
    """The router never changes; the experts do not specialise.

    With k=1 the softmax after the choice is over one number: always 1, and its gradient is zero.
    https://github.com/davidmrau/mixture-of-experts/issues/27
    """
    centres, slopes = 2 * torch.randn(4, 8), torch.randn(4, 8)

    def batch(number: int) -> tuple[Tensor, Tensor]:
        g = rng(number)
        kind = torch.randint(4, (256,), generator=g)
        x = centres[kind] + torch.randn(256, 8, generator=g)
        return x, ((x - centres[kind]) * slopes[kind]).sum(-1)

    model = Experts(softmax_first=repaired)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    return Training(model, batch, nn.MSELoss(), optimizer, on_test(batch, r2))


class Adaptable(nn.Module):
    """A network that can be called with other parameters than its own."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp(1, 32, 32, 1, act=nn.Tanh)

    def forward(self, x: Tensor, weights: dict[str, Tensor] | None = None) -> Tensor:
        return self.net(x) if weights is None else torch.func.functional_call(self.net, weights, (x,))


def adapt(model: Any, x: Tensor, y: Tensor, create_graph: bool = True) -> dict[str, Tensor]:
    """Weights after one step on the support set."""
    weights = dict(model.net.named_parameters())
    grads = torch.autograd.grad(F.mse_loss(model(x), y), list(weights.values()), create_graph=create_graph)
    return {name: w - 0.03 * grad for (name, w), grad in zip(weights.items(), grads, strict=True)}


@program("meta-learning: query without adaptation", "adapted weights not used", 150, 0.4)
def meta_learning(repaired: bool) -> Training:
    """Adaptation to a new task is poor, though the meta loss looks plausible.

    The query loss is of the weights before the inner step, so it trains the mean of all tasks.
    """

    def batch(number: int) -> tuple[Tensor, Tensor]:
        g = rng(number)
        x = 6 * torch.rand(4 if number < TEST else 40, 20, 1, generator=g) - 3
        return x, (4 * torch.rand(len(x), 1, 1, generator=g) - 2) * torch.sin(x)

    def step(training: Training, x: Tensor, y: Tensor) -> None:
        optimizer.zero_grad()
        total = torch.zeros(())
        for support_x, query_x, support_y, query_y in zip(x[:, :10], x[:, 10:], y[:, :10], y[:, 10:], strict=True):
            fast = adapt(training.model, support_x, support_y)
            outputs = training.model(query_x, fast) if repaired else training.model(query_x)
            total = total + training.loss(outputs, query_y)
        (total / len(x)).backward()
        optimizer.step()

    def score(model: nn.Module) -> float:
        x, y = batch(TEST)
        out = [model(xs[10:], adapt(model, xs[:10], ys[:10], False)).detach() for xs, ys in zip(x, y, strict=True)]
        return r2(torch.stack(out), y[:, 10:])

    model = Adaptable()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    return Training(model, batch, nn.MSELoss(), optimizer, score, step)


@program("survival: batch not sorted", "loss depends on the order of the batch", 150, 0.2)
def survival(repaired: bool) -> Training:
    """The concordance stays near one half.

    The cumulative sum of the Cox loss is the risk set only if the batch is sorted by falling time.
    https://github.com/UK-Digital-Heart-Project/4Dsurvival/issues/2
    """
    direction = torch.randn(10) / 2

    def batch(number: int) -> tuple[Tensor, Tensor]:
        g = rng(number)
        x = torch.randn(128, 10, generator=g)
        risk = x @ direction + x[:, 0] * x[:, 1]
        times = -torch.rand(128, generator=g).log() * torch.exp(-1.5 * risk)
        events = (torch.rand(128, generator=g) < 0.7).float()
        shortened = times * torch.rand(128, generator=g)
        return x, torch.stack([torch.where(events > 0, times, shortened), events], 1)

    def cox(log_hazard: Tensor, targets: Tensor) -> Tensor:
        log_hazard, (times, events) = log_hazard.squeeze(-1), targets.unbind(1)
        if repaired:
            order = times.argsort(descending=True)
            log_hazard, events = log_hazard[order], events[order]
        at_risk = log_hazard.logcumsumexp(0)
        return -((log_hazard - at_risk) * events).sum() / events.sum()

    def concordance(log_hazard: Tensor, targets: Tensor) -> float:
        times, events = targets.unbind(1)
        comparable = (times[:, None] < times[None]) & (events[:, None] > 0)
        return (log_hazard > log_hazard.T)[comparable].float().mean().item()

    model = mlp(10, 64, 64, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    return Training(model, batch, cox, optimizer, on_test(batch, concordance))


@program("physics: second derivative without a graph", "graph cut", 250, 0.5)
def poisson(repaired: bool) -> Training:
    """The boundary is met, the residual of the equation does not fall.

    Without create_graph the derivative is a constant for backward: this term of the loss trains nothing.
    https://github.com/pytorch/pytorch/issues/31984
    """

    def batch(number: int) -> tuple[Tensor, Tensor]:
        x = torch.rand(64, 1, generator=rng(number))
        return x, -9.87 * torch.sin(3.1416 * x)

    def step(training: Training, x: Tensor, source: Tensor) -> None:
        x.requires_grad_(True)
        optimizer.zero_grad()
        (u_x,) = torch.autograd.grad(training.model(x).sum(), x, create_graph=True)
        (u_xx,) = torch.autograd.grad(u_x.sum(), x, create_graph=repaired)
        ends = training.model(torch.tensor([[0.0], [1.0]]))
        equation, boundary = training.loss(u_xx, source), training.loss(ends, torch.zeros(2, 1))
        (equation + 50 * boundary).backward()
        optimizer.step()

    def score(model: nn.Module) -> float:
        x = torch.linspace(0, 1, 101)[:, None]
        with torch.no_grad():
            return r2(model(x), torch.sin(3.1416 * x))

    model = mlp(1, 32, 32, 1, act=nn.Tanh)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    return Training(model, batch, nn.MSELoss(), optimizer, score, step)


class TableTransformer(nn.Module):
    """Each number of a row becomes a token."""

    def __init__(self, columns: int, named: bool, width: int = 32) -> None:
        super().__init__()
        self.value = nn.Linear(1, width)
        self.column = nn.Parameter(torch.randn(columns, width)) if named else None
        layer = nn.TransformerEncoderLayer(width, 4, 64, dropout=0.0, batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(width, 1)

    def forward(self, table: Tensor) -> Tensor:
        tokens = self.value(table[..., None])
        if self.column is not None:
            tokens = tokens + self.column
        return self.head(self.blocks(tokens).mean(1)).squeeze(-1)


@program("table: columns without names", "positions missing", 150, 0.5)
def table_columns(repaired: bool) -> Training:
    """The transformer for tables is not better than the mean of the targets.

    All columns share a layer and nothing marks them: permuted rows look the same to the network.
    """
    weights = torch.randn(8)

    def batch(number: int) -> tuple[Tensor, Tensor]:
        table = torch.randn(128, 8, generator=rng(number))
        return table, table @ weights + table[:, 0] * table[:, 1]

    model = TableTransformer(8, named=repaired)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    return Training(model, batch, nn.MSELoss(), optimizer, on_test(batch, r2))


class DeepONet(nn.Module):
    """Integral of a function: one network for the function, one for the place."""

    def __init__(self) -> None:
        super().__init__()
        self.branch, self.trunk = mlp(32, 128, 64, act=nn.GELU), mlp(1, 128, 64, act=nn.GELU)

    def forward(self, functions: Tensor, places: Tensor) -> Tensor:
        return self.branch(functions) @ self.trunk(places).T


@program("operator: bfloat16 weights", "precision too low", 200, 0.2)
def neural_operator(repaired: bool) -> Training:
    """The loss falls far more slowly than with float32 weights.

    model.to(bfloat16), not autocast alone: most steps are less than half a unit of the weights.
    https://github.com/tensorflow/tensorflow/issues/58138
    """
    grid = torch.linspace(0, 1, 32)
    kind = torch.float32 if repaired else torch.bfloat16

    def batch(number: int) -> tuple[dict[str, Tensor], Tensor]:
        amplitude = torch.randn(64, 4, generator=rng(number))
        turns = 3.1416 * torch.arange(1, 5)[:, None] * grid
        integral = (1 - torch.cos(turns)) / (3.1416 * torch.arange(1, 5)[:, None])
        inputs = {"functions": (amplitude @ torch.sin(turns)).to(kind), "places": grid[:, None].to(kind)}
        return inputs, 3 * amplitude @ integral

    def step(training: Training, inputs: dict[str, Tensor], targets: Tensor) -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            outputs = training.model(**inputs)
        training.loss(outputs.float(), targets).backward()
        optimizer.step()

    model = DeepONet().to(kind)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-5)
    return Training(model, batch, nn.MSELoss(), optimizer, on_test(batch, lambda o, t: r2(o.float(), t)), step)


class SharedTrunk(nn.Module):
    """One trunk, one head for each of three tasks."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(mlp(12, 64, 64), nn.ReLU())
        self.heads = nn.ModuleList(nn.Linear(64, 1) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        shared = self.trunk(x)
        return torch.cat([head(shared) for head in self.heads], 1)


@program("tasks: gradients cleared before each", "gradients cleared too early", 150, 0.3)
def several_tasks(repaired: bool) -> Training:
    """Only the last task learns.

    zero_grad comes before each task's backward, the step after all: earlier gradients are lost.
    https://github.com/blackfeather-wang/InfoPro-Pytorch/issues/1
    """
    truth = torch.randn(12, 3) / 2

    def batch(number: int) -> tuple[Tensor, Tensor]:
        x = torch.randn(64, 12, generator=rng(number))
        return x, torch.sin(x @ truth) + x @ truth.roll(1, 1)

    def step(training: Training, x: Tensor, targets: Tensor) -> None:
        optimizer.zero_grad()
        for task in range(3):
            if not repaired:
                optimizer.zero_grad()
            training.loss(training.model(x)[:, task], targets[:, task]).backward()
        optimizer.step()

    model = SharedTrunk()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    return Training(model, batch, nn.MSELoss(), optimizer, on_test(batch, r2), step)


@program("molecules: schedule per batch", "learning rate gone", 250, 0.5)
def molecules(repaired: bool) -> Training:
    """The loss falls for some batches, then stands still for good.

    The decay per epoch is applied with each batch: after fifty of them the learning rate is gone.
    https://github.com/ivadomed/ivadomed/pull/55
    """
    share, pair = torch.randn(6), torch.randn(6, 6) / 2

    def batch(number: int) -> tuple[dict[str, Tensor], Tensor]:
        g = rng(number)
        atoms = torch.randint(6, (24 * 9,), generator=g)
        bonds = torch.cat([random_graph(g, 9) + 9 * graph for graph in range(24)], 1)
        molecule = torch.arange(24).repeat_interleave(9)
        values = share[atoms] + torch.zeros(24 * 9).index_add(0, bonds[0], pair[atoms[bonds[0]], atoms[bonds[1]]])
        inputs = {"x": F.one_hot(atoms, 6).float(), "edge_index": bonds, "batch": molecule}
        return inputs, global_mean_pool(values, molecule)

    model = GraphNet(6)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.9)
    batches = iter(range(1, 10**6))

    def after() -> None:
        if not repaired or next(batches) % 40 == 0:  # an epoch has 40 batches
            schedule.step()

    return Training(model, batch, nn.MSELoss(), optimizer, on_test(batch, r2), keyword_step, after)


class Reservoir(nn.Module):
    """A large random recurrent network that stays as it is, and a layer that reads it."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.RNN(1, 200, batch_first=True).requires_grad_(False)
        with torch.no_grad():
            weight = self.rnn.weight_hh_l0.normal_() * (torch.rand(200, 200) < 0.1)
            self.rnn.weight_hh_l0.copy_(0.9 * weight / torch.linalg.eigvals(weight).abs().max())
            self.rnn.weight_ih_l0.uniform_(-1, 1)
        self.readout = nn.Linear(200, 3)

    def forward(self, series: Tensor) -> Tensor:
        return self.readout(self.rnn(series)[0][:, -1])


@healthy("reservoir", 200, 0.3)
def reservoir() -> Training:
    """All recurrent weights are frozen, random and sparse; only the layer that reads them learns."""
    model = Reservoir()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    return Training(model, waves, nn.MSELoss(), optimizer, on_test(waves, r2))


class RandomTarget(nn.Module):
    """Difference between a network that learns and a random one that does not."""

    def __init__(self) -> None:
        super().__init__()
        self.target, self.predictor = mlp(10, 64, 16).requires_grad_(False), mlp(10, 64, 64, 16)
        nn.init.orthogonal_(self.target[0].weight, gain=3.0)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = self.target(x)
        return (self.predictor(x) - wanted).pow(2).mean(-1)


@healthy("anomalies by a random target", 200, 0.2)
def anomalies() -> Training:
    """No targets; the network learns what a frozen random network says in no_grad."""
    mixing = torch.randn(3, 10)

    def usual(number: int) -> Tensor:
        return torch.randn(128, 3, generator=rng(number)) @ mixing / 2

    def score(model: nn.Module) -> float:
        with torch.no_grad():
            normal, strange = model(usual(TEST)), model(usual(TEST + 1).roll(1, 1))
        return (strange[:, None] > normal[None]).float().mean().item()

    model = RandomTarget()
    optimizer = torch.optim.Adam(model.predictor.parameters(), lr=2e-3)
    return Training(model, lambda n: (usual(n), None), lambda errors, _: errors.mean(), optimizer, score)


class Reverse(torch.autograd.Function):
    """The identity, with the gradient turned around."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return -grad


class DomainAdversary(nn.Module):
    """Classes from features from which the domain should not be known."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(mlp(10, 64, 32), nn.ReLU())
        self.classes, self.domain = nn.Linear(32, 3), mlp(32, 32, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.features(x)
        return self.classes(features), self.domain(Reverse.apply(features))


@healthy("adversary with a reversed gradient", 150, 0.3)
def adversary() -> Training:
    """Half of the labels are ignored, and the features get the negative gradient of the loss of the domain."""
    centres = 1.5 * torch.randn(3, 10)
    shift = torch.cat([torch.zeros(8), torch.full((2,), 3.0)])

    def batch(number: int) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        g = rng(number)
        kind, domain = torch.randint(3, (128,), generator=g), torch.arange(128) % 2
        x = centres[kind] + torch.randn(128, 10, generator=g) + domain[:, None] * shift
        return x, (torch.where(domain == 0, kind, -100) if number < TEST else kind, domain)

    def loss(outputs: tuple[Tensor, Tensor], targets: tuple[Tensor, Tensor]) -> Tensor:
        return F.cross_entropy(outputs[0], targets[0]) + 0.5 * F.cross_entropy(outputs[1], targets[1])

    model = DomainAdversary()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    return Training(model, batch, loss, optimizer, on_test(batch, lambda o, t: accuracy(o[0], t[0])))


@healthy("distillation with accumulation", 200, 0.3)
def distillation() -> Training:
    """Autocast; a step every fourth call, gradients kept in between; an average of the weights is judged."""
    teacher = mlp(10, 64, 5).requires_grad_(False)
    teacher[2].weight.mul_(6)
    model = mlp(10, 48, 5)
    mean = copy.deepcopy(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    calls = iter(range(1, 10**6))

    def batch(number: int) -> tuple[Tensor, Tensor]:
        x = torch.randn(32 if number < TEST else 500, 10, generator=rng(number))
        return x, teacher(x)

    def loss(outputs: Tensor, wanted: Tensor) -> Tensor:
        student, goal = (outputs / 2).log_softmax(-1), (wanted / 2).log_softmax(-1)
        return 4 * F.kl_div(student, goal, reduction="batchmean", log_target=True)

    def step(training: Training, x: Tensor, wanted: Tensor) -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            outputs = training.model(x)
        (training.loss(outputs.float(), wanted) / 4).backward()
        if next(calls) % 4 == 0:
            nn.utils.clip_grad_norm_(training.model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            soft_update(training.model, mean)

    def score(_: nn.Module) -> float:
        x, wanted = batch(TEST)
        return accuracy(mean(x), wanted.argmax(-1))

    return Training(model, batch, loss, optimizer, score, step)
