"""A training step, recorded call by call, which can be looked at, edited and run again."""

from unstuck.step.node import Node, reached
from unstuck.step.recorder import AHEAD_BYTES, StepObserver, recorded
from unstuck.step.replay import Replay, copied, gpus, state
from unstuck.step.step import Step

__all__ = ["AHEAD_BYTES", "Node", "Replay", "Step", "StepObserver", "copied", "gpus", "reached", "recorded", "state"]
