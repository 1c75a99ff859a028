"""hub.py LOG: a model hub on this machine. Serves some/model, prints its address, writes each request's first line and range to LOG.

Large files break off after 30000 bytes, so that a download has to go on where it stood.
"""
import hashlib, http.server, json, sys

COMMIT = "0123456789abcdef0123456789abcdef01234567"
BREAK = 30_000


def weights(seed):
    return bytes((i * 7 + seed) % 256 for i in range(100_000))


FILES = {
    "model_index.json": b"{}",
    "unet/config.json": b'{"a": 1}',
    "unet/empty.json": b"",
    "unet/diffusion_pytorch_model.safetensors": weights(1),
    "vae/diffusion_pytorch_model.safetensors": weights(3),
}
REPOSITORIES = {"some/model": FILES, "some/reserved": {"unet/aux.json": b"{}", "unet/model.safetensors": weights(4)}}


def entry(name, data):
    git = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    told = {"rfilename": name, "size": len(data), "blobId": git}
    if name.endswith(".safetensors"):
        told["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
    return told


class Hub(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        with open(sys.argv[1], "a") as log:
            print(self.path, self.headers.get("Range", ""), self.headers.get("Authorization", ""), file=log)
        for repository, files in REPOSITORIES.items():
            if self.path.startswith(f"/api/models/{repository}/revision/main"):
                listing = {"sha": COMMIT, "siblings": [entry(name, data) for name, data in files.items()]}
                return self.answer(200, json.dumps(listing).encode(), None)
            name = self.path.removeprefix(f"/{repository}/resolve/{COMMIT}/")
            if name in files:
                start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
                return self.answer(206 if start else 200, files[name][start:], BREAK)
        self.answer(404, b"", None)

    def answer(self, status, body, most):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body[:most])

    def log_message(self, *words):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
print(f"http://127.0.0.1:{server.server_port}", flush=True)
server.serve_forever()
