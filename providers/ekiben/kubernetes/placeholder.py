"""What an endpoint's first revision runs, before any model is deployed: it says so, to whoever calls."""

from __future__ import annotations

from ekiben.kubernetes.facts import PORT

__all__ = ["SOURCE", "WHY"]

WHY = "the endpoint has no model yet: release one, with `ekiben release`"

# The program of a container on a stock Python image, with the standard library alone.
SOURCE = f"""\
import http.server, json, signal, sys

# The first process of a container ignores what it does not handle, and the pod would last for its whole grace.
signal.signal(signal.SIGTERM, lambda *_: sys.exit())

class Answer(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self):
        self.rfile.read(int(self.headers.get("content-length") or 0))
        body = json.dumps({{"error": {WHY!r}}}).encode()
        self.send_response(503)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = answer

    def log_message(self, *_):
        pass

http.server.ThreadingHTTPServer(("", {PORT}), Answer).serve_forever()
"""
