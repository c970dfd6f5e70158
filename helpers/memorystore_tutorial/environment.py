"""Signing in to Google Cloud from wherever the tutorial runs."""

import os
import re
import shutil
import subprocess

from memorystore_chat.connection.environment import Environment, detect_environment
from memorystore_chat.extras import require
from memorystore_tutorial.text import say

GCLOUD_TIMEOUT = 60.0
"""Seconds that gcloud may take to set the project."""


def sign_in(project_id: str | None = None) -> str | None:
    """Sign in to Google Cloud and choose the project, as far as that is needed here.

    In Colab it opens the sign-in dialog; elsewhere it looks for Application Default Credentials
    and sets gcloud's project. The project becomes ``$GOOGLE_CLOUD_PROJECT`` of this process. It
    prints what it did, or what to run if it could not, and never stops the tutorial.

    Args:
        project_id: The project's id, such as ``"my-project-123"``, not its display name; by
            default ``$GOOGLE_CLOUD_PROJECT``. The empty string counts as none.

    Returns:
        The project id, or None when the tutorial runs offline.

    Raises:
        ValueError: The project id is not one.

    Example:
        >>> sign_in()  # doctest: +SKIP
        No project is set, so the tutorial runs offline; no account is
        needed.
    """
    project = project_id or os.environ.get("GOOGLE_CLOUD_PROJECT")
    if not project:
        say("No project is set, so the tutorial runs offline; no account is needed.")
        return None
    # A leading dash would make it an option of gcloud's; a space makes it a display name.
    if not isinstance(project, str) or not re.fullmatch(r"[a-z0-9][a-z0-9.:-]*", project):
        raise ValueError(
            "project_id must be a project's id, made of lower-case letters, digits and hyphens "
            f"such as 'my-project-123', not {project!r}. List yours with: gcloud projects list"
        )
    environment = detect_environment()
    if environment is Environment.COLAB:
        auth = require("google.colab.auth", install="google-colab")
        auth.authenticate_user(project_id=project)
        say(f"Signed in to Google Cloud from Colab; the project is {project}.")
    else:
        _look_for_credentials(project, environment)
        _set_gcloud_project(project)
    os.environ["GOOGLE_CLOUD_PROJECT"] = project
    return project


def _look_for_credentials(project: str, environment: Environment) -> None:
    """Say whether there are Application Default Credentials."""
    try:
        auth = require("google.auth", extra="google")
    except ModuleNotFoundError as error:
        say(f"Credentials were not looked for: {error}")
        return
    try:
        # With a quota project google-auth does not warn that a user's credentials lack one.
        auth.default(
            scopes=["https://www.googleapis.com/auth/cloud-platform"], quota_project_id=project
        )
    except auth.exceptions.DefaultCredentialsError:
        where = "" if environment is Environment.LOCAL else f" in {environment}"
        say(
            f"There are no Application Default Credentials{where} that can be used. Run this in a "
            "terminal, then this cell again: gcloud auth application-default login "
            f"--project={project}"
        )
        return
    say(f"Found Application Default Credentials; the project is {project}.")


def _set_gcloud_project(project: str) -> None:
    """Make `project` the one gcloud works on, if gcloud is installed."""
    if (gcloud := shutil.which("gcloud")) is None:
        return
    by_hand = f"Run it yourself to see why: gcloud config set project {project}"
    try:
        done = subprocess.run(  # noqa: S603
            [gcloud, "config", "set", "project", project, "--quiet"],
            stdin=subprocess.DEVNULL,
            # Its output may name accounts, which a shared notebook should not show.
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=GCLOUD_TIMEOUT,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        say(f"gcloud could not be run ({type(error).__name__}). {by_hand}")
    else:
        failure = f"gcloud did not set the project (exit status {done.returncode}). {by_hand}"
        say(failure if done.returncode else f"gcloud's project is now {project}.")
