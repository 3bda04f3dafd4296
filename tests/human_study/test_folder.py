from __future__ import annotations

import hashlib
import stat
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from sqlalchemy import select

from benchmarks.types import BenchError
from human_study import folder
from human_study.design import PAPER_CRITERIA
from human_study.tables import ImageRow, PairRow, Prompt
from tests.human_study.studies import PLAIN, image_folders, study_with_images


def test_a_study_has_every_image_and_opens_again(tmp_path: Path) -> None:
    plan = replace(PLAIN, gold=2, qualification=1)
    made = study_with_images(tmp_path, plan)
    study = folder.open_study(made.folder)
    assert study.store.design == plan
    assert study.key == made.key
    with study.store.reading() as connection:
        images = list(connection.execute(select(ImageRow)))
        pairs = [row.kind for row in connection.execute(select(PairRow).order_by(PairRow.id))]
        texts = list(connection.execute(select(Prompt.text).order_by(Prompt.id)).scalars())
    assert pairs == ["main"] * 6 + ["qualification", "gold", "gold", "example"] * 2
    assert len(images) == 6 * 2 + 4 * 2
    for image in images:
        assert hashlib.sha256(study.image(image.sha256).read_bytes()).hexdigest() == image.sha256
    assert texts == [f"a square of shade {number}" for number in range(6)]


def test_gold_of_a_criterion_with_prompt_shows_the_image_of_another_prompt(tmp_path: Path) -> None:
    study = study_with_images(tmp_path, replace(PLAIN, gold=3))
    with study.store.reading() as connection:
        own = {row.sha256 for row in connection.execute(select(ImageRow).where(ImageRow.criterion == ""))}
        worse = {
            criterion.key: {
                row.sha256 for row in connection.execute(select(ImageRow).where(ImageRow.criterion == criterion.key))
            }
            for criterion in PAPER_CRITERIA
        }
    assert worse["prompt_alignment"] <= own
    assert not worse["visual_quality"] & own  # spoilt
    prompt, better, other = study.store.example("prompt_alignment") or ("", "", "")
    assert prompt.startswith("a square")
    assert better != other


def test_the_key_and_the_databases_address_are_the_owners_only(tmp_path: Path) -> None:
    study = study_with_images(tmp_path)
    for name in ("key", "study.json"):
        assert stat.S_IMODE((study.folder / name).stat().st_mode) == 0o600
    assert len(study.key) == 32


def test_images_are_counted_while_they_are_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    study_with_images(tmp_path / "quiet")
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    study_with_images(tmp_path / "terminal")
    assert "12/12" in capsys.readouterr().err  # six prompts, two models


def test_a_study_is_never_overwritten(tmp_path: Path) -> None:
    study = study_with_images(tmp_path)
    with pytest.raises(BenchError, match="holds a study already"):
        folder.create(study.folder, PLAIN, {"p0": "x"}, {})


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    sources = image_folders(tmp_path, PLAIN.models, 2)
    with pytest.raises(BenchError, match=r"cannot write .*prompts.csv/study/images/.*: Not a directory"):
        folder.create(tmp_path / "prompts.csv" / "study", PLAIN, folder.read_prompts(tmp_path / "prompts.csv"), sources)


def test_missing_images_are_counted_and_one_is_named(tmp_path: Path) -> None:
    sources = image_folders(tmp_path, PLAIN.models, 5)
    (sources["beta"] / "p3.png").unlink()
    (sources["beta"] / "p4.png").unlink()
    with pytest.raises(BenchError, match=r"2 of 5 prompts have no image in .*beta, such as p3"):
        folder.create(tmp_path / "study", PLAIN, folder.read_prompts(tmp_path / "prompts.csv"), sources)
    assert not (tmp_path / "study").exists()


def test_unlike_sizes_are_told_and_can_be_made_one(tmp_path: Path) -> None:
    sources = image_folders(tmp_path, PLAIN.models, 3, sizes=(32, 48))
    prompts = folder.read_prompts(tmp_path / "prompts.csv")
    told: list[str] = []
    folder.create(tmp_path / "one", PLAIN, prompts, sources, tell=told.append)
    assert len(told) == 1
    assert "alpha 32x32, beta 48x48" in told[0]
    folder.create(tmp_path / "two", replace(PLAIN, pixels=40), prompts, sources, tell=told.append)
    assert len(told) == 1


def test_of_a_models_grids_the_first_image_is_shown(tmp_path: Path) -> None:
    sources = image_folders(tmp_path, PLAIN.models, 3)
    (tmp_path / "alpha").rename(tmp_path / "tiles")
    sources["alpha"].mkdir()
    for path in (tmp_path / "tiles").iterdir():  # DPG-Bench's layout: ITEM.png with four images
        with Image.open(path) as tile:
            grid = Image.new("RGB", (64, 64), "white")
            grid.paste(tile, (0, 0))
            grid.save(sources["alpha"] / path.name)
    prompts = folder.read_prompts(tmp_path / "prompts.csv")
    told: list[str] = []
    folder.create(tmp_path / "whole", PLAIN, prompts, sources, tell=told.append)
    assert "alpha 64x64, beta 32x32" in told[0]
    assert "--grid NAME" in told[0]
    plan = replace(PLAIN, grids=("alpha",))
    grids = folder.create(tmp_path / "first", plan, prompts, sources, tell=told.append)
    single = folder.create(tmp_path / "single", PLAIN, prompts, {**sources, "alpha": tmp_path / "tiles"})
    assert len(told) == 1
    assert folder.open_study(grids.folder).store.design == plan
    shown = [sorted(path.name for path in (study.folder / "images").iterdir()) for study in (grids, single)]
    assert shown[0] == shown[1]
    with pytest.raises(BenchError, match="grids of gamma: name models of the study"):
        replace(PLAIN, grids=("gamma",))


def test_prompts_of_a_folder_and_of_a_table(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "b.txt").write_text("second\n", encoding="utf-8")
    (tmp_path / "texts" / "a.txt").write_text(" first ", encoding="utf-8")
    (tmp_path / "table.csv").write_bytes(b'\xef\xbb\xbfid,prompt\r\nx,"one, two"\r\n')
    assert folder.read_prompts(tmp_path / "texts") == {"a": "first", "b": "second"}
    assert folder.read_prompts(tmp_path / "table.csv") == {"x": "one, two"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("name,text\na,b\n", "columns id,prompt"),
        ("id,prompt\na,first\na,second\n", "an id of its own; see 'a'"),
        ("id,prompt\na,\n", "see 'a'"),
        ("id,prompt\na\n", "see 'a'"),
        ("id,prompt\n", "no prompts in"),
    ],
)
def test_prompts_that_cannot_be_used_are_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "table.csv").write_text(content, encoding="utf-8")
    with pytest.raises(BenchError, match=message):
        folder.read_prompts(tmp_path / "table.csv")


def test_dpg_bench_has_1065_prompts(bench_data: Path) -> None:
    prompts = folder.read_prompts(bench_data / "dpg_bench" / "prompts")
    assert len(prompts) == 1065
    chosen = folder.sample_prompts(prompts, 1000, seed=0)
    assert len(chosen) == 1000
    assert chosen == folder.sample_prompts(prompts, 1000, seed=0)
    assert list(chosen) == [key for key in prompts if key in chosen]


def test_criteria_of_ones_own(tmp_path: Path) -> None:
    own = tmp_path / "criteria.toml"
    own.write_text('[[criterion]]\nkey="style"\ntitle="Style"\ninstruction="Which?"\nshow_prompt=false\n')
    assert [criterion.key for criterion in folder.read_criteria(own)] == ["style"]
    own.write_text('[[criterion]]\nkey="style"\n')
    with pytest.raises(BenchError, match="needs tables"):
        folder.read_criteria(own)


def test_a_folder_without_a_study_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="holds no study: make one with blip3o-bench study create"):
        folder.open_study(tmp_path)


@pytest.mark.parametrize(
    ("entry", "message"),
    [("key = 1", "the first three are texts"), ('show_prompt = "no"', "show_prompt is true or false")],
)
def test_criteria_of_another_type_are_refused(tmp_path: Path, entry: str, message: str) -> None:
    table = {
        "key": 'key = "k"',
        "title": 'title = "t"',
        "instruction": 'instruction = "i"',
        "show_prompt": "show_prompt = true",
    }
    table[entry.split()[0]] = entry
    (tmp_path / "criteria.toml").write_text("\n".join(["[[criterion]]", *table.values()]))
    with pytest.raises(BenchError, match=message):
        folder.read_criteria(tmp_path / "criteria.toml")


def test_a_database_beside_the_study_is_found_from_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    sources = image_folders(tmp_path / "images", PLAIN.models, 6)
    prompts = folder.read_prompts(tmp_path / "images" / "prompts.csv")
    made = folder.create(tmp_path / "study", PLAIN, prompts, sources, "sqlite:///votes.db")
    monkeypatch.chdir(tmp_path)
    assert folder.open_study(made.folder).store.design == made.store.design
    assert not (tmp_path / "votes.db").exists()
