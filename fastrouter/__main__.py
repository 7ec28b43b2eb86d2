"""python -m fastrouter"""

import sys

from fastrouter.cli import main

sys.exit(main())
