"""Folders as public data sets and hospitals arrange them, and the table that a careful person would
write of each: which files show which contrast, whose they are, and which belong together.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

import pytest
from tiny import registered

from gantk.catalog.contrasts import ContrastWords, contrast_of_series, shown_by_series
from gantk.catalog.layouts import read_by
from gantk.catalog.question import LayoutQuestion
from gantk.catalog.scan import Asked, read_folder
from gantk.catalog.words import take_split
from gantk.errors import UserError

Files = registered("source", "files")

THREE = ("001", "002", "003")
FOUR = ("001", "002", "003", "004")
CITIES = [f"{city}/{number}" for city in ("Berlin", "Paris") for number in THREE]
PEOPLE = ("Meier_Hans", "Schulz_Eva", "Adam_B")
DATES = ("20190302", "20200817")
DATES_OF_THREE = (*DATES, "20210909")
T1_T2 = {"T1": "T1", "T2": "T2"}
SMALL = {"t1": "T1", "t2": "T2"}


@dataclass
class Tree:
    """Files by pattern, for each patient `p`, session `s`, slice `k` and spelling `c`.

    `contrasts` maps a spelling to the contrast, "" for one that is neither; `subject` and `pair`
    are what the files of a patient, or of one anatomy, share.
    """

    pattern: str
    contrasts: dict[str, str]
    patients: tuple[str, ...] | list[str] = FOUR
    sessions: tuple[str, ...] = ("",)
    slices: tuple[str, ...] = ("",)
    subject: str = "{p}"
    pair: str = "{p} {s} {k}"
    domains: tuple[str, ...] = ("T1", "T2")
    others: tuple[str, ...] = ()  # patterns of files that are neither contrast
    files: dict[str, str] = field(default_factory=dict)  # contents
    split: str = ""
    label: str = ""

    def rows(self) -> dict[str, tuple[str, str, str, str, str]]:
        """Path -> contrast, subject, pair, split, label."""
        rows = {}
        spaces = (self.patients, self.sessions, self.slices, self.contrasts.items())
        for p, s, k, (c, contrast) in product(*spaces):
            known = {"p": p, "s": s, "k": k, "c": c}
            path = self.pattern.format(**known)
            if contrast:
                split = self.split.format(**known).replace("val", "validation")
                shared = self.subject.format(**known), self.pair.format(**known)
                rows[path] = contrast, *shared, split, self.label.format(**known)
        return rows

    def paths(self) -> list[str]:
        """All images, those of no contrast included."""
        paths = set()
        for p, s, k, c in product(self.patients, self.sessions, self.slices, self.contrasts):
            for pattern in (self.pattern, *self.others):
                paths.add(pattern.format(p=p, s=s, k=k, c=c))
        return sorted(paths)


BRATS = {"t1": "T1", "t1ce": "", "t2": "T2", "flair": "", "seg": ""}
BRATS_2023 = {"t1n": "T1", "t1c": "", "t2w": "T2", "t2f": "", "seg": ""}
SYNTHRAD = {"mr": "MR", "ct": "CT", "mask": ""}
HCP = {"T1w": "T1", "T2w": "T2"}
SLICES = tuple(f"{number:03d}" for number in range(1, 6))
CT_MR = {"CT": "CT", "MR": "MR"}
SETS = ("train", "val", "test")


def pictures(pattern: str, contrasts: dict[str, str], **options) -> Tree:
    """Pictures of nobody known, five of each contrast (in each set, where the pattern has {s})."""
    sets = SETS if "{s}" in pattern else ("",)
    known = {"subject": "", "pair": "{s} {k}", "domains": tuple(contrasts.values())} | options
    split = "{s}" if "{s}" in pattern else ""
    return Tree(pattern, contrasts, ("",), sets, SLICES, split=split, **known)


def classes(pattern: str, *names: str, **options) -> Tree:
    """Pictures of one contrast, in folders of classes."""
    known = {"subject": "", "pair": "{c} {p} {k}", "label": "{c}"} | options
    return Tree(pattern, dict.fromkeys(names, "MR"), slices=SLICES, domains=("MR",), **known)


TREES = {
    "a slice of each patient, in its name": Tree(
        "BRATS_{p}/BRATS_{p}_{c}_slice9{p[5]}.nii.gz",
        T1_T2 | {"FLAIR": "", "MASK": "", "atropos_truth": ""},
        ("HG0001", "HG0002", "HG0003", "HG0004", "HG0011", "HG0013"),
    ),
    "a map of each slice, in its name": Tree(
        "BRATS_{p}/BRATS_{p}_{c}_slice9{p[5]}.nii.gz",
        T1_T2 | {"FLAIR": "", "MASK": "", "atropos_tissue": ""},
        ("HG0001", "HG0002", "HG0003", "HG0004", "HG0011", "HG0013"),
    ),
    "slices counted in the last digits": Tree(
        "{c}/{p}{k}.png", {"CT": "CT", "MRI": "MR"}, ("2", "20", "21", "34"), ("",), SLICES, domains=("CT", "MR")
    ),
    # hospitals and small labs
    "times of studies, as dcm2niix names them": Tree(
        "{c}_{p}101500_3.nii.gz", {"T1_se_tra": "T1", "T2_tse_tra": "T2"}, DATES_OF_THREE
    ),
    "series of one time of dcm2niix": Tree(
        "{p}_{c}.nii.gz",
        {"t1_mprage_sag_p2_20240110101500_4": "T1", "t2_spc_ns_20240110102000_12": "T2"},
        ["Pat001", "Pat002", "Meier", "Schulz_Eva"],
    ),
    "series of two times of dcm2niix": Tree(
        "{p}_{c}_{s}.nii.gz",
        {"t1_mprage_tra_iso": "T1", "t2_tse_tra": "T2"},
        ["Pat001", "Meier"],
        ("20240110101500", "20240612091000"),
    ),
    "times before series": Tree(
        "{p}_{s}_{c}.nii.gz",
        {"t1_mprage": "T1", "t2_tse_320": "T2"},
        ["Pat001", "Meier"],
        ("20240110101500", "20240612091000"),
    ),
    "series before dates": Tree(
        "{p}_{c}_{s}.nii.gz", {"T1_mprage_sag": "T1", "T2_tse": "T2"}, ["Pat001", "Meier"], DATES
    ),
    "both echoes of a series": Tree(
        "p{p}_{c}.nii.gz",
        {"t1_se_20240110101500_4": "T1", "pd+t2_tse_20240110101500_5_e1": "", "pd+t2_tse_20240110101500_5_e2": "T2"},
        ("01",),
        files={f"p01_pd+t2_tse_20240110101500_5_e{n}.json": json.dumps({"EchoTime": time}) for n, time in ((1, 0.012), (2, 0.1))},
    ),
    "both echoes without a time": Tree("p{p}/{c}.nii.gz", {"T1": "T1", "pd+t2_e1": "", "pd+t2_e2": ""}),
    "one spelling in two codes": Tree(
        "{c}.nii.gz", {"J\u00fcrgens/T1": "T1", "Ju\u0308rgens/T2": "T2"}, ("",), subject="one", pair="one"
    ),
    "visits of people": Tree("{p}_{s}_{c}.nii.gz", T1_T2, PEOPLE, ("Erstuntersuchung", "Verlauf")),
    "numbered visits of people": Tree("{p}_{s}_{c}.nii.gz", T1_T2, PEOPLE, ("V1", "V2")),
    "people whose letters SPM writes too": Tree("{p}_{c}.nii.gz", T1_T2, ("S01", "MS01", "S02", "MS02")),
    "times of ADNI's archive": Tree(
        "ADNI_{p}_{c}.nii.gz",
        {"MR_T1_br_raw_20060418193713091_1_S13409_I13723": "T1", "MR_T2_br_raw_20060418193742092_2_S13410_I13724": "T2"},
        ("002_S_0295", "002_S_0413"),
    ),
    "numbered volunteers": Tree("{p}_{c}.nii.gz", T1_T2, ("HC_V01", "HC_V02", "V03_MS", "MS_V04")),
    "folders of volunteers": Tree("{p}/{c}.nii.gz", T1_T2, ("HC_V01", "HC_V02", "MS_V03", "MS_V04")),
    "one name with its contrast": Tree("T1/{p}{c}.nii.gz", {"": "T1"}, ("p1", "p2", "p3", "p4_T1"), domains=("T1",)),
    "side files of each folder": Tree(
        "{c}/{p}/{c}.nii.gz", T1_T2, others=("{c}/{p}/bias.nii.gz", "{c}/{p}/field.nii.gz", "{c}/{p}/rois.nii.gz")
    ),
    "channels beside contrasts": Tree("{p}/{p}_{c}.nii.gz", {"T1_0000": "T1", "T2_0001": "T2"}, ("p1", "p2")),
    "visits before people": Tree("{s}_{p}_{c}.nii.gz", T1_T2, PEOPLE, ("baseline", "follow-up")),
    "visits of numbers": Tree("P{p}_{s}_{c}.nii.gz", T1_T2, ("01",), ("präOP", "postOP", "Kontrolle")),
    "numbered controls are people": Tree("{p}/{c}.nii.gz", T1_T2, ("Kontrolle_01", "Kontrolle_02")),
    "two sites with equal numbers": Tree("{p}/{c}.nii.gz", SMALL, CITIES),
    "two sites and a third contrast": Tree("{p}/{c}.nii.gz", SMALL | {"flair": ""}, CITIES),
    "numbered sites": Tree("{p}/{c}.nii.gz", T1_T2, [f"site{s}/{n}" for s in "12" for n in THREE]),
    "dates as visits": Tree("P{p}/{s}/{c}.nii.gz", T1_T2, FOUR, ("2019-03-02", "2020-11-15")),
    "visits first": Tree("ses-{s}/sub-{p}/{c}.nii.gz", T1_T2, FOUR, ("01", "02")),
    "visits in names": Tree("P{p}_V{s}_{c}.nii.gz", T1_T2, FOUR, ("1", "2")),
    "series as scanners name them": Tree(
        "{p}/{c}.nii.gz", {"AX T1 SE": "T1", "AX T2 TSE": "T2"}, ["Mueller_M", "Schmidt_A", "Weber"]
    ),
    "numbered series": Tree(
        "pat{p}/{c}.nii.gz", {"002_t1_mprage_sag_p2_iso": "T1", "005_t2_tse_tra": "T2"}
    ),
    "a folder for each series": Tree(
        "{p}/{c}/scan.nii.gz", {"1_T1": "T1", "2_T2": "T2"}, [f"Glioma_{n}" for n in FOUR]
    ),
    "upper case": Tree("P{p}/{c}.NII.GZ", T1_T2),
    "patients by name": Tree("{c}/{p}.nii.gz", T1_T2, ["Anna", "Berta", "Clara", "Dora"]),
    "one file for each patient": Tree("{c}/{p}.nii.gz", {"T1w": "T1", "T2w": "T2"}),
    "contrast before patient": Tree("{c}/p{p}/slice_{k}.png", T1_T2, slices=SLICES),
    "patient before contrast": Tree("p{p}/{c}/{k}.png", T1_T2, slices=SLICES),
    "dates in names, below people": Tree("{p}/{s}_{c}.nii.gz", T1_T2, PEOPLE, DATES),
    "dates after contrasts": Tree("{p}/{c}_{s}.nii.gz", T1_T2, PEOPLE, ("2019-03-02", "2020-08-17")),
    "dates before people": Tree("{s}_{p}_{c}.nii.gz", T1_T2, PEOPLE, DATES),
    "dates after people": Tree("{p}_{s}_{c}.nii.gz", T1_T2, PEOPLE, ("02.03.2019", "17.08.2020")),
    "dates at the end": Tree("{p}_{c}_{s}.nii.gz", T1_T2, PEOPLE, DATES),
    "dates as folders": Tree("{s}/{p}_{c}.nii.gz", T1_T2, THREE, DATES),
    "dates before people's folders": Tree("{s}_{p}/{c}.nii.gz", T1_T2, PEOPLE, DATES),
    "dates in people's folders": Tree("{p}_{s}/{c}.nii.gz", T1_T2, PEOPLE, DATES),
    "visits in names, below people": Tree("{p}/{s}_{c}.nii.gz", T1_T2, PEOPLE, ("baseline", "followup")),
    "numbers of visits below people": Tree("{p}/{c}_{s}.nii.gz", T1_T2, PEOPLE, ("V1", "V2")),
    "before and after surgery": Tree("{s}/{p}_{c}.nii.gz", T1_T2, THREE, ("preop", "postop")),
    "before and after": Tree("{s}/{p}_{c}.nii.gz", T1_T2, THREE, ("pre", "post")),
    "series in folders of dates": Tree(
        "{p}/{c}.nii.gz", {"T1_ax": "T1", "T2_tse": "T2"}, DATES_OF_THREE
    ),
    "planes in folders of dates": Tree(
        "{p}/{c}.nii.gz", {"T1_ax": "T1", "T2_ax": "T2"}, DATES_OF_THREE
    ),
    "planes after dates": Tree("{p}_{c}.nii.gz", {"T1_ax": "T1", "T2_ax": "T2"}, DATES_OF_THREE),
    "numbered series in folders of dates": Tree(
        "{p}/{c}.nii.gz", {"3_T1_fl": "T1", "4_T2_blade": "T2"}, DATES_OF_THREE
    ),
    "unknown words of visits": Tree("{p}/{s}_{c}.nii.gz", T1_T2, PEOPLE, ("early", "late")),
    "templates beside patients": Tree(
        "p{p}/{c}.nii.gz",
        T1_T2,
        others=("MNI152/{c}.nii.gz", "x/SymmetricTemplate/{c}_1mm.nii.gz", "atlas_{c}.nii.gz"),
    ),
    "templates beside people": Tree("{c}/{p}.nii.gz", T1_T2, PEOPLE, others=("{c}/MNI152_{c}_2mm.nii.gz",)),
    "patients in a template's space": Tree("{p}/MNI152/{c}.nii.gz", T1_T2, PEOPLE),
    "patients of a set called ATLAS": Tree(
        "{p}/{c}.nii.gz", T1_T2, ["ATLAS/R001", "ATLAS/R002", "OASIS/R104", "OASIS/R105", "OASIS/R106"]
    ),
    "sites with equal names of files": Tree("{p}_{c}.nii.gz", T1_T2, CITIES),
    "groups with equal names of files": Tree(
        "{p}_{c}.nii.gz", T1_T2, [f"{group}/{n}" for group in ("controls", "patients") for n in THREE]
    ),
    "numbered sites with files": Tree("site{p}_{c}.nii.gz", T1_T2, [f"{s}/{n}" for s in "12" for n in THREE]),
    "folds": Tree("{p}_{c}.nii.gz", T1_T2, ("fold0/a1", "fold0/a2", "fold1/b1", "fold1/b2")),
    "slices in one folder": Tree("p{p}_s{k}_{c}.png", T1_T2, slices=SLICES),
    "folders of splits": Tree("{s}/{c}/p{p}_{k}.png", T1_T2, FOUR, ("train",), SLICES),
    "a copy beside": Tree("{c}.nii.gz", {"p1/T1": "T1", "p1/T1 (1)": "", "p1/T2": "T2"}, ("",), subject="one", pair="one"),
    "stripped beside whole": Tree("{p}/{c}.nii.gz", T1_T2 | {"T1_brain": "", "T2_brain": ""}),
    "raw and processed": Tree("{p}/{c}.nii.gz", {"raw/T1": "", "raw/T2": "", "n4/T1": "T1", "n4/T2": "T2"}),
    "folders that only name contrasts": Tree(
        "{c}/{p}/scan.nii.gz", {"Tr1/TrainT1": "T1", "Tr2/TrainT2": "T2"}
    ),
    "a contrast agent": Tree("{p}/{c}.nii.gz", T1_T2 | {"T1gad": "", "T1 post KM": "", "T1ce": ""}),
    "planes glued to contrasts": Tree("{p}/{c}.nii.gz", {"3DT1": "T1", "SAGT2": "T2", "AXFLAIR": ""}),
    "made in another's space": Tree(
        "sub-{p}/{c}.nii.gz", T1_T2 | {"space-T1_FLAIR": "", "FLAIR_to_T1": ""}
    ),
    # pictures, whose patients names do not say
    "two folders": pictures("{c}/{k}.png", CT_MR),
    "sets, then contrasts": pictures("{s}/{c}/{s}{k}.png", CT_MR),
    "contrasts, then sets": pictures("{c}/{s}/{s}{k}.png", CT_MR),
    "sets glued to contrasts": pictures("{s}_{c}/{s}{k}.png", CT_MR),
    "contrasts glued to sets": pictures("{c}_{s}/{s}{k}.png", CT_MR),
    "contrasts in names of files": pictures("{k}_{c}.png", CT_MR),
    "MRI for MR": pictures("{s}/{c}/{s}{k}.png", {"CT": "CT", "MRI": "MR"}),
    "lower case": pictures("{c}/{k}.PNG", {"ct": "CT", "mr": "MR"}),
    "beside labels and masks": pictures("{c}/{k}.png", CT_MR, others=("labels/{k}.png", "masks/{k}.png")),
    "blanks and brackets": pictures("Study 1 (copy)/{c} images/IMG {k}.png", CT_MR),
    "patients in sets": Tree("{s}/p{s}{p}/scan_{c}.png", CT_MR, FOUR, SETS, subject="{s} {p}", domains=("CT", "MR"), split="{s}"),
    "a word and numbers": pictures("{c}/image_{k}.png", CT_MR),
    "nnU-Net's pictures": pictures(
        "imagesTr/p_{k}_{c}.png",
        {"0000": "CT", "0001": "MR"},
        files={"dataset.json": json.dumps({"modality": {"0": "CT", "1": "MR"}})},
    ),
    "setA and setB": pictures("{c}/{k}.png", {"setA": "horse", "setB": "zebra"}),
    "two folders without a contrast": pictures("{c}/{k}.png", {"apples": "A fruit", "oranges": "another"}),
    "words of contrasts": pictures("x/{c}/{k}.png", {"mr_t1_weighted": "T1", "mr_t2_weighted": "T2"}),
    "the second contrast first": pictures("{c}/{k}.png", {"T2": "T2", "T1": "T1"}),
    "a contrast and its agent": pictures("{c}/{k}.png", {"T1": "T1", "T1ce": "T1ce"}),
    # classes of one contrast
    "yes and no": classes("{c}/{k}.png", "yes", "no", patients=("",), pair="{k}"),
    "patients below classes": classes("{c}/p{p}/{c}{k}.png", "ill", "well", subject="{p}"),
    "numbered folders are no classes": classes("{c}/{p}{k}.png", "patient1", "patient2", subject="{c}", label=""),
    # volumes
    "lower and upper case": Tree("p{p}/a_{c}.nii", {"t1w": "T1", "T2w": "T2"}),
    "a site in names": Tree("S-{c}/p{p}-Site-{c}.nii.gz", T1_T2),
    "a contrast agent in a folder of T1": Tree(
        "{c}.nii.gz", {"T1/P1_t1": "T1", "T1/P2_t1_gd": "", "T2/P1_t2": "T2", "T2/P2_flair": ""}, ("P1",), pair="{p}"
    ),
    "all in one folder": Tree("p{p}_{c}.nii.gz", T1_T2),
    "two formats": Tree("p{p}/ses1_{c}", {"T1.nrrd": "T1", "T2.mha": "T2"}),
    "words of masks": Tree(
        "{p}/{c}.nii",
        {"1": "MR", **dict.fromkeys(("1_mask", "segmentation-0", "tumorMask", "x_dseg", "LabelsForTesting", "consensus_gt", "lesions", "Brain.seg", "aseg", "aparc+aseg", "aparc.a2009s+aseg", "wmparc", "lh.ribbon"), "")},
        domains=("MR",),
    ),
    "words of masks in other languages": Tree(
        "p{p}/{c}.nii.gz",
        T1_T2 | dict.fromkeys(("laesion_KM", "Segmentierung", "Tumormaske_T1", "Masken", "masque", "lésions", "étiquettes", "máscara_T2", "segmentaciones", "lesión", "maschere", "segmentazione", "lesioni_T2", "etichetta"), ""),
    ),
    "words that begin as those of masks": Tree("{p}/{c}.nii", {"masked_2": "MR"}, domains=("MR",)),
    # public sets
    "BraTS 2021": Tree("BraTS2021_{p}/BraTS2021_{p}_{c}.nii.gz", BRATS),
    "BraTS 2023": Tree(
        "BraTS-GLI-00{p}-{s}/BraTS-GLI-00{p}-{s}-{c}.nii.gz", BRATS_2023, FOUR, ("000", "001")
    ),
    "BraTS 2018": Tree("HGG/Brats18_{p}/Brats18_{p}_{c}.nii.gz", BRATS, ("2013_2_1", "TCIA01_1_1")),
    "IXI": Tree("{p}-{c}.nii.gz", T1_T2, ["IXI012-HH-1211", "IXI002-Guys-0828", "IXI013-HH-1212"]),
    "IXI in two folders": Tree("IXI-{c}/{p}-{c}.nii.gz", T1_T2, ["IXI012-HH-1211", "IXI002-Guys-0828"]),
    "HCP": Tree("{p}/T1w/{c}_acpc_dc_restore.nii.gz", HCP, ["100307", "100408", "101107"]),
    "HCP with MNI": Tree(
        "{p}/T1w/{c}_acpc_dc_restore.nii.gz",
        HCP,
        ["100307", "100408", "101107"],
        others=("{p}/MNINonLinear/{c}_restore.nii.gz",),
    ),
    "ADNI": Tree(
        "ADNI/{p}/{c}/2011-06-02/I239487/scan.nii.gz",
        {"MPRAGE": "T1", "T2_TSE": "T2"},
        ["002_S_0295", "002_S_0413", "011_S_0021"],
    ),
    "SynthRAD": Tree("1BA{p}/{c}.mha", SYNTHRAD, domains=("MR", "CT")),
    "SynthRAD by region": Tree(
        "Task1/{p}/{c}.mha",
        SYNTHRAD,
        ["HN/1HNA001", "HN/1HNA005", "AB/1ABA001"],
        domains=("MR", "CT"),
    ),
    "CHAOS": Tree(
        "MR/{p}/{c}/InPhase.nii.gz", {"T1DUAL": "T1", "T2SPIR": "T2"}, ("1", "2", "3")
    ),
    "CHAOS with both phases": Tree(
        "MR/{p}/{c}.nii.gz", {"T1DUAL/InPhase": "T1", "T1DUAL/OutPhase": "", "T2SPIR/T2SPIR": "T2"}
    ),
    "AutoPET": Tree(
        "PETCT_{p}/{s}-NA-PET-CT/{c}.nii.gz",
        {"CTres": "CT", "SUV": "PET", "CT": "", "PET": "", "SEG": ""},
        ("0011f3deaf", "01140d52d8"),
        ("03-23-2003",),
        domains=("CT", "PET"),
    ),
    "nnU-Net": Tree(
        "imagesTr/case_{p}_{c}.nii.gz",
        {"0000": "T1", "0001": "T2"},
        files={"dataset.json": json.dumps({"channel_names": {"0": "T1", "1": "T2"}})},
    ),
    "some channels of nnU-Net": Tree(
        "imagesTr/p_{p}_{c}.nii",
        {"0000": "", "0001": "T1ce", "0002": "T2", "0003": ""},
        domains=("T2", "T1ce"),
        files={"dataset.json": json.dumps({"channel_names": {"0": "T1", "1": "T1-Gd", "2": "T2", "3": "alpha"}})},
    ),
    "one volume a file below a dataset.json": Tree(
        "case_{p}/{c}.nii.gz",
        T1_T2,
        files={"dataset.json": json.dumps({"channel_names": {"0": "T1", "1": "T2"}})},
    ),
    "runs and agents of BIDS": Tree(
        "sub-{p}/anat/sub-{p}_{c}.nii.gz",
        {"T1w": "T1", "run-2_T1w": "", "ce-gadolinium_T1w": "T1ce", "T2w": ""},
        domains=("T1", "T1ce"),
        others=("derivatives/prep/sub-{p}/anat/sub-{p}_space-MNI_T1w.nii.gz",),
    ),
    "UPENN-GBM": Tree(
        "UPENN-GBM-00{p}_11/UPENN-GBM-00{p}_11_{c}.nii.gz",
        T1_T2 | {"T1GD": "", "FLAIR": "", "segm": "", "tumour": ""},
    ),
    "UCSF-PDGM": Tree(
        "UCSF-PDGM-{p}_nifti/UCSF-PDGM-{p}_{c}.nii.gz",
        T1_T2 | {"T1c": "", "FLAIR": "", "tumor_segmentation": ""},
    ),
    "OASIS": Tree(
        "OAS1_{p}_MR1/{c}.nii.gz", {"T1w": "T1", "T2w": "T2"}, ("0001", "0002", "0003")
    ),
    "folders of sequences": Tree(
        "{c}/{p}.nii.gz", {"SE_T1": "T1", "TSE_T2": "T2"}, ("P01", "P02", "P03"), pair="{p}"
    ),
    "sites with letters": Tree(
        "{p}_{c}.nii.gz",
        T1_T2,
        ["siteA/case001", "siteB/case002", "siteA/case003", "siteB/case004"],
    ),
    "channels below sites with letters": Tree(
        "{p}_{c}.nii.gz",
        {"0000": "A", "0001": "B"},
        ["siteA/case001", "siteB/case002", "siteA/case003", "siteB/case004"],
        domains=("A", "B"),
    ),
    "hospitals side by side": Tree(
        "{p}/{c}.nii.gz",
        T1_T2,
        ["lyon/D01", "lyon/D02", "boston/MS1/baseline", "boston/MS2/baseline"],
        subject="{p}",
    ),
    "pix2pix by name": Tree("{s}{c}/{p}.png", {"A": "A", "B": "B"}, FOUR, ("train", "test"), domains=("A", "B"), subject="", pair="{p} {s}", split="{s}"),
}  # fmt: skip


def groups(paths_of: dict[str, str]) -> set[frozenset[str]]:
    """The paths that share a value; those with an empty one are left out."""
    found: dict[str, set[str]] = defaultdict(set)
    for path, value in paths_of.items():
        found[value].add(path)
    return {frozenset(paths) for value, paths in found.items() if value}


# trees that gantk asks about: one of its proposals gives the right table
ASKED = {
    "slices counted in the last digits",
    "a map of each slice, in its name",
    "visits of people",
    "numbered visits of people",
    "numbered volunteers",
    "folders of volunteers",
    "two sites with equal numbers",
    "two sites and a third contrast",
    "numbers of visits below people",
    "series in folders of dates",
    "planes in folders of dates",
    "planes after dates",
    "numbered series in folders of dates",
    "unknown words of visits",
    "patients of a set called ATLAS",
    "sites with equal names of files",
    "groups with equal names of files",
    "a contrast agent in a folder of T1",
    "SynthRAD by region",
    "times of studies, as dcm2niix names them",
    "raw and processed",
    "side files of each folder",
}
# of these none does: a line that the user writes, or a table
TOLD = {
    "both echoes of a series",
    "both echoes without a time",
    "two folders without a contrast",
    "channels below sites with letters",
    "hospitals side by side",
}
STRAYS = (
    "{folder}{stem}_old{suffix}",
    "{folder}{stem} (1){suffix}",
    "{folder}old/{stem}{suffix}",
    "{folder}localizer{suffix}",
    "test.nii.gz",
)


def read(root: Path, paths: list[str], domains: tuple[str, ...], **options):
    """The rows of the domains by path, as a training reads them."""
    files = [root / path for path in paths]
    asked = Asked(domains, **options)
    catalog = read_folder(root, files, asked, [*files, *root.rglob("*.json")])
    return {
        row.path.relative_to(root).as_posix(): row
        for row in catalog.of_kind("image")
        if row.contrast in domains
    }


def is_right(found, tree: Tree) -> bool:
    """Whether rows are those of a tree; two contrasts of which pairs are known are pairs."""
    expected = tree.rows()
    facts = {path: (row.contrast, row.split, row.label) for path, row in found.items()}
    subjects = groups({path: row.subject for path, row in found.items()})
    pairs = groups({path: row.pair for path, row in found.items()})
    two = len(tree.domains) == 2
    return (
        facts == {path: (row[0], row[3], row[4]) for path, row in expected.items()}
        and subjects == groups({path: row[1] for path, row in expected.items()})
        and (not two or pairs == groups({path: row[2] for path, row in expected.items()}))
    )


@pytest.mark.parametrize("name", TREES)
def test_a_tree_gives_the_table_of_a_careful_person(tmp_path, name):
    tree = TREES[name]
    for file, content in tree.files.items():
        (tmp_path / file).write_text(content)
    try:
        found = read(tmp_path, tree.paths(), tree.domains)
    except LayoutQuestion as question:
        assert name in ASKED | TOLD
        assert len(question.readings) <= 3
        lines = [reading.layout for reading in question.readings]
        found = [read(tmp_path, tree.paths(), tree.domains, layout=line) for line in lines]
        assert any(is_right(each, tree) for each in found) == (name in ASKED)
        return
    assert name not in ASKED | TOLD
    assert is_right(found, tree)


def test_no_proposal_takes_the_number_of_a_slice_for_a_patient(tmp_path):
    tree = TREES["a map of each slice, in its name"]
    with pytest.raises(LayoutQuestion) as raised:
        read(tmp_path, tree.paths(), tree.domains)
    patients = [len({row.subject for row in each.rows}) for each in raised.value.readings]
    assert patients == [6] * len(patients)


@pytest.mark.parametrize("place", ["site", "center_", "hospital", "scanner", "Patient "])
@pytest.mark.parametrize("suffix", [".png", ".nii.gz"])
def test_a_letter_of_a_site_or_patient_is_no_domain(tmp_path, place, suffix):
    paths = [f"{place}{letter}/{n:03d}{suffix}" for letter in "AB" for n in range(3)]
    with pytest.raises(LayoutQuestion):
        read(tmp_path, paths, ("A", "B"))


def test_no_proposal_names_the_folder_of_one_patient(tmp_path):
    paths = [f"HG{n:04d}/scan_{n}.nii.gz" for n in range(1, 5)]
    tumour = ["HG0001/T1_tumour.nii.gz", "HG0001/T2_tumour.nii.gz"]
    with pytest.raises(LayoutQuestion) as raised:
        read(tmp_path, [*paths, *tumour], ("T1", "T2"))
    assert raised.value.readings
    assert not any("HG" in reading.layout for reading in raised.value.readings)


@pytest.mark.parametrize("stray", STRAYS)
@pytest.mark.parametrize("name", TREES)
def test_a_stray_file_never_changes_a_table_in_silence(tmp_path, name, stray):
    tree = TREES[name]
    volume = next((path for path in sorted(tree.rows()) if path.endswith(".nii.gz")), "")
    folder, _, file = volume.rpartition("/")
    if not volume or tree.files:
        return
    known = {"folder": folder and f"{folder}/", "stem": file[:-7], "suffix": ".nii.gz"}
    paths = [*tree.paths(), stray.format(**known)]
    try:
        found = read(tmp_path, paths, tree.domains)
    except LayoutQuestion:
        return
    assert is_right(found, tree)


# each of different dates: (patient, dates)
VISITS = {"Meier_Hans": DATES, "Schulz_Eva": ("20180105", "20190706"), "0042": ("20210909",)}


@pytest.mark.parametrize(
    "pattern",
    ["{d}_{p}_{c}", "{p}_{d}_{c}", "{p}_{c}_{d}", "{p}/{d}_{c}", "{p}/{d}/{c}", "{p}_{d}/{c}"]
    + ["{d}_{p}/{c}", "{d}/{p}/{c}", "{d}/{p}_{c}"],
)
@pytest.mark.parametrize("written", ["{0}{1}{2}", "{0}{1}{2}101500", "{2}.{1}.{3}"])
def test_a_date_is_neither_a_patient_nor_a_part_of_one(tmp_path, pattern, written):
    names = {}
    for patient, dates in VISITS.items():
        for each in dates:
            date = written.format(each[:4], each[4:6], each[6:], each[2:4])
            for contrast in ("T1", "T2"):
                names[f"{pattern.format(p=patient, d=date, c=contrast)}.nii.gz"] = patient, date
    try:
        found = read(tmp_path, [*names], ("T1", "T2"))
    except LayoutQuestion:
        return
    by_patient = {path: patient for path, (patient, _) in names.items()}
    by_visit = {path: f"{patient} {date}" for path, (patient, date) in names.items()}
    assert groups({path: row.subject for path, row in found.items()}) == groups(by_patient)
    assert groups({path: row.pair for path, row in found.items()}) == groups(by_visit)


# line -> of these paths those that it takes, as contrast, patient and visit; all else is left out
LINES = {
    "{patient}/{visit}/{contrast}.nii.gz": {"p1/2019/T1.nii.gz": ("T1", "p1", "2019")},
    "{patient}_*_{contrast}": {"p2_x_T2.nii.gz": ("T2", "p2", "")},
    "{site}/{patient}/*{contrast}*": {"p1/2019/T1.nii.gz": ("T1", "p1/2019", "")},
    "derivatives/{patient}_{contrast}_brain.nii.gz": {
        "derivatives/p3_T1_brain.nii.gz": ("T1", "p3", "")
    },
}


@pytest.mark.parametrize("line", LINES)
def test_a_given_line_takes_what_it_fits(line):
    paths = ["p1/2019/T1.nii.gz", "p2_x_T2.nii.gz", "derivatives/p3_T1_brain.nii.gz", "test.nii.gz"]
    reading = read_by(line, paths, ("T1", "T2"), ContrastWords(("T1", "T2")))
    found = {row.scan.name: (row.contrast, row.subject, row.session) for row in reading.rows}
    assert found == LINES[line]
    assert {*reading.left_out} == {*paths} - {*LINES[line]}


@pytest.mark.parametrize(
    ("line", "says"), [("{paitent}/{contrast}", "no field '{paitent}'"), ("[{patient}", "bracket")]
)
def test_a_wrong_line_names_its_mistake(line, says):
    with pytest.raises(UserError, match=says):
        read_by(line, ["a.nii"], (), ContrastWords())


@pytest.mark.parametrize(
    "word", ["val", "valid", "validation", "Val", "dev", "imagesVal", "val_set"]
)
def test_folders_of_validation_are_no_training(word):
    splits = [take_split(f"{folder}/p1/x")[1] for folder in ("train", word, "test")]
    assert splits == ["train", "validation", "test"]


def test_kinds_that_are_not_read_are_rows_and_a_note(tmp_path, pictures):
    for domain in ("T1", "T2"):
        pictures(tmp_path / domain, 4)
        (tmp_path / domain / "more.gif").write_bytes(b"GIF89a")
        (tmp_path / domain / "more.webp").write_bytes(b"RIFF")
    source = Files(("T1", "T2"), 2, (16, 16), path=str(tmp_path))

    assert len(source.records()) == 8
    assert len(source.catalog.of_kind("other")) == 4
    assert "4 files of kinds that gantk does not read: GIF (2), WEBP (2)" in " ".join(source.notes)


SERIES = {
    "FLAIR T1": "t1",
    "Ax T1 FLAIR +C": "t1ce",
    "AX T1 MPRAGE w/o contrast": "t1",
    "t2_tirm_tra_dark-fluid": "flair",
    "T1 map": "t1map",
    "t1_subtraction": "subtraction",
    "t2_fl2d_tra_hemo": "t2star",
    "PET MRAC": "",
}


@pytest.mark.parametrize("text", SERIES)
def test_a_series_says_its_contrast(text):
    assert contrast_of_series("MR", ["sag", text]) == SERIES[text]
    assert contrast_of_series("CT", [text]) == "ct"


@pytest.mark.parametrize("kinds", [("LDCT", "NDCT"), ("low", "full")])
def test_words_tell_kinds_of_ct_apart(kinds):
    for kind in kinds:
        assert shown_by_series("CT", [kind, "", "low dose study"], kinds) == kind
