"""Sinks write what TensorBoard, Weights & Biases (offline) and MLflow (files) themselves read back."""

import io
import math

import pytest
import torch
from PIL import Image
from torch import nn

from sigmoidcore import MLP, Equalizer, Monitor
from sigmoidcore.diagnosis.measure.measurement import Layer, Measurement
from sigmoidcore.integrations.sinks import SCALARS, MLflow, TensorBoard, WandB

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("default")]


def train(sink, depth=12):
    """Five steps, of which a Monitor measures two and an Equalizer three; returns what the Equalizer saw."""
    model = MLP(8, 16, depth, 3)
    optimizer = torch.optim.Adam(model.parameters())
    with Equalizer(model, optimizer, every=2, sinks=[sink]) as equalizer, Monitor(model, every=4, sinks=[sink]):
        for _ in range(5):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(torch.randn(20, 8)), torch.randint(0, 3, (20,))).backward()
            optimizer.step()
    return [sample.spread for sample in equalizer.history]


BROKEN = Measurement((Layer("0", "0", "Linear", "weights", gradient=math.nan),), (), samples=8, step=9)
"""Numbers that are not finite are what a sink is looked at for."""


def test_tensorboard_has_a_few_scalars_and_a_picture_a_measurement(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(tmp_path)
    sink = TensorBoard(writer)
    spreads = train(sink)
    sink(BROKEN)
    writer.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    tags = events.Tags()
    assert set(tags["scalars"]) <= {f"sigmoidcore/{name}" for name in SCALARS}
    assert set(tags["images"]) == {"sigmoidcore/layers", "sigmoidcore/cores"}
    assert [e.step for e in events.Scalars("sigmoidcore/equalizer_spread")] == [0, 2, 4]
    assert [e.value for e in events.Scalars("sigmoidcore/equalizer_spread")] == pytest.approx(spreads)
    assert math.isnan(events.Scalars("sigmoidcore/spread")[-1].value)
    pictures = events.Images("sigmoidcore/layers")
    assert [e.step for e in pictures] == [0, 4, 9]
    assert [e.step for e in events.Images("sigmoidcore/cores")] == [0]
    for picture in (*pictures, *events.Images("sigmoidcore/cores")):
        assert Image.open(io.BytesIO(picture.encoded_image_string)).size[0] == 900


def test_mlflow_has_every_sample_at_its_step(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())  # what is set in Python cannot be unset
    import mlflow

    with pytest.raises(ValueError, match="no run of MLflow is active"):
        MLflow()
    with mlflow.start_run() as run:
        sink = MLflow()
        spreads = train(sink)
    sink(BROKEN)  # a run that is named goes on
    client = mlflow.MlflowClient()
    history = client.get_metric_history(run.info.run_id, "sigmoidcore/equalizer_spread")
    assert [m.step for m in history] == [0, 2, 4]
    assert [m.value for m in history] == spreads
    names = client.get_run(run.info.run_id).data.metrics
    assert set(names) <= {f"sigmoidcore/{name}" for name in SCALARS}
    pictures = [a.path for a in client.list_artifacts(run.info.run_id, "images") if a.path.endswith(".png")]
    assert len(pictures) == 4  # of three measurements, and of the cores


def test_weights_and_biases_has_them_offline(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_SILENT", "true")
    import wandb

    with wandb.init(project="sigmoidcore", dir=tmp_path, mode="offline", reinit="finish_previous") as run:
        sink = WandB(run)
        spreads = train(sink)
        run.log({"mine": 1.0})
        summary = dict(run.summary)
    wandb.teardown()  # or the next run of this process has this one's settings
    assert summary["mine"] == 1.0
    assert summary["sigmoidcore/step"] == 4
    assert summary["sigmoidcore/equalizer_spread"] == pytest.approx(spreads[-1])
    assert {name for name in summary if name.startswith("sigmoidcore/")} <= {
        "sigmoidcore/step",
        "sigmoidcore/layers",
        "sigmoidcore/cores",
        *(f"sigmoidcore/{name}" for name in SCALARS),
    }
    assert len(list(tmp_path.glob("wandb/offline-run-*/files/media/images/**/*.png"))) == 3
