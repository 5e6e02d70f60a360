"""The commands: thin wrappers that parse flags, call the public functions, and print errors in one line."""

from __future__ import annotations

import io
import logging
import os
import sys
from contextlib import suppress
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from lenient.cli import (
    bench,
    bench_report,
    demo,
    distill,
    evaluate,
    export,
    inspect,
    methods,
    report,
    sample,
    train_teacher,
)
from lenient.core import processes
from lenient.core.errors import LenientError, MachineError
from lenient.core.signals import end_on_signals, end_plainly, interrupted
from lenient.core.text import LINE, visible


class _Commands(TyperGroup):
    """Typer by itself ends an interrupted command without a word, or with one, depending on its version."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was named; `_run` says that it was interrupted."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise typer.Abort from None


app = typer.Typer(
    name="lenient",
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _say_version(asked: bool) -> None:
    if asked:
        import lenient

        print(f"lenient {lenient.__version__}")
        raise typer.Exit


@app.callback()
def _lenient(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_say_version, is_eager=True)
    ] = False,
) -> None:
    """Distil a trained image classifier into a smaller one without any training data."""


app.command("demo")(demo.demo)
app.command("train-teacher")(train_teacher.train_teacher)
app.command("inspect")(inspect.inspect)
app.command("distill")(distill.distill)
app.command("evaluate")(evaluate.evaluate)
app.command("report")(report.report)
app.command("sample")(sample.sample)
app.command("export")(export.export)
app.command("methods")(methods.methods)
bench.app.command("report")(bench_report.report)
app.add_typer(bench.app, name="bench")


def main() -> None:
    """Run a command; exit with 0, 1 unexpected, 2 usage, 3 teacher, 4 health, 5 machine, or 130 interrupted."""
    _open_streams()
    logging.getLogger("lenient").addFilter(_written_out)
    end_on_signals()
    try:
        _run()
    finally:
        end_plainly()


def _run() -> NoReturn:
    try:
        try:
            _check_place()
            code = app(standalone_mode=False)
        finally:
            sys.stdout.flush()  # now, when a full disk can still be reported
        if code == 130 and interrupted():  # of which typer makes an exit code without a word
            _tell("interrupted")
        sys.exit(code if isinstance(code, int) else 0)
    except LenientError as error:
        if processes.speaks() or isinstance(error, MachineError):  # all ranks find the rest alike
            _tell(error)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        _tell("interrupted")
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:  # what no command knows a flag for
        where = "" if error.filename is None else f"{error.filename}: "
        _tell(f"{where}{error.strerror or error}")
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left cannot be written either
        sys.exit(MachineError.exit_code)
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        _refuse(error)


def _check_place() -> None:
    """A library of torch ends the process where the working folder has been deleted."""
    try:
        os.getcwd()
    except OSError as error:
        raise MachineError(f"the current folder no longer exists ({error.strerror}); change to one that does") from None


def _refuse(error: Any) -> NoReturn:
    """Say in one line what typer found wrong with the flags; a command without any shows its help."""
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
    else:
        path = getattr(getattr(error, "ctx", None), "command_path", "lenient")
        _tell(f"{error.format_message()} ({path} --help says more)")
    sys.exit(error.exit_code)


def _written_out(record: logging.LogRecord) -> bool:
    """Keep what a warning quotes on its line."""
    record.msg, record.args = visible(record.getMessage(), 1000), ()
    return True


def _tell(words: object) -> None:
    """Print a line of ours; a terminal that is gone is no reason for another exit code."""
    with suppress(OSError, ValueError):
        print(visible(f"lenient: {words}", LINE), file=sys.stderr, flush=True)


def _open_streams() -> None:
    """Let streams that were closed at the start (`>&-`) lead nowhere; else the next file would take their place.

    What an encoding lacks is written out, rather than to end a run.
    """
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(number)
        except OSError:
            handle = os.open(os.devnull, os.O_RDWR)
            if handle != number:
                os.dup2(handle, number)
                os.close(handle)
            os.set_inheritable(number, True)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, closefd=False, encoding="utf-8"))  # noqa: SIM115 - as long as the process
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
