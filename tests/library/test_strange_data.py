"""Data damaged in every way that comes to mind: mended with one warning that names the file, or one error that does."""

import io
import os
import shutil
import struct
import warnings
import zipfile

import numpy as np
import pytest
import test_datasets as omniglots
import test_mini_imagenet as minis
from PIL import Image

from reptile_eqx import datasets
from reptile_eqx.datasets import archives, cache, mini_imagenet, omniglot
from reptile_eqx.datasets.problems import Problems

pytestmark = pytest.mark.filterwarnings("ignore:not as published")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Tiny copies are whole ones, and no picture is above 100 kB."""
    omniglots.make_small(monkeypatch)
    facts = mini_imagenet.FACTS._replace(split=(3, 2, 2), shape=(7, 4, 84, 84, 3))
    monkeypatch.setattr(mini_imagenet, "FACTS", facts)
    monkeypatch.setattr(archives, "MOST_BYTES", 100_000)
    monkeypatch.delenv("REPTILE_DATA", raising=False)


OMNIGLOT, MINI = omniglots.published(), minis.copy()
OWN = {f"{c}/{i}.png": minis.encoded(np.full((9, 9, 3), 40 * i + 9, np.uint8), "PNG") for c in "ab" for i in range(3)}
DRAWING, PHOTO = "images_evaluation/Tengwar/character02/0001_07.png", "n02/n020004.jpg"


def of_omniglot(place):
    return datasets.load_omniglot(place, download=False)


def of_mini(place):
    return datasets.load_mini_imagenet(place)


def of_own(place):
    return datasets.folder(place / "own", 8)


def own_folders(files, folder):
    return minis.write(folder, files).parent


# What a copy is made of and how, a picture in it, how it is loaded, and the zip that the picture is in.
IN_FOLDERS = {
    "omniglot": (OMNIGLOT, omniglots.as_folders, DRAWING, of_omniglot, DRAWING),
    "mini-imagenet": (MINI, minis.as_listed_folders, PHOTO, of_mini, f"images/{PHOTO}"),
    "own": (OWN, own_folders, "a/1.png", of_own, "a/1.png"),
}
IN_ZIPS = {
    "omniglot": (OMNIGLOT, omniglots.as_zips, DRAWING, of_omniglot, "images_evaluation.zip"),
    "mini-imagenet": (MINI, minis.as_zips, PHOTO, of_mini, None),
}


def everything(root):
    return {(path, path.lstat().st_size) for path in root.rglob("*")}


def refused(load, place, named, home):
    """What the one error says; nothing was written but locks in the cache's folder."""
    before = everything(place)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(datasets.DataError) as raised:
            load(place)
    text = str(raised.value)
    assert named in text and len(text) <= 4000 and text.count("\n") <= 30, text
    assert {(p, s) for p, s in everything(place) - before if home not in (p, *p.parents)} == set()
    assert {path.suffix for path in home.rglob("*") if path.is_file()} <= {".lock"}
    return text


def bomb(width=60_000):
    return minis.png_of(width, width)


PICTURES = {
    "empty": b"",
    "a page": b"<!DOCTYPE html><title>Quota exceeded</title>",
    "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(touch /tmp/started) run showpage\n",
    "SVG": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
    "a start": b"\x89PNG\r\n\x1a\n",
    "zeros": bytes(3000),
    "no pixels": minis.png_of(9, 9),
    "a bomb": bomb(),
    "too large": OMNIGLOT[DRAWING] + bytes(200_000),
    "cut": None,
}


@pytest.mark.parametrize("damage", PICTURES)
@pytest.mark.parametrize(("name", "store"), [*((n, IN_FOLDERS) for n in IN_FOLDERS), *((n, IN_ZIPS) for n in IN_ZIPS)])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_file_that_is_no_picture_is_named(name, store, damage, tmp_path, home):
    files, make, picture, load, _ = store[name]
    content = PICTURES[damage] if PICTURES[damage] is not None else files[picture][:-30]
    place = make(files | {picture: content}, tmp_path / "data" / name)
    refused(load, place, picture, home)


def fifo(path):
    os.mkfifo(path)


def huge(path):
    with path.open("wb") as file:
        file.truncate(10 * 2**30)


# What may lie in a file's place.
IN_PLACE = {
    "a pipe": fifo,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a link to nothing": lambda path: path.symlink_to("nowhere"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a folder": lambda path: path.mkdir(),
    "10 GB of nothing": huge,
    "an empty file": lambda path: path.touch(),
}


def replaced(path, by):
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    IN_PLACE[by](path)


@pytest.mark.parametrize("by", [by for by in IN_PLACE if by != "a folder"])
@pytest.mark.parametrize("name", IN_FOLDERS)
def test_a_picture_that_is_no_file_is_named(name, by, tmp_path, home):
    files, make, picture, load, path = IN_FOLDERS[name]
    place = make(files, tmp_path / "data" / name)
    replaced(place / name / path, by)
    refused(load, place, picture, home)


@pytest.mark.parametrize("by", IN_PLACE)
@pytest.mark.parametrize(
    ("name", "file"),
    [("omniglot", "images_background.zip"), ("mini-imagenet", "val.csv"), ("mini-imagenet", "more/rest.zip")],
)
def test_a_zip_or_list_that_is_no_file_is_named(name, file, by, tmp_path, home):
    files, make, _, load, _ = IN_ZIPS[name]
    place = make(files, tmp_path / "data" / name)
    replaced(place / name / file, by)
    refused(load, place, "n01" if (file, by) == ("more/rest.zip", "a folder") else file, home)


@pytest.mark.parametrize("by", [by for by in IN_PLACE if by != "a folder"])
@pytest.mark.parametrize("name", IN_FOLDERS)
@pytest.mark.parametrize("which", ["the folder", "what holds it"])
def test_a_folder_that_is_none_is_named(which, name, by, tmp_path, home):
    files, make, _, load, _ = IN_FOLDERS[name]
    place = make(files, tmp_path / "data" / name)
    path = place / name if which == "the folder" else place
    replaced(path, by)
    with pytest.raises(datasets.DataError, match=str(path)) as raised:
        load(place)
    assert not isinstance(raised.value, datasets.Unavailable)


def test_a_home_of_nobody_is_named(monkeypatch):
    for load in (datasets.load_omniglot, datasets.load_mini_imagenet, datasets.folder):
        with pytest.raises(datasets.DataError, match="is ~nobody-at-all/data, and there is no such home"):
            load("~nobody-at-all/data")
    monkeypatch.setenv("REPTILE_DATA", "~nobody-at-all/data")
    for load in (datasets.load_omniglot, datasets.load_mini_imagenet):
        with pytest.raises(datasets.DataError, match=r"\$REPTILE_DATA is ~nobody-at-all/data"):
            load()


def patched(content, member, at, layout, value):
    """A zip with a field of one member changed, `at` bytes into its entry in the directory."""
    entry = content.rindex(b"PK\1\2", 0, content.rindex(member.encode()))
    return content[: entry + at] + struct.pack(layout, value) + content[entry + at + struct.calcsize(layout) :]


def zip_of(files, compression=zipfile.ZIP_DEFLATED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in files:
            archive.writestr(name, content)
    return buffer.getvalue()


def shorter(files, name):
    """A member that inflates to more than it declares, whose checksum is that of what it declares."""
    content = dict(files)[name]
    declared = content[:500]
    whole = patched(zip_of(files), name, 24, "<I", len(declared))
    return patched(whole, name, 16, "<I", zipfile.crc32(declared))


def crossed(files, name):
    """Two members over the same bytes."""
    content = zip_of(files)
    first = next(n for n, _ in files if n != name)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return patched(content, name, 42, "<I", archive.getinfo(first).header_offset)


def of_zeros(files, name, count):
    return zip_of([(n, bytes(count) if n == name else c) for n, c in files])


ZIPS = {
    "twice": lambda files, name: zip_of([*files, (name, b"")]),
    "twice by another path": lambda files, name: zip_of([*files, (f"./{name}", b"")]),
    "outside": lambda files, name: zip_of([*files, ("../../outside.png", b"x")]),
    "outside, further on": lambda files, name: zip_of([*files, ("a/../../../outside.txt", b"x")]),
    "outside as on Windows": lambda files, name: zip_of([*files, ("..\\..\\outside.png", b"x")]),
    "absolute": lambda files, name: zip_of([*files, ("/tmp/outside.png", b"x")]),
    "absolute as on Windows": lambda files, name: zip_of([*files, ("C:\\outside.png", b"x")]),
    "encrypted": lambda files, name: patched(zip_of(files), name, 8, "<H", 1),
    "strongly encrypted": lambda files, name: patched(zip_of(files), name, 8, "<H", 0x41),
    "inflates to more": shorter,
    "inflates to much": lambda files, name: patched(of_zeros(files, name, 10**7), name, 24, "<I", 99),
    "declares more": lambda files, name: patched(zip_of(files), name, 24, "<I", 90_000),
    "declares too much": lambda files, name: patched(zip_of(files), name, 24, "<I", 2**31),
    "a bomb": lambda files, name: of_zeros(files, name, 10**6),
    "stored, and declares less": lambda files, name: patched(zip_of(files, 0), name, 24, "<I", 500),
    "bzip2": lambda files, name: zip_of(files, zipfile.ZIP_BZIP2),
    "lzma": lambda files, name: zip_of(files, zipfile.ZIP_LZMA),
    "an unknown method": lambda files, name: patched(zip_of(files), name, 10, "<H", 77),
    "a later zip": lambda files, name: patched(zip_of(files), name, 6, "<H", 999),
    "another checksum": lambda files, name: patched(zip_of(files), name, 16, "<I", 1),
    "another place": lambda files, name: patched(zip_of(files), name, 42, "<I", 2**31),
    "in another's place": crossed,
    "cut": lambda files, name: zip_of(files)[:-30],
    "its start lost": lambda files, name: zip_of(files)[1000:],
    "zeros inside": lambda files, name: zip_of(files)[:300] + bytes(9000) + zip_of(files)[9300:],
    "a long directory": lambda files, name: zip_of([*files, *((f"{i:0200d}", b"") for i in range(500))]),
    "a name of any bytes": lambda files, name: zip_of([*files, ("ü.txt", b"")]).replace("ü".encode(), b"\xff\xfe"),
}  # fmt: skip


SAID = {
    ("twice", "twice by another path"): "is in the archive twice",
    ("encrypted", "strongly encrypted"): "is encrypted",
    ("bzip2", "lzma", "an unknown method"): "is neither stored nor deflated",
    ("inflates to more", "inflates to much"): "cannot be read (Bad CRC-32",
    ("a long directory",): "its directory has",
    tuple(damage for damage in ZIPS if damage.startswith(("outside", "absolute"))): "points outside the archive",
}


@pytest.mark.parametrize("damage", ZIPS)
@pytest.mark.parametrize("name", IN_ZIPS)
def test_a_damaged_zip_is_named(name, damage, tmp_path, home):
    files, make, picture, load, archive = IN_ZIPS[name]
    place = make(files, tmp_path / "data" / name)
    part = picture.split("/")[0] if name == "omniglot" else ""
    members = sorted((n, c) for n, c in files.items() if n.startswith(part))
    if archive is None:
        for path in (place / name).rglob("*.zip"):
            path.unlink()
        archive = "all.zip"
    (place / name / archive).write_bytes(ZIPS[damage](members, picture))
    text = refused(load, place, archive, home)
    for damages, said in SAID.items():
        assert damage not in damages or said in text
    assert not os.path.exists("/tmp/outside.png")


def test_a_zip_that_is_not_the_published_one_is_told_once(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MOST_BYTES", 10**6)
    place = omniglots.as_zips(OMNIGLOT, tmp_path / "omniglot")
    with pytest.warns(UserWarning, match="not as published.*images_background.zip and .*images_evaluation.zip") as told:
        of_omniglot(place)
    assert len(told) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        of_omniglot(place)
        whole = {part: (place / "omniglot" / f"{part}.zip").read_bytes() for part in omniglots.MINIATURE}
        md5 = {
            part: omniglot.hashlib.md5(content, usedforsecurity=False).hexdigest() for part, content in whole.items()
        }
        monkeypatch.setattr(omniglot, "_PARTS", md5)
        (place / "omniglot" / "images_background.zip").touch()
        shutil.rmtree(cache.files.data_directory())
        of_omniglot(place)


def test_a_copy_with_problems_without_end_gives_a_short_error(tmp_path, home):
    text = refused(
        of_own, own_folders({f"{c}/{i}.png": b"" for c in "abc" for i in range(300)}, tmp_path / "own"), "", home
    )
    assert text.startswith("900 files in ") and "\n  … and 895 more\n" in text
    long = {f"{'ab'[i % 2] * 200}/{i}\n{'x' * 200}.png": b"no" for i in range(9)} | {
        "a/1.png": b"",
        "a/\udcff.png": b"no",
    }
    refused(of_own, own_folders(long, tmp_path / "other" / "own"), "a/1.png is empty", home)


def test_of_each_kind_of_problem_the_first_is_kept_in_the_order_they_were_found():
    problems = Problems()
    for i in range(1000):
        problems.add(f"{i}.png", f"has {i} bytes")
        if i % 50 == 49:
            problems.add(f"{i}.png", f"is a {chr(97 + i // 50)}")
    lines = str(problems.error("wrong", "Mend it.")).splitlines()
    assert lines[0] == "wrong:" and lines[-2:] == ["  … and 1,000 more", "Mend it."] and len(problems) == 1020
    assert lines[1] == "  0.png has 0 bytes" and sum("is a" in line for line in lines) == 19


def flipped(content):
    return content[:-5] + bytes([content[-5] ^ 4]) + content[-4:]


def saved(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


ON_DISK = {
    "cut": lambda content: content[:-1],
    "cut early": lambda content: content[:50],
    "a bit flipped": flipped,
    "the first bit flipped": lambda content: bytes([content[0] ^ 1]) + content[1:],
    "longer": lambda content: content + b"\0",
    "pickled": lambda content: saved(np.array([print, {}], object)),
    "another array": lambda content: saved(np.zeros(9)),
    "zeros": lambda content: bytes(len(content)),
    "a zip": lambda content: zip_of([("x.npy", saved(np.zeros(9)))]),
    "another program's": lambda content: b"[settings]\nkey = value\n",
}


def told_once(load, place, path):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        data = load(place)
    told = [str(one.message) for one in told if "not as published" not in str(one.message)]
    assert len(told) == 1 and str(path) in told[0], told
    return data


@pytest.mark.parametrize("which", [".npy", ".about"])
@pytest.mark.parametrize("damage", [*ON_DISK, *IN_PLACE])
@pytest.mark.parametrize("mapped", [True, False])
def test_whatever_lies_in_the_place_of_a_cache_is_made_anew(mapped, damage, which, tmp_path, home, monkeypatch):
    monkeypatch.setattr(cache, "_MAPPED", 0 if mapped else 2**40)
    _, make, _, load, _ = IN_FOLDERS["own"]
    place = make(OWN, tmp_path / "data" / "own")
    expected = load(place).images.copy()
    (path,) = (home / "data" / "cache").glob("*.npy")
    if damage in ON_DISK:
        target = path.with_suffix(which)
        target.write_bytes(ON_DISK[damage](target.read_bytes()))
    else:
        replaced(path.with_suffix(which), damage)
    assert np.array_equal(told_once(load, place, path).images, expected)
    monkeypatch.setattr(datasets.folders, "_decode", lambda *_: pytest.fail("decoded again"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(load(place).images, expected)
    assert not list(home.rglob("*.part"))


@pytest.mark.parametrize("mapped", [True, False])
def test_a_cache_beside_no_facts_or_those_of_another_is_made_anew(mapped, tmp_path, home, monkeypatch):
    monkeypatch.setattr(cache, "_MAPPED", 0 if mapped else 2**40)
    one, other = (own_folders({n: OWN[n] for n in sorted(OWN, reverse=r)}, tmp_path / str(r) / "own") for r in (0, 1))
    expected = of_own(one).images.copy()
    (path,) = (home / "data" / "cache").glob("*.npy")
    path.with_suffix(".about").unlink()
    assert np.array_equal(told_once(of_own, one, path).images, expected)
    of_own(other)
    (of_other,) = set((home / "data" / "cache").glob("*.about")) - {path.with_suffix(".about")}
    shutil.copyfile(of_other, path.with_suffix(".about"))
    assert np.array_equal(told_once(of_own, one, path).images, expected)


@pytest.mark.parametrize("by", ["a pipe", "a device", "a link to nothing", "a link to itself", "a folder"])
@pytest.mark.parametrize("which", ["lock", "cache", "data"])
def test_where_there_can_be_no_cache_the_data_comes_without(which, by, tmp_path, home, monkeypatch):
    place = own_folders(OWN, tmp_path / "data" / "own")
    expected = of_own(place).images.copy()
    (path,) = (home / "data" / "cache").glob("*.npy")
    target = {"lock": path.with_suffix(".lock"), "cache": path.parent, "data": path.parent.parent}[which]
    replaced(target, by)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        assert np.array_equal(of_own(place).images, expected)
    # The array, or the lock beside it.
    assert len(told) <= 1 and all(str(path.with_suffix("")) in str(one.message) for one in told)


def test_a_mapped_cache_is_compared_once_a_day_and_when_it_changed(tmp_path, home, monkeypatch):
    monkeypatch.setattr(cache, "_MAPPED", 0)
    place = own_folders(OWN, tmp_path / "data" / "own")
    expected = of_own(place).images.copy()
    (path,) = (home / "data" / "cache").glob("*.npy")
    about, compared, digest = path.with_suffix(".about"), [], cache.hashlib.file_digest
    monkeypatch.setattr(cache.hashlib, "file_digest", lambda *given: compared.append(1) or digest(*given))
    for days, times in ((0, 0), (0.9, 1), (0, 1), (1.1, 2), (0, 2), (-3, 3), (0, 3)):
        if days:  # a file that is older than its neighbour's last change is compared as well
            os.utime(about, (at := about.stat().st_mtime - days * 86400, at))
        of_own(place)
        assert len(compared) == times, days
    path.write_bytes(flipped(path.read_bytes()))
    assert np.array_equal(told_once(of_own, place, path).images, expected)


def test_what_was_made_of_the_same_folder_before_is_removed_and_nothing_else(tmp_path, home):
    folder = home / "data" / "cache"
    one, other = (own_folders(OWN, tmp_path / name / "own") for name in ("one", "other"))
    datasets.folder(other / "own", 8)
    datasets.folder(one / "own", 4)
    datasets.draw_glyphs(2, 2, seed=0), datasets.draw_glyphs(2, 2, seed=1)
    kept = set(folder.iterdir())
    mapped = datasets.folder(one / "own", 8)
    first = set(folder.iterdir()) - kept
    Image.new("RGB", (9, 9)).save(one / "own" / "a" / "new.png")
    again = datasets.folder(one / "own", 8)
    assert mapped.images.shape[:2] == (2, 3) and again.counts == (4, 3)
    assert set(folder.iterdir()) >= kept and not set(folder.iterdir()) & first
    assert len(set(folder.iterdir()) - kept) == 3
