"""The fork server as in a GPU build: every worker is a new process image, because a device context must not be forked."""

import sys

from fastrouter.worker import fork_server
from fastrouter.worker.__main__ import main
from fastrouter.worker.process import spare

fork_server.has_device_backend = spare.has_device_backend = lambda: True

sys.exit(main(sys.argv[1:]))
