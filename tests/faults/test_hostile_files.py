"""Files that somebody made to harm: refused with a sentence, in time; no code in them runs, nothing outside is opened.

More of readers of data sets is in tests/mlc_core/readers, of weights to start from in tests/mlc_core/test_pretrained.
"""

from __future__ import annotations

import ast
import hashlib
import io
import json
import pickle
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from importlib.resources import files
from pathlib import Path
from typing import Any, Final
from zipfile import ZipFile

import numpy as np
import pytest
import torch

from mlc_core import (
    BEST,
    BadCheckpoint,
    BadModel,
    BadWeights,
    DataCard,
    MlcError,
    Part,
    load_model,
    read_data,
    save_model,
)
from mlc_core.card import CARD
from mlc_core.checkpoint import PREVIOUS, RESUME, State, read, write
from mlc_core.data.digits import _read as read_digits
from mlc_core.folds import _read as read_told
from mlc_core.predict import read_member
from search.declaration import read as read_declaration
from tests.mlc_core.fits import FEW, RISING, run
from tests.mlc_core.test_checkpoint import IDENTITY, Trap, sealed, trained

SEED: Final = 7
SECONDS: Final = 5.0  # that a file may take to be refused, on a busy machine
CPU: Final = torch.device("cpu")
Tree = Any  # dicts, lists, and what they hold

VALUES: Final[Sequence[Any]] = (
    *(None, True, -1, 0, 2**63, -(2**70), 1e308, float("nan"), float("inf"), "", "x" * 100_000, "\x00", "../../canary"),
    *("/etc/passwd", [], {}, [[]], [None] * 1000, {"a": {"b": []}}, "\ud800", "member-0.safetensors/../../canary"),
)
TENSORS: Final[Sequence[Any]] = (
    *(torch.zeros(()), torch.zeros(3, 0), torch.zeros(2**40 // 8, device="meta"), torch.zeros(1).expand(10**6)),
    *(torch.zeros(3).to_sparse(), torch.zeros(3, dtype=torch.complex64), torch.full((3,), float("nan"))),
)
SNIPPETS: Final = (
    *(
        "nan",
        "-inf",
        "1e999",
        "9" * 4000,
        "0x7fffffffffffffff",
        "-1",
        "0",
        "true",
        "''",
        "[]",
        "{}",
        "[[x]]",
    ),
    *("[1, [2]]", "[{}]", "1979-05-27T07:32:00Z", '"\\u0000"', f'"{"x" * 100_000}"', '"../../canary"', '"""', "="),
    *("[" * 50 + "]" * 50, "{a = {b = 1}}", "{ low = 1, high = 0 }", "{ low = nan, high = 1 }"),
    *("{ low = 1, high = 2, step = 0 }", "{ low = 1e-5, high = 1e-2, step = 1e-12 }"),
)

_watched: list[list[str]] = []  # lists that opened files are told to


def _tell(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and _watched:
        _watched[-1].append(str(arguments[0]))


sys.addaudithook(_tell)


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """A file beside the folder that hostile files lie in."""
    (tmp_path / "canary").write_text("secret")
    (tmp_path / "inside").mkdir()
    return tmp_path / "canary"


@contextmanager
def harmless(canary: Path) -> Iterator[None]:
    """Whatever happens inside is over soon, and opens, changes and makes nothing outside of the folder."""
    opened: list[str] = []
    _watched.append(opened)
    start = time.monotonic()
    try:
        yield
    finally:
        _watched.pop()
    assert time.monotonic() - start < SECONDS
    assert not [name for name in opened if name.endswith("canary") or name == "/etc/passwd"]
    assert canary.read_text() == "secret"
    assert sorted(path.name for path in canary.parent.iterdir()) == ["canary", "inside"]


def refused(call: Callable[[], object], canary: Path) -> bool:
    """Whether a call refuses its file; it may also make sense of it, but nothing else."""
    with harmless(canary):
        try:
            call()
        except MlcError as error:
            return bool(str(error))
    return False


def holders(tree: Tree) -> Iterator[Any]:
    """All dicts and lists in a tree that hold anything."""
    if isinstance(tree, dict | list | tuple):
        if tree and not isinstance(tree, tuple):
            yield tree
        for inner in tree.values() if isinstance(tree, dict) else tree:
            yield from holders(inner)


def bent(tree: Tree, rng: random.Random, values: Sequence[Any]) -> Tree:
    """A copy with one thing in it replaced or left out."""
    tree = deepcopy(tree)
    holder = rng.choice([*holders(tree)])
    key = rng.choice([*holder]) if isinstance(holder, dict) else rng.randrange(len(holder))
    if rng.random() < 0.2:
        del holder[key]
    else:
        holder[key] = rng.choice(values)
    return tree


def with_bytes_changed(content: bytes, rng: random.Random) -> bytes:
    changed = bytearray(content)
    match rng.randrange(4):
        case 0:
            del changed[rng.randrange(len(changed)) :]
        case 1:
            at = rng.randrange(len(changed))
            changed[at:at] = rng.randbytes(rng.randrange(1, 100))
        case _:
            for _ in range(rng.choice((1, 1, 5, 50))):
                changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


def unsealed(content: bytes) -> Tree:
    return torch.load(io.BytesIO(content[40:]), weights_only=True)


def resealed(payload: bytes) -> bytes:
    return b"MLCFIT01" + hashlib.sha256(payload).digest() + payload


@pytest.mark.filterwarnings("error")
def test_300_hostile_checkpoints_are_refused(canary: Path, tmp_path: Path) -> None:
    """Two thirds of them with a right checksum."""
    rng, folder = random.Random(SEED), tmp_path / "inside"
    write(folder, IDENTITY, trained())
    whole = (folder / RESUME).read_bytes()
    refusals = 0
    for number in range(300):
        match number % 3:
            case 0:
                content = with_bytes_changed(whole, rng)
            case 1:
                content = resealed(with_bytes_changed(whole[40:], rng))
            case _:
                values = (*VALUES, *(tensor for tensor in TENSORS if tensor.device.type == "cpu"))
                content = sealed(bent(unsealed(whole), rng, values))
        (folder / RESUME).write_bytes(content)

        def look() -> None:
            state = read(folder, IDENTITY, device=CPU)
            assert state is None or isinstance(state, State)

        refusals += refused(look, canary)
    assert refusals > 150


def test_hostile_states_of_a_real_network_are_refused_before_a_kernel_reads_them(canary: Path, tmp_path: Path) -> None:
    rng, folder = random.Random(SEED), tmp_path / "inside"
    params = RISING | {"ema": 0.9}
    run(params, FEW, checkpoint=folder)
    whole = unsealed((folder / RESUME).read_bytes())
    refusals = 0
    for _ in range(40):
        changed = dict(whole)
        part = rng.choice(("weights", "optimizer", "scheduler", "average"))
        changed[part] = bent({part: whole[part]}, rng, TENSORS).get(part)
        (folder / RESUME).write_bytes(sealed(changed))
        (folder / PREVIOUS).unlink(missing_ok=True)  # else the fit goes on from there
        refusals += refused(lambda: run(params, FEW, checkpoint=folder), canary)
    assert refusals >= 35  # the rest only counts other steps


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model's folder; not to be written to."""
    folder = tmp_path_factory.mktemp("shipped")
    run(RISING, FEW, epochs=1, checkpoint=folder / "fit")
    part = Part(weights=folder / "fit" / BEST, share=1.0, source="a fit")
    save_model(folder / "model", [part], side=16, data=DataCard(name=FEW.name, fingerprint=FEW.fingerprint))
    return folder / "model"


def test_200_hostile_models_are_refused(shipped: Path, canary: Path, tmp_path: Path) -> None:
    """Of the last 40, the weights are hostile and the card speaks of just those."""
    rng, folder = random.Random(SEED), tmp_path / "inside"
    whole = (shipped / CARD).read_bytes()
    (member,) = shipped.glob("*.safetensors")
    weights, card = member.read_bytes(), json.loads(whole)
    place = folder / member.name
    place.symlink_to(member)
    refusals = 0
    for number in range(200):
        match number:
            case _ if number < 80:
                content = with_bytes_changed(whole, rng)
            case _ if number < 160:
                content = json.dumps(bent(card, rng, VALUES)).encode("utf-8", "surrogatepass")
            case _:
                length = int.from_bytes(weights[:8], "little")
                header = with_bytes_changed(weights[: 8 + length], rng)
                place.unlink()
                place.write_bytes(header + weights[8 + length :])
                digest = hashlib.sha256(place.read_bytes()).hexdigest()
                content = json.dumps(card | {"members": [card["members"][0] | {"sha256": digest}]}).encode()
        (folder / CARD).write_bytes(content)

        def ask() -> None:
            (told,) = load_model(folder).predict(np.zeros((16, 16, 3), np.uint8))
            assert len(told.probabilities) == 3

        refusals += refused(ask, canary)
    assert refusals > 120


def test_300_hostile_studies_are_refused(canary: Path, tmp_path: Path) -> None:
    rng, file = random.Random(SEED), tmp_path / "inside" / "study.toml"
    whole = (files("studies") / "default.toml").read_bytes()
    lines = whole.decode().splitlines()
    assigned = [number for number, line in enumerate(lines) if "=" in line.partition("#")[0]]
    refusals = 0
    for number in range(300):
        if number % 3:
            changed = [*lines]
            at = rng.choice(assigned)
            changed[at] = f"{lines[at].partition('=')[0]}= {rng.choice(SNIPPETS)}"
            file.write_text("\n".join(changed))
        else:
            file.write_bytes(with_bytes_changed(whole, rng))
        refusals += refused(lambda: read_declaration(file), canary)
    assert refusals > 150


def test_60_hostile_manifests_are_refused_or_their_rows_are(canary: Path, tmp_path: Path) -> None:
    rng, folder = random.Random(SEED), tmp_path / "inside"
    names = [
        "../canary",
        "/etc/passwd",
        str(canary),
        "a.png",
        "./a.png",
        "..",
        "",
        "\x00",
        "x" * 5000,
        "file:///etc/passwd",
    ]
    (folder / "link.png").symlink_to(canary)
    refusals = 0
    for number in range(60):
        rows = [f"{rng.choice([*names, 'link.png'])},{rng.choice(['a', 'a;b', '', '=1+1', '0'])}" for _ in range(5)]
        content = "\n".join(["path,labels", *rows]).encode()
        (folder / "labels.csv").write_bytes(with_bytes_changed(content, rng) if number % 2 else content)
        refusals += refused(lambda: read_data(folder / "labels.csv", image_size=16), canary)
    assert refusals > 50


@pytest.mark.parametrize("kind", ["checkpoint", "model", "weights", "safetensors", "digits", "told"])
def test_no_pickle_runs_wherever_it_lies(kind: str, canary: Path, tmp_path: Path) -> None:
    """It would make a folder. An archive of something else than arrays is no pickle to numpy, and left out."""
    folder, sprung = tmp_path / "inside", tmp_path / "inside" / "sprung"
    bare, array, saved = pickle.dumps(Trap(sprung)), io.BytesIO(), io.BytesIO()
    np.save(array, np.array([Trap(sprung)], dtype=object), allow_pickle=True)
    torch.save({"layer1.0.conv1.weight": Trap(sprung)}, saved)
    for trap in (bare, array.getvalue(), saved.getvalue()):
        with harmless(canary):
            match kind:
                case "checkpoint":
                    (folder / RESUME).write_bytes(resealed(trap))
                    with pytest.raises(BadCheckpoint):
                        read(folder, IDENTITY, device=CPU)
                case "model":
                    (folder / CARD).write_bytes(trap)
                    with pytest.raises(BadModel):
                        load_model(folder)
                case "weights":
                    (folder / "weights.pt").write_bytes(trap)
                    with pytest.raises(BadWeights):
                        run(RISING | {"weights": str(folder / "weights.pt")}, FEW)
                case "safetensors":
                    (folder / BEST).write_bytes(trap)
                    with pytest.raises(BadWeights):
                        read_member(folder / BEST)
                case "digits":
                    with ZipFile(folder / "digits.npz", "w") as archive:
                        archive.writestr("train_images.npy", array.getvalue())
                    assert read_digits(folder / "digits.npz") is None  # and so they are made anew
                    (folder / "digits.npz").write_bytes(trap.removeprefix(b"PK"))
                    assert read_digits(folder / "digits.npz") is None
                case "told":
                    (folder / "told.npy").write_bytes(trap.removeprefix(b"PK"))
                    assert read_told(folder / "told.npy", (1,)) is None
        assert not sprung.exists()


FORBIDDEN: Final = {
    *("pickle.load", "pickle.loads", "pickle.Unpickler", "marshal.load", "marshal.loads", "shelve.open", "os.system"),
    *("os.popen", "yaml.unsafe_load", "eval", "exec", "compile", "__import__", "torch.export.load", "torch.jit.load"),
    *("pd.read_pickle", "pandas.read_pickle", "torch.hub.load", "np.fromfile"),
}
SAFE: Final = {  # by which option
    "torch.load": ("weights_only", "True"),
    "np.load": ("allow_pickle", "False"),
    "yaml.load": ("Loader", "yaml.BaseLoader"),  # all scalars as text
}
NOT_IMPORTED: Final = {"joblib", "dill", "cloudpickle", "shelve", "marshal", "skops"}


def test_nothing_of_ours_can_run_what_a_file_holds() -> None:
    """No call that unpickles or evaluates, and no loading of arrays or tensors that does not refuse pickles."""
    wrong, loads = [], 0
    sources = [file for package in ("mlc_core", "search", "studies") for file in Path(package).rglob("*.py")]
    for file in sources:
        for node in ast.walk(ast.parse(file.read_text())):
            where = f"{file}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
                wrong += [where for name in names if name.split(".")[0] in NOT_IMPORTED]
                wrong += [where for name in names if name == "pickle" and isinstance(node, ast.ImportFrom)]
            if isinstance(node, ast.Call):
                called, options = ast.unparse(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords}
                wrong += [where] if called in FORBIDDEN or options.get("shell", "False") != "False" else []
                wanted = SAFE.get(called)
                if wanted is not None:
                    loads += 1
                    wrong += [where] if options.get(wanted[0]) != wanted[1] else []
                if options.get("allow_pickle", "False") != "False":
                    wrong.append(where)
    assert (wrong, len(sources) > 100) == ([], True)
    assert loads >= 4
