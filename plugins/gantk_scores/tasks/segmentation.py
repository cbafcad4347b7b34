"""Measures whether a segmenter trained on real images finds the lesions in generated ones."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gantk.errors import UserError
from gantk.metrics.evaluate import Scorer
from gantk.metrics.intervals import estimate, patient_numbers
from gantk.metrics.sets import ImageGroup, SetMetric, halves, select_images
from gantk.plugin.spec import Count, Seed
from gantk.runs.results import Score
from gantk_scores.tasks.classification import TOO_FEW, LearntSide, cross_folds, strangers
from gantk_scores.tasks.small_networks import (
    BATCH,
    WIDTH,
    SmallUNet,
    mirror_randomly,
    train_network,
)

INPUT_SIDES = {2: 96, 3: 48}  # longest side of a segmenter's input in pixels or voxels
MAX_BATCH_POSITIONS = 2**20  # most positions of a batch at inference


@dataclass(eq=False)
class Segmentation(SetMetric):
    """Segmentation agreement: the Dice score of the lesions that a segmenter of real images finds in
    translations.

    A small U-Net is trained to segment lesions in real training images of other patients. It then
    segments the generated images. The value is the Dice coefficient 2 |A and B| / (|A| + |B|) of
    its lesions (A) and the truth's mask (B), pooled over a patient's images and averaged over
    patients. Its 95 % interval comes from bootstrap over patients. Patients without a lesion have
    no Dice and are left out, like images without a mask.

    In the details, `real` is the same segmenter's Dice on the held-out real images, the upper
    limit; `found` is the share of the lesions' pixels that it finds; `false_alarms` is the share of
    images without a lesion in which it finds one. `teach` adds "segmentation_taught": the Dice of a
    segmenter that is trained on generated images and tested on real images of other patients.
    """

    data_range: float
    dims: int
    _: KW_ONLY
    # steps of 8 images (2 volumes) for each segmenter; a step takes 0.1 s on a core at 96 px
    steps: Count = 100
    # reduce larger images to this longest side; None: 96 pixels, 48 voxels
    side: LearntSide | None = None
    # also train two segmenters on the generated images, and two for every baseline
    teach: bool = False
    seed: Seed = 0  # seed of the segmenter's weights and of the order of its batches

    name = "segmentation"
    unit = ""
    higher_is_better = True

    def __post_init__(self) -> None:
        side = INPUT_SIDES[self.dims] if self.side is None else self.side
        self.make = lambda: Segmenter(self.dims, self.steps, side, self.seed, self.data_range)
        # cache: training images, which are used, segmenter, their number, `real`
        self._learned = None

    def expect_data(self, scorer: Scorer) -> bool:
        """UserError where a domain has no lesion masks to learn from or to test."""
        counts = []
        complete = True
        for to in scorer.method.directions():
            for split in ("train", "test"):
                records = scorer.reals.records(split, to)
                masked = sum(scorer.reals.record_with_mask(each) is not None for each in records)
                counts.append(f"{masked} of {len(records)}")
                complete &= masked > 0

        if not counts or not complete:
            what = (
                "the metric 'segmentation' needs lesion masks in the training and the test set, but"
                f" finds {' and '.join(counts) or 'none for images from noise'}"
            )
            remedy = (
                'set data.source.mask to the masks ("seg"), give the phantom lesions, or leave the'
                " metric out"
            )
            raise UserError(what, where="evaluate.metrics", remedy=remedy)
        scorer.reals.masks = True
        return True

    @property
    def definition(self) -> str:
        return f"segmentation/dice-per-patient/without-lesion-left-out/{self.make().definition}"

    def __call__(self, train: ImageGroup, test: ImageGroup, fake: ImageGroup) -> dict[str, Score]:
        source = train
        if train is test:
            train, test = halves(test)

        train = _images_with_masks("training", train)
        test = _images_with_masks("test", test)
        fake = _images_with_masks("made", fake)
        keep = strangers(train, test) & strangers(train, fake)
        known = self._learned
        if known is None or known[0] is not source or not torch.equal(known[1], keep):
            others = _images_with_masks("training", select_images(train, keep))
            segmenter = self.make().fit(others.images, others.masks)
            of_real = agreement([(segmenter(test.images), test)])
            ceiling = Score(value=of_real.value, ci95=of_real.ci95)
            self._learned = known = source, keep, segmenter, len(others), ceiling

        *_, segmenter, count, ceiling = known
        dice = agreement([(segmenter(fake.images), fake)])
        dice = dice.model_copy(update={"details": {**dice.details, "real": ceiling}})
        how = f"trained-on:real={count}/tested-on:made={len(fake)}"
        scores = {self.name: self._with_definition(dice, len(fake), how)}
        if self.teach:
            scores[f"{self.name}_taught"] = self._score_of_training(test, fake)

        return scores

    def _score_of_training(self, test: ImageGroup, fake: ImageGroup) -> Score:
        """The Dice on real images of segmenters trained on generated images of other patients."""
        folds = list(cross_folds(fake, test))
        if not all(len(learn) and (learn.masks > 0).any() for learn, _ in folds):
            return Score(
                value=None,
                ci95=None,
                n=len(test),
                definition=f"{self.definition}/not-computed: {TOO_FEW}",
            )

        answers = []
        for learn, asked in folds:
            segmenter = self.make().fit(learn.images, learn.masks)
            answers.append((segmenter(asked.images), asked))

        how = f"trained-on:made={len(fake)}"
        if len(folds) > 1:
            how += "/crossed-over-halves-of-the-patients"

        how += f"/tested-on:real={len(test)}"
        return self._with_definition(agreement(answers), len(test), how)

    def _with_definition(self, dice: Score, count: int, how: str) -> Score:
        patients = "unknown" if dice.patients_unknown else dice.n
        definition = f"{self.definition}/{how}/patients={patients}"
        return dice.model_copy(update={"n": count, "definition": definition})


def _images_with_masks(which: str, group: ImageGroup) -> ImageGroup:
    """The images with a mask; UserError where none shows a lesion."""
    known = None if group.masks is None else group.masks.flatten(1).isfinite().all(1)
    if known is None or not (group.masks[known] > 0).any():
        what = (
            f"the metric 'segmentation' needs lesion masks, but no mask of the {which} images shows"
            " a lesion"
        )
        remedy = (
            'set data.source.mask to the masks ("seg"), give the phantom lesions, or leave the'
            " metric out"
        )
        raise UserError(what, where="evaluate.metrics", remedy=remedy)

    return select_images(group, known)


def agreement(answers: list[tuple[Tensor, ImageGroup]]) -> Score:
    """Mean Dice over patients of found lesions (N, 1, *size), bool, against their images' masks."""
    found = torch.cat([answer.flatten(1).cpu() for answer, _ in answers])
    truth = torch.cat([group.masks.flatten(1).cpu() > 0 for _, group in answers])
    names = [patient for _, group in answers for patient in group.patients]
    numbers = patient_numbers(names)
    patients = [names[first] for first in np.unique(numbers, return_index=True)[1]]
    both = np.bincount(numbers, (found & truth).sum(1).double().numpy())
    marked = np.bincount(numbers, found.sum(1).double().numpy())
    drawn = np.bincount(numbers, truth.sum(1).double().numpy())
    # a patient without a lesion has neither Dice nor recall
    drawn = np.where(drawn > 0, drawn, np.nan)
    alarms = np.where(truth.any(1).numpy(), np.nan, found.any(1).numpy())
    details = {
        "found": estimate(both / drawn, patients),
        "false_alarms": estimate(alarms, names),
    }
    return estimate(2 * both / (marked + drawn), patients, details=details)


class Segmenter:
    """A small U-Net that is trained to segment lesions in images (N, C, *size), 0 to `data_range`.

    It is trained for `steps` steps of 8 images (2 volumes), half of them with a lesion, mirrored at
    random, with the Dice loss of a batch. Larger images are reduced to `side` along their longest
    axis; masks have the original size.
    """

    def __init__(self, dims: int, steps: int, side: int, seed: int, data_range: float):
        self.dims = dims
        self.steps = steps
        self.side = side
        self.seed = seed
        self.data_range = data_range

    @property
    def definition(self) -> str:
        return f"unet-{WIDTH}/{self.side}px/steps={self.steps}x{BATCH[self.dims]}"

    def fit(self, images: Tensor, masks: Tensor) -> Segmenter:
        """Train on images with their masks (N, 1, *size), above 0 inside a lesion."""
        drawn = (masks > 0).float()
        shows = drawn.flatten(1).any(1).long()
        share = (1 / torch.bincount(shows, minlength=2).clamp_min(1).float())[shows].cpu()
        size = tuple(self._network_input(images[:1]).shape[2:])

        def loss(network: nn.Module, generator: torch.Generator) -> Tensor:
            batch = BATCH[self.dims]
            picked = torch.multinomial(share, batch, replacement=True, generator=generator)
            image = self._network_input(images[picked.to(images.device)])
            mask = self._shrunk(drawn[picked.to(drawn.device)].to(images.device))
            image, mask = mirror_randomly([image, mask], generator)
            return dice_loss(network(image), mask)

        def make() -> nn.Module:
            return SmallUNet(images.shape[1], 1, self.dims, size).to(images.device)

        with torch.autocast(images.device.type, enabled=False):
            self.network = train_network(make, loss, self.steps, self.seed)

        return self

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Segment images; returns lesion masks (N, 1, *size), bool."""
        mode = "bilinear" if self.dims == 2 else "trilinear"
        positions = self._network_input(images[:1])[0, 0].numel()
        masks = []
        with torch.autocast(images.device.type, enabled=False):
            for part in images.split(max(1, MAX_BATCH_POSITIONS // positions)):
                answer = self.network(self._network_input(part))
                if answer.shape[2:] != part.shape[2:]:
                    answer = F.interpolate(answer, part.shape[2:], mode=mode)
                masks.append(answer > 0)

        return torch.cat(masks)

    def _network_input(self, images: Tensor) -> Tensor:
        """The network's input: at most `side` pixels a side, scaled to -1 to 1, NaN as black."""
        return self._shrunk(2 * images.float() / self.data_range - 1).nan_to_num(nan=-1.0)

    def _shrunk(self, images: Tensor) -> Tensor:
        scale = self.side / max(images.shape[2:])
        if scale >= 1:
            return images
        size = [max(1, round(side * scale)) for side in images.shape[2:]]
        return F.interpolate(images, size, mode="area")


def dice_loss(answers: Tensor, masks: Tensor) -> Tensor:
    """1 - soft Dice of logits (Milletari et al., 2016, section 3) over a whole batch: an image may
    have no lesion.

    There is no cross entropy: lesions are 0.1 % of the pixels, and with it nothing is found in the
    first hundred steps.
    """
    likely = answers.sigmoid()
    shared = (likely * masks).sum()
    sizes = likely.square().sum() + masks.square().sum()
    return 1 - (2 * shared + 1) / (sizes + 1)
