"""Optimisers of the inner and the outer loop, and how the parallel order merges the states of the inner one."""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PyTree

from .checks import number, whole
from .inner import trainable

Number = float | Float[Array | np.ndarray, ""]
_B2 = 0.999  # Adam's β₂ throughout the paper


def annealed_sgd(step_size: Number, iterations: int) -> optax.GradientTransformation:
    """φ ← φ - ε_t·g with ε_t = ε₀·(1 - t/T): the outer loop of every experiment in the paper (Appendix A).

    With `reptile`'s φ - φ̃ as g this is φ ← φ + ε_t(φ̃ - φ). After T = `iterations` nothing moves any more.
    """
    iterations = whole("iterations", iterations)
    if not hasattr(step_size, "dtype"):  # an array may be one of a compiled program's
        step_size = number("step_size", step_size)

    def init(params):
        del params
        return AnnealedState(jnp.zeros((), jnp.int32), 1 / jnp.asarray(iterations, float))

    def update(updates, state, params=None):
        del params
        rate = -1 * (step_size * jnp.maximum(0, 1 - state.count * state.share))
        moved = jax.tree.map(lambda g: jnp.asarray(rate, g.dtype) * g, updates)
        return moved, AnnealedState(state.count + 1, state.share)

    return optax.GradientTransformation(init, update)


class AnnealedState(NamedTuple):
    """Iterations so far, and what share of all one is: in the state, so that one program serves every length."""

    count: Int[Array, ""]
    share: Float[Array, ""]


class RollingAdamState(NamedTuple):
    """Steps taken so far, and the moving averages of the gradient (`None` where β₁ = 0) and of its square."""

    count: Int[Array, ""]
    mean: PyTree
    square: PyTree


def reference_adam(
    learning_rate: Number, b1: float = 0.0, b2: float = _B2, eps: float = 1e-8
) -> optax.GradientTransformation:
    """Adam as the authors ran it: β₁ = 0, and ε added to √v *before* the bias correction.

    The step is α·√(1-β₂ᵗ)/(1-β₁ᵗ)·m / (√v + ε). `optax.adam` adds ε after the correction, which differs in
    the first steps and for tiny gradients.
    """

    def init(params):
        zeros = jax.tree.map(jnp.zeros_like, params)
        return RollingAdamState(jnp.zeros((), jnp.int32), zeros if b1 else None, zeros)

    def update(updates, state, params=None):
        del params
        gradient = updates
        count = state.count + 1
        square = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * jnp.square(g), state.square, gradient)
        mean = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state.mean, gradient) if b1 else None
        t = count.astype(jnp.result_type(float))
        rate = learning_rate * jnp.sqrt(1 - b2**t) / (1 - b1**t if b1 else 1.0)

        def step(m, v):
            # In float16 the 1e-8 of ε would be 0, and an unused parameter's step 0/0.
            m32, v32 = (x.astype(jnp.promote_types(x.dtype, jnp.float32)) for x in (m, v))
            return (-rate * m32 / (_sqrt(v32) + eps)).astype(m.dtype)

        return jax.tree.map(step, mean if b1 else gradient, square), RollingAdamState(count, mean, square)

    return Recorded(init, update).made_by("reference_adam", learning_rate=learning_rate, b1=b1, b2=b2, eps=eps)


class Recorded(optax.GradientTransformation):
    """An optax transformation that knows how it was made, so that a file can say so (`saving.save`)."""

    call: tuple[str, dict[str, Any]] | None = None

    def made_by(self, name: str, **arguments: Any) -> "Recorded":
        """The same, with its maker's name and arguments. Where one of these is no plain number, `call` stays `None`."""
        if all(isinstance(value, bool | int | float) for value in arguments.values()):
            self.call = name, arguments
        return self


def recorded(name: str, **arguments: Any) -> Recorded:
    """An optimiser that a file can keep, by its name (optax's, or ours): `recorded("sgd", learning_rate=0.1)`.

    Raises `ValueError` for another name, and for arguments that are not plain numbers.
    """
    make = reference_adam if name == "reference_adam" else getattr(optax, name, None) if name in _KEPT else None
    if make is None or not all(isinstance(value, bool | int | float) for value in arguments.values()):
        raise ValueError(f"{name}({arguments}): expected one of {', '.join(_KEPT)}, with numbers by their names")
    made = make(**arguments)
    return Recorded(made.init, made.update).made_by(name, **arguments)


_KEPT = ("reference_adam", "sgd", "adam", "adamw", "nadam", "rmsprop", "adagrad", "lion", "amsgrad")


def _sqrt(v):
    """√v whose derivative at 0 is 0 rather than infinite, for MAML through Adam where a gradient vanishes."""
    return jnp.where(v > 0, jnp.sqrt(jnp.where(v > 0, v, 1)), 0)


def merge_average(before: PyTree, after: PyTree) -> PyTree:
    """A `Learner.merge` for any inner optimiser: the mean over tasks of floating-point leaves; others, such as step
    counts, as every task left them.

    The optimiser then takes a meta-batch of n tasks for k steps, not n·k, and forgets as slowly.
    """
    del before
    return jax.tree.map(lambda leaf: leaf.mean(0) if jnp.issubdtype(leaf.dtype, jnp.inexact) else leaf[0], after)


def merge_adam(b2: float = _B2, b1: float = 0.0) -> Callable[[RollingAdamState, RollingAdamState], RollingAdamState]:
    """A `Learner.merge` for `reference_adam`: the state that n tasks of k steps would leave in exact order, had each
    seen the gradients that it saw in parallel, averaged over the orders they could have come in.

    Of k steps a task leaves v_i = β₂ᵏ·v + c_i. In exact order c_i decays through the steps of the tasks after it, by
    β₂^(jk) for j of them; averaged over orders, that makes β₂^(nk)·v + r·(mean of c_i) = r·(mean of v_i) + (1-r)·v,
    where r = Σ_j β₂^(jk) over j = 0 … n-1. The same holds for the first moment, and with β = 1 for the step count,
    which goes up by n·k.
    """

    def merge(before, after):
        tasks, steps = after.count.shape[0], after.count[0] - before.count

        def moment(decay, least):
            r = jnp.sum(decay ** (steps * jnp.arange(tasks)).astype(jnp.result_type(float)))

            def merged(old, new):
                # Rounding must not leave a square below zero.
                return jnp.maximum(r * new.mean(0) + (1 - r) * old, least).astype(old.dtype)

            return merged

        return RollingAdamState(
            before.count + tasks * steps,
            jax.tree.map(moment(b1, -jnp.inf), before.mean, after.mean),
            jax.tree.map(moment(b2, 0.0), before.square, after.square),
        )

    return merge


def only(optimiser: optax.GradientTransformation, where: Callable[[Any], Any]) -> optax.GradientTransformation:
    """The optimiser for a part of the model, and the rest held still: `optax.partition` with `optax.set_to_zero`.

    `where(model)` is the part or a tuple of parts: `lambda model: (model.head, model.head_bias)`. Inside MAML, and
    inside `fomaml(…, gradients=True)`, that is ANIL: the rest learns in the outer loop. In algorithms whose
    meta-gradient is the inner updates, such as Reptile, it does not learn at all.
    """

    def labels(parameters):
        still = jax.tree.map(lambda _: "still", parameters)
        return eqx.tree_at(where, still, replace_fn=lambda part: jax.tree.map(lambda _: "moving", part))

    return optax.partition({"moving": optimiser, "still": optax.set_to_zero()}, labels)


class OwnSteps(eqx.Module):
    """A model with inner step sizes of its own, which MAML learns with it through `own_sgd` (Meta-SGD: Li et al. 2017).

    It is called as the model is. `steps` has the structure of the model's parameters: a step size for each parameter
    or, `per="array"`, one for each array of them. Only MAML learns them. In other algorithms they stay as they are.
    """

    model: PyTree
    steps: PyTree

    def __init__(self, model: PyTree, step_size: float, per: str = "parameter"):
        """All start at `step_size`; raises `ValueError` for another `per`."""
        if per not in ("parameter", "array"):
            raise ValueError(f"`per` is {per!r}; expected 'parameter' or 'array'")
        self.model = model
        self.steps = jax.tree.map(
            lambda p: jnp.full(p.shape if per == "parameter" else (), step_size, p.dtype), trainable(model)[0]
        )

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """What the model returns."""
        return self.model(*arguments, **named)


def own_sgd() -> optax.GradientTransformation:
    """SGD by the step sizes that an `OwnSteps` model brings along. It takes no other model: `TypeError`."""

    def update(updates, state, params=None):
        if not isinstance(params, OwnSteps):
            raise TypeError(f"own_sgd needs a model wrapped in rx.OwnSteps; given {type(params).__name__}")
        moved = jax.tree.map(lambda step, g: -step * g, params.steps, updates.model)
        still = jax.tree.map(jnp.zeros_like, updates.steps)
        return eqx.tree_at(lambda tree: (tree.model, tree.steps), updates, (moved, still)), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def check_schedule(optimiser: optax.GradientTransformation, model: PyTree, steps: int) -> None:
    """Raise `ValueError` where a schedule of the optimiser's varies over a task's `steps` and never again.

    Such a schedule is meant for each task. A state that rolls from task to task would follow it in the first task only.
    """

    def is_schedule(node):
        return type(node).__name__ in ("ScaleByScheduleState", "WrappedScheduleState")

    with jax.ensure_compile_time_eval():
        zeros, ones = (_filled(model, value) for value in (0, 1))
        state = optimiser.init(zeros)
        if not any(map(is_schedule, jax.tree.leaves(state, is_leaf=is_schedule))):
            return

        def size(step):
            def at(node):
                return node._replace(count=jnp.full_like(node.count, step)) if is_schedule(node) else node

            updates, _ = optimiser.update(ones, jax.tree.map(at, state, is_leaf=is_schedule), zeros)
            return sum(jnp.abs(leaf).sum() for leaf in jax.tree.leaves(updates))

        sizes = [size(step) for step in (*range(steps), *(steps * 10**i for i in range(6)))]
    if any(isinstance(value, jax.core.Tracer) for value in sizes):
        return  # The step size is an argument of a compiled program.
    sizes = [float(value) for value in sizes]
    if len(set(sizes[steps:])) == 1 and len(set(sizes)) > 1:
        end = "at 0: nothing would be trained from the second task on" if sizes[-1] == 0 else "where it stays"
        raise ValueError(
            f"the inner optimiser's schedule ends with the first task's {steps} steps, {end}, as its state rolls from "
            "task to task: give the algorithm inner_state='fresh', or a schedule over the whole training"
        )


def check_differentiable(optimiser: optax.GradientTransformation, model: PyTree) -> None:
    """Warn where the optimiser's update has no derivative at a gradient of 0, which would make MAML's gradient NaN."""
    with jax.ensure_compile_time_eval():
        zeros = _filled(model, 0)

        def total(gradient):
            updates, _ = optimiser.update(gradient, optimiser.init(zeros), zeros)
            return sum(leaf.sum() for leaf in jax.tree.leaves(updates))

        slopes = jax.tree.leaves(jax.grad(total)(zeros))
        finite = [jnp.isfinite(slope).all() for slope in slopes]
    if not any(isinstance(value, jax.core.Tracer) for value in finite) and not all(map(bool, finite)):
        warnings.warn(
            "the inner optimiser's step has no derivative where a gradient is 0, as √v in optax.adam: MAML's gradient "
            "will be NaN where a parameter has no effect (a dead ReLU). Take rx.reference_adam, or optax.adam(…, "
            "eps_root=1e-8)",
            stacklevel=3,
        )


def _filled(model, value):
    """A model's parameters, each a single number of one value, also of a model that is being traced."""
    return jax.tree.map(lambda leaf: jnp.full((1,) * leaf.ndim, value, leaf.dtype), trainable(model)[0])
