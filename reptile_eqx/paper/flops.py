"""Floating-point operations of a training: by hand from its network's layers, and by XLA's cost analysis."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, jaxpr_as_fun

from .training import start


def sine_layers(ways: int = 1) -> tuple[int, ...]:
    """Multiplications by layer of the MLP 1 → 64 → 64 → 1; `ways` means nothing to it."""
    return (64, 64 * 64, 64)


def omniglot_layers(ways: int) -> tuple[int, ...]:
    """Multiplications by layer of four convolutions with stride 2 and 64 filters (28-14-7-4-2) and the head."""
    return _convolutional(1, 64, (14, 7, 4, 2), 256, ways)


def mini_imagenet_layers(ways: int) -> tuple[int, ...]:
    """Multiplications by layer of four convolutions with 32 filters, each then pooled (84-42-21-11-6), and the head."""
    return _convolutional(3, 32, (84, 42, 21, 11), 1152, ways)


def _convolutional(channels: int, filters: int, rows: Sequence[int], features: int, ways: int) -> tuple[int, ...]:
    inputs = (channels, filters, filters, filters)
    return (*[r * r * 9 * c * filters for r, c in zip(rows, inputs, strict=True)], features * ways)


def examples_per_iteration(config: Any) -> int:
    """Images (sine: points) that one outer iteration trains on, once each."""
    return config.meta_batch_size * config.inner_iterations * config.inner_batch_size


def by_hand(config: Any, layers: Callable[[int], tuple[int, ...]]) -> int:
    """Floating-point operations of one outer iteration's `layers` (of the functions above): two a multiplication.

    A layer's forward pass, its weight gradient and its input gradient take as many each; the first layer has no
    input gradient. Norms, activations, pooling, the optimisers and the drawing of tasks are left out.
    """
    multiplications = layers(getattr(config, "ways", 1))
    return 2 * (3 * sum(multiplications) - multiplications[0]) * examples_per_iteration(config)


def of_evaluation(config: Any, layers: Callable[[int], tuple[int, ...]]) -> int:
    """Floating-point operations of a run's evaluations, along training and at the end, counted as `by_hand` does.

    A task's adaptation, and for a classification task its held-out images classified together, and each with the
    whole support beside it.
    """
    ways = getattr(config, "ways", 1)
    multiplications = layers(ways)
    forward, both = 2 * sum(multiplications), 2 * (3 * sum(multiplications) - multiplications[0])
    if ways == 1:
        a_task = config.eval_inner_iterations * 10 * both
    else:
        a_task = sum(
            config.eval_inner_iterations * batch_size * both + ways * (ways * shots + 2) * forward
            for shots, batch_size in zip(config.eval_shots, config.eval_batch_sizes, strict=True)
        )
    return (config.eval_tasks + config.curve_points * config.curve_tasks) * a_task


def by_xla(config: Any, images: tuple[int, ...] | None) -> float:
    """The same by XLA's cost analysis of the compiled inner step, with all that it does.

    `images` is the shape of the images by class, `None` where there are none.
    """
    one = dataclasses.replace(config, inner_iterations=1)
    images = None if images is None else jax.ShapeDtypeStruct(images, jnp.uint8)
    key = jax.eval_shape(lambda: jax.random.PRNGKey(0))
    task = jax.eval_shape(lambda images, key: one.learner(images).tasks(key), images, key)
    state = eqx.filter_eval_shape(lambda images, key: start(one.learner(images), key), images, key)
    arrays, still = eqx.partition((state.model, state.inner), lambda leaf: isinstance(leaf, jax.ShapeDtypeStruct))

    def step(images, arrays, task, key):
        model, inner = eqx.combine(arrays, still)
        gradient, inner, loss = one.learner(images).gradient.estimate(model, inner, task, key)
        return eqx.filter((gradient, inner, loss), eqx.is_array)

    flops = counted(jax.make_jaxpr(step)(images, arrays, task, key))
    return flops * config.meta_batch_size * config.inner_iterations


def counted(program: ClosedJaxpr) -> float:
    """XLA's count for a program, its loops' bodies as often as they run; XLA itself counts each once."""
    return _once(program) + sum(
        loop["length"] * counted(loop["jaxpr"]) - _once(loop["jaxpr"]) for loop in _loops(program.jaxpr)
    )


def _once(program: ClosedJaxpr) -> float:
    arguments = [jax.ShapeDtypeStruct(value.shape, value.dtype) for value in program.in_avals]
    # For a GPU, XLA leaves out the products that it hands to cuBLAS.
    with jax.default_device(jax.devices("cpu")[0]):
        return jax.jit(jaxpr_as_fun(program)).lower(*arguments).compile().cost_analysis().get("flops", 0.0)


def _loops(jaxpr: Jaxpr) -> Iterator[dict[str, Any]]:
    """The parameters of the scans of a program that are in none of its other scans."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "scan":
            yield equation.params
            continue
        for parameter in equation.params.values():
            if isinstance(parameter, Jaxpr | ClosedJaxpr):
                yield from _loops(getattr(parameter, "jaxpr", parameter))
