"""How images and networks lie in memory."""

from __future__ import annotations

import torch

# Channels-last, by the number of spatial dimensions.
CHANNELS_LAST = {2: torch.channels_last, 3: torch.channels_last_3d}
