"""A loss between an output and similar images of the other domain, found before training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from gantk.errors import UserError
from gantk.method import Images
from gantk.plugin.spec import Count, Side, Weight
from gantk_translation.weak_pairs.matching import (
    explained_share,
    grid,
    most_alike,
    registrations,
    sample_at,
    shrink_means,
    zoom_affine,
    zoom_inside,
)

# a registration is used only if it reduces the unexplained variance to less than this share
MAX_LEFT_SHARE = 0.6


@dataclass(kw_only=True, eq=False)
class WeakPairs:
    """Weak pairs: L1 between an output and similar slices of the other domain, which gantk matches
    and registers automatically.

    Before training, gantk finds for each image the most similar images of the other domain by MIND,
    which describes edges independently of contrast (Heinrich et al. 2012, 2013). It registers them
    if the image's intensities then explain much more of their variance. No registered pairs are
    needed. If the other domain contains the same slices, a one-to-one assignment finds the matching
    slice of each image, and only that slice is used. Registered slices of other heads agree in the
    brightness of tissues, but less in the position of edges: `edge_direction` and `flat_region`
    keep the edges of the input.
    """

    takes = "matches"
    note = "each slice with similar slices of the other domain; no registered pairs are needed"

    weight: Weight = 20.0  # weight of the loss if an image has several candidates
    # weight of the loss for a single candidate, the same slice
    alone: Weight = 100.0
    candidates: Count = 3  # number of registered images that each output is compared with
    # longer side in pixels at which images are compared; they are registered at half this size
    side: Side = 96

    def companions(self, sets: Mapping[str, Images]) -> dict[str, Companions]:
        """For each image of `a` its candidates of `b`, concatenated as channels, and for `b` those
        of `a`.
        """
        if sets["a"][0].ndim != 3:
            raise UserError(
                "weak pairs are matched among slices, not volumes",
                where="method.pairs",
                allowed="2-D images",
                remedy='set method.pairs = "none"',
            )

        whole = {letter: shrink_means(images, self.side) for letter, images in sets.items()}
        small = {letter: F.avg_pool2d(images, 2) for letter, images in whole.items()}
        ways = [
            Way(
                small[one],
                small[other],
                *most_alike(whole[one], whole[other], 2 * self.candidates),
            )
            for one, other in ("ab", "ba")
        ]
        moves = best_moves(*ways)
        if moves[0]:
            nearest_b = ways[0].move_candidates(whole["b"], moves[0], 1)
            nearest_a = ways[1].move_candidates(whole["a"], moves[1], 1)
            here = zoom_inside(whole["a"], nearest_b)
            there = zoom_inside(whole["b"], nearest_a)
            # Contrast scales a->b and b->a in opposite directions; only that antisymmetric part
            # is a real zoom.
            zoom = (here - there) / 2
            moves = [
                (zoom_affine(affine, way), free)
                for (affine, free), way in zip(moves, (zoom, -zoom), strict=True)
            ]

        return {
            "a": Companions("b", *ways[0].best_candidates(moves[0], self.candidates)),
            "b": Companions("a", *ways[1].best_candidates(moves[1], self.candidates)),
        }

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        """The loss of `output` (N, C, *size) and `target` (N, candidates x C, *size) from
        `companions`.
        """
        candidates = target.float().unflatten(1, (-1, output.shape[1]))
        weight = self.alone if candidates.shape[1] == 1 else self.weight
        return weight * (output.float()[:, None] - candidates).abs().mean()


@dataclass
class Way:
    """One direction of the search: the images of one domain and the indices of similar images of
    the other.
    """

    own: Tensor  # (N, 1, h, w)
    other: Tensor  # (M, 1, h, w)
    like: Tensor  # (N, candidates): indices into `other`
    partner: Tensor  # (N,): index into `other`, from `most_alike`

    def move_candidates(self, images: Tensor, moves: tuple[Tensor, ...], count: int) -> Tensor:
        """The `count` most similar of `images` of the other domain, registered by `moves`: (N x
        count, 1, H, W).
        """
        places = grid(*(move[:, :count].flatten(0, 1) for move in moves), images.shape[2:])
        return sample_at(images[self.like[:, :count].flatten()], places)

    def unexplained_share(self, moves: tuple[Tensor, ...]) -> float:
        """The share of variance not explained by the images' intensities, of the nearest candidates
        or the partners.
        """
        targets = self.move_candidates(self.other, moves, 1) if moves else self.other[self.partner]
        return 1 - float(explained_share(self.own, targets))

    def best_candidates(self, moves: tuple[Tensor, ...], count: int) -> tuple[Tensor, ...]:
        """Each image's `count` candidates with the most explained variance, and their moves;
        without moves partners.
        """
        if not moves:
            return (self.partner[:, None],)

        sources = self.own.repeat_interleave(self.like.shape[1], 0)
        candidates = self.move_candidates(self.other, moves, self.like.shape[1])
        shares = explained_share(sources, candidates, each=True).view(self.like.shape)
        best = shares.topk(min(count, shares.shape[1])).indices
        rows = torch.arange(len(best))[:, None]
        return self.like[rows, best], *(move[rows, best] for move in moves)


def best_moves(forth: Way, back: Way) -> list[tuple[Tensor, ...]]:
    """The registrations of both ways that explain most; none where they save little."""
    none = ()
    best = [none, none]
    start = forth.unexplained_share(none) + back.unexplained_share(none)
    least = MAX_LEFT_SHARE * start
    tried = (registrations(way.own, way.other, way.like) for way in (forth, back))
    for moves in zip(*tried, strict=True):
        left = forth.unexplained_share(moves[0]) + back.unexplained_share(moves[1])
        if left < least:
            best = list(moves)
            least = left

    return best


class Companions:
    """Similar images of the domain `other` for each image, (candidates x C, H, W); registered when
    they are read.
    """

    def __init__(self, other: str, like: Tensor, *moves: Tensor):
        # moves: arguments of `grid`, by image and candidate
        self.other = other
        self.like = like
        self.moves = moves
        self.alone = not moves  # the same slice, so that one is enough

    def __call__(self, index: int, sets: Mapping[str, Images]) -> Tensor:
        images = torch.stack([sets[self.other][n] for n in self.like[index].tolist()])
        if self.moves:
            places = grid(*(move[index] for move in self.moves), images.shape[2:])
            images = sample_at(images, places)
        return images.flatten(0, 1)
