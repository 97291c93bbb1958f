"""A comparison: all trainings are done once, with the same budget, and a file resumes them."""

import itertools
import json

import pytest
import torch
from torch import nn

from sigmoidcore.peers import Method, find
from sigmoidcore.peers.comparison import Budget, Comparison
from sigmoidcore.peers.report import figures, markdown, rows
from sigmoidcore.training import Split, loop


@pytest.fixture
def data():
    x = torch.randn(60, 6)
    y = (x.sum(1) > 0).long()
    return Split("halves", x, y, x, y, classes=2)


def linear(problem, knob=1.0):
    model = nn.Linear(problem.features, problem.outputs)
    with torch.no_grad():
        model.weight.mul_(knob)
    return model


ONE = Method("one", "here", linear, rates=(0.1,))
KNOBS = Method("knobs", "there", linear, knob="size", knobs=(0.5, 2.0), rates=(0.01, 0.1))
SHORT = Budget(width=4, batch_size=30, epochs=2)


def comparison(data, *methods, budget=SHORT, **options):
    return Comparison(methods or (ONE, KNOBS), data, budget, **{"depths": [2], "seeds": [0, 1], **options})


def test_every_method_is_trained_in_all_of_its_settings_with_every_seed_and_depth(data):
    found = comparison(data, depths=[2, 3])
    assert len(found.settings) == 2 * 2 * (1 + 4)
    assert [setting.seed for setting in found.settings] == [0] * 10 + [1] * 10
    trials = list(found.run())
    assert [trial.setting for trial in trials] == found.settings
    assert found.missing == []
    assert [len(standing.settings) for standing in found.standings] == [1, 4, 1, 4]
    assert all(len(trial.curve) == 2 and trial.parameters == 14 for trial in trials)


def test_the_network_has_the_width_and_depth_and_sees_256_training_samples(data):
    seen = []

    def build(problem):
        seen.append((problem.width, problem.depth, problem.outputs, len(problem.inputs), problem.kind))
        return linear(problem)

    list(comparison(data, Method("a", "b", build, rates=(0.1,)), depths=[7], seeds=[0]).run())
    assert seen == [(4, 7, 2, 60, "mlp")]


def test_trainings_are_those_of_the_same_recipe_alone(data):
    (trial,) = comparison(data, ONE, seeds=[3]).run()
    torch.manual_seed(3)
    model = nn.Linear(6, 2)
    torch.manual_seed(3)
    result = loop.train(model, data, epochs=2, batch_size=30, seed=3, lr=0.1, **ONE.training())
    assert [metric for _, metric in trial.curve] == result.accuracies
    assert trial.metric == result.accuracies[-1]


def test_a_file_resumes_and_extends_a_comparison(data, tmp_path):
    file = tmp_path / "results.json"
    first = comparison(data, file=file)
    list(itertools.islice(first.run(), 3))
    again = comparison(data, file=file, depths=[2, 3])
    assert again.settings[0] not in again.missing
    assert len(again.missing) == 20 - 3
    list(again.run())
    whole = comparison(data, file=file)
    assert whole.missing == []
    alone = comparison(data)
    list(alone.run())
    assert [whole.trials[s].metric for s in whole.settings] == [alone.trials[s].metric for s in alone.settings]
    assert len(whole.standings) == 2  # depth 3 is in the file, but not asked for


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"budget": Budget(width=5, batch_size=30, epochs=2)}, "'width': 4"),
        ({"budget": Budget(width=4, batch_size=30, epochs=3)}, "'epochs': 2"),
        ({"torch": "3"}, "'torch': None"),
    ],
)
def test_a_file_of_another_comparison_is_refused_with_what_differs(data, tmp_path, change, named):
    file = tmp_path / "results.json"
    list(itertools.islice(comparison(data, file=file).run(), 1))
    with pytest.raises(ValueError, match="give another --output") as error:
        comparison(data, file=file, **change)
    assert named in str(error.value)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"facts": {}, "trials": [{"method": "a"}]}', '{"facts": {}}'])
def test_a_file_that_is_not_of_a_comparison_is_refused(data, tmp_path, content):
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(ValueError, match=r"results\.json is not a file of a comparison"):
        comparison(data, file=tmp_path / "results.json")


def test_a_training_whose_loss_is_not_finite_has_no_metric_and_the_file_no_nan(data, tmp_path):
    def build(problem):
        model = linear(problem)
        with torch.no_grad():
            model.weight.fill_(float("inf"))
        return model

    file = tmp_path / "results.json"
    found = comparison(data, Method("large", "here", build, rates=(0.1,)), file=file)
    assert [trial.metric for trial in found.run()] == [None, None]
    assert [row["metric"] for row in json.loads(file.read_text())["trials"]] == [None, None]
    assert rows(found)[0]["accuracy"] == "not finite"


def test_a_budget_of_seconds_ends_a_training_and_lets_its_rate_fall_by_time(data, monkeypatch):
    """A clock that a step moves by a second, and building by two."""
    now = [0.0]
    rates = []
    for module in ("loop", "comparison"):
        package = "training" if module == "loop" else "peers"
        monkeypatch.setattr(f"sigmoidcore.{package}.{module}.time.perf_counter", lambda: now[0])

    class Slow(nn.Linear):
        def forward(self, x):
            now[0] += self.training
            return super().forward(x)

    def build(problem):
        now[0] += 2
        return Slow(6, 2)

    def schedule_seen(model, lr):
        return [{"params": list(model.parameters()), "lr": lr}]

    method = Method("slow", "here", build, rates=(0.1,), recipe={"rates": schedule_seen})
    found = comparison(data, method, budget=Budget(4, 30, epochs=1, seconds=11), seeds=[0])
    (trial,) = found.run(lambda setting, progress: rates.append(progress.seconds))
    assert len(rates) == 10  # 11 - 2 seconds, and the step in which it was over
    assert trial.seconds == 12
    assert [seconds for seconds, _ in trial.curve] == [4, 6, 8, 10, 12]


def test_the_table_has_the_best_setting_and_how_many_were_tried(data):
    found = comparison(data)
    list(found.run())
    one, knobs = rows(found)
    assert (one["method"], one["settings tried"], one["knob"], one["basin"]) == ("one", "1", "-", "-")
    assert (knobs["method"], knobs["settings tried"]) == ("knobs", "4")
    assert knobs["knob"] in ("size 0.5", "size 2")
    assert one["rate"] == "0.1"
    assert knobs["rate"] in ("≤ 0.01", "≥ 0.1")  # of two rates, each is at an edge
    text = markdown(found)
    assert f"| {' | '.join(one.values())} |" in text
    assert "- `knobs`: there" in text
    assert "Not complete" not in text


@pytest.mark.parametrize("depths", [[2], [2, 3]])
def test_there_is_a_figure_against_seconds_and_rates_and_for_several_depths_against_them(data, depths):
    found = comparison(data, depths=depths)
    list(found.run())
    drawn = figures(found)
    assert list(drawn) == ["by_seconds", "by_rate", *(["by_depth"] if len(depths) > 1 else [])]  # no hidden layers
    for name in ("by_seconds", "by_rate"):
        axes = drawn[name].axes
        assert [a.get_title(loc="left") for a in axes] == [f"{depth} layers" for depth in depths]
        assert {line.get_label() for line in axes[0].get_lines()} == {"one", "knobs"}


def test_the_profiles_are_those_of_the_untrained_networks_of_the_deepest_row(data):
    found = comparison(data, find("sigmoid"), find("resnet-zero"), depths=[2, 12], seeds=[0], rates=(0.01,))
    list(found.run())
    plain, zero = (found.first_profile(standing) for standing in found.standings if standing.depth == 12)
    assert len(plain.sizes) == 12
    assert plain.spread > 1e4
    assert (zero.sizes == 0).sum() > 3  # branches begin as 0
    labels = [line.get_label() for line in figures(found)["profiles"].axes[0].get_lines()]
    assert [label.partition(":")[0] for label in labels if ":" in label] == ["sigmoid", "resnet-zero"]


def test_sigmoid_core_is_prepared_and_trained_by_its_rule(data):
    found = comparison(data, find("sigmoid-core"), depths=[20], budget=Budget(16, 10, 5), seeds=[0])
    (trial,) = found.run()
    assert trial.setting.rate == 0.03
    assert trial.metric > 90
