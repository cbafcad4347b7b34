"""Kills `gantk serve`, its worker and the receiving archive again and again while studies arrive,
and counts what is lost or doubled afterwards.

    python benchmarks/serve_kills.py [--kills 300] [--seed 0] [--minutes M] [--json FILE]

Studies of a T1 and a T2 series of 2 to 4 small slices arrive all the time; the sender sends again
what was not acknowledged. Two rules translate them, and both results go to an archive. One or more of
the three are killed by SIGKILL at a seeded random time after the queue has come to a seeded stage, and
started again. At the end, every series must be in the archive exactly once: one derived series with an
instance for each of its own, and the same pixels in all instances of one UID. Nothing of the inputs
is left by then.
"""

import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pydicom

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from serving import (
    ARCHIVE,
    SENDER,
    Archive,
    Server,
    free_ports,
    store_until_kept,
    study,
    tiny_model,
    wait_for,
)

VICTIMS = (  # what is killed at a time
    ("server",),
    ("worker",),
    ("archive",),
    ("server", "worker"),
    ("server", "worker", "archive"),
)
# a stage begins when the queue has a study or a job in this state
STAGES = {"receiving": "received", "translating": "running", "sending": "done"}
OPEN_STUDIES = 8  # that are on their way at a time
QUIET_SECONDS = 6.0  # until a study is complete
PAUSE_SECONDS = 1.0  # at most, of a sender after each instance
AGAIN_SECONDS = 2.5  # at most, until a sender sends again what was not acknowledged
RETRY_SECONDS = 0.2
STAGE_SECONDS = 60.0  # after which a kill does not wait for its stage any longer
SPREAD_SECONDS = 1.0  # of a kill after its stage begins
AWAY_SECONDS = 2.0  # at most, for which an archive stays away
DRAIN_SECONDS = 600.0
DELETE_SECONDS = 30.0  # for inputs to be deleted after the last delivery


@dataclass
class Kill:
    """What was killed, at which stage, and the queue just before."""

    second: float
    victims: tuple[str, ...]
    stage: str
    reached: bool
    queue: dict[str, int]


@dataclass
class Outcome:
    """What is in the archive and in the service's folder at the end."""

    series: int
    lost: list[str]
    doubled: list[str]
    changed: list[str]
    failed: list[str]
    left: list[str]
    received: int
    kills: list[Kill]

    def sentence(self) -> str:
        """The numbers."""
        by_victim = Counter(victim for kill in self.kills for victim in kill.victims)
        shown = ", ".join(f"{count} of the {victim}" for victim, count in sorted(by_victim.items()))
        return (
            f"{by_victim.total()} kills ({shown}), {self.series} series, {len(self.lost)} lost,"
            f" {len(self.doubled)} doubled, {len(self.changed)} changed, {len(self.failed)} failed,"
            f" {len(self.left)} files left"
        )

    def is_right(self) -> bool:
        """Whether every series is there once, and nothing is left of it elsewhere."""
        return not (self.lost or self.doubled or self.changed or self.failed or self.left)


def rules(model: Path, port: int, archive_port: int) -> dict[str, Any]:
    """T1 becomes T2 and T2 becomes T1; both go to the archive."""
    return {
        "service": {"quiet": QUIET_SECONDS, "retry": RETRY_SECONDS},
        "dicom": {"port": port},
        "peers": [
            {"title": SENDER, "host": "127.0.0.1"},
            {"title": ARCHIVE, "host": "127.0.0.1", "port": archive_port},
        ],
        "rules": [
            {"when": {"contrast": one}, "model": str(model), "to": other, "send": ARCHIVE}
            for one, other in (("T1", "T2"), ("T2", "T1"))
        ],
    }


class Trial:
    """A service, an archive and a sender in `folder`, of which the first two are killed."""

    def __init__(self, folder: Path, model: Path, seed: int):
        self.folder = folder
        self.seed = seed
        self.random = random.Random(seed)
        self.port, archive_port, http_port = free_ports(3)
        self.archive = Archive(folder, archive_port)
        told = rules(model, self.port, archive_port) | {"http": {"port": http_port}}
        self.server = Server(folder, told)
        self.sent: dict[str, list[str]] = {}  # "STUDY-SERIES" -> SOPInstanceUIDs
        self.stop = threading.Event()  # no more studies
        self.give_up = threading.Event()  # none at all, after an error

    def run(self, kills: int, minutes: float, say: Callable[[str], None]) -> Outcome:
        """Kill so many times, or for so long; then let everything arrive, and look."""
        begun = time.monotonic()
        done: list[Kill] = []
        with self.archive, self.server, ThreadPoolExecutor(OPEN_STUDIES + 1) as threads:
            self.archive.start()
            self.server.start()
            feeder = threads.submit(self._feed, threads)
            try:
                while killed(done) < kills and time.monotonic() < begun + 60 * minutes:
                    done.append(self._kill(time.monotonic() - begun))
                    say(f"{killed(done)}  {done[-1]}")
            except BaseException:
                self.give_up.set()
                raise
            finally:
                self.stop.set()
            feeder.result()
            wait_for(self._all_arrived, DRAIN_SECONDS)
            wait_for(lambda: not self._left(), DELETE_SECONDS)
            return self._look(done)

    def _feed(self, threads: ThreadPoolExecutor) -> None:
        """Send study after study; few are on their way at a time."""
        senders = []
        sizes = random.Random(self.seed + 1)
        number = 0
        while not self.stop.is_set():
            files = study(self.folder / "studies", number, ("T1", "T2"), sizes.randint(2, 4))
            for file in files:
                self.sent.setdefault(file.parent.name, []).append(uid_of(file))
            waits = sizes.uniform(0.0, PAUSE_SECONDS), sizes.uniform(0.1, AGAIN_SECONDS)
            given = files, self.port, self.give_up, *waits
            senders.append(threads.submit(store_until_kept, *given))
            number += 1
            wait_for(lambda: self.stop.is_set() or self._on_the_way() < OPEN_STUDIES, 3600.0)
        for sender in senders:
            sender.result()

    def _on_the_way(self) -> int:
        """Studies of which the archive does not have all."""
        arrived = set(self.archive.derived())
        series = [name for name, uids in self.sent.items() if not arrived.issuperset(uids)]
        return len({name.split("-")[0] for name in series})

    def _all_arrived(self) -> bool:
        """Whether nothing will change any more."""
        counts = self.server.counts()
        waiting = any(counts[state] for state in ("received", "waiting", "running", "done"))
        return not waiting and self.server.process.poll() is None

    def _kill(self, second: float) -> Kill:
        """Kill a part at a random time, and start it again."""
        victims = self.random.choice(VICTIMS)
        stage = self.random.choice([*STAGES])
        delay = self.random.uniform(0.0, SPREAD_SECONDS)
        away = self.random.uniform(0.0, AWAY_SECONDS)
        reached = wait_for(lambda: self.server.counts()[STAGES[stage]], STAGE_SECONDS)
        threading.Event().wait(delay)
        kill = Kill(round(second, 2), victims, stage, bool(reached), self.server.counts())
        if "worker" in victims:
            self.server.kill_workers()
        if "server" in victims:
            self.server.kill()
        if "archive" in victims:
            self.archive.kill()
        if "server" in victims:
            self.server.start()
        if "archive" in victims:
            threading.Event().wait(away)
            self.archive.start()
        return kill

    def _look(self, kills: list[Kill]) -> Outcome:
        derived = self.archive.derived()
        lost = []
        doubled = []
        for name, sources in self.sent.items():
            found = [derived.get(uid, {}) for uid in sources]
            if not all(found):
                lost.append(name)
            made = {series for each in found for series in each}
            instances = sum(len(each) for one in found for each in one.values())
            if len(made) > 1 or instances > len(sources):
                doubled.append(name)

        received = self.archive.received()
        failed = [job.reason for job in self.server.jobs() if job.state == "failed"]
        changed = changed_instances(received)
        return Outcome(
            len(self.sent), lost, doubled, changed, failed, self._left(), len(received), kills
        )

    def _left(self) -> list[str]:
        """Files of inputs, and unfinished ones, in the service's folder."""
        files = [path for path in self.server.folder.rglob("*") if path.is_file()]
        kept = [path.relative_to(self.server.folder).as_posix() for path in files]
        return [name for name in kept if name.startswith(("inputs/", "work/")) or ".tmp" in name]


def killed(kills: Sequence[Kill]) -> int:
    """The number of processes that were killed."""
    return sum(len(kill.victims) for kill in kills)


def uid_of(file: Path) -> str:
    """The SOPInstanceUID of a file."""
    return str(pydicom.dcmread(file, specific_tags=["SOPInstanceUID"]).SOPInstanceUID)


def changed_instances(received: Sequence[Mapping[str, str]]) -> list[str]:
    """UIDs that came again with other pixels."""
    seen: dict[str, set[str]] = {}
    for line in received:
        seen.setdefault(line["instance"], set()).add(line["pixels"])
    return [uid for uid, kinds in seen.items() if len(kinds) > 1]


def main(arguments: list[str] | None = None) -> None:
    from gantk.machine.runtime import start
    from gantk_bench.harness import parser, record, write

    cli = parser(__doc__)
    cli.add_argument("--kills", type=int, default=300, help="default %(default)s")
    cli.add_argument("--seed", type=int, default=0, help="default %(default)s")
    cli.add_argument("--minutes", type=float, default=600.0, help="at most; default %(default)g")
    options = cli.parse_args(arguments)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        trial = Trial(folder / "trial", tiny_model(folder), options.seed)
        outcome = trial.run(options.kills, options.minutes, print)
    print(outcome.sentence())
    found = asdict(outcome) | {"seed": options.seed}
    write(options.json, record(start("cpu"), **found))
    sys.exit(0 if outcome.is_right() else 1)


if __name__ == "__main__":
    main()
