"""The documentation's promises: its commands exist, its table is generated, its files are there."""

from __future__ import annotations

import json
import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest
import typer

from edgeseg.cli.main import COMMANDS
from edgeseg_benchmarks.report import Report, markdown_table

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("*/[A-Z]*.md"))]
README = ROOT / "README.md"


def commands_in(page: Path) -> list[list[str]]:
    """Return the edgeseg command lines in a page's code blocks, split into words."""
    blocks = re.findall(r"```(?:bash|console)?\n(.*?)```", page.read_text(), re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line.removeprefix("$ ")) for line in lines if is_command(line)]


def is_command(line: str) -> bool:
    return line.removeprefix("$ ").startswith("edgeseg ")


def options_of(command: str) -> set[str]:
    app = import_module(COMMANDS[command].module).app
    click_command = typer.main.get_command(app)
    own = {flag for parameter in click_command.params for flag in parameter.opts}
    return own | {"--help", "--json", "--quiet", "--debug"}


DOCUMENTED = [(page, words) for page in PAGES for words in commands_in(page)]


def test_the_readme_shows_all_stages() -> None:
    shown = {words[1] for page, words in DOCUMENTED if page == README}
    assert {"train", "export", "run", "verify", "bench", "info", "doctor"} <= shown


@pytest.mark.parametrize(("page", "words"), DOCUMENTED)
def test_every_documented_command_and_flag_exists(page: Path, words: list[str]) -> None:
    if words[1].startswith("--"):
        assert words[1] in ("--help", "--version")
        return
    assert words[1] in COMMANDS
    flags = {word.partition("=")[0] for word in words[2:] if word.startswith("--")}
    assert flags <= options_of(words[1])


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_every_option_has_help(name: str) -> None:
    app = import_module(COMMANDS[name].module).app
    click_command = typer.main.get_command(app)
    assert click_command.help
    for parameter in click_command.params:
        assert getattr(parameter, "help", None), parameter.opts


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_linked_files_exist(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
        if not target.startswith(("http://", "https://")):
            assert (page.parent / target).exists(), target


def test_every_results_table_is_the_one_of_the_committed_report() -> None:
    text = "\n".join(page.read_text() for page in PAGES)
    blocks = re.findall(r"<!-- results: (\S+) -->\n(.*?)\n<!-- end -->", text, re.DOTALL)
    assert len(blocks) >= 3
    for name, shown in blocks:
        report = Report.model_validate_json((ROOT / name).read_bytes())
        assert shown == markdown_table(report.rows)


def test_the_study_shown_is_the_committed_one() -> None:
    page = ROOT / "train" / "README.md"
    ((name, shown),) = re.findall(
        r"<!-- ablation: (\S+) -->\n(.*?)<!-- end -->", page.read_text(), re.DOTALL
    )
    assert shown == (ROOT / name).read_text()
    results = json.loads((ROOT / name).with_suffix(".json").read_text())
    for variant in results["variants"]:
        assert f"| {variant['name']} | " in shown
        assert f" {variant['result']['val_miou']:.4f} " in shown
        assert max(variant["val_miou_per_epoch"]) == pytest.approx(
            variant["result"]["val_miou"], abs=1e-5
        )


def test_the_folder_map_names_real_places() -> None:
    (tree,) = re.findall(r"```text\n(.*?)```", README.read_text(), re.DOTALL)
    places = [line.split()[0] for line in tree.splitlines() if line.strip()]
    assert len(places) >= 8
    for place in places:
        assert (ROOT / place).exists(), place


def test_make_targets_of_the_documentation_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for page in PAGES:
        for target in re.findall(r"^make (\w+)", page.read_text(), re.MULTILINE):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
