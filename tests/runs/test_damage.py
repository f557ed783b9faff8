"""What lies on disk is checked: damage to any kind of file is mended with one warning, or is one clear error."""

import json
import os
import pickle
import warnings
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from made_up import SINE
from test_own_configuration import Descent

import reptile_eqx as rx
from reptile_eqx import checks, files
from reptile_eqx.paper.experiments import SineRegression
from reptile_eqx.runs import devices, digests, processes, programs
from reptile_eqx.runs.checkpoint import Training
from reptile_eqx.runs.configuration import numbers_of
from reptile_eqx.runs.records import Record, every_record
from reptile_eqx.runs.run import iterations_left


class Boom:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was loaded",))


def flipped(position):
    def damage(content):
        at = int(position * (len(content) - 1))
        return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]

    return damage


def place(path, what):
    """Put something that is no regular file in a file's place."""
    path.unlink()
    if what == "folder":
        path.mkdir()
    elif what == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(what)


DAMAGES = {
    **{f"a bit at {share}": flipped(share) for share in (0, 0.01, 0.05, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99, 1)},
    **{
        f"cut at {share}": lambda content, share=share: content[: int(share * len(content))]
        for share in (0, 0.1, 0.5, 0.99)
    },
    "longer": lambda content: content + b"x",
    "twice": lambda content: content + content,
    "zeros": lambda content: bytes(len(content)),
    "a page of HTML": lambda content: b"<!DOCTYPE html><html>not found</html>",
    "a list": lambda content: b"[]\n",
    "a pickle": lambda content: pickle.dumps(Boom()),
    "an npy with a pickle": lambda content: (
        b"\x93NUMPY\x01\x00v\x00{'descr': '|O', 'fortran_order': False, 'shape': (), }\n"
    ),
    "of another kind": lambda content: files.sealed("letter", content),
    "deep": lambda content: b"[" * 100_000,
    "another line's end": lambda content: content.replace(b"\n", b"\r\n", 1),
    "a mark of order": lambda content: b"\xef\xbb\xbf" + content,
}
PLACES = ("folder", "pipe", "/dev/zero", "/nowhere")


def apply(path, damage):
    if damage in PLACES:
        place(path, damage)
    else:
        whole = path.read_bytes()
        path.write_bytes(DAMAGES[damage](whole))
        assert path.read_bytes() != whole


def training(path, value=1.0):
    config = SineRegression(**SINE)
    return Training(config, path, {"seed": 0}, {"w": np.full(50, value, np.float32)}, 7, 1.5, [{"iteration": 7}])


@pytest.mark.parametrize("damage", [*DAMAGES, *PLACES])
def test_a_damaged_checkpoint_is_set_aside(tmp_path, damage):
    path = tmp_path / "runs" / "state.eqx"
    training(path).save()
    apply(path, damage)
    fresh = training(path, 0.0)
    fresh.iteration = 0
    with pytest.warns(
        UserWarning, match=r"state\.eqx is not used, as .* kept as state\.eqx\.damaged, and made anew"
    ) as seen:
        assert not fresh.resume()
    assert len(seen) == 1 and fresh.iteration == 0 and (fresh.state["w"] == 0).all()
    assert os.path.lexists(path.with_name("state.eqx.damaged")) and not os.path.lexists(path)
    fresh.save()
    assert training(path).resume()


@pytest.mark.parametrize(
    "other",
    [
        {"w": np.zeros(51, np.float32)},
        {"w": np.zeros(50, np.float64)},
        {"w": np.zeros(50, np.float32), "v": np.zeros(2)},
    ],
)
def test_a_checkpoint_of_another_shape_is_set_aside(tmp_path, other):
    training(tmp_path / "state.eqx").save()
    fresh = training(tmp_path / "state.eqx")
    fresh.state = other
    with pytest.warns(UserWarning, match="is not used, as"):
        assert not fresh.resume()


@pytest.mark.parametrize(
    "wrong",
    [
        *({"iteration": value} for value in (-5, 12.5, True, "50", None)),
        *({"curve": value} for value in ({}, "x", [1], [{}], [{"iteration": "x"}], 2 * [{"iteration": 7}])),
        *({"commits": value} for value in (None, "x", [1])),
        {"diverged": 1}, {"seconds": "1"}, {"date": None}, {"config": []},
    ],
)  # fmt: skip
def test_a_header_that_is_none_is_set_aside_under_a_valid_seal_too(tmp_path, wrong):
    path = tmp_path / "state.eqx"
    training(path).save()
    header, arrays = files.unsealed("checkpoint", path.read_bytes()).split(b"\n", 1)
    path.write_bytes(files.sealed("checkpoint", json.dumps(json.loads(header) | wrong).encode() + b"\n" + arrays))
    with pytest.warns(UserWarning, match=r"state\.eqx is not used, as its"):
        assert not training(path).resume()


def measured(folder):
    """A training that has measured something, what that was, and the file that it lies in."""
    one = training(folder / "state.eqx")
    one.settings |= {name: 1 for name in one.config.measured}
    (measurement, _) = one.config.measurements(None, {"seed": np.uint32(0), "inner_step_size": 0.1}, final=True)
    one.save_seen(measurement, np.ones((3, 4), np.float32))
    (path,) = folder.glob("seen-*")
    return one, measurement, path


@pytest.mark.parametrize("content", [b"", b"hello", b"\x93NUMPY", b"PK\x03\x04"])
def test_values_that_are_none_are_measured_again_under_a_valid_seal_too(tmp_path, content):
    one, measurement, path = measured(tmp_path)
    path.write_bytes(files.sealed("measured values", content))
    with pytest.warns(UserWarning, match=f"{path.name} is not used, as"):
        assert one.load_seen(measurement, lambda: np.ones(4, np.float32)) is None


@pytest.mark.parametrize("value", [10**400, Fraction(1, 2), float("inf"), "3", True, None, 3.5, 1j])
def test_what_is_no_whole_number_is_named(value):
    with pytest.raises(ValueError, match="`steps` is .*; expected a whole number, 1 or more"):
        checks.whole("steps", value)
    assert checks.whole("steps", np.int64(3)) == checks.whole("steps", Fraction(3)) == 3


@pytest.mark.parametrize("damage", [*DAMAGES, *PLACES])
def test_damaged_values_are_measured_again(tmp_path, damage):
    one, measurement, path = measured(tmp_path)
    assert one.load_seen(measurement, lambda: np.ones(4, np.float32)).shape == (3, 4)
    apply(path, damage)
    with pytest.warns(UserWarning, match=f"{path.name} is not used, as"):
        assert one.load_seen(measurement, lambda: np.ones(4, np.float32)) is None


@pytest.mark.parametrize("damage", [*DAMAGES, *PLACES])
def test_a_damaged_initialisation_is_one_clear_error(tmp_path, damage):
    path = tmp_path / "a.eqx"
    model = rx.nn.ConvNetwork(2, (4, 4, 1), filters=2, blocks=1, key=jnp.zeros(2, jnp.uint32))
    optimiser = rx.reference_adam(1e-3)
    inner = rx.start_optimiser(optimiser, model)
    rx.save(path, rx.Initialisation(model, inner, rx.sum_cross_entropy, optimiser, 3, 2))
    rx.load(path)
    apply(path, damage)
    with pytest.raises(ValueError, match=r"a\.eqx is not read, as .*: get it again, or save it anew"):
        rx.load(path)


RECORD = Record("a-1", "Kind", {"seed": 0}, "finished", [{"iteration": 1}], {"loss": 1.0}, {"date": "2018"})
NO_RECORDS = {
    "a list": b"[]",
    "a text": b"hello",
    "empty": b"",
    "half": b'{"name": "a-1", "kind"',
    "conflict": b"<<<<<<< HEAD\n{}\n=======\n{}\n>>>>>>> other\n",
    "a mark of order": b"\xef\xbb\xbf{}",
    "bytes": bytes(range(256)),
    "deep": b"[" * 100_000,
    "a field missing": json.dumps({"name": "a"}).encode(),
    "a Mac's": b"\x00\x05\x16\x07",
    "NaN": json.dumps({**vars(RECORD), "results": {"loss": float("nan")}}).encode(),
    "types": json.dumps({**vars(RECORD), "curve": {}}).encode(),
    "a curve of numbers": json.dumps({**vars(RECORD), "curve": [1]}).encode(),
}


@pytest.mark.parametrize("what", [*NO_RECORDS, *PLACES])
def test_what_is_no_record_is_passed_over(home, what):
    folder = home / "data" / "runs"
    kept = {**vars(RECORD), "since": "version 9"}
    processes.write(folder / "b.json", processes.as_json(kept))
    stray = folder / ("._b.json" if what == "a Mac's" else "a.json")
    stray.write_bytes(NO_RECORDS.get(what, b"x"))
    if what in PLACES:
        place(stray, what)
    with pytest.warns(UserWarning, match=f"{stray.name} is passed over, as .*: remove it, or get it again") as seen:
        (record,) = every_record()
    assert len(seen) == 1 and record.name == "a-1"
    assert record.more == {"since": "version 9"}, "what a later version has added is kept"


@dataclass(frozen=True)
class Mean(Descent):
    """A number descends to the mean of the data; there are as many of it as the data's second axis is long."""

    def learner(self, data, numbers):
        learner = super().learner(data, numbers)
        gradient = rx.joint_training(lambda w, batch: jnp.square(w - data.mean()).sum(), optax.sgd(0.1), batch_size=1)
        return learner._replace(model=lambda key: jnp.zeros(data.shape[1]), gradient=gradient)

    def measurements(self, data, numbers, *, final):
        return (rx.Measurement("w", 2, lambda state, key: state.model.mean(), rx.mean_and_interval),)


def test_a_run_belongs_to_its_data(capsys):
    config, one, other = Mean(20), np.ones((2, 1), np.float32), np.full((2, 1), 3, np.float32)
    (first,) = rx.run([config], one)
    assert "read, not trained" not in capsys.readouterr().err
    (second,) = rx.run([config], other)
    assert [round(record.results["w"]["mean"]) for record in (first, second)] == [1, 3]
    capsys.readouterr()
    assert rx.run([config], one) == [first] and rx.run([config], other) == [second]
    assert capsys.readouterr().err.count("1 run was read, not trained: made 20") == 2
    assert rx.run([config], one, fresh=True)[0].results == first.results
    assert "read" not in capsys.readouterr().err
    assert {record.name for record in every_record()} == {first.name, second.name}
    assert rx.load_state(config, one).model != rx.load_state(config, other).model
    assert rx.find_record(config).name in (first.name, second.name)
    assert iterations_left(config) is None


def test_a_changed_network_is_another_run():
    config, narrow, wide = Mean(20), np.ones((2, 1), np.float32), np.ones((1, 2), np.float32)
    a, b = (digests.of_run(config, data, "the same data") for data in (narrow, wide))
    assert a["data"] == b["data"] and a["parameters"] != b["parameters"]
    (record,) = rx.run([config], narrow)
    assert rx.find_record(config, digests=record.made["digests"]) == record
    assert rx.find_record(config, digests=record.made["digests"] | {"parameters": b["parameters"]}) is None


def test_what_is_measured_and_not_finite_has_a_status_and_no_bare_nan(home, monkeypatch):
    config = SineRegression(**SINE)
    measure = programs.Programs.measure

    def nothing(self, trainings, *, final, bar=None):
        found = measure(self, trainings, final=final, bar=bar)
        return (
            [{"loss": result["loss"] | {"ci95": float("nan")}} | result for result in found]
            if not final
            else [{"loss": {"mean": [float("inf")]}} for _ in found]
        )

    monkeypatch.setattr(programs.Programs, "measure", nothing)
    (record,) = rx.run([config])
    assert record.status == "not finite" and record.results == {"loss": {"mean": [None]}}
    text = next((home / "data" / "runs").glob("*.json")).read_text()
    assert "NaN" not in text and "Infinity" not in text and rx.run([config]) == [record]


def test_what_a_killed_process_was_writing_is_removed(tmp_path):
    host = files.socket.gethostname()
    path, dead = tmp_path / "a.json", 2**22 + 1  # no process has such a number
    orphan, living, elsewhere, others = (
        tmp_path / name
        for name in (
            f"a.json.{host}-{dead}-00.part",
            f"a.json.{host}-{os.getpid()}-00.part",
            f"a.json.other-{dead}-00.part",
            f"b.json.{host}-{dead}-00.part",
        )
    )
    for part in (orphan, living, elsewhere, others):
        part.write_text("")
    processes.write(path, "{}")
    assert sorted(tmp_path.iterdir()) == sorted([path, living, elsewhere, others])


def full(*_):
    raise OSError(28, "No space left on device")


def test_a_full_disk_is_named_and_the_training_goes_on_exactly_afterwards(tmp_path, monkeypatch):
    config = SineRegression(**SINE)
    (whole,) = rx.run([config])
    monkeypatch.setenv("REPTILE_HOME", str(tmp_path / "again"))
    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fsync", full)
        with pytest.raises(
            files.Unwritable, match=r"state\.eqx cannot be written: No space .* Free some space there \(.*cache"
        ):
            rx.run([config])
    assert not list((tmp_path / "again").rglob("*.part"))
    (after,) = rx.run([config])
    assert (after.curve, after.results) == (whole.curve, whole.results)


@pytest.mark.parametrize("what", ["file", "dangling", "folder", "loop"])
def test_places_that_are_none(tmp_path, what):
    path = tmp_path / "home" / "a.json"
    message = {
        "file": "home is a file where a folder should be",
        "dangling": "home is a link that leads nowhere",
        "folder": "a folder of that name is in its place",
        "loop": "home is a link that leads nowhere",
    }
    if what == "file":
        path.parent.write_text("")
    elif what == "dangling":
        path.parent.symlink_to(tmp_path / "nowhere")
    elif what == "loop":
        path.parent.symlink_to(path.parent)
    else:
        path.mkdir(parents=True)
    with pytest.raises(files.Unwritable, match=message[what]):
        processes.write(path, "{}")


def test_nobodys_home(monkeypatch):
    monkeypatch.setenv("REPTILE_HOME", "~nobody-of-that-name/x")
    with pytest.raises(ValueError, match=r"\$REPTILE_HOME is ~nobody-of-that-name/x, and there is no such home"):
        files.data_directory()


@pytest.mark.parametrize("name", ["../out", "a/b", ".hidden", "", "a\\b", "x" * 300, "a\0b"])
def test_a_runs_name_never_leads_out_of_its_folder(name):
    class Named(SineRegression):
        @property
        def name(self):
            return name

    with pytest.raises(ValueError, match="expected the name of a file"):
        rx.run([Named(**SINE)])


def test_compiled_programs_have_a_limit_and_what_cannot_be_read_is_removed(tmp_path, monkeypatch):
    for i in range(5):
        (tmp_path / f"{i}-cache").write_bytes(bytes(100))
        os.utime(tmp_path / f"{i}-cache", (i, i))
    devices._keep_within(tmp_path, 250)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["3-cache", "4-cache"]
    devices._keep_within(tmp_path / "nowhere", 250)

    class Lowered:
        def compile(self, options):
            warnings.warn("Error reading persistent compilation cache entry for '3': E", stacklevel=1)
            warnings.warn("another", stacklevel=1)
            return "compiled"

    monkeypatch.setattr(devices, "_programs", lambda: tmp_path)
    with pytest.warns(UserWarning) as seen:
        assert devices._compiled.__wrapped__(Lowered(), {}) == "compiled"
    assert [str(w.message)[:40] for w in seen] == [f"compiled programs in {tmp_path}"[:40], "another"]
    assert [path.name for path in tmp_path.iterdir()] == ["4-cache"]
    assert Path(jax.config.jax_compilation_cache_dir) != tmp_path


def test_another_number_of_iterations_is_the_same_program():
    lowered = set()
    for iterations in (50, 60):
        config = SineRegression(**(SINE | dict(outer_iterations=iterations)))
        compiled = programs.Programs(config, None, 1, jax.devices()[:1])
        unit = {"numbers": numbers_of(config), "state": compiled.start([config])[0]}
        jaxpr = jax.make_jaxpr(compiled._train)(None, unit, 1)
        lowered.add(str(jaxpr))
    assert len(lowered) == 1
