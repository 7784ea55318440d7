from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import msgspec
import pytest
from cached import faults
from cached.sets.set import SetRecord, SignedRecord
from cached.storage import beneath, reconcile, repair, survey  # noqa: F401  (their fault points are walked)
from cached.storage.disk import Store
from cached.storage.reconcile import (
    Adopt,
    CatalogFacts,
    DropIncoming,
    EmptyTrash,
    FinishGoing,
    ForgetComing,
    KnownContent,
    ReleaseReservation,
    RemoveOrphan,
    ReportDamaged,
    ResumeTransfer,
    VerifyLater,
)
from cached.storage.survey import DirectoryFacts, FoundContent, FoundIncoming
from hypothesis import given
from hypothesis import strategies as st

A, B = "a" * 64, "b" * 64


def known(state: str, content: str = A, size: int = 5) -> KnownContent:
    return KnownContent(content=content, state=state, bytes=size)


def found(content: str = A, **facts) -> FoundContent:
    return FoundContent(content=content, **{"bytes": 5, "compared": True, **facts})


def decide(catalog: CatalogFacts, *contents: FoundContent, **directory) -> list:
    return reconcile.reconcile(catalog, DirectoryFacts(contents=contents, **directory))


@pytest.mark.parametrize(
    ("catalog", "contents", "expected"),
    [
        (CatalogFacts(contents=(known("STABLE"),)), [found()], []),
        (CatalogFacts(contents=(known("STABLE"),)), [found(compared=False)], [VerifyLater(content=A)]),
        (
            CatalogFacts(contents=(known("STABLE"),)),
            [],
            [ReportDamaged(content=A, missing=True, reason="its directory is missing")],
        ),
        (
            CatalogFacts(contents=(known("STABLE"),)),
            [found(damage="'x': size")],
            [ReportDamaged(content=A, missing=False, reason="'x': size")],
        ),
        (
            CatalogFacts(contents=(known("STABLE", size=6),)),
            [found()],
            [ReportDamaged(content=A, missing=False, reason="5 bytes by its manifest, 6 by the catalog")],
        ),
        (CatalogFacts(contents=(known("GOING"),)), [found()], [FinishGoing(content=A)]),
        (CatalogFacts(contents=(known("GOING"),), lost=True), [], [FinishGoing(content=A)]),
        (CatalogFacts(contents=(known("COMING"),)), [], [ForgetComing(content=A)]),
        (CatalogFacts(contents=(known("COMING"),)), [found()], [RemoveOrphan(content=A)]),
        (
            CatalogFacts(contents=(known("COMING"),)),
            [found(records=("s",))],
            [Adopt(content=A, records=("s",))],
        ),
        (
            CatalogFacts(contents=(known("COMING"),), transfers={"t": A}),
            [found()],
            [ResumeTransfer(txid="t", content=A, published=True)],
        ),
        (CatalogFacts(transfers={"t": A}), [], [ResumeTransfer(txid="t", content=A)]),
        (CatalogFacts(), [found()], [RemoveOrphan(content=A)]),
        (CatalogFacts(), [found(records=("s",))], [Adopt(content=A, records=("s",))]),
        (CatalogFacts(lost=True), [found(damage="bad")], [Adopt(content=A, records=())]),
    ],
)
def test_each_difference_has_its_action(catalog, contents, expected):
    assert decide(catalog, *contents) == expected


def test_ingests_that_never_spoke_are_dropped_and_transfers_resumed():
    catalog = CatalogFacts(reservations=frozenset({"i", "gone", "t"}), transfers={"t": A})
    incoming = tuple(FoundIncoming(txid=txid) for txid in ("i", "stray", "t"))
    assert decide(catalog, incoming=incoming, trash=("old",)) == [
        EmptyTrash(name="old"),
        DropIncoming(txid="i"),
        DropIncoming(txid="stray"),
        ReleaseReservation(txid="gone"),
        ResumeTransfer(txid="t", content=A),
    ]


ids = st.sampled_from([A, B, "c" * 64])
rows = st.lists(
    st.builds(known, st.sampled_from(["COMING", "STABLE", "GOING"]), ids), unique_by=lambda row: row.content
)
directories = st.lists(
    st.builds(
        found,
        ids,
        compared=st.booleans(),
        damage=st.sampled_from(["", "x"]),
        records=st.sampled_from([(), ("s",)]),
    ),
    unique_by=lambda item: item.content,
)
transfers = st.dictionaries(st.sampled_from(["t", "u"]), ids, max_size=2)


@given(rows, directories, transfers, st.booleans())
def test_promised_bytes_are_never_removed_and_no_directory_is_ignored(rows, directories, transfers, lost):
    catalog = CatalogFacts(contents=tuple(rows), transfers=transfers, lost=lost)
    actions = decide(catalog, *directories)
    removed = {action.content for action in actions if isinstance(action, RemoveOrphan | FinishGoing)}
    going = {row.content for row in rows if row.state == "GOING"}
    stable = {row.content for row in rows if row.state == "STABLE"}
    assert not removed & stable
    if lost:
        assert removed <= going
    named = {getattr(action, "content", "") for action in actions}
    for item in directories:
        assert item.content in named | stable
    for row in rows:
        whole = any(item.content == row.content for item in directories)
        assert row.content in named or (row.state == "STABLE" and whole)


def test_a_survey_sees_what_lies_there(store, ingested):
    whole = ingested(store, {"a": b"12345", "d/l": "../a"})
    short = ingested(store, {"a": b"123456"})
    rotten = ingested(store, {"a": b"1234567"})
    bare = ingested(store, {"a": b"12345678"})
    sealed = ingested(store, {"a": b"1"}, publish=False)
    store.put_record(whole, signed())
    os.truncate(store.data(short) / "a", 5)
    (store.home(rotten) / "manifest").write_bytes(b"rot")
    (store.home(bare) / "leaves").unlink()
    store.stage("open").close()
    store.discard("open")
    store.stage("young").close()
    facts = survey.survey(store)
    by_content = {item.content: item for item in facts.contents}
    assert by_content[whole] == FoundContent(content=whole, bytes=5, records=("5" * 32,), compared=True)
    assert by_content[short].damage == "'a': size"
    assert "does not belong" in by_content[rotten].damage
    assert "leaf digests" in by_content[bare].damage
    assert facts.incoming == (FoundIncoming(txid="tx4", content=sealed), FoundIncoming(txid="young"))
    assert facts.trash == ("incoming-open",)
    glance = {item.content: item for item in survey.survey(store, budget=0).contents}
    assert not glance[whole].compared
    assert glance[bare].damage == "leaves is missing"


def signed() -> SignedRecord:
    value = SetRecord(
        id="5" * 32, name="n", owner="o", content=A, bytes=1, files=1, originator="n", lease_seconds=60
    )
    return SignedRecord(payload=msgspec.json.encode(value), certificate=b"", signature=b"")


def carry_out(store: Store, actions: Iterable[reconcile.Action]) -> int:
    """Do the file system's half of the actions, as a node does when it starts; return the bytes given back."""
    freed = 0
    for action in actions:
        trashed = None
        if isinstance(action, reconcile.DropIncoming):
            trashed = store.discard(action.txid)
        elif isinstance(action, reconcile.FinishGoing | RemoveOrphan):
            trashed = store.retire(action.content)
        elif isinstance(action, reconcile.EmptyTrash):
            trashed = store.root / "trash" / action.name
        if trashed is not None:
            freed += store.empty(trashed)
    return freed


def test_applying_actions_leaves_only_what_was_to_stay(store, ingested):
    stay, going, orphan = (ingested(store, {"a": text}) for text in (b"1", b"2", b"3"))
    ingested(store, {"a": b"4"}, publish=False)
    store.stage("junk").close()
    store.discard("junk")
    catalog = CatalogFacts(contents=(known("STABLE", stay, 1), known("GOING", going, 1)))
    actions = reconcile.reconcile(catalog, survey.survey(store))
    assert RemoveOrphan(content=orphan) in actions
    assert carry_out(store, actions) > 0
    assert (store.list_contents(), store.list_incoming(), store.list_trash()) == ([stay], [], [])
    assert carry_out(store, actions) == 0


LIFE = """
import os, sys, tempfile
from collections.abc import Iterable
from pathlib import Path
from cached.storage import repair
from cached.storage.disk import Store
from cached.storage.ingest import Ingest
from tests_signed import signed
store = Store(Path(sys.argv[1])); store.open_lock()
kept = None
for body in (b"kept", b"goes"):
    ingest = Ingest(store, body.decode(), max_bytes=99)
    with tempfile.TemporaryFile() as file:
        file.write(body); file.flush()
        ingest.add_file("d/f", file.fileno(), 4)
    ingest.staging.put_record(signed())
    _, content = ingest.seal(); ingest.close()
    store.publish(body.decode(), content)
    print("published", content, flush=True)
staged = store.root / "incoming/fix"; staged.write_bytes(b"goes")
repair.replace_file(store, content, "d/f", staged)
store.drop_record(content, "5" * 32)
store.empty(store.retire(content))
print("removed", content, flush=True)
"""


def points() -> list[str]:
    return sorted(
        name
        for name in faults.registered()
        if name.split(".")[0] in {"ingest", "stage", "store", "trash", "repair"}
    )


@pytest.mark.crash
def test_after_a_kill_at_any_step_everything_published_is_whole_and_nothing_leaks(roomy):
    libraries = roomy / "lib"
    libraries.mkdir()
    (libraries / "tests_signed.py").write_text(
        "import msgspec\nfrom cached.sets.set import SetRecord, SignedRecord\n"
        "def signed():\n"
        f"    return msgspec.json.decode({msgspec.json.encode(signed())!r}, type=SignedRecord)\n"
    )
    killed = 0
    for point in points():
        for hit in (1, 2):
            root = roomy / f"{point}-{hit}"
            done = subprocess.run(
                [sys.executable, "-c", LIFE, str(root)],
                env={
                    **os.environ,
                    "CACHED_FAULT": f"{point}@{hit}:kill",
                    "PYTHONPATH": f"{libraries}:{Path(beneath.__file__).parents[2]}",
                },
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode in {0, -signal.SIGKILL}, done.stderr
            killed += done.returncode != 0
            check_after_crash(root, done.stdout.split())
    assert killed >= len(points()) - 4


def check_after_crash(root: Path, said: list[str]) -> None:
    store = Store(root)
    store.open_lock()
    published = set(said[1::2]) if "removed" not in said else {said[1]}
    facts = survey.survey(store)
    rows = tuple(
        KnownContent(content=content, state="STABLE", bytes=4) for content in published if store.has(content)
    )
    actions = reconcile.reconcile(CatalogFacts(contents=rows), facts)
    assert not any(isinstance(action, ReportDamaged) for action in actions)
    carry_out(store, actions)
    assert (store.list_incoming(), store.list_trash()) == ([], [])
    assert said[1:2] == [] or store.has(said[1])
    for content in store.list_contents():
        damages = [damage for damage in reconcile_scrub(store, content) if damage.kind != "mode"]
        assert damages == []
    store.close()


def reconcile_scrub(store: Store, content: str) -> list:
    from cached.storage import scrub

    return scrub.verify(store, content)
