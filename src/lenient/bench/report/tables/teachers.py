"""The teachers, and how they were trained."""

from __future__ import annotations

import math

from lenient.bench.report.records import Grid
from lenient.bench.report.results import context
from lenient.bench.report.tables.table import Column, Row, Table, Value
from lenient.bench.report.tables.values import percentage


def teachers(grid: Grid, key: str) -> Table:
    """What the teachers are and how they were trained: the settings that are not the same for all stand out."""
    cells = {teacher: grid.of(teacher=teacher) for teacher in grid.teachers}
    facts = {teacher: found[0].raw["teacher"] if found else {} for teacher, found in cells.items()}
    recipes = {teacher: own.get("recipe") for teacher, own in facts.items()}
    recipes = {teacher: recipe if isinstance(recipe, dict) else {} for teacher, recipe in recipes.items()}
    told = [recipe for recipe in recipes.values() if recipe]
    names = sorted({name for recipe in told for name in recipe})
    alike = [name for name in names if len({str(recipe.get(name)) for recipe in told}) == 1]
    columns = (
        Column("accuracy (%)", parts=("accuracy",)),
        *(Column(name, words=True) for name in ("net", "epoch", "training")),
    )
    rows = []
    for teacher, recipe in recipes.items():
        own = ", ".join(f"{name} {recipe[name]}" for name in names if name in recipe and name not in alike)
        accuracy = grid.teacher_accuracy(teacher)
        words = [str(facts[teacher].get(name) or "unknown") for name in ("arch", "epoch")]
        words.append(own or ("as below" if recipe else "unknown"))
        first = Value("unknown") if math.isnan(accuracy) else percentage(accuracy)
        rows.append(Row(teacher, (first, *map(Value, words))))
    common = ", ".join(f"{name} {told[0][name]}" for name in alike)
    notes = (f"Trained alike: {common}.",) if common else () if told else ("Nothing is known of their training.",)
    return Table(key, "Teachers", columns, tuple(rows), notes, context(grid), "teacher")
