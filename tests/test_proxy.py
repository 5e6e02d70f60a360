"""Pictures of the user's own: how a folder is read, which of them are kept, and how they stand among other images."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

import lenient
from lenient.api import distill, synthesize
from lenient.cli.distill import describe_method
from lenient.core.errors import UsageError
from lenient.core.seeding import Streams
from lenient.losses.prior import confidence_score
from lenient.methods.contract import Algorithm
from lenient.models import save_network
from lenient.pictures import holding
from lenient.pictures.holding import Pictures, held, listed
from lenient.pictures.reading import read_picture
from lenient.runs.folder import RunFolder
from lenient.runs.job import Job
from lenient.runs.request import Request
from lenient.synthesis.mixed import Mixed, order
from lenient.synthesis.proxy import Proxy, SourceSettings, SurestSettings, chosen, with_pictures
from lenient.synthesis.views import CutMix
from test_kill import start
from test_methods import BASE, STABLE, take
from test_pictures import HOSTILE
from toys import QUICK, digits_like, distillation, pictures_folder, quick, tiny_student, tiny_teacher, write_pictures

SIZE = (3, 6, 5)


@pytest.fixture(autouse=True)
def anew() -> None:
    """Whether a folder is read again is part of what is tested."""
    holding._read.cache_clear()


# a folder


def test_a_folder_is_walked_whole_and_what_is_no_picture_is_counted(tmp_path: Path) -> None:
    write_pictures(tmp_path / "b", 2)
    write_pictures(tmp_path / "a", 1)
    (tmp_path / "a" / "deep").mkdir()
    Image.new("L", (4, 4), 9).save(tmp_path / "a" / "deep" / "x.JPG", "JPEG")
    (tmp_path / "words.txt").write_text("none")
    (tmp_path / ".hidden.png").write_bytes(b"")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "round").symlink_to(tmp_path)
    found = listed(str(tmp_path))
    assert found.files == ("a/00.png", "a/deep/x.JPG", "b/00.png", "b/01.png")
    pictures = held(str(tmp_path), SIZE, 0, 1)
    assert pictures.pixels.shape == (4, *SIZE)
    expected = [read_picture(tmp_path / name, SIZE) for name in found.files]
    assert torch.equal(pictures.pixels, torch.stack(expected))
    assert pictures.name == f"proxy:{tmp_path.name}"
    (note,) = pictures.notes
    assert "3 of its entries left out" in note
    for kind in ("linked folders: 1", "no regular files: 1", ".txt: 1"):
        assert kind in note


def test_a_link_to_the_folder_is_as_good_as_the_folder(tmp_path: Path) -> None:
    write_pictures(tmp_path / "own", 1)
    write_pictures(tmp_path / "own" / "below", 1)
    (tmp_path / "link").symlink_to(tmp_path / "own")
    assert len(held(str(tmp_path / "link"), SIZE, 0, 1)) == 2


def test_pictures_are_resized_and_grey_by_luma_where_the_teacher_is(tmp_path: Path) -> None:
    image = Image.new("RGB", (40, 20), (200, 100, 50))
    image.paste((0, 0, 0), (0, 0, 7, 20))  # left of what a square shows
    image.save(tmp_path / "a.png")
    grey = held(str(tmp_path), (1, 10, 10), 0, 1).pixels
    assert grey.shape == (1, 1, 10, 10)
    assert grey.unique().tolist() == [round(0.299 * 200 + 0.587 * 100 + 0.114 * 50)]


def test_hostile_pictures_are_named_and_left_out(tmp_path: Path) -> None:
    write_pictures(tmp_path, 2)
    for name, content in HOSTILE.items():
        (tmp_path / (name if "." in name else f"x.{name}")).write_bytes(content())
    pictures = held(str(tmp_path), SIZE, 0, 1)
    assert len(pictures) == 2
    (note,) = pictures.notes
    bad = sum(not name.startswith("0") for name in listed(str(tmp_path)).files)
    assert f"{bad} of {bad + 2} pictures cannot be read and are left out" in note
    assert "below.tif: not a readable image" in note
    assert f"and {bad - 3} others" in note
    assert str(tmp_path) not in note.removeprefix(f"--proxy-images {tmp_path}").replace("...", "")


@pytest.mark.parametrize(("make", "words"), [
    (lambda folder: None, "none: no such folder"),
    (lambda folder: folder.mkdir(), r"none: holds no picture \(\.jpg, \.png and the like\)"),
    (lambda folder: folder.write_bytes(b""), "none: no such folder"),
    (lambda folder: (folder.mkdir(), (folder / "a.png").write_bytes(b"")), "not one of its 1 pictures can be read"),
])  # fmt: skip
def test_a_folder_without_pictures_is_one_line(make: Any, words: str, tmp_path: Path) -> None:
    make(tmp_path / "none")
    with pytest.raises(UsageError, match=f"^--proxy-images .*{words}") as caught:
        held(str(tmp_path / "none"), SIZE, 0, 1)
    assert "\n" not in str(caught.value)


def test_of_more_than_fit_the_seed_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_pictures(tmp_path, 9, size=(30, 30))
    size = (3, 400, 400)  # 480,000 bytes, of which two go into a mebibyte
    first, again, other = (held(str(tmp_path), size, seed, 1) for seed in (0, 0, 5))
    whole = held(str(tmp_path), size, 0, 100)
    assert (len(first), len(whole), whole.notes) == (2, 9, ())
    assert torch.equal(first.pixels, again.pixels)
    assert not torch.equal(first.pixels, other.pixels)
    assert all(any(torch.equal(one, each) for each in whole.pixels) for one in first.pixels)
    assert first.notes == (
        f"--proxy-images {holding.visible(str(tmp_path), 60)}: 2 of 9 pictures are used, drawn by the seed: no more "
        "fit into 1 MiB (-s source.proxy_memory)",
    )
    with pytest.raises(UsageError, match=r"^-s source\.proxy_memory=1: not one picture fits"):
        held(str(tmp_path), (3, 999, 999), 0, 1)


def test_a_folder_is_read_once_and_again_once_it_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_pictures(tmp_path, 3)
    read: list[Path] = []
    monkeypatch.setattr(holding, "read_picture", lambda path, size: read.append(path) or read_picture(path, size))
    before = held(str(tmp_path), SIZE, 0, 1)
    assert held(str(tmp_path), SIZE, 0, 1) is before
    assert len(read) == 3
    os.utime(tmp_path / "01.png", ns=(0, 0))
    after = held(str(tmp_path), SIZE, 0, 1)
    assert len(read) == 6
    assert after.sha256 == before.sha256
    Image.new("RGB", (7, 9)).save(tmp_path / "01.png")
    assert held(str(tmp_path), SIZE, 0, 1).sha256 != before.sha256


def test_a_listing_is_known_by_names_and_sizes_wherever_it_lies(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_pictures(tmp_path / name, 3)
    one, two = (listed(str(tmp_path / name)).sha256() for name in ("one", "two"))
    assert one == two
    (tmp_path / "two" / "00.png").rename(tmp_path / "two" / "07.png")
    assert listed(str(tmp_path / "two")).sha256() != one


# the method


def proxy(**method: Any) -> Proxy:
    source = distillation(method={**BASE["proxy"], **method}).algorithm.source
    assert isinstance(source, Proxy)
    return source


def test_the_student_sees_pictures_and_both_networks_the_same() -> None:
    run = distillation(method={"name": "proxy", "cutmix": 1.0, "augmentation": "none"})
    _, output = run.take_update()
    batch = output.batch
    pictures = held(pictures_folder(), (1, 6, 5), 3, 1024).pixels.float() / 255
    distance = (batch.images.flatten(1)[:, None] - pictures.flatten(1)).abs().amax(2)
    assert distance.amin(1).max() < 1e-6
    assert len(distance.argmin(1).unique()) > 3
    wanted = CutMix(1.0)(batch.images, run.streams, "proxy-view", 0)
    torch.testing.assert_close(batch.inputs["train"], run.teacher.normalize(wanted))
    torch.testing.assert_close(batch.logits("train", "teacher"), run.teacher.respond(batch.inputs["train"]).logits)
    summary = take(run, 2).result().summary
    assert summary.foreign == (f"proxy:{Path(pictures_folder()).name}",)
    assert summary.images_synthesized == 0


def test_other_numbers_of_channels_mix_colours_the_same_way_each_time() -> None:
    shape = {"channels": 5, "size": (6, 5)}
    run = distillation(tiny_teacher(**shape), tiny_student(**shape), method=BASE["proxy"])
    source = run.algorithm.source
    images = source.at(torch.arange(12))
    assert images.shape == (12, 5, 6, 5)
    assert 0 <= images.min() < images.max() <= 1
    assert torch.equal(images[3:4], source.at(torch.tensor([3])))


def test_kept_are_the_surer_component_and_of_a_class_so_many_times_the_median() -> None:
    scores = torch.cat([torch.linspace(0.01, 0.1, 40), torch.linspace(2.0, 2.2, 30)])
    classes = torch.tensor([0] * 25 + [1] * 10 + [2] * 5 + [3] * 30)
    whole = chosen(scores, classes, 5, SurestSettings(quota=None)).weight
    assert whole.tolist() == [1.0] * 40 + [0.0] * 30
    kept = chosen(scores, classes, 5, SurestSettings(quota=1.5)).weight  # the median of 25, 10 and 5 is 10
    assert [int(kept[classes == number].sum()) for number in range(4)] == [15, 10, 5, 0]
    assert kept[:15].all(), "the surest"
    assert chosen(scores[:1], classes[:1], 5, SurestSettings()).weight.tolist() == [1.0]


def test_the_selection_is_made_once_of_all_pictures() -> None:
    run = distillation(method={**BASE["proxy"], "selection": {"name": "mixture", "quota": 1.0}})
    source = run.algorithm.source
    run.take_update()
    asked = run.teacher.forwards
    assert asked == 16 + 8, "12 pictures, in two batches of 8, and a batch"
    logits = run.teacher.respond(run.teacher.normalize(source.at(torch.arange(12)))).logits
    torch.testing.assert_close(source.scores, confidence_score(logits))
    assert torch.equal(source.classes, logits.argmax(1))
    expected = chosen(source.scores, source.classes, 4, SurestSettings(quota=1.0)).weight.nonzero().flatten()
    assert torch.equal(source.kept, expected)
    assert 0 < len(source) < 12
    assert set(source._places(100, "x", 0).tolist()) == set(expected.tolist())
    before = run.teacher.forwards
    run.take_update()
    assert run.teacher.forwards - before == 8


def test_a_selection_that_goes_on_asks_the_teacher_no_more() -> None:
    method = {**BASE["proxy"], "selection": "mixture"}
    first, second = distillation(method=method), distillation(method=method)
    take(first, 1)
    second.load_state_dict(first.state_dict())
    asked = second.teacher.forwards
    assert torch.equal(second.algorithm.source.kept, first.algorithm.source.kept)
    assert second.teacher.forwards == asked
    state = first.algorithm.source.state_dict()
    for wrong in ({"scores": state["scores"][:5]}, {"classes": state["classes"] + 9}):
        with pytest.raises(ValueError, match=r"it is not of 12 pictures|of classes that there are not"):
            second.algorithm.source.load_state_dict({**state, **wrong})


# among a method's own images


@pytest.mark.parametrize(("size", "count"), [(8, 1), (8, 4), (9, 2), (7, 7), (64, 13), (5, 0)])
def test_others_are_spread_evenly_and_exactly_so_many(size: int, count: int) -> None:
    found = order(size, count)
    others = found >= size
    assert int(others.sum()) == count
    assert torch.equal(found[others], size + torch.arange(count))
    assert torch.equal(found[~others], torch.arange(size)[~others])
    if count > 1:
        gaps = others.nonzero().flatten().diff()
        assert gaps.max() - gaps.min() <= 1


@pytest.mark.parametrize("ranks", [2, 4])
def test_the_places_of_many_ranks_are_those_of_one(ranks: int) -> None:
    whole = order(16, 8) >= 16
    assert torch.equal(whole, (order(16 // ranks, 8 // ranks) >= 16 // ranks).repeat(ranks))


@pytest.mark.parametrize("name", ["ta-dfkd", "zskt", "fastdfkd", "mb-dfkd", "stable", "noise"])
def test_a_share_of_each_batch_is_pictures_and_the_rest_is_the_methods_own(name: str) -> None:
    source = {"proxy_images": pictures_folder(), "proxy_share": 0.25, "proxy_augmentation": "none", "proxy_cutmix": 0}
    run, plain = distillation(method=BASE[name], source=source), distillation(method=BASE[name])
    while run.algorithm.schedule.name(run.updates) != "student":
        run.take_update()
        plain.take_update()
    (_, output), (_, alone) = run.take_update(), plain.take_update()
    own, pictures = run.algorithm.drawn, run.algorithm.source
    assert isinstance(pictures, Mixed)
    there = torch.tensor([False, False, False, True] * 2)
    known = pictures.others.at(torch.arange(12)).flatten(1)
    distance = (output.batch.images.flatten(1)[:, None] - known).abs().amax(2).amin(1)
    assert torch.equal(distance < 1e-6, there)
    torch.testing.assert_close(output.batch.images[~there], alone.batch.images[~there])
    for view in ("clean", "train"):
        mixed, whole = (batch.answers[view]["teacher"] for batch in (output.batch, alone.batch))
        torch.testing.assert_close(mixed.logits[~there], whole.logits[~there], rtol=1e-4, atol=1e-5)
        assert mixed.probed.keys() == whole.probed.keys()
    asked = run.teacher.respond(output.batch.inputs["train"]).logits
    torch.testing.assert_close(output.batch.logits("train", "teacher"), asked, rtol=1e-4, atol=1e-5)
    assert output.images == alone.images
    assert type(own) is type(plain.algorithm.source)
    assert run.algorithm.foreign == (*plain.algorithm.foreign, f"proxy:{Path(pictures_folder()).name}")


def test_what_is_heard_of_blocks_is_of_both() -> None:
    run = distillation(method=BASE["zskt"], source={"proxy_images": pictures_folder()})
    run.take_update()
    batch = run.algorithm.source.batch(run.clock).batch
    answer = batch.answers["train"]["teacher"]
    (kind,) = answer.probed
    with run.teacher._asking:
        pass
    again = run.algorithm.source.own.viewer.view(run.teacher, batch.images, "x", run.clock)
    own = order(8, 4) < 8
    for ours, theirs in zip(answer.of(kind), again.answers["train"]["teacher"].of(kind), strict=True):
        torch.testing.assert_close(ours[own], theirs[own])


def test_no_share_is_the_method_alone_and_reads_nothing(tmp_path: Path) -> None:
    source = {"proxy_images": str(tmp_path / "nowhere"), "proxy_share": 0.0}
    assert not isinstance(distillation(source=source).algorithm.source, Mixed)


def test_half_is_what_a_folder_means_where_nothing_is_said() -> None:
    run = distillation(source={"proxy_images": pictures_folder()})
    assert run.algorithm.parts["pictures"] == "4 of 8 images are pictures"
    assert run.algorithm.notes == ("--proxy-images: 4 of 8 images are pictures (-s source.proxy_share)",)
    asked = distillation(source={"proxy_images": pictures_folder(), "proxy_share": 0.5})
    assert not asked.algorithm.notes, "who asked for it knows"
    assert SourceSettings(proxy_images="x").share("m", False) == 0.5
    assert SourceSettings(proxy_images="x").share("proxy", True) == 0.0


def test_the_generator_learns_as_without_pictures() -> None:
    """All but the student's weights, before it has learned from any: what makes the images does not know of them."""
    changes = {"method": {"name": "ta-dfkd", "student_steps": 1, "generator_lr": 0.01, "beta": 0.0}}
    plain, run = distillation(**changes), distillation(**changes, source={"proxy_images": pictures_folder()})
    for each in (plain, run):
        take(each, 5)
    for ours, theirs in zip(
        *(each.algorithm.updates["generator"].module.parameters() for each in (plain, run)), strict=True
    ):
        assert torch.equal(ours, theirs)


def test_samples_hold_both_and_data_sets_the_methods_own() -> None:
    run = take(distillation(source={"proxy_images": pictures_folder()}), 2)
    mixed = run.algorithm.source.sample(8, "x", 0)
    own = run.draws.source.sample(8, "x", 0)
    same = ((mixed - own).abs() < 1e-6).flatten(1).all(1)
    assert same.tolist() == [True, False] * 4


@pytest.mark.parametrize(("method", "source", "words"), [
    ({"name": "proxy"}, {}, r"^--method proxy: it shows pictures of yours; name a folder with --proxy-images DIR$"),
    ({"name": "noise"}, {"proxy_share": 0.5}, r"^-s source\.proxy_share: there are no pictures; .*--proxy-images$"),
    ({"name": "proxy"}, {"proxy_images": "x", "proxy_share": 0.5}, r"^-s source\.proxy_share: proxy does not use it"),
    ({"name": "stable", "pictures": 0.5}, {}, r"^--method stable: it shows pictures of yours"),
])  # fmt: skip
def test_settings_that_contradict_each_other_are_one_line(method: Any, source: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        distill(tiny_teacher(), tiny_student(), settings={**quick(method["name"]), "method": method, "source": source})


def test_ranks_have_to_divide_the_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    from lenient.core import ranks

    monkeypatch.setattr(ranks, "count", lambda: 2)
    monkeypatch.setattr(ranks, "rank", lambda: 0)
    monkeypatch.setattr(ranks, "agree", lambda value: value)
    with pytest.raises(UsageError, match=r"^-s source\.proxy_share: 3 of 8 images do not divide among 2 devices"):
        distillation(method=BASE["noise"], source={"proxy_images": pictures_folder(), "proxy_share": 0.4})


def test_ranks_that_see_other_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lenient.core import ranks

    write_pictures(tmp_path, 1)
    monkeypatch.setattr(ranks, "agree", lambda value: "other")
    with pytest.raises(UsageError, match="holds other files on rank 0 than on rank 0; share one folder"):
        held(str(tmp_path), SIZE, 0, 1)


def test_a_step_that_takes_no_other_source_is_refused() -> None:
    run = distillation(method=BASE["noise"])
    update = run.algorithm.updates["student"]
    stubborn = lenient.methods.contract.replace(update, step=lambda clock: update.step(clock))
    algorithm: Algorithm = lenient.methods.contract.replace(run.algorithm, updates={"student": stubborn})
    with pytest.raises(UsageError, match="takes no other source: see `Fed`"):
        algorithm.fed(lambda source, viewer: source)


# stable's third origin


def test_each_picture_comes_once_into_the_pool_of_stable_images() -> None:
    source = proxy()
    blank = torch.zeros(40, 1, 6, 5)
    whole = with_pictures(blank, range(40), source, 0.5)
    there = whole.flatten(1).amax(1) > 0
    assert there.tolist() == [number % 2 == 1 and number < 24 for number in range(40)]
    known = source.at(torch.arange(12)).flatten(1)
    places = (whole[there].flatten(1)[:, None] - known).abs().amax(2).argmin(1)
    assert sorted(places.tolist()) == list(range(12))
    assert places.tolist() != list(range(12))
    parts = [with_pictures(blank[:10], range(start, start + 10), source, 0.5) for start in range(0, 40, 10)]
    assert torch.equal(torch.cat(parts), whole)
    assert torch.equal(with_pictures(blank[:1], range(1), source, 0.5), blank[:1])


def test_stable_says_whose_pictures_it_takes_and_none_stand_beside_its_own() -> None:
    run = distillation(method={**STABLE, "pictures": 0.5})
    assert run.algorithm.foreign[-1] == f"proxy:{Path(pictures_folder()).name}"
    assert not isinstance(run.algorithm.source, Mixed)


# runs


def plan(**more: Any) -> dict[str, Any]:
    return {**quick("noise"), "method": {"name": "noise", "student_lr": 0.05}, **more}


@pytest.mark.usefixtures("bare")
def test_a_run_goes_on_with_the_same_pictures_wherever_they_lie_and_with_no_others(
    tmp_path: Path,
) -> None:
    teacher = tmp_path / "teacher.safetensors"
    save_network(teacher, digits_like())
    folder, run = tmp_path / "mine", tmp_path / "run"
    write_pictures(folder, 6)
    settings = {**plan(), "steps": 4}
    whole = distill(teacher, "lenient:resnet8", settings={**settings, "steps": 6}, proxy_images=folder)
    distill(teacher, "lenient:resnet8", settings=settings, proxy_images=folder, output=run)
    config = RunFolder(run).read_config()
    assert config is not None
    assert config["source"]["proxy_images"] == str(folder)
    assert len(config["run"]["pictures"]["sha256"]) == 64
    assert whole.summary.foreign == ("proxy:mine",)

    shutil.copytree(folder, tmp_path / "elsewhere")
    write_pictures(folder, 1, seed=9)  # another picture under an old name
    for call in (
        lambda: distill(teacher, "lenient:resnet8", output=run, steps=6, resume=True),
        lambda: lenient.sample(run, tmp_path / "samples", 2),
    ):
        with pytest.raises(UsageError, match=r"was made with other pictures than .*mine holds now"):
            call()
    with pytest.raises(UsageError, match=r"source\.proxy_share is None in .*, not 0\.5; leave it out"):
        distill(teacher, "lenient:resnet8", output=run, steps=6, resume=True, settings={"source.proxy_share": 0.5})
    moved = tmp_path / "elsewhere"
    longer = distill(teacher, "lenient:resnet8", output=run, steps=6, resume=True, proxy_images=moved)
    assert longer.summary.foreign == ("proxy:elsewhere",)
    assert "proxy:elsewhere: not data-free" in str(lenient.load(run).card.notes)
    report = (run / "report.html").read_text()
    assert "not data-free in the strict sense" in report
    assert longer.summary.steps == 6


def test_the_command_says_what_is_shown() -> None:
    def notes(**changes: Any) -> list[str]:
        lines: list[str] = []
        job = Job(tiny_teacher(), tiny_student(), Request(settings={**plan(), **changes}))
        describe_method(job, lines.append)
        return [line for line in lines if line.startswith("pictures")]

    assert notes(source={"proxy_images": "x"}) == [
        "pictures  x: 50% of each batch (-s source.proxy_share); not data-free in the strict sense"
    ]
    alone = notes(method={"name": "proxy"}, source={"proxy_images": "x"})
    assert alone == ["pictures  x: the method shows them; not data-free in the strict sense"]
    assert notes() == notes(source={"proxy_images": "x", "proxy_share": 0.0}) == []
    assert notes(method={"name": "proxy"}) == [], "what a run goes on with is in its folder"


@pytest.mark.slow
def test_a_run_killed_in_the_middle_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    save_network(tmp_path / "teacher.safetensors", digits_like())
    flags = ["--steps", "60", "--proxy-images", pictures_folder(), "-s", "source.proxy_selection=mixture"]
    for name in ("whole", "cut", "cut"):
        goes_on = ["--resume"] if (tmp_path / "cut").exists() else []
        process = start(tmp_path / "teacher.safetensors", tmp_path / name, *flags, *goes_on)
        checkpoint = tmp_path / "cut" / "checkpoints" / "last.pt"
        while name == "cut" and not goes_on and process.poll() is None and not checkpoint.exists():
            pass
        if name == "cut" and not goes_on:
            process.kill()
        _, errors = process.communicate(timeout=600)
        assert process.returncode in ((-9,) if name == "cut" and not goes_on else (0, 4)), errors
    whole, cut = (load_file(tmp_path / name / "student" / "model.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(whole[key], cut[key]) for key in whole)


def test_an_interrupted_run_with_a_selection_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    changes = {
        "method": {**BASE["ta-dfkd"], "selection": "mixture"},
        "source": {"proxy_images": pictures_folder(), "proxy_selection": "mixture"},
    }
    straight, cut = distillation(**changes), distillation(**changes)
    take(straight, 9)
    take(cut, 4)
    again = distillation(**changes, student=tiny_student(seed=9))
    again.load_state_dict(cut.state_dict())
    take(again, 5)
    for ours, theirs in zip(again.student.parameters(), straight.student.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_data_set_of_the_pictures_that_the_teacher_vouches_for() -> None:
    method = {"name": "proxy", "selection": {"name": "mixture", "quota": 1.0}}
    made = synthesize(
        tiny_teacher(), 99, "proxy", student=tiny_student(), settings={**plan(), "method": method, "steps": 1},
        proxy_images=pictures_folder(),
    )  # fmt: skip
    pictures: Pictures = held(pictures_folder(), (1, 6, 5), 3, 1024)
    assert 0 < len(made.images) < 12
    known = pictures.pixels.flatten(1).tolist()
    assert all(image in known for image in made.images.flatten(1).tolist())
    assert len(made.images.flatten(1).unique(dim=0)) == len(made.images)


def test_pictures_do_not_change_a_data_set_of_the_methods_own() -> None:
    def of(**more: Any) -> Tensor:
        short = {**QUICK, "method": {**BASE["ta-dfkd"], "beta": 0.0}, "steps": 2}
        return synthesize(tiny_teacher(), 6, "ta-dfkd", student=tiny_student(), settings=short, **more).images

    assert torch.equal(of(), of(proxy_images=pictures_folder()))


def test_draws_are_keyed() -> None:
    first, second = proxy(), proxy()
    second.batch(distillation(method=BASE["proxy"]).clock)
    assert torch.equal(first.sample(5, "x", 3), second.sample(5, "x", 3))
    assert not torch.equal(first.sample(5, "x", 3), first.sample(5, "x", 4))
    assert isinstance(first.streams, Streams)
