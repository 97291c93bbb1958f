"""CoreRNN: prepared, its gradient lasts in time, and it keeps the length of the sequences for its learning rate."""

import pytest
import torch
from torch import nn

import sigmoidcore as sc
from sigmoidcore.nn import CoreRNN

STEPS, FEATURES, HIDDEN = 50, 3, 32


class Classifier(nn.Module):
    """The last output of a recurrent layer through a Linear head."""

    def __init__(self):
        super().__init__()
        self.rnn = CoreRNN(FEATURES, HIDDEN, batch_first=True)
        self.head = nn.Linear(HIDDEN, 4)

    def forward(self, x):
        return self.head(self.rnn(x)[0][:, -1])


@pytest.fixture
def prepared():
    model, inputs = Classifier(), torch.randn(100, STEPS, FEATURES)
    return model, inputs, sc.prepare(model, inputs)


def test_the_equalizer_refuses_a_model_of_recurrent_cores_only():
    model = Classifier()
    with pytest.raises(ValueError, match="recurrent cores only"):
        sc.Equalizer(model, torch.optim.Adam(model.parameters()))


def test_prepare_makes_the_gradient_keep_its_size_through_time(prepared):
    model, _, report = prepared
    assert report.after.names == tuple(f"rnn[{t}]" for t in range(STEPS))
    assert report.after.spread < 10
    assert report.before.spread > 30 * report.after.spread
    unseen = sc.gradient_profile(model, torch.randn(100, STEPS, FEATURES))
    assert unseen.spread < 10


def test_prepare_makes_the_hidden_weights_orthogonal_and_remembers_the_number_of_steps(prepared):
    rnn = prepared[0].rnn
    torch.testing.assert_close(rnn.weight_hh_l0 @ rnn.weight_hh_l0.T, torch.eye(HIDDEN), rtol=0, atol=1e-5)
    assert int(rnn.steps) == STEPS
    assert not bool(rnn.bias_ih_l0.any())


@pytest.mark.parametrize("saturation", [0.3, 0.5, 1.0])
def test_prepare_sets_the_saturation_level_over_time(saturation):
    model, inputs = Classifier(), torch.randn(200, STEPS, FEATURES)
    report = sc.prepare(model, inputs, saturation=saturation)
    seen = []
    with torch.no_grad():
        model.rnn.run_stepwise(inputs, on_step=lambda t, h: seen.append(h))
    z = 2 * torch.atanh(torch.stack(seen))
    assert float((z - z.mean((0, 1))).square().mean().sqrt()) == pytest.approx(saturation, rel=0.15)
    assert float(report.levels[0]) == pytest.approx(saturation, rel=0.15)


def test_a_state_dict_has_the_number_of_steps_and_that_of_a_plain_layer_resets_it(prepared):
    model, other = prepared[0], Classifier()
    other.load_state_dict(model.state_dict())
    assert int(other.rnn.steps) == STEPS
    other.load_state_dict(dict(model.named_parameters()))
    assert (int(other.rnn.steps), other.rnn.slope_l0.tolist()) == (0, [2.0] * HIDDEN)
