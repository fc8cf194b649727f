# Lab stand-in for the installed scripts_common.sh of a release whose oned takes stderr as the message.
error_message() {
    echo "$1" 1>&2
}
