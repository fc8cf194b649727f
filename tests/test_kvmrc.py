"""OpenNebula's kvmrc, which its own scripts source: read and never run."""

from __future__ import annotations

import pytest
from linstor_un.kvmrc import Kvmrc, load

STOCK = """
export LANG=C
export LIBVIRT_URI=qemu:///system
export QEMU_PROTOCOL=qemu+ssh
# Instruct QEMU guest agent to synchronize the guest time from RTC
export SYNC_TIME=yes
export VIRSH_RETRIES=5
export VIRSH_TIMEOUT=90
#CLEANUP_MEMORY_ON_START=yes
CLEANUP_MEMORY_ON_STOP=no
VIRTIOFSD_BINARY_PATH="/usr/libexec/virtiofsd /usr/lib/qemu/virtiofsd"
"""


def test_the_file_of_a_release_is_understood() -> None:
    assert load(STOCK) == Kvmrc("qemu:///system", 90, 5, sync_time=True)


def test_without_the_file_the_defaults_of_the_stock_scripts_hold() -> None:
    assert load("") == Kvmrc("qemu:///system", 60, 3, sync_time=False, compact_on_start=False, compact_on_stop=False)


def test_what_an_administrator_sets_is_kept() -> None:
    found = load("LIBVIRT_URI='qemu+unix:///system'\nCLEANUP_MEMORY_ON_START=yes\nCLEANUP_MEMORY_ON_STOP=yes\n")
    assert found == Kvmrc("qemu+unix:///system", compact_on_start=True, compact_on_stop=True)


@pytest.mark.parametrize("text", ["0", "-1", "many", "1e3", "\N{ARABIC-INDIC DIGIT THREE}", "9" * 40, "$(reboot)"])
def test_a_number_that_is_none_counts_as_not_set(text: str) -> None:
    assert load(f"VIRSH_RETRIES={text}\nVIRSH_TIMEOUT={text}\n") == Kvmrc()
