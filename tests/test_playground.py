"""The notebook to play with: strokes look like Omniglot's drawings, answers are the library's, and a person can use it.

Executed as a script, it compares the accuracy on drawings that were drawn again, stroke by stroke, with the published
bitmaps': `REPTILE_DATA=… python tests/test_playground.py`.
"""

import base64
import io
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
import zipfile
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some
from PIL import Image

import reptile_eqx as rx
from reptile_eqx.datasets import omniglot
from reptile_eqx.paper import playground

ROOT = Path(__file__).parent.parent
INK = 0.07  # of Omniglot's 28×28 pictures, on average


def curve(points=40):
    t = np.linspace(0, 4, points)
    return np.stack([0.3 + 0.1 * t, 0.5 + 0.2 * np.sin(t)], 1)


def traced(ink, smoothed=2):
    """The strokes that a pen could have drawn some ink with: its skeleton, walked along and smoothed a little."""
    from skimage.morphology import skeletonize

    left = {(int(x), int(y)) for y, x in np.argwhere(skeletonize(ink))}
    every, strokes = set(left), []

    def near(p):
        steps = ((0, 1), (1, 0), (0, -1), (-1, 0), (1, 1), (1, -1), (-1, 1), (-1, -1))
        return [q for q in ((p[0] + x, p[1] + y) for x, y in steps) if q in every]

    while left:
        ends = sorted(p for p in left if sum(q in left for q in near(p)) < 2)
        p = (ends or sorted(left))[0]
        stroke = [q for q in near(p) if q not in left][:1]  # where it branches off another
        while True:
            left.discard(p)
            stroke.append(p)
            ahead = [q for q in near(p) if q in left]
            if not ahead:
                break
            p = ahead[0]
        stroke += [q for q in near(p) if q not in stroke[-2:]][:1]
        points = np.array(stroke) + 0.5
        padded = np.pad(points, ((smoothed, smoothed), (0, 0)), mode="edge")
        mean = sum(padded[i : i + len(points)] for i in range(2 * smoothed + 1)) / (2 * smoothed + 1)
        mean[[0, -1]] = points[[0, -1]]
        strokes.append(mean / len(ink))
    return strokes


class Drawings:
    """Drawings of characters that `omniglot-5way` has not seen, as pictures and as strokes; glyphs without data."""

    def __init__(self):
        self.start, folder = rx.load_pretrained("omniglot-5way"), os.environ.get("REPTILE_DATA")
        self.files, self.glyphs = {}, None
        for part in omniglot.ALPHABETS if folder else ():
            opened = zipfile.ZipFile(Path(folder, "omniglot", f"{part}.zip"))
            for name in sorted(opened.namelist()):
                if name.endswith(".png"):
                    self.files.setdefault("/".join(name.split("/")[1:3]), []).append((opened, name))
        self.names = [
            f"{alphabet}/character{number:02d}"
            for alphabets in omniglot.ALPHABETS.values()
            for alphabet, count in sorted(alphabets.items())
            for number in range(1, count + 1)
        ]
        if self.files:
            # Decoding all of them takes half a minute.
            shape = omniglot.FACTS.shape
            data = rx.datasets.ImageClasses(
                np.zeros(shape, np.uint8), tuple(self.names), "omniglot", "", omniglot.FACTS
            )
            self.classes = np.asarray(self.start.unseen(data, shots=1).classes)
        else:
            self.glyphs = np.asarray(rx.datasets.draw_glyphs(100).images)
            self.classes = np.arange(100)

    def picture(self, position, drawing):
        return (
            omniglot._image(self._file(position, drawing), "nearest") if self.files else self.glyphs[position, drawing]
        )

    def strokes(self, position, drawing):
        if self.files:
            return traced(np.asarray(Image.open(io.BytesIO(self._file(position, drawing))).convert("1")) == 0)
        return traced(np.kron(self.glyphs[position, drawing, ..., 0] == 0, np.ones((4, 4), bool)))

    def _file(self, position, drawing):
        opened, name = self.files[self.names[position]][drawing]
        return opened.read(name)


def compared(drawings, recogniser, shots, tasks, queries=5, seed=7):
    """Accuracy, alone, on published bitmaps and drawn again, shape `(task, 2)`; and the share of ink of both."""
    random, found, ink = np.random.default_rng(seed), [], []
    labels = np.arange(5).repeat(shots), np.arange(5).repeat(queries)
    for _ in range(tasks):
        chosen = random.choice(drawings.classes, 5, replace=False)
        which = [random.choice(20, shots + queries, replace=False) for _ in chosen]
        both = [
            np.stack([[picture(int(c), int(i)) for i in these] for c, these in zip(chosen, which, strict=True)])
            for picture in (drawings.picture, lambda c, i: playground.rasterised(drawings.strokes(c, i)))
        ]
        ink.append([(pictures == 0).mean() for pictures in both])
        right = []
        for pictures in both:
            recogniser.adapt(pictures[:, :shots].reshape(-1, 28, 28, 1), labels[0])
            said = [recogniser(picture).argmax() for picture in pictures[:, shots:].reshape(-1, 28, 28, 1)]
            right.append((said == labels[1]).mean())
        found.append(right)
    return np.array(found), np.array(ink)


def test_a_picture_is_the_same_bytes_wherever_it_is_drawn():
    strokes = [curve(), curve()[::-1] + [0.05, 0.2]]
    picture = playground.rasterised(strokes)
    assert picture.shape == (28, 28, 1) and set(np.unique(picture)) == {0, 255}
    assert np.array_equal(picture, playground.rasterised(strokes))
    assert np.array_equal(picture, playground.rasterised([*strokes, strokes[0]])), "a stroke drawn twice"
    assert np.array_equal(picture, playground.rasterised([stroke[::-1] for stroke in strokes[::-1]]))
    for moved in ([0.125, -0.25], [-0.25, 0.125]):
        assert np.array_equal(picture, playground.rasterised([stroke + moved for stroke in strokes]))


def test_strokes_are_as_thick_as_the_datas_and_in_its_middle():
    line = playground.rasterised([np.array([[0.2, 0.5], [0.8, 0.5]])])[..., 0] == 0
    assert set(line.sum(0)) <= {0, 1, 2}, "the data's lines are one or two pixels wide"
    assert abs(line.sum(0).mean() * 105 / 28 / (63 / 105 + 0.05) / 5.4 - 1) < 0.4
    rows, columns = np.nonzero(playground.rasterised([curve()])[..., 0] == 0)
    assert abs((rows.min() + rows.max()) / 2 - 13.0) <= 1 and abs((columns.min() + columns.max()) / 2 - 13.2) <= 1


def test_a_tiny_drawing_becomes_larger_and_a_dot_stays_a_dot():
    def width(picture):
        return np.ptp(np.nonzero(picture == 0)[1]) + 1

    sizes = [width(playground.rasterised([0.5 + factor * (curve() - 0.5)])) for factor in (0.2, 1, 5)]
    assert 10 <= sizes[0] <= sizes[1] <= sizes[2] <= 25
    dot = playground.rasterised([np.array([[0.1, 0.9]])])
    assert 1 <= (dot == 0).sum() <= 4
    assert (playground.rasterised([]) == 255).all() and (playground.rasterised([np.zeros((0, 2))]) == 255).all()


@pytest.fixture(scope="module")
def recogniser():
    return playground.Recogniser(rx.load_pretrained("omniglot-5way"))


def test_a_recogniser_answers_as_the_librarys_classifier(recogniser):
    ways, shots = 3, 2
    glyphs = np.asarray(rx.datasets.draw_glyphs(8, 6).images)
    support, labels = np.concatenate(glyphs[:ways, :shots]), np.arange(ways).repeat(shots)
    recogniser.adapt(support, labels)
    classifier = replace(recogniser.start, schedule=playground.passes).classifier(support, labels)
    for picture in glyphs[:2, 5]:
        expected = jax.nn.softmax(classifier.logits(picture[None])[0])
        assert np.allclose(recogniser(picture), expected, atol=1e-5)
    with pytest.raises(ValueError, match="2 to 5 classes and up to 25 pictures; given 1 and 1"):
        recogniser.adapt(support[:1], labels[:1])


@pytest.fixture(scope="module")
def widgets(recogniser):
    return [
        playground.Sine({"random": rx.nn.sine_network(jax.random.key(0))}),
        playground.Characters(recogniser, np.asarray(rx.datasets.draw_glyphs(5, 2).images)),
    ]


def shown(widget):
    hidden = ("status", "answered")
    return {name: getattr(widget, name) for name in widget.trait_names(sync=True) if name not in hidden}


def test_examples_come_and_go(widgets):
    _, widget = widgets
    widget.hear({"number": 1, "add": 3, "drawing": [curve().tolist()]})
    assert widget.answered == 1 and widget.probabilities == [] and "Choose another" in widget.status
    widget.hear({"number": 2, "add": 1, "drawing": [curve()[:, ::-1].tolist()]})
    assert [of for _, of in widget.examples] == [3, 1] and len(widget.pictures) == 2 * 784
    widget.hear({"number": 3, "drawing": [(curve() + 0.01).tolist()]})
    assert np.argmax(widget.probabilities) == 3 and widget.probabilities[0] == 0 and len(widget.seen) == 784
    widget.hear({"number": 4, "remove": widget.examples[0][0]})
    assert [of for _, of in widget.examples] == [1] and widget.probabilities == []
    widget.hear({"borrow": True})
    assert len(widget.examples) == 10 and sum(widget.probabilities) == pytest.approx(1, abs=1e-3)
    for _ in range(4):
        widget.hear({"add": 0, "drawing": [curve().tolist()]})
    assert len(widget.examples) == 13 and "5 examples at most" in widget.status
    widget.hear({"forget": True})
    assert widget.examples == [] and widget.probabilities == [] and "Draw a character" in widget.status


def test_points_that_are_dragged_are_adapted_to(widgets):
    widget, _ = widgets
    line = [[float(x), 1.0] for x in np.linspace(-5, 5, 10)]
    widget.hear({"number": 7, "points": line, "start": "random"})
    losses = np.frombuffer(widget.losses, np.float32)
    assert widget.answered == 7 and losses.shape == (33,) and losses[32] < losses[0] and widget.wave == []
    x, y = np.array(line, np.float32)[:, :1], np.ones((10, 1), np.float32)
    import optax

    adapted = rx.adapt(
        rx.mean_squared_error,
        optax.sgd(0.02),
        rx.nn.sine_network(jax.random.key(0)),
        optax.sgd(0.02).init(None),
        (np.stack([x] * 3), np.stack([y] * 3)),
    )
    curves = np.frombuffer(widget.curves, np.float32).reshape(33, 101)
    assert np.allclose(curves[3, 50], adapted.model(np.zeros(1))[0], atol=1e-5)


def test_where_no_widget_can_be_shown_there_is_a_picture(widgets):
    for widget in widgets:
        data, about = widget._repr_mimebundle_()
        assert "application/vnd.jupyter.widget-view+json" in data
        assert base64.b64decode(data["image/png"]).startswith(b"\x89PNG") and about["image/png"]["alt"]


json_values = some.recursive(
    some.none() | some.booleans() | some.integers() | some.floats() | some.text(max_size=3),
    lambda inner: some.lists(inner, max_size=4) | some.dictionaries(some.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
KEYS = some.sampled_from(["number", "drawing", "add", "remove", "points", "start", "borrowed", "step_size"])


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(some.one_of(json_values, some.dictionaries(KEYS, json_values)))
def test_what_is_no_question_is_ignored_with_a_word(widgets, question):
    for widget in widgets:
        before = shown(widget)
        widget.hear(question)
        if not (isinstance(question, dict) and question.get("drawing") == [] and "add" not in question):
            assert "ignored: " in widget.status and shown(widget) == before


@pytest.mark.parametrize(
    ("question", "why"),
    [
        ({"drawing": [[[0.1, "x"]]]}, "a point is two numbers"),
        ({"drawing": [[]]}, "expected 1 to 4000 points"),
        ({"drawing": [[[float("nan"), 0.1]]]}, "a point is two numbers"),
        ({"drawing": [[[0.1, 0.2]] * 4000] * 2}, "up to 4,000 points"),
        ({"add": 5, "drawing": [[[0.1, 0.2]]]}, "`add` is a number from 0 to 4, not 5"),
        ({"add": 0.5, "drawing": [[[0.1, 0.2]]]}, "a class that is a whole number"),
        ({"remove": [1]}, r"there is no example \[1\]"),
        ({}, "`drawing` is a list"),
        (None, "a question is a dictionary, not a NoneType"),
    ],
)
def test_the_status_says_what_is_wrong(widgets, question, why):
    widgets[1].hear(question)
    assert re.search(why, widgets[1].status), widgets[1].status


def test_breaking_follows_the_step_size():
    start, glyphs = rx.load_pretrained("omniglot-5way"), rx.datasets.draw_glyphs(10, 6)
    widget = playground.Breaking(start, rx.FewShot(glyphs, range(10), ways=5, shots=1, queries=2), (0, 2, 8))
    assert widget.accuracy == widget.reference and len(widget.accuracy) == 3
    assert widget.accuracy[-1] > 0.5 and len(widget.support) == 5 * 784
    widget.hear({"number": 2, "step_size": 1.0, "start": "Reptile"})
    assert widget.accuracy[0] == widget.reference[0] and widget.accuracy[-1] < widget.reference[-1]
    widget.hear({"step_size": -1, "start": "Reptile"})
    assert "`step_size` is a number from 1e-06 to 10, not -1" in widget.status and widget.step_size == 1.0


def test_drawings_drawn_again_are_recognised_as_the_bitmaps(recogniser):
    pytest.importorskip("skimage", reason="skipped: scikit-image is not installed, which traces drawings")
    if "REPTILE_DATA" not in os.environ:
        pytest.skip("REPTILE_DATA names no real drawings")
    accuracy, ink = compared(Drawings(), recogniser, shots=1, tasks=4, queries=2)
    assert abs(ink[:, 1].mean() / ink[:, 0].mean() - 1) < 0.15
    assert abs(np.diff(accuracy).mean()) < 0.1, "of 100 tasks it is within 0.02: execute this file"


@contextmanager
def jupyterlab(folder):
    """A JupyterLab on loopback that shows a folder; gives its address, with a token."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token, address = secrets.token_hex(16), f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1"]
    command += ["--LabApp.expose_app_in_browser=True", "--LabApp.extension_manager=readonly"]
    environment = os.environ | {
        "JUPYTER_TOKEN": token,
        "JUPYTER_CONFIG_DIR": str(folder / ".config"),
        "JUPYTER_DATA_DIR": str(folder / ".data"),
        "JAX_COMPILATION_CACHE_DIR": str(jax.config.jax_compilation_cache_dir or folder / ".xla"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        "REPTILE_DATA": "",  # Decoding Omniglot takes half a minute: the notebook has glyphs to lend.
        "HTTPS_PROXY": "http://127.0.0.1:9",
    }
    with (folder / "jupyterlab.log").open("w") as log:
        server = subprocess.Popen(
            [*command, f"--ServerApp.port={port}", "--ServerApp.port_retries=0", f"--ServerApp.root_dir={folder}"],
            env=environment,
            stdout=log,
            stderr=log,
        )
        try:
            for _ in range(300):
                try:
                    urllib.request.urlopen(f"{address}/api?token={token}", timeout=5)
                    break
                except OSError:
                    assert server.poll() is None, (folder / "jupyterlab.log").read_text()[-2000:]
                    time.sleep(0.2)
            yield address, token
        finally:
            server.terminate()  # and with it the kernels
            try:
                server.wait(20)
            except subprocess.TimeoutExpired:
                server.kill()


@contextmanager
def page_of(address, token, name):
    """A notebook, opened in headless Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium(), args=["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
        )
        try:
            page = browser.new_page(viewport={"width": 1280, "height": 900}, has_touch=True)
            page.set_default_timeout(60_000)
            page.goto(f"{address}/lab/tree/{name}?token={token}")
            yield page
        finally:
            browser.close()


def chromium():
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def draw(page, paper, strokes):
    """Draw with the mouse, as a person would."""
    box = paper.bounding_box()
    for stroke in strokes:
        points = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in [*stroke[:-1:4], stroke[-1]]]
        page.mouse.move(*points[0])
        page.mouse.down()
        for point in points[1:]:
            page.mouse.move(*point)
        page.mouse.up()


def drag_a_finger(page, points):
    """Along some places of the page; the browser takes it for a touch of the screen, and may scroll instead."""
    screen = page.context.new_cdp_session(page)
    for place in points:
        kind = "touchStart" if place is points[0] else "touchMove"
        screen.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [dict(zip("xy", place, strict=True))]})
    screen.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    screen.detach()


def executed_in_the_browser(page):
    page.wait_for_function("window.jupyterapp?.shell.currentWidget?.context?.isReady")
    page.evaluate(
        """async () => {
            const { commands, shell } = window.jupyterapp;
            await shell.currentWidget.context.sessionContext.ready;
            await commands.execute("application:toggle-left-area").catch(() => null);
            commands.execute("notebook:run-all-cells");
        }"""
    )


def test_a_person_drags_points_and_draws_characters_with_a_mouse_and_a_finger(tmp_path):
    for module in ("jupyterlab", "playwright", "skimage"):
        pytest.importorskip(module, reason=f"skipped: {module} is not installed (the extras `notebooks` and `test`)")
    if chromium() is None:
        pytest.skip("skipped: there is no Chromium on the PATH for playwright to drive (Debian: apt install chromium)")
    notebook = (ROOT / "notebooks" / "6_playground.ipynb").read_text()
    (tmp_path / "play.ipynb").write_text(notebook.replace('profile = \\"quick\\"', 'profile = \\"smoke\\"'))
    drawings = Drawings()
    chosen = [int(c) for c in drawings.classes[[3, 40, 77]]]
    with jupyterlab(tmp_path) as (address, token), page_of(address, token, "play.ipynb") as page:
        executed_in_the_browser(page)
        # (a) A point is dragged, and the curve follows.
        after = page.locator(".playground .after").first
        after.wait_for(state="attached", timeout=120_000)
        hold = page.locator(".playground .hold").nth(4)
        hold.scroll_into_view_if_needed()
        before, box = after.get_attribute("d"), hold.bounding_box()
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        page.mouse.down()
        page.mouse.move(box["x"] + 40, box["y"] + 60, steps=5)
        page.mouse.up()
        page.wait_for_function("d => document.querySelector('.playground .after').getAttribute('d') !== d", arg=before)
        other = page.locator(".playground .hold").nth(6)
        box = other.bounding_box()
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        drag_a_finger(page, [(x + 4 * i, y + 6 * i) for i in range(11)])
        # On a busy machine the browser draws the last of the moves later.
        page.wait_for_function(
            """([x, y]) => {
                const at = document.querySelectorAll(".playground .hold")[6].getBoundingClientRect();
                return Math.abs(at.x - x) < 3 && Math.abs(at.y - y) < 3;
            }""",
            arg=[box["x"] + 40, box["y"] + 60],
        )
        # (b) Characters are drawn, and the last drawing is recognised.
        paper = page.locator(".playground .paper")
        paper.wait_for(timeout=120_000)
        paper.scroll_into_view_if_needed()
        for i, position in enumerate(chosen):
            for drawing in (0, 1):
                draw(page, paper, drawings.strokes(position, drawing))
                page.keyboard.press(str(i + 1))
                page.keyboard.press("Enter")
        page.wait_for_function("document.querySelectorAll('.playground .classes .picture').length === 6")
        right = 0
        for i, position in enumerate(chosen):
            draw(page, paper, drawings.strokes(position, 5))
            top = page.locator(".playground .bar").nth(i)
            try:
                page.wait_for_function(
                    "i => document.querySelectorAll('.playground .bar')[i].classList.contains('top')",
                    arg=i,
                    timeout=9000,
                )
                right += 1
            finally:
                page.keyboard.press("Escape")
            assert top.is_visible()
        assert right == 3
        draw(page, paper, [curve()])
        page.keyboard.press("Control+z")
        page.wait_for_function("!document.querySelector('.playground .bar.top')")
        box = paper.bounding_box()
        drag_a_finger(page, [(box["x"] + 280 * x, box["y"] + 280 * y) for x, y in curve()])
        page.wait_for_function("document.querySelector('.playground .bar.top')")
        assert paper.bounding_box() == box, "a finger draws, and does not scroll"
        page.keyboard.press("Escape")
        page.locator(".playground .examples button").first.click()
        page.wait_for_function("document.querySelectorAll('.playground .classes .picture').length === 5")


if __name__ == "__main__":
    drawings = Drawings()
    for shots in (1, 5):
        accuracy, ink = compared(drawings, playground.Recogniser(drawings.start), shots, tasks=100)
        bitmap, again = 100 * accuracy.mean(0)
        error = 196 * np.diff(accuracy).std() / 10
        print(
            f"{shots}-shot: {bitmap:.1f} % from bitmaps, {again:.1f} % drawn again, difference {again - bitmap:+.1f} ± "
            f"{error:.1f}; ink {ink[:, 0].mean():.4f} and {ink[:, 1].mean():.4f}"
        )
