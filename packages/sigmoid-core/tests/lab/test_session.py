"""A session: it trains really, answers what is asked, and shows what the rest of the package measures."""

import base64

import pytest
import torch

import sigmoidcore as sc
from sigmoidcore.lab.session import Session
from sigmoidcore.lab.setting import RATES, parse


class Page:
    """A session whose messages are kept, the latest of each kind."""

    def __init__(self, **values):
        self.heard = {}
        self.session = Session(lambda message: self.heard.update({message["kind"]: message}))
        self.session.arrange(parse({"depth": 4, "width": 8, **{key.replace("_", "."): v for key, v in values.items()}}))
        self.session.turn()

    def train(self, steps):
        self.session.advance(steps)
        for _ in range(steps):
            self.session.turn()
        return self.frame()

    def frame(self):
        self.session.look(*self.session._look)
        self.session._due = 0.0
        self.session.turn()
        return self.heard["frame"]


def test_both_networks_learn_and_the_deep_plain_one_does_not():
    shallow = Page(depth=2, width=16)
    before = shallow.frame()
    after = shallow.train(150)
    assert (before["step"], after["step"]) == (0, 150)
    for first, last in zip(before["networks"], after["networks"], strict=True):
        assert last["loss"] < 0.75 * first["loss"]
    deep = Page(depth=30, width=16).train(100)
    plain, cores = deep["networks"]
    assert plain["loss"] > 0.68
    assert plain["sizes"][-1] - plain["sizes"][0] > 20
    assert cores["loss"] < 0.5
    assert abs(cores["sizes"][-1] - cores["sizes"][0]) < 1


def test_the_profile_is_the_gradient_profile_of_the_package():
    page = Page(depth=10)
    frame, data = page.frame(), page.session.data
    for network, shown in zip(page.session.networks, frame["networks"], strict=True):
        profile = sc.gradient_profile(network.model, data.train_x[:128], data.train_y[:128], data.loss_fn)
        assert shown["sizes"] == pytest.approx(profile.sizes.log10().tolist(), abs=2e-3)
        assert shown["slopes"] == pytest.approx([float(core.alpha.mean()) for core in network.cores], rel=1e-3)


def test_a_measurement_changes_nothing_in_the_training():
    watched, alone = Page(b_kind="batchnorm"), Page(b_kind="batchnorm")
    for _ in range(10):
        watched.train(1)
    alone.session._due = float("inf")
    alone.train(10)
    for one, other in zip(watched.session.networks, alone.session.networks, strict=True):
        for name, value in one.model.state_dict().items():
            assert torch.equal(value, other.model.state_dict()[name]), name


def test_the_same_seed_gives_both_networks_the_same_start_and_another_seed_another():
    page = Page(a_kind="relu", b_kind="relu", a_rate=0.01, b_rate=0.01)
    a, b = page.train(5)["networks"]
    assert a == b
    assert Page(a_kind="relu", seed=1).train(5)["networks"][0]["loss"] != a["loss"]


@pytest.mark.parametrize("kind", RATES)
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_every_kind_of_network_trains_with_every_optimizer(kind, optimizer):
    frame = Page(a_kind=kind, a_optimizer=optimizer, a_rate=0.003).train(3)
    shown = frame["networks"][0]
    assert shown["loss"] > 0
    assert len(shown["sizes"]) == (2 if kind == "resnet" else 4)
    assert bool(shown["slopes"]) == (kind in ("sigmoid", "sigmoid-core", "tanh"))
    assert sum(shown["histogram"]) == 128 * 8
    strip = base64.b64decode(shown["strip"]["values"])
    assert len(strip) == len(shown["sizes"]) * 8


@pytest.mark.parametrize(
    ("data", "part"), [("spirals", "surface"), ("rings", "surface"), ("article", "fit"), ("digits", "answers")]
)
def test_every_data_set_has_its_picture(data, part):
    page = Page(data=data)
    shown = page.train(2)["networks"]
    assert all(part in network for network in shown)
    assert ("images" in page.heard["built"]) == (data == "digits")


def test_a_slope_set_by_hand_changes_that_layer_and_the_gradient_answers():
    page = Page(depth=6)
    before = page.frame()["networks"][0]
    page.session.set_slope(0, 2, 4.0)
    after = page.frame()["networks"][0]
    assert after["slopes"][2] == 4.0
    assert after["slopes"][:2] + after["slopes"][3:] == before["slopes"][:2] + before["slopes"][3:]
    assert after["sizes"][2] - after["sizes"][3] > before["sizes"][2] - before["sizes"][3] + 0.25


@pytest.mark.parametrize("kind", ["weights", "inputs", "half"])
def test_an_accident_happens_to_both_networks_and_the_equalizer_brings_its_own_back(kind):
    options = {f"{name}_{key}": value for name in "ab" for key, value in (("kind", "sigmoid-core"), ("rate", 0.01))}
    page = Page(depth=20, width=32, a_equalizer=False, b_equalizer=True, batch=64, **options)
    before = page.train(60)["networks"]
    page.session.accident(kind)
    hurt = page.frame()["networks"]
    assert all(one["loss"] > 1.2 * other["loss"] for one, other in zip(hurt, before, strict=True))
    with pytest.warns(RuntimeWarning, match="the gradient has changed suddenly"):
        alone, equalized = [page.train(1) for _ in range(40)][-1]["networks"]  # also right after a frame
    assert sum(sample.recovered for sample in page.session.networks[1].equalizer.history) > 0
    assert equalized["loss"] < 0.6 * alone["loss"]
    assert equalized["loss"] < 0.15 * hurt[1]["loss"]


@pytest.mark.parametrize("depth", [1, 1000])
def test_the_least_and_the_greatest_depth_train(depth):
    shown = Page(depth=depth, width=4, b_kind="relu").train(1)["networks"]
    assert [len(network["sizes"]) for network in shown] == [depth, depth]
    assert all(network["loss"] > 0 for network in shown)


def test_pause_reset_and_a_new_set_up_begin_at_step_0():
    page = Page()
    page.session.run(True)
    for _ in range(5):
        page.session.turn()
    assert page.session.step == 5
    page.session.run(False)
    page.session.turn()
    assert page.session.step == 5
    first = page.heard["built"]["id"]
    page.session.reset()
    page.session.turn()
    assert (page.session.step, page.heard["built"]["id"], page.frame()["running"]) == (0, first + 1, False)


def test_a_step_asked_for_together_with_a_set_up_is_taken():
    page = Page()
    page.session.arrange(parse({"depth": 2, "width": 4}))
    page.session.advance(1)
    while page.session.delay == 0.0:
        page.session.turn()
    assert (page.session.step, page.session.setting.depth) == (1, 2)


def test_a_neuron_can_be_looked_at_and_a_report_is_the_page_of_a_diagnosis():
    page = Page()
    page.session.look(3, 5)
    assert sum(page.frame()["networks"][0]["histogram"]) == 128
    page.session.report(0)
    page.session.turn()
    assert "<title>" in page.heard["report"]["html"]


def test_a_training_whose_numbers_are_not_finite_goes_on_and_says_so():
    page = Page(a_kind="relu", a_optimizer="sgd", a_rate=10.0, data="article")
    shown = page.train(60)["networks"]
    assert shown[0]["loss"] is None
    assert shown[0]["sizes"] == [None] * 4
    assert shown[1]["loss"] is not None
