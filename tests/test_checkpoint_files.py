"""A checkpoint's file: the old one or the new one, whatever happens; damage is found."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradstep as gs
import numpy as np
import pytest

Python = Callable[..., str]
format_of_others = pytest.importorskip("safetensors.numpy")

# A child saves generation after generation. 100 times it is killed after some saves and a part of
# the next one, whatever that takes, and the file is looked at.
KILLS = """
import os, random, signal, sys, time
import gradstep as gs, numpy as np

path = sys.argv[1]
reader, writer = os.pipe()
def save(n):
    gs.save(path, model=[np.full(200_000, n, np.float32), np.full(3, n)], extra=n)

def child(n):
    while True:
        n += 1
        save(n)
        os.write(writer, b".")

start = time.perf_counter()
save(0)
took = time.perf_counter() - start
chance, last = random.Random(1), 0
for _ in range(int(sys.argv[2])):
    pid = os.fork()
    if pid == 0:
        child(last)
    saves = chance.randrange(3)
    for _ in range(saves):
        os.read(reader, 1)
    time.sleep(chance.uniform(0, 1.5 * took))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    saved = gs.load(path)
    found = saved["extra"]
    assert found >= last + saves, (found, last, saves)
    assert all((array == found).all() for array in saved["model"])
    last = found
    os.set_blocking(reader, False)
    try:
        os.read(reader, 1000)
    except BlockingIOError:
        pass
    os.set_blocking(reader, True)
left = len(os.listdir(os.path.dirname(path))) - 1
save(last)
print(left, *os.listdir(os.path.dirname(path)))
"""


def run(code: str, *arguments: str, before: list[str] | None = None) -> str:
    command = [*(before or []), sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("kills", [20, pytest.param(100, marks=pytest.mark.slow)])
def test_a_kill_at_any_moment_leaves_the_old_or_the_new_file(kills: int, tmp_path: Path) -> None:
    left, *files = run(KILLS, str(tmp_path / "run.safetensors"), str(kills)).split()
    # A kill between the last two calls leaves a whole file under another name, for the next save.
    assert int(left) <= 1
    assert files == ["run.safetensors"]


@pytest.mark.usefixtures("new_files")
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_what_a_killed_save_left_goes_with_the_next(call: str, tmp_path: Path) -> None:
    fcntl = pytest.importorskip("fcntl")
    path = tmp_path / "run[1].safetensors"  # a pattern, if it were not escaped
    code = f"""
import os, signal, sys
import gradstep as gs
{"" if hasattr(os, "O_TMPFILE") else "del os.O_TMPFILE"}
def killed(*_):
    os.kill(os.getpid(), signal.SIGKILL)
os.{call} = killed
gs.save(sys.argv[1], model=1)
"""
    others = {".run1.safetensors.0123456789abcdef.tmp", ".run[1].safetensors.mine.tmp"}
    for name in others:
        (tmp_path / name).write_text("")
    ended = subprocess.run([sys.executable, "-c", code, str(path)])
    assert ended.returncode == -signal.SIGKILL
    left = set(os.listdir(tmp_path)) - others
    assert len(left) == (0 if call == "fsync" and hasattr(os, "O_TMPFILE") else 1)
    place = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(place, fcntl.LOCK_SH)  # as one who writes there now
    gs.save(path, model=2)
    assert set(os.listdir(tmp_path)) == {path.name} | others | left
    os.close(place)
    gs.save(path, model=3)
    assert set(os.listdir(tmp_path)) == {path.name} | others
    assert gs.load(path)["model"] == 3


def test_a_program_that_keeps_the_folder_locked_is_not_waited_for(tmp_path: Path) -> None:
    code = """
import fcntl, os, sys
import gradstep as gs
place = os.open(os.path.dirname(sys.argv[1]), os.O_RDONLY)
fcntl.flock(place, fcntl.LOCK_EX)
gs.save(sys.argv[1], model=1)
print(gs.load(sys.argv[1])["model"])
"""
    pytest.importorskip("fcntl")
    assert run(code, str(tmp_path / "run.safetensors")) == "1"  # `run` waits for a time at most


FULL = """
import os, sys
import gradstep as gs, numpy as np

path = sys.argv[1]
gs.save(path, model=np.arange(1000))
before = open(path, "rb").read()
{limit}
try:
    gs.save(path, model=np.zeros(300_000))
except OSError as error:
    print(error.errno, error.filename == path)
assert open(path, "rb").read() == before
assert os.listdir(os.path.dirname(path)) == [os.path.basename(path)]
assert gs.load(path)["model"].tolist() == list(range(1000))
gs.save(path, model=np.arange(1001))  # there is room for this
assert gs.load(path)["model"].size == 1001
"""
LIMIT = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))"


def test_a_limit_on_files_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    assert run(FULL.format(limit=LIMIT), str(path)) == f"{errno.EFBIG} True"


def test_a_full_disk_loses_nothing(tmp_path: Path) -> None:
    mount = 'mount -t tmpfs -o size=1m none "$0" && exec "$@"'
    namespace = ["unshare", "-m" if os.geteuid() == 0 else "-rm", "sh", "-c", mount, str(tmp_path)]
    if shutil.which("unshare") is None or subprocess.run([*namespace, "true"]).returncode:
        pytest.skip("no tmpfs may be mounted here")
    found = run(FULL.format(limit=""), str(tmp_path / "run.safetensors"), before=namespace)
    assert found == f"{errno.ENOSPC} True"


@pytest.fixture(params=["unnamed", "named"])
def new_files(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders that take files without a name, and those that do not."""
    if request.param == "named":
        monkeypatch.delattr(os, "O_TMPFILE")


@pytest.mark.usefixtures("new_files")
@pytest.mark.parametrize("call", ["open", "fchmod", "write", "fsync", "link", "replace"])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_call_that_fails_loses_nothing(
    call: str, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.safetensors"
    gs.save(path, model=np.zeros(3))
    real, calls = getattr(os, call), 0

    def failing(*arguments: Any, **keywords: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number:
            raise OSError(errno.EIO, "no")
        return real(*arguments, **keywords)

    monkeypatch.setattr(os, call, failing)
    new = True
    try:
        gs.save(path, model=np.ones(3))
    except OSError as error:
        assert (error.errno, error.filename) == (errno.EIO, str(path))
        # Whether the folder is on the disk is not known to those who look at it.
        new = call == "fsync" and number > 1
    monkeypatch.undo()
    found = gs.load(path)["model"].tolist()
    assert found in ([[0.0] * 3, [1.0] * 3] if new else [[0.0] * 3])
    assert os.listdir(tmp_path) == ["run.safetensors"]


@pytest.mark.usefixtures("new_files")
def test_all_is_synced_before_the_file_gets_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    for name in ("write", "fsync", "replace"):
        real = getattr(os, name)

        def noting(*arguments: Any, name: str = name, real: Any = real) -> Any:
            of = arguments[0]
            folder = isinstance(of, int) and stat.S_ISDIR(os.fstat(of).st_mode)
            calls.append(f"{name} folder" if folder else name)
            return real(*arguments)

        monkeypatch.setattr(os, name, noting)
    gs.save(tmp_path / "a.safetensors", model=np.zeros(3))
    assert calls == ["write", "write", "fsync", "replace", "fsync folder"]


def test_a_write_may_take_a_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda file, content: real(file, content[:7]))
    gs.save(tmp_path / "a", model=np.arange(9.0))
    assert gs.load(tmp_path / "a")["model"].tolist() == list(range(9))


def test_permissions_and_links_stay(tmp_path: Path) -> None:
    path, link = tmp_path / "run.safetensors", tmp_path / "latest"
    mask = os.umask(0o027)
    try:
        gs.save(path, model=1)
    finally:
        os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    path.chmod(0o604)
    link.symlink_to(path)
    gs.save(link, model=2)
    assert link.is_symlink()
    assert (gs.load(path)["model"], stat.S_IMODE(path.stat().st_mode)) == (2, 0o604)


def test_any_flipped_byte_is_found(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    model = {"w": np.arange(5, dtype=np.float32), "n": np.array(3)}
    gs.save(path, model=model, extra={"epoch": 3, "name": "x"})
    whole = path.read_bytes()
    for place in range(len(whole)):
        for bit in (1, 128):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :])
            with pytest.raises(ValueError, match=str(path)):
                gs.load(path, model=model)
    assert (model["w"].tolist(), int(model["n"])) == ([0, 1, 2, 3, 4], 3)


def test_a_file_cut_anywhere_or_too_long_is_found(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    gs.save(path, model=np.arange(5.0), extra=1)
    whole = path.read_bytes()
    for content in [*(whole[:size] for size in range(len(whole))), whole + b"\0"]:
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"{path}: no whole safetensors file"):
            gs.load(path)


ABOUT = {"gradstep": "1", "sha256": "0", "tree": '{"model":{"array":"model"}}'}


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (None, "of other origin, expected a file that gradstep.save wrote"),
        ({"format": "pt"}, "of other origin, expected a file that gradstep.save wrote"),
        (ABOUT | {"gradstep": "2"}, "format '2' of checkpoints, expected '1'"),
        (ABOUT, "damaged, its content does not have its checksum"),
    ],
)
def test_other_safetensors_files_are_refused(
    metadata: dict[str, str] | None, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "foreign.safetensors"
    format_of_others.save_file({"model": np.zeros(3)}, path, metadata)
    with pytest.raises(ValueError, match=message):
        gs.load(path)


@pytest.mark.parametrize("dtype", ["F8_E5M2", "F8_E4M3"])
def test_a_type_that_numpy_lacks_is_named(dtype: str, tmp_path: Path) -> None:
    entry = {"dtype": dtype, "shape": [4], "data_offsets": [0, 4]}
    header = json.dumps({"__metadata__": ABOUT, "model": entry}).encode()
    path = tmp_path / "low.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with pytest.raises(ValueError, match=f"low.safetensors: 'model' is {dtype}, expected one of"):
        gs.load(path)


def test_other_programs_read_the_tensors(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    weight = np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3))
    opt = gs.SGD({"body.weight": weight}, momentum=0.9)
    opt.step({"body.weight": np.ones((2, 3), np.float32, order="F")})
    small = np.array([1, 2, 3], np.int8)
    gs.save(path, small=small, model={"body": {"weight": weight}}, optimizer=opt)
    found = format_of_others.load_file(path)
    assert {name: array.dtype for name, array in found.items()} == {
        "small": np.int8,
        "model.body.weight": np.float32,
        "optimizer.state.body.weight.momentum_buffer": np.float32,
    }
    assert (found["model.body.weight"] == weight).all()
    assert found["small"].tolist() == [1, 2, 3]


def test_paths_are_checked(tmp_path: Path) -> None:
    for call in (gs.load, lambda path: gs.save(path, model=1)):
        with pytest.raises(TypeError, match="path: float, expected a path"):
            call(1.5)
        with pytest.raises(ValueError, match="is a folder or a device, expected a file"):
            call(tmp_path)
        with pytest.raises(ValueError, match="is a folder or a device, expected a file"):
            call("/dev/null")
        with pytest.raises(FileNotFoundError, match="none/run"):
            call(tmp_path / "none" / "run")


def test_without_the_extra_the_message_says_what_to_install(python: Python) -> None:
    code = """
import sys
sys.modules["safetensors"] = None
import gradstep as gs
for act in (lambda: gs.save("x", model=1), lambda: gs.load("x")):
    try:
        act()
    except ImportError as error:
        print(error)
"""
    line = (
        "checkpoints need safetensors, which is not installed: pip install 'gradstep[checkpoint]'"
    )
    assert python(code).splitlines() == [line, line]


def test_import_gradstep_does_not_pay(python: Python) -> None:
    code = """
import sys
import gradstep as gs
print(any(name.startswith(("gradstep.checkpoint", "safetensors")) for name in sys.modules))
print(gs.save.__module__)
"""
    assert python(code).splitlines() == ["False", "gradstep.checkpoint"]
