"""A user's own training script, which runs as it is while the models that it trains are monitored."""

import builtins
import io
import os
import signal
import sys
import warnings
from argparse import Namespace
from collections.abc import Callable, Sequence
from functools import partial
from importlib.abc import InspectLoader
from importlib.machinery import SourceFileLoader
from importlib.util import find_spec
from pathlib import Path
from types import CodeType, ModuleType, TracebackType
from typing import TYPE_CHECKING, Any

from unstuck.cli.torch_import import TorchImport
from unstuck.language import _
from unstuck.language.errors import InputError
from unstuck.language.terminal import printable, say

if TYPE_CHECKING:
    from unstuck.cli.commentary import Commentary

Program = tuple[CodeType, dict[str, Any]]
"""Code and the names of the module that it runs in."""
SILENCE = ("ignore", None, Warning, None, 0)
"""No warnings of imports that the script did not ask for. `warnings.filterwarnings` would show earlier ones again."""
_PACKAGE = Path(__file__).parent.parent
WATCHING = (__file__, *(str(_PACKAGE / part) for part in ("measure", "step", "observation/observer.py", "_torch")))
"""Files and folders of the code that runs between the calls of a script and those of PyTorch."""


def prepared(target: str, arguments: Sequence[str], *, module: bool) -> Callable[[], Program]:
    """The user's program, which finds its arguments and itself where Python would put them."""
    if not module:
        _check_script(Path(target))
    if not sys.flags.safe_path:
        sys.path[0] = os.getcwd() if module else os.path.dirname(os.path.realpath(target))
    sys.argv = ["-m" if module else target, *arguments]
    return partial(_module if module else _script, target)


def _check_script(path: Path) -> None:
    if str(path) == "-":
        raise InputError("a script from standard input cannot be run: write it to a file")
    if path.is_dir():
        raise InputError("{path} is a folder: give a script, or -m and the name of a module", path=path)
    if not path.is_file():
        if path.suffix == ".py":
            raise InputError("there is no script {path} in {folder}: check its name", path=path, folder=Path.cwd())
        raise InputError("there is no script {path}; a module needs -m: unstuck -m {path}", path=path)
    if path.suffix == ".ipynb":
        raise InputError("{path} is a notebook: unstuck -m IPython {path}", path=path)


def _script(script: str) -> Program:
    """A script, to be run as `python SCRIPT` does."""
    path = os.path.join(os.getcwd(), script)
    loader = SourceFileLoader("__main__", path)
    code = compile(loader.get_data(path), path, "exec", dont_inherit=True)
    return code, _main(__file__=path, __cached__=None, __loader__=loader)


def _module(name: str) -> Program:
    """A module, to be run as `python -m NAME` does; of a package its `__main__`."""
    try:
        spec = find_spec(name)
        if spec is not None and spec.submodule_search_locations is not None:
            spec = find_spec(f"{name}.__main__")
    except ModuleNotFoundError as error:
        if not f"{name}.".startswith(f"{error.name}."):
            raise  # an import in a package
        spec = None
    code = spec.loader.get_code(spec.name) if spec is not None and isinstance(spec.loader, InspectLoader) else None
    if spec is None or code is None:
        place = {"name": name, "folder": os.getcwd()}
        raise SystemExit(_("unstuck: there is no module {name} that can run, in {folder} or installed", **place))
    sys.argv[0] = spec.origin or name
    names = {"__file__": spec.origin, "__cached__": spec.cached, "__loader__": spec.loader}
    return code, _main(**names, __package__=spec.parent, __spec__=spec)


def _main(**attributes: object) -> dict[str, Any]:
    """The names of a new module `__main__`, to which classes belong when they are pickled."""
    main = ModuleType("__main__")
    vars(main).update(attributes, __builtins__=builtins)
    if sys.version_info < (3, 14):
        vars(main).setdefault("__annotations__", {})
    sys.modules["__main__"] = main
    return vars(main)


class _Session:
    """The watch of this process: nothing until PyTorch is imported, a commentary from then on."""

    def __init__(self, options: Namespace) -> None:
        self._options = options
        self._process = os.getpid()
        first = os.environ.get("RANK", "0") == "0"  # of the processes of torchrun
        self.stream = (sys.stderr or io.StringIO()) if first else None
        self._commentary: Commentary | None = None
        self._problem = ""
        self._folder = None if sys.flags.safe_path else sys.path[0]  # of the script, whose names may be those of ours
        self._import = TorchImport(self._begin)

    def _begin(self) -> None:
        """Make the commentary; whatever fails, the script runs on."""
        warnings.filters.insert(0, SILENCE)  # type: ignore[attr-defined]
        path = sys.path[:]
        sys.path[:] = [folder for folder in path if folder != self._folder]
        try:
            from unstuck.cli.commentary import Commentary  # which imports PyTorch

            self._commentary = Commentary(self.stream, self._options)
            if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
                signal.signal(signal.SIGTERM, self._end)
        except Exception as error:
            self._problem = f"{type(error).__name__}: {error}"
        finally:
            sys.path[:] = path
            warnings.filters.remove(SILENCE)  # type: ignore[attr-defined]

    def _end(self, number: int, frame: object) -> None:
        """The process is told to end, and does; before, this one says the verdict, and those forked from it nothing."""
        signal.signal(number, signal.SIG_DFL)
        try:
            if os.getpid() == self._process:
                self.conclude(trials=False)
        finally:
            os.kill(os.getpid(), number)

    def conclude(self, *, trials: bool = True, told: bool = False) -> bool:
        """Say the verdict, write the files, and return whether `--fail-on` fails; `told`: the script said its error."""
        self._import.remove()
        handled = signal.getsignal(signal.SIGTERM) == self._end
        if handled:
            signal.signal(signal.SIGTERM, signal.default_int_handler)  # the script is over: it ends the trials
        failed = self._commentary is not None and self._commentary.conclude(trials=trials)
        if handled:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if not told and (self._commentary is None or self._commentary.silent):
            nothing = _("unstuck: nothing to watch in this process: no module with parameters ran with gradients")
            say(self.stream, nothing)
        if self._problem:
            say(self.stream, _("not watched: {problem}", problem=printable(self._problem)))
        return failed


def _of_the_script(trace: TracebackType | None) -> TracebackType | None:
    """A traceback without the frames of what watches the script."""
    frames: list[TracebackType] = []
    while trace is not None:
        frames += [] if trace.tb_frame.f_code.co_filename.startswith(WATCHING) else [trace]
        trace = trace.tb_next
    for frame, following in zip(frames, [*frames[1:], None], strict=False):
        frame.tb_next = following
    return frames[0] if frames else None


def run(program: Callable[[], Program], options: Namespace) -> int:
    """Run the program; afterwards Python ends as it would without us."""
    process = os.getpid()
    session = _Session(options)
    for option in options.misplaced:
        say(session.stream, _("unstuck: {option} stands after the script and belongs to it", option=option))
    try:
        exec(*program())  # without a function in between, which PyTorch would format at each `torch.manual_seed`
    except BaseException as error:
        if os.getpid() != process:  # forked by the script
            raise
        if isinstance(error, SystemExit):
            succeeded = error.code in (None, 0)
            if session.conclude(told=not succeeded) and succeeded:
                return 1
            raise
        trace = _of_the_script(error.__traceback__)
        sys.excepthook(type(error), error.with_traceback(trace), trace)
        session.conclude(told=isinstance(error, SyntaxError))
        sys.excepthook = lambda *_: None  # it has been shown
        raise
    return int(session.conclude())
