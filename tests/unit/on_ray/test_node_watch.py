import subprocess
import sys
from pathlib import Path

from tests.support.driver import ROOT

# A node is a process that listens on a socket; the driver works on until it is told that the node died.
DRIVER = """
import contextlib, os, signal, subprocess, sys, time
from pipeline.errors import JobError
from pipeline.on_ray.node_watch import NodeWatch
node = subprocess.Popen([sys.executable, "-c", '''
import socket, sys, time
with socket.socket(socket.AF_UNIX) as door:
    door.bind(sys.argv[1])
    door.listen()
    held = []
    while True:
        held.append(door.accept()[0])
''', sys.argv[1]])
while not os.path.exists(sys.argv[1]):
    time.sleep(0.01)
time.sleep(0.2)
watch = NodeWatch(sys.argv[1])
watch.start()
time.sleep(0.3)
if sys.argv[2] == "stopped":
    watch.stop()
deaf = contextlib.suppress(JobError) if sys.argv[2] == "deaf" else contextlib.nullcontext()
try:
    with deaf:
        node.kill()  # from here on the word may come at any moment
        node.wait()
        time.sleep(2)
    time.sleep(20 if sys.argv[2] == "deaf" else 0)
    print("went on", watch.dead)
except JobError as error:
    print("told:", error)
"""


def drive(folder: Path, how: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", DRIVER, str(folder / "node"), how]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False, cwd=ROOT)


def test_the_main_thread_is_told_that_the_node_died(tmp_path: Path) -> None:
    done = drive(tmp_path, "listens")
    assert done.stdout.startswith("told: the Ray node of this machine"), done.stderr
    assert "goes on from what is committed" in done.stdout


def test_a_main_thread_that_does_not_end_is_ended(tmp_path: Path) -> None:
    done = drive(tmp_path, "deaf")
    assert done.returncode == 1
    assert "the Ray node of this machine" in done.stderr
    assert done.stdout == ""


def test_a_node_that_is_left_may_end(tmp_path: Path) -> None:
    assert drive(tmp_path, "stopped").stdout == "went on False\n"
