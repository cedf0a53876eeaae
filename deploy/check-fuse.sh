#!/usr/bin/env bash
# Is FUSE to be had here? One line if not. Never fails: tests that need it skip, or fail where CI=true.
set -u
if [ ! -e /dev/fuse ]; then
    if [ "$(id -u)" -eq 0 ]; then
        modprobe fuse 2>/dev/null
    elif command -v sudo >/dev/null; then
        sudo -n modprobe fuse 2>/dev/null
    fi
fi
if [ ! -r /dev/fuse ] || [ ! -w /dev/fuse ]; then
    echo "FUSE is missing: no usable /dev/fuse (try: modprobe fuse; in a container: --device /dev/fuse --cap-add SYS_ADMIN)"
elif ! command -v fusermount3 >/dev/null; then
    echo "FUSE is missing: no fusermount3 (Debian package fuse3)"
fi
exit 0
