"""One of several processes: runs forms of methods for a few steps in float64 and stores what their students come to.

torchrun --nproc-per-node N ranks_worker.py FILE STEPS FORM...
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))

from lenient.core import ranks
from lenient.core.runtime import Runtime
from lenient.teacher.frozen import FrozenTeacher
from lenient.training.trainer import Distillation, Fallback
from toys import pictures_folder, settings, tiny_student, tiny_teacher

BANK = {"replay": {"share": 0.5, "every": 1}}
FORMS: dict[str, dict[str, Any]] = {
    "ta-dfkd": {},
    "ta-dfkd, cropped": {"augmentation": "crop-flip"},
    "ta-dfkd, unselected": {"selection": "none"},
    "meta-dfkd": {**BANK},
    "meta-dfkd, reservoir": {"replay": {**BANK["replay"], "slots": 2, "policy": "reservoir"}},
    "meta-dfkd, second order": {**BANK, "update": {"order": "second"}},
    "meta-dfkd, joint": {**BANK, "update": {"joint": True}},
    "meta-dfkd, generative": {"replay": {"name": "generative", "share": 0.5}},
    "mb-dfkd": {**BANK},
    "pre-dfkd": {"replay": {"share": 0.5}},
    "mad": {},
    "mad, conditional": {"conditional": "sum"},
    "dafl": {},
    "dfad": {},
    "zskt": {},
    "bn-adv": {},
    "dafl-adv": {},
    "cudfkd": {},
    "adadfq": {"warm_up": 2},
    "noise": {},
    "noise, batch statistics": {"statistics": "batch"},
    "photo": {"cutmix": 1.0},
    "proxy": {"cutmix": 1.0, "selection": {"name": "mixture", "quota": 1.5}},
    "zskt, mixed": {},
    "mb-dfkd, mixed": {**BANK},
    "stable": {"grow": 4, "shift": 0.2},
    "deepinversion, joint": {
        **{"iterations": 2, "first_batches": 1, "student_steps": 2},
        "view": {"crop": "resized", "flip": True, "border": "extra"},
        "statistics": {"over": {"name": "all", "pieces": 2}},
    },
    "adi": {"iterations": 3, "first_batches": 1, "student_steps": 2},
    "fastdfkd": {"iterations": 2, "first_batches": 2, "student_steps": 2, "reset_after": 1},
    "fastdfkd, reptile": {"iterations": 2, "first_batches": 1, "student_steps": 3, "meta": "reptile"},
    "zskd": {"iterations": 3, "first_batches": 2, "student_optimizer": "sgd", "student_lr": 0.05},
    "kegnet": {"generators": 2, "iterations": 2, "images": 5, "student_optimizer": "sgd", "student_lr": 0.05},
    "nayer": {"iterations": 2, "first_batches": 1, "student_steps": 2, "generator_life": 1},
    "cmi": {"iterations": 2, "first_batches": 1, "student_steps": 2, "bank_size": 12, "bank_drawn": 5},
    "cpnet": {"iterations": 2, "first_batches": 1, "student_steps": 2, "generator_life": 1},
    "ta-dfkd, abd": {},
    "meta-dfkd, abd": {**BANK},
    "adi, abd": {"iterations": 3, "first_batches": 1, "student_steps": 2},
    "ta-dfkd, then stable": {},
}
ABD = {
    "name": "abd",
    "shuffle": {"trials": 0, "layers": 1},
    "unlearn": {"share": 0.5, "rounds": 3, "start": 0.1, "lr": 0.05},
}
"""The defence of the forms that have it in their name."""


def forecast(run: Distillation, progress: float) -> dict[str, float]:
    """Tell the first rank alone that it fails: rounding may part them."""
    return {"expected": 0.4 if ranks.is_main() else 0.6, "low": 0.1, "high": 0.9}


def distilled(form: str, steps: int) -> dict[str, torch.Tensor]:
    """Return the student's tensors after so many steps, its answers to fixed images, and the gauges, all in float64."""
    runtime = Runtime(torch.device("cpu"), "64")
    method = {"name": form.split(",")[0], **FORMS[form]}
    defense = {"defense": ABD} if form.endswith(", abd") else {}
    source = {"proxy_images": pictures_folder(), "proxy_share": 0.5}
    mixing = {"source": source} if form.endswith(", mixed") else {}
    student = tiny_student()
    with FrozenTeacher(tiny_teacher(), runtime) as teacher:
        plan = settings(steps=steps, method=method, **defense, **mixing)
        way_out = {}
        if ", then " in form:
            other = form.split(", then ")[1]
            then = Fallback(plan.with_method({"name": other, **FORMS[other]}), keep=lambda run: None)
            way_out = {"forecast": forecast, "fallback": then}
        run = Distillation(teacher, student, plan, runtime, **way_out)
        run.run()
        assert (run.fell_back is None) == (not way_out)
        probe = torch.linspace(-2, 2, 16 * 30, dtype=torch.float64).view(16, 1, 6, 5).sin()
        with torch.no_grad():
            answers = student.module.eval()(probe)
    latest = run.health.latest.items()
    lines = {f"health/{name}": torch.tensor(value, dtype=torch.float64) for name, value in latest}
    return {**student.module.state_dict(), **lines, "answers": answers}


def main(output: str, steps: str, *forms: str) -> None:
    torch.set_num_threads(1)
    with ranks.joined():
        found = {form: distilled(form, int(steps)) for form in forms}
        if ranks.is_main():
            torch.save(found, output)


if __name__ == "__main__":
    main(*sys.argv[1:])
