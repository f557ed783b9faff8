"""Notebooks: read, asked for their parameters, and executed through papermill by the Python that runs this."""

import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nbclient.exceptions
import nbformat
import papermill
import papermill.exceptions
from jupyter_client.kernelspec import NATIVE_KERNEL_NAME, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from papermill.translators import PythonTranslator
from traitlets import default

from . import bars, children, files


class _Kernel(AsyncKernelManager):
    """A kernel whose `python3` is this very Python, whatever else is called so where Jupyter looks first.

    Its bars are text, and it says nothing of debuggers and transports. It is not asked to end, but ended, where this
    process is to stop.
    """

    @default("kernel_spec_manager")
    def _own_python(self) -> KernelSpecManager:
        return KernelSpecManager(kernel_dirs=[]) if self.kernel_name == NATIVE_KERNEL_NAME else KernelSpecManager()

    async def start_kernel(self, *, extra_arguments: Sequence[str] = (), **options: Any) -> None:  # ty: ignore[incompatible-mutable-override]
        quiet = ["--log-level=ERROR"] if self.ipykernel else []
        own = {bars.TEXT: "1", "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
        await super().start_kernel(extra_arguments=[*extra_arguments, *quiet], env=os.environ | own, **options)

    async def shutdown_kernel(self, now: bool = False, restart: bool = False) -> None:  # ty: ignore[incompatible-mutable-override]
        if children.stopping.is_set() and self.provisioner is not None:
            await self.provisioner.kill()
        await super().shutdown_kernel(now or children.stopping.is_set(), restart)


def opened(path: Path) -> nbformat.NotebookNode:
    """A notebook, in today's format; one that does not say its language is Python's.

    Raises `ValueError` for a file that is none, and where the kernel that it asks for is not installed.
    """
    try:
        content = files.regular(path)
        if content is None:
            raise ValueError("there is no such file")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # cells without an id
            notebook = nbformat.from_dict(nbformat.convert(nbformat.reader.reads(content.decode()), 4))
            nbformat.validate(notebook)
    except Exception as error:  # nbformat raises nearly anything for what is no notebook
        said = next(iter(str(error).splitlines()), "")[:200]
        raise ValueError(
            f"{path} is no notebook that can be read ({said}): expected a file that Jupyter wrote"
        ) from error
    asked = notebook.metadata.setdefault("kernelspec", {"name": NATIVE_KERNEL_NAME, "display_name": "Python 3"})
    if "name" not in notebook.metadata.get("language_info", {}):
        asked.setdefault("language", "python")
    name = asked.setdefault("name", NATIVE_KERNEL_NAME)
    if name != NATIVE_KERNEL_NAME and name not in KernelSpecManager().find_kernel_specs():
        raise ValueError(f"{path} asks for the kernel {name!r}, which is not installed here")
    return notebook


def parameters(notebook: nbformat.NotebookNode) -> set[str]:
    """The names that the cell tagged `parameters` sets; raises `ValueError` for a language that papermill lacks."""
    try:
        return set(papermill.inspect_notebook(notebook))
    except papermill.exceptions.PapermillException as error:
        raise ValueError(str(error)) from error


def seconds(executed: Path, given: dict[str, Any]) -> float | None:
    """How long a notebook took when it was last executed with these parameters; `None` where it was not, or failed."""
    try:
        last = nbformat.read(executed, 4)
    except (OSError, ValueError):
        return None
    about = last.metadata.get("papermill", {})
    injected = [cell.source for cell in last.cells if "injected-parameters" in cell.metadata.get("tags", ())]
    same = injected == [PythonTranslator.codify(given)]
    return about.get("duration") if same and not about.get("exception") else None


def execute(notebook: nbformat.NotebookNode, path: Path, executed: Path, given: dict[str, Any]) -> str:
    """Execute a notebook beside its `path`, with the parameters given; returns what went wrong, or nothing.

    What was executed takes the place of `executed` when it ends, also where it fails or is stopped.
    """
    with tempfile.TemporaryDirectory() as folder:
        source, made = (Path(folder, f"{name}.ipynb") for name in (path.stem, f"{path.stem} executed"))
        nbformat.write(notebook, source)
        try:
            papermill.execute_notebook(
                _unformatted(source),
                _unformatted(made),
                parameters=given,
                cwd=str(path.absolute().parent),
                progress_bar=False,
                stderr_file=sys.stderr,
                kernel_manager_class=_Kernel,
            )
        except papermill.exceptions.PapermillExecutionError as error:
            return f"{error.ename}: {error.evalue}"
        except (papermill.exceptions.PapermillException, nbclient.exceptions.DeadKernelError, RuntimeError) as error:
            return str(error)
        except KeyboardInterrupt:
            logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # It would tell of the cell that was left.
            raise
        finally:
            if made.exists():
                _put(nbformat.read(made, 4), executed)
    return ""


def _unformatted(path: Path) -> str:
    """A path for papermill, which fills in what is in braces."""
    return str(path).replace("{", "{{").replace("}", "}}")


def _put(notebook: nbformat.NotebookNode, executed: Path) -> None:
    """Write an executed notebook without this machine's paths and what is left of progress bars."""
    for name in ("input_path", "output_path", "parameters", "environment_variables"):
        notebook.metadata.get("papermill", {}).pop(name, None)
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            if output.get("name") == "stderr":
                output.text = "\n".join(line for line in output.text.split("\n") if "\r" not in line)
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("text", "shown").strip()]
    with files.replacing(executed) as file:
        file.write(nbformat.writes(notebook).encode() + b"\n")


def made_since(folder: Path, began: float) -> list[Path]:
    """The files below a folder that were written since then; others may be writing and removing there meanwhile."""
    found = []
    for root, _, names in os.walk(folder):
        for path in (Path(root, name) for name in names if not name.endswith(files.PARTIAL)):
            try:
                if path.stat().st_mtime >= began:
                    found.append(path)
            except OSError:
                pass
    return sorted(found)
