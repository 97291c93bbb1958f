"""On the PYTHONPATH of a launched script, Python imports this first: process groups end before the interpreter does.

PyTorch aborts a process if a thread of a group frees a tensor while the interpreter ends. Threads of a group live until
the last reference to it is gone, and the module imported below keeps one if there is a group when it is first imported.
"""

import atexit
import gc
import time

from torch.distributed.nn import functional  # noqa: F401


@atexit.register
def end_groups() -> None:
    gc.collect()  # wrapped models are reference cycles that hold the group
    time.sleep(0.1)  # where variables hold it: its threads free their tensors
