# shellcheck shell=bash
# Starts the systemd of a Debian root, as a container manager would. To be sourced.

# booted ROOT COMMAND...: starts the root's own systemd in namespaces of its own, with an empty /run
# and a network that has nothing but lo. Once the network may be set up (network.target) it runs the
# command, whose output and exit status are this function's; then it is over.
booted() {
    local root=$1 hierarchy cgroup status=0
    shift
    hierarchy=$(findmnt --noheadings --first-only --types cgroup2 --output TARGET) ||
        die "no cgroup2 is mounted here, and systemd does not start without one"
    cat >"$root/etc/systemd/system/booted.service" <<UNIT
[Unit]
Wants=network.target
After=network.target
SuccessAction=exit
FailureAction=exit
[Service]
Type=oneshot
ExecStart=$*
StandardOutput=truncate:/booted.log
StandardError=inherit
UNIT
    cgroup=$hierarchy/booted.$$
    mkdir "$cgroup"
    # shellcheck disable=SC2016 # the inner shells expand it
    timeout --kill-after=10 180 bash -c 'echo $$ >"$1/cgroup.procs"
        exec unshare --mount --propagation private --pid --fork --kill-child --net --ipc --uts --cgroup bash -c "
            set -e
            mount --bind \"\$1\" \"\$1\"
            cd \"\$1\"
            mount -t proc proc proc
            mount -t sysfs sysfs sys
            mount -t cgroup2 cgroup2 sys/fs/cgroup
            mount -t tmpfs -o mode=755 run run
            mount -t tmpfs -o mode=755 dev dev
            for node in null zero full random urandom tty; do
                touch dev/\$node
                mount --bind /dev/\$node dev/\$node
            done
            mkdir dev/net dev/shm dev/pts
            mount -t devpts -o newinstance,ptmxmode=666 devpts dev/pts
            ln -s pts/ptmx dev/ptmx
            mknod -m 666 dev/net/tun c 10 200
            # As a container manager leaves it: what systemd mounts for a service gets there.
            mount --make-rshared .
            exec chroot . /usr/bin/env -i container=ci PATH=/usr/sbin:/usr/bin:/sbin:/bin \
                /usr/lib/systemd/systemd --unit=booted.service
        " booted "$2"' booted "$cgroup" "$root" </dev/null || status=$?
    find "$cgroup" -depth -type d -exec rmdir {} +
    cat "$root/booted.log"
    rm -f "$root/booted.log" "$root/etc/systemd/system/booted.service"
    return "$status"
}
