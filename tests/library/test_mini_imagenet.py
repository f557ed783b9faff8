"""Mini-ImageNet from what people have: each layout gives the same images, each broken copy its error."""

import io
import os
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

import reptile_eqx as rx
from reptile_eqx import datasets
from reptile_eqx.cli import main
from reptile_eqx.datasets import archives, cache, mini_imagenet
from reptile_eqx.datasets import load_mini_imagenet as load

SPLITS = {"train": ["n03", "n01", "n07"], "val": ["n05", "n02"], "test": ["n06", "n04"]}
ORDER = ("n01", "n03", "n07", "n02", "n05", "n04", "n06")


REAL = Path(os.environ.get("REPTILE_DATA", ""), "mini-imagenet")


@pytest.fixture(autouse=True)
def miniature(monkeypatch):
    """The loader expects seven classes of four images, and maps even so small a cache."""
    small = mini_imagenet.FACTS._replace(split=(3, 2, 2), shape=(7, 4, 84, 84, 3))
    monkeypatch.setattr(mini_imagenet, "FACTS", small)
    monkeypatch.setattr(cache, "_MAPPED", 0)
    monkeypatch.delenv("REPTILE_DATA", raising=False)


def encoded(image, format="JPEG", mode="RGB"):
    buffer = io.BytesIO()
    Image.fromarray(image).convert(mode).save(buffer, format=format)
    return buffer.getvalue()


def copy(size=84, format="JPEG", seed=0):
    """Contents by WNID/FILENAME of a whole miniature copy."""
    random = np.random.default_rng(seed)
    return {
        f"{label}/{label}{i:04d}.jpg": encoded(random.integers(0, 256, (size, size, 3)).astype(np.uint8), format)
        for labels in SPLITS.values()
        for label in labels
        for i in (9, 1, 4, 7)
    }


def lists(files):
    """The three lists as text."""
    return {
        split: "filename,label\n" + "".join(f"{n.split('/')[1]},{n[:3]}\n" for n in files if n[:3] in labels)
        for split, labels in SPLITS.items()
    }


def write(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def zipped(path, files, compression=zipfile.ZIP_STORED):
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(name, content)


def as_zips(files, folder, listed=None):
    """Lists beside three zips, one of them a folder down and compressed."""
    names = list(files)
    zipped(folder / "train-1-of-2.zip", {name: files[name] for name in names[::3]})
    zipped(folder / "train-2-of-2.zip", {name: files[name] for name in names[1::3]})
    zipped(folder / "more" / "rest.zip", {f"images/{n}": files[n] for n in names[2::3]}, zipfile.ZIP_DEFLATED)
    write(folder, {f"{split}.csv": text for split, text in (listed or lists(files)).items()})
    return folder.parent


def as_listed_folders(files, folder, listed=None):
    write(folder / "images", files)
    write(folder, {f"{split}.csv": text for split, text in (listed or lists(files)).items()})
    return folder.parent


def as_flat_folder(files, folder):
    write(folder / "images", {name.split("/")[1]: content for name, content in files.items()})
    # As a spreadsheet would write them.
    texts = {split: "\ufeff" + text.replace("\n", "\r\n") + "\r\n" for split, text in lists(files).items()}
    write(folder, {f"{split}.csv": text for split, text in texts.items()})
    return folder.parent


def as_split_folders(files, folder):
    splits = {label: split for split, labels in SPLITS.items() for label in labels}
    write(folder, {f"{splits[name[:3]]}/{name}": content for name, content in files.items()})
    return folder.parent


def faults(directory):
    """What the error lists, a fault a line; nothing is cached."""
    with pytest.raises(datasets.DataError, match="is not whole") as raised:
        load(directory)
    assert not any(path.suffix in (".npy", ".about") for path in Path(os.environ["REPTILE_HOME"]).rglob("*"))
    return [line.strip() for line in str(raised.value).splitlines()[1:-1]]


@pytest.mark.parametrize("store", [as_zips, as_listed_folders, as_flat_folder, as_split_folders])
def test_every_layout_gives_the_same_images_in_the_same_order(store, tmp_path):
    files = copy()
    data = load(store(files, tmp_path / "mini-imagenet"))
    assert data.classes == ORDER
    assert data.images.shape == (7, 4, 84, 84, 3) and data.images.dtype == np.uint8
    for label, images in zip(ORDER, data.images, strict=True):
        for i, image in zip((1, 4, 7, 9), images, strict=True):
            content = files[f"{label}/{label}{i:04d}.jpg"]
            assert np.array_equal(image, np.asarray(Image.open(io.BytesIO(content))))
    assert data.name == "mini-imagenet"
    assert ("folders train/" in data.origin) == (store is as_split_folders)
    assert "84×84 as they came" in data.origin
    assert np.array_equal(load(tmp_path / "mini-imagenet").images, data.images), "the folder itself may be named"


def test_without_a_copy_the_error_says_what_it_is_where_to_ask_and_how_to_lay_it_out(tmp_path, home):
    write(tmp_path / "mini-imagenet", {"train.zip": b"", "train/n01/1.jpg": b""})
    with pytest.raises(datasets.Unavailable) as raised:
        datasets.load("mini-imagenet", tmp_path, fall_back=True)
    said = str(raised.value)
    assert f"{tmp_path / 'mini-imagenet'} (which is there, but" in said
    assert str(home / "data" / "mini-imagenet") in said
    for word in ("image-net.org", "Ravi & Larochelle", "train.csv, val.csv, test.csv", "train/, val/, test/", "64, 16"):
        assert word in said
    with pytest.raises(ValueError, match="`resample` is 'cubic'"):
        load(tmp_path, resample="cubic")


def test_full_pictures_are_resized_and_the_run_says_so(tmp_path):
    files = copy(format="PNG")
    first = "n01/n010001.jpg"
    random = np.random.default_rng(5)
    picture = random.integers(0, 256, (199, 301, 3)).astype(np.uint8)
    files[first] = encoded(picture, "PNG")
    folder = as_zips(files, tmp_path / "mini-imagenet")
    with pytest.warns(UserWarning, match="1 of 28 resized to 84×84 by nearest"):
        nearest = load(folder, resample="nearest")
    with pytest.warns(UserWarning, match="by antialiased"):
        smooth = load(folder)
    with pytest.warns(UserWarning, match="by antialiased"):
        load(folder)
    rows, columns = (np.floor((np.arange(84) + 0.5) * n / 84).astype(int) for n in picture.shape[:2])
    assert np.array_equal(nearest.images[0, 0], picture[np.ix_(rows, columns)])
    assert smooth.images[0, 0].std() < 0.7 * picture.std()
    assert np.array_equal(nearest.images[0, 1:], smooth.images[0, 1:])
    assert "1 of 28 resized to 84×84 by nearest resampling (the copy's are 84×84 to 301×199)" in nearest.origin


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_grey_and_cmyk_images_become_rgb(mode, tmp_path):
    colour = np.full((84, 84, 3), (200, 200, 200), np.uint8)
    files = copy() | {"n01/n010001.jpg": encoded(colour, mode=mode)}
    data = load(as_zips(files, tmp_path / "mini-imagenet"))
    assert np.abs(data.images[0, 0].astype(int) - 200).max() <= 2
    assert "1 converted to RGB" in data.origin


def png_of(width, height):
    """A PNG that claims a size and holds next to nothing."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", b"x"), (b"IEND", b"")]
    packed = (struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


NAME = "n02/n020004.jpg"
WHOLE = copy()[NAME]


@pytest.mark.parametrize("store", [as_zips, as_listed_folders, as_split_folders])
@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "is empty"),
        (b"<html>Not found</html>", "is no JPEG or PNG image"),
        (WHOLE[: len(WHOLE) // 2], "is truncated"),
        (WHOLE[: len(WHOLE) // 2] + b"\0" * 1000, "is truncated"),
        (WHOLE[:-2], "is truncated"),
        (WHOLE[:100], "cannot be decoded (Truncated File Read)"),
        (encoded(np.zeros((84, 84, 3), np.uint8), "PNG")[:-20], "is truncated"),
        (encoded(np.zeros((84, 84, 3), np.uint8), "GIF"), "is no JPEG or PNG image"),
        (png_of(84, 84), "cannot be decoded"),
        (png_of(12_000, 12_000), "is 12000×12000 pixels, too large"),
        (png_of(60_000, 60_000), "decompression bomb"),
    ],
    ids=["empty", "text", "half", "zeros", "no-end", "head", "png-cut", "gif", "no-data", "large", "bomb"],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_broken_image_is_named(content, fault, store, tmp_path):
    (found,) = faults(store(copy() | {NAME: content}, tmp_path / "mini-imagenet"))
    assert found.startswith(f"val: {NAME} ") and fault in found


def test_truncated_images_are_refused_even_where_pillow_would_take_them(tmp_path, monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    cuts = {"n01/n010001.jpg": 0.9, "n01/n010004.jpg": 0.5, "n06/n060009.jpg": 0.2}
    files = copy()
    files |= {name: files[name][: int(share * len(files[name]))] for name, share in cuts.items()}
    found = faults(as_zips(files, tmp_path / "mini-imagenet"))
    assert [line.split()[1] for line in found] == list(cuts)


def test_files_too_large_to_be_pictures_are_not_read(tmp_path, monkeypatch):
    files = copy() | {NAME: WHOLE + b"\0" * 100_000}
    monkeypatch.setattr(archives, "MOST_BYTES", 100_000)
    for store in as_zips, as_split_folders:
        (found,) = faults(store(files, tmp_path / store.__name__ / "mini-imagenet"))
        assert f"{NAME} has " in found and "expected 100,000 at most" in found


def test_everything_wrong_is_listed_and_no_cache_is_left(tmp_path):
    files = copy()
    listed = lists(files) | {"val": lists(files)["val"] + "n020004.jpg,n02\n,n02\n"}
    files["n03/n030001.jpg"] = b""
    files["n04/n040007.jpg"] = files["n04/n040007.jpg"][:900]
    for name in ["n05/n050001.jpg", *(name for name in list(files) if name.startswith("n06"))]:
        del files[name]
    folder = as_zips(files, tmp_path / "mini-imagenet", listed)
    (folder / "mini-imagenet" / "broken.zip").write_bytes(b"PK\3\4 cut short")
    found = faults(folder)
    for fault, line in zip(
        [
            "broken.zip is no whole zip archive",
            "val.csv, line 10, repeats line 8 (n020004.jpg,n02)",
            "val.csv, line 11, is ',n02'; expected a file name and a label",
            "val: n05/n050001.jpg is not there",
            "test: n06 has none of its 4 images there",
            "train: n03/n030001.jpg is empty",
            "test: n04/n040007.jpg is truncated",
        ],
        found,
        strict=True,
    ):
        assert line.startswith(fault)


@pytest.mark.parametrize(
    ("split", "change", "expected"),
    [
        ("train", lambda t: t.replace("filename,label", "file,class"), "begins with 'file,class'; expected the header"),
        ("val", lambda t: "", "val.csv begins with ''; expected the header"),
        ("val", lambda t: b"\xff\xfe\0", "val.csv cannot be read as a list"),
        ("test", lambda t: t + "n020001.jpg,n02\n", "test: class n02 is in val too"),
        ("test", lambda t: t + "n020001.jpg,n02\n", "test has 3 classes; expected 2"),
        ("test", lambda t: t.replace("n060001.jpg,n06\n", ""), "test: n06 has 3 images; expected 4"),
        ("val", lambda t: t.replace("n020001.jpg", "n020002.jpg"), "val: n02/n020002.jpg is not there"),
        ("val", lambda t: t + "n020001.jpg\n", "line 10, is 'n020001.jpg'; expected"),
        ("val", lambda t: t + "n020001.jpg,n02,x\n", "line 10, is 'n020001.jpg,n02,x'; expected"),
    ],
)
def test_a_wrong_list_is_named(split, change, expected, tmp_path):
    files = copy()
    listed = lists(files)
    folder = as_listed_folders(files, tmp_path / "mini-imagenet", listed | {split: change(listed[split])})
    assert any(expected in line for line in faults(folder))


def test_a_missing_list_or_split_is_named(tmp_path):
    folder = as_zips(copy(), tmp_path / "a" / "mini-imagenet")
    (folder / "mini-imagenet" / "val.csv").unlink()
    assert "val.csv is not there; expected the three lists, or none of them" in faults(folder)
    folder = as_split_folders({n: c for n, c in copy().items() if n[:3] != "n02"}, tmp_path / "b" / "mini-imagenet")
    assert faults(folder) == ["val has 1 classes; expected 2"]


def test_a_class_folder_in_two_splits_or_with_too_many_images_is_named(tmp_path):
    folder = as_split_folders(copy(), tmp_path / "mini-imagenet")
    write(folder / "mini-imagenet", {"val/n01/n010001.jpg": WHOLE, "test/n04/n040002.jpg": WHOLE})
    found = faults(folder)
    assert "val: class n01 is in train too" in found
    assert "test: n04 has 5 images; expected 4" in found


def test_one_picture_of_two_classes_is_named(tmp_path):
    files = copy()
    listed = lists(files)
    listed["test"] = listed["test"].replace("n040001.jpg", "n010001.jpg")
    del files["n04/n040001.jpg"]
    write(folder := tmp_path / "mini-imagenet", {f"all/{n.split('/')[1]}": c for n, c in files.items()})
    write(folder, {f"{split}.csv": text for split, text in listed.items()})
    assert faults(tmp_path) == ["test: n04/n010001.jpg is listed as 'n01' too"]


def test_names_that_repeat_from_class_to_class_are_told_apart_by_folder(tmp_path):
    files = {f"{name[:3]}/{name[-5:]}": content for name, content in copy().items()}
    whole = load(as_zips(files, tmp_path / "a" / "mini-imagenet"))
    assert np.array_equal(whole.images, load(as_split_folders(copy(), tmp_path / "b" / "mini-imagenet")).images)
    del files["n04/9.jpg"]
    folder = as_zips(files, tmp_path / "c" / "mini-imagenet", lists(files | {"n04/9.jpg": b""}))
    with pytest.raises(datasets.DataError, match=r"\(1\):\n  test: n04/9.jpg is not there\n"):
        load(folder)


def test_a_picture_in_several_places_must_be_the_same_in_all(tmp_path):
    folder = as_zips(copy(), tmp_path / "mini-imagenet")
    write(folder / "mini-imagenet" / "unpacked", {NAME: WHOLE})
    load(folder)
    write(folder / "mini-imagenet" / "unpacked", {NAME: copy(seed=1)[NAME]})
    with pytest.raises(
        datasets.DataError, match=rf"{NAME} differs from place to place.*\(in unpacked/{NAME} and .*\.zip:"
    ):
        load(folder)


@pytest.mark.parametrize("member", ["../../outside.jpg", "/tmp/outside-absolute.jpg", "..\\outside.jpg", "a/../b.txt"])
def test_zip_members_that_point_outside_are_refused(member, tmp_path, home):
    folder = as_zips(copy(), tmp_path / "deep" / "mini-imagenet")
    zipped(folder / "mini-imagenet" / "evil.zip", {member: WHOLE})
    before = set(tmp_path.rglob("*"))
    (found,) = faults(folder)
    assert found.startswith("evil.zip:") and "points outside the archive" in found
    assert not {path for path in set(tmp_path.rglob("*")) - before if home not in path.parents and path != home}
    assert not os.path.exists("/tmp/outside-absolute.jpg")


def test_nothing_is_written_outside_the_cache_and_what_a_mac_adds_is_passed_over(tmp_path, home):
    folder = as_zips(copy(), tmp_path / "mini-imagenet")
    zipped(folder / "mini-imagenet" / "mac.zip", {f"__MACOSX/{n[:4]}._{n[4:]}": b"\0\5\26\7" for n in copy()})
    before = set(tmp_path.rglob("*"))
    load(folder)
    made = {path for path in set(tmp_path.rglob("*")) - before if path.is_file()}
    assert {path.parent for path in made} == {home / "data" / "cache"}
    assert sorted(path.suffix for path in made) == [".about", ".lock", ".npy"]


def test_a_damaged_member_is_named(tmp_path):
    folder = as_zips(copy(), tmp_path / "mini-imagenet")
    path = folder / "mini-imagenet" / "train-1-of-2.zip"
    content = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        damaged = archive.infolist()[1]
    at = damaged.header_offset + 1000
    path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    (found,) = faults(folder)
    assert damaged.filename in found and "Bad CRC-32" in found


@pytest.mark.parametrize("kept", [0, 0.5, 0.99])
def test_a_zip_cut_short_is_named(kept, tmp_path):
    folder = as_zips(copy(), tmp_path / "mini-imagenet")
    path = folder / "mini-imagenet" / "train-1-of-2.zip"
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    found = faults(folder)
    assert found[0].startswith("train-1-of-2.zip is no whole zip archive")
    assert found.pop() == "… and 5 more"
    assert all(line.endswith("is not there") for line in found[1:]) and len(found) == 6


def test_links_are_followed_but_not_in_a_circle(tmp_path):
    write(tmp_path / "elsewhere", copy())
    folder = tmp_path / "mini-imagenet"
    write(folder, {f"{split}.csv": text for split, text in lists(copy()).items()})
    (folder / "images").symlink_to(tmp_path / "elsewhere")
    (folder / "circle").symlink_to(folder)
    assert load(tmp_path).classes == ORDER
    (tmp_path / "elsewhere" / NAME).unlink()
    (tmp_path / "elsewhere" / NAME).symlink_to("nowhere.jpg")
    with pytest.raises(datasets.DataError, match=rf"\(1\):\n  val: {NAME} is a link that leads nowhere"):
        load(tmp_path)


def test_images_are_decoded_once_and_again_when_the_source_changes(tmp_path, monkeypatch):
    folder = as_split_folders(copy(), tmp_path / "mini-imagenet")
    first = load(folder)
    with monkeypatch.context() as patch:
        patch.setattr(mini_imagenet, "_decode", lambda *_: pytest.fail("decoded again"))
        again = load(folder)
    assert isinstance(again.images, np.memmap) and not again.images.flags.writeable
    assert np.array_equal(again.images, first.images)
    assert (again.classes, again.origin) == (first.classes, first.origin)
    write(folder / "mini-imagenet" / "val", {NAME: copy(seed=1)[NAME] + b"\0"})
    assert not np.array_equal(load(folder).images, first.images)


@pytest.mark.parametrize(
    ("damage", "verify"),
    [(lambda b: b[:-1], False), (lambda b: b[:50], False), (lambda b: b"", False), (lambda b: b + b"\0", False)]
    + [(lambda b: b[:-9] + bytes([b[-9] ^ 1]) + b[-8:], True)],
)
def test_a_damaged_cache_is_made_anew(damage, verify, tmp_path, home):
    folder = as_zips(copy(), tmp_path / "mini-imagenet")
    first = load(folder).images.copy()
    (path,) = (home / "data" / "cache").glob("*.npy")
    path.write_bytes(damage(path.read_bytes()))
    with pytest.warns(UserWarning, match="is damaged; decoding the images again"):
        assert np.array_equal(load(folder, verify=verify).images, first)


def test_a_decoding_that_was_cut_off_leaves_no_cache(tmp_path, monkeypatch, home):
    folder = as_zips(copy(), tmp_path / "mini-imagenet")
    decode, calls = mini_imagenet._image, iter(range(28))

    def interrupted(*arguments):
        if next(calls) == 9:
            raise KeyboardInterrupt
        return decode(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(mini_imagenet, "_image", interrupted)
        with pytest.raises(KeyboardInterrupt):
            load(folder)
    assert not list((home / "data" / "cache").glob("*.npy"))
    assert load(folder).classes == ORDER


def test_a_cache_that_cannot_be_written_costs_only_the_cache(tmp_path, monkeypatch):
    folder = as_zips(copy(), tmp_path / "mini-imagenet")
    cached = load(folder)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache, "_write", full)
    monkeypatch.setenv("REPTILE_HOME", str(tmp_path / "another"))
    with pytest.warns(UserWarning, match="no cache of decoded images"):
        data = load(folder)
    assert np.array_equal(data.images, cached.images) and data.origin == cached.origin


def test_the_command_tells_missing_from_damaged(tmp_path, monkeypatch, capsys):
    assert rx.paper.catalogue, "which reads all facts when it is first imported"
    monkeypatch.setattr(datasets, "FACTS", {"mini-imagenet": mini_imagenet.FACTS})
    (tmp_path / "empty").mkdir()
    assert main(["data", "--directory", str(tmp_path / "empty")]) == 0
    assert main(["data", "mini-imagenet", "--directory", str(tmp_path / "empty")]) == 1
    assert capsys.readouterr().err.count("image-net.org") == 2
    folder = as_zips(copy(), tmp_path / "mini-imagenet")
    sheet = tmp_path / "sheet.png"
    assert main(["data", "mini-imagenet", "--directory", str(folder), "--sheet", str(sheet)]) == 0
    printed = capsys.readouterr().out
    assert "7 classes of 4 images, 84×84×3" in printed and "3 training, 2 validation and 2 test classes" in printed
    assert Image.open(sheet).size == (4 * 86, 7 * 86)
    write(folder / "mini-imagenet", {"broken.zip": b""})
    assert main(["data", "--directory", str(folder)]) == 1


@pytest.mark.skipif(not REAL.is_dir(), reason="REPTILE_DATA has no Mini-ImageNet")
def test_a_real_copy_is_complete(monkeypatch):
    """Its lists and archives only: decoding it takes longer than a test may."""
    monkeypatch.undo()
    monkeypatch.setattr(mini_imagenet, "_decode_listed", lambda *_: ([(84, 84)], 0))
    assert len(mini_imagenet._decode(REAL, mini_imagenet._files(REAL), "nearest", print)["classes"]) == 100
