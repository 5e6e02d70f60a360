"""Many processes come to what one comes to with the same batch."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
import yaml
from torch import nn

from commands import begun, python
from lenient.core import ranks
from lenient.core.batch_norm import _GlobalBatchNorm
from lenient.models import save_network
from lenient.runs.folder import RunFolder
from lenient.runs.images import SyntheticImages
from ranks_images import both
from ranks_worker import FORMS, distilled
from toys import QUICK, TA_QUICK, digits_like

HERE = Path(__file__).parent
WORKER = HERE / "ranks_worker.py"
STEPS = 6
"""Over every phase of every form: two epochs, the bank, what is learnt from it, two rounds where one has less steps."""
LONG = 20
FOUR = ["ta-dfkd", "meta-dfkd"]
"""What four ranks run: halves of halves, and a second derivative through them."""


def together(number: int, output: Path, steps: int, forms: list[str]) -> dict[str, dict[str, torch.Tensor]]:
    """What the forms of methods come to with `number` processes."""
    as_ranks(number, WORKER, output, steps, *forms, cwd=output.parent)
    return torch.load(output)


def as_ranks(number: int, *words: object, cwd: Path, codes: tuple[int, ...] = (0,)) -> None:
    """Run `python WORDS` as `number` processes with the variables that torchrun sets, and a store that stays."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    variables = {"WORLD_SIZE": str(number), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port)}
    variables["TORCHELASTIC_USE_AGENT_STORE"] = "True"

    def rank(own: int) -> None:
        done = python(*words, cwd=cwd, RANK=str(own), LOCAL_RANK=str(own), **variables)
        assert done.returncode in codes, done.stderr

    with ThreadPoolExecutor(number) as pool:
        list(pool.map(rank, range(number)))


def bound(name: str, adam: bool, steps: int) -> float:
    """How far rounding may part what comes of many ranks from what comes of one, absolutely and relatively.

    Ranks sum in another order, which moves a sum of `terms` numbers about 1 by `terms` units in the last place of
    float64. SGD carries that on, stretched at most by 1.4 at each of the steps, 1000 times in all. Adam divides by the
    gradient's size plus 1e-8, so it takes what is left of a gradient that ought to be 0 (of biases before a batch norm)
    for a direction and follows it. Gauges judge what a generator draws, which learns with Adam, and are summed in
    float32 over the updates of a line. A fault of the ranks shows above 1e-3.
    """
    terms = QUICK["batch_size"] * 6 * 5
    noise = terms * torch.finfo(torch.float64).eps
    followed = TA_QUICK["generator_lr"] * 2 * steps * noise / 1e-8
    if name.startswith("health/"):
        return followed + 2 * steps * torch.finfo(torch.float32).eps
    return followed if adam else 1000 * steps * noise


@pytest.mark.parametrize(
    ("number", "steps", "forms"),
    [
        pytest.param(2, STEPS, [form for form in FORMS if form not in FOUR], id="two"),
        pytest.param(4, STEPS, FOUR, id="four"),
        pytest.param(2, LONG, list(FORMS), id="two, long", marks=pytest.mark.slow),
        pytest.param(4, LONG, FOUR, id="four, long", marks=pytest.mark.slow),
    ],
)
def test_many_ranks_equal_one(tmp_path: Path, number: int, steps: int, forms: list[str]) -> None:
    """Over ten seconds for two: three processes run each of fifteen forms. What four run, two need not."""
    for form, many in together(number, tmp_path / "many.pt", steps, forms).items():
        one = distilled(form, steps)
        assert many.keys() == one.keys()
        adam = any(name in form for name in ("generative", "pre-dfkd", "zskt", "cudfkd", "stable", "photo", "proxy"))
        for name in ["answers"] if adam else one:
            limit = bound(name, adam, steps)
            assert torch.allclose(many[name], one[name], rtol=limit, atol=limit, equal_nan=True), (form, name)


def test_the_batch_norm_of_many_ranks_is_that_of_torch_and_can_be_derived_twice() -> None:
    torch.manual_seed(0)
    values = torch.randn(5, 3, 4, 2, dtype=torch.float64, requires_grad=True)
    ours, torchs = (nn.BatchNorm2d(3, momentum=0.3, dtype=torch.float64) for _ in range(2))
    for layer in (ours, torchs):
        nn.init.uniform_(layer.weight, 0.5, 2, generator=torch.Generator().manual_seed(1))
    with _GlobalBatchNorm():
        mine = ours(values)
    theirs = torchs(values)
    torch.testing.assert_close(mine, theirs)
    torch.testing.assert_close(ours.state_dict(), torchs.state_dict())
    gradients = []
    for output, layer in ((mine, ours), (theirs, torchs)):
        inputs = [values, layer.weight, layer.bias]
        first = torch.autograd.grad(output.tanh().square().sum(), inputs, create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in first), inputs)
        gradients.append((*first, *second))
    torch.testing.assert_close(*gradients)
    with _GlobalBatchNorm():
        torch.testing.assert_close(ours.eval()(values), torchs.eval()(values))
        bare = F.batch_norm(values, None, None, training=True)
    torch.testing.assert_close(bare, F.batch_norm(values, None, None, training=True))


def test_alone_everything_is_the_identity() -> None:
    rows = torch.arange(6.0).view(3, 2).requires_grad_()
    assert ranks.count() == 1
    assert ranks.is_main()
    assert ranks.mine(rows) is rows
    assert ranks.total(rows) is rows
    assert ranks.averaged([rows])[0] is rows
    assert ranks.agree("word") == "word"
    assert ranks.any_rank(True, False) == (True, False)
    assert torch.equal(ranks.gather(rows), rows)
    with ranks.joined():
        assert ranks.count() == 1


def test_a_data_set_is_made_by_all_ranks_and_is_that_of_one(tmp_path: Path) -> None:
    """The same on each; whether one is late, is stopped or sees other scores, none waits for it without an end."""
    as_ranks(2, HERE / "ranks_images.py", tmp_path, cwd=tmp_path)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in range(2))
    for name, made in first.items():
        assert same(made, second[name]), name
    for name, alone in both().items():
        made = first[name]
        assert (len(made), made.steps, made.classes) == (20, alone.steps, alone.classes)
        assert int((made.images.int() - alone.images.int()).abs().max()) <= 1  # a level, where rounding tips it
        torch.testing.assert_close(made.soft_labels, alone.soft_labels, atol=0.01, rtol=0)
    assert same(first["written"], SyntheticImages.open(tmp_path / "images"))
    assert torch.equal(first["written"].images, first["adi"].images)
    assert torch.equal(first["otherwise"].images, first["ta-dfkd"].images)
    assert [len(first[name]) for name in ("late", "stopped")] == [8, 8]


def same(made: SyntheticImages, other: SyntheticImages) -> bool:
    facts = [(each.steps, each.seconds, each.health, each.clipped, each.classes) for each in (made, other)]
    tensors = torch.equal(made.images, other.images) and torch.equal(made.soft_labels, other.soft_labels)
    return tensors and facts[0] == facts[1]


# the command


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("teacher") / "teacher.safetensors"
    save_network(path, digits_like())
    return path


def command(teacher: Path, folder: Path, *more: str, devices: int = 2) -> list[str]:
    base = ["-m", "lenient", "distill", str(teacher), "--student", "lenient:resnet8-half"]
    quick = ["--preset", "smoke", "--device", "cpu", "--precision", "64", "--progress", "none", "-o", str(folder)]
    wide = ["-s", "generator.width=8", "-s", "generator.latent_dim=16", "-s", "overlap=false"]
    return [*base, *quick, *wide, "--devices", str(devices), *more]


def test_a_run_goes_on_with_another_number_of_devices_to_the_same_student(teacher: Path, tmp_path: Path) -> None:
    """Over ten seconds: torch's launcher starts two ranks anew, which import torch, and there are three runs."""
    assert python(*command(teacher, tmp_path / "one", "--steps", "12", devices=1), cwd=tmp_path).returncode in (0, 4)
    first = python(*command(teacher, tmp_path / "many", "--steps", "6"), cwd=tmp_path)
    assert first.returncode in (0, 4), first.stderr
    assert "ranks" in (tmp_path / "many" / "env.json").read_text()
    then = python(*command(teacher, tmp_path / "many", "--steps", "12", "--resume", devices=1), cwd=tmp_path)
    assert then.returncode in (0, 4), then.stderr
    assert "ranks was 2, is 1" in then.stderr
    students = [
        RunFolder(tmp_path / name).load_checkpoint(torch.device("cpu"))["networks"]["student"]["module"]
        for name in ("one", "many")
    ]
    for name in students[0]:
        assert torch.allclose(students[0][name], students[1][name], rtol=0, atol=1e-9), name
    settings = [yaml.safe_load((tmp_path / name / "config.yaml").read_text()) for name in ("one", "many")]
    assert settings[0] == settings[1]


def test_all_ranks_go_on_from_what_lies_beside_the_checkpoint(teacher: Path, tmp_path: Path) -> None:
    """The first rank writes the pool's segments, both read them: to the student of one process, within rounding.

    Over ten seconds where a core is shared: five processes distil.
    """
    method = {"name": "deepinversion", "iterations": 2, "first_batches": 2, "student_steps": 3}
    method |= {"student_schedule": "constant"}  # which a run that is lengthened follows from its start
    settings = {"batch_size": 16, "steps_per_epoch": 4, "report": {"images": False}, "method": method}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(settings))
    base = ["lenient", "distill", str(teacher), "--student", "lenient:lenet5-half", "-c", "recipe.yaml", "--device",
            "cpu", "--precision", "64", "--progress", "none", "--resume"]  # fmt: skip
    small = "import sys; from lenient.runs import segments; segments.LEAST = 500; from lenient.cli import main; "
    for number, steps, name in ((1, 12, "one"), (2, 6, "many"), (2, 12, "many")):
        words = [*base, "--steps", str(steps), "-o", name]
        as_ranks(number, "-c", f"{small}sys.argv = {words}; main()", cwd=tmp_path, codes=(0, 4))
    assert len(list((tmp_path / "many" / "segments").iterdir())) > 1
    states = [RunFolder(tmp_path / name).load_checkpoint(torch.device("cpu")) for name in ("one", "many")]
    students = [state["networks"]["student"]["module"] for state in states]
    torch.testing.assert_close(students[0], students[1], rtol=0, atol=1e-9)
    pools = [torch.cat([part["pixels"] for part in state["source"]["images"].parts(0)]) for state in states]
    assert len(pools[0]) == len(pools[1]) == 96
    assert torch.equal(pools[0], pools[1])


def test_where_one_rank_is_killed_the_others_end_with_an_error(teacher: Path, tmp_path: Path) -> None:
    """Over ten seconds where a core is shared: torch's launcher starts two ranks anew, which import torch."""
    words = command(teacher, tmp_path / "run", "--steps", "100000", "-s", "checkpoint_every=1")
    with begun(*words, cwd=tmp_path) as process:
        wait_for(tmp_path / "run" / "checkpoints" / "last.pt")
        os.kill(ranks_of(process.pid)[-1], signal.SIGKILL)
        done = process.end(60)
    assert done.returncode == 5
    assert "died of SIGKILL" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_an_interrupt_stops_all_ranks_at_one_checkpoint(teacher: Path, tmp_path: Path) -> None:
    words = command(teacher, tmp_path / "run", "--steps", "100000", "-s", "checkpoint_every=5")
    process = subprocess.Popen([sys.executable, *words], stderr=subprocess.PIPE, text=True)
    wait_for(tmp_path / "run" / "checkpoints" / "last.pt")
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=90)
    assert process.returncode == 130
    assert said.count("a checkpoint is written") == 1
    assert "Traceback" not in said


def ranks_of(launcher: int) -> list[int]:
    """The process ids of the ranks that the launcher has started."""
    if not Path("/proc/self/task").exists():
        found = subprocess.run(["pgrep", "-P", str(launcher)], capture_output=True, text=True, check=True).stdout
        return [int(word) for word in found.split()]
    begun = [path.read_text().split() for path in Path(f"/proc/{launcher}/task").glob("*/children")]
    return sorted(int(pid) for pids in begun for pid in pids if "distill" in Path(f"/proc/{pid}/cmdline").read_text())


def wait_for(path: Path, seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end, f"{path} was not written in {seconds} s"
        time.sleep(0.2)


def test_a_batch_that_does_not_divide_is_refused_in_one_line(teacher: Path, tmp_path: Path) -> None:
    refused = python(*command(teacher, tmp_path / "run", "--batch-size", "15"), cwd=tmp_path)
    assert refused.returncode == 2
    assert refused.stderr.splitlines()[-1] == "lenient: --devices 2: --batch-size 15 does not divide among them"
    assert not (tmp_path / "run").exists()
