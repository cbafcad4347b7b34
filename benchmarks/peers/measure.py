"""Cases measured, one row for each side; what goes wrong with one is its row, and the others go on."""

from __future__ import annotations

import argparse
import gc
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

from gantk.errors import GantkError, UserError
from peers import quality
from peers.adapters import Peer, asked_for
from peers.cases import Case, chosen
from peers.own import WAYS, Own, OwnWindows, checked
from peers.rows import Row, begun, measured
from peers.side import Schedule, Side
from peers.speed import WARM, Turn, ratio, take_turns

BATCHES = 4  # that a timing goes round
SKIPPED = {"status": "skipped", "recipe": "peers", "summary": ""}
LONG = 1_000_000  # steps of a plan whose end is never reached


def measure(options: argparse.Namespace) -> Iterator[Row]:
    """Every case with every peer that can run it; a row with status "skipped" for each peer that runs none."""
    cases, peers = chosen(options.cases), asked_for(options.peer)
    if options.filters:
        cases = [case.with_filters(options.filters) for case in cases]
    for peer in peers:
        reasons = dict.fromkeys(peer.reason or peer.unable(case) for case in cases)
        if None not in reasons:
            why = peer.reason or f"{peer.name} can run none of these cases: {'; '.join(reasons)}"
            yield begun(cases[0], peer.name, peer, options) | SKIPPED | {"label": f"peers {peer.name}", "error": why}
    for case in cases:
        able = [peer for peer in peers if not peer.reason and not peer.unable(case)]
        if case.kind == "speed":
            for peer in able:
                yield from speed_rows(case, peer, options)
                gc.collect()
        elif able:  # gantk's own figures are there to be compared with
            yield from quality_rows(case, able, options)


def speed_rows(case: Case, peer: Peer, options: argparse.Namespace) -> Iterator[Row]:
    """gantk's default path, its plain one and the peer, taking turns: three rows, or one that says what went wrong."""
    start = time.monotonic()
    try:
        host, plain = (own_side(case, way, options) for way in ("gantk", "gantk plain"))
        guest = peer.build(case, host, options.seed)
        sides: dict[str, Side] = {"gantk": host, "gantk plain": plain, peer.name: guest}
        batches = [host.batch(step) for step in range(BATCHES)]
        turns = {label: Turn(side, batches, host.parts.runtime.synchronize) for label, side in sides.items()}
        samples = take_turns(turns, options.seconds)
        for side in sides.values():
            side.check_finite()
    except UserError:
        raise
    except Exception as error:  # a peer's code may raise anything; the other rows are safe
        yield begun(case, peer.name, peer, options) | failure(error, start)
        return
    for label, side in sides.items():
        own = isinstance(side, Own)
        row, steps = begun(case, label, None if own else peer, options), turns[label].taken - WARM
        seconds = sum(samples[label]) * steps / len(samples[label])
        row |= measured(row, side if own else host, samples[label], steps, side.weights, seconds)
        row |= {"wall_s": time.monotonic() - start, "batches": turns[label].digest, "beside": peer.name}
        if own:  # measured anew beside every peer
            row["label"] += f" beside {peer.name}"
        else:
            row["notes"] = list(side.notes)
            row["ratio"] = {way: ratio(samples[label], samples[way]) for way in sides if way != label}
        yield row


def own_side(case: Case, way: str, options: argparse.Namespace, steps: int = LONG) -> Own:
    """gantk on one of its paths."""
    settings = [*options.set, *case.settings(way), *WAYS[way], f"train.steps={steps}"]
    model = checked(case, settings, data=options.data, seed=options.seed)
    return (OwnWindows if case.window else Own)(model, options.device)


def quality_rows(case: Case, peers: list[Peer], options: argparse.Namespace) -> Iterator[Row]:
    """gantk with the peers' settings, gantk with what it adds, and every peer, each trained alone."""
    ways = ["gantk"] if case.paired else ["gantk", "gantk + structure"]
    digests: dict[str, str] = {}
    for who in [*ways, *peers]:
        peer, label = (who, who.name) if isinstance(who, Peer) else (None, who)
        row, start = begun(case, label, peer, options), time.monotonic()
        try:
            row |= peer_quality(case, peer, row, options) if peer else own_quality(case, label, row, options)
            if options.train_seconds is None and digests.setdefault("all", row["batches"]) != row["batches"]:
                raise GantkError("the sides were handed different batches, so their scores cannot be compared")
            yield row | {"wall_s": time.monotonic() - start}
        except UserError:
            raise
        except Exception as error:
            yield begun(case, label, peer, options) | failure(error, start)
        gc.collect()


def own_quality(case: Case, way: str, row: Row, options: argparse.Namespace) -> Row:
    """gantk trained on a case, scored with averaged weights as every run is."""
    steps = length(case, options, lambda: (trial := own_side(case, way, options), trial))
    side = own_side(case, way, options, steps)
    trained = quality.train(side, side, steps, options.seed)
    found = measured(row, side, trained.step_seconds, trained.steps, side.weights, trained.seconds)
    return found | side.scores() | {"batches": trained.batches}


def peer_quality(case: Case, peer: Peer, row: Row, options: argparse.Namespace) -> Row:
    """A peer trained on gantk's batches of a case."""
    host = own_side(case, "gantk", options)
    steps = length(case, options, lambda: (peer.build(case, host, options.seed), host))
    side = peer.build(case, host, options.seed, Schedule(steps, host.parts.batches.steps_per_epoch))
    trained = quality.train(side, host, steps, options.seed)
    found = measured(row, host, trained.step_seconds, trained.steps, side.weights, trained.seconds)
    found |= quality.scored(side, host) | {"batches": trained.batches, "notes": list(side.notes)}
    if hasattr(peer.module, "own_scores"):  # its own metrics on the same images: two codes should agree
        low, high = host.parts.data.range
        found["scores_by_peer"] = {
            f"{quality.OTHER[to]}_to_{to}": peer.module.own_scores(*quality.held_out(side, host, to), low, high - low)
            for to in side.directions()
        }
    return found


def length(case: Case, options: argparse.Namespace, trial: Callable[[], tuple[Side, Own]]) -> int:
    """Training steps: as asked for, the case's, or what fits into the seconds asked for, by a trial of a side."""
    if options.train_seconds is None:
        return options.steps or case.steps
    return quality.steps_for(*trial(), options.train_seconds)


def failure(error: Exception, start: float) -> Row:
    """What a row says of a crash: the last words, and where they were said."""
    at = traceback.extract_tb(error.__traceback__)[-1]
    words = (str(error).strip().splitlines() or [""])[-1]
    if not isinstance(error, GantkError):
        words = f"{type(error).__name__}: {words}  ({Path(at.filename).name}:{at.lineno})"
    return {"status": "failed", "error": words, "wall_s": time.monotonic() - start}
