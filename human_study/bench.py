"""Time from a click to the next pair, with several annotators at once: ``python -m human_study.bench [SECONDS]``.

A server in a process of its own, annotators in threads over the browser's protocol, SQLite in a temporary folder. Each
annotator looks at a pair for SECONDS on average (default 5; people take six to ten).
"""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import quantiles

from PIL import Image

from human_study import folder, links
from human_study.design import Design
from human_study.folder import Study
from human_study.simulate import Preferences, annotate, quality, wait_until_up

PROMPTS = 200
SIDE = 256
VOTES = 20  # of each annotator


def main() -> None:
    pace = float(sys.argv[1]) if len(sys.argv) > 1 else 5.0
    for annotators in (1, 10, 30):
        with tempfile.TemporaryDirectory() as temporary:
            _measure(_study(Path(temporary)), annotators, pace)


def _study(root: Path) -> Study:
    plan = Design(title="bench", models=("a", "b"), judgments_per_pair=6)
    for model in plan.models:
        (root / model).mkdir()
        for prompt in range(PROMPTS):
            pixels = random.Random(f"{model}{prompt}").randbytes(3 * SIDE * SIDE)
            Image.frombytes("RGB", (SIDE, SIDE), pixels).save(root / model / f"{prompt}.png")
    texts = {str(prompt): f"prompt {prompt}" for prompt in range(PROMPTS)}
    return folder.create(root / "study", plan, texts, {model: root / model for model in plan.models})


def _measure(study: Study, annotators: int, pace: float) -> None:
    preferences = Preferences(quality(study.store, {"a": 0.0, "b": 0.0}))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    code = "from human_study.cli import study; study()"
    command = [sys.executable, "-c", code, "serve", str(study.folder), "--port", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until_up(url)
        before = _cpu_seconds(server.pid)

        def judge(number: int) -> list[float]:
            person = study.store.enrol(f"annotator {number}")
            link = f"{url}/enter#{links.issue(study.store, study.key, person.id, hours=1)}"
            return annotate(
                url, link, preferences, number, VOTES, lambda rng: rng.uniform(pace / 2, 1.5 * pace)
            ).seconds

        with ThreadPoolExecutor(annotators) as pool:
            seconds = [second for work in pool.map(judge, range(annotators)) for second in work]
        cpu = (_cpu_seconds(server.pid) - before) / len(seconds)
    finally:
        server.kill()
        server.wait()
    steps = quantiles(seconds, n=20)
    print(
        f"{annotators:2} annotators at {pace:g} s, {len(seconds)} choices: p50 {1000 * steps[9]:.0f} ms, "
        f"p95 {1000 * steps[18]:.0f} ms; processor time of the server per choice {1000 * cpu:.0f} ms, "
        f"load average {os.getloadavg()[0]:.1f}",
        flush=True,
    )


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
