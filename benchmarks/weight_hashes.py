"""Do two commits come to the same weights, to the bit? For every form of every method in the promise tests.

    python benchmarks/weight_hashes.py                  # hashes of this tree as JSON
    python benchmarks/weight_hashes.py HEAD~3 HEAD      # compares two commits; exit code 1 where one differs or is gone

A hash covers all weights and buffers of all networks after 24 updates in float32 on one thread. Hashes differ between
machines and torch builds, so they are compared and never kept.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
UPDATES = 24


def hashes() -> dict[str, str]:
    """Return a hash for each form in the promise tests of the tree that this file lies in."""
    sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests")]
    import torch

    torch.set_num_threads(1)
    from test_methods import FORMS, distillation, form, take, weights

    found = {}
    for name in FORMS:
        digest = hashlib.sha256()
        for key, value in sorted(weights(take(distillation(**form(name)), UPDATES)).items()):
            digest.update(key.encode() + value.detach().contiguous().numpy().tobytes())
        found[name] = digest.hexdigest()
    return found


def hashes_of(commit: str) -> dict[str, str]:
    """Return the hashes of a commit, in a work tree of its own; this file stands in where the commit has none."""
    with tempfile.TemporaryDirectory() as place:
        tree = Path(place) / "tree"
        subprocess.run(["git", "worktree", "add", "--quiet", "--detach", tree, commit], cwd=ROOT, check=True)
        try:
            script = tree / "benchmarks" / Path(__file__).name
            if not script.exists():
                script.write_text(Path(__file__).read_text(encoding="utf-8"), encoding="utf-8")
            environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(tree / "src")}
            done = subprocess.run(
                [sys.executable, script], env=environment, capture_output=True, text=True, check=True, encoding="utf-8"
            )
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", tree], cwd=ROOT, check=True)
    found: dict[str, str] = json.loads(done.stdout)
    return found


def main(*commits: str) -> int:
    """Print the hashes of this tree, or say where those of two commits differ."""
    if len(commits) != 2:
        print(json.dumps(hashes(), indent=1))
        return 0
    before, after = map(hashes_of, commits)
    for name in sorted(before.keys() | after.keys()):
        one_only = "new" if name not in before else "gone" if name not in after else None
        print(f"{one_only or ('same' if before[name] == after[name] else 'DIFFERENT'):10} {name}")
    return int(any(before[name] != after.get(name) for name in before))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
