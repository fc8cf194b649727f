#!/bin/bash
# Stands before `ssh` and `sh` in the driver's PATH, counts the driver's own commands and lets one of them go wrong.
# The file `fault` beside it has "NUMBER KIND"; `shut` refuses everything.
here=${0%/*}
name=${0##*/}
real=/usr/bin/$name
case "$*" in
*'linstor_un: started'*) ;;
*) exec "$real" "$@" ;;
esac
number=1
until mkdir "$here/calls/$number" 2>/dev/null; do number=$((number + 1)); done
printf '%s\0' "$name" "$@" >"$here/calls/$number/argv"
refuse() {
    echo "$name: refused by the lab" >&2
    exit 255
}
[ -e "$here/shut" ] && refuse
at=0 kind=
[ -e "$here/fault" ] && read -r at kind <"$here/fault"
[ "$number" = "$at" ] || exec "$real" "$@"

# Passes on what the command says on stderr; the driver's end comes with its start or with its end.
relay() {
    while IFS= read -r line; do
        case "$line" in
        'linstor_un: started')
            printf '%s\n' "$line"
            case $kind in
            term) kill -TERM "$PPID" ;;
            shut) : >"$here/shut"; kill -TERM "$PPID" ;;
            kill) kill -KILL "$PPID" ;;
            esac
            ;;
        'linstor_un: ended '*)
            case $kind in
            lost) continue ;;
            kill-done) kill -KILL "$PPID" ;;
            shut-done) : >"$here/shut"; kill -TERM "$PPID" ;;
            esac
            printf '%s\n' "$line"
            ;;
        *) printf '%s\n' "$line" ;;
        esac
    done
}
[ "$kind" = refused ] && refuse
trap '' PIPE
{
    "$real" "$@" 2>&1 1>&3 3>&- | relay >&2 3>&-
    code=${PIPESTATUS[0]}
} 3>&1
[ "$kind" = lost ] && exit 255
exit "$code"
