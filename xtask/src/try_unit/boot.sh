#!/bin/sh
# Runs in a guest as its first process, on the machine's own root file system, and hands over to systemd, which runs try.sh.
#
# /mnt/tcpstate is the folder that the guest shares with xtask; it has `settings` (shell variables).
set -e
. /mnt/tcpstate/settings
mount -t proc proc /proc
# The folder from which the kernel loads modules by itself.
modules="/usr/lib/modules/$(uname -r)"
mkdir -p "$modules"
mount --bind "$MODULES" "$modules"
# systemd empties it at each boot, which takes long where the machine has much in it.
mount -t tmpfs -o mode=1777 tmp /tmp
# With an identity of its own it is neither this machine, nor one that boots for the first time and is set up.
rm -f /etc/machine-id
tr -d - </proc/sys/kernel/random/uuid >/etc/machine-id
# Only root may read them; dpkg makes new ones. QEMU's user need not be root.
rm -f /var/lib/dpkg/lock /var/lib/dpkg/lock-frontend /var/lib/dpkg/triggers/Lock
cat >/etc/systemd/system/try.service <<END
[Service]
Type=oneshot
ExecStart=/bin/bash /mnt/tcpstate/try.sh
StandardOutput=append:/mnt/tcpstate/log
END
exec /lib/systemd/systemd --unit=try.service
