"""Answers that are never stale: what f read while it was traced, and whether all of it is still the same.

``record`` wraps a run of f. What comes out of it is a function, compiled from a list of checks, which at a later call
gives the tensors that f would read now, or says that the trace no longer describes f. Nothing that could change is
taken for granted: closure cells, globals, defaults, code, attributes, containers, modules with their hooks and modes.
What cannot be checked (iterators, clocks, random numbers, effects on the world) makes f unguardable, with a reason.

    recording.py   what happens while f runs: which code, which effects
    values.py      where values of tensors become Python data
    code.py        what a piece of code can look up by name, and whose code it is
    walk.py        from f along those names to every object that f can see
    functions.py   ... through functions, closures, globals and Python modules
    containers.py  ... through lists, dicts, sets and arrays
    objects.py     ... through classes and their instances
    layers.py      ... through nn.Module
    plain.py       values that cannot change
    program.py     the checks, compiled into one function
"""

from crelle.backends.torch.guards.recording import Guards, Recording, record

__all__ = ["Guards", "Recording", "record"]
