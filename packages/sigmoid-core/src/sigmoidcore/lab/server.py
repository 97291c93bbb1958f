"""The server of the lab: the page, and a WebSocket with a session for each page, whose messages it obeys."""

import asyncio
import json
from collections.abc import AsyncIterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from importlib.resources import files
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from sigmoidcore.lab.datasets import DataSet
from sigmoidcore.lab.guard import HEADERS, Guard
from sigmoidcore.lab.session import ACCIDENTS, FRAMES, MOST_STEPS, Session
from sigmoidcore.lab.setting import RATES, WITH_SLOPES, number, parse, schema
from sigmoidcore.language import LANGUAGES, _, language, speaking
from unstuck.language.errors import InputError, short

TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
REFUSED, FULL = 4403, 4429  # codes with which a WebSocket is closed
LONGEST = 16_384  # characters of a message
SMALLEST_SLOPE, LARGEST_SLOPE = 1e-3, 1e3
NAMES = "arrange, start, pause, step, reset, slope, accident, look, report, code"


class Outbox:
    """Messages on their way to a page: of each kind the latest, so that a slow page holds nothing up."""

    def __init__(self) -> None:
        self._waiting: dict[str, dict[str, Any]] = {}
        self._filled = asyncio.Event()

    def put(self, message: dict[str, Any]) -> None:
        """Replace the message of this kind."""
        if message["kind"] == "building":
            self._waiting.pop("frame", None)
        self._waiting[message["kind"]] = message
        self._filled.set()

    async def take(self) -> list[dict[str, Any]]:
        """All messages that wait, as soon as there is one."""
        await self._filled.wait()
        self._filled.clear()
        messages, self._waiting = list(self._waiting.values()), {}
        return messages


def application(guard: Guard, own: DataSet | None = None, sessions: int = 8) -> Starlette:
    """The lab as an ASGI application with so many open pages."""
    pool = ThreadPoolExecutor(1, "lab-worker")  # PyTorch's hooks and random numbers belong to the process
    assets = {path.name: path.read_bytes() for path in files("sigmoidcore.lab").joinpath("static").iterdir()}

    async def asset(request: Request) -> Response:
        name = request.path_params.get("name", "index.html")
        if not guard.host_known(request.headers.get("host")):
            return Response("the Host is another one\n", 421, HEADERS, "text/plain")
        if name not in assets:
            return Response("there is no such file\n", 404, HEADERS, "text/plain")
        return Response(assets[name], 200, HEADERS, TYPES["." + name.rpartition(".")[2]])

    pages: set[WebSocket] = set()

    async def talk(socket: WebSocket) -> None:
        if not await _admitted(socket, guard):
            return
        if len(pages) >= sessions:
            await socket.close(FULL, f"{sessions} pages are open: close one")
            return
        pages.add(socket)
        asked = socket.query_params.get("lang", "")
        try:
            with speaking(asked if asked in LANGUAGES else language()):
                await _train(socket, pool, own)
        finally:
            pages.remove(socket)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        pool.shutdown(cancel_futures=True)

    routes = [Route("/", asset), Route("/{name}", asset), WebSocketRoute("/ws", talk)]
    return Starlette(routes=routes, lifespan=lifespan)


async def _admitted(socket: WebSocket, guard: Guard) -> bool:
    """Accept a page that may talk to us; close the connection of any other."""
    refusal = guard.refusal(socket.headers)
    if refusal is not None:
        await socket.close(REFUSED, refusal)  # before it is accepted: the other site gets 403
        return False
    await socket.accept()
    if guard.token_known(socket.query_params.get("token", "")):
        return True
    await socket.close(REFUSED, "the token is another one: open the address that the lab printed")
    return False


async def _train(socket: WebSocket, pool: Executor, own: DataSet | None) -> None:
    """A session for a page, until it is closed."""
    outbox, asked, loop = Outbox(), asyncio.Event(), asyncio.get_running_loop()
    session = Session(lambda message: loop.call_soon_threadsafe(outbox.put, message), own)
    outbox.put({"kind": "hello", "options": schema(), "rates": RATES, "slopes": WITH_SLOPES, "own": own is not None})
    options = {key: value for key, value in socket.query_params.items() if key not in ("token", "lang")}
    try:
        session.arrange(parse(options))
    except InputError as error:
        first = _(
            "{error}. No option of this address is used: this is the set-up that the lab opens with.", error=error
        )
        outbox.put({"kind": "error", "text": first})
    async with asyncio.TaskGroup() as tasks:
        sending, working = map(tasks.create_task, (_send(socket, outbox), _work(session, asked, pool)))
        await _receive(socket, session, asked, outbox)
        sending.cancel()
        working.cancel()


async def _work(session: Session, asked: asyncio.Event, pool: Executor) -> None:
    """Let a session work as soon as it has something to do; in the pool, sessions take turns."""
    while True:
        asked.clear()
        delay = session.delay
        if delay == 0:
            await asyncio.get_running_loop().run_in_executor(pool, session.work)
        else:
            with suppress(TimeoutError):
                await asyncio.wait_for(asked.wait(), delay)


async def _send(socket: WebSocket, outbox: Outbox) -> None:
    """Send what waits, at most so often that frames come at their rate."""
    with suppress(WebSocketDisconnect, RuntimeError):
        while True:
            for message in await outbox.take():
                # As ASCII: what a visitor sent may hold half a character, which UTF-8 does not know.
                await socket.send_text(json.dumps(message, allow_nan=False))
            await asyncio.sleep(0.5 / FRAMES)


async def _receive(socket: WebSocket, session: Session, asked: asyncio.Event, outbox: Outbox) -> None:
    """Do what the page asks for, until it is closed."""
    while True:
        try:
            message = await socket.receive()
            if message["type"] == "websocket.disconnect":
                return
            answer = obey(session, message.get("text") or "")
            if answer is not None:
                outbox.put(answer)
            asked.set()
        except InputError as error:
            outbox.put({"kind": "error", "text": str(error)})
        await asyncio.sleep(0)  # a flood of messages leaves time for other pages


def obey(session: Session, text: str) -> dict[str, Any] | None:
    """Do what a message asks for, or raise an InputError; returns the answer, if there is one at once."""
    if len(text) > LONGEST:
        raise InputError("the message has {count:,} characters: send at most {most:,}", count=len(text), most=LONGEST)
    try:
        message = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError("the message is not JSON: {error}", error=short(error)) from error
    if not isinstance(message, dict):
        raise InputError('the message is {text}: send an object such as {{"do": "start"}}', text=short(message))
    match message:
        case {"do": "arrange", "setting": dict(setting)}:
            session.arrange(parse(setting))
        case {"do": "arrange"}:
            raise InputError("setting is {text}: send an object of options", text=short(message.get("setting")))
        case {"do": "start" | "pause" as name}:
            session.run(name == "start")
        case {"do": "step"}:
            session.advance(_whole(message, "count", 1, MOST_STEPS, default=1))
        case {"do": "reset"}:
            session.reset()
        case {"do": "slope"}:
            value = number("value", message.get("value"), SMALLEST_SLOPE, LARGEST_SLOPE)
            session.set_slope(_whole(message, "network", 0, 1), _whole(message, "layer"), value)
        case {"do": "accident", "kind": str(kind)} if kind in ACCIDENTS:
            session.accident(kind)
        case {"do": "look"}:
            neuron = None if message.get("neuron") is None else _whole(message, "neuron")
            session.look(_whole(message, "layer"), neuron)
        case {"do": "report" | "code" as name}:
            which = _whole(message, "network", 0, 1)
            if name == "code":
                return {"kind": "code", "network": which, "text": session.code(which)}
            session.report(which)
        case _:
            raise InputError("do is {text!r}: the names are {names}", text=short(message.get("do")), names=NAMES)
    return None


def _whole(message: dict[str, Any], name: str, low: int = 0, high: int = 1000, default: int | None = None) -> int:
    return int(number(name, message.get(name, default), low, high, whole=True))
