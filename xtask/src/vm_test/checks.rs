//! The checks of vm-test.

use crate::shell;

/// A check: a shell script, and its expected results.
pub(super) struct Check {
    /// The rule it protects.
    pub(super) rule: &'static str,
    /// The script, with `sandbox` for `blockbox run`, `$IMAGE` for the image and `$BLOCKBOX_HOME`
    /// for the store.
    script: &'static str,
    /// The expected exit status.
    pub(super) status: i32,
    /// The expected stdout.
    pub(super) stdout: &'static str,
}

pub(super) const CHECKS: &[Check] = &[
    Check {
        rule: "the command's output is blockbox's output, stdout and stderr apart",
        script: "sandbox --rm \"$IMAGE\" -- sh -c 'echo out; echo err >&2' 2>err; cat err",
        status: 0,
        stdout: "out\nerr\n",
    },
    Check {
        rule: "the command's exit status is blockbox's",
        script: "sandbox --rm \"$IMAGE\" -- sh -c 'exit 3'",
        status: 3,
        stdout: "",
    },
    Check {
        rule: "a command that does not exist is 127",
        script: "sandbox --rm \"$IMAGE\" -- no-such-command",
        status: 127,
        stdout: "",
    },
    Check {
        rule: "a command that a signal ends is 128 and the signal",
        script: "sandbox --rm \"$IMAGE\" -- sh -c 'kill -TERM $$'",
        status: 143,
        stdout: "",
    },
    Check {
        rule: "what is piped into blockbox reaches the command whole",
        script: "seq 1 50000 >in; sandbox --rm \"$IMAGE\" -- md5sum <in | cut -c 1-32 >guest\n\
                 md5sum in | cut -c 1-32 | cmp - guest && echo same",
        status: 0,
        stdout: "same\n",
    },
    Check {
        rule: "the guest has exactly two disks",
        script: "sandbox --rm \"$IMAGE\" -- awk 'NR > 2 { print $4 }' /proc/partitions",
        status: 0,
        stdout: "vda\nvdb\n",
    },
    Check {
        rule: "the guest sees the merged image, its working directory and its environment",
        script: "sandbox --rm \"$IMAGE\" -- sh -c 'pwd; find . | sort; cat file; echo $FROM_IMAGE'",
        status: 0,
        stdout: "/data\n.\n./file\n./sub\n./sub/new\nupper\nyes\n",
    },
    Check {
        rule: "a write changes the sandbox's own disk and no layer",
        script: "sums() { find \"$BLOCKBOX_HOME/layers\" \"$BLOCKBOX_HOME/images\" -type f -exec sha256sum {} + | sort; }\n\
                 sums >before\n\
                 sandbox --name written \"$IMAGE\" -- sh -c 'echo written > file; cat file' || exit\n\
                 sums | cmp - before && debugfs -R 'cat /upper/data/file' \"$BLOCKBOX_HOME/sandboxes/written/upper.ext4\"",
        status: 0,
        stdout: "written\nwritten\n",
    },
    Check {
        rule: "a read-only root refuses writes, and there is no disk to write to",
        script: "sandbox --name fixed --read-only \"$IMAGE\" -- sh -c 'cat file; echo x 2>/dev/null >file || echo denied; echo x >/tmp/x && cat /tmp/x'\n\
                 ls \"$BLOCKBOX_HOME/sandboxes/fixed\" | grep -c upper; blockbox rm fixed >&2",
        status: 0,
        stdout: "upper\ndenied\nx\n0\n",
    },
    Check {
        rule: "the sandbox's disk is clean when the guest has gone, with no journal to replay",
        script: "disk=$BLOCKBOX_HOME/sandboxes/written/upper.ext4\n\
                 dumpe2fs -h \"$disk\" | grep -c needs_recovery; e2fsck -fn \"$disk\" >&2",
        status: 0,
        stdout: "0\n",
    },
    Check {
        rule: "a published port reaches a server that listens on the guest's loopback",
        script: "sandbox -d --name web -p 18080:80 \"$IMAGE\" -- httpd -f -p 127.0.0.1:80 -h /data >&2 || exit\n\
                 i=0; until busybox wget -q -O - http://127.0.0.1:18080/file; do\n\
                     i=$((i + 1)); [ $i -lt 60 ] || exit; sleep 1\n\
                 done\n\
                 blockbox port web 80; blockbox rm -f web >&2",
        status: 0,
        stdout: "upper\n127.0.0.1:18080\n",
    },
    Check {
        rule: "a port of the host's loopback is reached where it is opened, and refused stays refused",
        script: "mkdir -p www && echo host >www/file && busybox httpd -f -p 127.0.0.1:18081 -h www & server=$!\n\
                 sandbox --rm --host-port 18081 --host-port 18082 \"$IMAGE\" -- sh -c '\n\
                     wget -q -O - http://host.blockbox.internal:18081/file\n\
                     nc -w 9 host.blockbox.internal 18082 </dev/null 2>&1 | grep -o refused'\n\
                 kill $server",
        status: 0,
        stdout: "host\nrefused\n",
    },
    Check {
        rule: "the guest's name server answers, and what the policy denies is unreachable with the reason in `net`",
        script: "sandbox -d --name denied --add-host db.example:192.0.2.9 \"$IMAGE\" -- sleep 1000 >&2 || exit\n\
                 blockbox exec denied -- sh -c '\n\
                     nslookup db.example 2>&1 | grep -o 192.0.2.9 | head -n 1\n\
                     for address in 10.187.1.254 169.254.169.254 10.0.0.1; do\n\
                         nc -w 9 $address 80 </dev/null 2>&1 | grep -o \"No route to host\"\n\
                     done'\n\
                 blockbox net denied | grep -o -e '--host-port 80' -e '--allow .*'; blockbox rm -f denied >&2",
        status: 0,
        stdout: "192.0.2.9\nNo route to host\nNo route to host\nNo route to host\n\
                 --host-port 80\n--allow 169.254.169.254:80\n--allow 10.0.0.1:80\n",
    },
    Check {
        rule: "a disk in 1, 2, 40 or 127 pieces boots like one in 3",
        script: "cd \"$BLOCKBOX_HOME\"/images/*/ && mv disk.vmdk saved && cat fsmeta.erofs 0*.erofs >whole || exit\n\
                 sectors=$(($(wc -c <whole) / 512))\n\
                 for pieces in 1 2 40 127; do\n\
                     size=$((sectors / pieces)); names=; i=1\n\
                     while [ $i -lt $pieces ]; do\n\
                         dd if=whole of=piece$i bs=512 skip=$(((i - 1) * size)) count=$size 2>/dev/null\n\
                         names=\"$names piece$i\"; i=$((i + 1))\n\
                     done\n\
                     dd if=whole of=last bs=512 skip=$(((pieces - 1) * size)) 2>/dev/null\n\
                     rm -f disk.vmdk; blockbox vmdk create -o disk.vmdk $names last || exit\n\
                     sandbox --rm \"$IMAGE\" -- cat file; grep -c FLAT disk.vmdk\n\
                 done\n\
                 rm -f whole piece* last; mv saved disk.vmdk",
        status: 0,
        stdout: "upper\n1\nupper\n2\nupper\n40\nupper\n127\n",
    },
];

/// Checks that boot several machines each, only for `cargo xtask vm-test`: the emulated machine
/// that they may run in sometimes hangs, more often the longer it runs.
pub(super) const LONG_CHECKS: &[Check] = &[
    Check {
        rule: "a sandbox outlives its client: exec, logs, a killed monitor, start, restart and stop",
        script: "sandbox -d --name life \"$IMAGE\" -- sh -c 'i=0; while :; do i=$((i + 1)); echo line $i; sleep 1; done' >&2 || exit\n\
                 status() { blockbox inspect life --format '{{.State.Status}} {{.State.ExitCode}}'; }\n\
                 blockbox exec life sh -c 'echo inside; exit 7'; echo $?\n\
                 blockbox logs -f life | head -n 2\n\
                 kill -9 $(blockbox inspect life --format '{{.State.MonitorPid}}')\n\
                 i=0; until status | grep -q exited || [ $i -gt 60 ]; do i=$((i + 1)); sleep 1; done; status\n\
                 blockbox start life >&2 && blockbox exec life echo started\n\
                 blockbox restart -t 1 life >&2 && blockbox exec life echo restarted\n\
                 blockbox stop -t 1 life >&2; status | cut -d ' ' -f 1\n\
                 e2fsck -fn \"$BLOCKBOX_HOME/sandboxes/life/upper.ext4\" >&2; echo $?; blockbox rm life >&2",
        status: 0,
        stdout: "inside\n7\nline 1\nline 2\nexited 137\nstarted\nrestarted\nexited\n0\n",
    },
    Check {
        rule: "a shared folder of the host is read and written, and one that is read-only is not",
        script: "mkdir shared && echo host >shared/file || exit\n\
                 sandbox --rm -v \"$PWD/shared\":/mnt \"$IMAGE\" -- sh -c 'cat /mnt/file; echo guest >/mnt/new'; cat shared/new\n\
                 sandbox --rm -v \"$PWD/shared\":/mnt:ro \"$IMAGE\" -- sh -c 'cat /mnt/new; echo x 2>/dev/null >/mnt/other || echo denied'\n\
                 ls shared",
        status: 0,
        stdout: "host\nguest\nguest\ndenied\nfile\nnew\n",
    },
    Check {
        rule: "file operations on a shared folder end as on the host",
        script: concat!(
            "cat >operations <<'END'\n",
            include_str!("../../../runtime/cli/tests/common/operations.sh"),
            "END\n\
             mkdir there here && run='b=busybox; umask 022; . /operations'\n\
             sandbox --rm -v \"$PWD/there\":/there -v \"$PWD/operations\":/operations:ro -w /there \"$IMAGE\" -- sh -c \"$run\" >guest\n\
             (cd here && busybox sh -c 'b=busybox; umask 022; . ../operations') >host\n\
             wc -l <host; diff host guest && echo same",
        ),
        status: 0,
        stdout: "42\nsame\n",
    },
    Check {
        rule: "transfers both ways are whole, and many short connections are served, over IPv6 too",
        script: "mkdir web && echo page >web/page && head -c 8388608 /dev/urandom >web/large || exit\n\
                 busybox httpd -f -p 127.0.0.1:18083 -h web & server=$!\n\
                 busybox httpd -f -p '[::1]:18083' -h web & other=$!\n\
                 mkfifo input || exit\n\
                 busybox nc -l -p 18084 <input >received & receiver=$!\n\
                 exec 5>input\n\
                 sandbox --rm --host-port 18083 --host-port 18084 \"$IMAGE\" -- sh -c '\n\
                     host=host.blockbox.internal\n\
                     wget -q -O /tmp/large http://$host:18083/large && nc $host 18084 </tmp/large\n\
                     ping -6 -c 1 -W 60 fd62:6c6f:636b:6278::1 | grep -o \"1 packets received\"\n\
                     for host in $host [fd62:6c6f:636b:6278::fe]; do\n\
                         i=0; while [ $i -lt 20 ]; do wget -q -O - http://$host:18083/page; i=$((i + 1)); done\n\
                     done | sort | uniq -c'\n\
                 exec 5>&-; wait $receiver; kill $server $other\n\
                 cmp web/large received && echo same",
        status: 0,
        stdout: "1 packets received\n     40 page\nsame\n",
    },
    Check {
        rule: "files are copied out of a running sandbox, and a fork of it has them",
        script: "sandbox -d --name source \"$IMAGE\" -- sleep 1000 >&2 || exit\n\
                 blockbox exec source sh -c 'echo kept >/made'\n\
                 blockbox cp source:/made copied >&2 && cat copied\n\
                 blockbox fork source --name forked >&2 && blockbox exec forked sh -c 'cat /made; hostname'\n\
                 blockbox rm -f source forked >&2",
        status: 0,
        stdout: "kept\nkept\nforked\n",
    },
    Check {
        rule: "a disk with a file system is a root, below a disk of the sandbox's own or written in place",
        script: "blockbox disk create \"$IMAGE\" plain.raw --size 64M >&2 || exit\n\
                 blockbox disk create \"$IMAGE\" parts.raw --type erofs --partition-table gpt >&2 || exit\n\
                 sha256sum plain.raw >before\n\
                 sandbox --rm disk:plain.raw -- sh -c 'cat /data/file; echo new >/data/file; cat /data/file'\n\
                 sandbox --rm disk:parts.raw -- sh -c 'cat /data/file; echo new >/data/file; cat /data/file'\n\
                 sha256sum -c before >&2 && echo unchanged\n\
                 sandbox --rm --writable disk:plain.raw -- sh -c 'echo kept >/data/file'\n\
                 e2fsck -fn plain.raw >&2; echo $?; debugfs -R 'cat /data/file' plain.raw",
        status: 0,
        stdout: "upper\nnew\nupper\nnew\nunchanged\n0\nkept\n",
    },
];

/// Checks that mount, or need a kernel with quotas: the outer machine's has them, and this host's
/// may not.
pub(super) const OUTER_CHECKS: &[Check] = &[
    Check {
        rule: "a full disk of the host is an error in the guest, which goes on",
        script: "blockbox ext4 create --size 100M -o small.img >&2 && mkdir small && mount -t ext4 -o loop small.img small || exit\n\
                 mkdir small/home && (cd \"$BLOCKBOX_HOME\" && cp -a version references.json layers images kernel \"$OLDPWD/small/home\") || exit\n\
                 free=$(df -k small | awk 'END { print $4 }')\n\
                 head -c $(((free - 12288) * 1024)) /dev/zero >small/filler || exit\n\
                 export BLOCKBOX_HOME=$PWD/small/home\n\
                 sandbox --rm \"$IMAGE\" -- sh -c '\n\
                     dd if=/dev/zero of=/filled bs=1M count=24 conv=fsync 2>&1 | grep -c -i -e \"I/O error\" -e \"input/output\" -e read-only\n\
                     echo alive'\n\
                 blockbox ps -aq; df -k small >&2; umount small",
        status: 0,
        stdout: "1\nalive\n",
    },
    Check {
        rule: "Linux keeps the quotas of an ext4 right from the first to the last write, and grow does where it was cut off",
        script: "mkdir mnt tree && i=0 || exit\n\
             while [ $i -lt 40 ]; do\n\
                 head -c $((i * 400)) /bin/busybox >tree/$i; chown $((i % 5 * 1000)):$((i % 3)) tree/$i; i=$((i + 1))\n\
             done\n\
             for features in quota quota,project,ea_inode,inline_data; do\n\
                 rm -f disk; blockbox ext4 create --size 64M --inode-ratio 4096 --dir tree -O $features -o disk || exit\n\
                 mount -t ext4 -o loop disk mnt && mkdir mnt/made && i=0 || exit\n\
                 while [ $i -lt 300 ]; do head -c $((i * 20)) /bin/busybox >mnt/made/$i; i=$((i + 1)); done\n\
                 chown -R 1000:5 mnt/made && chown 70000:70000 mnt/made/5* && rm mnt/1* mnt/made/2* || exit\n\
                 umount mnt && e2fsck -fn disk >&2; echo $?\n\
                 mount -t ext4 -o loop disk mnt && exec 5<mnt/made/59 6<mnt/39 7<mnt/made/199 || exit\n\
                 rm mnt/made/59 mnt/39 mnt/made/199; sync; cp disk cut; exec 5<&- 6<&- 7<&-; umount mnt\n\
                 blockbox ext4 grow cut --size 100M >&2 && e2fsck -fn cut >&2; echo $?\n\
             done",
        status: 0,
        stdout: "0\n0\n0\n0\n",
    },
];

/// Returns the script that runs checks and writes the report to its file descriptor 3.
pub(super) fn script<'a>(reference: &str, checks: impl IntoIterator<Item = &'a Check>) -> String {
    let mut script = format!(
        r#"IMAGE={}
export PATH="$PATH:/usr/sbin:/sbin"
sandbox() {{ blockbox run --vmm libkrun --pull never --cpus 1 --memory 256M "$@"; }}
hex() {{ od -An -v -tx1 "$1" | tr -d ' \n'; }}
check() {{
    start=$(date +%s)
    (eval "$1") </dev/null 3>&- >stdout 2>stderr
    status=$?
    echo "check $status $(($(date +%s) - start)) x$(hex stdout) x$(hex stderr)" >&3
}}
"#,
        shell::quoted(reference.as_ref())
    );
    for check in checks {
        script += &format!("check {}\n", shell::quoted(check.script.as_ref()));
    }
    script + "echo done >&3\n"
}
