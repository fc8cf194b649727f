#!/bin/sh
# The first process of a lab's guest. The kernel's command line says what it does: lab.jobs=JOB:ARGUMENT,...
#
#   write:vda    write numbered blocks to a disk without end; lab.guests.written knows what must be on it
#   files:vda    mount the ext4 on a disk and write numbered files without end
#   fill:64      fill 64 MiB of memory with what no compression shortens
#
# The agent runs whenever there is a channel for it. What a job has done is said on the console.
AREAS=4 BLOCKS=256 FILES=16

# Prints COUNT blocks of 4096 bytes, the first with number FIRST: each is its number, line by line.
numbered() { # FIRST COUNT
    awk -v first="$1" -v count="$2" 'BEGIN {
        for (i = first; i < first + count; i++) {
            block = sprintf("%015d\n", i)
            while (length(block) < 4096) block = block block
            printf "%s", block
        }
    }'
}

# Writes one area over and over: block N of the area is at N modulo BLOCKS.
write_area() { # DEVICE AREA
    pass=0
    while numbered $((pass * BLOCKS)) $BLOCKS |
        dd of="/dev/$1" bs=4096 seek=$(($2 * BLOCKS)) iflag=fullblock oflag=direct conv=notrunc 2>/dev/null; do
        pass=$((pass + 1))
        echo "wrote area $2 $pass times"
    done
    echo "cannot write area $2"
}

write() { # DEVICE
    area=0
    while [ $area -lt $AREAS ]; do
        write_area "$1" $area &
        area=$((area + 1))
    done
}

# A file gets its name when all of it is on the disk, so whoever sees the name sees a whole file.
files() { # DEVICE
    mount -t ext4 "/dev/$1" /mnt || { echo "cannot mount $1"; return; }
    number=0
    while numbered $number 16 | dd of=/mnt/new bs=65536 iflag=fullblock conv=fsync 2>/dev/null &&
        mv /mnt/new /mnt/file$((number % FILES)) && sync; do
        echo "wrote file $number"
        number=$((number + 1))
    done
    echo "cannot write file $number"
}

fill() { # MEBIBYTES
    mount -t tmpfs -o size=100% tmpfs /tmp
    dd if=/dev/urandom of=/tmp/filled bs=1M count="$1" 2>/dev/null && echo "filled $1 MiB"
}

export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
for module in /lib/modules/*; do
    insmod "$module"
done
channel=$(ls /dev/vport*p1 2>/dev/null)
if [ -n "$channel" ] && [ -x /bin/qemu-ga ]; then
    LD_LIBRARY_PATH=/lib qemu-ga -m virtio-serial -p "$channel" -t /run &
fi
read -r line </proc/cmdline
jobs=${line##*lab.jobs=}
[ "$jobs" = "$line" ] && jobs=
IFS=,
for job in ${jobs%% *}; do
    "${job%%:*}" "${job#*:}" &
done
echo "guest is up"
while :; do
    wait
    sleep 3600
done
