# SPDX-License-Identifier: BSD-2-Clause
# A VM's image in a file system whose quota is used up, while the file system has room.
. /lab/storage.sh
modprobe quota_v2 || fail "modprobe quota_v2"
modprobe xfs || fail "modprobe xfs"
mkdir -p $storage/mount
chmod 1777 $storage
# An image of 64 MiB, of nobody's, in project 42.
image() {
  file=$storage/mount/disk.raw
  truncate -s 64M $file
  chown nobody $file
}

for type in ext4 xfs; do
  ram_disk 400
  case $type in
    ext4) mkfs.ext4 -q -O quota,project -E quotatype=usrquota:prjquota $ram || fail "mkfs.ext4" ;;
    xfs) mkfs.xfs -q $ram || fail "mkfs.xfs" ;;
  esac
  for whose in user project; do
    mount -t $type -o $(echo $whose | sed 's/user/usrquota/; s/project/prjquota/') $ram $storage/mount || fail "mount $type"
    rm -f $storage/mount/disk.raw
    image
    if [ $whose = user ]; then
      xfs_quota -x -f -c 'limit -u bhard=8m 65534' $storage/mount || fail "limit of the user"
    else
      chattr -p 42 $file || fail "chattr -p"
      xfs_quota -x -f -c 'limit -p bhard=8m 42' $storage/mount || fail "limit of the project"
    fi
    as=nobody start_vm quota-$type-$whose $file file
    # XFS says ENOSPC of a project's quota.
    expect_cause storage-quota proven
    expect_text quota-$type-$whose.txt "the quota of $whose $(echo $whose | sed 's/user/65534/; s/project/42/') is used up"
    stop_vm
    umount $storage/mount
  done
done
