"""Progress bars: widgets in a notebook that somebody looks at, and text everywhere else."""

import os
import warnings

from tqdm import TqdmWarning

TEXT = "REPTILE_TEXT_BARS"
"""The environment variable that asks for text in a notebook too: its output is read in a terminal."""

if os.environ.get(TEXT):
    from tqdm import tqdm
else:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TqdmWarning)  # A notebook without ipywidgets has text.
        from tqdm.auto import tqdm

__all__ = ["TEXT", "tqdm"]
