"""Contract tests of pair metrics (a score per image), data sources (records) and file formats
(exact pixels).
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch

from gantk.data.dataset import expect_image
from gantk.errors import UserError
from gantk.files import make_folder
from gantk.formats import files
from gantk.formats.image import Image
from gantk.method import domain_letters
from gantk.plugin.loader import registry
from gantk.plugin.spec import bind
from gantk.testing.small import Contract, random_images


class MetricContract(Contract):
    """Tests of a pair metric, which scores an output against its reference. Metrics of sets have no
    contract.
    """

    metric: ClassVar[str]

    def test_it_is_one_number_an_image_whatever_stands_beside_it_and_best_for_equal_images(self, d):
        part = bind("metric", {"name": self.metric} | (self.options or {}))
        metric = part(2.0, d)
        one = random_images(3, 1, self.size(d), seed=1)
        other = random_images(3, 1, self.size(d), seed=2)
        scores = metric(one, other)
        singles = torch.cat(list(map(metric, one.split(1), other.split(1))))
        torch.testing.assert_close(
            scores, singles, msg="the score of an image depends on other images in the batch"
        )
        if metric.higher_is_better is not None:
            gain = metric(one, one) - scores
            if not metric.higher_is_better:
                gain = -gain
            assert (gain > 0).all(), (
                "equal images do not have the best score: higher_is_better ="
                f" {metric.higher_is_better}"
            )

        assert metric.name == self.metric, (
            f'the metric needs the name that tables show: name = "{self.metric}"'
        )
        assert metric.definition and metric.unit is not None


class SourceContract(Contract):
    """Tests of a data source. A subclass names it and writes the files of a small data set of two
    or more patients.
    """

    source: ClassVar[str]
    domains: ClassVar[tuple[str, ...]] = ("T1", "T2")
    dims = (2,)

    def write(self, folder: Path) -> Path | None:
        """Write the files of a small data set below `folder`. Return the path of the file, if the
        source reads a single one.
        """
        raise TypeError(f"{type(self).__name__} must define write(self, folder)")

    def test_records_are_images_of_known_domains_under_names_of_their_own(self, d, tmp_path):
        path = self.write(tmp_path) or tmp_path
        options = {"name": self.source, "path": str(path)} | (self.options or {})
        part = bind("source", options)
        records = part(self.domains, d, self.size(d)).records()
        assert {record.domain for record in records} == set(domain_letters(self.domains))
        assert len({record.id for record in records}) == len(records), (
            "two records of one domain have the same `key`"
        )
        for record in records:
            pixels = record.read()
            expect_image(self.source, d, pixels)
            assert pixels.dtype == np.float32, "read() must return float32 (C, *size)"
            assert np.isfinite(pixels).all()
            assert np.array_equal(pixels, record.read())

        assert any(record.subject for record in records), (
            "no record has a `subject`, so images of one patient could be in several sets"
        )

    def test_data_finds_it_and_a_folder_of_nothing_is_an_error_in_words(self, d, tmp_path):
        source = registry().get("source", self.source).load()
        empty = tmp_path / "empty"
        make_folder(empty)
        with pytest.raises(UserError):
            part = bind("source", {"name": self.source, "path": str(empty)})
            part(self.domains, d, self.size(d)).records()

        if hasattr(source, "accepts"):
            path = self.write(tmp_path / "data") or tmp_path / "data"
            assert source.accepts(empty) is None, (
                "accepts(path) must return None for an empty folder"
            )
            options = source.accepts(path)
            assert bind("source", {"name": self.source} | options)


class FormatContract(Contract):
    """Tests of a file format: a written image is read back unchanged, and a broken file is a
    UserError.
    """

    format: ClassVar[str]

    def test_what_is_written_is_read_again(self, d, tmp_path):
        form = registry().get("format", self.format).load()
        if d == 3 and not form.volumes:
            pytest.skip("its files cannot store volumes")

        assert form.suffixes, 'suffixes = (".npy",)'
        shape = (1, *self.size(d))
        pixels = np.arange(np.prod(shape), dtype=np.float32).reshape(shape) % 200
        for suffix in form.suffixes:
            assert suffix.startswith(".") and suffix.islower(), 'suffixes = (".npy",)'
            path = tmp_path / f"image{suffix}"
            files.write(path, Image(pixels, dtype=np.dtype(np.uint8)))
            found = files.read(path).pixels
            assert found.dtype == np.float32, "pixels must be float32 (C, *size), channels first"
            assert found.shape == pixels.shape, "pixels must be float32 (C, *size), channels first"
            np.testing.assert_allclose(found, pixels, atol=0.5)
            broken = tmp_path / f"broken{suffix}"
            broken.write_bytes(b"no image at all")
            with pytest.raises(UserError):
                files.read(broken)
