"""Thread pools."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any


def map_in_order(
    function: Callable[[Any], Any], items: Iterable[Any], threads: int, ahead: int
) -> Iterator[Any]:
    """Map in a thread pool, results in order, at most ``ahead`` items in flight: memory stays constant."""
    from collections import deque
    from concurrent.futures import Future, ThreadPoolExecutor

    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[Any]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) >= ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
