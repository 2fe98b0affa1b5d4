"""An ordered map over a thread pool."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any


def map_in_order(
    function: Callable[[Any], Any], items: Iterable[Any], threads: int, max_pending: int
) -> Iterator[Any]:
    """Apply a function in a thread pool and yield the results in order, in constant memory.

    Args:
        max_pending: the most items that are taken from ``items`` and whose results are not yet consumed.
    """
    from collections import deque  # imported here: most stages need no thread pool
    from concurrent.futures import Future, ThreadPoolExecutor

    with ThreadPoolExecutor(threads) as pool:
        pending: deque[Future[Any]] = deque()
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) >= max_pending:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
