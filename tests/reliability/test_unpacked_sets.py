"""Data sets as archives unpack them: the images of both domains, no others, whose they are and which
belong together, by names alone; or a question, one of whose answers is this.
"""

from itertools import product

import numpy as np
import pytest
from volumes import volume

from gantk import checked_recipe
from gantk.catalog.question import LayoutQuestion, as_setting
from gantk.data.dataset import source_and_records

# Below folders of five patients, names of T1 and T2; those in brackets are neither, or are made
# from them.
UNPACKED = {
    "MICCAI_Set2020_TrainingData/HGG/S20_Training_00{p}": (
        "S20_00{p}_t1 S20_00{p}_t2 (S20_00{p}_t1ce) (S20_00{p}_seg)"
    ),
    "Set{o}_Train/S-0000{p}-00{v}": "S-0000{p}-00{v}-t1n S-0000{p}-00{v}-t2w (S-0000{p}-00{v}-t2f)",
    "Set-v3/A-00{p}_nifti": (
        "A-00{p}_T1 (A-00{p}_T1_bias) (A-00{p}_T1_brain_mask) A-00{p}_T2 (A-00{p}_tumor_seg)"
    ),
    "10{p}/unprocessed/3T": (
        "T1w_MPR1/10{p}_T1w_MPR1 (T1w_MPR1/10{p}_AFI) T2w_SPC1/10{p}_T2w (T2w_SPC1/10{p}_BIAS)"
    ),
    "Imaging/Patient-{p}/week-00{v}-1": (
        "T1 T2 (CT1) (auto/native/t1_skull_strip) (auto-seg/ct1_seg_mask)"
    ),
    "Export/Doe_{o}/2020010{v} Head": "3_T1_TSE_ax 4_T2_TSE_ax (5_T1_TSE_ax_KM) (6_T2_FLAIR_ax)",
    "training0{p}/pre": (
        "training0{p}_0{v}_t1_pp training0{p}_0{v}_t2_pp (training0{p}_0{v}_pd_pp) (../m/t_mask1)"
    ),
    "ds-download": (
        "sub-0{p}/anat/sub-0{p}_T1w sub-0{p}/anat/sub-0{p}_T2w"
        " (derivatives/x/sub-0{p}/anat/sub-0{p}_T1w)"
    ),
    "disc{o}/S_00{p}_MR{v}": "S_00{p}_mr_T1 S_00{p}_mr_T2 (S_00{p}_mr_T1_rectified) (S_00{p}_ct)",
    "all": "set_{p}_mr_T1 set_{p}_mr_T2 (set_{p}_mr_T1_rectified) (set_{p}_ct)",
    "1{p}1/T1w": (
        "T1w_acpc (T1w_acpc_restore) T2w_acpc (ribbon_mask) (../MNI/T1w) (../MNI/T1w_brain)"
        " (../MNI/T2w)"
    ),
    "WMH/GE3T/1{p}": "pre/T1 pre/T2 (orig/T1) (orig/T2) (orig/3DT1)",
    "raw/p{p}": "(p{p}_T1) (p{p}_T2) ../../processed/p{p}/p{p}_T1_n4 ../../processed/p{p}/p{p}_T2",
    "set_1/case_0{p}": "case_0{p}_T1 case_0{p}_T2 (case_0{p}_Brainstem.seg)",
}
VISITS = """data/P0{p}/month0{v} p{p}/2020-01-0{v}/3 p{p}_V{v}/scan{v} OAS3000{p}_MR_d01{v}0/anat{v} S-0000{p}-00{v}
ses-{v}/p{p} GBM-0000{p}_1{v} site{p}/p1_m{v} HGG/s_tcia_pat10{p}_00{v}9 PDGM-000{p}_FU00{v}d_nifti PT-000{p}_0{v}"""
UNPACKED |= dict.fromkeys(VISITS.split(), "T1 T2")
IN_FILES = (
    "training0{p}_0{v} A_002_S_0{p}29_br_200604181{v}_I1{v} G-000{p}_{v}1_x 100{p}_time{v}"
    " m_18{p}_AD_0{v}_MR_1"
)
UNPACKED |= {
    letter: f"{name}_T1 {name}_T2" for letter, name in zip("CDEFG", IN_FILES.split(), strict=True)
}


# set -> of those that are asked about, the proposal that is right
ASKED = {
    "Set{o}_Train/S-0000{p}-00{v}": "{site}/S-{patient}-{visit}/*{contrast}*.nii",
    "10{p}/unprocessed/3T": "{patient}/unprocessed/3T/*/*{contrast}*.nii",
    "Imaging/Patient-{p}/week-00{v}-1": "Imaging/{patient}/{visit}/{contrast}.nii",
    "Export/Doe_{o}/2020010{v} Head": "Export/{patient}/{visit}/*{contrast}*.nii",
    "training0{p}/pre": "{site}/pre/{patient}_{visit}_{contrast}_pp.nii",
    "disc{o}/S_00{p}_MR{v}": "{site}/S_{patient}_{visit}/S_*_mr_{contrast}.nii",
    "all": "all/set_{patient}_mr_{contrast}.nii",
    "1{p}1/T1w": "{patient}/T1w/*{contrast}*.nii",
    "WMH/GE3T/1{p}": "WMH/GE3T/{patient}/pre/{contrast}.nii",
    "raw/p{p}": "processed/{patient}/*{contrast}*.nii",
    "p{p}_V{v}/scan{v}": "{patient}_{visit}/*/{contrast}.nii",
    "OAS3000{p}_MR_d01{v}0/anat{v}": "{patient}_MR_{visit}/*/{contrast}.nii",
    "S-0000{p}-00{v}": "S-{patient}-{visit}/{contrast}.nii",
    "GBM-0000{p}_1{v}": "GBM-{patient}_{visit}/{contrast}.nii",
    "PDGM-000{p}_FU00{v}d_nifti": "PDGM-{patient}_{visit}_nifti/{contrast}.nii",
    "PT-000{p}_0{v}": "PT-{patient}_{visit}/{contrast}.nii",
    "C": "C/{patient}_{visit}_{contrast}.nii",
    "E": "E/G-{patient}_{visit}_x_{contrast}.nii",
    "F": "F/{patient}_{visit}_{contrast}.nii",
    "G": "G/m_{patient}_AD_{visit}_MR_1_{contrast}.nii",
}


def read(folder, *settings):
    """The records by path, as a training reads them."""
    _, model = checked_recipe("dualgan_t1t2", folder, [*settings], None)
    _, records = source_and_records(model.data, model.method.target)
    return {record.path.resolve(): record for record in records}


def groups(value_of):
    """Which paths share a value, whatever it is."""
    found = {}
    for path, value in value_of.items():
        found.setdefault(value, set()).add(path)
    return sorted(map(sorted, found.values()))


@pytest.mark.parametrize("place", UNPACKED)
def test_unpacked_data_sets_keep_images_and_patients_or_ask(tmp_path, place):
    real = {}
    for (p, v), name in product(np.ndindex(5, 2), UNPACKED[place].split()):
        path = tmp_path / f"{place}/{name.strip('()')}.nii".format(p=p, v=v, o="ABCDE"[p])
        visit = v if "{v}" in place + name else 0
        real[volume(path, 10 * p + v, shape=(8, 8, 8)).resolve()] = name[0] != "(", p, visit
    wanted = {path: (p, visit) for path, (is_wanted, p, visit) in real.items() if is_wanted}

    for source in ("", "=folders", "=nifti") if UNPACKED[place] == "T1 T2" else ("",):
        settings = [f"data.source.name{source}"] if source else []
        try:
            found = read(tmp_path, *settings)
            assert place not in ASKED
        except LayoutQuestion as question:
            proposals = [reading.layout for reading in question.readings]
            assert ASKED.get(place) in proposals
            assert len(proposals) <= 3
            found = read(tmp_path, *settings, as_setting(ASKED[place]))

        assert sorted(found) == sorted(wanted)
        assert all(("t1" in path.stem.lower()) == (found[path].domain == "a") for path in found)
        subjects = {path: record.subject for path, record in found.items()}
        assert groups(subjects) == groups({path: p for path, (p, _) in wanted.items()})
        assert groups({path: record.pair for path, record in found.items()}) == groups(wanted)
