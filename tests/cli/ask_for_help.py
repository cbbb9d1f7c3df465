"""Run modules with ``--help``, all in this process, and print what each did: a JSON line for each of ``sys.argv[1:]``.

A path is run as a script, any other name as by ``python -m``. What a module does to files, processes or the network is
noted from Python's audit events (PEP 578) and refused, so that a module that would work instead does no harm.
"""

from __future__ import annotations

import io
import json
import os
import runpy
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

WORK = {  # audit events
    *(f"os.{name}" for name in ("mkdir", "remove", "rename", "rmdir", "link", "symlink", "truncate", "kill", "killpg")),
    *(f"os.{name}" for name in ("exec", "fork", "forkpty", "posix_spawn", "spawn", "system")),
    *("subprocess.Popen", "socket.bind", "socket.connect", "shutil.rmtree", "shutil.copyfile", "sqlite3.connect"),
}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
done: list[str] = []
watching = False


def watch(event: str, arguments: tuple[Any, ...]) -> None:
    if not watching:
        return
    writes = event == "open" and arguments[2] & WRITING and arguments[0] != os.devnull
    if event in WORK or writes:
        done.append(f"{event} {arguments[0]!s:.200}")
        raise PermissionError(done[-1])


def execute(name: str, run_name: str) -> None:
    if name.endswith(".py"):
        sys.path[0] = str(Path(name).parent)
        runpy.run_path(name, run_name=run_name)
    else:
        runpy.run_module(name, run_name=run_name, alter_sys=True)


def ask(name: str) -> dict[str, Any]:
    global watching
    done.clear()
    output, errors = io.StringIO(), io.StringIO()
    path = list(sys.path)
    try:
        with redirect_stderr(errors):
            if not name.endswith("__main__"):
                execute(name, "not main")  # the libraries that it imports may do what they like, once
        errors.truncate(0)
        sys.argv = [name, "--help"]
        watching = True
        with redirect_stdout(output), redirect_stderr(errors):
            execute(name, "__main__")
        status: Any = "the module went on to its end"
    except SystemExit as end:
        status = 0 if end.code is None else end.code
    except BaseException as error:
        status = f"{type(error).__name__}: {error}"
    finally:
        watching = False
        sys.path[:] = path
    return {"name": name, "status": status, "did": list(done), "output": output.getvalue(), "errors": errors.getvalue()}


sys.dont_write_bytecode = True
sys.addaudithook(watch)
for each in sys.argv[1:]:
    print(json.dumps(ask(each)), flush=True)
