"""The exported script: it runs, and prints the numbers that the page showed."""

import re
from types import SimpleNamespace

import pytest

from sigmoidcore.lab.datasets import own_data
from sigmoidcore.lab.session import Session
from sigmoidcore.lab.setting import parse

OPTIONS = [
    {"a.kind": "sigmoid", "a.equalizer": True},
    {"a.kind": "sigmoid-core", "a.rate": 0.03, "data": "spirals", "a.equalizer": True, "a.saturation": 1.5},
    {"a.kind": "sigmoid-core", "a.optimizer": "sgd", "a.rate": 0.01, "data": "article"},
    {"a.kind": "tanh", "a.optimizer": "sgd", "data": "rings", "seed": 3},
    {"a.kind": "batchnorm", "data": "digits"},
    {"a.kind": "resnet", "data": "own"},
]


@pytest.fixture
def prices(tmp_path):
    path = tmp_path / "prices.csv"
    path.write_text("size,rooms,price\n" + "".join(f"{i % 37},{i % 5},{3 * (i % 37) + i % 5}\n" for i in range(200)))
    return path


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: f"{options['a.kind']}-{options.get('data', 'moons')}")
def test_the_script_prints_the_loss_and_the_score_of_the_page(options, prices, capsys):
    heard, own = {}, own_data(prices, "price") if options.get("data") == "own" else None
    session = Session(lambda message: heard.update({message["kind"]: message}), own)
    session.arrange(parse({"depth": 3, "width": 8, **options}))
    session.turn()
    session.advance(20)
    for _ in range(20):
        session._due = 0.0
        session.turn()
    shown = heard["frame"]["networks"][0]
    exec(compile(session.code(0), "training_a.py", "exec"), vars(SimpleNamespace(__name__="__main__")))
    loss, score = re.search(r"^loss ([\d.e+-]+), \w+ ([\d.e+-]+)$", capsys.readouterr().out, re.MULTILINE).groups()
    assert heard["frame"]["step"] == 20
    assert float(loss) == pytest.approx(shown["loss"], rel=1e-4)
    assert float(score) == pytest.approx(shown["score"], rel=1e-3)


@pytest.mark.parametrize(("options", "address"), [({}, "the set-up that it opens with"), ({"depth": 9}, "?depth=9")])
def test_the_script_says_how_the_lab_shows_it_again(options, address):
    session = Session(lambda message: None)
    session.arrange(parse(options))
    session.turn()
    assert session.code(0).splitlines()[0].endswith(f'on the data "moons"; in the lab: {address}')


def test_a_table_of_numbers_is_split(prices):
    own = own_data(prices, "price")
    assert (own.features, own.outputs, own.classes, len(own.train_x), len(own.test_x)) == (2, 1, 0, 160, 40)
