"""Pictures in folders: any formats, sizes and modes; what is none is listed; Omniglot unpacked is such a folder."""

import os
import zipfile

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import reptile_eqx as rx
from reptile_eqx.datasets import DataError, folder, split


@pytest.fixture(autouse=True)
def home(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("REPTILE_HOME", str(tmp_path_factory.mktemp("home")))


def picture(value, size=(12, 9), mode="RGB"):
    return Image.new("RGB", size, (value, value, value)).convert(mode)


def write(root, files):
    for name, image in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image) if isinstance(image, bytes) else image.save(path)
    return root


def some(root, **more):
    return write(root, {f"{c}/{i}.png": picture(40 * i + 10) for c in "ab" for i in range(3)} | more)


def test_formats_modes_and_sizes_become_one_array(tmp_path):
    files = {
        "a/1.png": picture(50), "a/2.jpg": picture(50, (30, 40)), "a/3.bmp": picture(50, mode="L"),
        "a/4.gif": picture(50, mode="P"), "a/5.webp": picture(50), "a/6.tiff": picture(50, mode="CMYK"),
        "b c/ü.ppm": picture(50), "b c/1.png": picture(255, mode="1"),
        "b c/16 bits.png": Image.fromarray(np.full((9, 12), 50 * 256, np.uint16)),
        "b c/clear.png": Image.new("RGBA", (12, 9), (0, 0, 0, 0)),
        "b c/Thumbs.db": b"no picture", "b c/.hidden": b"", "notes.txt": b"in no class",
    }  # fmt: skip
    data = folder(write(tmp_path / "mine", files), (6, 8))
    assert data.classes == ("a", "b c") and data.counts == (6, 4) and data.name == "mine"
    assert data.images.shape == (10, 6, 8, 3) and data.images.dtype == np.uint8
    expected = [50] * 6 + [255, 50, 255, 50]  # in the order of names: 1.png, 16 bits.png, clear.png, ü.ppm
    assert np.abs(data.images.astype(int).mean((1, 2, 3)) - expected).max() <= 4
    assert "10 pictures of 2 classes from folders, 6×8 by antialiased resizing" in data.origin
    assert folder(tmp_path / "mine", 5, grey=True).images.shape == (10, 5, 5, 1)


def test_a_phones_picture_is_turned_upright_and_a_wide_one_can_be_cropped(tmp_path):
    sky = np.zeros((8, 16, 3), np.uint8)
    sky[:, 8:] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90° to see it upright
    root = some(tmp_path / "mine")
    Image.fromarray(sky).save(root / "a" / "phone.jpg", exif=exif, quality=100)
    image = folder(root, 8).of_class(0)[3]
    assert image[:3].mean() < 20 and image[5:].mean() > 235
    Image.fromarray(sky).save(root / "a" / "phone.jpg", quality=100)
    whole, middle = (folder(root, 4, crop=crop).of_class(0)[3] for crop in (False, True))
    assert whole[:, :2].mean() < 40 and whole[:, 2:].mean() > 215
    np.testing.assert_allclose(middle[:, :, 0].mean(0)[[0, 3]], (0, 255), atol=40)


def test_all_that_is_no_picture_is_listed_and_can_be_skipped(tmp_path):
    whole = write(tmp_path / "one", {"x/1.jpg": picture(9)}) / "x" / "1.jpg"
    bad = {
        "a/cut.jpg": whole.read_bytes()[:300], "a/empty.png": b"", "b/text.png": b"no picture", "loose.png": picture(1),
        "b/postscript.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n",
    }  # fmt: skip
    root = some(tmp_path / "mine", **bad)
    os.mkfifo(root / "a" / "pipe.png")
    (root / "b" / "link.png").symlink_to("nowhere")
    with pytest.raises(DataError) as error:
        folder(root, 8)
    for name in (*bad, "a/pipe.png", "b/link.png"):
        assert f"  {name} " in str(error.value), name
    assert "7 files in" in str(error.value) and "skip=True" in str(error.value)
    for _ in range(2):  # decoded, then from the cache
        data = folder(root, 8, skip=True)
        assert data.images.shape == (2, 3, 8, 8, 3) and "7 files skipped" in data.origin
    with pytest.raises(DataError, match="7 files in"):
        folder(root, 8)


@pytest.mark.parametrize(
    ("files", "message"),
    [({}, "0 pictures in 0 classes"), ({"a/1.png": picture(1)}, "1 pictures in 1 classes"),
     ({"1.png": picture(1), "2.png": picture(1)}, "lies in no class's folder")],
)  # fmt: skip
def test_folders_that_make_no_tasks(tmp_path, files, message):
    (tmp_path / "mine").mkdir()
    with pytest.raises(DataError, match=message):
        folder(write(tmp_path / "mine", files), 8)


def test_bad_arguments(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        folder(tmp_path / "nowhere")
    (tmp_path / "file.zip").write_bytes(b"")
    with pytest.raises(DataError, match="is a file; expected a folder: unpack it"):
        folder(tmp_path / "file.zip")
    root = some(tmp_path / "mine")
    for size in (0, (8,), (8, 8, 3)):
        with pytest.raises(ValueError, match="expected a number of pixels, 1 or more"):
            folder(root, size)
    with pytest.raises(ValueError, match="expected nearest or antialiased"):
        folder(root, 8, resample="cubic")
    with pytest.raises(ValueError, match=r"A folder of pictures is for datasets.folder"):
        rx.datasets.load(str(root))
    data = folder(root, 8)
    with pytest.raises(ValueError, match="need 1 to 3 drawings of each class"):
        rx.FewShot(data, [0, 1], ways=2, shots=4)


def test_a_class_may_hold_another(tmp_path):
    files = {
        f"{name}.png": picture(value) for name, value in {"a/1": 1, "a/2": 2, "a/b/x": 50, "a/z": 3, "c/1": 90}.items()
    }
    data = folder(write(tmp_path / "mine", files), 4, grey=True)
    assert data.classes == ("a", "a/b", "c")
    assert [data.of_class(i)[:, 0, 0, 0].tolist() for i in range(3)] == [[1, 2, 3], [50], [90]]


def test_folders_that_look_alike_are_told_apart(tmp_path):
    for name, value in (("one", 10), ("other", 110)):
        root = write(tmp_path / name, {f"{c}/{i}.bmp": picture(value) for c in "ab" for i in range(2)})
        for path in root.rglob("*.bmp"):
            os.utime(path, (0, 0))
        assert folder(root, 4).images.max() == value


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    root = some(tmp_path / "mine")
    scandir = os.scandir

    def refused(path):
        if str(path).endswith("b"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refused)
    with pytest.raises(DataError, match="mine/b cannot be read .Permission denied.: give yourself the right"):
        folder(root, 8, skip=True)


def test_decoded_once_and_again_when_a_picture_changes(tmp_path, monkeypatch):
    root = some(tmp_path / "mine")
    first = folder(root, 8)
    with monkeypatch.context() as patch:
        patch.setattr(rx.datasets.folders, "_decode", lambda *_: pytest.fail("decoded again"))
        assert np.array_equal(folder(root, 8).images, first.images)
    picture(200, (13, 9)).save(root / "a" / "1.png")
    assert not np.array_equal(folder(root, 8).images, first.images)


def test_omniglot_unpacked_gives_what_the_loader_gives(tmp_path):
    if "REPTILE_DATA" not in os.environ:
        pytest.skip("REPTILE_DATA names no real images")
    archive = os.path.join(os.environ["REPTILE_DATA"], "omniglot", "images_evaluation.zip")
    if not os.path.exists(archive):
        pytest.skip("REPTILE_DATA has no zip of Omniglot's")
    with zipfile.ZipFile(archive) as zipped:
        names = [name for name in zipped.namelist() if "/Atlantean/" in name or "/Tengwar/" in name]
        zipped.extractall(tmp_path, names)
    mine = folder(tmp_path / "images_evaluation", 28, grey=True, resample="nearest")
    loaded = rx.datasets.load("omniglot", os.environ["REPTILE_DATA"])
    positions = [loaded.classes.index(name) for name in mine.classes]
    assert len(positions) == 51 and np.array_equal(loaded.images[positions], mine.images)


@settings(deadline=None, max_examples=20)
@given(st.lists(st.integers(3, 9), min_size=3, max_size=8), st.integers(0, 2**31 - 1))
def test_few_shot_uses_all_pictures_of_uneven_classes_and_no_others(counts, seed):
    # Every picture is its own number; a class's are those of one range.
    images = [np.full((n, 1, 1, 1), 0, np.uint8) + np.arange(n).reshape(-1, 1, 1, 1).astype(np.uint8) for n in counts]
    flat = [image + np.uint8(20 * i) for i, image in enumerate(images)]
    tasks = rx.FewShot(flat, np.arange(len(counts)), ways=3, shots=2, queries=1)
    drawn = jax.vmap(tasks)(jax.random.split(jax.random.key(seed), 200))
    numbers = (
        np.concatenate([np.asarray(part[0]).reshape(200, 3, -1) * 255 for part in (drawn.support, drawn.query)], axis=2)
        .round()
        .astype(int)
    )
    assert set(numbers.ravel()) <= {20 * i + j for i, n in enumerate(counts) for j in range(n)}
    assert all(len(set(row)) == 3 for task in numbers for row in task), "without repeats"
    assert ((numbers // 20) == (numbers // 20)[:, :, :1]).all(), "of one class"
    if max(counts) <= 4:
        assert len(set(numbers.ravel())) == sum(counts), "all of them"


def test_even_classes_give_the_same_tasks_either_way():
    images = np.random.default_rng(0).integers(0, 256, (4, 5, 2, 2, 1)).astype(np.uint8)
    of_array = rx.FewShot(images, np.arange(4), 3, 2, 1)
    of_list = rx.FewShot(list(images), np.arange(4), 3, 2, 1)
    for seed in range(5):
        some, same = (tasks(jax.random.key(seed)) for tasks in (of_array, of_list))
        jax.tree.map(np.testing.assert_array_equal, some, same)


@given(st.integers(3, 60), st.integers(0, 2**31 - 1))
@settings(deadline=None, max_examples=20)
def test_a_split_is_of_all_classes_each_once_and_seeded(count, seed):
    data = rx.datasets.ImageClasses(
        np.zeros((count, 1, 1, 1, 1), np.uint8), tuple(map(str, range(count))), "", "", None
    )
    parts = split(data, seed=seed)
    assert sorted(np.concatenate(parts)) == list(range(count)) and min(map(len, parts)) >= 1
    assert all(map(np.array_equal, parts, split(data, seed=seed)))
    assert list(map(len, split(data, (count - 2, 0, 2), seed=seed))) == [count - 2, 0, 2]
    for wrong in ((0.5, 0.5), (0, 0.5, 0.5), (1.2, -0.2, 0)):
        with pytest.raises(ValueError, match="three numbers that add up to 1"):
            split(data, wrong)
