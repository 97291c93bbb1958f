"""How much of an attention goes to one key, against calculations by hand."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional
from unstuck_support.layers import rules, training
from unstuck_support.measuring import Forward, measured

import unstuck
from unstuck.measure.measurement import Comparison
from unstuck.rules.attention import ONE_KEY


def share(model, inputs):
    (found,) = measured(model, inputs).answers["attentions"]
    return found["share"]


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("kind", ["none", "causal and sent on", "float", "float padding", "both", "by head"])
def test_multihead_attention_is_as_narrow_as_its_weights_are_large(kind, batch_first):
    steps, given = 6, {}
    causal = torch.triu(torch.ones(steps, steps, dtype=torch.bool), 1)
    padding = torch.arange(steps) >= torch.tensor([6, 4, 3, 1])[:, None]
    if kind == "both":
        given.update(attn_mask=causal, key_padding_mask=padding)
    if kind == "causal and sent on":
        given.update(attn_mask=causal, is_causal=True, need_weights=False)
    if kind == "float":
        given["attn_mask"] = torch.zeros(steps, steps).masked_fill(causal, -math.inf)
    if kind == "by head":
        given["attn_mask"] = (torch.rand(8, steps, steps) < 0.5) & ~torch.eye(steps, dtype=torch.bool)
    if kind == "float padding":
        given["key_padding_mask"] = torch.zeros(4, steps).masked_fill(padding, -1e4)

    def forward(s, x):
        x = x if batch_first else x.transpose(0, 1)
        return s.attention(x, x, x, **given)[0]

    attention = nn.MultiheadAttention(8, 2, dropout=0.2, batch_first=batch_first)
    for factor, narrow in ((1, False), (40, True)):
        with torch.no_grad():
            attention.in_proj_weight[:16] *= factor
        found = share(Forward(forward, attention=attention), torch.randn(4, steps, 8))
        assert (found > ONE_KEY) is narrow, found


@pytest.mark.parametrize("kind", ["none", "causal", "bool", "float", "grouped", "scale"])
@pytest.mark.parametrize("written", ["fused", "by hand"])
def test_the_share_of_dot_product_attention_equals_a_calculation_by_hand(kind, written):
    heads = 2 if kind == "grouped" else 4
    q, k, v = torch.randn(4, 4, 6, 8), torch.randn(4, heads, 7, 8), torch.randn(4, heads, 7, 16)
    hidden, given, scale = torch.zeros(6, 7, dtype=torch.bool), {}, 8**-0.5
    if kind == "causal":
        hidden, given = torch.triu(torch.ones(6, 7, dtype=torch.bool), 1), {"is_causal": True}
    if kind in ("bool", "float"):
        hidden = torch.rand(4, 1, 6, 7) > 0.6
        hidden[..., 0] = False
        given = {"attn_mask": ~hidden if kind == "bool" else hidden * -1e9}
    if kind == "grouped":
        given = {"enable_gqa": True}
    if kind == "scale":
        given, scale = {"scale": 3.0}, 3.0
    scores = q @ k.repeat_interleave(4 // heads, 1).transpose(-1, -2) * scale
    values = torch.eye(7) if written == "by hand" else v.repeat_interleave(4 // heads, 1)
    equal, own, sharper = ((f * scores).masked_fill(hidden, -math.inf).softmax(-1) @ values for f in (0, 1, 2))
    expected = 1 - float((sharper - own).abs().sum() / (equal - own).abs().sum())

    def fused(s, q, k, v):
        return functional.scaled_dot_product_attention(q * s.one, k, v, **given)

    def by_hand(s, q, k, v):
        many = (t.repeat_interleave(4 // heads, 1) for t in (k, v))
        k, v = many
        scores = (s.one * q @ k.transpose(-1, -2) * scale).masked_fill(hidden, -1e4)
        return scores.softmax(dim=-1) @ v

    model = Forward(fused if written == "fused" else by_hand, one=torch.ones(()))
    assert share(model, (q, k, v)) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_dropout_and_half_precision_make_no_attention_narrow(dropout, half):
    q, k, v = torch.randn(16, 4, 256, 16), 0.1 * torch.randn(16, 4, 32, 16), torch.randn(16, 4, 32, 16)
    if half:
        q, k, v = q.bfloat16(), k.bfloat16(), v.bfloat16()

    def forward(s, q, k, v):
        return functional.scaled_dot_product_attention(q * s.one.to(q.dtype), k, v, None, dropout)

    assert share(Forward(forward, one=torch.ones(())), (q, k, v)) < 0.1


def test_queries_of_a_single_key_and_equal_keys_are_no_collapse():
    def forward(s, q, k, v):
        return functional.scaled_dot_product_attention(q * s.one, k, v)

    q, v = torch.randn(4, 2, 6, 8), torch.randn(4, 2, 5, 8)
    model = Forward(forward, one=torch.ones(()))
    assert share(model, (q, v[:, :, :1], v[:, :, :1])) == 0
    assert share(model, (q, torch.ones(4, 2, 5, 8), v)) == 0


def test_of_two_attentions_in_a_module_the_one_is_named_that_has_collapsed():
    def forward(s, q, k, v):
        wide = functional.scaled_dot_product_attention(q * s.one, k, v)
        return wide + functional.scaled_dot_product_attention(100 * q * s.one, k, v)

    model = Forward(forward, one=torch.ones(()))
    found = unstuck.diagnose(model, (torch.randn(4, 4, 6, 8), torch.randn(4, 4, 7, 8), torch.randn(4, 4, 7, 8)))
    (finding,) = (f for f in found.findings if f.rule == "US204")
    assert finding.layers == ("scaled_dot_product_attention@2",)


class Own(nn.MultiheadAttention):
    pass


def test_a_subclass_is_named_also_if_a_head_sees_one_key_only():
    attention = Own(8, 2, batch_first=True)
    with torch.no_grad():
        attention.in_proj_weight.mul_(30)
    first = torch.ones(5, 5, dtype=torch.bool)
    first[:, 0] = False
    hidden = torch.stack([torch.zeros_like(first), first]).repeat(4, 1, 1)
    model = Forward(lambda s, x: s.attention(x, x, x, attn_mask=hidden)[0], attention=attention)
    found = unstuck.diagnose(model, torch.randn(4, 5, 8))
    assert [f.layers for f in found.findings if f.rule == "US204"] == [("attention",)]


def attending(at_first, losses):
    """A training whose attention goes to one key, as much as at first or not."""
    known = [{"module": "blocks.0", "number": 0, "weighted": True, "share": 0.99, "at_first": at_first}]
    return [replace(m, answers={"attentions": known}) for m in training([0.01] * 12, losses)]


@pytest.mark.parametrize(
    ("at_first", "losses", "expected"),
    [
        (1.0, [2.3] * 12, ["US204"]),
        (0.2, [2.3] * 12, ["US204"]),
        (0.2, [2.3 * 0.96**i for i in range(12)], []),
        (0.05, [0.77, 0.5] + [0.48, 0.52] * 5, []),
    ],
    ids=["from the start", "stands still", "learns", "has learned"],
)
def test_attention_that_has_learned_one_key_is_a_note_unless_nothing_is_learned(at_first, losses, expected):
    assert rules(*attending(at_first, losses)) == expected


@pytest.mark.parametrize(("last", "expected"), [(2.2, ["US204"]), (1.4, [])], ids=["to chance", "below"])
def test_a_loss_that_falls_from_far_above_chance_must_fall_below_it(last, expected):
    steps = attending(1.0, torch.linspace(30, last, 12).tolist())
    ten = Comparison("cross_entropy", shape=(32, 10), target_shape=(32,), classes=True, varied=True)
    assert rules(*(replace(m, comparisons=(ten,)) for m in steps)) == expected
    assert rules(*steps) == []  # of another loss, chance is not known
