"""Made-up stages for the tests of the GPU benchmarks; their processes find them by name."""

import os
import subprocess
import sys
import time


def told(what):
    return {"kind": "left out", "what": what, "reason": "made up"}


def fine(options):
    yield told(f"quick {options.quick}")
    yield told(f"rates {options.rates}")


def overruns(options):
    yield told("first")
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    yield told(str(child.pid))
    time.sleep(600)
    yield told("never")


def raises(options):
    yield told("before")
    raise RuntimeError("out of luck")


def dies(options):
    yield told("before")
    os._exit(7)
