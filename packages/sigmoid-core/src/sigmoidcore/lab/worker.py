"""The worker: one thread that gives every session its turns, so that none can stop another."""

import threading

from sigmoidcore.lab.session import FAILURES, Session
from sigmoidcore.language import speaking
from sigmoidcore.training_loop import narrow_layers


class Worker(threading.Thread):
    """Runs sessions in one thread, a step each in turn: PyTorch's hooks and random numbers belong to the process."""

    def __init__(self) -> None:
        super().__init__(name="lab-worker", daemon=True)
        self._sessions: list[Session] = []  # the next one first
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
            self._sessions.append(session)
            self._condition.notify()

    def remove(self, session: Session) -> None:
        """Forget a session and its networks."""
        with self._condition:
            self._sessions.remove(session)

    def wake(self) -> None:
        """Look for work: a session was asked for something."""
        with self._condition:
            self._condition.notify()

    def run(self) -> None:
        """Give turns until `stop`."""
        with narrow_layers():
            while (session := self._next()) is not None:
                with speaking(session.language):
                    try:
                        session.turn()
                    except FAILURES as error:
                        session.fail(error)

    def _next(self) -> Session | None:
        """The next session, as soon as one has work; None at the end."""
        with self._condition:
            while not self._ended:
                delays = [(session, delay) for session in self._sessions if (delay := session.delay) is not None]
                session = next((session for session, delay in delays if delay <= 0), None)
                if session is not None:
                    self._sessions.remove(session)
                    self._sessions.append(session)
                    return session
                self._condition.wait(min((delay for _, delay in delays), default=None))
        return None
