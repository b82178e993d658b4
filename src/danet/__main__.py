"""`python -m danet` is the command line."""

import sys

from danet.cli import main

sys.exit(main())
