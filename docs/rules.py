"""Writes rules.md, beside this script: a section for each rule, from the docstring of its check and an example here."""

import inspect
import re
from collections import ChainMap
from pathlib import Path

from unstuck.rules import RULES, Rule, standstill

GROUPS = {
    "US1": "The gradient on its way",
    "US2": "Neurons",
    "US3": "Updates",
    "US4": "Numbers",
    "US5": "Structure",
    "US6": "The loss",
}

HEAD = """# What a diagnosis can find

<!-- Written by docs/rules.py from unstuck.rules; a test compares the two. -->
<!-- all run by packages/unstuck/tests/test_rules.py -->

`unstuck.diagnose` measures one batch, `unstuck.Monitor` a training ([API](api.md)). The rules turn measurements into findings.
Thresholds are ratios or follow from arithmetic, so width, batch size, the scale of the loss and the dtype do not matter
to a healthy network.

**Errors** and **warnings** mean that a network is broken; **notes** are facts worth knowing. A rule gives at most one
finding, which names all its layers. A finding is left out if an error or a warning of another rule explains it (column
"explained by"). Findings of US101 to US104, US201 to US204, US307 and US507 are notes if the loss is small
nevertheless: below a tenth of that of a constant answer or, if that is not known, below a fiftieth of the first one.
Findings of US101, US102, US201 to US203, US503 and US607 also have a call that draws weights for the activations, if the
weights are as they were initialised. With Sigmoid Core installed, networks of sigmoids get its calls instead.

The words are those of [the method](method.md). A *layer* is one call of a function with weights, of an activation or of
a softmax. The layers *before* it are all that lead to it. A *sink* is a layer with weights that feeds no other one: it
feeds the loss.

"""

EXAMPLES_HEAD = """
The examples are broken on purpose. Each makes a `model`, for

```python
import torch
from torch import nn

import unstuck

inputs, targets = torch.randn(128, 64), torch.randint(10, (128,))
loss_fn = nn.functional.cross_entropy
# ... an example from below
print(unstuck.diagnose(model, inputs, targets, loss_fn))
```

unless it changes these, or makes its own `diagnosis` from a training.
"""

EXAMPLES = {
    "US101": """
model = nn.Sequential(*(m for _ in range(20) for m in (nn.Linear(64, 64), nn.Sigmoid())), nn.Linear(64, 10))
""",
    "US102": """
model = nn.Sequential(*(m for _ in range(20) for m in (nn.Linear(64, 64), nn.ReLU())), nn.Linear(64, 10))
with torch.no_grad():
    for p in model.parameters():
        p.mul_(6)
""",
    "US103": """
class Last(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.head = nn.LSTM(8, 64, batch_first=True), nn.Linear(64, 10)

    def forward(self, x):
        return self.head(self.lstm(x)[0][:, -1])

model, inputs = Last(), torch.randn(128, 100, 8)
""",
    "US104": """
class Last(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn, self.head = nn.RNN(8, 64, nonlinearity="relu", batch_first=True), nn.Linear(64, 10)
        nn.init.orthogonal_(self.rnn.weight_hh_l0, gain=2.5)

    def forward(self, x):
        return self.head(self.rnn(x)[0][:, -1])

model, inputs = Last(), torch.randn(128, 50, 8)
""",
    "US201": """
model = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10))
with torch.no_grad():
    model[2].bias.add_(20)
""",
    "US202": """
model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
with torch.no_grad():
    model[2].bias.sub_(20)
""",
    "US203": """
model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
with torch.no_grad():
    model[0].bias.add_(10_000)
""",
    "US204": """
class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.query, self.key, self.value = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 16)
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        scores = 1000 * self.query(x) @ self.key(x).mT
        return self.head((scores.softmax(-1) @ self.value(x)).mean(1))

model, inputs = Attention(), torch.randn(128, 24, 16)
""",
    "US205": """
model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
inputs = inputs + 1000
""",
    "US206": """
model = nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 64))
inputs = 255 * torch.rand(128, 64)
targets, loss_fn = inputs / 255, nn.functional.mse_loss
""",
    "US301": """
model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
optimizer = torch.optim.Adam(model.parameters(), lr=1e-9)
with unstuck.Monitor(model, every=1) as monitor:
    for _ in range(5):
        optimizer.zero_grad()
        loss_fn(model(inputs), targets).backward()
        optimizer.step()
diagnosis = monitor.diagnosis()
""",
    "US302": """
model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
optimizer = torch.optim.Adam(model.parameters(), lr=1.0)
with unstuck.Monitor(model, every=1) as monitor:
    for _ in range(5):
        optimizer.zero_grad()
        loss_fn(model(inputs), targets).backward()
        optimizer.step()
diagnosis = monitor.diagnosis()
""",
    "US303": """
model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
optimizer = torch.optim.SGD(model[2].parameters(), lr=0.1)
with unstuck.Monitor(model, every=1) as monitor:
    for _ in range(5):
        optimizer.zero_grad()
        loss_fn(model(inputs), targets).backward()
        optimizer.step()
diagnosis = monitor.diagnosis()
""",
    "US304": """
model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
with unstuck.Monitor(model, every=1) as monitor:
    for _ in range(5):
        loss_fn(model(inputs), targets).backward()
diagnosis = monitor.diagnosis()
""",
    "US305": """
model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
with unstuck.Monitor(model, every=1) as monitor:
    for _ in range(5):
        loss_fn(model(inputs), targets).backward()
        optimizer.step()
diagnosis = monitor.diagnosis()
""",
    "US306": """
model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
with unstuck.Monitor(model, every=1) as monitor:
    for i in range(20):
        last = i % 4 == 3
        if last:
            optimizer.zero_grad()
        loss_fn(model(inputs), targets).backward()
        if last:
            optimizer.step()
diagnosis = monitor.diagnosis()
""",
    "US307": """
model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
optimizer = torch.optim.SGD(model.parameters(), lr=0.01, weight_decay=5.0)
with unstuck.Monitor(model, every=1) as monitor:
    for _ in range(6):
        optimizer.zero_grad()
        loss_fn(model(inputs), targets).backward()
        optimizer.step()
diagnosis = monitor.diagnosis()
""",
    "US308": """
model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
with unstuck.Monitor(model, every=1) as monitor:
    for _ in range(6):
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        for _ in range(3):
            optimizer.zero_grad()
            loss_fn(model(inputs), targets).backward()
            optimizer.step()
diagnosis = monitor.diagnosis()
""",
    "US309": """
model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))
rewards, targets = torch.randn(128, 1), torch.randn(128, 64)

def loss_fn(values, next_inputs):
    return nn.functional.mse_loss(values, rewards + 0.9 * model(next_inputs))
""",
    "US401": """
class Root(nn.Module):
    def forward(self, x):
        return x.sqrt()

model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), Root(), nn.Linear(64, 10))
""",
    "US402": """
model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)).half()
with torch.no_grad():
    model[0].bias[0] = 50_000
    model[2].weight[:, 0] = 0
inputs = inputs.half()
""",
    "US403": """
model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)).half()
inputs = inputs.half()

def loss_fn(outputs, targets):
    return 1e-4 * nn.functional.cross_entropy(outputs, targets)
""",
    "US501": """
class Cut(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(64, 64), nn.Linear(64, 10)

    def forward(self, x):
        return self.last(torch.relu(self.first(x)).detach())

model = Cut()
""",
    "US502": """
class Rounded(nn.Module):
    def forward(self, x):
        return x.round()

model = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), Rounded(), nn.Linear(64, 10))
""",
    "US503": """
model = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10))
for p in model.parameters():
    nn.init.constant_(p, 0.01)
""",
    "US504": """
class Listed(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = [nn.Linear(64, 64), nn.Linear(64, 64)]
        self.head = nn.Linear(64, 10)

    def forward(self, x):
        for layer in self.layers:
            x = torch.relu(layer(x))
        return self.head(x)

model = Listed()
""",
    "US505": """
model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
nn.init.orthogonal_(model[0].weight)  # stands for a pretrained layer
model[:3].requires_grad_(False)
""",
    "US506": """
class Centred(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(64, 64), nn.Linear(64, 10)

    def forward(self, x):
        return self.last(torch.relu(self.first(x - x.mean(0))))

model = Centred()
""",
    "US507": """
model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
""",
    "US508": """
class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.head = nn.Embedding(50, 32), nn.Linear(32, 10)
        self.encoder = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)

    def forward(self, words):
        return self.head(self.encoder(self.embedding(words)).mean(1))

model, inputs = Words(), torch.randint(50, (128, 12))
""",
    "US509": """
model = nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64, momentum=0.0), nn.ReLU(), nn.Linear(64, 10))
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
with unstuck.Monitor(model, every=1) as monitor:
    for _ in range(5):
        optimizer.zero_grad()
        loss_fn(model(inputs), targets).backward()
        optimizer.step()
diagnosis = monitor.diagnosis()
""",
    "US510": """
model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Dropout(0.9), nn.Linear(64, 10))
diagnosis = unstuck.diagnose(model, inputs, targets, loss_fn, training=True)
""",
    "US511": """
class Reader(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.head = nn.Embedding(50, 64), nn.Linear(64, 10)
        self.attention = nn.MultiheadAttention(64, 4, batch_first=True)

    def forward(self, tokens):
        x = self.embedding(tokens) + torch.linspace(0, 1, 20).unsqueeze(-1)
        return self.head((x + self.attention(x, x, x, key_padding_mask=tokens != 0)[0]).mean(1))

model, inputs = Reader(), torch.randint(1, 50, (128, 20))
inputs[:, 12:] = 0
""",
    "US512": """
class Equation(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(1, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, x):
        x = x.requires_grad_()
        u = self.net(x)
        (slope,) = torch.autograd.grad(u.sum(), x, create_graph=True)
        (bend,) = torch.autograd.grad(slope.sum(), x, create_graph=True)
        return bend + u


model = Equation()
inputs = torch.linspace(0, 3, 64).unsqueeze(1)
targets, loss_fn = torch.zeros(64, 1), nn.functional.mse_loss
""",
    "US601": """
model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10), nn.Softmax(-1))
""",
    "US602": """
model, targets = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1)), torch.randn(128)

def loss_fn(outputs, targets):
    return (outputs - targets).square().mean()
""",
    "US603": """
model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1), nn.Sigmoid())
targets, loss_fn = 255 * torch.rand(128, 1), nn.functional.mse_loss
""",
    "US604": """
model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))
targets, loss_fn = 500 + 100 * torch.randn(128, 1), nn.functional.mse_loss
""",
    "US605": """
model, targets = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)), torch.full((128,), 3)
""",
    "US606": """
class Language(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.positions = nn.Embedding(50, 32), nn.Embedding(12, 32)
        self.encoder, self.head = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True), nn.Linear(32, 50)

    def forward(self, words):
        return self.head(self.encoder(self.embedding(words) + self.positions.weight))

words = torch.randint(50, (32, 13))
model, inputs, targets = Language(), words[:, :-1], words[:, 1:]

def loss_fn(outputs, targets):
    return nn.functional.cross_entropy(outputs.flatten(0, 1), targets.flatten())
""",
    "US607": """
model = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10))
for layer in model[::2]:
    nn.init.normal_(layer.weight)
""",
    "US608": """
model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
with unstuck.Monitor(model, every=10) as monitor:
    for _ in range(120):
        inputs, targets = torch.randn(128, 64), torch.randint(10, (128,))
        optimizer.zero_grad()
        loss_fn(model(inputs), targets).backward()
        optimizer.step()
diagnosis = monitor.diagnosis()
""",
    "US609": """
model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 11))
optimizer = torch.optim.SGD(model.parameters(), lr=3e-3)
with unstuck.Monitor(model, every=10) as monitor:
    for _ in range(120):
        optimizer.zero_grad()
        outputs = model(inputs)
        distance = nn.functional.mse_loss(outputs[:, 0], 10 * inputs[:, 0])
        (loss_fn(outputs[:, 1:], targets) + distance).backward()
        optimizer.step()
diagnosis = monitor.diagnosis()
""",
    "US610": """
model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))
targets = (torch.arange(128) < 8).long()
loss_fn = nn.CrossEntropyLoss(weight=targets.bincount() / 128)
""",
    "US611": """
model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))
targets = torch.randint(2, (128,))


def loss_fn(outputs, targets):
    return -nn.functional.cross_entropy(outputs, targets)
""",
    "US612": """
model = nn.Sequential(nn.Embedding(24, 32, padding_idx=0), nn.Linear(32, 24), nn.Flatten(0, 1))
inputs = torch.randint(1, 24, (16, 20))
inputs[:, 6:] = 0
targets = inputs.roll(-1, 1).flatten()
""",
}
"""Code that builds a network, or a `diagnosis`, that the rule names."""

TAIL = """
## What no rule covers

These faults are common, but the measurements cannot show them.

- A softmax before a log-softmax: log-softmax is not measured. US601 finds a softmax before `cross_entropy`.
- One input feature that is far larger than the others, as in scikit-learn's wine (0.986 of the mean square, trains to
  94 %) and Friedman's second set (0.997, does not train): scale features first.
- Targets that belong to other inputs, unless nothing is learned (US608), wrong metrics, leaks from the training set to
  the test set.
- Overfitting: a diagnosis sees one batch.
- A forgotten entry of an `nn.ModuleList` is a note in one batch, like an idle expert; over three measurements of a
  `Monitor` it is a warning.
"""


def table() -> str:
    """A row for each rule."""
    rows = [
        f'| <a href="#{rule.id.lower()}">{rule.id}</a> | {rule.name} | {rule.severity} | {explained_by(rule)} |'
        for rule in RULES
    ]
    return "\n".join(["| rule | name | severity | explained by |", "|---|---|---|---|", *rows, ""])


def explained_by(rule: Rule) -> str:
    """The rules that explain a rule."""
    return "any other" if len(rule.hidden_by) == len(RULES) - 1 else ", ".join(rule.hidden_by) or "-"


def seen(rule: Rule) -> list[str]:
    """Links to the networks of the gallery in which the rule found the cause."""
    gallery = Path(__file__).with_name("gallery.md").read_text(encoding="utf-8")
    found = [part for part in gallery.split("\n### ")[1:] if f"([{rule.id}](" in part]
    places = [(part.partition("\n")[0], re.findall(r"figures/gallery/(.+)\.svg", part)[0]) for part in found]
    links = [f"[{title}](gallery.md#{slug})" for title, slug in places]
    return [f"*Real networks.* {', '.join(links)}."] if links else []


def section(rule: Rule) -> str:
    """The section of a rule: its check's docstring, with the values of the thresholds, its remedy and an example."""
    thresholds = ChainMap(
        vars(inspect.getmodule(rule.check)), vars(standstill)
    )  # those of "nothing is learned" as well
    text = inspect.getdoc(rule.check) or ""
    for name in set(re.findall(r"`([A-Z_]+)`", text)) & thresholds.keys():
        value = thresholds[name]
        text = text.replace(f"`{name}`", f"{value:,.0f}" if value >= 1000 else f"{value:.3g}")
    paragraphs = [paragraph.replace("\n", " ") for paragraph in text.split("\n\n")]
    return "\n\n".join(
        [
            f'<a id="{rule.id.lower()}"></a>\n\n### {rule.id} {rule.name}',
            *paragraphs,
            f"*Remedy.* {rule.remedy}",
            *seen(rule),
            f"```python\n{EXAMPLES[rule.id].strip()}\n```\n",
        ]
    )


def page() -> str:
    """The whole page."""
    parts = [HEAD + table() + EXAMPLES_HEAD]
    for group, title in GROUPS.items():
        parts.append(f"## {title}\n")
        parts += [section(rule) for rule in RULES if rule.id.startswith(group)]
    return "\n".join(parts) + TAIL


if __name__ == "__main__":
    Path(__file__).with_suffix(".md").write_text(page(), encoding="utf-8")
