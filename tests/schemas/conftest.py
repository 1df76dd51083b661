"""What cannot be tested everywhere is not collected there."""

from __future__ import annotations

import shutil
import sysconfig
from typing import Final

_COMPILER: Final[str] = (sysconfig.get_config_var("CC") or "cc").split()[0]

# on a machine without a C compiler there is no compiled transcoder to be tested; where there is one it must be built
collect_ignore = [] if shutil.which(_COMPILER) else ["test_transcoding.py"]
