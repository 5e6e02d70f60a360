"""How the pages become a site: `make docs`. The clone is the root of the sources, so one link serves both."""

from __future__ import annotations

import os
import re
import shutil
import sysconfig
from collections.abc import Iterator
from functools import partialmethod
from pathlib import Path
from typing import Any

from docutils import nodes
from nbclient import NotebookClient
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.util.logging import getLogger

import lenient

log = getLogger(__name__)

project = "lenient"
version = release = lenient.__version__
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]

root_doc = "README"
include_patterns = ["*.md", "docs/**.md", "results/**.md"]
myst_heading_anchors = 4

# Tutorials are notebooks in MyST's text form: each is run as the pages are built, in an empty folder.
nb_execution_mode = "force"
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = -1
nb_merge_streams = True
nb_render_markdown_format = "myst"  # a table that a cell shows is one
# A command's output comes in pieces of 100 bytes, between which MyST would put line breaks.
NotebookClient.__init__ = partialmethod(NotebookClient.__init__, coalesce_streams=True)
os.environ.setdefault("LENIENT_SMOKE", "1")  # LENIENT_SMOKE= make docs: at whole size
os.environ["PATH"] = os.pathsep.join((sysconfig.get_path("scripts"), os.environ["PATH"]))  # where `lenient` lies

default_role = "code"  # docstrings write names as `name`
smartquotes = False  # and flags as they are typed: --flag
autodoc_default_options = {"members": True, "member-order": "bysource"}
python_maximum_signature_line_length = 88

html_theme = "furo"
html_title = f"lenient {version}"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_show_copyright = False
html_copy_source = False
html_show_search_summary = False  # a page that was opened as a file may not read the others

NAVIGATION = {
    "README": {
        "Tutorials": [
            "docs/tutorials/digits",
            "docs/tutorials/timm-teacher",
            "docs/tutorials/no-batch-norm",
            "docs/tutorials/int8",
            "docs/tutorials/data-set",
            "docs/tutorials/compare",
            "docs/tutorials/own-method",
        ],
        "Use": [
            "docs/choosing",
            "docs/teachers",
            "docs/verdict/README",
            "docs/data-set",
            "docs/own-method",
            "docs/benchmark",
            "docs/machines",
        ],
        "Reference": ["docs/api", "results/README", "CHANGELOG"],
        "Methods": ["docs/methods/*", "docs/defenses/*"],
        "Project": ["docs/architecture", "CONTRIBUTING", "SECURITY"],
    },
    "results/README": {"": ["*"]},
    "docs/verdict/README": {"": ["*"]},
}
"""What stands below which page: captions with patterns of pages. Code hosts would show it as text: no page has it."""

RUN = """
```{{note}}
{{nb-download}}`{name}.ipynb` is this page as a notebook, of whole size wherever `LENIENT_SMOKE` is not set. What is
shown here comes of {size}.
```
"""
"""What stands below a tutorial's title."""

LONG = 24
"""Characters of a word of code that is broken where its line is narrow."""

EXTERNAL = re.compile(
    r"""<(?:script|link|img|iframe|source)\b[^>]*?\s(?:src|href)="(?:https?:)?//|@import|url\(["']?h"""
)
"""Whatever a browser would fetch from elsewhere."""


def complete(app: Sphinx, page: str, text: list[str]) -> None:
    """Give pages their navigation; tables of grids are reached from pages about them, and not by search."""
    for caption, below in NAVIGATION.get(page, {}).items():
        options = f":caption: {caption}" if caption else ""
        text[0] += "\n".join(("", "```{toctree}", ":hidden:", ":glob:", options, "", *below, "```", ""))
    if "/tables/" in page:
        grid, _, name = page.removeprefix("results/").partition("/tables/")
        text[0] = re.sub(r"^### (.*)", rf"# \1 ({grid})", text[0], count=1)
        text[0] = f"---\norphan: true\nnosearch: true\n---\n{text[0]}\n{beside(Path(app.srcdir, page).parent, name)}\n"


def beside(folder: Path, name: str) -> str:
    """Return links from one of a grid's tables to the others, and to its figures."""
    titles = {file: file.read_text(encoding="utf-8").partition("\n")[0].strip("# ") for file in folder.glob("*.md")}
    links = [f"[{title}]({file.name})" for file, title in sorted(titles.items()) if file.stem != name]
    links += ["[figures](../figures)"] if Path(folder.parent, "figures").is_dir() else []
    return f"Of the same grid: {' · '.join(links)} · [all grids](../../README.md)."


def told(app: Sphinx, page: str, text: list[str]) -> None:
    """Say of a tutorial at what size it was run, and where to have it."""
    if page.startswith("docs/tutorials/"):
        size = "a few steps, which show the way and teach little" if os.environ["LENIENT_SMOKE"] else "that size"
        note = RUN.format(name=page.rpartition("/")[2], size=size)
        text[0] = re.sub(r"^# .*\n", lambda title: title[0] + note, text[0], count=1, flags=re.MULTILINE)


def figures(app: Sphinx) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Make of each folder of figures, which a code host lists, a page that shows them."""
    for folder in sorted(Path(app.srcdir).glob("results/*/figures")):
        name = folder.relative_to(app.srcdir).as_posix()
        files = sorted(folder.glob("*.svg"))
        shutil.copytree(folder, Path(app.outdir, name), dirs_exist_ok=True)
        title = f"Figures of {folder.parent.name}"
        shown = (
            f'<h2>{file.stem}</h2><div class="figure"><a href="{file.name}">'
            f'<img src="{file.name}" alt="{file.stem} of {name}"></a></div>'
            for file in files
        )
        yield f"{name}/index", {"title": title, "body": f"<h1>{title}</h1>{''.join(shown)}"}, "page.html"


def lead(app: Sphinx, page: nodes.document) -> None:
    """Lead links to folders of figures to their pages, name what cells have drawn, and mark flags for site.css."""
    for image in page.findall(nodes.image):
        image.setdefault("alt", "What the cell above has drawn")
    for code in page.findall(nodes.literal):
        words = code.astext().split()
        if any(word.startswith("-") for word in words) and max(map(len, words)) <= LONG:
            code["classes"].append("flags")
    here = Path(app.srcdir, app.env.doc2path(app.env.docname)).parent
    for link in list(page.findall(pending_xref)):
        target = link["reftarget"]
        if target.endswith("/figures") and (here / target).is_dir():
            link.replace_self(nodes.reference("", "", *link.children, internal=True, refuri=f"{target}/index.html"))


def finish(app: Sphinx, error: Exception | None) -> None:
    """Make the README what the site opens with, and warn of what a browser would fetch from elsewhere."""
    if error is not None or app.builder.name != "html":
        return
    shutil.copyfile(Path(app.outdir, f"{root_doc}.html"), Path(app.outdir, "index.html"))
    for file in (file for kind in ("html", "css") for file in sorted(Path(app.outdir).rglob(f"*.{kind}"))):
        for found in EXTERNAL.finditer(file.read_text(encoding="utf-8")):
            log.warning("%s asks for what lies elsewhere: %s", file.relative_to(app.outdir), found.group())


def setup(app: Sphinx) -> None:
    """Join these to the build."""
    app.connect("source-read", complete)
    app.connect("source-read", told)
    app.connect("html-collect-pages", figures)
    app.connect("doctree-read", lead)
    app.connect("build-finished", finish)
