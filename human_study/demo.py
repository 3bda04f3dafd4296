"""A study to look at: images that were just drawn, and simulated annotators at work while one joins in."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path

from PIL import Image

from human_study import folder, links, server
from human_study.design import Design
from human_study.folder import Study
from human_study.simulate import Preferences, annotate, quality, wait_until_up

#: What the simulated annotators think of the two models, as log strengths.
QUALITY = (0.0, 1.0)
ANNOTATORS = 3


def make(root: Path, prompts: Mapping[str, str], pictures: Mapping[str, Mapping[str, Image.Image]]) -> Study:
    """A small study in ``root/study`` of two models' pictures of every prompt, or the one that is there already.

    Gold is made of the last model's pictures, which should follow their prompts.
    """
    if (root / "study" / "study.json").exists():
        return folder.open_study(root / "study")
    texts = {str(number): text for number, text in enumerate(prompts.values())}
    for model, of_model in pictures.items():
        (root / "images" / model).mkdir(parents=True, exist_ok=True)
        for number, key in enumerate(prompts):
            of_model[key].save(root / "images" / model / f"{number}.png")
    plan = Design(
        title="Which image is better?",
        models=tuple(pictures),
        judgments_per_pair=4,
        gold=4,
        gold_from=list(pictures)[-1],
        qualification=2,
        qualification_passes=1,
        repeat_every=8,
        break_every=20,
    )
    return folder.create(root / "study", plan, texts, {model: root / "images" / model for model in pictures})


def serve(study: Study, port: int) -> None:
    """Serve the study on this machine until interrupted, while simulated annotators judge it.

    Raises BenchError when the port is taken.
    """
    serving = server.Serving(study, "local")
    server.check(serving, "127.0.0.1", port)
    threading.Thread(target=_judge, args=(study, f"http://127.0.0.1:{port}"), daemon=True).start()
    server.run(serving, "127.0.0.1", port)


def _judge(study: Study, url: str) -> None:
    wait_until_up(url)
    strengths = dict(zip(study.store.design.models, QUALITY, strict=True))
    preferences = Preferences(quality(study.store, strengths), ties=0.3, left_bias=0.1, noise=0.05)
    for number in range(ANNOTATORS):
        person = study.store.enrol(f"simulated {number + 1}")
        link = f"{url}/enter#{links.issue(study.store, study.key, person.id, hours=1)}"
        threading.Thread(
            target=annotate,
            args=(url, link, preferences, number),
            kwargs={"think": lambda rng: rng.uniform(1, 4)},
            daemon=True,
        ).start()
