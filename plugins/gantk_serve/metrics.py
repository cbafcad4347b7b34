"""The numbers of a service for Prometheus."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Gauge, generate_latest

if TYPE_CHECKING:
    from gantk_serve.service import Service


def exposition(service: Service) -> tuple[str, str]:
    """(text, media type) of the current numbers."""
    registry = CollectorRegistry()
    counts = service.store.counts()
    studies = Gauge("gantk_studies_incomplete", "Studies that still receive", registry=registry)
    studies.set(counts.pop("received"))
    jobs = Gauge("gantk_jobs", "Translations by state", ["state"], registry=registry)
    for state, count in counts.items():
        jobs.labels(state).set(count)
    restarts = Gauge("gantk_worker_ends", "Ends of workers since the start", registry=registry)
    restarts.set(service.workers.restarts)
    running = Gauge("gantk_workers", "Workers that run", registry=registry)
    running.set(len(service.workers.processes))
    free = Gauge("gantk_free_bytes", "Free bytes on the service's disk", registry=registry)
    free.set(shutil.disk_usage(service.folder).free)
    return generate_latest(registry).decode(), CONTENT_TYPE_LATEST
