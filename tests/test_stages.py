"""Three steps at the same time on neighbours: in order, bounded in memory, and an error stays with its item."""

from __future__ import annotations

import threading

import pytest

from gantk.inference.stages import staged


def plain(item):
    return item


def same(item, got):
    return got


@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_results_come_in_order(ahead):
    found = list(staged(range(20), plain, lambda item, got: got * 2, lambda item, got: got + 1, ahead=ahead))
    assert found == [(k, 2 * k + 1) for k in range(20)]
    assert list(staged([], plain, same, same, ahead=ahead)) == []


@pytest.mark.parametrize("ahead", [0, 1, 2])
@pytest.mark.parametrize("place", ["ready", "work", "away"])
def test_an_expected_error_is_the_result_of_its_item_alone(ahead, place):
    def fails(where, item):
        if where == place and item == 3:
            raise OSError(f"no {item}")
        return item

    steps = (lambda i: fails("ready", i), lambda i, got: fails("work", i), lambda i, got: fails("away", i))
    found = dict(staged(range(6), *steps, ahead=ahead, expected=(OSError,)))
    assert str(found.pop(3)) == "no 3"
    assert found == {k: k for k in (0, 1, 2, 4, 5)}
    with pytest.raises(OSError, match="no 3"):
        list(staged(range(6), *steps, ahead=ahead))


def test_the_next_is_got_ready_and_the_last_put_away_while_one_is_at_work():
    started = {k: threading.Event() for k in range(4)}
    put = {k: threading.Event() for k in range(4)}
    gate = threading.Event()

    def ready(item):
        started[item].set()
        return item

    def work(item, got):
        if item == 1:
            assert started[2].wait(20)  # is read while this one is at work
            gate.set()
        return got

    def away(item, got):
        if item == 0:
            assert gate.wait(20)  # is being put away while the next one is at work
        put[item].set()

    assert [item for item, _ in staged(range(4), ready, work, away)] == [0, 1, 2, 3]


@pytest.mark.parametrize(("ahead", "room", "most"), [(1, 100, 3), (2, 100, 5), (1, 2, 2)])
def test_so_many_are_in_memory_and_no_more(ahead, room, most):
    held, seen, lock = set(), [], threading.Lock()

    def ready(item):
        with lock:
            held.add(item)
            seen.append(len(held))
        return item

    def away(item, got):
        with lock:
            held.discard(item)

    list(staged(range(30), ready, same, away, ahead=ahead, size=lambda got: 1, room=room))
    assert max(seen) <= most


def test_what_is_being_put_away_is_finished_when_all_is_stopped():
    begun, written = threading.Event(), []

    def work(item, got):
        if item == 1:
            assert begun.wait(20)
            raise KeyboardInterrupt
        return got

    def away(item, got):
        begun.set()
        written.append(item)

    with pytest.raises(KeyboardInterrupt):
        list(staged(range(9), plain, work, away, expected=(OSError,)))
    assert written == [0]
