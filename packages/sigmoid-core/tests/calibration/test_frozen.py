"""prepare and frozen weights: what somebody has trained is kept."""

import pytest
import torch
from torch import nn

from sigmoidcore import MLP, convert, prepare
from sigmoidcore.nn.recurrent import CoreLSTM

KEPT = "requires_grad=False were kept"


@pytest.mark.parametrize("frozen", [[0], [2], [6], [0, 2, 4, 6]])
def test_prepare_keeps_frozen_weights_bit_for_bit_replaces_the_others_and_says_so(frozen):
    model = MLP(8, 16, 3, 3)
    for i in frozen:
        model[i].requires_grad_(False)
    before = {i: model[i].weight.detach().clone() for i in (0, 2, 4, 6)}
    report = prepare(model, torch.randn(100, 8))
    for i, weight in before.items():
        assert torch.equal(model[i].weight, weight) == (i in frozen)
    assert any(KEPT in note for note in report.notes)
    if 0 not in frozen:  # otherwise the saturation level fixes the first core's slope, as the report says
        assert report.after.spread < 1.3


def test_without_frozen_weights_there_is_no_note():
    assert not any(KEPT in note for note in prepare(MLP(8, 16, 3, 3), torch.randn(100, 8)).notes)


def test_prepare_keeps_a_frozen_recurrent_layer():
    class Tagger(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm, self.head = nn.LSTM(4, 16, batch_first=True), nn.Linear(16, 2)

        def forward(self, x):
            return self.head(self.lstm(x)[0])

    model = Tagger()
    convert(model)
    assert isinstance(model.lstm, CoreLSTM)
    model.lstm.requires_grad_(False)
    before = model.lstm.weight_hh_l0.clone()
    prepare(model, torch.randn(10, 12, 4))
    assert torch.equal(model.lstm.weight_hh_l0, before)
