"""A study's TOML file is taken as it is meant, or refused by one sentence that names the key."""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from search import declaration as declarations
from search.declaration import Choice, Declaration, Range, built_in, differences, from_table, read
from search.errors import BadDeclaration

UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine is no failure

# studies/default.toml, typed a second time, every default written out.
DEFAULT: dict[str, Any] = {
    "name": "default",
    "objective": "bce",
    "epochs": 12,
    "seed": 0,
    "threads": "auto",
    "retries": 2,
    "keep": 10,
    "keep_mb": 2000,
    "sampler": {"name": "curves", "startup": 8},
    "pruner": {"name": "promote", "min_resource": 1, "reduction_factor": 7, "extrapolate": True, "paused_mb": 4000},
    "space": {
        "optimizer": ["adam", "adamw"],
        "lr": {"low": 1e-5, "high": 1e-2, "log": True},
        "weight_decay": {"low": 1e-6, "high": 1e-2, "log": True},
        "dropout": {"low": 0.0, "high": 0.6, "log": False},
        "batch_size": [16, 32, 64, 80, 128],
        "scheduler": {
            "step": {
                "step_size": {"low": 1, "high": 12, "log": False},
                "gamma": {"low": 0.05, "high": 0.9, "log": False},
            },
            "plateau": {
                "factor": {"low": 0.05, "high": 0.9, "log": False},
                "patience": {"low": 0, "high": 5, "log": False},
            },
            "cosine": {"t_max": {"low": 6, "high": 40, "log": False}},
        },
    },
    "fixed": {
        "backbone": "resnet10",
        "stem": "standard",
        "image_size": 32,
        "augment": "light",
        "ema": 0.99,
        "rare_below": 0.3,
        "rare_repeat": 4.0,
    },
}

# What may be written, a second time: for each key some allowed values, or the ends between which all are.
WORDS = {
    "optimizer": ("adam", "adamw"),
    "backbone": ("resnet10", "resnet18", "resnet34", "resnet50", "resnet101"),
    "stem": ("small", "standard"),
    "weights": ("none", "imagenet", "my weights.pth"),
    "augment": ("none", "light", "medium", "strong"),
    "rare_augment": ("same", "none", "light", "medium", "strong"),
    "loss": ("bce", "weighted", "focal", "asymmetric"),
}
HUNDREDTHS = {
    "lr": (1, 1000),
    "weight_decay": (1, 100),
    "dropout": (1, 99),
    "flip": (0, 100),
    "rare_below": (0, 100),
    "rare_repeat": (100, 10_000),
    "label_smoothing": (0, 99),
    "pos_weight_power": (0, 100),
    "focal_gamma": (0, 2000),
    "asymmetric_gamma_pos": (0, 2000),
    "asymmetric_gamma_neg": (0, 2000),
    "asymmetric_clip": (0, 100),
    "ema": (0, 99),
    "gamma": (1, 100),
    "factor": (1, 99),
}
COUNTS = {
    "batch_size": (2, 65_536),
    "image_size": (8, 2048),
    "step_size": (1, 10_000),
    "patience": (0, 10_000),
    "t_max": (1, 10_000),
}
BRANCHES = {"step": ("step_size", "gamma"), "plateau": ("factor", "patience"), "cosine": ("t_max",)}
OF_SCHEDULERS = tuple(key for keys in BRANCHES.values() for key in keys)
SHARED = tuple(key for key in (*WORDS, *HUNDREDTHS, *COUNTS) if key not in OF_SCHEDULERS)
SAMPLERS: dict[str, dict[str, st.SearchStrategy[object]]] = {
    "curves": {"startup": st.integers(1, 100)},
    "tpe": {"startup": st.integers(0, 100), "constant_liar": st.booleans(), "group": st.just(value=False)},
    "gp": {"startup": st.integers(0, 100)},
    "qmc": {},
    "random": {},
}
PRUNERS: dict[str, dict[str, st.SearchStrategy[object]]] = {
    "promote": {
        "reduction_factor": st.integers(2, 9),
        "extrapolate": st.booleans(),
        "paused_mb": st.integers(0, 1_000_000),
    },
    "hyperband": {"reduction_factor": st.integers(2, 9)},
    "asha": {"reduction_factor": st.integers(2, 9), "min_early_stopping_rate": st.integers(0, 4)},
    "median": {"startup": st.integers(0, 50), "warmup": st.integers(0, 50), "interval": st.integers(1, 9)},
    "patient": {"patience": st.integers(1, 50), "min_delta": st.floats(0, 1)},
    "wilcoxon": {"p_threshold": st.floats(0, 1), "startup": st.integers(0, 50)},
    "none": {},
}


def value(key: str) -> st.SearchStrategy[Any]:
    if key in WORDS:
        return st.sampled_from(WORDS[key])
    if key in COUNTS:
        return st.integers(*COUNTS[key])
    return st.integers(*HUNDREDTHS[key]).map(lambda hundredths: hundredths / 100)


@st.composite
def domain(draw: st.DrawFn, key: str) -> object:
    if key in WORDS or draw(st.booleans()):
        return draw(st.lists(value(key), min_size=1, max_size=4, unique=True))
    scale = Decimal(1) if key in COUNTS else Decimal("0.01")
    lowest, highest = COUNTS.get(key) or HUNDREDTHS[key]
    low = draw(st.integers(lowest, highest))
    step = draw(st.integers(1, max(1, highest - low)))
    high = low + step * draw(st.integers(0, (highest - low) // step))
    ends = {"low": low * scale, "high": high * scale}
    kind = draw(st.sampled_from(["plain", "step", "log"]))
    if kind == "step":
        ends["step"] = step * scale
    numbers = {end: int(number) if key in COUNTS else float(number) for end, number in ends.items()}
    return numbers | ({"log": True} if kind == "log" and low > 0 else {})


@st.composite
def tables(draw: st.DrawFn) -> dict[str, Any]:
    """Declarations as one may write them, with the keys that have a default written or not."""
    searched = draw(st.lists(st.sampled_from(SHARED), unique=True))
    space: dict[str, Any] = {key: draw(domain(key)) for key in searched}
    fixed = {key: draw(value(key)) for key in draw(st.lists(st.sampled_from(SHARED), unique=True)) if key not in space}
    if branches := draw(st.lists(st.sampled_from(tuple(BRANCHES)), unique=True)):
        chosen = {name: draw(st.lists(st.sampled_from(BRANCHES[name]), unique=True)) for name in branches}
        space["scheduler"] = {name: {key: draw(domain(key)) for key in keys} for name, keys in chosen.items()}
    elif draw(st.booleans()):
        fixed["scheduler"] = draw(st.sampled_from(tuple(BRANCHES)))
        fixed |= {key: draw(value(key)) for key in BRANCHES[fixed["scheduler"]]}
    table = {"name": draw(st.from_regex(r"[\w][\w .-]{0,9}", fullmatch=True).map(lambda name: f"{name}x"))}
    sampler, pruner = draw(st.sampled_from(tuple(SAMPLERS))), draw(st.sampled_from(tuple(PRUNERS)))
    numbers = {"epochs": (1, 99), "seed": (0, 2**63 - 1), "retries": (0, 9), "keep": (1, 9)}
    numbers["keep_mb"] = (1, 10**8)
    whole: dict[str, st.SearchStrategy[object]] = {key: st.integers(*ends) for key, ends in numbers.items()}
    whole["threads"] = st.sampled_from([1, 2, 8, "auto"])
    return {
        **table,
        **draw(st.fixed_dictionaries({}, optional=whole)),
        "sampler": {"name": sampler, **draw(st.fixed_dictionaries({}, optional=SAMPLERS[sampler]))},
        "pruner": {"name": pruner, **draw(st.fixed_dictionaries({}, optional=PRUNERS[pruner]))},
        "space": space,
        "fixed": fixed,
    }


DECLARATIONS = tables().map(lambda table: from_table(table, where="a study"))


def leaves(table: Mapping[str, Any], at: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], object]]:
    """Every node of a nested table but the root, with the keys that lead there."""
    found: list[tuple[tuple[str, ...], object]] = []
    for key, node in table.items():
        found.append(((*at, key), node))
        if isinstance(node, dict):
            found += leaves(node, (*at, key))
    return found


def changed(table: Mapping[str, Any], at: tuple[str, ...], node: object) -> dict[str, Any]:
    key, *rest = at
    return {**table, key: changed(table[key], tuple(rest), node) if rest else node}


def taken_or_refused(table: Mapping[str, Any]) -> Declaration | BadDeclaration:
    try:
        return from_table(table, where="my.toml")
    except BadDeclaration as error:
        return error


def written(folder: Path, toml: str) -> Path:
    file = folder / "my.toml"
    file.write_text(toml, encoding="utf-8")
    return file


def refusal(file: Path) -> str:
    """The sentence without the file's path, with which it must begin."""
    with pytest.raises(BadDeclaration) as caught:
        read(file)
    start, error = f"{file}: ", caught.value
    assert str(error) == f"{start}{error.key}: {error.problem}"
    return str(error).removeprefix(start)


def test_the_study_that_travels_with_the_package_says_what_its_file_says() -> None:
    assert built_in("default").to_table() == DEFAULT


def test_the_built_in_studies_can_be_read() -> None:
    assert [built_in(name).name for name in declarations.BUILT_IN] == ["default"]


def test_a_file_of_one_line_is_a_study_with_all_defaults(tmp_path: Path) -> None:
    file = tmp_path / "night run.toml"
    file.write_text("seed = 4")
    made = read(file).to_table()
    assert made == {
        **{key: DEFAULT[key] for key in ("objective", "epochs", "retries", "keep_mb", "sampler", "pruner")},
        "name": "night run",
        "threads": 1,
        "seed": 4,
        "keep": 5,
        "space": {},
        "fixed": {},
    }


def test_a_name_in_the_file_wins_over_the_name_of_the_file(tmp_path: Path) -> None:
    assert read(written(tmp_path, 'name = "Größe 2.1-b"')).name == "Größe 2.1-b"


def test_a_scheduler_needs_no_parameters_of_its_own_to_be_a_choice(tmp_path: Path) -> None:
    declared = read(written(tmp_path, "[space.scheduler.step]\n[space.scheduler.cosine]\nt_max = [6]"))
    assert declared.space == {"scheduler": Choice(("step", "cosine"))}
    assert declared.branches == {"step": {}, "cosine": {"t_max": Choice((6,))}}


def test_a_range_keeps_its_step_and_its_logarithm(tmp_path: Path) -> None:
    toml = "[space]\ndropout = { low = 0.1, high = 0.7, step = 0.2 }\nlr = { low = 1e-4, high = 1, log = true }"
    assert read(written(tmp_path, toml)).space == {
        "dropout": Range(0.1, 0.7, log=False, step=0.2),
        "lr": Range(1e-4, 1, log=True, step=None),
    }


@UNHURRIED
@given(DECLARATIONS)
def test_a_declaration_survives_the_way_through_the_database(declared: Declaration) -> None:
    again = from_table(json.loads(json.dumps(declared.to_table())), where="the database")
    assert again == declared
    assert differences(declared, again) == []


@UNHURRIED
@given(tables())
def test_what_is_written_is_what_is_declared(table: dict[str, Any]) -> None:
    full = from_table(table, where="a study").to_table()
    flat = dict(leaves(full))
    for at, node in leaves(table):
        assert isinstance(node, dict) or flat[at] == node


ODDITIES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.dates()
    | st.sampled_from(["adam", "step", "tpe", "none", "default.toml"])
)
NODES = st.recursive(
    ODDITIES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["low", "high", "step", "log", "name", "lr", "cosine"]), inner, max_size=3)
    ),
    max_leaves=5,
)


@UNHURRIED
@given(st.sampled_from([at for at, _ in leaves(DEFAULT)]), NODES)
def test_whatever_stands_at_a_key_is_taken_or_refused_by_its_name(at: tuple[str, ...], node: object) -> None:
    match taken_or_refused(changed(DEFAULT, at, node)):
        case Declaration() as declared:
            assert from_table(declared.to_table(), where="my.toml") == declared
        case BadDeclaration() as error:
            # What stands beside it may be at fault too: epochs below the pruner's first, a key both fixed and searched.
            assert error.key.split(".")[0] in (at[0], "pruner", "fixed")
            assert str(error).startswith(f"my.toml: {error.key}: ")


SCHEDULERS = "one of step, plateau, cosine"
KEYS = "optimizer, lr, weight_decay, dropout, scheduler"
REST = (
    "batch_size, backbone, stem, image_size, weights, augment, flip, rare_below, rare_repeat, rare_augment, loss, "
    "label_smoothing, pos_weight_power, focal_gamma, asymmetric_gamma_pos, asymmetric_gamma_neg, asymmetric_clip, "
    "ema"
)


@pytest.mark.parametrize(
    ("toml", "sentence"),
    [
        (
            "epoch = 3",
            "epoch: the key is not one of name, objective, against, epochs, seed, retries, keep, keep_mb, threads, "
            "sampler, pruner, space, fixed, limits. Did you mean 'epochs'?",
        ),
        ("epochs = 0", "epochs: 0 is not a whole number from 1 to 100000."),
        ("epochs = 100001", "epochs: 100001 is not a whole number from 1 to 100000."),
        ('epochs = "12"', "epochs: '12' is not a whole number from 1 to 100000."),
        ("epochs = 12.0", "epochs: 12.0 is not a whole number from 1 to 100000."),
        ("epochs = true", "epochs: True is not a whole number from 1 to 100000."),
        ("seed = -1", "seed: -1 is not a whole number from 0 to 9223372036854775807."),
        ("seed = 1e3", "seed: 1000.0 is not a whole number from 0 to 9223372036854775807."),
        ("threads = 0", "threads: 0 is not a whole number from 1 to 1024."),
        ('threads = "all"', "threads: 'all' is not auto or a whole number from 1 to 1024."),
        ("retries = 101", "retries: 101 is not a whole number from 0 to 100."),
        ("keep = 0", "keep: 0 is not a whole number from 1 to 10000."),
        ("keep_mb = 0", "keep_mb: 0 is not a whole number from 1 to 100000000."),
    ],
)
def test_a_bad_key_at_the_top_is_named(tmp_path: Path, toml: str, sentence: str) -> None:
    assert refusal(written(tmp_path, toml)) == sentence


@pytest.mark.parametrize("name", ["a/b", "a.toml", "", " a", "-a", "a\nb", "a" * 201])
def test_a_name_that_could_be_taken_for_a_file_or_an_option_is_refused(name: str) -> None:
    with pytest.raises(BadDeclaration) as caught:
        from_table({"name": name}, where="my.toml")
    assert str(caught.value) == (
        f"my.toml: name: {name!r} is not a name of 1 to 200 letters, digits, spaces, '.', '_' and '-', "
        ".toml not at the end."
    )


@pytest.mark.parametrize("key", ["space", "fixed", "sampler", "pruner"])
def test_what_should_be_a_table_is_one(tmp_path: Path, key: str) -> None:
    assert refusal(written(tmp_path, f"{key} = [1]")) == f"{key}: [1] is not a table: write [{key}]."


@pytest.mark.parametrize(
    ("toml", "sentence"),
    [
        ('optimizer = ["adamx"]', "optimizer[0]: 'adamx' is not one of adam, adamw. Did you mean 'adam'?"),
        ('optimizer = ["adam", "sgd"]', "optimizer[1]: 'sgd' is not one of adam, adamw."),
        ("batch_size = [16, 32, 16]", "batch_size: [16, 32, 16] names a choice twice."),
        ("lr = [1, 1.0]", "lr: [1, 1.0] names a choice twice."),
        ("lr = [0.1, true]", "lr[1]: True is not a number in (0, 10]."),
        ("lr = [[0.1]]", "lr[0]: [0.1] is not a number in (0, 10]."),
        (
            "lr = []",
            "lr: [] is not a list of choices or a range such as { low = 1, high = 2 }. A constant belongs to [fixed].",
        ),
        (
            "lr = 0.1",
            "lr: 0.1 is not a list of choices or a range such as { low = 1, high = 2 }. A constant belongs to [fixed].",
        ),
        (
            "lr = { low = 0.1 }",
            "lr: {'low': 0.1} is not a list of choices or a range such as { low = 1, high = 2 }. "
            "A constant belongs to [fixed].",
        ),
        (
            "optimizer = { low = 1, high = 2 }",
            "optimizer: {'low': 1, 'high': 2} is not a list of choices. A constant belongs to [fixed].",
        ),
        ("lr = { low = 0, high = 1, log = true }", "lr.low: 0 is not a number in (0, 10]."),
        (
            "weight_decay = { low = 0.0, high = 0.1, log = true }",
            "weight_decay.low: 0.0 is not above 0, as log = true needs.",
        ),
        ("dropout = { low = -0.1, high = 0.5 }", "dropout.low: -0.1 is not a number in [0, 1)."),
        ("dropout = { low = 0.1, high = 1.0 }", "dropout.high: 1.0 is not a number in [0, 1)."),
        ("dropout = { low = nan, high = 0.5 }", "dropout.low: nan is not a number in [0, 1)."),
        ("dropout = { low = 0.6, high = 0.5 }", "dropout.low: 0.6 is above high, 0.5."),
        ("dropout = { low = 0.1, high = 0.5, log = 1 }", "dropout.log: 1 is not true or false."),
        ("lr = { low = 1, high = 2, log = true, step = 1 }", "lr.step: a range has a step or log = true, not both."),
        ("lr = { low = 0.1, high = 0.5, step = 0 }", "lr.step: 0 is not a number from 1e-12 to 1000000000.0."),
        ("dropout = { low = 0.1, high = 0.6, step = 0.2 }", "dropout.step: steps of 0.2 from 0.1 do not end at 0.6."),
        ("batch_size = { low = 2, high = 9, step = 5 }", "batch_size.step: steps of 5 from 2 do not end at 9."),
        (
            "batch_size = { low = 2, high = 4, step = 0.5 }",
            "batch_size.step: 0.5 is not a whole number from 1 to 1000000000.0.",
        ),
        (
            "batch_size = { low = 2.0, high = 4 }",
            "batch_size.low: 2.0 is not a whole number of images from 2 to 65536.",
        ),
        (
            "lr = { low = 0.1, high = 0.5, steps = 0.1 }",
            "lr.steps: the key is not one of low, high, log, step. Did you mean 'step'?",
        ),
        ("dropuot = [0.1]", f"dropuot: the key is not one of {KEYS}, {REST}. Did you mean 'dropout'?"),
        ("t_max = [12]", f"t_max: the key is not one of {KEYS}, {REST}."),
        (
            'scheduler = ["step"]',
            "scheduler: ['step'] is not a table: write [space.scheduler.step] and so on, one a scheduler.",
        ),
        ("scheduler.steps = {}", f"scheduler.steps: the key is not {SCHEDULERS}. Did you mean 'step'?"),
        ("scheduler.step = 5", "scheduler.step: 5 is not a table: write [space.scheduler.step]."),
        ("scheduler.step.t_max = [12]", "scheduler.step.t_max: the key is not one of step_size, gamma."),
        (
            "scheduler.step.gama = [0.1]",
            "scheduler.step.gama: the key is not one of step_size, gamma. Did you mean 'gamma'?",
        ),
        (
            "scheduler.cosine.t_max = { low = 0, high = 4 }",
            "scheduler.cosine.t_max.low: 0 is not a whole number of epochs from 1 to 10000.",
        ),
    ],
)
def test_a_bad_key_of_the_space_is_named(tmp_path: Path, toml: str, sentence: str) -> None:
    assert refusal(written(tmp_path, f"[space]\n{toml}")) == f"space.{sentence}"


ELSEWHERE = "it is in [space] too; leave it in one of the two."


@pytest.mark.parametrize(
    ("toml", "sentence"),
    [
        ("[fixed]\ndropout = 0.1\n[space]\ndropout = [0.2]", f"dropout: {ELSEWHERE}"),
        ('[fixed]\nscheduler = "step"\n[space.scheduler.cosine]', f"scheduler: {ELSEWHERE}"),
        ("[fixed]\nt_max = 12\n[space.scheduler.cosine]\nt_max = [12]", f"t_max: {ELSEWHERE}"),
        (
            '[fixed]\nscheduler = "step"\nt_max = 12',
            "t_max: it belongs to the cosine scheduler, which [fixed] does not name.",
        ),
        ("[fixed]\ngamma = 0.5", "gamma: it belongs to the step scheduler, which [fixed] does not name."),
        ("[fixed]\ndropout = 1", "dropout: 1 is not a number in [0, 1)."),
        ("[fixed]\ndropout = [0.1]", "dropout: [0.1] is not a number in [0, 1)."),
        ('[fixed]\nscheduler = "steps"', f"scheduler: 'steps' is not {SCHEDULERS}. Did you mean 'step'?"),
        (
            "[fixed]\ndrop = 0.1",
            f"drop: the key is not one of {KEYS}, t_max, {REST}, step_size, gamma, factor, patience. "
            "Did you mean 'dropout'?",
        ),
    ],
)
def test_a_bad_fixed_parameter_is_named(tmp_path: Path, toml: str, sentence: str) -> None:
    assert refusal(written(tmp_path, toml)) == f"fixed.{sentence}"


@pytest.mark.parametrize(
    ("toml", "sentence"),
    [
        (
            '[sampler]\nname = "tpa"',
            "sampler.name: 'tpa' is not one of curves, tpe, gp, qmc, random. Did you mean 'tpe'?",
        ),
        ('[sampler]\nname = ["tpe"]', "sampler.name: ['tpe'] is not one of curves, tpe, gp, qmc, random."),
        ("[sampler]\nstartup = 0", "sampler.startup: 0 is not a whole number from 1 to 1000000."),
        ("[sampler]\ngroup = true", "sampler.group: the key is not one of name, startup."),
        ('[sampler]\nname = "tpe"\nstartup = -1', "sampler.startup: -1 is not a whole number from 0 to 1000000."),
        ('[sampler]\nname = "tpe"\nconstant_liar = 1', "sampler.constant_liar: 1 is not true or false."),
        (
            '[sampler]\nname = "tpe"\nmultivariate = false',
            "sampler.group: true needs multivariate = true; set both to false.",
        ),
        (
            '[sampler]\nname = "tpe"\nstart = 5',
            "sampler.start: the key is not one of name, startup, multivariate, group, constant_liar. "
            "Did you mean 'startup'?",
        ),
        ('[sampler]\nname = "random"\nstartup = 5', "sampler.startup: the key is not one of name."),
        (
            '[pruner]\nname = "hyper"',
            "pruner.name: 'hyper' is not one of promote, hyperband, asha, median, patient, wilcoxon, none. "
            "Did you mean 'hyperband'?",
        ),
        (
            "[pruner]\nreduction_factor = 1",
            "pruner.reduction_factor: 1 is not a whole number from 2 to 1000000.",
        ),
        (
            "[pruner]\nwarmup = 2",
            "pruner.warmup: the key is not one of name, min_resource, reduction_factor, extrapolate, paused_mb.",
        ),
        ("[pruner]\nextrapolate = 1", "pruner.extrapolate: 1 is not true or false."),
        ("[pruner]\npaused_mb = -1", "pruner.paused_mb: -1 is not a whole number from 0 to 1000000."),
        (
            '[pruner]\nname = "hyperband"\nwarmup = 2',
            "pruner.warmup: the key is not one of name, min_resource, reduction_factor.",
        ),
        (
            '[pruner]\nname = "wilcoxon"\np_threshold = 1.5',
            "pruner.p_threshold: 1.5 is not a number from 0 to 1.",
        ),
        (
            "epochs = 3\n[pruner]\nmin_resource = 4",
            "pruner.min_resource: 4 is more than the 3 epochs of a trial.",
        ),
    ],
)
def test_a_bad_sampler_or_pruner_is_named(tmp_path: Path, toml: str, sentence: str) -> None:
    assert refusal(written(tmp_path, toml)) == sentence


def test_broken_toml_is_said_to_be_broken_and_where(tmp_path: Path) -> None:
    file = written(tmp_path, "epochs = 3\n[space\n")
    assert refusal(file) == (
        "file: it is not valid TOML: Expected ']' at the end of a table declaration (at line 2, column 7)."
    )


def test_a_file_in_another_encoding_is_said_to_be_no_toml(tmp_path: Path) -> None:
    file = tmp_path / "my.toml"
    file.write_bytes('name = "Größe"'.encode("latin-1"))
    assert refusal(file) == (
        "file: it is not valid TOML: 'utf-8' codec can't decode byte 0xf6 in position 10: invalid start byte."
    )


def test_a_file_that_is_not_there_is_said_to_be_missing(tmp_path: Path) -> None:
    assert refusal(tmp_path / "my.toml") == "file: it cannot be read: No such file or directory."


def test_a_folder_is_no_declaration(tmp_path: Path) -> None:
    (tmp_path / "my.toml").mkdir()
    assert refusal(tmp_path / "my.toml") == "file: it cannot be read: Is a directory."


def test_an_override_wins_over_the_file(tmp_path: Path) -> None:
    file = written(tmp_path, "epochs = 40\nseed = 3")
    declared = read(file, overrides={"epochs": 7})
    assert (declared.epochs, declared.seed) == (7, 3)
    assert built_in("default", overrides={"seed": 9}).to_table() == {**DEFAULT, "seed": 9}


def test_an_override_is_checked_like_the_file(tmp_path: Path) -> None:
    file = written(tmp_path, "epochs = 40\n[pruner]\nmin_resource = 4")
    with pytest.raises(BadDeclaration) as caught:
        read(file, overrides={"epochs": 3})
    assert str(caught.value) == f"{file}: pruner.min_resource: 4 is more than the 3 epochs of a trial."


@pytest.mark.parametrize(
    ("at", "node", "lines"),
    [
        (("epochs",), 3, ["epochs: 12, now 3"]),
        (("threads",), 2, ["threads: auto, now 2"]),
        (("name",), "other", []),
        (("space", "lr", "high"), 0.1, ["space.lr.high: 0.01, now 0.1"]),
        (("space", "dropout", "high"), 0.5, ["space.dropout.high: 0.6, now 0.5"]),
        (("space", "dropout"), [0.5], [
            "space.dropout.low: 0.0, now absent",
            "space.dropout.high: 0.6, now absent",
            "space.dropout.log: False, now absent",
            "space.dropout: absent, now [0.5]",
        ]),
        (("space", "scheduler", "cosine", "t_max", "low"), 7, ["space.scheduler.cosine.t_max.low: 6, now 7"]),
        (("space", "optimizer"), ["adamw"], ["space.optimizer: ['adam', 'adamw'], now ['adamw']"]),
        (("fixed", "augment"), "none", ["fixed.augment: light, now none"]),
        (("pruner",), {"name": "none"}, [
            "pruner.name: promote, now none",
            "pruner.min_resource: 1, now absent",
            "pruner.reduction_factor: 7, now absent",
            "pruner.extrapolate: True, now absent",
            "pruner.paused_mb: 4000, now absent",
        ]),
    ],
)  # fmt: skip
def test_what_differs_is_told_key_by_key(at: tuple[str, ...], node: object, lines: list[str]) -> None:
    now = from_table(changed(DEFAULT, at, node), where="my.toml")
    assert differences(built_in("default"), now) == lines


@UNHURRIED
@given(DECLARATIONS, DECLARATIONS)
def test_two_declarations_differ_exactly_if_something_beside_their_names_does(
    one: Declaration, other: Declaration
) -> None:
    assert (differences(one, other) == []) == ({**one.to_table(), "name": ""} == {**other.to_table(), "name": ""})
    assert len(differences(one, other)) == len(differences(other, one))


def test_a_table_that_is_empty_on_one_side_is_no_difference_beside_what_it_holds_on_the_other() -> None:
    before = from_table({"name": "x", "fixed": {"ema": 0.5}, "space": {"scheduler": {"step": {}}}}, where="x")
    space = {"ema": [0.5], "scheduler": {"step": {"gamma": [0.1]}, "cosine": {}}}
    now = from_table({"name": "x", "space": space}, where="x")
    assert differences(before, now) == [
        "fixed.ema: 0.5, now absent",
        "space.ema: absent, now [0.5]",
        "space.scheduler.step.gamma: absent, now [0.1]",
        "space.scheduler.cosine: absent, now {}",
    ]


def test_a_second_objective_and_limits_are_read_and_spelled_again() -> None:
    table = {**DEFAULT, "against": "latency", "limits": {"latency": 5, "size": 20.5}}
    declared = from_table(table, where="x")
    assert (declared.against, declared.limits, declared.weighs) == ("latency", {"latency": 5, "size": 20.5}, True)
    assert declared.to_table() == table
    assert from_table(json.loads(json.dumps(declared.to_table())), where="x") == declared
    before = from_table(DEFAULT, where="x")
    assert (before.against, before.limits, before.weighs) == (None, {}, False)
    assert differences(before, declared) == [
        "against: absent, now latency",
        "limits.latency: absent, now 5",
        "limits.size: absent, now 20.5",
    ]
    assert from_table({**DEFAULT, "limits": {}}, where="x") == before
    assert from_table({**DEFAULT, "limits": {"size": 20.5}}, where="x").weighs


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"against": "latancy"}, "x: against: 'latancy' is not one of latency, size. Did you mean 'latency'?"),
        ({"against": ["latency"]}, "x: against: ['latency'] is not one of latency, size."),
        ({"against": True}, "x: against: True is not one of latency, size."),
        ({"against": {}}, "x: against: {} is not one of latency, size."),
        (
            {"against": "size", "pruner": {"name": "hyperband"}},
            "x: pruner.name: hyperband judges trials by one objective, and against = 'size' makes them two: promote or "
            "none.",
        ),
        ({"limits": 5.0}, "x: limits: 5.0 is not a table: write [limits]."),
        ({"limits": {"memory": 1}}, "x: limits.memory: the key is not one of latency, size."),
        ({"limits": {"latency": 0}}, "x: limits.latency: 0 is not a number from 0.001 to 1000000."),
        ({"limits": {"latency": -1.5}}, "x: limits.latency: -1.5 is not a number from 0.001 to 1000000."),
        ({"limits": {"size": "20 MB"}}, "x: limits.size: '20 MB' is not a number from 0.001 to 1000000."),
        ({"limits": {"size": True}}, "x: limits.size: True is not a number from 0.001 to 1000000."),
        ({"limits": {"size": float("nan")}}, "x: limits.size: nan is not a number from 0.001 to 1000000."),
        ({"limits": {"size": float("inf")}}, "x: limits.size: inf is not a number from 0.001 to 1000000."),
        ({"limits": {"size": [1]}}, "x: limits.size: [1] is not a number from 0.001 to 1000000."),
    ],
)
def test_what_two_objectives_and_limits_cannot_be_is_said(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BadDeclaration) as caught:
        from_table({**DEFAULT, **change}, where="x")
    assert str(caught.value) == sentence


@pytest.mark.parametrize("pruner", ["asha", "median", "patient", "wilcoxon"])
def test_limits_alone_go_with_every_pruner(pruner: str) -> None:
    table = {**DEFAULT, "pruner": {"name": pruner}}
    assert from_table({**table, "limits": {"latency": 5.0}}, where="x").weighs
    with pytest.raises(BadDeclaration, match="promote or none"):
        from_table({**table, "against": "size"}, where="x")
