"""Contract tests for parts of gantk and of plugins. A subclass names a registered part, and pytest
checks it.

Example:

    from gantk.testing import MethodContract

    class TestMyGAN(MethodContract):
        method = "mygan"

The tests need pytest. They run on the CPU with small networks and small random images, in seconds.
"""

import pytest

pytest.register_assert_rewrite("gantk.testing.methods", "gantk.testing.parts", "gantk.testing.data")

from gantk.testing.data import FormatContract, MetricContract, SourceContract  # noqa: E402  (after the line above)
from gantk.testing.methods import MethodContract  # noqa: E402
from gantk.testing.parts import DiscriminatorContract, GeneratorContract, LossContract  # noqa: E402

__all__ = [
    "DiscriminatorContract",
    "FormatContract",
    "GeneratorContract",
    "LossContract",
    "MethodContract",
]
__all__ += ["MetricContract", "SourceContract"]
