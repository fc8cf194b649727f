"""What an installed OpenNebula front-end has around our driver: small stand-ins with the same interfaces."""

from lab.opennebula.frontend import Frontend, install_frontend

__all__ = ["Frontend", "install_frontend"]
