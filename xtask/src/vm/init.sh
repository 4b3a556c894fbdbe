#!/bin/busybox sh
# The first process of a guest: mounts its root file system, by default the machine's, read-only over 9p, under a layer in
# memory, and continues there with guest.sh. Its output goes to the console.
/bin/busybox mkdir -p /proc /sys /dev /lower /layer /merged
/bin/busybox --install -s /bin
export PATH=/bin
# When the first process ends, the kernel panics and reboots; QEMU then ends (-no-reboot).
set -e
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
if grep -qw tcpstate_probe /proc/cmdline; then
    echo "tcpstate: alive"
    poweroff -f
fi
while read -r module; do
    insmod "/modules/$module"
done < /modules/order
mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=512000,cache=loose host /lower
mount -t tmpfs layer /layer
mkdir /layer/upper /layer/work
mount -t overlay -o lowerdir=/lower,upperdir=/layer/upper,workdir=/layer/work overlay /merged
mkdir -p /merged/mnt/tcpstate
mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000 exchange /merged/mnt/tcpstate
mount --move /dev /merged/dev
umount /proc /sys
exec switch_root /merged /bin/sh /mnt/tcpstate/guest.sh
