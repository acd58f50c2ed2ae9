"""What can be wrong with model files. Every message says what to do about it.

WeightsError
├── WeightsMissing        a reference leads to no file on this machine
│   ├── WeightsDamaged    there is a file, and it is not what its publisher made: cut short or altered
│   └── Ambiguous         the reference fits several files
└── PullFailed            files cannot be brought here
    ├── HubUnreachable    no answer, or offline mode
    ├── NoSpace           the disk does not hold them
    └── AlteredInTransit  what came has not the checksum that was announced
"""

from __future__ import annotations


class WeightsError(Exception):
    """Model files cannot be used or had."""


class WeightsMissing(WeightsError):
    """A reference does not lead to a usable file on this machine."""


class WeightsDamaged(WeightsMissing):
    """A file is shorter than it should be, or its checksum is another."""


class Ambiguous(WeightsMissing):
    """The name of a quantization fits several files of a repository."""


class PullFailed(WeightsError):
    """Files cannot be brought to this machine."""


class HubUnreachable(PullFailed):
    """The hub does not answer, or may not be asked."""


class NoSpace(PullFailed):
    """The disk of the cache does not hold what is asked for."""


class AlteredInTransit(PullFailed):
    """What was received does not have the checksum that the hub announced; nothing of it was kept."""
