"""Fine-tune image classifiers reproducibly; README.md has the map of the packages."""

import sys

if sys.platform == "win32":  # file locks (fcntl), signals and reads at an offset are POSIX's
    sys.exit("error: finegrain needs Linux: on Windows, install and run it in WSL (docs/INSTALL.md)")
