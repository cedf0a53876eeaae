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
    # Tests put nodes into network namespaces of their own.
    command -v ip >/dev/null || echo iproute2
    # Tests cut the power of small disks, of both file systems, and watch what reaches them.
    command -v losetup >/dev/null || echo mount
    [ -e /usr/sbin/mkfs.ext4 ] || [ -e /sbin/mkfs.ext4 ] || echo e2fsprogs
    [ -e /usr/sbin/mkfs.xfs ] || [ -e /sbin/mkfs.xfs ] || echo xfsprogs
    command -v strace >/dev/null || echo strace
    [ -e /dev/fuse ] || [ -e /usr/sbin/modprobe ] || [ -e /sbin/modprobe ] || echo kmod
}

mapfile -t missing < <(missing_packages | tr ' ' '\n')
[ "${#missing[@]}" -eq 0 ] || apt_install "${missing[@]}"

# --- Consul, which elections and their tests speak to -------------------------------------------------------------------

# Debian 12 has no package of it, the release before has. So the machine's own Debian source is repeated for that release, pinned
# so low that nothing but the one package can come from there. The package neither starts nor enables a service.
older=bullseye

# The address of this machine's own Debian archive, as apt itself reads its lists.
debian_archive() {
    local codename
    codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
    apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' 'Label: Debian' \
        "Codename: $codename" 'Component: main' | sort -u | head -n 1
}

write_as_root() {
    as_root tee "$1" >/dev/null && as_root chmod 644 "$1"
}

add_older_release() {
    local archive keyring=/usr/share/keyrings/debian-archive-keyring.gpg
    archive=$(debian_archive)
    [ -n "$archive" ] || return 1
    say "adding Debian's $older as a source of nothing but consul"
    # The pin comes first: at no time can anything else be taken from there.
    write_as_root "/etc/apt/preferences.d/litemq-$older" <<PIN || return 1
Package: *
Pin: release n=$older
Pin-Priority: -1

Package: consul
Pin: release n=$older
Pin-Priority: 1
PIN
    write_as_root "/etc/apt/sources.list.d/litemq-$older.sources" <<SOURCE || return 1
Types: deb
URIs: $archive
Suites: $older
Components: main
$([ ! -e "$keyring" ] || echo "Signed-By: $keyring")
SOURCE
    as_root apt-get update -q
}

has_candidate() { LC_ALL=C apt-cache policy "$1" 2>/dev/null | grep -q 'Candidate: [^(]'; }

install_consul() {
    command -v apt-get >/dev/null || return 1
    compgen -G '/var/lib/apt/lists/*_Packages*' >/dev/null || as_root apt-get update -q || return 1
    has_candidate consul || add_older_release || return 1
    apt_install consul
}

no_consul=
if ! command -v consul >/dev/null && [ ! -e "$venv/.no-consul" ] && ! (install_consul); then
    say "consul can't be installed here: tests that need it are skipped; \`make clean\` and again to try once more"
    no_consul=1
    [ ! -d "$venv" ] || touch "$venv/.no-consul"
fi

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
[ -z "$no_consul" ] || touch "$venv/.no-consul"
printf '%s\n' "$stamp" >"$venv/.installed"
say "done; the command is $venv/bin/litemq"
