"""The command line. Results go to standard output, progress and logs to standard error.

Exit codes: 0 success, 1 failed, 2 a user's error, 130 interrupted. Whatever is slow to import is imported
inside the command that needs it, so that --help answers at once.
"""

from __future__ import annotations

import click

from blip3o_bench import data, models, results, run, study
from blip3o_bench.command_line import CommandLine


@click.group(cls=CommandLine)
@click.version_option(package_name="blip3o-bench")
def main() -> None:
    """Score BLIP3-o and other unified models on image generation and understanding."""


for command in (
    run.run,
    results.report,
    results.verify,
    results.compare,
    results.gate,
    results.leaderboard,
    results.history,
    results.export,
    results.validate,
    data.data,
    models.models,
    models.generate,
    models.train,
    study.study,
):
    main.add_command(command)
