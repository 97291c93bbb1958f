"""Two processes of Lightning or the Trainer train one network as one process with the joined batch.

test_examples.py has the same for Accelerate.
"""

import tempfile
from typing import Any

import pytest
import torch
from support.trainings import CLIP, ROWS, STEPS, Classifier, Outcome, adam, batch, network, plain, samples
from support.two_processes import RANKS, TwoProcesses
from torch import nn
from torch.utils.data import DataLoader

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("default")]
on_ranks = TwoProcesses()
HALF = ROWS // RANKS
OPTIONS = {"every": 1, "monitor_every": 3}


def halves(rank: int) -> DataLoader[Any]:
    """A rank's half of every batch."""
    rows = slice(HALF * rank, HALF * (rank + 1))
    return DataLoader([(x[rows].double(), y[rows]) for x, y in map(batch, range(STEPS))], batch_size=None)


@on_ranks
def with_the_trainer(rank: int) -> tuple[Outcome, int]:
    from torch.utils.data import SequentialSampler
    from transformers import Trainer, TrainingArguments

    from sigmoidcore.integrations.transformers import SigmoidCoreCallback

    class InOrder(Trainer):
        def _get_train_sampler(self, *args: Any) -> SequentialSampler:
            return SequentialSampler(self.train_dataset)

    # Without broadcasting buffers, which would hide different slopes on the ranks.
    arguments = TrainingArguments(
        tempfile.mkdtemp(), max_steps=STEPS, per_device_train_batch_size=HALF, max_grad_norm=CLIP,
        lr_scheduler_type="constant", use_cpu=True, ddp_backend="gloo", ddp_broadcast_buffers=False, report_to=[],
        disable_tqdm=True, logging_strategy="no", save_strategy="no", dataloader_pin_memory=False,
    )  # fmt: skip
    model, sunk = Classifier(), []
    callback = SigmoidCoreCallback(**OPTIONS, sinks=[sunk.append])
    InOrder(model, arguments, train_dataset=samples(), callbacks=[callback], optimizers=(adam(model), None)).train()
    return Outcome(model.network, callback.equalizer, callback.monitor), len(sunk)


@on_ranks
def with_lightning(rank: int) -> tuple[Outcome, int]:
    import lightning.pytorch as lightning

    from sigmoidcore.integrations.lightning import SigmoidCoreCallback

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = network()

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            return nn.functional.cross_entropy(self.network(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return adam(self)

    module, sunk = Module(), []
    callback = SigmoidCoreCallback(**OPTIONS, sinks=[sunk.append])
    lightning.Trainer(
        accelerator="cpu", devices=RANKS, strategy="ddp", max_steps=STEPS, gradient_clip_val=CLIP, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, callbacks=[callback],
        use_distributed_sampler=False,
    ).fit(module, halves(rank))  # fmt: skip
    return Outcome(module.network, callback.equalizer, callback.monitor), len(sunk)


@pytest.mark.parametrize("work", [with_the_trainer, with_lightning])
def test_two_processes_make_the_same_changes_as_one_with_the_joined_batch(ranks: Any, work: Any) -> None:
    (first, sunk), (second, sunk_on_second) = ranks(work)
    assert first.history == second.history
    torch.testing.assert_close(first.state, second.state, rtol=0, atol=0)
    first.assert_same(plain(), tolerance=1e-6)
    assert (sunk, sunk_on_second) == (STEPS + STEPS // 3, 0)
