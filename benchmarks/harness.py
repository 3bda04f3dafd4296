"""The one bridge to lmms-eval 0.7.3: its own task objects, on rows that we hand it.

Prompt, images, decoding, filter, result per document and aggregation are the task's own; none of it is written
again here. The loop is the runner's: lmms-eval keeps nothing of an unfinished task and gathers over a process group.

Importing lmms-eval costs 7 s of CPU, under 1 s in a process that has torch, transformers and datasets already,
so it waits for the first HarnessTask. No part of it is cheaper: every task's utils.py imports the package
``lmms_eval.tasks``. A task is built from its own YAML; reading all 1,980 takes about a minute.
"""

from __future__ import annotations

import importlib.metadata
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torchvision_guard
from benchmarks.types import BenchError, Decoding, Json

if TYPE_CHECKING:
    from datasets import Dataset
    from PIL import Image

#: Prompts and rules change from version to version of lmms-eval, so a score is one under this version only.
VERSION = "0.7.3"
PROFILE = f"lmms-{VERSION}"

TaskName = Literal["vqav2_val", "vqav2_test"]
#: The YAML of each task that the suite can run, under lmms_eval/tasks.
TASKS: Mapping[TaskName, str] = {
    "vqav2_val": "vqav2/vqav2_val.yaml",
    "vqav2_test": "vqav2/vqav2_test.yaml",
}


class HarnessTask:
    """A task of lmms-eval on ``rows`` of the official schema instead of the hub's data set.

    ``docs`` are the rows without their images; a doc's position in them is lmms-eval's doc_id.
    ``task`` is lmms-eval's object; its own evaluator takes it too: ``simple_evaluate(tasks=[harness.task])``.
    """

    def __init__(self, name: TaskName, rows: Dataset) -> None:
        """Raises BenchError when lmms-eval is absent or of another version, or when there are no rows."""
        if len(rows) == 0:
            raise BenchError(f"{name} has no rows: look at the data it was given")
        _check_version()
        with _process_settings_kept():
            self.task = _task_on(rows, TASKS[name])
        self.name = name
        self.docs: Dataset = self.task.eval_docs_no_media

    @property
    def decoding(self) -> Decoding:
        """The task's generation_kwargs. Raises ValueError at one that Decoding has no word for."""
        options = dict(self.task.config.generation_kwargs)
        known = {"max_new_tokens", "until", "temperature"}
        if unknown := options.keys() - known:
            raise ValueError(f"{self.name} sets {', '.join(sorted(unknown))}, which Decoding does not have")
        return Decoding(
            max_new_tokens=options.get("max_new_tokens", Decoding.max_new_tokens),
            # TaskConfig.__post_init__ (lmms_eval/api/task.py): a task that names no stop string stops at "\n\n".
            stop=tuple(options["until"]),
            temperature=options.get("temperature", Decoding.temperature),
        )

    def prompt(self, doc: Mapping[str, Json]) -> str:
        """The text that a model is asked, with the post-prompt of the task's ``default`` model."""
        return str(self.task.doc_to_text(doc))

    def images(self, doc_id: int) -> list[Image.Image]:
        """The images of one doc, RGB, decoded now."""
        return list(self.task.doc_to_visual(self.task.eval_docs[doc_id]))

    def results(self, doc_id: int, reply: str) -> Mapping[str, Json]:
        """What the task makes of one raw reply: metric name -> item to aggregate.

        What the task raises comes through as it is.
        """
        from lmms_eval.api.instance import Instance

        doc = self.docs[doc_id]  # a new dict each time: VQAv2's process_results rewrites the answers in it
        (ensemble,) = self.task._filters
        metadata = {"task": self.name, "doc_id": doc_id, "repeats": 1}
        instance = Instance("generate_until", arguments=(), idx=0, metadata=metadata, resps=[reply])
        ensemble.apply([instance], [doc])
        # The function beneath tenacity's @retry, which would run it five times, 2 s apart, and raise RetryError.
        process_results = type(self.task).process_results.__wrapped__
        results: Mapping[str, Json] = process_results(self.task, doc, [instance.filtered_resps[ensemble.name]])
        return results

    def aggregate(self, metric: str, items: Sequence[Json]) -> Json:
        """The task's own aggregation of what ``results`` gave for one metric, in doc order; at least one item."""
        return self.task.aggregation()[metric](list(items))


def _check_version() -> None:
    try:
        installed = importlib.metadata.version("lmms-eval")
    except importlib.metadata.PackageNotFoundError as error:
        raise BenchError("lmms-eval is not installed: pip install 'blip3o-bench[understanding]'") from error
    if installed != VERSION:
        raise BenchError(
            f"lmms-eval {installed} is installed, but profile {PROFILE} is a score under {VERSION}: "
            f"pip install lmms-eval=={VERSION}"
        )


def _task_on(rows: Dataset, config_path: str) -> Any:
    """lmms-eval's ConfigurableTask from its own YAML, with ``rows`` as the split it evaluates."""
    torchvision_guard.install()  # lmms-eval imports torchvision through transformers
    import datasets
    import lmms_eval.tasks
    from lmms_eval.api.task import ConfigurableTask
    from lmms_eval.utils import load_yaml_config

    class LocalTask(ConfigurableTask):
        def download(self, dataset_kwargs: Mapping[str, Json] | None = None) -> None:
            """In place of load_dataset(dataset_path), which takes all splits from the hub, five times on failure."""
            images = [name for name, feature in rows.features.items() if isinstance(feature, datasets.Image)]
            split = self.config.test_split
            self.dataset = datasets.DatasetDict({split: rows})
            self.dataset_no_image = datasets.DatasetDict({split: rows.remove_columns(images)})

    path = Path(lmms_eval.tasks.__file__).parent / config_path
    return LocalTask(config=load_yaml_config(str(path)))


@contextmanager
def _process_settings_kept() -> Iterator[None]:
    """Undo what importing lmms-eval does to the whole process.

    lmms_eval/utils.py silences all warnings; lmms_eval/api/task.py lets Pillow take truncated images for whole ones.
    """
    from PIL import ImageFile

    truncated = ImageFile.LOAD_TRUNCATED_IMAGES
    with warnings.catch_warnings():
        try:
            yield
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = truncated
