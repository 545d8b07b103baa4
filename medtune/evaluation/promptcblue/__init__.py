"""PromptCBLUE: both official protocols, from generated text to the mean over tasks."""

from medtune.evaluation.promptcblue.protocols import PROTOCOLS, Protocol, Task, find_protocol
from medtune.evaluation.promptcblue.scoring import score_predictions
from medtune.evaluation.promptcblue.submission import SubmissionResult, score_submission

__all__ = [
    "PROTOCOLS",
    "Protocol",
    "SubmissionResult",
    "Task",
    "find_protocol",
    "score_predictions",
    "score_submission",
]
