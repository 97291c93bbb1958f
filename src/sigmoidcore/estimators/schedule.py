"""The learning rate of an estimator over its epochs, and when training ends."""

import math


class Schedule:
    """Keeps the peak rate until nothing improves, then lets the rate fall to 0.

    The criterion is scikit-learn's: `patience` epochs without an improvement by `tol`. The rate falls linearly, over
    as many epochs as it stayed at its peak; the fall begins after half of the epochs at the latest. Training ends if
    nothing improves during the fall.

    Example:
        >>> schedule = Schedule(epochs=8, tol=0.0, patience=10)
        >>> shares = []
        >>> for epoch in range(8):
        ...     shares.append(schedule.share(epoch))
        ...     schedule.after_epoch(-epoch)
        >>> shares, schedule.finished
        ([1.0, 1.0, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25], True)
    """

    def __init__(self, epochs: int, tol: float, patience: int) -> None:
        self.epochs = epochs
        self.tol = tol
        self.patience = patience
        self.finished = False
        self._best = math.inf
        self._epoch = 0
        self._unimproved = 0
        self._begin, self._end = epochs / 2, float(epochs)

    def share(self, epoch: float) -> float:
        """The rate as a fraction of its peak, after so many epochs (which may be a fraction, too)."""
        return min(1.0, max(0.0, (self._end - epoch) / (self._end - self._begin)))

    def after_epoch(self, value: float) -> None:
        """Record the value that an epoch has reached; lower is better."""
        self._epoch += 1
        self._unimproved = self._unimproved + 1 if value > self._best - self.tol else 0
        self._best = min(self._best, value)
        if self._epoch - 1 < self._begin <= self._epoch:  # the fall begins: count from here
            self._unimproved = 0
        if self._unimproved > self.patience:
            if self._epoch < self._begin:
                self._begin, self._end = self._epoch, min(2.0 * self._epoch, self.epochs)
                self._unimproved = 0
            else:
                self.finished = True
        self.finished |= self._epoch >= self._end
