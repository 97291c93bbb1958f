"""The report of convert: a line for each reason within 80 columns."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import sigmoidcore as sc


class Branching(nn.Module):
    """Its forward branches on a value, and calls activations in every spelling, in a helper, too."""

    def __init__(self):
        super().__init__()
        self.linear, self.act = nn.Linear(4, 4), nn.Tanh()

    def forward(self, x):
        if x.sum() > 0:
            x = torch.tanh(self.linear(x))
        return self.head(self.act(x)) + F.sigmoid(input=x)

    def head(self, x):
        return x.sigmoid()


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(*[m for _ in range(5) for m in (nn.Linear(4, 4), nn.Tanh())])
        self.inner, self.end, self.out = Branching(), nn.Linear(4, 1), nn.Sigmoid()

    def forward(self, x):
        return self.out(self.end(self.body(x)) + self.inner(x))


def test_the_report_has_a_line_for_each_reason_and_fits_in_80_columns():
    report = sc.convert(Model())
    assert report.unseen == (("inner", "it branches on a value"),)
    lines = str(report).splitlines()
    assert lines[:10] == [
        "converted 5 of 7 activations",
        "  converted  body.1, body.3, body.5 and 2 more  Tanh",
        "             hidden",
        "  left       inner.act                          Tanh",
        "             what reads it is not known: the forward of 'inner' cannot be",
        "             traced; name it in include= if a layer does",
        "  left       out                                Sigmoid",
        "             its result reaches the model's output",
        "  not seen   inner                              forward",
        "             it branches on a value",
    ]
    assert "self.tanh = nn.Tanh()" in " ".join(lines[10:])
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize(("depth", "centered", "said"), [(10, False, False), (11, False, True), (11, True, False)])
def test_many_cores_that_are_not_centered_are_named_with_the_remedy(depth, centered, said):
    layers = [m for _ in range(depth) for m in (nn.Linear(4, 4), nn.Sigmoid())]
    report = str(sc.convert(nn.Sequential(*layers, nn.Linear(4, 1)), centered=centered))
    assert ("11 cores are not centered" in report and "sc.convert(model, centered=True)" in report) == said


def test_a_model_without_activations_has_an_empty_report():
    report = sc.convert(nn.Linear(2, 2))
    assert report.activations == ()
    assert str(report) == "converted 0 of 0 activations"
