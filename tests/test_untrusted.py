"""What comes from elsewhere (weights, archives, images, names, replies, runs) is neither run nor trusted."""

from __future__ import annotations

import ast
import csv
import io
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image, ImageFile

from benchmarks import runner, store
from benchmarks.dpg import DpgBench, questions
from benchmarks.folder import FolderImages
from benchmarks.images import UNREADABLE, open_image
from benchmarks.paths import unpack, within
from benchmarks.types import BenchError, Metric, Prediction, Sample, Score, Verdict, printable
from benchmarks.work import Part, Settings, log
from reports import compare, render, tables
from tests.conftest import ROOT
from tests.fakes import FakeBenchmark
from tests.reports.stored import HOSTILE, Page, assert_self_contained, record, store_run

PACKAGES = ("benchmarks", "model", "human_study", "reports", "blip3o_bench")


# Files that may hold code


def calls() -> Iterator[tuple[str, str, ast.Call]]:
    """Every call in our packages: where it is, its dotted name, and itself."""
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call):
                    yield f"{path.relative_to(ROOT)}:{node.lineno}", ast.unparse(node.func), node


def said(call: ast.Call, keyword: str) -> str:
    return next((ast.unparse(one.value) for one in call.keywords if one.arg == keyword), "")


def test_no_call_of_ours_runs_what_a_file_says() -> None:
    """torch.load reads tensors only, or takes an unpickler of ours; numpy reads no objects; archives are unpacked by
    benchmarks/paths.py alone; code that a repository brings along is refused rather than asked about."""
    forbidden = {
        "pickle.load",
        "pickle.loads",
        "joblib.load",
        "shelve.open",
        "marshal.loads",
        "yaml.load",
        "eval",
        "exec",
    }
    forbidden |= {"torch.jit.load", "shutil.unpack_archive", "os.system"}
    found = 0
    for where, name, call in calls():
        function = name.rpartition(".")[2]
        assert name not in forbidden, where
        assert function not in ("extractall", "extract_member"), where
        assert said(call, "shell") in ("", "False"), where
        if name == "torch.load":
            found += 1
            assert said(call, "weights_only") == "True" or said(call, "pickle_module") == "restricted", where
        if name in ("np.load", "numpy.load"):
            found += 1
            assert said(call, "allow_pickle") in ("", "False"), where
        if function == "from_pretrained" and name.startswith(("Auto", "auto.")):
            found += 1
            assert said(call, "trust_remote_code") == "False", where
    assert found >= 10  # the names above are those in use


# Archives


def archive(path: Path, *members: tuple[str | zipfile.ZipInfo, bytes], compressed: bool = False) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED) as zipped:
        for member, content in members:
            zipped.writestr(member, content)
    return path


def special(name: str, kind: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.create_system = 3  # Unix
    info.external_attr = (kind | 0o777) << 16
    return info


@pytest.mark.parametrize("top", ["", "imgs/"])
def test_an_archive_of_images_is_unpacked_whole(tmp_path: Path, top: str) -> None:
    (tmp_path / "imgs.part").mkdir()
    (tmp_path / "imgs.part" / "left.jpg").write_bytes(b"of a process that was killed")
    unpack(archive(tmp_path / "imgs.zip", (f"{top}art/1.jpg", b"one"), (f"{top}food/2.jpg", b"two")), tmp_path / "imgs")
    found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert found == {"imgs.zip", "imgs/art/1.jpg", "imgs/food/2.jpg"}
    assert (tmp_path / "imgs" / "food" / "2.jpg").read_bytes() == b"two"


@pytest.mark.parametrize(
    ("member", "message"),
    [
        ("/etc/cron.d/job", "would leave"),
        ("../out.jpg", "would leave"),
        ("art/../../out.jpg", "would leave"),
        (special("link.jpg", stat.S_IFLNK), "a link"),
        (special("device", stat.S_IFCHR), "a link"),
        (special("pipe", stat.S_IFIFO), "a link"),
    ],
)
def test_an_archive_that_leaves_its_folder_is_refused(
    tmp_path: Path, member: str | zipfile.ZipInfo, message: str
) -> None:
    path = archive(tmp_path / "imgs.zip", ("art/1.jpg", b"one"), (member, b"/etc/passwd"))
    with pytest.raises(BenchError, match=message):
        unpack(path, tmp_path / "imgs")
    assert list(tmp_path.rglob("*")) == [path]


def test_a_zip_bomb_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    path = archive(tmp_path / "imgs.zip", ("art/1.jpg", bytes(10_000_000)), compressed=True)
    assert path.stat().st_size < 20_000
    with pytest.raises(BenchError, match="would unpack to 10,000,000 bytes"):
        unpack(path, tmp_path / "imgs")
    assert list(tmp_path.rglob("*")) == [path]


def test_a_zip_file_that_hides_its_size_gives_no_more_than_it_declares(tmp_path: Path) -> None:
    path = archive(tmp_path / "imgs.zip", ("art/1.jpg", bytes(1_000_000)), compressed=True)
    lying = path.read_bytes().replace(struct.pack("<I", 1_000_000), struct.pack("<I", 1_000))
    path.write_bytes(lying)
    with pytest.raises(BenchError, match="is damaged"):
        unpack(path, tmp_path / "imgs")
    assert list(tmp_path.rglob("*")) == [path]


def test_an_archive_cut_short_is_told(tmp_path: Path) -> None:
    path = archive(tmp_path / "imgs.zip", ("art/1.jpg", b"one" * 1000))
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(BenchError, match=r"imgs\.zip is damaged .*: delete it and fetch it again"):
        unpack(path, tmp_path / "imgs")


# Names


@pytest.mark.parametrize("name", ["", "/a", "..", "../a", "a/../../b", "a\0b"])
def test_names_that_leave_a_folder_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(BenchError, match="would leave"):
        within(tmp_path, name)


def test_an_export_stays_in_its_folder(tmp_path: Path) -> None:
    """DPG-Bench's item ids name the exported images, and come from a file that may be anybody's."""

    class Judge:
        def describe(self) -> dict[str, str]:
            return {}

    row = {"item_id": "../../out", "text": "a", "proposition_id": "1", "dependency": "0", "category_broad": "entity"}
    row |= {"category_detailed": "whole", "tuple": "entity - whole (a)", "question_natural_language": "a?"}
    bench = DpgBench(questions([row], "test"), Judge(), {}, images_per_prompt=1)  # type: ignore[arg-type]
    (sample,) = bench.samples()
    path = store.write_image(tmp_path / "run", sample.id, png((4, 4)), ".png")
    assert (tmp_path / "run" / path).resolve().is_relative_to(tmp_path / "run" / "images")
    drawn = {sample.id: Prediction(sample.id, 0, 0.0, image=path)}
    with pytest.raises(BenchError, match="would leave"):
        bench.export([sample], drawn, {}, tmp_path / "run", tmp_path / "deep" / "export")
    assert not list(tmp_path.rglob("out.png"))


@pytest.mark.parametrize("image", ["/etc/passwd", "../../secret.png", "images/../../secret.png"])
def test_a_run_whose_images_lie_elsewhere_is_not_read(tmp_path: Path, image: str) -> None:
    with store.Shard(store.shard_path(tmp_path, Prediction, 0)) as shard:
        shard.append([Prediction("a/1", 0, 0.0, image="images/a/1.png"), Prediction("a/2", 0, 0.0, image=image)])
    with pytest.raises(BenchError, match="line 2 is damaged"):
        store.read_predictions(tmp_path)


# Images


def png(size: tuple[int, int], *chunks: tuple[bytes, bytes]) -> bytes:
    """A black one-bit PNG with further chunks before its pixels; a large one is a few kilobytes."""
    row = bytes(1 + (size[0] + 7) // 8)
    packer = zlib.compressobj(9)
    pixels = b"".join([packer.compress(row) for _ in range(size[1])]) + packer.flush()
    header = struct.pack(">IIBBBBB", *size, 1, 0, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", pixels), (b"IEND", b"")]
    framed = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


def truncated() -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise((64, 64), 90).save(buffer, "PNG")
    return buffer.getvalue()[:-1500]


def animated() -> bytes:
    buffer = io.BytesIO()
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    frames[0].save(buffer, "PNG", save_all=True, append_images=frames[1:])
    return buffer.getvalue()


BROKEN: dict[str, Callable[[], bytes]] = {
    "no image": lambda: b"\x89PNG but not really",
    "empty": lambda: b"",
    "truncated": truncated,
    "bomb": lambda: png((16_000, 16_000)),
    "large": lambda: png((10_000, 10_000)),
    "text": lambda: png((8, 8), (b"zTXt", b"Comment\0\0" + zlib.compress(bytes(80_000_000)))),
    "html": lambda: b"<svg onload=alert(1)>",
}


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("kind", BROKEN)
def test_an_image_that_cannot_be_taken_is_missing_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """The other sample of its group is scored, and a bomb is refused by its header."""
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)  # as importing lmms-eval leaves it
    (tmp_path / "drawn").mkdir()
    (tmp_path / "drawn" / "0.png").write_bytes(BROKEN[kind]())
    (tmp_path / "drawn" / "1.png").write_bytes(animated())  # its first frame is taken

    class Drawn(FakeBenchmark):
        def samples(self) -> list[Sample]:
            return [Sample(f"fake/{at}", "a", "g", meta={"file": str(at)}) for at in range(2)]

    records = runner.run(tmp_path / "run", [Drawn()], FolderImages(tmp_path / "drawn"), Settings("toy"), Part())
    assert records is not None
    assert (records[0].metrics[0].n, records[0].metrics[0].missing) == (1, 1)
    first, second = store.read_scores(tmp_path / "run" / "fake")
    assert first.value is None
    assert "0.png is not a readable image" in first.reason
    assert second.value == 1.0
    assert not list((tmp_path / "run").rglob("0.png"))


@pytest.mark.parametrize("kind", sorted(BROKEN.keys() - {"large"}))
def test_a_study_names_the_image_that_it_cannot_take(tmp_path: Path, kind: str) -> None:
    pytest.importorskip("sqlalchemy")
    from human_study.images import load

    (tmp_path / "0.png").write_bytes(BROKEN[kind]())
    with pytest.raises(BenchError, match=r"not a readable image: .*0\.png"):
        load(tmp_path / "0.png", 512)


def test_a_page_names_the_image_that_it_cannot_show(tmp_path: Path) -> None:
    from reports.examples import example

    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "0.png").write_bytes(BROKEN["text"]())
    drawn = Prediction("a/0", 0, 0.0, image="images/0.png")
    shown = example(Score("a/0", "a", "", 1.0), drawn, None, None, tmp_path)
    assert (shown.pictures, shown.error) == ((), "the image images/0.png cannot be read")


def test_the_limit_is_pillows_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 12)
    assert open_image(io.BytesIO(png((4, 3)))).size == (4, 3)
    with pytest.raises(UNREADABLE):
        open_image(io.BytesIO(png((13, 1))))


# What people read


def test_no_page_takes_text_for_html() -> None:
    """Templates escape by themselves and none says otherwise; the study's component sets text, not HTML."""
    for path in [*(ROOT / "reports").rglob("*.j2"), *(ROOT / "human_study").glob("pair.*")]:
        source = path.read_text(encoding="utf-8").replace(" ", "")
        assert "|safe" not in source, path
        assert "autoescape" not in source, path
        assert "innerHTML" not in source, path
    assert not [where for where, _, call in calls() if said(call, "unsafe_allow_html") not in ("", "False")]


def test_a_terminal_is_not_steered() -> None:
    assert printable("caf\u00e9 \u6f22 \U0001f600") == "caf\u00e9 \u6f22 \U0001f600"
    assert printable("\x1b]0;title\x07\r\n\u202egnp\x9b31m\ud800") == r"\x1b]0;title\x07\r\n\u202egnp\x9b31m\ud800"
    shown = tables.as_text(tables.score_table([record("vqav2", [Metric("\x1b[2Jexact", 0.5, None, None, 1, 0)])]))
    assert "\x1b" not in shown
    assert "\\x1b[2Jexact" in shown


def test_progress_and_errors_do_not_steer_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    log("geneval/0: a judge said \x1b[1A\x1b[2K")
    assert capsys.readouterr().err == "geneval/0: a judge said \\x1b[1A\\x1b[2K\n"


def test_no_cell_of_a_csv_file_is_a_formula() -> None:
    hostile = record("vqav2", [Metric("exact", -0.5, None, None, 1, 0)], model='=HYPERLINK("http://x")')
    (row,) = csv.DictReader(io.StringIO(tables.scores_csv([hostile])))
    assert row["model"] == '\'=HYPERLINK("http://x")'
    assert row["value"] == "-0.5"  # a number stays one


def test_everything_a_run_says_is_escaped_in_its_pages(tmp_path: Path) -> None:
    """Ids, strata, replies, reasons, findings, questions, names of metrics, models, judges, settings and folders."""
    runs = []
    for number, value in enumerate((1.0, 0.0)):
        run = tmp_path / f"<img src=x onerror=alert({number})>"
        name = f"wise/{HOSTILE}"
        metric = Metric(f"wiscore.{HOSTILE}", value, 0.0, 1.0, 1, 0, unit="points")
        one = record("wise", [metric], judge={HOSTILE: HOSTILE}, profile=HOSTILE)
        store_run(run, [one], model=HOSTILE)
        folder = run / "wise"
        store.write_scores(folder, [Score(name, "g", HOSTILE, value, HOSTILE)])
        with store.Shard(store.shard_path(folder, Prediction, 0)) as shard:
            shard.append([Prediction(name, 1, 0.1, text=HOSTILE)])
        with store.Shard(store.shard_path(folder, Verdict, 0)) as shard:
            shard.append([Verdict(name, {"reply": HOSTILE, "crops": [{HOSTILE: HOSTILE}]})])
        runs.append(run)
    asked = {"wise": [Sample(f"wise/{HOSTILE}", HOSTILE, "g", HOSTILE, meta={"answer": HOSTILE})]}
    for source in (render.html(runs[0], asked), compare.html(compare.compare(runs[0], runs[1]), asked)):
        assert_self_contained(source)
        page = Page(source)
        assert not [image for image in page.all("img") if image.get("src") == "x"]
        assert page.text.count(HOSTILE) >= 5
    shown = tables.score_table(render.load_records(runs[0]))
    assert "</script>" not in tables.as_markdown(shown)
    assert "\\frac" not in tables.as_latex(shown).replace("\\textbackslash{}frac", "")
