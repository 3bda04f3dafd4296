from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image
from websockets.sync.client import connect

from human_study import demo, monitor
from human_study.folder import Study
from human_study.simulate import Tab, open_tab, wait_until_up
from tests.human_study.serving import ROOT, free_port, link_button


def small(root: Path) -> Study:
    prompts = {f"geneval/{number:05d}/0": f"a photo of {number}" for number in range(8)}
    pictures = {
        model: {key: Image.new("RGB", (64, 64), (60 * level, 9 * number, 0)) for number, key in enumerate(prompts)}
        for level, model in enumerate(("one", "two"))
    }
    return demo.make(root, prompts, pictures)


def test_the_demos_study_is_made_once(tmp_path: Path) -> None:
    made = small(tmp_path)
    assert monitor.tasks(made.store) == (0, 8 * 2 * 4)
    assert made.store.design.models == ("one", "two")
    assert small(tmp_path).store.id == made.store.id


@pytest.mark.slow
def test_simulated_annotators_judge_while_whoever_is_there_joins_in(tmp_path: Path) -> None:
    made, port = small(tmp_path), free_port()
    code = f"""import sys; sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from human_study import demo, folder
demo.serve(folder.open_study(Path({str(made.folder)!r})), {port})"""
    process = subprocess.Popen([sys.executable, "-c", code])
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until_up(url)
        with connect(f"ws://127.0.0.1:{port}/_stcore/stream", max_size=None) as socket:
            page = Tab(url, "", socket)
            page.press("Judge images")
        with open_tab(url, f"{url}/{link_button(page)}") as tab:
            tab.press("I agree, and begin")
            tab.run()
            tab.press("Start")
            tab.run()
            assert tab.pair is not None
            tab.choose("left")
        until = time.monotonic() + 120
        names: set[str] = set()
        while len(names) < 4 and time.monotonic() < until:
            time.sleep(0.5)
            names = {one.person.name for one in monitor.annotators(made.store) if one.last_at is not None}
        assert names == {"local", "simulated 1", "simulated 2", "simulated 3"}
    finally:
        process.kill()
        process.wait()
