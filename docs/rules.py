"""Writes rules.md, beside this script: a section for each rule of `sigmoidcore.diagnosis.rules`."""

from pathlib import Path

from sigmoidcore.diagnosis.rules import RULES, Rule

GROUPS = {
    "SC1": "The gradient on its way",
    "SC2": "Neurons",
    "SC3": "Updates",
    "SC4": "Numbers",
    "SC5": "Structure",
    "SC6": "The loss",
}

HEAD = """# What a diagnosis can find

<!-- Written by docs/rules.py from sigmoidcore.diagnosis.rules; a test compares the two. -->
<!-- all run by tests/diagnosis/test_rules.py -->

`sc.diagnose` looks at one batch, `sc.Monitor` at a training ([API](api.md)). These rules make findings of what
they measure. Thresholds are ratios, or what arithmetic gives: width, batch size, the scale of the loss and the dtype do
not matter to a healthy network.

A network with **errors** or **warnings** is called broken; **notes** are facts worth knowing. A rule gives at most one
finding, which names all layers that it is about. What an error or a warning explains is left out: each row of the
table says beside which others a rule keeps silent.

Words are those of [the method](method.md). A *layer* is one call of a function with weights, of an activation or of a
softmax; the layers *before* it are all that lead to it. A *sink* is a layer with weights that feeds no other one: it
feeds the loss.

"""

EXAMPLES = """
The examples are broken on purpose. Each makes a `model`, for

```python
import torch
from torch import nn

import sigmoidcore as sc

inputs, targets = torch.randn(128, 64), torch.randint(10, (128,))
loss_fn = nn.functional.cross_entropy
# ... an example from below
print(sc.diagnose(model, inputs, targets, loss_fn))
```

unless it changes these, or makes its own `diagnosis` from a training.
"""

TAIL = """
## What no rule covers

Nothing is said of these, though they are common. The measurements do not hold what would tell.

- A softmax or log-softmax over the dimension of the batch: its `dim` is not measured.
- A softmax before a log-softmax: of a log-softmax nothing is measured. Before `cross_entropy`, which has its own, SC601
  sees one.
- One input feature that is far larger than the others, as in scikit-learn's wine (0.986 of the mean square, which
  trains to 94 %) and Friedman's second set (0.997, which does not): scale features before.
- Targets that do not belong to the inputs, a metric that is computed wrongly, leaks from the training to the test set.
- Overfitting: a diagnosis sees one batch, and no other data.
- An entry of an `nn.ModuleList` that a forward has forgotten is a note in one batch, as an idle expert is; over three
  measurements of a `Monitor` it is a warning.
"""


def table() -> str:
    """A row for each rule."""
    rows = [
        f'| <a href="#{rule.id.lower()}">{rule.id}</a> | '
        f"{rule.name} | {rule.severity} | {', '.join(rule.hidden_by) or '-'} |"
        for rule in RULES
    ]
    return "\n".join(["| rule | name | severity | silent beside |", "|---|---|---|---|", *rows, ""])


def section(rule: Rule) -> str:
    """What there is to know about a rule."""
    thresholds = ", ".join(f"{name} = {value:.3g}" for name, value in rule.thresholds.items())
    severity = str(rule.severity).capitalize()
    parts = [
        f'<a id="{rule.id.lower()}"></a>\n\n### {rule.id} {rule.name}',
        f"**{severity}** if {rule.formula}.",
        f"Thresholds: {thresholds}." if thresholds else "",
        f"*Where they come from.* {rule.source}" if thresholds else "",
        f"*What it means.* {rule.why}",
        f"*What to do.* {rule.remedy}",
        f"```python\n{rule.example.strip()}\n```" if rule.example else "",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def page() -> str:
    """The whole page."""
    parts = [HEAD + table() + EXAMPLES]
    for group, title in GROUPS.items():
        parts.append(f"## {title}\n")
        parts += [section(rule) for rule in RULES if rule.id.startswith(group)]
    return "\n".join(parts) + TAIL


if __name__ == "__main__":
    Path(__file__).with_suffix(".md").write_text(page(), encoding="utf-8")
