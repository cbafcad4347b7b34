"""A small page with the state of a service's queue; it names nobody."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from gantk import __version__
from gantk_serve.journal import local_time

if TYPE_CHECKING:
    from gantk_serve.service import Service

SHOWN_JOBS = 50
STYLE = """
:root { color-scheme: light dark; font-family: system-ui, sans-serif; }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; display: block; overflow-x: auto; }
th, td { text-align: left; padding: .3rem .8rem .3rem 0; white-space: nowrap; }
td:last-child { white-space: normal; min-width: 12rem; }
.counts { display: flex; flex-wrap: wrap; gap: .5rem 2rem; padding: 0; list-style: none; }
.counts strong { display: block; font-size: 1.6rem; }
"""


def status_page(service: Service) -> str:
    """The page as HTML."""
    counts = service.store.counts()
    items = "".join(f"<li><strong>{count}</strong>{state}</li>" for state, count in counts.items())
    rows = "".join(
        f"<tr><td>{job.shown_state}</td><td>{service.journal.whose(job.study)}</td>"
        f"<td>{escape(job.target)}</td><td>{escape(job.model_name)}</td>"
        f"<td>{local_time(job.created)}</td><td>{escape(job.reason)}</td></tr>"
        for job in service.store.jobs(newest=SHOWN_JOBS)
    )
    names = ("state", "study", "to", "model", "added", "reason")
    heads = "".join(f"<th>{name}</th>" for name in names)
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width'><meta http-equiv='refresh' content='5'>"
        f"<title>gantk serve</title><style>{STYLE}</style></head><body><h1>gantk serve</h1>"
        f"<p>Version {__version__}. For research only: every result is synthetic.</p>"
        f"<ul class='counts'>{items}</ul><table><thead><tr>{heads}</tr></thead>"
        f"<tbody>{rows}</tbody></table></body></html>"
    )
