#!/bin/sh
# Prepares what dockerd expects of a machine's init, and becomes dockerd.
set -eu
if [ $# -eq 0 ] || [ "${1#-}" != "$1" ]; then
    set -- dockerd --host=unix:///var/run/docker.sock --host=tcp://127.0.0.1:2375 --tls=false "$@"
fi
if [ "$1" = dockerd ]; then
    find /run /var/run -iname 'docker*.pid' -delete || :
    export container=docker
    if [ -d /sys/kernel/security ] && ! mountpoint -q /sys/kernel/security; then
        mount -t securityfs none /sys/kernel/security || echo >&2 'could not mount /sys/kernel/security'
    fi
    if ! mountpoint -q /tmp; then
        mount -t tmpfs none /tmp
    fi
    # Controllers can only be passed on by a cgroup that has no processes of its own.
    if [ -f /sys/fs/cgroup/cgroup.controllers ]; then
        mkdir -p /sys/fs/cgroup/init
        xargs -rn1 < /sys/fs/cgroup/cgroup.procs > /sys/fs/cgroup/init/cgroup.procs || :
        sed -e 's/ / +/g' -e 's/^/+/' < /sys/fs/cgroup/cgroup.controllers > /sys/fs/cgroup/cgroup.subtree_control
    fi
fi
exec "$@"
