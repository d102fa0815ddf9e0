"""Locks in forked processes: a child has one thread, and must not wait for those that it has not.

What many share is finished before a fork, so that a child finds it whole; the lock of one object is
made anew in a child, where the thread that held it will never give it back.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from typing import Any

_owners: weakref.WeakKeyDictionary[Any, tuple[str, Callable[[], Any]]]
_owners = weakref.WeakKeyDictionary()


def hold_at_fork(lock: Any) -> Any:
    """Let a fork wait until no other thread has a lock; return the lock."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(
            before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release
        )
    return lock


def renew_at_fork(owner: Any, name: str, make: Callable[[], Any] = threading.Lock) -> None:
    """Let a forked child give an object a new lock under an attribute's name."""
    _owners[owner] = (name, make)


def _renew() -> None:
    for owner, (name, make) in list(_owners.items()):
        setattr(owner, name, make())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)
