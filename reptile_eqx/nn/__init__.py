"""Networks of the paper, and the convolutions and norms that make them fast and differentiable to any order."""

from .networks import ConvBlock as ConvBlock
from .networks import MiniImageNetNetwork as MiniImageNetNetwork
from .networks import OmniglotNetwork as OmniglotNetwork
from .networks import sine_network as sine_network
