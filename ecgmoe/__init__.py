"""ECG-MoE, reproduced: recordings, beats, five backbones and a mixture of experts over them.

Import the parts by name (``from ecgmoe import beats, datasets``); importing the package alone loads nothing heavy.
"""

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ecgmoe.prediction import Predictor

__version__ = "0.1.0"


def load(name: "str | os.PathLike[str]" = "compact-ptbxl") -> "Predictor":
    """Load a trained model: :func:`ecgmoe.prediction.load`."""
    from ecgmoe import prediction

    return prediction.load(name)
