"""Rules that can be read off the source: portability, safety, size, form. Each rule is tried on a bad example first."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CODE_FOLDERS = ("SynthDiffusion", "SynthDiffusionLib", "Testing", "Docs")
SKIPPED_FOLDERS = {".git", ".venv", "runs", "build", "dist", "site", "demo-output", "__pycache__"}

MAX_LINES = 500
# Path in the project: why it may be longer.
LONGER_FILES: dict[str, str] = {}

MAX_FILE_BYTES = 8_000_000
MAX_TREE_BYTES = 60_000_000  # leaves room for the history below the 100 MB of the Extensions Index


def project_files() -> list[Path]:
    """Files that are in Git or would be added to it; without Git, all files but build outputs."""
    try:
        listed = subprocess.run(
            ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
            cwd=ROOT,
            capture_output=True,
            check=True,
        ).stdout.decode("utf-8")
        files = [ROOT / name for name in listed.split("\0") if name]
    except (OSError, subprocess.CalledProcessError):
        files = [p for p in ROOT.rglob("*") if not SKIPPED_FOLDERS & set(p.relative_to(ROOT).parts)]
    return sorted(path for path in files if path.is_file())


def python_files(*folders: str) -> list[Path]:
    """The project's Python files below some of its folders."""
    return [p for p in project_files() if p.suffix == ".py" and p.relative_to(ROOT).parts[0] in folders]


def _called(node: ast.AST) -> str:
    """Dotted name of what a call calls: "torch.load" for `torch.load(...)`."""
    if isinstance(node, ast.Attribute):
        return f"{_called(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def _keyword(call: ast.Call, name: str):
    """Value of a literal keyword argument, or None."""
    for keyword in call.keywords:
        if keyword.arg == name:
            return keyword.value.value if isinstance(keyword.value, ast.Constant) else ...
    return None


def _imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name.split(".")[0]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.lineno, node.module.split(".")[0]


POSIX_ONLY_NAMES = {
    "os": {"fork", "forkpty", "killpg", "getpgid", "setpgrp", "setsid", "getuid", "geteuid", "uname", "mkfifo", "nice"},
    "signal": {"SIGKILL", "SIGSTOP", "SIGCONT", "SIGALRM", "SIGHUP", "alarm", "pthread_kill"},
}
POSIX_ONLY_MODULES = {"fcntl", "grp", "pty", "pwd", "resource", "syslog", "termios", "tty"}


def posix_only(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Calls, constants and modules that Windows does not have."""
    for line, name in _imports(tree):
        if name in POSIX_ONLY_MODULES:
            yield line, f"module {name}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.attr in POSIX_ONLY_NAMES.get(node.value.id, ()):
                yield node.lineno, f"{node.value.id}.{node.attr}"
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if alias.name in POSIX_ONLY_NAMES.get(node.module or "", ()):
                    yield node.lineno, f"{node.module}.{alias.name}"
        elif isinstance(node, ast.Call) and _keyword(node, "preexec_fn") is not None:
            yield node.lineno, "preexec_fn"


def swallowed_errors(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Bare excepts, and handlers that drop every error without a word."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler):
            if node.type is None:
                yield node.lineno, "bare except"
            elif _called(node.type) in ("Exception", "BaseException") and all(
                isinstance(statement, (ast.Pass, ast.Continue)) for statement in node.body
            ):
                yield node.lineno, f"except {_called(node.type)} that only passes"


UNSAFE_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
UNSAFE_CALLS = {"eval", "exec", "os.system", "os.popen", "tempfile.mktemp", "yaml.load", "yaml.unsafe_load"}


def unsafe(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Ways in which data become code."""
    for line, name in _imports(tree):
        if name in UNSAFE_MODULES:
            yield line, f"module {name}"
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = _called(node.func)
        if called in UNSAFE_CALLS:
            yield node.lineno, f"{called}()"
        if _keyword(node, "shell") not in (None, False):
            yield node.lineno, "shell=True"
        if called == "torch.load" and _keyword(node, "weights_only") is not True:
            yield node.lineno, "torch.load without weights_only=True"
        if _keyword(node, "allow_pickle") not in (None, False):
            yield node.lineno, "allow_pickle"


def undocumented(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Public classes and functions at file scope without a docstring or without type hints."""
    for node in tree.body if isinstance(tree, ast.Module) else ():
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) or node.name.startswith("_"):
            continue
        if not ast.get_docstring(node):
            yield node.lineno, f"{node.name} has no docstring"
        if isinstance(node, ast.ClassDef):
            continue
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        for argument in arguments:
            if argument.annotation is None:
                yield node.lineno, f"{node.name}: no type hint for {argument.arg}"
        if node.returns is None:
            yield node.lineno, f"{node.name}: no type hint for what it returns"


RULES: dict[str, tuple[Callable, tuple[str, ...], list[str]]] = {
    # name: (rule, folders it holds in, bad examples)
    "posix_only": (
        posix_only,
        CODE_FOLDERS,
        [
            "import os\nos.killpg(1, 9)",
            "import fcntl",
            "from signal import SIGKILL",
            "import signal\nx = signal.SIGKILL",
            "import subprocess\nsubprocess.Popen(['a'], preexec_fn=print)",
            "def f():\n    import resource",
        ],
    ),
    "swallowed_errors": (
        swallowed_errors,
        CODE_FOLDERS,
        ["try:\n    f()\nexcept:\n    raise", "try:\n    f()\nexcept Exception:\n    pass"],
    ),
    "unsafe": (
        unsafe,
        CODE_FOLDERS,
        [
            "import pickle",
            "from joblib import load",
            "eval('1')",
            "exec('1')",
            "import subprocess\nsubprocess.run('ls', shell=True)",
            "import torch\ntorch.load('a.pt')",
            "import torch\ntorch.load('a.pt', weights_only=False)",
            "import numpy\nnumpy.load('a.npy', allow_pickle=True)",
            "import os\nos.system('ls')",
        ],
    ),
    "undocumented": (
        undocumented,
        ("SynthDiffusionLib",),
        [
            "def f() -> None:\n    pass",
            "class A:\n    x = 1",
            'def f(a) -> None:\n    """A."""',
            'def f():\n    """A."""',
        ],
    ),
}
GOOD = '''
import os, subprocess, torch
class _Hidden: pass
def f(a: int) -> int:
    """A."""
    try:
        model.eval()
        torch.load("a.pt", weights_only=True)
        subprocess.run(["ls"], shell=False, check=True)
    except OSError:
        pass
    return os.getpid()
'''


@pytest.mark.parametrize(("name", "example"), [(name, code) for name, rule in RULES.items() for code in rule[2]])
def test_rule_finds_bad_example(name, example):
    assert list(RULES[name][0](ast.parse(example)))


@pytest.mark.parametrize("name", RULES)
def test_rule_leaves_good_code_alone(name):
    assert list(RULES[name][0](ast.parse(GOOD))) == []


@pytest.mark.parametrize("name", RULES)
def test_rule_holds(name):
    rule, folders, _ = RULES[name]
    files = python_files(*folders)
    assert files
    offences = [
        f"{path.relative_to(ROOT)}:{line}: {what}"
        for path in files
        for line, what in rule(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert not offences, "\n".join(offences)


def test_no_long_files():
    long = {
        path.relative_to(ROOT).as_posix(): lines
        for path in python_files(*CODE_FOLDERS)
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > MAX_LINES
    }
    assert not set(long) - set(LONGER_FILES), f"longer than {MAX_LINES} lines: {long}"
    assert set(LONGER_FILES) <= set(long), "these no longer need their exception"


def test_no_module_is_called_utils():
    names = [path.relative_to(ROOT).as_posix() for path in python_files(*CODE_FOLDERS)]
    assert [name for name in names if re.search(r"(^|/)utils?(/|\.py$)", name)] == []


WINDOWS_DEVICES = {"con", "prn", "aux", "nul", *(f"{d}{n}" for d in ("com", "lpt") for n in range(1, 10))}


def unportable_name(name: str) -> bool:
    """Whether Windows refuses a path, or a clone in a deep folder would pass its limit of 260 characters."""
    parts = name.split("/")
    return (
        len(name) > 140
        or re.search(r'[<>:"|?*\\\x00-\x1f]', name) is not None
        or any(part.endswith((".", " ")) or part.split(".")[0].lower() in WINDOWS_DEVICES for part in parts)
    )


def test_file_names_work_on_every_platform():
    for bad in ("a/b:c.txt", "a/aux.py", "a/b.", "a/what?.md", "x" * 141):
        assert unportable_name(bad)
    names = [path.relative_to(ROOT).as_posix() for path in project_files()]
    assert [name for name in names if unportable_name(name)] == []
    assert len({name.lower() for name in names}) == len(names), "two names differ only in case"


def test_nothing_committed_is_large():
    sizes = {path.relative_to(ROOT).as_posix(): path.stat().st_size for path in project_files()}
    assert {name: size for name, size in sizes.items() if size > MAX_FILE_BYTES} == {}
    assert sum(sizes.values()) < MAX_TREE_BYTES


# Written in pieces, so that this file does not find itself.
MACHINE_TEXT = [
    re.compile(pattern)
    for pattern in (
        r"(?<![\w./~])/(" + "root|work|opt|home/[a-z]+" + r")/",
        r"[A-Z]:\\" + "Users",
        "download" + r"\.pytorch\.org",
        "pypi" + r"\.org/simple",
        "--" + r"(extra-)?index-url",
        "--" + "find-links",
    )
]


@pytest.mark.parametrize("text", ["'/ro" + "ot/venv'", "pip install --index" + "-url x", "see /wo" + "rk/main/a"])
def test_machine_text_is_found(text):
    assert any(pattern.search(text) for pattern in MACHINE_TEXT)


def test_no_file_names_a_machine_or_a_package_index():
    offences = []
    for path in project_files():
        content = path.read_bytes()
        if b"\0" in content[:8192]:
            continue
        text = content.decode("utf-8")  # text files are UTF-8: a failure here is a finding too
        offences += [f"{path.relative_to(ROOT)}: {match.group(0)}" for p in MACHINE_TEXT for match in p.finditer(text)]
    assert not offences, "\n".join(offences)


# Distribution of each third-party module that the engine may import; `slicer` has no place in the engine.
DISTRIBUTIONS = {
    "PIL": "pillow",
    "skimage": "scikit-image",
    "SimpleITK": "simpleitk",
    "lightning_fabric": "lightning-fabric",
    "nrrd": "pynrrd",
    "yaml": "PyYAML",
}


def test_every_import_of_the_engine_is_a_declared_dependency():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    requirements = list(project["dependencies"])
    for extra in ("dicom", "train", "study", "ray", "bundle"):
        requirements += project["optional-dependencies"][extra]
    declared = {re.match(r"[\w.-]+", requirement).group(0).lower() for requirement in requirements}
    offences = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in python_files("SynthDiffusionLib")
        for line, name in _imports(ast.parse(path.read_text(encoding="utf-8")))
        if name not in sys.stdlib_module_names
        and name != "SynthDiffusionLib"
        and DISTRIBUTIONS.get(name, name).lower() not in declared
    ]
    assert not offences, "\n".join(offences)
