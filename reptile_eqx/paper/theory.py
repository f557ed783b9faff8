"""Section 5: what the meta-gradients expand to, their coefficients, and the distance to solution manifolds.

Parameters are a flat vector φ here, and a loss maps it and a mini-batch to a scalar (`flatten`). All of it is meant
for float64 (`with float64():`), where an error that falls as α² can be told from rounding. Hessians enter through
products with vectors only: the gradient of ⟨gradient, v⟩, as a convolution with a rule of its own has no forward mode.
"""

import itertools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int, PyTree

from .inner import Loss, mean_squared_error, sum_cross_entropy
from .nn import OmniglotNetwork, sine_network
from .tasks import Examples, FewShot, ImagesByClass, SineWaves, cycle, minibatches

Vector = Float[Array, " parameters"]
FlatLoss = Callable[[Vector, Examples], Float[Array, ""]]
ALGORITHMS = ("MAML", "FOMAML", "Reptile")


def float64() -> AbstractContextManager:
    """A context in which JAX computes in double precision."""
    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(True)
    return jax.experimental.enable_x64()


def flatten(loss: Loss, model: PyTree) -> tuple[Vector, FlatLoss]:
    """A model's trainable arrays as one float64 vector φ, and its loss as a function of φ and a batch."""
    parameters, rest = eqx.partition(model, eqx.is_inexact_array)
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
    """The leading-order expansions of the three (eqs. 36, 38 and 40; 25-27 for k = 2)."""
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


def coefficient_rows(problems: dict[str, Problem], ks: dict[str, Sequence[int]], alpha: float) -> list[dict[str, Any]]:
    """Predicted and recovered coefficients of each problem, for each of its k (eqs. 33-35, 37, 39, 41), as a table's
    rows."""
    rows = []
    with float64():
        for name, (loss, phi, tasks) in problems.items():
            terms = average_terms(loss, phi, tasks)
            for k in ks[name]:
                recovered = recovered_coefficients(loss, phi, tasks, k, alpha, terms)
                for algorithm, predicted in predicted_coefficients(k).items():
                    for term, wanted, found in zip(
                        ("AvgGrad", "-α AvgGradInner"), predicted, recovered[algorithm], strict=True
                    ):
                        row = {"Network": name, "Algorithm": algorithm, "k": k, "Term": term}
                        rows.append(
                            row | {"Predicted": wanted, "Recovered": found, "Error (%)": 100 * (found / wanted - 1)}
                        )
    return rows


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


# Section 5.2: two explicit solution manifolds in the plane.


def parabola(phi: Float[Array, "2"]) -> Float[Array, ""]:
    """W₁ = {y = 1 + x²/4}, as the zeros of this function."""
    return phi[1] - 1 - phi[0] ** 2 / 4


def tilted_line(phi: Float[Array, "2"]) -> Float[Array, ""]:
    """W₂ = {y = x/2 - 1}, as the zeros of this function."""
    return phi[1] - phi[0] / 2 + 1


MANIFOLDS = (parabola, tilted_line)


@partial(jax.jit, static_argnums=0)
def project(manifold: Callable, phi: Float[Array, "2"]) -> Float[Array, "2"]:
    """P_W(φ), the point of a plane curve nearest to φ (eq. 44): the best of many starts, refined by Newton's method.

    The curve is a graph over x, so its points are parametrised by x.
    """

    def point(x):
        # Both manifolds are linear in y with slope one: y is what makes the function vanish.
        return jnp.stack([x, -manifold(jnp.stack([x, jnp.zeros_like(x)]))])

    def half_squared(x):
        return 0.5 * jnp.sum(jnp.square(point(x) - phi))

    starts = phi[0] + jnp.linspace(-6.0, 6.0, 241)
    x = starts[jnp.argmin(jax.vmap(half_squared)(starts))]

    def newton(x, _):
        return x - jax.grad(half_squared)(x) / jax.grad(jax.grad(half_squared))(x), None

    return point(jax.lax.scan(newton, x, None, length=20)[0])


def distance_gradient_error(manifold: Callable, phi: Float[Array | np.ndarray, "2"], step: float = 1e-5) -> float:
    """How far ∇½D(φ, W)² by central differences is from φ - P_W(φ) (eqs. 43-44), relative to the latter."""
    phi = jnp.asarray(phi)

    def half_squared_distance(at):
        return 0.5 * jnp.sum(jnp.square(at - project(manifold, at)))

    moved = step * jnp.eye(2)
    slopes = jnp.stack([half_squared_distance(phi + h) - half_squared_distance(phi - h) for h in moved]) / (2 * step)
    away = phi - project(manifold, phi)
    return float(jnp.linalg.norm(slopes - away) / jnp.linalg.norm(away))


def partial_minimisation(manifold: Callable, phi: Float[Array, "2"], k: int, alpha: float = 0.1) -> Float[Array, "2"]:
    """k gradient steps on L_τ(φ) = ½ f(φ)², which vanishes on the manifold: what Reptile does instead of projecting."""
    gradient = jax.grad(lambda p: 0.5 * manifold(p) ** 2)
    return jax.lax.fori_loop(0, k, lambda _, p: p - alpha * gradient(p), phi)


def alternate(
    towards: Callable, phi: Float[Array, "2"], iterations: int, step_size: float = 0.5
) -> Float[Array, "iteration 2"]:
    """φ ← (1 - ε)φ + ε·towards(manifold, φ), the two manifolds in turn, ε annealed to 0 (eqs. 45-47). All iterates."""

    def step(phi, t):
        nearer = jnp.where(t % 2 == 0, towards(MANIFOLDS[0], phi), towards(MANIFOLDS[1], phi))
        phi = phi + step_size * (1 - t / iterations) * (nearer - phi)
        return phi, phi

    return jnp.concatenate([phi[None], jax.lax.scan(step, phi, jnp.arange(iterations))[1]])


def manifold_paths(iterations: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Figure 2's iterates, each of shape `(iterations + 1, 2)`, by what takes the place of the projection; and the
    point nearest both manifolds."""
    begin = jnp.array([-3.0, 0.5])
    towards = {"exact projection": project} | {
        f"{k} gradient steps": lambda manifold, phi, k=k: partial_minimisation(manifold, phi, k) for k in (1, 5, 20)
    }
    paths = {name: np.asarray(alternate(step, begin, iterations)) for name, step in towards.items()}
    return paths, np.asarray(nearest_to_both(begin))


def nearest_to_both(phi: Float[Array, "2"]) -> Float[Array, "2"]:
    """The point that minimises the mean squared distance to the manifolds (eq. 42), by plain gradient descent."""

    def gradient(phi):
        return sum(phi - project(manifold, phi) for manifold in MANIFOLDS) / len(MANIFOLDS)

    return jax.lax.fori_loop(0, 2000, lambda _, p: p - 0.5 * gradient(p), phi)
