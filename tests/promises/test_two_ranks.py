"""Two processes with half the batch each, started by torchrun, train the weights that one process
trains.
"""

import numpy as np
import pytest
from files import ended, gantk, process, recipe
from tiny import draw_pictures, read_json, weights_of


@pytest.mark.slow
def test_two_ranks_of_batch_2_are_one_process_of_batch_4(tmp_path):
    for seed, side in enumerate(("trainA", "trainB"), 1):
        draw_pictures(tmp_path / "data" / side, 12, seed=seed)

    whole = {"test": 0.0, "validation": 0.0}
    path = recipe(
        tmp_path / "tiny.toml",
        # each rank draws its own random numbers: none inside a step
        method={"name": "cyclegan", "pool": 0},
        data={
            "source": {"name": "folders", "path": str(tmp_path / "data")},
            "domains": ["A", "B"],
            "split": whole,
        },
        # Adam would not see a wrong scale; a rate of 0.1 blows rounding up to 3e-4 on some
        # processors.
        train={"steps": 4, "batch": 2, "optimizer": {"name": "sgd", "lr": 0.03}},
    )
    run = ["run", path, "--device", "cpu", "--out"]
    # a free port
    torchrun = (
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "gantk",
    )
    both = process(*run, "two", cwd=tmp_path, before=torchrun)
    for name, batch in (("one", 4), ("half", 2)):
        gantk(*run, tmp_path / name, "--set", f"train.batch={batch}").ok()

    done = ended(both).ok()

    # one of them speaks
    assert done.out.count("recipe   ") == 1
    assert "2 ranks" in done.out

    one, two, other = (
        {key: values.numpy() for key, values in weights_of(tmp_path / name).items()}
        for name in ("one", "two", "half")
    )

    assert one.keys() == two.keys()
    assert len(one) > 20
    apart = {name: float(np.abs(one[name] - two[name]).max(initial=0)) for name in one}
    assert max(apart.values()) <= 1e-5, apart
    # half the images: not so
    assert max(float(np.abs(one[name] - other[name]).max(initial=0)) for name in one) > 1e-4
    assert read_json(tmp_path / "two" / "environment.json")["ranks"] == 2
