"""A recipe's system as it is built and as it computes, in the words of `stated.toml`."""

import functools
import json
import re
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import PIL.Image
import torch
from layers import Pass, Watched, told_of_discriminator, told_of_generator
from losses import STEPS, batch_of, grows, networks, of_losses
from systems import channels_of
from tiny import CPU

from gantk import Batches, Data, ImagePool
from gantk.data.dataset import training_of
from gantk.data.split import split_records
from gantk.method import Geometry, Method
from gantk.nets import blocks
from gantk.nets.products import use_products
from gantk.plugin.spec import bind
from gantk.prepare.module import size_image
from gantk.training.engine import Engine
from gantk_style.encoder import LAYERS, VGG19

RECORDS: dict[str, tuple] = {}  # whatever contrasts and size: heads with lesions take long to draw


def observed(model) -> dict[str, dict[str, Any]]:
    """By group and name: what the system of a checked recipe is."""
    drawn = set()
    normal = torch.Tensor.normal_
    by_tensor = mock.patch.object(
        torch.Tensor, "normal_", lambda w, *a, **k: drawn.add((w.ndim, *a)) or normal(w, *a, **k)
    )
    by_network = mock.patch.object(
        blocks, "draw_normal", lambda w, mean, std=0.02: drawn.add((w.ndim, mean, std))
    )
    with by_tensor, by_network:
        method = built(model)

    found = {
        "paper": {"figures": model.paper.get("published", {})},
        "style": of_style(model),
        "data": of_data(model),
    }
    found["weights"] = {"drawn": [list(figures) for dims, *figures in drawn if dims == 4]}
    found |= {"training": of_training(model, method)} | of_networks(method)
    additions = found["training"]["additions"] | found.pop("additions")
    for group, more in of_losses(method).items():
        found[group] = found.get(group, {}) | more

    found["training"]["additions"] = sorted(
        name for name, there in (additions | found["additions"]).items() if there
    )
    return found


def of_data(model) -> dict[str, Any]:
    """What the networks are trained on."""
    table = model.data
    target = model.method.target
    source, records = source_and_records_of(table)
    other_seed = table.split.model_copy(update={"seed": table.split.seed + 1})
    parts, _ = split_records(records, table=table.split)
    other_parts, _ = split_records(records, table=other_seed)
    training = training_of(table, target, source, parts["train"])
    subjects_of_a = {record.subject for record in training if record.domain == "a"}
    subjects_of_b = {record.subject for record in training if record.domain == "b"}
    ranges = intensity_ranges(table)
    labels = [record.label for record in records if record.domain == records[0].domain]
    changes = sorted(part.name for part in table.augment if part.options.get("p", 1))
    slices = re.findall(r"(\d+) (?:T1|T2|CT|MR|axial|slices)\b", str(model.paper.get("data")))
    test_keys = {record.key for record in parts["test"]}
    other_test_keys = {record.key for record in other_parts["test"]}
    return {
        "domains": list(table.domains),
        "size": list(table.size),
        "paired": target.paired,
        "channels_of_colour_files": channels_of_colour_files(table, target),
        "fills_square": fills(table.size, table.fit),
        "range": ranges[0] if ranges[0] == ranges[-1] else ranges,
        "one_domain_each": not subjects_of_a & subjects_of_b,
        "parts": sorted(name for name, part in parts.items() if part),
        "random_parts": test_keys != other_test_keys,
        "changes": changes,
        "augmented": bool(changes),
        "slices": [int(number) for number in slices],
        "classes": {label: labels.count(label) for label in set(labels)},
    }


def fills(size: tuple[int, ...], fit: str) -> bool:
    """Whether all of a slice of 217 x 181 pixels is resized to all of the network's square."""
    native = np.zeros((1, 217, 181), np.float32)
    native[:, [0, -1]] = 1.0
    native[:, :, [0, -1]] = 1.0
    edges = size_image(native, size, fit, fill=0.0)[0]
    return all(float(edge.min()) > 0 for edge in (edges[0], edges[-1], edges[:, 0], edges[:, -1]))


@functools.cache
def colour_files() -> Path:
    """A folder A and a folder B with some pictures in colour."""
    folder = Path(tempfile.mkdtemp(prefix="colour-"))
    for number in range(8):
        pixels = np.random.default_rng(number).integers(0, 255, (16, 16, 3), dtype=np.uint8)
        path = folder / "AB"[number % 2] / f"{number // 2}.png"
        path.parent.mkdir(exist_ok=True)
        PIL.Image.fromarray(pixels).save(path)

    return folder


def channels_of_colour_files(table, target: type[Method]) -> int:
    """How many channels networks get of pictures in colour."""
    options = {"path": str(colour_files())}
    if len(table.domains) == 2:
        source = bind("source", options | {"name": "folders", "a": "A", "b": "B"})
    else:
        source = bind("source", options | {"name": "images"})

    changed = {
        "source": source,
        "split": table.split.model_copy(update={"test": 0.0, "validation": 0.0}),
        "labels": False,
        "mask": False,
        "cache": False,
    }
    return max(Data(table.model_copy(update=changed), target).channels.values())


def source_and_records_of(table) -> tuple:
    """A source and its records as `RECORDS` keeps them."""
    size = (64,) * table.dims
    source = table.source
    if not source.options.get("counts"):  # as many heads as tell the domains apart
        source = replace(source, options=source.options | {"subjects": 40})
    key = json.dumps([source.table(), table.dims, size])
    if not RECORDS.get(key):
        domains = table.domains if source.options.get("contrast") else ("T1", "T2")
        opened = source(domains, table.dims, size)
        RECORDS[key] = opened, opened.records()
    return RECORDS[key]


def intensity_ranges(table) -> list[list[int]]:
    """Where -1000 and 2000 are mapped to: by the one mapping, or by each domain's."""
    ranges = []
    for make in getattr(table.intensity(), "parts", {"": table.intensity}).values():
        mapping = make()
        mapping.fit([np.linspace(-1000, 2000, 4096, dtype=np.float32).reshape(1, 64, 64)])
        ends = []
        for value in (-1000, 2000):
            mapped = mapping.forward(np.array([value], np.float32))
            ends.append(round(float(mapped[0])))
        ranges.append(ends)

    return ranges


def built(model) -> Method:
    """The recipe's method at full width: networks without memory, all else on the CPU, random."""
    data = model.data
    classes = ("healthy", "tumour") if data.labels else ()
    with torch.device("meta"):
        method = model.method(
            Geometry(
                data.dims, data.size, channels_of(data), classes, tuple(data.intensity().range)
            )
        )

    use_products(method, False)  # quicker ways to the same numbers, by other operations
    inside = {module for _, network in networks(method).values() for module in network.modules()}
    torch.manual_seed(0)
    for module in (each for each in method.modules() if each not in inside):
        module.to_empty(device="cpu", recurse=False)
        for values in (
            *module.buffers(recurse=False),
            *(each.data for each in module.parameters(recurse=False)),
        ):
            values.zero_()

    return method


def of_networks(method: Method) -> dict[str, dict[str, Any]]:
    """By role the layers of a network in the first pass of a step; and what no report speaks of."""
    own = networks(method)
    for pool in image_pools(method):
        pool.capacity = 0  # its images are no network's business
    if hasattr(method, "examples"):
        method._keep = lambda images: None  # nor are stored examples

    if grows(method):
        # nothing is stated of ProGAN's layers
        return {"generator": {}, "discriminator": {}, "additions": {}}

    batch = batch_of(method, 0, "meta")
    with torch.no_grad(), Watched({name: network for name, (_, network) in own.items()}) as watched:
        method.begin(method.stages(STEPS)[-1], batch)
        for phase in method.phases():
            phase.loss(batch)

    found: dict[str, dict] = {}
    for role, tell in (("generator", told_of_generator), ("discriminator", told_of_discriminator)):
        told = [tell(watched.passes[name][0]) for name in own if own[name][0] == role]
        alike = all(other == told[0] for other in told)
        found[role] = told[0] | {"alike": alike}

    firsts = [calls[0] for calls in watched.passes.values()]
    operations = [name for call in firsts for name in call.others]
    found["additions"] = {
        "dropout": any("dropout" in name or "bernoulli" in name for name in operations),
        "spectral norm": any(hasattr(module, "parametrizations") for module in method.modules()),
        "further channels": any(has_further_channels(call) for call in firsts),
    }
    return found


def has_further_channels(call: Pass) -> bool:
    """Whether a network's first convolution is given more than the image."""
    first = call.layers[0]
    return first.kind == "plain" and first.inputs != call.channels


def image_pools(method: Method) -> list[ImagePool]:
    return [module for module in method.modules() if isinstance(module, ImagePool)]


def of_training(model, method: Method) -> dict[str, Any]:
    """Update rules and learning rates as the engine builds them, over the training."""
    train = model.train
    engine = Engine(method, train.model_copy(update={"ema": 0.0}), STEPS, CPU)
    slices = {"a": range(43), "b": range(46)}
    steps = train.steps_in_all(Batches(slices, train.batch, 0, False).steps_per_epoch)
    found = {
        "batch": train.batch,
        "steps_of_43_and_46": steps,
        "saves": train.save_every < steps,
        "epochs": train.epochs,
        "sample_every": train.sample_every,
        "rules": sorted({type(rule).__name__.lower() for rule in engine.optimizers.values()}),
    }

    names = []
    groups = []
    for phase in engine.phases:
        for group in engine.optimizers[phase.name].param_groups:
            names.append(phase.name.rstrip("s"))
            groups.append(group)

    for number in (0, 1):
        betas = {group.get("betas", (0, 0))[number] for group in groups}
        found[f"beta{number + 1}"] = sorted(betas)

    rates = []
    for engine.step in (0, STEPS // 4, STEPS // 2, 3 * STEPS // 4, STEPS - 1):
        engine.set_time(0)
        rates.append([round(float(group["lr"]), 9) for group in groups])

    found["schedule"] = relative_rates(rates)
    for name, rate in zip(names, rates[0], strict=True):
        found[f"{name}_lr"] = rate

    found["additions"] = {
        "weight decay": any(group.get("weight_decay") for group in groups),
        "pool": any(pool.capacity for pool in image_pools(method)),
        "critic steps": any(phase.every > 1 for phase in engine.phases),
        "parts": model.data.patch is not None,
        "stages": len(method.stages(STEPS)) > 1 and not method.samples,
        "moving average": train.ema > 0 and any(phase.ema for phase in engine.phases),
        "another training's weights": bool(train.start),
        "images shown more often": bool(model.data.weights),
        "like images shown together": bool(model.data.order),
    }
    return found


def relative_rates(rates: list[list[float]]) -> list[float]:
    """All shares of the first learning rates that there are in a training."""
    shares = set()
    for row in rates:
        for rate, first in zip(row, rates[0], strict=True):
            shares.add(round(rate / (first or 1), 6))
    return sorted(shares)


def of_style(model) -> dict[str, Any]:
    """Style transfer on finished images: who lends what, and VGG19."""
    if not model.post:
        return {}

    part = model.post[0]
    seen = []
    images = -torch.ones(2, 1, 64, 64)
    with torch.device("meta"):  # VGG19 without memory
        post = part(2, (-1.0, 1.0))

    def paint(content, style, **more):
        seen.append((content, style))
        return content

    examples = mock.Mock(side_effect=lambda n: -images[:n], real=lambda n: -images[:n])
    with mock.patch("gantk_style.post.transfer", paint):
        post(images, examples)
    content, style = (
        {-1.0: "synthesized image", 1.0: "real image"}[float(each.mean())] for each in seen[0]
    )
    with torch.device("meta"):
        kinds = [type(module).__name__ for module in VGG19(LAYERS).modules()]
    return {
        "content": content,
        "style": style,
        "weights": part.options["weights"],
        "averages": "AvgPool2d" in kinds,
        "layers": {kind: kinds.count(kind) for kind in ("Conv2d", "Linear", "MaxPool2d")},
        "rescaled": getattr(post.how, "rescale", False),
        "smooths_edges": part.options["smooth"] > 0,
    }
