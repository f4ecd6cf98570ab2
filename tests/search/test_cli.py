"""The command line: help, what it imports, how it says no, and what it prints of a finished study."""

from __future__ import annotations

import csv
import io
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import mlc_core
from search.cli import app
from search.cli.options import command
from search.study import open_study
from tests import small
from tests.search.test_paper import FIXED, OFF, PLAIN, UNUSED

COMMANDS = (
    *(str(command.name) for command in app.registered_commands),
    *(
        f"{group.name} {command.name}"
        for group in app.registered_groups
        if group.typer_instance is not None
        for command in group.typer_instance.registered_commands
    ),
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder with a study of three finished trials, the first a documented one, and a fourth that waits."""
    folder = tmp_path_factory.mktemp("finished")
    storage = f"sqlite:///{folder}/search.db"
    file = small.declare(folder, epochs=1, pruner="none", large_batches=False)
    small.call("enqueue-paper-trials", "--only", "5", "--study", file, folder=folder, storage=storage)
    small.call("run", "--study", file, "--trials", 3, "--workers", 1, folder=folder, storage=storage)
    small.call("enqueue-paper-trials", "--only", "2,5", "--study", file, folder=folder, storage=storage)
    return folder, storage


def look(finished: tuple[Path, str], *words: object) -> str:
    folder, storage = finished
    return small.call(*words, folder=folder, storage=storage).stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_each_commands_examples_are_commands_that_it_would_take(name: str, tmp_path: Path) -> None:
    helped = small.call(*name.split(), "--help", folder=tmp_path, storage="").stdout
    examples = re.findall(r"Example: (.+)", helped)
    assert examples
    for example in examples:
        words = shlex.split(example)
        while "=" in words[0]:
            words.pop(0)  # a variable before the command

        assert " ".join(words).startswith(f"mlc-search {name}")
        small.call(*words[1:], "--help", folder=tmp_path, storage="")
        for option in (word for word in words if word.startswith("--")):
            assert option in helped


def test_help_imports_neither_torch_nor_optuna_nor_numpy(tmp_path: Path) -> None:
    code = (
        "import sys; from search.cli import app; app(['--help'], standalone_mode=False); "
        "print({'torch', 'optuna', 'numpy', 'sqlalchemy'} & set(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "enqueue-paper-trials" in done.stdout
    assert done.stderr.strip() == "set()"


@pytest.mark.parametrize("words", [["status"], ["trials"], ["best"], ["compare-paper"], ["studies"]])
def test_looking_at_a_study_imports_no_torch(finished: tuple[Path, str], words: list[str]) -> None:
    folder, storage = finished
    study = [] if words == ["studies"] else ["--study", "small"]
    code = (
        "import sys; from search.cli import app; "
        f"app({[*words, *study, '--storage', storage]}, standalone_mode=False); "
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-P", "-c", code], cwd=folder, check=True, capture_output=True)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["status"], "no search has been started in it yet. Start a search with mlc-search run"),
        (["run", "--study", "nope"], "There is no study 'nope'."),
        (["run", "--study", "nope.toml"], "nope.toml: file: it cannot be read: No such file or directory."),
        (["run", "--trials", "0"], "--trials"),
        (["run", "--workers", "two"], "for --workers: 'two' is not auto or a whole number from 0 to 256."),
        (["run", "--timeout", "soon"], "'soon' is not a duration such as 90, 15m or 2h."),
        (["run", "--epochs", "0"], "Invalid value for '--epochs': "),
        (["run", "--storage", "mysql://h/d"], "names mysql, which mlc-search does not speak"),
        (["run", "--storage", "sqlite:////no/such/folder/x.db"], "The folder /no/such/folder is not there."),
        (["run", "--artifacts", "/dev/null/x"], "The artifact folder /dev/null/x cannot be made: Not a directory."),
        (["enqueue-paper-trials", "--only", "2,x"], "'2,x' is not a list of numbers such as 2,4."),
        (["enqueue-paper-trials", "--only", "7"], "--only 7: the document has trials 1, 2, 3, 4, 5."),
        (["trials", "--csv", "--json"], "--csv and --json: choose one."),
        (["fit", "lr"], "'lr' is not KEY=VALUE, such as lr=1e-3."),
        (["fit", "lr=fast"], "lr: 'fast' is not a number in (0, 10]."),
        (["fit", "lr=nan"], "lr: nan is not a number in (0, 10]."),
        (["fit", "optimiser=adam"], "optimiser: 'adam' is not a known parameter"),
        (["fit", "scheduler=step", "t_max=3"], "It belongs to cosine."),
        (["fit", "--paper", "6"], "--paper 6: the document has trials 1, 2, 3, 4, 5."),
        (["fit", "--objective", "mapp"], "objective: 'mapp' is not one of bce, macro_f1, map. Did you mean 'map'?"),
        (["fit", "--device", "tpu"], "device: 'tpu' is not one of auto, cpu, cuda, cuda:N."),
    ],
)
def test_a_mistake_is_answered_by_a_sentence_without_a_traceback(
    tmp_path: Path, words: list[str], sentence: str
) -> None:
    storage = f"sqlite:///{tmp_path}/search.db"
    done = small.call(*words, folder=tmp_path, storage=storage, code=2)
    assert sentence in " ".join(done.stderr.replace("│", " ").split())
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_parameter_of_another_loss_is_warned_of_once_and_no_error(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path}/search.db"
    idle = "Warning: focal_gamma has no effect: it belongs to loss = focal, and the loss is bce.\n"
    words = ("image_size=8", "batch_size=1000", "--epochs", 1)
    fit = small.call("fit", "focal_gamma=1", *words, folder=tmp_path, storage=storage)
    assert fit.stderr.startswith(idle)
    assert fit.stderr.count("Warning") == 1
    assert "Warning" not in small.call("fit", "focal_gamma=1", "loss=focal", *words, folder=tmp_path, storage="").stderr
    file = small.declare(tmp_path, epochs=1)
    file.write_text(f"{file.read_text()}focal_gamma = 1.0\n")
    run = small.call("run", "--study", file, "--trials", 2, "--workers", 1, folder=tmp_path, storage=storage)
    assert run.stderr.count(idle) == run.stderr.count("Warning") == 1


def test_fit_prints_the_objective_that_it_is_asked_for(tmp_path: Path) -> None:
    words = ("fit", "image_size=8", "batch_size=500", "lr=1e-2", "--epochs", 2, "--objective", "macro_f1")
    done = small.call(*words, "--json", folder=tmp_path, storage="")
    told = json.loads(done.stdout)
    shown = [float(line.split("macro_f1 ")[1].split()[0]) for line in done.stderr.splitlines()]
    assert told["objective"] == "macro_f1"
    assert max(shown) == pytest.approx(told["value"], abs=1e-4)
    losses = [float(line.split("validation ")[1].split()[0]) for line in done.stderr.splitlines()]
    assert losses[shown.index(max(shown))] == pytest.approx(told["val_loss"], abs=1e-4)


def test_a_study_run_with_other_epochs_says_what_differs(finished: tuple[Path, str]) -> None:
    folder, storage = finished
    done = small.call("run", "--study", "small", "--epochs", 3, folder=folder, storage=storage, code=2)
    assert "Study 'small' was started with another declaration:\n  epochs: 1, now 3\n" in done.stderr


def test_status_counts_the_trials_and_names_the_best(finished: tuple[Path, str]) -> None:
    status = json.loads(look(finished, "status", "--study", "small", "--json"))
    best = json.loads(look(finished, "best", "--study", "small", "--json"))["leaderboard"]
    assert status["trials"] == {
        "complete": 3, "pruned": 0, "running": 0, "paused": 0, "waiting": 1, "failed": 0, "finished": 3,
    }  # fmt: skip
    assert [row["value"] for row in best] == sorted(row["value"] for row in best)
    assert status["best"] == best[0]
    assert "Study small: 3 complete, 0 pruned, 0 running, 1 waiting" in look(finished, "status", "--study", "small")


def test_trials_are_filtered_and_sorted_alike_in_each_form(finished: tuple[Path, str]) -> None:
    words = ("trials", "--study", "small", "--state", "complete", "--sort", "value")
    rows = json.loads(look(finished, *words, "--json"))
    lines = list(csv.DictReader(io.StringIO(look(finished, *words, "--csv"))))
    table = look(finished, *words)

    assert [row["value"] for row in rows] == sorted(row["value"] for row in rows)
    assert [int(line["number"]) for line in lines] == [row["number"] for row in rows]
    assert [float(line["lr"]) for line in lines] == [row["params"]["lr"] for row in rows]
    assert [int(line.split()[0]) for line in table.splitlines()[2:]] == [row["number"] for row in rows]
    assert [row["paper"] for row in json.loads(look(finished, "trials", "--study", "small", "--paper", "--json"))] == [
        5,
        2,
    ]


def test_a_trial_is_shown_whole_and_one_that_is_not_there_is_said_so(finished: tuple[Path, str]) -> None:
    shown = look(finished, "show", 0, "--study", "small")
    for piece in ("paper 5", "complete", "1 of 1", "dropout", "0.48", "cosine"):
        assert piece in shown
    folder, storage = finished
    done = small.call("show", 9, "--study", "small", folder=folder, storage=storage, code=2)
    assert done.stderr == "Error: Study 'small' has no trial 9. It has the trials 0 to 3.\n"


def test_the_paper_comparison_shows_assumptions_and_says_that_the_data_differ(finished: tuple[Path, str]) -> None:
    comparison = json.loads(look(finished, "compare-paper", "--study", "small", "--json"))
    text = look(finished, "compare-paper", "--study", "small")
    assert [row["documented_loss"] for row in comparison["rows"]] == [0.0516, 0.0330, 0.0419, 0.0481, 0.0440]
    assert [row["state"] for row in comparison["rows"]] == [
        "not enqueued",
        "waiting",
        *["not enqueued"] * 2,
        "complete",
    ]
    assert comparison["rank_correlation"] is None
    assert "step_size=5 gamma=0.1" in text
    assert "the replays train on others: only the order can be compared" in text


def test_studies_lists_each_with_its_figures(finished: tuple[Path, str]) -> None:
    (row,) = json.loads(look(finished, "studies", "--json"))
    assert (row["study"], row["trials"]["complete"]) == ("small", 3)
    assert "small" in look(finished, "studies")


def test_fit_prints_the_loss_that_mlc_core_returns(tmp_path: Path) -> None:
    words = ("batch_size=1000", "image_size=8", "lr=5e-3", "--epochs", 2, "--seed", 3, "--threads", 1)
    printed = small.call("fit", *words, "--precision", "fp32", folder=tmp_path, storage="")
    expected = mlc_core.fit(
        {"batch_size": 1000, "image_size": 8, "lr": 5e-3}, epochs=2, seed=3, threads=1, precision="fp32"
    )
    assert float(printed.stdout) == expected
    assert printed.stderr.count("epoch ") == 2


def test_fit_starts_from_a_documented_trial(tmp_path: Path) -> None:
    words = ("--paper", 4, "batch_size=1000", "image_size=8", "--epochs", 1, "--json")
    printed = json.loads(small.call("fit", *words, folder=tmp_path, storage="").stdout)
    assert printed["params"] == {
        **PLAIN, **UNUSED, **FIXED, **OFF,
        "optimizer": "adamw", "lr": 1e-4, "weight_decay": 5e-4, "dropout": 0.45, "scheduler": "cosine", "t_max": 35,
        "batch_size": 1000, "image_size": 8,
    }  # fmt: skip


def test_delete_asks_first_and_takes_the_files_with_it(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path}/search.db"
    file = small.declare(tmp_path, epochs=1)
    small.call("run", "--study", file, "--trials", 1, "--workers", 1, folder=tmp_path, storage=storage)
    root = tmp_path / "mlc-search-artifacts"
    before = [path for path in root.rglob("*") if path.is_file()]

    small.call("delete", "small", folder=tmp_path, storage=storage, code=1, stdin="n\n")
    kept = [path for path in root.rglob("*") if path.is_file()]
    said = small.call("delete", "small", folder=tmp_path, storage=storage, stdin="y\n").stderr

    assert len(before) == 2  # the weights and the curves
    assert kept == before
    assert "Delete study 'small' (1 complete, 0 pruned, 0 running) and its files?" in said
    assert [path for path in root.rglob("*") if path.is_file()] == []
    assert json.loads(small.call("studies", "--json", folder=tmp_path, storage=storage).stdout) == []


def test_a_study_whose_trials_run_is_not_deleted_unless_forced(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path}/search.db"
    with open_study(str(small.declare(tmp_path)), storage, create=True) as study:
        study.ledger.open_budget(1)
        study.ledger.claim("somebody")
    done = small.call("delete", "small", "--yes", folder=tmp_path, storage=storage, code=2)
    assert "Study 'small' has 1 running trials. Stop its workers first, or pass --force." in done.stderr
    small.call("delete", "small", "--yes", "--force", folder=tmp_path, storage=storage)
    assert json.loads(small.call("studies", "--json", folder=tmp_path, storage=storage).stdout) == []


def test_a_command_to_copy_leaves_out_defaults_and_passwords_and_is_quoted() -> None:
    said = command("run", "--study", "my study", "--epochs", None, "--storage", "postgresql://me:secret@h/d")
    assert said == "mlc-search run --study 'my study' --storage URL"
    assert (
        command("run", "--study", "default", "--storage", "sqlite:////x.db")
        == "mlc-search run --storage sqlite:////x.db"
    )


def test_the_version_is_the_installed_one(tmp_path: Path) -> None:
    assert small.call("--version", folder=tmp_path, storage="").stdout == "mlc-search 0.1.0\n"
