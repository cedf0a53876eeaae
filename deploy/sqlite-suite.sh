#!/usr/bin/env bash
# Builds SQLite's own `testfixture` in .venv/sqlite-suite, from the source package of the machine's Debian release.
#
#   deploy/sqlite-suite.sh         as root, or as a user who may use sudo if packages are missing
#
# Nothing of the machine's apt is changed: sources, lists and downloads are kept in that folder. What is there already is left alone.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
cache=$PWD/.venv/sqlite-suite

say() { printf 'sqlite-suite: %s\n' "$*"; }
die() { printf 'sqlite-suite: %s\n' "$*" >&2; exit 1; }

[ -d .venv ] || die "no .venv: run \`make install\` first"
mkdir -p "$cache"
exec 9<"$cache"
flock 9

stamp=$cache/built
recipe=$(sha256sum <deploy/sqlite-suite.sh)
[ "$(cat "$stamp" 2>/dev/null)" != "$recipe" ] || exit 0
command -v apt-get >/dev/null || die "no apt-get here: the suite is built from Debian's source package"

missing_packages() {
    command -v cc >/dev/null || echo gcc libc6-dev
    command -v make >/dev/null || echo make
    command -v dpkg-source >/dev/null || echo dpkg-dev
    [ -e /usr/lib/tcl8.6/tclConfig.sh ] || echo tcl8.6-dev
    command -v tclsh8.6 >/dev/null || echo tcl8.6
    [ -e /usr/include/zlib.h ] || echo zlib1g-dev
}

mapfile -t missing < <(missing_packages | tr ' ' '\n')
if [ "${#missing[@]}" -gt 0 ]; then
    say "installing Debian packages: ${missing[*]}"
    as_root=()
    [ "$(id -u)" -eq 0 ] || as_root=(sudo)
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}"
fi

# --- the source: where the machine has its packages from, and the same releases ---------------------------------------

apt=(-o "Dir::Etc::SourceList=$cache/sources.list" -o "Dir::Etc::SourceParts=/dev/null" -o "Dir::State::Lists=$cache/lists"
    -o "Dir::Cache=$cache/apt" -o "APT::Sandbox::User=$(id -un)" -o "Debug::NoLocking=1")
codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
signed=
[ ! -e "$keyring" ] || signed="[signed-by=$keyring] "
mkdir -p "$cache/lists/partial" "$cache/apt/archives/partial"
apt-get indextargets --format '$(REPO_URI) $(CODENAME) $(COMPONENT)' 'Created-By: Packages' 'Origin: Debian' \
    'Component: main' | sort -u | grep -E " $codename(-[a-z]+)? " | sed "s|^|deb-src $signed|" >"$cache/sources.list"
[ -s "$cache/sources.list" ] || die "apt knows no Debian archive of $codename: run \`apt-get update\` first"

say "fetching the source package of sqlite3"
rm -rf "$cache/source"
mkdir "$cache/source"
apt-get "${apt[@]}" update -q >"$cache/apt.log" 2>&1 || die "can't update the source lists: see $cache/apt.log"
(cd "$cache/source" && apt-get "${apt[@]}" source -q sqlite3) >>"$cache/apt.log" 2>&1 ||
    die "can't fetch the source of sqlite3: see $cache/apt.log"
source=$(find "$cache/source" -mindepth 1 -maxdepth 1 -type d -name 'sqlite3-*')
[ -n "$source" ] || die "no source folder in $cache/source"
mv "$source" "$cache/source/sqlite3"

# --- the build ----------------------------------------------------------------------------------------------------------

say "building testfixture"
(
    cd "$cache/source/sqlite3"
    ./configure --enable-all --with-tcl=/usr/lib/tcl8.6
    make -j"$(nproc)" testfixture
) >"$cache/build.log" 2>&1 || die "can't build testfixture: see $cache/build.log"
echo "$recipe" >"$stamp"
say "built $cache/source/sqlite3/testfixture"
