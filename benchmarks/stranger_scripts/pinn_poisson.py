import math

import torch
import torch.nn as nn

torch.manual_seed(0)

# heat in a rod:  u''(x) = -f(x) on [0, 1],  u(0) = 0,  u(1) = 1


def source(x):
    return math.pi ** 2 * torch.sin(math.pi * x)


def exact(x):
    return torch.sin(math.pi * x) + x


class PINN(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(1, 24), nn.Tanh(),
            nn.Linear(24, 24), nn.Tanh(),
            nn.Linear(24, 1),
        )

    def forward(self, x):
        return self.net(x)


def residual(model, x):
    x.requires_grad_(True)
    u = model(x)
    ones = torch.ones_like(u)
    u_x = torch.autograd.grad(u, x, grad_outputs=ones, create_graph=True)[0]
    u_xx = torch.autograd.grad(u_x, x, grad_outputs=ones)[0]
    return u_xx + source(x)


model = PINN()
optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
x_bc = torch.tensor([[0.0], [1.0]])
u_bc = torch.tensor([[0.0], [1.0]])

for step in range(1001):
    x = torch.rand(64, 1)
    loss_pde = residual(model, x).pow(2).mean()
    loss_bc = (model(x_bc) - u_bc).pow(2).mean()
    loss = loss_pde + 20 * loss_bc
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 200 == 0:
        print(f"step {step:5d}  pde {loss_pde.item():.5f}  bc {loss_bc.item():.6f}")

with torch.no_grad():
    grid = torch.linspace(0, 1, 201).unsqueeze(1)
    err = (model(grid) - exact(grid)).norm() / exact(grid).norm()
print(f"relative L2 error of the solution: {err.item():.4f}")
