"""Whether lesions can still be found: a segmenter that learned from real images is asked about made ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gantk.errors import UserError
from gantk.metrics.bootstrap import estimate
from gantk.metrics.regression import BATCH, WIDTH, SmallUNet, falling, mirrored, repeatable, seeded
from gantk.metrics.sets import ImageGroup, Score, chosen, halves
from gantk.training.optim import adam
from gantk_tasks.classification import checked, crossed, strangers

SIDE = {2: 96, 3: 48}  # pixels or voxels of the longest side that a segmenter sees
RATE = 5e-3  # Adam's, falling to 0 along half a cosine
PASS = 2**20  # positions that go through the network at once


class Segmentation:
    """Segmentation agreement: what a segmenter of real images finds in translated ones, against the true lesions.

    A small U-Net learns to find lesions in real training images of the target domain, and is then asked about the made
    ones. The value is the Dice coefficient 2 |A and B| / (|A| + |B|) of what it finds (A) and the truth's mask (B),
    pooled over all images of a patient, then the mean over patients, with a 95 % interval from drawing patients. A
    patient without a lesion in the mask has no Dice and is left out; so is an image of which nobody drew a mask.

    In the details: `real`, the same segmenter on the real held-out images, the ceiling; `found`, the share of the
    lesions' pixels that it finds; `false_alarms`, the share of the images without a lesion in which it finds one.
    Training images of a patient who is asked about, or equal to an image that is, are left out.

    With `teach` also the way round, "segmentation_taught": one that learned from made images with the truth's masks,
    asked about real images of other patients, each half of them in turn.
    """

    sets, needs_masks = True, True
    name, unit, higher_is_better = "segmentation", "", True

    def __init__(
        self,
        data_range: float,
        dims: int,
        *,
        steps: int = 100,  # of 8 images (2 volumes), for each segmenter; 0.1 s each on a core at 96 px
        side: int | None = None,  # longest side that larger images are brought down to; None: 96 pixels, 48 voxels
        teach: bool = False,  # also train two on the made images, and two for every baseline
        seed: int = 0,  # of the segmenter's weights and of the order of its batches
    ):
        side = SIDE[dims] if side is None else side
        checked(steps=(steps, 1), side=(side, 16))
        self.teach = teach
        self.make = lambda: Segmenter(dims, steps, side, seed, data_range)
        self._judge: _Judge | None = None

    @property
    def definition(self) -> str:
        return f"segmentation/dice-per-patient/without-lesion-left-out/{self.make().definition}"

    def __call__(self, train: ImageGroup, test: ImageGroup, fake: ImageGroup) -> dict[str, Score]:
        source = train
        if train is test:
            train, test = halves(test)
        train, test, fake = (self._drawn(*named) for named in (("training", train), ("test", test), ("made", fake)))
        judge = self._learned(source, train, test, fake)
        found = agreement([(judge.segmenter(fake.images), fake)])
        details = found.details | {"real": {"value": judge.ceiling.value, "ci95": judge.ceiling.ci95}}
        how = f"trained-on:real={judge.learned}/tested-on:made={len(fake)}"
        scores = {self.name: self._score(found, len(fake), how, details)}
        if self.teach:
            scores[f"{self.name}_taught"] = self._taught(test, fake)
        return scores

    def _drawn(self, which: str, group: ImageGroup) -> ImageGroup:
        """The images of which somebody drew a mask; UserError where none shows a lesion."""
        known = None if group.masks is None else group.masks.flatten(1).isfinite().all(1)
        if known is None or not (group.masks[known] > 0).any():
            raise UserError(
                f"the metric 'segmentation' needs lesion masks, and none of the {which} images shows a lesion",
                where="evaluate.metrics",
                remedy='name the masks (data.source.mask = "seg"), give the phantom lesions, or leave it out',
            )
        return chosen(group, known)

    def _learned(self, source: ImageGroup, train: ImageGroup, test: ImageGroup, fake: ImageGroup) -> _Judge:
        """A segmenter of real images of other patients, trained once for all that are judged by it."""
        keep = strangers(train, test) & strangers(train, fake)
        known = self._judge
        if known is None or known.source is not source or not torch.equal(known.keep, keep):
            others = self._drawn("training", chosen(train, keep))
            segmenter = self.make().fit(others.images, others.masks)
            ceiling = agreement([(segmenter(test.images), test)])
            self._judge = known = _Judge(source, keep, segmenter, len(others), ceiling)
        return known

    def _taught(self, test: ImageGroup, fake: ImageGroup) -> Score:
        """The Dice on real images of segmenters that learned from made images of other patients."""
        folds = list(crossed(fake, test))
        if not all(len(learn) and (learn.masks > 0).any() for learn, _ in folds):
            definition = f"{self.definition}/not-computed: too few patients to learn from some and be tested on others"
            return Score(None, None, len(test), definition)
        answers = [(self.make().fit(learn.images, learn.masks)(asked.images), asked) for learn, asked in folds]
        how = f"trained-on:made={len(fake)}" + "/crossed-over-halves-of-the-patients" * (len(folds) > 1)
        found = agreement(answers)
        return self._score(found, len(test), f"{how}/tested-on:real={len(test)}", found.details)

    def _score(self, found: Agreement, count: int, how: str, details: dict[str, Any]) -> Score:
        return Score(found.value, found.ci95, count, f"{self.definition}/{how}/patients={found.patients}", details)


@dataclass(frozen=True)
class _Judge:
    """A trained segmenter, and what it was trained for."""

    source: ImageGroup
    keep: Tensor
    segmenter: Segmenter
    learned: int  # images
    ceiling: Agreement


@dataclass(frozen=True)
class Agreement:
    """Mean Dice over patients, its 95 % interval, how many patients it is of, and the other rates."""

    value: float | None
    ci95: tuple[float, float] | None
    patients: int
    details: dict[str, Any]


def agreement(answers: list[tuple[Tensor, ImageGroup]]) -> Agreement:
    """How well found lesions (N, 1, *size), bool, agree with the masks of their images."""
    found = torch.cat([answer.flatten(1).cpu() for answer, _ in answers])
    truth = torch.cat([group.masks.flatten(1).cpu() > 0 for _, group in answers])
    known = [patient for _, group in answers for patient in group.patients]
    names = [patient or f"image {index}" for index, patient in enumerate(known)]
    both, marked, drawn = (x.sum(1).double().numpy() for x in (found & truth, found, truth))
    patients = list(dict.fromkeys(names))
    member = np.array([[name == patient for name in names] for patient in patients])
    pooled = [np.where(member, counts, 0).sum(1) for counts in (both, marked, drawn)]
    seen = pooled[2] > 0
    whole = np.where(seen, pooled[2], np.nan)  # a patient without a lesion has neither
    dice, recall = 2 * pooled[0] / (pooled[1] + whole), pooled[0] / whole
    alarms = np.where(drawn > 0, np.nan, marked > 0)
    value = estimate(dice, patients)
    rates = {"found": estimate(recall, patients), "false_alarms": estimate(alarms, names)}
    details = {name: {"value": rate.value, "ci95": rate.ci95} for name, rate in rates.items()}
    return Agreement(value.value, value.ci95, int(seen.sum()), details)


class Segmenter:
    """A small U-Net that learns from images (N, C, *size), 0 to `data_range`, where their lesions are.

    Args:
        dims: 2 or 3.
        steps: of 8 images (2 volumes), half of them with a lesion.
        side: longest side that larger images are brought down to; answers have the images' own size.
        seed: the same seed on the same machine gives the same segmenter; the global random generators are left as they
            were.

    Trained by Adam on the Dice loss of a batch, in float32, with images mirrored along the last axis or not.
    """

    def __init__(self, dims: int, steps: int, side: int, seed: int, data_range: float):
        self.dims, self.steps, self.side, self.seed, self.data_range = dims, steps, side, seed, data_range

    @property
    def definition(self) -> str:
        return f"unet-{WIDTH}/{self.side}px/steps={self.steps}x{BATCH[self.dims]}"

    def fit(self, images: Tensor, masks: Tensor) -> Segmenter:
        """Train on images with their masks (N, 1, *size), above 0 inside a lesion."""
        drawn = (masks > 0).float()
        shows = drawn.flatten(1).any(1).long()
        share = (1 / torch.bincount(shows, minlength=2).clamp_min(1).float())[shows].cpu()
        generator = torch.Generator().manual_seed(self.seed)
        plain = torch.autocast(images.device.type, enabled=False)
        with torch.inference_mode(False), torch.enable_grad(), plain, seeded(self.seed), repeatable():
            self.network = self._network(images, drawn, share, generator)
        return self

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """(N, 1, *size), bool: where it finds a lesion."""
        with torch.autocast(images.device.type, enabled=False):
            seen = self._seen(images[:1])
            parts = images.split(max(1, PASS // seen[0, 0].numel()))
            return torch.cat([self._enlarged(self.network(self._seen(part)), part) > 0 for part in parts])

    def _network(self, images: Tensor, masks: Tensor, share: Tensor, generator: torch.Generator) -> nn.Module:
        """The network after `steps` steps, in eval mode."""
        size = tuple(self._seen(images[:1]).shape[2:])
        network = SmallUNet(images.shape[1], 1, self.dims, size).to(images.device).train()
        optimizer = adam(network.parameters(), lr=RATE, betas=(0.9, 0.999))
        for step in range(self.steps):
            optimizer.param_groups[0]["lr"] = RATE * falling(step / self.steps)
            picked = torch.multinomial(share, BATCH[self.dims], replacement=True, generator=generator)
            batch = images[picked.to(images.device)], masks[picked.to(masks.device)].to(images.device)
            image, mask = mirrored([self._seen(batch[0]), self._shrunk(batch[1])], generator)
            loss = dice_loss(network(image), mask)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return network.eval().requires_grad_(False)

    def _seen(self, images: Tensor) -> Tensor:
        """What the network sees: at most `side` pixels a side, from -1 to 1, what is missing black."""
        return self._shrunk(2 * images.float() / self.data_range - 1).nan_to_num(nan=-1.0)

    def _shrunk(self, images: Tensor) -> Tensor:
        scale = self.side / max(images.shape[2:])
        if scale >= 1:
            return images
        return F.interpolate(images, [max(1, round(side * scale)) for side in images.shape[2:]], mode="area")

    def _enlarged(self, answers: Tensor, images: Tensor) -> Tensor:
        if answers.shape[2:] == images.shape[2:]:
            return answers
        return F.interpolate(answers, images.shape[2:], mode="bilinear" if self.dims == 2 else "trilinear")


def dice_loss(answers: Tensor, masks: Tensor) -> Tensor:
    """1 - Dice of likelihoods (Milletari et al., 2016, section 3), of a whole batch: a single image may lack lesions.

    Alone: lesions are a thousandth of the pixels, and with cross entropy beside it nothing is found for the first
    hundred steps.
    """
    likely = answers.sigmoid()
    shared, sizes = (likely * masks).sum(), likely.square().sum() + masks.square().sum()
    return 1 - (2 * shared + 1) / (sizes + 1)
