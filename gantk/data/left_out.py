"""Images of contrasts that a training leaves out, because its domains are others."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from gantk.catalog.contrasts import usual_contrast
from gantk.catalog.domains import contrast_said
from gantk.data.preparation import contrast_names
from gantk.errors import count_noun

MAX_NAMED_DOMAINS = 5  # in a sentence


def count_left_out(
    listed: Collection[str], used: Collection[str], domains: Sequence[str]
) -> Counter[str]:
    """How many of the `listed` files, as relative paths, say a contrast that neither a domain nor
    any `used` file says.
    """
    contrasts = {contrast_said(Path(name)) for name in used}
    for domain in domains:
        contrasts |= {(usual_contrast(name) or name).upper() for name in contrast_names(domain)}

    said = Counter(contrast_said(Path(name)) for name in {*listed} - {*used})
    return Counter({name: n for name, n in said.items() if name and name not in contrasts})


def left_out_note(counts: Mapping[str, int], domains: Sequence[str]) -> str:
    """The sentences on images of other domains, by domain; "" without any."""
    if not counts:
        return ""

    by_number = Counter(counts).most_common()
    named = [f"{name} ({count})" for name, count in by_number[:MAX_NAMED_DOMAINS]]
    if len(by_number) > MAX_NAMED_DOMAINS:
        named.append(f"{len(by_number) - MAX_NAMED_DOMAINS} more")

    used = f"{domains[0]} is used, because it is the recipe's domain"
    if len(domains) > 1:
        used = f"{' and '.join(domains)} are used, because they are the recipe's domains"

    files = count_noun(sum(counts.values()), "image")
    others = json.dumps([*domains[:-1], by_number[0][0]])
    return (
        f"{files} of other domains left out: {', '.join(named)}. {used}. To use others, set for"
        f" example --set 'data.domains={others}'"
    )
