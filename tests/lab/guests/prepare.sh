# shellcheck shell=bash disable=SC2154
# What tests with real guests need of the operating system; sourced by tests/run, after install.sh.

GUEST_PACKAGES="libvirtd=libvirt-daemon virsh=libvirt-clients qemu-system-x86_64=qemu-system-x86"
# It is no program, and Debian 13 does not install it together with libvirtd.
QEMU_DRIVER=libvirt-daemon-driver-qemu

# Installs libvirt and QEMU where that is possible here, and downloads what a guest is made of. What is missing is
# left out, and said.
prepare_guests() {
    # shellcheck disable=SC2086  # a list
    need_packages $GUEST_PACKAGES
    if [ ${#absent[@]} = 0 ] && ! has_qemu_driver; then
        is_root && command -v apt-get >/dev/null && quietly "install $QEMU_DRIVER" install_packages $QEMU_DRIVER
        has_qemu_driver || absent=("$QEMU_DRIVER")
    fi
    if [ ${#absent[@]} != 0 ]; then
        say "${yellow}missing here, and tests with guests are left out:${plain} ${absent[*]} (apt-get install ${absent[*]})"
        return 0
    fi
    exec 9<"$PROJECT" && flock 9 || return 1
    fetch_guest_system
    exec 9<&-
}

has_qemu_driver() { compgen -G "/usr/lib*/*/libvirt/connection-driver/libvirt_driver_qemu.so" >/dev/null; }

# Puts kernel, busybox and agent for guests into .venv/guests/system; the packages they are from are not installed.
fetch_guest_system() {
    local place=$PROJECT/.venv/guests work
    [ ! -d "$place/system" ] && command -v apt-get >/dev/null || return 0
    say "downloading packages with a kernel and an agent for guests"
    work=$(mktemp -d) || return 1
    if ! { mkdir -p "$place" && unpack_guest_packages "$work" && quietly "take a guest's parts from packages" \
        "$PROJECT/.venv/bin/python" -c "$GATHER" "$work/unpacked" "$place/system"; }; then
        say "${yellow}missing here, and tests with an operating system in a guest are left out:${plain} its packages"
    fi
    rm -rf "$work"
}

GATHER='import sys; from lab.guests.system import gather; gather(*sys.argv[1:])'

unpack_guest_packages() { # DIRECTORY
    local package
    download_guest_packages "$1" || { is_root && apt-get update >/dev/null 2>&1 && download_guest_packages "$1"; } || return 1
    for package in "$1"/*.deb; do
        dpkg-deb -x "$package" "$1/unpacked" || return 1
    done
}

download_guest_packages() { # DIRECTORY
    local names
    # shellcheck disable=SC2207  # names have no blanks
    names=($(kernel_packages) busybox-static qemu-guest-agent)
    (cd "$1" && quietly "download ${names[*]}" apt-get -o APT::Sandbox::User=root download "${names[@]}")
}

# Prints the packages of the present kernel for virtual machines: Debian's, or else Ubuntu's with its modules apart.
kernel_packages() {
    local meta image
    for meta in linux-image-cloud-amd64 linux-image-virtual; do
        image=$(apt-cache depends "$meta" 2>/dev/null | awk '$1 == "Depends:" && $2 ~ /^linux-image-[0-9]/ {print $2; exit}')
        [ -n "$image" ] || continue
        printf '%s\n' "$image"
        apt-cache show "${image/image/modules}" >/dev/null 2>&1 && printf '%s\n' "${image/image/modules}"
        return 0
    done
    printf 'linux-image-cloud-amd64\n'
}
