"""The self-contained HTML report of runs and results."""

from ovseg_ray.evaluation.report.examples import Example, Panel, make_examples, telling_rows
from ovseg_ray.evaluation.report.report import ReportInput, write_report

__all__ = ["Example", "Panel", "ReportInput", "make_examples", "telling_rows", "write_report"]
