"""Examples of the documentation and of docstrings that need more than the package."""

import doctest
import importlib

import lightning.pytorch as lightning
import mlflow
import pytest
import torch
import wandb
from support.pages import PAGES, TRANSLATIONS, blocks, execute, run
from support.trainings import ROWS, Classifier, adam, batches, network, samples
from torch import nn
from transformers import Trainer, TrainingArguments

import sigmoidcore as sc

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("default")]


# --- pages -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "page", [p for p in PAGES if p not in TRANSLATIONS and any("needs" in block.marks for block in blocks(p))]
)
def test_the_python_of_the_page_runs_with_other_frameworks(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    run(page, monkeypatch, integrations=True)


FIRST, *EXAMPLES = (b for b in blocks("docs/integrations.md") if b.language == "python" and not b.hidden)


@pytest.mark.parametrize("block", EXAMPLES, ids=lambda block: str(block.line))
def test_an_example_for_a_framework_needs_only_the_first_block_of_its_page(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "copied"}
    for part in (FIRST, block):
        execute(part, namespace)


# --- docstrings ------------------------------------------------------------------------------------------------------


class Module(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.network = network(torch.float32)

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self.network(batch[0]), batch[1])

    def configure_optimizers(self):
        return adam(self)


class Shown(doctest.OutputChecker):
    """Compares the output that an example shows; frameworks print more."""

    def check_output(self, want, got, optionflags):
        return not want or super().check_output(want, got, optionflags)


@pytest.fixture
def names(tmp_path, monkeypatch):
    """Names that the examples assume."""
    monkeypatch.chdir(tmp_path)
    for variable, value in {
        "WANDB_MODE": "offline",
        "WANDB_SILENT": "true",
        "MLFLOW_ALLOW_FILE_STORE": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_TRACKING_URI": (tmp_path / "mlruns").as_uri(),
    }.items():
        monkeypatch.setenv(variable, value)
    options = {"max_steps": 2, "per_device_train_batch_size": ROWS, "use_cpu": True, "report_to": []}
    model = Classifier(torch.float32)
    yield {
        "sc": sc,
        "lightning": lightning,
        "module": Module(),
        "batches": batches(4),
        "Trainer": Trainer,
        "model": model,
        "optimizer": adam(model),
        "arguments": TrainingArguments(str(tmp_path), **options),
        "rows": samples(2, torch.float32),
        "wandb": wandb,
        "mlflow": mlflow,
    }
    wandb.finish()  # a run that stays open is what the next `wandb.init` of this process returns
    wandb.teardown()


@pytest.mark.parametrize(("name", "skipped"), [("lightning", 3), ("transformers", 3), ("sinks", 2)])
def test_the_examples_that_make_doctest_skips_run_with_the_frameworks(name, skipped, names):
    module = importlib.import_module(f"sigmoidcore.integrations.{name}")
    run = 0
    for test in doctest.DocTestFinder().find(module, extraglobs=names):
        for example in test.examples:
            run += example.options.pop(doctest.SKIP, False)
        runner = doctest.DocTestRunner(Shown(), verbose=False)
        runner.run(test)
        assert runner.summarize(verbose=False).failed == 0, test.name
    assert run == skipped
