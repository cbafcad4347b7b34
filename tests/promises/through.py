"""Runs whose network changes nothing, and what `gantk translate` makes of files with them; a
process of its own, because their method is a plugin that has to be installed before gantk looks.

    PYTHONPATH=INSTALLED python through.py FOLDER      # reads FOLDER/in, FOLDER/colour; writes
    FOLDER/out and others
"""

import sys
from pathlib import Path

import files
import numpy as np

import gantk

MAPS = {
    "percentile": {"name": "percentile"},
    "percentile_each": {"name": "percentile", "per": "volume"},
    "minmax": {"name": "minmax"},
    "zscore": {"name": "zscore"},
    "nyul": {"name": "nyul"},
}
LINE = {"name": "window", "low": 0.0, "high": 1000.0}


def train(folder: Path, name: str, **data: object) -> Path:
    """A run of one step with the method that changes nothing; what it cannot be is an error of this
    process.
    """
    tables = files.TINY | {"method": {"name": "promised-nothing"}}
    recipe = files.recipe(folder / f"{name}.toml", tables, data=data)
    options = {"out": folder / name, "device": "cpu", "allow_leakage": True}
    with gantk.training(recipe, **options) as training:
        training.fit()
    return folder / name


def translate(run: Path, source: Path, target: Path) -> None:
    expect(files.gantk("translate", run, source, target, "--device", "cpu"))


def expect(outcome: files.Outcome) -> None:
    if outcome.code:
        sys.exit(f"{outcome.code}: {outcome.err}{outcome.out}")


def main(folder: Path) -> None:
    gray = train(folder, "gray", intensity=LINE)
    translate(gray, folder / "in", folder / "out")
    # a CT is no T1, whatever it is called: of a folder it is left out, by itself it is translated
    translate(gray, folder / "in/ct", folder / "out/ct")
    for k in range(16):
        files.picture(folder / "rgb/trainA" / f"{k}.png", files.numbers(k, (32, 32, 3)))
        files.picture(folder / "rgb/trainB" / f"{k}.png", files.numbers(k + 99, (32, 32, 3)))
        files.picture(
            folder / "floats/trainA" / f"{k}.tif", files.numbers(k, (32, 32), 0, 800, np.float32)
        )
        files.picture(
            folder / "floats/trainB" / f"{k}.tif",
            files.numbers(k + 99, (32, 32), 100, 1900, np.float32),
        )

    colour = train(
        folder, "colour", intensity=LINE, source={"name": "folders", "path": str(folder / "rgb")}
    )
    translate(colour, folder / "rgb/trainA/3.png", folder / "colour.png")
    ramp = np.linspace(-50, 900, 32 * 32, dtype=np.float32).reshape(32, 32)
    files.picture(folder / "ramp.tif", ramp)
    for name, intensity in MAPS.items():
        source = {"name": "folders", "path": str(folder / "floats")}
        run = train(folder, f"map-{name}", intensity=intensity, source=source)
        translate(run, folder / "ramp.tif", folder / f"{name}.tif")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
