"""The human study's commands, and its demonstration with the embedded models."""

from __future__ import annotations

from pathlib import Path

import click

from benchmarks import catalog
from blip3o_bench.command_line import FOLDER
from blip3o_bench.models import load_checkpoint
from human_study.cli import study

__all__ = ["study"]


@study.command("demo")
@click.option("--out", type=FOLDER, default="runs/study-demo", show_default=True, help="Give it again to go on.")
@click.option("--port", type=click.IntRange(1, 65535), default=8501, show_default=True)
def study_demo(out: Path, port: int) -> None:
    """Draw images with two toy models and serve a study of them on this machine, with simulated annotators in it."""
    from benchmarks.limit import limited
    from benchmarks.predicting import seed_for
    from benchmarks.shapes.reference import Oracle
    from human_study import demo

    asked = limited(catalog.load("toy", "geneval", catalog.Data()).samples(), 96)
    samples = list({sample.prompt: sample for sample in asked}.values())
    seeds = [seed_for(0, sample.id) for sample in samples]
    pictures = {}
    for name, model in (("toy BLIP3-o", load_checkpoint("toy", "exact", "auto")), ("oracle", Oracle())):
        click.echo(f"{name} draws {len(samples)} images", err=True)
        images = model.generate(samples, seeds)
        pictures[name] = {sample.id: image for sample, image in zip(samples, images, strict=True)}
    made = demo.make(out, {sample.id: sample.prompt for sample in samples}, pictures)
    click.echo(f"open http://127.0.0.1:{port} and judge, or see the progress of three simulated annotators", err=True)
    demo.serve(made, port)
