"""Evaluation: predictions and ground truth in, scores under a named protocol out.

``evaluate`` takes any callable from an image to a `Depth`, or saved predictions of any tool. `robustness` (torch) is a
module of its own, so that importing this package never imports torch.
"""

from fathom.evaluate.explain import Explanation, Share, explain
from fathom.evaluate.loop import RANGE_EDGES, FromPair, Predict, evaluate, evaluate_protocols, predict_for
from fathom.evaluate.pictures import contact_sheet, plot_report, report_html, write_report
from fathom.evaluate.records import ImageRecord, Report, SkippedImage
from fathom.evaluate.runs import Run, evaluate_all
from fathom.evaluate.sources import SavedPredictions, describe_data, open_source, parse_options
from fathom.evaluate.statistics import Interval, PairedDifference, bootstrap_intervals, compare_reports
from fathom.evaluate.tables import models_markdown, protocols_markdown, report_markdown

__all__ = [
    "RANGE_EDGES",
    "Explanation",
    "FromPair",
    "ImageRecord",
    "Interval",
    "PairedDifference",
    "Predict",
    "Report",
    "Run",
    "SavedPredictions",
    "Share",
    "SkippedImage",
    "bootstrap_intervals",
    "compare_reports",
    "contact_sheet",
    "describe_data",
    "evaluate",
    "evaluate_all",
    "evaluate_protocols",
    "explain",
    "models_markdown",
    "open_source",
    "parse_options",
    "plot_report",
    "predict_for",
    "protocols_markdown",
    "report_html",
    "report_markdown",
    "write_report",
]
