# Functions of the scripts that run `tcpstate serve` and scrape it. They write to the folder `$folder`.

# Each wait is bounded by this many tenths of a second, far more than it takes.
patience=1800

# Waits until a command succeeds, unless the run is over.
await() {
    local what=$1 left=$patience
    shift
    until "$@"; do
        left=$((left - 1))
        if [ -e "$folder/exit" ] || [ "$left" -eq 0 ]; then
            echo "waited in vain: $what" >&2
            return 1
        fi
        sleep 0.1
    done
}

# The answer to a request.
get() {
    exec 3<>/dev/tcp/127.0.0.1/9716 || return
    printf 'GET %s HTTP/1.0\r\nHost: localhost\r\n\r\n' "$1" >&3
    cat <&3
    exec 3<&-
}

ready() {
    [[ $(get /readyz 2>/dev/null) == HTTP/1.?\ 200* ]]
}

# A server in the network namespace of this process, and a connection to it that stays.
elsewhere() {
    ip link set lo up
    busybox httpd -f -p 127.0.0.1:8080 &
    await "a server listens" connect 2>/dev/null
    touch "$folder/connected"
    wait
}

connect() {
    exec 4<>/dev/tcp/127.0.0.1/8080
}

# Makes such a connection in a new network namespace.
connect_elsewhere() {
    folder=$folder unshare --net bash -c '. "$folder/scraped.sh" && elsewhere' &
    await "a connection elsewhere" test -e "$folder/connected"
}

# Makes connections where nobody listens, and waits until they are counted.
be_refused() {
    for _ in $(seq 20); do
        (exec 5<>/dev/tcp/127.0.0.1/1) 2>/dev/null || true
    done
    await "what was refused is counted" counted
}

counted() {
    get /metrics >"$folder/metrics"
    local sum
    sum=$(awk '/^tcpstate_connections_closed_total.*cause="refused"/ { sum += $2 } END { print sum + 0 }' "$folder/metrics")
    [ "$sum" -ge 20 ]
}

# Keeps what it shows, and the state of its process.
keep() {
    get "/api/v1/connections?limit=1000" | sed '1,/^\r$/d' >"$folder/connections"
    cat "/proc/$1/status" >"$folder/status"
    cat "/proc/$1/mountinfo" >"$folder/mountinfo"
}
