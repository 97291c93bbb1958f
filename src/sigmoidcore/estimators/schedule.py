"""When the learning rate falls and when training ends: scikit-learn's criterion, used twice."""

import math


class Rates:
    """The rate through a training, as a share of its peak.

    It is held until nothing gets better any more (scikit-learn's criterion: `patience` epochs without an improvement
    by `tol`), at most for half of the epochs. Then it falls to 0 in a line, for as many epochs as it was held. If
    nothing gets better while it falls, training ends.

    Args:
        epochs: at most.
        tol: what counts as better.
        patience: epochs that need not be better.

    Attributes:
        best: the lowest value so far.
        finished: whether training is to end.

    Example:
        >>> rates = Rates(epochs=8, tol=0.0, patience=10)
        >>> shares = []
        >>> for epoch in range(8):
        ...     shares.append(rates(epoch))
        ...     rates.after_epoch(value=-epoch)
        >>> shares, rates.finished
        ([1.0, 1.0, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25], True)
    """

    def __init__(self, epochs: int, tol: float, patience: int) -> None:
        self.epochs = epochs
        self.tol = tol
        self.patience = patience
        self.best = math.inf
        self.finished = False
        self._done = 0
        self._unimproved = 0
        self._begin, self._end = epochs / 2, float(epochs)

    def __call__(self, epoch: float) -> float:
        """The share after so many epochs, whole or in part."""
        return min(1.0, max(0.0, (self._end - epoch) / (self._end - self._begin)))

    def after_epoch(self, value: float) -> None:
        """Take note of what an epoch has reached; the lower, the better."""
        self._done += 1
        self._unimproved = self._unimproved + 1 if value > self.best - self.tol else 0
        self.best = min(self.best, value)
        if self._done - 1 < self._begin <= self._done:  # the fall has just begun by itself: what follows counts
            self._unimproved = 0
        if self._unimproved > self.patience:
            if self._done < self._begin:
                self._begin, self._end = self._done, min(2.0 * self._done, self.epochs)
                self._unimproved = 0
            else:
                self.finished = True
        if self._done >= self._end:
            self.finished = True
