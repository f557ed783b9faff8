"""Datasets that tests make up, and the settings of trainings that take no time."""

import numpy as np

from reptile_eqx.datasets import FACTS, ImageClasses

SINE = dict(outer_iterations=60, curve_points=6, curve_tasks=2, eval_tasks=4)
FEW_SHOT = dict(
    dataset="noise",
    train_classes=8,
    ways=3,
    outer_iterations=4,
    meta_batch_size=2,
    inner_iterations=2,
    training_shots=4,
    inner_batch_size=5,
    curve_points=2,
    curve_tasks=2,
    eval_tasks=3,
    eval_inner_iterations=2,
    eval_shots=(1,),
)


def noise(classes=14, drawings=6, size=(28, 28, 1), of="omniglot", name="noise"):
    """Random bytes, with the facts of a dataset that there is but for their number and size."""
    images = np.random.default_rng(0).integers(0, 256, (classes, drawings, *size), dtype=np.uint8)
    return ImageClasses(images, tuple(map(str, range(classes))), name, "noise", FACTS[of])
