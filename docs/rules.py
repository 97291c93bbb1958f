"""Writes rules.md, beside this script: a section for each rule of rules.toml, and its example as it is diagnosed."""

import inspect
import re
import tomllib
from collections import ChainMap
from pathlib import Path

from unstuck.measure import measurement
from unstuck.rules import RULES, Rule, evidence, standstill, units

GROUPS = {
    "US1": "The gradient on its way",
    "US2": "Neurons",
    "US3": "Updates",
    "US4": "Numbers",
    "US5": "Structure",
    "US6": "The loss",
    "US7": "What depends on what",
}

HEAD = """# What a diagnosis can find

<!-- Written by docs/rules.py from unstuck.rules; a test compares the two. -->
<!-- all run by packages/unstuck/tests/test_rules.py -->

`unstuck.diagnose` measures one batch, `unstuck.Monitor` a training ([API](api.md)). Rules that speak of steps or of
measurements need a `Monitor` with {fewest} measured steps or more, unless they say otherwise. Thresholds are ratios or
follow from arithmetic, so width, batch size, the scale of the loss and the dtype do not matter to a healthy network.

**Errors** and **warnings** mean that a network is broken; **notes** are facts worth knowing. A rule gives at most one
finding, which names all its layers. A finding is left out if an error or a warning of another rule explains it (column
"explained by").

- **A small loss**: findings of {signal} are notes if the loss is below a tenth of the loss of a constant answer or, if
  that is not known, below a fiftieth of the first one.
- **Nothing learned** (US302) in all measurements or their first half: findings of {stalls} in the first
  measurement count, too, and their notes are warnings.
- **Fresh weights**: findings of US101, US102, US201 to US203, US503 and US607 have a call that draws weights for the
  activations, if the weights are as they were initialised. Sigmoid Core, if it is installed, has calls of its own.

A *layer* is one call of a function with weights, of an activation or of a softmax. The layers *before* it are all that
lead to it. A *sink* is a layer with weights that feeds no other one: it feeds the loss. Other words are those of
[the method](method.md).

"""

EXAMPLES_HEAD = """
The examples are broken on purpose. Each makes its own `diagnosis` from a training, or a `model` for this code:

```python
import torch
from torch import nn

import unstuck

inputs, targets = torch.randn(128, 64), torch.randint(10, (128,))
loss_fn = nn.functional.cross_entropy
# ... an example from below
print(unstuck.diagnose(model, inputs, targets, loss_fn))
```
"""

SECTIONS = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
EXAMPLES = {rule: section["example"] for rule, section in SECTIONS.items()}
"""Code that builds a network, or a `diagnosis`, that the rule names."""

TAIL = """
## What no rule covers

- A softmax before a log-softmax. US601 finds a softmax before `cross_entropy`.
- One input feature that is far larger than the others, as in scikit-learn's wine: scale features first.
- Targets that belong to other inputs, wrong metrics, leaks from the training set to the test set.
- Overfitting: a diagnosis sees one batch.
- A forgotten entry of an `nn.ModuleList` is only a note in one batch, like an idle expert; a `Monitor` warns.
"""


def head() -> str:
    """The first words of the page, with the rules that have a property."""
    signal, stalls = (", ".join(r.id for r in RULES if getattr(r, name)) for name in ("signal", "stalls"))
    return HEAD.format(fewest=evidence.FEWEST_MEASUREMENTS, signal=signal, stalls=stalls)


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
    """The section of a rule: its text in rules.toml, with the values of the thresholds, its remedy and an example."""
    # Those of "nothing is learned" and of judged rows as well.
    thresholds = ChainMap(
        vars(inspect.getmodule(rule.check)), vars(evidence), vars(standstill), vars(units), vars(measurement)
    )
    text = SECTIONS[rule.id]["text"].rstrip("\n")
    for name in set(re.findall(r"`([A-Z_]+)`", text)):
        value = thresholds[name]
        text = text.replace(f"`{name}`", f"{value:,.0f}" if value >= 1000 else f"{value:.3g}")
    paragraphs = [re.sub(r"\n *(?![-| ])", " ", paragraph) for paragraph in text.split("\n\n")]  # rows stay rows
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
    parts = [head() + table() + EXAMPLES_HEAD]
    for group, title in GROUPS.items():
        parts.append(f"## {title}\n")
        parts += [section(rule) for rule in RULES if rule.id.startswith(group)]
    return "\n".join(parts) + TAIL


if __name__ == "__main__":
    Path(__file__).with_suffix(".md").write_text(page(), encoding="utf-8")
