"""The server: who may talk to it, what it answers, and that no message ends it."""

import json
import random
import re

import pytest
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from sigmoidcore.lab.guard import Guard
from sigmoidcore.lab.server import FULL, REFUSED, application

SMALL = "?depth=2&width=4"


def client_of(guard=None, **options):
    return TestClient(application(guard or Guard("127.0.0.1"), **options), base_url="http://127.0.0.1:8765")


@pytest.fixture
def client():
    with client_of() as client:
        yield client


def connect(client, query=SMALL, origin="http://127.0.0.1:8765", **headers):
    names = {"host": "127.0.0.1:8765", **({} if origin is None else {"origin": origin}), **headers}
    return client.websocket_connect("/ws" + query, headers=names)


def wait_for(socket, kind, **values):
    for _ in range(2000):
        message = socket.receive_json()
        if message["kind"] == kind and all(message[key] == value for key, value in values.items()):
            return message
    raise AssertionError(f"no {kind} with {values}")


def ask(socket, what, **values):
    socket.send_json({"do": what, **values})


def test_the_page_and_its_files_are_served_with_a_strict_policy(client):
    page = client.get("/")
    assert page.status_code == 200
    names = set(re.findall(r'(?:src|href)="/([\w.]+)"', page.text))
    assert {"main.js", "style.css", "icon.svg"} <= names
    for name in names:
        answer = client.get("/" + name)
        assert answer.status_code == 200
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert "<script>" not in page.text
    assert "style=" not in page.text


@pytest.mark.parametrize("path", ["/nothing.js", "/..%2f__init__.py", "/%2e%2e/server.py", "/static/main.js"])
def test_nothing_else_is_served(client, path):
    assert client.get(path).status_code == 404


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8765", "127.0.0.1.evil.example", "", "[", "192.168.0.7"]
)
def test_a_host_that_is_not_this_machine_is_refused(client, host):
    assert client.get("/", headers={"host": host}).status_code == 421
    with pytest.raises(WebSocketDisconnect) as refused, connect(client, host=host, origin=f"http://{host}"):
        pass
    assert refused.value.code == REFUSED


@pytest.mark.parametrize(
    "origin", [None, "null", "http://evil.example", "http://127.0.0.1:9999", "ftp://127.0.0.1:8765", "["]
)
def test_a_page_of_another_site_cannot_connect(client, origin):
    with pytest.raises(WebSocketDisconnect) as refused, connect(client, origin=origin):
        pass
    assert refused.value.code == REFUSED


def test_an_address_that_others_reach_needs_the_token():
    guard = Guard("0.0.0.0")
    assert len(guard.token) >= 32
    assert Guard("127.0.0.1").token == Guard("localhost").token == ""
    with client_of(guard) as client:
        assert client.get("/", headers={"host": "the-name-of-this-machine:8765"}).status_code == 200
        for query in ("", "?token=", "?token=wrong", "?token=%ff"):
            with connect(client, query) as socket, pytest.raises(WebSocketDisconnect) as refused:
                socket.receive_json()
            assert refused.value.code == REFUSED
        with connect(client, f"{SMALL}&token={guard.token}") as socket:
            wait_for(socket, "frame", step=0)


def test_a_page_builds_starts_steps_pauses_and_resets(client):
    with connect(client) as socket:
        assert socket.receive_json()["kind"] == "hello"
        built = wait_for(socket, "built")
        assert built["setting"]["depth"] == 2
        ask(socket, "step", count=3)
        wait_for(socket, "frame", step=3, running=False)
        ask(socket, "start")
        while wait_for(socket, "frame", running=True)["step"] < 20:
            pass
        ask(socket, "pause")
        step = wait_for(socket, "frame", running=False)["step"]
        ask(socket, "slope", network=0, layer=1, value=7.0)
        frame = wait_for(socket, "frame")
        assert (frame["step"], frame["networks"][0]["slopes"][1]) == (step, 7.0)
        ask(socket, "reset")
        wait_for(socket, "frame", id=built["id"] + 1, step=0)
        ask(socket, "code", network=1)
        assert "sc.prepare" in wait_for(socket, "code")["text"]
        ask(socket, "report", network=1)
        assert wait_for(socket, "report")["html"].startswith("<!")


def test_an_address_with_a_wrong_value_opens_the_first_set_up_and_says_why(client):
    with connect(client, "?depth=many") as socket:
        text = wait_for(socket, "error")["text"]
        assert "depth is 'many'" in text
        assert "No option of this address is used" in text
        assert wait_for(socket, "built")["setting"]["depth"] == 30


def test_errors_and_reports_are_in_the_language_of_the_page(client):
    with connect(client, "?lang=zh&depth=many") as chinese, connect(client, "?lang=xx&depth=3") as other:
        assert "depth 是 'many'" in wait_for(chinese, "error")["text"]
        for socket, error, report in ((chinese, "do 是 'dance'", "健康"), (other, "do is 'dance'", "healthy")):
            ask(socket, "dance")
            assert error in wait_for(socket, "error")["text"]
            ask(socket, "report", network=1)
            assert report in wait_for(socket, "report")["html"]


def test_pages_are_limited_and_a_closed_one_makes_room():
    with client_of(sessions=1) as client:
        with connect(client) as socket:
            wait_for(socket, "hello")
            with connect(client) as other, pytest.raises(WebSocketDisconnect) as refused:
                other.receive_json()
            assert refused.value.code == FULL
        for _ in range(100):
            with connect(client) as socket:
                try:
                    wait_for(socket, "frame")
                    return
                except WebSocketDisconnect:
                    continue
        raise AssertionError("no room")


def test_a_page_that_reads_nothing_and_asks_for_much_does_not_stop_another(client):
    with connect(client, "?depth=200&width=32") as greedy, connect(client) as socket:
        ask(greedy, "start")
        ask(socket, "start")
        first = wait_for(socket, "frame")["step"]
        for i in range(200):
            ask(greedy, "arrange", setting={"depth": 200, "width": 32, "seed": i})
        while wait_for(socket, "frame")["step"] < first + 200:
            pass


GOOD = [
    {"do": "start"}, {"do": "pause"}, {"do": "step", "count": 2}, {"do": "reset"},
    {"do": "look", "layer": 1, "neuron": 2}, {"do": "slope", "network": 1, "layer": 1, "value": 2.0},
    {"do": "code", "network": 0}, {"do": "report", "network": 3},
    {"do": "arrange", "setting": {"depth": 3, "width": 4}},
]  # fmt: skip
ODD = [
    None, True, -1, 0, 1e308, -0.0, 2**70, "", "x" * 300, "\u202e",
    [], [[]], {}, {"do": "start"}, float("nan"), float("inf"), "__proto__",
    "../../etc/passwd", "depth", "\x00", "9" * 400,
]  # fmt: skip


def mutated(rng):
    """A message that is nearly right: a value or a name is another one, text is cut, or bytes are."""
    message = json.loads(json.dumps(rng.choice(GOOD)))
    target = message["setting"] if "setting" in message and rng.random() < 0.5 else message
    for _ in range(rng.randint(1, 3)):
        target[rng.choice([*target, "do", "setting", "depth", "a.kind", rng.choice(["", "zz", "network"])])] = (
            rng.choice(ODD)
        )
    text = json.dumps(message)
    kind = rng.random()
    if kind < 0.2:
        place = rng.randrange(len(text))
        text = (
            text[:place] + rng.choice(["", "{", '"', "\\", "[" * 2000, "\ud83d\ude00", "1" * 5000]) + text[place + 1 :]
        )
    elif kind < 0.25:
        text = text * rng.randint(2, 900)
    return text


def test_ten_thousand_malformed_messages_get_errors_and_the_server_lives(client):
    rng = random.Random(0)
    with connect(client) as socket:
        for i in range(10_000):
            if rng.random() < 0.02:
                socket.send_bytes(rng.randbytes(50))
            else:
                socket.send_text(mutated(rng))
            if i % 500 == 499:
                ask(socket, "dance", count=i)
                assert wait_for(socket, "error")["text"]
        ask(socket, "arrange", setting={"depth": 2, "width": 4})
        ask(socket, "step")
        wait_for(socket, "frame", step=1)
    with connect(client) as socket:
        wait_for(socket, "frame", step=0)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("x" * 20_000, "send at most 16,384"),
        ("[" * 10_000, "is not JSON"),
        ("3", "send an object"),
        ('{"do": "\\ud83d"}', "the names are arrange, start"),
        ('{"do": "dance"}', "the names are arrange, start"),
        ('{"do": "accident", "kind": "flood"}', "the names are arrange, start"),
        ('{"do": "report", "network": 2}', "network is"),
        ('{"do": "slope", "network": 0, "layer": 0, "value": NaN}', "from 0.001 to 1000"),
        ('{"do": "arrange", "setting": [1]}', "send an object of options"),
        ('{"do": "arrange", "setting": {"data": "own"}}', "--data FILE"),
    ],
)
def test_a_wrong_message_is_answered_with_what_is_wrong(client, text, part):
    with connect(client) as socket:
        wait_for(socket, "frame")
        socket.send_text(text)
        assert part in wait_for(socket, "error")["text"]
