#!/usr/bin/env bash
# Installs the programs of tests/programs: Debian's packages, and those of PyPI and npm into .venv/programs.
#
#   deploy/programs.sh             as root, or as a user who may use sudo if packages are missing
#
# What is there already is left alone. better-sqlite3 is compiled here, which takes minutes.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
cache=$PWD/.venv/programs
scripts=$PWD/tests/programs

say() { printf 'programs: %s\n' "$*"; }
die() { printf 'programs: %s\n' "$*" >&2; exit 1; }

[ -d .venv ] || die "no .venv: run \`make install\` first"
mkdir -p "$cache"
exec 9<"$cache"
flock 9

# --- Debian packages -------------------------------------------------------------------------------------------------

missing_packages() {
    command -v sqlite3 >/dev/null || echo sqlite3
    command -v php >/dev/null || echo php-cli
    php -m 2>/dev/null | grep -qi pdo_sqlite || echo php-sqlite3
    command -v borg >/dev/null || echo borgbackup
    command -v restic >/dev/null || echo restic
    command -v ogr2ogr >/dev/null || echo gdal-bin
    compgen -G '/usr/lib/*/mod_spatialite.so' >/dev/null || echo libsqlite3-mod-spatialite
    command -v node >/dev/null || echo nodejs
    command -v npm >/dev/null || echo npm
    # better-sqlite3 is compiled against Node's own headers
    command -v c++ >/dev/null || echo g++
    command -v make >/dev/null || echo make
    [ -e /usr/include/node/node.h ] || [ -e /usr/include/nodejs/src/node.h ] || echo libnode-dev
}

mapfile -t missing < <(missing_packages)
if [ "${#missing[@]}" -gt 0 ]; then
    command -v apt-get >/dev/null || die "no apt-get here; install the equivalents of: ${missing[*]}"
    say "installing Debian packages: ${missing[*]}"
    as_root=()
    [ "$(id -u)" -eq 0 ] || as_root=(sudo)
    compgen -G '/var/lib/apt/lists/*_Packages*' >/dev/null || "${as_root[@]}" apt-get update -q
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}"
fi

# --- SQLite's shell with `.recover`, which Debian builds without ----------------------------------------------------------

deploy/sqlite-suite.sh
source=.venv/sqlite-suite/source/sqlite3
if [ ! -x "$source/sqlite3" ]; then
    say "building a sqlite3 that has .recover"
    make -C "$source" sqlite3 >"$cache/shell.log" 2>&1 || die "can't build sqlite3: see $cache/shell.log"
fi

# --- PyPI --------------------------------------------------------------------------------------------------------------

stamp=$(cat "$scripts/requirements.txt" - <<<"$PWD $(.venv/bin/python -V)" | sha256sum)
if [ "$(cat "$cache/python/.installed" 2>/dev/null)" != "$stamp" ]; then
    say "installing Python packages"
    .venv/bin/python -m venv --clear "$cache/python"
    "$cache/python/bin/python" -m pip install --disable-pip-version-check --quiet --requirement "$scripts/requirements.txt"
    echo "$stamp" >"$cache/python/.installed"
fi

# --- npm ---------------------------------------------------------------------------------------------------------------

stamp=$(cat "$scripts/package.json" - <<<"$PWD $(node --version)" | sha256sum)
if [ "$(cat "$cache/.npm-installed" 2>/dev/null)" != "$stamp" ]; then
    say "installing packages of npm, and compiling better-sqlite3"
    cp "$scripts/package.json" "$cache/package.json"
    # Its headers are where Debian's packages have them: nothing is downloaded but what the registry has.
    headers=/usr
    [ ! -e /usr/include/nodejs/src/node.h ] || headers=/usr/include/nodejs
    (cd "$cache" && npm_config_nodedir=$headers npm_config_build_from_source=true \
        npm install --no-audit --no-fund --no-package-lock --no-update-notifier) >"$cache/npm.log" 2>&1 ||
        die "npm can't install: see $cache/npm.log"
    (cd "$cache" && node -e 'new (require("better-sqlite3"))(":memory:")') || die "better-sqlite3 does not run: see $cache/npm.log"
    echo "$stamp" >"$cache/.npm-installed"
fi
