"""Which models `unstuck` finds in a script, and what it says about each."""

import gc
import json
import re

import pytest
from support import processes
from unstuck_support.watching import SCRIPTS, dedented, verdict_of, watched, written

pytestmark = pytest.mark.usefixtures("own_process")


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
    assert "unstuck: Generator, trained by SGD" in error
    assert "unstuck: Judge, trained by Adam" in error
    (worst, _), (other, measured) = verdict_of(tmp_path), verdict_of(tmp_path, "found-Generator.json")
    assert [len(found["measurement"]["weights"]) for found in (worst, other)] == [42, 4]
    assert "US101" in [finding["rule"] for finding in worst["findings"]]
    assert [m["step"] for m in measured] == [0, 1, 10]
    assert (tmp_path / "found.html").exists()
    assert (tmp_path / "found-Generator.html").exists()


@pytest.mark.parametrize("mend", ["", "loss.requires_grad_()"])
def test_a_model_whose_parameters_are_all_frozen_is_named_with_the_remedy(mend, tmp_path):
    script = f"""
        class Net(nn.Sequential):
            pass
        net = Net(*network()).requires_grad_(False)
        optimizer = torch.optim.Adam(net.parameters())
        for _ in range(12):
            loss = (net(inputs) - targets).square().mean()
            {mend}
            loss.backward()
            optimizer.step()
    """
    written(tmp_path, script)
    code, _, error = processes.finished(["train.py"], command="unstuck")
    assert code == (0 if mend else 1)
    said = " ".join(error.split())
    assert "not watched: Net, whose 6 parameters are all frozen (`requires_grad=False`): unfreeze those" in said
    assert "belong to no module" not in said
    assert "nothing to watch" not in said


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
    assert "unstuck: Whole, trained by Adam" in error
    names = [layer["name"] for layer in verdict_of(tmp_path)[0]["measurement"]["layers"]]
    assert names == ["encoder.0", "encoder.1", "encoder.2", "encoder.3", "encoder.4", "decoder"]


def test_weights_that_are_updated_by_hand_are_measured_all_along(tmp_path, capfd):
    script = SCRIPTS["by hand"].replace("range(40)", "range(200)")
    _, error = watched(capfd, written(tmp_path, script), options=["--json", "found.json"])
    assert "unstuck: Sequential, moved by no optimizer" in error
    assert "step sizes (no optimizer made the last step)" in " ".join(error.split())
    found, measured = verdict_of(tmp_path)
    assert found["findings"] == []
    assert len(measured) == 9
    assert measured[-1]["step"] > 90


def test_gradients_that_add_up_beside_updates_by_hand_are_named(tmp_path, capfd):
    script = """
        for _ in range(60):
            (model(inputs) - targets).square().mean().backward()
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter -= 0.01 * parameter.grad
    """
    _, error = watched(capfd, written(tmp_path, script), options=["--json", "found.json"])
    assert "US305 warning: gradients are not cleared" in error
    found, measured = verdict_of(tmp_path)
    assert [finding["rule"] for finding in found["findings"]] == ["US305"]
    assert {m["samples"] for m in measured} == {found["measurement"]["samples"]}, "of one pass each"


def test_a_training_without_a_step_is_an_error_to_its_end(tmp_path, capfd):
    script = """
        for _ in range(60):
            optimizer.zero_grad()
            (model(inputs) - targets).square().mean().backward()
    """
    _, error = watched(capfd, written(tmp_path, script), options=["--json", "found.json"])
    assert "US304 error: no optimizer step" in error
    assert [finding["rule"] for finding in verdict_of(tmp_path)[0]["findings"]] == ["US304"]


def test_an_optimizer_of_another_model_is_named(tmp_path, capfd):
    script = """
        old, model = network(), network()
        train(model, torch.optim.SGD(old.parameters(), lr=0.1), 30)
    """
    _, error = watched(capfd, written(tmp_path, script))
    assert "SGD: 6 of its 6 parameters belong to no module that ran" in error
    assert "unstuck: Sequential, moved by no optimizer" in error


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
    assert f"unstuck: Other, moved by no optimizer\n\nnothing was measured: {reason}" in error


def test_models_whose_optimizers_have_the_parameters_of_the_first_are_named(tmp_path, capfd):
    script = """
        models = [network() for _ in range(3)]
        optimizers = [torch.optim.SGD(models[0].parameters(), lr=0.1) for _ in models]
        for _ in range(2):
            for each, optimizer in zip(models, optimizers):
                train(each, optimizer, 12)
    """
    _, error = watched(capfd, written(tmp_path, script))
    first, nothing = error.split("unstuck: Sequential 2, moved by no optimizer")
    assert first.strip().startswith("unstuck: Sequential, trained by SGD")
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
    assert "US303" not in error
    assert "moved by no optimizer" not in error
    assert error.count("unstuck: Teacher") == 1


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
    assert "US501" not in error


@pytest.mark.parametrize("kind", ["Dict", "List"])
@pytest.mark.parametrize("optimizers", [1, 2])
def test_parts_in_a_list_or_dictionary_are_a_model_if_one_optimizer_moves_them(tmp_path, capfd, kind, optimizers):
    script = f"""
        body, head = nn.Sequential(nn.Linear(8, 4), nn.Tanh()), nn.Linear(4, 1)
        whole = nn.ModuleDict(dict(body=body, head=head)) if {kind == "Dict"} else nn.ModuleList([body, head])
        parts = [whole] if {optimizers == 1} else [body, head]
        optimizers = [torch.optim.SGD(part.parameters(), lr=0.1) for part in parts]
        odd = object.__new__(torch.optim.SGD)
        both = torch.optim.SGD(whole.parameters(), lr=0.1)  # which makes no step
        for i in range(12):
            for optimizer in optimizers:
                optimizer.zero_grad()
            nn.functional.mse_loss(head(body(inputs)), targets).backward()
            for optimizer in optimizers:
                optimizer.step()
    """
    _, error = watched(capfd, written(tmp_path, script))
    names = re.findall(r"^unstuck: (\w+), trained by SGD$", error, re.MULTILINE)
    assert names == ([f"Module{kind}"] if optimizers == 1 else ["Sequential", "Linear"])
    assert f"healthy: {3 if optimizers == 1 else 2} layers" in error


def test_a_head_that_trains_from_a_later_step_on_belongs_to_a_module_that_ran(tmp_path, capfd):
    script = """
        body, heads = nn.Linear(8, 4), [nn.Linear(4, 1), nn.Linear(4, 1)]
        optimizer = torch.optim.SGD([p for part in (body, *heads) for p in part.parameters()], lr=0.1)
        for i in range(60):
            optimizer.zero_grad()
            nn.functional.mse_loss(heads[i // 20 % 2](body(inputs).tanh()), targets).backward()
            optimizer.step()
    """
    _, error = watched(capfd, written(tmp_path, script))
    assert "trained by SGD" in error
    assert "belong to no module" not in error


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
    assert "unstuck: Sequential 3, trained by SGD" in error


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
    assert "nothing to watch" not in error
    assert "not watched: what runs in other threads than the main one" in error


def test_folds_with_one_result_are_reported_once(tmp_path, capfd):
    script = """
        for _ in range(3):
            model = network(12, nn.Sigmoid)
            train(model, torch.optim.SGD(model.parameters(), lr=0.1), 12)
    """
    _, error = watched(capfd, written(tmp_path, script), options=["--json", "found.json"])
    said = " ".join(error.split())
    assert "unstuck: Sequential 2, step 1: US101 error: vanishing gradient, as in Sequential " in said
    assert error.count("Only ") == 2  # when it appeared, and in the verdict
    assert "the same result: Sequential 2, Sequential 3" in error
    assert [json.loads(path.read_bytes())["steps"] for path in tmp_path.glob("found*.json")] == [12] * 3


def test_a_model_that_is_made_for_each_step_is_named_and_costs_little(tmp_path, capfd):
    script = """
        for _ in range(40):
            model = network()
            train(model, torch.optim.SGD(model.parameters(), lr=0.1), 1)
        last = nn.Linear(8, 1)
        train(last, torch.optim.SGD(last.parameters(), lr=0.1))
    """
    _, error = watched(capfd, written(tmp_path, script))
    assert "more than 16 models of the class Sequential" in " ".join(error.split())
    assert "Sequential 17" not in error
    assert "belong to no module" not in error
    assert "unstuck: Linear, trained by SGD" in error


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


@pytest.mark.parametrize("kind", ["LBFGS", "Adam"])
def test_a_model_that_first_runs_in_a_closure_is_measured_from_that_step_on(kind, tmp_path, capfd):
    script = f"""
        def closure():
            optimizer.zero_grad()
            loss = nn.functional.mse_loss(model(inputs), targets)
            loss.backward()
            return loss
        inputs, targets = torch.randn(64, 8), torch.randn(64, 1)
        model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1))
        optimizer = torch.optim.{kind}(model.parameters(), 0.01)
        for _ in range(12):
            optimizer.step(closure)
    """
    _, error = watched(capfd, written(tmp_path, script), options=["--json", "found.json"])
    assert "12 steps, measured 3 times from step 0 to 10" in error
    assert all(weight["update"] > 0 for m in verdict_of(tmp_path)[1] for weight in m["weights"])


def test_weights_that_stand_in_for_one_call_are_no_model_without_gradients(tmp_path, capfd):
    script = """
        model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1))
        optimizer = torch.optim.Adam(model.parameters(), 0.01)
        def loss_of(weights):
            return torch.func.functional_call(model, weights, (inputs,)).square().mean()
        inputs = torch.randn(64, 8)
        for _ in range(14):
            gradients = torch.func.grad(loss_of)(dict(model.named_parameters()))
            for name, parameter in model.named_parameters():
                parameter.grad = gradients[name]
            optimizer.step()
    """
    _, error = watched(capfd, written(tmp_path, script))
    assert "US501" not in error
    assert "what runs by torch.func.functional_call: call the model itself in some steps" in " ".join(error.split())


def test_what_nobody_has_any_more_is_no_model(tmp_path, capfd):
    script = """
        class Whole(nn.Module):
            def __init__(self):
                super().__init__()
                self.encoder, self.decoder = nn.Sequential(nn.Linear(8, 16), nn.Tanh()), nn.Linear(16, 8)
                self.parts = [self]  # only the garbage collector frees it
        encoder = Whole().encoder
        optimizer = torch.optim.Adam(encoder.parameters())
        for _ in range(12):
            optimizer.zero_grad()
            (encoder(torch.randn(64, 8)) - 0.1).square().mean().backward()
            optimizer.step()
    """
    _, error = watched(capfd, written(tmp_path, script), options=["--json", "found.json"])
    assert "unstuck: Sequential, trained by Adam" in error
    assert "US501" not in error
