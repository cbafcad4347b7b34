"""Contract tests for bundled parts and for plugins: `from gantk.testing import MethodContract`; see `gantk_testing`."""

from gantk_testing import DiscriminatorContract as DiscriminatorContract
from gantk_testing import FormatContract as FormatContract
from gantk_testing import GeneratorContract as GeneratorContract
from gantk_testing import LossContract as LossContract
from gantk_testing import MethodContract as MethodContract
from gantk_testing import MetricContract as MetricContract
from gantk_testing import SourceContract as SourceContract
