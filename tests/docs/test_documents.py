"""The documents name what there is, and what they name is there."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from cached.catalog import errors as catalog_errors
from cached.config.keys import KEYS
from cached.errors import CachedError

from cached_cli import main as program

ROOT = Path(__file__).parents[2]
OPERATIONS = (ROOT / "docs/operations.md").read_text()
PERFORMANCE = (ROOT / "docs/performance.md").read_text()
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
SEPARATORS = {"|", "||", "&&", ";", "&", ">", "2>", "<", "$(", ")", "do", "done", "then"}


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def commands(
    group: click.Group, prefix: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield (*prefix, name), command
        if isinstance(command, click.Group):
            yield from commands(command, (*prefix, name))


def cli() -> click.Group:
    groups = [value for value in vars(program).values() if isinstance(value, click.Group)]
    assert len(groups) == 1, "the program has one root"
    return groups[0]


COMMANDS = dict(commands(cli()))


assert catalog_errors.CatalogError in CachedError.__subclasses__(), "subclasses count once they are loaded"


def all_errors(kind: type[CachedError]) -> set[str]:
    return {kind.code}.union(*(all_errors(each) for each in kind.__subclasses__()))


def shell_blocks(text: str) -> list[str]:
    return re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def anchors(path: Path) -> set[str]:
    heads = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("key", [f"{section}.{key}" for section, keys in KEYS.items() for key in keys])
def test_every_configuration_key_is_explained(key):
    assert f"| `{key}` |" in OPERATIONS


def test_no_configuration_key_is_explained_that_there_is_not():
    known = {f"{section}.{key}" for section, keys in KEYS.items() for key in keys} | {"attributes.*"}
    assert set(re.findall(r"^\| `([a-z]+\.[a-z_*]+)` \|", OPERATIONS, re.MULTILINE)) == known


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_is_in_the_documents(command):
    text = "\n".join((ROOT / name).read_text() for name in ("README.md", "docs/operations.md"))
    spelled = re.search(rf"\bcached (--\w+ \w+ )?{' '.join(command)}\b", text)
    assert spelled or f"`{command[-1]}`" in text


@pytest.mark.parametrize("code", sorted(all_errors(CachedError)))
@pytest.mark.parametrize("document", ["docs/operations.md", "docs/wire.md"])
def test_every_error_code_is_in_the_documents(document, code):
    if (document, code) == ("docs/wire.md", "daemon_unreachable"):
        return  # said by clients, never by a socket
    assert f"`{code}`" in (ROOT / document).read_text()


def test_every_exit_code_stands_beside_its_error_codes():
    rows = dict(re.findall(r"^\| (\d) \| [^|]* \| ([^|]*) \|$", OPERATIONS, re.MULTILINE))
    kinds = [CachedError, *_subclasses(CachedError)]
    for kind in kinds:
        assert f"`{kind.code}`" in rows[str(kind.exit_code)], f"{kind.code} exits with {kind.exit_code}"


def _subclasses(kind: type[CachedError]) -> list[type[CachedError]]:
    return [each for child in kind.__subclasses__() for each in (child, *_subclasses(child))]


def test_every_metric_is_in_the_documents():
    found = {
        f"{name}_total" if kind in ("CounterMetricFamily", "_counters") else name
        for path in ROOT.glob("cached/**/*metrics.py")
        for kind, name in re.findall(
            r'((?:Counter|Gauge|Histogram)MetricFamily|_counters|_rate)\(\s*"(\w+)"', path.read_text()
        )
    }
    assert len(found) > 20
    rows = re.findall(r"^\| (`cached_\w+`[^|]*) \|", OPERATIONS, re.MULTILINE)
    assert found == {name for row in rows for name in re.findall(r"`(cached_\w+)`", row)}


@pytest.mark.parametrize("path", DOCUMENTS, ids=named)
def test_links_lead_somewhere(path):
    for target in re.findall(
        r"\]\(([^)\s]+)\)", re.sub(r"```.*?```|`[^`]*`", "", path.read_text(), flags=re.DOTALL)
    ):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        found = path.parent / file if file else path
        assert found.exists(), f"{named(path)} links to {target}"
        assert not anchor or anchor in anchors(found), f"{named(path)} links to {target}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=named)
def test_shell_blocks_use_commands_and_options_that_exist(path):
    for block in shell_blocks(path.read_text()):
        script = re.sub(r"<<'(\w+)'.*?^\1$", "", block, flags=re.MULTILINE | re.DOTALL).replace("\\\n", " ")
        for line in script.splitlines():
            check_line(shlex.split(line, comments=True, posix=True), line)


def check_line(words: list[str], line: str) -> None:
    for start, word in enumerate(words):
        leading = (
            start == 0 or words[start - 1] in SEPARATORS | {"until", "while", "if"} or "=" in words[start - 1]
        )
        if word == "cached" and leading:
            check_command(words[start + 1 :], line)
        if word == "make" and leading:
            targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
            assert words[start + 1] in targets, line


def check_command(words: list[str], line: str) -> None:
    command: click.Command = cli()
    options = options_of(command)
    path: tuple[str, ...] = ()
    skip = False
    for word in words:
        if word in SEPARATORS or word == "--":
            break
        if skip:
            skip = False
        elif word.startswith("--"):
            name, _, value = word.partition("=")
            assert name in options, f"no option {name}: {line}"
            skip = not value and not options[name].is_flag
        elif isinstance(command, click.Group):
            path = (*path, word)
            assert path in COMMANDS, f"no command {' '.join(path)}: {line}"
            command = COMMANDS[path]
            options = options_of(command) | {"--help": click.Option(["--help"], is_flag=True)}
    assert not isinstance(command, click.Group) or words[-1].startswith("--"), line


def options_of(command: click.Command) -> dict[str, click.Option]:
    found = [each for each in command.params if isinstance(each, click.Option)]
    return {name: each for each in found for name in each.opts}


def test_a_wrong_option_in_a_document_would_be_noticed():
    with pytest.raises(AssertionError, match="no option --leese"):
        check_line(shlex.split("cached create nr ./d --leese 7d"), "")
    with pytest.raises(AssertionError, match="no command creat"):
        check_line(shlex.split("X=1 cached --instance a creat nr"), "")


def test_the_architecture_is_short_and_names_files_that_exist():
    text = (ROOT / "ARCHITECTURE.md").read_text()
    assert len(text.splitlines()) <= 150
    there = {each.name for each in (*ROOT.glob("cached/**/*.py"), *ROOT.glob("cli/**/*.py"))}
    for name in re.findall(r"`(?:[\w/]+/)?(\w+\.py)[:`]", text):
        assert name in there, name
    for path in re.findall(r"`((?:\w+/)+\w+\.py)[:`]", text):
        assert (ROOT / "cached" / path).exists() or (ROOT / path).exists(), path


def test_every_room_stands_on_a_floor_in_the_architecture():
    text = (ROOT / "ARCHITECTURE.md").read_text()
    rooms = {
        path.stem
        for path in (ROOT / "cached").iterdir()
        if not path.name.startswith((".", "_")) and path.suffix != ".typed"
    }
    assert {room for room in rooms if f"`{room}`" not in text} == set()


def test_decisions_are_numbered_without_a_gap_and_listed():
    pages = sorted(path.name for path in (ROOT / "docs/adr").glob("[0-9]*.md"))
    assert [int(name[:4]) for name in pages] == list(range(1, len(pages) + 1))
    index = (ROOT / "docs/adr/README.md").read_text()
    for name in pages:
        title = (ROOT / "docs/adr" / name).read_text().splitlines()[0]
        assert re.fullmatch(rf"# {int(name[:4])}\. .+", title)
        assert f"[{name[:4]}]({name}) | {title.partition('. ')[2]}" in index


def test_no_file_of_the_code_is_longer_than_a_reader_bears():
    code = [path for room in ("cached", "cli", "bench") for path in (ROOT / room).rglob("*.py")]
    assert {named(path): lines for path in code if (lines := len(path.read_text().splitlines())) > 400} == {}


def test_the_page_of_figures_begins_with_what_is_wanted_and_ends_with_how_it_came_to_this():
    parts = re.findall(r"^## (.+)$", PERFORMANCE, re.MULTILINE)
    assert (parts[0], parts[-1]) == ("Against what is wanted", "How it came to this")


def test_the_page_of_figures_writes_every_command_so_that_it_can_be_copied():
    plain = re.findall(r"`((?:bench\.|--(?:only|receivers|matrix|deaths) ?)[^`]*)`", PERFORMANCE)
    assert [each for each in plain if each != "--only ROW"] == ["--matrix"]
    for module in re.findall(r"`(?:taskset -c \d )?python -m (bench[\w.]*)", PERFORMANCE):
        assert any((ROOT / (module.replace(".", "/") + end)).exists() for end in (".py", "/__main__.py")), (
            module
        )
