#!/bin/bash
# Runs in a guest as a service of systemd: installs the Debian package, and starts, scrapes, reloads and stops its units.
#
# It writes to the folder that the guest shares with xtask: `log` (what it says), what `keep` keeps, `threads`, and at the end `exit`, its
# exit status.
set -euo pipefail
folder=/mnt/tcpstate
. "$folder/scraped.sh"

finish() {
    local code=$?
    [ "$code" -eq 0 ] || journalctl --boot --no-pager --unit tcpstate.service --unit tcpstate.socket || true
    echo "$code" >"$folder/exit"
    sync
    echo o >/proc/sysrq-trigger
    # The machine is off in a moment.
    sleep 60
}

property() {
    systemctl show --property "$1" --value tcpstate.service
}

expect() {
    local found
    found=$(property "$1")
    [ "$found" = "$2" ] || {
        echo "$1 is $found, not $2" >&2
        return 1
    }
}

is_attached() {
    [[ $(bpftool prog list) == *"name tcpstate"* ]]
}

is_detached() {
    ! is_attached
}

has_bucket() {
    [[ $(get /metrics) == *"le=\"$1\""* ]]
}

gave_sign() {
    [ "$(property WatchdogTimestampMonotonic)" != "$last_sign" ]
}

# Writes the file that `systemctl edit` writes, which takes a terminal.
edit() {
    mkdir -p "/etc/systemd/system/$1.d"
    cat >"/etc/systemd/system/$1.d/override.conf"
}

trap finish EXIT
trap 'echo "line $LINENO: $BASH_COMMAND: failed" >&2' ERR
# Without the work of other packages: all manual pages would be indexed.
dpkg --no-triggers --install "$folder"/*.deb
expect ActiveState inactive
# From before, so that it is found by a look into the other namespace.
connect_elsewhere

systemctl start tcpstate.socket
expect ActiveState inactive
await "a request starts it" ready
# It returns when READY=1 has come.
systemctl enable --now tcpstate
expect ActiveState active
is_attached
last_sign=$(property WatchdogTimestampMonotonic)
expect WatchdogUSec 1min
await "a sign of life" gave_sign
be_refused
pid=$(property MainPID)
keep "$pid"
# Those that enter a namespace end soon.
cat "/proc/$pid/task/"*/status >"$folder/threads" 2>/dev/null || true
echo 'buckets = "3ms,4s"' >>/etc/tcpstate/serve.toml
systemctl reload tcpstate
await "the buckets have changed" has_bucket 0.003
expect MainPID "$pid"

# Changed as docs/deploy.md says: options and a filter, the port, TLS.
edit tcpstate.service <<'END'
[Service]
ExecStart=
ExecStart=/usr/bin/tcpstate serve --config /etc/tcpstate/serve.toml --labels unit not service 8080
END
edit tcpstate.socket <<'END'
[Socket]
ListenStream=
ListenStream=127.0.0.1:9717
END
systemctl daemon-reload
cd /etc/tcpstate
openssl req -x509 -nodes -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -keyout server.key -out server.pem \
    -subj /CN=localhost -addext subjectAltName=DNS:localhost
[ "$(stat --format %U:%a server.key)" = root:600 ]
printf 'tls_server_config:\n  cert_file: server.pem\n  key_file: server.key\n' >web.yml
echo 'web.config.file = "/etc/tcpstate/web.yml"' >>serve.toml
get() {
    printf 'GET %s HTTP/1.0\r\nHost: localhost\r\n\r\n' "$1" |
        openssl s_client -quiet -verify_return_error -verify_hostname localhost -CAfile /etc/tcpstate/server.pem \
            -connect 127.0.0.1:9717 2>/dev/null
}
systemctl restart tcpstate.socket
await "it is ready again" ready
be_refused
grep -q 'tcpstate_workload_connections_closed_total{.*unit="try.service"' "$folder/metrics"
connections=$(get /api/v1/connections)
[[ $connections == *'"connections":'* && $connections != *'"lport":8080'* ]]

expect NRestarts 0
systemctl stop tcpstate.socket tcpstate.service
# Neither failed, nor killed after the time for stopping.
expect Result success
expect ActiveState inactive
await "nothing is attached" is_detached
