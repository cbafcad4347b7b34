"""What `gantk serve status`, `retry` and `pull` do with the queue of a service, which may run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from gantk.errors import UserError
from gantk_serve.journal import Journal, local_time
from gantk_serve.rules import load_rules
from gantk_serve.store import NAME, Store, now

SHOWN_JOBS = 20


def status_lines(rules: Path, as_json: bool = False) -> Iterator[str]:
    """The lines to print."""
    store, folder = _open_queue(rules)
    counts = store.counts()
    jobs = store.jobs(newest=SHOWN_JOBS)
    if as_json:
        shown = [{"job": job.job, "state": job.state, "reason": job.reason} for job in jobs]
        yield json.dumps({"counts": counts, "jobs": shown})
        return

    yield ", ".join(f"{count} {state}" for state, count in counts.items())
    journal = Journal(folder, quiet=True)
    for job in jobs:
        start = f"{local_time(job.created)}  {journal.whose(job.study):12}  {job.job}"
        yield f"{start}  {job.model_name:12} {job.shown_state:11} {job.reason}".rstrip()


def retry_job(rules: Path, number: str) -> str:
    """Let a failed job start again; returns a line for the user."""
    store, _ = _open_queue(rules)
    if store.job(number) is None:
        remedy = f"list the jobs: gantk serve status {rules}"
        raise UserError(f"there is no job '{number}'", where="JOB", remedy=remedy)
    if not store.retry(number, now()):
        what = f"the job is {store.job(number).state}"
        raise UserError(what, where="JOB", allowed="a failed job")
    return f"waiting  {number}"


def pull_study(rules: Path, study: str, title: str) -> str:
    """Let a peer send a study to the running service, and make it complete at once; returns a line
    for the user.
    """
    from gantk_serve.dicom import pull
    from gantk_serve.inbox import Inbox

    loaded = load_rules(rules)
    store, folder = _open_queue(rules)
    peer = loaded.peer(title)
    if peer is None or loaded.dicom is None:
        known = [each.title for each in loaded.peers]
        raise UserError(f"these rules have no peer '{title}'", where="PEER", allowed=known)
    failure = pull(study, peer, loaded.dicom)
    if failure:
        raise UserError(f"the study was not received: {failure}", where=title)

    inbox = Inbox(folder, loaded, store, Journal(folder, quiet=True))
    count = len(store.instances(study))
    if not count:
        raise UserError("the peer sent no instance of this study", where=title)
    inbox.complete(study, now())
    return f"received {count} instances"


def _open_queue(rules: Path) -> tuple[Store, Path]:
    folder = Path(load_rules(rules).service.folder)
    if not (folder / NAME).is_file():
        what = f"the service of '{rules}' has not been started yet"
        raise UserError(what, where="RULES", remedy=f"gantk serve {rules}")
    return Store(folder), folder
