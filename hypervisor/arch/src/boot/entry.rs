//! The first instructions, and the first Rust function.
//!
//! A loader enters in 32-bit protected mode, paging off, with an address in ebx: by PVH at
//! `boot_pvh`, by multiboot2 at `boot_multiboot2`. Two labels, since PVH leaves no mark in a
//! register. There is no multiboot1 header: QEMU would prefer it and then refuse a 64-bit ELF.
#![expect(unsafe_code, reason = "the entry is assembly, and firmware's bytes have no owner")]

use core::arch::global_asm;

use hv_core::addr::Phys;
use hv_core::addr::convert::{index, wide};
use hv_core::firmware::{FirmwareError, Physical, acpi, multiboot2, pvh};
use protocol::record::exit;
use spin::Once;

use super::{BootInfo, IMAGE_BASE, Image, refuse};
use crate::mmu::direct;

/// What tags the protocol on the way into Rust.
const PVH: u32 = 1;
const MULTIBOOT2: u32 = 2;

/// End of what the first page tables map.
const MAPPED_END: u64 = 1 << 32;

global_asm!(
    r#"
    .set MULTIBOOT2_MAGIC, 0xe85250d6
    .set MULTIBOOT2_LENGTH, boot_header_end - boot_header

    .section .boot.header, "a"
    .balign 8
    boot_header:
        .long MULTIBOOT2_MAGIC, 0, MULTIBOOT2_LENGTH
        .long -(MULTIBOOT2_MAGIC + MULTIBOOT2_LENGTH)
        # The entry: e_entry may name another one.
        .short 3, 0
        .long 12, boot_multiboot2, 0
        # Modules begin on pages.
        .short 6, 0
        .long 8
        .short 0, 0
        .long 8
    boot_header_end:

    # XEN_ELFNOTE_PHYS32_ENTRY: the PVH entry.
    .section .note.Xen, "a", @note
        .balign 4
        .long 4, 4, 18
        .asciz "Xen"
        .long boot_pvh

    .section .boot.text, "ax"
    .code32
    .global boot_pvh
    boot_pvh:
        mov ebp, {pvh}
        jmp boot_common

    boot_multiboot2:
        mov ebp, {multiboot2}
        cmp eax, 0x36d76289
        je boot_common
        xor ebp, ebp

    # esi = what the loader told, ebp = in which protocol. Both live until Rust.
    boot_common:
        cli
        cld
        mov esi, ebx
        mov esp, offset boot_stack_top_low

        # Long mode: extended CPUID leaf 1, edx bit 29.
        mov eax, 0x80000000
        cpuid
        cmp eax, 0x80000001
        jb boot_unfit
        mov eax, 0x80000001
        cpuid
        bt edx, 29
        jnc boot_unfit

        # Tables: [0] top; [1] directory pointers of slots 0 and 262 (own addresses, direct map);
        # [2] those of slot 261 (image, entry 322); [3..7] four directories of 2 MiB pages.
        # The loader filled them with zero. 3 = present, writable.
        mov edi, offset boot_tables_low
        lea eax, [edi + 0x1003]
        mov [edi], eax
        mov [edi + 262 * 8], eax
        lea eax, [edi + 0x2003]
        mov [edi + 261 * 8], eax
        lea eax, [edi + 0x3003]
        mov [edi + 0x2000 + 322 * 8], eax
        xor ecx, ecx
    1:  mov [edi + 0x1000 + ecx * 8], eax
        add eax, 0x1000
        inc ecx
        cmp ecx, 4
        jb 1b
        # 0x83 = present, writable, large; 0x18 = uncached, from 3 GiB on: devices.
        mov eax, 0x83
        xor ecx, ecx
    2:  cmp ecx, 1536
        jne 3f
        or eax, 0x18
    3:  mov [edi + 0x3000 + ecx * 8], eax
        add eax, 0x200000
        inc ecx
        cmp ecx, 2048
        jb 2b

        # Long mode with nothing but what it needs. CR0: PE MP ET NE WP PG.
        mov eax, 1 << 5
        mov cr4, eax
        mov cr3, edi
        # EFER: LME, and NXE where the CPU has it (edx is still extended leaf 1), so that the final
        # page tables can be loaded before anything else is set up.
        mov ecx, 0xc0000080
        mov eax, 1 << 8
        bt edx, 20
        jnc 9f
        or eax, 1 << 11
    9:  xor edx, edx
        wrmsr
        mov eax, 0x80010033
        mov cr0, eax
        lgdt [boot_gdt_pointer]
        push 0x08
        mov eax, offset boot_long
        push eax
        retf

    # No long mode. Sets the serial line up, says so, and ends the machine.
    boot_unfit:
        mov esi, offset boot_serial_setup
        mov ecx, 7
    4:  movzx edx, byte ptr [esi]
        add edx, 0x3f8
        mov al, [esi + 1]
        out dx, al
        add esi, 2
        loop 4b
        mov esi, offset boot_unfit_text
    5:  mov edx, 0x3fd
    6:  in al, dx
        test al, 0x20
        jz 6b
        lodsb
        test al, al
        jz 7f
        mov edx, 0x3f8
        out dx, al
        jmp 5b
    7:  in al, dx
        test al, 0x40
        jz 7b
        mov eax, {unfit}
        out 0xf4, eax
        mov esi, offset boot_shutdown_text
        mov edx, 0x8900
        mov ecx, 8
        rep outsb
    8:  cli
        hlt
        jmp 8b

    boot_serial_setup:
        .byte 1, 0, 3, 0x80, 0, 1, 1, 0, 3, 3, 2, 7, 4, 3
    boot_unfit_text:
        .asciz "cloister: cannot start: this CPU does not have 64-bit mode (long mode), which Cloister needs\r\n"
    boot_shutdown_text:
        .ascii "Shutdown"
    .balign 8
    .global boot_gdt
    boot_gdt:
        .quad 0, 0x00209b0000000000, 0x0000930000000000
    boot_gdt_pointer:
        .short 23
        .long boot_gdt

    .code64
    boot_long:
        # The data segments do not matter in long mode until `bring_up` loads them.
        movabs rsp, offset boot_stack_top
        mov edi, ebp
        mov esi, esi
        xor ebp, ebp
        movabs rax, offset {entry}
        call rax
        ud2

    .section .bss.boot, "aw", @nobits
    .balign 4096
    .global boot_tables
    boot_tables:
        .skip 7 * 4096
    # The lowest page is a guard: the final page tables leave it out.
    .global boot_stack_guard
    boot_stack_guard:
        .skip 4096
        .skip 64 * 1024
    .global boot_stack_top
    boot_stack_top:

    .text
    "#,
    pvh = const PVH,
    multiboot2 = const MULTIBOOT2,
    unfit = const exit::UNFIT,
    entry = sym entry,
);

unsafe extern "C" {
    // Bounds of the image; only their addresses mean something.
    static __boot_start: u8;
    static __text_start: u8;
    static __rodata_start: u8;
    static __data_start: u8;
    static __data_end: u8;
    static boot_stack_guard: u8;
}

unsafe extern "Rust" {
    /// What [`crate::entry_point`] exports, with this type.
    safe fn cloister_main(boot: &'static BootInfo) -> !;
}

static BOOT: Once<BootInfo> = Once::new();

/// The first Rust function. Called once, by the assembly above, on the first stack.
extern "C" fn entry(protocol: u32, info: u64) -> ! {
    let started_tsc = crate::cpu::read_tsc();
    match gather(protocol, Phys(info), started_tsc) {
        Ok(boot) => cloister_main(BOOT.call_once(|| boot)),
        Err(error) => refuse(error),
    }
}

/// Copies all that loader and firmware say.
///
/// # Errors
/// When there is no way to start with it.
fn gather(protocol: u32, info: Phys, started_tsc: u64) -> Result<BootInfo, FirmwareError> {
    let memory = &FirstFourGib;
    let data = match protocol {
        PVH => pvh::parse(memory, info)?,
        MULTIBOOT2 => multiboot2::parse(memory, info)?,
        _ => return Err(FirmwareError::BadMagic),
    };
    let rsdp = data.rsdp.ok_or(FirmwareError::NoTable("ACPI root pointer (RSDP)"));
    let topology = rsdp.and_then(|rsdp| acpi::parse(memory, rsdp));
    let module = match data.module {
        Some(module) => memory.bytes(module.start, module.length).ok_or(FirmwareError::Truncated("boot module"))?,
        None => &[],
    };
    let upper = |symbol: *const u8| Phys(wide(symbol.addr()).wrapping_sub(IMAGE_BASE));
    let image = Image {
        start: Phys(wide((&raw const __boot_start).addr())),
        text: upper(&raw const __text_start),
        rodata: upper(&raw const __rodata_start),
        data: upper(&raw const __data_start),
        end: upper(&raw const __data_end),
        stack_guard: upper(&raw const boot_stack_guard),
    };
    Ok(BootInfo { data, topology, module, image, started_tsc })
}

/// What the first page tables map, as bytes.
struct FirstFourGib;

impl Physical for FirstFourGib {
    fn bytes(&self, start: Phys, length: u64) -> Option<&'static [u8]> {
        let end = start.0.checked_add(length)?;
        let pointer = direct::pointer(start).cast_const();
        // SAFETY: B1 (the first tables map 4 GiB in the direct map, and the final ones all RAM in
        // it): the range is mapped. Nothing writes there: boot structures and the module lie in
        // memory that is given to nobody while these bytes are in use.
        (end <= MAPPED_END).then(|| unsafe { core::slice::from_raw_parts(pointer, index(length)) })
    }
}
