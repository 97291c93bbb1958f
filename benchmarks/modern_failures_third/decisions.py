"""Decisions and the rest: agents, world models, experts, graphs, state spaces, speech, tables, custom loops.

Everything is written in our own words from the description of the threads; environments are tiny and data are random.
"""

import copy
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from modern_failures_strangers.program import Healthy, Program
from real_failures.program import Training


def r_squared(predictions: Tensor, targets: Tensor) -> float:
    """Share of the variance explained; not below -1."""
    error = (predictions - targets).square().mean()
    return max(-1.0, float(1 - error / (targets - targets.mean(0)).square().mean()))


# ----------------------------------------------------------------------------------------------------------------------
# PPO: the flag that ends an episode is stored one slot late


class Crossing:
    """Many walkers at a street: red or green at random. Going at red pays a little more, and ends the episode."""

    def __init__(self, walkers: int) -> None:
        self.walkers = walkers
        self.reset()

    def reset(self) -> Tensor:
        self.red = torch.rand(self.walkers) < 0.3
        return self.observe()

    def observe(self) -> Tensor:
        light = F.one_hot(self.red.long(), 2).float()
        return torch.cat([light, torch.randn(self.walkers, 2)], 1)

    def step(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        go = actions == 1
        done = go & self.red
        rewards = torch.where(go, torch.where(self.red, 1.5, 1.0), 0.5)
        self.red = torch.rand(self.walkers) < 0.3
        return self.observe(), rewards, done.float()


class ActorCritic(nn.Module):
    def __init__(self, observations: int, actions: int, width: int = 32) -> None:
        super().__init__()
        self.actor = nn.Sequential(nn.Linear(observations, width), nn.Tanh(), nn.Linear(width, actions))
        self.critic = nn.Sequential(nn.Linear(observations, width), nn.Tanh(), nn.Linear(width, 1))

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        return self.actor(observations), self.critic(observations).squeeze(-1)


def make_late_done(repaired: bool) -> Training:
    length, walkers, gamma, lam = 32, 32, 0.95, 0.95
    env = Crossing(walkers)
    agent = ActorCritic(4, 2)
    optimizer = torch.optim.Adam(agent.parameters(), lr=1e-2)
    state = {"obs": env.reset(), "done": torch.zeros(walkers)}

    @torch.no_grad()
    def rollout(number: int) -> tuple[Tensor, dict[str, Tensor]]:
        obs = torch.zeros(length, walkers, 4)
        actions, logprobs, rewards, dones, values = (torch.zeros(length, walkers) for _ in range(5))
        for step in range(length):
            obs[step], dones[step] = state["obs"], state["done"]
            logits, values[step] = agent(obs[step])
            policy = torch.distributions.Categorical(logits=logits)
            action = policy.sample()
            actions[step], logprobs[step] = action, policy.log_prob(action)
            state["obs"], rewards[step], state["done"] = env.step(action)
            if not repaired:
                dones[step] = state["done"]

        next_value = agent(state["obs"])[1]
        advantages = torch.zeros(length, walkers)
        last = torch.zeros(walkers)
        for t in reversed(range(length)):
            nonterminal = 1 - (state["done"] if t == length - 1 else dones[t + 1])
            following = next_value if t == length - 1 else values[t + 1]
            delta = rewards[t] + gamma * following * nonterminal - values[t]
            advantages[t] = last = delta + gamma * lam * nonterminal * last
        batch = {
            "actions": actions.flatten(),
            "logprobs": logprobs.flatten(),
            "advantages": advantages.flatten(),
            "returns": (advantages + values).flatten(),
        }
        return obs.flatten(0, 1), batch

    def ppo_loss(outputs: tuple[Tensor, Tensor], batch: dict[str, Tensor]) -> Tensor:
        logits, values = outputs
        policy = torch.distributions.Categorical(logits=logits)
        ratio = (policy.log_prob(batch["actions"]) - batch["logprobs"]).exp()
        advantages = batch["advantages"]
        advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
        surrogate = torch.min(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages).mean()
        return -surrogate + 0.5 * F.mse_loss(values, batch["returns"]) - 0.01 * policy.entropy().mean()

    def update(training: Training, obs: Tensor, batch: dict[str, Tensor]) -> None:
        for _ in range(4):
            training.optimizer.zero_grad()
            training.loss(training.model(obs), batch).backward()
            nn.utils.clip_grad_norm_(training.model.parameters(), 0.5)
            training.optimizer.step()

    @torch.no_grad()
    def mean_return(model: nn.Module) -> float:
        test = Crossing(64)
        obs, alive, total = test.observe(), torch.ones(64), torch.zeros(64)
        for _ in range(30):
            obs, rewards, done = test.step(model(obs)[0].argmax(-1))
            total += alive * rewards
            alive = alive * (1 - done)
        return float(total.mean())

    return Training(agent, rollout, ppo_loss, optimizer, mean_return, update)


# ----------------------------------------------------------------------------------------------------------------------
# Decision transformer: the action is read off its own token


class DecisionTransformer(nn.Module):
    def __init__(self, states: int, actions: int, length: int, width: int, read: int) -> None:
        super().__init__()
        self.read = read
        self.embed_return = nn.Linear(1, width)
        self.embed_state = nn.Embedding(states, width)
        self.embed_action = nn.Embedding(actions + 1, width)
        self.embed_time = nn.Embedding(length, width)
        self.embed_ln = nn.LayerNorm(width)
        layer = nn.TransformerEncoderLayer(width, 2, 2 * width, dropout=0.0, batch_first=True, norm_first=True)
        self.transformer = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.predict_action = nn.Linear(width, actions)

    def forward(self, returns: Tensor, states: Tensor, actions: Tensor) -> Tensor:
        batch, length = states.shape
        time = self.embed_time(torch.arange(length))
        tokens = [self.embed_return(returns.unsqueeze(-1)), self.embed_state(states), self.embed_action(actions)]
        stacked = torch.stack([token + time for token in tokens], 1)
        stacked = stacked.permute(0, 2, 1, 3).reshape(batch, 3 * length, -1)
        mask = nn.Transformer.generate_square_subsequent_mask(3 * length)
        x = self.transformer(self.embed_ln(stacked), mask=mask, is_causal=True)
        x = x.reshape(batch, length, 3, -1).permute(0, 2, 1, 3)
        return self.predict_action(x[:, self.read])


def make_action_read_off(repaired: bool) -> Training:
    states, actions, length = 8, 4, 6
    best = torch.randint(actions, (states,))
    moves = torch.randint(states, (states, actions))
    model = DecisionTransformer(states, actions, length, 32, read=1 if repaired else 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)

    def batch(number: int) -> tuple[dict[str, Tensor], Tensor]:
        """Trajectories of players who are more or less good."""
        skill = torch.rand(64)
        state = torch.randint(states, (64,))
        seen, taken, rewards = [], [], []
        for _ in range(length):
            good = torch.rand(64) < skill
            action = torch.where(good, best[state], torch.randint(actions, (64,)))
            seen.append(state), taken.append(action), rewards.append((action == best[state]).float())
            state = moves[state, action]
        to_go = torch.stack(rewards, 1).flip(1).cumsum(1).flip(1)
        chosen = torch.stack(taken, 1)
        return {"returns": to_go / length, "states": torch.stack(seen, 1), "actions": chosen}, chosen

    def loss(logits: Tensor, chosen: Tensor) -> Tensor:
        return F.cross_entropy(logits.flatten(0, 1), chosen.flatten())

    def step(training: Training, inputs: dict[str, Tensor], chosen: Tensor) -> None:
        training.optimizer.zero_grad()
        training.loss(training.model(**inputs), chosen).backward()
        nn.utils.clip_grad_norm_(training.model.parameters(), 1.0)
        training.optimizer.step()

    @torch.no_grad()
    def play(model: nn.Module) -> float:
        """Rewards per step, if we ask for the highest return."""
        model.eval()
        state = torch.arange(states).repeat(8)
        returns = torch.ones(len(state), 1)
        seen, taken = state.unsqueeze(1), torch.full((len(state), 1), actions)
        total = 0.0
        for t in range(length):
            action = model(returns=returns, states=seen, actions=taken)[:, t].argmax(-1)
            reward = (action == best[state]).float()
            total += float(reward.mean())
            taken[:, t] = action
            state = moves[state, action]
            returns = torch.cat([returns, returns[:, -1:] - reward.unsqueeze(1) / length], 1)
            seen = torch.cat([seen, state.unsqueeze(1)], 1)
            taken = torch.cat([taken, torch.full((len(state), 1), actions)], 1)
        model.train()
        return total / length

    return Training(model, batch, loss, optimizer, play, step)


# ----------------------------------------------------------------------------------------------------------------------
# World model: the rollout does not move on


class WorldModel(nn.Module):
    """Rolls a belief forward from the first observation and the actions."""

    def __init__(self, observations: int, actions: int, width: int, advance: bool) -> None:
        super().__init__()
        self.advance = advance
        self.encoder = nn.Sequential(nn.Linear(observations, width), nn.SiLU(), nn.Linear(width, width))
        self.action = nn.Linear(actions, width)
        self.cell = nn.GRUCell(width, width)
        self.prior = nn.Sequential(nn.Linear(width, width), nn.SiLU())
        self.decoder = nn.Linear(width, observations)

    def forward(self, first: Tensor, actions: Tensor) -> Tensor:
        carry = {"belief": self.encoder(first)}
        predicted = []
        for t in range(actions.shape[1]):
            carry["next_belief"] = self.cell(self.action(actions[:, t]), carry["belief"])
            predicted.append(self.decoder(self.prior(carry["next_belief"])))
            if self.advance:
                carry["belief"] = carry["next_belief"]
        return torch.stack(predicted, 1)


def make_rollout_stands_still(repaired: bool) -> Training:
    length = 8
    turn = 0.6
    dynamics = 0.95 * torch.tensor([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    control, view = 0.5 * torch.randn(2, 2), torch.randn(2, 4)

    def simulate(number: int) -> tuple[dict[str, Tensor], Tensor]:
        state, actions = torch.randn(number, 2), torch.randn(number, length, 2)
        first, seen = state @ view, []
        for t in range(length):
            state = state @ dynamics.T + actions[:, t] @ control
            seen.append(state @ view)
        return {"first": first, "actions": actions}, torch.stack(seen, 1)

    test_inputs, test_seen = simulate(256)
    model = WorldModel(4, 2, 32, advance=repaired)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)

    def step(training: Training, inputs: dict[str, Tensor], seen: Tensor) -> None:
        training.optimizer.zero_grad(set_to_none=True)
        training.loss(training.model(**inputs), seen).backward()
        nn.utils.clip_grad_norm_(training.model.parameters(), 100.0)
        training.optimizer.step()

    @torch.no_grad()
    def imagination(model: nn.Module) -> float:
        return r_squared(model(**test_inputs), test_seen)

    return Training(model, lambda number: simulate(64), F.mse_loss, optimizer, imagination, step)


# ----------------------------------------------------------------------------------------------------------------------
# Mixture of experts: the weight of the only expert is normalised to one


class MoEFeedForward(nn.Module):
    def __init__(self, width: int, out: int, experts: int, top: int, norm_topk_prob: bool) -> None:
        super().__init__()
        self.top, self.norm_topk_prob = top, norm_topk_prob
        self.gate = nn.Linear(width, experts, bias=False)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 8), nn.GELU(), nn.Linear(8, out)) for _ in range(experts)
        )
        self.out = out

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        scores = self.gate(x).softmax(-1)
        weights, chosen = scores.topk(self.top, -1)
        if self.norm_topk_prob:
            weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
        y = torch.zeros(len(x), self.out)
        for index, expert in enumerate(self.experts):
            rows, slots = (chosen == index).nonzero(as_tuple=True)
            if len(rows):
                y = y.index_add(0, rows, expert(x[rows]) * weights[rows, slots].unsqueeze(-1))
        load = F.one_hot(chosen, len(self.experts)).float().mean((0, 1))
        return y, len(self.experts) * (load * scores.mean(0)).sum()


def make_one_expert_normalised(repaired: bool) -> Training:
    kinds, width, out = 8, 6, 4
    maps = torch.randn(kinds, width, out) / math.sqrt(width)

    def sample(number: int) -> tuple[Tensor, Tensor]:
        kind = torch.randint(kinds, (number,))
        content = torch.randn(number, width)
        x = torch.cat([content, F.one_hot(kind, kinds).float()], 1)
        return x, torch.einsum("nd,ndo->no", content, maps[kind])

    test_x, test_y = sample(512)
    model = MoEFeedForward(width + kinds, out, experts=kinds, top=1, norm_topk_prob=not repaired)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)

    def loss(outputs: tuple[Tensor, Tensor], y: Tensor) -> Tensor:
        predicted, balance = outputs
        return F.mse_loss(predicted, y) + 1e-2 * balance

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        return r_squared(model(test_x)[0], test_y)

    return Training(model, lambda number: sample(256), loss, optimizer, score)


# ----------------------------------------------------------------------------------------------------------------------
# Graphs: the readout goes over the features


class GraphConv(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.own, self.neighbours = nn.Linear(inputs, outputs), nn.Linear(inputs, outputs, bias=False)

    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        return F.relu(self.own(x) + self.neighbours(adjacency @ x))


class GraphNetwork(nn.Module):
    def __init__(self, kinds: int, width: int, outputs: int, readout: int) -> None:
        super().__init__()
        self.readout = readout
        self.conv1, self.conv2 = GraphConv(kinds, width), GraphConv(width, width)
        self.head = nn.Sequential(nn.Linear(width, 32), nn.ReLU(), nn.Linear(32, outputs))

    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        h = self.conv2(self.conv1(x, adjacency), adjacency)
        return self.head(h.mean(self.readout))


def make_readout_over_features(repaired: bool) -> Training:
    nodes, kinds = 16, 4

    def molecules(number: int) -> tuple[dict[str, Tensor], Tensor]:
        """Random graphs; wanted: how many bonds of some kinds there are."""
        x = F.one_hot(torch.randint(kinds, (number, nodes)), kinds).float()
        upper = (torch.rand(number, nodes, nodes) < 0.2).float().triu(1)
        adjacency = upper + upper.transpose(1, 2)
        bonds = x.transpose(1, 2) @ adjacency @ x
        wanted = torch.stack([bonds[:, 0, 1], bonds[:, 1, 2], bonds[:, 2, 3], bonds[:, 3, 0]], 1)
        return {"x": x, "adjacency": adjacency}, (wanted - 3) / 2

    test_inputs, test_wanted = molecules(256)
    model = GraphNetwork(kinds, 16, 4, readout=1 if repaired else -1)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)

    def step(training: Training, inputs: dict[str, Tensor], wanted: Tensor) -> None:
        training.optimizer.zero_grad()
        training.loss(training.model(**inputs), wanted).backward()
        training.optimizer.step()

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        return r_squared(model(**test_inputs), test_wanted)

    return Training(model, lambda number: molecules(64), F.mse_loss, optimizer, score, step)


# ----------------------------------------------------------------------------------------------------------------------
# State spaces: the initialisation of the time steps is overwritten


class SelectiveSSM(nn.Module):
    """A small selective state space; the state after the last position."""

    def __init__(self, width: int, states: int, rank: int, dt_min: float = 0.001, dt_max: float = 0.05) -> None:
        super().__init__()
        self.states, self.rank = states, rank
        self.in_proj = nn.Linear(width, 2 * width, bias=False)
        self.x_proj = nn.Linear(width, rank + 2 * states, bias=False)
        self.dt_proj = nn.Linear(rank, width)
        nn.init.uniform_(self.dt_proj.weight, -(rank**-0.5), rank**-0.5)
        dt = torch.exp(torch.rand(width) * (math.log(dt_max) - math.log(dt_min)) + math.log(dt_min))
        with torch.no_grad():
            self.dt_proj.bias.copy_(dt + torch.log(-torch.expm1(-dt)))
        self.dt_proj.bias._no_reinit = True
        self.dt_proj.weight._no_reinit = True
        self.A_log = nn.Parameter(torch.log(torch.arange(1.0, states + 1)).repeat(width, 1))
        self.D = nn.Parameter(torch.ones(width))
        self.out_proj = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        u, gate = self.in_proj(x).chunk(2, -1)
        u = F.silu(u)
        dt, B, C = self.x_proj(u).split([self.rank, self.states, self.states], -1)
        dt = F.softplus(self.dt_proj(dt))
        decay = dt.unsqueeze(-1) * -torch.exp(self.A_log)
        later = decay.flip(1).cumsum(1).flip(1) - decay
        h = (later.exp() * (dt * u).unsqueeze(-1) * B.unsqueeze(2)).sum(1)
        y = (h * C[:, -1].unsqueeze(1)).sum(-1) + self.D * u[:, -1]
        return self.out_proj(y * F.silu(gate[:, -1]))


class StateSpaceClassifier(nn.Module):
    def __init__(self, vocabulary: int, width: int, classes: int, respect: bool) -> None:
        super().__init__()
        self.respect = respect
        self.embedding = nn.Embedding(vocabulary, width)
        self.norm = nn.LayerNorm(width)
        self.mixer = SelectiveSSM(width, states=4, rank=4)
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, classes))
        self.apply(self._init_weights)

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            if not (self.respect and getattr(module.weight, "_no_reinit", False)):
                nn.init.normal_(module.weight, std=0.1)
            if module.bias is not None and not (self.respect and getattr(module.bias, "_no_reinit", False)):
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=1.0)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        return self.head(x[:, -1] + self.mixer(self.norm(x)))


def make_time_steps_overwritten(repaired: bool) -> Training:
    classes, fillers, length = 6, 4, 48

    def sample(number: int) -> tuple[Tensor, Tensor]:
        """The first token is to be remembered to the end."""
        key = torch.randint(classes, (number,))
        tokens = classes + torch.randint(fillers, (number, length))
        tokens[:, 0] = key
        return tokens, key

    test_tokens, test_key = sample(256)
    model = StateSpaceClassifier(classes + fillers, 32, classes, respect=repaired)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)

    @torch.no_grad()
    def accuracy(model: nn.Module) -> float:
        return float((model(test_tokens).argmax(-1) == test_key).float().mean())

    return Training(model, lambda number: sample(32), F.cross_entropy, optimizer, accuracy)


# ----------------------------------------------------------------------------------------------------------------------
# Speech: CTC of numbers that are no log-probabilities


class Recogniser(nn.Module):
    def __init__(self, features: int, width: int, symbols: int) -> None:
        super().__init__()
        self.subsample = nn.Conv1d(features, width, 3, padding=1)
        self.rnn = nn.GRU(width, width, batch_first=True, bidirectional=True)
        self.frame_head = nn.Linear(2 * width, symbols + 1)

    def forward(self, frames: Tensor) -> Tensor:
        h = F.relu(self.subsample(frames.transpose(1, 2))).transpose(1, 2)
        return self.frame_head(self.rnn(h)[0])


def make_ctc_of_logits(repaired: bool) -> Training:
    symbols, features, spoken, length = 5, 8, 4, 20
    sounds = torch.randn(symbols, features)

    def speak(number: int) -> tuple[Tensor, Tensor]:
        labels = torch.randint(symbols, (number, spoken))
        frames = 0.3 * torch.randn(number, length, features)
        for slot in range(spoken):
            begin = slot * 5 + torch.randint(2, (number,))
            for offset in range(3):
                frames[torch.arange(number), begin + offset] += sounds[labels[:, slot]]
        return frames, labels + 1

    test_frames, test_labels = speak(64)
    model = Recogniser(features, 24, symbols)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        number = len(labels)
        log_probs = logits.log_softmax(-1) if repaired else logits
        frame_lengths, label_lengths = torch.full((number,), length), torch.full((number,), spoken)
        return F.ctc_loss(log_probs.transpose(0, 1), labels, frame_lengths, label_lengths, zero_infinity=True)

    @torch.no_grad()
    def right(model: nn.Module) -> float:
        """Share of the utterances that are recognised without a mistake."""
        hits = 0
        for path, labels in zip(model(test_frames).argmax(-1), test_labels, strict=True):
            heard = torch.unique_consecutive(path)
            hits += heard[heard > 0].tolist() == labels.tolist()
        return hits / len(test_labels)

    return Training(model, lambda number: speak(32), loss, optimizer, right)


# ----------------------------------------------------------------------------------------------------------------------
# Tables: all columns look up the same rows


class FTTransformer(nn.Module):
    def __init__(self, cardinalities: list[int], numeric: int, width: int, offsets: bool) -> None:
        super().__init__()
        starts = torch.tensor([0, *cardinalities[:-1]]).cumsum(0)
        self.register_buffer("offsets", starts if offsets else torch.zeros_like(starts))
        self.categories = nn.Embedding(sum(cardinalities), width)
        self.scale = nn.Parameter(torch.randn(numeric, width) * width**-0.5)
        self.shift = nn.Parameter(torch.zeros(numeric, width))
        self.cls = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.0, batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Sequential(nn.LayerNorm(width), nn.ReLU(), nn.Linear(width, 1))

    def forward(self, categorical: Tensor, numerical: Tensor) -> Tensor:
        tokens = torch.cat(
            [
                self.cls.expand(len(categorical), -1, -1),
                self.categories(categorical + self.offsets),
                numerical.unsqueeze(-1) * self.scale + self.shift,
            ],
            1,
        )
        return self.head(self.blocks(tokens)[:, 0]).squeeze(-1)


def make_columns_share_rows(repaired: bool) -> Training:
    columns, values, numeric = 6, 5, 2
    effects = torch.randn(columns, values)
    effects = effects - effects.mean(0)  # a value means nothing without its column

    def sample(number: int) -> tuple[dict[str, Tensor], Tensor]:
        categorical = torch.randint(values, (number, columns))
        numerical = torch.randn(number, numeric)
        latent = effects[torch.arange(columns), categorical].sum(1) + 0.5 * numerical.sum(1)
        return {"categorical": categorical, "numerical": numerical}, (latent > 0).float()

    test_inputs, test_y = sample(512)
    model = FTTransformer([values] * columns, numeric, 32, offsets=repaired)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=1e-5)

    def step(training: Training, inputs: dict[str, Tensor], y: Tensor) -> None:
        training.optimizer.zero_grad()
        training.loss(training.model(**inputs), y).backward()
        training.optimizer.step()

    @torch.no_grad()
    def accuracy(model: nn.Module) -> float:
        model.eval()
        right = (model(**test_inputs) > 0) == (test_y > 0.5)
        model.train()
        return float(right.float().mean())

    return Training(model, lambda number: sample(128), F.binary_cross_entropy_with_logits, optimizer, accuracy, step)


# ----------------------------------------------------------------------------------------------------------------------
# Quantisation-aware training: the rounded weights are written back


def fake_quantise(weight: Tensor, bits: int) -> Tensor:
    scale = weight.detach().abs().max() / (2 ** (bits - 1) - 1) + 1e-12
    return (weight / scale).round() * scale


class QuantLinear(nn.Linear):
    bits = 4

    def forward(self, x: Tensor) -> Tensor:
        quantised = self.weight + (fake_quantise(self.weight, self.bits) - self.weight).detach()
        return F.linear(x, quantised, self.bias)


def make_rounded_weights_kept(repaired: bool) -> Training:
    teacher = nn.Sequential(nn.Linear(12, 24), nn.Tanh(), nn.Linear(24, 5)).requires_grad_(False)
    for parameter in teacher.parameters():
        parameter.mul_(3)
    test_x = torch.randn(512, 12)
    test_y = teacher(test_x).argmax(-1)

    def batch(number: int) -> tuple[Tensor, Tensor]:
        x = torch.randn(64, 12)
        return x, teacher(x).argmax(-1)

    model = nn.Sequential(QuantLinear(12, 48), nn.ReLU(), QuantLinear(48, 48), nn.ReLU(), QuantLinear(48, 5))
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)

    @torch.no_grad()
    def quantise_weights() -> None:
        for module in model.modules():
            if isinstance(module, QuantLinear):
                module.weight.copy_(fake_quantise(module.weight, module.bits))

    @torch.no_grad()
    def accuracy(model: nn.Module) -> float:
        return float((model(test_x).argmax(-1) == test_y).float().mean())

    after = None if repaired else quantise_weights
    return Training(model, batch, F.cross_entropy, optimizer, accuracy, after=after)


# ----------------------------------------------------------------------------------------------------------------------
# Several tasks: the losses are copied into a new tensor


class MultiTaskNetwork(nn.Module):
    def __init__(self, inputs: int, width: int, classes: int) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        self.depth, self.label = nn.Linear(width, 1), nn.Linear(width, classes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.trunk(x)
        return self.depth(h).squeeze(-1), self.label(h)


class UncertaintyWeights(nn.Module):
    """Weighs losses by a learned uncertainty of each task."""

    def __init__(self, tasks: int, keep_graph: bool) -> None:
        super().__init__()
        self.keep_graph = keep_graph
        self.eta = nn.Parameter(torch.zeros(tasks))

    def forward(self, outputs: tuple[Tensor, Tensor], targets: tuple[Tensor, Tensor]) -> Tensor:
        losses = [F.mse_loss(outputs[0], targets[0]), F.cross_entropy(outputs[1], targets[1])]
        together = torch.stack(losses) if self.keep_graph else torch.Tensor(losses)
        return (together * torch.exp(-self.eta) + self.eta).sum()


def make_losses_copied(repaired: bool) -> Training:
    true_depth, true_label = torch.randn(10), torch.randn(10, 4)

    def sample(number: int) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        x = torch.randn(number, 10)
        return x, (torch.tanh(x @ true_depth) * 2, (x @ true_label).argmax(-1))

    test_x, (_, test_label) = sample(512)
    model = MultiTaskNetwork(10, 48, 4)
    criterion = UncertaintyWeights(2, keep_graph=repaired)
    optimizer = torch.optim.Adam([*model.parameters(), *criterion.parameters()], lr=3e-3)

    @torch.no_grad()
    def accuracy(model: nn.Module) -> float:
        return float((model(test_x)[1].argmax(-1) == test_label).float().mean())

    return Training(model, lambda number: sample(64), criterion, optimizer, accuracy)


# ----------------------------------------------------------------------------------------------------------------------
# Mixed precision: gradients are clipped while they are scaled


def make_clipped_while_scaled(repaired: bool) -> Training:
    centres = torch.randn(6, 12)

    def sample(number: int) -> tuple[Tensor, Tensor]:
        label = torch.randint(6, (number,))
        return centres[label] + 0.7 * torch.randn(number, 12), label

    test_x, test_y = sample(512)
    model = nn.Sequential(nn.Linear(12, 64), nn.GELU(), nn.LayerNorm(64), nn.Linear(64, 6))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**14)

    def step(training: Training, x: Tensor, y: Tensor) -> None:
        training.optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = training.loss(training.model(x), y)
        scaler.scale(loss).backward()
        if repaired:
            scaler.unscale_(training.optimizer)
        nn.utils.clip_grad_norm_(training.model.parameters(), 1.0)
        scaler.step(training.optimizer)
        scaler.update()

    @torch.no_grad()
    def accuracy(model: nn.Module) -> float:
        return float((model(test_x).argmax(-1) == test_y).float().mean())

    return Training(model, lambda number: sample(64), F.cross_entropy, optimizer, accuracy, step)


# ----------------------------------------------------------------------------------------------------------------------
# Averaged weights: the statistics stay where they were


class AveragedModel:
    """An exponential moving average of a network, for the evaluation."""

    def __init__(self, model: nn.Module, decay: float, buffers: bool) -> None:
        self.module = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay, self.buffers = decay, buffers

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        for ours, theirs in zip(self.module.parameters(), model.parameters(), strict=True):
            ours.mul_(self.decay).add_(theirs, alpha=1 - self.decay)
        if self.buffers:
            for ours, theirs in zip(self.module.buffers(), model.buffers(), strict=True):
                ours.copy_(theirs)


def make_average_without_statistics(repaired: bool) -> Training:
    spread, middle = torch.rand(10) * 6 + 1, torch.randn(10) * 8
    rule = torch.randn(10, 4)

    def sample(number: int) -> tuple[Tensor, Tensor]:
        z = torch.randn(number, 10)
        return z * spread + middle, (torch.tanh(z) @ rule).argmax(-1)

    test_x, test_y = sample(512)
    model = nn.Sequential(
        nn.Linear(10, 48), nn.BatchNorm1d(48), nn.ReLU(), nn.Linear(48, 48), nn.BatchNorm1d(48), nn.ReLU(),
        nn.Linear(48, 4),
    )  # fmt: skip
    averaged = AveragedModel(model, decay=0.95, buffers=repaired)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)

    def step(training: Training, x: Tensor, y: Tensor) -> None:
        training.model.train()
        training.optimizer.zero_grad()
        training.loss(training.model(x), y).backward()
        training.optimizer.step()
        averaged.update(training.model)

    @torch.no_grad()
    def accuracy(model: nn.Module) -> float:
        return float((averaged.module(test_x).argmax(-1) == test_y).float().mean())

    return Training(model, lambda number: sample(128), F.cross_entropy, optimizer, accuracy, step)


# ----------------------------------------------------------------------------------------------------------------------
# Parameter groups: the schedule knows one learning rate only


class FineTuned(nn.Module):
    def __init__(self, inputs: int, width: int, classes: int) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.backbone(x))


def make_schedule_of_one_rate(repaired: bool) -> Training:
    steps = 120
    factors = torch.randn(12, 4)

    def meaning(x: Tensor) -> Tensor:
        z = torch.tanh(x @ factors)
        return torch.stack([z[:, 0] * z[:, 1], z[:, 1] * z[:, 2], z[:, 2] * z[:, 3], z[:, 3] * z[:, 0]], 1) * 2

    model = FineTuned(12, 64, 4)
    pretraining = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(500):
        x = torch.randn(128, 12)
        pretraining.zero_grad()
        F.mse_loss(model(x), meaning(x)).backward()
        pretraining.step()
    model.head = nn.Linear(64, 2)

    rule = torch.tensor([1.0, -1.0, 1.0, 1.0])
    x, test_x = torch.randn(64, 12), torch.randn(1024, 12)
    y, test_y = (meaning(x) @ rule > 0).long(), (meaning(test_x) @ rule > 0).long()

    head_lr, backbone_lr = 2e-2, 1e-5
    optimizer = torch.optim.AdamW(
        [
            {"params": model.backbone.parameters(), "lr": backbone_lr},
            {"params": model.head.parameters(), "lr": head_lr},
        ]
    )
    max_lr = [backbone_lr, head_lr] if repaired else head_lr
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=max_lr, total_steps=steps + 1)

    def batch(number: int) -> tuple[Tensor, Tensor]:
        rows = torch.randint(len(x), (16,))
        return x[rows], y[rows]

    @torch.no_grad()
    def accuracy(model: nn.Module) -> float:
        return float((model(test_x).argmax(-1) == test_y).float().mean())

    return Training(model, batch, F.cross_entropy, optimizer, accuracy, after=scheduler.step)


# ----------------------------------------------------------------------------------------------------------------------
# LoRA: nothing that enters the checkpointed blocks needs a gradient


class LoRALinear(nn.Module):
    def __init__(self, base: nn.Linear, rank: int, alpha: float) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.lora_A = nn.Parameter(torch.randn(rank, base.in_features) * base.in_features**-0.5)
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, rank))
        self.scaling = alpha / rank

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.scaling * F.linear(F.linear(x, self.lora_A), self.lora_B)


class LoRABlock(nn.Module):
    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = LoRALinear(nn.Linear(width, 3 * width), rank, alpha=2.0 * rank)
        self.out = nn.Linear(width, width).requires_grad_(False)
        self.up = LoRALinear(nn.Linear(width, 2 * width), rank, alpha=2.0 * rank)
        self.down = nn.Linear(2 * width, width).requires_grad_(False)
        self.norm1.requires_grad_(False), self.norm2.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(x)).chunk(3, -1)
        x = x + self.out(F.scaled_dot_product_attention(q, k, v))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class LoRAClassifier(nn.Module):
    def __init__(self, vocabulary: int, length: int, width: int, classes: int, input_require_grads: bool) -> None:
        super().__init__()
        self.input_require_grads = input_require_grads
        self.tokens = nn.Embedding(vocabulary, width).requires_grad_(False)
        self.positions = nn.Embedding(length, width).requires_grad_(False)
        self.blocks = nn.ModuleList(LoRABlock(width, rank=8) for _ in range(2))
        self.classifier = nn.Linear(width, classes)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids) + self.positions(torch.arange(ids.shape[1]))
        if self.input_require_grads:
            x.requires_grad_()
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=True) if self.training else block(x)
        return self.classifier(x[:, -1])


def make_checkpoint_of_frozen_inputs(repaired: bool) -> Training:
    vocabulary, length = 8, 10

    def sample(number: int) -> tuple[Tensor, Tensor]:
        """The class is the token at the second place."""
        ids = torch.randint(vocabulary, (number, length))
        return ids, ids[:, 1]

    test_ids, test_y = sample(512)
    model = LoRAClassifier(vocabulary, length, 48, vocabulary, input_require_grads=repaired)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-3)

    @torch.no_grad()
    def accuracy(model: nn.Module) -> float:
        model.eval()
        right = model(test_ids).argmax(-1) == test_y
        model.train()
        return float(right.float().mean())

    return Training(model, lambda number: sample(64), F.cross_entropy, optimizer, accuracy)


PROGRAMS: list[Program] = [
    Program(
        name="PPO: end of an episode stored one slot late",
        source="https://github.com/RoboVerseOrg/RoboVerse/pull/814",
        symptom="The agent learns to end its episodes as soon as that pays a little, although living on pays more.",
        explanation="The buffer of done flags is written a second time after the step of the environment, but the "
        "advantages read it at t + 1: at a real end the value of the next episode is added.",
        cause="advantages cross episode ends",
        make=make_late_done,
        steps=40,
        margin=5.0,
    ),
    Program(
        name="decision transformer: action read from its own token",
        source="https://github.com/kzl/decision-transformer/issues/5",
        symptom="The training loss goes to zero, but in the environment the actions are no better than guessed.",
        explanation="The action is predicted from the position of the action token, which has already seen it, not "
        "from that of the state. (The thread proposes this change, and is told why it would be wrong.)",
        cause="target visible in the input",
        make=make_action_read_off,
        steps=150,
        margin=0.2,
    ),
    Program(
        name="world model: rollout does not advance its belief",
        source="https://github.com/pytorch/rl/pull/3236",
        symptom="The imagined observations are wrong after the first step; the loss stays high.",
        explanation="The loop over time computes the next belief and never makes it the current one, so that each "
        "step starts from the first belief.",
        cause="recurrent state not carried on",
        make=make_rollout_stands_still,
        steps=300,
        margin=0.2,
    ),
    Program(
        name="mixture of experts: weight of the top-1 expert normalised",
        source="https://github.com/jingyaogong/minimind/issues/858",
        symptom="Experts do not specialise, the balance loss sits at its minimum; worse than a dense network.",
        explanation="With one expert per token, dividing the chosen weight by its sum gives one: the loss has no "
        "gradient for the router, which only balances.",
        cause="router without gradient",
        make=make_one_expert_normalised,
        steps=400,
        margin=0.1,
    ),
    Program(
        name="graph network: readout over the features",
        source="https://github.com/flyingdoog/PGExplainer/issues/6",
        symptom="The graph predictions are poor; shapes fit, as there are as many nodes as features.",
        explanation="The readout averages over the last axis, the features, and leaves a number for each node.",
        cause="axes mixed in the pooling",
        make=make_readout_over_features,
        steps=400,
        margin=0.2,
    ),
    Program(
        name="state space: time steps initialised and overwritten",
        source="https://github.com/athms/mad-lab/issues/3",
        symptom="The state space layer remembers nothing over a long sequence.",
        explanation="The whole network applies its own initialisation to all linear layers, and overwrites the "
        "projection of the time steps, whose special values make the memory long.",
        cause="initialisation overwritten",
        make=make_time_steps_overwritten,
        steps=200,
        margin=0.3,
    ),
    Program(
        name="speech: CTC loss of raw logits",
        source="https://github.com/gwx314/STARS/issues/9",
        symptom="The CTC loss becomes negative.",
        explanation="The CTC loss expects log-probabilities, but gets the logits.",
        cause="loss input not normalised",
        make=make_ctc_of_logits,
        steps=100,
        margin=0.2,
    ),
    Program(
        name="tabular transformer: columns share an embedding without offsets",
        source="https://github.com/lucidrains/tab-transformer-pytorch/issues/20",
        symptom="The transformer on categories is hardly better than the frequent class.",
        explanation="One table of embeddings serves all columns, but no offset is added to the codes of each column: "
        "code 2 is the same token in every column. (In the thread one asks why one table is enough; the offsets are "
        "the answer.)",
        cause="categories collide in one table",
        make=make_columns_share_rows,
        steps=150,
        margin=0.1,
    ),
    Program(
        name="quantisation-aware training: rounded weights written back",
        source="https://github.com/ZLkanyo009/STBP-train-and-compression/issues/1",
        symptom="The quantised network stays where it started.",
        explanation="After each update the weights themselves are rounded: updates smaller than half a step are "
        "lost each time, and never add up.",
        cause="updates rounded away",
        make=make_rounded_weights_kept,
        steps=250,
        margin=0.1,
    ),
    Program(
        name="several tasks: losses copied into a new tensor",
        source="https://discuss.pytorch.org/t/how-to-learn-the-weights-between-two-losses/39681",
        symptom="The total loss moves a little, but no task gets better.",
        explanation="`torch.Tensor(losses)` copies the numbers: only the learned weights of the tasks have a gradient.",
        cause="loss values copied out of the graph",
        make=make_losses_copied,
        steps=200,
        margin=0.2,
    ),
    Program(
        name="mixed precision: gradients clipped before they are unscaled",
        source="https://github.com/Lightning-AI/pytorch-lightning/issues/9599",
        symptom="With mixed precision and clipping the loss curve is nearly flat.",
        explanation="The norm is clipped to one while the gradients are multiplied by the loss scale; the division by "
        "the scale comes after that, and leaves almost nothing.",
        cause="clipping at the wrong scale",
        make=make_clipped_while_scaled,
        steps=150,
        margin=0.2,
    ),
    Program(
        name="averaged weights: batch statistics not in the average",
        source="https://github.com/FlyreelAI/sesemi/issues/36",
        symptom="The network trains well, its moving average evaluates badly.",
        explanation="The average follows the parameters only: its batch normalisation evaluates with the statistics "
        "of the beginning.",
        cause="averaged network without statistics",
        make=make_average_without_statistics,
        steps=200,
        margin=0.2,
    ),
    Program(
        name="fine-tuning: one-cycle schedule overrides the rates of the groups",
        source="https://github.com/shariqfarooq123/AdaBins/issues/44",
        symptom="Fine-tuning is worse than expected, although the backbone has a small learning rate.",
        explanation="OneCycleLR gets one number as its highest rate, and sets it for all groups: the pretrained "
        "backbone is trained at the rate of the head.",
        cause="schedule overrides the learning rates",
        make=make_schedule_of_one_rate,
        steps=120,
        margin=0.05,
    ),
    Program(
        name="LoRA: checkpointed blocks of frozen embeddings",
        source="https://github.com/huggingface/transformers/issues/26221",
        symptom="With gradient checkpointing the adapters do not learn; without it they do.",
        explanation="The reentrant checkpoint gives its parameters no gradient if no input needs one, and the inputs "
        "come from a frozen embedding.",
        cause="graph cut at a checkpoint",
        make=make_checkpoint_of_frozen_inputs,
        steps=200,
        margin=0.2,
    ),
]


# ----------------------------------------------------------------------------------------------------------------------
# Healthy trainings


class TokenPolicy(nn.Module):
    def __init__(self, prompts: int, vocabulary: int, length: int, width: int = 32) -> None:
        super().__init__()
        self.prompt = nn.Embedding(prompts, width)
        self.position = nn.Embedding(length, width)
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 64), nn.GELU(), nn.Linear(64, vocabulary))

    def forward(self, prompts: Tensor) -> Tensor:
        return self.head(self.prompt(prompts).unsqueeze(1) + self.position.weight)


def make_loss_always_zero() -> Training:
    """GRPO with one update per rollout: the ratio is one, the advantages of a group add up to nothing."""
    prompts, vocabulary, length, group = 8, 6, 5, 16
    answers = torch.randint(vocabulary, (prompts, length))
    model = TokenPolicy(prompts, vocabulary, length)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)

    @torch.no_grad()
    def rollout(number: int) -> tuple[Tensor, dict[str, Tensor]]:
        asked = torch.arange(prompts).repeat_interleave(group)
        completions = torch.distributions.Categorical(logits=model(asked)).sample()
        rewards = (completions == answers[asked]).float().mean(1).view(prompts, group)
        advantages = (rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + 1e-4)
        return asked, {"completions": completions, "advantages": advantages.flatten()}

    def loss(logits: Tensor, batch: dict[str, Tensor]) -> Tensor:
        logp = logits.log_softmax(-1).gather(-1, batch["completions"].unsqueeze(-1)).squeeze(-1)
        ratio = torch.exp(logp - logp.detach())
        return -(ratio * batch["advantages"].unsqueeze(1)).mean()

    @torch.no_grad()
    def greedy(model: nn.Module) -> float:
        return float((model(torch.arange(prompts)).argmax(-1) == answers).float().mean())

    return Training(model, rollout, loss, optimizer, greedy)


def make_gradients_by_hand() -> Training:
    """Reptile: the network itself never sees a backward pass; its gradients are differences of weights."""
    model = nn.Sequential(nn.Linear(1, 40), nn.Tanh(), nn.Linear(40, 40), nn.Tanh(), nn.Linear(40, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)

    def task(number: int) -> tuple[Tensor, Tensor]:
        """A sine of some amplitude and phase."""
        amplitude, phase = 1 + torch.rand(1), torch.rand(1) * 1.5
        x = torch.rand(32, 1) * 6 - 3
        return x, amplitude * torch.sin(x + phase)

    def adapt(network: nn.Module, x: Tensor, y: Tensor, steps: int) -> nn.Module:
        learner = copy.deepcopy(network)
        inner = torch.optim.SGD(learner.parameters(), lr=0.03)
        for _ in range(steps):
            inner.zero_grad()
            F.mse_loss(learner(x), y).backward()
            inner.step()
        return learner

    def step(training: Training, x: Tensor, y: Tensor) -> None:
        learner = adapt(training.model, x, y, 8)
        training.optimizer.zero_grad()
        for slow, fast in zip(training.model.parameters(), learner.parameters(), strict=True):
            slow.grad = slow.detach() - fast.detach()
        training.optimizer.step()

    tasks = [task(number) for number in range(12)]

    def score(model: nn.Module) -> float:
        """Error on a half of the points, after a few steps on the other half."""
        total = 0.0
        for x, y in tasks:
            total += float(F.mse_loss(adapt(model, x[:16], y[:16], 8)(x[16:]), y[16:]).detach())
        return -total / len(tasks)

    return Training(model, task, F.mse_loss, optimizer, score, step)


class BinaryLinear(nn.Linear):
    """Only the signs of the weights are used; the weights get the gradient of the signs."""

    def forward(self, x: Tensor) -> Tensor:
        signs = torch.where(self.weight >= 0, 1.0, -1.0)
        binary = self.weight + (signs - self.weight).detach()
        return F.linear(x, binary / math.sqrt(self.in_features), self.bias)


def make_weights_clipped_to_signs() -> Training:
    centres = torch.randn(5, 16)

    def sample(number: int) -> tuple[Tensor, Tensor]:
        label = torch.randint(5, (number,))
        return centres[label] + 0.8 * torch.randn(number, 16), label

    test_x, test_y = sample(512)
    model = nn.Sequential(
        BinaryLinear(16, 64, bias=False), nn.BatchNorm1d(64), nn.Hardtanh(), BinaryLinear(64, 64, bias=False),
        nn.BatchNorm1d(64), nn.Hardtanh(), BinaryLinear(64, 5),
    )  # fmt: skip
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)

    @torch.no_grad()
    def clip() -> None:
        for module in model.modules():
            if isinstance(module, BinaryLinear):
                module.weight.clamp_(-1, 1)

    @torch.no_grad()
    def accuracy(model: nn.Module) -> float:
        model.eval()
        right = model(test_x).argmax(-1) == test_y
        model.train()
        return float(right.float().mean())

    return Training(model, lambda number: sample(64), F.cross_entropy, optimizer, accuracy, after=clip)


class Spring(nn.Module):
    """The position of a damped spring over time; the start is built in. Returns what is left of the equation."""

    def __init__(self, width: int, damping: float, stiffness: float) -> None:
        super().__init__()
        self.damping, self.stiffness = damping, stiffness
        self.net = nn.Sequential(
            nn.Linear(1, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 1)
        )

    def position(self, t: Tensor) -> Tensor:
        return 1 + t.square() * self.net(t)

    def forward(self, t: Tensor) -> Tensor:
        t = t.detach().requires_grad_()
        x = self.position(t)
        velocity = torch.autograd.grad(x.sum(), t, create_graph=True)[0]
        acceleration = torch.autograd.grad(velocity.sum(), t, create_graph=True)[0]
        return acceleration + self.damping * velocity + self.stiffness * x


def make_targets_all_zero() -> Training:
    """A physics loss: there are no data, the residual of an equation is to vanish."""
    damping, stiffness, end = 0.6, 4.0, 2.5
    model = Spring(32, damping, stiffness)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 800)

    def batch(number: int) -> tuple[Tensor, Tensor]:
        return torch.rand(64, 1) * end, torch.zeros(64, 1)

    t = torch.linspace(0, end, 100).unsqueeze(1)
    rate, frequency = damping / 2, math.sqrt(stiffness - damping**2 / 4)
    exact = torch.exp(-rate * t) * (torch.cos(frequency * t) + rate / frequency * torch.sin(frequency * t))

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        return r_squared(model.position(t), exact)

    return Training(model, batch, F.mse_loss, optimizer, score, after=scheduler.step)


HEALTHY: list[Healthy] = [
    Healthy(
        name="GRPO on policy: loss is always zero",
        unusual="The ratio is one and the advantages of each group have mean zero, so the value of the loss is zero in "
        "each step and tells nothing; its gradient is the policy gradient.",
        make=make_loss_always_zero,
        steps=200,
        gain=0.4,
    ),
    Healthy(
        name="Reptile: gradients set by hand",
        unusual="The network never sees a backward pass: copies are trained on a task, and the difference of the "
        "weights is written into the gradients.",
        make=make_gradients_by_hand,
        steps=150,
        gain=0.2,
    ),
    Healthy(
        name="binary network: weights clipped after each step",
        unusual="Only signs of the weights are used, gradients go straight through, and the weights are clipped "
        "outside of the optimizer.",
        make=make_weights_clipped_to_signs,
        steps=150,
        gain=0.3,
    ),
    Healthy(
        name="physics loss: no data, all targets zero",
        unusual="All targets are the same constant, and the output is a residual with derivatives by the input; the "
        "solution is learned all the same.",
        make=make_targets_all_zero,
        steps=400,
        gain=0.5,
    ),
]
