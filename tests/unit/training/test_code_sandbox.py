"""The sandbox around answers' code: each way out is tried from inside, and none may lead out."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from penstock_training.errors import TrainingError
from penstock_training.scorers import sandbox
from penstock_training.scorers.sandbox import Interpreter, SandboxLimits, SandboxResult, run_in_sandbox
from penstock_training.scorers.sandbox_filter import seccomp_program

SYSTEM_PYTHON = "/usr/bin/python3"
AMPLE = SandboxLimits(wall_seconds=30.0, cpu_seconds=30)  # for a busy machine; nothing below waits for it


def _unavailable(*, by_user_namespace: bool) -> str | None:
    try:
        _run("", "assert True", by_user_namespace=by_user_namespace)
    except TrainingError as error:
        return error.message
    return None


def _run(answer: str, tests: str, *, by_user_namespace: bool, limits: SandboxLimits = AMPLE) -> SandboxResult:
    # Without root's rights the interpreter must be readable by everybody, which one below a home folder may not be.
    is_system = by_user_namespace and os.geteuid() == 0
    interpreter = Interpreter(os.path.realpath(SYSTEM_PYTHON), ()) if is_system else None
    return run_in_sandbox(answer, tests, limits, interpreter=interpreter, is_user_namespace_wanted=by_user_namespace)


@pytest.fixture(params=["root", "user_namespace"], scope="module")
def by_user_namespace(request: pytest.FixtureRequest) -> bool:
    """Both ways of isolation in turn; each is skipped where the machine does not allow it."""
    is_user = request.param == "user_namespace"
    if sys.platform != "linux":
        pytest.skip("the sandbox needs Linux")
    if not is_user and os.geteuid() != 0:
        pytest.skip("this way of isolation needs root")
    if is_user and os.geteuid() == 0 and not Path(SYSTEM_PYTHON).exists():
        pytest.skip(f"root tests user namespaces with {SYSTEM_PYTHON}, which is not there")
    if reason := _unavailable(by_user_namespace=is_user):
        pytest.skip(reason)
    return is_user


def _holds(statement: str, by_user_namespace: bool, *, answer: str = "", limits: SandboxLimits = AMPLE) -> None:
    """Fail unless `statement`, an assertion made inside, holds there; a failed one is known to be noticed."""
    result = _run(answer, statement, by_user_namespace=by_user_namespace, limits=limits)
    assert (result.outcome, result.reason, result.failures) == ("passed", "", ())


RAISES = """
def raises(attempt, *errors):
    try:
        attempt()
    except errors or OSError:
        return True
    return False
"""


def test_socket_to_a_loopback_server_never_connects(by_user_namespace: bool) -> None:
    """The sandbox has no network, not even the machine's loopback, where this server listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port), timeout=5):
            server.accept()[0].close()
        attempt = f"import socket\nassert raises(lambda: socket.create_connection(('127.0.0.1', {port}), timeout=1))"
        _holds(attempt, by_user_namespace, answer=RAISES)
        server.settimeout(0.05)
        with pytest.raises(TimeoutError):
            server.accept()


def test_socket_of_a_family_beyond_namespaces_is_refused(by_user_namespace: bool) -> None:
    """Virtual-machine sockets know no network namespace, and netlink and packet sockets talk to the kernel."""
    attempt = "import socket\nfor family in (40, 16, 17, 38):\n    assert raises(lambda: socket.socket(family, 2))"
    _holds(attempt, by_user_namespace, answer=RAISES)


def test_file_that_only_the_parent_may_read_is_not_there(by_user_namespace: bool, tmp_path: Path) -> None:
    """Neither the password file nor a private or public file of the parent can be opened."""
    private, public = tmp_path / "private", tmp_path / "public"
    for path, mode in ((private, 0o600), (public, 0o644)):
        path.write_text("secret", encoding="utf-8")
        path.chmod(mode)
    attempt = f"for path in ('/etc/shadow', '/etc/passwd', {str(private)!r}, {str(public)!r}, {str(Path.cwd())!r}):\n"
    attempt += "    assert raises(lambda: open(path)), path"
    _holds(attempt, by_user_namespace, answer=RAISES)


def test_environment_of_the_parent_is_out_of_reach(by_user_namespace: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no /proc to read it from, and the sandbox's own environment is empty but for the locale."""
    monkeypatch.setenv("PENSTOCK_TEST_SECRET", "hidden")
    attempt = "import os\nassert not set(os.environ) - {'LC_CTYPE'}\nassert not os.path.exists('/proc/self')\n"
    attempt += f"assert raises(lambda: open('/proc/{os.getpid()}/environ'))"
    _holds(attempt, by_user_namespace, answer=RAISES)


def test_write_outside_of_the_working_directory_fails(by_user_namespace: bool) -> None:
    """Only the empty folder can be written; the root, the libraries and the interpreter cannot, nor be made so."""
    attempt = """
import os, sys
assert os.getcwd() == '/box' and os.listdir('.') == []
open('mine', 'w').write('x')
for folder in ('/', '/usr', '/usr/lib', '/etc', '/dev', sys.base_prefix, os.path.dirname(os.__file__)):
    assert raises(lambda: open(folder + '/written', 'w')), folder
for path in ('/', '/usr', '/dev/null', '/runner.py', sys.executable, os.__file__):
    assert os.statvfs(path).f_flag & os.ST_RDONLY, path
for path in (sys.executable, os.__file__, '/runner.py'):
    assert raises(lambda: open(path, 'a')), path
    assert raises(lambda: os.chmod(path, 0o777)), path
"""
    _holds(attempt, by_user_namespace, answer=RAISES)


def test_symbolic_links_in_the_working_directory_lead_nowhere(by_user_namespace: bool, tmp_path: Path) -> None:
    """A link to a file outside finds nothing, and nothing of ours follows it later."""
    outside = tmp_path / "outside"
    outside.write_text("untouched", encoding="utf-8")
    attempt = f"""
import os
for number, target in enumerate(({str(outside)!r}, '/etc/shadow', '../../../../../etc/shadow')):
    os.symlink(target, f'link{{number}}')
    assert raises(lambda: open(f'link{{number}}'))
    assert raises(lambda: open(f'link{{number}}', 'w'))
"""
    _holds(attempt, by_user_namespace, answer=RAISES)
    assert outside.read_text(encoding="utf-8") == "untouched"


def test_root_directory_left_behind_cannot_be_reached_again(by_user_namespace: bool) -> None:
    """Going up, changing root, mounting and new namespaces are all refused."""
    attempt = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
assert os.listdir('/..') == os.listdir('/')
assert raises(lambda: os.chroot('/box'))
for result in (libc.unshare(0x10000000), libc.unshare(0x00020000), libc.mount(b'none', b'/box', b'tmpfs', 0, None),
               libc.umount2(b'/box', 2), libc.setns(0, 0)):
    assert result == -1
assert libc.syscall(56 if os.uname().machine == 'x86_64' else 220, 0x10000000 | 17, 0, 0, 0, 0) == -1
"""
    _holds(attempt, by_user_namespace, answer=RAISES)


def test_rights_of_the_process_are_none_and_stay_none(by_user_namespace: bool) -> None:
    """Another user, no capability, and no way back to root."""
    attempt = """
import ctypes, os
assert os.getuid() != 0 and os.geteuid() != 0 and os.getgid() != 0
assert raises(lambda: os.setuid(0)) and raises(lambda: os.setgid(0)) and raises(lambda: os.setgroups([0]))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(39, 0, 0, 0, 0) == 1
class Header(ctypes.Structure):
    _fields_ = [('version', ctypes.c_uint32), ('pid', ctypes.c_int)]
sets = (ctypes.c_uint32 * 6)()
assert libc.capget(ctypes.byref(Header(0x20080522, 0)), sets) == 0 and not any(sets)
assert all(libc.prctl(23, number, 0, 0, 0) == 0 for number in range(40))
assert libc.prctl(21, 0, 0, 0, 0) == 2
"""
    _holds(attempt, by_user_namespace, answer=RAISES)


def test_parent_and_the_sandbox_guard_cannot_be_signalled(by_user_namespace: bool) -> None:
    """The parent's number means nothing inside; killing everybody or process 1 leaves the verdict standing."""
    attempt = f"""
import os, signal
assert raises(lambda: os.kill({os.getpid()}, signal.SIGKILL), ProcessLookupError)
for victim, number in [(-1, signal.SIGKILL), *((1, number) for number in range(1, 65))]:
    try:
        os.kill(victim, number)
    except (PermissionError, ProcessLookupError):
        pass
"""
    _holds(attempt, by_user_namespace, answer=RAISES)


def test_other_processes_cannot_be_traced_or_read(by_user_namespace: bool) -> None:
    """ptrace and reading another process's memory are refused, of process 1 and of the parent."""
    attempt = f"""
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
for pid in (1, {os.getpid()}):
    assert libc.ptrace(16, pid, 0, 0) == -1
    assert libc.process_vm_readv(pid, None, 0, None, 0, 0) == -1
"""
    _holds(attempt, by_user_namespace)


def test_fork_bomb_in_an_answer_runs_into_its_limit(by_user_namespace: bool) -> None:
    """More processes than allowed cannot be started, and the ones that were end with the sandbox."""
    attempt = """
import os, time
children = 0
try:
    while children < 100:
        if os.fork() == 0:
            time.sleep(60)
            os._exit(0)
        children += 1
except OSError:
    pass
assert 0 < children < 8, children
"""
    started = time.monotonic()
    _holds(attempt, by_user_namespace)
    assert time.monotonic() - started < 60  # not a matter of speed: the children would have slept for longer


def test_memory_bomb_in_an_answer_raises_memory_error(by_user_namespace: bool) -> None:
    """Address space, files and the working directory have ends."""
    attempt = """
import os
assert raises(lambda: bytearray(600 * 2**20), MemoryError)
def fill():
    for number in range(100):
        with open(f'file{number}', 'wb') as handle:
            handle.write(b'x' * (8 * 2**20))
assert raises(fill)
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
assert raises(lambda: os.truncate('file0', 17 * 2**20))
"""
    _holds(attempt, by_user_namespace, answer=RAISES)


def test_many_open_files_in_an_answer_run_into_their_limit(by_user_namespace: bool) -> None:
    """The number of open files is limited, and no core is dumped."""
    attempt = """
import resource
assert resource.getrlimit(resource.RLIMIT_CORE) == (0, 0)
held = []
assert raises(lambda: held.extend(open('/dev/null') for _ in range(100)))
"""
    _holds(attempt, by_user_namespace, answer=RAISES)


@pytest.mark.parametrize("answer", ["while True: pass", "import time; time.sleep(1000)", "import os; os.kill(0, 19)"])
def test_endless_answer_of_any_kind_times_out(by_user_namespace: bool, answer: str) -> None:
    """Busy, asleep or stopped: time runs out."""
    limits = SandboxLimits(wall_seconds=1.0)
    assert _run(answer, "assert True", by_user_namespace=by_user_namespace, limits=limits).outcome == "timed_out"


def test_processor_time_of_an_answer_has_an_end(by_user_namespace: bool) -> None:
    """An answer that catches the first warning is killed a second later."""
    answer = "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass"
    limits = SandboxLimits(wall_seconds=30.0, cpu_seconds=1)
    assert _run(answer, "assert True", by_user_namespace=by_user_namespace, limits=limits).outcome == "ended"


def test_huge_output_of_an_answer_goes_nowhere(by_user_namespace: bool) -> None:
    """What an answer prints is not kept, so no amount of it fills our memory."""
    answer = "import sys\nfor _ in range(200):\n    sys.stdout.write('x' * 2**20)\n    sys.stderr.write('y' * 2**20)"
    result = _run(answer, "assert True", by_user_namespace=by_user_namespace)
    assert result.outcome == "passed"


def test_huge_report_of_an_answer_is_cut_off(by_user_namespace: bool) -> None:
    """A flood on the channel to the guard ends the conversation instead of filling memory."""
    result = _run(
        "import os\nwhile True: os.write(3, b'x' * 65536)", "assert True", by_user_namespace=by_user_namespace
    )
    assert result.outcome == "ended"


def test_background_process_with_its_own_session_dies_with_the_sandbox(by_user_namespace: bool) -> None:
    """A double fork with setsid does not outlive the verdict."""
    mark = f"penstock-escape-{os.getpid()}-{by_user_namespace}"
    answer = f"""
import os
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execv({SYSTEM_PYTHON!r}, [{SYSTEM_PYTHON!r}, '-c', 'import time; time.sleep(300)', {mark!r}])
    os._exit(0)
import time
time.sleep(0.3)
"""
    _holds("assert True", by_user_namespace, answer=answer)
    assert not _running_with(mark)


def _running_with(mark: str) -> list[str]:
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if mark in entry.read_bytes().decode(errors="replace") and int(entry.parent.name) != os.getpid():
                found.append(entry.parent.name)
        except OSError:
            continue
    return found


def test_open_files_of_the_parent_are_not_inherited(by_user_namespace: bool, tmp_path: Path) -> None:
    """Writing to every descriptor reaches nothing of the parent's, not even an inheritable one."""
    path = tmp_path / "held"
    with path.open("w", encoding="utf-8") as held:
        os.set_inheritable(held.fileno(), True)
        answer = """
import os
opened = []
for descriptor in [*range(3), *range(4, 64)]:
    try:
        os.write(descriptor, b'escaped')
        opened.append(descriptor)
    except OSError:
        pass
"""
        _holds("assert not set(opened) - {0, 1, 2}, opened", by_user_namespace, answer=answer)
    assert path.read_text(encoding="utf-8") == ""


def test_tests_and_token_are_unknown_while_the_answer_loads(by_user_namespace: bool) -> None:
    """The top level of an answer finds neither the tests nor the token on its channel: they are sent afterwards."""
    answer = """
import os
os.set_blocking(3, False)
try:
    early = os.read(3, 100)
except BlockingIOError:
    early = b''
os.set_blocking(3, True)
"""
    _holds("assert early == b''", by_user_namespace, answer=answer)


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param("import sys; sys.exit(0)", id="exit"),
        pytest.param("import os; os._exit(0)", id="hard-exit"),
        pytest.param("print('passed')\ndef f(): import os; os._exit(0)", id="exit-in-a-test"),
        pytest.param("def f():\n    raise SystemExit(0)", id="exit-error-in-a-test"),
        pytest.param(
            'import os\nos.write(3, b\'{"loaded": true}\\n{"token": "", "failures": []}\\n\'); os._exit(0)',
            id="guessed-token",
        ),
        pytest.param("import os\nos.write(3, b'[]\\n'); os._exit(0)", id="nonsense"),
        pytest.param("import os\nos.write(3, b'[' * 60000 + b'\\n'); os._exit(0)", id="deep-nonsense"),
        pytest.param(
            'import os\nos.write(3, b\'{"loaded": true}\\n{"token": "\\\\ud800", "failures": []}\\n\')\n'
            "import time; time.sleep(0.3); os._exit(0)",
            id="token-that-is-no-text",
        ),
        pytest.param(
            "import os\n"
            "os.write(3, b'{\"loaded\": false, \"error\": ' + b'[' * 950 + b']' * 950 + b'}\\n'); os._exit(0)",
            id="error-that-cannot-be-printed",
        ),
        pytest.param("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)", id="crash"),
        pytest.param("import atexit, os\natexit.register(os._exit, 0)\ndef f(): return 0", id="atexit"),
        pytest.param("def f(:", id="syntax"),
    ],
)
def test_answer_that_ends_early_or_forges_never_passes(by_user_namespace: bool, answer: str) -> None:
    """Ending the process with success, printing a marker or guessing the protocol is not passing."""
    assert _run(answer, "assert f() == 1", by_user_namespace=by_user_namespace).outcome != "passed"


def test_sandbox_leaves_no_process_and_no_folder_behind(by_user_namespace: bool, tmp_path: Path) -> None:
    """The working directory lies in memory and goes with the sandbox; the machine's mounts stay as they were."""
    mounts = Path("/proc/self/mounts").read_text(encoding="utf-8")
    before = set(os.listdir("/tmp"))
    _holds("open('left', 'w').write('x')\nassert True", by_user_namespace)
    assert Path("/proc/self/mounts").read_text(encoding="utf-8") == mounts
    assert not [name for name in set(os.listdir("/tmp")) - before if name in {"left", "box", "runner.py"}]


def test_two_sandboxes_at_once_count_their_processes_apart(by_user_namespace: bool) -> None:
    """One answer's processes do not use up another's allowance."""
    answer = "import os, time\nfor _ in range(6):\n    if os.fork() == 0:\n        time.sleep(60)\n        os._exit(0)"
    script = "import time; time.sleep(0.5); assert True"
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(_run, answer, script, by_user_namespace=by_user_namespace) for _ in range(2)]
        assert [run.result().outcome for run in runs] == ["passed", "passed"]


def test_sandbox_where_namespaces_can_be_had_is_available() -> None:
    """A broken launcher must not look like a machine that allows no namespaces, on which these tests are skipped."""
    unshare = shutil.which("unshare")
    if unshare is None or os.geteuid() != 0:
        pytest.skip("whether root can have namespaces is found out with unshare")
    command = [
        unshare,
        "--mount",
        "--pid",
        "--net",
        "--ipc",
        "--uts",
        "--fork",
        "mount",
        "-t",
        "tmpfs",
        "tmpfs",
        "/mnt",
    ]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("root cannot have namespaces here")
    sandbox.check_sandbox()


def test_machine_without_a_list_of_system_calls_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown processor means no filter, and no filter means that nothing is run."""
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    assert seccomp_program("riscv64") is None
    with pytest.raises(TrainingError) as caught:
        run_in_sandbox("", "", AMPLE)
    assert caught.value.code == "sandbox_unavailable"


def test_other_operating_system_than_linux_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there are no namespaces, code is not run, and the reason names the system."""
    monkeypatch.setattr(sandbox.sys, "platform", "darwin")
    with pytest.raises(TrainingError, match="it needs Linux") as caught:
        sandbox.check_sandbox()
    assert caught.value.code == "sandbox_unavailable"


def test_launcher_without_any_right_refuses_and_says_why(tmp_path: Path) -> None:
    """Neither root nor user namespaces: the launcher reports a refusal, and the answer's code is never started."""
    if sys.platform != "linux" or os.geteuid() != 0 or not Path("/usr/bin/setpriv").exists():
        pytest.skip("taking rights away from a process needs root and setpriv on Linux")
    launcher = tmp_path / "launcher.py"
    tmp_path.chmod(0o755)
    launcher.write_text(sandbox._source_of("sandbox_launcher.py"), encoding="utf-8")
    job = (
        '{"folders": [], "is_user_namespace_wanted": false, "answer": "", "tests": "", "token": "", "limits": {},'
        ' "filter": "", "python": "", "runner": ""}'
    )
    without = ["/usr/bin/setpriv", "--bounding-set", "-all", "--inh-caps", "-all"]
    done = subprocess.run(
        [*without, sys.executable, "-I", "-S", str(launcher)], input=job, capture_output=True, text=True, check=True
    )
    assert '"refused"' in done.stdout
    assert "Operation not permitted" in done.stdout
