"""Loads the function of `[election] on-change`: once, when the node starts, in a process for that.

The file is the user's code, and neither the supervisor nor an actor ever imports it. The loader
pickles the function by value: with the helpers and globals of its file and of the files beside it.
From these bytes the hook's process is made, and made again after a kill. So an edit of the file has
no effect before the node is started again, and never half an effect.
"""

from __future__ import annotations

import difflib
import importlib.machinery
import importlib.util
import inspect
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from litemq.actors import process_limits, user_process
from litemq.actors.lifeline import die_with_parent
from litemq.actors.nursery import pickle_by_value
from litemq.actors.user_error import described, place
from litemq.config import Config
from litemq.errors import ConfigError, NoThreadError

#: loading may take this long
LOAD_S = 30.0
#: the function, and what it brings along
MAX_BYTES = 64 << 20
#: the module's name in the loader: no other is called so
MODULE = "litemq_hook"
_REFUSED = 3


def load(config: Config) -> bytes:
    """The pickled function. ConfigError says in one line why it can't be had.

    NoThreadError if that is for want of a process.
    """
    named = config.on_change
    assert named is not None
    file, name = named
    result = os.memfd_create("litemq-hook")
    nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    words = [str(file), name, str(result), str(os.getpid())]
    try:
        process = user_process.start(
            "litemq.actors.hook_loader", words, fds=[result], output=nowhere
        )
        try:
            code = process.wait(LOAD_S)
        except subprocess.TimeoutExpired:
            raise _refusal(config, f"{file} is not loaded within {LOAD_S:.0f} s") from None
        finally:
            user_process.kill(process)
            user_process.reap(process)
        data = os.pread(result, os.fstat(result).st_size, 0)
    except OSError as error:
        if error.errno in process_limits.USED_UP:  # no mistake of the configuration
            raise NoThreadError(
                f"no process for {file}: {error.strerror} ({process_limits.reached()})"
            ) from error
        raise _refusal(config, f"no process for {file}: {error.strerror}") from error
    finally:
        os.close(nowhere)
        os.close(result)
    if code == _REFUSED and data:
        raise _refusal(config, data.decode(errors="replace"))
    if code or not data:
        raise _refusal(config, f"{file} ends the process that loads it (code {code})")
    return data


def _refusal(config: Config, reason: str) -> ConfigError:
    return ConfigError(f"{config.path}: [election] on-change: {reason}")


# --- in the loader's process


class _RefusedError(Exception):
    """The function can't be had; the message says what to change."""


def main(words: Sequence[str]) -> int:
    """Load the function `words[1]` of the file `words[0]`; never returns.

    The descriptor `words[2]` gets the pickled function, or the reason why there is none.
    """
    file, name, result, parent = words[0], words[1], int(words[2]), int(words[3])
    die_with_parent(parent)
    os.set_inheritable(result, False)
    code = 1
    try:
        data, code = _pickled(Path(file), name), 0
    except _RefusedError as refused:
        data, code = str(refused).encode(errors="replace"), _REFUSED
    finally:
        # not by way of exit handlers and threads, which are the user's
        if code in (0, _REFUSED):
            with open(result, "wb", closefd=False) as out:
                out.write(data)
        os._exit(code)


def _pickled(file: Path, name: str) -> bytes:
    module = _imported(file)
    function = _function(module, file, name)
    try:
        data = pickle_by_value(function, [module, *_beside(file)])
    except Exception as error:
        raise _RefusedError(
            f'"{name}" in {file} can\'t be sent to its process: {described(error)}; '
            "make in the function what can't be copied"
        ) from error
    if len(data) > MAX_BYTES:
        raise _RefusedError(
            f'"{name}" in {file} brings {len(data)} bytes along, {MAX_BYTES} at most; '
            "read data in the function"
        )
    return data


def _imported(file: Path) -> ModuleType:
    try:
        with file.open("rb") as readable:
            readable.read(1)
    except OSError as error:
        raise _RefusedError(f"{file} can't be read: {error.strerror}") from error
    sys.dont_write_bytecode = True
    sys.path.append(str(file.parent))  # last: a file beside it never stands for a library's
    loader = importlib.machinery.SourceFileLoader(MODULE, str(file))
    spec = importlib.util.spec_from_file_location(MODULE, file, loader=loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[MODULE] = module
    try:
        loader.exec_module(module)
    except BaseException as error:
        where = place(error, str(file)) or str(file)
        raise _RefusedError(f"{where} can't be loaded: {described(error)}") from error
    return module


def _beside(file: Path) -> Iterator[ModuleType]:
    """The files of the same directory that it has imported; packages are libraries."""
    for name, module in list(sys.modules.items()):
        found = getattr(module, "__file__", None)
        apart = name == MODULE or "." in name or hasattr(module, "__path__")
        if found and not apart and Path(found).parent == file.parent:
            yield module


def _function(module: ModuleType, file: Path, name: str) -> Callable[..., Any]:
    found = getattr(module, name, None)
    if found is None:
        close = difflib.get_close_matches(name, vars(module), n=1)
        hint = f'; did you mean "{close[0]}"?' if close else ""
        raise _RefusedError(f'{file} has no function "{name}"{hint}')
    if not callable(found):
        raise _RefusedError(f'"{name}" in {file} must be a function, not {type(found).__name__}')
    if inspect.iscoroutinefunction(found):
        raise _RefusedError(f'"{name}" in {file} must be a plain function, not an async one')
    try:
        inspect.signature(found).bind(None)
    except TypeError:
        raise _RefusedError(
            f'"{name}" in {file} must take one argument, the change: def {name}(change)'
        ) from None
    except ValueError:  # a function of an extension does not tell
        pass
    return found  # type: ignore[no-any-return]
