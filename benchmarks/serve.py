"""Load test of `fathom serve`: right answers under load, flat memory, throughput, kill and restart.

    python benchmarks/serve.py --model fathom-indoor --requests 2000 --connections 32

Starts a server of its own, sends good and bad requests mixed, and compares every good answer with what `Predictor`
gives directly for the same picture, bit for bit. Prints one JSON document. Needs psutil.
"""

import argparse
import http.client
import io
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

from fathom import Predictor

SIZES = ((480, 640), (640, 480), (360, 640), (240, 320), (481, 333))


def make_pictures(count: int) -> list[bytes]:
    """Make different JPEG pictures of several sizes."""
    pictures = []
    for seed in range(count):
        height, width = SIZES[seed % len(SIZES)]
        coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
        pictures.append(buffer.getvalue())
    return pictures


class Server:
    """A `fathom serve` process."""

    def __init__(self, models: list[str], settings: dict[str, object], folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        config = folder / "serve.json"
        config.write_text(json.dumps(settings | {"port": self.port}))
        self.command = [sys.executable, "-m", "fathom", "serve", "--config", str(config)]
        for model in models:
            self.command += ["--model", model]
        self.log = (folder / "serve.log").open("ab")
        self.start()

    def start(self) -> float:
        """Start the process; return the seconds until it is ready."""
        started = time.monotonic()
        self.process = subprocess.Popen(self.command, stdout=self.log, stderr=self.log)
        while True:
            assert self.process.poll() is None, "the server ended; see its log"
            try:
                if self.ask("GET", "/readyz")[0] == 200:
                    return time.monotonic() - started
            except OSError:
                time.sleep(0.02)

    def ask(
        self, method: str, path: str, body: bytes | None = None, content_type: str = "image/jpeg"
    ) -> tuple[int, bytes, str]:
        """Send one request on a connection of its own; return status, body, content type."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        try:
            headers = {"Content-Type": content_type} if body is not None else {}
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.read(), answer.headers.get("content-type", "")
        finally:
            connection.close()

    def abandon(self, body: bytes) -> None:
        """Send half a request and hang up."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=30) as half:
            lines = ["POST /v1/depth HTTP/1.1", "Host: 127.0.0.1", "Content-Type: image/jpeg"]
            head = "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""])
            half.sendall(head.encode() + body[: len(body) // 2])

    @property
    def memory_mb(self) -> float:
        """Resident memory [MB]."""
        return psutil.Process(self.process.pid).memory_info().rss / 1e6

    def stop(self, sign: signal.Signals = signal.SIGTERM) -> int:
        """End the process; return its exit code."""
        self.process.send_signal(sign)
        return self.process.wait(60)


def mixed_load(server: Server, model: str, pictures: list[bytes], count: int, connections: int) -> dict[str, object]:
    """Send good and bad requests from many connections, and check every answer."""
    predictor = Predictor(model)
    expected = [predictor.predict(picture).values for picture in pictures]
    bad = [
        (b"this is text and no picture", "/v1/depth", "image/png", 415),
        (pictures[0][:300], "/v1/depth", "image/jpeg", 422),
        (b"", "/v1/depth", "image/jpeg", 422),
        (pictures[0], "/v1/depth?format=exe", "image/jpeg", 422),
        (pictures[0], "/v1/depth?model=../../etc/passwd", "image/jpeg", 422),
        (pictures[0], "/v1/depth", "application/json", 415),
        (bytes(3_000_000), "/v1/depth", "image/jpeg", 413),
        (pictures[0], "/v1/nothing", "image/jpeg", 404),
    ]
    lock = threading.Lock()
    seen: Counter[str] = Counter()
    wrong: list[str] = []
    memory: list[tuple[int, float]] = []
    latencies: list[float] = []

    def one(number: int) -> None:
        choice = random.Random(number)
        kind = choice.random()
        if kind < 0.62:
            index = choice.randrange(len(pictures))
            started = time.monotonic()
            status, body, _ = server.ask("POST", "/v1/depth?format=npy", pictures[index])
            took = time.monotonic() - started
            right = status == 200 and np.array_equal(np.load(io.BytesIO(body)), expected[index])
            fault = "" if right else f"picture {index}: status {status}, {len(body)} bytes"
            name = f"good {status}"
        elif kind < 0.97:
            body, path, content_type, awaited = choice.choice(bad)
            try:
                status, _, answer_type = server.ask("POST", path, body, content_type)
                fault = "" if (status, answer_type) == (awaited, "application/problem+json") else f"{path}: {status}"
                name, took = f"bad {status}", None
            except (BrokenPipeError, ConnectionResetError):
                # Refused while still sending: allowed for what is too large.
                fault, name, took = "" if awaited == 413 else f"{path}: connection lost", "bad refused early", None
        else:
            server.abandon(pictures[0])
            fault, name, took = "", "hung up", None
        with lock:
            seen[name] += 1
            if fault:
                wrong.append(fault)
            if took is not None:
                latencies.append(took)
            if sum(seen.values()) % max(1, count // 20) == 0:
                memory.append((sum(seen.values()), round(server.memory_mb, 1)))

    started = time.monotonic()
    with ThreadPoolExecutor(connections) as pool:
        list(pool.map(one, range(count)))
    seconds = time.monotonic() - started
    later = [value for number, value in memory if number >= count * 0.3]
    return {
        "requests": count,
        "connections": connections,
        "seconds": round(seconds, 1),
        "answers": dict(sorted(seen.items())),
        "wrong": wrong[:10],
        "num_wrong": len(wrong),
        "latency_s": {
            name: round(float(np.percentile(latencies, share)), 3) for name, share in (("p50", 50), ("p99", 99))
        },
        "memory_mb": memory,
        "memory_growth_after_warmup_mb": round(later[-1] - later[0], 1),
        "alive": server.process.poll() is None,
    }


def pictures_per_second(server: Server, pictures: list[bytes], count: int, connections: int) -> float:
    """Send good pictures only; return the throughput."""
    started = time.monotonic()
    with ThreadPoolExecutor(connections) as pool:
        answers = pool.map(
            lambda number: server.ask("POST", "/v1/depth?format=npy", pictures[number % len(pictures)])[0], range(count)
        )
        assert all(status == 200 for status in answers)
    return round(count / (time.monotonic() - started), 2)


def main() -> None:
    """Run every part and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="fathom-indoor")
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--throughput-requests", type=int, default=200)
    parser.add_argument("--work", type=Path, default=Path("runs/serve-benchmark"))
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    pictures = make_pictures(20)
    server = Server([args.model], {"max_bytes": 2_000_000, "max_requests": 64}, args.work)
    try:
        report: dict[str, object] = {"cores": os.cpu_count(), "load": os.getloadavg()}
        report["mixed"] = mixed_load(server, args.model, pictures, args.requests, args.connections)
        one = pictures_per_second(server, pictures[:1], args.throughput_requests, 1)
        many = pictures_per_second(server, pictures[:1], args.throughput_requests, args.connections)
        report["pictures_per_second"] = {"one at a time": one, f"{args.connections} at once": many, "gain": many / one}
        batches = server.ask("GET", "/metrics")[1].decode()
        report["runs"] = [line for line in batches.splitlines() if line.startswith("fathom_batch_pictures_")]
        # Killed in the middle of work, and started again on the same port.
        with ThreadPoolExecutor(8) as pool:
            lost = [pool.submit(server.ask, "POST", "/v1/depth?format=npy", pictures[0]) for _ in range(8)]
            time.sleep(0.05)
            server.stop(signal.SIGKILL)
            failed = sum(1 for answer in lost if answer.exception() is not None)
        ready = server.start()
        status = server.ask("POST", "/v1/depth?format=npy", pictures[0])[0]
        report["kill -9"] = {"lost": failed, "ready again after s": round(ready, 2), "first answer": status}
        # Asked to stop in the middle of work: what is under way is answered.
        with ThreadPoolExecutor(8) as pool:
            waiting = [pool.submit(server.ask, "POST", "/v1/depth?format=npy", pictures[0]) for _ in range(8)]
            while b"fathom_requests_under_way 8.0" not in server.ask("GET", "/metrics")[1]:
                if all(answer.done() for answer in waiting):
                    break
            code = server.stop()
            report["SIGTERM"] = {"exit code": code, "answers": sorted(answer.result()[0] for answer in waiting)}
    finally:
        if server.process.poll() is None:
            server.stop(signal.SIGKILL)
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
