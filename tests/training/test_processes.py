"""Process groups: who made one lets go of it."""

import subprocess
import sys

import pytest
from torch import distributed

from sigmoidcore.training.processes import Processes, part


@pytest.fixture
def own_group(monkeypatch):
    """A group that the user has made, and a launcher's word that there are two processes."""
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    if distributed.is_initialized():
        distributed.destroy_process_group()


def test_a_group_that_the_user_has_made_is_left_to_him(own_group):
    processes = Processes()
    assert processes.count == 2
    part()
    processes.leave()
    assert (processes.rank, processes.count) == (0, 1)
    assert distributed.is_initialized()


SCRIPT = """
import sys, time
import torch
from torch import distributed, nn
from sigmoidcore.training.processes import Processes

make = distributed.init_process_group
def alone(backend):
    make(backend, store=distributed.HashStore(), rank=0, world_size=1)
distributed.init_process_group = alone

processes = Processes()
model = nn.parallel.DistributedDataParallel(nn.Linear(3, 3))  # refers to the group until Python has ended
sys.setswitchinterval(100)                                    # so that a thread gets Python only where it is let
work = distributed.all_reduce(torch.ones(3), async_op=True)   # whose tensor its thread drops
del work
began = time.time()
while time.time() - began < 0.5:
    pass
print("done")
"""


def test_a_script_that_never_lets_go_of_its_group_ends_without_an_abort(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    environment = {"RANK": "0", "WORLD_SIZE": "2", "GLOO_SOCKET_IFNAME": "lo", "PATH": ""}
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=100
    )
    assert (done.returncode, done.stdout.strip()) == (0, "done"), done.stderr
