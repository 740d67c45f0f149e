"""`python -m sim_pipeline`: Ctrl-C ends it in silence also while everything is still imported."""

import signal
import sys

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)

    from sim_pipeline.cli import main

    sys.exit(main())
