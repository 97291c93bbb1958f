"""The code of docs/pytorch.md runs, block by block."""

import re
import warnings

import pytest
import torch

TITLES = [
    "Compile",
    "Mixed precision",
    "Accumulation and several losses",
    "Derivatives by the inputs",
    "Activation checkpointing",
    "Copies and averages",
    "Large models",
    "Monitor and diagnose",
]


def blocks(root):
    """The code of each section, by its title."""
    sections = re.split(r"^## (.+)$", (root / "docs" / "pytorch.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    found = {"": sections[0]} | dict(zip(sections[1::2], sections[2::2], strict=True))
    return {
        title: "\n".join(code)
        for title, text in found.items()
        if (code := re.findall(r"^```python\n(.+?)^```", text, flags=re.MULTILINE | re.DOTALL))
    }


def namespace():
    batches = [(torch.randn(20, 8), torch.randint(0, 3, (20,))) for _ in range(4)]
    return {"inputs": torch.randn(100, 8), "batches": batches}


def test_every_section_with_code_is_tested(root):
    assert list(blocks(root)) == ["", *TITLES, "Several processes"]  # the last one in tests/integrations


@pytest.mark.parametrize("title", TITLES)
def test_the_code_of_the_section_runs_and_what_watches_it_sees_it(root, title, monkeypatch):
    code = blocks(root)
    names = namespace()
    exec(compile(code[""], "docs/pytorch.md", "exec"), names)
    samples = []
    made, watched = names["sc"].Equalizer, names["sc"].Monitor
    monitors = []
    monkeypatch.setattr(names["sc"], "Equalizer", lambda *a, **k: samples.append(made(*a, **k)) or samples[-1])
    monkeypatch.setattr(names["sc"], "Monitor", lambda *a, **k: monitors.append(watched(*a, **k)) or monitors[-1])
    if title == "Compile":  # the compiler itself takes a while: tests/integrations
        monkeypatch.setattr(torch, "compile", lambda model, fullgraph, c=torch.compile: c(model, backend="eager"))
    with warnings.catch_warnings():
        exec(compile(code[title], "docs/pytorch.md", "exec"), names)
    assert all(equalizer.history for equalizer in samples)
    assert len(samples) == ("sc.Equalizer(" in code[title])
    assert [[m.step for m in monitor.measurements] for monitor in monitors] == [[0, 2]] * ("sc.Monitor(" in code[title])
