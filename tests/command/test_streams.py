"""Standard streams that are closed, full or gone; files are written whatever becomes of them."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from gradstep.train import loop as training

from tests.command.outcomes import table


def test_closed_stdout_is_told_before_the_training(train, run, untrained, monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    expected = (
        "gradstep: error: standard output: closed, "
        "expected an open one, such as a file or /dev/null\n"
    )
    assert train(code=2).err == run("info", code=2).err == run("bench", code=2).err == expected


def test_quiet_needs_no_stdout(train, folder, monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    assert train("--quiet", "--json", "result.json").err == ""
    assert (folder / "result.json").exists()


def test_closed_stderr_takes_nothing_from_stdout(train, monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    assert len(table(train().out)) == 1
    assert train("--epochs", "x", code=2).out == ""


class Stdout(io.TextIOWrapper):
    """Standard output that takes `lines` calls of write and then fails."""

    def __init__(self, lines, error, encoding="utf-8"):
        super().__init__(io.BytesIO(), encoding)
        self.lines, self.error = lines, error

    def write(self, text):
        self.lines -= 1
        if self.lines < 0:
            raise self.error
        return super().write(text)


FULL, GONE = OSError(28, "No space left on device"), BrokenPipeError(32, "Broken pipe")


def test_stdout_that_cannot_be_written_is_told_before_the_training(train, untrained, monkeypatch):
    monkeypatch.setattr(sys, "stdout", Stdout(0, FULL))
    assert train("--json", "result.json", code=2).err == (
        "gradstep: error: standard output: No space left on device, expected one to write to\n"
    )


def test_nothing_is_trained_for_nobody(train, untrained, monkeypatch):
    monkeypatch.setattr(sys, "stdout", Stdout(0, GONE))
    assert train(code=141).err == ""


@pytest.mark.parametrize(
    ("lines", "error", "code", "said"),
    [(0, GONE, 141, ""), (2, GONE, 141, ""), (2, FULL, 2, "gradstep: error: standard output: No")],
)
def test_files_are_written_whatever_becomes_of_stdout(
    train, folder, monkeypatch, lines, error, code, said
):
    monkeypatch.setattr(sys, "stdout", Stdout(lines, error))
    err = train("--json", "result.json", code=code).err
    assert err.startswith(said) and bool(err) == bool(said)
    assert json.loads((folder / "result.json").read_text())["runs"]


def test_stdout_of_any_encoding_will_do(train, monkeypatch):
    stdout = Stdout(100, None, "ascii")
    monkeypatch.setattr(sys, "stdout", stdout)
    train("--folds", "2")
    assert b"\\xb1" in stdout.buffer.getvalue()


def test_results_are_shown_and_other_files_written_if_one_cannot_be(train, folder):
    pytest.importorskip("matplotlib")
    done = train("--json", "/dev/full", "--output", "x.svg", code=2)
    assert done.err == (
        "gradstep: error: --json: /dev/full: No space left on device, nothing written there\n"
    )
    assert len(table(done.out)) == 1 and (folder / "x.svg").exists()


def test_a_file_that_is_replaced_stays_until_the_results_are_there(train, folder, monkeypatch):
    (folder / "result.json").write_text("old")
    monkeypatch.setattr(training, "train", lambda *arguments, **keywords: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train("--json", "result.json")
    assert (folder / "result.json").read_text() == "old"


def test_names_of_files_are_no_formulas(train, folder):
    pytest.importorskip("matplotlib")
    (folder / "three.npz").rename(folder / "$x_$.npz")
    train("--data", "$x_$.npz", "--output", "x.svg")
    assert (folder / "x.svg").exists()


def test_command_runs_as_a_process(folder):
    command = [sys.executable, "-m", "gradstep", "train", "--data", "three.npz", "--no-output"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert len(table(done.stdout)) == 1 and done.stderr == ""


def process(command, folder, **variables):
    environment = os.environ | {"PYTHON": sys.executable, "PYTHONUNBUFFERED": ""} | variables
    shell = ["sh", "-c", command]
    return subprocess.run(
        shell, capture_output=True, text=True, timeout=120, cwd=folder, env=environment
    )


TRAIN = '"$PYTHON" -m gradstep train --data three.npz --epochs 1 --no-output --json result.json'


@pytest.mark.parametrize(
    ("command", "code", "lines", "errors"),
    [
        (f"{TRAIN} >&-", 2, 0, 1),
        pytest.param(f"{TRAIN} --quiet >&- 2>&- <&-", 0, 0, 0, marks=pytest.mark.slow),
        (f"{TRAIN} 2>&-", 0, 9, 0),
        pytest.param(f"{TRAIN} --lr x 2>&-", 2, 0, 0, marks=pytest.mark.slow),
        (f"{TRAIN} > /dev/full", 2, 0, 1),
        (f"({TRAIN}; echo $? >&2) | head -1", 0, 1, 1),
        pytest.param(
            f"(PYTHONUNBUFFERED=1 {TRAIN}; echo $? >&2) | head -1", 0, 1, 1, marks=pytest.mark.slow
        ),
        ('"$PYTHON" -m gradstep info > /dev/full', 2, 0, 1),
        ('"$PYTHON" -m gradstep --version > /dev/full', 2, 0, 1),
    ],
)
def test_standard_streams_may_be_closed_full_or_gone(folder, command, code, lines, errors):
    done = process(command, folder)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr and "Exception" not in done.stderr
    assert len(done.stderr.splitlines()) == errors
    assert bool(done.stdout) == bool(lines) and (lines != 1 or done.stdout.count("\n") == 1)
    if code == 0:
        assert json.loads((folder / "result.json").read_text())["runs"]


def test_no_file_gets_the_number_of_a_closed_stream(folder):
    program = (
        "from gradstep.train.cli import main; main(['info']); "
        "file = open('file', 'w'); open('number', 'w').write(str(file.fileno()))"
    )
    process(f'"$PYTHON" -c "{program}" <&- >&- 2>&-', folder)
    assert int((folder / "number").read_text()) > 2


@pytest.mark.parametrize("command", ['"$PYTHON" -m gradstep', '"$(dirname "$PYTHON")"/gradstep'])
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("GRADSTEP_NUM_THREADS", "'x', expected a whole number from 1 to 1024"),
        ("GRADSTEP_SIMD", "x, expected one of baseline"),
    ],
)
def test_bad_environment_variables_are_one_line(folder, command, name, message):
    if "dirname" in command and not (Path(sys.executable).parent / "gradstep").exists():
        pytest.skip("the command is not installed beside Python")
    done = process(f"{command} info", folder, **{name: "x"})
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith(f"gradstep: error: {name}: {message}")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("program", ["-c 'import gradstep'", "-m library", "library.py"])
def test_bad_environment_variables_are_errors_of_other_programs(folder, program):
    (folder / "library.py").write_text("import gradstep")
    done = process(f'"$PYTHON" {program} gradstep', folder, GRADSTEP_SIMD="x")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("ImportError: GRADSTEP_SIMD: x, expected")


def test_broken_pipe_is_quiet():
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "gradstep", "info"],
        stdout=writer,
        stderr=subprocess.PIPE,
        timeout=60,
    )
    os.close(writer)
    assert done.stderr == b"" and done.returncode == 141
