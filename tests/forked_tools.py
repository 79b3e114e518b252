"""The command-line tools, run as a user does, without importing TensorFlow anew for each.

What the tools import takes five seconds, more than most of these runs do. So one process imports
it, starts nothing, and forks for each run: a process of its own all the same. A module that a tool
forgets to import would not be missed here; one run of each tool is a plain process for that.
"""

import atexit
import gc
import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
IMPORTED = (
    "d2v_tf.training.pretrain",
    "d2v_tf.training.finetune_seeds",
    "d2v_tf.training.finetune_vision",
    "d2v_tf.training.finetune_speech",
    "d2v_tf.training.finetune_text",
    "d2v_tf.training.vision",
    "d2v_tf.training.speech",
    "d2v_tf.training.text",
    "d2v_tf.evaluation.measure",
    "d2v_tf.exporting.export",
    "d2v_tf.interop.convert",
)
_forker = []


def run_tool(tool, *arguments, cwd=None, seconds=300):
    """Runs one of `tools/`; returns a `subprocess.CompletedProcess` with what it printed.

    Args:
        tool: str, such as `"pretrain.py"`.
        *arguments: what follows on the command line.
        cwd: optional path, the folder that it runs in.
        seconds: int. It is ended by SIGALRM if it takes longer.
    """
    if not _forker:
        command = [sys.executable, "-m", "tests.forked_tools"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        _forker.append(subprocess.Popen(command, cwd=ROOT, **pipes))
        atexit.register(_forker[0].communicate)  # at the end of its input it ends
    with tempfile.TemporaryDirectory() as folder:
        outputs = [os.path.join(folder, name) for name in ("stdout", "stderr")]
        command = [str(ROOT / "tools" / tool), *map(str, arguments)]
        request = {
            "command": command,
            "outputs": outputs,
            "cwd": str(cwd or os.getcwd()),
            "seconds": seconds,
        }
        print(json.dumps(request), file=_forker[0].stdin, flush=True)
        status = int(_forker[0].stdout.readline())
        stdout, stderr = (Path(path).read_text() for path in outputs)
    return subprocess.CompletedProcess(command, status, stdout, stderr)


def fork_for_requests():
    """Answers each request by the exit status of a fork; in that fork, returns the request."""
    for line in sys.stdin:
        child = os.fork()
        if not child:
            return json.loads(line)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def main():
    for module in IMPORTED:
        importlib.import_module(module)
    gc.freeze()  # or a fork looks through all that was imported, and copies it
    request = fork_for_requests()
    if request is None:
        return
    signal.alarm(request["seconds"])
    for number, path in enumerate([os.devnull, *request["outputs"]]):
        flags = os.O_WRONLY | os.O_CREAT if number else os.O_RDONLY
        os.dup2(os.open(path, flags), number)
    os.chdir(request["cwd"])
    sys.argv = request["command"]
    sys.path[0] = os.path.dirname(sys.argv[0])
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
