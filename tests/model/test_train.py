"""Training: recipes, every design, exact resume, independence of the number of processes, what is written."""

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.commands.config.config_args import load_config_from_file
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file

from model import train as training
from model.eva_clip import EvaClip
from model.generate import load
from model.hub import Located
from model.parts import generator as generator_part
from model.recipe import PartName, Recipe, RecipeError, learning_rate, read_recipe
from model.train import Average, Examples, slices, train
from tests.model import tiny

RECIPES = Path(training.__file__).parent / "recipes"
#: One committed recipe of each kind that trains on published parts.
KINDS = ("blip3o_4b/pretrain", "blip3o_8b/instruct", "design/clip_mse", "design/clip_flow", "design/vae_flow")


def losses(work: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (work / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "samples_per_second"} for line in lines]


@pytest.mark.parametrize("path", sorted(RECIPES.rglob("*.toml")), ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_committed_recipes_are_valid(path: Path) -> None:
    recipe = read_recipe(path)
    assert learning_rate(recipe, recipe.steps) == pytest.approx(recipe.min_lr)


@pytest.mark.parametrize("path", sorted((RECIPES / "parallel").iterdir()), ids=lambda path: path.stem)
def test_accelerate_reads_the_files_for_parallel_training(path: Path) -> None:
    config = load_config_from_file(str(path))
    assert config.distributed_type.lower() == {"fsdp": "fsdp", "zero1": "deepspeed"}[path.stem]
    assert config.mixed_precision == "no"  # the recipe says


@pytest.fixture(scope="module")
def backbones(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Tiny stand-ins for what the committed recipes take from the hub."""
    folder = tmp_path_factory.mktemp("hub")
    return {
        "Qwen/Qwen2.5-VL-3B-Instruct": str(checkpoint),
        "Qwen/Qwen2.5-VL-7B-Instruct": str(checkpoint),
        "meta-llama/Llama-3.2-1B-Instruct": str(tiny.llama(checkpoint, folder / "llama")),
        "Qwen/Qwen3-1.7B": str(tiny.qwen3(checkpoint, folder / "qwen3")),
        "google/siglip2-so400m-patch16-512": str(tiny.siglip(folder / "siglip")),
    }


# torch says so once under autocast: a norm's float32 weight, a bfloat16 input.
@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight:UserWarning")
@pytest.mark.parametrize("kind", [*KINDS, "joint/qwen3_siglip2"])
def test_committed_recipes_train_at_tiny_size(
    kind: str, checkpoint: Path, backbones: dict[str, str], tmp_path: Path
) -> None:
    recipe = read_recipe(RECIPES / f"{kind}.toml")
    dit = {**tiny.MODELS["generator"]["dit"], **recipe.model.get("dit", {})}
    model = {**recipe.model, "n_query": 4, "dit": dit, "sampling": tiny.MODELS["generator"]["sampling"]}
    if "image_size" in model:
        model["image_size"] = 64
    data = tiny.recipe("generator", checkpoint, backbone=model["backbone"]).data
    small = dataclasses.replace(
        recipe,
        checkpoint=str(tmp_path / "checkpoint"),
        data=data,
        model=model,
        sources={name: backbones.get(spec, str(checkpoint)) for name, spec in recipe.sources.items()},
        steps=2,
        batch_size=4,
        workers=0,
        cache=str(tmp_path / "cache") if recipe.cache else None,
        log_every=1,
        trackers=(),
    )
    train(small, tmp_path / "work")
    assert [line["step"] for line in losses(tmp_path / "work")] == [1, 2]
    frozen = model["backbone"] == "frozen"
    assert frozen != (tmp_path / "checkpoint" / "backbone").exists()
    names = set(torch.load(tmp_path / "work" / "step-000002" / "pytorch_model.bin"))
    assert not any("vision_tower" in name for name in names)
    assert frozen != any(name.startswith("model.backbone.") for name in names)
    prompt = Prompt("a red star")
    assert load(str(tmp_path / "checkpoint")).generate([prompt], [0])[0].size == (64, 64)


@dataclasses.dataclass(frozen=True)
class Prompt:
    prompt: str


def interrupt_before_step(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Examples.__getitem__

    def getitem(self: Examples, index: int) -> tuple[int, Any]:
        if index >= 8:
            raise KeyboardInterrupt
        return original(self, index)

    monkeypatch.setattr(Examples, "__getitem__", getitem)


def interrupt_while_saving(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Accelerator.save_state

    def save_state(self: Accelerator, output_dir: str, safe_serialization: bool) -> None:
        original(self, output_dir, safe_serialization=safe_serialization)
        if "step-000003" in output_dir:
            raise KeyboardInterrupt

    monkeypatch.setattr(Accelerator, "save_state", save_state)


def interrupt_while_publishing(monkeypatch: pytest.MonkeyPatch) -> None:
    def publish(run: training.Run, step: int) -> None:
        if (run.work / "step-000004").exists():
            raise KeyboardInterrupt

    monkeypatch.setattr(training.Run, "publish", publish)


@pytest.mark.parametrize("interrupt", [interrupt_before_step, interrupt_while_saving, interrupt_while_publishing])
def test_resumed_training_equals_uninterrupted(
    interrupt: Callable[[pytest.MonkeyPatch], None], checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = dataclasses.replace(tiny.recipe("generator", tmp_path, steps=4, backbone="joint"), ema=0.9)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for target in (whole, parts):
        shutil.copytree(checkpoint, target / "checkpoint")
    train(dataclasses.replace(recipe, checkpoint=str(whole / "checkpoint")), whole / "work")

    interrupted = dataclasses.replace(recipe, checkpoint=str(parts / "checkpoint"))
    interrupt(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        train(interrupted, parts / "work")
    monkeypatch.undo()
    train(interrupted, parts / "work")

    assert losses(parts / "work") == losses(whole / "work")
    for file in ("generator.safetensors", "backbone/model.safetensors"):
        one, two = (load_file(folder / "checkpoint" / file) for folder in (whole, parts))
        assert one.keys() == two.keys()
        assert all(torch.equal(one[name], two[name]) for name in one)
    assert sorted(path.name for path in (parts / "work").glob("step-*")) == ["step-000003", "step-000004"]


def test_two_processes_and_micro_batches_equal_one(checkpoint: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        shutil.copytree(checkpoint, tmp_path / name)
    recipe = tiny.recipe("generator", tmp_path / "one", steps=20, backbone="joint")
    recipe = dataclasses.replace(recipe, batch_size=8, save_every=20)
    train(recipe, tmp_path / "work" / "one")
    path = tmp_path / "recipe.toml"
    path.write_text(tiny.toml(dataclasses.replace(recipe, checkpoint=str(tmp_path / "two"), accumulation=2)))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += ["-m", "blip3o_bench", "train", str(path), "--out", str(tmp_path / "work" / "two")]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-3000:]

    one, two = (losses(tmp_path / "work" / name) for name in ("one", "two"))
    assert len(one) == len(two) == 20
    for a, b in zip(one, two, strict=True):
        assert a == pytest.approx(b, abs=1e-5)
    weights = [load_file(tmp_path / name / "generator.safetensors") for name in ("one", "two")]
    assert max((weights[0][name] - weights[1][name]).abs().max() for name in weights[0]) < 2e-3  # stored as float16


def test_processes_share_a_batch_without_gap_or_overlap(tmp_path: Path) -> None:
    recipe = dataclasses.replace(tiny.recipe("vae", tmp_path, steps=3), batch_size=12, accumulation=2)
    for processes in (1, 2, 3):
        shares = [list(slices(recipe, 1, process, processes)) for process in range(processes)]
        for step in (1, 2):
            first = 2 * (step - 1)
            indices = [index for share in shares for micro in share[first : first + 2] for index in micro]
            assert sorted(indices) == list(range(12 * step, 12 * step + 12))


def test_workers_and_recomputed_activations_change_nothing(checkpoint: Path, tmp_path: Path) -> None:
    plain = tiny.recipe("generator", tmp_path / "plain", steps=3, backbone="joint")
    other = dataclasses.replace(plain, checkpoint=str(tmp_path / "other"), workers=2, gradient_checkpointing=True)
    curves = []
    for recipe in (plain, other):
        shutil.copytree(checkpoint, recipe.checkpoint)
        train(recipe, Path(recipe.checkpoint) / "work")
        curves.append(losses(Path(recipe.checkpoint) / "work"))
    for a, b in zip(*curves, strict=True):
        assert a == pytest.approx(b, abs=1e-6)


def test_features_are_encoded_once_when_there_is_a_cache(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[int] = []
    original = EvaClip.features

    def features(self: EvaClip, images: torch.Tensor) -> torch.Tensor:
        encoded.append(len(images))
        return original(self, images)

    monkeypatch.setattr(EvaClip, "features", features)
    curves = {}
    for name, cache in (("without", None), ("with", str(tmp_path / "cache"))):
        shutil.copytree(checkpoint, tmp_path / name)
        recipe = dataclasses.replace(tiny.recipe("generator", tmp_path / name, steps=4), cache=cache)
        train(dataclasses.replace(recipe, data=("tests.model.tiny:keyed",)), tmp_path / "work" / name)
        curves[name] = losses(tmp_path / "work" / name)
    assert curves["with"] == curves["without"]
    assert encoded == [4, 4, 4, 4, 4, 4]  # eight images in four steps; with the cache, two steps


def test_unreadable_examples_are_left_out_counted_and_named(checkpoint: Path, tmp_path: Path) -> None:
    shutil.copytree(checkpoint, tmp_path / "checkpoint")
    recipe = tiny.recipe("generator", tmp_path / "checkpoint", steps=11)
    recipe = dataclasses.replace(recipe, data=("tests.model.tiny:damaged",))
    with pytest.raises(RecipeError, match=r"step 11, process 0: no example for the loss 'flow' in a micro-batch of 4"):
        train(recipe, tmp_path / "work")
    assert [line["unreadable"] for line in losses(tmp_path / "work")] == list(range(1, 11))
    lines = (tmp_path / "work" / "unreadable.txt").read_text().splitlines()
    assert lines[:2] == [f"{i}\tshard.tar::{i}.jpg: image file is truncated" for i in (1, 5)]


def test_preview_images_are_drawn(checkpoint: Path, tmp_path: Path) -> None:
    shutil.copytree(checkpoint, tmp_path / "checkpoint")
    recipe = tiny.recipe("generator", tmp_path / "checkpoint", steps=2)
    train(dataclasses.replace(recipe, preview_every=2, preview_prompts=("a star", "a ring")), tmp_path / "work")
    (preview,) = (tmp_path / "work" / "previews").iterdir()
    assert preview.name == "step-2.png"
    with Image.open(preview) as image:
        assert image.size == (128, 64)


def test_tensorboard_gets_the_losses(checkpoint: Path, tmp_path: Path) -> None:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    shutil.copytree(checkpoint, tmp_path / "checkpoint")
    recipe = tiny.recipe("generator", tmp_path / "checkpoint", steps=2)
    recipe = dataclasses.replace(recipe, trackers=("tensorboard",), preview_every=2, preview_prompts=("a star",))
    train(recipe, tmp_path / "work")
    events = reader.EventAccumulator(str(tmp_path / "work" / "trackers" / "blip3o"))
    events.Reload()
    logged = [event.value for event in events.Scalars("flow")]
    assert logged == pytest.approx([line["flow"] for line in losses(tmp_path / "work")])
    assert "preview" in events.Tags()["images"][0]


def test_a_missing_tracker_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    recipe = dataclasses.replace(tiny.recipe("vae", tmp_path), trackers=("tensorboard",))
    with pytest.raises(RecipeError, match="tensorboard is not installed; run: pip install tensorboard"):
        train(recipe, tmp_path / "work")


def test_training_stops_where_the_recipe_says_and_another_goes_on(checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(checkpoint, folder)
    train(dataclasses.replace(tiny.recipe("generator", folder, steps=9), stop_at=2), tmp_path / "first")
    assert [line["step"] for line in losses(tmp_path / "first")] == [1, 2]
    before = load_file(folder / "generator.safetensors")
    second = dataclasses.replace(tiny.recipe("generator", folder, gate=0.5), sources={"generator": str(folder)})
    train(second, tmp_path / "second")
    after = load_file(folder / "generator.safetensors")
    assert before["dit.layers.0.gate"].abs().max() < 0.1
    assert after["dit.layers.0.gate"].tolist() == pytest.approx([0.5, 0.5], abs=0.01)
    # One step of Adam moves a weight by the learning rate at most; a new model would be elsewhere.
    assert (after["latent_queries"] - before["latent_queries"]).abs().max() < 2e-3


def test_the_work_folder_of_another_run_is_refused(tmp_path: Path) -> None:
    recipe = tiny.recipe("vae", tmp_path / "checkpoint")
    train(recipe, tmp_path / "work")
    train(dataclasses.replace(recipe, log_every=7, keep_last=9), tmp_path / "work")  # changes no number
    with pytest.raises(RecipeError, match="another recipe, with another lr;"):
        train(dataclasses.replace(recipe, lr=1.0), tmp_path / "work")
    state = tmp_path / "work" / "step-000001" / "state.json"
    state.write_text(state.read_text().replace('"processes": 1', '"processes": 2'))
    train(recipe, tmp_path / "work")  # is finished, whoever did it
    (tmp_path / "work" / "published.json").unlink()
    with pytest.raises(RecipeError, match="begun with processes 2, not 1"):
        train(recipe, tmp_path / "work")


def test_data_that_grew_since_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BLIP3O_BENCH_DATA", str(tmp_path / "cache"))
    lines = [json.dumps({"image": f"{i}.png", "caption": "a cube"}) + "\n" for i in range(5)]
    for i in range(5):
        Image.new("RGB", (64, 64)).save(tmp_path / f"{i}.png")
    data = tmp_path / "data.jsonl"
    data.write_text("".join(lines[:4]))
    recipe = dataclasses.replace(tiny.recipe("vae", tmp_path / "checkpoint"), data=(f"jsonl:{data}",))
    train(recipe, tmp_path / "work")
    train(recipe, tmp_path / "work")
    data.write_text("".join(lines))
    with pytest.raises(RecipeError, match=r"data\.jsonl had 4 examples when .* was begun and has 5 now"):
        train(recipe, tmp_path / "work")
    state = tmp_path / "work" / "step-000001" / "state.json"
    older = json.loads(state.read_text())
    del older["examples"]
    state.write_text(json.dumps(older))
    train(recipe, tmp_path / "work")


def test_a_batch_that_cannot_be_shared_out_is_refused(tmp_path: Path) -> None:
    recipe = dataclasses.replace(tiny.recipe("vae", tmp_path), accumulation=3)
    with pytest.raises(RecipeError, match="batch_size 4 is not a multiple of 3: 1 processes x 3 micro-batches"):
        train(recipe, tmp_path / "work")


def test_joint_training_moves_the_backbone_and_sequential_does_not(checkpoint: Path, tmp_path: Path) -> None:
    weights = {}
    for name, backbone in (("sequential", "frozen"), ("joint", "joint")):
        shutil.copytree(checkpoint, tmp_path / name)
        train(tiny.recipe("generator", tmp_path / name, steps=2, backbone=backbone), tmp_path / "work" / name)
        weights[name] = load_file(tmp_path / name / "backbone" / "model.safetensors")
    before = load_file(checkpoint / "backbone" / "model.safetensors")
    key = next(name for name in before if name.endswith("layers.0.mlp.up_proj.weight"))
    seeing = next(name for name in before if "visual" in name)
    assert torch.equal(weights["sequential"][key], before[key])
    assert not torch.equal(weights["joint"][key], before[key])
    assert torch.equal(weights["joint"][seeing], before[seeing])  # freeze_vision


def test_queries_learn_to_pass_the_caption_on(checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(checkpoint, folder)
    recipe = tiny.recipe("generator", folder, steps=30, backbone="joint", echo=1.0, query_scale=0.1)
    train(dataclasses.replace(recipe, lr=1e-2, save_every=30), tmp_path / "work")
    curve = [line["echo"] for line in losses(tmp_path / "work")]
    assert curve[0] > 3  # nothing is known of some 300 tokens
    assert sum(curve[-5:]) / 5 < 0.6 * curve[0]


def test_the_eva_clip_part_learns(tmp_path: Path) -> None:
    recipe = tiny.recipe("eva_clip", tmp_path / "checkpoint", steps=100)
    train(dataclasses.replace(recipe, lr=1e-2, batch_size=8, save_every=100), tmp_path / "work")
    for name, share in (("pixels", 0.6), ("contrast", 0.9)):
        curve = [line[name] for line in losses(tmp_path / "work")]
        assert sum(curve[-20:]) < share * sum(curve[:20])


def test_a_part_on_the_hub_must_be_at_the_same_commit(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(checkpoint, folder)
    commits = iter(["one", "two", "one"])

    def found(recipe: Recipe, name: str) -> Located:
        return Located(folder, "someone/model", next(commits)) if name == "eva_clip" else Located(folder)

    monkeypatch.setattr(generator_part, "source", found)
    recipe = tiny.recipe("generator", folder, steps=2)
    train(recipe, tmp_path / "work")
    with pytest.raises(RecipeError, match=r"with someone/model@one, .* eva_clip is someone/model@two"):
        train(recipe, tmp_path / "work")
    train(recipe, tmp_path / "work")


def test_a_finished_recipe_run_again_leaves_newer_weights_alone(tmp_path: Path) -> None:
    recipe = tiny.recipe("vae", tmp_path / "checkpoint", steps=2)
    weights = tmp_path / "checkpoint" / "decoder" / "vae" / "diffusion_pytorch_model.safetensors"
    train(recipe, tmp_path / "first")
    of_first = weights.read_bytes()
    train(dataclasses.replace(recipe, seed=2), tmp_path / "second")
    of_second = weights.read_bytes()
    train(recipe, tmp_path / "first")
    assert weights.read_bytes() == of_second != of_first
    (tmp_path / "first" / "published.json").unlink()  # as if it had been stopped before
    train(recipe, tmp_path / "first")
    assert weights.read_bytes() == of_first


@pytest.mark.parametrize(
    ("error", "wanted"),
    [
        (RuntimeError("[enforce fail at inline_container.cc:783] PytorchStreamWriter failed"), training.SavingError),
        (SafetensorError("No space left on device"), training.SavingError),
        (OSError("No space left on device"), training.SavingError),
        (OSError(28, "No space left on device", "state"), OSError),
        (RuntimeError("a fault of ours"), RuntimeError),
    ],
)
def test_a_disk_that_takes_no_more_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, wanted: type[Exception]
) -> None:
    def full(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(Accelerator, "save_state", full)
    with pytest.raises(wanted, match=re.escape(str(error))):
        train(tiny.recipe("vae", tmp_path / "checkpoint"), tmp_path / "work")


@pytest.mark.parametrize(
    ("part", "entry", "message"),
    [
        ("vae", {"foo": 1}, "AutoencoderKL.__init__() got an unexpected keyword argument 'foo'"),
        ("vae", {"norm_num_groups": 3}, "model: AutoencoderKL cannot be built: "),
        ("decoder", {"foo": 1}, "UNet2DConditionModel.__init__() got an unexpected keyword argument 'foo'"),
        ("generator", {"levels": 0}, "model: n_query and levels start at 1"),
        ("generator", {"n_query": 0}, "model: n_query and levels start at 1"),
        ("generator", {"shift": 0.0}, "model: shift must be positive"),
        ("generator", {"dit": {"dim": 16, "heads": 7}}, "model.dit: dim 16 is not a multiple of 4 x heads 7"),
        ("generator", {"dit": {"dim": 16, "heads": 2, "multiple_of": 0}}, "model.dit: sizes start at 1"),
        ("eva_clip", {"pool": 0}, "model: sizes start at 1"),
        ("eva_clip", {"head_width": 7}, "model: width 8 is not a multiple of head_width 7"),
        ("eva_clip", {"pool": 3}, "model: image_size 64 is not a multiple of patch_size 16 x pool 3"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(
    checkpoint: Path, tmp_path: Path, part: PartName, entry: dict[str, Any], message: str
) -> None:
    with pytest.raises(RecipeError, match=re.escape(message)):
        train(tiny.recipe(part, checkpoint, **entry), tmp_path / "work")


def test_a_vae_must_know_the_size_of_its_images(tmp_path: Path) -> None:
    recipe = tiny.recipe("vae", tmp_path)
    sizes = {name: value for name, value in recipe.model.items() if name != "sample_size"}
    with pytest.raises(RecipeError, match="sample_size is missing"):
        train(dataclasses.replace(recipe, model=sizes), tmp_path / "work")


def test_learning_rate_warms_up_and_follows_a_cosine() -> None:
    recipe = dataclasses.replace(tiny.recipe("vae", Path("x"), steps=110), lr=1.0, min_lr=0.1, warmup=10)
    assert [learning_rate(recipe, step) for step in (0, 4, 9, 10)] == pytest.approx([0.1, 0.5, 1.0, 1.0])
    assert learning_rate(recipe, 60) == pytest.approx(0.55)  # half way between lr and min_lr
    assert learning_rate(recipe, 110) == pytest.approx(0.1)
    ratio = dataclasses.replace(recipe, warmup=None, warmup_ratio=10 / 110)
    assert [learning_rate(ratio, step) for step in range(111)] == [learning_rate(recipe, step) for step in range(111)]


def test_the_average_forgets_the_start() -> None:
    module = torch.nn.Linear(2, 2)
    with torch.no_grad():
        module.weight.fill_(8.0)
        average = Average(module, 0.5)
        module.weight.fill_(0.0)
    average.update(0)
    assert average.values["weight"][0, 0] == pytest.approx(0.8)  # decay (1 + 0) / (10 + 0)
    average.update(100)
    assert average.values["weight"][0, 0] == pytest.approx(0.4)  # decay 0.5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("part = 'vae'\nspeed = 3", "unknown entry 'speed'"),
        ("part = 'vae'", "is missing"),
        ("part = ", "is not TOML"),
        ("part = 'unet'", "part is 'unet'; one of 'vae', 'eva_clip'"),
        ("steps = 'many'", "steps is 'many', which is no int"),
        ("steps = true", "steps is True, which is no int"),
        ("trackers = ['mlflow']", "trackers is 'mlflow'; one of 'tensorboard', 'wandb'"),
        ("[sources]\nlanguage = 'x'", "sources is 'language'; one of 'backbone'"),
        ("warmup = 1\nwarmup_ratio = 0.1\nWHOLE", "not both"),
        ("preview_every = 5\nWHOLE", "preview_every needs preview_prompts"),
        ("accumulation = 0\nWHOLE", "accumulation must be at least 1"),
        ("stop_at = 2\nWHOLE", "stop_at cannot be 2"),
        ("stop_at = 0\nWHOLE", "stop_at cannot be 0"),
        ("min_lr = nan\nWHOLE", "min_lr cannot be nan"),
        ("warmup = -1\nWHOLE", "warmup cannot be -1"),
        ("warmup_ratio = 3\nWHOLE", "warmup_ratio cannot be 3"),
        ("weight_decay = -0.1\nWHOLE", "weight_decay cannot be -0.1"),
        ("clip = 0\nWHOLE", "clip cannot be 0"),
        ("ema = 1\nWHOLE", "ema cannot be 1"),
        ("workers = -1\nWHOLE", "workers cannot be -1"),
        ("preview_every = -1\nWHOLE", "preview_every cannot be -1"),
    ],
)
def test_a_bad_recipe_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "recipe.toml"
    required = 'part = "vae"\ncheckpoint = "x"\ndata = ["x"]\nmodel = {}\nsteps = 1\nbatch_size = 1\nlr = 1'
    path.write_text(text.replace("WHOLE", required))
    with pytest.raises(RecipeError, match=message):
        read_recipe(path)


def test_a_recipe_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "recipe.png").write_bytes(b"\x89PNG\r\n")
    with pytest.raises(RecipeError, match=r"recipe\.png is not TOML"):
        read_recipe(tmp_path / "recipe.png")


def test_the_entries_of_the_model_table_are_checked(checkpoint: Path, tmp_path: Path) -> None:
    for model, message in (
        ({"speed": 3}, "model: unknown entry 'speed'"),
        ({"design": "clip_mse", "n_query": 5}, "needs n_query = 4"),
        ({"design": "vae_flow"}, "needs image_size"),
        ({"dit": {"grid": 4}}, "model.dit: unknown entry 'grid'"),
    ):
        with pytest.raises(RecipeError, match=message):
            train(tiny.recipe("generator", checkpoint, **model), tmp_path / "work")


def test_an_unknown_data_source_is_named(tmp_path: Path) -> None:
    recipe: Recipe = dataclasses.replace(tiny.recipe("vae", tmp_path), data=("nowhere:examples",))
    with pytest.raises(RecipeError, match="nowhere:examples"):
        train(recipe, tmp_path / "work")
