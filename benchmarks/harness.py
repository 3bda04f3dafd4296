"""The one bridge to lmms-eval 0.7.3: its own task objects, on rows that we hand it.

Prompt, images, decoding, filter, result per document and aggregation are the task's own; none of it is written
again here. What BLIP3-o's authors ran instead is in ``profiles``. The loop is the runner's: lmms-eval keeps nothing
of an unfinished task and gathers over a process group. Nothing here reaches a network: what a judge is asked and
what it replied are strings.

Importing lmms-eval costs 7 s of CPU, under 1 s in a process that has torch, transformers and datasets already,
so it waits for the first use. No part of it is cheaper: every task's utils.py imports the package
``lmms_eval.tasks``. A task is built from its own YAML; reading all 1,980 takes about a minute.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.metadata
import io
import os
import random
import threading
import types
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torchvision_guard
from benchmarks import profiles
from benchmarks.types import BenchError, Decoding, Json, JudgeError

if TYPE_CHECKING:
    from datasets import Dataset
    from PIL import Image

#: Prompts and rules change from version to version of lmms-eval, so a score is one under this version only.
VERSION = "0.7.3"

#: ``lmms-0.7.3``: lmms-eval as it is. ``blip3o-0.3.0``: the copy of 0.3.0 that BLIP3-o's authors ran.
Profile = Literal["lmms-0.7.3", "blip3o-0.3.0"]
PROFILE: Profile = "lmms-0.7.3"

TaskName = Literal[
    "vqav2_val",
    "vqav2_test",
    "mmbench_en_dev",
    "mmbench_en_dev_static",
    "seedbench",
    "mmvet",
    "mme",
    "mmmu_val",
    "realworldqa",
    "textvqa_val",
]
#: The YAML of each task that the suite can run, under lmms_eval/tasks.
TASKS: Mapping[TaskName, str] = {
    "vqav2_val": "vqav2/vqav2_val.yaml",
    "vqav2_test": "vqav2/vqav2_test.yaml",
    "mmbench_en_dev": "mmbench/mmbench_en_dev.yaml",
    "mmbench_en_dev_static": "mmbench/mmbench_en_dev_static.yaml",
    "seedbench": "seedbench/seedbench.yaml",
    "mmvet": "mmvet/mmvet.yaml",
    "mme": "mme/mme.yaml",
    "mmmu_val": "mmmu/mmmu_val.yaml",
    "realworldqa": "realworldqa/realworldqa.yaml",
    "textvqa_val": "textvqa/textvqa_val.yaml",
}

#: What MMMU draws the letter of an unreadable reply from: a generator seeded by the question's id, so that neither
#: order nor number of processes matters; or Python's global one, as lmms-eval does after ``random.seed(0)``.
Fallback = Literal["per-item", "official"]

#: Generation options that Decoding has no word for, with the value that changes nothing. MM-Vet says ``do_sample:
#: false`` and temperature 0.2: BLIP3-o's model class and lmms-eval's own (models/simple/qwen2_5_vl.py) sample
#: whenever the temperature is above 0. ``image_aspect_ratio`` is of LLaVA's preprocessing.
NEUTRAL: Mapping[str, Json] = {"top_p": 1.0, "num_beams": 1, "do_sample": False, "image_aspect_ratio": "original"}

#: Held while the process's settings are changed and put back: judges are asked from several threads.
_IMPORT = threading.RLock()


class HarnessTask:
    """A task of lmms-eval on ``rows`` of the official schema instead of the hub's data set.

    ``docs`` are the rows without their images; a doc's position in them is lmms-eval's doc_id.
    ``task`` is lmms-eval's object; its own evaluator takes it too: ``simple_evaluate(tasks=[harness.task])``.
    """

    def __init__(
        self, name: TaskName, rows: Dataset, profile: Profile = PROFILE, *, fallback: Fallback = "per-item"
    ) -> None:
        """``fallback`` concerns MMMU only.

        Raises BenchError when lmms-eval is absent or of another version, when there are no rows, and when the profile
        has no such task.
        """
        if len(rows) == 0:
            raise BenchError(f"{name} has no rows: look at the data it was given")
        if profile == "blip3o-0.3.0" and name == "mmbench_en_dev_static":
            raise BenchError("MMBench's static mode is of lmms-eval 0.7.2 and later: use profile lmms-0.7.3")
        self.name = name
        self.profile = profile
        with _lmms_eval():
            config = _config(name)
            if name == "mmmu_val":
                config["process_results"] = _mmmu_rule(config["process_results"], fallback)
            if profile == "blip3o-0.3.0":
                config = profiles.blip3o_task(name, config)
            self.task = _task_on(rows, config)
        self.docs: Dataset = self.task.eval_docs_no_media
        # A row of it is a view of the Arrow file: what nobody looks at is not read.
        self._encoded = rows.select_columns(_image_columns(rows)).with_format("arrow")

    @property
    def decoding(self) -> Decoding:
        """The task's generation_kwargs. Raises ValueError at one that Decoding has no word for."""
        options = dict(self.task.config.generation_kwargs)
        # TaskConfig.__post_init__ (lmms_eval/api/task.py): a task that names no stop string stops at "\n\n".
        stop = tuple(options.pop("until"))
        if self.profile == "blip3o-0.3.0":
            stop = profiles.blip3o_stop(stop)
        max_new_tokens = options.pop("max_new_tokens", Decoding.max_new_tokens)
        temperature = options.pop("temperature", Decoding.temperature)
        if unknown := [option for option, value in options.items() if NEUTRAL.get(option) != value]:
            raise ValueError(f"{self.name} sets {', '.join(sorted(unknown))}, which Decoding does not have")
        return Decoding(max_new_tokens, stop, temperature)

    def prompt(self, doc: Mapping[str, Json]) -> str:
        """The text that a model is asked, with the post-prompt of the task's ``default`` model."""
        return str(self.task.doc_to_text(doc))

    def images(self, doc_id: int) -> list[Image.Image]:
        """The images of one doc, RGB, decoded now."""
        images = list(self.task.doc_to_visual(self.task.eval_docs[doc_id]))
        return [profiles.blip3o_image(image) for image in images] if self.profile == "blip3o-0.3.0" else images

    def image_sizes(self, doc_id: int) -> list[tuple[int, int]]:
        """Width and height of the images in one row, from the heads of the files: nothing is decoded.

        Files that Pillow does not know are left out; ``images`` says what is wrong with them.
        """
        return [size for column in self._encoded[doc_id].columns for size in _sizes(column.combine_chunks())]

    def results(self, doc_id: int, reply: str, judge_reply: str | None = None) -> Mapping[str, Json]:
        """What the task makes of one raw reply: metric name -> item to aggregate.

        MMMU has one item more, ``random_fallback``: whether the reply was unreadable and a letter was drawn.
        MM-Vet takes ``judge_reply``, what the judge said to ``mmvet_judge_prompt``, and scores 0 where that does not
        begin with a number, as lmms-eval does; a benchmark that wants such a sample missing asks ``mmvet_read`` first.
        Raises JudgeError at a number outside 0..1, at which lmms-eval asks for ever. What the task raises comes
        through as it is.
        """
        from lmms_eval.api.instance import Instance

        doc = self.docs[doc_id]  # a new dict each time: VQAv2's process_results rewrites the answers in it
        (ensemble,) = self.task._filters
        metadata = {"task": self.name, "doc_id": doc_id, "repeats": 1}
        instance = Instance("generate_until", arguments=(), idx=0, metadata=metadata, resps=[reply])
        ensemble.apply([instance], [doc])
        filtered = instance.filtered_resps[ensemble.name]
        if self.name == "mmvet":
            return _mmvet_results(self.task.config.process_results, doc, filtered, judge_reply)
        # The function beneath tenacity's @retry, which would run it five times, 2 s apart, and raise RetryError.
        process_results = type(self.task).process_results.__wrapped__
        results: Mapping[str, Json] = process_results(self.task, doc, [filtered])
        return results

    def aggregate(self, metric: str, items: Sequence[Json], judge_replies: Mapping[str, str] | None = None) -> Json:
        """The task's own aggregation of what ``results`` gave for one metric, in doc order; at least one item.

        ``judge_replies`` are MMBench's, see ``mmbench_accuracy``.
        """
        if self.name in ("mmbench_en_dev", "mmbench_en_dev_static") and metric == "gpt_eval_score":
            static = self.name == "mmbench_en_dev_static"
            # mmbench_aggregate_dev_results_eval (tasks/mmbench/en_utils.py), which writes a file besides.
            return 100 * mmbench_accuracy(items, judge_replies or {}, static=static)["overall_acc"]
        with _quiet(), contextlib.redirect_stdout(io.StringIO()):
            return self.task.aggregation()[metric](list(items))


def mmbench_inferred(doc: Mapping[str, Json], reply: str) -> str | None:
    """The letter (A to E) that MMBench's rule reads in a reply without a judge; None when a judge must be asked."""
    with _quiet():
        letter = (
            _official("mmbench.mmbench_evals").MMBench_Evaluator().prefetch_answer({**doc, "prediction": reply.strip()})
        )
    return letter or None


def mmbench_extracted(doc: Mapping[str, Json], reply: str) -> str | None:
    """The letter that the static mode takes where ``mmbench_inferred`` finds none; None when there is no letter."""
    evaluator = _official("mmbench.mmbench_evals").MMBench_Evaluator()
    choices = sorted(evaluator.build_choices(doc))  # eval_sub_data (tasks/mmbench/mmbench_evals.py)
    return _official("_task_utils.mcq_extract").extract_mcq_answer(reply.strip(), choices) or None


def mmbench_judge_prompt(doc: Mapping[str, Json], reply: str) -> str:
    """What MMBench's judge is asked, at temperature 0 and at most 256 tokens (get_chat_response)."""
    evaluator = _official("mmbench.mmbench_evals").MMBench_Evaluator()
    # extract_answer_from_item (tasks/mmbench/mmbench_evals.py)
    options = evaluator.build_option_str(evaluator.extract_options(doc))
    return str(evaluator.build_prompt(doc["question"], options, reply.strip()))


def mmbench_read(doc: Mapping[str, Json], judge_reply: str) -> str | None:
    """The letter that the judge chose (E: none of the options); None when its reply cannot be read."""
    return mmbench_inferred(doc, judge_reply)  # extract_answer_from_item reads both by can_infer


def mmbench_accuracy(
    items: Sequence[Mapping[str, Json]], judge_replies: Mapping[str, str], *, static: bool = False
) -> Mapping[str, Json]:
    """MMBench's own evaluation of ``gpt_eval_score`` items, as fractions of its questions.

    Keys: ``overall_acc``, and by name ``category_acc`` and ``l2_category_acc``. ``judge_replies`` maps a judge's
    prompt to its reply. One that is not there, or cannot be read, is a failed call, for which lmms-eval draws a
    letter by a generator seeded with 2680; a benchmark that wants the question missing must not come here with it.
    """
    evaluator = _official("mmbench.mmbench_evals").MMBench_Evaluator()
    evaluator.get_chat_response = lambda prompt: judge_replies.get(prompt, "Failed to obtain answer via API")
    state = random.getstate()
    try:
        with _quiet(), contextlib.redirect_stdout(io.StringIO()):
            overall, by_category, by_l2_category = evaluator.eval_result(
                [dict(item) for item in items], eval_method="static" if static else "openai"
            )
    finally:
        random.setstate(state)  # eval_result seeds the process's own generator
    return {"overall_acc": float(overall), "category_acc": by_category, "l2_category_acc": by_l2_category}


def mmvet_judge_prompt(doc: Mapping[str, Json], reply: str) -> str:
    """What MM-Vet's judge is asked, at temperature 0 and at most 128 tokens (get_chat_response)."""
    prompts: list[str] = []

    def ask(prompt: str, temperature: float) -> tuple[str, str]:
        prompts.append(prompt)
        return "0", ""

    _rebound(_official("mmvet.utils").mmvet_process_results, get_chat_response=ask)(doc, [reply.strip()])
    return prompts[0]


def mmvet_read(judge_reply: str) -> float | None:
    """The score that a judge's reply begins with, 0..1; None when that is no number or out of range."""
    score = _leading_number(judge_reply)
    return score if score is not None and 0 <= score <= 1 else None


def _mmvet_results(
    official: Callable[..., Mapping[str, Json]], doc: Mapping[str, Json], reply: str, judge_reply: str | None
) -> Mapping[str, Json]:
    """lmms-eval's rule under a judge that says the same as often as it is asked, and without its pauses."""
    if judge_reply is None:
        raise ValueError("mmvet is scored by what its judge said: results(doc_id, reply, judge_reply)")
    if _leading_number(judge_reply) is not None and mmvet_read(judge_reply) is None:
        raise JudgeError(f"{doc['question_id']}: the judge's score is not within 0..1: {judge_reply[:80]!r}")

    def ask(prompt: str, temperature: float) -> tuple[str, str]:
        return judge_reply.strip(), ""

    rule = _rebound(official, get_chat_response=ask, time=types.SimpleNamespace(sleep=lambda seconds: None))
    with _quiet():
        results: Mapping[str, Json] = rule(doc, [reply.strip()])
    return results


def _leading_number(judge_reply: str) -> float | None:
    try:
        return float(judge_reply.strip().split(" ")[0])  # mmvet_process_results (tasks/mmvet/utils.py)
    except ValueError:
        return None


def _mmmu_rule(official: Callable[..., Mapping[str, Json]], fallback: Fallback) -> Callable[..., Mapping[str, Json]]:
    """lmms-eval's rule with the source of its random letters named, and whether it drew one."""
    official_parse = _official("_task_utils.mmmu_mcq_utils").parse_mmmu_multi_choice_response

    def process_results(doc: Mapping[str, Json], results: Sequence[str]) -> Mapping[str, Json]:
        source: Any = random if fallback == "official" else random.Random(f"mmmu_val/{doc['id']}")
        before = source.getstate()
        parse = _rebound(official_parse, random=source)
        items = _rebound(official, parse_multi_choice_response=parse)(doc, results)
        return {**items, "random_fallback": source.getstate() != before}

    return process_results


def _rebound(function: Callable[..., Any], **names: object) -> Callable[..., Any]:
    """The same function with other globals: lmms-eval's code as it stands, with what it calls replaced."""
    assert isinstance(function, types.FunctionType)
    return types.FunctionType(
        function.__code__, {**function.__globals__, **names}, function.__name__, function.__defaults__
    )


def _check_version() -> None:
    try:
        installed = importlib.metadata.version("lmms-eval")
    except importlib.metadata.PackageNotFoundError as error:
        raise BenchError("lmms-eval is not installed: pip install 'blip3o-bench[understanding]'") from error
    if installed != VERSION:
        raise BenchError(
            f"lmms-eval {installed} is installed, but scores are under {VERSION}: pip install lmms-eval=={VERSION}"
        )


def _config(name: TaskName) -> dict[str, Any]:
    """lmms-eval's own YAML of a task, its functions loaded."""
    import lmms_eval.tasks
    from lmms_eval.utils import load_yaml_config

    config: dict[str, Any] = load_yaml_config(str(Path(lmms_eval.tasks.__file__).parent / TASKS[name]))
    return config


def _task_on(rows: Dataset, config: dict[str, Any]) -> Any:
    """lmms-eval's ConfigurableTask with ``rows`` as the split it evaluates."""
    import datasets
    from lmms_eval.api.task import ConfigurableTask

    class LocalTask(ConfigurableTask):
        def download(self, dataset_kwargs: Mapping[str, Json] | None = None) -> None:
            """In place of load_dataset(dataset_path), which takes all splits from the hub, five times on failure."""
            split = self.config.test_split
            self.dataset = datasets.DatasetDict({split: rows})
            self.dataset_no_image = datasets.DatasetDict({split: rows.remove_columns(_image_columns(rows))})

    return LocalTask(config=config)


def _image_columns(rows: Dataset) -> list[str]:
    """Those of an image each, or of a list of them (SEED-Bench's frames)."""
    import datasets

    features = rows.features.items()
    return [name for name, feature in features if isinstance(getattr(feature, "feature", feature), datasets.Image)]


def _sizes(cells: Any) -> list[tuple[int, int]]:
    """Of the files in a pyarrow array of datasets' images, or of lists of them."""
    import pyarrow
    from PIL import Image

    if isinstance(cells, pyarrow.ListArray):
        cells = cells.flatten()
    sizes: list[tuple[int, int]] = []
    for file in cells.flatten()[0]:  # the field "bytes", null where the image is
        if file.is_valid:
            with contextlib.suppress(Exception):  # a damaged head may raise anything
                sizes.append(Image.open(pyarrow.BufferReader(file.as_buffer())).size)
    return sizes


@functools.cache
def _official(module: str) -> Any:
    """One of lmms-eval's own modules under ``lmms_eval.tasks``."""
    with _lmms_eval():
        return importlib.import_module(f"lmms_eval.tasks.{module}")


@contextmanager
def _lmms_eval() -> Iterator[None]:
    """Import lmms-eval in here: its version is checked, and what importing does to the whole process undone.

    lmms_eval/utils.py silences all warnings; lmms_eval/api/task.py lets Pillow take truncated images for whole ones;
    lmms_eval/llm_judge/factory.py reads a file .env into the environment; lmms_eval/llm_judge/launcher/__init__.py
    takes loguru's handlers away and puts one on stdout. MM-Vet's utils.py makes a client for its judge, which fails
    without a key unless it is the one that asks nobody.
    """
    _check_version()
    torchvision_guard.install()  # lmms-eval imports torchvision through transformers
    from loguru import logger
    from PIL import ImageFile

    with _IMPORT, warnings.catch_warnings():
        truncated = ImageFile.LOAD_TRUNCATED_IMAGES
        environment = dict(os.environ)
        logger_attributes = dict(vars(logger))
        os.environ["API_TYPE"] = "dummy"
        vars(logger).update(add=lambda *args, **kwargs: 0, remove=lambda *args: None)
        try:
            yield
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = truncated
            for current, before in ((os.environ, environment), (vars(logger), logger_attributes)):
                current.clear()
                current.update(before)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the lines that lmms-eval's rules log: results are what they return."""
    from loguru import logger

    modules = ("lmms_eval", "utils", "en_utils")  # the YAML's utils.py are loaded under their bare names
    for module in modules:
        logger.disable(module)
    try:
        yield
    finally:
        for module in modules:
            logger.enable(module)
