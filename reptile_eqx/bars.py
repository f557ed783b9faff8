"""Progress bars: widgets in a notebook that somebody looks at, and text everywhere else."""

import os
import sys
import warnings

from tqdm import TqdmWarning
from tqdm.notebook import tqdm as _Widget

TEXT = "REPTILE_TEXT_BARS"
"""The environment variable that asks for text in a notebook too: its output is read in a terminal."""

if os.environ.get(TEXT):
    from tqdm import tqdm
else:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TqdmWarning)  # A notebook without ipywidgets has text.
        from tqdm.auto import tqdm

__all__ = ["TEXT", "say", "tqdm"]


def say(line: str) -> None:
    """Print a line on standard error; in a notebook that somebody looks at, where that is red, on standard output."""
    print(line, file=sys.stdout if issubclass(tqdm, _Widget) else sys.stderr)
