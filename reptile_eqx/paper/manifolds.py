"""Section 5.2 in the plane: two explicit solution manifolds, and Reptile's way to the point nearest both."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


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
