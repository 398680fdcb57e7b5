"""A local page on which a run's model answers uncapped and capped, side by side.

answering   one message answered on both sides, its tokens measured
jobs        one worker thread: answers wait for each other
server      the page and its requests over HTTP, on this machine only
page/       what the browser gets: HTML, CSS and JavaScript as they are, without a build
"""

from keel.ui.answering import Measured, SideBySide, TwoSidedQuestion, open_side_by_side
from keel.ui.jobs import Job, JobQueue
from keel.ui.server import Address, make_app, serve_page

__all__ = [
    "Address",
    "Job",
    "JobQueue",
    "Measured",
    "SideBySide",
    "TwoSidedQuestion",
    "make_app",
    "open_side_by_side",
    "serve_page",
]
