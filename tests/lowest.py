"""Prints the lowest version that `pyproject.toml` allows of each direct requirement, as a file of constraints.

lowest.py [EXTRA...]: of the package, and of these extras. What those pull in themselves stays as new as it may be.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path


def lowest(asked: list[str], extras: dict[str, list[str]]) -> dict[str, str]:
    """Return the version of each requirement `name>=version`; `lenient[extra]` stands for those of that extra.

    Raises:
        ValueError: a requirement has another form.
    """
    found: dict[str, str] = {}
    for line in asked:
        if own := re.fullmatch(r"lenient\[([a-z,]+)\]", line):
            found |= lowest([line for extra in own[1].split(",") for line in extras[extra]], extras)
        elif bound := re.fullmatch(r"([A-Za-z0-9._-]+)>=([0-9][0-9.]*)", line):
            found[bound[1]] = bound[2]
        else:
            raise ValueError(f"{line}: write it as NAME>=VERSION, for `make test-versions` tries that version")
    return found


if __name__ == "__main__":
    file = Path(__file__).parents[1] / "pyproject.toml"
    project = tomllib.loads(file.read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    asked = [*project["dependencies"], *(line for extra in sys.argv[1:] for line in extras[extra])]
    print("\n".join(f"{name}=={version}" for name, version in sorted(lowest(asked, extras).items())))
