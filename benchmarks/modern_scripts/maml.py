"""MAML on sines, functional inner steps: python maml.py [STEPS]."""

import sys

import torch
from torch import nn
from torch.func import functional_call

STEPS = int(sys.argv[1]) if len(sys.argv) > 1 else 1500
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(1, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 1))
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
for _ in range(STEPS):
    total = torch.zeros(())
    for _task in range(4):
        size, shift = 0.1 + 4.9 * torch.rand(()), torch.pi * torch.rand(())
        x = 10 * torch.rand(2, 10, 1) - 5
        y = size * torch.sin(x + shift)
        weights = dict(model.named_parameters())
        loss = nn.functional.mse_loss(functional_call(model, weights, (x[0],)), y[0])
        gradients = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
        moved = {name: w - 0.01 * g for (name, w), g in zip(weights.items(), gradients, strict=True)}
        total = total + nn.functional.mse_loss(functional_call(model, moved, (x[1],)), y[1])
    optimizer.zero_grad()
    total.backward()
    optimizer.step()
