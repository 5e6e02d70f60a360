"""`lenient evaluate`: measure a model on data."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer

from lenient.cli import flags
from lenient.core.text import NOTE, visible


def evaluate(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="What `lenient distill` takes, or a run folder.", show_default=False)
    ],
    data: Annotated[str, typer.Option(metavar="DATA", help="digits, mnist, cifar10, cifar100 or imagefolder:DIR.")],
    teacher: Annotated[str, typer.Option(metavar="TEACHER", help="Measure agreement with it, too.")] = "",
    teacher_arch: flags.TeacherArch = "",
    input_size: flags.InputSize = "",
    num_classes: flags.NumClasses = 0,
    mean: flags.Mean = "",
    std: flags.Std = "",
    checkpoint_key: flags.CheckpointKey = "",
    trust_code: flags.TrustCode = False,
    data_root: flags.DataRoot = "",
    split: Annotated[str, typer.Option(metavar="NAME", help="test, train, fit or holdout.")] = "test",
    device: flags.Device = "auto",
    as_json: flags.AsJson = False,
) -> None:
    """Measure MODEL on labelled images: accuracy, calibration, agreement with a teacher, latency."""
    from lenient.core.runtime import resolve_device
    from lenient.data import load_data
    from lenient.evaluation import evaluate as measure
    from lenient.evaluation import latency
    from lenient.runs.job import load_teacher

    facts = flags.facts(teacher_arch, input_size, num_classes, mean, std, checkpoint_key)
    network = load_teacher(model, trust_code=trust_code, **facts)
    other = load_teacher(teacher, trust_code=trust_code) if teacher else None
    place = resolve_device(device)
    images = load_data(data, split=split, root=data_root or None, input_size=network.card.input_size)
    found: dict[str, Any] = measure(network, images, teacher=other, device=place).to_dict()
    found["latency"] = latency(network.module, network.card.input_size, device=place)
    for note in [*network.card.notes, *images.notes, *filter(None, [found["note"]])]:
        print(f"note         {visible(note, NOTE)}", file=sys.stderr)
    if as_json:
        print(json.dumps(found, indent=2))
        return
    print(f"images       {found['n']} ({visible(data)}, {split})")
    print(f"accuracy     {found['accuracy']:.2%}")
    if found["top5"] is not None:
        print(f"top-5        {found['top5']:.2%}")
    if found["agreement"] is not None:
        print(f"agreement    {found['agreement']:.2%} with {visible(teacher)}")
    print(f"calibration  expected error {found['ece']:.3f}, log-likelihood {-found['nll']:.3f} nats")
    timed = found["latency"]
    for batch, value in timed["milliseconds"].items():
        print(f"latency      {value:.2f} ms for a batch of {batch} on {timed['device']} ({timed['threads']} threads)")
