"""What an installed OpenNebula has around our driver: small stand-ins with the same interfaces."""

from lab.opennebula.frontend import Frontend, install_frontend
from lab.opennebula.host import install_hook, install_host

__all__ = ["Frontend", "install_frontend", "install_hook", "install_host"]
