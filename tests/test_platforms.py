"""What macOS and Windows lack or do otherwise, as far as it can be looked for on another system."""

import ast
import inspect
import json
import os
import pickle
import re
import subprocess
import sys
import textwrap
import time
from pathlib import Path, PureWindowsPath

import nbformat
import pytest

from benchmarks import loading
from maml_toolkit.data import case, splits
from maml_toolkit.data.cases import Case
from maml_toolkit.data.layouts import table
from maml_toolkit.data.volumes import Frame
from maml_toolkit.experiments.running import check_names_of_runs
from maml_toolkit.pictures.report.pages import shortened
from maml_toolkit.system import files, locks
from maml_toolkit.system.errors import DataError
from maml_toolkit.system.locks import LOCK, HeldError, Holder, held

ROOT = Path(__file__).parents[1]

MODULES = {"fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "posix", "spwd", "syslog", "nis", "crypt",
           "_posixsubprocess", "msvcrt", "winreg", "winsound", "_winapi"}
"""That only some systems have."""

ATTRIBUTES = {
    "os": {"fork", "forkpty", "kill", "killpg", "getpgid", "getpgrp", "setpgid", "setsid", "getuid", "geteuid",
           "getgid", "getegid", "getgroups", "getloadavg", "sysconf", "confstr", "statvfs", "fstatvfs", "chown",
           "fchown", "fchmod", "lchown", "mkfifo", "mknod", "nice", "uname", "wait", "wait3", "wait4", "waitid",
           "posix_spawn", "posix_fadvise", "posix_fallocate", "sendfile", "openpty", "pread", "pwrite", "sync",
           "fdatasync", "umask", "sched_getaffinity", "sched_setaffinity", "sched_yield", "copy_file_range",
           "memfd_create", "getpriority", "O_NOFOLLOW", "O_DIRECTORY", "O_DIRECT", "O_CLOEXEC", "startfile", "symlink",
           "link", "rename", "ctermid"},
    "signal": {"SIGUSR1", "SIGUSR2", "SIGHUP", "SIGKILL", "SIGALRM", "SIGCHLD", "SIGQUIT", "SIGPIPE", "SIGSTOP",
               "SIGCONT", "SIGTSTP", "SIGXCPU", "SIGXFSZ", "SIGBUS", "alarm", "setitimer", "pause", "sigwait",
               "pthread_kill", "pthread_sigmask", "CTRL_C_EVENT", "CTRL_BREAK_EVENT", "SIGBREAK"},
    "time": {"tzset", "clock_gettime", "CLOCK_MONOTONIC", "pthread_getcpuclockid"},
    "socket": {"AF_UNIX", "socketpair", "SO_REUSEPORT"},
    "select": {"poll", "epoll", "kqueue"},
    "multiprocessing": {"get_context", "set_start_method", "Process", "Pool"},
    "ctypes": {"CDLL", "cdll", "windll"},
    "tempfile": {"NamedTemporaryFile"},
    "resource": {"getrusage", "getrlimit", "setrlimit"},
}
"""Of modules that all systems have: absent on some, or doing something else there. os.rename replaces nothing on
Windows, os.kill ends a process that it shall only look for, a NamedTemporaryFile cannot be opened twice, a process is
not forked on macOS and Windows, links want a right on Windows."""

METHODS = {"symlink_to", "hardlink_to", "rename", "add_signal_handler", "is_reserved"}
"""Likewise, of paths and event loops; `rename` with one argument, since a DataFrame has one with names."""

GUARD = re.compile(r"\bhasattr\(|\bos\.name\b|\bsys\.platform\b|platform\.system\(|libc_ver\(|\bfcntl\b|ImportError")
"""What the condition around such a thing asks for."""

ALLOWED = {
    ("files.py", "os.rename"): "folders: whatever had the name was moved away before, and a race is tried again; or "
                               "one whose name is taken is refused, as it is everywhere",
    ("apart.py", "/proc"): "a file that is looked for",
    ("processes.py", "/proc"): "likewise",
    ("processes.py", "/sys"): "likewise",
    ("jobs.py", "os.kill"): "in a handler that is set on POSIX alone",
    ("cases.py", ".rename"): "into a folder that holds nothing",
    ("2-your-own-data.ipynb", ".rename"): "a name that is free",
}
"""(file, what) -> why that is right everywhere."""


def sources():
    """Name and code of every module and of every notebook, without lines for IPython alone."""
    for path in sorted((ROOT / "maml_toolkit").rglob("*.py")):
        yield path.name, path.read_text(encoding="utf-8")
    for path in sorted([*(ROOT / "notebooks").glob("*.ipynb"), *(ROOT / "tutorials").glob("*.ipynb")]):
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type == "code" and not cell.source.startswith("%%"):
                yield path.name, re.sub(r"^[%!].*$", "pass", cell.source, flags=re.MULTILINE)


def is_guarded(node, above):
    """Whether a condition, a `try` or a return before it asks whether it is there."""
    while node in above:
        node, inner = above[node], node
        asked = []
        if isinstance(node, ast.If | ast.IfExp) and inner is not node.test:
            asked = [node.test]
        elif isinstance(node, ast.BoolOp) and inner is not node.values[0]:
            asked = [node.values[0]]
        elif isinstance(node, ast.Try) and inner in node.body:
            asked = [handler.type for handler in node.handlers if handler.type]
        elif isinstance(node, ast.FunctionDef):
            asked = [one.test for one in node.body if isinstance(one, ast.If) and isinstance(one.body[-1], ast.Return)
                     and one.lineno < inner.lineno]
        if any(GUARD.search(ast.unparse(one)) for one in asked):
            return True
    return False


def what(node):
    """The thing that some systems lack, which a node uses; None where it uses none."""
    if isinstance(node, ast.Import):
        return next((one.name for one in node.names if one.name.split(".")[0] in MODULES), None)
    if isinstance(node, ast.ImportFrom) and node.module:
        lacking = {one.name for one in node.names} & ATTRIBUTES.get(node.module, set())
        return node.module if node.module in MODULES else next((f"{node.module}.{one}" for one in lacking), None)
    if isinstance(node, ast.Attribute) and node.attr in ATTRIBUTES.get(ast.unparse(node.value), ()):
        return ast.unparse(node)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in METHODS:
        of_a_path = node.args and not node.keywords and ast.unparse(node.func.value) != "os"
        return f".{node.func.attr}" if of_a_path else None
    if isinstance(node, ast.keyword) and node.arg == "preexec_fn":
        return "preexec_fn"
    text = node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
    path = re.match(r"(/(?:proc|dev|tmp|sys|etc))/", text)
    return path and path[1]


def lacking(code):
    """(line, what) of each thing that some systems lack and that nothing asks for first."""
    tree = ast.parse(code)
    above = {below: node for node in ast.walk(tree) for below in ast.iter_child_nodes(node)}
    return [(node.lineno, what(node)) for node in ast.walk(tree) if what(node) and not is_guarded(node, above)]


def without_encoding(code):
    """Lines that read or write text in whatever encoding the system has, which is not UTF-8 on Windows."""
    found = []
    for node in ast.walk(ast.parse(code)):
        if not isinstance(node, ast.Call) or any(one.arg == "encoding" for one in node.keywords):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        of = ast.unparse(node.func.value) if isinstance(node.func, ast.Attribute) else ""
        mode = next((one.value for one in node.args if isinstance(one, ast.Constant) and isinstance(one.value, str)
                     and re.fullmatch(r"[rwaxbt+]{1,3}", one.value)), "r")
        opens_text = name == "open" and "b" not in mode and of not in ("os", "Image", "webbrowser")
        if opens_text or name in ("read_text", "write_text"):
            found.append(node.lineno)
    return found


@pytest.mark.parametrize(("code", "found"), [
    ("import fcntl", ["fcntl"]),
    ("try:\n    import fcntl\nexcept ImportError:\n    fcntl = None", []),
    ("try:\n    pass\nexcept ImportError:\n    import fcntl", ["fcntl"]),
    ("from os import fork", ["os.fork"]),
    ("import os\nn = len(os.sched_getaffinity(0))", ["os.sched_getaffinity"]),
    ("n = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else 1", []),
    ("if os.name == 'posix':\n    os.killpg(1, 2)\nelse:\n    os.getuid()", []),
    ("if ready:\n    os.killpg(1, 2)", ["os.killpg"]),
    ("if path.name:\n    os.killpg(1, 2)", ["os.killpg"]),
    ("if os.getuid() == 0 and os.name == 'posix':\n    pass", ["os.getuid"]),
    ("if os.name == 'posix' and os.getuid() == 0:\n    pass", []),
    ("def f():\n    if sys.platform != 'linux':\n        return\n    signal.alarm(1)", []),
    ("def f():\n    signal.alarm(1)\n    if sys.platform != 'linux':\n        return", ["signal.alarm"]),
    ("path.rename(other)", [".rename"]),
    ("table.rename(columns={})", []),
    ("subprocess.run(command, preexec_fn=None)", ["preexec_fn"]),
    ("open('/proc/self/status', encoding='utf-8')", ["/proc"]),
])
def test_the_search_finds_what_is_not_guarded_and_nothing_else(code, found):
    assert [name for _, name in lacking(code)] == found


@pytest.mark.parametrize(("code", "lines"), [
    ("path.read_text()", [1]), ("path.read_text(encoding='utf-8')", []), ("open(path)", [1]), ("open(path, 'rb')", []),
    ("path.open('a')", [1]), ("path.open('wb', buffering=0)", []), ("path.write_text(text)", [1]),
    ("os.open(path, os.O_RDONLY)", []),
])
def test_the_search_finds_text_in_an_encoding_of_the_system(code, lines):
    assert without_encoding(code) == lines


def test_nothing_uses_what_a_system_may_lack_without_asking():
    found = [(name, used, line) for name, code in sources() for line, used in lacking(code)]
    assert [one for one in found if one[:2] not in ALLOWED] == []
    assert ("files.py", "os.rename") in {one[:2] for one in found}


def test_every_text_of_the_package_is_read_and_written_as_utf_8():
    package = [(name, code) for name, code in sources() if name.endswith(".py")]
    assert len(package) > 100
    assert [(name, without_encoding(code)) for name, code in package if without_encoding(code)] == []


BARE = """
import importlib, json, os, pkgutil, signal, subprocess, sys
from pathlib import Path

import maml_toolkit

names = sorted(one.name for one in pkgutil.walk_packages(maml_toolkit.__path__, "maml_toolkit.")
               if not one.name.endswith("__main__"))
for name in names:
    importlib.import_module(name)          # what others need of this system they have now
for name in [one for one in sys.modules if one.partition(".")[0] == "maml_toolkit"]:
    del sys.modules[name]
for name in ("fcntl", "resource", "pwd", "grp", "termios"):
    sys.modules[name] = None               # importing it raises ImportError
for module, gone in ((os, "fork killpg getuid geteuid getloadavg sched_getaffinity sysconf getpgid setsid nice"),
                     (signal, "SIGUSR1 SIGUSR2 SIGHUP SIGKILL SIGALRM alarm")):
    for name in gone.split():
        if hasattr(module, name):
            delattr(module, name)
for name in names:
    importlib.import_module(name)

from maml_toolkit.commands import doctor
from maml_toolkit.system import files, locks, processes
from maml_toolkit.system.locks import HeldError, held

folder = Path(sys.argv[1])
files.write_whole(folder / "one.txt", "whole")
files.write_whole(folder / "one.txt", "whole again")
for number in (1, 2):
    with files.whole_folder(folder / "many") as writing:
        (writing / "number").write_text(str(number))
with processes.noticed() as notice, held(folder) as lock:
    lock.check()
    refused = ""
    try:
        held(folder).__enter__()
    except HeldError as error:
        refused = str(error)
free = locks.holder(folder / locks.LOCK) is None
with held(folder):
    pass
print(json.dumps({"modules": len(names), "fcntl": files.fcntl is None, "signals": processes.NAMES, "refused": refused,
                  "free": free, "pid": os.getpid(), "one": (folder / "one.txt").read_text(),
                  "many": (folder / "many" / "number").read_text(), "names": sorted(os.listdir(folder)),
                  "cores": [one.found for one in doctor.machine() if one.name == "cores"]}))
"""


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """What the package did in a Python without fcntl, resource and what else Windows lacks."""
    folder = tmp_path_factory.mktemp("bare")
    done = subprocess.run([sys.executable, "-c", BARE, str(folder)], capture_output=True, text=True, check=False,
                          env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_every_module_can_be_imported_without_fcntl_and_resource(bare):
    assert bare["modules"] > 100
    assert bare["fcntl"]
    assert bare["signals"] == ["SIGINT", "SIGTERM"]
    assert len(bare["cores"]) == 1


def test_without_fcntl_a_folder_is_held_once_and_free_afterwards(bare):
    assert f"process {bare['pid']} " in bare["refused"]
    assert bare["free"]
    assert (bare["one"], bare["many"]) == ("whole again", "2")
    assert bare["names"] == ["lock", "many", "one.txt"]


def test_without_fcntl_a_process_that_ended_is_forgotten_at_once_and_one_that_lives_is_not(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "fcntl", None)
    code = "import sys; from pathlib import Path; from maml_toolkit.system import files, locks; files.fcntl = None\n" \
           "with locks.held(Path(sys.argv[1])):\n    print('held', flush=True); sys.stdin.read()"
    other = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                             text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert other.stdout.readline() == "held\n"
    with pytest.raises(HeldError, match=f"process {other.pid} "):
        held(tmp_path).__enter__()
    other.kill()
    other.communicate()
    assert time.time() - (tmp_path / LOCK).stat().st_mtime < locks.STALE_S       # its last sign of life is not old
    with held(tmp_path):
        assert locks.holder(tmp_path / LOCK).pid == os.getpid()


def test_on_a_system_without_proc_a_process_is_known_by_the_time_of_its_start(monkeypatch):
    monkeypatch.setattr(locks.sys, "platform", "darwin")
    own = Holder.this()
    assert abs(float(own.started) - time.time()) < 24 * 3600 * 365
    assert own.lives(0)
    assert not Holder(own.host, own.pid, "1.0", own.since, own.key).lives(time.time())
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert locks.start_of(ended.pid) == ""
    assert not Holder(own.host, ended.pid, "", own.since, own.key).lives(time.time())


@pytest.mark.parametrize("id", ["con", "AUX", "nul.2", "com1", "LPT³", "case:1", "case?", "case 1.", "case ", "a<b",
                                "a|b"])
def test_on_windows_a_case_whose_id_names_no_folder_is_refused_by_name(id, monkeypatch):
    monkeypatch.setattr(case, "WINDOWS", False)
    assert Case(id).id == id
    monkeypatch.setattr(case, "WINDOWS", True)
    with pytest.raises(DataError) as found:
        Case(id)
    assert found.value.case == id
    assert found.value.remedy


@pytest.mark.parametrize("id", ["Brats18_2013_0_1", "console", "com10", "aux_1", "nulla.1", "BraTS-GLI-00005-100",
                                "Fälle 3", ".hidden", "lpt"])
def test_on_windows_any_other_id_is_accepted(id, monkeypatch):
    monkeypatch.setattr(case, "WINDOWS", True)
    assert Case(id).id == id


def test_systems_whose_folders_are_one_where_letter_case_is_nothing_are_refused():
    check_names_of_runs(["MAML", "MAML 2"])
    with pytest.raises(ValueError, match=r"\['MAML', 'maml'\]"):
        check_names_of_runs(["MAML", "maml"])


def test_a_table_that_windows_writes_names_its_files_for_every_system():
    path, frame, cell = PureWindowsPath("images\\case_1\\t1.nii.gz"), Frame(Path("."), 2), inspect.unwrap(table._cell)
    object.__setattr__(frame, "path", path)
    assert cell(path) == "images/case_1/t1.nii.gz"
    assert cell(frame) == "images/case_1/t1.nii.gz#2"


def test_a_page_keeps_the_folder_of_the_data_to_itself(tmp_path, monkeypatch):
    assert shortened(tmp_path)(f"{tmp_path / 'case' / 'a.nii'} is cut") == f"{Path('case') / 'a.nii'} is cut"
    monkeypatch.setattr("os.sep", "\\")
    assert shortened(tmp_path)(f"{tmp_path}\\case\\a.nii is cut") == "case\\a.nii is cut"


def test_folds_with_letters_of_every_language_are_read_whatever_the_locale(tmp_path):
    path = tmp_path / "folds.json"
    path.write_bytes(json.dumps({"folds": [{"training": ["Fälle"], "test": ["Ω"]}]}, ensure_ascii=False).encode())
    code = textwrap.dedent("""
        import sys
        from maml_toolkit.data import splits
        from maml_toolkit.data.cases import Case
        (training, test), = splits.read(sys.argv[1], [Case("F\\u00e4lle"), Case("\\u03a9")])
        print(ascii([one.id for one in (*training, *test)]))
    """)
    done = subprocess.run([sys.executable, "-X", "utf8=0", "-c", code, str(path)], capture_output=True, text=True,
                          check=True, env={**os.environ, "PYTHONPATH": str(ROOT), "LC_ALL": "C",
                                           "PYTHONCOERCECLOCALE": "0"})
    assert done.stdout == ascii(["Fälle", "Ω"]) + "\n"
    assert splits.read(path, [Case("Fälle"), Case("Ω")])[0][1][0].id == "Ω"


def test_what_workers_of_the_benchmark_do_can_be_sent_to_a_process_that_is_not_forked():
    sent = pickle.loads(pickle.dumps(loading.OfPeer(json.dumps, (8, 8, 8))))
    assert (sent.make, sent.size) == (json.dumps, (8, 8, 8))
