"""Volumes with seeded voxels for the tests of data, the records that a source makes of them, and a
recipe's data.
"""

import json

import nibabel as nib
import numpy as np
from PIL import Image as Picture

from gantk import Data
from gantk.formats import files as io
from gantk.formats.image import Image, to_upright
from gantk.method import Method
from gantk.recipe.load import Recipe

SIZE = (16, 16)
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
PAIRED = type("Paired", (Method,), {"paired": True})
UNPAIRED = type("Unpaired", (Method,), {})
FROM_NOISE = type("FromNoise", (Method,), {"reads": ("image",)})


def volume(path, seed=0, shape=(12, 14, 16), affine=LPS, values=None):
    """A volume whose file is in the order left, posterior, superior, so that its pixels are its
    voxels transposed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    if values is None:
        voxels = np.random.default_rng(seed).random(shape).astype(np.float32)
    else:
        voxels = values

    if io.suffix_of(path) in (".nii", ".nii.gz"):
        nib.save(nib.Nifti1Image(voxels, affine), path)
    else:
        io.write(path, Image(np.ascontiguousarray(to_upright(voxels, affine))[None], affine))

    return path


def save_slice(path, image):
    """An 8-bit picture of an image in the phantom's units."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Picture.fromarray(np.uint8((image / 4).clip(0, 255))).save(path)


def itk_affine(image) -> np.ndarray:
    """Where the voxels of a SimpleITK image lie, to the right, front and top."""
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return np.diag([-1, -1, 1, 1]) @ affine


def tree_of(root):
    """Three patients with T1, T2 and FLAIR on one grid each."""
    for n, k in np.ndindex(3, 3):
        volume(root / f"patient{n}" / f"{('T1', 'T2', 'FLAIR')[k]}.nii.gz", 10 * n + k)
    return root


def far_apart(root):
    """Two patients whose T1 and T2 show one ramp from left to right on grids that are turned,
    shifted and coarser.
    """
    turn = np.array([[0.94, -0.342, 0], [0.342, 0.94, 0], [0, 0, 1]])
    affine = nib.affines.from_matvec(turn @ np.diag([-1.3, -1.2, 2.0]), (6.0, 8.0, -9.0))
    right = nib.affines.apply_affine(affine, np.moveaxis(np.indices((24, 26, 18)), 0, -1))[..., 0]
    ramp = np.broadcast_to(-np.arange(12.0)[:, None, None], (12, 14, 16))
    for n in range(2):
        volume(root / f"p{n}" / "T1.nii", values=ramp.astype(np.float32))
        volume(root / f"p{n}" / "T2.nii", affine=affine, values=(2 * right).astype(np.float32))

    return root


def records_of(source, path, domains=("T1", "T2"), dims=2, view=None, **options):
    """The records of a source, seen in a view."""
    built = source(domains, dims, (*SIZE, 16)[:dims], path=str(path), **options)
    if view:
        built.reader.view = view
    return built.records()


def of(records, letter):
    """The records of one domain."""
    return [record for record in records if record.domain == letter]


def pairs_of(records):
    """The records of each pair that has both images, by domain, in the order of the first."""
    found = {}
    for record in records:
        found.setdefault(record.pair, {})[record.domain] = record
    return {pair: both for pair, both in found.items() if pair is not None and len(both) == 2}


def load(source, method=UNPAIRED, known=None, **options):
    """The data that a recipe's [data] table gives a method; `known` as of a run's split.json."""
    table = {"source": source, "domains": ("T1", "T2"), "size": SIZE} | options
    return Data(Recipe({"data": json.loads(json.dumps(table))}).data_table(), method, known)
