# shellcheck shell=bash
# Boots a guest. To be sourced.
#
#   guest_run GUEST JOB OUT SECONDS
#
# runs JOB/run inside; gives its exit status; OUT gets console, log, dmesg and what else it leaves.

# shellcheck source=ci/vm/qemu.sh
. "$(dirname "${BASH_SOURCE[0]}")/qemu.sh"

# The guest has no network device: nothing can leave it. It has one CPU: with several, QEMU's
# emulation now and then executes a breakpoint that the kernel has already removed from its own
# code ("Oops: int3"). And no AVX: QEMU emulates those instructions one lane after the other, which
# makes ChaCha20 three times and AES-GCM 1.2 times as slow as with SSE.
guest_run() {
    local guest=$1 job=$2 out=$3 seconds=$4 qemu machine lines dir work status=0
    qemu=$(qemu_program) || return 1
    dir=$(guest_image "$guest") || return 1
    work=$(mktemp -d "$(cache_dir)/vm/run.XXXXXX")
    # A tar file read as a raw disk must fill whole sectors, which tar's blocks of 10 KiB do.
    tar -cf "$work/job.tar" -C "$job" .
    truncate -s 64M "$work/out.raw"
    case $(guest_architecture "$guest") in
        amd64)
            machine=(x86_64 -machine q35 -accel "${OVPN_VM_ACCEL:-tcg}" -cpu "max,-avx,-avx2,-vaes"
                -serial "file:$work/console" -serial "file:$work/log")
            lines="console=ttyS0 log=ttyS1"
            ;;
        arm64)
            # That machine has one serial line of its own. The processor is without anything that came after
            # ARMv8.0: what runs there runs on all.
            machine=(aarch64 -machine virt -accel tcg -cpu cortex-a72 -serial "file:$work/console"
                -chardev "file,id=log,path=$work/log" -device "pci-serial,chardev=log")
            lines="console=ttyAMA0 log=ttyS0"
            ;;
    esac
    timeout --kill-after=5 "$seconds" "$qemu" "${machine[@]}" -smp 1 -m 2048 \
        -nodefaults -no-reboot -display none -monitor none \
        -kernel "$dir/vmlinuz" -initrd "$dir/initrd.gz" \
        -append "$lines quiet panic=-1 rdinit=/init" \
        -drive "file=$dir/root.img,format=raw,if=none,id=d0,snapshot=on" -device virtio-blk-pci,drive=d0 \
        -drive "file=$work/job.tar,format=raw,if=none,id=d1,readonly=on" -device virtio-blk-pci,drive=d1 \
        -drive "file=$work/out.raw,format=raw,if=none,id=d2" -device virtio-blk-pci,drive=d2 \
        </dev/null >&2 || status=$?
    mkdir -p "$out"
    cp "$work/console" "$work/log" "$out/" 2>/dev/null || true
    if ! tar -xf "$work/out.raw" -C "$out" 2>/dev/null || [ ! -e "$out/status" ]; then
        tail -n 40 "$out/console" >&2 || true
        rm -rf "$work"
        [ "$status" != 124 ] || die "the guest $guest did not finish within $seconds s; see $out/console"
        die "the guest $guest left no result (qemu: $status); see $out/console"
    fi
    rm -rf "$work"
    return "$(cat "$out/status")"
}
