"""Mistakes outside vision and language: control, series, graphs, tables, physics, survival, robots, trainer loops."""

import math
from itertools import pairwise
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import nn
from torch.distributions import Normal
from transformers import GPT2Config, GPT2Model

from modern_failures_strangers.program import Healthy, Program
from real_failures.program import Training


def mlp(*sizes, activation=nn.ReLU):
    """Linear layers with an activation between them."""
    layers = []
    for size_in, size_out in pairwise(sizes):
        layers += [nn.Linear(size_in, size_out), activation()]
    return nn.Sequential(*layers[:-1])


def accuracy(x, y):
    """Score: the part of x whose largest output is y."""

    def score(model):
        model.eval()
        with torch.no_grad():
            return (model(x).argmax(-1) == y).float().mean().item()

    return score


# Reinforcement learning


class GaussianActor(nn.Module):
    """Squashed Gaussian policy."""

    def __init__(self, obs_dim, act_dim):
        super().__init__()
        self.net = mlp(obs_dim, 64, 64, 2 * act_dim)

    def forward(self, obs):
        mean, log_std = self.net(obs).chunk(2, -1)
        return Normal(mean, log_std.clamp(-4, 1).exp())


def soft_actor_critic(repaired):
    obs_dim, act_dim, gamma, tau, alpha = 4, 2, 0.5, 0.05, 0.05
    goal = 0.6 * torch.randn(obs_dim, act_dim)
    actor = GaussianActor(obs_dim, act_dim)
    critic, target = (mlp(obs_dim + act_dim, 64, 64, 1) for _ in range(2))
    target.load_state_dict(critic.state_dict())
    actor_optimizer = torch.optim.Adam(actor.parameters(), lr=3e-3)
    critic_optimizer = torch.optim.Adam(critic.parameters(), lr=3e-3)

    def reward(obs, action):
        return -(action - torch.tanh(obs @ goal)).pow(2).sum(-1)

    def batch(number):
        obs, action = torch.randn(128, obs_dim), torch.rand(128, act_dim) * 2 - 1
        return obs, (action, reward(obs, action), torch.randn(128, obs_dim))

    def q(net, obs, action):
        return net(torch.cat([obs, action], -1)).squeeze(-1)

    def act(dist):
        u = dist.rsample() if repaired else dist.sample()
        log_prob = dist.log_prob(u) - 2 * (math.log(2) - u - F.softplus(-2 * u))
        return torch.tanh(u), log_prob.sum(-1)

    def step(training, obs, transition):
        action, rewards, next_obs = transition
        with torch.no_grad():
            next_action, next_log_prob = act(training.model(next_obs))
            backup = rewards + gamma * (q(target, next_obs, next_action) - alpha * next_log_prob)
        critic_optimizer.zero_grad()
        F.mse_loss(q(critic, obs, action), backup).backward()
        critic_optimizer.step()

        new_action, log_prob = act(training.model(obs))
        training.optimizer.zero_grad()
        training.loss((log_prob, q(critic, obs, new_action)), None).backward()
        training.optimizer.step()
        for p, p_target in zip(critic.parameters(), target.parameters(), strict=False):
            p_target.data.lerp_(p.data, tau)

    def loss(outputs, _):
        return (alpha * outputs[0] - outputs[1]).mean()

    test = torch.randn(1000, obs_dim)

    def score(model):
        with torch.no_grad():
            return reward(test, torch.tanh(model(test).mean)).mean().item()

    return Training(actor, batch, loss, actor_optimizer, score, step)


class DecisionTransformer(nn.Module):
    """Return, state and action tokens through a small GPT-2."""

    def __init__(self, state_dim, act_dim, hidden, action_token):
        super().__init__()
        config = GPT2Config(
            vocab_size=1,
            bos_token_id=None,
            eos_token_id=None,
            n_embd=hidden,
            n_layer=1,
            n_head=2,
            n_positions=64,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
        )
        self.transformer = GPT2Model(config)
        self.embed_return = nn.Linear(1, hidden)
        self.embed_state = nn.Linear(state_dim, hidden)
        self.embed_action = nn.Linear(act_dim, hidden)
        self.embed_ln = nn.LayerNorm(hidden)
        self.predict_action = nn.Sequential(nn.Linear(hidden, act_dim), nn.Tanh())
        self.action_token = action_token

    def forward(self, states, actions, returns_to_go):
        batch, length = states.shape[:2]
        tokens = [self.embed_return(returns_to_go), self.embed_state(states), self.embed_action(actions)]
        stacked = torch.stack(tokens, 2).reshape(batch, 3 * length, -1)
        x = self.transformer(inputs_embeds=self.embed_ln(stacked)).last_hidden_state
        x = x.reshape(batch, length, 3, -1).permute(0, 2, 1, 3)
        return self.predict_action(x[:, self.action_token])


def decision_transformer(repaired):
    state_dim, act_dim, length = 5, 2, 5
    expert = 0.7 * torch.randn(state_dim, act_dim)

    def trajectories(n):
        states = torch.randn(n, length, state_dim)
        skill = torch.rand(n, 1, 1)
        noise = 0.3 * (1 - skill) * torch.randn(n, length, act_dim)
        actions = (torch.tanh(states @ expert) + noise).clamp(-1, 1)
        rewards = 1 - noise.pow(2).sum(-1, keepdim=True)
        returns_to_go = rewards.flip(1).cumsum(1).flip(1)
        return {"states": states, "actions": actions, "returns_to_go": returns_to_go / length}

    model = DecisionTransformer(state_dim, act_dim, 32, action_token=1 if repaired else 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-4)

    def batch(number):
        inputs = trajectories(64)
        return inputs, inputs["actions"]

    def step(training, inputs, actions):
        loss = training.loss(training.model(**inputs), actions)
        training.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(training.model.parameters(), 0.25)
        training.optimizer.step()

    test = trajectories(500)

    def score(model):
        model.eval()
        actions = test["actions"].clone()
        actions[:, -1] = 0
        with torch.no_grad():
            predicted = model(test["states"], actions, torch.ones_like(test["returns_to_go"]))[:, -1]
        return -F.mse_loss(predicted, torch.tanh(test["states"][:, -1] @ expert)).item()

    return Training(model, batch, F.mse_loss, optimizer, score, step)


# Series, graphs, tables


class Forecaster(nn.Module):
    """Encoder over a window of a series; the last position gives the next value."""

    def __init__(self, window, d_model=32, **kwargs):
        super().__init__()
        self.embed = nn.Linear(1, d_model)
        self.pos = nn.Parameter(0.02 * torch.randn(1, window, d_model))
        layer = nn.TransformerEncoderLayer(d_model, nhead=4, dim_feedforward=64, dropout=0.0, **kwargs)
        self.encoder = nn.TransformerEncoder(layer, num_layers=1, enable_nested_tensor=False)
        self.head = nn.Linear(d_model, 1)

    def forward(self, x):
        h = self.encoder(self.embed(x) + self.pos)
        return self.head(h[:, -1])


def forecaster(repaired):
    window = 16

    def windows(n):
        t = torch.arange(window + 1.0)
        freq, phase = 0.3 + 0.9 * torch.rand(n, 1), 2 * math.pi * torch.rand(n, 1)
        series = torch.sin(freq * t + phase) + 0.02 * torch.randn(n, window + 1)
        return series[:, :-1, None], series[:, -1:]

    model = Forecaster(window, **({"batch_first": True} if repaired else {}))
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    x, y = windows(500)

    def score(model):
        model.eval()
        with torch.no_grad():
            return 1 - (F.mse_loss(model(x), y) / y.var()).item()

    return Training(model, lambda number: windows(64), nn.MSELoss(), optimizer, score)


def node_classification(repaired):
    from torch_geometric.data import Data
    from torch_geometric.nn import GCNConv

    class GCN(nn.Module):
        def __init__(self, channels, classes):
            super().__init__()
            self.conv1 = GCNConv(channels, 32)
            self.conv2 = GCNConv(32, classes)

        def forward(self, x, edge_index):
            return self.conv2(F.relu(self.conv1(x, edge_index)), edge_index)

    n, classes, channels = 400, 4, 16
    labels = torch.randint(classes, (n,))
    same = labels[:, None] == labels[None]
    adjacency = torch.rand(n, n) < torch.where(same, 0.08, 0.004)
    adjacency = (adjacency | adjacency.T).fill_diagonal_(False)
    edges = adjacency.nonzero()
    edge_index = edges.t().contiguous() if repaired else edges.reshape(2, -1)
    x = 0.5 * torch.randn(classes, channels)[labels] + torch.randn(n, channels)
    data = Data(x=x, edge_index=edge_index, y=labels)
    train = torch.rand(n) < 0.2

    model = GCN(channels, classes)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2, weight_decay=5e-4)

    def step(training, inputs, targets):
        training.optimizer.zero_grad()
        training.loss(training.model(**inputs)[train], targets[train]).backward()
        training.optimizer.step()

    def score(model):
        model.eval()
        with torch.no_grad():
            predicted = model(data.x, data.edge_index).argmax(-1)
        return (predicted == data.y)[~train].float().mean().item()

    inputs = {"x": data.x, "edge_index": data.edge_index}
    return Training(model, lambda number: (inputs, data.y), nn.CrossEntropyLoss(), optimizer, score, step)


class FactorizationMachine(nn.Module):
    """Linear term and pairwise interactions of categorical fields, one table for all fields."""

    def __init__(self, field_dims, offsets, embed_dim=8):
        super().__init__()
        self.linear = nn.Embedding(sum(field_dims), 1)
        self.embedding = nn.Embedding(sum(field_dims), embed_dim)
        self.bias = nn.Parameter(torch.zeros(1))
        self.register_buffer("offsets", torch.tensor(offsets))
        nn.init.xavier_uniform_(self.embedding.weight)
        nn.init.xavier_uniform_(self.linear.weight)

    def forward(self, x):
        x = x + self.offsets
        embed = self.embedding(x)
        pairs = embed.sum(1).pow(2) - embed.pow(2).sum(1)
        return self.linear(x).sum(1).squeeze(-1) + 0.5 * pairs.sum(-1) + self.bias


def click_model(repaired):
    field_dims = [30, 20, 20, 10]
    offsets = [0, 30, 50, 70] if repaired else [0]
    effects = [torch.randn(size) for size in field_dims]

    def clicks(n):
        x = torch.stack([torch.randint(size, (n,)) for size in field_dims], 1)
        logits = sum(effect[x[:, i]] for i, effect in enumerate(effects))
        return x, torch.bernoulli(torch.sigmoid(2 * logits))

    model = FactorizationMachine(field_dims, offsets)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-2, weight_decay=1e-6)
    x, y = clicks(3000)

    def score(model):
        with torch.no_grad():
            logits = model(x)
        return (logits[y == 1][:, None] > logits[y == 0][None]).float().mean().item()

    return Training(model, lambda number: clicks(256), nn.BCEWithLogitsLoss(), optimizer, score)


# Physics, survival, tasks


def poisson_network(repaired):
    model = mlp(1, 32, 32, 1, activation=nn.Tanh if repaired else nn.ReLU)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    boundary = torch.tensor([[-1.0], [1.0]])

    def batch(number):
        x = torch.rand(64, 1) * 2 - 1
        return x.requires_grad_(), -(math.pi**2) * torch.sin(math.pi * x.detach())

    def step(training, x, source):
        u = training.model(x)
        u_x = torch.autograd.grad(u, x, torch.ones_like(u), create_graph=True)[0]
        u_xx = torch.autograd.grad(u_x, x, torch.ones_like(u_x), create_graph=True)[0]
        loss = training.loss(u_xx, source) + 50 * training.model(boundary).pow(2).mean()
        training.optimizer.zero_grad()
        loss.backward()
        training.optimizer.step()

    grid = torch.linspace(-1, 1, 200)[:, None]

    def score(model):
        with torch.no_grad():
            error = model(grid) - torch.sin(math.pi * grid)
        return -(error.norm() / torch.sin(math.pi * grid).norm()).item()

    return Training(model, batch, nn.MSELoss(), optimizer, score, step)


def survival(repaired):
    features = 10
    weights = torch.randn(features)

    def patients(n):
        x = torch.randn(n, features)
        time = -torch.log(torch.rand(n)) / torch.exp(x @ weights)
        censored = torch.rand(n) < 0.25
        return x, torch.stack([torch.where(censored, time * torch.rand(n), time), (~censored).float()], 1)

    def neg_partial_log_likelihood(log_hazard, targets):
        log_hazard, (time, event) = log_hazard.squeeze(-1), targets.unbind(1)
        if repaired:
            order = time.argsort(descending=True)
            log_hazard, event = log_hazard[order], event[order]
        log_risk = torch.logcumsumexp(log_hazard, 0)
        return -((log_hazard - log_risk) * event).sum() / event.sum()

    model = nn.Sequential(nn.Linear(features, 32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3, weight_decay=1e-4)
    x_train, y_train = patients(1500)
    x, y = patients(600)

    def batch(number):
        chosen = torch.randint(len(x_train), (128,))
        return x_train[chosen], y_train[chosen]

    def score(model):
        model.eval()
        with torch.no_grad():
            risk = model(x).squeeze(-1)
        earlier = (y[:, None, 0] < y[None, :, 0]) & (y[:, None, 1] == 1)
        return (risk[:, None] > risk[None])[earlier].float().mean().item()

    return Training(model, batch, neg_partial_log_likelihood, optimizer, score)


class MultiTaskNetwork(nn.Module):
    """Two regressions on one trunk, with a learned weight each."""

    def __init__(self, features):
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(features, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU())
        self.heads = nn.ModuleList([nn.Linear(64, 1), nn.Linear(64, 1)])
        self.log_vars = nn.Parameter(torch.zeros(2))

    def forward(self, x):
        h = self.trunk(x)
        return torch.cat([head(h) for head in self.heads], -1)


def multi_task(repaired):
    features = 8
    w1, w2 = torch.randn(2, features, 1)

    def data(n):
        x = torch.randn(n, features)
        depth = 4 * (x @ w1).abs() + torch.randn(n, 1)
        return x, torch.cat([depth, torch.sin(x @ w2)], -1)

    model = MultiTaskNetwork(features)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2, momentum=0.9)

    def loss(outputs, targets):
        per_task = (outputs - targets).pow(2).mean(0)
        weighted = torch.exp(-model.log_vars) * per_task
        return (weighted + model.log_vars).sum() if repaired else weighted.sum()

    x, y = data(1000)

    def score(model):
        with torch.no_grad():
            return (1 - (model(x) - y).pow(2).mean(0) / y.var(0)).mean().item()

    return Training(model, lambda number: data(64), loss, optimizer, score)


# Robots


class ChunkPolicy(nn.Module):
    """A chunk of future actions from an observation."""

    def __init__(self, obs_dim, act_dim, chunk, d_model=32):
        super().__init__()
        self.encode = mlp(obs_dim, 64, d_model)
        self.queries = nn.Embedding(chunk, d_model)
        self.decode = mlp(d_model, 64, act_dim)

    def forward(self, obs):
        return self.decode(F.relu(self.encode(obs)[:, None] + self.queries.weight))


def action_chunks(repaired):
    obs_dim, act_dim, chunk = 6, 3, 16
    gain = torch.randn(obs_dim, act_dim)
    decay = 0.97 ** torch.arange(chunk + 0.0)

    def episodes(n):
        obs = torch.randn(n, obs_dim)
        return obs, (torch.tanh(obs @ gain) + 0.5)[:, None] * decay[None, :, None]

    def batch(number):
        obs, actions = episodes(64)
        length = torch.randint(1, chunk + 4, (64, 1))
        is_pad = torch.arange(chunk) >= length
        return obs, (actions.masked_fill(is_pad[..., None], 0.0), is_pad)

    def loss(predicted, targets):
        actions, is_pad = targets
        l1 = F.l1_loss(predicted, actions, reduction="none")
        if repaired:
            return l1[~is_pad].mean()
        return l1.mean()

    model = ChunkPolicy(obs_dim, act_dim, chunk)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    obs, actions = episodes(500)

    def score(model):
        with torch.no_grad():
            return -F.l1_loss(model(obs), actions).item()

    return Training(model, batch, loss, optimizer, score)


# Trainer loops


def blobs(classes=6, features=20, spread=1.0):
    """Function that samples a classification problem."""
    centres = spread * torch.randn(classes, features)

    def sample(n):
        y = torch.randint(classes, (n,))
        return centres[y] + torch.randn(n, features), y

    return sample


def half_precision(repaired):
    sample = blobs()
    model = mlp(20, 64, 64, 6)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    scaler = torch.amp.GradScaler("cpu")

    def step(training, inputs, targets):
        training.optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = training.loss(training.model(inputs), targets)
        scaler.scale(loss).backward()
        if repaired:
            scaler.unscale_(training.optimizer)
        nn.utils.clip_grad_norm_(training.model.parameters(), 1.0)
        scaler.step(training.optimizer)
        scaler.update()

    return Training(model, lambda number: sample(64), nn.CrossEntropyLoss(), optimizer, accuracy(*sample(1000)), step)


class Classifier(nn.Module):
    """Encoder and head."""

    def __init__(self, features, classes):
        super().__init__()
        self.encoder = mlp(features, 64, 64, 4)
        self.head = nn.Linear(4, classes)

    def forward(self, x):
        return self.head(F.relu(self.encoder(x)))


def pretrained_encoder(repaired):
    features, basis = 20, torch.randn(4, 20)

    def sample(n):
        x = torch.randn(n, features)
        bits = (x @ basis.T > 0).long()
        return x, 2 * (bits[:, 0] ^ bits[:, 1]) + (bits[:, 2] ^ bits[:, 3])

    source = Classifier(features, 4)
    pretraining = torch.optim.Adam(source.parameters(), lr=5e-3)
    for _ in range(400):
        x, y = sample(256)
        pretraining.zero_grad()
        F.cross_entropy(source(x), y).backward()
        pretraining.step()
    checkpoint = {"model": torch.compile(source, backend="eager").state_dict()}

    model = Classifier(features, 2)
    state = checkpoint["model"]
    if repaired:
        state = {key.removeprefix("_orig_mod."): value for key, value in state.items()}
    state = {key: value for key, value in state.items() if "head" not in key}
    model.load_state_dict(state, strict=False)
    model.encoder.requires_grad_(False)
    optimizer = torch.optim.AdamW(model.head.parameters(), lr=1e-2)

    def batch(number):
        x, y = sample(64)
        return x, y // 2

    x, y = sample(1000)
    return Training(model, batch, nn.CrossEntropyLoss(), optimizer, accuracy(x, y // 2))


def annealed(repaired):
    args = SimpleNamespace(lr=2e-3, lr_gamma=0.001, lr_decay=0.75)
    sample = blobs(spread=0.6)
    model = nn.Sequential(nn.Linear(20, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 6))
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr)
    base = 1.0 if repaired else args.lr
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda x: base * (1.0 + args.lr_gamma * float(x)) ** (-args.lr_decay)
    )
    return Training(
        model,
        lambda number: sample(64),
        nn.CrossEntropyLoss(),
        optimizer,
        accuracy(*sample(1000)),
        after=scheduler.step,
    )


# Healthy


class Distillation(nn.Module):
    """A fixed random network, and one that learns its outputs."""

    def __init__(self, features):
        super().__init__()
        self.target = mlp(features, 64, 16).requires_grad_(False)
        self.predictor = mlp(features, 64, 64, 16)

    def forward(self, x):
        return self.predictor(x), self.target(x)


def curiosity():
    known, unknown = torch.randn(1000, 8) * 0.5 + 1, torch.randn(1000, 8) * 0.5 - 2
    model = Distillation(8)
    optimizer = torch.optim.Adam(model.predictor.parameters(), lr=2e-3)

    def novelty(model, x):
        with torch.no_grad():
            predicted, target = model(x)
        return (predicted - target).pow(2).mean()

    def batch(number):
        return known[torch.randint(900, (64,))], None

    def score(model):
        return torch.log(novelty(model, unknown) / novelty(model, known[900:])).item()

    return Training(model, batch, lambda outputs, _: F.mse_loss(*outputs), optimizer, score)


def accumulated():
    sample, every = blobs(spread=0.7), 8
    model = nn.Sequential(nn.Linear(20, 64), nn.GroupNorm(8, 64), nn.ReLU(), nn.Linear(64, 6))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, T_0=10)
    done = [0]

    def step(training, inputs, targets):
        (training.loss(training.model(inputs), targets) / every).backward()
        done[0] += 1
        if done[0] % every == 0:
            training.optimizer.step()
            scheduler.step()
            training.optimizer.zero_grad()

    return Training(model, lambda number: sample(4), nn.CrossEntropyLoss(), optimizer, accuracy(*sample(1000)), step)


class Flow(nn.Module):
    """Affine couplings that start as the identity."""

    def __init__(self, dim, layers=4):
        super().__init__()
        self.couplings = nn.ModuleList([mlp(dim // 2, 32, dim) for _ in range(layers)])
        for coupling in self.couplings:
            nn.init.zeros_(coupling[-1].weight)
            nn.init.zeros_(coupling[-1].bias)

    def forward(self, x):
        log_det = 0
        for coupling in self.couplings:
            a, b = x.chunk(2, -1)
            shift, log_scale = coupling(a).chunk(2, -1)
            x = torch.cat([b * log_scale.exp() + shift, a], -1)
            log_det = log_det + log_scale.sum(-1)
        return Normal(0, 1).log_prob(x).sum(-1) + log_det


def flow():
    def data(n):
        t = torch.rand(n, 1) * 2 - 1
        points = torch.cat([t, t.pow(2), torch.sin(3 * t), t.abs()], -1)
        return 0.2 * points + 0.01 * torch.randn(n, 4), None

    model = Flow(4)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    test = data(1000)[0]

    def score(model):
        with torch.no_grad():
            return model(test).mean().item()

    return Training(model, lambda number: data(128), lambda log_prob, _: -log_prob.mean(), optimizer, score)


PROGRAMS = [
    Program(
        name="sac action sampled without a path",
        source="https://github.com/kashif/firedup/issues/9",
        symptom="The critic is good, the policy never improves.",
        explanation="Actions of the actor loss are drawn with sample(): the critic's gradient stops there.",
        cause="graph cut",
        make=soft_actor_critic,
        steps=250,
        margin=0.2,
    ),
    Program(
        name="decision transformer reads the action",
        source="https://github.com/kzl/decision-transformer/issues/5",
        symptom="The training loss falls to almost nothing, the rollouts are as bad as random.",
        explanation="The action is predicted from the token of the same action, not from the state's.",
        cause="target leaks into the input",
        make=decision_transformer,
        steps=120,
        margin=0.1,
    ),
    Program(
        name="forecaster attends over the batch",
        source="",
        symptom="The transformer forecasts no better than from the last value.",
        explanation="nn.TransformerEncoderLayer without batch_first=True for (batch, time, features); a classic.",
        cause="axes mixed",
        make=forecaster,
        steps=200,
        margin=0.2,
    ),
    Program(
        name="edge list reshaped",
        source="",
        symptom="The graph network is worse than one without edges.",
        explanation="An (E, 2) list of edges is reshaped to (2, E), not transposed; the PyG introduction warns of it.",
        cause="data scrambled by a reshape",
        make=node_classification,
        steps=100,
        margin=0.15,
    ),
    Program(
        name="categories without offsets",
        source="https://github.com/rixwew/pytorch-fm/issues/4",
        symptom="The click model learns something, and stays far below the baseline.",
        explanation="The codes of all fields start at 0 and share one table, so fields share rows.",
        cause="embedding rows collide",
        make=click_model,
        steps=200,
        margin=0.05,
    ),
    Program(
        name="physics network with relu",
        source="https://github.com/ComputationalDomain/PINNs/issues/1",
        symptom="The residual of the equation does not fall, the network satisfies the boundary only.",
        explanation="The second derivative of a ReLU network is zero, so the residual has no gradient.",
        cause="activation without second derivative",
        make=poisson_network,
        steps=300,
        margin=0.3,
    ),
    Program(
        name="risk sets of unsorted patients",
        source="https://github.com/UK-Digital-Heart-Project/4Dsurvival/issues/2",
        symptom="The concordance stays near one half.",
        explanation="The cumulative sum of the partial likelihood needs patients sorted by descending time.",
        cause="loss expects sorted data",
        make=survival,
        steps=150,
        margin=0.1,
    ),
    Program(
        name="weights of tasks run away",
        source="https://github.com/yaringal/multi-task-learning-example/issues/6",
        symptom="The loss falls to almost nothing, the tasks are not learned.",
        explanation="The log variances were left out of the sum because the loss got negative: all weights go to zero.",
        cause="learned loss weights collapse",
        make=multi_task,
        steps=300,
        margin=0.1,
    ),
    Program(
        name="padded actions in the loss",
        source="https://github.com/Physical-Intelligence/openpi/pull/894",
        symptom="The robot slows down and stops in the later part of each chunk.",
        explanation="Chunks that run over the end of an episode are filled up, and the loss counts the filling.",
        cause="padding in the loss",
        make=action_chunks,
        steps=200,
        margin=0.1,
    ),
    Program(
        name="clipped before unscaling",
        source="https://github.com/milesial/Pytorch-UNet/issues/468",
        symptom="With mixed precision the training hardly moves.",
        explanation="The gradients, scaled by 65536, are clipped to norm 1, and unscaled after that.",
        cause="clipping of scaled gradients",
        make=half_precision,
        steps=150,
        margin=0.2,
    ),
    Program(
        name="checkpoint of a compiled model",
        source="https://github.com/FareedKhan-dev/train-llm-from-scratch/pull/37",
        symptom="Fine-tuning on the pretrained encoder is as bad as from scratch.",
        explanation="All keys start with _orig_mod., and strict=False loads none of them without a word.",
        cause="pretrained weights not loaded",
        make=pretrained_encoder,
        steps=150,
        margin=0.15,
    ),
    Program(
        name="lambda of the schedule returns the rate",
        source="https://github.com/lhoyer/MIC/issues/60",
        symptom="The training is very slow from the first step.",
        explanation="LambdaLR multiplies the optimizer's rate by the lambda, and the lambda holds the rate as well.",
        cause="schedule wrong",
        make=annealed,
        steps=150,
        margin=0.2,
    ),
]

HEALTHY = [
    Healthy(
        name="random network distillation",
        unusual="A frozen network of random weights in the model, which another one imitates.",
        make=curiosity,
        steps=200,
        gain=0.5,
    ),
    Healthy(
        name="accumulation with restarts",
        unusual="Steps and clearing only every eighth batch of four, and a rate that jumps up again.",
        make=accumulated,
        steps=300,
        gain=0.3,
    ),
    Healthy(
        name="flow from the identity",
        unusual="Last layers of zeros, so that most gradients are zero at first, and a loss that gets negative.",
        make=flow,
        steps=200,
        gain=2.0,
    ),
]
