#!/bin/sh
# Live: the file was written within the last minute, and says so.
test -n "$(find "$1" -mmin -1 2>/dev/null)" && grep -q '"live": true' "$1"
