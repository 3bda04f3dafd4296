"""The toy judges through the real libraries: mmdet on our operators, and open_clip."""

from __future__ import annotations

import hashlib
import json
import os
import random
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.geneval import GenEval
from benchmarks.judges import mmcv_ops
from benchmarks.judges.color import (
    COLORS,
    GROUP,
    PAINT,
    ColorClassifier,
    ColorSpec,
    class_weights,
    create,
    object_crop,
)
from benchmarks.judges.detector import (
    Detections,
    Detector,
    DetectorSpec,
    config_path,
    mask2former,
    read_state_dict,
    refuse_mmdet_2,
)
from benchmarks.judges.selftest import check_detector, photographs
from benchmarks.judges.transformers_detector import TransformersDetector, instances
from benchmarks.judges.weights import checked_digest
from benchmarks.shapes.geneval import scene_for
from benchmarks.shapes.judges import CARD, WEIGHTS, color_spec, detector_spec
from benchmarks.shapes.scene import BACKGROUND, CANVAS, SHAPES, Object, Scene, random_scene, render
from benchmarks.shapes.scene import COLORS as SHAPE_COLORS
from benchmarks.types import BenchError, Prediction


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector(detector_spec())


@pytest.fixture(scope="module")
def classifier() -> ColorClassifier:
    return ColorClassifier(color_spec())


def scenes(number: int) -> list[Scene]:
    rng = random.Random("tests/judges")
    return [random_scene(rng) for _ in range(number)]


def above(found: Detections, threshold: float) -> list[tuple[str, tuple[float, ...]]]:
    rows = np.flatnonzero(found.scores > threshold)
    return [(SHAPES[found.labels[i]], tuple(found.boxes[i].tolist())) for i in rows]


# Operators


def test_nms_keeps_the_best_of_overlapping_boxes() -> None:
    import torch

    mmcv_ops.install()
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [1.0, 0.0, 11.0, 10.0], [30.0, 0.0, 40.0, 10.0]])
    kept = mmcv_ops.nms(boxes, torch.tensor([0.5, 0.9, 0.7]), iou_threshold=0.5, offset=0)
    assert kept.tolist() == [1, 2]


@pytest.mark.parametrize(("offset", "kept"), [(0, [0, 1]), (1, [0])])
def test_nms_offset_counts_the_last_pixel(offset: int, kept: list[int]) -> None:
    """Neighbours 0-1 and 0-2: IoU 1/2 by corners, 2/3 by pixels."""
    import torch

    mmcv_ops.install()
    boxes = torch.tensor([[0.0, 0.0, 2.0, 0.5], [0.0, 0.0, 1.0, 0.5]])
    assert mmcv_ops.nms(boxes, torch.tensor([0.9, 0.8]), iou_threshold=0.6, offset=offset).tolist() == kept


def test_an_operator_that_is_not_here_says_its_name() -> None:
    mmcv_ops.install()
    from mmcv import _ext

    if not isinstance(_ext, mmcv_ops._Extension):
        pytest.skip("a compiled mmcv is installed and used")
    with pytest.raises(NotImplementedError, match="'softnms' needs compiled code"):
        _ext.softnms()


# Detector


def test_objects_of_renders_are_found_with_confidence(detector: Detector) -> None:
    """At GenEval's counting threshold, every box within two pixels of its object."""
    drawn = scenes(25)
    wrong = 0
    for scene, found in zip(drawn, detector.detect([render(scene) for scene in drawn]), strict=True):
        seen = above(found, 0.9)
        right = len(seen) == len(scene.objects) and all(
            any(shape == o.shape and np.allclose(box, o.box, atol=2) for shape, box in seen) for o in scene.objects
        )
        wrong += not right
    assert wrong <= 1


def test_an_empty_canvas_is_empty(detector: Detector) -> None:
    gray, white = Image.new("RGB", (CANVAS, CANVAS), BACKGROUND), Image.new("RGB", (CANVAS, CANVAS), "white")
    assert [above(found, 0.3) for found in detector.detect([gray, white])] == [[], []]


def test_masks_cover_their_objects(detector: Detector) -> None:
    ring = Object("ring", "blue", (0, 0), 3, 4, 26)
    found = detector.detect([render(Scene((ring,)))])[0]
    best = int(found.scores.argmax())
    assert found.masks is not None
    assert found.masks.shape[1:] == (CANVAS, CANVAS)
    drawn = np.any(np.asarray(render(Scene((ring,)))) != BACKGROUND[0], axis=-1)
    shared = np.sum(found.masks[best] & drawn) / np.sum(found.masks[best] | drawn)
    assert shared > 0.75


def test_a_detection_does_not_depend_on_its_batch(detector: Detector) -> None:
    images = [render(scene) for scene in scenes(4)]
    together, alone = detector.detect(images), [detector.detect([image])[0] for image in reversed(images)]
    for a, b in zip(together, reversed(alone), strict=True):
        np.testing.assert_array_equal(a.boxes, b.boxes)
        np.testing.assert_array_equal(a.scores, b.scores)


def test_a_group_is_always_as_large(detector: Detector) -> None:
    """So its results are those of any other group, to the last bit, whatever is in it and in whatever order."""
    eight = Detector(replace(detector_spec(), together=8))
    small, large = [render(scene) for scene in scenes(11)], Image.new("RGB", (100, 60), "white")
    mixed = [*small[:5], large, *small[5:]]
    results = eight.detect(mixed)
    del results[5]
    for image, found in list(zip(small, results, strict=True))[::-3]:
        (alone,) = eight.detect([image])
        np.testing.assert_array_equal(alone.boxes, found.boxes)
        np.testing.assert_array_equal(alone.scores, found.scores)
        np.testing.assert_array_equal(alone.labels, found.labels)
        assert alone.masks is not None
        assert found.masks is not None
        np.testing.assert_array_equal(alone.masks, found.masks)
    for one, found in zip(detector.detect(small), results, strict=True):
        np.testing.assert_allclose(one.scores, found.scores, atol=1e-5)


def test_only_what_is_above_the_floor_is_returned(detector: Detector) -> None:
    """A score of exactly the floor is not."""
    images = [render(scene) for scene in scenes(8)]
    found = detector.detect(images)
    scores = np.sort(np.concatenate([one.scores for one in found]))
    floor = float(scores[len(scores) // 2])
    assert any(floor in one.scores for one in found)
    for every, some in zip(found, detector.detect(images, floor), strict=True):
        rows = every.scores > np.float32(floor)
        np.testing.assert_array_equal(some.scores, every.scores[rows])
        np.testing.assert_array_equal(some.boxes, every.boxes[rows])
        assert every.masks is not None
        assert some.masks is not None
        np.testing.assert_array_equal(some.masks, every.masks[rows])


def test_an_image_is_turned_as_its_exif_says(detector: Detector, tmp_path: Path) -> None:
    upright = render(scenes(1)[0])
    exif = Image.Exif()
    exif[0x0112] = 6  # stored a quarter turn counter-clockwise
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    with Image.open(tmp_path / "turned.png") as turned:
        found = detector.detect([upright, turned])
    np.testing.assert_array_equal(found[0].boxes, found[1].boxes)


def test_the_config_names_the_shapes() -> None:
    text = detector_spec().config.read_text()
    assert f"classes = {json.dumps(SHAPES).replace('[', '(').replace(']', ')')}" in text


def test_absent_and_wrong_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="not there"):
        checked_digest(tmp_path / "none.pth", None)
    (tmp_path / "some.pth").write_bytes(b"abc")
    digest = checked_digest(tmp_path / "some.pth", "ba7816bf")  # the published sha256 of "abc"
    assert digest.startswith("ba7816bf8f01cfea")
    with pytest.raises(BenchError, match="not c9d0c4f2"):
        checked_digest(tmp_path / "some.pth", "c9d0c4f2")


def test_the_paper_s_detector_has_its_config_and_wants_its_checkpoint(tmp_path: Path) -> None:
    spec = mask2former(tmp_path / "absent.pth", ["person"])
    assert config_path(spec.config).is_file()
    with pytest.raises(BenchError, match=r"absent\.pth are not there"):
        Detector(spec).detect([])


def test_a_checkpoint_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    """Official users loaded another mmdet's checkpoint and got scores near 0 without a word."""
    from safetensors.torch import save_file

    state = read_state_dict(WEIGHTS / "detector.safetensors")
    renamed = {name.replace("bbox_head.", "head."): value for name, value in state.items()}
    save_file(renamed, tmp_path / "other.safetensors")
    spec = DetectorSpec(detector_spec().config, tmp_path / "other.safetensors", SHAPES)
    with pytest.raises(BenchError, match="does not fit the detector's config"):
        Detector(spec).detect([])


def test_a_checkpoint_of_mmdet_2_is_recognised(tmp_path: Path) -> None:
    """Its transformer layers are named otherwise; the other tensors may all be there."""
    from safetensors.torch import save_file

    state = read_state_dict(WEIGHTS / "detector.safetensors")
    layer = "panoptic_head.pixel_decoder.encoder.layers.0"
    refuse_mmdet_2([*state, f"{layer}.self_attn.value_proj.weight", f"{layer}.ffn.layers.0.0.weight"], tmp_path)
    path = tmp_path / "old.safetensors"
    save_file({**state, f"{layer}.attentions.0.value_proj.weight": next(iter(state.values())).clone()}, path)
    message = r"old\.safetensors is a checkpoint of mmdet 2\.x: take the one for 3\.x, mask2former_.*c9d0c4f2\.pth"
    spec = DetectorSpec(detector_spec().config, path, SHAPES)
    with pytest.raises(BenchError, match=message):
        Detector(spec).detect([])
    with pytest.raises(BenchError, match=message):  # and at once, where the digest is known
        Detector(replace(spec, sha256="c9d0c4f2")).describe()
    path.write_bytes(b"no checkpoint at all")
    with pytest.raises(BenchError, match=r"not c9d0c4f2: fetch them again"):
        Detector(replace(spec, sha256="c9d0c4f2")).describe()


def test_the_toy_detector_passes_its_test_and_one_without_training_does_not(detector: Detector) -> None:
    known = GenEval.toy(1).known
    assert [one.name for one in known] == list(SHAPES)
    check_detector(detector, known)
    turned = Detector(replace(detector_spec(), classes=(*SHAPES[1:], SHAPES[0])))  # labels off by one
    with pytest.raises(BenchError, match=f"where an image shows one {SHAPES[0]} it sees {SHAPES[1]}"):
        check_detector(turned, known)


def test_the_photographs_are_there() -> None:
    for known in photographs():
        with known.open() as image:
            image.load()
            left, top, right, bottom = known.box
            assert 0 <= left < right <= image.width
            assert 0 <= top < bottom <= image.height


class Runs:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_checkpoint_s_tensors_are_read_and_its_code_is_not_run(tmp_path: Path, zipped: bool) -> None:
    """Both of torch's formats: OpenMMLab publishes in the older one, with training history beside the tensors."""
    import torch

    state = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.nn.Parameter(torch.ones(2, dtype=torch.float16))}
    meta = {"best": np.float64(0.5), "history": np.arange(3), "where": tmp_path, "code": Runs(tmp_path / "ran")}
    path = tmp_path / "some.pth"
    torch.save({"state_dict": state, "meta": meta}, path, _use_new_zipfile_serialization=zipped)
    read = read_state_dict(path)
    assert not (tmp_path / "ran").exists()
    assert list(read) == ["a", "b"]
    assert torch.equal(read["a"], state["a"])
    assert torch.equal(read["b"], state["b"])
    assert read["b"].dtype == torch.float16


def test_a_damaged_checkpoint_is_told(tmp_path: Path) -> None:
    (tmp_path / "some.pth").write_bytes(b"abc")
    with pytest.raises(BenchError, match="is not a checkpoint of PyTorch"):
        read_state_dict(tmp_path / "some.pth")


# Mask2Former through transformers


@pytest.fixture(scope="module")
def mask2former_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes, random weights, no image larger than 64 pixels; its processor pads to a multiple of 32."""
    import torch
    from transformers import (
        Mask2FormerConfig,
        Mask2FormerForUniversalSegmentation,
        Mask2FormerImageProcessor,
        SwinConfig,
    )

    torch.manual_seed(1)
    swin = SwinConfig(
        image_size=64,
        embed_dim=8,
        depths=[1, 1, 1, 1],
        num_heads=[1, 1, 2, 2],
        window_size=2,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    config = Mask2FormerConfig(
        backbone_config=swin,
        num_labels=3,
        num_queries=9,
        feature_size=32,
        mask_feature_size=32,
        hidden_dim=32,
        encoder_feedforward_dim=16,
        dim_feedforward=16,
        encoder_layers=1,
        decoder_layers=2,
        num_attention_heads=2,
    )
    folder = tmp_path_factory.mktemp("mask2former")
    Mask2FormerForUniversalSegmentation(config).save_pretrained(folder)
    Mask2FormerImageProcessor(size={"shortest_edge": 32, "longest_edge": 64}, size_divisor=32).save_pretrained(folder)
    return folder


def test_transformers_detections(mask2former_folder: Path) -> None:
    detector = TransformersDetector(mask2former_folder, ("a", "b", "c"))
    image = Image.effect_noise((50, 40), 80).convert("RGB")
    found, again = detector.detect([image, image])
    assert len(found.scores) > 9  # a query may be found under several classes
    assert found.boxes.dtype == found.scores.dtype == np.float32
    assert set(found.labels.tolist()) <= {0, 1, 2}
    assert found.masks is not None
    assert found.masks.shape == (len(found.scores), 40, 50)
    for box, mask in zip(found.boxes, found.masks, strict=True):
        rows, columns = np.nonzero(mask)
        assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    np.testing.assert_array_equal(found.scores, again.scores)
    floor = float(np.median(found.scores))
    (above_floor,) = detector.detect([image], floor)
    assert sorted(above_floor.scores) == sorted(found.scores[found.scores > np.float32(floor)])
    described = detector.describe()
    assert (described["library"], len(described["weights_sha256"])) == ("transformers", 64)


def test_post_processing_equals_mmdet_s() -> None:
    """The same logits through mmdet's own Mask2Former head, padding cut off and all."""
    import torch

    mmcv_ops.install()
    from mmdet.models.seg_heads.panoptic_fusion_heads import MaskFormerFusionHead
    from mmdet.structures import DetDataSample

    generator = torch.Generator().manual_seed(3)
    class_logits = torch.randn(30, 6, generator=generator) * 3
    mask_logits = torch.randn(30, 16, 24, generator=generator)
    head = MaskFormerFusionHead(
        num_things_classes=5,
        num_stuff_classes=0,
        test_cfg={"panoptic_on": False, "instance_on": True, "semantic_on": False, "max_per_image": 100},
    )
    padded, resized, original = (64, 96), (60, 90), (37, 55)
    upsampled = torch.nn.functional.interpolate(mask_logits[None], size=padded, mode="bilinear", align_corners=False)
    sample = DetDataSample(metainfo={"img_shape": resized, "ori_shape": original})
    (result,) = head.predict(class_logits[None], upsampled, [sample], rescale=True)
    theirs = result["ins_results"]
    theirs = theirs[theirs.scores > 0.2]
    ours = instances(class_logits, mask_logits, padded, resized, original, 0.2)
    assert len(ours.scores) > 5
    order, reference = np.argsort(ours.scores), np.argsort(theirs.scores.numpy())
    np.testing.assert_array_equal(ours.scores[order], theirs.scores.numpy()[reference])
    np.testing.assert_array_equal(ours.labels[order], theirs.labels.numpy()[reference])
    np.testing.assert_array_equal(ours.boxes[order], theirs.bboxes.numpy()[reference])
    assert ours.masks is not None
    np.testing.assert_array_equal(ours.masks[order], theirs.masks.numpy()[reference])


def test_other_models_of_transformers_are_refused(mask2former_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="a mask2former of 3 classes: a mask2former of 80 is needed"):
        TransformersDetector(mask2former_folder, tuple("abcdefgh" * 10)).detect([])
    with pytest.raises(BenchError, match=r"holds no \*\.safetensors"):
        TransformersDetector(tmp_path, ("a",)).describe()
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(BenchError, match=r"cannot load the detector"):
        TransformersDetector(tmp_path, ("a",)).detect([])


# Color classifier


def test_every_color_of_every_shape(classifier: ColorClassifier) -> None:
    wrong = []
    for shape in SHAPES:
        drawn = [Object(shape, color, (0, 0), 3, 3, 24) for color in SHAPE_COLORS]
        crops = [object_crop(render(Scene((item,))), item.box, None) for item in drawn]
        rows = classifier.logits(crops, shape)
        wrong += [(shape, c) for row, c in zip(rows, COLORS, strict=True) if COLORS[row.argmax()] != c]
    assert wrong == []


def test_logits_are_scaled_cosines_and_do_not_depend_on_other_crops(classifier: ColorClassifier) -> None:
    crops = [object_crop(render(scene), scene.objects[0].box, None) for scene in scenes(3)]
    together = classifier.logits(crops, "star")
    assert together.shape == (3, len(COLORS))
    assert together.dtype == np.float32
    assert np.abs(together).max() <= 100.001
    np.testing.assert_array_equal(together[1:2], classifier.logits(crops[1:2], "star"))


def test_crops_of_several_classes_are_classified_at_once(classifier: ColorClassifier) -> None:
    """More than one group of the image tower, the last one filled up."""
    crops = [object_crop(render(scene), scene.objects[0].box, None) for scene in scenes(GROUP + 3)]
    names = [SHAPES[i % 3] for i in range(len(crops))]
    mixed = classifier.logits(crops, names)
    for i, name in enumerate(names):
        np.testing.assert_array_equal(mixed[i], classifier.logits([crops[i]], name)[0])
    with pytest.raises(ValueError, match="zip"):
        classifier.logits(crops, names[:-1])


def test_class_weights_are_the_unit_mean_of_unit_templates(classifier: ColorClassifier) -> None:
    import torch

    model, _, tokenizer = create(color_spec(), color_spec().weights)
    with torch.inference_mode():
        weights = class_weights(model, tokenizer, "ring", "cpu")
        texts = ["a photo of a orange ring", "a photo of a orange-colored ring", "a photo of a orange object"]
        units = torch.nn.functional.normalize(model.encode_text(tokenizer(texts)), dim=-1)
        expected = torch.nn.functional.normalize(units.mean(0), dim=-1)
    torch.testing.assert_close(weights[:, COLORS.index("orange")], expected)


@pytest.mark.parametrize("damage", ["garbage", "empty", "other tensors"])
def test_a_file_that_holds_no_color_weights_is_a_users_error(tmp_path: Path, damage: str) -> None:
    import torch

    path = tmp_path / "clip.pt"
    if damage == "other tensors":
        torch.save({"x": torch.zeros(1)}, path)
    else:
        path.write_bytes(b"" if damage == "empty" else b"garbage")
    with pytest.raises(BenchError, match=r"clip.pt cannot be loaded as weights of open_clip_shapes"):
        ColorClassifier(replace(color_spec(), weights=path)).logits([Image.new("RGB", (9, 9))], "dog")


def test_openai_s_kind_of_file_is_read(classifier: ColorClassifier, tmp_path: Path) -> None:
    """A TorchScript archive of the same tensors gives the same logits."""
    import torch

    model, preprocess, tokenizer = create(color_spec(), color_spec().weights)
    crop = object_crop(render(scenes(1)[0]), [0, 0, 32, 32], None)
    mask = model._buffers.pop("attn_mask")  # OpenAI's archive does not hold it
    model.attn_mask = mask
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(model, (preprocess(crop)[None], tokenizer(["a star"])), check_trace=False)
        torch.jit.save(traced, tmp_path / "clip.pt")
    archive = replace(color_spec(), weights=tmp_path / "clip.pt", sha256=None)
    with pytest.raises(BenchError, match="holds code"):
        ColorClassifier(archive).logits([crop], "star")
    digest = hashlib.sha256(archive.weights.read_bytes()).hexdigest()
    archived = ColorClassifier(replace(archive, sha256=digest))
    np.testing.assert_array_equal(archived.logits([crop], "star"), classifier.logits([crop], "star"))


def test_no_crops_no_logits(classifier: ColorClassifier) -> None:
    assert classifier.logits([], "star").shape == (0, len(COLORS))


def test_cuda_runs_in_half_precision_as_the_official_script() -> None:
    assert ColorClassifier(ColorSpec("ViT-L-14-quickgelu", Path("none"), device="cuda:0")).half_precision
    assert not ColorClassifier(color_spec()).half_precision


def test_a_crop_paints_what_the_mask_leaves_out() -> None:
    image = Image.new("RGB", (8, 6), (1, 2, 3))
    mask = np.zeros((6, 8), dtype=bool)
    mask[2, 3] = True
    crop = np.asarray(object_crop(image, [2.4, 1.6, 5.4, 3.6, 0.9], mask))
    assert crop.shape == (2, 3, 3)  # edges 2, 2, 5, 4
    assert crop[0, 1].tolist() == [1, 2, 3]
    assert crop[1, 1].tolist() == list(PAINT)
    with pytest.raises(ValueError, match="not of the image's size"):
        object_crop(image, [0, 0, 1, 1], mask[:3])


# Together


def test_the_card_says_that_the_judges_can_be_trusted() -> None:
    card = json.loads((WEIGHTS / CARD).read_text())
    assert card["held_out_scenes"] >= 500
    assert min(card["clean_exact_scene_above_0.3"], card["clean_exact_scene_above_0.9"]) >= 0.99
    assert card["clean_color_accuracy"] >= 0.99
    assert card["empty_exact_scene_above_0.3"] >= 0.97


def test_an_oracle_scores_one_and_a_blank_nothing(tmp_path: Path) -> None:
    bench = GenEval.toy(prompts_per_tag=2, images_per_prompt=2)
    samples, rng = bench.samples(), random.Random("tests/oracle")
    for sample in samples:
        render(scene_for(sample.meta, rng)).save(tmp_path / f"{sample.id.replace('/', '-')}.png")
    Image.new("RGB", (CANVAS, CANVAS), BACKGROUND).save(tmp_path / "blank.png")
    overall = []
    for blank in (False, True):
        files = ["blank.png" if blank else f"{sample.id.replace('/', '-')}.png" for sample in samples]
        predictions = [Prediction(s.id, 0, 0.0, image=file) for s, file in zip(samples, files, strict=True)]
        verdicts = {verdict.id: verdict for verdict in bench.judge(samples, predictions, tmp_path)}
        json.dumps([verdict.finding for verdict in verdicts.values()])
        overall.append(bench.summarize(samples, verdicts)[1][0].value)
    oracle, nothing = overall
    assert oracle is not None
    assert oracle >= 0.95
    assert nothing == 0.0
