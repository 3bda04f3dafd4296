"""The results of a human study: from a table of judgments to a report."""

from reports.study.automatic import read_runs
from reports.study.judgments import read
from reports.study.results import Results, analyse

__all__ = ["Results", "analyse", "read", "read_runs"]
