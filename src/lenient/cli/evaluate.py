"""`lenient evaluate`: measure a model on data."""

from __future__ import annotations

import json
import sys

from lenient.cli import flags, options
from lenient.cli.options import takes
from lenient.core.progress import for_command, working
from lenient.core.text import NOTE, visible


@takes(options.EVALUATE)
def evaluate(
    model: str,
    data: str,
    teacher: str | None,
    teacher_arch: str | None,
    input_size: str | None,
    num_classes: int | None,
    mean: str | None,
    std: str | None,
    checkpoint_key: str | None,
    classes: str | None,
    trust_code: bool,
    data_root: str | None,
    split: str,
    statistics: str,
    adapt_to: str | None,
    adapt_images: int,
    device: str,
    as_json: bool,
    progress: str,
) -> None:
    """Measure MODEL on labelled images: accuracy, calibration, agreement with a teacher, latency."""
    from lenient.core.runtime import resolve_device
    from lenient.evaluation import latency
    from lenient.runs.measuring import measure_model

    facts = flags.facts(teacher_arch, input_size, num_classes, mean, std, checkpoint_key, classes)
    with working(f"measuring {visible(model)}", for_command(progress)):
        measured = measure_model(
            model,
            data,
            teacher=teacher or None,
            split=split,
            data_root=data_root,
            statistics=statistics,
            adapt_to=adapt_to,
            adapt_images=adapt_images,
            device=device,
            trust_code=trust_code,
            **facts,
        )
        network, found = measured.network, measured.measures.to_dict()
        found["latency"] = latency(network.module, network.card.input_size, device=resolve_device(device))
    for note in [*network.card.notes, *measured.images.notes, *filter(None, [found["note"]])]:
        print(f"note         {visible(note, NOTE)}", file=sys.stderr)
    if as_json:
        print(json.dumps(found, indent=2))
        return
    print(f"images       {found['n']} ({visible(data)}, {split})")
    print(f"statistics   {_statistics(statistics, found['estimated_on'])}")
    print(f"accuracy     {found['accuracy']:.2%}")
    if found["top5"] is not None:
        print(f"top-5        {found['top5']:.2%}")
    if found["agreement"] is not None:
        print(f"agreement    {found['agreement']:.2%} with {visible(teacher)}")
    print(f"calibration  expected error {found['ece']:.3f}, log-likelihood {-found['nll']:.3f} nats")
    timed = found["latency"]
    for batch, value in timed["milliseconds"].items():
        print(f"latency      {value:.2f} ms for a batch of {batch} on {timed['device']} ({timed['threads']} threads)")


def _statistics(name: str, images: int | None) -> str:
    """Say what the batch norms normalised by."""
    from lenient.evaluation import MEASURED_BY

    return f"{name}: {MEASURED_BY[name]}" + ("" if images is None else f", {images} of them")
