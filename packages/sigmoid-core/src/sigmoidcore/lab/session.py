"""A session: one visitor's two networks, and what the visitor has asked for."""

import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sigmoidcore.lab.datasets import DataSet, data_set
from sigmoidcore.lab.export import python_code
from sigmoidcore.lab.frame import PROBED, built_message, shown
from sigmoidcore.lab.networks import Network
from sigmoidcore.lab.setting import OWN, Contender, Setting
from sigmoidcore.language import _, language, speaking
from sigmoidcore.training_loop import narrow_layers
from unstuck import diagnose
from unstuck.language.errors import InputError

FAILURES = (ArithmeticError, MemoryError, OSError, RuntimeError, ValueError)  # of a training, for the page to show
FRAMES = 15  # frames a second, at most
SHARE = 2.0  # training gets at least this many times as long as the measurements
MOST_STEPS = 1_000  # steps that wait, at most
SLICE = 0.01  # seconds for which a session takes turns before another one does

ACCIDENTS = "weights", "inputs", "half"  # what goes wrong in both networks, and what the Equalizer undoes
FACTOR, OFFSET, SHUT = 3.0, 5.0, 10.0

Publish = Callable[[dict[str, Any]], object]  # takes a message for the page; it is called by the worker's thread


class Session:
    """Two networks on the same batches: the event loop asks, and the latest request counts; a thread acts in `work`."""

    def __init__(self, publish: Publish, own: DataSet | None = None) -> None:
        self.language = language()
        self._publish, self._own = publish, own
        self._lock = threading.Lock()
        self._asked: dict[object, Callable[[], None]] = {}
        self._running, self._steps, self._stale = False, 0, False
        self._look: tuple[int, int | None] = (0, None)
        self._id = self.step = 0
        self._due = 0.0
        self.setting = Setting() if own is None else Setting(data=OWN)
        self.networks: tuple[Network | None, ...] = ()
        self.arrange(self.setting)

    def arrange(self, setting: Setting) -> None:
        """Ask for another set-up, from its first step; training pauses."""
        if setting.data == OWN and self._own is None:
            raise InputError("there are no data of your own: start the lab with --data FILE")
        with self._lock:
            self._wanted, self._running, self._steps = setting, False, 0
            self._asked = {"arrange": partial(self._build, setting)}

    def run(self, running: bool) -> None:
        """Start or pause."""
        with self._lock:
            self._running, self._stale = running, True

    def advance(self, steps: int) -> None:
        """Take some steps and pause."""
        with self._lock:
            self._running, self._steps = False, min(MOST_STEPS, self._steps + steps)

    def reset(self) -> None:
        """Begin again with the same set-up."""
        self.arrange(self._wanted)

    def set_slope(self, network: int, layer: int, value: float) -> None:
        """Change the mean slope of a layer."""
        with self._lock:
            self._asked[network, layer] = partial(self._set_slope, network, layer, value)

    def accident(self, kind: str) -> None:
        """Let something go wrong in both networks."""
        with self._lock:
            self._asked["accident"] = partial(self._happen, kind)

    def look(self, layer: int, neuron: int | None) -> None:
        """Choose the layer, and perhaps one neuron, whose histogram is shown."""
        with self._lock:
            self._look, self._stale = (layer, neuron), True

    def report(self, network: int) -> None:
        """Ask for the diagnosis of a network."""
        with self._lock:
            self._asked["report", network] = partial(self._diagnose, network)

    def code(self, network: int) -> str:
        """The training of a network as a script, up to this step."""
        return python_code(self.setting, (self.setting.a, self.setting.b)[network], self.step, self._own)

    def fail(self, error: Exception) -> None:
        """Pause, and say why."""
        with self._lock:
            self._running, self._steps = False, 0
        self._publish({"kind": "error", "text": str(error)})

    @property
    def delay(self) -> float | None:
        """Seconds until there is something to do; None: nothing was asked for."""
        with self._lock:
            if self._running or self._steps or self._asked:
                return 0.0
            return max(0.0, self._due - time.monotonic()) if self._stale else None

    def work(self) -> None:
        """Take turns while there is something to do, for a short time."""
        until = time.monotonic() + SLICE
        with narrow_layers(), speaking(self.language):
            while self.delay == 0 and time.monotonic() < until:
                try:
                    self.turn()
                except FAILURES as error:
                    self.fail(error)

    def turn(self) -> None:
        """Do what was asked for, or take one step; then publish a frame if one is due."""
        with self._lock:
            asked, self._asked = self._asked, {}
            arranged = "arrange" in asked
            steps = not arranged and (self._running or self._steps > 0)
            self._steps = max(0, self._steps - steps)
            self._stale = True
        for act in asked.values():
            act()
        if steps:
            self._step()
        if arranged or time.monotonic() >= self._due:
            self._show()

    def _build(self, setting: Setting) -> None:
        self.setting, self.step, self._id = setting, 0, self._id + 1
        self.networks = ()  # the old ones need not stay in memory beside the new ones
        self._publish({"kind": "building", "id": self._id})
        own = self._own if setting.data == OWN else None
        self.data = data_set(setting.data, setting.seed) if own is None else own
        self._order = torch.Generator().manual_seed(setting.seed)
        self.networks = tuple(self._network(which) for which in (setting.a, setting.b))
        self._publish(built_message(self._id, setting, self.data, self.networks))

    def _network(self, contender: Contender) -> Network | None:
        try:
            return Network(self.setting, contender, self.data)
        except FAILURES as error:
            text = _("the {kind} network cannot be built: {error}", kind=contender.kind, error=error)
            self._publish({"kind": "error", "text": text})
            return None

    def _step(self) -> None:
        """One step of both networks on the same samples."""
        count = len(self.data.train_x)
        rows = torch.randint(0, count, (min(self.setting.batch, count),), generator=self._order)
        x, y = self.data.train_x[rows], self.data.train_y[rows]
        for network in filter(None, self.networks):
            network.step(x, y)
        self.step += 1

    def _set_slope(self, which: int, layer: int, value: float) -> None:
        """Scale all slopes of a layer, so that their mean is this."""
        network = self.networks[which]
        if network is not None and layer < len(network.cores):
            core = network.cores[layer]
            core.set_slope(core.alpha * (value / core.alpha.mean()))

    @torch.no_grad()
    def _happen(self, accident: str) -> None:
        """All hidden weights times 3, all inputs + 5 from now on, or half of the middle layer shut."""
        if accident == "inputs":
            self.data = self.data.moved(OFFSET)
            return
        for network in filter(None, self.networks):
            hidden = [layer for layer in network.model.modules() if isinstance(layer, nn.Linear)][:-1]
            if accident == "weights":
                for layer in hidden:
                    layer.weight.mul_(FACTOR)
            else:
                middle = hidden[len(hidden) // 2]
                middle.bias[: len(middle.bias) // 2].sub_(SHUT)

    def _show(self) -> None:
        began = time.monotonic()
        with self._lock:
            (layer, neuron), self._stale = self._look, False
        neuron = neuron if neuron is not None and neuron < self.setting.width else None
        networks = [n and shown(n, self.data, min(layer, len(n.layers) - 1), neuron) for n in self.networks]
        state = {"id": self._id, "step": self.step, "running": self._running or self._steps > 0}
        self._publish({"kind": "frame", **state, "networks": networks})
        ended = time.monotonic()
        self._due = max(began + 1 / FRAMES, ended + SHARE * (ended - began))

    def _diagnose(self, which: int) -> None:
        network, data = self.networks[which], self.data
        if network is None:
            return
        try:
            found = diagnose(network.model, data.train_x[:PROBED], data.train_y[:PROBED], data.loss_fn)
            with tempfile.TemporaryDirectory() as folder:
                page = found.to_html(Path(folder) / "diagnosis.html").read_text(encoding="utf-8")
        except FAILURES as error:
            self._publish({"kind": "error", "text": _("the network cannot be diagnosed: {error}", error=error)})
            return
        self._publish({"kind": "report", "network": which, "html": page})
