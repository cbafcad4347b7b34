"""Findings of `data check` about images in the wrong domain: by their headers and looks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from gantk.catalog.contrasts import CONTRASTS, one_word, times_contradict
from gantk.data.check.findings import MAX_OUTLIER_SHARE, Problem, problem, with_verb
from gantk.data.check.inspect import Inspected
from gantk.data.dataset import Study
from gantk.data.spread import spread

MIN_IMAGES = 12  # per domain for finding outliers
MIN_DISTANCE = 1e-3  # of looks, so that copies have a ratio
MAX_NEIGHBOURS = 2_000  # reference images per domain that all images are compared with
MIN_LOG_RATIO = 0.25  # of the distances to the own and the other domain, for a wrong one
MAX_USUAL_LOG_RATIO = -0.4  # the median of images that are in the right domain


def wrong_contrast(items: Sequence[Inspected], study: Study) -> Iterator[Problem]:
    """Finds images that belong to the other domain by their DICOM header or by their look."""
    domains = study.table.domains
    held_out = {
        record.id for side in ("validation", "test") for record in study.splits.get(side, ())
    }
    is_trained = [not any(record.id in held_out for record in item.records) for item in items]
    looks_other = _looks_like_other(items, domains, np.array(is_trained, dtype=bool))
    for domain, other in zip(domains, domains[::-1], strict=False):
        looking = []
        for number, item in enumerate(items):
            if item.domains != [domain]:
                continue
            if header_contradicts(item, domain):
                what = f"'{item.name}' is in {domain}, but its header says {_said_by_header(item)}"
                remedy = f"look at the image, and move it if it is {other}"
                yield problem("contrast", "warning", what, [item.name], remedy)
            elif looks_other[number]:
                looking.append(item.name)

        if looking:
            what = with_verb(looking, "image", f"of {domain} looks|look more like {other}:")
            remedy = f"look at them, and move those that are {other}"
            yield problem("contrast", "warning", what, looking, remedy)


def _said_by_header(item: Inspected) -> str:
    said = item.facts.get("description") or item.facts.get("modality") or "another contrast"
    echo = item.facts.get("echo_time")
    return said if echo is None else f"{said}, TE {echo:g} ms"


def header_contradicts(item: Inspected, domain: str) -> bool:
    """Whether a header states another contrast, or times that are not the domain's."""
    meant = CONTRASTS.get(one_word(domain), "")
    said = CONTRASTS.get(item.header_says, item.header_says)
    if not meant:
        return False
    if said and said != meant and {meant, said} != {"t1", "t1ce"}:
        return meant not in ("mr", "ct", "pet") or said in ("ct", "pet")

    return times_contradict(item.facts, meant)


def _looks_like_other(
    items: Sequence[Inspected], domains: Sequence[str], is_trained: np.ndarray
) -> np.ndarray:
    """(N,) which images have a third nearest neighbour by look that is nearer by a fifth in the other
    domain than in their own. Of 3 images in the wrong folder this finds 95 to 100 % (four real sets).

    Neighbours are trained images of other patients, or held-out ones too where a domain has fewer
    than 12. None where a domain has fewer than 12 images, or the domains look alike, as they do where
    more than a quarter of the trained images look like the other.
    """
    compared = [n for n, item in enumerate(items) if item.look and len(item.domains) == 1]
    found = np.zeros(len(items), dtype=bool)
    if len(domains) != 2:
        return found
    in_first = np.array([items[n].domains == [domains[0]] for n in compared], dtype=bool)
    sides = (in_first, ~in_first)
    nearby = is_trained[compared]
    if min((side & nearby).sum() for side in sides) < MIN_IMAGES:
        nearby = np.ones_like(nearby)
    if min(side.sum() for side in sides) < MIN_IMAGES:
        return found

    patients = [items[n].patient or items[n].name for n in compared]
    looks = np.array([items[n].look for n in compared])
    first, second = _distances(looks, [side & nearby for side in sides], patients)
    known = np.isfinite(first + second)
    log_ratio = np.full(len(compared), -np.inf)
    log_ratio[known] = np.where(in_first, 1, -1)[known] * np.log(first[known] / second[known])
    looks_other = log_ratio > MIN_LOG_RATIO
    smaller = min((side & nearby).sum() for side in sides)
    if (looks_other & nearby).sum() > MAX_OUTLIER_SHARE * smaller:
        return found
    if any(np.median(log_ratio[side & nearby]) > MAX_USUAL_LOG_RATIO for side in sides):
        return found
    found[compared] = looks_other
    return found


def _distances(
    looks: np.ndarray, sides: Sequence[np.ndarray], patients: Sequence[str]
) -> list[np.ndarray]:
    """(N,) for each side the distance of every look (N, F) to the third nearest one of other patients
    that is on that side (N,).
    """
    from sklearn.metrics.pairwise import euclidean_distances

    numbers = np.unique(patients, return_inverse=True)[1]
    found = []
    for side in sides:
        neighbours = spread(np.flatnonzero(side), MAX_NEIGHBOURS)
        distance = np.maximum(euclidean_distances(looks, looks[neighbours]), MIN_DISTANCE)
        distance[numbers[:, None] == numbers[neighbours]] = np.inf
        found.append(np.partition(distance, 2)[:, 2])  # the third smallest of each row
    return found
