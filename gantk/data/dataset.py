"""Loads the [data] table of a recipe: splits the records, fits the intensities on the training
split, and prepares the sets of images.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gantk.catalog.contrasts import contrast_names
from gantk.catalog.masks import word_of_masks
from gantk.catalog.tables import weights_of
from gantk.data.cache import Cache
from gantk.data.check.inspect import Inspected, inspect_kept, scans_of
from gantk.data.check.kinds import differ_in_kind, ranges_of
from gantk.data.intensity import (
    IntensityMapping,
    PerChannel,
    mapping_from,
    network_range,
    other_scales,
)
from gantk.data.look import MAX_SAMPLED_IMAGES, looks_of, values_of
from gantk.data.preparation import (
    Pair,
    Preparation,
    Record,
    code_of,
    neighbouring_slices,
    patients_of,
)
from gantk.data.sources.pairing import complete_pairs, expect_pairs
from gantk.data.sources.source import (
    FileSource,
    ImageSource,
    RecordSource,
    VolumeSource,
    file_sources,
)
from gantk.data.split import (
    Splits,
    consequences,
    describe_images,
    read_splits,
    split_json,
    split_records,
    unpair,
)
from gantk.data.split.leakage import LeakageError, check_leakage
from gantk.data.split.near_duplicates import Fingerprints
from gantk.data.split_json import RecordedSplit
from gantk.data.spread import spread
from gantk.errors import UserError, count_noun, join_first
from gantk.formats import files
from gantk.method import domain_letters
from gantk.plugin.loader import registry
from gantk.prepare.grid import SamplingGrid
from gantk.prepare.module import middle_slice
from gantk.progress import track

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from gantk.data.batches import ImageSet
    from gantk.method import Method
    from gantk.plugin.spec import Part
    from gantk.recipe.tables import DataTable

MAX_FITTED_IMAGES = 256  # training images, or scans, that an intensity mapping is fitted to ...
MAX_INSPECTED_FILES = 8  # of a domain, whose kinds of images a model keeps
MAX_PEOPLE_COMPARED = (
    16  # by the kind of their images; of more, random halves are of the same kinds
)
MAX_FITTED_BYTES = 2**31  # ... and bytes of them in memory at a time
MAX_COLOURS = 4  # a last side of as many pixels is channels, which come first


class Study:
    """The images of a [data] table as a method uses them: records, split, training images."""

    preparation: Preparation | None = None  # how records become images
    guessed = False  # whether nobody has chosen the table: `data check` without a recipe

    def __init__(
        self,
        table: DataTable,
        method: type[Method],
        catalog: Sequence[Mapping[str, Any]] | None = None,
        source: Any = None,
    ):
        """`catalog` and `source` as of `source_and_records`."""
        self.table = table
        self.method = method
        self.letters = domain_letters(table.domains)
        self.names = dict(zip(self.letters, table.domains, strict=True))
        self.source, self.records = source_and_records(table, method, catalog, source)
        self.splits = Splits({}, "")  # records by set
        self.split_description = ""  # how they were split, in words; "": they are not yet
        self.training: list[Record] = []  # for the method: maybe unpaired
        self.fingerprints: Fingerprints = {}  # of images that were read to compare them

    def intensity_part(self, letter: str) -> Part:
        """What builds the mapping of a domain's intensities: its own, or one for both domains."""
        part = self.table.intensity
        return getattr(part(), "parts", {}).get(letter, part)

    @property
    def nearest(self) -> list[str]:
        """The domains of label maps, whose values must not be mixed."""
        return [each for each in self.letters if self.intensity_part(each).target.nearest]

    @property
    def pairs_by_names(self) -> bool:
        """Whether nothing but names of pictures suggests who is in both domains, so that all images
        are used.
        """
        return self.table.unpair == "auto" and self.source.pairs_by == "names"

    def images_in_words(self, records: Sequence[Record]) -> str:
        """`CT: 110 images of 6 patients; T1: 2 volumes (90 slices from 25 to 75 % of each), patients
        unknown`: images of the source, by domain.
        """
        parts = []
        low, high = (round(100 * share) for share in self.source.planes)
        which = "" if (low, high) == (0, 100) else f" from {low} to {high} % of each"
        for letter, name in self.names.items():
            own = [record for record in records if record.domain == letter]
            scans = {record.scan_key for record in own} - {""}
            what = count_noun(own, "image")
            if scans:
                what = f"{count_noun(scans, 'volume')} ({count_noun(own, 'slice')}{which})"
            patients = patients_of(own)
            whose = f" of {count_noun(patients, 'patient')}" if patients else " of unknown patients"
            parts.append(f"{name}: {what}{whose}")

        return "; ".join(parts)

    def divide(self) -> None:
        """Split the records, and choose those that the method trains on; UserError as of
        `split_records`.
        """
        self.splits, self.split_description = split_records(
            self.records, self.table.split, fingerprints=self.fingerprints
        )
        if gone := self.table.leave_out:
            self.split_description += f"; without {join_first(gone)}"
        training = training_of(self.table, self.method, self.source, self.splits["train"])
        self.training = [record for record in training if record.domain in self.method.reads]

    def consequences(self) -> list[str]:
        """What the split and the choice of training images mean for the scores, in sentences."""
        lines = consequences(self.splits.with_training(self.training), self.fingerprints)
        is_unpaired = not (self.method.paired or self.guessed)
        if is_unpaired and self.pairs_by_names and complete_pairs(self.records):
            lines.append(
                f"all images of {' and '.join(self.names.values())} are used. Pairs are known by"
                " their file names: where these are right, images may have their true partners, and"
                " scores are not those of unpaired training. To use one domain of each patient, set"
                " data.unpair = true"
            )
        return lines

    def leaks(self) -> UserError | None:
        """The error for leaks between the sets of the split, or the domains of an unpaired study;
        None without any.
        """
        try:
            check_leakage(
                self.splits.with_training(self.training),
                same_patient=self.method.paired or self.table.same_patient or self.pairs_by_names,
                # drawn heads are alike without being copies
                pixels=not self.source.drawn,
                fingerprints=self.fingerprints,
                preparation=self.preparation,
            )
        except LeakageError as error:
            return error
        return None


class Data(Study):
    """The data of one run: records split, intensities fitted; UserError where they do not fit the
    method.
    """

    preparation: Preparation

    def __init__(
        self,
        table: DataTable,
        method: type[Method],
        known: RecordedSplit | None = None,
        source: Any = None,
    ):
        """`known` is a run's split.json, which is then used; images that it does not name are left
        out, with a note. `source` is what `open_source` has built of the table.
        """
        super().__init__(table, method, known.catalog if known else None, source)
        self.paired = method.paired
        self.notes: list[str] = []
        # of a run's own split, as split.json says; or about the images of `test_on`
        self.warnings: list[str] | None = None
        if known:
            self.records = self._read_known(known, self.records)
        else:
            expect_no_doubts(self.source, table)

        records = self.records
        # of the labels that batches carry
        self.classes = classes_of(records, method.reads) if table.labels else ()
        expect_usable(table, method, records)
        self.preparation = self._prepare(table, records)
        if not known:
            self.divide()

        # ("T1", "FLAIR")
        self.contrasts = dict(zip(self.letters, map(contrast_names, table.domains), strict=True))
        self.intensity: dict[str, IntensityMapping] = {}  # per domain: its mapping
        self.channels: dict[str, int] = {}  # per domain: contrasts x (2 neighbours + 1)
        # per domain: range and distribution of the training images' values
        self.values: dict[str, dict[str, Any]] = {}
        for letter in self.letters:
            self._fit(letter, [record for record in self.training if record.domain == letter])

        if table.neighbours:
            self.preparation.stacks = neighbouring_slices(
                records, [*self.splits.values(), self.training], table.neighbours
            )

    def _prepare(self, table: DataTable, records: list[Record]) -> Preparation:
        """The Preparation of the records of a table, with the user's cache if they have files; keyed
        by all that affects pixels.
        """
        cache = Cache.default() if table.cache and any(record.files for record in records) else None
        options = {key: value for key, value in table.source.table().items() if key != "path"}
        suffixes = {files.suffix_of(path) for record in records for path in record.files}
        readers = [type(form) for suffix, form in files.formats().items() if suffix in suffixes]
        about = [
            options,
            [
                table.domains,
                table.dims,
                table.plane,
                table.spacing,
                table.channels,
                table.fill_masks,
            ],
            code_of([table.source.target, *readers]),
            self.nearest,
        ]
        mappings = [self.intensity_part(letter).target for letter in self.letters]
        intensity = [table.intensity.table(), code_of([table.intensity.target, *mappings])]
        return Preparation(records, table.size, table.fit, cache, about, intensity, self.nearest)

    def _read_known(self, known: RecordedSplit, present: list[Record]) -> list[Record]:
        """Take the splits of a run's split.json; returns all records that it names."""
        self.split_description = known.how or ""
        sha256 = self._prepare(self.table, present).sha256
        self.warnings = known.splits.consequences
        self.splits, self.training, records = read_splits(known.splits, present, sha256)
        named_ids = {record.id for record in records}
        new = {record.key for record in present if record.id not in named_ids}
        if new:
            self.notes.append(
                f"note     left out, because split.json does not list them:"
                f" {describe_images(sorted(new))}"
            )

        return records

    def _fit(self, letter: str, training: list[Record]) -> None:
        """Fit the intensity mapping of a domain to these training images only, and set its number
        of channels.
        """
        table = self.table
        contrasts = self.contrasts[letter]
        if not training:
            raise UserError(
                f"there are no training images of the domain '{'+'.join(contrasts)}'",
                where="data.split",
            )

        part = self.intensity_part(letter)
        mapping = part()
        if len(contrasts) > 1:
            mapping = PerChannel([part() for _ in contrasts], contrasts, table.dims)

        if mapping.per == "volume":  # each scan once, whichever slices are trained on
            scans = {record.scan_key or record.key: record for record in reversed(training)}
            training = [*scans.values()][::-1]
        training = spread(training, MAX_FITTED_IMAGES)

        about = [contrasts, [record.key for record in training], "usual scale, looks, shapes"]
        state, count, self.values[letter] = self.preparation.fact(
            "fitted", training, about, lambda: self._fit_mapping(mapping, contrasts, training)
        )
        self.restore_intensity({letter: state})
        self.channels[letter] = count * (2 * table.neighbours + 1)

    def _fit_mapping(
        self, mapping: Any, contrasts: tuple[str, ...], training: list[Record]
    ) -> tuple[dict[str, Any], int, dict[str, Any]]:
        """Fit a mapping; returns its state, the channels of an image, and what is known of the
        values and kinds of the images.
        """
        first = training[0].read()
        _expect_channels(self.table, contrasts, first)
        by_scan = mapping.per == "volume"
        most = MAX_SAMPLED_IMAGES if by_scan else max(1, MAX_FITTED_BYTES // first.nbytes)
        sampled = spread(training, most)
        reading = f"reading intensities of {'+'.join(contrasts)}"
        images = [record.read() for record in track(sampled, reading)]
        # a few patients in other units must not decide how all are mapped
        groups = [record.subject or record.scan_key or record.key for record in sampled]
        others = other_scales(images, groups)
        usual = [image for image, group in zip(images, groups, strict=True) if group not in others]
        if by_scan:
            measure = self.preparation.scan_figures
            scans = track(training, reading, "scan")
            mapping.fit_from([measure(record, mapping) for record in scans])
        else:
            mapping.fit(usual)
        return mapping.state(), len(first), values_of(usual) | _kinds_of(sampled)

    @property
    def range(self) -> tuple[float, float]:
        """The network intensities of black and white."""
        return network_range(self.intensity.values())

    def test_on(self, table: DataTable, method: type[Method], trained_on: set[str]) -> None:
        """Replace the test images by all images of another table; `consequences` then warns of
        those that the training may have seen; `trained_on` as of `gantk.runs.models`.

        Intensities stay those of the training. UserError where channels or classes are others.
        """
        self.source, records = source_and_records(table, method)
        for letter in self.letters:
            first = next(record for record in records if record.domain == letter)
            expected = self.channels[letter] // (2 * self.table.neighbours + 1)
            if len(first.read()) != expected:
                what = f"'{first.key}' has {count_noun(first.read(), 'channel')}, the run's images"
                raise UserError(f"{what} have {expected}", where="--data")

        unknown = {*classes_of(records, self.letters)} - {*self.classes} if table.labels else ()
        if unknown:
            raise UserError(
                f"the run has no class '{min(unknown)}'", where="--data", allowed=self.classes
            )

        self.warnings = self._seen_in_training(records, trained_on)
        self.preparation = self._prepare(table, [*self.records, *records])
        # whether the model has seen these people under other names is not known: held out by nobody
        self.splits = Splits({**self.splits, "test": records}, None)
        if self.table.neighbours:
            self.preparation.stacks = neighbouring_slices(records, [records], self.table.neighbours)

    def consequences(self) -> list[str]:
        """As of `Study`; of other test images, the warnings about them."""
        return super().consequences() if self.warnings is None else self.warnings

    def _seen_in_training(self, records: Sequence[Record], trained_on: set[str]) -> list[str]:
        """Warnings about images, or names of patients, that the training has too."""
        warnings = []
        others = {record.path for record in records if record.path}
        digests = self.preparation.sha256(others)
        copies = sorted(
            f"{path.parent.name}/{path.name}" for path in others if digests[path] in trained_on
        )
        if copies:
            warnings.append(
                f"the model was trained on {count_noun(copies, 'file')} of these"
                f" ({join_first(copies)}): the scores are too good"
            )

        same = sorted(trained_on & patients_of(records))
        if same:
            warnings.append(
                f"{count_noun(same, 'patient')} of these have the name of a training patient, such"
                f" as '{same[0]}': if they are the same, the scores are too good"
            )

        return warnings

    def centre(self, images: Tensor) -> Tensor:
        """The middle slice's channels of (N, C, *size) images; all of them without neighbours."""
        return middle_slice(images, self.table.neighbours)

    def training_sets(self) -> dict[str, ImageSet]:
        """The training images by domain; paired ones in the same order."""
        # imports PyTorch, which listing images does not need
        from gantk.data.batches import ImageSet

        table = self.table
        sets = {}
        shares: Mapping[str, float] = {}
        if table.weights:
            shares = weights_of(table.weights, [record.key for record in self.training])

        for letter in self.letters:
            records = [record for record in self.training if record.domain == letter]
            if records:
                weights = [shares[record.key] for record in records] if shares else ()
                sets[letter] = ImageSet(
                    records,
                    self.intensity[letter],
                    self.preparation,
                    memory=table.memory / len(self.letters),
                    patch=table.patch,
                    masks=table.mask,
                    classes=self.classes,
                    weights=weights,
                )

        return sets

    def image(self, record: Record) -> Tensor:
        """The network image (C, *size) of a record, with neighbours as channels."""
        from torch import from_numpy

        return from_numpy(self.preparation.image(record, self.intensity[record.domain]))

    def pairs(self, split: str) -> list[Pair]:
        """Registered pairs of a split for evaluation, {"a": record, "b": record}, in order; `b` has
        all contrasts.
        """
        return [
            pair for pair in complete_pairs(self.splits[split]).values() if not pair["b"].missing
        ]

    def unpaired_records(self, letter: str) -> list[Record]:
        """Held-out records of a domain, for data without pairs; its training records where nothing
        is held out.
        """
        for split in ("validation", "test", "train"):
            found = [record for record in self.splits[split] if record.domain == letter]
            if found:
                return found
        return []

    def split_json(self) -> RecordedSplit:
        """The contents of split.json: every image of every set, the hash of every file, and the
        catalog, from which a resume reads without a second look at names.
        """
        sets = self.splits.with_training(self.training)
        seen = {record.id for record in self.training}
        sets["set_aside"] = [record for record in self.splits["train"] if record.id not in seen]
        seen |= {record.id for each in self.splits.values() for record in each}
        left_out = [record for record in self.records if record.id not in seen]
        listing = split_json(sets, left_out, self.preparation.sha256, self.consequences())
        return RecordedSplit(how=self.split_description, splits=listing, catalog=self.catalog())

    def catalog(self) -> list[dict[str, Any]] | None:
        """The rows of the source as JSON; None of a source that computes or wraps images."""
        if not isinstance(self.source, FileSource):
            return None
        return [row.as_json(self.source.folder) for row in self.source.rows]

    def intensity_state(self) -> dict[str, Any]:
        """The fitted mappings, for the checkpoint."""
        return {letter: mapping.state() for letter, mapping in self.intensity.items()}

    def restore_intensity(self, state: dict[str, Any]) -> None:
        """Use the mappings of a checkpoint: the same to the bit, even if the training images are
        other ones now.
        """
        self.intensity |= {letter: mapping_from(each) for letter, each in state.items()}


def layouts_in_words(source: ImageSource) -> str:
    """What said whose the images of a source of files are, and what they show, with counts."""
    lines = (each.layout_in_words for each in file_sources(source))
    return " | ".join(filter(None, lines))


def masks_in_words(source: ImageSource, records: Iterable[Record]) -> str:
    """How many files are masks of lesions, or how those that nobody named become so."""
    masks = {file for record in records for file in record.mask_files}
    if masks:
        return f"{count_noun(masks, 'file')} used as masks of lesions"
    word, example = unused_masks(source)
    if not example:
        return ""
    if word:
        return f"to score lesions, add --set data.source.mask={word} (files such as '{example}')"
    what = f"with a word of the masks' names (files such as '{example}')"
    return f"to score lesions, add --set data.source.mask=WORD, {what}"


def unused_masks(source: ImageSource) -> tuple[str, str]:
    """A word of the names of all masks, and of no other image, which nobody has named; and the name of
    one. "" without either.
    """
    for each in file_sources(source):
        unused = [row.path for row in each.catalog.of_kind("mask")]
        if unused and not each.mask:
            images = [row.path for row in each.catalog.rows]
            return word_of_masks(unused, images, each.root), unused[0].name
    return "", ""


def doubts_of(source: ImageSource, table: DataTable) -> list[UserError]:
    """What a source could not know of patients, where the split needs them."""
    if table.split.by != "auto":
        return []
    found = [*source.doubts]
    for part in source.parts:
        found += doubts_of(part, table)
    return found


def expect_no_doubts(source: ImageSource, table: DataTable) -> None:
    """UserError for the first doubt of a source."""
    for doubt in doubts_of(source, table):
        raise doubt


def classes_of(records: Sequence[Record], domains: Sequence[str]) -> tuple[str, ...]:
    """The sorted classes of the records of these domains; UserError where some have none."""
    needed = [record for record in records if record.domain in domains]
    without = [record.key for record in needed if record.label is None]
    if without:
        raise UserError(
            f"the class of {len(without)} of {count_noun(needed, 'image')} is not known. The first is"
            f" '{without[0]}'",
            where="data.labels",
            remedy="put every image into a folder named after its class, or set data.labels = false",
        )
    return tuple(sorted({record.label for record in needed if record.label is not None}))


def open_source(
    table: DataTable, catalog: Sequence[Mapping[str, Any]] | None = None
) -> ImageSource:
    """The source of a table, in its plane, spacing and channels; with the `catalog` of a run, a
    source of files takes these images and lists no folder.
    """
    source = table.source(table.domains, table.dims, table.size)
    if not isinstance(source, ImageSource):
        source = RecordSource(source)
    if catalog is not None and isinstance(source, FileSource):
        source.recorded = catalog
    of_files = list(file_sources(source))
    for each in of_files:
        each.reader.channels = table.channels
        each.reader.fill_masks = table.fill_masks
        each.own_words = table.words

    grid = SamplingGrid(table.plane, table.spacing)
    slicing = [each.reader for each in of_files if isinstance(each, VolumeSource)]
    if not grid.is_plain and not slicing:
        raise UserError(
            f"the source '{table.source.name}' cannot resample its images to another plane or"
            " spacing",
            where="data.plane, data.spacing",
            remedy="use a source of volumes, such as 'files'",
        )
    for reader in slicing:
        reader.view = grid
    return source


@files.listed_once()
def source_and_records(
    table: DataTable,
    method: type[Method],
    catalog: Sequence[Mapping[str, Any]] | None = None,
    source: Any = None,
) -> tuple[Any, list[Record]]:
    """The source, see `open_source`, and its records."""
    letters = domain_letters(table.domains)
    if set(method.reads) - set(letters):
        raise UserError(
            f"this method needs {count_noun(len(method.reads), 'domain')}, but data.domains has"
            f" {len(table.domains)}",
            where="data.domains",
            remedy='set for example domains = ["T1", "T2"]',
        )

    try:
        if source is None or catalog is not None:
            source = open_source(table, catalog)
        records = source.records()
    except UserError as error:
        error.where = error.where or "data.source"
        raise

    what = ""
    if not isinstance(records, list) or not all(isinstance(each, Record) for each in records):
        what = "records() must return a list of gantk.Record"
    else:
        for (letter, key), count in Counter(record.id for record in records).most_common(1):
            if count > 1:
                what = f"{count} records of the domain '{letter}' have the same key, '{key}'"
    if what:
        entry = registry().get("source", table.source.name)
        raise entry.refusal("cannot be used", ValueError(what))
    gone = table.leave_out
    if gone and catalog is None and table.split.test:  # a test's images may be of others
        allowed = {*patients_of(records)}
        for name in gone:
            if name not in allowed:
                raise UserError(
                    f"there is no patient '{name}'", where="data.leave_out", allowed=sorted(allowed)
                )
        for each in file_sources(source):
            each.describe_without(gone)
    return source, [record for record in records if record.subject not in gone]


def expect_image(source: str, dims: int, image: np.ndarray) -> None:
    """UserError where what a source reads is no image of these `dims`, channels first."""
    if image.ndim != dims + 1 or image.shape[-1] <= MAX_COLOURS < len(image):
        raise UserError(
            f"the source '{source}' gives an image of the shape {image.shape}",
            where="data.source",
            allowed="(C, H, W), or of volumes (C, D, H, W)",
        )


def _expect_channels(table: DataTable, contrasts: Sequence[str], image: np.ndarray) -> None:
    """UserError where an image is none, or has other channels than its contrasts, or data.channels,
    say.
    """
    expect_image(table.source.name, table.dims, image)
    if len(contrasts) not in (1, len(image)):
        raise UserError(
            f"the domain '{'+'.join(contrasts)}' has {len(contrasts)} contrasts, but its"
            f" images have {count_noun(image, 'channel')}",
            where="data.domains",
            remedy="use one folder for each patient, with one file for each contrast",
        )
    per_contrast = len(image) // len(contrasts)
    if table.channels not in (None, per_contrast):
        raise UserError(
            f"data.channels is {table.channels}, but the source"
            f" '{table.source.name}' gives images of {count_noun(image, 'channel')}",
            where="data.channels",
            remedy=f"set data.channels = {per_contrast} for gray (1) or colour (3), or remove it",
        )


def expect_usable(table: DataTable, method: type[Method], records: list[Record]) -> None:
    """UserError where records lack pairs, masks or contrasts that recipe or method need."""
    needed = [record for record in records if record.domain in method.reads]
    if not needed:
        raise UserError(
            f"the source '{table.source.name}' found no image of {' or '.join(table.domains)}",
            where="data.source",
        )

    if method.paired:
        expect_pairs(needed, table.domains)

    if table.mask and not any(record.mask for record in needed):
        raise UserError(
            "no image has a lesion mask",
            where="data.mask",
            remedy="name the mask files with --set data.source.mask=seg, use a phantom with lesions, or"
            " train without masks with --set data.mask=false",
        )

    refused = table.missing == "refuse"
    completes = method.paired and not method.hides  # what lacks would be its truth
    lacking = [
        each for each in needed if each.missing and (refused or (completes and each.domain == "b"))
    ]
    if lacking:
        what = (
            f"{len(lacking)} of {count_noun(needed, 'image')} lack a contrast. The first is"
            f" '{lacking[0].key}', without {' and '.join(lacking[0].missing)}"
        )
        remedy = "remove them, or remove that contrast from data.domains"
        if refused:
            remedy += (
                '. Or set data.missing = "mask" to train a network that accepts missing contrasts'
            )
        raise UserError(what, where="data.missing", remedy=remedy)


def training_of(
    table: DataTable, method: type[Method], source: Any, records: list[Record]
) -> list[Record]:
    """The training split as the method needs it: complete pairs, a[i] beside b[i], or an unpaired
    study of people whose images are of one kind. Images that are not for training are left out.
    """
    records = [record for record in records if record.for_training]
    if method.paired:
        complete = complete_pairs(records)
        paired = (record for record in records if record.pair in complete)
        return sorted(paired, key=lambda record: (record.domain, record.pair))
    uses_all = source.pairs_by == "names" if table.unpair == "auto" else not table.unpair
    if uses_all:
        return records
    others = people_of_other_kinds(records, table.spacing is not None)
    kept = [each for each in records if each.subject not in others]
    by_pair = table.unpair is True or source.pairs_by == "table"
    return unpair(kept, table.split.seed, by_pair=by_pair)


def people_of_other_kinds(records: Iterable[Record], spacing_is_set: bool) -> set[str]:
    """Of the people who have volumes of both domains, those whose first domain differs in kind from
    the largest group that is alike; none where that group is a single person, or of more than
    MAX_PEOPLE_COMPARED people.
    """
    first: dict[str, Pair] = defaultdict(dict)
    for record in records:
        if record.subject and record.scan_key and record.path:
            first[record.domain].setdefault(record.subject, record)
    both = sorted(first["a"].keys() & first["b"])
    if not 2 < len(both) <= MAX_PEOPLE_COMPARED:
        return set()

    facts = {}
    for person in both:
        record = first["a"][person]
        if record.file and len(record.file.scans) == 1:  # not of several contrasts
            item = _inspect_file(record)
            if not item.error:
                facts[person] = item.facts
    groups = []
    for own in facts.values():
        groups.append({x for x in facts if not differ_in_kind(own, facts[x], spacing_is_set)})
    largest = max(groups, key=len, default=set())
    return {*facts} - largest if len(largest) > 1 else set()


def _inspect_file(record: Record) -> Inspected:
    """What is found in the file of a record, or of its first contrast."""
    _, scan = next(iter(scans_of([record])))
    return inspect_kept(scan, record)  # which the warnings of a run ask again


def _kinds_of(records: Sequence[Record]) -> dict[str, Any]:
    """The kinds (`traits`) and looks of the images that records come from, by a few files."""
    files = {record.path: record for record in records if record.files}
    facts = []
    looks = []
    people = []
    for record in spread(list(files.values()), MAX_INSPECTED_FILES):
        people.append(record.subject or record.key)
        item = _inspect_file(record)
        if item.error:
            raise item.error
        facts.append(item.facts)
        looks.append(item.look)
    oriented = bool(facts) and all(each["oriented"] for each in facts)
    # in the order of the schema: a resumed run writes the same file
    return looks_of(looks, people) | {"oriented": oriented, "traits": ranges_of(facts)}
