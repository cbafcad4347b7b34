"""Which gantk this is."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def version_of_gantk() -> str:
    """The installed version; the source's where gantk is used without being installed."""
    try:
        return version("gantk")
    except PackageNotFoundError:
        return "0.1.0+source"
