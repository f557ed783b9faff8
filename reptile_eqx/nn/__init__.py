"""Networks of the paper, and the convolutions and norms that make them fast and differentiable to any order."""

from .networks import ConvBlock, ConvNetwork, MiniImageNetNetwork, OmniglotNetwork, over_and_over, sine_network

__all__ = ["ConvBlock", "ConvNetwork", "MiniImageNetNetwork", "OmniglotNetwork", "over_and_over", "sine_network"]


def __dir__() -> list[str]:
    return __all__
