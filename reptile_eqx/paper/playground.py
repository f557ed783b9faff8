"""What the notebook to play with needs: strokes as pictures like Omniglot's, adaptation at once, and three widgets.

A widget's front end is in `playground.js`. It asks, here it is answered; what it shows are the widget's traits.
"""

import base64
import io
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

import anywidget
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import traitlets
from jaxtyping import Float, Int, PRNGKeyArray, PyTree, UInt8
from matplotlib.figure import Figure

from ..evaluation import adaptation
from ..few_shot import FewShot
from ..initialisation import Initialisation, as_pictures
from ..inner import adapt, start_optimiser
from ..losses import mean_squared_error
from ..nn.convolution import convolution
from ..tasks import SineWaves, Task
from .plots import BLUE, GREY, VERMILION
from .pretrained import Pretrained
from .report import described

_SIDE = 105  # of Omniglot's own pictures, in whose pixels all lengths are
# Measured on its drawings (`tests/test_playground.py` draws them again): the pen's radius, the middle of the mean
# drawing, and the larger side of the middle 90 % of drawings, of where the pen was.
_PEN, _MIDDLE, _SIZES = 2.7, np.array([51.0, 50.3]), (38.0, 82.0)
# The rows that reducing to 28×28 by the nearest pixel keeps, and the columns.
_KEPT = np.floor((np.arange(28) + 0.5) * _SIDE / 28) + 0.5


def rasterised(strokes: Sequence[Float[np.ndarray, "_ 2"]]) -> UInt8[np.ndarray, "28 28 1"]:
    """Strokes of a pen as a picture that looks like Omniglot's: 0 is ink and 255 paper.

    Each stroke is the points (right, down) that the pen went through, one point a dot, in any unit of which the canvas
    is 1 wide and high. The drawing is moved to the middle, and made larger or smaller where nearly none of Omniglot's
    is so small or so large: it does not matter where on the canvas one draws, and little how large. No strokes are
    white paper.
    """
    strokes = [_SIDE * np.asarray(stroke, float) for stroke in strokes if len(stroke)]
    if not strokes:
        return np.full((28, 28, 1), 255, np.uint8)
    every = np.concatenate(strokes)
    low, high = every.min(0), every.max(0)
    side = (high - low).max()
    # A dot stays a dot.
    scale = np.clip(side, *_SIZES) / side if side > _PEN else 1.0
    strokes = [_MIDDLE + scale * (stroke - (low + high) / 2) for stroke in strokes]
    starts = np.concatenate([stroke[: max(len(stroke) - 1, 1)] for stroke in strokes])
    ends = np.concatenate([stroke[min(len(stroke) - 1, 1) :] for stroke in strokes])
    pixels = np.stack(np.meshgrid(_KEPT, _KEPT), -1).reshape(-1, 1, 2)
    along = ends - starts
    share = ((pixels - starts) * along).sum(-1) / np.maximum(np.square(along).sum(-1), 1e-9)
    away = np.square(pixels - starts - np.clip(share, 0, 1)[..., None] * along).sum(-1).min(1)
    return np.where(away <= _PEN**2, 0, 255).astype(np.uint8).reshape(28, 28, 1)


def passes(key: PRNGKeyArray, examples: int, batch_size: int, steps: int) -> Int[np.ndarray, "{steps} {batch_size}"]:
    """Mini-batches as `cycle` cuts them, but shuffled by NumPy, always alike: nothing is compiled for a new number of
    examples. `key` is not used."""
    del key
    random = np.random.default_rng(0)
    order = [random.permutation(examples) for _ in range(-(-steps * batch_size // examples))]
    return np.concatenate(order)[: steps * batch_size].reshape(steps, batch_size)


class Recogniser:
    """An Omniglot initialisation that adapts and answers at once, to two classes or more and up to `most` pictures.

    `Initialisation.classifier` compiles a program for each number of classes and of pictures. Here pictures are padded
    to one number, and classes that are not there have a bias that no probability is left for: there are two programs,
    and both are compiled when it is made. The answers are those of `classifier` with the schedule `passes`.
    """

    def __init__(self, start: Initialisation, most: int = 25):
        """`start` is for as many classes as there may be, and its model an `OmniglotNetwork`."""
        self.start, self.most = start, most
        self.ways = len(start.model.head_bias)
        self.adapt(np.zeros((2, *start.model.shape), np.uint8), np.arange(2))
        self(np.zeros(start.model.shape, np.uint8))

    def adapt(self, pictures: UInt8[np.ndarray, "example 28 28 1"], labels: Int[np.ndarray, " example"]) -> None:
        """Adapt to pictures with labels 0 … N - 1, each of them there; raises `ValueError` for too many of either."""
        count, classes = len(pictures), int(labels.max()) + 1
        if count > self.most or not 2 <= classes <= self.ways:
            raise ValueError(f"2 to {self.ways} classes and up to {self.most} pictures; given {classes} and {count}")
        # The last place is for the picture that is asked about.
        padded = np.zeros((self.most + 1, *pictures.shape[1:]), np.uint8)
        padded[:count] = pictures
        self._there = np.arange(self.most + 1) < count
        self._there[-1] = True
        self._padded, self._classes = padded, classes
        batches = passes(jax.random.key(0), count, self.start.batch_size, self.start.steps)
        self._model = jax.block_until_ready(
            _adapted(self.start, np.asarray(classes), pictures[batches], labels[batches])
        )

    def __call__(self, picture: UInt8[np.ndarray, "28 28 1"]) -> Float[np.ndarray, " way"]:
        """The probability of each class that was adapted to, of one picture by itself."""
        self._padded[-1] = picture
        return np.asarray(_probabilities(self._model, self._padded, self._there))[: self._classes]


@eqx.filter_jit
def _adapted(start, classes, x, labels):
    bias = start.model.head_bias
    bias = jnp.where(jnp.arange(len(bias)) < classes, bias, -1e9)
    model = eqx.tree_at(lambda model: model.head_bias, start.model, bias)
    return adapt(start.loss, start.optimiser, model, start.inner, (as_pictures(x), labels)).model


@eqx.filter_jit
def _probabilities(model, pictures, there):
    """Of the last picture, in a batch of those that are there: the others have no part in the norms' statistics."""
    x, share = as_pictures(pictures), there / there.sum()
    for block in model.blocks:
        h = convolution(x, block.kernel, 2)
        mean, square = (jnp.tensordot(share, moment.mean((1, 2)), 1) for moment in (h, jnp.square(h)))
        slope = block.scale * jax.lax.rsqrt(square - jnp.square(mean) + 1e-3)
        x = block.activation((h - mean) * slope + block.shift)
    return jax.nn.softmax(x[-1].reshape(-1) @ model.head + model.head_bias)


class _Widget(anywidget.AnyWidget):
    """One of the parts: a question comes as a message with a number, and its answer is this widget's traits."""

    _esm = Path(__file__).parent / "playground.js"
    _css = Path(__file__).parent / "playground.css"
    part = traitlets.Unicode().tag(sync=True)
    status = traitlets.Unicode().tag(sync=True)
    answered = traitlets.Float(0).tag(sync=True)

    def __init__(self, **traits: Any):
        super().__init__(part=type(self).__name__, **traits)
        self.on_msg(lambda _, content, buffers: self.hear(content))

    def hear(self, content: Any) -> None:
        """Answer one question of the front end. What is no question changes nothing but `status`, which says why:
        nobody sees an exception in a kernel."""
        with self.hold_sync():
            try:
                if not isinstance(content, dict):
                    raise ValueError(f"a question is a dictionary, not a {type(content).__name__}")
                self.status = self.answer(content)
            except ValueError as error:
                self.status = f"Not understood, and ignored: {error}"
            number = content.get("number") if isinstance(content, dict) else None
            self.answered = float(number) if isinstance(number, int | float) and _is_number(number) else 0.0

    def answer(self, question: dict[str, Any]) -> str:
        """Set the traits; returns the status. Raises `ValueError` for what is no question."""
        raise NotImplementedError

    def figure(self) -> Figure:
        """The present state, for where no widget can be shown: on GitHub, or in a notebook that is not trusted."""
        raise NotImplementedError

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict, dict] | None:
        bundle = super()._repr_mimebundle_(**kwargs)
        if bundle is not None:
            drawn = io.BytesIO()
            figure = self.figure()
            figure.suptitle("as it begins: in JupyterLab, with all cells executed, it can be played with", fontsize=8)
            figure.savefig(drawn, format="png", dpi=80)
            bundle[0]["image/png"] = base64.b64encode(drawn.getvalue()).decode()
            bundle[1]["image/png"] = {"alt": described(figure)}
        return bundle


def _is_number(given: Any) -> TypeGuard[float]:
    return isinstance(given, int | float) and not isinstance(given, bool) and abs(given) < 1e300


def _number(question, name, low, high):
    given = question.get(name)
    if not _is_number(given) or not low <= given <= high:
        raise ValueError(f"`{name}` is a number from {low} to {high}, not {_short(given)}")
    return given


def _one_of(question, name, known):
    given = question.get(name)
    if not isinstance(given, str) or given not in known:
        raise ValueError(f"`{name}` is one of {', '.join(known)}, not {_short(given)}")
    return given


def _points(given, most, low, high):
    """An array of points out of lists of two numbers each."""
    if not isinstance(given, list) or not 1 <= len(given) <= most:
        raise ValueError(f"expected 1 to {most} points, not {_short(given)}")
    for point in given:
        if not isinstance(point, list) or len(point) != 2 or not all(map(_is_number, point)):
            raise ValueError(f"a point is two numbers, not {_short(point)}")
    return np.clip(np.array(given, float), low, high)


def _strokes(question):
    given = question.get("drawing")
    if not isinstance(given, list) or len(given) > 200:
        raise ValueError(f"`drawing` is a list of up to 200 strokes, not {_short(given)}")
    strokes = [_points(stroke, 4000, -1.0, 2.0) for stroke in given]
    if sum(map(len, strokes)) > 4000:
        raise ValueError("a drawing has up to 4,000 points")
    return strokes


def _short(given):
    said = repr(given)
    return said if len(said) < 60 else f"{said[:60]}…"


def _bytes(values, dtype: Any = np.float32):
    return np.asarray(values, dtype).tobytes()


class Sine(_Widget):
    """Ten points to drag, and the functions that networks adapted to them compute after 0 to 32 gradient steps.

    Its traits are `points`, `wave` (50 values of the wave that the points are of, while they are), `start` of
    `starts`, and, as float32 bytes, `curves` of shape `(33, 101)` on [-5, 5] and `losses` on the points, `(33,)`.
    """

    points = traitlets.List().tag(sync=True)
    wave = traitlets.List().tag(sync=True)
    starts = traitlets.List().tag(sync=True)
    start = traitlets.Unicode().tag(sync=True)
    steps = traitlets.Int(8).tag(sync=True)
    curves = traitlets.Bytes().tag(sync=True)
    losses = traitlets.Bytes().tag(sync=True)

    def __init__(self, models: Mapping[str, PyTree], step_size: float = 0.02, seed: int = 0):
        """`models` are the initialisations to choose from, by name; the last is chosen first."""
        self._models, self._step_size, self._waves = dict(models), step_size, seed
        super().__init__(starts=list(models), start=list(models)[-1])
        self.hear({"another": True})

    def answer(self, question: dict[str, Any]) -> str:
        """To `points` and `start`, or to `another` wave."""
        if question.get("another") is True:
            (x, y), wave = SineWaves(points=10)(jax.random.key(self._waves))
            self._waves += 1
            self.points = np.round(np.concatenate([x, y], 1), 3).tolist()
            self.wave = np.round(wave[1][:, 0], 3).tolist()
        else:
            start = _one_of(question, "start", self.starts)
            points = _points(question.get("points"), 10, -6.0, 6.0)
            if len(points) != 10:
                raise ValueError(f"there are ten points, not {len(points)}")
            if points.tolist() != self.points:
                self.wave = []
            self.start, self.points = start, points.tolist()
        points = np.array(self.points, np.float32)
        curves, losses = _followed(self._models[self.start], points[:, :1], points[:, 1:], np.float32(self._step_size))
        self.curves, self.losses = _bytes(curves), _bytes(losses)
        return ""

    def figure(self) -> Figure:
        """The points, and the function before and after the steps chosen first."""
        figure = Figure(figsize=(6.4, 3.2), layout="constrained")
        axes = figure.subplots()
        curves = np.frombuffer(self.curves, np.float32).reshape(33, 101)
        axes.plot(np.linspace(-5, 5, 101), curves[0], ":", color=GREY, label=f"{self.start}, before adaptation")
        axes.plot(np.linspace(-5, 5, 101), curves[self.steps], color=BLUE, label=f"after {self.steps} gradient steps")
        axes.plot(*np.transpose(self.points), "o", color=VERMILION)
        axes.set(ylim=(-6.2, 6.2), xlabel="x", ylabel="f(x)")
        axes.legend(frameon=False, fontsize=8)
        return figure


@eqx.filter_jit
def _followed(model, x, y, step_size):
    """The model's function on [-5, 5] and its loss on the points, before and after each of 32 steps."""
    grid = jnp.linspace(-5.0, 5.0, 101)[:, None]

    def watch(model):
        return jax.vmap(model)(grid)[:, 0], mean_squared_error(model, (x, y))

    return adaptation(mean_squared_error, optax.sgd(step_size), model, Task((x, y)), 32, watch)


class Characters(_Widget):
    """A canvas: drawings become examples of two to five characters, and the next ones are recognised.

    Its traits are `examples`, a list of `[number, class]`, with `pictures` as bytes of shape `(example, 28, 28)`;
    `seen`, what the network sees of the drawing; and the `probabilities` of all classes, 0 for those without examples,
    or none while there is nothing to say.
    """

    classes = traitlets.Int(5).tag(sync=True)
    shots = traitlets.Int(5).tag(sync=True)
    examples = traitlets.List().tag(sync=True)
    pictures = traitlets.Bytes().tag(sync=True)
    seen = traitlets.Bytes().tag(sync=True)
    probabilities = traitlets.List().tag(sync=True)
    lends = traitlets.Bool().tag(sync=True)

    def __init__(self, recogniser: Recogniser, lent: UInt8[np.ndarray, "class drawing 28 28 1"] | None = None):
        """`lent` are drawings of as many characters as there may be, to be borrowed instead of drawn."""
        self._recogniser, self._lent, self._count = recogniser, lent, 0
        self._examples: dict[int, tuple[int, np.ndarray]] = {}
        self._drawing: np.ndarray | None = None
        super().__init__(classes=recogniser.ways, shots=recogniser.most // recogniser.ways, lends=lent is not None)
        self.status = self._advice()

    def answer(self, question: dict[str, Any]) -> str:
        """To a `drawing`; to it with the class that it is to `add` to; to an example's number to `remove`; to `forget`
        all; to `borrow` drawings."""
        if "add" in question:
            place = _number(question, "add", 0, self.classes - 1)
            strokes = _strokes(question)
            if place % 1 or not strokes:
                raise ValueError("an example has a stroke at least, and a class that is a whole number")
            self._add(int(place), rasterised(strokes))
            self._drawing = None
        elif "remove" in question:
            number = question["remove"]
            if not _is_number(number) or number not in self._examples:
                raise ValueError(f"there is no example {_short(number)}")
            del self._examples[int(number)]
        elif question.get("forget") is True:
            self._examples = {}
        elif question.get("borrow") is True:
            if self._lent is None:
                raise ValueError("there are no drawings to borrow")
            self._examples = {}
            for place, drawings in enumerate(self._lent[: self.classes]):
                for picture in drawings[: self.shots]:
                    self._add(place, picture)
        else:
            strokes = _strokes(question)
            self._drawing = rasterised(strokes) if strokes else None
            self._look()
            return self._advice()
        self._adapt()
        self._look()
        return self._advice()

    def _add(self, place, picture):
        if sum(of == place for of, _ in self._examples.values()) == self.shots:
            raise ValueError(f"a character has {self.shots} examples at most: click on one to remove it")
        self._count += 1
        self._examples[self._count] = place, picture

    def _adapt(self):
        self.examples = [[number, place] for number, (place, _) in self._examples.items()]
        self.pictures = b"".join(picture.tobytes() for _, picture in self._examples.values())
        if len(self._there()) > 1:
            labels = np.searchsorted(self._there(), [place for place, _ in self._examples.values()])
            self._recogniser.adapt(np.stack([picture for _, picture in self._examples.values()]), labels)

    def _look(self):
        self.seen = b"" if self._drawing is None else self._drawing.tobytes()
        if self._drawing is None or len(self._there()) < 2:
            self.probabilities = []
            return
        said = np.zeros(self.classes)
        said[self._there()] = self._recogniser(self._drawing)
        self.probabilities = np.round(said, 4).tolist()

    def figure(self) -> Figure:
        """What the network sees of the drawing, and the examples of each class."""
        figure = Figure(figsize=(6.4, 3), layout="constrained")
        left, right = (figure.add_subfigure(half) for half in figure.add_gridspec(1, 2))
        canvas, grid = left.subplots(), right.subplots(self.classes, self.shots)
        canvas.set_xlabel(textwrap.fill(self.status, 50), fontsize=7)
        canvas.imshow(np.full((28, 28), 255) if self._drawing is None else self._drawing, "gray", vmin=0, vmax=255)
        for place, row in enumerate(grid):
            mine = [picture for of, picture in self._examples.values() if of == place]
            row[0].set_ylabel(f"{place + 1}", rotation=0, labelpad=10)
            for axes, picture in zip(row, mine, strict=False):
                axes.imshow(picture, "gray", vmin=0, vmax=255)
        for axes in (canvas, *grid.ravel()):
            axes.set(xticks=[], yticks=[])
        return figure

    def _there(self):
        return sorted({place for place, _ in self._examples.values()})

    def _advice(self):
        there = self._there()
        if not there:
            return "Draw a character of your own and press Enter: it becomes an example of the one chosen on the right."
        if len(there) == 1:
            return "Choose another character (keys 1 to 5), and draw an example of it."
        return f"Adapted to {len(self._examples)} drawings of {len(there)} characters. Draw one, and watch the bars."


class Breaking(_Widget):
    """Accuracy on held-out drawings of one task against gradient steps, with an inner step size of one's choice.

    Its traits are `step_size`, `published`, the one of training, `start` of `starts`, `support`, the pictures that are
    adapted to, and, at each of `steps`, `accuracy` and `learned`, the accuracy on the examples themselves, and
    `reference`, the accuracy with `published`.
    """

    steps = traitlets.List().tag(sync=True)
    chosen = traitlets.Int().tag(sync=True)
    step_size = traitlets.Float().tag(sync=True)
    published = traitlets.Float().tag(sync=True)
    starts = traitlets.List().tag(sync=True)
    start = traitlets.Unicode().tag(sync=True)
    support = traitlets.Bytes().tag(sync=True)
    accuracy = traitlets.List().tag(sync=True)
    learned = traitlets.List().tag(sync=True)
    reference = traitlets.List().tag(sync=True)

    def __init__(
        self,
        start: Pretrained,
        tasks: FewShot,
        steps: Sequence[int] = (0, 1, 2, 3, 5, 8, 12, 20, 32, 50, 80),
        seed: int = 0,
    ):
        """`tasks` have one shot and held-out drawings, and `steps` are after how many gradient steps to look, from 0
        on. Beside `start`, a random initialisation can be chosen."""
        random = type(start.model)(**start.model.settings(), key=jax.random.key(seed))
        optimiser = start.config.inner_optimiser(start.config.learning_rate)
        self._models = {"Random": (random, start_optimiser(optimiser, random)), "Reptile": (start.model, start.inner)}
        self._tasks, self._seed = tasks, seed
        # Kept, as another method of an equal configuration would be another program.
        self._loss, self._optimiser = start.loss, start.config.inner_optimiser
        rate = float(start.config.learning_rate)
        super().__init__(step_size=rate, published=rate, starts=list(self._models), start="Reptile", steps=list(steps))
        self.chosen = len(steps) - 2
        self.hear({"another": True})

    def answer(self, question: dict[str, Any]) -> str:
        """To a `step_size` and a `start`, or to `another` task."""
        another = question.get("another") is True
        if another:
            self._task = self._tasks(jax.random.key(self._seed))
            self._seed += 1
            self.support = _bytes(255 * self._task.support[0], np.uint8)
        else:
            start = _one_of(question, "start", self.starts)
            self.step_size, asked = float(_number(question, "step_size", 1e-6, 10)), start != self.start
            self.start, another = start, asked
        if another:
            self.reference, _ = self._followed(self.published)
        self.accuracy, self.learned = self._followed(self.step_size)
        return ""

    def _followed(self, step_size):
        settings = self._loss, self._optimiser, np.float32(step_size), np.diff(self.steps, prepend=0)
        found = _broken(*settings, *self._models[self.start], self._task)
        return [np.asarray(values, float).round(4).tolist() for values in found]

    def figure(self) -> Figure:
        """Accuracy against steps."""
        figure = Figure(figsize=(6.4, 3), layout="constrained")
        axes = figure.subplots()
        axes.plot(self.reference, ":", color=GREY, label=f"with the step size of training, {self.published:g}")
        axes.plot(self.accuracy, color=BLUE, label=f"with {self.step_size:g}")
        axes.set_xticks(range(len(self.steps)), list(map(str, self.steps)))
        axes.set(ylim=(0, 1.02), xlabel="gradient steps", ylabel="accuracy on held-out drawings")
        axes.legend(frameon=False, fontsize=8)
        return figure


@eqx.filter_jit
def _broken(loss, optimiser, step_size, more, model, inner, task):
    """Accuracy on the query and on the support, each time after some `more` steps on the whole support."""
    everything = jax.tree.map(lambda leaf: leaf[None], task.support)
    moving, still = eqx.partition((model, inner), eqx.is_array)

    def one(_, moving):
        model, inner = eqx.combine(moving, still)
        return eqx.filter(adapt(loss, optimiser(step_size), model, inner, everything)[:2], eqx.is_array)

    def until_next(moving, more):
        moving = jax.lax.fori_loop(0, more, one, moving)
        model, _ = eqx.combine(moving, still)
        return moving, [(model(x).argmax(-1) == labels).mean() for x, labels in (task.query, task.support)]

    return jax.lax.scan(until_next, moving, more)[1]
