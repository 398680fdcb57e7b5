"""Every error that Keel raises on purpose, one class per remedy.

KeelError
├── UsageError           an argument, option or value is invalid: change it
├── MissingArtifactError a file or a part of a run is missing: make it, or point at it
├── StaleArtifactError   a file belongs to other inputs: use a new folder, or start over
├── CorruptArtifactError a file cannot be read or holds NaN: restore or delete it
├── RunLockedError       another process works on the run: wait for it
├── StorageError         the disk did not take a file: make room, run again
├── ModelLayoutError     the model is built in an unknown way: pass its list of blocks
├── ModelMismatchError   an artefact was made on another model: use that model
├── ModelLoadError       the model could not be loaded: check id, folder, network
├── EngineDiedError      an engine's process ended: read what it printed, run again
├── EndpointError        a model behind an address did not answer: check address, key, name
├── TrackerError         an experiment tracker did not take a run: mend its settings
├── BudgetError          the limit of requests or cost is used up: raise it, run again
├── JudgeError           too many of a judge's replies are unusable: read them, take another
├── ClusterError         machines could not be reached, or were lost: look at them, run again
├── MissingExtraError    an optional dependency is not installed: install the extra
├── ChatTemplateError    the chat template cannot be followed: pass another template
├── ContextLengthError   a text is longer than the model's context: shorten it
├── TooFewSamplesError   too few samples for the requested number: sample more, or lower the minimum
├── NotFiniteError       NaN or Inf entered a calculation: look at the model or its dtype
└── NotAppliedError      an intervention did not reach the model: do not trust the output
"""


class KeelError(Exception):
    """Root of all errors that Keel raises on purpose."""


class UsageError(KeelError, ValueError):
    """An argument, option or value is invalid."""


class MissingArtifactError(KeelError, FileNotFoundError):
    """A file, or a part of a run, is missing."""


class StaleArtifactError(KeelError, RuntimeError):
    """A file was made from other inputs than those given now."""


class CorruptArtifactError(KeelError, ValueError):
    """A file cannot be read as what it claims to be."""


class RunLockedError(KeelError, RuntimeError):
    """Another process is working on this run folder."""


class StorageError(KeelError, OSError):
    """The disk did not take a file; no partial file stays."""


class ModelLayoutError(KeelError, TypeError):
    """The decoder blocks of a model could not be found, or are not what is supported."""


class ModelMismatchError(KeelError, ValueError):
    """An artefact was made on another model than the one it is used with."""


class ModelLoadError(KeelError, OSError):
    """A model or its tokenizer could not be loaded."""


class EngineDiedError(KeelError, RuntimeError):
    """The process in which a model ran has ended."""


class EndpointError(KeelError, ConnectionError):
    """A model behind an address refused, or did not answer."""


class TrackerError(KeelError, ConnectionError):
    """An experiment tracker did not take a run's numbers or its report."""


class BudgetError(KeelError, RuntimeError):
    """The limit of requests or of cost is used up."""


class JudgeError(KeelError, RuntimeError):
    """Too many of a judge's verdicts cannot be used for the rest to be trusted."""


class ClusterError(KeelError, ConnectionError):
    """Other machines could not be reached, or were lost for good."""


class MissingExtraError(KeelError, ImportError):
    """An optional dependency is not installed."""


class ChatTemplateError(KeelError, ValueError):
    """The model's chat template cannot be followed."""


class ContextLengthError(KeelError, ValueError):
    """A text, with what is to be added to it, is longer than the model's context."""


class TooFewSamplesError(KeelError, ValueError):
    """There are too few samples for the requested number."""


class NotFiniteError(KeelError, ValueError):
    """NaN or Inf entered a calculation."""


class NotAppliedError(KeelError, RuntimeError):
    """An intervention did not reach the model, so its output cannot be trusted."""
