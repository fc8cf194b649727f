#!/bin/bash
# Lab stand-in for datastore/downloader.sh: [--md5 H] [--sha1 H] [--nodecomp] [--limit RATE] [-c BYTES] SRC DST|-
# Streams SRC, unpacks gzip, bzip2 and xz by their first bytes unless told not to, and checks the hash of what was
# transferred (not of what was unpacked) at the end, when the data is already delivered.
set -u -o pipefail
hash= kind= raw= limit= bytes=
options=$(getopt -o m:s:l:c:no -l md5:,sha1:,limit:,max-size:,nodecomp,noretry -- "$@") ||
    { echo "Arguments error" >&2; exit 255; }
eval set -- "$options"
while [ "$1" != -- ]; do
    case $1 in
    -m | --md5) kind=md5 hash=$2; shift ;;
    -s | --sha1) kind=sha1 hash=$2; shift ;;
    -n | --nodecomp) raw=yes ;;
    -l | --limit) limit=$2; shift ;;
    -c | --max-size) bytes=$2; shift ;;
    esac
    shift
done
shift
from=${1:-} to=${2:-}
[ -z "$hash" ] || [ -z "$bytes" ] || { echo "Hash check not supported for partial downloads" >&2; exit 255; }
work=$(mktemp -d) || exit 255
trap 'rm -rf "$work"' EXIT

fetch() {
    case $from in
    http://* | https://*) curl --fail -sSkL ${limit:+--limit-rate "$limit"} "$from" ;;
    ssh://*) local rest=${from#ssh://}; ssh "${rest%%:*}" "cat $(printf %q "${rest#*:}")" ;;
    rsync://* | restic://*) cat "$(dirname "$0")/../../backups/$(printf %s "$from" | sha1sum | cut -d' ' -f1)" ;;
    *://*) echo "Cannot read from $from" >&2; return 1 ;;
    *) [ -r "$from" ] || { echo "Cannot read from $from" >&2; return 1; }; cat -- "$from" ;;
    esac
}

digest() {
    if [ -n "$kind" ]; then "${kind}sum" | cut -d' ' -f1 > "$work/hash"; else cat > /dev/null; fi
}

unpack() {
    head -c 6 > "$work/head"
    local magic
    magic=$(od -An -tx1 "$work/head" | tr -d ' \n')
    local tool=cat
    if [ -z "$raw" ]; then
        case $magic in
        1f8b*) tool="gunzip -c" ;;
        425a68*) tool="bunzip2 -qc" ;;
        fd377a585a00) tool="unxz -c" ;;
        esac
    fi
    cat "$work/head" - | $tool
}

deliver() {
    if [ "$to" = - ]; then cat; else cat > "$to"; fi
}

mkfifo "$work/copy"
if [ -n "$bytes" ]; then
    fetch 2>"$work/errors" | unpack 2>/dev/null | head -c "$bytes" | deliver
    status=("${PIPESTATUS[@]}")
    # A reader that has enough ends the writers early (141): only then may they fail.
    if [ "${status[1]}" = 141 ] || [ "${status[0]}${status[1]}" = 00 ]; then exit 0; fi
    cat "$work/errors" >&2
    echo "Error copying" >&2
    exit 255
fi
digest < "$work/copy" &
fetch | tee "$work/copy" | unpack | deliver
status=$?
wait
[ "$status" = 0 ] || { echo "Error copying" >&2; exit 255; }
if [ -n "$hash" ] && [ "$(cat "$work/hash")" != "$hash" ]; then
    echo "Hash does not match" >&2
    exit 255
fi
