"""Weights to start from: every kind of file gives torchvision's tensors, and what cannot be used is refused."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import random
import re
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, ResNet, resnet18

from mlc_core import BadParams
from mlc_core.checkpoint import write_best
from mlc_core.errors import BadWeights, MlcError
from mlc_core.model import Classifier, build
from mlc_core.params import BACKBONES, BackboneName, StemName
from mlc_core.pretrained import PATIENCE, fetch, start_from, weights_digest
from mlc_core.records import BEST
from tests.mlc_core.test_checkpoint import Trap

State = dict[str, Tensor]

UNREADABLE = (
    "is damaged, or neither a safetensors file nor a state dict saved by torch.save. "
    "Copy it again, or save the model's state_dict."
)


def network(*, backbone: BackboneName = "resnet10", stem: StemName = "standard", seed: int = 0) -> Classifier:
    return build(backbone=backbone, stem=stem, dropout=0.0, classes=3, seed=seed)


def start(path: Path, *, stem: StemName = "standard", backbone: BackboneName = "resnet10") -> Classifier:
    model = network(backbone=backbone, stem=stem)
    start_from(model, str(path), backbone=backbone)
    return model


def refusal(path: Path, *, backbone: BackboneName = "resnet10") -> str:
    """What is said of a file that cannot be used; the model must be as it was."""
    model = network(backbone=backbone)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(BadWeights) as caught:
        start_from(model, str(path), backbone=backbone)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    return str(caught.value)


def acting(state: Mapping[str, Tensor]) -> State:
    """A state without the counters of batch normalization, which nothing reads."""
    return {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}


@pytest.fixture(scope="module")
def theirs() -> nn.Module:
    """Torchvision's own class with its head of 1,000 classes, and statistics that a training left."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        network: nn.Module = ResNet(BasicBlock, [1, 1, 1, 1])
        network(torch.randn(4, 3, 32, 32))
    return network.eval()


@pytest.fixture(scope="module")
def state(theirs: nn.Module) -> State:
    return theirs.state_dict()


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    caplog.set_level(logging.WARNING)
    return lambda: caplog.messages


def _legacy(content: object, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


def _ours(theirs: nn.Module, path: Path) -> None:
    trained = network(seed=9)
    trained.resnet.load_state_dict(theirs.state_dict(), strict=False)
    write_best(path.parent, trained.state_dict(), {"classes": "[]"})
    (path.parent / BEST).rename(path)


KINDS: dict[str, Callable[[nn.Module, Path], object]] = {
    "torch.save": lambda net, path: torch.save(net.state_dict(), path),
    "torch.save before 1.6": lambda net, path: _legacy(net.state_dict(), path),
    "parameters, as torchvision's files": lambda net, path: torch.save(
        dict(net.named_parameters()) | dict(net.named_buffers()), path
    ),
    "without counters": lambda net, path: torch.save(acting(net.state_dict()), path),
    "safetensors": lambda net, path: save_file(net.state_dict(), path),
    "our best weights": _ours,
    "our model in DataParallel": lambda net, path: torch.save(
        {f"module.resnet.{name}": tensor for name, tensor in net.state_dict().items() if not name.startswith("fc.")}
        | {"module.head.weight": torch.zeros(3, 512), "module.head.bias": torch.zeros(3)},
        path,
    ),
    "DataParallel": lambda net, path: torch.save(nn.DataParallel(net).state_dict(), path),
    "a trainer's checkpoint": lambda net, path: torch.save(
        {"epoch": 3, "state_dict": net.state_dict(), "optimizer": {"state": {0: torch.ones(2)}, "betas": (0.9, 0.99)}},
        path,
    ),
    "a wrapper in a wrapper": lambda net, path: torch.save({"model": {"model_state_dict": net.state_dict()}}, path),
    "channels last": lambda net, path: torch.save(
        {
            name: tensor.to(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor
            for name, tensor in net.state_dict().items()
        },
        path,
    ),
    "double precision": lambda net, path: torch.save(
        {name: tensor.double() for name, tensor in net.state_dict().items()}, path
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_from_every_kind_of_file_the_features_are_torchvisions_to_the_bit(
    theirs: nn.Module, state: State, tmp_path: Path, warnings: Callable[[], list[str]], kind: str
) -> None:
    file = tmp_path / "weights"
    KINDS[kind](theirs, file)
    model, untouched = network().eval(), network()

    report = start_from(model, str(file), backbone="resnet10")

    backbone = {name: tensor for name, tensor in acting(state).items() if not name.startswith("fc.")}
    ours = acting(model.resnet.state_dict())
    assert ours.keys() == backbone.keys() == set(report.taken)
    assert all(torch.equal(ours[name], tensor) for name, tensor in backbone.items())
    assert torch.equal(model.head.weight, untouched.head.weight)
    assert (report.missing, report.misfits, report.left_over, warnings()) == ((), (), (), [])
    features = nn.Sequential(*list(theirs.children())[:-1], nn.Flatten())
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        assert torch.equal(model(images), model.head(features(images)))


def test_half_precision_becomes_the_same_numbers_in_single(state: State, tmp_path: Path) -> None:
    save_file({name: tensor.half() for name, tensor in state.items() if tensor.is_floating_point()}, tmp_path / "half")
    conv = start(tmp_path / "half").resnet.conv1.weight
    assert conv.dtype == torch.float32
    assert torch.equal(conv, state["conv1.weight"].half().float())


def test_nothing_to_start_from_changes_nothing() -> None:
    model = network()
    report = start_from(model, "none", backbone="resnet10")
    assert (report.source, report.digest, report.taken) == ("none", "none", ())
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), network().parameters(), strict=True))


def test_a_start_uses_no_random_number_and_counts_batches_anew(state: State, tmp_path: Path) -> None:
    torch.save(state, tmp_path / "w.pth")
    torch.manual_seed(1)
    before = torch.get_rng_state()

    model = start(tmp_path / "w.pth", stem="small")

    assert torch.equal(torch.get_rng_state(), before)
    assert state["bn1.num_batches_tracked"] == 1
    assert model.resnet.bn1.num_batches_tracked == 0


def test_a_stem_of_another_shape_keeps_its_random_start_and_is_told(
    state: State, tmp_path: Path, warnings: Callable[[], list[str]]
) -> None:
    torch.save(state, tmp_path / "w.pth")

    model = start(tmp_path / "w.pth", stem="small")

    assert torch.equal(model.resnet.conv1.weight, network(stem="small").resnet.conv1.weight)
    assert torch.equal(model.resnet.layer4[0].conv2.weight, state["layer4.0.conv2.weight"])
    assert warnings() == [
        f"{tmp_path / 'w.pth'}: 59 of the backbone's 60 tensors fit; left at their random start, being of another "
        "shape: conv1.weight (64 x 3 x 7 x 7 in the file, 64 x 3 x 3 x 3 here)."
    ]


def test_what_is_absent_or_not_used_or_of_no_use_is_told(
    state: State, tmp_path: Path, warnings: Callable[[], list[str]]
) -> None:
    odd: dict[str, Any] = dict(state)
    del odd["bn1.bias"]
    odd |= {f"neck.{number}\x1b[31m": torch.zeros(1) for number in range(5)}
    odd |= {"bn1.weight": torch.ones(64, dtype=torch.int64), "layer1.0.bn1.weight": "one"}
    odd["layer1.0.bn2.weight"] = torch.ones(64).to_sparse()
    torch.save(odd, tmp_path / "w.pth")

    report = start_from(network(), str(tmp_path / "w.pth"), backbone="resnet10")

    assert report.missing == ("bn1.bias",)
    assert report.left_over == tuple(f"neck.{number}\x1b[31m" for number in range(5))
    unfit = [
        f"{name} (no floating-point tensor in the file)"
        for name in ("bn1.weight", "layer1.0.bn1.weight", "layer1.0.bn2.weight")
    ]
    assert report.misfits == tuple(unfit)
    assert warnings() == [
        f"{tmp_path / 'w.pth'}: 56 of the backbone's 60 tensors fit; left at their random start, being of another "
        f"shape: {', '.join(unfit)}; left at their random start, being absent: bn1.bias; not used: "
        r"'neck.0\x1b[31m', 'neck.1\x1b[31m', 'neck.2\x1b[31m' and 2 more."
    ]


def test_the_file_of_a_larger_relative_fits_and_is_named(tmp_path: Path, warnings: Callable[[], list[str]]) -> None:
    torch.save(resnet18().state_dict(), tmp_path / "w.pth")
    start(tmp_path / "w.pth")
    assert warnings() == [
        f"{tmp_path / 'w.pth'}: 60 of the backbone's 60 tensors fit; not used: 'layer1.1.conv1.weight', "
        "'layer1.1.bn1.weight', 'layer1.1.bn1.bias' and 37 more; the file is of a resnet18."
    ]


def test_the_file_of_another_backbone_is_refused_and_named(state: State, tmp_path: Path) -> None:
    torch.save({f"module.{name}": tensor for name, tensor in state.items()}, tmp_path / "w.pth")
    assert refusal(tmp_path / "w.pth", backbone="resnet50") == (
        f"{tmp_path / 'w.pth'}: 41 of the backbone's 265 tensors fit; left at their random start, being of another "
        "shape: layer1.0.conv1.weight (64 x 64 x 3 x 3 in the file, 64 x 64 x 1 x 1 here), layer2.0.conv1.weight "
        "(128 x 64 x 3 x 3 in the file, 128 x 256 x 1 x 1 here), layer2.0.downsample.0.weight (128 x 64 x 1 x 1 in "
        "the file, 512 x 256 x 1 x 1 here) and 16 more; left at their random start, being absent: "
        "layer1.0.conv3.weight, layer1.0.bn3.weight, layer1.0.bn3.bias and 202 more; the file is of a resnet10. That "
        "is too little to start a resnet50 from. Set backbone to resnet10, or name another file."
    )


def test_a_network_that_is_none_of_ours_is_refused_without_a_guess(state: State, tmp_path: Path) -> None:
    wide = {name: torch.cat([tensor, tensor]) if tensor.ndim == 4 else tensor for name, tensor in state.items()}
    torch.save({name: tensor for name, tensor in wide.items() if ".bn" not in name}, tmp_path / "w.pth")
    said = refusal(tmp_path / "w.pth")
    assert said.startswith(f"{tmp_path / 'w.pth'}: 16 of the backbone's 60 tensors fit; left at their random start, ")
    assert said.endswith(" and 29 more. That is too little to start a resnet10 from. Name another file.")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ({"vit.cls": torch.zeros(1)}, "holds no ResNet in torchvision's names. It begins with 'vit.cls'. Name another"),
        ({}, "holds no ResNet in torchvision's names. It is empty. Name another file."),
        ([torch.zeros(1)], "holds no state dict. Save one: torch.save(model.state_dict(), path)."),
        (torch.zeros(1), "holds no state dict. Save one: torch.save(model.state_dict(), path)."),
        (
            {f"encoder_{each}.layer1.0.conv1.weight": torch.zeros(1) for each in "qk"},
            "holds 2 backbones, under 'encoder_q.', 'encoder_k.'. Save one of them alone.",
        ),
    ],
)
def test_a_file_of_something_else_is_refused(tmp_path: Path, content: object, complaint: str) -> None:
    torch.save(content, tmp_path / "w.pth")
    assert refusal(tmp_path / "w.pth").startswith(f"{tmp_path / 'w.pth'} {complaint}")


def test_a_file_that_wraps_itself_is_refused(tmp_path: Path) -> None:
    endless: dict[str, Any] = {}
    endless["model"] = endless
    torch.save(endless, tmp_path / "w.pth")
    assert refusal(tmp_path / "w.pth") == (
        f"{tmp_path / 'w.pth'} holds no ResNet in torchvision's names. It begins with 'model'. Name another file."
    )


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("layer4.0.conv2.weight", float("nan"), "NaN or infinite numbers"),
        ("bn1.weight", float("-inf"), "NaN or infinite numbers"),
        ("bn1.running_mean", 1e300, "NaN or infinite numbers"),  # infinite once it is in single precision
        ("bn1.running_var", -1e-9, "a negative variance"),
    ],
)
@pytest.mark.parametrize("write", [torch.save, save_file])
def test_numbers_that_no_training_survives_are_refused(
    state: State, tmp_path: Path, write: Callable[..., object], name: str, value: float, complaint: str
) -> None:
    spoilt = state | {name: state[name].double()}
    spoilt[name].view(-1)[-1] = value
    write(spoilt, tmp_path / "w")
    assert refusal(tmp_path / "w") == (f"{tmp_path / 'w'} is of no use: {name} holds {complaint}. Name another file.")


@pytest.mark.parametrize("write", [torch.save, _legacy])
def test_code_in_a_file_is_named_and_not_run(tmp_path: Path, write: Callable[..., object]) -> None:
    write({"conv1.weight": Trap(tmp_path / "sprung")}, tmp_path / "w.pth")
    assert refusal(tmp_path / "w.pth") == (
        f"{tmp_path / 'w.pth'} holds more than tensors, 'posix.mkdir' for one, which could run code and was not run. "
        "Save the model's state_dict alone: torch.save(model.state_dict(), path)."
    )
    assert not (tmp_path / "sprung").exists()


def test_no_setting_of_torch_makes_a_file_run_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    torch.save(Trap(tmp_path / "sprung"), tmp_path / "w.pth")
    assert "which could run code and was not run" in refusal(tmp_path / "w.pth")
    assert not (tmp_path / "sprung").exists()


def test_a_whole_model_is_refused_by_the_name_of_its_class(theirs: nn.Module, tmp_path: Path) -> None:
    torch.save(theirs, tmp_path / "w.pth")
    assert refusal(tmp_path / "w.pth").startswith(
        f"{tmp_path / 'w.pth'} holds more than tensors, 'torchvision.models.resnet.ResNet' for one, which could run"
    )


def test_a_bit_that_flips_in_the_numbers_is_found(state: State, tmp_path: Path) -> None:
    torch.save(state, tmp_path / "w.pth")
    whole = (tmp_path / "w.pth").read_bytes()
    for name in ("conv1.weight", "layer4.0.conv2.weight", "bn1.running_var"):
        content = bytearray(whole)
        content[whole.index(state[name].numpy().tobytes()) + 1] ^= 1
        (tmp_path / "w.pth").write_bytes(content)
        assert refusal(tmp_path / "w.pth") == f"{tmp_path / 'w.pth'} {UNREADABLE}"


def test_a_file_that_unpacks_to_more_than_it_is_is_not_unpacked(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.save({"layer1.0.conv1.weight": torch.zeros(1000)}, buffer)
    with ZipFile(buffer) as plain, ZipFile(tmp_path / "w.pth", "w", ZIP_DEFLATED) as packed:
        for entry in plain.namelist():
            packed.writestr(entry, plain.read(entry))
    assert torch.load(tmp_path / "w.pth")["layer1.0.conv1.weight"].shape == (1000,)  # torch itself would
    assert refusal(tmp_path / "w.pth") == f"{tmp_path / 'w.pth'} {UNREADABLE}"


def _header(tensors: object, *, length: int | None = None, data: bytes = b"") -> bytes:
    text = json.dumps(tensors).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


ONE = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 8,
        _header({"w": ONE}, length=2**64 - 1, data=b"\0" * 4),
        _header({"w": ONE}, length=2**40, data=b"\0" * 4),
        _header({"w": ONE | {"shape": [2**62, 2**62]}}, data=b"\0" * 4),
        _header({"w": ONE | {"shape": [10**12], "data_offsets": [0, 4 * 10**12]}}, data=b"\0" * 4),
        _header({"w": ONE | {"data_offsets": [4, 0]}}, data=b"\0" * 4),
        _header({"w": ONE | {"data_offsets": [-4, 0]}}, data=b"\0" * 4),
        _header({"w": ONE, "v": ONE}, data=b"\0" * 4),
        _header({"w": ONE | {"dtype": "F8_E8M0", "data_offsets": [0, 1]}}, data=b"\0"),
        _header({"w": ONE | {"dtype": "code"}}, data=b"\0" * 4),
        _header({"w": ONE}),
        b"\x80\x02.",
        b"PK\x03\x04",
        b"<html>Not found</html>",
    ],
)
def test_absurd_files_are_refused_at_once(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "w").write_bytes(content)
    assert refusal(tmp_path / "w") == f"{tmp_path / 'w'} {UNREADABLE}"


@pytest.fixture(scope="module")
def few() -> dict[str, bytes]:
    """Whole files, but of so few numbers that a broken one is made in a moment."""
    tensors = {"conv1.weight": torch.zeros(2, 2), "layer1.0.conv1.weight": torch.ones(3)}
    files = {}
    for new in (True, False):
        buffer = io.BytesIO()
        content = tensors | {"epoch": 3, "betas": (0.9, 0.99)}
        torch.save(content, buffer, _use_new_zipfile_serialization=new)
        files["zip" if new else "legacy"] = buffer.getvalue()
    files["safetensors"] = _header({"layer1.0.conv1.weight": ONE}, data=b"\0" * 4)
    return files


@pytest.fixture(scope="module")
def spoilt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("spoilt") / "w"


MODEL = network()


@given(data=st.data())
@settings(max_examples=150)
def test_whatever_a_file_holds_only_our_own_error_is_raised(
    few: dict[str, bytes], spoilt: Path, data: st.DataObject
) -> None:
    content = bytearray(few[data.draw(st.sampled_from(sorted(few)))])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1) | st.integers(0, 80))
        content[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=6))
    spoilt.write_bytes(content[: data.draw(st.integers(0, len(content)) | st.just(len(content)))])
    with pytest.raises(MlcError) as caught:
        start_from(MODEL, str(spoilt), backbone="resnet10")
    assert type(caught.value) is BadWeights
    assert str(caught.value).startswith(str(spoilt))


PICKLED = st.lists(
    st.sampled_from(
        [
            b"]",
            b"}",
            b")",
            b"(",
            b"N",
            b"\x88",
            b"\x85",
            b"\x86",
            b"t",
            b"e",
            b"u",
            b"s",
            b"a",
            b"R",
            b"\x81",
            b"b",
            b"Q",
        ]
        + [b"K\x05", b"J\xff\xff\xff\x7f", b"q\x00", b"h\x00", b"\x8a\x08" + b"\x7f" * 8, b"X\x07\x00\x00\x00storage"]
        + [b"G" + struct.pack(">d", float("nan")), b"X\xff\xff\xff\xffab", b"c__builtin__\nbytearray\n"]
        + [f"c{name}\n".replace(" ", "\n").encode() for name in ("collections OrderedDict", "torch FloatStorage")]
        + [f"ctorch {name}\n".replace(" ", "\n").encode() for name in ("Size", "device", "Tensor", "float32")]
        + [
            f"ctorch._utils {name}\n".replace(" ", "\n").encode()
            for name in ("_rebuild_tensor_v2", "_rebuild_parameter")
        ]
        + [b"cos\nsystem\n", b"ctorch.nn.parameter\nParameter\n", b"ctorch._utils\n_rebuild_sparse_tensor\n"]
    ),
    max_size=25,
)


@given(operations=PICKLED)
@settings(max_examples=150)
def test_whatever_a_pickle_asks_for_only_our_own_error_is_raised(spoilt: Path, operations: list[bytes]) -> None:
    with ZipFile(spoilt, "w") as archive:
        archive.writestr("w/data.pkl", b"\x80\x02" + b"".join(operations) + b".")
        archive.writestr("w/version", "3\n")
        archive.writestr("w/data/0", b"\0" * 64)
    with pytest.raises(BadWeights):
        start_from(MODEL, str(spoilt), backbone="resnet10")


def test_what_is_no_file_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", tmp_path / "nowhere", Path("/dev/zero"), Path("a\0b")):
        assert refusal(path) == f"{path} is no file. Set weights to none, imagenet or the path of a file."
    assert refusal(Path("imagnet")).endswith("or the path of a file. Did you mean 'imagenet'?")
    long = Path("x" * 300)
    assert refusal(long) == f"{str(long)[:200]} cannot be read: File name too long. Name a file that can."


def test_the_digest_is_of_the_content_whatever_the_name(state: State, tmp_path: Path) -> None:
    files = [tmp_path / name / "w.pth" for name in "abc"]
    for file, seen in zip(files, (0.0, 0.0, 1.0), strict=True):
        file.parent.mkdir()
        torch.save(state | {"bn1.bias": torch.full((64,), seen)}, file)

    digests = [weights_digest(str(file), "resnet10") for file in files]

    assert digests[0] == digests[1] != digests[2]
    assert digests[2] == f"sha256:{hashlib.sha256(files[2].read_bytes()).hexdigest()}"
    assert start_from(network(), str(files[2]), backbone="resnet10").digest == digests[2]
    assert weights_digest("none", "resnet10") == "none"


def test_the_digest_of_imagenet_names_torchvisions_file() -> None:
    digests = {backbone: weights_digest("imagenet", backbone) for backbone in BACKBONES if backbone != "resnet10"}
    assert digests == {
        "resnet18": "imagenet:resnet18-f37072fd",
        "resnet34": "imagenet:resnet34-b627a593",
        "resnet50": "imagenet:resnet50-11ad3fa6",
        "resnet101": "imagenet:resnet101-cd907fc2",
    }


def test_imagenet_is_refused_for_the_backbone_that_it_is_not_there_for() -> None:
    with pytest.raises(BadParams) as caught:
        start_from(network(), "imagenet", backbone="resnet10")
    assert str(caught.value) == (
        "weights: 'imagenet' is not there for resnet10. Set backbone to one of resnet18, resnet34, resnet50, "
        "resnet101, or weights to none or a file."
    )


@contextmanager
def serving(answer: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[str]:
    """A real server on this machine; yields its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer(self)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def direct(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy of the person's own stands between a test and its server."""
    for name in ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


BODY = random.Random(0).randbytes(300_000)
NAME = f"net-{hashlib.sha256(BODY).hexdigest()[:8]}.pth"


def send(content: bytes, *, half_way: threading.Barrier | None = None) -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(BODY)))
        handler.end_headers()
        half = len(content) // 2
        handler.wfile.write(content[:half])
        if half_way is not None:
            half_way.wait(30)  # for all workers, then for the test to have looked
            half_way.wait(30)
        handler.wfile.write(content[half:])

    return answer


def test_a_file_is_downloaded_once_and_then_needs_no_network(tmp_path: Path) -> None:
    folder = tmp_path / "hub" / "checkpoints"
    with serving(send(BODY)) as address:
        assert fetch(f"{address}/{NAME}", folder) == BODY
    assert [file.name for file in folder.iterdir()] == [NAME]
    assert fetch(f"{address}/{NAME}", folder) == BODY
    assert (folder / NAME).stat().st_mode & 0o777 == 0o644


def test_workers_that_download_at_once_never_see_half_a_file(tmp_path: Path) -> None:
    half_way = threading.Barrier(4 + 1)
    got: list[bytes] = []
    with serving(send(BODY, half_way=half_way)) as address:
        workers = [threading.Thread(target=lambda: got.append(fetch(f"{address}/{NAME}", tmp_path))) for _ in range(4)]
        for worker in workers:
            worker.start()
        half_way.wait(30)
        assert list(tmp_path.iterdir()) == []
        half_way.wait(30)
        for worker in workers:
            worker.join()
    assert got == [BODY] * 4
    assert [file.name for file in tmp_path.iterdir()] == [NAME]


def missing(handler: BaseHTTPRequestHandler) -> None:
    handler.send_error(404)


def nonsense(handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"220 smtp ready\r\n")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (missing, "the server answers 404"),
        (nonsense, "the answer makes no sense (BadStatusLine)"),
        (send(BODY[:-1]), "what arrived has another SHA-256"),
        (send(BODY[:-1] + bytes([BODY[-1] ^ 1])), "what arrived has another SHA-256"),
    ],
)
def test_a_download_that_fails_leaves_nothing_and_says_how_to_do_it_by_hand(
    tmp_path: Path, answer: Callable[[BaseHTTPRequestHandler], None], reason: str
) -> None:
    with serving(answer) as address, pytest.raises(BadWeights) as caught:
        fetch(f"{address}/{NAME}", tmp_path)
    assert str(caught.value) == (
        f"{address}/{NAME} cannot be downloaded to {tmp_path}: {reason}. Bring the file from a machine that can, place "
        f"it as {tmp_path / NAME} (TORCH_HOME moves this folder), then start again; or set weights to none."
    )
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with serving(send(BODY)) as address, pytest.raises(BadWeights, match="file/hub: Not a directory"):
        fetch(f"{address}/{NAME}", tmp_path / "file" / "hub")


def test_a_file_placed_by_hand_is_found_by_torchvisions_name_and_its_hash_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    placed = tmp_path / "hub" / "checkpoints" / "resnet18-f37072fd.pth"
    placed.parent.mkdir(parents=True)
    placed.write_bytes(BODY)

    with pytest.raises(BadWeights) as caught:
        start_from(network(backbone="resnet18"), "imagenet", backbone="resnet18")

    assert str(caught.value) == (
        f"{placed} is damaged: its SHA-256 begins with {hashlib.sha256(BODY).hexdigest()[:8]}, not f37072fd. "
        "Delete it, then start again."
    )


def by_hand(home: Path, reason: str) -> str:
    folder = home / "hub" / "checkpoints"
    return (
        f"https://download.pytorch.org/models/resnet18-f37072fd.pth cannot be downloaded to {folder}: {reason}. Bring "
        f"the file from a machine that can, place it as {folder / 'resnet18-f37072fd.pth'} (TORCH_HOME moves this "
        "folder), then start again; or set weights to none."
    )


@pytest.mark.parametrize(
    ("proxy", "reason"),
    [
        ("http://me:secret@127.0.0.1:1", "Connection refused"),
        ("http://me:secret@proxy.invalid:3128", "(Name or service not known|Temporary failure in name resolution)"),
        ("http://me:secret@127.0.0.1:none", r"the answer makes no sense \(InvalidURL\)"),
    ],
)
def test_without_a_network_it_is_said_how_to_place_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, proxy: str, reason: str
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    begun = time.perf_counter()
    with pytest.raises(BadWeights) as caught:
        start_from(network(backbone="resnet18"), "imagenet", backbone="resnet18")
    assert time.perf_counter() - begun < 5
    assert re.fullmatch(re.escape(by_hand(tmp_path, "REASON")).replace("REASON", reason), str(caught.value))


SCRIPT = """
import time
from mlc_core.model import build
from mlc_core.pretrained import BadWeights, start_from
model = build(backbone="resnet18", stem="standard", dropout=0.0, classes=3, seed=0)
begun = time.perf_counter()
try:
    start_from(model, "imagenet", backbone="resnet18")
except BadWeights as error:
    print(time.perf_counter() - begun, error, flush=True)
"""


def test_a_network_that_swallows_everything_is_given_up_within_five_seconds(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as hole:
        proxy = f"http://127.0.0.1:{hole.getsockname()[1]}"
        done = subprocess.run(
            [sys.executable, "-P", "-c", SCRIPT],
            env=os.environ | {"TORCH_HOME": str(tmp_path), "HTTPS_PROXY": proxy},
            capture_output=True,
            text=True,
            timeout=120,  # it neither hangs at its end, though its thread still waits
        )
        connection, _ = hole.accept()
        with connection:
            assert connection.recv(100).startswith(b"CONNECT download.pytorch.org:443")
    seconds, said = done.stdout.strip().split(" ", 1)
    assert said == by_hand(tmp_path, f"no answer within {PATIENCE:g} seconds")
    assert PATIENCE <= float(seconds) < 5
    assert (done.returncode, done.stderr) == (0, "")
