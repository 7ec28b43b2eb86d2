"""The nursery as in a GPU build: every worker is a process image of its own, because a device context must not be forked."""

import sys

from fastrouter.worker import nursery, spare
from fastrouter.worker.__main__ import main

nursery.has_device_backend = spare.has_device_backend = lambda: True

sys.exit(main(sys.argv[1:]))
