"""The commands: thin wrappers that parse flags, call the public functions, and print errors in one line."""

from __future__ import annotations

import os
import sys

import typer

from lenient.cli import bench, bench_report, bring, demo, distill, look
from lenient.errors import LenientError, MachineError

app = typer.Typer(
    name="lenient",
    help="Distil a trained image classifier into a smaller one without any training data.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("demo")(demo.demo)
app.command("train-teacher")(bring.train_teacher)
app.command("inspect")(look.inspect)
app.command("distill")(distill.distill)
app.command("evaluate")(look.evaluate)
app.command("report")(look.report)
app.command("sample")(bring.sample)
app.command("export")(bring.export)
app.command("methods")(look.methods)
bench.app.command("report")(bench_report.report)
app.add_typer(bench.app, name="bench")


def main() -> None:
    """Run a command; exit with 0, 1 unexpected, 2 usage, 3 teacher, 4 health, 5 machine, or 130 interrupted."""
    try:
        app(standalone_mode=True)
    except LenientError as error:
        if os.environ.get("RANK", "0") == "0" or isinstance(error, MachineError):  # all ranks find the rest alike
            print(f"lenient: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("lenient: interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:  # what no command knows a flag for
        where = "" if error.filename is None else f"{error.filename}: "
        print(f"lenient: {where}{error.strerror or error}", file=sys.stderr)
        sys.exit(MachineError.exit_code)
