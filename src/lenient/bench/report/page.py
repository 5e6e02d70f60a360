"""Puts a grid into one page: which tables and figures there are, in which order, and what could not be made and why."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from markupsafe import Markup

from lenient.bench.report import figures
from lenient.bench.report.figures import Figure
from lenient.bench.report.records import Grid, panels
from lenient.bench.report.results import REPLAY_METHODS, context
from lenient.bench.report.sweeps import sweeps
from lenient.bench.report.tables.ablation import ablation
from lenient.bench.report.tables.accuracy import table_3
from lenient.bench.report.tables.cells import absentees, status
from lenient.bench.report.tables.clock import by_the_clock
from lenient.bench.report.tables.cost import cost
from lenient.bench.report.tables.each_teacher import each_teacher
from lenient.bench.report.tables.features import boundary_table, fid_table, inception_table, skipped_table
from lenient.bench.report.tables.gaps import gaps
from lenient.bench.report.tables.learning import learning
from lenient.bench.report.tables.noise import beyond
from lenient.bench.report.tables.notes import with_choices, with_origins
from lenient.bench.report.tables.runs import runs
from lenient.bench.report.tables.steps import after_equal_steps
from lenient.bench.report.tables.table import Table, in_words
from lenient.bench.report.tables.teachers import teachers
from lenient.bench.report.tables.verdicts import verdicts
from lenient.reporting.svg import inline
from lenient.reporting.templates import template

NEEDS_FEATURES = "it needs --features"


@dataclass(frozen=True)
class Choice:
    """What the user chose to look at; empty means by default."""

    teachers: tuple[str, ...] = ()
    ablation: tuple[str, ...] = ()


@dataclass
class Section:
    """A part of the page."""

    key: str
    title: str
    tables: list[Table] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)


@dataclass
class Content:
    """All that the report shows."""

    grid: Grid
    sections: list[Section] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)
    """What could not be made, and why."""

    @property
    def tables(self) -> list[Table]:
        """All tables."""
        return [table for section in self.sections for table in section.tables]

    @property
    def figures(self) -> list[Figure]:
        """All figures."""
        return [figure for section in self.sections for figure in section.figures]

    def add(self, section: Section, item: Table | Figure | None, name: str, reason: str) -> None:
        """Put a table or a figure into a section, or its name and the reason among what is absent."""
        if isinstance(item, Table):
            section.tables.append(item)
        elif isinstance(item, Figure):
            section.figures.append(item)
        else:
            self.absent.append(f"{name}: {reason}.")


def compose(grid: Grid, choice: Choice) -> Content:
    """Make every table and figure of the grid, panel by panel."""
    content = Content(grid)
    parts = panels(grid)
    for number, panel in enumerate(parts, 1):
        end = f"-{number}" if len(parts) > 1 else ""
        before = len(content.absent)
        found = [
            _accuracy(content, panel, choice, end),
            _gaps(content, panel, end),
            _prior(content, panel, end),
            _selection(content, panel, end),
            _memory(content, panel, end),
            _rest(panel, end),
        ]
        place = f"{panel.data}, {context(panel)['student']}"
        for section in found:
            section.tables = [with_choices(panel, with_origins(panel, table)) for table in section.tables]
            section.title += f" ({place})" if end else ""
        if end:
            content.absent[before:] = [f"{place}: {line}" for line in content.absent[before:]]
        content.sections += [section for section in found if section.tables or section.figures]
    return content


def _accuracy(content: Content, grid: Grid, choice: Choice, end: str) -> Section:
    section = Section(f"accuracy{end}", "Accuracy")
    section.tables.append(table_3(grid, f"table-3{end}"))
    one_by_one = each_teacher(grid, f"each-teacher{end}")
    content.add(
        section, one_by_one, "Teacher by teacher", "no fewer rows of methods than teachers: Table 3 compares them"
    )
    above = beyond(grid, f"beyond-noise{end}")
    content.add(section, above, "What the methods add to noise", "no row of noise images or of a frozen generator")
    clock = by_the_clock(grid, f"by-the-clock{end}")
    timeless = "the records do not say when evaluations were"
    content.add(section, clock, "Accuracy by the clock", timeless)
    content.add(section, figures.clock_curves(grid, f"clock{end}"), "Accuracy over seconds", timeless)
    equal = after_equal_steps(grid, f"equal-steps{end}")
    content.add(section, equal, "Accuracy after equal steps", "all rows have the same steps, as Table 3 reads them")
    compared = ablation(grid, f"table-4{end}", choice.ablation)
    content.add(section, compared, "Tables 4 and A2", "no two rows of an ablation; name them with --ablation")
    shown = [teacher for teacher in figures.two_teachers(grid, choice.teachers) if teacher in grid.teachers]
    curves = figures.training_curves(grid, f"figure-1{end}", shown) if shown else None
    content.add(section, curves, "Figure 1", "no curve of a method was recorded")
    return section


def _gaps(content: Content, grid: Grid, end: str) -> Section:
    section = Section(f"stability{end}", "Robustness and stability")
    for number, to_teacher in (("3", True), ("4", False)):
        section.tables.append(gaps(grid, f"table-a{number}{end}", to_teacher=to_teacher))
        name = "7" if to_teacher else "8"
        boxes = figures.gap_boxes(grid, f"figure-{name}{end}", to_teacher=to_teacher)
        content.add(section, boxes, f"Figure {name}", "no cell has finished with the accuracies it needs")
    return section


def _prior(content: Content, grid: Grid, end: str) -> Section:
    section = Section(f"class-prior{end}", "Class prior and diversity")
    content.add(section, fid_table(grid, f"table-2{end}"), "Table 2", NEEDS_FEATURES)
    papers = inception_table(grid, f"table-2-inception{end}")
    content.add(section, papers, "Table 2 in Inception's features", "it needs --features --inception FILE")
    found = sweeps(grid)
    reason = NEEDS_FEATURES if found else "no rows that differ in method.class_prior_weight alone"
    for number, sweep in enumerate(found or [None]):
        key = f"figure-2{chr(ord('a') + number) if len(found) > 1 else ''}{end}"
        drawn = figures.fid_curves(grid, key, sweep) if sweep else None
        content.add(section, drawn, "Figure 2", reason)
    entries = [entry for entry in grid.features.get("pictures", ()) if entry["id"] in _ids(grid)]
    reason = NEEDS_FEATURES if not grid.features else "the runs kept no images (report.images=false)"
    content.add(section, figures.image_grids(grid, f"figure-3{end}", entries), "Figure 3", reason)
    return section


def _selection(content: Content, grid: Grid, end: str) -> Section:
    section = Section(f"selection{end}", "What the teacher vouches for")
    content.add(section, boundary_table(grid, f"boundary{end}"), "Share outside of classes", NEEDS_FEATURES)
    entries = [entry for entry in grid.features.get("maps", ()) if entry["id"] in _ids(grid)]
    for number, entry in enumerate(entries):
        section.figures.append(figures.feature_map(grid, f"figure-4-{number + 1}{end}", entry))
    if not entries:
        content.absent.append(f"Figures 4 and 6: {NEEDS_FEATURES}.")
    text = "Share of the synthetic samples that the teacher's selection accepts."
    kept = figures.logged(grid, f"kept{end}", "kept", "Kept over training", text, fraction=True)
    content.add(section, kept, "Kept over training", "no row selects samples")
    return section


def _memory(content: Content, grid: Grid, end: str) -> Section:
    section = Section(f"memory{end}", "Learning without forgetting")
    reason = f"no row of the methods {', '.join(REPLAY_METHODS)}"
    content.add(section, learning(grid, f"table-meta{end}"), "META-DFKD's table", reason)
    text = "Cosine between the gradients of acquiring and of retaining: above 0 they pull the same way."
    name = "gradient_cosine"
    cosine = figures.logged(grid, f"gradients{end}", name, "Alignment of gradients", text, fraction=False)
    content.add(section, cosine, "Alignment of gradients", "no run logged it")
    text = "Distance of the synthetic images' batch statistics from the teacher's, over that of the first generator "
    text += "update."
    distance = figures.logged(grid, f"bn-distance{end}", "bn_distance", "Batch-norm distance", text, fraction=False)
    content.add(section, distance, "Batch-norm distance", "no run logged it")
    return section


def _rest(grid: Grid, end: str) -> Section:
    section = Section(f"cost-of-runs{end}", "Runs and their cost")
    section.tables = [
        cost(grid, f"cost{end}"),
        teachers(grid, f"teachers{end}"),
        status(grid, f"cells{end}"),
        verdicts(grid, f"verdicts{end}"),
    ]
    more = (absentees(grid, f"absent{end}"), skipped_table(grid, f"skipped{end}"))
    section.tables += [*(table for table in more if table), runs(grid, f"runs{end}")]
    return section


def _ids(grid: Grid) -> set[str]:
    return {cell.wanted.id for cell in grid.cells}


def render(content: Content) -> str:
    """The page as HTML; the same content gives the same text."""
    folders = Path(__file__).parent, Path(__file__).parents[2] / "reporting"
    grid = content.grid
    facts = [
        ("wanted", len(grid.wanted)),
        ("finished", len(grid.cells)),
        ("failed", len(grid.failed)),
        ("missing", len(grid.missing)),
    ]
    return template("bench.html.j2", *folders).render(
        name=grid.name,
        facts=[*context(grid).items(), ("cells", ", ".join(f"{count} {word}" for word, count in facts))],
        sections=content.sections,
        absent=content.absent,
        draw=_draw,
        in_words=in_words,
    )


def _draw(figure: Figure) -> Markup:
    return inline(figure.drawing, name=figure.key, description=f"{figure.title}: {figure.description}")
