"""`dagster-daemon`, which lets go of its garbage as it comes.

Python looks for cycles among the objects that have lived long once a quarter more of them has come.
Of the daemon's, nearly all belong to its modules; what its looks leave behind in cycles adds up to
that quarter in an hour or so, ten MB by then. What is frozen neither counts nor is looked at again.
"""

import gc

from dagster._daemon.cli import main

from sim_pipeline import dagster_storage  # noqa: F401 - with all that it imports, to be frozen

if __name__ == "__main__":
    gc.collect()
    gc.freeze()
    main()
