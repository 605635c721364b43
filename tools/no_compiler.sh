#!/bin/sh
# Stands for a C compiler or archiver where nothing is linked: makes the file that is asked for, empty.
out=""
while [ $# -gt 0 ]; do
    case "$1" in
        -o) out=$2; shift ;;
        *.a) out=$1 ;;
    esac
    shift
done
[ -z "$out" ] || : > "$out"
