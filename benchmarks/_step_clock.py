"""Run a script and write when its steps ended: python _step_clock.py TIMES.json SCRIPT [ARGUMENTS].

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
    """Times at which the steps of a training in this process end, in seconds: of the wall and of the processor."""

    def __init__(self) -> None:
        self.times: list[tuple[float, float]] = []
        call, backward = nn.Module.__call__, Tensor.backward
        running = False

        def first_call(module: nn.Module, *args: Any, **options: Any) -> Any:
            if torch.is_grad_enabled() and any(p.requires_grad for p in module.parameters()):
                nn.Module.__call__ = call
                self.times.append(_now())
            return call(module, *args, **options)

        def timed_backward(tensor: Tensor, *args: Any, **options: Any) -> None:
            nonlocal running
            if running:  # a function mode calls it again
                return backward(tensor, *args, **options)
            running = True
            try:
                backward(tensor, *args, **options)
            finally:
                running = False
            self.times.append(_now())

        nn.Module.__call__ = first_call
        Tensor.backward = timed_backward


def _now() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def main() -> None:
    file, script = Path(sys.argv[1]), sys.argv[2]
    sys.argv = sys.argv[2:]
    sys.path[0] = os.path.dirname(os.path.abspath(script))
    clock = StepClock()
    runpy.run_path(script, run_name="__main__")
    file.write_text(json.dumps(clock.times))


if __name__ == "__main__":
    main()
