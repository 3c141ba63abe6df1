"""Threads that return their results in order."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any


class Workers(ThreadPoolExecutor):
    """Threads; they start jobs in the order in which the jobs were submitted."""

    def in_order(self, jobs: Iterable[Callable[[], Any]]) -> Iterator[Any]:
        """Yield what jobs return, in their order; only a few are taken ahead."""
        waiting = deque()
        for job in jobs:
            waiting.append(self.submit(job))
            if len(waiting) > 2 * self._max_workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
