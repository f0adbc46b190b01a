"""Steps for a process of their own."""

import os
import time


def add(first, second):
    return first + second


def count(number, *, say):
    for value in range(number):
        say(f"{value}")
    return os.getpid()


def fail(text):
    raise ValueError(text)


def die():
    os.kill(os.getpid(), 9)


def run_out_of_memory():
    # What torch says; bytes of our own would raise MemoryError by themselves.
    raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 7 bytes")


def sleep(path):
    path.write_text(str(os.getpid()))
    time.sleep(60)
