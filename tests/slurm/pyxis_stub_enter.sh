#!/usr/bin/env bash
# Runs as root in the task's own mount namespace (see pyxis_stub.c): lays out the container's root as pyxis with
# enroot's default settings would (read-only root unless --container-writable, own /tmp and /run, no home), prints its path.
# $PYXIS_STUB_DIR/images/NAME is a root file system, or an empty folder for "the host's /usr and /etc, nothing else";
# NAME is the image with each odd character as '+'. An image given as an existing path to a folder is taken as it is.
# $PYXIS_STUB_DIR/borrow: one more folder of the host that such an image has (an interpreter outside /usr).
set -euo pipefail

R=${PYXIS_STUB_DIR:?}; mkdir -p "$R/run"; r=$(mktemp -d "$R/run/XXXXXX")
san() { printf %s "$1" | tr -c 'A-Za-z0-9._-' '+'; }
die() { echo "pyxis: $*" >&2; exit 1; }
name=${STUB_container_name-}; name=${name%%:*}
if [ -n "$name" ]; then
  c=$R/containers/$STUB_NODE/pyxis_$(san "$name"); mkdir -p "${c%/*}"
  exec 9> "${c%/*}/lock"; flock 9                    # the first task on the node makes it, the others find it
else c=$r.c; mkdir -p "$c"; mount -t tmpfs tmpfs "$c"; fi
if [ ! -e "$c/image" ]; then
  [ -n "${STUB_container_image-}" ] || die "error: a container with name \"pyxis_$name\" does not exist, and --container-image is not set"
  i=$STUB_container_image; [ -d "$i" ] || i=$R/images/$(san "$i")
  [ -d "$i" ] || die "failed to import docker image: $STUB_container_image"
  mkdir -p "$c/upper" "$c/work"; printf %s "$i" > "$c/image"
fi
i=$(cat "$c/image") l=$i
if [ ! -d "$i/usr" ]; then                           # borrow the host's /usr and /etc
  l=$r.l; mkdir -p "$l"; mount -t tmpfs tmpfs "$l"; mkdir -p "$l"/{root,home,mnt,opt,srv,var/tmp}
  for d in usr bin sbin lib lib32 lib64 libx32 etc; do
    if [ -L "/$d" ]; then cp -P "/$d" "$l/$d"; elif [ -d "/$d" ]; then mkdir "$l/$d"; fi
  done
fi
mount -t overlay overlay -o "lowerdir=$l,upperdir=$c/upper,workdir=$c/work" "$r"
IFS=, read -ra ms <<< "${STUB_container_mounts-}"
mkdir -p "$r"/{proc,sys,dev,tmp,run}
if [ "$l" != "$i" ]; then for d in usr bin sbin lib lib32 lib64 libx32 etc; do [ -L "/$d" ] || [ ! -d "/$d" ] || mount --bind "/$d" "$r/$d"; done; fi
for d in proc sys dev; do mount --rbind "/$d" "$r/$d"; done
mount -t tmpfs tmpfs "$r/tmp"; mount -t tmpfs tmpfs "$r/run"
for f in hosts hostname resolv.conf; do [ ! -f "$r/etc/$f" ] || mount --bind "/etc/$f" "$r/etc/$f"; done
bind() { # SRC DST FLAGS
  [ -e "$1" ] || die "--container-mounts: source path does not exist: $1"
  if [ -d "$1" ]; then mkdir -p "$r$2"; else mkdir -p "$(dirname "$r$2")"; [ -e "$r$2" ] || : > "$r$2"; fi
  mount --rbind "$1" "$r$2"
  case "+${3-}+" in *+ro+*) mount -o remount,bind,ro "$r$2";; esac
}
if [ "$l" != "$i" ] && [ -s "$R/borrow" ]; then bind "$(cat "$R/borrow")" "$(cat "$R/borrow")" ro; fi
[ -z "${STUB_container_mount_home+x}" ] || bind "$HOME" "$HOME"
for m in ${ms[@]+"${ms[@]}"}; do IFS=: read -r s d f <<< "$m"; bind "$s" "${d:-$s}" "${f-}"; done
[ -z "${STUB_SCRIPT-}" ] || bind "$STUB_SCRIPT" "$STUB_SCRIPT"
[ -n "${STUB_container_writable+x}" ] || mount -o remount,ro "$r"
echo "$r"
