"""`python -m sim_pipeline`. Ctrl-C ends it without a traceback even while modules are imported."""

import signal
import sys

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)

    from sim_pipeline.cli import main

    sys.exit(main())
