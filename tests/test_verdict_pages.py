"""Each check of the verdict has a page in docs/verdict, which quotes what the check says and names its threshold."""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from lenient.training import health, verdict
from lenient.training.health import HealthMonitor
from lenient.training.prediction import Prediction
from lenient.training.verdict import Check, Evidence, HealthSettings, checks, informed, judged
from toys import CPU

PAGES = Path(__file__).parents[1] / "docs" / "verdict"
PREDICTION = Prediction(0.3, 0.2, 0.4, level=0.9, runs=61, teachers=7, data=("digits",))
MEASURED = ("kept", "bn_shift", "excess", "dark", "bright", "contrast", "duplicates", "probe_agreement", "probe_chance")


def slug(name: str) -> str:
    return name.replace(" ", "-")


def checks_at(value: float, chance: float = 0.1, **more: float) -> list[Check]:
    """What is said of a run whose every number is `value`."""
    latest = {f"health/{name}": value for name in MEASURED} | {"health/probe_chance": chance, "health/nonfinite": 9.0}
    bad = judged(checks(Evidence(latest | more, [1.0, 0, 0], ["generator"]), HealthSettings()))
    return informed(bad, PREDICTION, HealthSettings()).checks


def everything() -> list[Check]:
    monitor = HealthMonitor(3, HealthSettings(), CPU.device)
    monitor.alarms["non-finite"] = "non-finite numbers in the term 'adversarial' for 20 updates in a row"
    found = [*checks_at(-2.0), *checks_at(2.0), *checks_at(0.0, chance=1.0), *monitor.verdict().checks]
    missing = {"health/probe_agreement": 0.2, "health/probe_chance": 0.1}
    found += checks(Evidence(missing, [1.0, 0.0]), HealthSettings())  # without batch norm
    return [check for check in found if check.status != "ok"]


def written() -> Iterator[str]:
    """Names of checks as the code has them: what `everything` does not come to would be missed."""
    for module in (verdict, health):
        for node in ast.walk(ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("Check", "_at_least", "_at_most"):
                name = node.args[0]
                if isinstance(name, ast.Constant):
                    yield str(name.value)
                elif isinstance(name, ast.Name) and name.id.isupper():
                    yield str(getattr(module, name.id))


def test_each_check_has_its_page_and_each_page_its_check() -> None:
    names = {check.name for check in everything()} | set(written())
    assert {slug(name) for name in names} == {path.stem for path in PAGES.glob("*.md")} - {"README"}


@pytest.mark.parametrize("check", everything(), ids=lambda check: slug(check.name))
def test_a_page_quotes_what_its_check_says(check: Check) -> None:
    page = re.sub(r"\s+", " ", re.sub(r"^> ", "", (PAGES / f"{slug(check.name)}.md").read_text("utf-8"), flags=re.M))
    fixed = max(re.split(r"[-\d.%]+", check.text), key=len).strip()
    assert len(fixed) > 15
    assert fixed in page


def test_the_overview_has_each_check_with_its_threshold() -> None:
    text = (PAGES / "README.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| \[.*?\]\(([\w-]+)\.md\) \|[^|]*\| (`health\.\w+` \| [a-z ]+ [\d.]+)?", text, re.M))
    assert set(rows) == {path.stem for path in PAGES.glob("*.md")} - {"README"}
    defaults = HealthSettings().model_dump()
    shown = {re.search(r"health\.(\w+)", row)[1]: float(row.split()[-1]) for row in rows.values() if row}
    assert shown == pytest.approx(defaults)
    assert all(math.isfinite(value) for value in shown.values())
