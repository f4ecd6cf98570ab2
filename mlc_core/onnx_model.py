"""A model's folder gets its graph for other programs: ONNX, checked with onnxruntime; torch.export. ONNX is also asked.

Not here: the folder itself (export.py); the graph's meaning (predict.Predictor).
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np

from mlc_core.cache import write_atomically
from mlc_core.card import ONNX, TORCH, Card, read_card, write_card
from mlc_core.data.dataset import Uint8
from mlc_core.data.images import decode
from mlc_core.errors import BadModel, MissingExtra
from mlc_core.machine import processors
from mlc_core.predictions import Floats
from mlc_core.shipped import load_model

if TYPE_CHECKING:  # an extra, and torch, which asking ONNX does without
    from onnx import GraphProto, ModelProto

    from mlc_core.predict import Predictor

OPSET: Final = 18  # the first whose Resize can antialias
INPUT: Final = "images"
OUTPUT: Final = "probabilities"
TOLERANCE: Final = 1e-4  # between a graph's probabilities and the network's own
CHECKED: Final = (1, 2, 7)  # images at a time
_NEEDED: Final = ("onnx", "onnxscript", "onnxruntime")
_LARGEST: Final = 2**31  # bytes of one file in protobuf


def write_onnx(folder: Path | str) -> Card:
    """Add model.onnx to a model's folder: one file, from uint8 images to calibrated probabilities.

    Its input "images" is (batch, 3, side, side) uint8 RGB, its output "probabilities" (batch, classes) float32.
    Resizing, normalization, the average over members and calibration are inside; class names, thresholds and the
    card are its metadata, each as JSON.

    Raises
    ------
    BadModel
        The folder cannot be used, or the graph is not within TOLERANCE of the network.
    MissingExtra
    """
    if any(find_spec(name) is None for name in _NEEDED):
        raise MissingExtra("Exporting to ONNX", "onnx")
    folder = Path(folder)
    model = load_model(folder, device="cpu")
    assert model.predictor is not None  # noqa: S101 - torch computes
    proto = _translated(model.predictor, model.card)
    if proto.ByteSize() >= _LARGEST:
        raise BadModel(f"{folder}: its weights do not fit into one {ONNX} of 2 GB. Export fewer members.")
    content: bytes = proto.SerializeToString()
    _check(ask_onnx(content, ONNX), model.ask, model.card, ONNX)
    return _placed(folder, ONNX, content)


def write_torch_export(folder: Path | str) -> Card:
    """Add model.pt2 to a model's folder, by torch.export: the same function of uint8 images as model.onnx.

    It is for other programs. This one never reads it: torch.export.load may run code that somebody put inside.

    Raises
    ------
    BadModel
        The folder cannot be used, or the graph is not within TOLERANCE of the network.
    """
    import torch
    from torch.export import Dim, export, load, save

    folder = Path(folder)
    model = load_model(folder, device="cpu")
    assert model.predictor is not None  # noqa: S101 - torch computes
    program = export(model.predictor, (_example(model.card),), dynamic_shapes={INPUT: {0: Dim("batch", min=1)}})
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # it speaks of this machine's folders
    file = io.BytesIO()
    save(program, file, extra_files={"card.json": model.card.to_json().decode()})
    file.seek(0)
    loaded = load(file).module()  # what was written a moment ago

    @torch.inference_mode()
    def ask(pixels: Uint8) -> Floats:
        return cast("Floats", loaded(torch.from_numpy(pixels)).double().numpy())

    _check(ask, model.ask, model.card, TORCH)
    return _placed(folder, TORCH, file.getvalue())


def ask_onnx(content: bytes, where: str) -> Callable[[Uint8], Floats]:
    """Open an ONNX model of ours.

    Parameters
    ----------
    content : bytes
        The whole file.
    where : str
        How an error names it.

    Returns
    -------
    callable
        (n, 3, side, side) uint8 -> (n, classes) probabilities, float64.

    Raises
    ------
    BadModel
        It is damaged, no graph of ours, or would read other files.
    """
    import onnx
    import onnxruntime
    from google.protobuf.message import DecodeError
    from onnxruntime.capi import onnxruntime_pybind11_state as told

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors, which are raised as well
    options.intra_op_num_threads = processors()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # threads that decode need the processors
    try:
        if _reaches_out(onnx.load_model_from_string(content).graph):
            raise BadModel(f"{where} reads weights from other files, which no export of ours does.")
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except (DecodeError, told.Fail, told.InvalidArgument, told.InvalidGraph, told.InvalidProtobuf) as error:
        said = str(error).splitlines()[0]
        raise BadModel(f"{where} is no ONNX model that can be run ({said[:200]}). Export it again.") from None
    if [one.name for one in session.get_inputs()] != [INPUT] or OUTPUT not in [o.name for o in session.get_outputs()]:
        raise BadModel(f"{where} does not turn {INPUT!r} into {OUTPUT!r}, so no export of ours wrote it.")

    def ask(pixels: Uint8) -> Floats:
        return cast("Floats", session.run([OUTPUT], {INPUT: pixels})[0].astype(np.float64))

    return ask


def _translated(predictor: Predictor, card: Card) -> ModelProto:
    """Translate the network, without what the exporter notes about this machine, and with what a user must know."""
    import torch

    program = torch.onnx.export(
        predictor,
        (_example(card),),
        dynamo=True,
        verbose=False,
        opset_version=OPSET,
        input_names=[INPUT],
        output_names=[OUTPUT],
        dynamic_shapes={INPUT: {0: torch.export.Dim("batch", min=1)}},
        external_data=False,
    )
    assert program is not None  # noqa: S101 - dynamo=True returns one
    proto = program.model_proto
    for part in (proto.graph, *proto.graph.node, *proto.graph.input, *proto.graph.output, *proto.graph.value_info):
        part.ClearField("metadata_props")  # Python's stack traces, with the paths of this machine
        part.ClearField("doc_string")
    known = {
        "classes": json.dumps(card.classes, ensure_ascii=False),
        "thresholds": json.dumps(card.thresholds),
        "card": card.to_json().decode(),
    }
    for key, value in known.items():
        proto.metadata_props.add(key=key, value=value)
    return proto


def _reaches_out(graph: GraphProto) -> bool:
    """Whether a tensor of the graph, or of one inside it, lies in another file."""
    from onnx import TensorProto

    tensors = list(graph.initializer)
    tensors += [half for one in graph.sparse_initializer for half in (one.values, one.indices)]
    inner = list[Any]()
    for node in graph.node:
        for attribute in node.attribute:
            tensors += [attribute.t, *attribute.tensors]
            inner += [attribute.g, *attribute.graphs] if attribute.HasField("g") else attribute.graphs
    return any(tensor.data_location == TensorProto.EXTERNAL for tensor in tensors) or any(map(_reaches_out, inner))


def _example(card: Card) -> Any:  # noqa: ANN401 - a tensor, which is not imported here
    import torch

    return torch.zeros((2, 3, card.side, card.side), dtype=torch.uint8)  # of 1, torch makes a constant


def _check(graph: Callable[[Uint8], Floats], network: Callable[[Uint8], Floats], card: Card, name: str) -> None:
    """Compare a graph's probabilities with the network's, on photographs and on noise."""
    for images in (_photographs(card.side), _noise(card.side)):
        for count in CHECKED:
            apart = float(np.abs(graph(images[:count]) - network(images[:count])).max())
            if not apart <= TOLERANCE:
                raise BadModel(
                    f"{name} was not written: its probabilities are up to {apart:.2g} from the network's on {count} "
                    f"images, more than {TOLERANCE:g}. Use the safetensors, and tell us the versions in the card."
                )


def _photographs(side: int) -> Uint8:
    """Squash the two photographs that scikit-learn carries, each also mirrored, upside down and turned."""
    import sklearn.datasets

    folder = Path(sklearn.datasets.__file__).parent / "images"
    squares = [decode((folder / name).read_bytes(), side).pixels for name in ("china.jpg", "flower.jpg")]
    turned = [view for one in squares for view in (one, one[:, :, ::-1], one[:, ::-1], one.transpose(0, 2, 1))]
    return np.stack(turned)


def _noise(side: int) -> Uint8:
    return np.random.default_rng(0).integers(0, 256, (max(CHECKED), 3, side, side), dtype=np.uint8)


def _placed(folder: Path, name: str, content: bytes) -> Card:
    """Put the file into the folder, then its checksum into the card."""
    try:
        write_atomically(folder / name, content, mode=0o644)
        card = read_card(folder)
        card = replace(card, graphs={**card.graphs, name: hashlib.sha256(content).hexdigest()})
        write_card(folder, card)
    except OSError as error:
        raise BadModel(f"{folder / name} cannot be written: {error.strerror}.") from None
    return card
