"""The thread pool keeps the order of its items and a bound on pending ones."""

import threading

import pytest

from finegrain.core import parallel


def test_results_come_in_order_and_pending_items_are_bounded():
    taken, lock, consumed = 0, threading.Lock(), 0

    def items():
        nonlocal taken
        for i in range(50):
            with lock:
                taken += 1
            yield i

    for result in parallel.map_in_order(lambda i: i * i, items(), threads=3, max_pending=6):
        assert result == consumed**2
        consumed += 1
        assert taken - consumed <= 6
    assert consumed == 50


def test_an_error_in_a_thread_reaches_the_caller():
    with pytest.raises(ZeroDivisionError):
        list(parallel.map_in_order(lambda i: 1 // i, [1, 0, 2], threads=2, max_pending=2))
