"""Data from what people have: found, checked, cached; what is wrong with it is named."""

import io
import os
import shutil
import time
import zipfile

import numpy as np
import pytest
import requests
from PIL import Image

from reptile_eqx import datasets
from reptile_eqx.datasets import cache, omniglot

pytestmark = pytest.mark.filterwarnings("ignore:not as published")

MINIATURE = {"images_background": {"Greek": 2, "Armenian": 1}, "images_evaluation": {"Tengwar": 2}}


def make_small(monkeypatch):
    monkeypatch.setattr(omniglot, "ALPHABETS", MINIATURE)
    monkeypatch.setattr(omniglot, "FACTS", omniglot.FACTS._replace(shape=(5, 20, 28, 28, 1)))


@pytest.fixture(autouse=True)
def miniature(monkeypatch):
    """The loader expects five characters of three alphabets; nothing named, nothing downloaded."""
    make_small(monkeypatch)
    monkeypatch.delenv("REPTILE_DATA", raising=False)

    def offline(url, *_, **__):
        raise requests.ConnectionError(f"no route to {url}")

    monkeypatch.setattr("pooch.retrieve", offline)


def png(image):
    buffer = io.BytesIO()
    Image.fromarray(image).convert("1").save(buffer, format="PNG")
    return buffer.getvalue()


def published(seed=0):
    """Names and contents of a whole miniature Omniglot, as in the published zips."""
    random = np.random.default_rng(seed)
    files = {}
    for part, alphabets in MINIATURE.items():
        for alphabet, characters in alphabets.items():
            for character in range(1, characters + 1):
                for drawing in range(1, 21):
                    name = f"{part}/{alphabet}/character{character:02d}/0001_{drawing:02d}.png"
                    files[name] = png(random.choice([0, 255], (105, 105)).astype(np.uint8))
    return files


def as_zips(files, folder):
    folder.mkdir(parents=True, exist_ok=True)
    for part in MINIATURE:
        with zipfile.ZipFile(folder / f"{part}.zip", "w") as archive:
            for name in sorted(files, reverse=True):
                if name.startswith(part) or name.startswith(("..", "/", "__MACOSX")):
                    archive.writestr(name, files[name])
    return folder.parent


def as_folders(files, folder):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder.parent


def test_zips_and_folders_give_the_same_images_in_the_published_order(tmp_path):
    files = published()
    zipped = datasets.load("omniglot", as_zips(files, tmp_path / "a" / "omniglot"))
    unpacked = datasets.load("omniglot", as_folders(files, tmp_path / "b" / "omniglot"))
    assert zipped.images.shape == (5, 20, 28, 28, 1)
    assert np.array_equal(zipped.images, unpacked.images)
    assert zipped.classes[0] == "Armenian/character01"
    assert zipped.classes[-1] == "Tengwar/character02"
    first = np.asarray(Image.open(io.BytesIO(files["images_background/Armenian/character01/0001_01.png"])))
    centres = np.floor((np.arange(28) + 0.5) * 105 / 28).astype(int)
    assert np.array_equal(zipped.images[0, 0, :, :, 0] == 255, first[np.ix_(centres, centres)])


def test_places_are_looked_at_in_order(tmp_path, home, monkeypatch):
    named, by_variable, in_project = (as_zips(published(seed), tmp_path / str(seed) / "omniglot") for seed in (1, 2, 3))
    shutil.copytree(in_project / "omniglot", home / "data" / "omniglot")
    third = datasets.load("omniglot")
    monkeypatch.setenv("REPTILE_DATA", str(by_variable))
    second = datasets.load("omniglot")
    first = datasets.load("omniglot", named)
    folder_itself = datasets.load("omniglot", named / "omniglot")
    assert not np.array_equal(first.images, second.images)
    assert not np.array_equal(second.images, third.images)
    assert np.array_equal(first.images, folder_itself.images)


def test_without_data_or_network_the_error_says_where_it_looked_and_what_to_do(tmp_path):
    with pytest.raises(datasets.Unavailable, match=r"(?s)REPTILE_DATA.*download failed: no route") as raised:
        datasets.load("omniglot", tmp_path)
    assert str(tmp_path) in str(raised.value)


def test_glyphs_stand_in_only_where_asked_and_never_for_damaged_data(tmp_path):
    with pytest.warns(UserWarning, match="made-up glyphs stand in for Omniglot"):
        assert datasets.load("omniglot", fall_back=True).name == "glyphs"
    files = published()
    files.popitem()
    with pytest.raises(datasets.DataError, match="not whole"):
        datasets.load("omniglot", as_zips(files, tmp_path / "omniglot"), fall_back=True)


def test_unknown_names_are_errors():
    with pytest.raises(ValueError, match="unknown dataset 'omnigolt'; there are omniglot, mini-imagenet, glyphs"):
        datasets.load("omnigolt")
    with pytest.raises(ValueError, match="`resample` is 'cubic'"):
        datasets.load_omniglot(resample="cubic")


def test_a_directory_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(datasets.DataError, match="does not exist"):
        datasets.load("omniglot", tmp_path / "nowhere", fall_back=True)


def test_an_unreadable_directory_is_an_error(tmp_path, monkeypatch):
    folder = as_zips(published(), tmp_path / "omniglot")
    monkeypatch.setattr(omniglot.os, "access", lambda path, mode: path != folder / "omniglot")
    with pytest.raises(datasets.DataError, match="cannot be read"):
        datasets.load("omniglot", folder)


CHARACTER = "images_evaluation/Tengwar/character02"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({f"{CHARACTER}/0001_07.png": None}, "Tengwar/character02 has 19 drawings; expected 20"),
        ({f"{CHARACTER}/0001_21.png": png(np.zeros((105, 105), np.uint8))}, "has 21 drawings; expected 20"),
        ({f"{CHARACTER}/0001_07.png": png(np.zeros((100, 105), np.uint8))}, "0001_07.png is 105×100 pixels"),
        ({f"{CHARACTER}/0001_07.png": b"some text"}, "0001_07.png is no PNG image"),
        ({f"{CHARACTER}/0001_07.png": published()[f"{CHARACTER}/0001_07.png"][:-400]}, "0001_07.png is truncated"),
        ({f"{CHARACTER}/0001_{i:02d}.png": None for i in range(1, 21)}, "character02 has 0 drawings"),
        ({"images_evaluation/Klingon/character01/0001_01.png": png(np.zeros((105, 105), np.uint8))}, "Klingon"),
        ({name: None for name in published() if "Greek" in name}, "lacks 1 of its 2 alphabets: Greek"),
    ],
)
@pytest.mark.parametrize("store", [as_zips, as_folders])
def test_what_is_wrong_is_named(change, message, store, tmp_path):
    files = {name: content for name, content in (published() | change).items() if content is not None}
    with pytest.raises(datasets.DataError, match=message):
        datasets.load("omniglot", store(files, tmp_path / "omniglot"))


def test_everything_wrong_is_listed(tmp_path):
    files = published()
    files[f"{CHARACTER}/0001_03.png"] = b""
    del files["images_background/Greek/character01/0001_01.png"]
    with pytest.raises(datasets.DataError, match=r"(?s)Greek/character01 has 19.*0001_03.png is empty"):
        datasets.load("omniglot", as_zips(files, tmp_path / "omniglot"))


@pytest.mark.parametrize("kept", [0, 100, 0.5, -30])
def test_a_zip_cut_short_is_an_error(kept, tmp_path):
    folder = as_zips(published(), tmp_path / "omniglot")
    path = folder / "omniglot" / "images_evaluation.zip"
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content)) if isinstance(kept, float) else kept])
    with pytest.raises(datasets.DataError, match="images_evaluation.zip is no whole zip archive"):
        datasets.load("omniglot", folder)


def test_a_damaged_member_is_an_error(tmp_path):
    folder = as_zips(published(), tmp_path / "omniglot")
    path = folder / "omniglot" / "images_background.zip"
    content = bytearray(path.read_bytes())
    content[200:260] = b"\0" * 60
    path.write_bytes(content)
    with pytest.raises(datasets.DataError, match=r"images_background.zip:.* cannot be read \(Bad CRC-32"):
        datasets.load("omniglot", folder)


def test_half_a_copy_is_an_error(tmp_path):
    folder = as_zips(published(), tmp_path / "omniglot")
    (folder / "omniglot" / "images_background.zip").unlink()
    with pytest.raises(datasets.DataError, match=r"no images_background.zip and no folder images_background"):
        datasets.load("omniglot", folder)


def test_nothing_is_unpacked_outside_and_what_a_mac_adds_is_passed_over(tmp_path, home):
    added = {"__MACOSX/._0001_01.png": b"x", f"__MACOSX/{CHARACTER}/._0001_01.png": b"x"}
    folder = as_zips(published() | added, tmp_path / "mac" / "omniglot")
    assert datasets.load("omniglot", folder).images.shape[0] == 5
    intruders = {"../../outside.png": b"x", "/tmp/outside-absolute.png": b"x"}
    folder = as_zips(published() | intruders, tmp_path / "deep" / "omniglot")
    before = set(tmp_path.rglob("*"))
    with pytest.raises(datasets.DataError, match=r"(?s)outside-absolute.png points outside .*\.\./outside.png points"):
        datasets.load("omniglot", folder)
    made = {path for path in set(tmp_path.rglob("*")) - before if home not in path.parents and path != home}
    assert not made
    assert not os.path.exists("/tmp/outside-absolute.png")


def test_images_are_decoded_once_and_again_when_the_source_changes(tmp_path, monkeypatch):
    folder = as_zips(published(), tmp_path / "omniglot")
    first = datasets.load("omniglot", folder)
    decode = omniglot._decode
    monkeypatch.setattr(omniglot, "_decode", lambda *_: pytest.fail("decoded again"))
    assert np.array_equal(datasets.load("omniglot", folder).images, first.images)
    monkeypatch.setattr(omniglot, "_decode", decode)
    time.sleep(0.01)
    as_zips(published(seed=9), tmp_path / "omniglot")
    assert not np.array_equal(datasets.load("omniglot", folder).images, first.images)


@pytest.mark.parametrize(
    "damage", [lambda b: b[:1000], lambda b: b[:-1], lambda b: b[:-9] + b"\1" + b[-8:], lambda b: b""]
)
def test_a_damaged_cache_is_never_read(damage, tmp_path, home):
    folder = as_zips(published(), tmp_path / "omniglot")
    first = datasets.load("omniglot", folder)
    (path,) = (home / "data" / "cache").glob("omniglot-*.npy")
    path.write_bytes(damage(path.read_bytes()))
    with pytest.warns(UserWarning, match="is damaged; decoding the images again"):
        again = datasets.load("omniglot", folder)
    assert np.array_equal(again.images, first.images)


def test_a_cache_whose_writing_was_cut_off_is_never_read(tmp_path, monkeypatch):
    folder = as_zips(published(), tmp_path / "omniglot")

    def half(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(cache.np.lib.format, "write_array_header_1_0", half)
    with pytest.raises(KeyboardInterrupt):
        datasets.load("omniglot", folder)
    monkeypatch.undo()
    make_small(monkeypatch)
    assert not list(tmp_path.rglob("*.part"))
    assert datasets.load("omniglot", folder).images.shape == (5, 20, 28, 28, 1)


def test_a_cache_that_cannot_be_written_costs_only_the_cache(tmp_path, monkeypatch):
    folder = as_zips(published(), tmp_path / "omniglot")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache, "_write", full)
    with pytest.warns(UserWarning, match="no cache of decoded images"):
        assert datasets.load("omniglot", folder).images.shape[0] == 5


def test_antialiased_reduction_keeps_grey(tmp_path):
    folder = as_zips(published(), tmp_path / "omniglot")
    nearest, smooth = (datasets.load_omniglot(folder, resample=r).images for r in ("nearest", "antialiased"))
    assert set(np.unique(nearest)) == {0, 255}
    assert len(np.unique(smooth)) > 50


def test_glyphs_are_reproducible_ink_on_paper():
    first, again, other = datasets.draw_glyphs(6, 5), datasets.draw_glyphs(6, 5), datasets.draw_glyphs(6, 5, seed=1)
    assert np.array_equal(first.images, again.images)
    assert not np.array_equal(first.images, other.images)
    assert set(np.unique(first.images)) == {0, 255}
    ink = (first.images == 0).mean((2, 3, 4))
    assert 0.02 < ink.min() and ink.max() < 0.5


def test_glyphs_are_neither_trivial_nor_hopeless():
    """The nearest drawing in pixels is of the same class far more often than by chance, and far from always."""
    x = datasets.draw_glyphs(100, 20).images.reshape(100, 20, -1).astype(np.float32) / 255
    random = np.random.default_rng(0)
    right = []
    for _ in range(300):
        classes = random.choice(100, 5, replace=False)
        shown, asked = np.stack([random.choice(20, 2, replace=False) for _ in classes]).T
        distances = np.square(x[classes, asked][:, None] - x[classes, shown]).sum(-1)
        right.append((distances.argmin(1) == np.arange(5)).mean())
    assert 0.3 < np.mean(right) < 0.6


def test_description_and_contact_sheet(tmp_path):
    data = datasets.draw_glyphs(6, 5)
    assert "6 classes of 5 images, 28×28" in datasets.describe(data)
    datasets.contact_sheet(data, tmp_path / "sheet.png", classes=3, drawings=4)
    assert Image.open(tmp_path / "sheet.png").size == (4 * 30, 3 * 30)


@pytest.mark.skipif("REPTILE_DATA" not in os.environ, reason="REPTILE_DATA names no real Omniglot")
def test_real_omniglot(monkeypatch):
    monkeypatch.undo()
    data = datasets.load("omniglot", os.environ["REPTILE_DATA"])
    assert data.images.shape == (1623, 20, 28, 28, 1)
    assert len(set(data.classes)) == 1623
    assert set(np.unique(data.images)) == {0, 255}
    assert 0.88 < (data.images == 255).mean() < 0.96, "paper is 255 and most of an image is paper"
