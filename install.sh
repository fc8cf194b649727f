#!/bin/bash
# Installs linstor_un into an OpenNebula front-end, or shows it at work.
#
#   ./install.sh                   install or upgrade; run it on the front-end, as root
#   ./install.sh --python PROGRAM  the same with a Python that already has the packages; nothing is downloaded
#   ./install.sh --check           look at an installation; change nothing
#   ./install.sh --demo            the life of a VM on a lab of its own; leaves nothing behind
#
# OpenNebula is looked for at $ONE_LOCATION, or where its packages put it.
set -u -o pipefail
umask 022

PROJECT=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
RUNTIME_MODULES="linstor lxml.etree click"
PYTHONS="/usr/bin/python3 python3 python3.13 python3.12 python3.11 python3.10 python3.9"

# ---- saying ----------------------------------------------------------------------------------------------------

bold='' red='' green='' yellow='' plain=''
if [ -t 1 ]; then
    bold=$'\e[1m' red=$'\e[31m' green=$'\e[32m' yellow=$'\e[33m' plain=$'\e[0m'
fi

say() { printf '%s\n' "$*"; }
fine() { printf '  %sok%s       %s\n' "$green" "$plain" "$*"; }
todo() { printf '  %sto do%s    %s\n' "$yellow" "$plain" "$*"; }
wrong() { printf '  %swrong%s    %s\n' "$red" "$plain" "$*"; }
fail() { printf '%sinstall: %s%s\n' "$red" "$*" "$plain" >&2; exit 1; }

is_root() { [ "$(id -u)" = 0 ]; }

# Runs a long command silently; its output is shown only when it fails.
quietly() { # WHAT COMMAND...
    local what=$1 output
    shift
    output=$(mktemp) || return 1
    if ! "$@" >"$output" 2>&1 </dev/null; then
        tail -n 15 "$output" >&2
        rm -f "$output"
        printf '%s\n' "cannot $what; the lines above say why" >&2
        return 1
    fi
    rm -f "$output"
}

# ---- packages of the operating system -----------------------------------------------------------------------------

# Sets `absent` to the packages behind those of PROGRAM=PACKAGE... that are not installed.
find_absent() {
    local pair
    absent=()
    for pair in "$@"; do
        PATH=$PATH:/usr/sbin:/sbin command -v "${pair%%=*}" >/dev/null || absent+=("${pair#*=}")
    done
    if [[ " $* " == *" python3="* ]] && ! find_python; then
        [[ " ${absent[*]} " == *" python3 "* ]] || absent+=(python3)
        absent+=(python3-venv)
    fi
}

# Installs what is absent of PROGRAM=PACKAGE... when that is possible here; `absent` tells what is still missing.
need_packages() {
    find_absent "$@"
    [ ${#absent[@]} = 0 ] && return 0
    is_root && command -v apt-get >/dev/null || return 1
    say "installing packages: ${absent[*]}"
    quietly "install ${absent[*]}" install_packages "${absent[@]}" || return 1
    find_absent "$@"
    [ ${#absent[@]} = 0 ]
}

install_packages() {
    # A package must not start its daemon: the lab starts its own, and this machine may have no use for one.
    local policy=/usr/sbin/policy-rc.d
    if [ -e "$policy" ]; then
        policy=
    else
        printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod 755 "$policy"
    fi
    export DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1
    local package install=(apt-get -o DPkg::Lock::Timeout=120 install -y --no-install-recommends)
    # Where a release lacks one of the packages, the others are still wanted.
    "${install[@]}" "$@" || { apt-get update && "${install[@]}" "$@"; } ||
        for package in "$@"; do "${install[@]}" "$package"; done
    local result=$?
    [ -z "$policy" ] || rm -f "$policy"
    return $result
}

# ---- Python -------------------------------------------------------------------------------------------------------

# Sets `python` to a Python >= 3.9 that can make virtual environments.
find_python() {
    for python in $PYTHONS; do
        python=$(command -v "$python") || continue
        "$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 9))' 2>/dev/null && return 0
    done
    python=
    return 1
}

# Prints the requirements of pyproject.toml: NAME is "dependencies" or the name of an extra.
requirements() { # PYTHON NAME...
    "$1" - "$PROJECT/pyproject.toml" "${@:2}" <<'CODE'
import ast, re, sys
text = open(sys.argv[1], encoding="utf-8").read()
for name in sys.argv[2:]:
    print("\n".join(ast.literal_eval(re.search(rf"^{name} = (\[.*?\])$", text, re.M | re.S)[1])))
CODE
}

# Makes DIRECTORY a virtual environment that has the requirements of these names; done already is success.
make_environment() { # PYTHON DIRECTORY NAME...
    local python=$1 directory=$2 wanted missing
    shift 2
    wanted=$(requirements "$python" "$@") || return 1
    if [ "$(cat "$directory/made-by" 2>/dev/null)" != "$(maker "$python" "$directory")" ]; then
        # One that was made by another Python, or was copied from elsewhere, cannot be repaired.
        rm -rf "$directory"
        quietly "make a virtual environment" "$python" -m venv "$directory" || return 1
        maker "$python" "$directory" >"$directory/made-by"
        : >"$directory/installed"
    fi
    missing=$(grep -vxFf "$directory/installed" <<<"$wanted") || return 0
    say "installing Python packages in $directory"
    # shellcheck disable=SC2086  # requirements have no blanks
    quietly "install $(echo $missing)" "$directory/bin/python" -m pip install --disable-pip-version-check $missing || return 1
    printf '%s\n' "$missing" >>"$directory/installed"
}

# Prints what an environment is bound to.
maker() { # PYTHON DIRECTORY
    printf '%s in %s\n' "$("$1" -V)" "$2"
}

# ---- where OpenNebula is --------------------------------------------------------------------------------------------

locate() {
    local location=${ONE_LOCATION:-}
    if [ -n "$location" ]; then
        remotes=$location/var/remotes etc=$location/etc home=$location/lib/linstor_un
    else
        remotes=/var/lib/one/remotes etc=/etc/one home=/usr/lib/one/linstor_un
    fi
    conf=$remotes/etc/datastore/linstor_un/linstor_un.conf
    [ -d "$remotes" ] || fail "there is no $remotes: run this on the OpenNebula front-end, or set ONE_LOCATION"
}

# Prints all scripts of the driver in a directory that has datastore/, tm/ and vmm/.
scripts_in() { # DIRECTORY
    (cd "$1" && for directory in datastore/linstor_un tm/linstor_un vmm/kvm; do
        [ ! -d "$directory" ] || find "$directory" -maxdepth 1 -type f \( -path '*/linstor_un/*' -o -name '*linstor_un' \)
    done) | sort
}

# ---- installing -----------------------------------------------------------------------------------------------------

install_driver() {
    locate
    for directory in "$remotes" "$(dirname "$home")"; do
        mkdir -p "$directory" 2>/dev/null
        [ -w "$directory" ] || fail "$directory cannot be written; run this as root, or as the owner of \$ONE_LOCATION"
    done
    make_home
    retire_old_driver
    copy_trees
    say "${bold}linstor_un $(version) is installed in $remotes.${plain}"
    say "Still to be done by you (nothing outside the remotes was changed):"
    report || true
    say "Then restart oned, and check everything again with: $0 --check"
}

version() { sed -n 's/^version = "\(.*\)"$/\1/p' "$PROJECT/pyproject.toml"; }

# Sets `interpreter` to the Python that runs the driver. It is outside the remotes: `onehost sync` copies those to
# every host.
make_home() {
    mkdir -p "$home" || fail "$home cannot be made"
    if [ -n "$chosen_python" ]; then
        interpreter=$(command -v "$chosen_python") || fail "$chosen_python is not a program"
    else
        find_python || fail "no Python >= 3.9 with venv was found: apt-get install python3-venv"
        make_environment "$python" "$home/venv" dependencies || fail "the driver was not installed"
        interpreter=$home/venv/bin/python
    fi
    can_import "$interpreter" || fail "$interpreter cannot import all of $RUNTIME_MODULES"
}

# The words of PYTHON may be two: /usr/bin/env python3.
can_import() { # PYTHON
    # shellcheck disable=SC2086
    $1 -c "import ${RUNTIME_MODULES// /, }" 2>/dev/null
}

# The driver before this one is a set of bash scripts around linstor_utils.sh. Its scripts that no successor
# replaces go on working with that file, so those stay; all of them are kept in an archive.
retire_old_driver() {
    local old=$remotes/datastore/linstor_un/linstor_utils.sh archive=$home/linstor_un-1.8.2.tar.gz script kept=0
    [ -e "$old" ] || return 0
    if [ ! -e "$archive" ]; then
        scripts_in "$remotes" | tar -C "$remotes" -czf "$archive" -T - ||
            fail "the old driver could not be saved to $archive; nothing was changed"
        say "upgrading from the bash driver 1.8.2, which is kept in $archive"
    fi
    while read -r script; do
        grep -q linstor_utils.sh "$remotes/$script" || continue
        if [ -e "$PROJECT/$script" ]; then
            rm -f "$remotes/$script"
        else
            say "  kept from 1.8.2, as this version has no successor for it: $script"
            kept=1
        fi
    done < <(scripts_in "$remotes")
    [ "$kept" = 1 ] || rm -f "$old"
}

copy_trees() {
    local script target owner
    owner=$(stat -c %u:%g "$remotes")
    scripts_in "$PROJECT" | while read -r script; do
        target=$remotes/$script
        mkdir -p "$(dirname "$target")"
        # A new file in place of the old one: a shell or Python that reads the old one reads it to its end.
        sed "1s|^#!/usr/bin/env python3\$|#!$interpreter|" "$PROJECT/$script" >"$target.new" &&
            chmod 755 "$target.new" && mv -f "$target.new" "$target" || exit 1
    done || fail "the scripts could not be copied to $remotes"
    rm -rf "$remotes/lib/linstor_un.new" && mkdir -p "$remotes/lib" &&
        cp -R "$PROJECT/lib/linstor_un" "$remotes/lib/linstor_un.new" &&
        find "$remotes/lib/linstor_un.new" -name __pycache__ -prune -exec rm -rf {} + &&
        rm -rf "$remotes/lib/linstor_un" && mv "$remotes/lib/linstor_un.new" "$remotes/lib/linstor_un" &&
        "$interpreter" -m compileall -q "$remotes/lib/linstor_un" || fail "lib could not be copied to $remotes"
    if [ ! -e "$conf" ]; then
        mkdir -p "$(dirname "$conf")" && cp "$PROJECT/etc/linstor_un.conf" "$conf" || fail "$conf could not be written"
    fi
    chown -R "$owner" "$remotes"/{datastore,tm,lib}/linstor_un "$(dirname "$conf")" 2>/dev/null
    find "$remotes/vmm/kvm" -maxdepth 1 -name '*linstor_un' -exec chown "$owner" {} + 2>/dev/null
    return 0
}

# ---- checking -------------------------------------------------------------------------------------------------------

check_driver() {
    locate
    local problems=0
    say "linstor_un in $remotes:"
    check_files || problems=1
    say "OpenNebula's configuration:"
    report || problems=1
    return $problems
}

check_files() {
    local script target problems=0 program
    while read -r script; do
        target=$remotes/$script
        if [ ! -x "$target" ]; then
            wrong "$target is missing; run $0"
            problems=1
        elif ! diff -q <(tail -n +2 "$PROJECT/$script") <(tail -n +2 "$target") >/dev/null; then
            wrong "$target is not of version $(version); run $0"
            problems=1
        fi
    done < <(scripts_in "$PROJECT")
    if ! diff -rq -x __pycache__ "$PROJECT/lib/linstor_un" "$remotes/lib/linstor_un" >/dev/null 2>&1; then
        wrong "$remotes/lib/linstor_un is not of version $(version); run $0"
        problems=1
    fi
    if [ $problems = 0 ]; then fine "scripts and library are those of version $(version)"; fi
    program=$(sed -n '1s/^#!//p' "$remotes/tm/linstor_un/clone" 2>/dev/null)
    if [ -n "$program" ] && can_import "$program"; then
        fine "$program has all packages"
    else
        wrong "${program:-the interpreter of tm/linstor_un/clone} cannot import all of $RUNTIME_MODULES; run $0"
        problems=1
    fi
    if [ -r "$conf" ]; then
        fine "$conf is there"
    else
        wrong "$conf cannot be read; run $0"
        problems=1
    fi
    return $problems
}

# Says for each setting that the driver needs whether it is there; nothing is ever edited.
report() {
    local oned=$etc/oned.conf problems=0
    if [ ! -r "$oned" ]; then
        wrong "$oned cannot be read, so it could not be checked"
        return 1
    fi
    local text
    text=$(sed 's/#.*//' "$oned" | tr '\n' ' ')
    expect 'TM_MAD *= *\[[^]]*-d[^"]*linstor_un' 'oned.conf: TM_MAD' 'add linstor_un to the list after -d'
    expect 'DATASTORE_MAD *= *\[[^]]*-d [^" ]*linstor_un' 'oned.conf: DATASTORE_MAD' 'add linstor_un to the list after -d'
    expect 'DATASTORE_MAD *= *\[[^]]*-s [^" ]*linstor_un' 'oned.conf: DATASTORE_MAD' 'add linstor_un to the list after -s'
    expect 'TM_MAD_CONF *= *\[ *NAME *= *"linstor_un"' 'oned.conf: TM_MAD_CONF' 'add:
           TM_MAD_CONF = [ NAME = "linstor_un", LN_TARGET = "NONE", CLONE_TARGET = "SYSTEM", SHARED = "YES",
               DRIVER = "raw", DISK_TYPE = "BLOCK", DS_MIGRATE = "YES", ALLOW_ORPHANS = "YES" ]'
    expect 'DS_MAD_CONF *= *\[ *NAME *= *"linstor_un"' 'oned.conf: DS_MAD_CONF' 'add:
           DS_MAD_CONF = [ NAME = "linstor_un", PERSISTENT_ONLY = "NO", MARKETPLACE_ACTIONS = "export" ]'
    if [ -e "$PROJECT/vmm/kvm/save_linstor_un" ]; then
        expect 'VM_MAD *= *\[[^]]*-l[^]"]*(save=save_linstor_un[^]"]*restore=|restore=restore_linstor_un[^]"]*save=)(save|restore)_linstor_un' \
            'oned.conf: VM_MAD kvm' 'add to ARGUMENTS: -l save=save_linstor_un,restore=restore_linstor_un'
    fi
    if [ -e "$PROJECT/tm/linstor_un/snap_create_live" ]; then
        text=$(sed 's/#.*//' "$etc/vmm_exec/vmm_execrc" 2>/dev/null)
        expect 'LIVE_DISK_SNAPSHOTS=.*kvm-linstor_un' 'vmm_execrc: LIVE_DISK_SNAPSHOTS' 'add kvm-linstor_un to the list'
    fi
    return $problems
}

expect() { # EXPRESSION WHERE WHAT; uses `text` and `problems` of its caller
    if grep -qE "$1" <<<"$text"; then
        fine "$2"
    else
        todo "$2: $3"
        problems=1
    fi
}

# ---- the demo -------------------------------------------------------------------------------------------------------

# What the lab runs on: its hosts, its volumes, and what a host of OpenNebula has.
LAB_PACKAGES="python3=python3 sshd=openssh-server ssh=openssh-client ip=iproute2 losetup=mount unshare=util-linux
    qemu-img=qemu-utils mkfs.ext4=e2fsprogs mkfs.xfs=xfsprogs nbdcopy=libnbd-bin openssl=openssl curl=curl ps=procps
    bunzip2=bzip2 unxz=xz-utils"

# Gets ready what the lab needs: packages, and the Python environment of this checkout with these requirements.
# Says what is left out where something is missing.
prepare_lab() { # NAME...
    # shellcheck disable=SC2086  # a list
    need_packages $LAB_PACKAGES ||
        say "${yellow}missing here, and what needs it is left out:${plain} ${absent[*]} (apt-get install ${absent[*]})"
    find_python || { say "no Python >= 3.9 with venv was found: apt-get install python3 python3-venv" >&2; return 1; }
    # Two at once would make the same environment.
    exec 9<"$PROJECT" && flock 9 || return 1
    make_environment "$python" "$PROJECT/.venv" "$@" || return 1
    exec 9<&-
    export PATH=$PATH:/usr/sbin:/sbin PYTHONPATH=$PROJECT/tests:$PROJECT/lib
}

# Runs a command of the checkout in namespaces of its own where the user is root, so that it cannot leave anything
# on the machine; whatever ends this shell ends all of it. The lab's oneadmin is no root: a checkout that only root
# can reach is shown to it elsewhere.
in_lab() { # DIRECTORY COMMAND...
    local directory=$1 isolate=()
    shift
    if is_root && unshare --mount --net --pid --ipc --uts --fork true 2>/dev/null; then
        reachable "$PROJECT" || isolate=(unshare --mount bash -c "$SHOW_CHECKOUT" bash "$PROJECT")
        isolate+=("$PROJECT/.venv/bin/python" -c "$CONTAINED")
    fi
    scratch=$(mktemp -d) && chmod 755 "$scratch" || return 1
    trap 'rm -rf "$scratch"' EXIT
    env -C "$directory" TMPDIR="$scratch" setpriv --pdeathsig KILL ${isolate[@]+"${isolate[@]}"} "$@"
}

CONTAINED='import sys; from lab.hosts import isolation; sys.exit(isolation.contained(sys.argv[1:]))'

# shellcheck disable=SC2016  # for another shell
SHOW_CHECKOUT='
    mount -t tmpfs -o mode=755 checkout /mnt && mkdir /mnt/checkout && mount --bind "$1" /mnt/checkout || exit
    cd "${PWD/#"$1"//mnt/checkout}" && export PYTHONPATH=/mnt/checkout/tests:/mnt/checkout/lib
    project=$1
    shift
    exec "${@/#"$project"//mnt/checkout}"'

reachable() { # DIRECTORY
    local directory=$1
    while [ "$directory" != / ]; do
        (((0$(stat -c %a "$directory") & 1) == 1)) || return 1
        directory=$(dirname "$directory")
    done
}

demo() {
    prepare_lab dependencies || fail "the demo needs a Python environment"
    in_lab "$PROJECT" "$PROJECT/.venv/bin/python" -m lab.demo
}

main() {
    chosen_python=
    case ${1:-} in
    '') install_driver ;;
    --python) chosen_python=${2:?--python takes the path of a Python}; install_driver ;;
    --check) check_driver ;;
    --demo) demo ;;
    *) sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"; [ "$1" = --help ] ;;
    esac
}

if [ "${BASH_SOURCE[0]}" = "$0" ]; then
    main "$@"
fi
