#!/usr/bin/env -S uv run --script
# /// script
# dependencies = ["nox"]
# ///
"""The checks that contributors run most, each in an environment. `.ci/run` runs all of them."""

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "uv|virtualenv"


@nox.session(default=True)
def lint(session: nox.Session) -> None:
    """Format, lint and types."""
    session.install(".[test]", "clang-format==23.1.5")
    session.run("ruff", "format", "--check", "python", "tests", "bench", "docs", "examples")
    session.run("ruff", "check", ".")
    session.run("mypy")


@nox.session(default=True)
def tests(session: nox.Session) -> None:
    """The tests, without torch."""
    session.install(".[test]")
    session.run("pytest", "-n", "auto", *session.posargs)


@nox.session(default=False)
def docs(session: nox.Session) -> None:
    """The documentation as a site in build/site."""
    session.install(".[docs]")
    session.run("tools/build_site", external=True)


if __name__ == "__main__":
    nox.main()
