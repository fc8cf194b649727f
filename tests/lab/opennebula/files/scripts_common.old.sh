# Lab stand-in for the installed scripts_common.sh of a release whose oned looks for the markers.
error_message() {
    (
        echo "ERROR MESSAGE --8<------"
        echo "$1"
        echo "ERROR MESSAGE ------>8--"
    ) 1>&2
}
