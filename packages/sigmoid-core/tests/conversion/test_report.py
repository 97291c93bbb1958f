"""The report of convert: a line for each reason within 80 columns, and the change that makes a call a module."""

import inspect

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

    def unused(self, x):
        return torch.tanh(x)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(*[m for _ in range(5) for m in (nn.Linear(4, 4), nn.Tanh())])
        self.inner, self.end, self.out = Branching(), nn.Linear(4, 1), nn.Sigmoid()

    def forward(self, x):
        return self.out(self.end(self.body(x)) + self.inner(x))


def line_of(text):
    lines, first = inspect.getsourcelines(Branching)
    return first + next(i for i, line in enumerate(lines) if text in line)


def test_a_call_that_cannot_be_followed_is_reported_with_its_line_and_the_change_that_makes_it_a_module():
    report = sc.convert(Model())
    assert report.unseen == (("inner", "it branches on a value"),)
    assert [(call.module, call.line, call.code, call.definition, call.replacement) for call in report.calls] == [
        (
            "inner",
            line_of("torch.tanh(self.linear"),
            "torch.tanh(self.linear(x))",
            "self.tanh = nn.Tanh()",
            "self.tanh(self.linear(x))",
        ),
        ("inner", line_of("F.sigmoid"), "F.sigmoid(input=x)", "self.sigmoid = nn.Sigmoid()", "self.sigmoid(x)"),
        ("inner", line_of("x.sigmoid()"), "x.sigmoid()", "self.sigmoid = nn.Sigmoid()", "self.sigmoid(x)"),
    ]
    assert all(call.file.endswith("test_report.py") for call in report.calls)


def test_the_report_has_a_line_for_each_reason_and_fits_in_80_columns():
    report = sc.convert(Model())
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
    assert lines[10] == "To make cores of these calls, write them as modules:"
    assert lines[12:14] == [
        "    in __init__: self.tanh = nn.Tanh()",
        "    in forward:  self.tanh(self.linear(x))",
    ]
    calls = slice(11, None, 3)  # with the path of their file
    del lines[calls]
    assert max(map(len, lines)) <= 80


def test_a_call_whose_forward_cannot_be_rewritten_is_reported_with_the_change_too():
    class Detached(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 1)

        def forward(self, x):
            with torch.no_grad():
                x = self.a(x)
            return self.b(torch.tanh(x))

    report = sc.convert(Detached())
    assert report.left == ("tanh",)
    assert [(call.module, call.code) for call in report.calls] == [("", "torch.tanh(x)")]
    assert "    in forward:  self.tanh(x)" in str(report)


def test_a_forward_without_source_is_reported_without_lines():
    namespace = {"torch": torch, "nn": nn}
    exec("class Net(nn.Module):\n    def forward(self, x):\n        return torch.tanh(x) if x.sum() else x", namespace)
    report = sc.convert(namespace["Net"]())
    assert report.unseen == (("", "it branches on a value"),)
    assert report.calls == ()


def test_a_model_without_activations_has_an_empty_report():
    report = sc.convert(nn.Linear(2, 2))
    assert report.activations == ()
    assert str(report) == "converted 0 of 0 activations"
