"""Two processes of the Hugging Face Trainer and of ignite train one network, as one process does with all of a batch.

test_lightning.py and test_examples.py have the same of Lightning and Accelerate.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from trainings import CLIP, ROWS, STEPS, Outcome, adam, batch, batches, network, plain

from two_processes import RANKS, Works

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("default")]

HALF = ROWS // RANKS
on_ranks = Works()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Callable[[Path], Any]], list[Any]]:
    """What a function that is marked `on_ranks` returned on each rank."""
    folder = tmp_path_factory.mktemp("ranks")
    return on_ranks.results(folder, folder)


class Classifier(nn.Module):
    """What a Trainer takes: it returns its loss."""

    def __init__(self) -> None:
        super().__init__()
        self.network = network()

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        outputs = self.network(x)
        return {"loss": nn.functional.cross_entropy(outputs, labels), "logits": outputs}


@on_ranks
def with_the_trainer(folder: Path) -> tuple[Outcome, int]:
    from torch.utils.data import SequentialSampler
    from transformers import Trainer, TrainingArguments

    from sigmoidcore.integrations.transformers import SigmoidCoreCallback

    class InOrder(Trainer):
        def _get_train_sampler(self, *args: Any) -> SequentialSampler:
            return SequentialSampler(self.train_dataset)

    # Without broadcasting buffers, which would hide a rank that drifts by the slopes of rank 0.
    arguments = TrainingArguments(
        str(folder / "trainer"), max_steps=STEPS, per_device_train_batch_size=HALF, max_grad_norm=CLIP,
        lr_scheduler_type="constant", use_cpu=True, ddp_backend="gloo", ddp_broadcast_buffers=False, report_to=[],
        disable_tqdm=True, logging_strategy="no", save_strategy="no", dataloader_pin_memory=False,
    )  # fmt: skip
    model, seen = Classifier(), []
    rows = [{"x": x.double(), "labels": y} for step in range(STEPS) for x, y in zip(*batch(step), strict=True)]
    callback = SigmoidCoreCallback(every=1, monitor_every=3, sinks=[seen.append])
    InOrder(model, arguments, train_dataset=rows, callbacks=[callback], optimizers=(adam(model), None)).train()
    return Outcome(model.network, callback.equalizer, callback.monitor), len(seen)


@on_ranks
def with_ignite(folder: Path) -> tuple[Outcome, int]:
    import ignite.distributed as idist
    from ignite.engine import Engine

    from sigmoidcore.integrations.ignite import SigmoidCoreHandler

    model, seen = network(), []
    mine = slice(HALF * idist.get_rank(), HALF * (idist.get_rank() + 1))
    wrapped, optimizer = idist.auto_model(model, broadcast_buffers=False), adam(model)

    def update(engine: Engine, rows: tuple[torch.Tensor, torch.Tensor]) -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(wrapped(rows[0][mine].double()), rows[1][mine]).backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()

    trainer = Engine(update)
    handler = SigmoidCoreHandler(wrapped, optimizer, every=1, monitor_every=3, sinks=[seen.append]).attach(trainer)
    trainer.run(batches(), max_epochs=1)
    return Outcome(model, handler.equalizer, handler.monitor), len(seen)


@pytest.mark.parametrize("work", [with_the_trainer, with_ignite])
def test_two_ranks_make_the_same_changes_as_one_process_with_the_joined_batch(ranks: Any, work: Any) -> None:
    (first, sunk), (second, none) = ranks(work)
    assert first.history == second.history
    for name, tensor in first.state.items():
        assert torch.equal(tensor, second.state[name]), name
    first.assert_same(plain(), tolerance=1e-6)
    assert sum(sample.slopes for sample in first.history) > 0
    assert (sunk, none) == (STEPS + STEPS // 3, 0)
