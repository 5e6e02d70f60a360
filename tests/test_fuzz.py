"""Damaged settings, weights and grids by the thousand: what is no such thing ends in one line, in time."""

from __future__ import annotations

import io
import random
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from fuzzing import HOSTILE, OTHERS, bounded_memory, command, spoilt_bytes, spoilt_safetensors, spoilt_values
from lenient.core.config import dump_yaml, flatten, load_yaml
from lenient.core.errors import UsageError
from lenient.core.text import LINE, visible
from lenient.methods import METHODS
from lenient.models import save_network
from lenient.models.card import Network
from lenient.runs.export import write_student
from lenient.runs.request import Request, resolve
from toys import digits_like

SCALARS = (
    *("2020-01-01", "2020-13-77", "12:30:45", "!!timestamp 2001-12-14", "yes", "off", "~", "", '""', "# x", "'"),
    *("x" * 20_000, ".inf", "-.INF", ".nan", "1e999", "9" * 5000, "0x" + "f" * 99, "0o777", "0b1", "1_000", "+.5"),
    *("!!int 1", "!!binary aGk=", "!!python/name:os.system", "!!set {a}", "!!omap [a: 1]", "!x 1"),
    *("&a 1", "*a", "&a [*a]", "{? {a: 1} : 2}", "[" * 3000, "{a: " * 3000, "[[[[[1]]]]]", "[1, 2", "{a: 1, a: 2}",
      "{<<: {a: 1}}"),
    *("? [1]\n: 2", "|\n  x\n", "--- 1", "%YAML 9.9\n---\n1", "\tx", "@x", "`x", "a: b: c"),
    *("'\\0'", '"\\u0000"', '"\\ud800"', '"\\x1b[31m"', "\ufeff", "é\u202eabc"),
)  # fmt: skip
"""What YAML makes something else of, or nothing."""


def settings_texts(count: int, chance: random.Random) -> Iterator[str | bytes]:
    """Yield recipes with a value of another kind, a name of no setting, a piece of YAML, or bytes that are wrong."""
    for number in range(count):
        whole = resolve(Request(method=chance.choice(list(METHODS)))).model_dump(mode="json")
        flat = flatten(whole)
        key = chance.choice(list(flat))
        way = number % 5
        if way == 0:
            yield yaml.safe_dump(spoilt_values(whole, chance), allow_unicode=True)
        elif way == 1:
            yield f"method.name: {whole['method']['name']}\n{key}: {chance.choice(SCALARS)}\n"
        elif way == 2:
            lines = dump_yaml(whole).splitlines()
            lines.insert(chance.randrange(len(lines) + 1), chance.choice(SCALARS))
            yield "\n".join(lines)
        elif way == 3:
            spelt = "".join(chance.choice([letter, letter, letter, "", "_", "Ä"]) for letter in key)
            yield f"{spelt}: {flat[key]}\n"
        else:
            yield chance.choice(list(spoilt_bytes(dump_yaml(whole).encode(), chance)))[1]


def check_settings(texts: Iterator[str | bytes], path: Path) -> Counter[str]:
    """Each is taken as a recipe, and its last value on the command line, or refused in one line that names it."""
    ends: Counter[str] = Counter()
    for text in texts:
        path.write_bytes(text if isinstance(text, bytes) else text.encode(errors="surrogatepass"))
        word = f"steps={text.rpartition(': ')[2]}" if isinstance(text, str) else "steps=x"
        for asked in (Request(recipes=[str(path)]), Request(overrides=[word])):
            try:
                found = resolve(asked)
            except UsageError as error:
                said = str(error)
                assert said == visible(said, LINE - len("lenient: ")), text
                assert said.startswith(("-c ", "-s ", "--method ", "method", "'")), (said, text)
                ends["refused"] += 1
            else:
                assert load_yaml(dump_yaml(found.model_dump(mode="json")), "printed"), text
                ends["taken"] += 1
    return ends


@pytest.mark.slow
def test_4000_settings_are_taken_or_refused_in_one_line(tmp_path: Path) -> None:
    ends = check_settings(settings_texts(2000, random.Random(0)), tmp_path / "r.yaml")
    print(dict(ends))
    assert sum(ends.values()) == 4000
    assert min(ends.values()) > 100


def test_some_settings_are_taken_or_refused_in_one_line(tmp_path: Path) -> None:
    ends = check_settings(settings_texts(100, random.Random(1)), tmp_path / "r.yaml")
    assert min(ends["taken"], ends["refused"]) > 5


@pytest.mark.slow
def test_200_recipes_through_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_network(Path("t.safetensors"), digits_like())
    ends: Counter[int] = Counter()
    for text in settings_texts(200, random.Random(2)):
        Path("r.yaml").write_bytes(text if isinstance(text, bytes) else text.encode(errors="surrogatepass"))
        ended = command("distill", "t.safetensors", "-c", "r.yaml", "--print-config")
        ended.check()
        ends[ended.code] += 1
    print(dict(ends))
    assert set(ends) == {0, 2}


# weights


def state(net: Network) -> dict[str, Any]:
    return dict(net.module.state_dict())


def written(value: Any, **how: Any) -> bytes:
    file = io.BytesIO()
    torch.save(value, file, **how)
    return file.getvalue()


def zipped(members: Mapping[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def spoilt_archive(content: bytes, chance: random.Random) -> bytes:
    """Return a zip file in which one member is spoilt, missing or under another name, with sums that fit."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = chance.choice(list(members))
    inner = members.pop(name)
    way = chance.random()
    if way < 0.8:
        members[name] = chance.choice([*spoilt_bytes(inner, chance), *OTHERS.items()])[1]
    elif way < 0.9:
        members[chance.choice(["../" + name, name.upper(), "/" + name, "x" * 300])] = inner
    return zipped(members)


def spoilt_state(content: bytes, chance: random.Random) -> bytes:
    values = torch.load(io.BytesIO(content), weights_only=True)
    tensors = (
        torch.zeros(0),
        torch.full((3, 3), float("nan")),
        torch.ones(2, dtype=torch.int8),
        torch.ones(2).to_sparse(),
    )
    return written(spoilt_values(values, chance, (*HOSTILE, *tensors)))


def weights(folder: Path) -> dict[str, bytes]:
    """Sound files: name -> content."""
    net = digits_like()
    save_network(folder / "net.safetensors", net)
    write_student(folder / "student", net)
    script = io.BytesIO()
    torch.jit.save(torch.jit.trace(net.module, torch.rand(2, 1, 8, 8)), script)
    return {
        "net.safetensors": (folder / "net.safetensors").read_bytes(),
        "net.pt": written(state(net)),
        "legacy.pt": written(state(net), _use_new_zipfile_serialization=False),
        "net.ckpt": written({"state_dict": state(net), "hyper_parameters": {"lr": 0.1}, "epoch": 3}),
        "script.pt": script.getvalue(),
        "net.pt2": (folder / "student" / "student.pt2").read_bytes(),
        "net.pth": zipped({"a/data.pkl": b"\x80\x02}q\x00.", "a/version": b"3\n", "a/data/0": b"\0" * 64}),
    }


SPOILS: Mapping[str, Callable[[bytes, random.Random], bytes]] = {
    "net.safetensors": spoilt_safetensors,
    "net.pt": spoilt_state,
    "net.ckpt": spoilt_state,
    **dict.fromkeys(("script.pt", "net.pt2", "net.pth"), spoilt_archive),
}
FACTS = ("--teacher-arch", "lenient:resnet8", "--input-size", "1,8,8", "--num-classes", 10, "--mean", 0.5, "--std", 0.5)


def check_weights(folder: Path, rounds: int, chance: random.Random) -> Counter[str]:
    """Each file is damaged in all ways, `rounds` times; programs are also opened as by one who trusts them."""
    ends: Counter[str] = Counter()
    for name, content in weights(folder).items():
        path = folder / name
        for number in range(rounds):
            found = [damaged for _, damaged in spoilt_bytes(content, chance)]
            found += [SPOILS[name](content, chance) for _ in range(6) if name in SPOILS]
            for damaged in [*found, *(OTHERS.values() if number == 0 else ())]:
                path.write_bytes(damaged)
                trust = ["--trust-code"] if name in ("script.pt", "net.pt2") and chance.random() < 0.5 else []
                ended = command("inspect", path, *(() if name == "net.safetensors" else FACTS), *trust)
                ended.check(name)
                ends[f"{name} {ended.code}"] += 1
    return ends


@pytest.mark.slow
def test_1500_damaged_files_of_weights_load_or_end_in_one_line(tmp_path: Path) -> None:
    with bounded_memory():
        ends = check_weights(tmp_path, 12, random.Random(0))
    print(sum(ends.values()), dict(sorted(ends.items())))
    assert sum(ends.values()) >= 1500


# grids

GRID: dict[str, Any] = {
    "name": "g",
    "data": "digits",
    "teachers": [
        {"file": "t.safetensors"},
        {"label": "B", "train": {"arch": "lenient:lenet5", "keep": 3, "epochs": 5}},
    ],
    "students": ["lenient:resnet8", "lenient:lenet5-half"],
    "seeds": 2,
    "rows": {"a": "noise", "b": {"method": "ta-dfkd", "recipe": "digits", "settings": {"method.selection.tau": 0.6}}},
    "settings": {"steps": 20, "batch_size": 16, "steps_per_epoch": 10},
    "launcher_options": {"num_cpus": 2},
}


def grids(count: int, chance: random.Random) -> Iterator[bytes]:
    """Yield grids with values of another kind, pieces of YAML, or bytes that are wrong."""
    text = yaml.safe_dump(GRID, sort_keys=False)
    for number in range(count):
        if number % 3 == 0:
            yield yaml.safe_dump(spoilt_values(GRID, chance), sort_keys=False).encode()
        elif number % 3 == 1:
            lines = text.splitlines()
            at = chance.randrange(len(lines))
            lines[at] = f"{lines[at].partition(': ')[0]}: {chance.choice(SCALARS)}"
            yield "\n".join(lines).encode(errors="surrogatepass")
        else:
            yield chance.choice([*spoilt_bytes(text.encode(), chance), *OTHERS.items()])[1]


def check_grids(folder: Path, count: int, chance: random.Random) -> Counter[int]:
    (folder / "home").mkdir()
    save_network(folder / "t.safetensors", digits_like())
    ends: Counter[int] = Counter()
    for content in grids(count, chance):
        (folder / "g.yaml").write_bytes(content)
        ended = command("bench", "status", folder / "g.yaml", "-o", folder / "home")
        ended.check("g.yaml", "teachers.")
        ends[ended.code] += 1
    return ends


@pytest.mark.slow
def test_500_damaged_grids_are_taken_or_refused_in_one_line(tmp_path: Path) -> None:
    with bounded_memory():
        ends = check_grids(tmp_path, 500, random.Random(0))
    print(dict(ends))
    assert set(ends) == {0, 2}


def test_a_grid_of_too_many_cells_is_refused_at_once(tmp_path: Path) -> None:
    """Each list has at most 1,000 entries; their product is what takes time."""
    (tmp_path / "g.yaml").write_text(
        dump_yaml(GRID | {"seeds": 1000, "students": [f"lenient:x{n}" for n in range(99)]})
    )
    ended = command("bench", "status", tmp_path / "g.yaml")
    ended.check("g.yaml")
    assert "g.yaml: rows, teachers, students and seeds make 792,000 cells" in ended.said


def test_some_damaged_grids_are_taken_or_refused_in_one_line(tmp_path: Path) -> None:
    assert set(check_grids(tmp_path, 30, random.Random(1))) == {0, 2}
