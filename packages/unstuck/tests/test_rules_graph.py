"""US301, US305, US505, US601, US603, US609, US706: what the graph of a step and its optimizers show."""

import pytest
import torch
from torch import nn
from torch.nn import functional

import unstuck

ROWS = 32


def found(model, loss, steps=20, of=("warning", "error"), rate=1e-3):
    """The rules of a training whose batches the loss draws itself."""
    torch.manual_seed(0)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=rate)
    with unstuck.Monitor(model, every=1, trials=True) as monitor:
        for _ in range(steps):
            optimizer.zero_grad()
            loss().backward()
            optimizer.step()
    return [f.rule for f in monitor.diagnosis(seconds=0.0).findings if f.severity in of]


class Tasks(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.logs = nn.Linear(4, 2), nn.Parameter(torch.zeros(2))

    def forward(self, x):
        return self.body(x)


@pytest.mark.parametrize(
    ("weighed", "expected"),
    [
        (lambda errors, logs: ((-logs).exp() * errors).sum(), ["US609"]),
        (lambda errors, logs: sum(errors[i] / (2 * logs[i].exp() ** 2) for i in range(2)), ["US609"]),
        (lambda errors, logs: ((-logs).exp() * errors + logs).sum(), []),
        (lambda errors, logs: (logs.softmax(0) * errors).sum(), []),
        (lambda errors, logs: (logs * (errors - 1).detach()).sum() + errors.sum(), []),
        (lambda errors, logs: functional.cross_entropy(-logs.exp() * errors[None], torch.tensor([1])), []),
        (lambda errors, logs: (1 - (-logs.exp() * errors).exp()).sum(), []),
    ],
    ids=["free", "free variances", "held by their logarithms", "shares", "multipliers", "logits", "in an exponential"],
)
def test_a_factor_of_a_term_that_nothing_holds_is_named(weighed, expected):
    model = Tasks()

    def step():
        x = torch.randn(ROWS, 4)
        return weighed((model(x) - x[:, :2]).square().mean(0), model.logs)

    assert found(model, step) == expected


def test_a_multiplier_that_rises_is_no_free_factor():
    model, x = Tasks(), torch.randn(ROWS, 4)
    least = torch.optim.Adam(model.body.parameters(), lr=1e-3)
    most = torch.optim.Adam([model.logs], lr=1e-2, maximize=True)
    with unstuck.Monitor(model, every=1, trials=True) as monitor:
        for _ in range(20):
            model.zero_grad()
            (model.logs.exp() * (model(x) - x[:, :2]).square().mean(0)).sum().backward()
            least.step()
            most.step()
    assert "US609" not in [f.rule for f in monitor.diagnosis(seconds=0.0).findings]


@pytest.mark.parametrize(
    ("detached", "cleared", "again", "expected"),
    [
        (False, False, True, ["US305"]),
        (False, False, False, ["US305"]),
        (True, False, False, []),
        (False, True, True, []),
        (False, True, False, []),
    ],
)
def test_a_generator_does_not_follow_the_loss_of_its_critic(detached, cleared, again, expected):
    generator, critic = nn.Linear(4, 8), nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1))
    own, other = (torch.optim.Adam(net.parameters(), lr=1e-3) for net in (generator, critic))
    with unstuck.Monitor(generator, every=1) as monitor:
        for _ in range(10):
            own.zero_grad()
            other.zero_grad()
            fakes = generator(torch.randn(ROWS, 4))
            read = fakes.detach() if detached else fakes
            (critic(read).mean() - critic(torch.randn(ROWS, 8)).mean()).backward(retain_graph=True)
            other.step()
            if cleared:
                own.zero_grad()
            (-critic(generator(torch.randn(ROWS, 4)) if again else fakes).mean()).backward()
            own.step()
    assert [f.rule for f in monitor.diagnosis().findings if f.rule == "US305"] == expected


class Reversal(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient):
        return -gradient


@pytest.mark.parametrize("reverse", [Reversal.apply, lambda x: x], ids=["domains", "two heads"])
def test_losses_of_heads_with_their_own_optimizers_are_meant_to_add_up(reverse):
    encoder, heads = nn.Linear(4, 8), [nn.Linear(8, 2), nn.Linear(8, 2)]
    optimizers = [torch.optim.Adam(net.parameters(), lr=1e-3) for net in (*heads, encoder)]
    with unstuck.Monitor(encoder, every=1) as monitor:
        for _ in range(10):
            codes, labels = encoder(torch.randn(ROWS, 4)), torch.randint(2, (ROWS,))
            functional.cross_entropy(heads[0](reverse(codes)), labels).backward(retain_graph=True)
            optimizers[0].step()
            functional.cross_entropy(heads[1](codes), labels).backward()
            for optimizer in optimizers[1:]:
                optimizer.step()
            for optimizer in optimizers:
                optimizer.zero_grad()
    assert "US305" not in [f.rule for f in monitor.diagnosis().findings]


def test_two_optimizers_may_share_a_loss():
    encoder, decoder = nn.Linear(4, 8), nn.Linear(8, 4)
    one, other = (torch.optim.Adam(net.parameters(), lr=1e-3) for net in (encoder, decoder))
    with unstuck.Monitor(encoder, every=1) as monitor:
        for _ in range(10):
            for _micro in range(2):
                (decoder(encoder(torch.randn(ROWS, 4))).square().mean()).backward()
            other.step()
            one.step()
            one.zero_grad()
            other.zero_grad()
    assert monitor.diagnosis().healthy


@pytest.mark.parametrize("corners", [True, False])
def test_boxes_by_their_centres_are_no_corners(corners):
    model = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 4))

    def overlap(boxes, targets):
        (a, b, c, d), (e, f, g, h) = boxes.unbind(-1), targets.unbind(-1)
        own, wanted = (c - a) * (d - b), (g - e) * (h - f)
        both = (torch.min(c, g) - torch.max(a, e)).clamp(0) * (torch.min(d, h) - torch.max(b, f)).clamp(0)
        return (1 - both / (own + wanted - both + 1e-3)).mean()

    def step():
        x = torch.randn(ROWS, 4)
        centre, size = 0.3 + 0.4 * x[:, :2].sigmoid(), 0.1 + 0.2 * x[:, 2:].sigmoid()
        boxes = torch.cat([centre - size / 2, centre + size / 2] if corners else [centre, size], -1)
        return overlap(model(x), boxes) + functional.l1_loss(model(x), boxes)

    assert [rule for rule in found(model, step) if rule == "US601"] == ([] if corners else ["US601"])


@pytest.mark.parametrize(
    ("noise", "rate", "severity"), [(0.2, 2e-2, "note"), (0.2, 0.0, "warning"), (3.0, 2e-2, "warning")]
)
def test_targets_with_noise_beyond_the_reach_are_a_note_if_the_network_learns(noise, rate, severity):
    x = torch.randn(256, 4)
    targets = (1.5 * x[:, :1]).sigmoid() + noise * torch.randn(256, 1)
    model = nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 1), nn.Sigmoid())
    nn.init.constant_(model[2].bias, -3.0)
    loss = lambda: functional.mse_loss(model(x), targets)  # noqa: E731
    assert "US603" in found(model, loss, steps=60, of=(severity,), rate=rate)


@pytest.mark.parametrize("loaded", [True, False])
def test_a_frozen_base_of_random_numbers_is_a_warning_if_nothing_is_learned(loaded):
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU()).requires_grad_(False)
    model, x = nn.Sequential(base, nn.Linear(64, 1)), torch.randn(256, 16)
    targets = base(x)[:, :1] if loaded else torch.randn(256, 1)
    loss = lambda: functional.mse_loss(model(x), targets)  # noqa: E731
    named = found(model, loss, steps=110, rate=1e-2 if loaded else 1e-9)
    assert ("US505" in named) != loaded


def test_a_token_that_starts_near_0_does_not_hide_that_all_else_stands():
    class Pooled(nn.Module):
        def __init__(self):
            super().__init__()
            self.token, self.body = nn.Parameter(1e-6 * torch.randn(1, 16)), nn.Linear(16, 16)
            self.head = nn.Linear(16, 1)

        def forward(self, x):
            return self.head((self.body(x) + self.token).tanh())

    model, x = Pooled(), torch.randn(64, 16)
    loss = lambda: functional.mse_loss(model(x), x[:, :1])  # noqa: E731
    assert "US301" in found(model, loss, steps=60, rate=1e-6)


@pytest.mark.parametrize(("neighbours", "expected"), [(False, ["US706"]), (True, [])])
def test_groups_of_answers_that_the_policy_has_drawn_are_of_one_prompt(neighbours, expected):
    model = nn.Sequential(nn.Embedding(12, 16), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 12))

    def step():
        asked = torch.randperm(12)[:8, None]
        tokens = asked.repeat_interleave(4, 0) if neighbours else asked.repeat(4, 1)
        with torch.no_grad():
            for _ in range(3):
                tokens = torch.cat([tokens, torch.multinomial(model(tokens)[:, -1].softmax(-1), 1)], 1)
            gains = (tokens[:, 1:] == tokens[:, :1]).float().mean(1) + 0.1 * tokens[:, 0]
        grouped = gains.view(8, 4)
        advantages = (grouped - grouped.mean(1, keepdim=True)).flatten()
        odds = model(tokens)[:, :-1].log_softmax(-1).gather(-1, tokens[:, 1:, None])[..., 0].sum(1)
        return -((odds - odds.detach()).exp() * advantages).mean()

    assert [rule for rule in found(model, step) if rule == "US706"] == expected
