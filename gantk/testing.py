"""Contract tests for bundled parts and for plugins: `from gantk.testing import MethodContract`; see
`gantk_testing`.
"""

from gantk_testing import *  # noqa: F403
from gantk_testing import __all__ as __all__
