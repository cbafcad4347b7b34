"""Trees of volumes, BIDS datasets and tables of images become records; scans are decoded once, in any view."""

import json
import threading
import time

import nibabel as nib
import numpy as np
import PIL.Image
import pytest

from gantk.data.dataset import Data
from gantk.data.preparation import Stacks
from gantk.data.resample import SamplingGrid
from gantk.data.sources.bids import Bids
from gantk.data.sources.choice import source_for
from gantk.data.sources.folders import Folders, Images
from gantk.data.sources.manifest import Manifest
from gantk.data.sources.nifti import Nifti
from gantk.data.sources.pairing import complete_pairs, expect_pairs
from gantk.data.sources.patients import Contrasts
from gantk.data.sources.reader import Item, Reader, VolumeCache, planes_within
from gantk.data.split.split import split_records
from gantk.errors import UserError
from gantk.formats import files as io
from gantk.method import Method
from gantk.recipe.tables import DataTable

SIZE = (16, 16)
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def volume(path, seed=0, shape=(12, 14, 16), affine=LPS, values=None):
    """A volume whose file is in the order left, posterior, superior, so that its pixels are its voxels transposed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    voxels = np.random.default_rng(seed).random(shape).astype(np.float32) if values is None else values
    if io.suffix_of(path) in (".nii", ".nii.gz"):
        nib.save(nib.Nifti1Image(voxels, affine), path)
    else:
        from gantk.formats.image import Image, to_upright

        io.write(path, Image(np.ascontiguousarray(to_upright(voxels, affine))[None], affine))
    return path


def picture(path, seed=0, shape=(12, 10)):
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)).save(path)
    return path


def nifti(path, domains=("T1", "T2"), dims=2, view=None, **options):
    source = Nifti(domains, dims, SIZE, path=str(path), **options)
    if view:
        source.sees(view)
    return source.records()


def of(records, letter):
    return [record for record in records if record.domain == letter]


class Paired(Method):
    """A method that learns from pairs."""

    paired = True


@pytest.fixture
def tree(tmp_path):
    """Three patients with T1, T2 and FLAIR on one grid each."""
    for n in range(3):
        for k, name in enumerate(("T1", "T2", "FLAIR")):
            volume(tmp_path / f"patient{n}" / f"{name}.nii.gz", 10 * n + k)
    return tmp_path


# --- scans and their slices


def test_every_slice_knows_its_scan(tree):
    records = nifti(tree)
    assert len(records) == 2 * 3 * 8
    for record in records[::5]:
        scan = record.scan()
        assert scan.shape == (1, 16, 14, 12) and record.key == f"{record.scan_key}/plane-{int(record.position):03d}"
        np.testing.assert_array_equal(record.read(), scan[:, int(record.position)])
        assert record.read().base is None, "a plane that is kept does not keep its volume"
    whole = nifti(tree, dims=3)
    assert len(whole) == 6 and all(r.scan is None and r.scan_key == "" and r.position is None for r in whole)
    assert whole[0].read().shape == (1, 16, 14, 12) and whole[0].read().flags.c_contiguous


@pytest.mark.parametrize("source", ["nifti", "folders", "images", "contrasts"])
def test_every_source_of_volumes_takes_any_plane(tree, source):
    build = {
        "nifti": lambda: Nifti(("T1", "T2"), 2, SIZE, path=str(tree)),
        "folders": lambda: Folders(("T1", "T2"), 2, SIZE, path=str(tree)),
        "images": lambda: Images(("MR",), 2, SIZE, path=str(tree)),
        "contrasts": lambda: Contrasts(("T1", "T2+FLAIR"), 2, SIZE, path=str(tree)),
    }[source]
    axial = build().records()
    for plane, sides in (("coronal", (14, 16, 12)), ("sagittal", (12, 16, 14))):
        chosen = build()
        chosen.sees(SamplingGrid(plane))
        records = chosen.records()
        per_scan = len(planes_within(sides[0], (0.25, 0.75)))
        assert len(records) == len(axial) // 8 * per_scan
        record = records[3]
        expected = SamplingGrid(plane).forward(io.read(record.path)).pixels
        assert record.scan().shape[1:] == sides and record.read().flags.c_contiguous
        np.testing.assert_array_equal(record.scan()[0], expected[0])
        np.testing.assert_array_equal(record.read()[0], expected[0, int(record.position)])


def test_spacing_resamples_images_and_masks_alike(tmp_path):
    for n in range(2):
        volume(tmp_path / f"p{n}" / "T1.nii", n, affine=np.diag([-2.0, -2.0, 1.0, 1.0]))
        volume(tmp_path / f"p{n}" / "T2.nii", n, affine=np.diag([-2.0, -2.0, 1.0, 1.0]))
        lesion = np.zeros((12, 14, 16), np.float32)
        lesion[4:8, 4:10, 4:12] = 3.0
        volume(tmp_path / f"p{n}" / "seg.nii", affine=np.diag([-2.0, -2.0, 1.0, 1.0]), values=lesion)
    view = SamplingGrid("coronal", (2.0, 1.0, 1.0))
    records = nifti(tmp_path, view=view, mask="seg")
    assert records[0].read().shape == (1, 16, 24) and len(of(records, "a")) == 2 * 7
    middle = next(record for record in records if record.position == 6)
    mask = middle.mask()
    assert set(np.unique(mask)) == {0.0, 1.0} and mask.shape == (1, 16, 24)
    assert mask.sum() == 8 * 8, "4 voxels of 2 mm are 8 of 1 mm"
    assert nifti(tmp_path, dims=3, view=view, mask="seg")[0].mask().sum() == 6 * 8 * 8


def test_the_data_table_asks_for_the_plane(tree):
    keys = dict(domains=("T1", "T2"), size=SIZE, plane="sagittal")
    keys["split"] = {"test": 0.34, "validation": 0.0, "by": "patient"}
    source = {"name": "nifti", "path": str(tree), "planes": (0.0, 1.0)}
    data = Data.load(DataTable.model_validate_json(json.dumps({"source": source, **keys})), Paired)
    assert sum(map(len, data.splits.values())) == 2 * 3 * 12 and data.training[0].read().shape == (1, 16, 14)


def test_slices_of_any_plane_have_neighbours(tree):
    records = nifti(tree, view=SamplingGrid("coronal"))
    stacked = Stacks(records, 1).of(records)
    record, inner = records[3], stacked[3]
    np.testing.assert_array_equal(inner.read(), record.scan()[0, 5:8])
    assert inner.scan_key == record.scan_key


def test_a_volume_is_decoded_once_however_many_threads_ask(tree, monkeypatch):
    decoded, real = [], io.read

    def read(*arguments):
        decoded.append(arguments[0])
        time.sleep(0.01)  # while the others ask
        return real(*arguments)

    monkeypatch.setattr(io, "read", read)
    records = of(nifti(tree), "a")[:8]
    results: dict[int, np.ndarray] = {}
    threads = [threading.Thread(target=lambda n=n: results.update({n: records[n].read()})) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(decoded) == 1
    for n, record in enumerate(records):
        np.testing.assert_array_equal(results[n], record.scan()[:, int(record.position)])
    assert len(decoded) == 1


def test_a_shelf_keeps_what_it_has_room_for_and_forgets_failures():
    shelf, read = VolumeCache(room=3000), []

    def make(name, size=1000):
        def value():
            read.append(name)
            return np.zeros(size, np.uint8)

        return value

    for name in "abcabc":
        shelf.get(name, make(name))
    assert read == list("abc")
    shelf.get("d", make("d"))
    shelf.get("b", make("b"))
    assert read == list("abcd"), "the oldest went"
    shelf.get("a", make("a"))
    assert read == list("abcda")
    shelf.get("large", make("large", 9000))
    shelf.get("large", make("large", 9000))
    assert read.count("large") == 1, "the newest stays even where it is larger than the room"

    def fail():
        raise UserError("broken")

    for _ in range(2):
        with pytest.raises(UserError, match="broken"):
            shelf.get("e", fail)
    assert len(shelf.get("e", make("e"))) == 1000


def test_a_broken_volume_is_named_by_each_of_its_planes(tree):
    path = tree / "patient1" / "T2.nii.gz"
    whole = nifti(tree)
    path.write_bytes(path.read_bytes()[:1500])
    broken = next(record for record in whole if record.path == path)
    for _ in range(2):
        with pytest.raises(UserError, match="patient1/T2.nii.gz"):
            broken.read()


def test_a_part_of_the_stack_is_seen():
    assert planes_within(10, (0.25, 0.75)) == (2, 3, 4, 5, 6) and planes_within(3, (0.5, 0.5001)) == (1,)
    with pytest.raises(UserError, match="planes = .* is no part of a volume.*0 to 1"):
        planes_within(10, (0.5, 0.5))


# --- nifti


def test_a_study_of_two_patients_is_unpaired(shared_data):
    records = nifti(shared_data / "open_ms", a="patient07/T1_*", b="patient19/T2_*", mask="GOLD_STANDARD")
    assert {(r.domain, r.subject, r.pair) for r in records} == {("a", "patient07", None), ("b", "patient19", None)}
    assert len(records) == 2 * 91 and records[0].read().shape == (1, 218, 182)
    assert all("T1_" in r.path.name for r in of(records, "a")) and all(r.mask is not None for r in records)


@pytest.mark.parametrize(
    "names",
    [
        ("p{}/T1.nii.gz", "p{}/T2.nii.gz"),
        ("p{}/scan_t1w.nii", "p{}/scan_T2w.nii"),
        ("T1/p{}.nii.gz", "T2/p{}.nii.gz"),
        ("SET-T1/p{}-Site-T1.nii.gz", "SET-T2/p{}-Site-T2.nii.gz"),
        ("p{}_T1.nii.gz", "p{}_T2.nii.gz"),
        ("p{}/ses1_T1.nrrd", "p{}/ses1_T2.mha"),
    ],
)
def test_usual_trees_are_patients_with_pairs(tmp_path, names):
    if names[0].endswith("nrrd"):
        pytest.importorskip("SimpleITK")
    for n in range(3):
        for k, name in enumerate(names):
            volume(tmp_path / name.format(f"{n:02d}"), 10 * n + k)
    records = nifti(tmp_path, dims=3)
    assert len(complete_pairs(records)) == 3 and len(records) == 6
    for pair in complete_pairs(records).values():
        assert pair["a"].subject == pair["b"].subject and "T1" in pair["a"].key.upper()
    assert len({record.subject for record in records}) == 3
    assert records[0].read().shape == (1, 16, 14, 12)


def test_several_scans_of_a_patient_are_paired_by_their_names(tmp_path):
    for n in range(2):
        for session in "AB":
            for k, name in enumerate(("T1", "T2")):
                volume(tmp_path / f"patient{n}" / f"{session}_{name}.nii", 10 * n + k)
    records = nifti(tmp_path, dims=3)
    assert len(complete_pairs(records)) == 4 and {r.subject for r in records} == {"patient0", "patient1"}
    (tmp_path / "patient1" / "B_T2.nii").rename(tmp_path / "patient1" / "C_T2.nii")
    again = nifti(tmp_path, dims=3)
    assert len(complete_pairs(again)) == 3
    with pytest.raises(UserError, match="2 of 8 images have no partner: the first is 'patient1/B_T1.nii', which T2"):
        expect_pairs(again, ("T1", "T2"))


def test_the_domains_own_name_wins_over_a_synonym(tmp_path):
    for n in range(2):
        for name in ("T1", "T1w", "T2", "T2_FLAIR", "T1_to_T2"):
            volume(tmp_path / f"patient{n}" / f"{name}.nii", n)
    assert {r.path.name for r in of(nifti(tmp_path, dims=3), "a")} == {"T1.nii", "T1_to_T2.nii"}
    flair = nifti(tmp_path, ("T1w", "FLAIR"), dims=3)
    assert {r.path.name for r in flair} == {"T1w.nii", "T2_FLAIR.nii"}
    words = nifti(tmp_path, ("x", "y"), dims=3, a="t1w", b="T2 flair")
    assert {(r.domain, r.path.name) for r in words} == {("a", "T1w.nii"), ("b", "T2_FLAIR.nii")}
    globs = nifti(tmp_path, ("x", "y"), dims=3, a="*T1w.nii", b="**/T2.nii")
    assert {(r.domain, r.path.name) for r in globs} == {("a", "T1w.nii"), ("b", "T2.nii")}


def test_a_domain_of_its_own_takes_its_contrast(tree):
    assert {r.path.name for r in nifti(tree, ("FLAIR",), dims=3)} == {"FLAIR.nii.gz"}
    assert len(nifti(tree, ("MR",), dims=3)) == 9, "no file says MR: all are"


@pytest.mark.parametrize(
    "options, says",
    [
        ({"domains": ("T1", "PET")}, "no file in .* is named 'PET'; there are 'patient0/FLAIR.nii.gz'.*data.source.b"),
        ({"a": "no/*.nii", "b": "T2"}, "no file in .* matches 'no/\\*.nii'.*data.source.a"),
        ({"a": "T1", "b": "*T1*"}, "T1.nii.gz' belongs to both domains, T1 and T2"),
        ({"a": "**x/y", "b": "T2"}, "is no glob"),
        ({"domains": ("T1+FLAIR", "T2")}, 'is 2 contrasts.*"contrasts"'),
        ({"volumes": (1,)}, "does not choose a volume for each of 2 domains"),
        ({"mask": "lesion"}, "no file in .* is named 'lesion'"),
    ],
)
def test_what_a_tree_does_not_hold_is_said(tree, options, says):
    with pytest.raises(UserError, match=says):
        nifti(tree, **options)


def test_an_empty_tree_says_what_could_be_there(tmp_path):
    with pytest.raises(UserError, match="nor any volume .*.nii.gz"):
        nifti(tmp_path)
    with pytest.raises(UserError, match="does not exist"):
        nifti(tmp_path / "nowhere")


def test_one_file_of_several_volumes_serves_both_domains(tmp_path):
    for n in range(2):
        volume(tmp_path / f"BRATS_{n:03d}.nii.gz", n, shape=(12, 14, 16, 4))
    records = nifti(tmp_path, ("FLAIR", "T2"), a="BRATS", b="BRATS", volumes=(0, 3))
    assert len(complete_pairs(records)) == 2 * 8 and {r.subject for r in records} == {"BRATS_000", "BRATS_001"}
    stored = nib.load(tmp_path / "BRATS_000.nii.gz").get_fdata(dtype=np.float32)
    for letter, chosen in (("a", 0), ("b", 3)):
        np.testing.assert_array_equal(of(records, letter)[0].scan()[0], stored[..., chosen].T)
    brought = nifti(tmp_path, ("FLAIR", "T2"), a="BRATS", b="BRATS", volumes=(0, 3), onto="a")
    np.testing.assert_array_equal(of(brought, "b")[0].scan()[0], stored[..., 3].T)


def far(path):
    """A T2 of another grid: turned, coarser, and shifted, of the same ramp in mm."""
    angle = np.deg2rad(20)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = turn @ np.diag([-1.3, -1.2, 2.0]), (6.0, 8.0, -9.0)
    grid = np.stack(np.meshgrid(*map(np.arange, (24, 26, 18)), indexing="ij")).reshape(3, -1)
    values = (affine[:3, :3] @ grid + affine[:3, 3:])[0].reshape(24, 26, 18) * 2
    return volume(path, affine=affine, values=values.astype(np.float32))


@pytest.fixture
def apart(tmp_path):
    """Two patients whose T1 and T2 lie on different grids; both show a ramp from left to right."""
    for n in range(2):
        ramp = np.broadcast_to(-np.arange(12.0)[:, None, None], (12, 14, 16)).astype(np.float32)
        volume(tmp_path / f"p{n}" / "T1.nii", values=ramp)
        far(tmp_path / f"p{n}" / "T2.nii")
    return tmp_path


def test_scans_on_different_grids_are_pairs_only_when_they_are_brought_together(apart):
    records = nifti(apart)
    assert not complete_pairs(records) and {record.pair for record in records} == {None}
    with pytest.raises(UserError, match=r"p0/T1.nii' and .*p0/T2.nii' are of one patient, and on different grids: "
                                        r"16 x 14 x 12 against 18 x 26 x 24.*onto = \"a\""):  # fmt: skip
        expect_pairs(records, ("T1", "T2"))
    moved = nifti(apart, onto="a")
    assert len(complete_pairs(moved)) == 2 * 8
    for pair in complete_pairs(moved).values():
        one, other = pair["a"].read(), pair["b"].read()
        assert one.shape == other.shape == (1, 14, 12)
        np.testing.assert_allclose(other, 2 * one, atol=1e-3)
    assert of(moved, "b")[0].files == (apart / "p0" / "T2.nii", apart / "p0" / "T1.nii")
    assert of(moved, "a")[0].files == (apart / "p0" / "T1.nii",), "its own grid"
    other = nifti(apart, onto="b", planes=(0.3, 0.6))
    assert of(other, "a")[0].read().shape == of(other, "b")[0].read().shape == (1, 26, 24)


def test_views_are_taken_of_the_grid_onto_which_scans_are_brought(apart):
    moved = nifti(apart, onto="a", view=SamplingGrid("sagittal", (1.0, 2.0, 1.0)))
    pair = next(iter(complete_pairs(moved).values()))
    assert pair["a"].scan().shape == pair["b"].scan().shape == (1, 12, 8, 14)
    np.testing.assert_allclose(pair["b"].read(), 2 * pair["a"].read(), atol=1e-3)


def test_a_mask_moves_with_its_image(apart):
    lesion = np.zeros((12, 14, 16), np.float32)
    lesion[4:8, 4:9, 4:12] = 1
    for n in range(2):
        volume(apart / f"p{n}" / "seg.nii", values=lesion)
    with pytest.raises(UserError, match="seg.nii' is on another grid than its image .*T2.nii"):
        nifti(apart, mask="seg")
    for onto in ("a", "b"):
        records = nifti(apart, dims=3, onto=onto, mask="seg")
        masks = [record.mask() for record in records if record.subject == "p0"]
        assert np.array_equal(*masks) and masks[0].shape == records[0].read().shape
        size = 1.0 if onto == "a" else 1.3 * 1.2 * 2.0
        assert masks[0].sum() * size == pytest.approx(lesion.sum(), rel=0.1)


def test_a_patients_raw_scans_are_a_pair_after_resampling(shared_data):
    path = shared_data / "open_ms" / "raw"
    records = Nifti(("T1", "T2"), 3, (16, 16, 16), path=str(path), onto="b", a="T1W", b="T2W")
    with pytest.raises(UserError, match="only one image of T1"):
        records.records()
    records = nifti(shared_data / "open_ms", onto="b", planes=(0.5, 0.53))
    pairs = [pair for pair in complete_pairs(records).values() if pair["a"].subject == "patient01"]
    assert pairs and pairs[0]["a"].read().shape == pairs[0]["b"].read().shape == (1, 448, 406)


# --- bids


def bids_of(path, domains=("T1", "T2"), dims=3, **options):
    return Bids(domains, dims, SIZE, path=str(path), **options).records()


@pytest.fixture
def dataset(tmp_path):
    """Three subjects, the last with two sessions; several runs, a contrast agent, a derivative."""
    names = [
        *(f"sub-0{n}/anat/sub-0{n}_{suffix}.nii.gz" for n in (1, 2) for suffix in ("T1w", "T2w", "FLAIR")),
        *(f"sub-03/ses-{s}/anat/sub-03_ses-{s}_{suffix}.nii.gz" for s in "12" for suffix in ("T1w", "T2w")),
        "sub-01/anat/sub-01_run-2_T1w.nii.gz",
        "sub-01/anat/sub-01_ce-gadolinium_T1w.nii.gz",
        "sub-02/anat/sub-02_ce-gadolinium_T1w.nii.gz",
        "derivatives/prep/sub-01/anat/sub-01_space-MNI_T1w.nii.gz",
    ]
    for number, name in enumerate(names):
        volume(tmp_path / name, number)
    (tmp_path / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.9.0"}')
    return tmp_path


def test_a_bids_dataset_gives_sessions_of_subjects(dataset):
    records = bids_of(dataset)
    assert [record.key for record in of(records, "a")] == [
        "sub-01/anat/sub-01_T1w.nii.gz",
        "sub-02/anat/sub-02_T1w.nii.gz",
        "sub-03/ses-1/anat/sub-03_ses-1_T1w.nii.gz",
        "sub-03/ses-2/anat/sub-03_ses-2_T1w.nii.gz",
    ]
    assert {record.subject for record in records} == {"sub-01", "sub-02", "sub-03"}
    assert len(complete_pairs(records)) == 4
    planes = bids_of(dataset, dims=2)
    assert len(planes) == 8 * 8 and planes[0].scan().shape == (1, 16, 14, 12)


def test_bids_names_say_contrast_agents_runs_and_suffixes(dataset):
    enhanced = bids_of(dataset, ("T1", "T1ce"))
    assert {record.key for record in of(enhanced, "b")} == {
        f"sub-0{n}/anat/sub-0{n}_ce-gadolinium_T1w.nii.gz" for n in (1, 2)
    }
    every = bids_of(dataset, runs="all")
    assert len(of(every, "a")) == 5 and len(complete_pairs(every)) == 4
    asked = bids_of(dataset, ("x", "y"), a="run-2_T1w", b="T2w", runs="all", planes=(0, 1), dims=2)
    assert {record.path.name for record in of(asked, "a")} == {"sub-01_run-2_T1w.nii.gz"}
    assert {record.subject for record in bids_of(dataset, ("FLAIR",))} == {"sub-01", "sub-02"}


def test_participants_say_split_and_class(dataset):
    (dataset / "participants.tsv").write_text(
        "participant_id\tage\tSplit\tgroup\nsub-01\t30\ttrain\tpatient\nsub-02\tn/a\ttest\tcontrol\nsub-03\t9\tval\tn/a\n"
    )
    records = bids_of(dataset, label="group")
    assert {(r.subject, r.split, r.label) for r in records} == {
        ("sub-01", "train", "patient"), ("sub-02", "test", "control"), ("sub-03", "validation", None)
    }  # fmt: skip
    splits, _ = split_records(records)
    assert {name: len(members) for name, members in splits.items()} == {"train": 2, "validation": 4, "test": 2}
    with pytest.raises(UserError, match="has no column 'grop'.*group.*Did you mean 'group'"):
        bids_of(dataset, label="grop")
    (dataset / "participants.tsv").write_text("participant_id\tsplit\nsub-01\tmaybe\n")
    with pytest.raises(UserError, match="'maybe' is no split. Allowed: train, validation, test.*line 2"):
        bids_of(dataset)


def test_masks_of_a_dataset_lie_beside_or_in_derivatives(dataset):
    lesion = np.zeros((12, 14, 16), np.float32)
    lesion[3:6, 3:6, 3:6] = 2
    volume(dataset / "derivatives/lesions/sub-01/anat/sub-01_label-lesion_mask.nii.gz", values=lesion)
    volume(dataset / "sub-03/ses-2/anat/sub-03_ses-2_label-lesion_mask.nii.gz", values=lesion)
    records = bids_of(dataset, mask="lesion")
    masked = {record.key for record in records if record.mask}
    assert {key.split("_")[0].split("/")[0] for key in masked} == {"sub-01", "sub-03"} and len(masked) == 4
    assert next(record for record in records if record.mask).mask().sum() == 27
    volume(dataset / "sub-01/anat/sub-01_label-lesion_desc-other_mask.nii.gz", values=lesion)
    with pytest.raises(UserError, match="sub-01_T1w.nii.gz' has two masks"):
        bids_of(dataset, mask="lesion")


@pytest.mark.parametrize(
    "options, says",
    [
        ({"domains": ("T1", "PD")}, "holds no 'PDw' for PD.*Allowed: FLAIR, T1w, T2w.*data.source.b"),
        ({"a": "T1W", "b": "T2w"}, "holds no 'T1W'.*data.source.a"),
        ({"mask": "tumour"}, "no file in .* is named 'tumour'.*data.source.mask"),
        ({"label": "group"}, "participants.tsv' does not exist"),
    ],
)
def test_what_a_dataset_lacks_is_said(dataset, options, says):
    with pytest.raises(UserError, match=says):
        bids_of(dataset, **options)


# --- manifest


def table(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def manifest(path, domains=("T1", "T2"), dims=3, **options):
    return Manifest(domains, dims, SIZE, path=str(path), **options).records()


LONG = (
    "path,Domain,patient,split,label,mask\n"
    "patient0/T1.nii.gz,T1,anna,train,ill,\n"
    "patient0/T2.nii.gz,t2w,anna,train,ill,patient0/FLAIR.nii.gz\n"
    "\n"
    "patient1/T1.nii.gz,T1,bert,test,,\n"
    "patient1/T2.nii.gz,b,bert,test,,\n"
    "patient1/FLAIR.nii.gz,FLAIR,bert,test,,\n"
)


def test_a_row_for_each_image(tree):
    records = manifest(table(tree / "study.csv", LONG))
    assert [(r.domain, r.key, r.subject, r.split, r.label) for r in records] == [
        ("a", "patient0/T1.nii.gz", "anna", "train", "ill"),
        ("b", "patient0/T2.nii.gz", "anna", "train", "ill"),
        ("a", "patient1/T1.nii.gz", "bert", "test", None),
        ("b", "patient1/T2.nii.gz", "bert", "test", None),
    ]
    assert len(complete_pairs(records)) == 2 and [r.mask is not None for r in records] == [False, True, False, False]
    assert len(manifest(tree / "study.csv", dims=2)) == 4 * 8
    assert {r.path.name for r in manifest(tree / "study.csv", ("T1",))} == {"T1.nii.gz"}


@pytest.mark.parametrize("sign", [",", ";", "\t"])
def test_a_row_for_each_pair(tree, sign):
    rows = ["T1,t2,patient", *(f"patient{n}/T1.nii.gz,patient{n}/T2.nii.gz,p{n}" for n in range(3))]
    rows.append("patient0/FLAIR.nii.gz,,p9")
    path = table(tree / "study.csv", "\ufeff" + "\n".join(rows).replace(",", sign))
    records = manifest(path)
    assert len(complete_pairs(records)) == 3 and len(records) == 7
    assert {record.subject for record in records} == {"p0", "p1", "p2", "p9"}


def test_a_column_of_pairs_decides(tmp_path):
    lines = ["path,domain,patient,pair"]
    for n in range(4):
        for domain in ("T1", "T2"):
            picture(tmp_path / f"{domain}-{n}.png", n)
            lines.append(f"{domain}-{n}.png,{domain},p{n // 2},{n if n else ''}")
    records = manifest(table(tmp_path / "study.csv", "\n".join(lines)), dims=2)
    assert sorted(complete_pairs(records)) == ["1", "2", "3"] and records[0].position == 0.0
    assert {record.subject for record in records} == {"p0", "p1"}


def test_one_column_of_paths_is_one_domain(tmp_path):
    for n in range(3):
        picture(tmp_path / "images" / f"{n}.png", n)
    path = table(tmp_path / "list.csv", "path,label\nimages/0.png,yes\nimages/1.png,no\nimages/2.png,yes\n")
    records = manifest(path, ("MR",), dims=2)
    assert [(r.domain, r.label, r.subject) for r in records] == [
        ("image", "yes", ""), ("image", "no", ""), ("image", "yes", "")
    ]  # fmt: skip
    absolute = table(tmp_path / "other" / "list.csv", f"path\n{tmp_path}/images/0.png\n../images/1.png\n")
    assert len(manifest(absolute, ("MR",), dims=2)) == 2


def test_every_wrong_row_is_named_with_its_line(tree):
    text = (
        LONG.replace("patient0/T1.nii.gz", "patient0/T9.nii.gz")
        .replace("t2w", "T22")
        .replace(",b,bert,test", ",T1,b,?")
    )
    with pytest.raises(UserError) as error:
        manifest(table(tree / "study.csv", text))
    said = str(error.value)
    assert "3 of 5 rows" in said and "line 2: 'patient0/T9.nii.gz' does not exist" in said
    assert "line 3: there is no domain 'T22'" in said and "line 6: '?' is no split" in said


@pytest.mark.parametrize(
    "text, says",
    [
        ("", "is empty"),
        ("file,who\nx,y\n", "has the columns file, who. Allowed: path and domain.*'T1' and 'T2'"),
        ("path,domain,path\nx,T1,y\n", "two columns 'path'"),
        ("path,domain\npatient0/T1.nii.gz,T1\npatient0/T1.nii.gz,T1\n", "line 3: .*stands in line 2 already"),
        ("path,domain\n,T1\n", "line 2: path is empty"),
        ("path,domain\nstudy.csv,T1\n", "line 2: 'study.csv' is no image"),
        ("path,domain\npatient0,T1\n", "line 2: 'patient0' is a folder of 3 images"),
        ("path,domain\npatient0/T1.nii.gz,\n", "line 2: there is no domain ''"),
        ("T1,T2\n,\npatient0/T1.nii.gz,\n", "only one image of T1"),
        ("T1,T2,label\n,,x\n", "line 2: t1 and t2 are empty"),
        ("T1,T2\npatient0/T1.nii.gz,\npatient1/T1.nii.gz,\n", "no images of T2"),
        ("T1,T2,mask\npatient0/T1.nii.gz,patient0/T2.nii.gz,no.nii\n", "line 2: 'no.nii' does not exist"),
        ('path,domain\n"patient0/T1.nii.gz,T1\n', "cannot be read as a table"),
        ("path,domain\n" + "x" * 5000 + ",T1\n", "line 2: 'x{80}...' cannot be opened"),
        ("path,domain\npatient0/T1.nii.gz/x,T1\n", "line 2: 'patient0/T1.nii.gz/x' cannot be opened"),
        ("path,domain\n" + "\n".join(f"{n}.nii,T1" for n in range(9)), "9 of 9 rows.*and 4 more"),
    ],
)
def test_a_table_that_cannot_be_used_is_explained(tree, text, says):
    with pytest.raises(UserError, match=says):
        manifest(table(tree / "study.csv", text))


def test_a_table_that_is_no_text_is_explained(tree):
    (tree / "study.csv").write_bytes(b"\xff\xfe\x00path")
    with pytest.raises(UserError, match="cannot be read as a table"):
        manifest(tree / "study.csv")
    with pytest.raises(UserError, match="the table .* does not exist"):
        manifest(tree / "other.csv")


def test_damaged_tables_are_one_message_or_read(tree):
    path, rng = tree / "study.csv", np.random.default_rng(0)
    for _ in range(100):
        data = bytearray(LONG.encode())
        for place in rng.integers(0, len(data), rng.integers(1, 20)):
            data[place] = rng.integers(0, 256)
        path.write_bytes(bytes(data[: rng.integers(1, len(data))]))
        try:
            assert len(manifest(path)) >= 4
        except UserError as error:
            assert "study.csv" in str(error)


def test_a_mask_in_a_table_lies_on_its_images_grid(apart):
    lesion = np.zeros((12, 14, 16), np.float32)
    lesion[4:8, 4:9, 4:12] = 1
    volume(apart / "seg.nii", values=lesion)
    rows = "T1,T2,mask\np0/T1.nii,p0/T2.nii,seg.nii\np1/T1.nii,p1/T2.nii,\n"
    records = manifest(table(apart / "study.csv", rows))
    assert [record.mask is not None for record in records] == [True, False, False, False]
    assert not complete_pairs(records)
    moved = manifest(apart / "study.csv", onto="a")
    assert len(complete_pairs(moved)) == 2 and [r.mask is not None for r in moved] == [True, True, False, False]
    with pytest.raises(UserError, match="line 2: the mask 'seg.nii' is on another grid than its image"):
        manifest(table(apart / "wrong.csv", "path,domain,mask\np0/T2.nii,T2,seg.nii\np0/T1.nii,T1,\n"))


def test_a_row_may_name_a_dicom_series(shared_data, tmp_path):
    pytest.importorskip("pydicom")
    series = shared_data / "brainix_dicom"
    rows = f"T1,T2,patient\n{series}/T1,{series}/T2,x\n{series}/T1/IM-0001-0008.dcm,{series}/T2/IM-0001-0008.dcm,y\n"
    try:
        records = manifest(table(tmp_path / "study.csv", rows), dims=2, planes=(0, 1))
    except UserError as error:
        assert "line" in str(error)  # two distant slices are no volume
        rows = (
            "\n".join(rows.splitlines()[::2]) + f"\n{series}/FLAIR/IM-0001-0008.dcm,{series}/FLAIR/IM-0001-0011.dcm,z"
        )
        records = manifest(table(tmp_path / "study.csv", rows), dims=2)
    assert records and records[-1].read().ndim == 3 and all(path.is_file() for r in records for path in r.files)


# --- which source fits a path


def test_a_path_finds_the_source_of_its_kind(tree, dataset, tmp_path):
    study = table(tmp_path / "study.csv", "path,domain\n")
    assert source_for(study) == {"name": "manifest", "path": str(study)}
    assert source_for(study, domains=1)["name"] == "manifest"


def test_datasets_and_trees_are_told_apart(tmp_path):
    for n in range(2):
        volume(tmp_path / "bids" / f"sub-{n}" / "anat" / f"sub-{n}_T1w.nii.gz", n)
        volume(tmp_path / "bids" / f"sub-{n}" / "anat" / f"sub-{n}_T2w.nii.gz", n)
        for name in ("T1w", "FLAIR"):
            volume(tmp_path / "tree" / f"p{n}" / f"{name}.nii.gz", n)
            volume(tmp_path / "known" / f"p{n}" / f"{name.replace('FLAIR', 'T2').replace('w', '')}.nii.gz", n)
    for domains in (1, 2):
        assert source_for(tmp_path / "bids", domains) == {"name": "bids", "path": str(tmp_path / "bids")}
        assert source_for(tmp_path / "tree", domains)["name"] == "nifti"
    assert source_for(tmp_path / "known")["name"] == "folders"
    assert source_for(tmp_path / "known", own="nifti")["name"] == "nifti", "the recipe's own source wins where it fits"
    assert source_for(tmp_path / "bids", own="aligned")["name"] == "bids", "and only there"


@pytest.mark.parametrize("build", [Nifti, Bids, Manifest])
def test_a_source_of_volumes_without_a_path_says_what_to_write(build):
    with pytest.raises(UserError, match="path = "):
        build(("T1", "T2"), 2, SIZE)


def test_a_reader_refuses_what_networks_cannot_see(tmp_path):
    path = volume(tmp_path / "x.nii", shape=(12, 5, 16))
    with pytest.raises(UserError, match="x.nii' is only 5 x 12 pixels"):
        Reader(2).read(Item("a", path, "x"), 3)
    with pytest.raises(UserError, match="x.nii' is a volume, and data.dims is 2"):
        Reader(2).read(Item("a", path, "x"))
    with pytest.raises(UserError, match="is a picture, and data.dims is 3"):
        Reader(3).read(Item("a", picture(tmp_path / "y.png"), "y"))
