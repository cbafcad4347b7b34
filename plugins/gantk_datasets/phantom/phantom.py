"""The phantom: computes brain MR (spin-echo equation) and CT of seeded heads, so that data need no
download.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from math import prod
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import Field

from gantk import ImageSource, Record
from gantk.catalog.contrasts import contrast_names
from gantk.errors import UserError, count_noun
from gantk.method import domain_letters
from gantk.plugin.spec import Count, Few, Fraction, Positive, Seed, Share, Weight
from gantk_datasets.phantom.tissues import (
    AIR_HOUNSFIELD,
    CENTRE,
    CEREBRUM,
    CT_NOISE,
    ENHANCED,
    HOUNSFIELD,
    RANDOM,
    RELAXATION,
    SEQUENCES,
    SHELLS,
    TISSUES,
    signal,
)

if TYPE_CHECKING:  # importing PyTorch is slow; `gantk list` and recipe checks do without it
    from torch import Tensor

    from gantk_datasets.phantom.anatomy import Subject

UNITS = 1000.0  # MR intensity of a tissue with proton density 1 and no relaxation
FIELD_OF_VIEW = 230.0  # mm, every side of the imaged cube
MIN_LESION_PIXELS = 4  # fewest pixels of lesion for the label "tumour"
MAX_CACHED_BYTES = 2**28  # bytes of the cache of heads
MAX_HEAD_VOXELS = 2**24
MAX_VOXELS = 2**31  # of all heads
SEQUENCE_SEED = 100_000  # tells the draw of sequences from that of noise

CONTRASTS = (*SEQUENCES, "CT", "LABELS")  # the index seeds the noise: append new ones
CLASSES = ["healthy", "tumour"]
ALIASES = {"MAP": "LABELS", "MR": "T1", "MRI": "T1", "T1C": "T1CE", "T1GD": "T1CE"}
Heads = Annotated[int, Field(ge=1, le=10_000)]
Slices = Annotated[int, Field(ge=1, le=512)]
Deviation = Annotated[float, Field(ge=0, le=50)]


def contrast_of(name: str) -> str:
    """The contrast of a domain's name: `"t1"`, `"T1w"` and `"MR"` are all T1. UserError for an
    unknown one.
    """
    contrast = name.strip().upper().removesuffix("W")
    contrast = ALIASES.get(contrast, contrast)
    if contrast not in CONTRASTS:
        raise UserError(
            f"the phantom has no contrast '{name}'",
            where="data.domains",
            allowed=CONTRASTS,
            remedy="name the domains after these contrasts, or train on your images with --data PATH",
        )

    return contrast


class Phantom(ImageSource):
    """Synthetic heads: registered brain images of seeded subjects, computed when read.

    No download is needed, and every pair has its ground truth. Domains are named after contrasts:
    T1, T2, PD, FLAIR, T1CE (lesions enhanced), CT; MR means T1; "T1+FLAIR" is two contrasts, one
    channel each. LABELS (or map) is the label map: 0 air, 1 CSF, 2 gray, 3 white, 4 lesion, 5 bone,
    6 scalp.

    2-D records are axial slices (C, H, W), anterior up, the patient's right on the left. 3-D
    records are volumes (C, D, H, W), D from inferior to superior. MR is positive, 1000 x signal,
    with only noise in air. CT is in Hounsfield units, air -1000. Subject k of a seed does not
    depend on the number of subjects.

    With lesions, records have a mask and a label: a slice that shows a lesion, or a volume of a
    subject with one, is "tumour", any other "healthy". With `contrast`, the two domains are these
    classes, not registered.
    """

    drawn = True  # subjects are computed: no search for copies among them

    def __init__(
        self,
        domains: tuple[str, ...],
        dims: int,
        size: tuple[int, ...],
        *,
        subjects: Heads = 40,  # number of heads
        slices: Slices = 8,  # axial slices of each head, spread over the cerebrum; 2-D only
        # standard deviation of the noise in both channels, as a share of white matter's T1 signal
        noise: Weight = 0.03,
        # T1 and T2 of each tissue vary between subjects by up to this share
        jitter: Fraction = 0.1,
        # standard deviation of the logarithm of the coil's gain over the head; 0 = uniform gain
        bias: Deviation = 0.05,
        # lesions in each head; records then have a mask and a label (tumour or healthy)
        lesions: Few = 0,
        radius: tuple[Positive, Positive] = (4.0, 12.0),  # range of a lesion's three radii, mm
        healthy: Share = 0.0,  # share of the subjects that have no lesions
        only: Literal["all", "tumour", "healthy"] = "all",  # keep the records of one class
        # numbers of images to keep: (with a tumour, without); None: all
        counts: tuple[Count, Count] | None = None,
        # contrast of both domains if the domains are the classes ["healthy", "tumour"]
        contrast: str = "",
        skull: bool = False,  # add bone and scalp around the brain
        # random: TR, TE and TI of T1 and T2 vary from head to head
        sequences: Literal["standard", "random"] = "standard",
        seed: Seed = 0,  # seed of the heads
    ):
        asks_for_lesions = any((only != "all", counts, contrast))
        is_sized = _is_sized(dims, size, slices, subjects)
        if not is_sized or radius[0] > radius[1] or (asks_for_lesions and not lesions):
            raise UserError(
                f"the phantom cannot be computed with these options and data.size = {list(size)}",
                where="data.source",
                allowed=f"size [H, W] or [D, H, W], each side 8 or more, {MAX_HEAD_VOXELS:,} voxels a"
                f" head, {MAX_VOXELS:,} in all; radius [smallest, largest]; only, counts and"
                " contrast with lesions",
            )
        self.letters = domain_letters(tuple(domains))
        self.dims = dims
        self.size = tuple(size)
        # the class of each domain's images; () = any
        self.classes = tuple(domains) if contrast else ()
        if contrast and sorted(domains) != CLASSES:
            raise UserError(
                "with data.source.contrast the phantom's domains are classes, not"
                f" {', '.join(domains)}",
                where="data.domains",
                allowed=str(CLASSES),
            )

        self.contrasts = [
            tuple(map(contrast_of, contrast_names(contrast or domain))) for domain in domains
        ]
        self.subjects = subjects
        self.noise = noise
        self.seed = seed
        self.lesions = lesions
        self.only = only
        self.counts = dict(zip(("tumour", "healthy"), counts or (), strict=bool(counts)))
        self.tissues = TISSUES + SHELLS if skull else TISSUES
        self.sequences = sequences
        self.options_of_subject: dict[str, Any] = {
            "jitter": jitter,
            "bias": bias,
            "lesions": lesions,
            "radius": tuple(radius),
            "healthy": healthy,
            "skull": skull,
        }
        sides = tuple(FIELD_OF_VIEW / side for side in size)
        self.voxel = sides if dims == 3 else (1.0, *sides)  # mm: z, y, x
        self.levels = _heights(dims, self.voxel, size, slices)
        self._heads: dict[int, Subject] = {}
        self._tissue: dict[int, Tensor] = {}  # cache: all slices and contrasts of a head share it

    def records(self) -> list[Record]:
        """A record for every domain of every subject (2-D: of every slice); all domains of one
        image share a pair.
        """
        records = []
        for number in range(self.subjects):
            for place, label in enumerate(self._labels(number)):
                if self.only in ("all", label):
                    level = place if self.dims == 2 else None
                    records += self._records_of_image(number, level, label)

        if not records:
            raise UserError(
                f'none of the {self.subjects} subjects has an image for only = "{self.only}"',
                where="data.source",
                remedy="increase subjects, or change healthy and lesions",
            )

        return self._pick_counts(records) if self.counts else records

    def _records_of_image(self, number: int, level: int | None, label: str) -> Iterator[Record]:
        """Yield the record of each domain that shows a subject, or one slice of it."""
        subject = f"subject-{number:03d}"
        key = subject
        about = {"label": label, "scan_key": ""}
        if level is not None:
            key = f"{subject}/slice-{level:03d}"
            about |= {"scan_key": subject, "position": float(self.levels[level])}
        if not self.classes:
            about["pair"] = key
        if self.lesions:
            about["mask"] = partial(self._mask, number, level)

        for domain, letter in enumerate(self.letters):
            if self.classes and self.classes[domain] != label:
                continue
            contrast = self.contrasts[domain]
            read = partial(self._read, number, level, contrast)
            scan = None if level is None else partial(self._stack, number, contrast)
            yield Record(letter, subject, key, read, scan=scan, **about)

    def _pick_counts(self, records: list[Record]) -> list[Record]:
        """Records of `counts` images of each class, spread evenly over the subjects; UserError if
        there are too few.
        """
        kept = set()
        for label, count in self.counts.items():
            pairs = list(dict.fromkeys(record.pair for record in records if record.label == label))
            if len(pairs) < count:
                raise UserError(
                    f"{count_noun(self.subjects, 'subject')} made {count_noun(pairs, 'image')} of the class {label}, but"
                    f" counts requests {count}",
                    where="data.source.counts",
                    remedy="increase subjects, slices or lesions, or reduce counts",
                )

            places = np.linspace(0, len(pairs) - 1, count).round()
            kept.update(pairs[int(place)] for place in places)

        return [record for record in records if record.pair in kept]

    def _labels(self, number: int) -> list[str | None]:
        """The class of each slice, or of the volume, in a list."""
        places = range(len(self.levels)) if self.dims == 2 else [None]
        if not self.lesions:
            return [None for _ in places]

        labels = []
        for level in places:
            if level is None:
                tumour = bool(self._subject(number).lesions)
            else:
                tumour = self._mask(number, level).sum() >= MIN_LESION_PIXELS
            labels.append("tumour" if tumour else "healthy")

        return labels

    def _points(self) -> Tensor:
        """MNI mm (x, y, z) of every voxel, (D, H, W, 3); rows start anterior, columns at the
        patient's right.
        """
        import torch

        height, width = self.size[-2:]
        x = CENTRE[0] + FIELD_OF_VIEW / 2 - self.voxel[2] * (torch.arange(width) + 0.5)
        y = CENTRE[1] + FIELD_OF_VIEW / 2 - self.voxel[1] * (torch.arange(height) + 0.5)
        z, y, x = torch.meshgrid(
            torch.tensor(self.levels, dtype=torch.float32), y, x, indexing="ij"
        )
        return torch.stack([x, y, z], dim=-1)

    def _subject(self, number: int) -> Subject:
        from gantk_datasets.phantom.anatomy import Subject

        if number not in self._heads:
            self._heads[number] = Subject(self.seed, number, **self.options_of_subject)
        return self._heads[number]

    def _tissue_of(self, number: int) -> Tensor:
        tissue = self._tissue.get(number)
        if tissue is None:
            tissue = self._subject(number).tissue(self._points(), self.voxel)
            kept = max(1, MAX_CACHED_BYTES // tissue.nbytes)
            for oldest in list(self._tissue)[: max(0, len(self._tissue) + 1 - kept)]:
                self._tissue.pop(oldest, None)  # another thread may have removed it
            self._tissue[number] = tissue
        return tissue

    def _read(self, number: int, level: int | None, contrasts: tuple[str, ...]) -> np.ndarray:
        """Compute float32 (contrasts, *spatial); the noise is seeded for each subject, contrast and
        slice.
        """
        tissue = self._tissue_of(number).numpy()
        place = 0
        if level is not None:
            tissue = tissue[:, level]
            place = 1 + level

        factors = self._subject(number).relaxation
        channels = []
        for contrast in contrasts:
            seed = [self.seed, number, 1 + CONTRASTS.index(contrast), place]
            channels.append(self._image(contrast, tissue, factors, seed))

        return np.stack(channels).astype(np.float32)

    def _stack(self, number: int, contrasts: tuple[str, ...]) -> np.ndarray:
        """All slices of a head, float32 (contrasts, slices, *size)."""
        slices = [self._read(number, level, contrasts) for level in range(len(self.levels))]
        return np.stack(slices, axis=1)

    def _image(
        self, contrast: str, tissue: np.ndarray, factors: np.ndarray, seed: list[int]
    ) -> np.ndarray:
        """Compute an image from tissue shares and gain (tissues + 1, *spatial); `factors` (2,
        tissues) scale T1, T2.

        CT is in Hounsfield units, and air where no tissue is. MR is positive, with Rician noise.
        """
        shares = tissue[:-1]
        gain = tissue[-1]
        rng = np.random.default_rng(seed)
        if contrast == "LABELS":
            likely = np.stack([1 - shares.sum(0), *shares])
            lesion = 1 + TISSUES.index("lesion")
            likely[lesion] = likely[lesion] > 0.5  # the same threshold as the mask
            return likely.argmax(0)

        if contrast == "CT":
            hounsfield = np.array([HOUNSFIELD[tissue] for tissue in self.tissues])
            above_air = (hounsfield - AIR_HOUNSFIELD).astype(np.float32)
            clean = AIR_HOUNSFIELD + np.tensordot(above_air, shares, axes=1)
            noise = rng.standard_normal(clean.shape, dtype=np.float32)
            return clean + np.float32(CT_NOISE * self.noise) * noise

        t1, t2, density = np.array([RELAXATION[tissue] for tissue in self.tissues]).T
        enhanced = ENHANCED.get(contrast, {})
        shortened = np.array([enhanced.get(tissue, 1.0) for tissue in self.tissues])
        sequence = self._sequence(contrast, seed)
        strengths = signal(sequence, t1 * factors[0] * shortened, t2 * factors[1], density)
        clean = np.tensordot(strengths.astype(np.float32), shares, axes=1) * gain
        deviation = np.float32(self.noise * signal("T1", *RELAXATION["white"]))
        real, imaginary = deviation * rng.standard_normal((2, *clean.shape), dtype=np.float32)
        return UNITS * np.hypot(clean + real, imaginary)

    def _sequence(self, contrast: str, seed: list[int]) -> tuple:
        """TR, TE and inversion time in ms, the same for all slices of a head."""
        if self.sequences == "standard" or contrast not in RANDOM:
            return SEQUENCES[contrast]
        rng = np.random.default_rng([*seed[:3], SEQUENCE_SEED])
        kinds = RANDOM[contrast]
        times = rng.uniform(*kinds[rng.integers(len(kinds))])
        return (*times, None)[:3]

    def _mask(self, number: int, level: int | None) -> np.ndarray:
        lesion = self._tissue_of(number)[TISSUES.index("lesion")]
        if level is not None:
            lesion = lesion[level]
        return (lesion > 0.5).float().numpy()[None]


def _heights(dims: int, voxel: tuple[float, ...], size: tuple[int, ...], slices: int) -> np.ndarray:
    """The height of each slice, or plane of a volume, in MNI mm."""
    if dims == 3:
        return CENTRE[2] - FIELD_OF_VIEW / 2 + voxel[0] * (np.arange(size[0]) + 0.5)
    if slices > 1:
        return np.linspace(*CEREBRUM, slices)
    return np.array([sum(CEREBRUM) / 2])


def _is_sized(dims: int, size: tuple[int, ...], slices: int, subjects: int) -> bool:
    """Whether heads of this size can be computed."""
    voxels = prod(size[-2:]) * (slices if dims == 2 else size[0])
    is_shape = len(size) == dims and min(size) >= 8
    return is_shape and voxels <= MAX_HEAD_VOXELS and voxels * subjects <= MAX_VOXELS
