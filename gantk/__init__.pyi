"""Type information of gantk's public names, which are loaded at first use."""

from gantk.api import evaluate as evaluate
from gantk.api import export as export
from gantk.api import load as load
from gantk.api import resume as resume
from gantk.api import run as run
from gantk.api import sample as sample
from gantk.api import translate as translate
from gantk.catalog.catalog import Catalog as Catalog
from gantk.catalog.catalog import Row as Row
from gantk.data.augment import Augmentation as Augmentation
from gantk.data.batches import Batches as Batches
from gantk.data.check.check import check as check
from gantk.data.dataset import Data as Data
from gantk.data.preparation import Record as Record
from gantk.data.recipe_data import checked_recipe as checked_recipe
from gantk.data.sources.source import ImageSource as ImageSource
from gantk.data.sources.source import VolumeSource as VolumeSource
from gantk.errors import GantkError as GantkError
from gantk.errors import GantkWarning as GantkWarning
from gantk.errors import Interrupted as Interrupted
from gantk.errors import UserError as UserError
from gantk.exports.exporting import Direction as Direction
from gantk.formats.archives import unpack as unpack
from gantk.inference.model import Model as Model
from gantk.method import Batch as Batch
from gantk.method import Geometry as Geometry
from gantk.method import Method as Method
from gantk.method import Phase as Phase
from gantk.method import Stage as Stage
from gantk.metrics.compare_folders import compare as compare
from gantk.metrics.compare_models import compare_models as compare_models
from gantk.metrics.comparing import compare_systems as compare_systems
from gantk.metrics.comparing import correct_tests as correct_tests
from gantk.nets.pretrained import timm_model as timm_model
from gantk.nets.unet import UNet as UNet
from gantk.planning.recipe import plan as plan
from gantk.plugin.hookspecs import ReportSection as ReportSection
from gantk.plugin.hookspecs import hookimpl as hookimpl
from gantk.plugin.hookspecs import hookspec as hookspec
from gantk.plugin.loader import registry as registry
from gantk.plugin.spec import AdversarialLoss as AdversarialLoss
from gantk.plugin.spec import Augment as Augment
from gantk.plugin.spec import Discriminator as Discriminator
from gantk.plugin.spec import FeatureMapLoss as FeatureMapLoss
from gantk.plugin.spec import Generator as Generator
from gantk.plugin.spec import Loss as Loss
from gantk.plugin.spec import Part as Part
from gantk.plugin.spec import SourceLoss as SourceLoss
from gantk.prepare.grid import resample_onto as resample_onto
from gantk.recipe.load import Recipe as Recipe
from gantk.recipe.load import load_recipe as load_recipe
from gantk.report.markdown import Markdown as Markdown
from gantk.report.markdown import code_span as code_span
from gantk.report.markdown import escape_markdown as escape_markdown
from gantk.report.markdown import markdown_table as markdown_table
from gantk.report.markdown import score_table as score_table
from gantk.report.notebook import Run as Run
from gantk.report.patients.comparing import write_report as write_report
from gantk.report.run_record import RunRecord as RunRecord
from gantk.training.adaptive import DiscriminatorAugment as DiscriminatorAugment
from gantk.training.begin import training as training
from gantk.training.loop import Step as Step
from gantk.training.loop import Training as Training
from gantk.training.pool import ImagePool as ImagePool
from gantk.training.trial import predict as predict

__version__: str
__all__: list[str]

# functions of plugins, such as gantk.explain
def __getattr__(name: str): ...
