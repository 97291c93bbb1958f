"""The worker: one thread that gives every session its turns, so that none can stop another."""

import threading
import time

from sigmoidcore.lab.session import FAILURES, Session
from sigmoidcore.language import speaking
from sigmoidcore.training_loop import narrow_layers


class Worker(threading.Thread):
    """Runs sessions in one thread: PyTorch's hooks and random numbers belong to the whole process.

    The session that has used the least time is next. A session that asks for a huge network waits for its turn after
    the others have had as much time.
    """

    def __init__(self) -> None:
        super().__init__(name="lab-worker", daemon=True)
        self._used: dict[Session, float] = {}
        self._clock = 0.0
        self._condition = threading.Condition()
        self._ended = False

    def stop(self) -> None:
        """End the thread after its turn."""
        with self._condition:
            self._ended = True
            self._condition.notify()
        self.join(timeout=10)

    def add(self, session: Session) -> None:
        """Take a session on."""
        with self._condition:
            self._used[session] = self._clock
            self._condition.notify()

    def remove(self, session: Session) -> None:
        """Forget a session and its networks."""
        with self._condition:
            self._used.pop(session, None)

    def wake(self) -> None:
        """Look for work: a session was asked for something."""
        with self._condition:
            self._condition.notify()

    def run(self) -> None:
        """Give turns until `stop`."""
        with narrow_layers():
            while (session := self._next()) is not None:
                began = time.monotonic()
                with speaking(session.language):
                    try:
                        session.turn()
                    except FAILURES as error:
                        session.fail(error)
                with self._condition:
                    if session in self._used:
                        self._used[session] += time.monotonic() - began

    def _next(self) -> Session | None:
        """The next session, as soon as one has work; None at the end."""
        with self._condition:
            while not self._ended:
                delays = {session: delay for session in self._used if (delay := session.delay) is not None}
                ready = [session for session, delay in delays.items() if delay <= 0]
                if ready:
                    session = min(ready, key=self._used.__getitem__)
                    self._clock = max(self._clock, self._used[session])
                    for idle in self._used.keys() - set(ready):
                        self._used[idle] = max(self._used[idle], self._clock)  # nobody saves up time
                    return session
                self._condition.wait(min(delays.values(), default=None))
        return None
