from __future__ import annotations

from cached.replication.appetite import Appetite


def test_who_gets_much_less_than_once_is_hungry_until_it_gets_as_much_again():
    appetite, have, now, found = Appetite(), 0, 0.0, []
    for rate in (1000, 1000, 900, 900, 300, 300, 1000, 1000):
        for _ in range(4):
            now, have = now + 0.5, have + rate // 2
            appetite.see(have, now)
        found.append(appetite.hungry)
    assert found == [False, False, False, False, True, True, False, False]


def test_nobody_is_hungry_at_first():
    appetite = Appetite()
    for look in range(4):
        appetite.see(0, look * 0.4)
    assert not appetite.hungry
