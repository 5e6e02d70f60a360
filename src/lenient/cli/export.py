"""`lenient export`: write a run's student in another format."""

from __future__ import annotations

from pathlib import Path

from lenient.cli import options
from lenient.cli.options import takes
from lenient.cli.progress import working
from lenient.core.text import visible


@takes(options.EXPORT)
def export(
    run: Path,
    format: str,
    output: Path,
    check: bool,
    teacher_arch: str | None,
    checkpoint_key: str | None,
    opset: int | None,
    int8: bool,
    calibrate: Path | None,
    eval_data: str | None,
    data_root: str | None,
    trust_code: bool,
    overwrite: bool,
) -> None:
    """Write the student of RUN in another format."""
    from lenient.runs.export import export as write
    from lenient.runs.export import opset_of

    found: list[str] = []
    with working(f"writing {visible(output)}"):
        write(
            run,
            format,
            output,
            check=check,
            arch=teacher_arch,
            checkpoint_key=checkpoint_key,
            opset=opset,
            int8=int8,
            calibrate=calibrate,
            eval_data=eval_data,
            data_root=data_root,
            tell=found.append,
            overwrite=overwrite,
            trust_code=trust_code,
        )
    print(f"{output}: {'; '.join(found)}" if found else output)
    if format == "onnx":
        print(f"opset {opset_of(output)}")
