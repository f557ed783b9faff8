"""The command `reptile-eqx`: execute the notebooks, look after the data, measure the speed."""

import argparse
import ast
import csv
import errno
import functools
import importlib
import importlib.metadata
import math
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from . import checks, children, datasets, files

_RUN = """Execute the notebooks, each in a kernel of its own, write figures, tables and executed notebooks, and say what
was found. `paper` writes into figures/, where the published ones are, smoke and quick into folders of their own there.
Trainings that were finished before are read; one that was interrupted goes on from its last checkpoint. A notebook that
fails does not stop the others; the exit status is the number that failed. `paper` trains in order of worth, as the dry
run lists it, and executes each notebook when all that it shows is there. `-p profile`, `-p devices`, `-p figures` are
--profile, --devices and --out: give one of the two.

examples:
  reptile-eqx run                                   all notebooks, minutes on two cores
  reptile-eqx run 1 --profile smoke                 the first notebook, a minute at most
  reptile-eqx run 3 --profile paper                 Tables 1 and 2 at the paper's scale
  reptile-eqx run --profile paper --dry-run         what that trains, and how long it takes here
  reptile-eqx run 3 -p outer_iterations 20000 -p seeds 1
"""

_DATA = """Find, download, check and describe datasets. They are looked for in --directory, else in the directory that
$REPTILE_DATA names, then in the project's data/: omniglot/, which is downloaded where it is not there, and
mini-imagenet/, for which this says where to ask. The exit status is the number of datasets that are damaged, or missing
though they were named.

examples:
  reptile-eqx data                                  every dataset there is
  reptile-eqx data omniglot --sheet omniglot.png    also a picture of a few classes
"""

_BENCH = """Measure how fast the paper's training configurations run on this machine, beside what its matrix products
reach, and with fewer and more seeds, tasks and inner iterations. Nothing else should run meanwhile. No data is needed.
Writes bench.md and bench.json.

examples:
  reptile-eqx bench                                 everything, under five minutes on two cores
  reptile-eqx bench --only omniglot-5way --devices 1 --out /tmp/bench
"""


class _Parser(argparse.ArgumentParser):
    """Says in one line what is wrong."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} ({self.prog} --help says more)\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status.

    A mistake in what was typed ends it with 2, before anything is done; a signal n with 128 + n.
    """
    try:
        with children.stoppable():
            status = _main(arguments)
            if sys.stdout:
                sys.stdout.flush()
            return status
    except children.Stopped as stopped:
        print(
            "\nreptile-eqx was stopped. What was trained until its last checkpoint is kept: the same command goes on "
            "from there.",
            file=sys.stderr,
        )
        return 128 + stopped.args[0]
    except BrokenPipeError:  # Who reads has read enough, such as `head`.
        for stream in (sys.stdout, sys.stderr):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # for what Python still writes when it ends
        return 1
    except OSError as error:
        print(f"reptile-eqx: {error}", file=sys.stderr)
        return 1


def _main(arguments):
    parser = _Parser(prog="reptile-eqx", description="First-order meta-learning: the paper's figures and tables.")
    version = importlib.metadata.version("reptile-eqx")
    parser.add_argument("--version", action="version", version=f"%(prog)s {version}")
    commands = parser.add_subparsers(dest="command", required=True)
    for add in (_add_run, _add_data, _add_bench):
        add(functools.partial(commands.add_parser, formatter_class=argparse.RawDescriptionHelpFormatter))
    options = parser.parse_args(arguments)
    try:
        work = options.checked(options)
    except BrokenPipeError:
        raise
    except (ValueError, OSError) as error:
        parser.error(_one_line(error))
    return work()


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _whole(text: str) -> int:
    """The type of options that are counts; which are too small, what they are for says."""
    value = _value(text)
    if not isinstance(value, int | float) or isinstance(value, bool) or value % 1:
        raise argparse.ArgumentTypeError(f"expected a whole number; given {text!r}")
    return int(value)


def _path(text: str) -> Path:
    """The type of options that are paths."""
    if not text:
        raise argparse.ArgumentTypeError("expected a path; given ''")
    try:
        return files.expanded(text, "it")
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _add_run(add_parser):
    from .paper.catalogue import PROFILES

    run = add_parser("run", help="execute the notebooks: figures, tables", description=_RUN)
    run.add_argument("notebooks", nargs="*", metavar="NOTEBOOK", help="a path, name or number; default: all")
    run.add_argument("--profile", choices=PROFILES, help="the scale (default: quick)")
    run.add_argument(
        "-p",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        dest="parameters",
        help="set a notebook's parameter; may be repeated",
    )
    run.add_argument("--devices", type=_whole, help="how many cores or GPUs to use (default: all)")
    run.add_argument(
        "--dry-run",
        action="store_true",
        help="say what would be trained and how long it takes here; with --out also as a table there",
    )
    out = "folder for figures and executed notebooks (default: figures/ for paper, else figures/PROFILE/)"
    run.add_argument("--out", type=_path, help=out)
    run.add_argument("--verbose", action="store_true", help="also list the files that were made")
    run.set_defaults(checked=_run)


def _add_data(add_parser):
    data = add_parser("data", help="find, download, check and describe data", description=_DATA)
    data.add_argument("names", nargs="*", metavar="NAME", help=f"which: {', '.join(datasets.FACTS)} (default: all)")
    data.add_argument("--directory", type=_path, help="where to look first (default: $REPTILE_DATA)")
    data.add_argument("--sheet", type=_path, metavar="PNG", help="draw a few classes of the dataset into this file")
    data.set_defaults(checked=_data)


def _add_bench(add_parser):
    speed = add_parser("bench", help="measure the speed of training", description=_BENCH)
    speed.add_argument("--only", action="append", default=[], metavar="NAME", help="one workload; may be repeated")
    speed.add_argument("--repeats", type=_whole, default=5, help="timed calls for each median (default: %(default)s)")
    speed.add_argument("--devices", type=_whole, help="how many cores or GPUs to use (default: all)")
    speed.add_argument("--seeds", type=_whole, help="how many to train together (default: one a core, eight a GPU)")
    for name in ("order", "precision"):
        speed.add_argument(f"--{name}", help=f"FewShotClassification's {name} (default: that of the profile paper)")
    speed.add_argument("--seconds", type=float, default=250.0, help="time for it all (default: %(default)g)")
    speed.add_argument("--out", type=_path, help="folder for the table and the numbers (default: figures/bench/)")
    speed.set_defaults(checked=_bench)


def _needs_notebooks() -> None:
    """Say which extra is missing where only the core is installed."""
    try:
        for name in ("papermill", "matplotlib", "pandas", "tabulate"):
            importlib.import_module(name)
    except ModuleNotFoundError as missing:
        raise ValueError(f"this needs {missing.name}: pip install 'reptile-eqx[notebooks]'") from missing


def _run(options: argparse.Namespace) -> Callable[[], int]:
    _needs_notebooks()
    from . import notebooks
    from .paper import catalogue, report

    opened = {path: notebooks.opened(path) for path in _notebooks(options.notebooks)}
    known = {path: notebooks.parameters(notebook) for path, notebook in opened.items()}
    own = [path.stem for path in opened if path.resolve().parent == files.CHECKOUT / "notebooks"]
    given = _given(options, set().union(*known.values()))
    if own:
        given = _checked(given)
    planned = _planned(own, given, "cpu")
    if options.dry_run and not planned:
        raise ValueError("these notebooks train nothing that is planned: the plan is of the project's own")
    figures = given.get("figures")
    profile = given["profile"] if given["profile"] in catalogue.PROFILES else "paper"
    # The notebooks find the same folder by themselves, so that what is executed names none of this machine.
    out = report.folder(profile, figures if isinstance(figures, str) else None).absolute()
    if not options.dry_run:
        _check_mini_imagenet(planned, given.get("data"))
        _check_writable(out / "notebooks" / next(iter(opened)).name)
    elif figures:
        _check_writable(out / "plan.md")
    paper, smoke = given["profile"] == "paper", given["profile"] == "smoke"
    if own:
        _check_writable(files.data_directory() / "runs" / "any.json")
        if paper or smoke or options.dry_run or given.get("devices") or _JAX & os.environ.keys():
            platform = _platform(given.get("devices"))
            planned = _planned(own, given, platform)
            if smoke and platform == "cpu":
                os.environ.setdefault("XLA_FLAGS", _quick_to_compile())
    if options.dry_run:
        return functools.partial(_plan, planned, given)
    todo = [(path, node, {name: given[name] for name in given.keys() & known[path]}) for path, node in opened.items()]
    return functools.partial(_executed, todo, planned if paper else [], given, out, options.verbose)


def _notebooks(names: list[str]) -> list[Path]:
    folder = files.CHECKOUT / "notebooks"
    there = sorted(folder.glob("[0-9]*.ipynb"))
    if not names and not there:
        raise ValueError(f"no notebooks in {folder}: run this in a checkout of the project, or give a notebook's path")
    chosen = []
    for name in names or [str(path) for path in there]:
        matches = [path for path in there if name in (path.stem, path.stem.split("_")[0])]
        if Path(name).is_file() or (not matches and name and os.path.lexists(name)):
            matches = [Path(name)]
        if not matches:
            raise ValueError(f"no notebook {name!r}; there are {', '.join(path.stem for path in there)}")
        chosen += matches
    return chosen


def _given(options: argparse.Namespace, known: set[str]) -> dict[str, Any]:
    """The parameters that are set, by name."""
    given = {name: _value(text) for name, text in options.parameters}
    out = options.out and str(options.out.absolute())
    asked = {"profile": options.profile, "devices": options.devices, "figures": out}
    for name, option in (("profile", "--profile"), ("devices", "--devices"), ("figures", "--out")):
        if asked[name] is not None and name in given:
            raise ValueError(f"{option} and -p {name} are the same: give one of the two")
    if options.devices is not None:
        checks.whole("devices", options.devices)
    if unknown := sorted(given.keys() - known - asked.keys()):
        there = f"there are {', '.join(sorted(known))}" if known else "no cell has the tag `parameters`"
        raise ValueError(f"no notebook has a parameter {', '.join(unknown)}; {there}")
    return {"profile": "quick"} | given | {name: value for name, value in asked.items() if value is not None}


def _checked(given: dict[str, Any]) -> dict[str, Any]:
    """What the project's own notebooks are given, where it is what they take; `_planned` checks the rest.

    Paths are made absolute, as those that somebody types are relative to where he stands, not to the notebooks.
    """
    given = {name: value for name, value in given.items() if value is not None or name == "profile"}
    for name in given.keys() & {"devices", "iterations"}:
        given[name] = checks.whole(name, given[name])
    for name in given.keys() & {"figures", "data", "pictures", "checkpoints"}:
        if not isinstance(given[name], str) or not given[name]:
            raise ValueError(f"`{name}` is {given[name]!r}; expected a folder")
        folder = files.expanded(given[name], f"`{name}`").absolute()
        if name in ("data", "pictures") and not folder.is_dir():
            raise ValueError(f"`{name}` is {folder}, which is no folder that is there")
        given[name] = str(folder)
    train = given.get("train", [])
    if not isinstance(train, list | tuple) or not all(isinstance(name, str) for name in train):
        raise ValueError(f"`train` is a list of trainings, such as ['omniglot-5way-reptile']; given {train!r}")
    settings = given.get("settings", {})
    if not isinstance(settings, dict) or not all(isinstance(name, str) for name in settings):
        raise ValueError(f"`settings` is fields of the runs, such as {{'meta_batch_size': 2}}; given {settings!r}")
    return given


def _value(text: str) -> Any:
    """A parameter's value: a Python literal such as `3`, `[0, 1]` or `None`, else the text itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return text


def _planned(own: Sequence[str], given: dict[str, Any], platform: str) -> list[Any]:
    """What the project's own notebooks train, in order of worth."""
    from .paper.catalogue import Scale, entries

    scale = {name: given[name] for name in ("seeds", "outer_iterations", "eval_tasks") if name in given}
    scale |= {"platform": platform, "override": given.get("settings", {})}
    found = entries(Scale(given["profile"], **scale), given.get("train")) if own else {}
    return [entry for entry in found.values() if entry.notebook in own]


def _check_mini_imagenet(planned: Sequence[Any], data: str | None) -> None:
    configs = [config for entry in planned for config in entry.configs]
    if any(getattr(config, "dataset", "") == "mini-imagenet" for config in configs):
        try:
            datasets.find_mini_imagenet(data)
        except datasets.DataError as error:
            raise ValueError(
                "nothing was trained, as this takes Mini-ImageNet (which `run 1 2 4` does without, and `run 3 -p train "
                f"'[\"omniglot-5way-reptile\"]'`). {error}"
            ) from error


def _check_writable(path: Path) -> None:
    """Raises `files.Unwritable` where no file could be written there; makes its folder."""
    with files.explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        tempfile.TemporaryFile(dir=path.parent).close()


def _quick_to_compile() -> str:
    """XLA's flags for `smoke`, nearly all of whose time is compilation.

    Its newer code generator for a CPU takes more than twice as long as the older one, which releases from 0.11 on lack.
    """
    version = [int(number) for number in importlib.metadata.version("jaxlib").split(".")[:2]]
    older = " --xla_cpu_use_fusion_emitters=false" if version < [0, 11] else ""
    return f"--xla_backend_optimization_level=0{older}"


_JAX = {"JAX_PLATFORMS", "XLA_FLAGS"}
_START = "import sys; from reptile_eqx import use_devices; print(use_devices(*map(int, sys.argv[1:]))[0].platform)"


def _platform(devices: int | None) -> str:
    """What JAX trains on here, "cpu" or "gpu"; raises `ValueError` where it does not start, or has too few devices.

    In a process of its own, as JAX ends the one in which it meets an unknown flag, and holds a GPU's memory.
    """
    command = [sys.executable, "-c", _START, *([] if devices is None else [str(devices)])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or [f"status {done.returncode}"]
        logged = [line for line in lines if re.match(r"[EF]\d{4} ", line)]
        telling = lines[-1] if lines[0].startswith("Traceback") or not logged else logged[0].split("] ", 1)[-1]
        told = ", ".join(f"{name}={os.environ[name]}" for name in sorted(_JAX & os.environ.keys()))
        raise ValueError(
            f"JAX does not start here: {telling.removeprefix('RuntimeError: ')}"
            + (told and f" ({told}: correct or unset it)")
        )
    platform = done.stdout.split()[-1]
    if platform == "cpu" and (devices or 1) > (cores := os.cpu_count() or 1):
        raise ValueError(f"`devices` is {devices}, and this machine has {cores} cores and no GPU that JAX uses")
    return platform


def _plan(planned: Sequence[Any], given: dict[str, Any]) -> int:
    """Print what is left to train, and how long that takes here."""
    from tabulate import tabulate

    from .paper import plan, report

    left = plan.readable(plan.table(planned, given.get("devices"), given.get("figures")))
    right = ["left" if name in ("Notebook", "What") else "right" for name in left]
    print(tabulate(left, headers="keys", showindex=False, disable_numparse=True, colalign=right))
    if given.get("figures"):
        title = f"What the profile {given['profile']} trains, and how long that takes here"
        report.save_table(left, "plan", title, [], given["figures"])
    return 0


def _executed(
    todo: Sequence[tuple], planned: Sequence[Any], given: dict[str, Any], out: Path, verbose: bool = False
) -> int:
    """Execute notebooks, each when what is `planned` for it has been trained; returns how many failed.

    `todo` has the path of each, the notebook, and its parameters.
    """
    from . import notebooks

    def needs(path):
        """What is trained up to the last that a notebook shows."""
        last = max((i for i, entry in enumerate(planned, 1) if entry.notebook == path.stem), default=0)
        return planned[:last]

    began, failed, made = time.time(), [], {}
    todo = sorted(todo, key=lambda one: len(needs(one[0])) or math.inf)
    for number, (path, notebook, parameters) in enumerate(todo, 1):
        if needs(path):
            _train_apart(needs(path), given)
        executed, started = out / "notebooks" / path.name, time.time()
        last = notebooks.seconds(executed, parameters)
        print(f"\n[{number}/{len(todo)}] {path.stem}{_about(last)}", file=sys.stderr)
        if problem := notebooks.execute(notebook, path, executed, parameters):
            failed.append(path.stem)
            print(f"{path.stem} failed: {' '.join(problem.split())}", file=sys.stderr)
        made[path.stem] = notebooks.made_since(out, started)
    _show_found(made)
    print(f"\n{len(todo) - len(failed)} of {len(todo)} notebooks executed in {time.time() - began:.0f} s.")
    if verbose:
        print(f"Made in {out}:", *(f"  {path.relative_to(out)}" for path in notebooks.made_since(out, began)), sep="\n")
    if failed:
        print(f"Failed: {', '.join(failed)}; the error is at the end of each one in {out / 'notebooks'}.")
    page = out / "README.md"
    print(f"See {page if page.is_file() else out / 'notebooks'}")
    return len(failed)


def _about(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f", about {seconds:.0f} s" if seconds < 100 else f", about {seconds / 60:.0f} min"


def _show_found(made: dict[str, list[Path]]) -> None:
    """Print what notebooks found, of the files that each of them made: what was trained here, which statements hold."""
    found = [(notebook, path) for notebook, paths in made.items() for path in paths]
    for _, path in found:
        if path.match("here-*.md"):
            print(f"\n{path.read_text('utf-8').strip()}")
    if claims := [_counted(notebook, path) for notebook, path in found if path.match("claims-*.csv")]:
        print("\nWhat the paper says:", *claims, sep="\n  ")


def _counted(notebook: str, claims: Path) -> str:
    """How many of a table's statements hold, in a line."""
    with claims.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    count = Counter(row.get("Verdict") for row in rows)
    said = f"{count['holds']} hold, {count['does not hold']} do not, {count['cannot be told']} cannot be told"
    smaller = ", at a smaller scale than the paper's" if any(row.get("Scale") for row in rows) else ""
    return f"{notebook}, {claims.stem}: {said}{smaller}"


def _train_apart(planned: Sequence[Any], given: dict[str, Any]) -> None:
    """Train in a process of its own: JAX gives a GPU's memory back, for the notebooks, only when its process ends.

    What goes wrong is printed, and met again by the notebook that needs it.
    """
    from .paper import plan

    status = children.call(plan.train, planned, given.get("data"), given.get("devices"), given.get("figures"))
    if status:
        how = f"with status {status}" if status > 0 else f"by signal {-status}"
        how += ", as the system does where memory runs out" if status == -9 else ""
        print(f"Training was ended {how}; what it had kept is there, and the notebooks go on.", file=sys.stderr)


def _data(options: argparse.Namespace) -> Callable[[], int]:
    unknown = [name for name in options.names if name not in datasets.FACTS]
    if unknown:
        raise ValueError(f"unknown dataset {', '.join(unknown)}; there are {', '.join(datasets.FACTS)}")
    if options.directory and not options.directory.is_dir():
        raise ValueError(f"--directory is {options.directory}, which does not exist or is no folder")
    if options.sheet:
        _check_writable(options.sheet)
    return functools.partial(_described, options.names, options.directory, options.sheet)


def _described(names: Sequence[str], directory: Path | None, sheet: Path | None) -> int:
    """Describe and draw datasets, all where none are named; returns how many are not what they should be."""
    failed = 0
    for name in names or datasets.FACTS:
        try:
            data = datasets.load(name, directory, verify=True)
        except (datasets.DataError, OSError) as error:
            print(f"{name}: {error}\n", file=sys.stderr)
            failed += bool(names) or not isinstance(error, datasets.Unavailable)
            continue
        print(f"{datasets.describe(data)}\n")
        if sheet:
            drawn = sheet.with_stem(f"{sheet.stem}-{name}") if len(names or datasets.FACTS) > 1 else sheet
            datasets.contact_sheet(data, drawn)
            print(f"A few classes: {drawn}\n")
    return failed


def _bench(options: argparse.Namespace) -> Callable[[], int]:
    _needs_notebooks()
    from .paper import bench

    given = {name: getattr(options, name) for name in ("order", "precision")}
    settings = {name: value for name, value in given.items() if value is not None}
    for name in ("repeats", "devices", "seeds", "seconds"):
        value = getattr(options, name)
        if value is not None and not 1 <= value < math.inf:
            raise ValueError(f"`{name}` is {value}; expected 1 or more")
    if unknown := [name for name in options.only if name not in bench.WORKLOADS]:
        raise ValueError(f"nothing called {', '.join(unknown)} to measure; there are {', '.join(bench.WORKLOADS)}")
    for name in options.only or bench.WORKLOADS:
        bench.configurations(name, 1, **settings)
    _check_writable(bench.folder_of(options.out) / "bench.json")
    _platform(options.devices)
    scale = (options.repeats, options.devices, options.out, options.seconds, options.seeds)
    return functools.partial(_measured, options.only, *scale, **settings)


def _measured(*asked: Any, **settings: Any) -> int:
    from .paper import bench

    print("\nMade:", *(f"  {path}" for path in bench.bench(*asked, **settings)), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
