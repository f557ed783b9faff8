"""Glyphs: made-up characters, drawn from random strokes, to stand in where Omniglot cannot be had."""

import numpy as np
from jaxtyping import Bool, Float, UInt8

from ..nn import OmniglotNetwork
from .cache import cached
from .common import Facts, ImageClasses

_SIDE, _POINTS = 28, 28
FACTS = Facts("Made-up glyphs", (600, 20, _SIDE, _SIDE, 1), (400, 0, 200), True, True, OmniglotNetwork)
"""Of as many as `draw_glyphs` draws by default."""


def draw_glyphs(classes: int = 600, drawings: int = 20, seed: int = 0) -> ImageClasses:
    """Characters of two to four random curved strokes, each drawn by `drawings` people with a wobble of their own.

    A drawer slants, stretches, shifts and turns the character, and misses the strokes' control points a little;
    strokes are drawn with pens of different widths. A pure function of its arguments.

    **Returns:** images of shape `(classes, drawings, 28, 28, 1)`, 0 for ink and 255 for paper; raises `ValueError`
    for fewer than one class or drawing.
    """
    if classes < 1 or drawings < 1:
        raise ValueError(f"glyphs need at least 1 class and 1 drawing, not {classes} and {drawings}")
    images, _ = cached(
        f"glyphs-{classes}x{drawings}-seed{seed}",
        (classes, drawings, _SIDE, _SIDE, 1),
        lambda write: write(_draw(classes, drawings, seed)),
    )
    return ImageClasses(
        images=images,
        classes=tuple(f"glyph{i:04d}" for i in range(classes)),
        name="glyphs",
        origin=f"made-up glyphs, {classes} classes of {drawings} drawings, seed {seed}",
        facts=FACTS._replace(shape=images.shape, split=(2 * classes // 3, 0, classes - 2 * classes // 3)),
    )


def _draw(classes: int, drawings: int, seed: int) -> UInt8[np.ndarray, "class drawing 28 28 1"]:
    random = np.random.default_rng(seed)
    ink = np.stack([_character(random, drawings) for _ in range(classes)])
    return np.where(ink, np.uint8(0), np.uint8(255))[..., None]


def _character(random: np.random.Generator, drawings: int) -> Bool[np.ndarray, "drawing 28 28"]:
    """One character's drawings as ink masks."""
    strokes = random.integers(2, 5)
    control = random.uniform(-1, 1, (strokes, 4, 2))
    wobbled = control + random.normal(0, 0.2, (drawings, strokes, 4, 2))
    angle, slant = random.normal(0, 0.16, drawings), random.normal(0, 0.2, drawings)
    stretch = random.normal(1, 0.1, (drawings, 2))
    turn = np.stack([np.cos(angle), -np.sin(angle) + slant, np.sin(angle), np.cos(angle)], -1).reshape(-1, 2, 2)
    points = np.einsum("dab,dspb->dspa", turn, _curves(wobbled)) * stretch[:, None, None]
    points = 14 + 8.5 * points + random.normal(0, 1.2, (drawings, 1, 1, 2))
    return _ink(points.reshape(drawings, -1, 2), random.uniform(0.75, 1.1, drawings))


def _curves(control: Float[np.ndarray, "drawing stroke 4 2"]) -> Float[np.ndarray, "drawing stroke point 2"]:
    """Points along the cubic Bézier curves of the given control points."""
    t = np.linspace(0, 1, _POINTS)[:, None]
    weights = np.concatenate([(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3], axis=1)
    return np.einsum("pc,dscx->dspx", weights, control)


def _ink(
    points: Float[np.ndarray, "drawing point 2"], radius: Float[np.ndarray, " drawing"]
) -> Bool[np.ndarray, "drawing 28 28"]:
    """Pixels nearer than a pen's radius to one of the points."""
    grid = np.arange(_SIDE) + 0.5
    across = np.square(grid[None, :, None] - points[:, None, :, 0])
    down = np.square(grid[None, :, None] - points[:, None, :, 1])
    nearest = (down[:, :, None] + across[:, None]).min(-1)
    return nearest < np.square(radius)[:, None, None]
