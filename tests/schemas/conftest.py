"""What cannot be tested everywhere is not collected there."""

from __future__ import annotations

import shutil
import sysconfig
from typing import Final

_OF_COMPILED: Final = ["test_changeprogram.py", "test_documentprogram.py", "test_transcoding.py"]
_COMPILER: Final[str] = (sysconfig.get_config_var("CC") or "cc").split()[0]

# on a machine without a C compiler there are no compiled modules to be tested; where there is one they must be built
collect_ignore = [] if shutil.which(_COMPILER) else _OF_COMPILED
