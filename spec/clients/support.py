"""What the client tests share: a list of tests, and the server they talk to."""
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import traceback
import urllib.request

BUILD = "build"
MODEL = BUILD + "/models/SmolLM2-135M-Instruct-FP8"
TINY = BUILD + "/clients/tiny"
COMMAND = [BUILD + "/fp8llm"]


class Tests:
    """Functions with a sentence each, run in order, reported as TAP."""

    def __init__(self):
        self.list = []

    def __call__(self, sentence):
        def add(function):
            self.list.append((sentence, function))
            return function
        return add

    def run(self, first, context):
        """-> how many passed; the rest of the list failed"""
        passed = 0
        for number, (sentence, function) in enumerate(self.list, first):
            try:
                function(context)
                passed += 1
                print(f"ok {number} - {sentence}", flush=True)
            except Exception:  # noqa: BLE001 - whatever a client raises is a failed test
                print(f"not ok {number} - {sentence}")
                print("# " + traceback.format_exc().replace("\n", "\n# "), flush=True)
        return passed


def equal(expected, got):
    assert expected == got, f"expected {expected!r}, got {got!r}"


def write_keys(text):
    path = BUILD + "/clients/keys"
    with open(path, "w") as f:
        f.write(text)
    os.chmod(path, 0o600)
    return path


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Server:
    """`fp8llm serve` on a free port; everything it writes is in build/log."""

    def __init__(self, *options, model=MODEL, name="clients-server"):
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log_path = f"{BUILD}/log/{name}.log"
        self.run_dir = tempfile.mkdtemp(prefix="fp8llm-")  # short: paths of unix sockets are
        os.chmod(self.run_dir, 0o755)  # nginx's workers are another user when this is root
        self.words = [*COMMAND, "serve", model, "--port", str(self.port), "--metrics", "--run-dir", self.run_dir, *options]

    def __enter__(self):
        os.makedirs(os.path.dirname(self.log_path), exist_ok=True)
        with open(self.log_path, "w") as log:
            self.process = subprocess.Popen(self.words, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        try:
            self.wait_until_ready()
        except BaseException:
            self.__exit__()
            raise
        return self

    def wait_until_ready(self):
        for _ in range(600):
            if self.process.poll() is not None:
                break
            try:
                with urllib.request.urlopen(self.url + "/health", timeout=5) as answer:
                    if answer.status == 200:
                        return
            except OSError:
                time.sleep(0.2)
        with open(self.log_path) as log:
            raise RuntimeError(f"{' '.join(self.words)} is not ready:\n{log.read()}")

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.status = self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.status = self.process.wait()
        shutil.rmtree(self.run_dir, ignore_errors=True)
