"""Run a script and write how long its training took: python _step_clock.py TIMES.json SCRIPT [ARGUMENTS].

The clock starts with the first module that runs with gradients and stops after the last backward pass. Imports, data
and the construction of the model are before it; evaluations between the epochs are inside.
"""

import json
import os
import runpy
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


class StepClock:
    """Times of a training in this process, in seconds: of the wall and of the processor."""

    def __init__(self) -> None:
        self.began: tuple[float, float] | None = None
        self.ended = (0.0, 0.0)
        self.steps = 0
        call, backward = nn.Module.__call__, Tensor.backward

        def first_call(module: nn.Module, *args: Any, **options: Any) -> Any:
            if torch.is_grad_enabled() and any(p.requires_grad for p in module.parameters()):
                nn.Module.__call__ = call
                self.began = _now()
            return call(module, *args, **options)

        def counted_backward(tensor: Tensor, *args: Any, **options: Any) -> None:
            backward(tensor, *args, **options)
            self.steps += 1
            self.ended = _now()

        nn.Module.__call__ = first_call
        Tensor.backward = counted_backward

    def times(self) -> dict[str, float]:
        """Backward passes, and the time from the first call to the last of them."""
        assert self.began is not None, "nothing trained"
        wall, processor = (end - begin for end, begin in zip(self.ended, self.began, strict=True))
        return {"steps": self.steps, "wall": wall, "processor": processor}


def _now() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def main() -> None:
    file, script = Path(sys.argv[1]), sys.argv[2]
    sys.argv = sys.argv[2:]
    sys.path[0] = os.path.dirname(os.path.abspath(script))
    clock = StepClock()
    runpy.run_path(script, run_name="__main__")
    file.write_text(json.dumps(clock.times()))


if __name__ == "__main__":
    main()
