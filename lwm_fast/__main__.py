"""`python -m lwm_fast` is `lwm-fast`."""

import sys

from lwm_fast.cli import main

sys.exit(main())
