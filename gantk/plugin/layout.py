"""A layout: one line with fields that explains the names of a folder's files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Literal


@dataclass(frozen=True)
class Layout:
    """A line such as `{patient}/{visit}/*{contrast}*`, without suffix.

    Attributes:
        pattern: the line; `gantk.catalog.layouts` has the fields.
        text: what it is of, in a sentence.
        of: the kind of files that it is tried on.
        general: whether it is one of gantk's own lines, and not that of a data set, which is
            compared letter by letter and tried first.
        one_patient: whether all files are of one patient, so that each contrast has one file.
        one_domain: whether it is only tried for recipes of one domain.
        words: contrast -> the only word for it in this data set; all other images of the set are left
            out.
    """

    pattern: str
    text: str = ""
    of: Literal["any", "volumes", "pictures"] = "any"
    general: bool = False
    one_patient: bool = False
    one_domain: bool = False
    words: Mapping[str, str] = field(default_factory=dict)


_general = partial(Layout, general=True)
_of_one_domain = partial(_general, one_domain=True, of="pictures")

# The lines that are tried on every folder. `_` is any separator in them, and each field has its type.
GENERAL = {
    "patients": _general(
        "[{site}/]{patient}/[{visit}/]*{contrast}*",
        "One folder for each patient, one file for each contrast.",
    ),
    "visits": _general(
        "{visit}/{patient}/*{contrast}*",
        "A folder for each visit, then for each patient.",
        "volumes",
    ),
    "series": _general(
        "[{site}/]{patient}/[{visit}/]*{contrast}*/{name}", "A folder for each series of a patient."
    ),
    "one_folder": _general(
        "[{site}/][{visit}/]{patient}_{contrast}*", "All volumes in one folder.", "volumes"
    ),
    "contrast_first": _general(
        "{contrast}_{patient}", "All volumes in one folder, the contrast first.", "volumes"
    ),
    "contrasts": _general(
        "*{contrast}*/{patient}", "A folder of volumes for each contrast.", "volumes"
    ),
    "contrasts_patients": _general(
        "*{contrast}*/{patient}/{name}", "A folder for each contrast, then for each patient."
    ),
    "contrasts_slices": _general(
        "*{contrast}*/{person}_{slice}",
        "A folder of pictures for each contrast; names have the patient.",
        "pictures",
    ),
    "contrasts_pictures": _general(
        "*{contrast}*/{running}",
        "A folder of numbered pictures for each contrast; patients are not known.",
        "pictures",
    ),
    "one_patient": Layout(
        "*{contrast}*", "All files are of one patient.", "volumes", general=True, one_patient=True
    ),
    "one_patient_series": Layout(
        "*{contrast}*/{name}",
        "A folder for each series of one patient.",
        "volumes",
        general=True,
        one_patient=True,
    ),
    "slices": _general("{person}_{slice}_{contrast}", "Slices in one folder.", "pictures"),
    "pictures": _general(
        "{running}_{contrast}",
        "Numbered pictures in one folder; patients are not known.",
        "pictures",
    ),
    "a_and_b_slices": _general(
        "{ab}/{person}_{slice}", "trainA and trainB; names have the patient.", "pictures"
    ),
    "a_and_b": _general("{ab}/{running}", "trainA and trainB; patients are not known.", "pictures"),
    "classes_patients": _of_one_domain(
        "{class}/{patient}/{name}", "A folder for each class, then for each patient."
    ),
    "classes": _of_one_domain("{class}/{running}", "A folder of numbered pictures for each class."),
    "yes_and_no": _of_one_domain(
        "{yesno}/{picture}", "Folders such as yes and no; patients are not known."
    ),
    "patients_images": _of_one_domain("{patient}/{name}", "A folder for each patient.", of="any"),
    "volumes": _of_one_domain("{patient}", "A volume for each patient.", of="volumes"),
    "person_slices": _of_one_domain("{person}_{slice}", "Pictures; names have the patient."),
    "numbers": _of_one_domain("{running}", "Numbered pictures; patients are not known."),
}
# Data sets whose files are called as their authors call them, compared letter by letter.
DATA_SETS = {
    "brats2018": Layout(
        "[{site}/]Brats18_{patient}/Brats18_{patient}_{contrast}",
        "BraTS 2018 (Bakas et al., 2018).",
    ),
    "brats2019": Layout(
        "[{site}/]BraTS19_{patient}/BraTS19_{patient}_{contrast}",
        "BraTS 2019 (Bakas et al., 2018).",
    ),
    "brats2020": Layout(
        "BraTS20_{patient}/BraTS20_{patient}_{contrast}", "BraTS 2020 (Bakas et al., 2018)."
    ),
    "brats2021": Layout(
        "BraTS2021_{patient}/BraTS2021_{patient}_{contrast}", "BraTS 2021 (Baid et al., 2021)."
    ),
    "brats2023": Layout(
        "BraTS-{site}-{patient}-{visit}/BraTS-{site}-{patient}-{visit}-{contrast}",
        "BraTS 2023 and later (Adewole et al., 2023).",
    ),
    "upenn_gbm": Layout(
        "UPENN-GBM-{patient}_{visit}/UPENN-GBM-{patient}_{visit}_{contrast}",
        "UPENN-GBM (Bakas et al., 2022).",
    ),
    "ucsf_pdgm": Layout(
        "UCSF-PDGM-{patient}_nifti/UCSF-PDGM-{patient}_{contrast}",
        "UCSF-PDGM (Calabrese et al., 2022).",
    ),
    "chaos": Layout(
        "[MR/]{patient}/{contrast}[/*]",
        "CHAOS, MR in phase (Kavur et al., 2021).",
        words={"T1": "T1DUAL/InPhase", "T2": "T2SPIR"},
    ),
    "autopet": Layout(
        "[**/]PETCT_{patient}/{visit}/{contrast}",
        "FDG-PET-CT-Lesions of autoPET, CT on the grid of PET (Gatidis et al., 2022).",
        words={"CT": "CTres", "PET": "SUV"},
    ),
    "ixi": Layout("[IXI-*/]IXI{patient}-{site}-*-{contrast}", "IXI, brain-development.org."),
    "isbi2015": Layout(
        "training{patient}/preprocessed/training{patient}_{visit}_{contrast}_pp",
        "Longitudinal MS lesions of ISBI 2015 (Carass et al., 2017).",
    ),
    "hcp": Layout(
        "{patient}/T1w/{contrast}_acpc_dc_restore",
        "Human Connectome Project, structural (Glasser et al., 2013).",
    ),
}
