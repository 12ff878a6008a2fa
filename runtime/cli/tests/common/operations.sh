# File operations whose outcome a shell sees. $b is busybox, and the working directory is an empty
# folder. What is printed depends on the outcome alone.
say() { echo "$1: $?"; }
echo one > a; say write; echo two >> a; cat a
$b mv a b; say rename; $b cat a 2>/dev/null; say gone
$b ln b c; say link; $b stat -c '%h %s' b; echo three >> c; cat b; $b rm b; $b stat -c %h c
$b ln -s c soft; cat soft; $b readlink soft; $b ln -s nowhere dangling; cat dangling 2>/dev/null; say dangling
$b mkdir -p d/e/f; say mkdir; $b rmdir d 2>/dev/null; say notempty; echo x > d/e/f/x; $b mv d moved; cat moved/e/f/x
$b mkfifo fifo; $b stat -c %F fifo
$b chmod 640 c; $b stat -c %a c; $b chmod 4755 c; $b stat -c %a c
$b touch -d '2001-02-03 04:05:06' c; $b stat -c %Y c
$b dd if=/dev/zero of=sparse bs=1 count=1 seek=1048575 2>/dev/null; $b stat -c %s sparse; $b truncate -s 10 sparse; $b wc -c < sparse
$b flock -n c echo locked; ( $b flock -n 9 || echo no; $b flock -n c echo second || echo held ) 9< c
i=0; while [ $i -lt 300 ]; do echo $i > many.$i; i=$((i+1)); done; $b ls | $b grep -c many
$b rm many.*; say rm; $b ls | $b grep -c many
exec 5<> open; echo kept >&5; $b rm open; echo more >&5; $b ls open 2>/dev/null; say unlinked; exec 5>&-
set -o noclobber; echo x > c 2>/dev/null; say exclusive
$b find . | $b sort
