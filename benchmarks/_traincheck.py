"""TrainCheck (`pip install traincheck`), asked about a program by its four commands, as its documentation says.

Its invariants are inferred from healthy runs of the same code: the repaired program. TrainCheck rewrites the source of
a script, and finds a model by the variable that the script assigns it to. So each program becomes a script of its own:
what its file defines, without what it does not need, and the usual loop around it, with the stages annotated as in the
example of TrainCheck. The script ends with the training, which is what the other tools see: one evaluation under
`no_grad` makes TrainCheck infer that layers "consistently return tensors with grad_fn=None", which healthy trainings
violate.
"""

import ast
import inspect
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from real_failures import Program

STEPS = 8
"""Of a run, at most. "Short runs are usually enough because training loops repeat the same operations many times." """
REFERENCE_SEEDS = (1, 2)
"""Of the healthy runs. The runs that are checked have seed 0."""
SECONDS = 300
"""Of the processor, for one command."""

_LOOP = """
from traincheck import annotate_stage

annotate_stage("init")
torch.manual_seed({seed})
training = {make}({repaired})
optimizer = training.optimizer
annotate_stage("training")
for number in range({steps}):
    inputs, targets = training.batch(number)
    if training.step is None:
        optimizer.zero_grad()
        training.loss(training.model(inputs), targets).backward()
        optimizer.step()
    else:
        training.step(training, inputs, targets)
    if training.after is not None:
        training.after()
"""


class TrainCheckError(Exception):
    """A command of TrainCheck failed."""


@dataclass(frozen=True)
class Violated:
    """An invariant of the healthy runs that does not hold.

    Attributes:
        relation: the kind of invariant, as TrainCheck calls it.
        text: what it says.
        apis: full names of its functions.
        changes: its attributes of parameters or of tensors.
        time: when it was seen first.
    """

    relation: str
    text: str
    apis: tuple[str, ...]
    changes: tuple[str, ...]
    time: int

    @property
    def rules(self) -> frozenset[str]:
        """Rules of ours that it may stand for."""
        found: set[str] = set()
        named = [name for names in self.apis for name in names.split(" ")]
        for words, rules in _FUNCTIONS.items():
            if any(word in api for api in named for word in words.split()):
                found |= rules
        if self.relation == "APIContainRelation" and any(_is_step(api) for api in named[:1]):
            found |= _NO_UPDATE
        for attribute in self.changes:
            found |= _ATTRIBUTES.get(attribute, set())
        if self.relation == "APIContainRelation" and "grad" in self.changes:
            found |= _NO_GRADIENT
        return frozenset(found)


ORDER = ("FunctionLeadRelation", "FunctionCoverRelation")
"""Orders of calls, which overfit: "Ignore these", says the tutorial of TrainCheck."""

_NO_GRADIENT = {"US303", "US304", "US305", "US306", "US501", "US502", "US504", "US505"}
"""`zero_grad` has nothing to clear, or clears nothing: "no gradients were ever populated or zeroing failed"."""
_NO_UPDATE = {*_NO_GRADIENT, "US301", "US403"}
"""`step` "did not update any parameters", or "invoked none of the expected operations on them"."""
_ATTRIBUTES: dict[str, set[str]] = {
    "requires_grad": {"US501", "US505"},
    "grad_fn": {"US501", "US309"},
    "is_leaf": {"US501", "US504"},
    "dtype": {"US402", "US403"},
    "grad_dtype": {"US402", "US403"},
    "itemsize": {"US402", "US403"},
    "nbytes": {"US402", "US403"},
    "shape": {"US506", "US602"},
    "ndim": {"US506", "US602"},
    "training": {"US509"},
}
"""What a wrong value of an attribute may mean."""
_FUNCTIONS: dict[str, set[str]] = {
    ".zero_grad": {"US305", "US306"},
    ".backward": {"US304", "US501"},
    "lr_scheduler": {"US301", "US302"},
    "clip_grad": {"US102", "US104", "US302"},
    "Module.train Module.eval": {"US509"},
    "requires_grad_ Module.requires_grad": {"US505"},
    "no_grad enable_grad set_grad_enabled .detach": {"US309", "US501"},
    "add_param_group Optimizer.__init__": {"US303", "US308"},
    "autocast GradScaler amp .half .bfloat16": {"US402", "US403"},
    "isnan isfinite isinf nan_to_num": {"US401"},
    "batchnorm batch_norm BatchNorm layer_norm LayerNorm GroupNorm group_norm InstanceNorm instance_norm": {
        "US506",
        "US509",
    },
    "ropout": {"US510", "US509"},
    "softmax Softmax igmoid cross_entropy CrossEntropy nll_loss NLLLoss loss Loss": {
        "US601",
        "US602",
        "US603",
        "US604",
        "US609",
        "US610",
    },
    "relu ReLU elu ELU tanh Tanh igmoid": {"US201", "US202", "US507"},
    "nn.init": {"US101", "US102", "US201", "US203", "US204", "US503"},
    "ttention mask": {"US204", "US511"},
    "rnn RNN lstm LSTM gru GRU": {"US103", "US104"},
    "register_parameter register_buffer ModuleList ParameterList": {"US504"},
    "broadcast expand squeeze": {"US602"},
    "flatten reshape view permute transpose": {"US506"},
    "mbedding": {"US508"},
    "shuffle randperm DataLoader Sampler": {"US605", "US606", "US608"},
}
"""What a function that an invariant names may mean, by parts of its name. Written before anything was checked."""


def _is_step(api: str) -> bool:
    return api.startswith("torch.optim") and api.endswith(".step")


def script(program: Program, repaired: bool, seed: int) -> tuple[str, list[str]]:
    """The program as one script, and the names of the models in it."""
    tree = ast.parse(inspect.getsource(inspect.getmodule(program.make)))  # type: ignore[arg-type]
    wanted, before = {program.make.__name__}, set[str]()
    while wanted != before:
        before = set(wanted)
        kept = [n for n in tree.body if isinstance(n, ast.Import | ast.ImportFrom) or wanted.intersection(_defined(n))]
        wanted |= {inner.id for node in kept for inner in ast.walk(node) if isinstance(inner, ast.Name)}
    body = ast.unparse(ast.Module(kept, []))
    loop = _LOOP.format(seed=seed, make=program.make.__name__, repaired=repaired, steps=min(program.steps, STEPS))
    place = str(Path(__file__).resolve().parent)
    return f"import sys\nsys.path.insert(0, {place!r})\n{body}\n{loop}", _models(kept)


def _defined(node: ast.stmt) -> Iterator[str]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        yield node.name
    if isinstance(node, ast.Assign):
        yield from (target.id for target in node.targets if isinstance(target, ast.Name))
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        yield node.target.id


def _models(nodes: list[ast.stmt]) -> list[str]:
    """Variables that the program trains: the model of a `Training`, and all whose parameters are asked for."""
    names = []
    for node in (inner for outer in nodes for inner in ast.walk(outer) if isinstance(inner, ast.Call)):
        if isinstance(node.func, ast.Name) and node.func.id == "Training" and isinstance(node.args[0], ast.Name):
            names.append(node.args[0].id)
        if isinstance(node.func, ast.Attribute) and node.func.attr in ("parameters", "named_parameters"):
            names += [node.func.value.id] if isinstance(node.func.value, ast.Name) else []
    return [name for name in dict.fromkeys(names) if name != "self"]


class TrainCheck:
    """Its commands, in a folder for each program."""

    def __init__(self) -> None:
        words = [sys.executable, str(Path(__file__).with_name("_traincheck_worker.py"))]
        environment = {**os.environ, "PYTORCH_JIT": "0"}  # as TrainCheck runs scripts
        self.worker = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)

    def collect(self, program: Program, repaired: bool, seed: int, folder: Path) -> Path:
        """The trace of a run, in full: a trace with `--invariants` lacks what some of them need."""
        trace = folder / f"{'repaired' if repaired else 'broken'}_{seed}"
        source, models = script(program, repaired, seed)
        (folder / f"{trace.name}.py").write_text(source)
        place = ("--pyscript", f"{trace.name}.py", "--output-dir", trace.name)
        self._run("traincheck.collect_trace", *place, "--models-to-track", *models, "--only-instr", folder=folder)
        self._run(str(trace / f"_traincheck_{trace.name}.py"), folder=trace)
        return trace

    def infer(self, traces: list[Path], folder: Path) -> Path:
        """The file of the invariants of healthy runs."""
        names = [trace.name for trace in traces]
        self._run("traincheck.infer_engine", "-f", *names, "-o", "invariants.json", folder=folder)
        return folder / "invariants.json"

    def check(self, trace: Path, invariants: Path, folder: Path) -> list[Violated]:
        """Invariants that do not hold, the earliest first."""
        words = ("-f", trace.name, "-i", invariants.name, "-o", "results", "--no-html-report")
        self._run("traincheck.checker", *words, folder=folder)
        failed = folder / "results" / trace.name / "failed.log"
        entries = _objects(failed.read_text()) if failed.exists() else []
        return sorted((_violated(entry) for entry in entries), key=lambda violated: violated.time)

    def close(self) -> None:
        """Ends the process that runs the commands."""
        self.worker.communicate()

    def _run(self, module: str, *words: str, folder: Path) -> None:
        name = Path(module).stem if module.endswith(".py") else module
        log = folder / f"{name}.log"
        assert self.worker.stdin is not None
        assert self.worker.stdout is not None
        line = json.dumps({"module": module, "words": words, "log": str(log), "seconds": SECONDS})
        try:
            self.worker.stdin.write(f"{line}\n")
            self.worker.stdin.flush()
            answer = self.worker.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            raise TrainCheckError("not installed")
        code = int(answer)
        if code == -signal.SIGXCPU:
            raise TrainCheckError(f"{name}: more than {SECONDS} seconds")
        if code:
            raise TrainCheckError(f"{name}: {_last_line(log.read_text())}")


def _last_line(text: str) -> str:
    return next((line for line in reversed(text.splitlines()) if line.strip()), "")[-120:]


def _objects(text: str) -> list[dict[str, Any]]:
    """The JSON objects that follow each other in a text."""
    decoder, objects, place = json.JSONDecoder(), [], 0
    while place < len(text):
        entry, end = decoder.raw_decode(text, place)
        objects.append(entry)
        place = len(text) - len(text[end:].lstrip())
    return objects


def _violated(entry: dict[str, Any]) -> Violated:
    invariant = entry["invariant"]
    apis = [p.get("api_full_name") or p.get("api_name") for p in invariant["params"]]
    changes = [p.get("attr_name") or (p.get("additional_path") or [""])[-1] for p in invariant["params"]]
    return Violated(
        invariant["relation"],
        invariant["text_description"],
        tuple(api for api in apis if api),
        tuple(str(change) for change in changes if change),
        entry["detection_time"] or 0,
    )
