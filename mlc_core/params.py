"""The parameters of one trial, valid or not at all, and their flat form. Standard library only.

Not here: how a parameter acts (optimize.py, model.py, loss.py, data/augment.py, data/sampling.py).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Final, Literal, assert_never, cast, get_args

from mlc_core.errors import BadParams, did_you_mean

OptimizerName = Literal["adam", "adamw"]
SchedulerName = Literal["step", "plateau", "cosine"]
BackboneName = Literal["resnet10", "resnet18", "resnet34", "resnet50", "resnet101"]
StemName = Literal["small", "standard"]
AugmentName = Literal["none", "light", "medium", "strong"]
RareAugmentName = Literal["same", "none", "light", "medium", "strong"]
LossName = Literal["bce", "weighted", "focal", "asymmetric"]

OPTIMIZERS: Final[tuple[OptimizerName, ...]] = get_args(OptimizerName)
SCHEDULERS: Final[tuple[SchedulerName, ...]] = get_args(SchedulerName)
BACKBONES: Final[tuple[BackboneName, ...]] = get_args(BackboneName)
STEMS: Final[tuple[StemName, ...]] = get_args(StemName)
AUGMENTS: Final[tuple[AugmentName, ...]] = get_args(AugmentName)
RARE_AUGMENTS: Final[tuple[RareAugmentName, ...]] = get_args(RareAugmentName)
LOSSES: Final[tuple[LossName, ...]] = get_args(LossName)

EPOCHS: Final = 12  # of a fit that is not told

Value = str | int | float
Flat = Mapping[str, Value]  # what Optuna stores as a trial's parameters


def _number(key: str, got: object, allowed: str, *, low: float, high: float, open_low: bool, open_high: bool) -> None:
    if not isinstance(got, int | float) or isinstance(got, bool):
        raise BadParams(key, got, allowed)
    # Comparisons alone also refuse NaN, infinities and integers too large for a float.
    if not ((low < got if open_low else low <= got) and (got < high if open_high else got <= high)):
        raise BadParams(key, got, allowed)


def _share(key: str, got: object) -> None:
    _number(key, got, "a number from 0 to 1", low=0, high=1, open_low=False, open_high=False)


def _text(key: str, got: object, allowed: str) -> None:
    if not isinstance(got, str) or not got:
        raise BadParams(key, got, allowed)


def whole(key: str, got: object, allowed: str, *, low: int, high: int) -> None:
    """Refuse what is not a whole number from low to high, by a `BadParams` that names the key."""
    if not isinstance(got, int) or isinstance(got, bool) or not low <= got <= high:
        raise BadParams(key, got, allowed)


def check_image_size(got: object) -> None:
    """Refuse what is not a side of an image, by a `BadParams`."""
    whole("image_size", got, "a whole number of pixels from 8 to 2048", low=8, high=2048)


def one_of(key: str, got: object, choices: tuple[str, ...]) -> None:
    """Refuse what is not one of the choices, by a `BadParams` that names the key."""
    if got not in choices:
        raise BadParams(key, got, f"one of {', '.join(choices)}", did_you_mean(got, choices))


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Multiply the learning rate by gamma every step_size epochs (torch StepLR)."""

    step_size: int = 5  # epochs
    gamma: float = 0.1

    def __post_init__(self) -> None:
        whole("step_size", self.step_size, "a whole number of epochs from 1 to 10000", low=1, high=10_000)
        _number("gamma", self.gamma, "a number in (0, 1]", low=0, high=1, open_low=True, open_high=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plateau:
    """Multiply by factor once the validation loss stood still for patience epochs (torch ReduceLROnPlateau)."""

    factor: float = 0.1
    patience: int = 2  # epochs without improvement that are tolerated

    def __post_init__(self) -> None:
        _number("factor", self.factor, "a number in (0, 1)", low=0, high=1, open_low=True, open_high=True)
        whole("patience", self.patience, "a whole number of epochs from 0 to 10000", low=0, high=10_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cosine:
    """Cosine annealing to 0, without restarts (Loshchilov & Hutter 2017, eq. 5; torch CosineAnnealingLR)."""

    t_max: int = EPOCHS

    def __post_init__(self) -> None:
        whole("t_max", self.t_max, "a whole number of epochs from 1 to 10000", low=1, high=10_000)


Scheduler = Step | Plateau | Cosine
SCHEDULER_OF: Final[dict[SchedulerName, type[Scheduler]]] = {"step": Step, "plateau": Plateau, "cosine": Cosine}


def scheduler_name(scheduler: Scheduler) -> SchedulerName:
    """Name a scheduler as the flat form does."""
    match scheduler:
        case Step():
            return "step"
        case Plateau():
            return "plateau"
        case Cosine():
            return "cosine"
        case other:
            assert_never(other)


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """Everything about a trial that a search may choose.

    Raises
    ------
    BadParams
        From the constructor, naming the key, the value and what is allowed.
    """

    optimizer: OptimizerName = "adamw"
    lr: float = 1e-3
    weight_decay: float = 1e-4  # L2 term for adam (Kingma & Ba 2015), decoupled for adamw (Loshchilov & Hutter 2019)
    dropout: float = 0.2  # between the pooled features and the head
    scheduler: Scheduler = Cosine()
    batch_size: int = 64  # images
    backbone: BackboneName = "resnet10"
    stem: StemName = "standard"
    image_size: int = 32  # pixels, both sides, after resizing
    weights: str = "none"  # none, imagenet, or the path of a file: what the backbone starts from
    augment: AugmentName = "light"
    flip: float = 0.0  # probability that an image is mirrored left to right
    rare_below: float = 0.0  # a class on less than this share of the training images is rare; 0: none is
    rare_repeat: float = 1.0  # at most how many times as often as others an image with a rare class is drawn
    rare_augment: RareAugmentName = "same"  # the policy for images with a rare class
    loss: LossName = "bce"  # that trains; what a fit is judged by never depends on it
    label_smoothing: float = 0.0  # share of the way that targets of 0 and 1 move towards 1/2
    pos_weight_power: float = 0.5  # weighted: a positive weighs (negatives / positives) ** power
    focal_gamma: float = 2.0  # focal: how much less well-told pairs count, Lin et al. 2017, eq. 4
    asymmetric_gamma_pos: float = 0.0  # asymmetric: the same for positives, Ridnik et al. 2021, eq. 7
    asymmetric_gamma_neg: float = 4.0  # asymmetric: and for negatives
    asymmetric_clip: float = 0.05  # asymmetric: by how much a negative's probability is taken to be lower, eq. 5
    ema: float = 0.0  # decay a step of the averaged weights that a fit is judged by and keeps; 0: those that train

    def __post_init__(self) -> None:
        one_of("optimizer", self.optimizer, OPTIMIZERS)
        _number("lr", self.lr, "a number in (0, 10]", low=0, high=10, open_low=True, open_high=False)
        _number("weight_decay", self.weight_decay, "a number in [0, 1]", low=0, high=1, open_low=False, open_high=False)
        _number("dropout", self.dropout, "a number in [0, 1)", low=0, high=1, open_low=False, open_high=True)
        if not isinstance(self.scheduler, Step | Plateau | Cosine):
            raise BadParams("scheduler", self.scheduler, f"one of {', '.join(SCHEDULERS)}")
        # One image has no variance that batch normalization could estimate.
        whole("batch_size", self.batch_size, "a whole number of images from 2 to 65536", low=2, high=65_536)
        one_of("backbone", self.backbone, BACKBONES)
        one_of("stem", self.stem, STEMS)
        check_image_size(self.image_size)
        _text("weights", self.weights, "none, imagenet or the path of a file")
        one_of("augment", self.augment, AUGMENTS)
        _share("flip", self.flip)
        _share("rare_below", self.rare_below)
        _number(
            "rare_repeat", self.rare_repeat, "a number from 1 to 100", low=1, high=100, open_low=False, open_high=False
        )
        one_of("rare_augment", self.rare_augment, RARE_AUGMENTS)
        one_of("loss", self.loss, LOSSES)
        _number(
            "label_smoothing",
            self.label_smoothing,
            "a number in [0, 1)",
            low=0,
            high=1,
            open_low=False,
            open_high=True,
        )
        _share("pos_weight_power", self.pos_weight_power)
        for key in ("focal_gamma", "asymmetric_gamma_pos", "asymmetric_gamma_neg"):
            _number(key, getattr(self, key), "a number from 0 to 20", low=0, high=20, open_low=False, open_high=False)
        _share("asymmetric_clip", self.asymmetric_clip)
        _number("ema", self.ema, "a number in [0, 1)", low=0, high=1, open_low=False, open_high=True)

    @classmethod
    def from_flat(cls, flat: Flat) -> Params:
        """Build from one level of keys, as Optuna's ``study.best_params`` gives them; absent keys keep defaults.

        Raises
        ------
        BadParams
            For an unknown key, a key of another scheduler than the chosen one, or a value out of bounds.
        """
        name = flat.get("scheduler", scheduler_name(Cosine()))
        one_of("scheduler", name, SCHEDULERS)
        kind = SCHEDULER_OF[cast("SchedulerName", name)]
        own = {f.name for f in fields(kind)}
        shared = {f.name for f in fields(cls)}
        for key, value in flat.items():
            if key in shared or key in own:
                continue
            if key in SCHEDULER_KEYS:
                theirs = next(n for n, k in SCHEDULER_OF.items() if key in {f.name for f in fields(k)})
                allowed = f"a parameter of the {name} scheduler, which takes {', '.join(sorted(own))}"
                raise BadParams(key, value, allowed, f" It belongs to {theirs}.")
            raise BadParams(key, value, f"a known parameter, one of {', '.join(KEYS)}", did_you_mean(key, KEYS))
        scheduler = kind(**{k: v for k, v in flat.items() if k in own})  # type: ignore[arg-type]
        rest = {k: v for k, v in flat.items() if k in shared and k != "scheduler"}
        return cls(scheduler=scheduler, **rest)  # type: ignore[arg-type]

    def to_flat(self) -> dict[str, Value]:
        """One level of keys; ``Params.from_flat`` takes it back."""
        flat: dict[str, Value] = {}
        for field in fields(self):
            if field.name == "scheduler":
                flat["scheduler"] = scheduler_name(self.scheduler)
                flat |= {f.name: getattr(self.scheduler, f.name) for f in fields(self.scheduler)}
            else:
                flat[field.name] = getattr(self, field.name)
        return flat


SCHEDULER_KEYS: Final[tuple[str, ...]] = tuple(f.name for kind in SCHEDULER_OF.values() for f in fields(kind))
DEFAULTS: Final[Flat] = Params().to_flat() | {
    f.name: getattr(kind(), f.name) for kind in SCHEDULER_OF.values() for f in fields(kind)
}
KEYS: Final[tuple[str, ...]] = tuple(DEFAULTS)
LOSS_OF: Final[dict[str, LossName]] = {  # whose parameter it is
    "pos_weight_power": "weighted",
    "focal_gamma": "focal",
    "asymmetric_gamma_pos": "asymmetric",
    "asymmetric_gamma_neg": "asymmetric",
    "asymmetric_clip": "asymmetric",
}


def without_effect(keys: Iterable[str], losses: Collection[Value]) -> list[str]:
    """Say of each parameter that belongs to none of these losses that it changes nothing, a sentence each."""
    return [
        f"{key} has no effect: it belongs to loss = {LOSS_OF[key]}, and the loss is {' or '.join(map(str, losses))}."
        for key in keys
        if key in LOSS_OF and LOSS_OF[key] not in losses
    ]
