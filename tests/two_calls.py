"""Two calls of a download at once."""

import fcntl
import threading


def at_once(download, monkeypatch):
    """What two calls of *download* return, sorted. The second begins while the first shows a line, and waits for it.

    Args:
        download: a function of what shows a line.
    """
    flock, waits, found = fcntl.flock, threading.Event(), []

    def waiting(file, how):
        if how == fcntl.LOCK_EX and threading.current_thread() is second:
            waits.set()
        flock(file, how)

    def show(line):
        if second.ident is None:
            second.start()
            assert waits.wait(60)

    def call(show):
        found.append(download(show))

    second = threading.Thread(target=call, args=[lambda line: None])
    monkeypatch.setattr(fcntl, "flock", waiting)
    call(show)
    second.join()
    return sorted(found)
