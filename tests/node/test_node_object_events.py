"""What happens to copies of objects is counted by what it was, and why."""

from __future__ import annotations

from cached.node.counters import Counters
from cached.node.object_events import counted, observer
from cached.objects.copies import Event


def test_every_event_is_counted_with_its_reason():
    counters = Counters()
    observe = observer(counters)
    for what, tier, reason in (
        ("admitted", "disk", ""),
        ("admitted", "memory", ""),
        ("gone", "disk", "room"),
        ("gone", "memory", "room"),
        ("gone", "disk", "replaced"),
        ("refused", "disk", "full"),
        ("refused", None, ""),
    ):
        observe(Event(what=what, tier=tier, reason=reason, entry=None, bytes=10))
    assert counters.snapshot() == {
        "objects.admitted.disk": 1,
        "objects.admitted.memory": 1,
        "objects.gone.replaced": 1,
        "objects.gone.room": 2,
        "objects.gone_bytes.replaced": 10,
        "objects.gone_bytes.room": 20,
        "objects.refused": 1,
        "objects.refused.full": 1,
    }
    assert dict(counted(counters.snapshot(), "objects.gone")) == {"replaced": 1, "room": 2}
    assert dict(counted(counters.snapshot(), "objects.refused")) == {"full": 1}
