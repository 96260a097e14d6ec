"""``python -m fastgan.dropin SCRIPT [ARGS]``."""

import sys

from fastgan.dropin.running import main

main(sys.argv[1:])
