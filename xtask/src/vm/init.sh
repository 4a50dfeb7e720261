#!/bin/busybox sh
# First program of a guest: the machine's own root, read-only over 9p, under layers of packages (the kernel's modules among
# them) and a tmpfs that takes what is written. Then `start` of that root goes on. A failure ends PID 1, and so the guest.
set -e
/bin/busybox --install -s /bin
PATH=/bin
mkdir /dev /proc /host /layers /rw /new 2>/dev/null || true
mount -t devtmpfs dev /dev
exec </dev/console >/dev/console 2>&1
for module in /modules/*; do insmod "$module"; done
share=trans=virtio,version=9p2000.L,msize=512000,cache=loose,ro
mount -t 9p -o $share host /host
mount -t 9p -o $share layers /layers
mount -t tmpfs rw /rw
mkdir /rw/upper /rw/work
mount -t overlay -o "lowerdir=$(cat /lower):/host,upperdir=/rw/upper,workdir=/rw/work" root /new
mount -t tmpfs -o mode=755 run /new/run
mkdir /new/run/vm
cp /start /command /modprobe /new/run/vm/
mount -t proc proc /new/proc
mount -t sysfs sys /new/sys
mount --move /dev /new/dev
mkdir -p /new/dev/pts /new/dev/shm
mount -t devpts pts /new/dev/pts
mount -t tmpfs shm /new/dev/shm
mount -t cgroup2 cgroup2 /new/sys/fs/cgroup
mount -t bpf bpf /new/sys/fs/bpf
mount -t debugfs debugfs /new/sys/kernel/debug
mount -t tracefs tracefs /new/sys/kernel/tracing
ip link set lo up
hostname vm
exec switch_root /new /bin/sh /run/vm/start
