"""Where and how a fit computes: named, measured once, and put back afterwards."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mlc_core import Compute, NoDevice, Params, Shape, choose, gpus
from mlc_core.device import CANDIDATES, Precision, Steps, autocast, computing, loss_scaler, most_exact

BEST_HERE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture
def remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that a measurement is kept in, not there yet."""
    monkeypatch.setenv("MLC_CACHE", str(tmp_path))
    return tmp_path / "precision.json"


@pytest.mark.parametrize(
    ("device", "precision", "threads", "sentence"),
    [
        ("gpu", "fp32", 1, "device: 'gpu' is not one of auto, cpu, cuda, cuda:N."),
        ("", "fp32", 1, "device: '' is not one of auto, cpu, cuda, cuda:N."),
        ("cuda:x", "fp32", 1, "device: 'cuda:x' is not one of auto, cpu, cuda, cuda:N."),
        ("mps", "fp32", 1, "device: 'mps' is not one of auto, cpu, cuda, cuda:N."),
        ("cpu:256", "fp32", 1, "device: 'cpu:256' is not one of auto, cpu, cuda, cuda:N."),
        ("meta", "fp32", 1, "device: 'meta' is not one of auto, cpu, cuda, cuda:N."),
        (
            "cuda:99",
            "fp32",
            1,
            f"device: 'cuda:99' is not there; this machine has {torch.cuda.device_count()} CUDA devices. "
            "Use 'cpu' or 'auto'.",
        ),
        ("cpu", "fp8", 1, "precision: 'fp8' is not one of auto, fp32, tf32, bf16, fp16."),
        ("cpu", "tf32", 1, "precision: 'tf32' is not there on 'cpu', only on CUDA devices. Use 'fp32' or 'auto'."),
        ("cpu", "fp32", 0, "threads: 0 is not a whole number of threads, at least 1."),
        ("cpu", "auto", -2, "threads: -2 is not a whole number of threads, at least 1."),
    ],
)
def test_what_is_not_there_is_a_sentence(device: str, precision: str, threads: int, sentence: str) -> None:
    with pytest.raises(NoDevice) as caught:
        choose(device=device, precision=precision, threads=threads)
    assert str(caught.value) == sentence


@given(st.text() | st.from_regex(r"(cpu|cuda|CUDA|xpu|mps)(:-?[0-9]{0,12})?", fullmatch=True))
def test_whatever_the_name_it_is_a_usable_device_or_named_in_the_refusal(name: str) -> None:
    refused = ""
    try:
        compute = choose(device=name, precision="fp32", threads=1)
    except NoDevice as error:
        refused = str(error)
    if refused:
        assert refused.startswith(f"device: {name!r} is not ")
    else:
        assert compute.device == (BEST_HERE if name == "auto" else name)
        assert torch.zeros(1, device=compute.device).sum() == 0


def test_auto_is_the_best_device_here_with_as_many_threads_as_torch_uses() -> None:
    assert choose(precision="bf16") == Compute(device=BEST_HERE, precision="bf16", threads=torch.get_num_threads())
    assert choose(device="cpu", precision="fp32", threads=7) == Compute(device="cpu", precision="fp32", threads=7)


def test_a_measured_precision_is_remembered_whatever_lay_in_its_place(remembered: Path) -> None:
    remembered.write_bytes(b"\xff")

    measured = choose(device="cpu", threads=1)

    ((key, value),) = json.loads(remembered.read_text()).items()
    assert value == measured.precision in CANDIDATES["cpu"]
    assert key.endswith(f" | torch {torch.__version__} | 1 threads | resnet10 standard, 32 pixels, batch 64")
    for told in CANDIDATES["cpu"]:  # whatever it measured, the file decides now
        remembered.write_text(json.dumps({key: told}))
        assert choose(device="cpu", threads=1) == Compute(device="cpu", precision=told, threads=1)


def test_an_unknown_precision_is_measured_and_the_other_memories_stay(remembered: Path) -> None:
    remembered.write_text("[]")
    choose(device="cpu", threads=1)
    (key,) = json.loads(remembered.read_text())
    remembered.write_text(json.dumps({key: "fp8", "another machine": "bf16"}))

    choose(device="cpu", threads=1)

    known = json.loads(remembered.read_text())
    assert known[key] in CANDIDATES["cpu"]
    assert known == {key: known[key], "another machine": "bf16"}


def test_each_shape_is_measured_for_itself(remembered: Path) -> None:
    shapes = [Shape(image_size=8, batch_size=8), Shape.of(Params(stem="small", image_size=8, batch_size=4))]
    for shape in shapes:
        choose(device="cpu", threads=1, shape=shape)
    ends = [key.split(" | ")[-1] for key in json.loads(remembered.read_text())]
    assert ends == ["resnet10 standard, 8 pixels, batch 8", "resnet10 small, 8 pixels, batch 4"]


def test_a_batch_beyond_all_memory_is_no_obstacle_to_the_choice(remembered: Path) -> None:
    huge = Shape(image_size=64, batch_size=65_536 * 2**10)
    assert choose(device="cpu", threads=1, shape=huge).precision in CANDIDATES["cpu"]
    assert remembered.exists()


def test_a_measured_step_of_many_images_is_made_with_fewer_and_one_of_few_with_all() -> None:
    compute = Compute(device="cpu", precision="fp32", threads=1)
    for seconds, images in ((0.0, 2), (1e9, 24)):
        steps = Steps(Shape(image_size=8, batch_size=24), torch.device("cpu"))
        steps.fit_into(seconds, compute)
        assert steps.images == images
        assert steps.seconds(compute) > 0


@pytest.mark.parametrize(
    ("seconds", "chosen"),
    [
        ({"fp32": 1.0, "bf16": 0.92}, "fp32"),
        ({"fp32": 1.0, "bf16": 0.9}, "bf16"),
        ({"fp32": 1.0, "tf32": 0.6, "bf16": 0.56, "fp16": 0.52}, "fp16"),
        ({"fp32": 1.0, "tf32": 0.6, "bf16": 0.5, "fp16": 0.46}, "bf16"),
        ({"fp32": 1.0, "tf32": 0.95, "bf16": 2.0, "fp16": 0.95}, "fp32"),
    ],
)
def test_less_exactness_must_be_worth_a_tenth(seconds: dict[Precision, float], chosen: str) -> None:
    assert most_exact(seconds) == chosen


def test_the_devices_that_may_be_used_are_named_as_the_environment_names_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert gpus() == tuple(map(str, range(torch.cuda.device_count())))


def test_an_overflow_in_fp16_costs_a_step_and_halves_the_scale() -> None:
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([weight], lr=0.1, fused=True)
    scaler = loss_scaler(Compute(device="cpu", precision="fp16", threads=1))
    moved = []
    for factor in (float("inf"), 1.0):
        before = weight.detach().clone()
        weight.grad = None
        scaler.scale((weight * factor).sum()).backward()  # type: ignore[no-untyped-call]
        scaler.step(optimizer)
        scaler.update()
        moved.append(not torch.equal(weight, before))
    assert moved == [False, True]
    assert scaler.get_scale() == 2.0**15


def test_a_precision_that_is_asked_for_is_not_measured(remembered: Path) -> None:
    choose(device="cpu", precision="bf16", threads=1)
    assert not remembered.exists()


@pytest.mark.parametrize("fails", [False, True])
def test_computing_holds_threads_and_kernels_and_puts_them_back_even_after_an_error(
    fails: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def settings() -> tuple[int, bool, bool]:
        return torch.get_num_threads(), torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark

    monkeypatch.setattr(torch.backends.cudnn, "deterministic", False)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    before = settings()
    other = before[0] + 1
    with (
        pytest.raises(ZeroDivisionError) if fails else nullcontext(),
        computing(Compute(device="cpu", precision="fp32", threads=other)),
    ):
        assert settings() == (other, True, False)
        assert 1 / (not fails)
    assert settings() == before


@pytest.mark.parametrize("precision", ["fp32", "tf32"])
def test_fp32_is_exact_on_cuda_and_tf32_only_where_asked_for_and_put_back(precision: Precision) -> None:
    def settings() -> list[str]:
        products = torch.backends.cuda.matmul, torch.backends.cudnn.conv  # type: ignore[attr-defined]
        return [kind.fp32_precision for kind in products]

    before = settings()
    with computing(Compute(device="cuda", precision=precision, threads=1)):
        assert settings() == [{"fp32": "ieee", "tf32": "tf32"}[precision]] * 2
    assert settings() == before


@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_products_are_computed_in_the_chosen_precision(precision: str, dtype: torch.dtype) -> None:
    ones = torch.ones(2, 2)
    with autocast(choose(device="cpu", precision=precision, threads=1)):
        assert (ones @ ones).dtype == dtype
    assert (ones @ ones).dtype == torch.float32
