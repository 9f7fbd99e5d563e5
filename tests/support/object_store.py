"""A small S3: objects in memory behind a real port, as far as clients that fetch and ship need it."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

S3_CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "a",
    "AWS_SECRET_ACCESS_KEY": "b",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",  # otherwise parts come in chunks of AWS' own kind
}
_NOT_FOUND = b'<?xml version="1.0"?><Error><Code>NoSuchKey</Code></Error>'


class ObjectStore(ThreadingHTTPServer):
    """Objects and buckets by path, ``/bucket/key``; unknown ones are a 404."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.objects: dict[str, bytes] = {}
        self.parts: dict[str, list[bytes]] = {}

    @property
    def url(self) -> str:
        """Return where it listens."""
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ObjectStore

    def do_GET(self) -> None:
        self._answer(has_body=True)

    def do_HEAD(self) -> None:
        self._answer(has_body=False)

    def do_PUT(self) -> None:
        content = self.rfile.read(int(self.headers["content-length"]))
        place = urlsplit(self.path)
        if "uploadId=" in place.query:
            self.server.parts.setdefault(place.path, []).append(content)
        else:
            self.server.objects[place.path] = content
        self._send(200, b"", {"etag": '"0"'}, has_body=False)

    def do_POST(self) -> None:
        """Begin or end an upload in parts."""
        self.rfile.read(int(self.headers.get("content-length", 0)))
        place = urlsplit(self.path)
        if place.query.startswith("uploads"):
            said = b"<InitiateMultipartUploadResult><UploadId>1</UploadId></InitiateMultipartUploadResult>"
        else:
            said = b'<CompleteMultipartUploadResult><ETag>"0"</ETag></CompleteMultipartUploadResult>'
            self.server.objects[place.path] = b"".join(self.server.parts.pop(place.path))
        self._send(200, said, {"content-type": "application/xml"}, has_body=True)

    def _answer(self, *, has_body: bool) -> None:
        content = self.server.objects.get(urlsplit(self.path).path)
        if content is None:
            self._send(404, _NOT_FOUND, {}, has_body=has_body)
            return
        head = {"last-modified": "Thu, 01 Jan 2026 00:00:00 GMT", "etag": '"0"'}
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("range", ""))
        if found is None:
            self._send(200, content, head, has_body=has_body)
            return
        first, last = int(found[1]), min(int(found[2]), len(content) - 1)
        head["content-range"] = f"bytes {first}-{last}/{len(content)}"
        self._send(206, content[first : last + 1], head, has_body=has_body)

    def _send(self, status: int, content: bytes, head: dict[str, str], *, has_body: bool) -> None:
        self.send_response(status)
        for name, value in {**head, "content-length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if has_body:
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def object_store() -> Iterator[ObjectStore]:
    """Serve an empty store as long as the block lasts."""
    store = ObjectStore()
    thread = threading.Thread(target=store.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield store
    finally:
        store.shutdown()
        store.server_close()
        thread.join()
