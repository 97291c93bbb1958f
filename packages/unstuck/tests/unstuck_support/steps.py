"""Ways to make a training step; all have the gradient of the loss of the whole batch."""

from functools import partial

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


def loss_of(model, batch):
    return nn.functional.cross_entropy(model(batch[0]).float(), batch[1])


def _clipped(model, batch, optimizer):
    loss_of(model, batch).backward()
    assert nn.utils.clip_grad_norm_(model.parameters(), 1e-3) > 1e-3


def _after_a_skipped_one(model, batch, optimizer, *, between, set_to_none):
    loss_of(model, (batch[0] * 3, batch[1])).mul(50).backward()
    if not between:
        optimizer.zero_grad(set_to_none=set_to_none)
    loss = loss_of(model, batch)
    optimizer.zero_grad(set_to_none=set_to_none)
    loss.backward()


def _emptied_before_a_second_pass_through_one_graph(model, batch, optimizer):
    loss = loss_of(model, batch)
    (30 * loss).backward(retain_graph=True)
    optimizer.zero_grad()
    loss.backward()


def _two_passes_through_one_graph(model, batch, optimizer):
    losses = nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none")
    share = torch.rand(len(losses))
    (losses * share).mean().backward(retain_graph=True)
    (losses * (1 - share)).mean().backward()


def _among_evaluations(model, batch, optimizer):
    with torch.no_grad():
        model(5 * batch[0])
    model(5 * batch[0][:7])  # with gradients, but nothing comes back
    loss = loss_of(model, batch)
    model.eval()
    with torch.inference_mode():
        model(5 * batch[0])
    model(5 * batch[0][:9]).sum()
    model.train()
    loss.backward()


def _checkpointed(model, batch, optimizer):
    nn.functional.cross_entropy(checkpoint(model, batch[0], use_reentrant=False), batch[1]).backward()


def _in_parts(model, batch, optimizer):
    nn.functional.cross_entropy(model[4:](model[:4](batch[0])), batch[1]).backward()


WAYS = {
    "clipped": _clipped,
    "checkpointed": _checkpointed,
    "in parts": _in_parts,
    "emptied before a second pass through one graph": _emptied_before_a_second_pass_through_one_graph,
    "two passes through one graph": _two_passes_through_one_graph,
    "among evaluations": _among_evaluations,
} | {
    f"after a step that the user skipped, {between=}, {set_to_none=}": partial(
        _after_a_skipped_one, between=between, set_to_none=set_to_none
    )
    for between, set_to_none in ((False, True), (True, False), (True, True))
}


def scale_grows(model, batch, optimizer, scaler, unscale):
    """Four steps under a gradient scaler of the scale 2**12, which doubles every second step."""
    for _ in range(4):
        optimizer.zero_grad()
        scaler.scale(loss_of(model, batch)).backward()
        if unscale:
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
        scaler.step(optimizer)
        scaler.update()
    assert scaler.get_scale() == 2.0**14


def residual(model, x):
    """(u'' - u)^2 with derivatives by `torch.autograd.grad`: what a physics-informed loss does."""
    x = x.clone().requires_grad_()
    u = model(x)[:, 0]
    first = torch.autograd.grad(u.sum(), x, create_graph=True)[0]
    second = torch.autograd.grad(first.sum(), x, create_graph=True)[0]
    return (second.sum(1) - u).square().mean()


def functional_derivatives(model, x):
    """By `torch.func`: of second order, in forward mode, and by the first weight."""
    parameters = dict(model.named_parameters())
    _, tangents = torch.func.jvp(model, (x,), (torch.ones_like(x),))
    second = torch.func.vmap(torch.func.hessian(lambda x: model(x)[0]))(x)
    by_weights = torch.func.grad(lambda p: torch.func.functional_call(model, p, x).sum())(parameters)
    return torch.cat([part.flatten() for part in (tangents, second, by_weights["0.weight"])])


def in_vmap(model, batch, optimizer):
    """A step in `vmap`, where no hook sees the gradients."""
    optimizer.zero_grad()
    torch.func.vmap(model)(batch[0]).square().mean().backward()
    optimizer.step()
