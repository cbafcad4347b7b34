"""`--address`: what `gantk bench` and `gantk translate` do on a Ray cluster is what they do on one
machine.
"""

import json
import os
import shutil
import socket
from collections import Counter
from pathlib import Path

import pytest
import tomli_w
from packages import put_distribution
from PIL import Image
from several import SRUN
from tiny import draw_pictures

from gantk import __version__ as version
from gantk_cluster.ray import cluster as ray_cluster

# A plugin on every node: notes which worker looks at which file, kills it at some, waits at one
# and, at another, until both nodes have looked; and kills the worker that a training of a certain
# summary is a child of.
SPY = """import os, pathlib, signal, time, gantk
@gantk.hookimpl
def gantk_image_warning(image, frame):
    import ray
    seen, name = pathlib.Path(os.environ["SEEN"]), image.path.stem
    before = any(seen.glob(f"{name}.*"))
    (seen / f"{name}.{os.getpid()}").write_text(ray.get_runtime_context().get_node_id())
    if name == "always" or (name == "once" and not before):
        os.kill(os.getpid(), signal.SIGKILL)
    while name == "waits" and not (seen / "go").exists():
        time.sleep(0.05)
    while name == "both" and len({path.read_text() for path in seen.glob("*.*")} - {""}) < 2:
        time.sleep(0.05)
@gantk.hookimpl
def gantk_before_training(model):
    if model.summary == "dies":
        os.kill(os.getppid(), signal.SIGKILL)
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """The address of a cluster of two nodes with one core each, and the folder of SPY's notes."""
    made = pytest.importorskip("ray.cluster_utils").Cluster()
    folder = tmp_path_factory.mktemp("nodes")
    put_distribution(folder, "spy", "spy", SPY)
    with pytest.MonkeyPatch.context() as patch:
        path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
        own = {"PYTHONPATH": path, "SEEN": str(folder / "seen")}
        for name, value in (ray_cluster.ENVIRONMENT | own).items():
            patch.setenv(name, value)

        for _ in range(2):
            made.add_node(
                num_cpus=1, object_store_memory=10**8, include_dashboard=False, env_vars=SRUN
            )

        yield made.address, folder / "seen"
        made.shutdown()


@pytest.fixture
def nodes(cluster, tmp_path, monkeypatch) -> tuple[str, Path]:
    """`cluster`, of which nothing is noted yet."""
    monkeypatch.chdir(tmp_path)
    shutil.rmtree(cluster[1], ignore_errors=True)
    cluster[1].mkdir()
    return cluster


def looks(seen: Path) -> Counter:
    """How often a worker looked at each file."""
    return Counter(path.stem for path in seen.glob("*.*"))


@pytest.mark.slow
def test_a_folder_is_translated_by_two_nodes_as_by_one_machine(gantk, tiny_run, nodes, monkeypatch):
    paths = draw_pictures(Path("in"), 6)
    paths[0].rename("in/once.png")
    # with files after it for the other node, however late that begins
    paths[3].rename("in/both.png")
    Image.new("L", (32, 32)).save("in/blank.png")
    Image.open(paths[1]).convert("RGB").save("in/colour.png")
    Path("in/broken.png").write_bytes(b"no picture")
    alone = gantk("translate", tiny_run, "in", "out")
    Path("out").rename("alone")
    for name, value in SRUN.items():  # which began this process too
        monkeypatch.setenv(name, value)

    shared = gantk("translate", tiny_run, "in", "out", "--address", nodes[0])
    workers = "cluster  2 workers on 2 nodes, each with 1 thread\n"
    before, _, after = shared.out.partition(workers)

    assert workers in shared.out
    assert (shared.code, before + after, shared.err) == (1, alone.out, alone.err)
    assert "blank.png" in after
    assert "colour.png" in after
    files = [
        {path.name: path.read_bytes() for path in Path(out).iterdir()} for out in ("alone", "out")
    ]
    assert files[0] == files[1]
    assert looks(nodes[1]) == {Path(name).stem: 1 for name in files[0]} | {"once": 2}
    assert len({path.read_text() for path in nodes[1].glob("*.*")}) == 2

    paths[2].rename("in/always.png")
    done = gantk("translate", tiny_run, "in/always.png", "always.png", "--address", nodes[0])

    assert done.code == 1
    assert "3 workers ended while they translated it: they were killed" in done.err
    assert looks(nodes[1])["always"] == 3


def rows(folder: str) -> dict[str, dict]:
    return {
        row["label"]: row
        for row in map(json.loads, Path(folder, "rows.jsonl").read_text().splitlines())
    }


def benching(tables: dict, **train) -> list[str]:
    """The words of a bench on the CPU, of the recipes one, two and dies."""
    Path("small.toml").write_text(
        'jobs = 2\nthreads = 1\n[metrics]\ntranslate = ["psnr", "ssim"]\n'
    )
    for name in ("one", "two", "dies"):
        Path(f"{name}.toml").write_text(
            tomli_w.dumps(tables | {"summary": name, "train": tables["train"] | train})
        )

    return ["bench", "--suite", "small.toml", "--device", "cpu"]


@pytest.mark.slow
def test_cluster_rows_match_one_machine_despite_a_lost_worker(gantk, tiny_recipe, nodes):
    words = benching(tiny_recipe)
    assert gantk(*words, "one.toml", "two.toml", "--out", "alone").code == 0

    done = gantk(*words, "one.toml", "dies.toml", "two.toml", "--out", "out", "--address", nodes[0])
    alone = rows("alone")
    shared = rows("out")
    killed = shared.pop("dies")

    assert done.code == 1
    assert "3 rows, 2 at once, 1 thread each" in done.out
    assert killed["status"] == "killed"
    assert killed["error"].split(":")[0] == "its worker ended"
    clocks = dict.fromkeys(("started", "wall_s", "speed", "curve", "jobs"))
    assert {name: row | clocks for name, row in shared.items()} == {
        name: row | clocks for name, row in alone.items()
    }


def test_a_node_that_does_not_see_the_same_is_told_by_what(tmp_path, monkeypatch):
    monkeypatch.setattr(ray_cluster, "FILE_DELAY_SECONDS", 0.0)
    probe = tmp_path / "probe"
    probe.write_text("0.0.9")
    node = f"the node {os.uname().nodename}"

    assert (
        ray_cluster.unusable([str(tmp_path / "away"), str(probe)])
        == f"{node} does not see '{tmp_path / 'away'}'"
    )
    assert ray_cluster.unusable([str(tmp_path), str(probe)]).endswith("this machine has 0.0.9")
    probe.write_text(version)
    assert ray_cluster.unusable([str(tmp_path), str(probe)]) == ""


def test_an_address_that_does_not_answer_is_an_error(gantk, tiny_file, monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.setattr(ray_cluster, "ANSWER_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, and says nothing
        hangs = f"127.0.0.1:{silent.getsockname()[1]}"
        told = [gantk("bench", tiny_file, "--address", address) for address in (hangs, "127.0.0.1")]

    told.append(gantk("bench", tiny_file, "--address", hangs))
    whys = (
        (hangs, "the server is not Ray, or does not respond"),
        ("127.0.0.1", "the address is not HOST:PORT"),
        (hangs, "Connection refused"),
    )
    for done, (place, why) in zip(told, whys, strict=True):
        assert done.code == 2
        assert done.err.startswith(f"error  no Ray cluster answers at '{place}': {why}. Allowed")
