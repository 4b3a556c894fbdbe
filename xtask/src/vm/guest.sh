#!/bin/sh
# Runs in a guest as its first process, on its root file system: sets up the variant, runs
# `doctor` and the kernel tests, and powers off.
#
# /mnt/tcpstate is the folder that the guest shares with xtask. It reads `settings` (shell variables) from
# it, and writes to it: `booted`, `doctor.json`, `tests.log` (results), `tests.err` (reasons for skipped
# tests), `again.log` and `again.err` (the same for repeated tests), and at the end `exit`, the exit code of
# the tests.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
exchange=/mnt/tcpstate
. "$exchange/settings"

mount -t proc proc /proc
mount -t sysfs sysfs /sys
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs -o mode=1777 shm /dev/shm
mount -t tmpfs run /run
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t securityfs securityfs /sys/kernel/security
[ "$VARIANT" = no-tracefs ] || mount -t tracefs tracefs /sys/kernel/tracing
[ "$VARIANT" != no-btf ] || mount -t tmpfs nothing /sys/kernel/btf

# Where the root file system is not the machine's, the workspace is a share of its own, at the same path and under a
# layer in memory too.
if [ -n "$WORKSPACE" ]; then
    mkdir -p "$WORKSPACE" /run/workspace/lower /run/workspace/upper /run/workspace/work
    mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=512000,cache=loose workspace /run/workspace/lower
    mount -t overlay -o lowerdir=/run/workspace/lower,upperdir=/run/workspace/upper,workdir=/run/workspace/work \
        overlay "$WORKSPACE"
fi

# The folder from which the kernel loads modules by itself.
release=$(uname -r)
mkdir -p "/usr/lib/modules/$release"
mount --bind "$MODULES" "/usr/lib/modules/$release"
modprobe tun
ip link set lo up
uname -r > "$exchange/booted"

cd "$DIRECTORY" || exit
"$TCPSTATE" doctor --json > "$exchange/doctor.json" 2> "$exchange/doctor.log"
eval "set -- $ARGUMENTS"
# The guest has a clock of its own, which a test may set.
export TCPSTATE_REQUIRE_KERNEL=1 TCPSTATE_KERNEL_LACKS="$LACKS" TCPSTATE_MAY_STEP_CLOCK=1
"$TESTS" "$@" > "$exchange/tests.log" 2> "$exchange/tests.err"
echo $? > "$exchange/exit.part"
# Repeats failed tests if asked to, unless so many failed that the kernel must be at fault.
failed=$(sed -n 's/^test \(.*[^ ]\) *\.\.\. FAILED$/\1/p' "$exchange/tests.log")
if [ "$(echo "$failed" | wc -l)" -le "$REPEATED_TESTS" ]; then
    for name in $failed; do
        for _ in $(seq "$REPEAT"); do
            timeout "$REPETITION" "$TESTS" --exact "$name" >> "$exchange/again.log" 2>> "$exchange/again.err" \
                && break
        done
    done
fi
mv "$exchange/exit.part" "$exchange/exit"
sync
echo o > /proc/sysrq-trigger
# The first process must not end before the machine is off, which takes a moment.
sleep 60
