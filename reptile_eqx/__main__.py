"""`python -m reptile_eqx` is the command `reptile-eqx`."""

import sys

from .cli import main

sys.exit(main())
