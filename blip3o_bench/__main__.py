"""``python -m blip3o_bench``, which launchers of several processes start."""

import sys

from blip3o_bench import main

if __name__ == "__main__":
    sys.exit(main())
