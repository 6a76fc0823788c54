"""How packages of one's own come into a pod: with the image, from a Git repository, or on a claim."""

from __future__ import annotations

from typing import Any

from . import security
from .values import Values

VOLUME = "code"
FOLDER = "/code"
REPOSITORY = f"{FOLDER}/repository"  # Git refuses a folder of another user, which the volume itself is
CREDENTIALS = ("username", "password")  # as Git asks for them
SECRET_VOLUME = "code-credentials"
SECRET_FOLDER = "/run/secrets/code"
FETCH_LIMIT = 1800  # s

# The password goes from a file to Git's standard input: it is in no argument, no variable and no URL. `printf` is a
# part of the shell, and so is `echo`, but that reads a backslash as the beginning of a control character in some. Not
# every server gives single commits away, hence the second fetch. One that took too long ends with 124, or with 143
# where it is BusyBox's `timeout`, which becomes Git itself.
FETCH = f"""\
set -eu
git init --quiet {REPOSITORY}
cd {REPOSITORY}
if [ -d {SECRET_FOLDER} ]; then
  git config credential.helper '!f() {{ test "$1" != get || for field in {" ".join(CREDENTIALS)}; do
    printf "%s=%s\\n" "$field" "$(cat {SECRET_FOLDER}/$field)"; done; }}; f'
fi
fetch() {{
  timeout "$CODE_FETCH_SECONDS" git fetch --quiet "$@" && return
  code=$?
  case $code in
  124 | 143)
    echo "$CODE_REPOSITORY did not give the code within $CODE_FETCH_SECONDS s; see whether pods reach that server" >&2
    exit 1 ;;
  esac
  return $code
}}
fetch --depth 1 "$CODE_REPOSITORY" "$CODE_COMMIT" ||
  fetch "$CODE_REPOSITORY" '+refs/heads/*:refs/remotes/origin/*' '+refs/tags/*:refs/tags/*'
git -c advice.detachedHead=false checkout --quiet --detach "$CODE_COMMIT"
echo "fetched $(git rev-parse HEAD)"
"""


def settings(values: Values) -> dict[str, Any]:
    """The settings with which workers find the packages."""
    chosen: dict[str, Any] = {}
    if values.code.packages:
        given = values.settings.get("allowed_packages", ())
        given = tuple(given.replace(",", " ").split()) if isinstance(given, str) else given
        chosen["allowed_packages"] = tuple(dict.fromkeys((*given, *values.code.packages)))
    folder = _folder(values)
    return {**chosen, "code_dir": folder} if folder else chosen


def environment(values: Values) -> dict[str, str]:
    """Fetched code comes before what the image holds, so that a stale copy there is never used."""
    return {} if values.code.source == "image" else {"PYTHONPATH": _folder(values)}


def _folder(values: Values) -> str:
    if values.code.source == "image":
        return values.code.folder
    root = REPOSITORY if values.code.source == "git" else FOLDER
    return f"{root}/{values.code.folder}".rstrip("/")


def volumes(values: Values) -> list[dict[str, Any]]:
    """What the code lies on, and the credentials it is fetched with."""
    if values.code.source == "pvc":
        return [{"name": VOLUME, "persistentVolumeClaim": {"claimName": values.code.claim, "readOnly": True}}]
    if values.code.source == "image":
        return []
    made: list[dict[str, Any]] = [{"name": VOLUME, "emptyDir": {"sizeLimit": "2Gi"}}]
    if values.code.secret is not None:
        keys = (values.code.username_key, values.code.password_key)
        items = [{"key": key, "path": path} for key, path in zip(keys, CREDENTIALS, strict=True)]
        made.append(
            {
                "name": SECRET_VOLUME,
                "secret": {"secretName": values.code.secret, "defaultMode": 0o440, "items": items},
            }
        )
    return made


def mounts(values: Values) -> list[dict[str, Any]]:
    """Where workers see the code."""
    return [] if values.code.source == "image" else [{"name": VOLUME, "mountPath": FOLDER, "readOnly": True}]


def init_containers(values: Values) -> list[dict[str, Any]]:
    """What fetches the code before the worker starts."""
    if values.code.source != "git":
        return []
    seen: list[dict[str, Any]] = [{"name": VOLUME, "mountPath": FOLDER}, {"name": "tmp", "mountPath": "/tmp"}]
    if values.code.secret is not None:
        seen.append({"name": SECRET_VOLUME, "mountPath": SECRET_FOLDER, "readOnly": True})
    variables = {
        "CODE_REPOSITORY": values.code.repository,
        "CODE_COMMIT": values.code.commit,
        "CODE_FETCH_SECONDS": str(FETCH_LIMIT),
        "GIT_TERMINAL_PROMPT": "0",
        "HOME": "/tmp",
    }
    resources = {"cpu": "500m", "memory": "512Mi"}
    return [
        {
            "name": VOLUME,
            "image": values.code.image,
            "command": ["/bin/sh", "-c", FETCH],
            "env": [{"name": name, "value": value} for name, value in variables.items()],
            "resources": {"requests": dict(resources), "limits": dict(resources)},
            # What Git said of its failure is in the pod's status: `logs` reads the worker, which never started.
            "terminationMessagePolicy": "FallbackToLogsOnError",
            "securityContext": security.container(),
            "volumeMounts": seen,
        }
    ]
