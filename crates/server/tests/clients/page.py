"""The page in headless Chromium, on a server of its own."""
import os
import subprocess
import sys

sys.path.insert(0, os.path.dirname(__file__))
from served import Served

with Served(sys.argv[1]) as served:
    subprocess.run(["node", sys.argv[2], served.address + "/"], check=True, timeout=300)
