"""Work in three steps, on neighbours at the same time: the next is got ready, and the last put away, meanwhile."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

Item = TypeVar("Item")
ROOM = 1 << 30  # bytes that what was got ready ahead may hold


def staged(
    items: Iterable[Item],
    ready: Callable[[Item], Any],
    work: Callable[[Item, Any], Any],
    away: Callable[[Item, Any], Any],
    *,
    ahead: int = 1,
    size: Callable[[Any], int] = lambda got: 0,
    room: int = ROOM,
    expected: tuple[type[Exception], ...] = (),
) -> Iterator[tuple[Item, Any]]:
    """Every item with `away(item, work(item, ready(item)))`, in order.

    `ready` and `away` run in threads of their own, as many each as are worked `ahead`; `work` in the caller's, one item
    after the other, so that what depends on their order is as it would be without threads. `ahead` 0: no threads, all
    three one after the other. In memory are at most `ahead` items on either side of the one at work, and fewer where
    so many times the largest `size`, in bytes and as `ready` gave it, is beyond `room`.

    An error of the kinds `expected` is that item's result and stops no other. Any other, Ctrl-C included, ends all,
    once what is being put away has been.
    """
    if ahead < 1:
        for item in items:
            try:
                yield item, away(item, work(item, ready(item)))
            except expected as error:
                yield item, error
        return
    source, coming, leaving = iter(items), deque(), deque()
    largest = 0
    with ThreadPoolExecutor(ahead, "ready") as before, ThreadPoolExecutor(ahead, "away") as after:

        def fetch(most: int) -> None:
            while len(coming) < most and (item := next(source, source)) is not source:
                coming.append((item, before.submit(ready, item)))

        try:
            fetch(1)
            while coming:
                item, future = coming.popleft()
                got, error = _outcome(future, expected)
                largest = max(largest, size(got)) if error is None else largest
                together = largest * (2 * ahead + 1) <= room
                if together:
                    fetch(ahead)
                if error is None:
                    try:
                        got = work(item, got)
                    except expected as problem:
                        error = problem
                leaving.append((item, after.submit(away, item, got) if error is None else error))
                del got, future  # not held while the next one is waited for
                while len(leaving) > (ahead if together else 0):
                    yield _left(*leaving.popleft(), expected)
                fetch(1)
            while leaving:
                yield _left(*leaving.popleft(), expected)
        finally:
            for _, future in coming:
                future.cancel()


def _outcome(future: Future, expected: tuple[type[Exception], ...]) -> tuple[Any, Exception | None]:
    try:
        return future.result(), None
    except expected as error:
        return None, error


def _left(item: Item, future: Future | Exception, expected: tuple[type[Exception], ...]) -> tuple[Item, Any]:
    if isinstance(future, Exception):
        return item, future
    result, error = _outcome(future, expected)
    return item, result if error is None else error
