"""Section 5.1: what the meta-gradients expand to, and how much of AvgGrad and AvgGradInner is in each.

Parameters are a flat vector φ here, and a loss maps it and a mini-batch to a scalar (`flatten`). All of it is meant
for float64 (`with float64():`), where an error that falls as α² can be told from rounding. Hessians enter through
products with vectors only: the gradient of ⟨gradient, v⟩, as a convolution with a rule of its own has no forward mode.
"""

import itertools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int, PyTree

from ..few_shot import FewShot, ImagesByClass
from ..inner import Loss, trainable
from ..losses import mean_squared_error, sum_cross_entropy
from ..nn import OmniglotNetwork, sine_network
from ..tasks import Examples, SineWaves, cycle, minibatches

Vector = Float[Array, " parameters"]
FlatLoss = Callable[[Vector, Examples], Float[Array, ""]]
ALGORITHMS = ("MAML", "FOMAML", "Reptile")


def float64() -> AbstractContextManager:
    """A context in which JAX computes in double precision."""
    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(True)
    return jax.experimental.enable_x64()


def flatten(loss: Loss, model: PyTree) -> tuple[Vector, FlatLoss]:
    """A model's trainable arrays as one vector φ, and its loss as a function of φ and a batch.

    φ has JAX's default floating-point type.
    """
    parameters, rest = trainable(model)
    parameters = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.result_type(float)), parameters)
    phi, unflatten = ravel_pytree(parameters)
    return phi, lambda vector, batch: loss(eqx.combine(unflatten(vector), rest), batch)


def hessian_product(loss: FlatLoss, phi: Vector, batch: Examples, vector: Vector) -> Vector:
    """H v with H = L″(φ) on a batch: the gradient of ⟨L′(φ), v⟩."""
    return jax.grad(lambda p: jnp.vdot(jax.grad(loss)(p, batch), vector))(phi)


def initial_gradients(loss: FlatLoss, phi: Vector, batches: Examples) -> Float[Array, "k parameters"]:
    """ḡ_i = L_i′(φ_1) on each of the k batches (eq. 11)."""
    return jax.lax.map(lambda batch: jax.grad(loss)(phi, batch), batches)


def inner_gradients(
    loss: FlatLoss, phi: Vector, batches: Examples, alpha: float | Float[Array, ""]
) -> Float[Array, "k parameters"]:
    """g_i = L_i′(φ_i), the gradients along SGD with step size α (eqs. 9-10)."""

    def step(at, batch):
        gradient = jax.grad(loss)(at, batch)
        return at - alpha * gradient, gradient

    return jax.lax.scan(step, phi, batches)[1]


def expanded_gradients(
    loss: FlatLoss, phi: Vector, batches: Examples, alpha: float | Float[Array, ""]
) -> Float[Array, "k parameters"]:
    """ḡ_i - α H̄_i Σ_{j<i} ḡ_j, which g_i is but for O(α²) (eq. 16)."""
    bar = initial_gradients(loss, phi, batches)
    before = jnp.cumsum(bar, 0) - bar
    products = jax.lax.map(lambda pair: hessian_product(loss, phi, *pair), (batches, before))
    return bar - alpha * products


def meta_gradients(
    loss: FlatLoss, phi: Vector, batches: Examples, alpha: float | Float[Array, ""]
) -> dict[str, Vector]:
    """The exact g_MAML (eqs. 17-21), g_FOMAML = g_k (eq. 38) and g_Reptile = Σ g_i (eq. 40) on given batches."""
    gradients = inner_gradients(loss, phi, batches, alpha)
    first, last = jax.tree.map(lambda leaf: leaf[:-1], batches), jax.tree.map(lambda leaf: leaf[-1], batches)

    def judged(phi):
        at, _ = jax.lax.scan(lambda at, batch: (at - alpha * jax.grad(loss)(at, batch), None), phi, first)
        return loss(at, last)

    return {"MAML": jax.grad(judged)(phi), "FOMAML": gradients[-1], "Reptile": gradients.sum(0)}


def expanded_meta_gradients(
    loss: FlatLoss, phi: Vector, batches: Examples, alpha: float | Float[Array, ""]
) -> dict[str, Vector]:
    """The leading-order expansions of the three (eqs. 36, 38 and 40; for k = 2 eqs. 25, 26 and 27)."""
    expanded = expanded_gradients(loss, phi, batches, alpha)
    last_gradient = jax.grad(loss)(phi, jax.tree.map(lambda leaf: leaf[-1], batches))
    first = jax.tree.map(lambda leaf: leaf[:-1], batches)
    products = jax.lax.map(lambda batch: hessian_product(loss, phi, batch, last_gradient), first)
    maml = expanded[-1] - alpha * products.sum(0)
    return {"MAML": maml, "FOMAML": expanded[-1], "Reptile": expanded.sum(0)}


def sequences(batches: int, k: int) -> Int[np.ndarray, "sequence k"]:
    """Every sequence of k mini-batches drawn independently from so many: the whole sample space of one task."""
    return np.array(list(itertools.product(range(batches), repeat=k)))


def expectation(function: Callable[..., PyTree], tasks: Sequence[Examples], k: int, *arguments: Array) -> PyTree:
    """The exact mean of `function(batches, *arguments)` over tasks and every sequence of k of their batches.

    Each task is a pytree with leading axes `(batches, batch)`; all tasks have equally many batches.
    """
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *tasks)
    chosen = jnp.asarray(sequences(jax.tree.leaves(stacked)[0].shape[1], k))
    pairs = (jnp.repeat(jnp.arange(len(tasks)), len(chosen)), jnp.tile(chosen, (len(tasks), 1)))

    @jax.jit
    def mean(stacked, arguments):
        def at(task, sequence):
            return function(jax.tree.map(lambda leaf: leaf[task][sequence], stacked), *arguments)

        def add(total, pair):
            return jax.tree.map(jnp.add, total, at(*pair)), None

        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(at, pairs[0][0], chosen[0]))
        return jax.tree.map(lambda leaf: leaf / len(pairs[0]), jax.lax.scan(add, zeros, pairs)[0])

    return mean(stacked, arguments)


def average_terms(loss: FlatLoss, phi: Vector, tasks: Sequence[Examples]) -> dict[str, Vector]:
    """AvgGrad (eq. 28) and AvgGradInner in each of its forms (eqs. 29-32), by exact expectation over pairs."""

    def terms(batches):
        one, two = (jax.tree.map(lambda leaf: leaf[i], batches) for i in range(2))
        g1, g2 = jax.grad(loss)(phi, one), jax.grad(loss)(phi, two)
        h2g1, h1g2 = hessian_product(loss, phi, two, g1), hessian_product(loss, phi, one, g2)

        def product(p):
            return jnp.vdot(jax.grad(loss)(p, one), jax.grad(loss)(p, two))

        return {
            "AvgGrad": g1,
            "eq. 29": h2g1,
            "eq. 30": h1g2,
            "eq. 31": (h2g1 + h1g2) / 2,
            "eq. 32": jax.grad(product)(phi) / 2,
        }

    return expectation(terms, tasks, 2)


def predicted_coefficients(k: int) -> dict[str, tuple[float, float]]:
    """Coefficients of AvgGrad and of -α·AvgGradInner (eqs. 33-35; 37, 39 and 41 for any k)."""
    return {"MAML": (1.0, 2.0 * (k - 1)), "FOMAML": (1.0, k - 1.0), "Reptile": (float(k), k * (k - 1) / 2)}


def recovered_coefficients(
    loss: FlatLoss, phi: Vector, tasks: Sequence[Examples], k: int, alpha: float, terms: dict[str, Vector]
) -> dict[str, tuple[float, float]]:
    """The same coefficients from measured meta-gradients.

    Their exact expectation is fitted by least squares to AvgGrad and -α·AvgGradInner (`terms`, from `average_terms`).
    """
    measured = expectation(
        lambda batches, alpha: meta_gradients(loss, phi, batches, alpha), tasks, k, jnp.asarray(alpha)
    )
    return fitted_coefficients(measured, alpha, terms)


def fitted_coefficients(
    measured: dict[str, Vector], alpha: float, terms: dict[str, Vector]
) -> dict[str, tuple[float, float]]:
    """The least-squares coefficients of AvgGrad and -α·AvgGradInner in each of the measured meta-gradients."""
    basis = np.stack([terms["AvgGrad"], -alpha * terms["eq. 29"]], axis=1)
    # Columns of equal size, or the small second one would drown in the fit's rounding.
    size = np.linalg.norm(basis, axis=0)
    return {
        name: tuple((np.linalg.lstsq(basis / size, np.asarray(vector), rcond=None)[0] / size).tolist())
        for name, vector in measured.items()
    }


def fitted_slope(sizes: Sequence[float] | np.ndarray, errors: Sequence[float] | np.ndarray) -> float:
    """The exponent p of errors ~ sizesᵖ: the slope of a straight line through their logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(errors), 1)[0])


Problem = tuple[FlatLoss, Vector, list[Examples]]


def expansion_errors(activation: Callable, alphas: np.ndarray, k: int) -> dict[str, np.ndarray]:
    """How far the sine MLP's inner gradients g_2 … g_k and its meta-gradients are from their expansions.

    One sine task, cut into k batches of ten points; norms of the differences, for each step size.
    """
    with float64():
        phi, loss = flatten(mean_squared_error, sine_network(jax.random.key(0), activation))
        batches = minibatches(cycle, jax.random.key(2), SineWaves(points=10 * k)(jax.random.key(1)).support, 10, k)

        @jax.jit
        def errors(alpha):
            steps = inner_gradients(loss, phi, batches, alpha) - expanded_gradients(loss, phi, batches, alpha)
            exact, expanded = (f(loss, phi, batches, alpha) for f in (meta_gradients, expanded_meta_gradients))
            norms = {f"g_{i + 1}": jnp.linalg.norm(steps[i]) for i in range(1, k)}
            return norms | {name: jnp.linalg.norm(exact[name] - expanded[name]) for name in ALGORITHMS}

        measured = [errors(alpha) for alpha in alphas]
        return {name: np.array([float(m[name]) for m in measured]) for name in measured[0]}


def example_problems(images: ImagesByClass | None) -> dict[str, Problem]:
    """Two networks, each with a smooth activation and with ReLU, with finite sets of tasks of two batches.

    The sine MLP has three tasks with batches of five points, the Omniglot network one 5-way task of `images` with
    batches of one image a class (left out where there are no images).
    """
    problems = {}
    with float64():
        for name, activation in (("tanh", jnp.tanh), ("ReLU", jax.nn.relu)):
            phi, loss = flatten(mean_squared_error, sine_network(jax.random.key(0), activation))
            waves = [SineWaves(points=10)(key).support for key in jax.random.split(jax.random.key(1), 3)]
            tasks = [minibatches(cycle, jax.random.key(2), wave, 5, 2) for wave in waves]
            problems[f"sine MLP, {name}"] = (loss, phi, tasks)
        if images is None:
            return problems
        task = FewShot(images, jnp.arange(images.shape[0]), ways=5, shots=1, queries=1)(jax.random.key(3))
        tasks = [jax.tree.map(lambda a, b: jnp.stack([a, b]), task.support, task.query)]
        for name, activation in (("softplus", jax.nn.softplus), ("ReLU", jax.nn.relu)):
            network = OmniglotNetwork(5, activation, key=jax.random.key(0))
            phi, loss = flatten(lambda model, batch: sum_cross_entropy(model, batch) / 5, network)
            problems[f"Omniglot network, {name}"] = (loss, phi, tasks)
    return problems


def coefficient_errors(problem: Problem, k: int, alphas: np.ndarray) -> dict[str, np.ndarray]:
    """The relative error of AvgGradInner's recovered coefficient, by algorithm, for each step size."""
    loss, phi, tasks = problem

    def at_each(batches, alphas):
        return jax.lax.map(lambda alpha: meta_gradients(loss, phi, batches, alpha), alphas)

    with float64():
        terms = average_terms(loss, phi, tasks)
        measured = expectation(at_each, tasks, k, jnp.asarray(alphas))
        found = [
            fitted_coefficients({name: vectors[i] for name, vectors in measured.items()}, float(alpha), terms)
            for i, alpha in enumerate(alphas)
        ]
    predicted = predicted_coefficients(k)
    return {n: np.array([abs(f[n][1] / predicted[n][1] - 1) for f in found]) for n in ALGORITHMS}
