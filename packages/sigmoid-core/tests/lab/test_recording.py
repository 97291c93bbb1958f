"""Trainings outside the lab: a run's folder and a file of samples, while they grow."""

import contextlib
import json
import math

import pytest
import torch
from starlette.testclient import TestClient
from torch import nn

import sigmoidcore as sc
from sigmoidcore.cli import main
from sigmoidcore.equalizer.sample import Sample
from sigmoidcore.lab.guard import Guard
from sigmoidcore.lab.recording import Recorder, Recording
from sigmoidcore.lab.server import application
from sigmoidcore.training.data import DataError, InputError


@pytest.mark.usefixtures("without_figures")
def test_a_run_is_shown_with_its_samples_and_its_epochs(tmp_path):
    folder = tmp_path / "run"
    assert (
        main(["train", "--data", "wine", "--depth", "5", "--width", "8", "--epochs", "2", "--output", str(folder)]) == 0
    )
    recording, rows = (message for message in Recording(folder).news())
    assert (recording["name"], recording["layers"], recording["metric"]) == ("run", 5, "accuracy")
    epochs = [row for row in rows["rows"] if row["loss"] is not None]
    assert [row["score"] > 0 for row in epochs] == [True, True]
    first = next(row for row in rows["rows"] if row["sizes"])
    text = (folder / "metrics.jsonl").read_text()
    written = next(row for row in map(json.loads, text.splitlines()) if row["kind"] == "sample")
    assert first["sizes"] == pytest.approx([size / math.log(10) for size in written["log_sizes"]], abs=1e-3)


def test_a_users_own_loop_is_shown_while_it_trains(tmp_path):
    path = tmp_path / "samples.jsonl"
    model = nn.Sequential(nn.Linear(4, 8), nn.Sigmoid(), nn.Linear(8, 8), nn.Sigmoid(), nn.Linear(8, 2))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    x, y, recording = torch.randn(32, 4), torch.randint(0, 2, (32,)), None
    with sc.Monitor(model, every=1, sinks=[Recorder(path)]) as monitor:
        for step in range(3):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
            recording = recording or Recording(path)
            (rows,) = (message["rows"] for message in recording.news() if message["kind"] == "rows")
            assert [row["step"] for row in rows] == [step]
        sizes = monitor.diagnosis().measurement.profile.sizes.log10().tolist()
    assert rows[-1]["sizes"] == pytest.approx(sizes, abs=1e-3)
    assert recording.news() == []


def test_a_file_that_begins_again_is_shown_from_its_beginning(tmp_path):
    path = tmp_path / "samples.jsonl"
    recorder = Recorder(path)
    for step in range(5):
        recorder(Sample(step, 1.0, (0.0, 1.0), 0, 0))
    recording = Recording(path)
    assert len(recording.news()[1]["rows"]) == 5
    path.unlink()
    recorder(Sample(0, 1.0, (0.0, -math.inf), 0, 0))
    again, rows = recording.news()
    assert again["kind"] == "recording"
    assert [(row["step"], row["sizes"]) for row in rows["rows"]] == [(0, [0.0, None])]


def test_what_is_not_a_recording_is_an_error_with_the_remedy(tmp_path, refused):
    with pytest.raises(InputError, match="`sigmoid-core runs` lists runs"):
        Recording(tmp_path)
    assert "neither the folder of a run" in refused(["lab", "--no-browser", str(tmp_path / "nothing")])
    damaged = tmp_path / "damaged.jsonl"
    damaged.write_text('{"kind": "sample"}\n')
    with pytest.raises(DataError, match="damaged"):
        Recording(damaged).news()


def test_a_page_gets_the_rows_of_a_recording(tmp_path):
    path = tmp_path / "samples.jsonl"
    recorder = Recorder(path)
    recorder(Sample(0, 1.0, (0.0, 1.0), 0, 0))
    headers = {"host": "127.0.0.1:8765", "origin": "http://127.0.0.1:8765"}
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(TestClient(application(Guard("127.0.0.1"), recording=path)))
        socket = stack.enter_context(client.websocket_connect("/ws", headers=headers))
        assert [socket.receive_json()["kind"] for _ in range(3)] == ["hello", "recording", "rows"]
        recorder(Sample(1, 1.0, (0.0, 2.0), 0, 0))
        assert [row["step"] for row in socket.receive_json()["rows"]] == [1]
        path.write_text("no JSON\n")
        assert "damaged" in socket.receive_json()["text"]
