"""Splits into training, validation and test: read from a file or drawn, and checked for leaks and
copies.
"""

from gantk.data.split.near_duplicates import SETS
from gantk.data.split.recorded import (
    Hash,
    describe_images,
    read_splits,
    split_json,
)
from gantk.data.split.split import (
    Splits,
    consequences,
    few_test_patients,
    held_out_patients,
    patients_who_lack,
    split_records,
    unpair,
)
from gantk.recipe.tables import SplitTable

__all__ = [
    "Hash",
    "SETS",
    "SplitTable",
    "Splits",
    "consequences",
    "describe_images",
    "few_test_patients",
    "held_out_patients",
    "patients_who_lack",
    "read_splits",
    "split_json",
    "split_records",
    "unpair",
]
