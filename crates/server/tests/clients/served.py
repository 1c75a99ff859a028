"""A server with the demo model on the processor, for the time of a `with`."""
import socket
import subprocess
import tempfile
import time
import urllib.request


class Served:
    def __init__(self, program, *options, env=None):
        self.program, self.options, self.env = program, options, env
        self.folder = tempfile.TemporaryDirectory()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}"

    def __enter__(self):
        command = [self.program, "serve", "--port", str(self.port), "--folder", self.folder.name, "--device", "cpu", *self.options]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=self.env)
        for _ in range(200):
            try:
                urllib.request.urlopen(self.address + "/", timeout=5).read()
                return self
            except OSError:
                assert self.process.poll() is None, "the server ended"
                time.sleep(0.05)
        raise AssertionError("the server does not answer")

    def __exit__(self, *_):
        self.process.terminate()
        assert self.process.wait(60) == 0, "the server did not end in order"
        self.folder.cleanup()
