"""`python -m lenient` and the command `lenient`."""

import os
import sys
from contextlib import suppress

if __name__ == "__main__" and not sys.flags.safe_path:
    with suppress(OSError):  # a file torch.py in the working folder is none of ours; the package is found by now
        if os.path.samefile(sys.path[0] or os.curdir, os.curdir):
            del sys.path[0]

from lenient.core import processors
from lenient.core.signals import outlive_warnings

outlive_warnings()  # a scheduler's may come while the commands are imported
processors.prepare()

from lenient.cli import main  # noqa: E402

if __name__ == "__main__":
    main()
