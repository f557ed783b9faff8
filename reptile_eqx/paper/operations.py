"""Floating-point operations of trainings, counted by hand from the layers of their networks."""

from collections.abc import Callable
from typing import Any

from ..datasets import FACTS
from ..nn import MiniImageNetNetwork, OmniglotNetwork
from .experiments import FewShotClassification, SineRegression

# Channels of the images, filters, the rows and columns that each convolution fills, and features of the head.
_CONVOLUTIONS: dict[Callable[..., Any], tuple[int, int, tuple[int, ...], int]] = {
    OmniglotNetwork: (1, 64, (14, 7, 4, 2), 256),
    MiniImageNetNetwork: (3, 32, (84, 42, 21, 11), 1152),
}


def multiplications(config: Any) -> tuple[int, ...]:
    """Multiplications by layer of one example's forward pass through a configuration's network, first layer first.

    The sine's is the MLP 1 → 64 → 64 → 1; Omniglot's has four convolutions with stride 2 and 64 filters (28-14-7-4-2),
    Mini-ImageNet's four with 32 filters, each then pooled (84-42-21-11-6); both end in a dense head.

    Raises `ValueError` for another kind of configuration.
    """
    if isinstance(config, SineRegression):
        return 64, 64 * 64, 64
    if not isinstance(config, FewShotClassification):
        raise ValueError(f"the layers of {type(config).__name__}'s network are not known")
    channels, filters, rows, features = _CONVOLUTIONS[FACTS[config.dataset].network]
    inputs = (channels, filters, filters, filters)
    return (*[r * r * 9 * c * filters for r, c in zip(rows, inputs, strict=True)], features * config.ways)


def examples_per_iteration(config: Any) -> int:
    """Images (sine: points) that one outer iteration trains on, once each."""
    return config.meta_batch_size * config.inner_iterations * config.inner_batch_size


def of_iteration(config: Any) -> int:
    """Floating-point operations of one outer iteration: two for each of the `multiplications`.

    A layer's forward pass, its weight gradient and its input gradient take as many each; the first layer has no
    input gradient. Norms, activations, pooling, the optimisers and the drawing of tasks are left out.
    """
    layers = multiplications(config)
    return 2 * (3 * sum(layers) - layers[0]) * examples_per_iteration(config)


def of_evaluation(config: Any) -> int:
    """Floating-point operations of a run's evaluations, along training and at the end, counted as `of_iteration` does.

    A task's adaptation, and for a classification task its held-out images classified together, and each with the
    whole support beside it.
    """
    layers = multiplications(config)
    forward, both = 2 * sum(layers), 2 * (3 * sum(layers) - layers[0])
    if isinstance(config, FewShotClassification):
        a_task = sum(
            config.eval_inner_iterations * batch_size * both + config.ways * (config.ways * shots + 2) * forward
            for shots, batch_size in zip(config.eval_shots, config.eval_batch_sizes, strict=True)
        )
    else:
        a_task = config.eval_inner_iterations * 10 * both
    return (config.eval_tasks + config.curve_points * config.curve_tasks) * a_task
