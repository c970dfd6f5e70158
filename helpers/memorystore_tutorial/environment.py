"""Signing in to Google Cloud from wherever the tutorial runs."""

import os
import re

from memorystore_chat.connection.environment import Environment, detect_environment
from memorystore_chat.extras import require
from memorystore_tutorial.text import say


def sign_in(project_id: str | None = None) -> str | None:
    """Sign in to Google Cloud and choose the project, as far as that is needed here.

    In Colab it opens the sign-in dialog; elsewhere it looks for Application Default Credentials.
    The project becomes ``$GOOGLE_CLOUD_PROJECT`` of this process. It prints what it did, or what to
    run if it could not, and never stops the tutorial.

    Args:
        project_id: The project's id, such as ``"my-project-123"``, not its display name; by
            default ``$GOOGLE_CLOUD_PROJECT``. The empty string counts as none.

    Returns:
        The project id, or None when the tutorial runs offline.

    Raises:
        ValueError: The project id is not one.
        ModuleNotFoundError: google-auth is missing.

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
    if not re.fullmatch(r"[a-z0-9][a-z0-9.:-]*", project):
        raise ValueError(
            "project_id must be a project's id, made of lower-case letters, digits and hyphens "
            f"such as 'my-project-123', not {project!r}. List yours with: gcloud projects list"
        )
    if detect_environment() is Environment.COLAB:
        require("google.colab.auth", install="google-colab").authenticate_user(project_id=project)
        told = f"Signed in to Google Cloud from Colab; the project is {project}."
    else:
        auth = require("google.auth", extra="google")
        scopes = ["https://www.googleapis.com/auth/cloud-platform"]
        try:
            # With a quota project google-auth does not warn that a user's credentials lack one.
            auth.default(scopes, quota_project_id=project)
            told = f"Found Application Default Credentials; the project is {project}."
        except auth.exceptions.DefaultCredentialsError:
            login = f"gcloud auth application-default login --project={project}"
            told = (
                f"There are no credentials. In a terminal, run this, then this cell again: {login}"
            )
    say(told)
    os.environ["GOOGLE_CLOUD_PROJECT"] = project
    return project
