"""The command `reptile-eqx`: execute the notebooks, look after the data, measure the speed."""

import argparse
import ast
import functools
import importlib
import math
import multiprocessing
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import datasets, files

_RUN = """Execute the notebooks, each in a kernel of its own, and write figures, tables and the executed notebooks.
Trainings that were finished before are read; one that was interrupted goes on from its last checkpoint. A notebook that
fails does not stop the others; the exit status is the number that failed. `paper` trains in order of worth, as the dry
run lists it, and executes each notebook when all that it shows is there.

examples:
  reptile-eqx run                                   all notebooks, minutes on two cores
  reptile-eqx run 1 --profile smoke                 the first notebook, seconds
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
Writes bench.md and bench.json, in place of those that come with the project where --out does not say otherwise.

examples:
  reptile-eqx bench                                 everything, under five minutes on two cores
  reptile-eqx bench --only omniglot-5way --devices 1 --out /tmp/bench
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="reptile-eqx", description="First-order meta-learning: the paper's figures and tables."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for add in (_add_run, _add_data, _add_bench):
        add(functools.partial(commands.add_parser, formatter_class=argparse.RawDescriptionHelpFormatter))
    options = parser.parse_args(arguments)
    return options.function(parser, options)


def _add_run(add_parser):
    from .paper.catalogue import PROFILES

    run = add_parser("run", help="execute the notebooks: figures, tables", description=_RUN)
    run.add_argument("notebooks", nargs="*", metavar="NOTEBOOK", help="a path, name or number; default: all")
    run.add_argument("--profile", choices=PROFILES, default="quick", help="the scale (default: %(default)s)")
    run.add_argument(
        "-p",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        dest="parameters",
        help="set a notebook's parameter; may be repeated",
    )
    run.add_argument("--devices", type=int, help="how many cores or GPUs to use (default: all)")
    run.add_argument(
        "--dry-run",
        action="store_true",
        help="say what would be trained and how long it takes here; with --out also as a table there",
    )
    run.add_argument("--out", type=Path, help="folder for figures and executed notebooks (default: figures/)")
    run.set_defaults(function=_run)


def _add_data(add_parser):
    data = add_parser("data", help="find, download, check and describe data", description=_DATA)
    data.add_argument("names", nargs="*", metavar="NAME", help=f"which: {', '.join(datasets.FACTS)} (default: all)")
    data.add_argument("--directory", type=Path, help="where to look first (default: $REPTILE_DATA)")
    data.add_argument("--sheet", type=Path, metavar="PNG", help="draw a few classes of the dataset into this file")
    data.set_defaults(function=_data)


def _add_bench(add_parser):
    speed = add_parser("bench", help="measure the speed of training", description=_BENCH)
    speed.add_argument("--only", action="append", default=[], metavar="NAME", help="one workload; may be repeated")
    speed.add_argument("--repeats", type=int, default=5, help="timed calls for each median (default: %(default)s)")
    speed.add_argument("--devices", type=int, help="how many cores or GPUs to use (default: all)")
    speed.add_argument("--seeds", type=int, help="how many to train together (default: one a core, eight a GPU)")
    for name in ("order", "precision"):
        speed.add_argument(f"--{name}", help=f"FewShotClassification's {name} (default: that of the profile paper)")
    speed.add_argument("--seconds", type=float, default=250.0, help="time for it all (default: %(default)g)")
    speed.add_argument("--out", type=Path, help="folder for the table and the numbers (default: figures/)")
    speed.set_defaults(function=_bench)


def _needs_notebooks(parser: argparse.ArgumentParser) -> None:
    """Say which extra is missing where only the core is installed."""
    try:
        for name in ("papermill", "matplotlib", "pandas", "tabulate"):
            importlib.import_module(name)
    except ModuleNotFoundError as missing:
        parser.error(f"this needs {missing.name}: pip install 'reptile-eqx[notebooks]'")


def _run(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    _needs_notebooks(parser)
    notebooks = _notebooks(parser, options.notebooks)
    out = (options.out or files.figures_directory()).resolve()
    given = {"profile": options.profile} | {name: _value(text) for name, text in options.parameters}
    given |= {"devices": options.devices} if options.devices is not None else {}
    given |= {"figures": str(out)} if options.out else {}
    _check_parameters(parser, notebooks, given)
    if options.devices is not None and options.devices < 1:
        parser.error(f"--devices is how many cores or GPUs to use, at least 1; given {options.devices}")
    # Planned also where it is not shown: a mistake in the parameters shows before anything is trained.
    planned = _planned(parser, notebooks, given, "cpu")
    if options.dry_run and not planned:
        parser.error("these notebooks train nothing that is planned: the plan is of the project's own")
    if options.dry_run:
        return _plan(parser, notebooks, given, options.out)
    configs = [config for entry in planned for config in entry.configs]
    if any(getattr(config, "dataset", "") == "mini-imagenet" for config in configs):
        try:
            datasets.find_mini_imagenet(given.get("data"))
        except datasets.DataError as error:
            parser.error(
                "nothing was trained, as this takes Mini-ImageNet (which `run 1 2 4` does without, and `run 3 -p train "
                f"'[\"omniglot-5way-reptile\"]'`). {error}"
            )
    return _executed(parser, notebooks, given, out)


def _planned(parser, notebooks, given, platform):
    """What the project's own notebooks among those given train, in order of worth."""
    from .paper.catalogue import Scale, entries

    own = [notebook.stem for notebook in notebooks if notebook.resolve().parent == files.CHECKOUT / "notebooks"]
    scale = {name: given[name] for name in ("seeds", "outer_iterations", "eval_tasks") if name in given}
    try:
        found = entries(Scale(given["profile"], **scale, platform=platform), given.get("train")) if own else {}
    except (TypeError, ValueError) as error:
        parser.error(str(error))
    return [entry for entry in found.values() if entry.notebook in own]


def _plan(parser, notebooks, given, out):
    """Print what is left to train, and how long that takes here."""
    from tabulate import tabulate

    from .paper import bench, plan, report

    try:
        planned = _planned(parser, notebooks, given, bench.platform_of(given.get("devices")))
    except RuntimeError as error:
        parser.error(str(error))
    left = plan.readable(plan.table(planned, given.get("devices"), given.get("figures")))
    right = ["left" if name in ("Notebook", "What") else "right" for name in left]
    print(tabulate(left, headers="keys", showindex=False, disable_numparse=True, colalign=right))
    if out:
        title = f"What the profile {given['profile']} trains, and how long that takes here"
        report.save_table(left, "plan", title, [], out)
    return 0


def _executed(parser, notebooks, given, out):
    """Execute the notebooks, at the paper's scale each when what it shows has been trained; returns how many failed."""
    import papermill

    from .paper import bench

    paper = given["profile"] == "paper"
    planned = _planned(parser, notebooks, given, bench.platform_of(given.get("devices"))) if paper else []

    def needs(notebook):
        """What is trained up to the last that a notebook shows."""
        last = max((i for i, entry in enumerate(planned, 1) if entry.notebook == notebook.stem), default=0)
        return planned[:last]

    (out / "notebooks").mkdir(parents=True, exist_ok=True)
    began, failed = time.time(), []
    for notebook in sorted(notebooks, key=lambda notebook: len(needs(notebook)) or math.inf):
        if needs(notebook):
            _train_apart(needs(notebook), given)
        print(f"\n{notebook.name}", file=sys.stderr)
        known = papermill.inspect_notebook(str(notebook))
        problem = _execute(notebook, out / "notebooks" / notebook.name, {k: v for k, v in given.items() if k in known})
        if problem:
            failed.append(notebook.name)
            print(f"{notebook.name} failed:\n{problem}", file=sys.stderr)
    made = sorted(path for path in out.rglob("*") if path.is_file() and path.stat().st_mtime >= began)
    print(f"\n{len(notebooks) - len(failed)} of {len(notebooks)} notebooks executed in {time.time() - began:.0f} s.")
    print("\n".join([f"Made in {out}:", *(f"  {path.relative_to(out)}" for path in made)]) if made else "Nothing made.")
    if failed:
        print(f"Failed: {', '.join(failed)}; the error is at the end of each one in {out / 'notebooks'}.")
    return len(failed)


def _train_apart(planned: Sequence[Any], given: dict[str, Any]) -> None:
    """Train in a process of its own: JAX gives a GPU's memory back, for the notebooks, only when its process ends.

    What goes wrong is printed, and met again by the notebook that needs it.
    """
    from .paper import plan

    arguments = (planned, given.get("data"), given.get("devices"), given.get("figures"))
    process = multiprocessing.get_context("spawn").Process(target=plan.train, args=arguments)
    process.start()
    process.join()


def _execute(notebook: Path, executed: Path, parameters: dict[str, Any]) -> str:
    """Execute one notebook; returns what went wrong, or nothing."""
    import nbclient.exceptions
    import papermill
    import papermill.exceptions

    try:
        papermill.execute_notebook(
            str(notebook),
            str(executed),
            parameters=parameters,
            cwd=str(notebook.parent),
            progress_bar=False,
            stderr_file=sys.stderr,
        )
    except papermill.exceptions.PapermillExecutionError as error:
        return f"{error.ename}: {error.evalue}"
    except (papermill.exceptions.PapermillException, nbclient.exceptions.DeadKernelError) as error:
        return str(error)
    finally:
        _forget_machine(executed)
    return ""


def _forget_machine(executed: Path) -> None:
    """Take this machine's paths and what is left of progress bars out of an executed notebook."""
    import nbformat

    if executed.exists():
        notebook = nbformat.read(executed, 4)
        for name in ("input_path", "output_path", "parameters", "environment_variables"):
            notebook.metadata.get("papermill", {}).pop(name, None)
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs = [o for o in cell.outputs if not (o.get("name") == "stderr" and "\r" in o.text)]
        nbformat.write(notebook, executed)


def _notebooks(parser: argparse.ArgumentParser, names: list[str]) -> list[Path]:
    folder = files.CHECKOUT / "notebooks"
    there = sorted(folder.glob("[0-9]*.ipynb"))
    if not names and not there:
        parser.error(f"no notebooks in {folder}: run this in a checkout of the project, or give a notebook's path")
    chosen = []
    for name in names or [str(path) for path in there]:
        matches = [Path(name)] if Path(name).is_file() else [p for p in there if name in (p.stem, p.stem.split("_")[0])]
        if not matches:
            parser.error(f"no notebook {name!r}; there are {', '.join(path.stem for path in there)}")
        chosen += matches
    return chosen


def _check_parameters(parser: argparse.ArgumentParser, notebooks: list[Path], given: dict[str, Any]) -> None:
    import papermill

    known = {name for notebook in notebooks for name in papermill.inspect_notebook(str(notebook))}
    unknown = sorted(given.keys() - known - {"profile", "devices", "figures"})
    if unknown:
        parser.error(f"no notebook has a parameter {', '.join(unknown)}; there are {', '.join(sorted(known))}")


def _value(text: str) -> Any:
    """A parameter's value: a Python literal such as `3`, `[0, 1]` or `None`, else the text itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _data(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    unknown = [name for name in options.names if name not in datasets.FACTS]
    if unknown:
        parser.error(f"unknown dataset {', '.join(unknown)}; there are {', '.join(datasets.FACTS)}")
    failed = 0
    for name in options.names or datasets.FACTS:
        try:
            data = datasets.load(name, options.directory, verify=True)
        except (datasets.DataError, OSError) as error:
            print(f"{name}: {error}\n", file=sys.stderr)
            failed += bool(options.names) or not isinstance(error, datasets.Unavailable)
            continue
        print(f"{datasets.describe(data)}\n")
        if options.sheet:
            numbered = len(options.names or datasets.FACTS) > 1
            sheet = options.sheet.with_stem(f"{options.sheet.stem}-{name}") if numbered else options.sheet
            datasets.contact_sheet(data, sheet)
            print(f"A few classes: {sheet}\n")
    return failed


def _bench(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    _needs_notebooks(parser)
    from .paper import bench

    given = {name: getattr(options, name) for name in ("order", "precision")}
    settings = {name: value for name, value in given.items() if value is not None}
    scale = (options.repeats, options.devices, options.out, options.seconds, options.seeds)
    try:
        made = bench.bench(options.only, *scale, **settings)
    except (ValueError, RuntimeError) as error:
        parser.error(str(error))
    print("\nMade:", *(f"  {path}" for path in made), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
