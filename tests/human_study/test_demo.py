from __future__ import annotations

from pathlib import Path

from PIL import Image

from human_study import demo, monitor


def test_the_demos_study_is_made_once(tmp_path: Path) -> None:
    prompts = {f"geneval/{number:05d}/0": f"a photo of {number}" for number in range(8)}
    pictures = {
        model: {key: Image.new("RGB", (64, 64), (60 * level, 9 * number, 0)) for number, key in enumerate(prompts)}
        for level, model in enumerate(("one", "two"))
    }
    made = demo.make(tmp_path, prompts, pictures)
    assert monitor.tasks(made.store) == (0, 8 * 2 * 4)
    assert made.store.design.models == ("one", "two")
    again = demo.make(tmp_path, prompts, pictures)
    assert again.store.id == made.store.id
