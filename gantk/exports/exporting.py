"""Prepares one direction of a trained model for an exporter, and compares the written file with
PyTorch.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gantk.errors import GantkError, UserError, count_noun
from gantk.files import expect_parent, expect_replaceable
from gantk.inference.model import Model
from gantk.inference.network import Network
from gantk.method import OTHER
from gantk.plugin.loader import registry
from gantk.prepare.module import size_image
from gantk.runs.checkpoint import load_meta

COMPARED_IMAGES = {2: 4, 3: 2}  # number of real images to compare, by dimensions
# taken from the first set with images
SPLITS = {"test": "held-out", "validation": "validation", "train": "training"}
TOLERANCE = 1e-3  # of the range; two float32 implementations usually differ by a thousandth of that


def export(
    run: Path,
    format: str,
    out: Path,
    to: str | None,
    label: str | None,
    say: Callable,
    *,
    overwrite: bool = False,
) -> Path:
    """Export a trained model to a file and return its path: see `gantk.api.export`."""
    exporter = registry().get("exporter", format).load()()
    exporter.check(out)
    expect_replaceable([out], overwrite, "--out")
    expect_parent(out, "--out")

    translator = Model.load(run, "cpu")
    direction = Direction(translator, to, label)
    say(f"export   {direction.name}, step {direction.saved.step}")
    if direction.why:
        say(f"warning  the export is compared on random images, not on real ones: {direction.why}")

    require_steady(direction.torch_outputs, direction.images)
    if translator.recipe.post:
        names = ", ".join(part.name for part in translator.recipe.post)
        say(f"warning  the file does not contain the post-steps of the recipe: {names}")

    return exporter.write(direction, out, say)


class Direction:
    """One direction of a trained model, as an exporter needs it.

    `network` is the module to export; `images` is an array (N > 1), `torch_outputs(images)`
    PyTorch's outputs for it; `name` describes the direction, `on` the inputs, `why` the reason
    for drawn inputs; `saved` is meta.json's content; `label` the class that is translated, if any.
    """

    def __init__(self, translator: Model, to: str | None, label: str | None = None):
        self.translator = translator
        self.why = ""
        self.letter = translator.domain(to)
        self.frame = translator.frames[self.letter]
        self.target = translator.intensity[self.letter]  # the intensity mapping of the outputs
        self.label = label
        self.saved = load_meta(translator.checkpoint)
        self.images = self._images()
        self.name = f"{translator.recipe.method.name}, {self.frame.source} to {self.frame.target}"
        if label is not None:
            self.name += f", class {label}"

        method = translator.method_of_class(label)
        self.network = Network(method, self.letter, torch.from_numpy(self.images))

    def _images(self) -> np.ndarray:
        """Real images in network intensities, held-out ones where there are any; noise where the
        data are missing.
        """
        model = self.translator.recipe
        method = self.translator.method
        other = OTHER[self.letter]
        count = COMPARED_IMAGES[model.data.dims]
        size = method.geometry.size
        try:
            data = self.translator.training_data
            for split in SPLITS:
                records = [record for record in data.splits[split] if record.domain == other]
                if records:
                    break

            spread = records[:: max(1, len(records) // count)][:count]
            images = [size_image(data.image(record).numpy(), size, "crop") for record in spread]
            self.on = f"{count_noun(images, f'{SPLITS[split]} image')} of {self.frame.source}"
            if len(images) == 1:
                images.append(np.flip(images[0], -1))

            return np.stack(images)
        except (UserError, OSError) as error:
            self.on = f"{count} random images, not real ones"
            self.why = str(error)
            if self.translator.packed is not None:
                self.why = (
                    "a packed model comes without images. Translate a scan of yours with the model"
                    " and with the file, and compare"
                )

        shape = count, method.geometry.channels[other], *size
        return np.random.default_rng(0).uniform(*method.geometry.range, shape).astype(np.float32)

    def torch_outputs(self, images: np.ndarray) -> np.ndarray:
        """PyTorch's outputs for these images."""
        with torch.no_grad():
            return self.network(torch.from_numpy(images)).numpy()

    def compare_outputs(
        self,
        found: Callable[[np.ndarray], np.ndarray],
        what: str,
        *,
        batches: bool = True,
        larger: int = 0,
    ) -> dict[str, Any]:
        """Compare a file's network `found` with PyTorch; returns the differences, GantkError above
        TOLERANCE.

        Differences are shares of the intensity range. `batches`: whether the file takes more than
        one image at a time; `larger`: pixels by which the sides of a larger test image grow, 0 = no
        larger image.
        """
        low, high = self.target.range
        calls = [self.images[n : n + 1] for n in range(len(self.images))]
        if batches:
            calls.append(self.images)
        batch_sizes = sorted({len(call) for call in calls})
        if larger:
            # its edges repeated: by `larger` along the first axis, by twice that along the second
            widths = [(0, 0), (0, 0)]
            widths += [(0, larger * axis) for axis in range(1, self.images.ndim - 1)]
            calls.append(np.pad(self.images[:1], widths, mode="edge"))

        differences = []
        for call in calls:
            output = found(call)
            expected = self.torch_outputs(call)
            same_shape = output.shape == expected.shape
            differences.append(np.abs(output - expected) / (high - low) if same_shape else np.inf)

        largest = float(np.max([np.max(each) for each in differences]))
        mean = float(np.mean([np.mean(each) for each in differences]))
        sizes = sorted({" x ".join(map(str, call.shape[2:])) for call in calls})
        line = (
            f"largest difference {largest:.1e} of the range, mean {mean:.1e}, on {self.on},"
            f" in batches of {', '.join([*map(str, batch_sizes), *sizes])}"
        )
        if not largest <= TOLERANCE:
            raise GantkError(
                f"the outputs of the {what} of {self.name} differ from those of PyTorch:"
                f" {line}. The tolerance is {TOLERANCE:g} of the range. No file was"
                " written."
            )

        return {
            "largest": largest,
            "mean": mean,
            "on": self.on,
            "batches": batch_sizes,
            "sizes": sizes,
            "line": line,
        }


def require_steady(network: Callable[[np.ndarray], np.ndarray], images: np.ndarray) -> None:
    """UserError where a network is random in use, or mixes the images of a batch: an exported file
    cannot do that.
    """
    first = network(images)
    again = network(images)
    if not np.isfinite(first).all():
        raise UserError(
            "the network returns values that are not finite, because its training diverged"
        )

    if not np.array_equal(first, again):
        raise UserError(
            "two translations of one image differ, because the method draws random numbers",
            remedy="export a run without random numbers (pix2pix: method.test_dropout = false)",
        )

    singles = np.concatenate([network(images[n : n + 1]) for n in range(len(images))])
    if not np.abs(singles - first).max() <= TOLERANCE * np.ptp(first):
        raise UserError(
            "the result for an image changes if other images are in its batch",
            remedy="correct the eval() of the method: a layer stays in training mode",
        )
