"""Advice on studies whose truth is known, and its figures against references."""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from search.advice import Advised, advise
from search.bounds import place, spelled, value_at, wider, written
from search.confirm import Confirmed, compare
from search.declaration import Range, built_in, from_table
from search.effects import confounders, effect, holm
from search.evidence import LEAST, Advice, Change, comparable, toml
from search.learnings import rises
from search.stability_advice import jumps, stability_advice
from search.study import DIVERGED, Study, open_study
from search.trials import PAPER
from search.views import TrialRow, trial_rows
from tests.search.test_importance import add, by_chance, curve, fill
from tests.search.test_views import row
from tests.small import call

DEFAULT = built_in("default")


@pytest.fixture
def study(tmp_path: Path) -> Iterator[Study]:
    with open_study("default", f"sqlite:///{tmp_path}/search.db", create=True) as opened:
        yield opened


def found(advised: Advised, about: str) -> Advice:
    return next(one for one in advised.findings if one.about == about)


def changed(advised: Advised) -> dict[str, Any]:
    """Read the lines as a study's file, laid over the default one's space."""
    lines = tomllib.loads(advised.toml)
    table = DEFAULT.to_table()
    space = {**table["space"], **lines.pop("space", {})}
    declared = from_table({**table, **lines, "space": space}, where="advice")
    return {**declared.space, "epochs": declared.epochs}


def test_a_range_whose_end_is_best_is_to_be_widened_and_its_poor_part_left_out(study: Study) -> None:
    def losses(params: Mapping[str, Any], random: np.random.Generator) -> list[float]:
        return curve(0.1 * (params["lr"] / 1e-2) ** -0.5 * math.exp(0.05 * random.normal()))

    fill(study, 60, losses)
    advised = advise(study, [])

    lr = changed(advised)["lr"]
    assert lr.high > 1e-2
    assert 1e-5 < lr.low < 1e-2
    assert lr.log
    about = [one for one in advised.findings if one.about == "lr"]
    assert {one.figures["end"] for one in about} == {"low", "high"}
    assert all(one.verdict == "change" and one.trials == 60 and one.evidence for one in about)


def test_a_choice_that_never_came_to_anything_is_to_be_left_out(study: Study) -> None:
    def losses(params: Mapping[str, Any], random: np.random.Generator) -> list[float]:
        poor = params["batch_size"] == 128 or params["scheduler"] == "step"
        return curve((0.3 if poor else 0.1) * math.exp(0.05 * random.normal()))

    fill(study, 100, losses)
    advised = advise(study, [])
    assert changed(advised)["batch_size"].values == (16, 32, 64, 80)
    assert "# leave out [space.scheduler.step]" in advised.toml


@pytest.mark.parametrize("seed", range(4))
def test_chance_gives_no_advice(study: Study, seed: int) -> None:
    fill(study, 60, by_chance, seed=seed)
    advised = advise(study, [])
    assert [one.said for one in advised.findings if one.topic == "range" and one.verdict == "change"] == []
    assert [one.said for one in advised.findings if one.topic == "learned" and one.verdict == "found"] == []


def test_what_only_goes_with_a_good_learning_rate_is_not_taken_for_better(study: Study) -> None:
    random = np.random.default_rng(0)
    for at in range(60):
        optimizer = "adamw" if at % 2 else "adam"
        lr = 10 ** random.normal(-3 if optimizer == "adamw" else -3.7, 0.4)
        level = 0.1 * math.exp(0.8 * math.log10(lr / 1e-3) ** 2 + 0.05 * random.normal())
        add(study, {"optimizer": optimizer, "lr": lr, "scheduler": "step"}, curve(level))
    rows = trial_rows(study)
    means = {
        name: np.mean([math.log(one.value or 1) for one in rows if one.params["optimizer"] == name])
        for name in ("adam", "adamw")
    }
    assert means["adamw"] < means["adam"] - 0.2  # as plain means have it
    assert found(advise(study, []), "AdamW against Adam, how good").verdict == "open"


def test_an_effect_is_found_with_its_size_and_set_beside_the_document(study: Study) -> None:
    def losses(params: Mapping[str, Any], random: np.random.Generator) -> list[float]:
        level = 0.1 * (0.7 if params["optimizer"] == "adamw" else 1.0) * (params["weight_decay"] / 1e-4) ** -0.1
        level *= math.exp(0.8 * math.log10(params["lr"] / 1e-3) ** 2 + 0.05 * random.normal())
        return [level] * 12

    fill(study, 80, losses)
    advised = advise(study, [])

    better = found(advised, "AdamW against Adam, how good")
    low, size, high = (better.figures[key] for key in ("low", "effect", "high"))
    assert isinstance(low, float)
    assert isinstance(high, float)
    assert low < math.log(0.7) < high
    assert size == pytest.approx(math.log(0.7), abs=0.1)
    assert better.figures["agrees"] is False  # the document found AdamW not much better
    assert "lr" in str(better.figures["at_equal"])
    assert (better.verdict, better.trials) == ("found", 80)
    decay = found(advised, "weight decay, how good")
    assert decay.figures["effect"] == pytest.approx(-0.1 * math.log(10), abs=0.05)  # tenfold
    assert (decay.verdict, decay.figures["agrees"]) == ("found", True)


def test_of_too_few_trials_nothing_is_advised(study: Study) -> None:
    fill(study, 4, by_chance)
    advised = advise(study, [])
    assert {one.verdict for one in advised.findings} == {"too few"}
    assert advised.toml == ""
    assert not advised.sample.enough


def test_trials_are_compared_at_one_epoch_whatever_became_of_them(study: Study) -> None:
    for at in range(30):
        add(study, {"lr": 1e-3, "scheduler": "step"}, curve(0.1)[:4], state="PRUNED" if at else "WAITING")
    for _ in range(5):
        add(study, {"lr": 1e-3, "scheduler": "step"}, curve(0.2))
    add(study, {"lr": 1e-2, "scheduler": "step"}, [], state="PRUNED", attributes={DIVERGED: "epoch 1: the loss is nan"})
    add(study, {"lr": 1e-4, "scheduler": "step"}, curve(0.01), attributes={PAPER: 1})
    add(study, {"lr": 1e-4, "scheduler": "step"}, curve(0.01)[:2], state="PRUNED")
    sample = comparable(study, trial_rows(study))
    assert (sample.epoch, len(sample.rows), sample.complete) == (4, 36, 5)
    assert (sample.diverged, sample.short, sample.paper) == (1, 1, 1)
    assert sample.costs[0] == pytest.approx(curve(0.1)[3])
    assert sample.costs[-1] == max(sample.costs)  # the diverged one


def test_diverged_jumping_and_overfit_trials_are_named() -> None:
    rows = [row(at, value=0.1, reports=dict(enumerate(curve(0.1), 1)), params={"lr": 1e-4}) for at in range(6)]
    up = [*curve(0.1)[:6], *(0.2 + 0.01 * at for at in range(6))]
    rows.append(row(6, value=min(up), reports=dict(enumerate(up, 1)), params={"lr": 1e-4}))
    rows += [row(at, "pruned", note="epoch 1: the loss is nan", params={"lr": 1e-2}) for at in (7, 8, 9)]
    told = {one.about: one for one in stability_advice(DEFAULT, rows, [])}
    assert told["divergence"].figures["diverged"] == [7, 8, 9]
    assert "higher than the others" in told["divergence"].said
    assert told["loss jumps"].figures["jumped"] == ([6] if jumps(up) else [])
    assert told["overfitting"].figures["overfit"] == [6]
    assert told["overfitting"].figures["best_epoch"] == 6


def test_trials_that_still_learn_want_more_epochs() -> None:
    steep = {epoch: 0.5 * 0.9**epoch for epoch in range(1, 13)}
    rows = [row(at, value=steep[12], reports=steep) for at in range(8)]
    (advice,) = (one for one in stability_advice(DEFAULT, rows, []) if one.verdict == "change")
    assert advice.change == Change(table="", key="epochs", text="18")
    assert advice.figures["fall"] == pytest.approx(1 - 0.9**3)


def test_a_trial_that_hangs_on_its_seed_more_than_others_is_named() -> None:
    rows = [row(at, value=0.1 + at / 1000) for at in range(3)]
    steady = {1: 0.100, 2: 0.101, 3: 0.102, 4: 0.101, 5: 0.1}
    wild = {1: 0.10, 2: 0.16, 3: 0.07, 4: 0.13, 5: 0.05}
    confirmed = [
        Confirmed(trial=one, values=values, missing=0, objective="bce")
        for one, values in zip(rows, (steady, steady, wild), strict=True)
    ]
    told = [one for one in stability_advice(DEFAULT, rows, compare(confirmed)) if one.about == "seeds"]
    assert told[1].figures["trial"] == 2
    assert len(told) == 2
    pooled = math.sqrt(np.mean([np.var(list(one.values()), ddof=1) for one in (steady, steady, wild)]))
    assert told[0].figures["spread"] == pytest.approx(pooled)


def test_an_effect_alone_is_a_regressions_slope_and_its_p_close_to_students() -> None:
    for seed in range(5):
        random = np.random.default_rng(seed)
        x = random.normal(size=40)
        y = 0.3 * x + random.normal(size=40)
        seen, theirs = effect(y.tolist(), x.tolist(), {}), stats.linregress(x, y)
        assert seen is not None
        assert seen.size == pytest.approx(theirs.slope)
        assert seen.p == pytest.approx(theirs.pvalue, abs=0.03)
        assert seen.low < seen.size < seen.high


def test_an_effect_at_equal_others_is_that_of_all_in_one_regression() -> None:
    random = np.random.default_rng(0)
    other, noise = random.normal(size=50), random.normal(size=50)
    x = other + 0.5 * random.normal(size=50)
    y = 2 * other + 0.1 * x + 0.1 * noise
    whole, *_ = np.linalg.lstsq(np.column_stack([x, other, np.ones(50)]), y, rcond=None)
    seen = effect(y.tolist(), x.tolist(), {"other": other[:, None]})
    assert seen is not None
    assert seen.size == pytest.approx(whole[0])
    assert effect(y.tolist(), other.tolist(), {"other": other[:, None]}) is None
    assert effect(y.tolist(), [1.0] * 50, {}) is None


@given(st.lists(st.floats(0, 1), max_size=12))
def test_adjusted_p_values_are_never_smaller_keep_their_order_and_the_smallest_is_bonferronis(p: list[float]) -> None:
    adjusted = holm(p)
    assert all(one <= now <= 1 for one, now in zip(p, adjusted, strict=True))
    order = np.argsort(p, kind="stable")
    assert sorted(adjusted) == [adjusted[at] for at in order]
    if p:
        assert min(adjusted) == pytest.approx(min(1, len(p) * min(p)))


def test_holms_correction_is_the_textbooks() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_the_learning_rate_is_always_equal_and_others_while_trials_last() -> None:
    random = np.random.default_rng(0)

    def rows(count: int) -> list[TrialRow]:
        return [
            row(at, params={"optimizer": "adam", "lr": random.uniform(1e-5, 1e-2), "dropout": random.uniform(0, 0.6)})
            for at in range(count)
        ]

    keys = ["optimizer", "dropout", "lr"]
    assert [*confounders(rows(10), "optimizer", keys)] == ["lr"]
    assert [*confounders(rows(60), "optimizer", keys)] == ["lr", "dropout"]
    assert [*confounders(rows(60), "lr", keys)] == ["dropout"]


RANGES = st.sampled_from([Range(1e-5, 1e-2, log=True), Range(0.0, 0.6), Range(6, 40), Range(0.0, 0.6, step=0.1)])


@given(RANGES, st.floats(-0.5, 1.5))
def test_a_place_and_the_value_there_say_the_same(domain: Range, at: float) -> None:
    assert place(domain, value_at(domain, at)) == pytest.approx(at, abs=1e-9)


@pytest.mark.parametrize(
    ("key", "domain", "end", "bound"),
    [
        ("lr", Range(1e-5, 1e-2, log=True), "high", 0.1),
        ("dropout", Range(0.0, 0.6), "high", 0.75),
        ("dropout", Range(0.0, 0.6), "low", None),  # there is no less
        ("dropout", Range(0.0, 0.95), "high", None),
        ("t_max", Range(6, 40), "high", 49),
        ("patience", Range(0, 5), "low", None),
        ("dropout", Range(0.0, 0.6, step=0.1), "high", 0.8),
    ],
)
def test_an_end_moves_as_far_as_its_parameter_may_go(key: str, domain: Range, end: str, bound: float | None) -> None:
    seen = wider(domain, key, end)
    assert seen == (bound if bound is None else pytest.approx(bound))
    if seen is not None:
        line = f"{key} = {written(replace(domain, low=seen) if end == 'low' else replace(domain, high=seen), key)}"
        table = tomllib.loads(line)[key]
        assert table[end] == seen
        assert isinstance(table[end], int if key == "t_max" else float)


def test_lines_of_one_table_stand_together_below_what_belongs_to_the_top() -> None:
    changes = [
        Change(table="space.scheduler.cosine", key="t_max", text="{ low = 6, high = 50 }"),
        Change(table="space", key="optimizer", text=f"[{spelled('adam')}]"),
        Change(table="", key="epochs", text="18"),
        Change(table="space", key="optimizer", text=f"[{spelled('adam')}]"),
    ]
    assert tomllib.loads(toml(changes)) == {
        "epochs": 18,
        "space": {"optimizer": ["adam"], "scheduler": {"cosine": {"t_max": {"low": 6, "high": 50}}}},
    }
    assert toml(changes).count("optimizer") == 1


@given(st.lists(st.floats(0.01, 10), min_size=1, max_size=12))
def test_a_curve_that_only_falls_does_not_rise_and_none_rises_less_than_its_end(losses: list[float]) -> None:
    assert rises(sorted(losses, reverse=True)) == 0
    assert rises(losses) >= math.log(losses[-1] / losses[0]) - 1e-9


def test_the_command_prints_findings_and_lines_for_the_file_or_json(study: Study, tmp_path: Path) -> None:
    def losses(params: Mapping[str, Any], random: np.random.Generator) -> Sequence[float]:
        return curve(0.1 * (params["lr"] / 1e-2) ** -0.5 * math.exp(0.05 * random.normal()))

    storage = f"sqlite:///{tmp_path}/search.db"
    assert "too few" in call("advise", folder=tmp_path, storage=storage).stdout
    fill(study, 40, losses)
    drawn = call("advise", folder=tmp_path, storage=storage).stdout
    told = json.loads(call("advise", "--json", folder=tmp_path, storage=storage).stdout)
    assert tomllib.loads(told["toml"])["space"]["lr"]["high"] > 1e-2
    assert drawn.endswith(told["toml"] + "\n")
    assert "The document: The plateau scheduler smoothed early training" in drawn
    assert told["compared"]["trials"] == 40 >= LEAST
    assert {one["topic"] for one in told["findings"]} == {"range", "stability", "learned"}
