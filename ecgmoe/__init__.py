"""ECG-MoE, reproduced: recordings, beats, five backbones and a mixture of experts over them.

Import the parts by name (``from ecgmoe import beats, datasets``); importing the package alone loads nothing heavy.
"""

__version__ = "0.1.0"
