"""The paper's hyper-parameters, numbers and sweeps (Tables 1 to 6, Figures 3 and 4): data, no functions."""

from typing import Any

SINE: dict[str, Any] = dict(outer_iterations=30_000)
"""Section 4: the length of the authors' published program; the paper gives none. `SineRegression` has the rest."""

TABLE_3: dict[int, dict[str, Any]] = {
    5: dict(learning_rate=1e-3, inner_batch_size=10, inner_iterations=5, training_shots=10, outer_step_size=1.0,
            outer_iterations=100_000, meta_batch_size=5, eval_inner_iterations=50, eval_inner_batch_size=5),
    20: dict(learning_rate=5e-4, inner_batch_size=20, inner_iterations=10, training_shots=10, outer_step_size=1.0,
             outer_iterations=200_000, meta_batch_size=5, eval_inner_iterations=50, eval_inner_batch_size=10),
}  # fmt: skip
"""Table 3: Reptile's hyper-parameters on Omniglot, by ways."""

TABLE_4: dict[str, Any] = dict(
    learning_rate=1e-3, inner_batch_size=10, inner_iterations=8, training_shots=15, outer_step_size=1.0,
    outer_iterations=100_000, meta_batch_size=5, eval_inner_iterations=50, eval_inner_batch_size=(5, 15),
)  # fmt: skip
"""Table 4: Reptile's hyper-parameters on Mini-ImageNet. Its columns, 1-shot and 5-shot, differ in the evaluation's
batch alone, so that one training serves both."""

_FINN: dict[str, Any] = dict(
    optimiser="sgd", loss="mean", outer_optimiser="adam", outer_step_size=1e-3, outer_iterations=40_000
)
FINN: dict[tuple[str, int], dict[str, Any]] = {
    ("omniglot", 5): _FINN | dict(learning_rate=0.4, meta_batch_size=32, inner_iterations=2, eval_inner_iterations=3),
    ("omniglot", 20): _FINN | dict(learning_rate=0.1, meta_batch_size=16, inner_iterations=6, eval_inner_iterations=5),
    ("mini-imagenet", 5): _FINN | dict(learning_rate=0.01, meta_batch_size=4, inner_iterations=6,
                                       eval_inner_iterations=10, outer_iterations=60_000),
}  # fmt: skip
"""Finn et al.'s hyper-parameters of MAML and first-order MAML, by dataset and ways.

The last of the `inner_iterations` batches is the query, so that they take one inner step less. Every inner batch is the
whole support. Left out is that their program clips the meta-gradient on Mini-ImageNet, and that its inner loss is N
times the mean: with these step sizes, that breaks the training of our network (figures/README.md).
"""

TABLE_1 = {
    "MAML + Transduction": {(1, 5): (48.70, 1.84), (5, 5): (63.11, 0.92)},
    "1st-order MAML + Transduction": {(1, 5): (48.07, 1.75), (5, 5): (63.15, 0.91)},
    "Reptile": {(1, 5): (47.07, 0.26), (5, 5): (62.74, 0.37)},
    "Reptile + Transduction": {(1, 5): (49.97, 0.32), (5, 5): (65.99, 0.58)},
}
"""Table 1: accuracy on Mini-ImageNet in percent and its ±, by algorithm and `(shots, ways)`."""

TABLE_2 = {
    "MAML + Transduction": {(1, 5): (98.7, 0.4), (5, 5): (99.9, 0.1), (1, 20): (95.8, 0.3), (5, 20): (98.9, 0.2)},
    "1st-order MAML + Transduction":
        {(1, 5): (98.3, 0.5), (5, 5): (99.2, 0.2), (1, 20): (89.4, 0.5), (5, 20): (97.9, 0.1)},
    "Reptile": {(1, 5): (95.39, 0.09), (5, 5): (98.90, 0.10), (1, 20): (88.14, 0.15), (5, 20): (96.65, 0.33)},
    "Reptile + Transduction":
        {(1, 5): (97.68, 0.04), (5, 5): (99.48, 0.06), (1, 20): (89.43, 0.14), (5, 20): (97.12, 0.32)},
}  # fmt: skip
"""Table 2: accuracy on Omniglot in percent and its ±, by algorithm and `(shots, ways)`."""

_GRADIENTS: dict[str, Any] = dict(optimiser="sgd", learning_rate=3e-3, meta_batch_size=1, outer_iterations=40_000,
                                  eval_inner_iterations=5, eval_inner_batch_size=25, eval_shots=(5,))  # fmt: skip
TABLE_5: dict[str, Any] = _GRADIENTS | dict(inner_batch_size=25, outer_step_size=0.25)
"""Table 5: hyper-parameters of Section 6.2, plain SGD inside and outside, no meta-batch."""

TABLE_6: dict[str, dict[str, Any]] = {
    "4a": _GRADIENTS | dict(inner_batch_size=25, outer_step_size=1.0, training_shots=20),
    "4b": _GRADIENTS | dict(inner_iterations=4, outer_step_size=1.0, training_shots=20),
    "4c": _GRADIENTS | dict(inner_batch_size=100, inner_iterations=4, training_shots=20),
}
"""Table 6: hyper-parameters of Section 6.3, by panel of Figure 4; what a panel sweeps is left out."""

COMBINATIONS: dict[str, tuple[float, ...]] = {
    "g1": (1.0,),
    "g2": (0.0, 1.0),
    "g1+g2": (1.0, 1.0),
    "½(g1+g2)": (0.5, 0.5),
    "g3": (0.0, 0.0, 1.0),
    "g1+g2+g3": (1.0, 1.0, 1.0),
    "⅓(g1+g2+g3)": (1 / 3, 1 / 3, 1 / 3),
    "g4": (0.0, 0.0, 0.0, 1.0),
    "g1+g2+g3+g4": (1.0, 1.0, 1.0, 1.0),
    "¼(g1+g2+g3+g4)": (0.25, 0.25, 0.25, 0.25),
}
"""Figure 3's curves and their weights."""

TAIL = 5
"""Shots per class that a separate tail sets aside in Figure 4: one batch of 25."""

LINES: dict[str, dict[str, Any]] = {
    "Reptile": dict(algorithm="reptile"),
    "FOMAML, shared tail, cycle": dict(algorithm="fomaml"),
    "FOMAML, shared tail, replacement": dict(algorithm="fomaml", schedule="replacement"),
    "FOMAML, separate tail, cycle": dict(algorithm="fomaml", tail=TAIL),
    "FOMAML, separate tail, replacement": dict(algorithm="fomaml", tail=TAIL, schedule="replacement"),
}
"""Figure 4's lines."""

SWEEPS = {
    "4a": ("inner_iterations", (2, 3, 4, 5, 6, 8)),
    "4b": ("inner_batch_size", (25, 50, 75, 100)),
    "4c": ("outer_step_size", (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)),
}
"""What each panel of Figure 4 sweeps, and over which values."""
UNTRAINED = "Untrained"
"""The line of 4c that is the initialisation, adapted: an outer step size of 0."""
WITHOUT_OVERLAP = {"4a": 4, "4b": 25}
"""Of these, the largest value at which no batches overlap. It makes the same training in both panels."""

ABLATIONS: dict[str, tuple[Any, ...]] = {
    "learning_rate": (3e-4, 1e-3, 3e-3),
    "inner_batch_size": (5, 10, 20),
    "inner_iterations": (2, 5, 10),
    "meta_batch_size": (2, 5, 10),
    "adam_b1": (0.0, 0.5, 0.9),
    "reset_optimiser": (False, True),
    "algorithm": ("reptile", "joint"),
}
"""What is varied around 5-way Reptile as in Table 3, and over which values: hyper-parameters that had little effect
(Appendix A), momentum in the inner loop (footnote 1), Adam's state reset for each task (Section 6.1), and joint
training instead, fine-tuned like the others (Section 7)."""

FASTER: dict[str, tuple[str, ...]] = {
    "order": ("exact", "parallel"),
    "precision": ("float32", "tensorfloat32", "bfloat16"),
}
"""What a faster program may change around the same training (`FewShotClassification`), and its values. The first is the
reference's."""

SWEPT = {
    "learning_rate": "Adam's learning rate",
    "inner_batch_size": "inner batch size (images)",
    "inner_iterations": "inner iterations",
    "meta_batch_size": "meta-batch size (tasks)",
    "adam_b1": "momentum in the inner loop, β₁",
}
"""The numbers among `ABLATIONS`, as readers know them."""
