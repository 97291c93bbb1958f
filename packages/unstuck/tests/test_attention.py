"""How much of an attention goes to one key, against calculations by hand."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional
from unstuck_support.measuring import Forward, measured

import unstuck


def smallest_share(weights, allowed):
    """The least of the heads of [B, H, Q, K]: 1 if all goes to one key, as mean over queries with several."""
    squares, counts = weights.detach().double().square().sum(-1), allowed.double()
    known = counts.expand(squares.shape) > 1
    shares = (squares - 1 / counts) / (1 - 1 / counts)
    return min(float(shares[:, h][known[:, h]].mean()) for h in range(weights.shape[1]))


def share(model, inputs):
    (found,) = measured(model, inputs).answers["attentions"]
    return found["share"]


def project(attention, x):
    """Queries and keys by head, as MultiheadAttention makes them."""
    q, k, _ = functional.linear(x, attention.in_proj_weight, attention.in_proj_bias).chunk(3, -1)
    heads, width = attention.num_heads, x.shape[-1] // attention.num_heads
    return [t.view(*x.shape[:2], heads, width).transpose(1, 2) for t in (q, k)]


MASKS = ["none", "causal and sent on", "float", "float padding", "both", "by head"]


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("kind", MASKS)
def test_the_share_of_multihead_attention_equals_a_calculation_by_hand(kind, batch_first):
    steps = 6
    attention = nn.MultiheadAttention(8, 2, batch_first=batch_first)
    with torch.no_grad():
        attention.in_proj_weight.mul_(4)
    x = torch.randn(4, steps, 8)
    causal = torch.triu(torch.ones(steps, steps, dtype=torch.bool), 1)
    padding = torch.arange(steps) >= torch.tensor([6, 4, 3, 1])[:, None]
    given, hidden = {}, torch.zeros(4, 2, steps, steps, dtype=torch.bool)
    if kind == "both":
        given["attn_mask"], hidden = causal, hidden | causal
    if kind == "causal and sent on":
        given.update(attn_mask=causal, is_causal=True, need_weights=False)
        hidden = hidden | causal
    if kind == "float":
        given["attn_mask"], hidden = torch.zeros(steps, steps).masked_fill(causal, -math.inf), hidden | causal
    if kind == "by head":
        own = torch.rand(8, steps, steps) > 0.5
        own |= torch.eye(steps, dtype=torch.bool)
        given["attn_mask"], hidden = ~own, ~own.view(4, 2, steps, steps)
    if kind == "both":
        given["key_padding_mask"], hidden = padding, hidden | padding[:, None, None]
    if kind == "float padding":
        given["key_padding_mask"] = torch.zeros(4, steps).masked_fill(padding, -1e4)
        hidden = hidden | padding[:, None, None]

    def forward(s, x):
        x = x if batch_first else x.transpose(0, 1)
        return s.attention(x, x, x, **given)[0]

    q, k = project(attention, x)
    scores = (q @ k.transpose(-1, -2) / 2).masked_fill(hidden, -math.inf)
    expected = smallest_share(scores.softmax(-1), (~hidden).sum(-1))
    assert share(Forward(forward, attention=attention), x) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("kind", ["none", "causal", "bool", "float", "grouped", "scale"])
@pytest.mark.parametrize("written", ["fused", "by hand"])
def test_the_share_of_dot_product_attention_equals_a_calculation_by_hand(kind, written):
    heads = 2 if kind == "grouped" else 4
    q, k, v = torch.randn(4, 4, 6, 8), torch.randn(4, heads, 7, 8), torch.randn(4, heads, 7, 256)
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
    scores = scores.masked_fill(hidden, -math.inf)
    expected = smallest_share(scores.softmax(-1), (~hidden).sum(-1).expand(4, 4, 6))

    def fused(s, q, k, v):
        return functional.scaled_dot_product_attention(q * s.one, k, v, **given)

    def by_hand(s, q, k, v):
        many = (t.repeat_interleave(4 // heads, 1) for t in (k, v))
        k, v = many
        scores = (s.one * q @ k.transpose(-1, -2) * scale).masked_fill(hidden, -1e4)
        return scores.softmax(dim=-1) @ v

    model = Forward(fused if written == "fused" else by_hand, one=torch.ones(()))
    estimate = 0.03 if written == "fused" else 1e-5  # from random signs
    assert share(model, (q, k, v)) == pytest.approx(expected, abs=estimate)


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_dropout_and_half_precision_make_no_attention_narrow(dropout, half):
    q, k, v = torch.randn(16, 4, 256, 16), 0.1 * torch.randn(16, 4, 32, 16), torch.randn(16, 4, 32, 16)
    if half:
        q, k, v = q.bfloat16(), k.bfloat16(), v.bfloat16()

    def forward(s, q, k, v):
        return functional.scaled_dot_product_attention(q * s.one.to(q.dtype), k, v, None, dropout)

    assert share(Forward(forward, one=torch.ones(())), (q, k, v)) < 0.1


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
