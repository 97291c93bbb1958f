"""`sigmoid-core watch`: scripts of many shapes run as without it, to the last bit, and what it says about them."""

import gc
import json
import runpy
import subprocess
import sys

import pytest
import torch
from support import processes

from sigmoidcore.cli import main

BEGIN = """
import random
import numpy as np
import torch
from torch import nn

torch.manual_seed(0)
random.seed(0)
np.random.seed(0)
inputs = torch.randn(64, 8)
targets = inputs.sum(1, keepdim=True).sin()


def network(depth=2, activation=nn.Tanh):
    hidden = [layer for _ in range(depth) for layer in (nn.Linear(8, 8), activation())]
    return nn.Sequential(*hidden, nn.Linear(8, 1))


def train(model, optimizer, steps=12):
    for _ in range(steps):
        optimizer.zero_grad()
        loss = (model(inputs) - targets).square().mean()
        loss.backward()
        optimizer.step()


model = network()
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
"""

END = """
print(*(p.detach().double().sum().item().hex() for p in model.parameters()))
print(torch.rand(1).item().hex(), random.random().hex(), np.random.rand().hex())
"""

SCRIPTS = {
    "plain": "train(model, optimizer)",
    "subclass with a closure": """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.inner = network()
            def forward(self, x):
                return self.inner(x)
        model = Net()
        optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=4)
        def closure():
            optimizer.zero_grad()
            loss = (model(inputs) - targets).square().mean()
            loss.backward()
            return loss
        for _ in range(7):
            optimizer.step(closure)
    """,
    "dropout and a scheduler": """
        model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, 1))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, 3, 0.5)
        for _ in range(12):
            train(model, optimizer, 1)
            schedule.step()
            with torch.no_grad():
                model.eval()(inputs)
            model.train()
    """,
    "mixed precision": """
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
        for _ in range(12):
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16):
                loss = (model(inputs) - targets).square().mean()
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            scaler.step(optimizer)
            scaler.update()
    """,
    "by hand": """
        for _ in range(40):
            model.zero_grad()
            (model(inputs) - targets).square().mean().backward()
            for p in model.parameters():
                p.data.add_(p.grad, alpha=-0.1)
    """,
    "compiled": """
        train(torch.compile(model, backend="eager"), optimizer)
    """,
    "workers": """
        from torch.utils.data import DataLoader, TensorDataset
        data = DataLoader(TensorDataset(inputs, targets), batch_size=16, shuffle=True, num_workers=2)
        for _ in range(2):
            for x, y in data:
                optimizer.zero_grad()
                (model(x) - y).square().mean().backward()
                optimizer.step()
    """,
}  # fmt: skip


def dedented(text):
    lines = text.splitlines()
    margin = min((len(line) - len(line.lstrip()) for line in lines if line.strip()), default=0)
    return "\n".join(line[margin:] for line in lines) + "\n"


def written(folder, text, name="train.py"):
    path = folder / name
    path.write_text(BEGIN + dedented(text) + END)
    return path


@pytest.fixture(autouse=True)
def _process(monkeypatch):
    """A new folder, and the process as it was afterwards; what it holds already is not searched for models."""
    gc.freeze()
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])
    yield
    gc.unfreeze()


def watched(capfd, path, *arguments, options=()):
    """Output and standard error of the script under `watch`, in this process."""
    capfd.readouterr()
    assert main(["watch", *options, str(path), *arguments]) == 0
    return capfd.readouterr()


def verdict_of(folder, name="found.json"):
    """The diagnosis as JSON, and all measurements."""
    found = json.loads((folder / name).read_text())
    return found, [*found["earlier"], found["measurement"]]


@pytest.mark.parametrize("name", SCRIPTS)
def test_results_and_random_streams_are_those_without_it_bit_for_bit(name, tmp_path, capfd):
    path = written(tmp_path, SCRIPTS[name])
    runpy.run_path(str(path), run_name="__main__")
    plain = capfd.readouterr()
    output, error = watched(capfd, path, options=["--every", "3", "--json", "found.json"])
    assert output == plain.out
    assert "sigmoid-core: " in error
    assert len(verdict_of(tmp_path)[1]) >= 2


ORDER = """
import itertools, os, random, sys, typing
kinds = [int, float, str, bool, bytes, list, tuple, dict, type(None)]

def remembered():
    for few in (pair for count in (2, 3) for pair in itertools.permutations(kinds, count)):
        yield from map(str, (typing.Optional[typing.Union[few]], typing.List[typing.Union[few]]))

print([name for name in ("torch", "numpy", "sigmoidcore.diagnosis") if name in sys.modules])
os.environ["OMP_NUM_THREADS"] = "2"
random.seed(0)
try:
    import torch
except ImportError as error:
    print(error)
import torch
finders = [getattr(finder, "__name__", type(finder).__name__) for finder in sys.meta_path]
print(torch.get_num_threads(), finders, vars(torch.__loader__), *remembered())
torch.manual_seed(0)
model = torch.nn.Linear(8, 1)
optimizer = torch.optim.Adam(model.parameters())
for _ in range(3):
    model(torch.rand(16, 8)).square().mean().backward()
    optimizer.step()
print(model.weight.tolist(), torch.rand(1).item().hex(), random.random().hex())
"""


def test_watch_imports_pytorch_after_the_script_and_leaves_its_import_as_it_was(tmp_path):
    (tmp_path / "train.py").write_text(ORDER)
    results = []
    for watch in ([], ["-m", "sigmoidcore", "watch", "--fail-on", "SC1"]):
        (tmp_path / "torch.py").write_text("import os\nos.remove(__file__)\nraise ImportError('not yet')\n")
        results.append(in_process([sys.executable, *watch, "train.py"], tmp_path))
    plain, watched = results
    assert plain[1].startswith("[]\nnot yet\n")
    assert watched[:2] == plain[:2]
    assert "sigmoid-core: Linear, trained by Adam" in watched[2]


PLACE = """
import signal, sys, warnings
names = sorted(name for name in globals() if name != "__annotations__")
print(sys.argv, sys.path[0], __name__, __file__, __package__, __spec__ and __spec__.name, names)
print(__doc__, type(__builtins__), type(__loader__), sys.modules["__main__"].__dict__ is globals())
print(warnings.formatwarning.__module__, signal.getsignal(signal.SIGTERM))
"""


def in_process(command, folder):
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    return result.returncode, result.stdout, result.stderr


@pytest.mark.parametrize("place", ["part/../part/train.py", "link.py", "-m part", "-m part.train"])
def test_the_script_finds_itself_where_python_would_run_it(tmp_path, place):
    (tmp_path / "part").mkdir()
    for name in ("train.py", "part/train.py", "part/__main__.py"):
        (tmp_path / name).write_text(PLACE)
    (tmp_path / "link.py").symlink_to(tmp_path / "part" / "train.py")
    program = [*place.split(), "--every", "3", "--", "-x"]
    plain = in_process([sys.executable, *program], tmp_path)
    assert plain[0] == 0
    code, output, error = processes.finished(["watch", *program])
    assert (code, output) == plain[:2]
    assert "no model trained in this process" in error


@pytest.mark.parametrize(
    "end",
    [
        "sys.exit('no data')",
        "raise ValueError('bad data')",
        "os.kill(os.getpid(), signal.SIGINT); time.sleep(60)",
        "os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)",
        "os._exit(os.fork() and os.wait()[1])",
        "this is no Python",
    ],
)
def test_a_script_ends_as_without_it_and_the_verdict_follows(tmp_path, end):
    (tmp_path / "training.py").write_text(f"{BEGIN}\ntrain(model, optimizer, 2)\n")
    trained = "import training" if "SIGINT" in end else ""  # what it imports changes how Python ends
    (tmp_path / "train.py").write_text(f"import os, signal, sys, time\n{trained}\n{end}\n")
    code, output, error = in_process([sys.executable, "train.py"], tmp_path)
    assert code != 0 or "fork" in end
    if "SIGINT" in end:  # only an interpreter ends by this signal
        found = in_process([sys.executable, "-m", "sigmoidcore", "watch", "train.py"], tmp_path)
    else:
        found = processes.finished(["watch", "train.py"])
    assert found[:2] == (code, output)
    if "SIGTERM" in end or "_exit" in end:
        assert found[2] == error == ""
    else:
        assert found[2].replace(error, "", 1).lstrip().startswith("sigmoid-core: ")


def test_classes_of_the_script_are_pickled_and_known_to_new_processes(tmp_path, monkeypatch):
    script = """
        from torch.utils.data import DataLoader, Dataset

        class Data(Dataset):
            def __len__(self):
                return 32
            def __getitem__(self, i):
                return inputs[i], targets[i]

        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.fc = nn.Linear(8, 1)
            def forward(self, x):
                return self.fc(x)

        if __name__ == "__main__":
            model = Net()
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            for x, y in DataLoader(Data(), batch_size=8, num_workers=1, multiprocessing_context="spawn"):
                (model(x) - y).square().mean().backward()
                optimizer.step()
            torch.save(model, "model.pt")
    """
    path = written(tmp_path, script)
    code, _, error = processes.finished(["watch", "train.py"])
    assert code == 0, error
    assert "sigmoid-core: Net, trained by SGD" in error
    net = runpy.run_path(str(path))["Net"]
    monkeypatch.setattr(sys.modules["__main__"], "Net", net, raising=False)  # which is where a script has its classes
    assert isinstance(torch.load("model.pt", weights_only=False), net)


def test_a_finding_is_printed_when_it_appears_and_again_in_the_verdict(tmp_path, capfd):
    script = """
        import sys
        model = network(20, nn.Sigmoid)
        train(model, torch.optim.SGD(model.parameters(), lr=0.1), 1)
        print("the script goes on", file=sys.stderr)
    """
    _, error = watched(capfd, written(tmp_path, script))
    before, after = error.split("the script goes on")
    assert "sigmoid-core: Sequential, step 0\nSC101 error: vanishing gradient" in before
    assert "\n      sc.convert(model, centered=True)\n      sc.prepare(model, inputs)\n" in before
    assert after.count("SC101 error: vanishing gradient") == 1
    assert "the loss and the targets (no loss function was seen)" in " ".join(after.split())
    assert "step sizes (1 measured step, 3 are needed)" in " ".join(after.split())


@pytest.mark.parametrize("first", [15, 0])
def test_the_operation_that_made_the_first_infinity_is_named(first, tmp_path, capfd):
    script = f"""
        model = network()
        optimizer = torch.optim.Adam(model.parameters())
        for step in range(30):
            optimizer.zero_grad()
            torch.log(torch.sigmoid(model(torch.randn(16, 8))) * (step != {first})).mean().backward()
            optimizer.step()
    """
    _, error = watched(capfd, written(tmp_path, script), options=["--trace-nonfinite"])
    printed = " ".join(error.split())
    assert f"In step {first}, `log` in the loss made the first infinity (train.py:" in printed
    assert "It began" not in printed  # in a later step, the first that was measured


def test_a_fault_that_has_gone_is_in_the_verdict_as_such(tmp_path, capfd):
    script = """
        model = network(2, nn.Sigmoid)
        with torch.no_grad():
            model[0].bias += 50
        train(model, optimizer := torch.optim.SGD(model.parameters(), lr=0.1), 2)
        with torch.no_grad():
            model[0].bias -= 50
        train(model, optimizer)
    """
    _, error = watched(capfd, written(tmp_path, script))
    assert "step 1\nSC201 warning: saturated neurons" in error
    said = " ".join(error.split())
    assert "earlier: SC201 warning, saturated neurons, at step 1, and not in the last measurement" in said


@pytest.mark.parametrize(("condition", "code"), [("error", 1), ("SC2", 0), ("never", 0)])
def test_the_exit_code_tells_a_finding_if_it_is_asked_to(tmp_path, condition, code):
    path = written(
        tmp_path, "model = network(20, nn.Sigmoid)\ntrain(model, torch.optim.SGD(model.parameters(), lr=0.1))"
    )
    assert main(["watch", "--fail-on", condition, str(path)]) == code
    path.write_text("raise SystemExit(4)")
    with pytest.raises(SystemExit) as ended:
        main(["watch", "--fail-on", condition, str(path)])
    assert ended.value.code == 4


def test_networks_that_train_against_each_other_are_two_models_with_a_file_each(tmp_path, capfd):
    script = """
        class Generator(nn.Sequential):
            pass
        class Judge(nn.Sequential):
            pass
        generator = Generator(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 8))
        judge = Judge(*[layer for _ in range(20) for layer in (nn.Linear(8, 8), nn.Sigmoid())], nn.Linear(8, 1))
        first = torch.optim.Adam(judge.parameters())
        second = torch.optim.SGD(generator.parameters(), lr=0.1)
        for _ in range(12):
            first.zero_grad()
            made = generator(torch.randn(64, 4))
            (judge(made.detach()).mean() - judge(inputs).mean()).backward()
            first.step()
            second.zero_grad()
            (-judge(made).mean()).backward()
            second.step()
    """
    files = ["--json", "found.json", "--html", "found.html"]
    _, error = watched(capfd, written(tmp_path, script), options=files)
    assert "sigmoid-core: Generator, trained by SGD" in error
    assert "sigmoid-core: Judge, trained by Adam" in error
    (worst, _), (other, measured) = verdict_of(tmp_path), verdict_of(tmp_path, "found-Generator.json")
    assert [len(found["measurement"]["weights"]) for found in (worst, other)] == [42, 4]
    assert "SC101" in [finding["rule"] for finding in worst["findings"]]
    assert [m["step"] for m in measured] == [0, 1, 10]
    assert (tmp_path / "found.html").exists()
    assert (tmp_path / "found-Generator.html").exists()


def test_parts_that_a_script_calls_one_by_one_are_one_model(tmp_path, capfd):
    script = """
        class Whole(nn.Module):
            def __init__(self):
                super().__init__()
                self.encoder, self.decoder = network(), nn.Linear(1, 1)
            def loss(self):
                return (self.decoder(self.encoder(inputs)) - targets).square().mean()
        whole = Whole()
        optimizer = torch.optim.Adam(whole.parameters())
        for _ in range(12):
            optimizer.zero_grad()
            whole.loss().backward()
            optimizer.step()
    """
    _, error = watched(capfd, written(tmp_path, script), options=["--json", "found.json"])
    assert error.count("trained by") == 1
    assert "sigmoid-core: Whole, trained by Adam" in error
    names = [layer["name"] for layer in verdict_of(tmp_path)[0]["measurement"]["layers"]]
    assert names == ["encoder.0", "encoder.1", "encoder.2", "encoder.3", "encoder.4", "decoder"]


def test_weights_that_are_updated_by_hand_are_measured_all_along(tmp_path, capfd):
    script = SCRIPTS["by hand"].replace("range(40)", "range(200)")
    _, error = watched(capfd, written(tmp_path, script), options=["--json", "found.json"])
    assert "sigmoid-core: Sequential, moved by no optimizer" in error
    assert "step sizes (no optimizer made the last step)" in " ".join(error.split())
    found, measured = verdict_of(tmp_path)
    assert found["findings"] == []
    assert len(measured) >= 10
    assert measured[-1]["step"] > 90


def test_a_training_without_a_step_is_an_error_to_its_end(tmp_path, capfd):
    script = """
        for _ in range(60):
            optimizer.zero_grad()
            (model(inputs) - targets).square().mean().backward()
    """
    _, error = watched(capfd, written(tmp_path, script), options=["--json", "found.json"])
    assert "SC304 error: no optimizer step" in error
    assert [finding["rule"] for finding in verdict_of(tmp_path)[0]["findings"]] == ["SC304"]


def test_an_error_in_the_first_pass_has_no_frames_of_the_watch_and_the_verdict_says_what_was_seen(tmp_path):
    script = "nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(8, 1))(inputs)\n"
    written(tmp_path, script)
    code, _, error = processes.finished(["watch", "train.py"])
    trace, verdict = error.split("\nsigmoid-core: Sequential, moved by no optimizer\n")
    assert code == 1
    assert "train.py" in trace
    assert "functional.linear" in trace or "F.linear" in trace
    assert "sigmoidcore" not in trace
    assert "nothing was measured: no gradient came back to it before a step" in verdict


def test_an_optimizer_of_another_model_is_named(tmp_path, capfd):
    script = """
        old, model = network(), network()
        train(model, torch.optim.SGD(old.parameters(), lr=0.1), 30)
    """
    _, error = watched(capfd, written(tmp_path, script))
    assert "SGD: 6 of its 6 parameters belong to no module that ran" in error
    assert "sigmoid-core: Sequential, moved by no optimizer" in error


@pytest.mark.parametrize(
    ("detached", "reason"),
    [
        (".detach()", "it ran beside other models"),
        ("", "gradients reach it, but no optimizer that made a step has"),
    ],
    ids=["a teacher", "forgotten"],
)
def test_a_model_that_runs_beside_the_trained_one_is_not_measured_for_long(tmp_path, capfd, detached, reason):
    script = f"""
        class Other(nn.Sequential):
            pass
        other = Other(nn.Linear(8, 1))
        for _ in range(18):
            optimizer.zero_grad()
            (model(inputs) - other(inputs){detached}).square().mean().backward()
            optimizer.step()
    """
    _, error = watched(capfd, written(tmp_path, script))
    assert f"sigmoid-core: Other, moved by no optimizer\n\nnothing was measured: {reason}" in error


def test_models_whose_optimizers_have_the_parameters_of_the_first_are_named(tmp_path, capfd):
    script = """
        models = [network() for _ in range(3)]
        optimizers = [torch.optim.SGD(models[0].parameters(), lr=0.1) for _ in models]
        for _ in range(2):
            for each, optimizer in zip(models, optimizers):
                train(each, optimizer, 12)
    """
    _, error = watched(capfd, written(tmp_path, script))
    nothing, first = error.split("sigmoid-core: Sequential, trained by SGD")
    assert nothing.strip().startswith("sigmoid-core: Sequential 2, moved by no optimizer")
    assert "give them to one, or freeze the model\nthe same result: Sequential 3\n" in nothing
    assert "no layers" not in first


def test_a_model_whose_optimizer_has_the_parameters_of_the_one_before_is_named(tmp_path, capfd):
    script = """
        train(model, optimizer, 10)
        train(network(), optimizer, 40)
    """
    _, error = watched(capfd, written(tmp_path, script))
    assert "Sequential 2, moved by no optimizer\n\nnothing was measured: gradients reach it, but no" in error
    assert "Warning" not in error
    assert "no layers" not in error


def test_a_teacher_that_was_trained_before_is_no_forgotten_model(tmp_path, capfd):
    script = """
        class Teacher(nn.Linear):
            pass
        teacher = Teacher(8, 1)
        train(teacher, torch.optim.SGD(teacher.parameters(), lr=0.1), 20)
        for _ in range(40):
            optimizer.zero_grad()
            nn.functional.mse_loss(model(inputs), teacher(inputs).detach()).backward()
            optimizer.step()
    """
    _, error = watched(capfd, written(tmp_path, script))
    assert "SC303" not in error
    assert "moved by no optimizer" not in error
    assert error.count("sigmoid-core: Teacher") == 1


def test_tasks_that_alternate_are_no_unused_parameters(tmp_path, capfd):
    script = """
        class Tasks(nn.Module):
            def __init__(self):
                super().__init__()
                self.body, self.heads = nn.Linear(8, 4), nn.ModuleList([nn.Linear(4, 1), nn.Linear(4, 1)])
            def forward(self, x, task):
                return self.heads[task](torch.tanh(self.body(x)))
        model = Tasks()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for i in range(40):
            optimizer.zero_grad()
            nn.functional.mse_loss(model(inputs, i % 2), targets).backward()
            optimizer.step()
    """
    _, error = watched(capfd, written(tmp_path, script))
    assert "SC501" not in error


def test_models_of_other_sizes_or_side_by_side_are_not_taken_for_folds(tmp_path, capfd):
    script = """
        both = [network(), network()]
        optimizers = [torch.optim.SGD(each.parameters(), lr=0.1) for each in both]
        for _ in range(12):
            for each, optimizer in zip(both, optimizers):
                train(each, optimizer, 1)
        other = network(3)
        train(other, torch.optim.SGD(other.parameters(), lr=0.1))
    """
    _, error = watched(capfd, written(tmp_path, script))
    assert "the same result: Sequential 2\n" in error
    assert "before the loop" not in error
    assert "sigmoid-core: Sequential 3, trained by SGD" in error


def test_a_script_from_standard_input_is_refused():
    code, _, error = processes.finished(["watch", "-"])
    assert code == 2
    assert "cannot be watched: write it to a file" in error


def test_a_training_in_another_thread_is_not_watched_and_the_verdict_says_so(tmp_path, capfd):
    text = """
        import threading
        import torch
        from torch import nn
        def train():
            model = nn.Linear(8, 1)
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            for _ in range(3):
                model(torch.randn(16, 8)).square().mean().backward()
                optimizer.step()
        thread = threading.Thread(target=train)
        thread.start()
        thread.join()
    """
    path = tmp_path / "train.py"
    path.write_text(dedented(text))
    _, error = watched(capfd, path)
    assert "no model trained in the main thread, and others are not watched" in error


@pytest.mark.parametrize("steps", [9, 10, 20])
def test_a_script_traces_its_model_whether_or_not_the_next_step_is_measured(tmp_path, capfd, steps):
    script = f"""
        train(model, optimizer, {steps})
        print(len(str(torch.jit.trace(model, torch.randn(2, 8)).graph)))
    """
    path = written(tmp_path, script)
    output, error = watched(capfd, path)
    assert int(output.split()[0]) > 0
    assert "TracerWarning" not in error


def test_folds_with_one_result_are_reported_once(tmp_path, capfd):
    script = """
        for _ in range(3):
            model = network(12, nn.Sigmoid)
            train(model, torch.optim.SGD(model.parameters(), lr=0.1), 12)
    """
    _, error = watched(capfd, written(tmp_path, script), options=["--json", "found.json"])
    said = " ".join(error.split())
    assert "sigmoid-core: Sequential 2, step 0: SC101 error: vanishing gradient, as in Sequential " in said
    assert error.count("Only ") == 2  # when it appeared, and in the verdict
    assert "the same result: Sequential 2, Sequential 3" in error
    assert len(list(tmp_path.glob("found*.json"))) == 3


def test_a_model_that_is_made_for_each_step_is_named_and_costs_little(tmp_path, capfd):
    script = """
        for _ in range(40):
            model = network()
            train(model, torch.optim.SGD(model.parameters(), lr=0.1), 1)
        last = nn.Linear(8, 1)
        train(last, torch.optim.SGD(last.parameters(), lr=0.1))
    """
    _, error = watched(capfd, written(tmp_path, script))
    assert "more models of the class Sequential, after 8 that took few steps" in " ".join(error.split())
    assert "Sequential 11" not in error
    assert "belong to no module" not in error
    assert "sigmoid-core: Linear, trained by SGD" in error


def test_an_unreachable_scaler_does_not_count(tmp_path, capfd):
    script = """
        def over():
            holder = {"scaler": torch.amp.GradScaler("cpu", init_scale=2.0**15)}
            holder["itself"] = holder  # is freed by the garbage collector only
        over()
        train(model, optimizer)
    """
    gc.collect()  # scalers of other tests
    gc.disable()
    try:
        watched(capfd, written(tmp_path, script), options=["--json", "found.json"])
    finally:
        gc.enable()
    losses = [measurement["loss"] for measurement in verdict_of(tmp_path)[1]]
    assert min(losses) > 1e-3


def test_gradients_under_a_scaler_are_unscaled(tmp_path, capfd):
    sizes = []
    for script in (SCRIPTS["mixed precision"], SCRIPTS["mixed precision"].replace("2.0**10", "1.0")):
        watched(capfd, written(tmp_path, script), options=["--json", "found.json"])
        sizes.append([layer["gradient"] for layer in verdict_of(tmp_path)[1][0]["layers"]])
    assert sizes[0] == pytest.approx(sizes[1], rel=1e-2)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["."], "is a folder: give a script"),
        (["train"], "there is no script train; a module needs -m"),
        (["absent.py"], ": check its name\n"),
        (["book.ipynb"], "is a notebook: sigmoid-core watch -m IPython book.ipynb"),
        (["--json", "-", "train.py"], "--json - would mix with the output of the script"),
        (["--every", "0", "train.py"], "Invalid value for '--every'"),
        (["--fail-on", "nothing", "train.py"], "'nothing' is not error"),
        ([], "Missing argument 'SCRIPT'"),
    ],
)
def test_a_wrong_command_is_refused_before_anything_runs(refused, arguments, text):
    open("book.ipynb", "w").close()
    with open("train.py", "w") as file:
        file.write("raise AssertionError")
    assert text in refused(["watch", *arguments])


def test_a_module_that_does_not_exist_ends_as_in_python(tmp_path):
    code, output, error = processes.finished(["watch", "-m", "no.such_module"])
    assert (code, output) == (1, "")
    assert error.startswith("sigmoid-core: there is no module no.such_module that can run")
    assert error.count("sigmoid-core") == 1


def test_a_closed_standard_error_does_not_end_the_script(tmp_path, monkeypatch, capsys):
    (tmp_path / "train.py").write_text("print('trained')")
    monkeypatch.setattr(sys, "stderr", None)  # as Python sets it if the stream is closed
    assert main(["watch", "train.py"]) == 0
    assert capsys.readouterr().out == "trained\n"
