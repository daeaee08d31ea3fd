"""A server on this machine that drops connections, ignores ranges, or sends something else."""

import hashlib
import http.server
import threading

from sharp_plugins.files.download import Source


class Server:
    """Serves *files*; keeps the Range header of each request."""

    def __init__(self):
        self.files, self.ranges, self.stop_after, self.knows_ranges = {}, [], None, True
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                outer.ranges.append(self.headers.get("Range"))
                content = outer.files.get(self.path.strip("/"))
                if content is None:
                    self.send_error(404)
                    return
                start = 0
                if self.headers.get("Range") and outer.knows_ranges:
                    start = int(self.headers["Range"].split("=")[1].rstrip("-"))
                    if start >= len(content):
                        self.send_error(416)
                        return
                    self.send_response(206)
                    self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
                else:
                    self.send_response(200)
                self.send_header("Content-Length", str(len(content) - start))
                self.end_headers()
                stop = len(content) if outer.stop_after is None else min(len(content), start + outer.stop_after)
                self.wfile.write(content[start:stop])

            def log_message(self, *args):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.base = f"http://127.0.0.1:{self.server.server_port}/"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def source(self, name, content):
        self.files[name] = content
        return Source(self.base, name, len(content), hashlib.sha256(content).hexdigest())

    def stop(self):
        self.server.shutdown()
        self.server.server_close()
