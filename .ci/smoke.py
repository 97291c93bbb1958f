"""Use an installed package without the repository: every public verb, its commands, and the blocks of its README.

python smoke.py unstuck README.md
python smoke.py sigmoid-core README.md

It runs in the current folder, which has to be empty, with the Python that has the package.
"""

import contextlib
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

COMMANDS = {"unstuck": ("-m", "unstuck"), "sigmoid-core": ("-m", "sigmoidcore")}
NEEDS = {"demo": "matplotlib", "train": "skrub", "predict": "skrub"}
"""Packages of the extras that commands of sigmoid-core need."""


def command(program: str, *arguments: str) -> str:
    """Run a command of ours; return what it prints."""
    words = [sys.executable, *COMMANDS[program], *arguments]
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, encoding="utf-8")
    if done.returncode:
        sys.exit(f"{' '.join(words)} ended with {done.returncode}:\n{done.stdout}")
    return done.stdout


def readme(page: Path) -> int:
    """Run the blocks of a page as a reader pastes them; return their number."""
    names: dict[str, object] = {"__name__": "readme"}
    blocks = re.findall(r"^```(python|sh)\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    for language, text in blocks:
        if script := re.match(r"# (\w+\.py)\n", text):
            Path(script[1]).write_text(text, encoding="utf-8")
        elif language == "python":
            with contextlib.redirect_stdout(None):
                exec(compile(text, "<readme>", "exec"), names)
        else:
            for program, *arguments in map(str.split, text.splitlines()):
                if program in COMMANDS and not missing(arguments[0]):
                    command(program, *arguments, *(["--epochs", "1"] if arguments == ["demo"] else []))
    return len(blocks)


def missing(name: str) -> bool:
    """Whether the packages of a command are not installed."""
    return name in NEEDS and importlib.util.find_spec(NEEDS[name]) is None


def unstuck() -> None:
    """The verbs of unstuck."""
    import torch
    from torch import nn

    import unstuck

    model = nn.Sequential(nn.Linear(8, 8), nn.Sigmoid(), nn.Linear(8, 2))
    batch = torch.randn(64, 8), torch.randint(2, (64,)), nn.functional.cross_entropy
    diagnosis = unstuck.diagnose(model, *batch)
    diagnosis.to_html("smoke.html")
    diagnosis.to_json("smoke.json")
    assert unstuck.Diagnosis.from_json(Path("smoke.json").read_bytes()).findings == diagnosis.findings
    with unstuck.Monitor(model) as monitor:
        for _ in range(5):
            batch[2](model(batch[0]), batch[1]).backward()
    assert str(monitor.diagnosis())
    assert "layers" in command("unstuck", "report", "smoke.json", "--lang", "en")
    assert "层" in command("unstuck", "report", "smoke.json", "--lang", "zh")


def sigmoid_core() -> None:
    """The verbs of Sigmoid Core; those of its table where their packages are there."""
    import torch
    from torch import nn

    import sigmoidcore as sc

    assert all(hasattr(sc, name) for name in sc.__all__)
    inputs, targets = torch.randn(64, 8), torch.randint(2, (64,))
    model = nn.Sequential(nn.Linear(8, 8), nn.Sigmoid(), nn.Linear(8, 8), nn.Sigmoid(), nn.Linear(8, 2))
    sc.convert(model, centered=True)
    sc.calibrate(model, inputs)
    sc.prepare(model, inputs)
    sc.gradient_profile(model, inputs, targets, nn.functional.cross_entropy)
    optimizer = torch.optim.Adam(sc.depth_scaled_lr(model))
    with sc.Equalizer(model, optimizer), sc.Monitor(model) as monitor:
        for _ in range(5):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs), targets).backward()
            optimizer.step()
    assert str(monitor.diagnosis())
    assert str(sc.diagnose(model, inputs, targets, nn.functional.cross_entropy))
    torch.testing.assert_close(sc.fold(model)(inputs), model(inputs), rtol=1e-4, atol=1e-5)
    if not missing("train"):
        rows = "".join(f"{i % 7},{i % 5},{3 * (i % 7) + i % 5}\n" for i in range(60))
        Path("table.csv").write_text(f"a,b,y\n{rows}", encoding="utf-8")
        command("sigmoid-core", "train", "table.csv", "--target", "y", "-o", "model.skops", "--task", "regression")
        command("sigmoid-core", "predict", "model.skops", "table.csv", "-o", "out.csv")


if __name__ == "__main__":
    package, page = sys.argv[1], Path(sys.argv[2])
    {"unstuck": unstuck, "sigmoid-core": sigmoid_core}[package]()
    found = importlib.util.find_spec(package.replace("-", ""))
    assert found is not None
    assert str(found.origin).startswith(sys.prefix), f"not the installed package: {found.origin}"
    print(f"{package}: every verb, and {readme(page)} blocks of its README; {found.origin}")
