"""Downloads: whole, verified, resumed, by one process at a time."""

import fcntl
import hashlib
import http.client
import http.server
import io
import multiprocessing
import random
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import torch

import clip
from clip import catalog
from clip.errors import LoadError
from clip.files.download import download
from clip.model import CLIP

TINY = {"embed_dim": 8, "image_resolution": 16, "vision_layers": 1, "vision_width": 64, "vision_patch_size": 8,
        "context_length": 8, "vocab_size": 20, "transformer_width": 64, "transformer_heads": 1,
        "transformer_layers": 1}
PARTIAL = "ViT-B-32.pt.part"


def saved(content):
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


# What is seen by the loader, with a network made here.

class Network:
    """Stands in for ``urllib.request.urlopen``: serves ``content`` and looks at the cache while it does."""

    def __init__(self, content, fails_with=None, fails_after=0):
        self.content, self.fails_with, self.fails_after = content, fails_with, fails_after
        self.addresses, self.seen, self.cache = [], {}, None

    def __call__(self, address, timeout=None):
        assert timeout, "a silent server must not hang the program"
        self.addresses.append(address.full_url)
        if self.fails_with and not self.fails_after:
            raise self.fails_with
        self.status = 200
        self.headers, self.stream = {"Content-Length": str(len(self.content))}, io.BytesIO(self.content)
        return self

    def __enter__(self):
        return self

    def __exit__(self, *failure):
        return False

    def read(self, size):
        if self.cache is not None and self.cache.is_dir():
            self.seen |= {path.stat().st_ino: path.name for path in self.cache.iterdir()}
        if self.fails_with and self.stream.tell() >= self.fails_after:
            raise self.fails_with
        return self.stream.read(min(size, 10_000))


@pytest.fixture
def published(monkeypatch):
    """A network with a small model under the published name ViT-B/32, whose hash is made to be the right one."""
    monkeypatch.delenv("CLIP_CACHE", raising=False)
    content = saved(CLIP(**TINY).state_dict())
    monkeypatch.setitem(catalog.ARCHIVES, "ViT-B/32", hashlib.sha256(content).hexdigest())
    return connect(monkeypatch, Network(content))


def connect(monkeypatch, network):
    monkeypatch.setattr(urllib.request, "urlopen", network)
    return network


def test_first_use_downloads_and_the_next_does_not(published, tmp_path):
    published.cache = tmp_path / "deep" / "cache"
    model, _ = clip.load("ViT-B/32", cache=published.cache)
    assert model.image_resolution == 16
    assert published.addresses == [catalog.archive_address("ViT-B/32")]
    assert list(published.cache.iterdir()) == [published.cache / "ViT-B-32.pt"]
    assert (published.cache / "ViT-B-32.pt").read_bytes() == published.content
    clip.load("ViT-B/32", cache=str(published.cache))
    assert len(published.addresses) == 1


def test_nothing_half_written_has_the_final_name(published, tmp_path):
    """What was written under another name is renamed, not copied."""
    published.cache = tmp_path
    clip.load("ViT-B/32", cache=tmp_path)
    assert "ViT-B-32.pt" not in published.seen.values()
    assert (tmp_path / "ViT-B-32.pt").stat().st_ino in published.seen


def test_others_may_read_the_cache(published, tmp_path):
    """Temporary files are private; a cache that several users share must not stay so."""
    clip.load("ViT-B/32", cache=tmp_path)
    (tmp_path / "plain").touch()
    assert (tmp_path / "ViT-B-32.pt").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_cache_of_the_environment(published, tmp_path, monkeypatch):
    monkeypatch.setenv("CLIP_CACHE", str(tmp_path / "mine"))
    clip.load("ViT-B/32")
    assert (tmp_path / "mine" / "ViT-B-32.pt").is_file()
    clip.load("ViT-B/32", cache=tmp_path / "given")
    assert (tmp_path / "given" / "ViT-B-32.pt").is_file()


def test_cache_of_the_home_folder(published, tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    clip.load("ViT-B/32")
    assert (tmp_path / ".cache" / "clip" / "ViT-B-32.pt").is_file()


def test_wrong_hash_leaves_nothing(published, tmp_path):
    published.content = published.content[:-1] + b"!"
    with pytest.raises(LoadError) as caught:
        clip.load("ViT-B/32", cache=tmp_path)
    assert list(tmp_path.iterdir()) == []
    message = str(caught.value)
    assert hashlib.sha256(published.content).hexdigest() in message and catalog.ARCHIVES["ViT-B/32"] in message
    assert catalog.archive_address("ViT-B/32") in message and str(tmp_path / "ViT-B-32.pt") in message


@pytest.mark.parametrize("after", [0, 10_000])
@pytest.mark.parametrize("failure", [
    urllib.error.URLError("no route"), ConnectionResetError("reset"), TimeoutError("timed out"),
    http.client.IncompleteRead(b""), http.client.BadStatusLine("?")], ids=lambda failure: type(failure).__name__)
def test_network_error_says_what_to_fetch_and_where_to_put_it(failure, after, published, tmp_path):
    published.fails_with, published.fails_after = failure, after
    with pytest.raises(LoadError) as caught:
        clip.load("ViT-B/32", cache=tmp_path)
    message = str(caught.value)
    assert catalog.archive_address("ViT-B/32") in message and str(tmp_path / "ViT-B-32.pt") in message
    assert "\n" not in message
    assert [path.name for path in tmp_path.iterdir()] == [PARTIAL] * bool(after), "kept to be taken up"


def test_interruption_leaves_what_came(published, tmp_path):
    published.fails_with, published.fails_after = KeyboardInterrupt(), 10_000
    with pytest.raises(KeyboardInterrupt):
        clip.load("ViT-B/32", cache=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [PARTIAL]
    assert published.content.startswith((tmp_path / PARTIAL).read_bytes())


def test_cache_that_cannot_be_made(published, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(LoadError, match="could not be downloaded"):
        clip.load("ViT-B/32", cache=tmp_path / "file")


# A server on this machine.

CONTENT = random.Random(0).randbytes(3_000_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Serves ``content``. ``cuts``: after how many bytes each answer in turn breaks off; ``go``: an
    event that the last third of an answer waits for."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.cuts, self.ranges, self.asked = CONTENT, [], True, []
        self.go = threading.Event()
        self.go.set()
        self.address = f"http://127.0.0.1:{self.server_port}/file"

    def handle_error(self, request, client_address):
        """The other side is gone: what is tested."""


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        """Silent."""

    def do_GET(self):
        server, start = self.server, 0
        server.asked.append(self.headers.get("Range"))
        if server.ranges and self.headers.get("Range"):
            start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
            if start >= len(server.content):
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(server.content) - 1}/{len(server.content)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(server.content) - start))
        self.end_headers()
        stop = start + server.cuts.pop(0) if server.cuts else len(server.content)
        for place in range(start, stop, 100_000):
            self.wfile.write(server.content[place:min(place + 100_000, stop)])
            if place == 1_900_000:
                server.go.wait(60)


@pytest.fixture
def server():
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_cut_connection_is_told_and_taken_up(server, tmp_path):
    server.cuts = [1_000_000, 700_000]
    for there in (1_000_000, 1_700_000):
        with pytest.raises(LoadError, match=f"{there} of 3000000 bytes"):
            download(server.address, tmp_path / "file", SHA256)
        assert (tmp_path / "file.part").read_bytes() == CONTENT[:there] and names(tmp_path) == ["file.part"]
    download(server.address, tmp_path / "file", SHA256)
    assert (tmp_path / "file").read_bytes() == CONTENT and names(tmp_path) == ["file"]
    assert server.asked == [None, "bytes=1000000-", "bytes=1700000-"]


def test_a_server_without_ranges_sends_all_again(server, tmp_path):
    server.ranges = False
    (tmp_path / "file.part").write_bytes(CONTENT[:1_000_000])
    download(server.address, tmp_path / "file", SHA256)
    assert (tmp_path / "file").read_bytes() == CONTENT and names(tmp_path) == ["file"] and len(server.asked) == 1


@pytest.mark.parametrize("before", [b"x" * 1_000_000, CONTENT + b"x", b"x" * 4_000_000])
def test_a_wrong_beginning_is_fetched_anew(server, tmp_path, before):
    (tmp_path / "file.part").write_bytes(before)
    download(server.address, tmp_path / "file", SHA256)
    assert (tmp_path / "file").read_bytes() == CONTENT and names(tmp_path) == ["file"]
    assert server.asked[-1] is None and len(server.asked) == 2


def test_a_whole_partial_file_needs_no_network(tmp_path):
    (tmp_path / "file.part").write_bytes(CONTENT)
    download("http://127.0.0.1:1/file", tmp_path / "file", SHA256)
    assert (tmp_path / "file").read_bytes() == CONTENT and names(tmp_path) == ["file"]


@pytest.mark.parametrize("before", [b"", CONTENT[:1_000_000]])
def test_wrong_bytes_are_never_kept(server, tmp_path, before):
    server.content = CONTENT[:-1] + b"!"
    if before:
        (tmp_path / "file.part").write_bytes(before)
    with pytest.raises(LoadError, match=SHA256):
        download(server.address, tmp_path / "file", SHA256)
    assert names(tmp_path) == [] and len(server.asked) == 1 + bool(before)


def test_an_address_of_no_known_kind(server, tmp_path):
    with pytest.raises(LoadError, match="could not be downloaded"):
        download(server.address.replace("http:", "nothing:"), tmp_path / "file", SHA256)
    assert names(tmp_path) == []


def fetch(address, path, results):
    download(address, path, SHA256)
    results.put(hashlib.sha256(Path(path).read_bytes()).hexdigest())


class Watched(io.StringIO):
    """A stream that sets an event once it holds a text."""

    def __init__(self, text, event):
        super().__init__()
        self.text, self.event = text, event

    def write(self, text):
        super().write(text)
        if self.text in self.getvalue():
            self.event.set()


@pytest.mark.slow
def test_two_processes_fetch_it_once(server, tmp_path, monkeypatch):
    """The server holds its answer back until the second process waits for the first."""
    server.go.clear()
    monkeypatch.setattr(sys, "stderr", Watched("waiting for another process", server.go))
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    process = context.Process(target=fetch, args=(server.address, tmp_path / "file", results))
    process.start()
    while process.is_alive() and not (tmp_path / "file.part").exists():
        time.sleep(0.01)
    download(server.address, tmp_path / "file", SHA256)
    assert server.go.is_set()
    assert results.get(timeout=300) == SHA256 == hashlib.sha256((tmp_path / "file").read_bytes()).hexdigest()
    process.join(300)
    assert server.asked == [None] and names(tmp_path) == ["file"]


def test_a_killed_process_holds_nothing_up(server, tmp_path):
    server.go.clear()
    context = multiprocessing.get_context("spawn")
    results = context.Queue()  # which must outlive the start of the process
    process = context.Process(target=fetch, args=(server.address, tmp_path / "file", results))
    process.start()
    while process.is_alive() and not ((tmp_path / "file.part").exists() and (tmp_path / "file.part").stat().st_size):
        time.sleep(0.01)
    process.kill()
    process.join(300)
    server.go.set()
    download(server.address, tmp_path / "file", SHA256)
    assert (tmp_path / "file").read_bytes() == CONTENT and names(tmp_path) == ["file"]
    assert len(server.asked) == 2 and server.asked[1], "what the killed one had fetched was taken up"


def test_a_file_system_without_locks(server, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(37, "No locks available")
    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(LoadError, match="No locks available"):
        download(server.address, tmp_path / "file", SHA256)
    assert server.asked == []
