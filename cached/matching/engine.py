"""The one door to HTCondor's ClassAd library.

Importing this module loads the library (80 ms, 20 MB): only the matchmaker's child process and tests do.
`htcondor2` goes first, else `stringListMember`, `split` and their kin are unknown; it also sets
`CONDOR_CONFIG`, which is put back, so that HTCondor tools started later find their own configuration.
"""

from __future__ import annotations

import os
import warnings
from importlib import import_module
from typing import Any, Final

_configured = os.environ.get("CONDOR_CONFIG")
os.environ["CONDOR_CONFIG"] = os.devnull
try:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import_module("htcondor2")
        classad2: Any = import_module("classad2")
finally:
    if _configured is None:
        del os.environ["CONDOR_CONFIG"]
    else:
        os.environ["CONDOR_CONFIG"] = _configured

ClassAd: Final[Any] = classad2.ClassAd
ExprTree: Final[Any] = classad2.ExprTree
ClassAdException: Final[type[Exception]] = classad2.ClassAdException
UNDEFINED: Final[Any] = classad2.Value.Undefined
ERROR: Final[Any] = classad2.Value.Error


def evaluate(tree: Any, own: Any, other: Any) -> Any:
    """Evaluate `tree` in the ad `own` with `other` as TARGET; what the library gives up on is `ERROR`."""
    try:
        return tree.eval(own, other)
    except ClassAdException:
        return ERROR


def holds(value: Any) -> bool:
    """Say whether a value of `Requirements` agrees: true or a number but zero, as in HTCondor."""
    return type(value) in {bool, int, float} and bool(value)
