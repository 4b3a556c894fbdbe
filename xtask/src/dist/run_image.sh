#!/bin/bash
# Runs the container of a bundle, and scrapes it. Called as root, in a session and a network namespace of its own, which stands for
# the host's.
#
# $1 is a folder with `bundle`. It writes there: `log` (what the container says), what `keep` keeps, and at the end `exit` (its exit
# status).
set -euo pipefail
folder=$1
name=tcpstate-image-$$
. "$folder/scraped.sh"

runc() {
    command runc --root "$folder/state" "$@"
}

# Leaves nothing behind, whatever happened.
finish() {
    trap '' TERM
    runc delete --force "$name" 2>/dev/null || true
    kill 0
}

trap finish EXIT
ip link set lo up
# From before, so that it is found by a look into the other namespace.
connect_elsewhere
{
    code=0
    runc run --bundle "$folder/bundle" --pid-file "$folder/pid" "$name" </dev/null >"$folder/log" 2>&1 || code=$?
    echo "$code" >"$folder/exit"
} &
container=$!
await "it is ready" ready
be_refused
keep "$(cat "$folder/pid")"
runc kill "$name" TERM
wait "$container"
