"""Measures a step of any network: attach, run the model forward and backward, conclude.

`measurement` holds the result, `forward_pass` follows a pass and takes its statistics, `summary` joins them.
"""

import weakref
from collections.abc import Callable, Container, Mapping
from dataclasses import replace
from threading import get_ident
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from unstuck._torch.autograd import NONE, after_backward, backward_pass, gradient_state, in_transform
from unstuck._torch.modes import transforms_active
from unstuck.language import _
from unstuck.language.warning import warn
from unstuck.measure.batches import Batches
from unstuck.measure.forward_pass import CountedPass, ForwardPass
from unstuck.measure.measurement import Measurement, Weight
from unstuck.measure.parameters import Parameters, is_fresh, sizes_of
from unstuck.measure.running_module import RunningModule
from unstuck.measure.summary import summarize
from unstuck.observation.batch import MOST_DEPTH
from unstuck.observation.observer import Observer
from unstuck.observation.process_group import Ranks
from unstuck.step.node import Node
from unstuck.step.recorder import PASSES, Recorder
from unstuck.step.step import Step
from unstuck.wording import in_one_line

MOST_PASSES = 256
"""Largest number of forward passes of one step."""
MOST_IDLE = 32
"""Forward passes to which no gradient can come back, after which none is measured until the first step."""
FOLLOWED = 4
"""Passes whose outputs are followed into the loss at the same time: the latest."""


class Probe(Observer):
    """Observes all modules of a model while it is attached, and follows the functions that they call.

    Forward passes count if gradients are enabled and a gradient comes back through them on its way into the `.grad` of
    a parameter. Several (micro-batches) are joined. Passes whose gradients are emptied before the next gradient
    arrives are dropped: their step was skipped. `begins` is called when a pass begins, before it is measured.
    Statistics across samples are those of the first `most` samples of a batch.
    """

    def __init__(
        self, model: nn.Module, *, most: int | None, ranks: Ranks, begins: Callable[[], None] = lambda: None
    ) -> None:
        super().__init__({})
        self.model = model
        self.named_inputs: Any = None  # which hooks do not show
        self.looks_ahead = False  # records what other networks make before a forward pass, too
        self.skipped = 0  # steps in a row whose gradients no optimizer has used
        self.discarded = 0  # passes since `attach` whose gradients were emptied
        self.may_rest = ranks.count == 1  # before the first step; ranks measure the same steps
        self.rests = False  # too many passes had no backward pass: an evaluation, or an agent that collects experience
        self.computed_weights = False  # others than parameters, which no optimizer holds
        self.parameters = Parameters(dict(model.named_parameters()))
        self._most = most
        self._ranks = ranks
        self._begins = begins
        self._stack: list[RunningModule] = []
        self._recorder = _Recorder()
        weakref.finalize(self, self._recorder.stop)
        self._running: ForwardPass | None = None
        self._followed: list[ForwardPass] = []  # passes that are over, and whose loss is being computed
        self._passes: list[ForwardPass] = []
        self._fresh: list[ForwardPass] = []
        self._batches = Batches()
        self._uses: list[tuple[int, set[int]]] = []  # steps of optimizers of other weights, after which backward pass
        self._idle = 0
        self._backward_pass = NONE
        self._transformed = False
        # with the states of their gradients before the backward pass
        self._loss_parameters: dict[str, tuple[weakref.ref[Tensor], tuple[int, int] | None]] = {}
        # of the last measured pass: weights of no module, and parameters that modules got in the pass
        self._made: dict[str, weakref.ref[Tensor]] = {}
        self._replacing: dict[str, weakref.ref[nn.Parameter]] = {}

    @property
    def has_gradients(self) -> bool:
        """Whether a gradient has come back through any pass."""
        return any(r.counts for r in self._passes)

    @property
    def passes(self) -> int:
        """Number of forward passes."""
        return sum(one.count for one in self._passes)

    def note_use(self, weights: set[int]) -> None:
        """An optimizer of other weights, which have these identities, has used the loss of the passes so far."""
        for one in self._passes:
            one.note_use()
        self._uses.append((self._backward_pass, weights))

    @property
    def mixed(self) -> bool:
        """Whether the gradients hold those of such a loss, and of a later one that reads the same weights."""
        own = [one for one in self._passes if one.counts]
        if not (any(one.mixed for one in own) or len({one.used_in == NONE for one in own}) > 1):
            return False
        step, before = own[-1].step, [weights for at, weights in self._uses if at != self._backward_pass]
        read = (node.tensor() for node in step.needed(step.losses[-1:]) if node.op == "constant")
        return not set().union(*before).isdisjoint(map(id, read))

    def attach(self) -> None:
        """Measure from the next forward pass on."""
        if not self.attached:
            self.discarded = 0
            self.rests = False
            self.parameters = Parameters(self.parameters.named)
            if not self.layers:
                self._read_names()
            super().attach()

    def detach(self) -> None:
        """Stop measuring."""
        super().detach()
        self._end_pass()
        self.stop_following()

    def stop_following(self) -> None:
        """Follow no outputs any more: their loss has been computed. Within a backward pass the recorder stays."""
        if backward_pass() == NONE:
            self._followed, self._recorder.active = [], []
            self._recorder.stop()

    def forget(self) -> None:
        """Drop all passes."""
        self._passes, self._fresh, self._batches, self._idle = [], [], Batches(), 0
        self._uses = []
        self._backward_pass, self._transformed = NONE, False
        self.parameters.forget_gradients()
        self._recorder.restart({}).release()

    def start_over(self) -> None:
        """Drop all passes and all steps of optimizers."""
        self.forget()
        self.parameters = Parameters(self.parameters.named)

    def drop_emptied(self) -> bool:
        """Drop passes whose gradients were emptied; if those of all were, keep them and return True."""
        emptied = self._emptied()
        self._discard(emptied)
        if emptied and len(emptied) == sum(r.counts for r in self._passes):
            return True
        self._passes = [r for r in self._passes if r not in emptied]
        return False

    def _discard(self, emptied: list[ForwardPass]) -> None:
        """Count passes whose gradients were emptied, unless they were for the inputs or weights that they change."""
        if emptied and not self.parameters.changed:
            self.discarded += sum(r.count for r in emptied if not r.inputs_train)

    def _emptied(self) -> list[ForwardPass]:
        return [r for r in self._passes if r.counts and self.parameters.emptied(r.used)]

    def conclude(self, scale: float = 1.0) -> Measurement:
        """The measurement of all passes since `attach`; detaches. A gradient scaler multiplied the loss by `scale`."""
        self.detach()
        counted = [r for r in self._passes if r.counts] or self._passes
        differentiated = self._transformed or any(r.differentiated for r in counted)
        try:
            found = summarize(counted, self.parameters, self._ranks, scale=scale, differentiated=differentiated)
            self._loss_parameters = {n: own for r in counted for n, own in r.loss_parameters.items()}
            gone = self.made_in_forward
            self._made = {name: made for r in counted for name, made in r.unplaced.items()}
            self._replacing = {name: came for r in counted for name, came in r.replacing.items()}
            strays = (*found.strays, *(name for name in gone if name in self._made or name in self._replacing))
            return replace(found, strays=strays)
        finally:
            self.forget()

    def take_step(self, loss: Tensor | None = None) -> Step:
        """The recorded step of the passes so far, to be repeated: `conclude` drops its tensors otherwise.

        `loss` is that of a step without a backward pass.
        """
        if loss is not None and not self._recorder.step.losses:
            self._recorder.take_loss(loss)
        return self._recorder.restart({})

    def loss_weights(self, held: Container[int]) -> tuple[Weight, ...]:
        """Parameters that the loss of the last measured pass took, and that nobody holds, by identity."""
        found = ((name, own()) for name, (own, _state) in self._loss_parameters.items())
        free = {name: own for name, own in found if own is not None and id(own) not in held}
        arrived = {n: p.grad for n, p in free.items() if gradient_state(p) != self._loss_parameters[n][1]}
        sizes, gradients = sizes_of(free), sizes_of({n: grad for n, grad in arrived.items() if grad is not None})
        return tuple(
            Weight(name, tuple(p.shape), size=sizes[name], gradient=gradients.get(name), fresh=is_fresh(p))
            for name, p in free.items()
        )

    @property
    def made_in_forward(self) -> tuple[str, ...]:
        """Weights that the last measured pass took and had made itself: they are gone, or others have their names.

        FSDP puts others in the place of parameters, too, and puts the former ones back.
        """
        own, before = dict(self.model.named_parameters()) if self._replacing else {}, self.parameters.named
        replaced = [n for n, came in self._replacing.items() if own.get(n) is not came()]
        gone = (name for name, made in self._made.items() if made() is None)
        return (*gone, *(n for n in replaced if own.get(n) is not before.get(n)))

    @property
    def awaits(self) -> bool:
        """Whether a pass with gradients is running or may begin: others are many in an evaluation."""
        return bool(self._stack) or torch.is_grad_enabled()

    def arrives(self, name: str, layer: nn.Module, args: tuple[Any, ...]) -> None:
        """A module begins to run."""
        self._transformed |= torch.is_grad_enabled() and in_transform()
        if transforms_active():
            return
        if not self._stack:
            if not torch.is_grad_enabled() or backward_pass() != NONE:
                return  # an evaluation, or the recomputation of a checkpoint
            if self._fresh:  # their backward passes ended with an error
                self._passes, self._fresh = [r for r in self._passes if r not in self._fresh], []
            self._begins()
            try:
                if self.attached:
                    self._begin_pass(args if args or self.named_inputs is None else self.named_inputs, name, layer)
            except Exception as error:
                self._give_up(error)
            if not self.attached:
                return
            name = self._names.get(id(layer), name)
        layers = len(self._passes[-1].layers) if self._passes else 0
        self._stack.append(RunningModule(layer, name, layers))
        self._recorder.stack.append(name)

    def passes_by(self, module: nn.Module) -> None:
        """Another network, or the model without a gradient, is about to run: a teacher, or an evaluation."""
        if not self.looks_ahead or self._passes or backward_pass() != NONE or self._recorder.thread != get_ident():
            return  # in the thread of the training only
        first = next(module.parameters(), None)
        if not torch.is_grad_enabled() or (first is not None and not first.requires_grad):
            if not self._recorder.ahead:
                self._restart()
            self._recorder.look_ahead()

    def leaves(self, name: str, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        """A module has run."""
        if self._stack and self._stack[-1].module is layer:
            running = self._stack.pop()
            self._recorder.stack.pop()
            if self._running is not None:
                try:
                    self._running.leave(running, args, output)
                    if not self._stack and not self._running.layers and torch.is_grad_enabled():
                        self._running.follow_outputs(output)
                except Exception as error:
                    self._running.note_bug(running.name or type(layer).__name__, error)
            if not self._stack:
                self._end_pass(output, layer, args, kwargs)
                if output is None:  # it has raised an error
                    self.stop_following()

    def _give_up(self, error: Exception) -> None:
        """A bug of ours: the model runs on, and is not measured."""
        self.detach()
        self.forget()
        warn(_("A bug in unstuck keeps it from measuring this model: please report it ({reason})",
               reason=in_one_line(error)))  # fmt: skip

    def _rest_if_idle(self) -> None:
        """Drop passes to which nothing can come back; rest after many of them."""
        if self.has_gradients or not (self.may_rest or (self._ranks.count == 1 and len(self._passes) >= PASSES)):
            return
        kept = [one for one in self._passes if not one.is_over]
        self._idle += len(self._passes) - len(kept)
        self._passes = kept
        if self.may_rest and self._idle >= MOST_IDLE:
            self.detach()
            self.forget()
            self.rests = True

    def _begin_pass(self, args: Any, name: str, layer: nn.Module) -> None:
        """Begin a pass, or continue the last."""
        last, ended = self._passes[-1] if self._passes else None, bool(self._recorder.step.losses)
        goes_on = last is not None and last.continues(args, name)
        if not goes_on:
            self._rest_if_idle()
            if self.rests:
                return
        if not self._passes or any(one.ends_at for one in self._followed):
            self.stop_following()
        if not self._passes and self._recorder.ahead and not self._recorder.passes:
            self._read_names()
        elif not self._passes:
            self._restart()
        if last is None or not goes_on:
            if len(self._passes) >= MOST_PASSES:
                self._passes = [r for r in self._passes if r.counts][-MOST_PASSES // 2 :]
            many = len(self._passes) >= PASSES and not ended
            last = (CountedPass if many else ForwardPass)(
                self._recorder,
                self._stack,
                self._batches,
                args,
                samples=0 if many else batch_size(args),
                most=self._most,
                arrived=self._gradient_arrived,
            )
            if many:  # one of the first is enough for the loss
                last.used, self._followed = self._passes[0].used, self._followed[-1:]
            else:
                last.take_inputs(args)
            self._passes.append(last)
        if isinstance(last, CountedPass):
            one = self._passes[0].samples == 1  # its first layer has found whether there is a dimension for the batch
            last.begin(args, name, 1 if one else batch_size(args))
        self._running, last.training = last, layer.training
        self._recorder.sparse = isinstance(last, CountedPass)
        self._recorder.active = [] if self._recorder.sparse else [last]
        self._recorder.begin(args)

    def _restart(self) -> None:
        self._read_names()
        self._recorder.restart({**dict(self.model.named_buffers()), **self.parameters.named}).release()

    def _end_pass(self, *call: Any) -> None:
        """A forward pass is over; its outputs are followed until the gradient comes back."""
        self._stack.clear()
        running, self._running = self._running, None
        if running is not None:
            self._recorder.end(*call)
            if running not in self._followed and not isinstance(running, CountedPass):
                self._followed = [*self._followed, running][-FOLLOWED:]
        self._recorder.active = self._followed

    def _read_names(self) -> None:
        """Read the names of modules and parameters: wrappers or other parameters may have come."""
        modules = dict(self.model.named_modules())
        self.watch(modules)
        # torch.func.functional_call may put computed tensors in their place, which have no `.grad`.
        found = dict(self.model.named_parameters())
        parameters = {name: p for name, p in found.items() if p.is_leaf}
        self.computed_weights |= len(parameters) < len(found)
        if {n: id(p) for n, p in parameters.items()} != {n: id(p) for n, p in self.parameters.named.items()}:
            self.parameters = Parameters(parameters)

    def _gradient_arrived(self, one: ForwardPass) -> None:
        """Read the gradients of the parameters when the backward pass is over: of all micro-batches, unclipped."""
        if one in self._fresh or one not in self._passes:
            return
        if backward_pass() != self._backward_pass:
            self._backward_pass = backward_pass()
            self.parameters.note_cleared()
            emptied = self._emptied()  # by a `zero_grad` between the forward and the backward pass
            self._discard([r for r in emptied if r is not one])
            self._passes = [r for r in self._passes if r not in emptied or r is one]
            self.skipped += bool(emptied)
            if one in emptied:
                one.forget_gradients()
            # Three times over: DistributedDataParallel writes the mean over the ranks in such a callback of such a
            # callback, too.
            after_backward(lambda: after_backward(lambda: after_backward(self._read_gradients)))
        self._fresh.append(one)

    def _read_gradients(self) -> None:
        passes, self._fresh = self._fresh, []
        try:
            self.parameters.read_gradients()
        except Exception as error:  # of ours: the backward pass of the user's program has succeeded
            passes[0].note_bug("backward", error)


class _Recorder(Recorder):
    """Shows each recorded call to the passes that follow it: the one that runs, or those whose loss is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.active: list[ForwardPass] = []

    def before(self, function: Callable[..., Any], name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        for one in self.active:
            one.before(function, name, args, kwargs)

    def after(self, node: Node, args: tuple[Any, ...], kwargs: Mapping[str, Any], result: Any) -> None:
        for one in self.active:
            one.after(node, args, kwargs, result)

    def ends(self, loss: Tensor) -> None:
        for one in self.active:
            one.ends(loss)

    def name(self, parameter: nn.Parameter) -> str:
        return next(filter(None, (one.name(parameter) for one in self.active)), "")

    def fails(self, name: str, error: Exception) -> None:
        for one in self.active:
            one.note_bug(name, error)


def batch_size(values: Any, depth: int = MOST_DEPTH) -> int:
    """Number of samples in a batch: the length of its first tensor, so many levels deep at most; 0 without any."""
    if isinstance(values, PackedSequence):
        return int(values.batch_sizes[0])
    if isinstance(values, Tensor):
        return values.size(0) if values.dim() else 0  # also of a nested one
    children = values.values() if isinstance(values, dict) else values if isinstance(values, tuple | list) else ()
    return next((n for child in children if depth and (n := batch_size(child, depth - 1))), 0)
