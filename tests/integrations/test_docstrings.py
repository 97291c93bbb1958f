"""The examples that `make doctest` leaves out, for they need a framework: here they run as they stand."""

import doctest
import importlib

import lightning.pytorch as lightning
import mlflow
import pytest
import torch
import wandb
from torch import nn
from trainings import ROWS, adam, batches, network
from transformers import Trainer, TrainingArguments

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("default")]


class Module(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.network = network(torch.float32)

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self.network(batch[0]), batch[1])

    def configure_optimizers(self):
        return adam(self)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.network = network(torch.float32)

    def forward(self, x, labels):
        outputs = self.network(x)
        return {"loss": nn.functional.cross_entropy(outputs, labels), "logits": outputs}


class Shown(doctest.OutputChecker):
    """What an example shows is compared; what a framework prints elsewhere, such as its progress, is its own."""

    def check_output(self, want, got, optionflags):
        return not want or super().check_output(want, got, optionflags)


def names(folder):
    """What the examples take for granted."""
    return {
        "lightning": lightning,
        "module": Module(),
        "batches": batches(4),
        "Trainer": Trainer,
        "model": Model(),
        "arguments": TrainingArguments(
            str(folder), max_steps=2, per_device_train_batch_size=ROWS, use_cpu=True, report_to=[]
        ),
        "rows": [{"x": x, "labels": y} for batch in batches(2) for x, y in zip(*batch, strict=True)],
        "wandb": wandb,
        "mlflow": mlflow,
    }


@pytest.mark.parametrize("name", ["lightning", "transformers", "ignite", "watch", "sinks"])
def test_the_examples_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for variable, value in {
        "WANDB_MODE": "offline",
        "WANDB_SILENT": "true",
        "MLFLOW_ALLOW_FILE_STORE": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_TRACKING_URI": (tmp_path / "mlruns").as_uri(),
    }.items():
        monkeypatch.setenv(variable, value)
    module = importlib.import_module(f"sigmoidcore.integrations.{name}")
    run = 0
    for test in doctest.DocTestFinder().find(module, extraglobs=names(tmp_path)):
        for example in test.examples:
            run += example.options.pop(doctest.SKIP, False)
        runner = doctest.DocTestRunner(Shown(), verbose=False)
        runner.run(test)
        assert runner.summarize(verbose=False).failed == 0, test.name
    assert run == {"lightning": 3, "transformers": 3, "ignite": 0, "watch": 5, "sinks": 3}[name]
