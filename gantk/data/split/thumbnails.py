"""What the search for copies saw of an image, kept in the cache: the next run need not decode it to look again."""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np

from gantk.data.items import Record
from gantk.data.preparation import Preparation
from gantk.data.split.image_hash import SIDE, Look
from gantk.data.split.near_duplicates import Seen, see

KIND = "thumbnails-1"  # of entries in the cache; another number where they are computed otherwise
DIGEST = 32  # bytes
HASH = 32  # bytes of one view's hash


def see_once(preparation: Preparation, record: Record, group: Hashable = None, near: bool = True) -> Seen:
    """What `see` says of a record, read from its file only where no earlier run has.

    The image that the networks see is brought to size on the way, so that a first epoch decodes nothing again.
    """
    row = preparation.kept(KIND, record, lambda one: packed(see(one))) if near else None
    if row is None:
        return see(record, group, near)
    preparation.to_size(record)
    digest, look = unpacked(row)
    return Seen(record.key, record.subject, (record.domain, record.label), record.position, group, digest, look)


def packed(seen: Seen) -> np.ndarray:
    """Digest and look as bytes; as many for every image with as many views, as all of one file have."""
    digest = bytes.fromhex(seen.digest) if seen.digest else b""
    look = b"" if seen.look is None else seen.look.thumbnails.tobytes() + seen.look.hashes.astype("<u8").tobytes()
    return np.frombuffer(bytes([len(digest) > 0, len(look) > 0]) + digest.ljust(DIGEST, b"\0") + look, np.uint8)


def unpacked(row: np.ndarray) -> tuple[str | None, Look | None]:
    """Digest and look of what `packed` gave, whatever bytes follow it."""
    digest = row[2 : 2 + DIGEST].tobytes().hex() if row[0] else None
    if not row[1]:
        return digest, None
    body = row[2 + DIGEST :]
    views = len(body) // (2 * (SIDE * SIDE + HASH))
    thumbnails = body[: 2 * views * SIDE * SIDE].reshape(2, views, SIDE, SIDE)
    hashes = body[thumbnails.size :][: 2 * views * HASH].tobytes()
    return digest, Look(thumbnails, np.frombuffer(hashes, "<u8").astype(np.uint64).reshape(2, -1))
