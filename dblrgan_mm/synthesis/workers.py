"""Threads that return results in order."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


class Workers(ThreadPoolExecutor):
    """Threads that start jobs in the order of submission."""

    def in_order(self, jobs: Iterable[Callable[[], Any]]) -> Iterator[Any]:
        """Yield the results of jobs in order, submitting only a few jobs ahead."""
        waiting: deque[Future[Any]] = deque()
        for job in jobs:
            waiting.append(self.submit(job))
            if len(waiting) > 2 * self._max_workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
