"""`unstuck`: scripts of many shapes run as without it, to the last bit, and what it says about them."""

import runpy
import shlex
import subprocess
import sys

import pytest
import torch
from support import processes
from unstuck_support.measurements import stack
from unstuck_support.watching import BEGIN, SCRIPTS, verdict_of, watched, written

from unstuck.cli import main
from unstuck.diagnosis import Diagnosis
from unstuck.watch import distance

pytestmark = pytest.mark.usefixtures("own_process")


@pytest.mark.parametrize("name", SCRIPTS)
def test_results_and_random_streams_are_those_without_it_bit_for_bit(name, tmp_path, capfd):
    path = written(tmp_path, SCRIPTS[name])
    runpy.run_path(str(path), run_name="__main__")
    plain = capfd.readouterr()
    output, error = watched(capfd, path, options=["--every", "3", "--json", "found.json"])
    assert output == plain.out
    assert "unstuck: " in error
    assert len(verdict_of(tmp_path)[1]) >= 2


ORDER = """
import os, random, sys
print([name for name in ("torch", "numpy", "unstuck.diagnosis") if name in sys.modules])
os.environ["OMP_NUM_THREADS"] = "2"
random.seed(0)
try:
    import torch
except ImportError as error:
    print(error)
import torch
finders = [getattr(finder, "__name__", type(finder).__name__) for finder in sys.meta_path]
print(torch.get_num_threads(), finders, vars(torch.__loader__))
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
    for watch in ([], ["-m", "unstuck", "--fail-on", "US1"]):
        (tmp_path / "torch.py").write_text("import os\nos.remove(__file__)\nraise ImportError('not yet')\n")
        results.append(in_process([sys.executable, *watch, "train.py"], tmp_path))
    plain, watched = results
    assert plain[1].startswith("[]\nnot yet\n")
    assert watched[:2] == plain[:2]
    assert "unstuck: Linear, trained by Adam" in watched[2]


PLACE = """
import sys, warnings
names = sorted(name for name in globals() if name != "__annotations__")
print(sys.argv, sys.path[0], __name__, __file__, __package__, __spec__ and __spec__.name, names)
print(__doc__, type(__builtins__), type(__loader__), sys.modules["__main__"].__dict__ is globals())
print(warnings.formatwarning.__module__)
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
    code, output, error = processes.finished([*program], command="unstuck")
    assert (code, output) == plain[:2]
    assert "nothing to watch in this process" in error


@pytest.mark.parametrize(
    "end",
    [
        "sys.exit('no data')",
        "raise ValueError('bad data')",
        "os.kill(os.getpid(), signal.SIGINT); time.sleep(60)",
        "os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)",
        "os._exit(os.fork() and os.wait()[1])",
        "sys.stderr.close(); sys.exit(3)",
        "this is no Python",
    ],
)
def test_a_script_ends_as_without_it_and_the_verdict_follows(tmp_path, end):
    (tmp_path / "training.py").write_text(f"{BEGIN}\ntrain(model, optimizer, 2)\n")
    trained = "import training" if "kill" in end or "close" in end else ""  # what it imports changes how Python ends
    (tmp_path / "train.py").write_text(f"import os, signal, sys, time\n{trained}\n{end}\n")
    code, output, error = in_process([sys.executable, "train.py"], tmp_path)
    assert code != 0 or "fork" in end
    if "SIGINT" in end:  # only an interpreter ends by this signal
        found = in_process([sys.executable, "-m", "unstuck", "train.py"], tmp_path)
    else:
        found = processes.finished(["train.py"], command="unstuck")
    assert found[:2] == (code, output)
    if "_exit" in end or "close" in end:
        assert found[2] == error == ""
    elif "no data" in end or "Python" in end:  # it says itself why nothing was watched
        assert found[2] == error
    elif "SIGTERM" in end:
        assert "unstuck: Sequential, trained by Adam\n" in found[2]
    else:
        assert found[2].replace(error, "", 1).lstrip().startswith("unstuck: ")


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
    code, _, error = processes.finished(["train.py"], command="unstuck")
    assert code == 0, error
    assert "unstuck: Net, trained by SGD" in error
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
    assert "unstuck: Sequential, step 0\nUS101 error: vanishing gradient" in before
    assert ".set_submodule(name, torch.nn.Tanh())\n" in before
    assert after.count("US101 error: vanishing gradient") == 1
    assert "the loss and the targets (no loss function was seen)" in " ".join(after.split())
    assert "step sizes (1 measured step, 3 are needed)" in " ".join(after.split())


@pytest.mark.trials
def test_without_trials_it_is_judged_all_the_same_what_the_outputs_depend_on(tmp_path, capfd):
    path = written(tmp_path, "train(model, optimizer)")
    _, error = watched(capfd, path, options=["--no-trials", "--json", "found.json"])
    assert "trials on copies" not in error
    assert verdict_of(tmp_path)[0]["measurement"]["answers"] is not None


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
        train(model, optimizer := torch.optim.SGD(model.parameters(), lr=0.1), 21)
        with torch.no_grad():
            model[0].bias -= 50
        train(model, optimizer)
    """
    _, error = watched(capfd, written(tmp_path, script))
    assert "step 20\nUS201 warning: saturated neurons" in error
    said = " ".join(error.split())
    assert "earlier: US201 warning, saturated neurons, at step 20, and not in the last measurement" in said


@pytest.mark.parametrize("epoch", [1, 60])
def test_a_warm_up_is_judged_when_the_training_ends(tmp_path, capfd, epoch):
    script = f"""
        model = network(2, nn.Tanh)
        optimizer = torch.optim.SGD(model.parameters(), lr=0)
        for step in range({120 if epoch == 1 else 400}):
            optimizer.param_groups[0]["lr"] = 1e-4 * (step // {epoch})
            train(model, optimizer, 1)
    """
    _, error = watched(capfd, written(tmp_path, script), "--every", "20")
    announced, told = error.split("trained by SGD\n\n")
    assert "US301" not in announced
    assert "the warm-up has taken all steps" in " ".join(told.split())


@pytest.mark.parametrize(("condition", "code"), [("error", 1), ("US2", 0)])
def test_the_exit_code_tells_a_finding_if_it_is_asked_to(tmp_path, condition, code):
    path = written(
        tmp_path, "model = network(20, nn.Sigmoid)\ntrain(model, torch.optim.SGD(model.parameters(), lr=0.1))"
    )
    assert main(["--fail-on", condition, str(path)]) == code
    path.write_text("raise SystemExit(4)")
    with pytest.raises(SystemExit) as ended:
        main(["--fail-on", condition, str(path)])
    assert ended.value.code == 4


def test_an_error_in_the_first_pass_has_no_frames_of_the_watch_and_the_verdict_says_what_was_seen(tmp_path):
    script = "nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(8, 1))(inputs)\n"
    written(tmp_path, script)
    code, _, error = processes.finished(["train.py"], command="unstuck")
    trace, verdict = error.split("\nunstuck: Sequential, moved by no optimizer\n")
    assert code == 1
    assert "train.py" in trace
    assert "functional.linear" in trace or "F.linear" in trace
    assert "unstuck" not in trace
    assert "no gradient of a backward() came back through its layers" in verdict


def test_a_bug_of_ours_ends_the_measurement_and_not_the_script(tmp_path, capfd, monkeypatch):
    def mistaken(*_, **__):
        raise LookupError("a mistake")

    path = written(tmp_path, SCRIPTS["plain"])
    whole = watched(capfd, path)
    monkeypatch.setattr("unstuck.watch.find", mistaken)
    output, error = watched(capfd, path)
    assert output == whole.out
    assert "not watched: Sequential (LookupError: a mistake)" in error


def test_a_script_from_standard_input_is_refused():
    code, _, error = processes.finished(["-"], command="unstuck")
    assert code == 2
    assert "cannot be run: write it to a file" in error


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


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["."], "is a folder: give a script"),
        (["train"], "there is no script train; a module needs -m"),
        (["absent.py"], ": check its name\n"),
        (["book.ipynb"], "is a notebook: unstuck -m IPython book.ipynb"),
        (["--json", "-", "train.py"], "argument --json: - would mix with the output of the script"),
        (
            ["--html", "absent/page.html", "train.py"],
            "--html: cannot write absent/page.html: there is no folder absent",
        ),
        (["--every", "0", "train.py"], "argument --every: '0' is not a number of steps"),
        (["--fail-on", "nothing", "train.py"], "'nothing' is not error"),
        ([], "the following arguments are required: SCRIPT"),
    ],
)
def test_a_wrong_command_is_refused_before_anything_runs(refused, arguments, text):
    open("book.ipynb", "w").close()
    with open("train.py", "w") as file:
        file.write("raise AssertionError")
    assert text in refused(main, arguments)


@pytest.mark.parametrize("program", [["-m", "no.such_module"], ["absent.py"]])
def test_a_program_that_does_not_exist_ends_as_in_python(program, tmp_path):
    code, output, error = processes.finished(program, command="unstuck")
    assert (code, output) == in_process([sys.executable, *program], tmp_path)[:2]
    assert error.startswith(("unstuck: there is no module no.such_module that can run", "unstuck: there is no script"))
    assert error.count("unstuck:") == 1


def test_an_option_behind_the_script_is_that_of_the_script_and_a_line_says_so(tmp_path):
    (tmp_path / "train.py").write_text("import sys\nprint(sys.argv[1:])\n")
    code, output, error = processes.finished(["train.py", "--html=a.html", "--epochs", "3"], command="unstuck")
    assert (code, output) == (0, "['--html=a.html', '--epochs', '3']\n")
    assert error.startswith("unstuck: --html stands after the script and belongs to it\nunstuck: nothing to watch")


def test_a_report_ends_quietly_when_its_reader_does(tmp_path):
    Diagnosis(stack(30, 1e-2), ()).to_json(tmp_path / "found.json")
    command = f"{shlex.quote(sys.executable)} -m unstuck report found.json | true; echo ${{PIPESTATUS[0]}}"
    assert in_process(["bash", "-c", command], tmp_path) == (0, "0\n", "")


def test_a_closed_standard_error_does_not_end_the_script(tmp_path, monkeypatch, capsys):
    (tmp_path / "train.py").write_text("print('trained')")
    monkeypatch.setattr(sys, "stderr", None)  # as Python sets it if the stream is closed
    assert main(["train.py"]) == 0
    assert capsys.readouterr().out == "trained\n"


@pytest.mark.parametrize(("steps", "measurements"), [(100, 8), (1_000, 16), (10_000, 39), (100_000, 61)])
def test_a_hundred_times_as_long_a_training_has_few_more_measurements_and_the_last_is_near_its_end(steps, measurements):
    every, measured = 1, []
    for step in range(steps):
        if step % every == 0:
            measured.append(step)
            every = distance(step)
    assert len(measured) == measurements
    assert steps - measured[-1] <= max(100, 0.2 * steps)
