"""Which toolkits are known, and which of them are here."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gantk.errors import UserError, did_you_mean
from peers.cases import Case
from peers.own import Own
from peers.quality import fix_seeds
from peers.side import Found, Schedule, Setup, Side

# Each is a module with NAME, `find(folder)` -> Found or what to do to have it, `unable(case)` -> why or None, and
# `build(folder, setup, first batch)` -> Side. Another toolkit is another such module and a line here.
ADAPTERS = {
    "reference": "peers.reference",
    "cut": "peers.cut",
    "monai": "peers.monai_networks",
    "konfai": "peers.konfai_networks",
}


@dataclass(frozen=True)
class Peer:
    """A toolkit, found or not."""

    name: str
    module: Any
    folder: Path | None
    found: Found | None
    reason: str | None  # why it is not here, and what to do

    def unable(self, case: Case) -> str | None:
        """Why it cannot run a case, or None."""
        if case.window and not hasattr(self.module, "windows"):
            return "it has no inference by windows"
        return None if case.window else self.module.unable(case)

    def build(self, case: Case, host: Own, seed: int, schedule: Schedule | None = None) -> Side:
        """Its side of a case, on the device of gantk's side and for the channels of its images."""
        fix_seeds(seed)
        if case.window:
            return self.module.windows(host.generator, case)
        setup = Setup(case, host.parts.data.channels, host.parts.runtime.device, seed, schedule or Schedule())
        return self.module.build(self.folder, setup, host.parts.batches.at(0))


def asked_for(arguments: Iterable[str]) -> list[Peer]:
    """The peers of `name` and `name=folder`, all where none is named; UserError for a wrong name or folder."""
    return [_peer(argument) for argument in arguments or ADAPTERS]


def _peer(argument: str) -> Peer:
    name, _, folder = argument.partition("=")
    if name not in ADAPTERS:
        remedy = did_you_mean(name, ADAPTERS)
        raise UserError(f"there is no peer '{name}'", where=f"--peer {argument}", allowed=ADAPTERS, remedy=remedy)
    module = importlib.import_module(ADAPTERS[name])
    path = Path(folder).expanduser().resolve() if folder else None
    found = module.find(path)
    if isinstance(found, str):
        return Peer(name, module, path, None, f"{name} is not here: {found}")
    return Peer(name, module, path, found, None)
