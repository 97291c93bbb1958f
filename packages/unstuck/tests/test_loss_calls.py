"""What a loss that is written by hand does with outputs and targets: US303, US506, US601 to US603, on real networks."""

import pytest
import torch
from torch import nn
from torch.nn import functional
from unstuck_support.layers import loud

import unstuck

X = torch.randn(64, 6)
MASKS = (torch.rand(64, 5) > 0.5).float()
SIGNS = 2 * MASKS - 1
KINDS = torch.randint(5, (64, 7))


def found(loss, targets, inputs=X, *layers, outputs=5):
    """Errors and warnings of a linear network."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, outputs), *layers)
    return loud(unstuck.diagnose(model, inputs, targets, loss))


def dice(outputs, targets):
    return 1 - (2 * (outputs * targets).sum() + 1) / (outputs.sum() + targets.sum() + 1)


def iou(outputs, targets):
    outputs, targets = outputs.flatten(), targets.flatten()
    both = (outputs * targets).sum()
    return 1 - both / ((outputs + targets).sum() - both)


def focal(outputs, targets):
    p = outputs.clamp(1e-6, 1 - 1e-6)
    return -(targets * (1 - p) ** 2 * p.log() + (1 - targets) * p**2 * (1 - p).log()).mean()


@pytest.mark.parametrize("loss", [dice, iou, focal])
def test_a_loss_of_probabilities_names_logits_and_accepts_a_sigmoid(loss):
    assert found(loss, MASKS) == ["US601"]
    assert found(loss, MASKS, X, nn.Sigmoid()) == []


@pytest.mark.parametrize("loss", [dice, iou])
def test_an_overlap_with_masks_of_bytes_is_out_of_reach(loss):
    assert found(loss, 255 * MASKS, X, nn.Sigmoid()) == ["US603"]


@pytest.mark.parametrize(
    "loss",
    [
        lambda o, y: ((o - y) * y).square().mean(),  # the mask of a regression
        lambda o, y: ((o * y).sum(1) - 1).square().mean(),  # the value of an action
        lambda o, y: (o.clamp(min=0) - o * y + (-o.abs()).exp().log1p()).mean(),  # a cross-entropy by hand
        lambda o, y: (o.clamp(-1.0, 1.0) - y).square().mean(),
    ],
)
def test_products_sums_and_clamps_of_other_losses_read_any_number(loss):
    assert found(loss, MASKS) == []


def test_the_log_probability_of_a_sample_times_the_advantage_of_all_broadcasts():
    advantage = torch.randn(64)
    assert found(lambda o, y: -(o * y).mean(), advantage, outputs=1) == ["US602"]
    assert found(lambda o, y: -(o.squeeze(1) * y).mean(), advantage, outputs=1) == []
    assert found(lambda o, y: -(o * y).mean(), torch.randn(5)) == []


def test_ctc_reads_log_probabilities():
    def loss(outputs, targets, read=lambda x: x):
        lengths = torch.full((7,), 64), torch.full((7,), 3)
        return functional.ctc_loss(read(outputs.unsqueeze(1).expand(64, 7, 5)), targets, *lengths)

    labels = torch.randint(1, 5, (7, 3))
    assert found(loss, labels) == ["US601"]
    assert found(lambda o, y: loss(o, y, lambda x: x.log_softmax(2)), labels) == []


SEQUENCES = torch.randn(64, 7, 6)
VIEWS = {
    "classes for steps": (lambda o, y: functional.cross_entropy(o.view(64, 5, 7), y), lambda o: o.transpose(1, 2)),
    "rows of channels": (
        lambda o, y: functional.cross_entropy(nn.Conv1d(5, 4, 1)(o.transpose(1, 2)).reshape(-1, 4), y.flatten() % 4),
        None,
    ),
}


def test_views_of_outputs_that_the_loss_reads_mix_axes():
    assert found(VIEWS["classes for steps"][0], KINDS, SEQUENCES) == ["US506"]
    right = VIEWS["classes for steps"][1]
    assert found(lambda o, y: functional.cross_entropy(right(o), y), KINDS, SEQUENCES) == []
    assert "US506" in found(VIEWS["rows of channels"][0], KINDS, SEQUENCES)


@pytest.mark.parametrize("held", [False, True])
def test_parameters_of_the_loss_need_an_optimizer(held):
    body, classifier = nn.Linear(6, 4), nn.Linear(4, 5, bias=False)
    own = [*body.parameters(), *(classifier.parameters() if held else [])]
    optimizer = torch.optim.Adam(own)
    with unstuck.Monitor(body, every=1) as monitor:
        for _ in range(4):
            optimizer.zero_grad()
            outputs = body(X)
            functional.cross_entropy(outputs @ functional.normalize(classifier.weight).T, KINDS[:, 0]).backward()
            optimizer.step()
    finding = [f for f in monitor.diagnosis().findings if f.rule == "US303"]
    assert [f.layers for f in finding] == ([] if held else [("normalize [5, 4]",)])


def test_a_pretrained_network_in_the_loss_needs_no_optimizer():
    body, features = nn.Linear(6, 6), nn.Sequential(*(nn.Linear(6, 6) for _ in range(3)))
    optimizer = torch.optim.Adam(body.parameters())
    with unstuck.Monitor(body, every=1) as monitor:
        for _ in range(4):
            optimizer.zero_grad()
            functional.mse_loss(features(body(X)), features(X).detach()).backward()
            optimizer.step()
    assert all(f.rule != "US303" for f in monitor.diagnosis().findings)


LABELS = torch.randint(5, (64,))
ONE_HOT = functional.one_hot(LABELS, 5).float()


def test_swapped_arguments_of_a_loss_of_classes_are_an_error():
    assert found(lambda o, y: functional.cross_entropy(y, o), ONE_HOT) == ["US601"]
    assert found(lambda o, y: functional.binary_cross_entropy(y, o.sigmoid()), MASKS)[0] == "US601"
    teacher = torch.randn(64, 5).log_softmax(1)  # the divergence in the other direction is meant
    assert found(lambda o, y: functional.kl_div(y, o.log_softmax(1), reduction="sum", log_target=True), teacher) == []
    assert found(lambda o, y: functional.mse_loss(y, o), ONE_HOT) == []


@pytest.mark.filterwarnings("ignore:Using a target size")
def test_the_logits_of_a_distribution_are_no_probabilities():
    def loss(outputs, actions):
        return -torch.distributions.Categorical(logits=outputs).log_prob(actions).mean()

    assert found(loss, LABELS, X, nn.Softmax(-1)) == ["US601"]
    assert found(loss, LABELS) == []
    assert found(lambda o, y: (o.logsumexp(1) - y).square().mean(), torch.randn(64), X, nn.Sigmoid()) == []


def test_a_difference_of_outputs_without_a_gradient_pairs_all_samples():
    model, returns = nn.Linear(4, 1), torch.randn(64)

    def loss(values, returns):
        advantage = returns - values.detach()
        return (advantage * values.squeeze(1)).mean() + (values.squeeze(1) - returns).square().mean()

    assert [f.rule for f in unstuck.diagnose(model, torch.randn(64, 4), returns, loss).findings] == ["US602"]


def binary_cross_entropy(p, t):
    p = p.clamp(1e-7, 1 - 1e-7)
    return -(t * p.log() + (1 - t) * (1 - p).log()).mean()


def summed_cross_entropy(p, t):
    return (-t * torch.log(p + 1e-8) - (1 - t) * torch.log(1 - p + 1e-8)).sum()


def weighted_cross_entropy(p, t):
    return -(3 * t * p.log() + (1 - t) * (1 - p).log()).mean()


@pytest.mark.parametrize("loss", [binary_cross_entropy, summed_cross_entropy])
def test_a_cross_entropy_by_hand_needs_labels_of_0_and_1(loss):
    model, x = nn.Sequential(nn.Linear(4, 1), nn.Sigmoid()), torch.randn(64, 4)
    labels = (x[:, :1] > 0).float()
    (compared,) = unstuck.diagnose(model, x, labels, loss).measurement.comparisons
    assert (compared.function, compared.reads, compared.low, compared.high) == ("binary_cross_entropy", 1, 0, 1)
    assert [f.rule for f in unstuck.diagnose(model, x, 3 * labels, loss).findings] == ["US603"]
    assert unstuck.diagnose(model, x, 3 * labels, weighted_cross_entropy).measurement.comparisons == ()
