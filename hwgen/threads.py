# SPDX-License-Identifier: Apache-2.0
"""Work on several processors: whole pieces side by side rather than every product in shares.

NumPy lets other threads run while it computes, so two pieces in two threads take as long as one.
BLAS' own threads would share out its products only, and wait for each other at every one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import TypeVar

from threadpoolctl import ThreadpoolController

A = TypeVar("A")
B = TypeVar("B")


def thread_count() -> int:
    """Threads that BLAS would take: the processors, or what ``OPENBLAS_NUM_THREADS`` says."""
    return max((library["num_threads"] for library in _blas().info()), default=1)


def map_threads(function: Callable[[A], B], pieces: Iterable[A]) -> Iterator[B]:
    """``function`` of every piece, in order, computed in :func:`thread_count` threads.

    Pieces are taken as they are needed, one more than there are threads, so their memory is
    bounded. Every product within ``function`` runs in its own thread.
    """
    count = thread_count()
    if count == 1:
        yield from map(function, pieces)
        return
    pool = ThreadPoolExecutor(count)
    waiting: deque[Future[B]] = deque()
    try:
        with _blas().limit(limits=1):
            for piece in pieces:
                waiting.append(pool.submit(function, piece))
                if len(waiting) > count:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


@cache
def _blas() -> ThreadpoolController:
    # NumPy has loaded its library by now, whoever calls.
    return ThreadpoolController().select(user_api="blas")
