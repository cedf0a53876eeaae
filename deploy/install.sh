#!/usr/bin/env bash
# Makes .venv with LiteMQ and its development tools in it, from Debian's packages and PyPI.
#
#   deploy/install.sh              as root, or as a user who may use sudo; again and again without harm
#   PYTHON=python3.12 deploy/install.sh
#
# What is there already is left alone: a second run takes a fraction of a second, needs no network, and no root.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
repo=$(pwd -P)
venv=.venv

say() { printf 'install: %s\n' "$*"; }
die() { printf 'install: %s\n' "$*" >&2; exit 1; }

# Two runs in one directory wait for each other; the lock goes with the process.
exec 9<.
flock 9

# --- Debian packages -------------------------------------------------------------------------------------------------

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        die "not root and no sudo; as root, run: $*"
    fi
}

apt_install() {
    command -v apt-get >/dev/null || die "no apt-get here; install the equivalents of: $*"
    say "installing Debian packages: $*"
    local -a install=(env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$@")
    if ! compgen -G '/var/lib/apt/lists/*_Packages*' >/dev/null; then
        as_root apt-get update -q
        as_root "${install[@]}"
    elif ! as_root "${install[@]}"; then
        # The lists may name versions that the mirror no longer has.
        as_root apt-get update -q
        as_root "${install[@]}"
    fi
}

missing_packages() {
    command -v fusermount3 >/dev/null || echo fuse3
    # pyfuse3 is compiled against libfuse 3.
    command -v cc >/dev/null || echo gcc libc6-dev
    command -v pkg-config >/dev/null || echo pkg-config
    pkg-config --exists fuse3 2>/dev/null || echo libfuse3-dev
    [ -e /dev/fuse ] || [ -e /usr/sbin/modprobe ] || [ -e /sbin/modprobe ] || echo kmod
}

mapfile -t missing < <(missing_packages | tr ' ' '\n')
[ "${#missing[@]}" -eq 0 ] || apt_install "${missing[@]}"

# --- a Python that can make virtual environments and compile extensions -------------------------------------------------

usable() {
    "$1" - >/dev/null 2>&1 <<'PY'
import ensurepip, os, sys, sysconfig, venv
header = os.path.join(sysconfig.get_paths()["include"], "Python.h")
sys.exit(not (sys.version_info >= (3, 11) and os.path.exists(header)))
PY
}

find_python() {
    local candidate
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11 /usr/bin/python3}; do
        if usable "$candidate"; then
            # What the name stands for (behind a version manager's shim, too), not the name.
            "$candidate" -c 'import sys; print(getattr(sys, "_base_executable", sys.executable))'
            return
        fi
    done
    return 1
}

if ! python=$(find_python); then
    [ -z "${PYTHON:-}" ] || die "PYTHON=$PYTHON is not Python 3.11 or newer with venv, ensurepip and its headers"
    apt_install python3 python3-venv python3-dev
    python=$(find_python) || die "no Python 3.11 or newer: this Debian's python3 is older; set PYTHON=/path/to/python3"
fi

# --- the virtual environment -------------------------------------------------------------------------------------------

# The directory counts, too: a virtual environment does not survive being moved.
stamp=$(printf '%s\n' "$repo" "$python" "$("$python" -V)" | cat - pyproject.toml deploy/install.sh | sha256sum)
if [ "$(cat "$venv/.installed" 2>/dev/null)" = "$stamp" ] && "$venv/bin/python" -c '' 2>/dev/null; then
    exit 0
fi

say "making $venv with $("$python" -V) ($python)"
rm -f "$venv/.installed"
"$python" -m venv --clear "$venv"
"$venv/bin/python" -m pip install --disable-pip-version-check --quiet --editable '.[dev]'
# mypy reads no editable installs; it finds the package through this link.
mkdir -p "$venv/src"
ln -sfn ../.. "$venv/src/litemq"
# What was installed is written out now, rather than under the feet of what runs next.
sync -f "$venv"
printf '%s\n' "$stamp" >"$venv/.installed"
say "done; the command is $venv/bin/litemq"
