"""fake_hub.py DIR - behaves as the Hugging Face hub does, for the tests of `fp8llm pull`.

Prints its port.  Every folder DIR/org/name is a repository; what troubles it has is in DIR/org/name.json:
    gated, private: the token "good" may, "known" is an account that may not, all others are unknown
    fail: {file: [status or "cut" or "short", ...]}   what the first requests for a file's bytes meet, in turn
    lie: {file: {"size": n, "sha256": text}}          what the listing says
    names: [...]                                      more names in the listing
    no_blobs: true                                    the listing has names only
    moved: "org/name"                                 a repository that is called so now
    no_ranges: true                                   Range is not understood
Files *.safetensors lie elsewhere (another port), where a token must not be seen.  Ends when standard input does.
The requests are in DIR/log: a line each, "server METHOD path range authorization".
"""
import hashlib, http.server, json, os, sys, threading, urllib.parse

root = sys.argv[1]
guard = threading.Lock()
met = {}


def commit_of(repo, revision):
    folder = os.path.join(root, repo)
    commit = hashlib.sha1(repo.encode()).hexdigest()
    return commit if os.path.isdir(folder) and revision in ("main", "v1/x", commit) else None


def troubles_of(repo):
    try:
        return json.load(open(os.path.join(root, repo + ".json")))
    except OSError:
        return {}


def is_large(name):
    return name.endswith(".safetensors")


def etag_of(data, name):
    if is_large(name):
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    where = "hub"

    def log_message(self, *_):
        pass

    def answer(self, status, body=b"", headers=(), length=None):
        self.send_response(status)
        for name, value in dict(headers).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, status, code, message="no"):
        self.answer(status, b'{"error": "no"}', {"X-Error-Code": code, "X-Error-Message": message})

    def may(self, troubles):
        token = (self.headers.get("Authorization") or "").replace("Bearer ", "")
        if token not in ("", "good", "known"):
            self.answer(401, b"", {"X-Error-Message": "Invalid credentials in Authorization header"})
        elif troubles.get("private") and token != "good":
            self.refuse(404 if token else 401, "RepoNotFound")
        else:
            return token or "nobody"

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        with guard, open(os.path.join(root, "log"), "a") as log:
            log.write("%s %s %s %s %s\n" % (self.where, self.command, self.path, self.headers.get("Range", "-"),
                                            self.headers.get("Authorization", "-")))
        words = urllib.parse.unquote(self.path.split("?")[0]).strip("/").split("/")
        if words[0] == "api":
            self.listing("/".join(words[2:4]), "/".join(words[5:]), words)
        else:
            self.file("/".join(words[0:2]), words[3], "/".join(words[4:]))

    def listing(self, repo, revision, words):
        troubles = troubles_of(repo)
        if "moved" in troubles:
            to = self.path.replace(repo, troubles["moved"])
            return self.answer(307, b"", {"Location": to})
        if not self.may(troubles):
            return
        if not os.path.isdir(os.path.join(root, repo)):
            return self.refuse(401, "RepoNotFound", "Invalid username or password.")
        commit = commit_of(repo, revision)
        if not commit:
            return self.refuse(404, "RevisionNotFound", "Invalid rev id")
        siblings = []
        for folder, _, names in os.walk(os.path.join(root, repo)):
            for name in names:
                path = os.path.relpath(os.path.join(folder, name), os.path.join(root, repo))
                data = open(os.path.join(root, repo, path), "rb").read()
                lie = troubles.get("lie", {}).get(path, {})
                entry = {"rfilename": path}
                if not troubles.get("no_blobs"):
                    entry.update(size=lie.get("size", len(data)), blobId="0" * 40)
                    if is_large(path):
                        entry["lfs"] = {"sha256": lie.get("sha256", etag_of(data, path)),
                                        "size": lie.get("size", len(data)), "pointerSize": 134}
                    else:
                        entry["blobId"] = etag_of(data, path)
                siblings.append(entry)
        siblings += [{"rfilename": name, "size": 1, "blobId": "1" * 40} for name in troubles.get("names", [])]
        siblings.sort(key=lambda entry: entry["rfilename"])
        body = json.dumps({"id": repo, "sha": commit, "siblings": siblings, "gated": False}).encode()
        self.answer(200, body, {"Content-Type": "application/json"})

    def file(self, repo, revision, name):
        troubles = troubles_of(repo)
        if "moved" in troubles:
            return self.answer(307, b"", {"Location": self.path.replace(repo, troubles["moved"])})
        if self.where == "hub":
            token = self.may(troubles)
            if not token:
                return
            if troubles.get("gated") and token != "good":
                return self.refuse(401 if token == "nobody" else 403, "GatedRepo")
        path = os.path.join(root, repo, name)
        if commit_of(repo, revision) is None or not os.path.isfile(path):
            return self.refuse(404, "EntryNotFound")
        data = open(path, "rb").read()
        about = {"ETag": '"%s"' % etag_of(data, name), "X-Repo-Commit": commit_of(repo, revision),
                 "Accept-Ranges": "bytes"}
        if is_large(name) and self.where == "hub":
            about.update({"X-Linked-Etag": about["ETag"], "X-Linked-Size": str(len(data)), "Location":
                          "http://127.0.0.1:%d%s?signed=a%%20b" % (elsewhere.server_port, self.path)})
            return self.answer(302, b"Found. Redirecting", about)
        self.bytes(repo, name, data, about, troubles)

    def bytes(self, repo, name, data, about, troubles):
        plan = [] if self.command == "HEAD" else troubles.get("fail", {}).get(name, [])
        with guard:
            turn = met[repo, name] = met.get((repo, name), -1) + (self.command != "HEAD")
        what = plan[turn] if 0 <= turn < len(plan) else None
        if isinstance(what, int):
            return self.answer(what, b"busy", {"Retry-After": "0"})
        status, start = 200, 0
        wanted = self.headers.get("Range")
        if wanted and not troubles.get("no_ranges"):
            start = int(wanted.split("=")[1].split("-")[0])
            if start >= len(data):
                return self.answer(416, b"")
            status = 206
            about["Content-Range"] = "bytes %d-%d/%d" % (start, len(data) - 1, len(data))
        body = data[start:]
        if what == "cut":
            self.answer(status, body[:max(1, len(body) // 2)], about, len(body))
            self.wfile.flush()
            self.close_connection = True
        elif what == "short":
            self.answer(status, body[:-1], about)
        else:
            self.answer(status, body, about)


class Elsewhere(Handler):
    where = "elsewhere"


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64


hub, elsewhere = Server(("127.0.0.1", 0), Handler), Server(("127.0.0.1", 0), Elsewhere)
for server in hub, elsewhere:
    threading.Thread(target=server.serve_forever, daemon=True).start()
print(hub.server_port, flush=True)
sys.stdin.read()
