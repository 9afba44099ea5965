from __future__ import annotations

import errno
import json
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from PIL import Image

from ovseg_ray import cli
from ovseg_ray.cli import main
from ovseg_ray.errors import UserError
from ovseg_ray.methods.registry import method_names
from ovseg_ray.serving.config import ServingConfig

VERBS = (
    "demo", "world", "train", "evaluate", "predict", "doctor", "config", "table", "data check", "convert lseg",
    "convert stego", "name", "neighbours build", "neighbours serve", "neighbours query", "neighbours add", "embed",
    "serve", "token", "tune", "calibrate",
)  # fmt: skip
REPOSITORY = Path(__file__).parents[1]


def help_of(verb: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert main([*verb.split(), "--help"]) == 0
    return capsys.readouterr().out


def parses(words: list[str]) -> None:
    """Raise what the parser would, without running the verb."""
    command = typer.main.get_command(cli.app)
    with command.make_context("ovseg-ray", list(words)) as context:
        while context.command is not None and hasattr(context.command, "resolve_command"):
            name, child, rest = context.command.resolve_command(context, [*context._protected_args, *context.args])
            context = child.make_context(name, list(rest), parent=context)


@pytest.mark.parametrize("verb", VERBS)
def test_help_shows_an_example_that_parses(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = help_of(verb, capsys)
    examples = re.findall(r"^\s+ovseg-ray (.+)$", text.partition("Examples:")[2], re.MULTILINE)
    assert any(example.startswith(verb) for example in examples), text
    for example in examples:
        parses(shlex.split(example))


@pytest.mark.parametrize("verb", ["world", "train", "evaluate", "predict", "doctor", "demo", "embed", "serve", "tune"])
def test_verbs_that_use_ray_take_an_address(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--address" in help_of(verb, capsys)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_takes_debug(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--debug" in help_of(verb, capsys)


def test_train_help_names_the_methods(capsys: pytest.CaptureFixture[str]) -> None:
    text = help_of("train", capsys)
    assert all(name in text for name in method_names())


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["predict", "--nonsense"]])
def test_no_heavy_import_before_a_verb_runs(words: list[str]) -> None:
    code = (
        "import sys; from ovseg_ray.cli import main; main(sys.argv[1:]); "
        "found = {'torch', 'ray', 'transformers', 'pyarrow', 'numpy'} & set(sys.modules); "
        "sys.exit(', '.join(found) or 0)"
    )
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr
    assert time.perf_counter() - started < 5, "--help takes 0.3 s on an idle machine"


# a command line, and what its one line must hold
MISTAKES = [
    ("", "Usage: ovseg-ray"),
    ("trian lseg", "did you mean 'train'"),
    ("train", "missing argument 'METHOD'; see 'ovseg-ray train --help'"),
    ("train lseg", "--out"),
    ("train lseg --out x --worker 2", "did you mean --workers?"),
    ("train lseg --out x --workers 0", "--workers 0: give a number of at least 1"),
    ("train lseg --out x --workers 4:1", "the least and the most, such as 1:4"),
    ("train lseg --out x --workers many", "--workers many"),
    ("train lseg --out x --set epochs", "--set epochs: write key=value"),
    ("train lseg --out x --set training.epoch=5", "did you mean 'training.epochs'"),
    ("train lseg --out x --set lr=1", "did you mean 'training.optimizer.lr'"),
    ("train lseg --out x --set model.crop=64", "did you mean 'augmentation.crop'"),
    ("train lseg --out x --set training.epochs=-1", "training.epochs"),
    ("train lsge --out x", "did you mean 'lseg'"),
    ("train lseg --out x --config lsegg", "did you mean the preset 'lseg'"),
    ("config lsge", "did you mean 'lseg'"),
    ("tune lsge --out x", "did you mean 'lseg'"),
    ("tune lseg --out x --trials 0", "--trials"),
    ("tune lseg --out x --space nowhere.yaml", "nowhere.yaml"),
    ("world x --scenes many", "--scenes"),
    ("world x --scenes 0", "--scenes"),
    ("world x --address 127.0.0.1:1", "--address 127.0.0.1:1"),
    ("evaluate run --data nowhere --out x.json", "nowhere: no such directory"),
    ("evaluate run --data . --out x.json --labels a --vocabulary b", "give one of them"),
    ("predict run x.jpg --out x", "--labels"),
    ("predict run x.jpg --out x --vocabulary nowhere.yaml", "nowhere.yaml"),
    ("table nowhere.json", "nowhere.json"),
    ("data", "missing command"),
    ("data chek x", "did you mean 'check'"),
    ("data check nowhere", "nowhere: no such directory"),
    ("embed nowhere x", "nowhere: no such directory"),
    ("embed . x --size 70", "must be a multiple of 32, such as 64"),
    ("embed . x --stride 5", "stride"),
    ("neighbours build nowhere x.parquet", "nowhere: no such file"),
    ("neighbours build . x.parquet", "holds no parquet"),
    ("neighbours build x x.parquet --memory lots", "--memory lots"),
    ("neighbours build x x.parquet --index ivff", "--index"),
    ("serve", "nothing to serve; give a run, or --config FILE with models"),
    ("serve nowhere", "nowhere: no such run"),
    ("serve . --min-replicas 2 --max-replicas 1", "min_replicas = 2 is more than max_replicas = 1"),
    ("serve . --haproxy --address auto", "a cluster decides that when it starts"),
    ("serve . --config nowhere.yaml", "nowhere.yaml: No such file"),
    ("convert", "missing command"),
    ("convert lsge x.ckpt run", "did you mean 'lseg'"),
    ("convert lseg nowhere.ckpt run", "nowhere.ckpt: no such file"),
    ("convert lseg nowhere.ckpt run --readout both", "--readout"),
    ("convert lseg nowhere.ckpt run --vocabulary ade20k-15", "did you mean 'ade20k-150'"),
]


@pytest.mark.parametrize(("line", "expected"), MISTAKES, ids=[line or "(nothing)" for line, _ in MISTAKES])
def test_mistakes_get_one_line_and_exit_code_2(
    line: str, expected: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(shlex.split(line)) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert expected in captured.err
    assert "Traceback" not in captured.err
    if line:
        assert captured.err.startswith("error: ")
        assert captured.err.count("\n") == 1, captured.err
    assert not any(tmp_path.iterdir()), "a mistake left something behind"


def fails_with(error: BaseException) -> Callable[..., Any]:
    def run(*_: object, **__: object) -> None:
        raise error

    return run


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (UserError("a.jpg: damaged image;\nreplace it"), 2, "error: a.jpg: damaged image; replace it\n"),
        (OSError(errno.ENOSPC, "No space left on device", "/out/x"), 2, "error: /out/x: no space left on the device"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (ZeroDivisionError("division by zero"), 1, "error: this is a bug: ZeroDivisionError: division by zero"),
    ],
    ids=["mistake", "full disk", "Ctrl-C", "bug"],
)
def test_errors_of_a_verb(
    error: BaseException, code: int, said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ovseg_ray.evaluation.result.read_result", fails_with(error))
    assert main(["table", "x.json"]) == code
    captured = capsys.readouterr().err
    assert captured.startswith(said)
    assert captured.count("\n") == 1


@pytest.mark.parametrize("words", [["--debug", "table", "x.json"], ["table", "x.json", "--debug"]])
def test_debug_shows_the_traceback(
    words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ovseg_ray.evaluation.result.read_result", fails_with(UserError("mend this")))
    assert main(words) == 2
    captured = capsys.readouterr().err
    assert "Traceback" in captured
    assert captured.endswith("error: mend this\n")


def test_whoever_watches_a_terminal_gets_a_first_word(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["predict", "no-run", "no.jpg", "--labels", "sky", "--out", "x"]
    assert main(words) == 2
    assert "loading" not in capsys.readouterr().err
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert main(words) == 2
    assert capsys.readouterr().err.startswith("loading libraries\nerror: ")


@pytest.mark.parametrize("terminal", [True, False])
def test_predict_says_what_it_loads_and_where_results_are(
    terminal: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from ovseg_ray.evaluation.predict import PredictionSummary

    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.json").touch()
    (tmp_path / "a.jpg").touch()

    def predict(model: Path, files: list[Path], labels: Any, out: Path, **_: Any) -> PredictionSummary:
        assert (model, files) == (tmp_path / "model", [tmp_path / "a.jpg"])
        return found

    monkeypatch.setattr("ovseg_ray.evaluation.predict.predict", predict)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    words = ["predict", ".", "a.jpg", "--labels", "sky", "--out", "x"]
    found = PredictionSummary(tmp_path / "x", 1, ())
    assert main(words) == 0
    captured = capsys.readouterr()
    assert captured.err == ("loading libraries\nloading .\n" if terminal else "")
    assert json.loads(captured.out) == {"out": str(tmp_path / "x"), "done": 1, "failed": []}
    found = PredictionSummary(tmp_path / "x", 0, (("a.jpg", "a.jpg: damaged"),))
    assert main(words) == 2
    assert json.loads(capsys.readouterr().out) == {"out": None, "done": 0, "failed": ["a.jpg"]}


def test_config_of_an_endpoint(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "serve"]) == 0
    values = yaml.safe_load(capsys.readouterr().out)
    assert ServingConfig(**values).limits.requests == values["limits"]["requests"]
    assert main(["config", "nonsense"]) == 2
    assert "clip, lseg, stego, serve" in capsys.readouterr().err


def test_config_prints_what_config_reads(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    from ovseg_ray.training.config import resolve_config

    for method in method_names():
        assert main(["config", method]) == 0
        file = tmp_path / f"{method}.yaml"
        file.write_text(capsys.readouterr().out)
        assert resolve_config(method, str(file), {}) == resolve_config(method, None, {})


def test_train_hands_everything_over(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from contextlib import nullcontext

    from ovseg_ray.run_directory import RunDirectory

    given: dict[str, Any] = {}

    def train(config: Any, out: Path, **options: Any) -> RunDirectory:
        given.update(config=config, out=out, **options)
        return RunDirectory(out)

    monkeypatch.setattr("ovseg_ray.training.train", train)
    monkeypatch.setattr("ovseg_ray.training.check", lambda *_, **__: None)
    monkeypatch.setattr(
        "ovseg_ray.cluster.connect", lambda address, debug: given.update(address=address) or nullcontext()
    )
    file = tmp_path / "own.yaml"
    file.write_text("data: {sources: [{path: elsewhere, split: half, held_out: [cat]}]}\ntraining: {epochs: 3}\n")
    words = f"train lseg --data {tmp_path} --out {tmp_path}/run --config {file} --set training.epochs=5 --workers 2"
    assert main([*words.split(), "--resume", "--address", "auto"]) == 0
    source = given["config"].data.sources[0]
    assert (source.path, source.split, source.held_out) == (str(tmp_path), "half", ["cat"])
    assert given["config"].training.epochs == 5
    assert (given["workers"], given["resume"], given["address"]) == (2, True, "auto")
    assert json.loads(capsys.readouterr().out)["run"] == f"{tmp_path}/run"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("train lseg --data a --out run", "run: already holds this run; add --resume to continue it"),
        ("train clip --data a --out run --resume", "run: already holds a different run (method differs)"),
        ("train lseg --data b --out run --resume", "run: already holds a different run (data.sources differs)"),
        (
            "train lseg --data a --out run --resume --set training.epochs=7",
            "run: already holds a different run (training.epochs differs)",
        ),
        ("train lseg --data a --out . --resume", ".: is not empty and holds no run"),
    ],
)
def test_a_run_that_cannot_go_on_is_told_before_ray_starts(
    words: str, said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ovseg_ray.run_directory import RunDirectory
    from ovseg_ray.training import resolve_config
    from ovseg_ray.training.train import with_absolute_paths

    monkeypatch.chdir(tmp_path)
    config = with_absolute_paths(resolve_config("lseg", None, {"data": {"sources": [{"path": "a"}]}}))
    RunDirectory.create(tmp_path / "run", config.model_dump(mode="json"), resume=False)
    monkeypatch.setattr("ovseg_ray.cluster.connect", fails_with(AssertionError("Ray was started")))
    assert main(words.split()) == 2
    assert capsys.readouterr().err.startswith(f"error: {said}")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("train lseg --data nowhere --out run", "nowhere: no such directory"),
        ("evaluate nowhere --data photos --out found.json", "nowhere: no such run"),
    ],
)
def test_paths_are_looked_at_before_ray_starts(
    words: str, said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "photos" / "a.png")
    monkeypatch.setattr("ovseg_ray.cluster.connect", fails_with(AssertionError("Ray was started")))
    assert main(words.split()) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("train lseg --data photos --out run", "what was saved is kept; continue with the same command and --resume\n"),
        ("embed photos features", "what was saved is kept; the same command goes on from there\n"),
        ("demo --out demo", "what was saved is kept; the same command goes on from there\n"),
    ],
)
def test_whoever_interrupts_hears_how_to_go_on(
    words: str, said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos" / "images" / "train").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "photos" / "images" / "train" / "a.png")
    if words.startswith("train"):
        monkeypatch.setattr("ovseg_ray.training.check", lambda *_, **__: None)
    monkeypatch.setattr("ovseg_ray.cluster.connect", fails_with(KeyboardInterrupt()))
    assert main(words.split()) == 130
    assert capsys.readouterr().err.endswith(said + "interrupted\n")


def test_resuming_nothing_is_told(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    from ovseg_ray.training import check, resolve_config

    check(resolve_config("lseg", None, {}), tmp_path / "run", resume=True)
    assert capsys.readouterr().err == f"{tmp_path}/run: there is no run to resume; a new one begins\n"
    assert not (tmp_path / "run").exists()


def test_data_sets_must_be_as_many_as_the_file_has(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("data: {sources: [{path: elsewhere}]}\n")
    assert main(["train", "lseg", "--data", "a", "--data", "b", "--out", "x", "--config", str(file)]) == 2
    assert "has 1 data.sources, but --data was given 2 times" in capsys.readouterr().err
