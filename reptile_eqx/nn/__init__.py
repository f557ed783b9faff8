"""Networks of the paper, and the convolutions and norms that make them fast and differentiable to any order."""

from .networks import ConvBlock, MiniImageNetNetwork, OmniglotNetwork, sine_network

__all__ = ["ConvBlock", "MiniImageNetNetwork", "OmniglotNetwork", "sine_network"]
